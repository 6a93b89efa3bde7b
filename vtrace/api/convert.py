"""Rows as pandas frames: nullable integers and booleans, text as categoricals.

An integer gets the narrowest signed type that holds every value of its column, so that the
difference of two is never wrapped around. ``UInt64`` are numbers that a guest chooses from 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.export.arrow import utf8
from vtrace.flows import address_text, mac_text
from vtrace.tables import Column, Table, Type, Values

if TYPE_CHECKING:
    import pandas
    from numpy.typing import NDArray

__all__ = ["Rows"]

_WIDER: Final = {"u1": "i2", "u2": "i4", "u4": "i8", "u8": "i8"}
_CHOSEN: Final = frozenset(("address", "blocks", "lba", "sector", "sectors", "tag", "value"))
"""Columns with any 64 bits: what a guest asked for."""
_MOST: Final = np.uint64((1 << 63) - 1)
"""No clock and no count goes further; what a damaged file has beyond it is missing."""


class Rows:
    """Rows of some columns, taken in table by table."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._parts = {column.name: _part(column) for column in columns}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, table: Table) -> None:
        """Take in all rows of a table."""
        self._count += len(table)
        for column in self._columns:
            self._parts[column.name].add(table[column.name])

    def frame(self, start: int = 0) -> pandas.DataFrame:
        """Return the rows as a frame whose index begins at ``start``."""
        import pandas

        index = pandas.RangeIndex(start, start + self._count)
        arrays = {name: part.array() for name, part in self._parts.items()}
        return pandas.DataFrame(arrays, index=index, copy=False)


class _Part:
    """The values of one column so far, and where there are some."""

    def __init__(self, kind: str) -> None:
        self._kind = np.dtype(kind)
        self._data: list[NDArray[Any]] = []
        self._missing: list[NDArray[np.bool_]] = []

    def joined(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the values and where they are missing."""
        if not self._data:
            return np.zeros(0, self._kind), np.zeros(0, np.bool_)
        return np.concatenate(self._data), np.concatenate(self._missing)

    def put(self, data: NDArray[Any], present: NDArray[np.bool_]) -> None:
        """Take in values; 1 stands under what is missing."""
        kept = data.astype(self._kind)
        kept[~present] = 1
        self._data.append(kept)
        self._missing.append(~present)


class _Integers(_Part):
    def __init__(self, column: Column) -> None:
        kind = "u8" if column.name in _CHOSEN else _WIDER[column.numpy]
        super().__init__(kind)
        self._signed = kind == "i8"

    def add(self, values: Values) -> None:
        present = values.present()
        if self._signed and values.data.dtype == np.uint64:
            present = present & (values.data <= _MOST)
        self.put(values.data, present)

    def array(self) -> Any:
        import pandas

        return pandas.arrays.IntegerArray(*self.joined())


class _Booleans(_Part):
    def __init__(self) -> None:
        super().__init__("?")

    def add(self, values: Values) -> None:
        self.put(values.data, values.present())

    def array(self) -> Any:
        import pandas

        return pandas.arrays.BooleanArray(*self.joined())


class _Texts:
    """Text as codes into the distinct texts, in the order in which they came."""

    def __init__(self, column: Column) -> None:
        self._type = column.type
        self._codes: list[NDArray[np.int32]] = []
        self._known = {text: code for code, text in enumerate(column.values)}

    def add(self, values: Values) -> None:
        present = values.present()
        data = values.data[present]
        if self._type is Type.ADDRESS:
            data = np.ascontiguousarray(data, np.uint64).view("u8,u8").ravel()
        distinct, inverse = np.unique(data, return_inverse=True)
        codes = np.full(len(present), -1, np.int32)
        known = self._known
        mine = [known.setdefault(text, len(known)) for text in self._words(distinct, values)]
        if mine:
            codes[present] = np.array(mine, np.int32)[inverse]
        self._codes.append(codes)

    def _words(self, distinct: NDArray[Any], values: Values) -> Iterable[str]:
        found = distinct.tolist()
        if self._type is Type.ADDRESS:
            return (address_text(high, low) for high, low in found)
        if self._type is Type.MAC:
            return (mac_text(number) for number in found)
        pool = values.pool or ("",)
        return (utf8(pool[code]) for code in found)

    def array(self) -> Any:
        import pandas

        codes = np.concatenate(self._codes) if self._codes else np.zeros(0, np.int32)
        words = list(self._known)
        index = pandas.Index(words) if words else pandas.Index([], dtype="str")
        return pandas.Categorical.from_codes(codes, categories=index)


def _part(column: Column) -> _Integers | _Booleans | _Texts:
    if column.type is Type.INTEGER:
        return _Integers(column)
    return _Booleans() if column.type is Type.BOOLEAN else _Texts(column)
