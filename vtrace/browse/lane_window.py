"""A stretch of the timeline: for each lane what it did in each column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vtrace.browse import lane_kernel as k

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Drops", "LaneWindow", "QueueLane", "Span", "Stall", "ThreadLane"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of which records are missing."""

    first_ns: int
    last_ns: int
    lost: int | None = None
    """How many; None: nobody knows."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Something that should have gone on and did not."""

    start_ns: int
    end_ns: int
    what: int
    """0: a thread was ready and had no CPU; 1: packets lay in the tap; 2: chains were due."""
    lane: int
    """Thread (0), or id of the queue."""
    other: int
    """0: who ran instead, -1 unknown; else the thread that serves the queue."""

    @property
    def long_ns(self) -> int:
        """How long it lasted."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class Drops:
    """Drops of one queue or interface close together."""

    first_ns: int
    last_ns: int
    queue: int
    count: int


@dataclass(slots=True, kw_only=True)
class ThreadLane:
    """What a thread did in each column."""

    tid: int
    first_ns: int
    """Before its first record nothing is known of it."""
    run: NDArray[Any]
    """ns that it had a CPU."""
    wait: NDArray[Any]
    """ns that it could have run and another had the CPU."""
    sleep: NDArray[Any]
    stop: NDArray[Any]
    """ns that it was stopped by a signal or a debugger."""
    out: NDArray[Any]
    """ns outside the guest, of the exits that were recorded."""
    exits: NDArray[Any]
    who: NDArray[Any]
    """Who ran while it waited; 0 the idle task, -1 not known."""
    why: NDArray[Any]
    """Reason of the exit that took longest, ``lane_kernel.SVM`` or-ed; -1 none."""

    @property
    def scheduled(self) -> bool:
        """Whether anything is known of when it had a CPU."""
        return bool((self.run + self.wait + self.sleep + self.stop).any())


@dataclass(slots=True, kw_only=True)
class QueueLane:
    """What a queue did in each column. Levels are -1 where they are not known."""

    id: int
    size: int
    """Descriptors; 32768 where not known."""
    worker: int
    """Thread that serves it; -1 not known."""
    kicker: int
    """Thread that kicks; -1 not known."""
    at_least: bool
    """``flight`` is what was seen: there may be more."""
    kicks: NDArray[Any]
    interrupts: NDArray[Any]
    drops: NDArray[Any]
    refused: NDArray[Any]
    """Packets that the tap's full ring refused."""
    chains: NDArray[Any]
    """Popped."""
    starved: NDArray[Any]
    flight: NDArray[Any]
    """Most chains that the device had."""
    avail: NDArray[Any]
    """Chains that the driver had published and the device not yet taken: rx the fewest, else the
    most."""
    tap: NDArray[Any]
    """Most packets in the tap's ring."""

    @property
    def dropped(self) -> NDArray[Any]:
        """Dropped packets; a refusal has a drop's record beside it, if drops are probed."""
        return self.drops if self.drops.sum() >= self.refused.sum() else self.refused


@dataclass(slots=True, kw_only=True)
class LaneWindow:
    """The lanes from ``t0`` up to ``t1`` on ``columns`` columns."""

    t0: int
    t1: int
    columns: int
    exact: bool
    """From the events; else from sums in buckets of ``bucket_ns``."""
    bucket_ns: int
    first_ns: int
    """First event of the recording; before it nothing is known."""
    last_ns: int
    """Newest event that was read."""
    threads: dict[int, ThreadLane] = field(default_factory=dict)
    queues: dict[int, QueueLane] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    """Stretches of which records are missing."""
    other_events: int = 0
    """Of threads and queues for which there was no lane."""

    @property
    def edges(self) -> NDArray[np.float64]:
        """Times of the edges of the columns, from ``t0``."""
        return np.linspace(0, self.t1 - self.t0, self.columns + 1)

    def time_of(self, column: int) -> int:
        """Return when a column begins."""
        return self.t0 + (self.t1 - self.t0) * column // self.columns

    def column_of(self, time_ns: int) -> int:
        """Return the column of a time; it may lie outside."""
        return (time_ns - self.t0) * self.columns // max(self.t1 - self.t0, 1)

    @property
    def missing(self) -> NDArray[np.bool_]:
        """For each column: records are missing in it."""
        found = np.zeros(self.columns, np.bool_)
        for span in self.spans:
            if span.last_ns >= self.t0 and span.first_ns < self.t1:
                first = max(self.column_of(span.first_ns), 0)
                found[first : max(self.column_of(span.last_ns), first) + 1] = True
        return found

    @property
    def unread(self) -> NDArray[np.bool_]:
        """For each column: it lies before the first event or behind the newest."""
        edges = self.t0 + self.edges
        unread: NDArray[np.bool_] = (edges[1:] <= self.first_ns) | (edges[:-1] > self.last_ns)
        return unread

    @classmethod
    def of(
        cls, sums: Any, g: Any, pools: Any, t0: int, t1: int, columns: int, *, exact: bool = False
    ) -> LaneWindow:
        """Return a stretch of the pools of ``lanes.LaneSums``, which holds its lock."""
        window = cls(
            t0=t0,
            t1=max(t1, t0 + 1),
            columns=columns,
            exact=exact,
            bucket_ns=int(g["width"]),
            first_ns=int(g["first"]),
            last_ns=int(g["now"]),
            spans=list(sums.spans),
            other_events=int(g["other_threads"] + g["other_queues"]),
        )
        grid = _Grid(window, g, pools.buckets)
        for lane in range(int(g["threads"])):
            row = pools.threads[lane]
            window.threads[int(row["tid"])] = _thread(grid, g, pools, lane, row)
        for lane in range(int(g["queues"])):
            row = pools.queues[lane]
            window.queues[int(row["id"])] = _queue(grid, pools, lane, row)
        return window


class _Grid:
    # Buckets onto columns.

    def __init__(self, window: LaneWindow, g: Any, buckets: int) -> None:
        self.columns = window.columns
        start, width = int(g["start"]), int(g["width"])
        edges = window.edges + (window.t0 - start)
        self.edges = edges / width
        # First and last bucket of each column; -1, buckets: outside.
        self.low = np.clip(np.floor(self.edges[:-1]).astype(np.int64), -1, buckets)
        high = np.ceil(self.edges[1:]).astype(np.int64) - 1
        self.high = np.clip(np.maximum(high, self.low), -1, buckets)
        self.buckets = buckets
        last = max((int(g["now"]) - start) // width, -1)
        self.last = min(last, buckets - 1)
        # What is in the last bucket lies before the newest event.
        self.ends = np.arange(buckets + 1, dtype=np.float64)
        if last == self.last and last >= 0:
            self.ends[last + 1] = max((int(g["now"]) - start) / width, last + 1e-6)
        inside = abs(float(self.edges[-1]) - buckets) < 1
        self.same = buckets == window.columns and start == window.t0 and inside

    def time(self, row: NDArray[Any]) -> NDArray[Any]:
        """Share out times: what a column overlaps of a bucket."""
        if self.same:
            return row.copy()
        total = np.concatenate([[0], np.cumsum(row)])
        at = np.interp(self.edges, self.ends, total)
        shared: NDArray[Any] = np.diff(at)
        return shared

    def count(self, row: NDArray[Any]) -> NDArray[Any]:
        """Share out counts: each bucket's to the column of its middle."""
        if self.same:
            return row.astype(np.int64)
        sums = np.zeros(self.columns, np.int64)
        first, last = max(int(self.low[0]), 0), min(int(self.high[-1]), self.buckets - 1)
        if last >= first:
            at = np.arange(first, last + 1)
            middle = (at + self.ends[at + 1]) / 2
            column = np.searchsorted(self.edges, middle, side="right") - 1
            inside = (column >= 0) & (column < self.columns)
            np.add.at(sums, column[inside], row[at[inside]].astype(np.int64))
        return sums

    def most(
        self, row: NDArray[Any], ends: NDArray[Any], before: int, *, least: bool = False
    ) -> NDArray[Any]:
        """Return the highest (or lowest) level of each column, -1 unknown; a level lasts."""
        known = np.where(ends >= 0, np.arange(self.buckets), -1)
        # What it was when the bucket began.
        carried = np.concatenate([[-1], np.maximum.accumulate(known)[:-1]])
        held = np.where(carried >= 0, ends[np.maximum(carried, 0)], before)
        if least:
            level = np.where(row < 0, held, np.where(held < 0, row, np.minimum(row, held)))
            level = np.where(level < 0, 1 << 30, level)
        else:
            level = np.maximum(row, held)
        outside = 1 << 30 if least else -1
        level[self.last + 1 :] = outside
        first = np.clip(self.low, 0, self.buckets - 1)
        last = np.clip(self.high, 0, self.buckets - 1)
        found = np.empty(self.columns, np.int64)
        reduce = np.minimum if least else np.maximum
        if self.same:
            found[:] = level
        else:
            pairs = np.stack([first, last + 1], axis=1).ravel()
            found[:] = reduce.reduceat(np.append(level, outside), pairs)[::2]
        found[(self.high < 0) | (self.low >= self.buckets)] = outside
        return np.where(found == 1 << 30, -1, found)

    def name(self, row: NDArray[Any]) -> NDArray[Any]:
        """Return for each column the newest value of its buckets that is not -1."""
        if self.same:
            return row.copy()
        known = np.maximum.accumulate(np.where(row >= 0, np.arange(self.buckets), -1))
        last = np.clip(self.high, 0, self.buckets - 1)
        at = known[last]
        inside = (at >= np.clip(self.low, 0, None)) & (self.low < self.buckets) & (self.high >= 0)
        return np.where(inside, row[np.maximum(at, 0)], -1)


def _thread(grid: _Grid, g: Any, pools: Any, lane: int, row: Any) -> ThreadLane:
    ns, who = pools.ns[lane], pools.who[lane]
    state, since, now = int(row["state"]), int(row["since"]), int(g["now"])
    if state and now > since:
        # What it has been doing since its last record.
        ns, who = ns.copy(), who.copy()
        k.spread(ns[None], 0, state - 1, g, since, now)
        if state == k.STATES.index("wait") + 1 and row["other"] >= 0:
            at = (max(since, int(g["start"])) - int(g["start"])) // int(g["width"])
            who[at : grid.last + 1] = row["other"]
    run, wait, sleep, stop, out = (grid.time(one) for one in ns)
    return ThreadLane(
        tid=int(row["tid"]),
        first_ns=int(row["first"]),
        run=run,
        wait=wait,
        sleep=sleep,
        stop=stop,
        out=out,
        exits=grid.count(pools.exits[lane]),
        who=grid.name(who),
        why=grid.name(pools.why[lane]),
    )


def _queue(grid: _Grid, pools: Any, lane: int, row: Any) -> QueueLane:
    counts: Mapping[str, Any] = dict(zip(k.COUNTS, pools.counts[lane], strict=True))
    levels: Mapping[str, Any] = dict(zip(k.LEVELS, pools.levels[lane], strict=True))
    return QueueLane(
        id=int(row["id"]),
        size=int(row["size"]),
        worker=int(row["worker"]),
        kicker=int(row["kicker"]),
        at_least=bool(row["packed"]),
        **{name: grid.count(counts[name]) for name in k.COUNTS},
        flight=grid.most(levels["flight"], levels["flight_end"], int(row["flight_before"])),
        avail=grid.most(
            levels["avail"], levels["avail_end"], int(row["avail_before"]), least=bool(row["rx"])
        ),
        tap=grid.most(levels["tap"], levels["tap_end"], int(row["tap_before"])),
    )
