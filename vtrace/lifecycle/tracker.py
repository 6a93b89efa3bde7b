"""The tracker: batches of events in, finished chains out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from vtrace.lifecycle import engine, held
from vtrace.lifecycle.codes import DONE, DRAIN, MORE_HEADS
from vtrace.lifecycle.layout import MOST_HEADS, Columns, State, new_state, reserve
from vtrace.lifecycle.saved import SavedState, restored, saved
from vtrace.lifecycle.stats import Notifications, QueueStats, Sums
from vtrace.lifecycle.table import LifecycleTable
from vtrace.model import TIME_COLUMNS, Direction, Queue, TimeState

if TYPE_CHECKING:
    from parsers.batch import EventBatch

__all__ = ["RingIndices", "SavedTracker", "Tracker"]

Array = NDArray[Any]

_DIRECTIONS: Final[dict[str, int]] = {Direction.RX: 1, Direction.TX: 2}
_BACKENDS: Final = ("vhost", "qemu")
_IN_ORDER: Final = 1 << 35
"""VIRTIO_F_IN_ORDER."""
_HEADS: Final = 256
"""Descriptors of a ring of which nothing is known yet; it grows."""


_SCALARS: Final = ("_lost", "_dropped", "_missed", "_sparse", "_finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTracker:
    """A tracker that was put aside."""

    memory: SavedState
    scalars: dict[str, Any]
    not_probed: list[list[str]]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, roughly."""
        return self.memory.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RingIndices:
    """Where a queue stands: ring indices counted through, None where they were not seen.

    Their low 16 bits are those in the ring. Of a packed ring ``position`` counts chains and
    ``used`` places, and there is no index of the driver.
    """

    size: int | None
    """Descriptors of the ring."""
    packed: bool
    position: int | None
    """The device's place in the available ring: the next pop."""
    used: int | None
    """The device's place in the used ring: the next element."""
    avail: int | None
    """The driver's place in the available ring, as it was last seen."""
    avail_event: int | None
    """Where the device asked to be kicked next; None too if it did not."""
    proven: int | None
    """The driver has taken what lies before this place of the used ring; see ``seen_ns``."""
    with_device: int | None
    """Chains that the device has; None where the recording began later, or the ring is packed."""


def _columns(batch: EventBatch) -> Columns:
    columns = batch.columns
    time = np.ascontiguousarray(columns["time"]).view(np.int64)
    others = {
        name: np.ascontiguousarray(columns[name]) for name in Columns._fields if name != "time"
    }
    return Columns(time=time, **others)


class Tracker:
    """Follow every chain of every queue; memory is bounded by the rings, not by the stream.

    ``queues``: what is known of queues by id; more comes with the batches. ``not_probed``: names of
    times (``kick_ns`` or ``kick``) that no probe looks for; or these by backend, where the probes
    of each are not the same: ``{"vhost": [...], "qemu": [...]}``.

    A chain comes out of :meth:`feed` when it is used, its interrupt is settled, the driver has
    been proven to have taken it (or a second has gone by), and no CPU can show any more that it
    lost a record meanwhile (or 0.2 s have gone by), all in the time of the stream. The
    result does not depend on how the stream is cut into batches.
    """

    def __init__(
        self,
        queues: Mapping[int, Queue] | None = None,
        not_probed: Collection[str] | Mapping[str, Collection[str]] = (),
    ) -> None:
        self._state: State = new_state()
        self._sums = Sums()
        self._known: dict[int, tuple[int, int, bool]] = {}
        self._lost = 0
        self._dropped = 0
        self._missed = 0
        self._sparse = False
        self._finished = False
        self._not_probed: list[list[str]] = []
        for backend in _BACKENDS:
            of = not_probed.get(backend, ()) if isinstance(not_probed, Mapping) else not_probed
            self._not_probed.append(
                [name for name in TIME_COLUMNS if name in of or name.removesuffix("_ns") in of]
            )
        for field, names in zip(("not_probed", "not_probed_qemu"), self._not_probed, strict=True):
            self._state.one[0][field] = sum(1 << TIME_COLUMNS.index(name) for name in names)
        for number, queue in (queues or {}).items():
            self._learn(number, queue.direction, queue.size, queue.features)

    def _learn(self, number: int, direction: str, size: int, features: int) -> None:
        if not 0 < number < len(self._state.slot):
            return
        known = min(size, MOST_HEADS), _DIRECTIONS.get(direction, 0), bool(features & _IN_ORDER)
        self._known[number] = known
        if self._state.slot["number"][number]:
            self._reserve(number, known[0])

    def _reserve(self, number: int, heads: int) -> None:
        size, direction, in_order = self._known.get(number, (0, 0, False))
        self._state = reserve(
            self._state, number, max(heads, size or _HEADS), direction, size, in_order
        )

    def _learn_all(self, meta: Mapping[str, Any]) -> None:
        for key, queue in meta.get("queues", {}).items():
            size, features = int(queue.get("size", 0)), int(queue.get("features", 0))
            self._learn(int(key), queue.get("direction", ""), size, features)
        lost = int(self._state.one[0]["lost"])
        if "counts" in meta:
            self._lost = sum(int(kind.get("lost", 0)) for kind in meta["counts"].values())
        if "loss" in meta:
            self._dropped = int(meta["loss"].get("dropped_records", 0))
            self._missed = int(meta["loss"].get("missed", 0))
        if "capture" in meta:
            capture = meta["capture"]
            self._sparse = bool(capture.get("sparse") or capture.get("capture_filter"))
        one = self._state.one[0]
        one["lost"] = max(lost, self._lost + self._dropped)
        one["losing"] = one["lost"] > lost
        one["sparse"] = self._sparse
        if self._sparse:
            one["strict"] = 0
        elif one["lost"] or self._missed:
            one["strict"] = 1

    def _take(self, count: int) -> list[Array]:
        # The first held chains, as one or two pieces of the ring.
        one, hold = self._state.one[0], self._state.hold
        first = int(one["taken"]) & (len(hold) - 1)
        one["taken"] += count
        pieces = [hold[first : first + count]]
        if first + count > len(hold):
            pieces.append(hold[: first + count - len(hold)])
        return pieces

    def _table(self, pieces: list[Array]) -> LifecycleTable:
        table = LifecycleTable.of_rows(pieces)
        for backend, names in enumerate(self._not_probed):
            of = table["backend"] == backend
            for name in names:
                table.columns[name][of] = 0
                table.columns[name.removesuffix("_ns") + "_state"][of] = TimeState.NOT_PROBED
        self._sums.add(table, self._state.slot["number"], int(self._state.one[0]["slots"]))
        return table

    def feed(self, batch: EventBatch) -> LifecycleTable:
        """Take in a batch; return the chains that are finished and safe from second thoughts."""
        if self._finished:
            raise ValueError("feed after finish")
        self._learn_all(batch.meta)
        columns = _columns(batch)
        tables = []
        why, at = DRAIN, 0
        while why != DONE:
            why, at = engine.advance(self._state.one, columns, at)
            one = self._state.one[0]
            if why in (DONE, DRAIN):
                tables.append(self._table(self._take(held.ready(self._state.one))))
            elif why == MORE_HEADS:
                self._reserve(int(one["wanted_queue"]), int(one["wanted_heads"]))
            else:
                self._reserve(int(one["wanted_queue"]), 0)
        return tables[0] if len(tables) == 1 else LifecycleTable.concat(tables)

    def mark_gap(self) -> None:
        """Say that events are missing between the last batch and the next one.

        A damaged or missing batch: what is open becomes ambiguous, and so does what a count of
        events would have to be carried over it for.
        """
        self._state.one[0]["marked"] = 1

    def finish(self) -> LifecycleTable:
        """Return the chains that are left: not yet safe, used but not seen, and in flight."""
        self._finished = True
        tables = []
        slot, slots = -1, int(self._state.one[0]["slots"])
        while slot < slots:
            slot = engine.end(self._state.one, slot)
            one = self._state.one[0]
            tables.append(self._table(self._take(int(one["pushed"] - one["taken"]))))
        return LifecycleTable.concat(tables)

    def save(self) -> SavedTracker:
        """Return what it knows, to go on from here later with :meth:`restored`."""
        scalars = {name: getattr(self, name) for name in _SCALARS}
        return SavedTracker(
            memory=saved(self._state, self._sums),
            scalars=scalars | {"_known": dict(self._known)},
            not_probed=self._not_probed,
        )

    @classmethod
    def restored(cls, found: SavedTracker) -> Tracker:
        """Return a tracker as it was when it was saved, which may be done again and again."""
        tracker = cls.__new__(cls)
        tracker._state, tracker._sums = restored(found.memory)
        for name, value in found.scalars.items():
            setattr(tracker, name, dict(value) if isinstance(value, dict) else value)
        tracker._not_probed = found.not_probed
        return tracker

    @property
    def events(self) -> int:
        """Records taken in so far."""
        return int(self._state.one[0]["events"])

    @property
    def missing(self) -> int:
        """Records whose sequence number was found to be missing."""
        return int(self._state.one[0]["missing"])

    def rings(self) -> dict[int, RingIndices]:
        """Return where each queue stands, by its id."""
        found = {}
        for queue in self._state.queue[: int(self._state.one[0]["slots"])]:
            packed = bool(queue["packed"])
            armed = queue["armed"] == 1 and queue["event_idx"] and not packed
            with_device = int(queue["position"] + queue["skew"] - queue["used"])
            found[int(queue["id"])] = RingIndices(
                size=int(queue["size"]) or None,
                packed=packed,
                position=int(queue["position"]) if queue["position_known"] else None,
                used=int(queue["used"]) if queue["used_known"] else None,
                avail=int(queue["avail"]) if queue["avail_known"] else None,
                avail_event=int(queue["armed_avail"]) if armed else None,
                proven=int(queue["proven"]) if queue["used_known"] and not packed else None,
                with_device=with_device if queue["skew_known"] and not packed else None,
            )
        return found

    def stats(self) -> dict[int, QueueStats]:
        """Return what is known of each queue that had an event, by its id."""
        return {
            int(queue["id"]): self._stats(slot)
            for slot, queue in enumerate(self._state.queue[: int(self._state.one[0]["slots"])])
        }

    def _stats(self, slot: int) -> QueueStats:
        state = self._state
        total, queue = state.total[slot], state.queue[slot]
        base, cap = int(queue["base"]), int(queue["cap"])
        counts = self._sums.of(slot)
        suppressed = counts.pop("suppressed_kicks")
        counts["in_flight"] += int(np.count_nonzero(state.open["live"][base : base + cap] & 1))
        signal = "signal_ns" not in self._not_probed[int(queue["qemu"])]
        return QueueStats(
            **counts,
            starved=int(total["starved"]) if queue["direction"] == 1 else 0,
            packets=int(total["packets"]),
            pop_errors=int(total["pop_errors"]),
            kicks=Notifications(
                needed=int(total["kicks_needed"]),
                sent=int(total["kicks_sent"]),
                suppressed=suppressed,
                spurious=int(total["kicks_spurious"]),
            ),
            interrupts=Notifications(
                needed=int(total["interrupts_needed"]),
                sent=int(total["interrupts_sent" if signal else "irqs"]),
                suppressed=int(total["interrupts_suppressed"]),
                spurious=int(total["interrupts_spurious"]),
            ),
            stages=self._sums.histograms(slot) if slot < len(self._sums.counts) else {},
        )
