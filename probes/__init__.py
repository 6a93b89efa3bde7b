"""Probes: BPF programs, their manifest, the loader and the ring reader; alone in importing bcc."""
