"""A first reading of each source: its clock, its span, who saw what, what others may have seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers.opening import open_any
from vtrace.errors import InputError
from vtrace.merge.prints import Sample, chain_prints, packet_prints
from vtrace.model import Kind
from vtrace.session.sane import sane

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["LATEST_NS", "OF_THREADS", "Source", "keys_of"]

SEEN: Final = np.dtype(
    [("key", "<u8"), ("kinds", "<u8"), ("count", "<u8"), ("first", "<i8"), ("last", "<i8")]
)
"""What a source saw of one queue or thread: a row for each."""

MOST_KEYS: Final = 1 << 17
LATEST_NS: Final = (1 << 63) - 1
"""No clock of a kernel goes further."""

OF_THREADS: Final = (Kind.EXIT, Kind.SCHED_IN, Kind.SCHED_OUT, Kind.SCHED_WAKE)
_CAPTURED: Final = 3


def keys_of(batch: EventBatch, queue: NDArray[Any] | None = None) -> NDArray[np.uint64]:
    """Return what each record is about: a queue's ring, drops, exits of a thread, its scheduling.

    Who of two sources tells of it is decided for each of these. Captured frames are of no other.
    """
    kinds = batch["kind"]
    group = np.zeros(len(kinds), np.uint64)
    group[kinds == Kind.DROP] = 1
    group[kinds == Kind.EXIT] = 2
    group[kinds == Kind.CAPTURED] = _CAPTURED
    group[np.isin(kinds, OF_THREADS[1:])] = 4
    about = np.where((group == 2) | (group == 4), batch["tid"], 0).astype(np.uint64)
    of_queue = (group == 0) | (group == 1) | (group == _CAPTURED)
    about[of_queue] = (batch["queue"] if queue is None else queue)[of_queue]
    return (group << np.uint64(32)) | about


class Source:
    """One recording that is to be merged, and what the first reading of it showed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = Path(path).name
        self.trace = open_any(path)
        self.sections: dict[str, Any] = {}
        self.events = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.seen = np.zeros(0, SEEN)
        self.packets = Sample()
        self.chains = Sample()
        self.queues: set[int] = set()
        self.places: set[int] = set()
        self.packet_ids = (0, 0)
        """Smallest and largest; 0 where there are none."""
        self.most_cpu = 0
        self.from_start = False
        """Sequence numbers begin where the recording does."""

    def read(self) -> None:
        """Read it once.

        Raises:
            InputError: Nothing of it can be read, or it has more queues and threads than a host.
        """
        for batch in self.trace.batches():
            if len(batch):
                self._take(batch)
        self.sections = sane(self.trace.metadata.sections)

    def _take(self, batch: EventBatch) -> None:
        times = batch["time"]
        if int(times.max()) > LATEST_NS:
            raise InputError(
                f"{self.path}: has an event at {int(times.max())} ns, later than any clock goes; "
                "write the part that makes sense with vtrace filter --until"
            )
        if self.first_ns is None:
            self.from_start = int(batch["seq"][0]) < 64
        low, high = int(times.min()), int(times.max())
        self.first_ns = low if self.first_ns is None else min(self.first_ns, low)
        self.last_ns = high if self.last_ns is None else max(self.last_ns, high)
        self.events += len(batch)
        self.most_cpu = max(self.most_cpu, int(batch["cpu"].max()))
        self.queues |= set(np.unique(batch["queue"]).tolist())
        drops = batch["kind"] == Kind.DROP
        if drops.any() and len(self.places) < MOST_KEYS:
            self.places |= set(np.unique(batch["address"][drops]).tolist())
        ids = batch["packet"][batch["packet"] != 0]
        if len(ids):
            least, most = self.packet_ids
            least = min(int(ids.min()), least or int(ids.min()))
            self.packet_ids = least, max(most, int(ids.max()))
        self.packets.add(packet_prints(batch))
        self.chains.add(chain_prints(batch))
        self._count(keys_of(batch), batch)

    def _count(self, keys: NDArray[Any], batch: EventBatch) -> None:
        found, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        rows = np.zeros(len(found), SEEN)
        rows["key"], rows["count"] = found, counts
        kinds = np.uint64(1) << np.minimum(batch["kind"], 63).astype(np.uint64)
        np.bitwise_or.at(rows["kinds"], inverse, kinds)
        rows["first"] = LATEST_NS
        times = batch["time"].astype(np.int64)
        np.minimum.at(rows["first"], inverse, times)
        np.maximum.at(rows["last"], inverse, times)
        both = np.concatenate([self.seen, rows])
        both = both[np.argsort(both["key"], kind="stable")]
        starts = np.flatnonzero(np.append(True, both["key"][1:] != both["key"][:-1]))
        made = both[starts]
        made["kinds"] = np.bitwise_or.reduceat(both["kinds"], starts)
        made["count"] = np.add.reduceat(both["count"], starts)
        made["first"] = np.minimum.reduceat(both["first"], starts)
        made["last"] = np.maximum.reduceat(both["last"], starts)
        if len(made) > MOST_KEYS:
            raise InputError(
                f"{self.path}: has events of more than {MOST_KEYS} queues and threads, more than "
                "a host has; merge a part of it (vtrace filter)"
            )
        self.seen = made

    @property
    def clock(self) -> str:
        """Name of the clock of its times."""
        base = self.sections.get("timebase")
        return str(base.get("clock", "unknown")) if isinstance(base, Mapping) else "monotonic"

    @property
    def resolution_ns(self) -> int | None:
        """What the last digit of a time stands for; None where its unit is not known."""
        base = self.sections.get("timebase")
        if not isinstance(base, Mapping):
            return 1
        unit = base.get("resolution_ns")
        return unit if type(unit) is int and 0 < unit <= LATEST_NS else None

    @property
    def own(self) -> bool:
        """A recording of vtrace's, and not of another tool's."""
        return "timebase" not in self.sections

    @property
    def anchors(self) -> list[tuple[int, int]]:
        """Pairs of (time of its clock, time of day), ns; first and newest."""
        found = []
        for anchor in self.sections.get("clock") or ():
            if isinstance(anchor, Mapping):
                pair = anchor.get("monotonic_ns"), anchor.get("realtime_ns")
                if all(type(one) is int and 0 <= one <= LATEST_NS for one in pair):
                    found.append((int(pair[0] or 0), int(pair[1] or 0)))
        return found

    @property
    def host(self) -> tuple[Any, ...]:
        """What its host calls itself; empty where nothing says so."""
        host = self.sections.get("host") or {}
        if not host.get("hostname"):
            return ()
        return tuple(host.get(name) for name in ("hostname", "kernel", "machine"))

    def close(self) -> None:
        """Close it."""
        self.trace.close()
