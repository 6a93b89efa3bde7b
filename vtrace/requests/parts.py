"""The bytes of many chains: what of each was recorded, and where in the chain it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PIECE", "Bytes", "Part"]

PIECE: Final = np.dtype(
    [
        ("chain", "<u8"),
        ("start", "<i8"),
        ("offset", "<u4"),
        ("size", "<u4"),
        ("response", "?"),
        ("fault", "?"),
        ("cut", "?"),
    ]
)
"""Recorded bytes of one buffer: of which chain, where among the data, where in the chain."""


class Bytes:
    """The first bytes of a stretch of many chains, with what of them is there.

    ``data`` and ``have`` have a row for each chain. Numbers that are not there are 0, and the mask
    beside them says so.
    """

    __slots__ = ("data", "have")

    def __init__(self, data: NDArray[Any], have: NDArray[np.bool_]) -> None:
        self.data = data
        self.have = have

    def has(self, at: int, size: int) -> NDArray[np.bool_]:
        """Return which chains have all of these bytes."""
        if at + size > self.data.shape[1]:
            return np.zeros(len(self.data), np.bool_)
        return np.asarray(self.have[:, at : at + size].all(axis=1), np.bool_)

    def little(self, at: int, size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Return little-endian numbers of ``size`` bytes, and where they are there."""
        return self._number(range(at + size - 1, at - 1, -1), at, size)

    def big(self, at: int, size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Return big-endian numbers, as SCSI has them."""
        return self._number(range(at, at + size), at, size)

    def _number(
        self, places: range, at: int, size: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        there = self.has(at, size)
        value = np.zeros(len(self.data), np.uint64)
        if there.any():
            for place in places:
                value = value << np.uint64(8) | self.data[:, place]
        return np.where(there, value, np.uint64(0)), there


class Part:
    """One side of many chains: what the driver wrote, or what the device wrote.

    ``pieces`` has dtype ``PIECE``, where ``chain`` is a row of this part; ``lengths`` are the bytes
    that each chain has on this side, -1 where that is not known.
    """

    __slots__ = ("data", "lengths", "pieces")

    def __init__(
        self, pieces: NDArray[Any], data: NDArray[np.uint8], lengths: NDArray[np.int64]
    ) -> None:
        self.pieces = pieces
        self.data = data
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def flagged(self, name: str) -> NDArray[np.bool_]:
        """Return which chains have a piece with this flag: ``fault`` or ``cut``."""
        found = np.zeros(len(self), np.bool_)
        found[self.pieces["chain"][self.pieces[name]].astype(np.int64)] = True
        return found

    @property
    def recorded(self) -> NDArray[np.bool_]:
        """Which chains have any piece."""
        found = np.zeros(len(self), np.bool_)
        found[self.pieces["chain"].astype(np.int64)] = True
        return found

    def window(self, rows: NDArray[Any], width: int, at: NDArray[Any] | int = 0) -> Bytes:
        """Return ``width`` bytes of the chains ``rows`` (distinct) from offset ``at`` on."""
        count = len(rows)
        data = np.zeros((count, width), np.uint8)
        have = np.zeros((count, width), np.bool_)
        place = np.full(len(self), -1, np.int64)
        place[rows] = np.arange(count)
        row = place[self.pieces["chain"].astype(np.int64)]
        pieces, row = self.pieces[row >= 0], row[row >= 0]
        begin = np.broadcast_to(np.asarray(at, np.int64), (count,))[row]
        shift = pieces["offset"].astype(np.int64) - begin
        low = np.clip(shift, 0, width)
        high = np.clip(shift + pieces["size"], 0, width)
        sizes = np.maximum(high - low, 0)
        ends = np.cumsum(sizes)
        steps = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)
        target = np.repeat(row * width + low, sizes) + steps
        source = np.repeat(pieces["start"] + low - shift, sizes) + steps
        data.reshape(-1)[target] = self.data[source]
        have.reshape(-1)[target] = True
        return Bytes(data, have)

    def run(self, row: int, limit: int, at: int = 0) -> bytes:
        """Return the bytes of one chain from ``at`` on, up to the first that is not there."""
        bound = int(self.lengths[row])
        width = min(limit, max(bound - at, 0)) if bound >= 0 else limit
        found = self.window(np.array([row]), width, at)
        have = found.have[0]
        size = width if have.all() else int(np.argmin(have))
        return found.data[0, :size].tobytes()
