"""What threads, rings and taps did over time, for a timeline: sums in buckets.

``LaneSums`` takes in a recording as it is read and keeps it in at most 4096 buckets, whose width
doubles as the recording grows: the whole of it, at a cost of some ns an event. A stretch that is
short enough is computed again from its events, exactly, from where the sums left off before it:
``LaneSums.exact``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.browse import lane_kernel as k
from vtrace.browse.lane_window import Drops, LaneWindow, QueueLane, Span, Stall, ThreadLane

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["COLUMNS", "Drops", "LaneSums", "LaneWindow", "QueueLane", "Span", "Stall", "ThreadLane"]

BUCKETS: Final = 4096
FIRST_WIDTH_NS: Final = 1 << 10
MOST_THREADS: Final = 96
MOST_QUEUES: Final = 128
MOST_STALLS: Final = 8192
MOST_DROPS: Final = 8192
MOST_SPANS: Final = 256

STALL_NS: Final = 1_000_000
"""A thread that was ready, and did not get a CPU for so long, is a stall."""
LATE_NS: Final = 10_000_000
"""So are packets or chains that nobody took for so long."""
_WAITS: Final = k.STATES.index("wait") + 1
MERGE_NS: Final = 1_000_000
"""Drops of one queue that are closer together are one place to jump to."""

COLUMNS: Final = (
    *("time", "kind", "flags", "tid", "ret", "span", "queue", "count", "packet"),
    *("position", "used", "avail"),
)
"""Columns of a batch that are read."""


@dataclass(slots=True)
class _Pools:
    """Arrays of the kernel: by lane, then by bucket."""

    buckets: int
    threads: NDArray[Any] = field(default_factory=lambda: np.zeros(0, k.THREAD))
    queues: NDArray[Any] = field(default_factory=lambda: np.zeros(0, k.QUEUE))
    ns: NDArray[Any] = field(init=False)
    who: NDArray[Any] = field(init=False)
    why: NDArray[Any] = field(init=False)
    exits: NDArray[Any] = field(init=False)
    end: NDArray[Any] = field(init=False)
    counts: NDArray[Any] = field(init=False)
    levels: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        size = self.buckets
        self.ns = np.zeros((0, len(k.STATES), size), np.int64)
        self.who = np.full((0, size), k.NOBODY, np.int32)
        self.why = np.full((0, size), k.NOBODY, np.int32)
        self.exits = np.zeros((0, size), np.uint32)
        self.end = np.zeros((0, size), np.uint8)
        self.counts = np.zeros((0, len(k.COUNTS), size), np.uint32)
        self.levels = np.full((0, len(k.LEVELS), size), -1, np.int32)

    def more_threads(self, count: int) -> None:
        """Make room for ``count`` threads."""
        self.threads = _longer(self.threads, count, 0)
        for name, empty in (("ns", 0), ("who", -1), ("why", -1)):
            setattr(self, name, _longer(getattr(self, name), count, empty))
        self.exits = _longer(self.exits, count, 0)
        self.end = _longer(self.end, count, 0)

    def more_queues(self, count: int) -> None:
        """Make room for ``count`` queues."""
        self.queues = _longer(self.queues, count, 0)
        self.counts = _longer(self.counts, count, 0)
        self.levels = _longer(self.levels, count, -1)

    def halve(self, by: int) -> None:
        """Put ``by`` buckets (a power of two) together to one each."""
        while by > 1:
            by //= 2
            for name in ("ns", "exits", "counts"):
                _fold(getattr(self, name), lambda a, b: a + b, 0)
            for name in ("who", "why"):
                _fold(getattr(self, name), lambda a, b: np.where(b >= 0, b, a), -1)
            _fold(self.end, lambda a, b: np.where(b > 0, b, a), 0)
            flight, flight_end, avail, avail_end, tap, tap_end = range(6)
            for at in (flight, tap):
                _fold(self.levels[:, at], np.maximum, -1)
            rx = self.queues["rx"].astype(np.bool_)
            fewest, most = self.levels[rx, avail], self.levels[~rx, avail]
            _fold(fewest, _least, -1)
            _fold(most, np.maximum, -1)
            self.levels[rx, avail], self.levels[~rx, avail] = fewest, most
            for at in (flight_end, avail_end, tap_end):
                _fold(self.levels[:, at], lambda a, b: np.where(b >= 0, b, a), -1)


def _longer(array: NDArray[Any], count: int, empty: int) -> NDArray[Any]:
    more = np.zeros((count - len(array), *array.shape[1:]), array.dtype)
    if empty:
        more[:] = empty
    return np.concatenate([array, more])


def _least(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.where(a < 0, b, np.where(b < 0, a, np.minimum(a, b)))


def _fold(array: NDArray[Any], join: Any, empty: int) -> None:
    half = array.shape[-1] // 2
    array[..., :half] = join(array[..., 0::2], array[..., 1::2])
    array[..., half:] = empty


class LaneSums:
    """The lanes of a recording, fed with its batches in order.

    ``queues``: the section ``queues`` of the metadata; more comes with the batches. One thread may
    feed while others ask for windows. Memory is at most some 50 MB, with 96 threads and 128 queues
    that all did something; what has no room is counted.
    """

    def __init__(self, queues: Mapping[str, Any] | None = None) -> None:
        self._lock = threading.RLock()
        self._set(BUCKETS)
        self._one["width"] = FIRST_WIDTH_NS
        self._sizes: dict[int, tuple[int, bool]] = {}
        self._fixed = False
        self._lost = 0
        self._counted_ns = 0
        self.spans: list[Span] = []
        """Stretches of which records are missing."""
        self._learn(queues or {})

    def _set(self, buckets: int) -> None:
        self._g = np.zeros(1, k.GLOBAL)
        self._one = self._g[0]
        self._one["buckets"] = buckets
        self._one["bucket"] = -1
        self._one["stall_ns"], self._one["late_ns"] = STALL_NS, LATE_NS
        self._one["merge_ns"] = MERGE_NS
        self._one["most_threads"], self._one["most_queues"] = MOST_THREADS, MOST_QUEUES
        self._keys = np.zeros(k.TID_SLOTS, np.int64)
        self._lanes = np.zeros(1 << 16, np.int16)
        self._pools = _Pools(buckets)
        self._stalls = np.zeros(MOST_STALLS, k.STALL_ROW)
        self._drops = np.zeros(MOST_DROPS, k.DROP_ROW)

    @property
    def first_ns(self) -> int | None:
        """Time of the first event; None before there is one."""
        return int(self._one["first"]) or None

    @property
    def last_ns(self) -> int:
        """Time of the newest event."""
        return int(self._one["now"])

    @property
    def events(self) -> int:
        """Events taken in."""
        return int(self._one["events"])

    @property
    def bucket_ns(self) -> int:
        """Width of a bucket."""
        return int(self._one["width"])

    def feed(self, batch: EventBatch) -> None:
        """Take in a batch."""
        with self._lock:
            if batch.meta:
                self._metadata(batch)
            if len(batch):
                self._feed(batch)

    def mark_gap(self, first_ns: int, last_ns: int, lost: int | None = None) -> None:
        """Say that records between two times are missing; ``lost``: how many, if known."""
        with self._lock:
            self._mark_gap(first_ns, last_ns, lost)

    def _mark_gap(self, first_ns: int, last_ns: int, lost: int | None) -> None:
        if self.spans and first_ns <= self.spans[-1].last_ns and lost is not None:
            before = self.spans.pop()
            first_ns, lost = before.first_ns, lost + (before.lost or 0)
        self.spans.append(Span(first_ns, max(first_ns, last_ns), lost))
        if len(self.spans) > MOST_SPANS:
            # The two closest become one.
            gaps = [
                b.first_ns - a.last_ns for a, b in zip(self.spans, self.spans[1:], strict=False)
            ]
            at = int(np.argmin(gaps))
            one, two = self.spans[at : at + 2]
            both = None if one.lost is None or two.lost is None else one.lost + two.lost
            self.spans[at : at + 2] = [Span(one.first_ns, two.last_ns, both)]

    def _metadata(self, batch: EventBatch) -> None:
        meta = batch.meta
        self._learn(meta.get("queues") or {})
        last = int(batch["time"][-1]) if len(batch) else self.last_ns
        lost = self._lost
        counts = meta.get("counts")
        if isinstance(counts, dict):
            lost = sum(_number(kind, "lost") for kind in counts.values())
        lost += _number(meta.get("loss"), "dropped_records")
        if lost > self._lost:
            self.mark_gap(self._counted_ns or self.last_ns, last, lost - self._lost)
        self._lost = max(lost, self._lost)
        if isinstance(counts, dict):
            self._counted_ns = last
        gap = meta.get("gap")
        first, end = _number(gap, "first_ns"), _number(gap, "last_ns")
        if 0 < first < end:
            self.mark_gap(first, end)

    def _learn(self, queues: Mapping[str, Any]) -> None:
        for key, queue in queues.items() if isinstance(queues, Mapping) else ():
            if isinstance(queue, Mapping) and str(key).isdecimal():
                size = _number(queue, "size") or 1 << 15
                self._sizes[int(key)] = size, queue.get("direction") == "rx"

    def _feed(self, batch: EventBatch) -> None:
        columns = {name: np.ascontiguousarray(batch[name]) for name in COLUMNS}
        time = columns.pop("time").view(np.int64)
        one, pools = self._one, self._pools
        first, last = int(time[0]), int(time.max())
        if not one["first"]:
            one["first"] = max(first, 1)
            if not self._fixed:
                one["start"] = one["bucket_end"] = first
        if not self._fixed:
            self._widen(last)
        why, at = k.NEW_THREAD, 0
        while why != k.DONE:
            why, at = k.advance(
                self._g, self._keys, self._lanes, pools.threads, pools.queues, pools.ns,
                pools.who, pools.why, pools.exits, pools.end, pools.counts,
                pools.levels, self._stalls, self._drops, time, *columns.values(), at,
            )  # fmt: skip
            if why == k.NEW_THREAD:
                self._add_thread(int(one["wanted"]))
            elif why == k.NEW_QUEUE:
                self._add_queue(int(one["wanted"]))
            elif why == k.MORE_STALLS:
                self._fewer_stalls()
            elif why == k.MORE_DROPS:
                self._fewer_drops()
        one["events"] += len(time)

    def _widen(self, last: int) -> None:
        one = self._one
        by = 1
        while last - int(one["start"]) >= int(one["width"]) * by * BUCKETS:
            by *= 2
        if by > 1:
            self._pools.halve(by)
            one["width"] *= by
            one["bucket"] = max(int(one["bucket"]), 0) // by if one["bucket"] >= 0 else -1
            one["bucket_end"] = int(one["start"]) + (int(one["bucket"]) + 1) * int(one["width"])

    def _add_thread(self, tid: int) -> None:
        lane, pools = int(self._one["threads"]), self._pools
        if lane >= len(pools.ns):
            pools.more_threads(min(max(2 * lane, 4), MOST_THREADS))
        pools.threads[lane]["tid"] = tid
        pools.threads[lane]["other"] = k.NOBODY
        at = (tid * 2654435761 >> 7) & (k.TID_SLOTS - 1)
        while self._keys[at]:
            at = (at + 1) & (k.TID_SLOTS - 1)
        self._keys[at] = tid << 16 | lane + 1
        self._one["threads"] = lane + 1

    def _add_queue(self, number: int) -> None:
        lane, pools = int(self._one["queues"]), self._pools
        if lane >= len(pools.counts):
            pools.more_queues(min(max(2 * lane, 4), MOST_QUEUES))
        row = pools.queues[lane]
        for name in ("flight", "avail", "tap", "drop_at", "worker", "kicker"):
            row[name] = -1
        for name in ("flight_before", "avail_before", "tap_before", "most_flight", "most_tap"):
            row[name] = -1
        row["id"] = number
        row["size"], row["rx"] = self._sizes.get(number, (1 << 15, False))
        row["far_avail"] = 1 << 62 if row["rx"] else -1
        self._lanes[number] = lane + 1
        self._one["queues"] = lane + 1

    def _fewer_stalls(self) -> None:
        # The longer half stays; from now on only such as are as long.
        rows = self._stalls
        long = rows["end"] - rows["start"]
        keep = np.sort(np.argsort(long, kind="stable")[len(rows) // 2 :])
        kept = rows[keep].copy()
        self._stalls[: len(kept)] = kept
        self._one["stalls"] = len(kept)
        least = int(long[keep].min())
        self._one["stall_ns"] = max(int(self._one["stall_ns"]), least)
        self._one["late_ns"] = max(int(self._one["late_ns"]), least)

    def _fewer_drops(self) -> None:
        # Places to jump to that are close together become one.
        rows, one = self._drops, self._one
        while one["drops"] > len(rows) // 2:
            one["merge_ns"] *= 2
            kept: dict[int, int] = {}
            n = 0
            for row in rows[: int(one["drops"])].copy():
                at = kept.get(int(row["queue"]), -1)
                if at >= 0 and row["first"] - rows[at]["last"] < one["merge_ns"]:
                    rows[at]["last"] = row["last"]
                    rows[at]["drops"] += row["drops"]
                    rows[at]["refused"] += row["refused"]
                else:
                    kept[int(row["queue"])] = n
                    rows[n] = row
                    n += 1
            one["drops"] = n
            for queue in self._pools.queues:
                queue["drop_at"] = kept.get(int(queue["id"]), -1)

    def window(self, t0: int, t1: int, columns: int) -> LaneWindow:
        """Return the lanes from ``t0`` up to ``t1`` (ns) on so many columns, from the sums."""
        with self._lock:
            return LaneWindow.of(self, self._one, self._pools, t0, t1, columns)

    def present(self) -> dict[int, set[str]]:
        """Return for each queue which counts and levels it has at any time of the recording."""
        found: dict[int, set[str]] = {}
        with self._lock:
            for lane in range(int(self._one["queues"])):
                pools = self._pools
                names = {name for at, name in enumerate(k.COUNTS) if pools.counts[lane, at].any()}
                names |= {
                    name
                    for at, name in enumerate(k.LEVELS)
                    if not name.endswith("_end") and int(pools.levels[lane, at].max()) >= 0
                }
                found[int(pools.queues[lane]["id"])] = names
        return found

    def stalls(self) -> list[Stall]:
        """Return the stalls so far, by their beginning; those that last are among them."""
        with self._lock:
            now, one = self.last_ns, self._one
            rows = [
                Stall(*(int(row[name]) for name in ("start", "end", "what", "lane", "other")))
                for row in self._stalls[: int(one["stalls"])]
            ]
            rows += [
                Stall(int(t["since"]), now, 0, int(t["tid"]), int(t["other"]))
                for t in self._pools.threads[: int(one["threads"])]
                if t["state"] == _WAITS and now - t["since"] >= one["stall_ns"]
            ]
            for q in self._pools.queues[: int(one["queues"])]:
                for what, since in ((1, int(q["tap_since"])), (2, int(q["due_since"]))):
                    if since and now - since >= one["late_ns"]:
                        rows.append(Stall(since, now, what, int(q["id"]), int(q["worker"])))
        return sorted(rows, key=lambda stall: (stall.start_ns, stall.end_ns))

    def drops(self) -> list[Drops]:
        """Return where packets were dropped, by time."""
        with self._lock:
            rows = self._drops[: int(self._one["drops"])].copy()
        found = [
            Drops(
                int(row["first"]),
                int(row["last"]),
                int(row["queue"]),
                int(max(row["drops"], row["refused"])),
            )
            for row in rows
        ]
        return sorted(found, key=lambda one: one.first_ns)

    def exact_from(self, t0: int) -> int:
        """Return from when on ``exact`` wants the events of a stretch that begins at ``t0``."""
        one = self._one
        at = (t0 - int(one["start"])) // int(one["width"])
        return int(one["start"]) + max(at, 0) * int(one["width"])

    def exact(self, batches: Iterable[EventBatch], t0: int, t1: int, columns: int) -> LaneWindow:
        """Return the lanes from ``t0`` up to ``t1`` from the events of that time.

        ``batches``: the events from ``exact_from(t0)`` on, to ``t1`` or a little beyond: an exit
        that ends later was under way, and who ran instead shows when a thread gets its CPU back.
        """
        one = LaneSums()
        one._set(columns)
        one._fixed = True
        begin = self.exact_from(t0)
        one._one["start"], one._one["bucket_end"] = t0, t0
        one._one["width"] = max(-(-(t1 - t0) // columns), 1)
        one._one["stall_ns"] = one._one["late_ns"] = 1 << 62
        with self._lock:
            one._sizes = dict(self._sizes)
            one.spans = list(self.spans)
            self._seed(one, begin)
            first = self._one["first"]
        for batch in batches:
            times = batch["time"]
            inside = times >= np.uint64(begin)
            part = batch if inside.all() else batch.take(inside)
            if len(part):
                one._feed(part)
        one._one["first"] = first
        one._one["now"] = max(one.last_ns, min(t1, self.last_ns))
        return LaneWindow.of(one, one._one, one._pools, t0, t1, columns, exact=True)

    def _seed(self, one: LaneSums, begin: int) -> None:
        # What was known at the end of the bucket before.
        at = (begin - int(self._one["start"])) // int(self._one["width"])
        pools = self._pools
        one._one["now"] = begin
        for lane in range(int(self._one["threads"])):
            thread = pools.threads[lane]
            seen = np.flatnonzero(pools.end[lane, :at])
            one._add_thread(int(thread["tid"]))
            to = one._pools.threads[lane]
            to["first"] = thread["first"]
            if len(seen):
                to["state"] = pools.end[lane, seen[-1]]
                to["since"] = begin
        for lane in range(int(self._one["queues"])):
            one._add_queue(int(pools.queues[lane]["id"]))
            to = one._pools.queues[lane]
            for name in ("worker", "kicker", "packed"):
                to[name] = pools.queues[lane][name]
            for name in ("flight", "avail", "tap"):
                row = pools.levels[lane, k.LEVELS.index(f"{name}_end"), : max(at, 0)]
                seen = np.flatnonzero(row >= 0)
                if len(seen):
                    to[name] = to[f"{name}_before"] = row[seen[-1]]


def _number(section: Any, name: str) -> int:
    value = section.get(name) if isinstance(section, Mapping) else None
    return value if type(value) is int and 0 <= value < 1 << 62 else 0
