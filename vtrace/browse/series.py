"""What each queue did over time, in a bounded number of buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.browse.snapshot import Series
from vtrace.model import Kind
from vtrace.session.clock import LATEST_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["RECENT_NS", "RecentSeries", "SeriesSums"]

MOST_BUCKETS: Final = 512
FIRST_WIDTH_NS: Final = 1_000_000
RECENT_BUCKETS: Final = 240
RECENT_NS: Final = 250_000_000
"""Width of the buckets of the last minute."""
MOST_QUEUES: Final = 4096
"""Queues of which there is a series; those that come later have none."""

_POPS, _USED, _BACK, _KICKS, _INTERRUPTS, _DROPS, _BYTES = range(7)
_PARTS: Final = 7
_OF_KIND: Final = np.full(max(Kind) + 1, -1, np.int8)
for _part, _kinds in (
    (_POPS, (Kind.POP,)),
    (_USED, (Kind.USED, Kind.DETACH)),
    (_BACK, (Kind.HAND_BACK,)),
    (_KICKS, (Kind.KICK,)),
    (_INTERRUPTS, (Kind.SIGNAL,)),
    (_DROPS, (Kind.REFUSE,)),
):
    _OF_KIND[list(_kinds)] = _part


class _Counts:
    """Counts by queue, part and bucket."""

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self.slot: dict[int, int] = {}
        self.counts = np.zeros((0, _PARTS, buckets), np.int64)
        self._slots = np.full(1 << 16, -1, np.int32)

    def _make_room(self, queues: NDArray[Any]) -> None:
        for number in np.unique(queues[self._slots[queues] < 0]).tolist():
            if len(self.slot) >= MOST_QUEUES:
                return
            self._slots[number] = self.slot[number] = len(self.slot)
        if len(self.slot) > len(self.counts):
            more = max(len(self.slot), 2 * len(self.counts), 4)
            grown = np.zeros((more, _PARTS, self.buckets), np.int64)
            grown[: len(self.counts)] = self.counts
            self.counts = grown

    def add(self, batch: EventBatch, bucket_of: Any) -> None:
        """Count the events of a batch; ``bucket_of`` gives buckets for times."""
        kinds = batch["kind"]
        parts = _OF_KIND[np.minimum(kinds, len(_OF_KIND) - 1)]
        rows = np.flatnonzero(parts >= 0)
        if not len(rows):
            return
        queues, parts = batch["queue"][rows], parts[rows].astype(np.int64)
        self._make_room(queues)
        slots = self._slots[queues].astype(np.int64)
        buckets = bucket_of(batch["time"][rows])
        ok = (slots >= 0) & (buckets >= 0)
        # An interrupt that was not sent, and chains that are handed back several at a time.
        weights = np.ones(len(rows), np.int64)
        back = parts == _BACK
        weights[back] = batch["count"][rows][back]
        ok &= (parts != _INTERRUPTS) | (batch["ret"][rows] != 0)
        place = (slots * _PARTS + parts) * self.buckets + buckets
        self._add(place[ok], weights[ok])
        used = ok & (parts == _USED)
        if used.any():
            place = (slots * _PARTS + _BYTES) * self.buckets + buckets
            self._add(place[used], batch["length"][rows][used].astype(np.int64))

    def _add(self, place: NDArray[np.int64], weights: NDArray[np.int64]) -> None:
        flat = self.counts.reshape(-1)
        if len(flat) < 8 * len(place):
            flat += np.bincount(place, weights, len(flat)).astype(np.int64)
            return
        distinct, inverse = np.unique(place, return_inverse=True)
        sums = np.zeros(len(distinct), np.int64)
        np.add.at(sums, inverse, weights)
        flat[distinct] += sums

    def series(
        self, start_ns: int, width_ns: int, first: int, last: int, before: NDArray[np.int64] | None
    ) -> dict[int, Series]:
        """Return the buckets ``first`` to ``last`` (not in it) of each queue."""
        found = {}
        for number, slot in self.slot.items():
            counts = self.counts[slot, :, first:last]
            change = counts[_POPS] - counts[_USED] - counts[_BACK]
            flight = np.cumsum(change) + (0 if before is None else before[slot])
            # Chains that were under way before the recording are returned in it, too.
            lowest = min(int(flight.min(initial=0)), 0)
            found[number] = Series(
                start_ns=start_ns,
                width_ns=width_ns,
                chains=counts[_POPS].copy(),
                in_flight=flight - lowest,
                kicks=counts[_KICKS].copy(),
                interrupts=counts[_INTERRUPTS].copy(),
                drops=counts[_DROPS].copy(),
                used_bytes=counts[_BYTES].copy(),
            )
        return found


class SeriesSums:
    """The whole recording: buckets become twice as wide when there are too many."""

    def __init__(self) -> None:
        self._counts = _Counts(MOST_BUCKETS)
        self._start: int | None = None
        self._width = FIRST_WIDTH_NS
        self._last = 0

    def feed(self, batch: EventBatch) -> None:
        """Take in a batch."""
        span = batch.time_range
        if span is None:
            return
        if self._start is None:
            self._start = span[0]
        start = self._start
        self._last = max(self._last, min(span[1], LATEST_NS))
        while (self._last - start) // self._width >= MOST_BUCKETS:
            shape = len(self._counts.counts), _PARTS, MOST_BUCKETS // 2, 2
            halves = self._counts.counts.reshape(shape)
            self._counts.counts[:, :, : MOST_BUCKETS // 2] = halves.sum(axis=3)
            self._counts.counts[:, :, MOST_BUCKETS // 2 :] = 0
            self._width *= 2
        width = self._width
        self._counts.add(batch, lambda times: _buckets(times, start, width))

    def series(self) -> Mapping[int, Series]:
        """Return the series of each queue by its id."""
        if self._start is None:
            return {}
        buckets = (self._last - self._start) // self._width + 1
        return self._counts.series(self._start, self._width, 0, buckets, None)


class RecentSeries:
    """The last minute before the newest event."""

    def __init__(self) -> None:
        self._counts = _Counts(RECENT_BUCKETS)
        self._first = 0
        """Time of the first bucket, in buckets since the clock's beginning."""
        self._newest = 0
        self._oldest: int | None = None
        self._before = np.zeros(0, np.int64)
        """Chains under way at the first bucket, by slot."""

    def feed(self, batch: EventBatch) -> None:
        """Take in a batch."""
        span = batch.time_range
        if span is None:
            return
        last = min(span[1], LATEST_NS) // RECENT_NS
        if self._oldest is None:
            self._oldest = span[0] // RECENT_NS
            self._first = max(self._oldest, last - RECENT_BUCKETS + 1)
        self._newest = max(self._newest, last)
        past = last - self._first - RECENT_BUCKETS + 1
        if past > 0:
            self._slide(past)
        first = self._first
        self._counts.add(batch, lambda times: _buckets(times, first * RECENT_NS, RECENT_NS))

    def _slide(self, past: int) -> None:
        counts = self._counts.counts
        before = np.zeros(len(counts), np.int64)
        before[: len(self._before)] = self._before
        out = counts[:, :, : min(past, RECENT_BUCKETS)].sum(axis=2)
        self._before = before + out[:, _POPS] - out[:, _USED] - out[:, _BACK]
        if past < RECENT_BUCKETS:
            counts[:, :, :-past] = counts[:, :, past:].copy()
            counts[:, :, -past:] = 0
        else:
            counts[:] = 0
        self._first += past

    def series(self) -> Mapping[int, Series]:
        """Return the series of each queue by its id."""
        if self._oldest is None:
            return {}
        before = np.zeros(len(self._counts.counts), np.int64)
        before[: len(self._before)] = self._before
        end = self._newest - self._first + 1
        return self._counts.series(self._first * RECENT_NS, RECENT_NS, 0, end, before)


def _buckets(times: NDArray[Any], start: int, width: int) -> NDArray[np.int64]:
    # Of a late event before the first bucket: -1.
    since = times.astype(np.int64) - start
    return np.where(since < 0, -1, since // width)
