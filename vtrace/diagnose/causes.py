"""Why a tap ring was full: what its reader did while it filled.

Packets that a tap refuses are put together to episodes. In an episode the ring fills once or many
times. From the moment at which it began to fill up to the last refusal before it was empty again,
the reader (a vhost worker) ran, waited for a CPU, waited for receive buffers, was stopped, or was
not there. What it did for most of that time is the cause.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.diagnose.tally import BURST_GAP_NS, UDP
from vtrace.diagnose.timeline import Doing, Steps, Timeline
from vtrace.flows import Known, decode
from vtrace.model import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.diagnose.scene import Scene

__all__ = ["Causes", "Episode", "Reader"]

LONGEST_NS: Final = 1_000_000_000
"""An episode is cut here: what follows is judged for itself."""

BACK_NS: Final = 1_000_000_000
"""So far before the first refusal is looked for what led to it."""

USUAL_RING: Final = 1000
"""Packets that a tap ring holds unless it was told otherwise: txqueuelen of tun_net_init."""

FREE_SHARE: Final = 0.1
FREE_NS: Final = 5_000_000
"""A vCPU that could run for so much of the time without buffers, and for so long, had the chance
to give some: a driver refills within microseconds of its interrupt."""

SAMPLED_NS: Final = 1_500_000_000
"""A sample of a thread's state so long behind an episode still tells of it."""

SETTLED_NS: Final = 2_000_000_000
"""An episode is judged so long behind it: by then the worker has mostly run again, and shows who
ran before."""

ON_THE_WAY_NS: Final = 10_000_000
"""So long a woken thread may take to an idle CPU, on a slow host."""

MAX_FILLS: Final = 1024
MAX_EPISODES: Final = 4096
SENDERS: Final = 64


class Reader(StrEnum):
    """What the reader of a tap ring did."""

    RUNNING = "running"
    SENDER_RAN = "sender ran"
    """It was runnable, and the thread that sent the packets had the CPU; or, with a short ring, it
    waited no longer than a usual one lasts."""
    OTHER_RAN = "other ran"
    """It was runnable, and another thread had the CPU."""
    NO_BUFFERS = "no buffers"
    """It had found no chain, and the guest's vCPUs could run."""
    NO_VCPU = "no vcpu"
    """It had found no chain, and no vCPU of the guest ran or could."""
    STOPPED = "stopped"
    """It was stopped itself, with QEMU."""
    ABSENT = "absent"
    """It slept, though packets and buffers were there: nobody listened to the tap."""
    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class Episode:
    """Refusals of one tap queue close together, and what its reader did meanwhile."""

    queue: int
    start_ns: int
    """First refusal."""
    end_ns: int
    packets: int
    """Refused, of the protocol that is counted."""
    others: int = 0
    """Refused, of other protocols."""
    reason: int | None = None
    fill_ns: int = 0
    """When the ring first began to fill, as far back as one looks."""
    fills: int = 1
    """Times that it filled."""
    depth: int = 0
    """Packets in the ring when it refused."""
    spent: dict[Reader, int] = field(default_factory=dict)
    """What the reader did from ``fill_ns`` on -> ns."""
    instead: Counter[int] = field(default_factory=Counter)
    """Threads that ran while the reader waited -> ns."""
    stopped_vcpus: bool = False
    """vCPUs were stopped by a signal, not only short of CPU."""
    attached_ns: int | None = None
    """A backend was attached to the queue at that time, soon behind the episode."""
    served: bool = True
    """The device side of the queue was at work at some time before."""
    woken: bool = False
    """Its handler was woken meanwhile: somebody listened."""
    senders: frozenset[int] = frozenset()

    @property
    def reader(self) -> Reader:
        """What it did for most of the time; the burst counts what kept the sender running."""
        if not self.spent or not sum(self.spent.values()):
            return Reader.UNKNOWN
        sums = dict(self.spent)
        sums[Reader.RUNNING] = sums.get(Reader.RUNNING, 0) + sums.pop(Reader.SENDER_RAN, 0)
        return max(sums, key=lambda one: sums[one])

    @property
    def share(self) -> float:
        """Share of the time that ``reader`` had, 0 to 1."""
        total = sum(self.spent.values())
        held = self.spent.get(self.reader, 0)
        if self.reader == Reader.RUNNING:
            held += self.spent.get(Reader.SENDER_RAN, 0)
        return held / total if total else 0.0


@dataclass(slots=True)
class _Open:
    queue: int
    reason: int | None
    start_ns: int
    end_ns: int
    packets: int
    others: int
    depth: int
    senders: set[int]
    fills: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Beginning -> last refusal, refusals, packets in the ring."""


_REFUSED: Final = np.dtype(
    [
        ("time", "<u8"),
        ("packet", "<u4"),
        ("tid", "<u4"),
        ("reason", "<i4"),
        ("queue", "<u2"),
        ("count", "<u2"),
        ("counted", "?"),
        ("known", "?"),
    ]
)


class Causes:
    """Finds the episodes of a stream and judges each."""

    def __init__(self, scene: Scene, timeline: Timeline, protocol: str = "udp") -> None:
        self._scene, self._timeline = scene, timeline
        self._udp = protocol == "udp"
        self._waiting = np.zeros(0, _REFUSED)
        self._open: dict[int, _Open] = {}
        self._folded: dict[tuple[int, int | None], Episode] = {}
        self.episodes: list[Episode] = []

    def feed(self, batch: EventBatch, inside: NDArray[np.bool_] | None = None) -> None:
        """Take in a batch that the timeline has been fed already.

        ``inside`` chooses the rows of the batch that count; the others only tell what went on.
        """
        kinds = batch["kind"]
        refused = kinds == Kind.REFUSE
        if inside is not None:
            refused &= inside
        where = np.flatnonzero(refused)
        new = self._refused(batch, where)
        held = len(self._waiting)
        both = np.concatenate([self._waiting, new])
        drops = np.flatnonzero(kinds == Kind.DROP)
        if len(both) and len(drops):
            ids = batch["packet"][drops]
            order = np.argsort(ids, kind="stable")
            place = np.searchsorted(ids[order], both["packet"])
            place = np.minimum(place, len(ids) - 1)
            match = order[place]
            known = (ids[match] == both["packet"]) & (both["packet"] != 0)
            both["reason"][known] = batch["ret"][drops[match[known]]]
            both["known"] |= known
        # A refusal waits one batch for its drop, which says why.
        ready = both["known"] | (np.arange(len(both)) < held)
        self._add(both[ready])
        self._waiting = both[~ready]
        self._close(self._timeline.now - SETTLED_NS)

    def _refused(self, batch: EventBatch, where: NDArray[Any]) -> NDArray[Any]:
        rows = np.zeros(len(where), _REFUSED)
        if not len(where):
            return rows
        for name in ("time", "packet", "tid", "queue", "count"):
            rows[name] = batch[name][where]
        rows["counted"] = True
        if self._udp:
            snaps = batch.snaps
            which = snaps.index_of(where, len(batch))
            has = which >= 0
            rows["counted"] = False
            if has.any():
                held = snaps.take(which[has], np.flatnonzero(has))
                no_mac = batch["flags"][where[has]] & int(Flag.NO_MAC) != 0
                flow = decode(held, no_mac)
                known = flow["known"] & int(Known.PROTOCOL) != 0
                rows["counted"][has] = known & (flow["protocol"] == UDP)
        return rows

    def _add(self, rows: NDArray[Any]) -> None:
        for queue in np.unique(rows["queue"]).tolist():
            mine = rows[rows["queue"] == queue]
            mine = mine[np.argsort(mine["time"], kind="stable")]
            changed = np.diff(mine["time"].astype(np.int64)) > BURST_GAP_NS
            changed |= np.diff(mine["reason"]) != 0
            edges = [0, *(np.flatnonzero(changed) + 1).tolist(), len(mine)]
            for first, last in pairwise(edges):
                self._run(queue, mine[first:last])

    def _run(self, queue: int, rows: NDArray[Any]) -> None:
        while len(rows):
            reason = int(rows["reason"][0]) if rows["known"][0] else None
            start = int(rows["time"][0])
            known = self._open.get(queue)
            apart = known is not None and (
                start > known.end_ns + BURST_GAP_NS
                or start > known.start_ns + LONGEST_NS
                or reason != known.reason
            )
            if known is not None and apart:
                self._end(queue)
                known = None
            if known is None:
                known = self._open[queue] = _Open(queue, reason, start, start, 0, 0, 0, set())
            limit = np.uint64(known.start_ns + LONGEST_NS)
            count = max(int(np.searchsorted(rows["time"], limit, side="right")), 1)
            part, rows = rows[:count], rows[count:]
            counted = int(part["counted"].sum())
            known.packets += counted
            known.others += len(part) - counted
            known.end_ns = max(known.end_ns, int(part["time"][-1]))
            known.depth = max(known.depth, int(part["count"].max()))
            if len(known.senders) < SENDERS:
                known.senders.update(np.unique(part["tid"]).tolist())
            self._fills(known, part)

    def _fills(self, known: _Open, part: NDArray[Any]) -> None:
        begins = self._timeline.began_to_fill(known.queue, part["time"])
        begins = np.maximum(begins, max(known.start_ns - BACK_NS, 0))
        for begin in np.unique(begins).tolist():
            mine = part[begins == begin]
            if begin not in known.fills and len(known.fills) >= MAX_FILLS:
                begin = next(reversed(known.fills))
            last, refused, depth = known.fills.get(begin, (0, 0, 0))
            known.fills[begin] = (
                max(last, int(mine["time"][-1])),
                refused + len(mine),
                max(depth, int(mine["count"].max())),
            )

    def _close(self, before: int) -> None:
        for queue in [q for q, one in self._open.items() if one.end_ns < before]:
            self._end(queue)

    def finish(self) -> list[Episode]:
        """Return every episode."""
        self._add(self._waiting)
        self._waiting = self._waiting[:0]
        for queue in list(self._open):
            self._end(queue)
        every = self.episodes + list(self._folded.values())
        for episode in every:
            starts = self._timeline.starts.get(episode.queue, [])
            episode.attached_ns = next((at for at in starts if at >= episode.start_ns), None)
        return every

    def _end(self, queue: int) -> None:
        one = self._open.pop(queue)
        line = self._timeline
        episode = Episode(
            queue=queue,
            start_ns=one.start_ns,
            end_ns=one.end_ns,
            packets=one.packets,
            others=one.others,
            reason=one.reason,
            fill_ns=min(one.fills),
            fills=len(one.fills),
            depth=one.depth,
            senders=frozenset(one.senders),
            served=line.served.get(queue, one.end_ns) < one.end_ns,
        )
        self._judge(episode, one.fills)
        self._keep(episode)

    def _keep(self, episode: Episode) -> None:
        if len(self.episodes) < MAX_EPISODES:
            self.episodes.append(episode)
            return
        key = (episode.queue, episode.reason)
        into = self._folded.get(key)
        if into is None:
            self._folded[key] = episode
            return
        into.packets += episode.packets
        into.others += episode.others
        into.end_ns = max(into.end_ns, episode.end_ns)
        for reader, span in episode.spent.items():
            into.spent[reader] = into.spent.get(reader, 0) + span

    def _judge(self, episode: Episode, fills: dict[int, tuple[int, int, int]]) -> None:
        """Divide the time in which the ring filled by what the reader did."""
        line = self._timeline
        begins = np.array(sorted(fills), np.uint64)
        ends = np.array([max(fills[int(at)][0], int(at) + 1) for at in begins], np.uint64)
        worker = line.threads.get(line.workers.get(episode.queue, 0))
        starved, woken = line.starved.get(episode.queue), line.woken.get(episode.queue)
        vm = str(self._scene.queue(episode.queue).get("vm") or "")
        vcpus = self._refillers(episode.queue, vm)
        first, last = int(begins[0]), int(ends.max())
        cuts = [begins, ends]
        cuts += [steps.between(first, last) for steps in (worker, starved, woken, *vcpus) if steps]
        times = np.unique(np.concatenate(cuts))
        spans, times = np.diff(times).astype(np.int64), times[:-1]
        fill = np.searchsorted(begins, times, side="right") - 1
        filling = times < ends[fill]
        # A thread of which the scheduler said nothing did what it did before: it slept.
        silent = Doing.SLEEPING if self._scene.attached("sched_switch") else Doing.UNKNOWN
        doing = worker.at(times) if worker else np.full(len(times), silent, np.uint8)
        dry = filling & (starved.at(times) == 1 if starved else np.zeros(len(times), np.bool_))
        held, stopped = self._vcpus(vcpus, times)
        halted = self._halted(vm, vcpus, first - BACK_NS, last + SAMPLED_NS)
        episode.woken = bool(woken and (woken.at(times) == 1).any())
        stood = int(spans[filling & stopped].sum()) * 2 > int(spans[filling].sum())
        episode.stopped_vcpus = halted or stood or bool((stopped & dry).any())
        spent: dict[Reader, int] = {}

        def add(what: Reader, where: NDArray[np.bool_]) -> None:
            total = int(spans[where].sum())
            if total:
                spent[what] = spent.get(what, 0) + total

        add(Reader.STOPPED, filling & (doing == Doing.STOPPED))
        rest = filling & (doing != Doing.STOPPED)
        without, free = int(spans[rest & dry].sum()), int(spans[rest & dry & ~held].sum())
        could = not halted and free >= max(FREE_SHARE * without, min(FREE_NS, without))
        add(Reader.NO_BUFFERS if could else Reader.NO_VCPU, rest & dry)
        rest &= ~dry
        add(Reader.RUNNING, rest & (doing == Doing.RUNNING))
        # Its handler was woken: that the scheduler has not said so yet is its way to another CPU.
        coming = (doing == Doing.SLEEPING) & (woken.at(times) == 1 if woken else False)
        doing = np.where(coming, np.uint8(Doing.WAITING), doing)
        waiting = rest & (doing == Doing.WAITING)
        if worker and waiting.any():
            # A short ring that overflows in a wait which the usual one outlasts is a burst.
            short = np.array(
                [sum(fills[int(at)][1:]) <= USUAL_RING and episode.depth < USUAL_RING * 0.9
                 for at in begins]
            )  # fmt: skip
            self._waited(episode, worker, times, spans, waiting, short[fill], add)
        add(Reader.ABSENT, rest & (doing == Doing.SLEEPING))
        add(Reader.UNKNOWN, rest & (doing == Doing.UNKNOWN))
        episode.spent = spent

    @staticmethod
    def _waited(
        episode: Episode,
        worker: Steps,
        times: NDArray[Any],
        spans: NDArray[Any],
        waiting: NDArray[np.bool_],
        short: NDArray[np.bool_],
        add: Callable[[Reader, NDArray[np.bool_]], None],
    ) -> None:
        # Who ran while the worker waited: the sender (or nobody, on the way to it), or another.
        who = np.full(len(times), -1, np.int64)
        who[waiting] = worker.replaced(times[waiting])
        # A CPU is idle on the way to a thread, not while the thread waits for long: then another
        # ran, and had gone when the worker came.
        brief = np.zeros(len(times), np.bool_)
        brief[waiting] = worker.waited(times[waiting]) < ON_THE_WAY_NS
        sender = waiting & (np.isin(who, list(episode.senders)) | ((who <= 0) & brief) | short)
        other = waiting & ~sender
        for tid in np.unique(who[other & (who > 0)]).tolist():
            episode.instead[tid] += int(spans[other & (who == tid)].sum())
        add(Reader.SENDER_RAN, sender)
        add(Reader.OTHER_RAN, other)

    def _refillers(self, queue: int, vm: str) -> list[Steps]:
        # The vCPU that kicks for the queue is the one that refills it; else, all of the VM.
        line = self._timeline
        kicker = line.threads.get(line.kickers.get(queue, 0))
        if kicker is not None:
            return [kicker]
        return [line.threads[one] for one in self._scene.threads(vm, "vcpu") if one in line.threads]

    @staticmethod
    def _vcpus(
        vcpus: list[Any], times: NDArray[Any]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        # Where no vCPU ran or could have: each was stopped, or waited for a CPU.
        if not vcpus:
            none = np.zeros(len(times), np.bool_)
            return none, none.copy()
        states = np.stack([steps.at(times) for steps in vcpus])
        held = (states == Doing.STOPPED) | (states == Doing.WAITING)
        return held.all(axis=0), (states == Doing.STOPPED).any(axis=0)

    def _halted(self, vm: str, vcpus: list[Any], first: int, last: int) -> bool:
        # Stopped since before the recording began: only /proc knows.
        if any(len(steps.time) and int(steps.time[0]) < last - SAMPLED_NS for steps in vcpus):
            return False
        states = [
            {state for at, state in self._timeline.states.get(tid, ()) if first <= at <= last}
            for tid in self._scene.threads(vm, "vcpu")
        ]
        known = [one for one in states if one]
        return bool(known) and all(one & {"T", "t"} for one in known)
