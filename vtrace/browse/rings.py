"""The slots of a ring as it stood at a moment: who has each, since when, and what is not known.

A slot is an entry of the available ring: position ``p`` has slot ``p % size``, and of the positions
that share a slot the newest that was published counts. What the driver does is seen only where
vtrace looks at the ring: it may have published more, and taken back more, than a slot says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from vtrace.model import Outcome, TimeState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.lifecycle import LifecycleTable, RingIndices

__all__ = ["LETTERS", "Mark", "Owner", "RingSlots", "ring_slots"]


class Owner(IntEnum):
    """Who has a slot."""

    UNKNOWN = 0
    FREE = 1
    """The driver: nothing is in it, as far as was seen."""
    AVAILABLE = 2
    """The device may take it."""
    POPPED = 3
    """The device works on it: it is in flight."""
    USED = 4
    """The device returned it, and the driver has not shown that it took it."""


LETTERS: Final = "?·apu"
"""A letter for each owner."""

_WORDS: Final = ("not known", "free", "available", "in flight", "used")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an index of the ring points to."""

    name: str
    """``avail``, ``next``, ``used``, ``kick at``, ``irq at``."""
    letter: str
    value: int
    """The index, counted on over its wrap."""
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSlots:
    """A ring at a moment; arrays have one value a slot."""

    size: int
    packed: bool
    owner: NDArray[np.uint8]
    position: NDArray[np.int64]
    """Of the chain in it, or that was in it last; -1 where that is not known."""
    age_ns: NDArray[np.int64]
    """Since when its owner has it; -1 where that is not known."""
    batch: NDArray[np.int64]
    """The act in which it was returned; 0: none."""
    marks: tuple[Mark, ...]
    notes: tuple[str, ...]
    """What is not known, and why, in sentences."""
    older: int = 0
    """Chains in flight whose slots hold newer ones: a device may return chains in any order."""
    older_ns: int = -1
    """How long the oldest of these has been there."""

    @property
    def counts(self) -> dict[Owner, int]:
        """Slots of each owner."""
        found = np.bincount(self.owner, minlength=len(Owner))
        return {owner: int(found[owner]) for owner in Owner}

    @property
    def oldest_ns(self) -> int:
        """How long the oldest chain in flight has been there; -1: there is none."""
        ages = self.age_ns[self.owner == Owner.POPPED]
        return max(int(ages.max(initial=-1)), self.older_ns)

    @property
    def batches(self) -> int:
        """Acts in which the used chains that are shown were returned."""
        return len(np.unique(self.batch[(self.owner == Owner.USED) & (self.batch > 0)]))

    def cells(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Put the slots onto ``count`` cells: owner, greatest age, and slots of others in each.

        Where a cell stands for slots of several owners it shows the one of which the whole ring
        has the fewest slots: one chain in flight is seen among a thousand that are not.
        """
        count = min(count, self.size)
        cell = np.arange(self.size) * count // self.size
        totals = np.bincount(self.owner, minlength=len(Owner))
        order = np.argsort(-totals, kind="stable")
        shown = np.zeros(count, np.uint8)
        for owner in order.tolist():
            shown[cell[self.owner == owner]] = owner
        same = shown[cell] == self.owner
        age = np.full(count, -1, np.int64)
        np.maximum.at(age, cell[same], self.age_ns[same])
        others = np.bincount(cell[~same], minlength=count)
        return shown, age, others

    def cell_of(self, slot: int, count: int) -> int:
        """Return the cell of a slot."""
        return slot * min(count, self.size) // self.size

    def sentence(self, slot: int) -> str:
        """Return what is known of a slot in words."""
        position = int(self.position[slot])
        who = _WORDS[self.owner[slot]]
        return f"slot {slot}: {who}" + (f", position {position:,}" if position >= 0 else "")


def ring_slots(
    chains: LifecycleTable,
    queue: int,
    indices: RingIndices | None,
    at_ns: int,
    *,
    size: int = 0,
) -> RingSlots:
    """Return the ring of a queue at ``at_ns``.

    ``chains``: those that were open or held then, of any queues; ``size``: descriptors, where
    ``indices`` do not say. A packed ring is drawn by the chains that were popped: where the driver
    is cannot be seen, so what is not with the device is not known.
    """
    size = (indices.size if indices and indices.size else size) or 256
    slots = RingSlots(
        size=size,
        packed=bool(indices and indices.packed),
        owner=np.zeros(size, np.uint8),
        position=np.full(size, -1, np.int64),
        age_ns=np.full(size, -1, np.int64),
        batch=np.zeros(size, np.int64),
        marks=_marks(indices, size),
        notes=(),
    )
    if indices is None or indices.position is None:
        return _noted(slots, ["nothing of this ring was seen up to here"])
    notes = [] if indices.size else [f"its size is not known: drawn with {size}"]
    rows = _rows(chains, queue)
    positions = chains["position"][rows].astype(np.int64)
    upto = max(indices.position, indices.avail or 0)
    first = upto - size
    if indices.packed:
        notes.append("a packed ring, drawn by chains: where the driver is cannot be seen")
    else:
        notes += _published(slots, indices, first)
        notes += _settled(slots, chains, rows, positions, indices, first)
    mine = (positions >= first) & (positions < upto)
    _listed(slots, chains, rows[mine], positions[mine], indices.position, at_ns)
    old = rows[(positions < first) & (chains["outcome"][rows] == Outcome.IN_FLIGHT)]
    if len(old):
        since = chains["pop_ns"][old].astype(np.int64)
        oldest = max(at_ns - int(since.min()), 0)
        slots = replace(slots, older=len(old), older_ns=oldest)
    return _noted(slots, notes)


def _noted(slots: RingSlots, notes: list[str]) -> RingSlots:
    return replace(slots, notes=tuple(notes))


def _rows(chains: LifecycleTable, queue: int) -> NDArray[np.int64]:
    # Chains of the ring as it is now: another generation is another ring.
    rows = np.flatnonzero(chains["queue"] == queue)
    if len(rows):
        generation = chains["generation"][rows]
        rows = rows[generation == generation.max()]
        rows = rows[chains["outcome"][rows] != Outcome.RESET]
    return rows


def _published(slots: RingSlots, indices: RingIndices, first: int) -> list[str]:
    # What lies before the device, and what the driver has never put anything into.
    position, avail = indices.position or 0, indices.avail
    if first < 0:
        slots.owner[np.arange(first, 0) % slots.size] = Owner.FREE
    if avail is None:
        return ["what the driver has published was not seen"]
    ahead = np.arange(position, max(avail, position))
    slots.owner[ahead % slots.size] = Owner.AVAILABLE
    slots.position[ahead % slots.size] = ahead
    return []


def _settled(
    slots: RingSlots,
    chains: LifecycleTable,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    indices: RingIndices,
    first: int,
) -> list[str]:
    """Fill in the slots of chains that are no longer held, or were never seen."""
    position = indices.position or 0
    past = np.arange(max(first, 0), position)
    rest = past[~np.isin(past, positions)]
    slots.position[rest % slots.size] = rest
    outcome = chains["outcome"][rows]
    back = positions >= position
    in_flight = int(np.count_nonzero((outcome != Outcome.USED) & ~back))
    if indices.with_device is None or indices.used is None:
        if len(rest):
            return ["the recording began later than the ring: older chains are not known"]
        return []
    if indices.with_device > in_flight and len(rest):
        missing = indices.with_device - in_flight
        what = "chain is" if missing == 1 else "chains are"
        return [f"{missing} {what} with the device whose pop was not seen"]
    used = outcome == Outcome.USED
    seen = chains["seen_state"][rows]
    taken = (seen == TimeState.SEEN) | (seen == TimeState.SHARED)
    waiting = max(indices.used - (indices.proven or 0), 0) - int(np.count_nonzero(used & ~taken))
    slots.owner[rest % slots.size] = Owner.FREE
    if waiting > 0 and chains["backend"][rows].any():
        # QEMU's devices return chains in any order.
        slots.owner[rest % slots.size] = Owner.UNKNOWN
        return [f"{waiting} used, and not shown to be taken: in which slots is not known"]
    if waiting > 0:
        # Returned, and no proof came: the newest of them.
        slots.owner[rest[-waiting:] % slots.size] = Owner.USED
    return []


def _listed(
    slots: RingSlots,
    chains: LifecycleTable,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    position: int,
    at_ns: int,
) -> None:
    # Chains that are known one by one. What was handed back lies before the device again.
    past = positions < position
    rows, positions = rows[past], positions[past]
    order = np.argsort(positions, kind="stable")
    rows, at = rows[order], positions[order] % slots.size
    used = chains["outcome"][rows] == Outcome.USED
    seen = chains["seen_state"][rows]
    taken = used & ((seen == TimeState.SEEN) | (seen == TimeState.SHARED))
    # Of a packed ring the driver may have made any place available again.
    free = Owner.UNKNOWN if slots.packed else Owner.FREE
    owner = np.where(taken, free, np.where(used, Owner.USED, Owner.POPPED))
    since = np.where(
        taken,
        chains["seen_ns"][rows],
        np.where(used, chains["used_ns"][rows], chains["pop_ns"][rows]),
    ).astype(np.int64)
    slots.owner[at] = owner
    slots.position[at] = positions[order]
    slots.age_ns[at] = np.where(since > 0, np.maximum(at_ns - since, 0), -1)
    slots.batch[at] = np.where(used, chains["batch"][rows], 0)


def _marks(indices: RingIndices | None, size: int) -> tuple[Mark, ...]:
    if indices is None:
        return ()
    marks = []
    if indices.avail is not None:
        marks.append(Mark("avail", "A", indices.avail, indices.avail % size))
    if indices.position is not None:
        marks.append(Mark("next", "N", indices.position, indices.position % size))
    if indices.used is not None and not indices.packed:
        # Drawn where the oldest chain of the device lies, if they come back in order.
        slot = indices.used
        if indices.with_device is not None and indices.position is not None:
            slot = indices.position - indices.with_device
        marks.append(Mark("used", "U", indices.used, slot % size))
    if indices.avail_event is not None:
        marks.append(Mark("kick at", "K", indices.avail_event, indices.avail_event % size))
    return tuple(marks)
