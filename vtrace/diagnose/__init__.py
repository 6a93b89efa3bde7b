"""Diagnosis: where UDP packets died, how many, why, and what to type."""
