"""Many byte strings of different lengths at once, each put together from the same parts.

A part is a matrix with a row for each string and a mask of the bytes that are in it; all parts side
by side, taken where the mask is, are the strings one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Ragged"]

Bytes = Any
Where = Any


class Ragged:
    """``count`` byte strings; each method adds a part to all of them, or where ``where`` is."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.lengths: NDArray[np.int64] = np.zeros(count, np.int64)
        """Bytes of each string so far."""
        self._parts: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]] = []

    def constant(self, data: bytes, where: Where = None) -> None:
        """Add the same bytes to each."""
        if data:
            row = np.frombuffer(data, np.uint8)
            self._add(np.broadcast_to(row, (self.count, len(row))), where)

    def fixed(self, values: NDArray[Any], where: Where = None) -> None:
        """Add the memory of an array of ``count`` rows, of a structured type or of numbers."""
        rows = np.ascontiguousarray(values).view(np.uint8).reshape(self.count, -1)
        self._add(rows, where)

    def decimal(self, values: NDArray[Any], where: Where = None) -> None:
        """Add unsigned numbers as decimal digits."""
        values = np.where(self._where(where), values, 0).astype(np.uint64)
        width = len(str(int(values.max(initial=0))))
        powers = np.array([10**power for power in range(width - 1, -1, -1)], np.uint64)
        digits = (values[:, np.newaxis] // powers % np.uint64(10)).astype(np.uint8) + ord("0")
        mask = values[:, np.newaxis] >= powers
        mask[:, -1] = True
        self._add(digits.astype(np.uint8), where, mask)

    def text(self, codes: NDArray[Any], pool: Sequence[bytes], where: Where = None) -> None:
        """Add the byte strings that codes into a pool stand for."""
        codes = np.where(self._where(where), codes, 0)
        distinct, inverse = np.unique(codes, return_inverse=True)
        found = [pool[code] for code in distinct.tolist()]
        lengths = np.array([len(one) for one in found], np.int64)
        width = int(lengths.max(initial=0))
        matrix = np.zeros((len(found), width), np.uint8)
        for at, one in enumerate(found):
            matrix[at, : len(one)] = np.frombuffer(one, np.uint8)
        self._add(matrix[inverse], where, np.arange(width) < lengths[inverse][:, np.newaxis])

    def slices(self, data: Bytes, offsets: NDArray[Any]) -> None:
        """Add ``data[offsets[i]:offsets[i + 1]]`` to the string ``i``."""
        sizes = np.diff(offsets)
        width = int(sizes.max(initial=0))
        mask = np.arange(width) < sizes[:, np.newaxis]
        matrix = np.zeros((self.count, width), np.uint8)
        matrix[mask] = data[int(offsets[0]) : int(offsets[-1])]
        self._add(matrix, None, mask)

    def padding(self, sizes: NDArray[Any], where: Where = None) -> None:
        """Add zeros up to the next multiple of 4, behind ``sizes`` bytes."""
        mask = np.arange(3) < (-sizes % 4)[:, np.newaxis]
        self._add(np.zeros((self.count, 3), np.uint8), where, mask)

    def append(self, other: Ragged, where: Where = None) -> None:
        """Add other strings."""
        for matrix, mask in other._parts:
            self._add(matrix, where, mask)

    def tobytes(self) -> bytes:
        """Return all strings, one behind the other."""
        if not self._parts:
            return b""
        matrix = np.concatenate([part for part, _ in self._parts], axis=1)
        mask = np.concatenate([part for _, part in self._parts], axis=1)
        return bytes(matrix[mask].data)

    def _where(self, where: Where) -> NDArray[np.bool_]:
        return np.ones(self.count, np.bool_) if where is None else where

    def _add(self, matrix: Any, where: Where, mask: Any = None) -> None:
        chosen = self._where(where)
        if mask is None:
            self.lengths = self.lengths + chosen * matrix.shape[1]
            mask = np.broadcast_to(chosen[:, np.newaxis], matrix.shape)
        else:
            mask = mask if where is None else mask & chosen[:, np.newaxis]
            self.lengths = self.lengths + mask.sum(axis=1)
        self._parts.append((matrix, mask))
