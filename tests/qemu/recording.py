"""Recordings of guests that run on this machine, and what QEMU itself logged of the same run."""

import collections
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np

from parsers import wire
from parsers.batch import Metadata
from parsers.tracefile import open_trace
from vtrace.model import Kind

ROOT = Path(__file__).resolve().parents[2]


class Recorder:
    """``vtrace record`` as a process of its own, for as long as the context lasts."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.path = path
        self._command = [sys.executable, "-m", "vtrace", "record", "-w", str(path), *arguments]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "recording into" in line:
                return self
        raise AssertionError("".join(said))

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        _, said = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, said


class Recording:
    """All rows of a file, and its metadata as it stood at the end."""

    def __init__(self, path: Path) -> None:
        self.meta = Metadata()
        columns = collections.defaultdict(list)
        self.bytes: dict[int, bytes] = {}
        """Captured bytes by row."""
        rows = 0
        with open_trace(str(path)) as trace:
            batches = list(trace.batches())
        for batch in batches:
            self.meta.update(batch.meta)
            for name in wire.COLUMNS:
                columns[name].append(np.array(batch[name]))
            index = batch.snaps.index_of(np.arange(len(batch)), len(batch))
            for row in np.flatnonzero(index >= 0):
                self.bytes[rows + int(row)] = batch.snaps.bytes_of(int(index[row]))
            rows += len(batch)
        self.columns = {name: np.concatenate(parts) for name, parts in columns.items()}

    def queues(self, pid: int) -> dict[int, dict[str, Any]]:
        """Return the queues of a process by their number."""
        rows = self.meta.section("queues").values()
        return {row["id"]: row for row in rows if row["pid"] == pid}

    def rows(self, queue: int, *kinds: Kind) -> np.ndarray:
        """Return the places of a queue's records of some kinds, in order."""
        mine = self.columns["queue"] == queue
        return np.flatnonzero(mine & np.isin(self.columns["kind"], [int(k) for k in kinds]))

    def count(self, queue: int, kind: Kind) -> int:
        """Return how many records of a kind a queue has."""
        return len(self.rows(queue, kind))


def logged(path: Path) -> dict[str, collections.Counter[str]]:
    """Return what QEMU logged of each VirtQueue (by its address): pops, fills, elements flushed."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for line in path.read_text().splitlines():
        if match := re.match(r"virtqueue_(pop|fill) vq (\w+)", line):
            found[match[2]][match[1]] += 1
        elif match := re.match(r"virtqueue_flush vq (\w+) count (\d+)", line):
            found[match[1]]["flush"] += int(match[2])
    return dict(found)
