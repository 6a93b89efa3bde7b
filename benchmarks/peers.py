"""Peers that merely print events: ``perf script``."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Sample, run, shell

__all__ = ["Peer", "perf_script"]

EVENTS = "sched:*"
MESSAGES_AT_FIRST = 200
TRIES = 6
MOST_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that was measured, or why it was not."""

    name: str
    why_not: str = ""
    events: int = 0
    cpu_s: Sample = field(default_factory=lambda: Sample(()))
    bytes_each: float = 0.0
    commands: tuple[str, ...] = ()

    @property
    def rate(self) -> Sample:
        """Events a second of CPU."""
        return self.cpu_s.under(self.events)


def _lines(path: Path) -> int:
    # perf script prints one line for an event without a call chain.
    command = ["perf", "script", "-i", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        count = 0
        while child.stdout and (chunk := child.stdout.read(1 << 20)):
            count += chunk.count(b"\n")
    return count


def _record(path: Path, messages: int) -> list[str]:
    command = ["perf", "record", "-q", "-a", "-m", "8M", "-e", EVENTS, "-o", str(path), "--"]
    command += ["perf", "bench", "sched", "messaging", "-g", "1", "-l", str(messages)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return command


def perf_script(folder: Path, events: int, repeats: int) -> Peer:
    """Record scheduler events on this machine until there are as many, then print them."""
    name = "perf script"
    if not shutil.which("perf"):
        return Peer(name, "perf is not installed (Debian: apt install linux-perf)")
    if os.geteuid() != 0:
        return Peer(name, "recording tracepoints takes root")
    path = folder / "peer.perf.data"
    messages, found = MESSAGES_AT_FIRST, 0
    try:
        for _ in range(TRIES):
            record = _record(path, messages)
            found = _lines(path)
            if found >= events:
                break
            messages = int(messages * min(events / max(found, 1), MOST_AT_ONCE) * 1.1)
        command = ["perf", "script", "-i", str(path)]
        seconds = Sample(tuple(run(command).cpu_s for _ in range(repeats)))
        size = path.stat().st_size
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        said = getattr(error, "stderr", b"") or b""
        reason = said.decode(errors="replace").strip().splitlines()
        return Peer(name, f"perf does not work here: {(reason or [str(error)])[-1]}")
    finally:
        for left in folder.glob(f"{path.name}*"):
            left.unlink()
    shown = tuple(
        shell([word.replace(str(path), "perf.data") for word in words])
        for words in (record, [*command, ">", "/dev/null"])
    )
    return Peer(name, "", found, seconds, size / max(found, 1), shown)
