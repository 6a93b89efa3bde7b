"""Measuring: children on one CPU, their CPU time and memory, the median of repeats."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Run", "Sample", "machine", "on_one_cpu", "run", "shell", "worker"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Repeats of one figure."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure in the middle."""
        return statistics.median(self.values)

    def scaled(self, factor: float) -> Sample:
        """Return each figure times a factor."""
        return Sample(tuple(value * factor for value in self.values))

    def under(self, count: float) -> Sample:
        """Return count / figure: a rate, where the figures are seconds."""
        return Sample(tuple(count / value for value in self.values))


@dataclass(frozen=True, slots=True)
class Run:
    """One child that has ended."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    out: str
    code: int


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """Keep this process, and children started meanwhile, on one CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def run(command: Sequence[str], *, keep: bool = False, check: bool = True) -> Run:
    """Run a command on one CPU; its output goes nowhere unless it is kept."""
    with on_one_cpu():
        began = time.monotonic()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if keep else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        out = child.stdout.read() if child.stdout else ""
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.stdout:
        child.stdout.close()
    if check and child.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {child.returncode}")
    cpu = used.ru_utime + used.ru_stime
    return Run(cpu, wall, used.ru_maxrss * 1024, out, child.returncode)


def worker(name: str, *arguments: object) -> Any:
    """Run one task of ``benchmarks.worker`` in a process of its own; return what it says."""
    words = [sys.executable, "-m", "benchmarks.worker", name, *map(str, arguments)]
    return json.loads(run(words, keep=True).out)


def shell(command: Sequence[str]) -> str:
    """Return a command as one would type it."""
    words = ["python" if word == sys.executable else word for word in command]
    return " ".join(f"'{word}'" if "*" in word else word for word in words)


def machine() -> str:
    """Return what this machine is, and how busy it is."""
    import numba
    import numpy as np
    import pyarrow

    model = "?"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
        model = names[0].strip() if names else "?"
    return (
        f"{model}, {len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f}; "
        f"Linux {os.uname().release}; Python {sys.version.split()[0]}, numpy {np.__version__}, "
        f"numba {numba.__version__}, pyarrow {pyarrow.__version__}"
    )
