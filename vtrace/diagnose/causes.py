"""Why a tap ring was full: what its reader did while it filled.

Packets that a tap refuses are put together to episodes. In the time from the moment at which the
ring began to fill up to the last refusal, the reader (a vhost worker) ran, waited for a CPU, waited
for receive buffers, was stopped, or was not there. What it did for most of that time is the cause.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.diagnose.tally import BURST_GAP_NS, UDP
from vtrace.diagnose.timeline import Doing, Timeline
from vtrace.flows import Known, decode
from vtrace.model import Flag, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.diagnose.scene import Scene

__all__ = ["Causes", "Episode", "Reader"]

LONGEST_NS: Final = 1_000_000_000
"""An episode is cut here: what follows is judged for itself."""

BACK_NS: Final = 1_000_000_000
"""So far before the first refusal is looked for what led to it."""

MAX_EPISODES: Final = 4096
SENDERS: Final = 64


class Reader(StrEnum):
    """What the reader of a tap ring did."""

    RUNNING = "running"
    SENDER_RAN = "sender ran"
    """It was runnable, and the thread that sent the packets had the CPU."""
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
    """When the ring began to fill, as far back as one looks."""
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
        self._close(self._timeline.now - BURST_GAP_NS)

    def _refused(self, batch: EventBatch, where: NDArray[Any]) -> NDArray[Any]:
        rows = np.zeros(len(where), _REFUSED)
        if not len(where):
            return rows
        for name in ("time", "packet", "tid", "queue", "count"):
            rows[name] = batch[name][where]
        rows["counted"] = True
        if self._udp:
            snaps = batch.snaps
            which = np.full(len(batch), -1, np.int64)
            which[snaps.rows] = np.arange(len(snaps))
            which = which[where]
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

    def _close(self, before: int) -> None:
        for queue in [q for q, one in self._open.items() if one.end_ns < before]:
            self._end(queue)

    def finish(self) -> list[Episode]:
        """Return every episode."""
        self._add(self._waiting)
        self._waiting = self._waiting[:0]
        for queue in list(self._open):
            self._end(queue)
        return self.episodes + list(self._folded.values())

    def _end(self, queue: int) -> None:
        one = self._open.pop(queue)
        line = self._timeline
        fill = line.began_to_fill(queue, one.start_ns)
        earliest = max(one.start_ns - BACK_NS, 0)
        episode = Episode(
            queue=queue,
            start_ns=one.start_ns,
            end_ns=one.end_ns,
            packets=one.packets,
            others=one.others,
            reason=one.reason,
            fill_ns=max(fill or earliest, earliest),
            depth=one.depth,
            senders=frozenset(one.senders),
            served=queue in line.served,
        )
        for start in line.starts.get(queue, []):
            if start >= episode.start_ns:
                episode.attached_ns = start
                break
        self._judge(episode)
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

    def _judge(self, episode: Episode) -> None:
        """Divide the time in which the ring filled by what the reader did."""
        line = self._timeline
        start, end = episode.fill_ns, max(episode.end_ns, episode.fill_ns + 1)
        tid = line.workers.get(episode.queue, 0)
        worker = line.threads.get(tid)
        starved = line.starved.get(episode.queue)
        vm = str(self._scene.queue(episode.queue).get("vm") or "")
        vcpus = [
            line.threads[one] for one in self._scene.threads(vm, "vcpu") if one in line.threads
        ]
        cuts = [np.array([start, end], np.uint64)]
        cuts += [steps.between(start, end) for steps in (worker, starved, *vcpus) if steps]
        times = np.unique(np.concatenate(cuts))
        if len(times) < 2:
            return
        spans, times = np.diff(times).astype(np.int64), times[:-1]
        doing = worker.at(times) if worker else np.zeros(len(times), np.uint8)
        dry = starved.at(times) == 1 if starved else np.zeros(len(times), np.bool_)
        idle, stopped = self._vcpus(vcpus, times)
        episode.stopped_vcpus = bool((stopped & dry).any()) or self._halted(vm, vcpus)
        if self._halted(vm, vcpus):
            idle[:] = True
        spent: dict[Reader, int] = {}

        def add(what: Reader, where: NDArray[np.bool_]) -> None:
            total = int(spans[where].sum())
            if total:
                spent[what] = spent.get(what, 0) + total

        add(Reader.STOPPED, doing == Doing.STOPPED)
        rest = doing != Doing.STOPPED
        add(Reader.NO_VCPU, rest & dry & idle)
        add(Reader.NO_BUFFERS, rest & dry & ~idle)
        rest &= ~dry
        add(Reader.RUNNING, rest & (doing == Doing.RUNNING))
        waiting = rest & (doing == Doing.WAITING)
        if worker and waiting.any():
            who = worker.replaced(times[waiting])
            sender = np.isin(who, list(episode.senders)) | (who == 0)
            for other in np.unique(who[~sender]).tolist():
                episode.instead[other] += int(spans[waiting][who == other].sum())
            mask = np.zeros(len(times), np.bool_)
            mask[np.flatnonzero(waiting)[sender]] = True
            add(Reader.SENDER_RAN, mask)
            add(Reader.OTHER_RAN, waiting & ~mask)
        add(Reader.ABSENT, rest & (doing == Doing.SLEEPING))
        add(Reader.UNKNOWN, rest & (doing == Doing.UNKNOWN))
        episode.spent = spent

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

    def _halted(self, vm: str, vcpus: list[Any]) -> bool:
        # Stopped since before the recording began: only /proc knows.
        if vcpus and any(len(steps.state) and steps.state[-1] for steps in vcpus):
            return False
        tids = self._scene.threads(vm, "vcpu")
        return bool(tids) and all(self._scene.thread_state(tid) in ("T", "t") for tid in tids)
