"""An array that grows at its end, without copying all of it each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Grown"]


class Grown:
    """Rows of one dtype. ``view`` is valid until the next change."""

    __slots__ = ("_count", "_room")

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._room: NDArray[Any] = np.zeros(64, dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def view(self) -> NDArray[Any]:
        """The rows themselves."""
        return self._room[: self._count]

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        end = self._count + len(rows)
        if end > len(self._room):
            room = np.zeros(2 * end, self._room.dtype)
            room[: self._count] = self.view
            self._room = room
        self._room[self._count : end] = rows
        self._count = end

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Leave out all other rows."""
        self.replace(self.view[mask])

    def replace(self, rows: NDArray[Any]) -> None:
        """Take these rows in place of all."""
        self._room = np.zeros(max(2 * len(rows), 64), self._room.dtype)
        self._room[: len(rows)] = rows
        self._count = len(rows)
