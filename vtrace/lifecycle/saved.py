"""A tracker put aside and taken up again: so that a reader can come back to a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from vtrace.lifecycle.layout import State, new_state, placed

if TYPE_CHECKING:
    from vtrace.lifecycle.stats import Sums

__all__ = ["SavedState", "restored", "saved"]

Array = NDArray[Any]

_WHOLE: Final = (
    "one", "queue", "total", "open", "order", "after", "frames", "waits", "changes", "kicks",
)  # fmt: skip
"""Pools that are as large as the rings are; the others are large and mostly empty."""
_SPARSE: Final = ("slot", "packets")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """What a tracker remembers, without the room that it has for more."""

    whole: dict[str, Array]
    sparse: dict[str, tuple[Array, Array]]
    """Places that are not empty, and what is there."""
    hold: Array
    cpus: Array
    cpu: Array
    sums: Sums

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        arrays = [*self.whole.values(), self.hold, self.cpus, self.cpu]
        arrays += [array for pair in self.sparse.values() for array in pair]
        return sum(array.nbytes for array in arrays) + self.sums.nbytes


def saved(state: State, sums: Sums) -> SavedState:
    """Return a copy of a tracker's memory that nothing changes any more."""
    one = state.one[0]
    cpus = state.numbers["number"][: int(one["cpus"])].copy()
    sparse = {}
    for name, field in zip(_SPARSE, ("number", "live"), strict=True):
        pool = getattr(state, name)
        places = np.flatnonzero(pool[field])
        sparse[name] = (places, pool[places])
    return SavedState(
        whole={name: getattr(state, name).copy() for name in _WHOLE},
        sparse=sparse,
        hold=state.hold[_held(one)],
        cpus=cpus,
        cpu=state.cpu[cpus],
        sums=sums.copy(),
    )


def restored(found: SavedState) -> tuple[State, Sums]:
    """Return the memory of a tracker as it was saved; ``found`` can be used again."""
    state = new_state()._replace(**{name: array.copy() for name, array in found.whole.items()})
    for name, (places, rows) in found.sparse.items():
        getattr(state, name)[places] = rows
    one = state.one[0]
    state.hold[_held(one)] = found.hold
    state.numbers["number"][: len(found.cpus)] = found.cpus
    state.cpu[found.cpus] = found.cpu
    return placed(state), found.sums.copy()


def _held(one: Any) -> Array:
    # Places of the ring of finished chains that are held back.
    places = np.arange(int(one["taken"]), int(one["pushed"]))
    return np.asarray(places & (int(one["hold_rows"]) - 1))
