"""Readers and writers: the wire layout, event batches and every file format that vtrace reads."""
