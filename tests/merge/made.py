"""Recordings to merge: one simulated run, split, shifted, recorded twice, captured."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from parsers.batch import EventBatch
from parsers.tracefile import TraceWriter, open_trace
from tests.cli.recordings import batches
from tests.generator import Pair, Scenario, simulate
from vtrace.model import Kind
from vtrace.session.extract import Renumber


def run(*, seed: int = 3, pairs: int = 2, ns: int = 2_000_000, lose: Any = None) -> Any:
    """Return a simulated run of two queue pairs whose taps overflow."""
    made = simulate(
        Scenario(
            pairs=tuple(Pair(tap_capacity=24, rx_size=16) for _ in range(pairs)),
            duration_ns=ns,
            seed=seed,
        )
    )
    return lose(made) if lose else made


def whole(recording: Any, size: int = 500) -> list[EventBatch]:
    """Return the batches of a run; its metadata stands in the first and the last."""
    return batches(recording, size)


def write(path: Path, made: Iterable[EventBatch]) -> Path:
    """Write batches to a file."""
    with TraceWriter(path) as writer:
        for batch in made:
            writer.write(batch)
    return path


def part(path: Path, made: Iterable[EventBatch], keep: Callable[[EventBatch], Any]) -> Path:
    """Write a part of a run; its numbers are closed up, as ``vtrace filter`` does."""
    return write(path, Renumber().batches((batch, keep(batch)) for batch in made))


def changed(
    made: Iterable[EventBatch],
    *,
    shift_ns: int = 0,
    jitter_ns: int = 0,
    sections: dict[str, Any] | None = None,
    without: Iterable[str] = (),
) -> list[EventBatch]:
    """Return a run as another recorder has it: other times, other metadata."""
    random = np.random.default_rng(5)
    found = []
    for number, batch in enumerate(made):
        columns = dict(batch.columns)
        times = columns["time"].astype(np.int64) + shift_ns
        if jitter_ns:
            times = times + random.integers(-jitter_ns, jitter_ns + 1, len(times))
            times.sort()
        columns["time"] = times.astype(np.uint64)
        meta = {name: section for name, section in batch.meta.items() if name not in without}
        if number == 0:
            meta |= sections or {}
        found.append(EventBatch(columns=columns, snaps=batch.snaps, meta=meta, number=number))
    return found


def pcap(path: Path, made: Iterable[EventBatch], realtime_ns: int, *, micro: bool = False) -> Path:
    """Write the frames that entered and left the taps as a capture.

    ``realtime_ns``: the time of day at 0 of the recording's clock.
    """
    magic = 0xA1B2C3D4 if micro else 0xA1B23C4D
    out = bytearray(struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 262144, 1))
    for batch in made:
        kinds = batch["kind"][batch.snaps.rows]
        for at in np.flatnonzero(np.isin(kinds, (Kind.ENQUEUE, Kind.DELIVER))).tolist():
            row = int(batch.snaps.rows[at])
            ns = int(batch["time"][row]) + realtime_ns
            data = batch.snaps.bytes_of(at)
            size = max(int(batch["length"][row]), len(data))
            rest = ns % 1_000_000_000 // (1000 if micro else 1)
            out += struct.pack("<IIII", ns // 1_000_000_000, rest, len(data), size) + data
    path.write_bytes(out)
    return path


def records(path: Path) -> dict[str, np.ndarray]:
    """Return all columns of a file that must be whole, and in order."""
    with open_trace(path) as trace:
        found = list(trace.batches())
        assert trace.complete
        assert not trace.damage
    columns = {name: np.concatenate([b[name] for b in found]) for name in found[0].columns}
    assert (np.diff(columns["time"].astype(np.int64)) >= 0).all()
    return columns


def metadata(path: Path) -> dict[str, Any]:
    """Return the sections of a file."""
    with open_trace(path) as trace:
        trace.scan()
        return dict(trace.metadata.sections)
