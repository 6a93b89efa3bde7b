"""Order: records of several rings and CPUs become batches sorted by (time, cpu, seq).

A probe takes its time before it reserves its record, and another CPU may be between the two for a
while. So records are held back behind a watermark: everything older than ``slack_ns`` before the
moment at which both rings were seen to be drained. What comes later still is put into the next
batch and counted as late.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers import wire
from parsers.batch import EventBatch, Snaps

__all__ = ["Merger"]

Array = NDArray[Any]


class Merger:
    """Holds records of both rings until a watermark has passed them."""

    def __init__(self, snap_bytes: int, slack_ns: int = 20_000_000) -> None:
        self._slack_ns = slack_ns
        self._events: list[Array] = []
        self._packets: list[Array] = []
        self._packet = wire.packet_dtype(snap_bytes)
        self._watermark = 0
        self.late = 0
        """Records that came after their place in the order had been given out."""

    def add(self, events: Array, packets: Array) -> None:
        """Take copies of what the rings hold."""
        if len(events):
            self._events.append(events.copy())
        if len(packets):
            self._packets.append(packets.copy())

    @property
    def held(self) -> int:
        """Records waiting for their watermark."""
        return sum(map(len, self._events)) + sum(map(len, self._packets))

    def flush(self, drained_ns: int | None) -> EventBatch:
        """Return, in order, all records older than the watermark.

        Args:
            drained_ns: CLOCK_MONOTONIC at which both rings were seen; None: everything goes.
        """
        events = self._join(self._events, wire.RECORD)
        packets = self._join(self._packets, self._packet)
        watermark = None if drained_ns is None else max(0, drained_ns - self._slack_ns)
        if watermark is not None:
            ready = events["time"] < watermark
            self._events = [events[~ready]] if not ready.all() else []
            events = events[ready]
            ready = packets["record"]["time"] < watermark
            self._packets = [packets[~ready]] if not ready.all() else []
            packets = packets[ready]
        else:
            self._events, self._packets = [], []
        batch = _ordered(events, packets)
        # As uint64: numpy would compare a plain int as a float, which is exact for 104 days.
        self.late += int(np.searchsorted(batch["time"], np.uint64(self._watermark)))
        if watermark is not None:
            self._watermark = max(self._watermark, watermark)
        return batch

    @staticmethod
    def _join(parts: list[Array], dtype: np.dtype[Any]) -> Array:
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype)


def _ordered(events: Array, packets: Array) -> EventBatch:
    if not len(packets):
        records = events
    elif not len(events):
        records = packets["record"]
    else:
        records = np.concatenate([events, packets["record"]])
    order = np.lexsort((records["seq"], records["cpu"], records["time"]))
    batch = EventBatch.from_records(records[order])
    if len(packets):
        place = np.empty(len(records), np.uint32)
        place[order] = np.arange(len(records), dtype=np.uint32)
        rows = place[len(events) :]
        by_row = np.argsort(rows, kind="stable")
        batch.snaps = _snaps(packets[by_row], rows[by_row])
    return batch


def _snaps(packets: Array, rows: Array) -> Snaps:
    header = np.ascontiguousarray(packets["snap"])
    area = packets["bytes"]
    captured = np.minimum(header["captured"], area.shape[1]).astype(np.int64)
    offsets = np.zeros(len(packets) + 1, np.int64)
    np.cumsum(captured, out=offsets[1:])
    data = area[np.arange(area.shape[1]) < captured[:, None]]
    return Snaps(rows=rows, header=header, offsets=offsets, data=data)
