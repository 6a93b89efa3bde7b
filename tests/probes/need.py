"""Skips of tests that load programs."""

import os
from pathlib import Path

import pytest

from probes import preflight


def need_bpf():
    """Skip unless this process may load eBPF and has bcc to compile it."""
    if os.geteuid() != 0:
        pytest.skip("loads eBPF, which takes root")
    lacking = preflight.missing_capabilities()
    if lacking:
        pytest.skip(f"loads eBPF, which takes {', '.join(lacking)}")
    problem = preflight.bcc_problem()
    if problem:
        pytest.skip(problem)
    if not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.skip("this kernel has no BTF")
