"""Intervals put side by side: several chains are under way at a time, and slices must not overlap.

A lane is free again where its last interval has ended. The first free lane is taken, so that few
chains use few lanes; there are at most ``MOST_LANES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.lifecycle.cachedir import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MOST_LANES", "Lanes"]

MOST_LANES: Final = 4096
"""Lanes of one track; a ring has up to 32768 descriptors, a tap waits with 1000 packets."""


@kernel
def _place(start: Any, end: Any, last: Any, used: Any, lane: Any) -> Any:
    # Fills in ``lane`` and ``last``; returns how many lanes are in use.
    for i in range(len(start)):
        found = -1
        for k in range(used):
            if last[k] <= start[i]:
                found = k
                break
        if found < 0 and used < len(last):
            found = used
            used += 1
        if found >= 0:
            last[found] = end[i]
        lane[i] = found
    return used


class Lanes:
    """The lanes of each of many tracks."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[NDArray[np.int64], int]] = {}

    def place(
        self, key: int, start: NDArray[np.int64], end: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the lane of each interval of track ``key``, -1 where there is none.

        The intervals are in the order of their starts; what was placed before stays.
        """
        last, used = self._last.get(key, (np.zeros(16, np.int64), 0))
        lane = np.zeros(len(start), np.int64)
        todo = np.arange(len(start))
        while len(todo):
            found = np.zeros(len(todo), np.int64)
            room = last.copy()
            now = _place(start[todo], end[todo], room, used, found)
            full = np.flatnonzero(found < 0)
            if len(full) and len(last) < MOST_LANES:
                # Once more with twice the room, from the first that found none.
                grown = np.zeros(2 * len(last), np.int64)
                first = int(full[0])
                used = _place(start[todo[:first]], end[todo[:first]], last, used, found[:first])
                lane[todo[:first]] = found[:first]
                grown[: len(last)] = last
                last, todo = grown, todo[first:]
                continue
            lane[todo] = found
            last, used = room, now
            break
        self._last[key] = last, int(used)
        return lane
