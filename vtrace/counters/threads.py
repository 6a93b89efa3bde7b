"""Threads that work for VMs: how long they ran and waited; and what cgroups let them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from vtrace.counters.files import numbers_of_lines
from vtrace.inventory import ThreadRole, Vm

__all__ = [
    "Row",
    "cgroup_rows",
    "groups_of",
    "limited_elsewhere",
    "thread_rows",
    "unified_mount",
]

Row = tuple[str, int, int, dict[str, Any]]
"""Object, lo, hi, values."""

_ROLES: Final = (ThreadRole.VHOST, ThreadRole.VCPU, ThreadRole.IOTHREAD, ThreadRole.UNKNOWN)
_LONGEST: Final = 1 << 20
_THROTTLING: Final = frozenset(["nr_periods", "nr_throttled", "throttled_usec"])


def thread_rows(vms: list[Vm], errors: list[str]) -> Iterator[Row]:
    """Yield the threads that carry packets: workers, vCPUs, iothreads, QEMU's first.

    Those that have ended are left out.
    """
    for vm in vms:
        for thread in vm.threads:
            if thread.role not in _ROLES and thread.tid != vm.pid:
                continue
            lo_ns = time.monotonic_ns()
            stat = text_of(f"/proc/{thread.tid}/stat")
            ran = text_of(f"/proc/{thread.tid}/schedstat").split()
            hi_ns = time.monotonic_ns()
            comm, bracket, rest = stat.rpartition(") ")
            if not bracket:
                continue
            row: dict[str, Any] = {
                "comm": comm.partition("(")[2],
                "state": rest[:1],
                "role": str(thread.role),
                "vm": vm.name,
            }
            if len(ran) == 3 and all(word.isdigit() for word in ran):
                names = ("run_ns", "wait_ns", "slices")
                row |= zip(names, map(int, ran), strict=True)
            else:
                errors.append("times of threads: this kernel has no /proc/PID/schedstat")
            yield f"thread/{thread.tid}", lo_ns, hi_ns, row


def unified_mount() -> str:
    """Return where the cgroup v2 tree is mounted; empty: it is not."""
    for line in text_of("/proc/self/mounts").splitlines():
        words = line.split()
        if len(words) > 2 and words[2] == "cgroup2":
            return words[1]
    return ""


def groups_of(vms: list[Vm]) -> list[str]:
    """Return the cgroups (v2) of the threads of VMs, and all above them."""
    found: set[str] = set()
    for vm in vms:
        for tid in {vm.pid, *(thread.tid for thread in vm.threads)}:
            for line in text_of(f"/proc/{tid}/cgroup").splitlines():
                if line.startswith("0::/") and ".." not in line:
                    found.add(line[3:].rstrip("/"))
    for path in list(found):
        parts = path.split("/")
        found |= {"/".join(parts[:n]) for n in range(2, len(parts))}
    return sorted(path for path in found if path)


def cgroup_rows(mount: str, groups: list[str]) -> Iterator[Row]:
    """Yield what each cgroup throttled; those without a CPU controller are left out."""
    for path in groups:
        lo_ns = time.monotonic_ns()
        text = text_of(f"{mount}{path}/cpu.stat")
        hi_ns = time.monotonic_ns()
        row: dict[str, Any] = {**numbers_of_lines(text, _THROTTLING)}
        if row:
            yield f"cgroup{path}", lo_ns, hi_ns, row


def limited_elsewhere() -> bool:
    """Tell whether CPU time is limited by cgroups of version 1, which are not read."""
    return any(
        words[2:3] == ["cgroup"] and "cpu" in words[3].split(",")
        for line in text_of("/proc/self/mounts").splitlines()
        if len(words := line.split()) > 3
    )


def text_of(path: str) -> str:
    # Gone or forbidden: nothing. Called for each thread each second: no Path.
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(_LONGEST).decode("utf-8", "backslashreplace")
    except OSError:
        return ""
