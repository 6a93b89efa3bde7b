"""Widgets that more than one screen can show."""
