"""Sequence numbers of the merged file: a gap is where a record of some source is missing.

Each CPU is numbered anew in the order of time. Where numbers of a source are missing, as many are
left free; what is left out of a source on purpose leaves no gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["Missing", "Numbers"]

BEGINNING: Final = 64
"""A recording begins at 0 or 1 on all CPUs; what was cut out of one does not."""
FAR: Final = 1 << 16


class Missing:
    """How many numbers of a source are missing before each of its records."""

    def __init__(self, *, from_start: bool) -> None:
        self._from_start = from_start
        self._newest: dict[int, int] = {}
        self._carried: dict[int, int] = {}

    def before(self, batch: EventBatch, following: EventBatch | None) -> NDArray[np.int64]:
        """Return for each record the numbers that are missing right before it.

        ``following``: the next batch. Records that are out of order by less are not missing.
        """
        found = np.zeros(len(batch), np.int64)
        for cpu in np.unique(batch["cpu"]).tolist():
            rows = np.flatnonzero(batch["cpu"] == cpu)
            seqs = batch["seq"][rows]
            newest = self._newest.get(cpu)
            if newest is None:
                newest = self._begin(int(seqs.min()))
            ahead = _distance(seqs, newest)
            top = int(ahead.max())
            if top <= 0:
                continue
            self._newest[cpu] = (newest + top) & 0xFFFFFFFF
            there = ahead[ahead > 0]
            if following is not None:
                late = _distance(following["seq"][following["cpu"] == cpu], newest)
                there = np.concatenate([there, late[(late > 0) & (late < top)]])
            there = np.unique(there)
            if len(there) == top:
                continue
            order = np.argsort(ahead, kind="stable")
            places = np.maximum(ahead[order], 0)
            gone = places - np.searchsorted(there, places, side="right")
            found[rows[order]] = np.diff(gone, prepend=0)
        return found

    def carry(
        self, batch: EventBatch, missing: NDArray[np.int64], kept: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return what is missing before each record, where some are left out behind it."""
        if kept.all() and not self._carried:
            return missing
        found = np.zeros(len(batch), np.int64)
        for cpu in np.unique(batch["cpu"]).tolist():
            rows = np.flatnonzero(batch["cpu"] == cpu)
            total = np.cumsum(missing[rows]) + self._carried.pop(cpu, 0)
            mine = np.flatnonzero(kept[rows])
            found[rows[mine]] = np.diff(total[mine], prepend=0)
            rest = int(total[-1]) - (int(total[mine[-1]]) if len(mine) else 0)
            if rest:
                self._carried[cpu] = rest
        return found

    def _begin(self, least: int) -> int:
        # The number before the first: one that should have come is missing.
        if self._from_start and least < FAR:
            return 0 if least else 0xFFFFFFFF
        return (least - 1) & 0xFFFFFFFF


def _distance(seqs: NDArray[Any], newest: int) -> NDArray[np.int64]:
    # How far ahead of a number others are, around the wrap.
    apart = (seqs.astype(np.int64) - newest) & 0xFFFFFFFF
    return np.where(apart >= 0x80000000, apart - (1 << 32), apart)


class Numbers:
    """Gives out the numbers of the merged file."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}

    def give(
        self, cpus: NDArray[Any], missing: NDArray[np.int64], old: NDArray[Any]
    ) -> NDArray[np.uint32]:
        """Return new numbers of records in order; ``old`` are those of their sources."""
        made = np.zeros(len(cpus), np.int64)
        for cpu in np.unique(cpus).tolist():
            rows = np.flatnonzero(cpus == cpu)
            steps = np.cumsum(missing[rows] + 1)
            following = self._next.get(cpu)
            if following is None:
                first = int(old[rows[0]])
                # One that begins late must not look as if it had lost all before.
                begins = first - int(missing[rows[0]]) < BEGINNING
                following = int((old[rows] != 0).all()) if begins else FAR + first
            made[rows] = following + steps - 1
            self._next[cpu] = int(made[rows[-1]]) + 1
        return (made & 0xFFFFFFFF).astype(np.uint32)
