"""Recording: from this host's probes into files. Loads no numba: recording never waits for it."""
