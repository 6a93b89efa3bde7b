"""Several streams of batches as one, in the order of time: a merge that holds a batch of each.

What a source says beside its events comes out with the batch that it stood in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers import wire
from parsers.batch import EventBatch, Snaps, joined
from vtrace.merge.sequence import Missing, Numbers

if TYPE_CHECKING:
    from vtrace.merge.clocks import Placed
    from vtrace.merge.ids import Ids
    from vtrace.merge.overlap import Overlap

__all__ = ["in_order", "piece"]

ROWS: Final = 1 << 15
"""Records of a batch that is written."""
DATA_BYTES: Final = 1 << 25

_MISSING: Final = "missing"
_SOURCE: Final = "source"
_OTHERS: Final = tuple(name for name in wire.COLUMNS if name != "seq")

MetaOf = Callable[[int, dict[str, Any]], dict[str, Any]]


@dataclass(slots=True)
class _Held:
    batch: EventBatch
    at: int = 0


class _Stream:
    # Batches of one source with the numbers and times of the merged file.
    def __init__(self, index: int, one: Placed, ids: Ids, overlap: Overlap, meta: MetaOf) -> None:
        self.held: list[_Held] = []
        self.mark = -1
        self.ended = False
        self._one, self._ids, self._overlap = one, ids, overlap
        self._index, self._meta = index, meta
        self._missing = Missing(from_start=one.source.from_start)
        self._batches = self._ahead()

    def _ahead(self) -> Iterator[tuple[EventBatch, EventBatch | None]]:
        # The last one has none behind it.
        waiting: EventBatch | None = None
        for batch in self._one.source.trace.batches():
            if waiting is not None:
                yield waiting, batch
            waiting = batch
        if waiting is not None:
            yield waiting, None

    def read(self) -> None:
        """Take in the next batch."""
        found = next(self._batches, None)
        if found is None:
            self.ended = True
            return
        batch, following = found
        meta = self._meta(self._index, batch.meta) if batch.meta else {}
        made = self._made(batch, following)
        made.meta = meta
        if len(made):
            self.mark = max(self.mark, int(made["time"][-1]))
        if len(made) or meta:
            self.held.append(_Held(made))

    def _made(self, batch: EventBatch, following: EventBatch | None) -> EventBatch:
        count = len(batch)
        missing = self._missing.before(batch, following)
        times = batch["time"].astype(np.int64) + self._one.offset_ns
        # A file that changes between two readings must not wrap around.
        times = np.maximum(times, 0)
        kept = self._overlap.keep(self._index, batch, times)
        missing = self._missing.carry(batch, missing, kept)
        columns = {**batch.columns, **self._ids.apply(batch)}
        columns["time"] = times.astype(np.uint64)
        columns[_MISSING] = missing
        columns[_SOURCE] = np.full(count, self._index, np.int32)
        made = EventBatch(columns=columns, snaps=batch.snaps)
        if not kept.all():
            made = made.take(kept)
        if len(made) and (made["time"][1:] < made["time"][:-1]).any():
            made = _sorted(made, by_cpu=False)
        return made

    def upto(self, horizon: int | None) -> Iterator[EventBatch]:
        """Give out what is before a time; all without one."""
        while self.held:
            first = self.held[0]
            times = first.batch["time"]
            end = len(times)
            if horizon is not None:
                end = int(np.searchsorted(times, np.uint64(max(horizon, 0)), side="left"))
            if len(times) and end <= first.at:
                break
            part = piece(first.batch, first.at, end)
            part.meta = {} if first.at else first.batch.meta
            first.at = end
            yield part
            if end < len(times):
                break
            self.held.pop(0)


def in_order(
    placed: Sequence[Placed], ids: Sequence[Ids], overlap: Overlap, meta: MetaOf
) -> Iterator[EventBatch]:
    """Yield the events of all sources, with numbers of their own and what else they say.

    Memory: of each source two batches, and what is to be written.
    """
    streams = [
        _Stream(index, one, own, overlap, meta)
        for index, (one, own) in enumerate(zip(placed, ids, strict=True))
    ]
    parts: list[EventBatch] = []
    writer = _Writer(placed, overlap)
    while True:
        live = [stream for stream in streams if not stream.ended]
        horizon = min((stream.mark for stream in live), default=None)
        for stream in streams:
            parts += stream.upto(horizon)
        rows = sum(len(part) for part in parts)
        data = sum(len(part.snaps.data) for part in parts)
        if rows >= ROWS or data >= DATA_BYTES or (not live and parts):
            yield writer.batch(parts)
            parts = []
        if not live:
            return
        min(live, key=lambda stream: stream.mark).read()


class _Writer:
    # Parts of several sources as one batch.
    def __init__(self, placed: Sequence[Placed], overlap: Overlap) -> None:
        self._numbers = Numbers()
        self._overlap = overlap
        self._parts = np.array([one.part for one in placed])
        self._same = len(set(self._parts.tolist())) < len(placed)
        # Other tools' recordings have the order of their lines where times are equal.
        self._by_cpu = all(one.source.own for one in placed)

    def batch(self, parts: list[EventBatch]) -> EventBatch:
        whole = _sorted(_concatenated(parts), by_cpu=self._by_cpu)
        if self._same:
            whole = self._once(whole)
        columns = whole.columns
        missing = columns.pop(_MISSING)
        columns.pop(_SOURCE)
        columns["seq"] = self._numbers.give(columns["cpu"], missing, columns["seq"])
        return whole

    def _once(self, batch: EventBatch) -> EventBatch:
        # Parts of one recording: a record that stands in two of them is one.
        times = batch["time"]
        alike = np.zeros(len(batch), np.bool_)
        alike[1:] = times[1:] == times[:-1]
        alike[:-1] |= times[1:] == times[:-1]
        rows = np.flatnonzero(alike)
        if not len(rows):
            return batch
        part = self._parts[batch[_SOURCE][rows]]
        keys = [batch[_SOURCE][rows], part, *(batch[name][rows] for name in _OTHERS)]
        order = np.lexsort(keys)
        equal = np.ones(len(rows) - 1, np.bool_)
        for key in keys[1:]:
            equal &= key[order][1:] == key[order][:-1]
        source = keys[0][order]
        # Of equal ones those stay that are of the first source that has it.
        run = np.concatenate([[0], np.cumsum(~equal)])
        first = np.full(int(run[-1]) + 1, np.iinfo(np.int32).max, np.int64)
        np.minimum.at(first, run, source)
        gone = rows[order[source != first[run]]]
        if not len(gone):
            return batch
        for index in np.unique(batch[_SOURCE][gone]).tolist():
            mine = gone[batch[_SOURCE][gone] == index]
            self._overlap.leave_out(index, batch["kind"][mine])
        kept = np.ones(len(batch), np.bool_)
        kept[gone] = False
        return batch.take(kept)


def piece(batch: EventBatch, start: int, end: int) -> EventBatch:
    """Return the rows from ``start`` to ``end`` as views, without metadata."""
    columns = {name: column[start:end] for name, column in batch.columns.items()}
    snaps = batch.snaps
    low, high = (int(at) for at in np.searchsorted(snaps.rows, (start, end)))
    base = snaps.offsets[low]
    return EventBatch(
        columns=columns,
        snaps=Snaps(
            rows=snaps.rows[low:high] - np.uint32(start),
            header=snaps.header[low:high],
            offsets=snaps.offsets[low : high + 1] - base,
            data=snaps.data[int(base) : int(snaps.offsets[high])],
        ),
    )


def _concatenated(parts: list[EventBatch]) -> EventBatch:
    names = (*wire.COLUMNS, _MISSING, _SOURCE)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    starts = np.cumsum([0] + [len(part) for part in parts])
    data = np.cumsum([0] + [len(part.snaps.data) for part in parts])
    snaps = Snaps(
        rows=np.concatenate(
            [p.snaps.rows.astype(np.int64) + s for p, s in zip(parts, starts, strict=False)]
        ).astype(np.uint32),
        header=np.concatenate([part.snaps.header for part in parts]),
        offsets=np.concatenate(
            [[0], *(p.snaps.offsets[1:] + d for p, d in zip(parts, data, strict=False))]
        ).astype(np.int64),
        data=np.concatenate([part.snaps.data for part in parts]),
    )
    meta: dict[str, Any] = {}
    for part in parts:
        meta = joined(meta, part.meta)
    return EventBatch(columns=columns, snaps=snaps, meta=meta)


def _sorted(batch: EventBatch, *, by_cpu: bool) -> EventBatch:
    # What one source has at one moment, or on one CPU, keeps its order.
    times = batch["time"]
    order = np.lexsort((batch["cpu"], times)) if by_cpu else np.argsort(times, kind="stable")
    if (order[1:] > order[:-1]).all():
        return batch
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    new_rows = place[batch.snaps.rows]
    chosen = np.argsort(new_rows, kind="stable")
    return EventBatch(
        columns={name: column[order] for name, column in batch.columns.items()},
        snaps=batch.snaps.take(chosen, new_rows[chosen]),
        meta=batch.meta,
    )
