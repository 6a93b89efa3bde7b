"""Batches and small recordings, made in code."""

from pathlib import Path

import numpy as np

from parsers import wire
from parsers.batch import EventBatch, Snaps
from parsers.tracefile import TraceWriter
from vtrace.model import Kind

T0 = 10**15


def make_batch(rows: int, *, snaps: bool = False, seed: int = 0, meta=None) -> EventBatch:
    """A batch of which every column has values over its whole range."""
    random = np.random.default_rng(seed)
    records = np.zeros(rows, wire.RECORD)
    for name in wire.COLUMNS:
        info = np.iinfo(wire.RECORD[name])
        records[name] = random.integers(
            info.min, info.max, rows, dtype=wire.RECORD[name], endpoint=True
        )
    records["time"] = T0 + seed * 10**6 + np.arange(rows) * 10
    records["queue"] = np.arange(rows) % 3
    records["kind"] = np.where(np.arange(rows) % 2, Kind.POP, 999)
    batch = EventBatch.from_records(records)
    if snaps and rows:
        batch.snaps = make_snaps(np.arange(0, rows, 3), random)
    batch.meta = meta or {}
    return batch


def make_snaps(rows, random) -> Snaps:
    header = np.zeros(len(rows), wire.SNAP)
    for name in wire.SNAP.names:
        if name != "reserved":
            header[name] = random.integers(0, 250, len(rows))
    header["captured"] = random.integers(0, 100, len(rows))
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(header["captured"], out=offsets[1:])
    data = random.integers(0, 256, int(offsets[-1]), dtype=np.uint8)
    return Snaps(rows=rows.astype(np.uint32), header=header, offsets=offsets, data=data)


def write_trace(path: Path, batches, **options) -> Path:
    with TraceWriter(path, **options) as writer:
        for batch in batches:
            writer.write(batch)
    return path


def same(one: EventBatch, other: EventBatch) -> bool:
    """Whether two batches hold the same events, snaps and metadata."""
    return (
        all(np.array_equal(one[name], other[name]) for name in wire.COLUMNS)
        and np.array_equal(one.snaps.rows, other.snaps.rows)
        and np.array_equal(one.snaps.header, other.snaps.header)
        and np.array_equal(one.snaps.data, other.snaps.data)
        and np.array_equal(one.snaps.offsets, other.snaps.offsets)
        and one.meta == other.meta
    )
