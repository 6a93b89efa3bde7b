"""Events held against the kernel's own counters, over the time between two samples.

A sample is read between two moments, ``lo_ns`` and ``hi_ns``. Events before the first are in it,
events behind the second are not, and of those in between nobody knows. So the kernel's difference
must lie between two numbers of events; if it does not, one of both is wrong, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.diagnose.findings import Disagreement
from vtrace.model import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.diagnose.scene import Scene

__all__ = ["Deltas", "Meters"]

SETTLED_NS: Final = 1_000_000_000
"""Events come in order, but for some that are late: so long one waits for them."""


class Deltas:
    """Samples of every object that is counted: around the time that is asked for, if there are."""

    def __init__(self) -> None:
        self.first: dict[str, dict[str, Any]] = {}
        """The last before that time, else the first in it."""
        self.last: dict[str, dict[str, Any]] = {}
        """The first behind it, else the last in it."""
        self._closed: set[str] = set()

    def feed(self, sample: Any, since: int | None = None, until: int | None = None) -> None:
        """Take in the section ``counters`` of one batch; asked is for the time between."""
        if not isinstance(sample, Mapping):
            return
        for name, values in sample.items():
            if not isinstance(values, dict) or name in self._closed:
                continue
            name, lo, hi = str(name), values.get("lo_ns"), values.get("hi_ns")
            before = since is not None and type(hi) is int and hi <= since
            if before or name not in self.first:
                self.first[name] = values
            self.last[name] = values
            if until is not None and type(lo) is int and lo >= until:
                self._closed.add(name)

    def of(self, name: str, counter: str) -> int | None:
        """Return by how much a counter moved; None where it was not sampled twice."""
        first, last = self.first.get(name), self.last.get(name)
        if first is None or last is None or first is last:
            return None
        before, after = first.get(counter), last.get(counter)
        if type(before) is not int or type(after) is not int or after < before:
            return None
        return after - before

    def objects(self, prefix: str) -> Iterator[str]:
        """Return the objects whose name begins so."""
        return (name for name in self.last if name.startswith(prefix))


@dataclass(slots=True)
class _Reading:
    value: int
    least: int
    """Events that were over when it was read."""
    most: int
    """Events that had begun."""


@dataclass(slots=True)
class _Stream:
    times: list[NDArray[Any]] = field(default_factory=list)
    passed: int = 0
    """Events that have been let go."""
    waiting: list[tuple[int, int, int]] = field(default_factory=list)
    """Samples (lo, hi, value) whose time has not settled."""
    first: _Reading | None = None
    last: _Reading | None = None

    def settle(self, horizon: int) -> None:
        """Place the samples that no event can precede any more."""
        ready = [one for one in self.waiting if one[1] < horizon]
        if not ready and sum(map(len, self.times)) < 1 << 16:
            return
        self.waiting = self.waiting[len(ready) :]
        times = np.sort(np.concatenate(self.times)) if self.times else np.zeros(0, np.uint64)
        for lo, hi, value in ready:
            least, most = np.searchsorted(times, np.array([lo, hi + 1], np.uint64)).tolist()
            reading = _Reading(value, self.passed + least, self.passed + most)
            self.first = self.first or reading
            self.last = reading
        # What lies before every sample to come is only a number.
        edge = min([one[0] for one in self.waiting], default=horizon)
        gone = int(np.searchsorted(times, np.uint64(max(min(edge, horizon), 0))))
        self.passed += gone
        self.times = [times[gone:]]


@dataclass(frozen=True, slots=True)
class _Pair:
    stream: str
    what: str
    event: str
    objects: tuple[str, ...]
    counter: str
    meaning: str


class Meters:
    """Counts of events between samples, and the samples."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._streams: dict[str, _Stream] = {}
        self._pairs: dict[str, _Pair] = {}
        self._values: dict[str, int] = {}
        self._now = 0

    def feed(self, batch: EventBatch, valid_from: int = 0, valid_until: int = 1 << 63) -> None:
        """Take in a batch; samples outside of the valid time are of no use: events are missing."""
        if len(batch):
            self._now = max(self._now, int(batch["time"][-1]))
            self._events(batch)
        sample = batch.meta.get("counters")
        if isinstance(sample, Mapping):
            self._sample(sample, valid_from, valid_until)
        for stream in self._streams.values():
            stream.settle(self._now - SETTLED_NS)

    def _events(self, batch: EventBatch) -> None:
        kinds, queues, times = batch["kind"], batch["queue"], batch["time"]
        for kind, name in (
            (Kind.REFUSE, "refused"),
            (Kind.RECV, "taken"),
            (Kind.DELIVER, "sent"),
        ):
            where = kinds == kind
            if kind == Kind.RECV:
                where &= batch["ret"] > 0
            if not where.any():
                continue
            mine, when = queues[where], times[where]
            for queue in np.unique(mine).tolist():
                tap = str(self._scene.queue(queue).get("interface") or "")
                if tap:
                    self._stream(f"{name}/{tap}").times.append(when[mine == queue])
        drops = kinds == Kind.DROP
        if drops.any():
            reasons, when = batch["ret"][drops], times[drops]
            for reason in np.unique(reasons).tolist():
                name = self._scene.reason(reason)
                if name in ("SOCKET_RCVBUFF", "NO_SOCKET"):
                    self._stream(f"drop/{name}").times.append(when[reasons == reason])

    def _stream(self, name: str) -> _Stream:
        return self._streams.setdefault(name, _Stream())

    def _sample(self, sample: Mapping[str, Any], since: int, until: int) -> None:
        for pair in self._known_pairs(sample):
            self._pairs[pair.stream] = pair
            edges = []
            total = 0
            for name in pair.objects:
                values = sample.get(name)
                if isinstance(values, Mapping) and type(values.get(pair.counter)) is int:
                    self._values[f"{name} {pair.counter}"] = values[pair.counter]
                    edges.append((values.get("lo_ns"), values.get("hi_ns")))
                total += self._values.get(f"{name} {pair.counter}", 0)
            whole = [(lo, hi) for lo, hi in edges if type(lo) is int and type(hi) is int]
            if not whole:
                continue
            lo, hi = min(one[0] for one in whole), max(one[1] for one in whole)
            if since <= lo <= hi <= until and hi - lo < 1 << 40:
                self._stream(pair.stream).waiting.append((lo, hi, total))

    @staticmethod
    def _known_pairs(sample: Mapping[str, Any]) -> Iterator[_Pair]:
        for name in sample:
            if not name.startswith("link/"):
                continue
            tap = name.removeprefix("link/")
            yield _Pair(
                f"refused/{tap}",
                f"packets that {tap} did not take towards the guest",
                "events REFUSE",
                (name,),
                "tx_dropped",
                "another path drops on this tap too, or a probe missed returns",
            )
            yield _Pair(
                f"taken/{tap}",
                f"packets that were read from {tap}",
                "events RECV",
                (name,),
                "tx_packets",
                "something other than a traced vhost worker reads this tap",
            )
            yield _Pair(
                f"sent/{tap}",
                f"frames that {tap} brought into the host",
                "events DELIVER",
                (name,),
                "rx_packets",
                "something other than a traced vhost worker writes to this tap",
            )
        for reason, counter, what in (
            ("SOCKET_RCVBUFF", "RcvbufErrors", "UDP datagrams that found a socket full"),
            ("NO_SOCKET", "NoPorts", "UDP datagrams that found no socket"),
        ):
            objects = ("snmp/udp", "snmp/udp6")
            if any(name in sample for name in objects):
                yield _Pair(
                    f"drop/{reason}",
                    what,
                    f"events DROP {reason}",
                    objects,
                    counter,
                    "the kernel drops in another network namespace, or in a way that is not probed",
                )

    def disagreements(self, *, skip: Iterable[str] = ()) -> list[Disagreement]:
        """Return where events and counters cannot both be right.

        ``skip`` has the names of taps that vhost does not serve: nobody sees their events.
        """
        blind = set(skip)
        found = []
        for name, stream in self._streams.items():
            stream.settle(1 << 63)
            pair = self._pairs.get(name)
            first, last = stream.first, stream.last
            if pair is None or first is None or last is None or first is last:
                continue
            kind, _, tap = name.partition("/")
            if kind != "drop" and tap not in self._scene.taps:
                continue
            if tap in blind and kind in ("taken", "sent"):
                continue
            moved = last.value - first.value
            least, most = last.least - first.most, last.most - first.least
            if moved < 0 or max(least, 0) <= moved <= most:
                continue
            found.append(
                Disagreement(
                    what=pair.what,
                    first=pair.event,
                    first_count=max(least, 0) if moved < least else most,
                    second=f"{', '.join(pair.objects)} {pair.counter}",
                    second_count=moved,
                    slack=most - max(least, 0),
                    meaning=pair.meaning,
                )
            )
        return found
