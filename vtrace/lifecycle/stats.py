"""Sums over the chains of each queue, and its notifications."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtrace.lifecycle.histogram import BINS, EMPTY_LIMITS, Histogram, add_values
from vtrace.lifecycle.stages import stages
from vtrace.model import STAGES, Outcome, TimeState, Trust

if TYPE_CHECKING:
    from vtrace.lifecycle.table import LifecycleTable

__all__ = ["Notifications", "QueueStats", "Sums"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifications:
    """Notifications of one side, since the recording began."""

    needed: int = 0
    """Times the ring's own rules asked for one."""
    sent: int = 0
    suppressed: int = 0
    """Interrupts that were not sent; chains that were published without a kick."""
    spurious: int = 0
    """Sent though not needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """A queue since the recording began; chains are counted as the tracker gives them out."""

    chains: int = 0
    complete: int = 0
    partial: int = 0
    ambiguous: int = 0
    handed_back: int = 0
    """Times that a chain was given back to be popped again."""
    starved: int = 0
    """Times that a packet waited and there was no chain for it."""
    in_flight: int = 0
    """Chains that the device has now; at the end, that it had then."""
    packets: int = 0
    used_bytes: int = 0
    pop_errors: int = 0
    kicks: Notifications = field(default_factory=Notifications)
    interrupts: Notifications = field(default_factory=Notifications)
    stages: dict[str, Histogram] = field(default_factory=dict)


_COUNTS = (
    "chains",
    "complete",
    "partial",
    "ambiguous",
    "handed_back",
    "in_flight",
    "used_bytes",
    "suppressed_kicks",
)


class Sums:
    """Counts by slot of a queue, that grow with each table."""

    def __init__(self) -> None:
        self.counts = np.zeros((0, len(_COUNTS)), np.int64)
        self._bins = np.zeros((len(STAGES), 0, BINS), np.int64)
        self._limits = np.zeros((len(STAGES), 0, 3), np.int64)

    def copy(self) -> Sums:
        """Return the same counts, apart from these."""
        other = Sums()
        other.counts = self.counts.copy()
        other._bins, other._limits = self._bins.copy(), self._limits.copy()
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of memory that they take."""
        return self.counts.nbytes + self._bins.nbytes + self._limits.nbytes

    def _grow(self, slots: int) -> None:
        was = len(self.counts)
        if slots <= was:
            return
        slots = max(slots, was * 3 // 2)
        more = slots - was
        self.counts = np.concatenate([self.counts, np.zeros((more, len(_COUNTS)), np.int64)])
        self._bins = np.concatenate(
            [self._bins, np.zeros((len(STAGES), more, BINS), np.int64)], axis=1
        )
        limits = np.empty((len(STAGES), more, 3), np.int64)
        limits[:] = EMPTY_LIMITS
        self._limits = np.concatenate([self._limits, limits], axis=1)

    def add(self, table: LifecycleTable, slot_of_queue: Array, slots: int) -> None:
        """Count the chains of a table."""
        self._grow(slots)
        if not len(table):
            return
        slot = slot_of_queue[table["queue"]] - 1
        trust = table["trust"]

        def weigh(column: int, weights: Array | None) -> None:
            found = np.bincount(slot, weights, minlength=len(self.counts))
            self.counts[:, column] += found.astype(np.int64)

        weigh(0, None)
        weigh(1, trust == Trust.COMPLETE)
        weigh(2, trust == Trust.PARTIAL)
        weigh(3, trust == Trust.AMBIGUOUS)
        weigh(4, table["handed_back"])
        weigh(5, table["outcome"] == Outcome.IN_FLIGHT)
        weigh(6, table["used_bytes"])
        weigh(7, table["kick_state"] == TimeState.SUPPRESSED)
        for n, (took, valid) in enumerate(stages(table.columns).values()):
            add_values(self._bins[n], self._limits[n], slot, took, valid)

    def histograms(self, slot: int) -> dict[str, Histogram]:
        """Return the stages of a queue that were seen at least once."""
        made = {}
        for n, name in enumerate(STAGES):
            if self._bins[n, slot].any():
                made[name] = Histogram(self._bins[n, slot].copy(), self._limits[n, slot].copy())
        return made

    def of(self, slot: int) -> dict[str, int]:
        """Return the counts of a queue by name."""
        if slot >= len(self.counts):
            return dict.fromkeys(_COUNTS, 0)
        return dict(zip(_COUNTS, map(int, self.counts[slot]), strict=True))
