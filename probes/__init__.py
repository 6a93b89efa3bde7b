"""Probes: BPF programs, their manifest, the loader and the ring reader. The only importer of bcc."""
