"""Benchmarks: how fast vtrace reads, writes and takes records, beside its peers, in one run."""
