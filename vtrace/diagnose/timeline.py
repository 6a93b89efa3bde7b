"""What threads and receive queues were doing at any time, from their records.

Kept for a few seconds of the stream, in arrays: a diagnosis asks for the time in which a loss
happened, soon after it happened.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import Flag, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["Doing", "Steps", "Timeline"]

KEEP_NS: Final = 5_000_000_000
"""So much of the past is kept: longer than an episode and what led to it."""

STOPPED_BITS: Final = 4 | 8
"""__TASK_STOPPED and __TASK_TRACED of include/linux/sched.h, as sched_switch reports them."""


class Doing(IntEnum):
    """What a thread does."""

    UNKNOWN = 0
    RUNNING = 1
    WAITING = 2
    """Runnable, and another thread has the CPU."""
    SLEEPING = 3
    STOPPED = 4
    """By a signal, or by a debugger."""


class Steps:
    """A value that changes at known times."""

    __slots__ = ("before", "other", "state", "time")

    def __init__(self) -> None:
        self.time: NDArray[Any] = np.zeros(0, np.uint64)
        self.state: NDArray[Any] = np.zeros(0, np.uint8)
        self.other: NDArray[Any] = np.zeros(0, np.int64)
        self.before = 0
        """What it was before the first change that is known."""

    def extend(
        self, time: NDArray[Any], state: NDArray[Any], other: NDArray[Any], keep_from: int
    ) -> None:
        """Add changes, in order; forget all but the last of those before ``keep_from``."""
        self.time = np.concatenate([self.time, time.astype(np.uint64)])
        self.state = np.concatenate([self.state, state.astype(np.uint8)])
        self.other = np.concatenate([self.other, other.astype(np.int64)])
        first = int(np.searchsorted(self.time, np.uint64(max(keep_from, 0)))) - 1
        if first > 1024:
            self.time, self.state = self.time[first:], self.state[first:]
            self.other = self.other[first:]

    def at(self, times: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the value at each time; ``before`` before the first change."""
        index = np.searchsorted(self.time, times, side="right") - 1
        if not len(self.time):
            return np.zeros(len(times), np.uint8)
        return np.where(index >= 0, self.state[np.maximum(index, 0)], self.before).astype(np.uint8)

    def between(self, start: int, end: int) -> NDArray[Any]:
        """Return the times of changes in a span."""
        first, last = np.searchsorted(self.time, np.array([start, end], np.uint64))
        return self.time[first:last]

    def waited(self, times: NDArray[Any]) -> NDArray[np.int64]:
        """Return for each time how long it was from the last change to the next run, in ns."""
        ins = self.time[self.state == Doing.RUNNING]
        begin = np.searchsorted(self.time, times, side="right") - 1
        began = np.where(begin >= 0, self.time[np.maximum(begin, 0)], times)
        end = np.searchsorted(ins, times, side="right")
        never = np.uint64(1 << 62)
        ended = np.append(ins, never)[end] if len(ins) else np.full(len(times), never)
        return (ended - began).astype(np.int64)

    def replaced(self, times: NDArray[Any]) -> NDArray[np.int64]:
        """Return for each time the thread that ran before this one was given the CPU next.

        Where it was not given the CPU again, the one that took it last.
        """
        found = np.full(len(times), -1, np.int64)
        ins = np.flatnonzero(self.state == Doing.RUNNING)
        if len(ins):
            index = np.searchsorted(self.time[ins], times, side="right")
            has = index < len(ins)
            found[has] = self.other[ins[index[has]]]
        if len(self.time):
            index = np.searchsorted(self.time, times, side="right") - 1
            rest = (found < 0) & (index >= 0)
            found[rest] = self.other[index[rest]]
        return found


_THREAD_KINDS = (Kind.SCHED_IN, Kind.SCHED_OUT, Kind.SCHED_WAKE)
_BEFORE = {Kind.SCHED_WAKE: Doing.SLEEPING}
"""What a thread did before the first record of it: a worker that was never seen before may just
have become known, in the middle of its run."""
_QUEUE_KINDS = (Kind.WAKE, Kind.EMPTY, Kind.POP, Kind.RUN, Kind.KICK, Kind.START, Kind.STOP)


class Timeline:
    """Threads and receive queues of a recording, over the last seconds."""

    def __init__(self) -> None:
        self.threads: dict[int, Steps] = {}
        self.starved: dict[int, Steps] = {}
        """Queue -> 1 while its last look at the ring found no chain, else 0."""
        self.woken: dict[int, Steps] = {}
        """Queue -> 1 from a wake-up of its handler to its next run."""
        self.filling: dict[int, NDArray[Any]] = {}
        """Queue -> times at which a packet came into an empty tap ring."""
        self.workers: dict[int, int] = {}
        """Queue -> thread that serves it."""
        self.kickers: dict[int, int] = {}
        """Queue -> vCPU that last notified its device: it is the one that refills."""
        self.starts: dict[int, list[int]] = {}
        """Queue -> times at which a backend was attached."""
        self.served: dict[int, int] = {}
        """Queue -> when its device side was first seen at work (popped, ran, found no chain)."""
        self.states: dict[int, list[tuple[int, str]]] = {}
        """Thread -> when it was sampled, and its state (R, S, D, T, ...)."""
        self.now = 0

    def feed(self, batch: EventBatch) -> None:
        """Take in the records of a batch."""
        self._samples(batch.meta.get("counters"))
        if not len(batch):
            return
        self.now = max(self.now, int(batch["time"][-1]))
        kinds = batch["kind"]
        threads = np.isin(kinds, _THREAD_KINDS)
        if threads.any():
            self._threads(batch, np.flatnonzero(threads))
        queues = np.isin(kinds, _QUEUE_KINDS)
        if queues.any():
            self._queues(batch, np.flatnonzero(queues))
        empty = (kinds == Kind.ENQUEUE) & (batch["count"] == 0)
        if empty.any():
            self._filling(batch, np.flatnonzero(empty))

    def _samples(self, counters: Any) -> None:
        for name, row in counters.items() if isinstance(counters, dict) else ():
            tid = str(name).removeprefix("thread/")
            if not tid.isdecimal() or not isinstance(row, dict):
                continue
            at, state = row.get("lo_ns"), row.get("state")
            if type(at) is int and isinstance(state, str):
                self.states[int(tid)] = [*self.states.get(int(tid), []), (at, state)][-64:]

    def _threads(self, batch: EventBatch, rows: NDArray[Any]) -> None:
        tids = batch["tid"][rows]
        for tid in np.unique(tids).tolist():
            mine = rows[tids == tid]
            kinds, flags = batch["kind"][mine], batch["flags"][mine]
            states = np.full(len(mine), Doing.SLEEPING, np.uint8)
            states[kinds == Kind.SCHED_IN] = Doing.RUNNING
            states[kinds == Kind.SCHED_WAKE] = Doing.WAITING
            out = kinds == Kind.SCHED_OUT
            stopped = out & (batch["count"][mine] & STOPPED_BITS != 0)
            states[stopped] = Doing.STOPPED
            states[out & (flags & int(Flag.PREEMPTED) != 0)] = Doing.WAITING
            steps = self.threads.setdefault(tid, Steps())
            # A wake-up of a thread that is on its CPU changes nothing.
            wakes = kinds == Kind.SCHED_WAKE
            if wakes.any():
                before = steps.state[-1:] if len(steps.state) else np.zeros(1, np.uint8)
                rest = np.flatnonzero(~wakes)
                known = np.concatenate([before, states[rest]])
                previous = known[np.searchsorted(rest, np.arange(len(mine)))]
                keep = ~(wakes & (previous == Doing.RUNNING))
                mine, states = mine[keep], states[keep]
            # Whom a wake-up interrupted says nothing of who has the CPU of the woken.
            times = batch["time"][mine]
            others = np.where(batch["kind"][mine] == Kind.SCHED_WAKE, -1, batch["ret"][mine])
            if not len(steps.time) and len(mine):
                steps.before = _BEFORE.get(Kind(int(batch["kind"][mine[0]])), Doing.UNKNOWN)
            steps.extend(times, states, others, self.now - KEEP_NS)

    def _queues(self, batch: EventBatch, rows: NDArray[Any]) -> None:
        ids = batch["queue"][rows]
        for queue in np.unique(ids).tolist():
            mine = rows[ids == queue]
            kinds = batch["kind"][mine]
            work = np.isin(kinds, (Kind.POP, Kind.RUN, Kind.EMPTY))
            if work.any():
                last = mine[np.flatnonzero(work)[-1]]
                self.workers[queue] = int(batch["tid"][last])
                first = mine[np.flatnonzero(work)[0]]
                self.served.setdefault(queue, int(batch["time"][first]))
            kicks = mine[kinds == Kind.KICK]
            if len(kicks):
                self.kickers[queue] = int(batch["tid"][kicks[-1]])
            begun = batch["time"][mine[kinds == Kind.START]].tolist()
            if begun:
                self.starts[queue] = (self.starts.get(queue, []) + begun)[-64:]
            looks = mine[kinds != Kind.WAKE]
            self._mark(self.starved, queue, batch, looks, batch["kind"][looks] == Kind.EMPTY)
            woken = mine[np.isin(kinds, (Kind.WAKE, Kind.RUN, Kind.POP))]
            self._mark(self.woken, queue, batch, woken, batch["kind"][woken] == Kind.WAKE)

    def _mark(
        self,
        into: dict[int, Steps],
        queue: int,
        batch: EventBatch,
        rows: NDArray[Any],
        states: NDArray[np.bool_],
    ) -> None:
        # Keeps where a state changes.
        if not len(rows):
            return
        steps = into.setdefault(queue, Steps())
        before = steps.state[-1:] if len(steps.state) else np.full(1, 255, np.uint8)
        changed = np.diff(np.concatenate([before, states]).astype(np.int16)) != 0
        nobody = np.zeros(int(changed.sum()), np.int64)
        times = batch["time"][rows[changed]]
        steps.extend(times, states[changed], nobody, self.now - KEEP_NS)

    def _filling(self, batch: EventBatch, rows: NDArray[Any]) -> None:
        ids = batch["queue"][rows]
        for queue in np.unique(ids).tolist():
            times = batch["time"][rows[ids == queue]].astype(np.uint64)
            known = self.filling.get(queue, np.zeros(0, np.uint64))
            both = np.concatenate([known, times])
            first = int(np.searchsorted(both, np.uint64(max(self.now - KEEP_NS, 0)))) - 1
            self.filling[queue] = both[max(first, 0) :]

    def began_to_fill(self, queue: int, before: NDArray[Any]) -> NDArray[np.int64]:
        """Return for each time when a packet last came into the queue's empty ring; 0: unknown."""
        times = self.filling.get(queue)
        if times is None or not len(times):
            return np.zeros(len(before), np.int64)
        index = np.searchsorted(times, before.astype(np.uint64), side="right") - 1
        return np.where(index >= 0, times[np.maximum(index, 0)], 0).astype(np.int64)
