"""A table in memory: columns of values, computed when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vtrace.flows import address_text, mac_text
from vtrace.tables.schema import Type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.tables.schema import Schema

__all__ = ["Maker", "Table", "Values"]


@dataclass(slots=True)
class Values:
    """The values of one column."""

    data: NDArray[Any]
    """Numbers; for text, codes into ``pool``; for addresses, rows of (high, low)."""
    valid: NDArray[np.bool_] | None = None
    """Where there is a value; None if everywhere."""
    pool: Sequence[str] | None = None
    """The texts that codes stand for."""

    def take(self, index: NDArray[Any]) -> Values:
        """Return the values at an index array or mask."""
        valid = None if self.valid is None else self.valid[index]
        return Values(self.data[index], valid, self.pool)

    def present(self) -> NDArray[np.bool_]:
        """Return where there is a value."""
        return np.ones(len(self.data), np.bool_) if self.valid is None else self.valid

    def to_list(self, kind: Type) -> list[Any]:
        """Return plain Python values, None for what is missing."""
        values: list[Any]
        if kind is Type.TEXT and self.pool is not None:
            pool = self.pool
            values = [pool[code] for code in self.data.tolist()]
        elif kind is Type.ADDRESS:
            values = [address_text(high, low) for high, low in self.data.tolist()]
        elif kind is Type.MAC:
            values = [mac_text(value) for value in self.data.tolist()]
        else:
            values = self.data.tolist()
        if self.valid is None:
            return values
        return [
            value if valid else None
            for value, valid in zip(values, self.valid.tolist(), strict=True)
        ]


Maker = Callable[[], Values]


class Table:
    """Rows of a schema; each column is made at its first use."""

    def __init__(self, schema: Schema, count: int, makers: Mapping[str, Maker]) -> None:
        self.schema = schema
        self._count = count
        self._makers = makers
        self._made: dict[str, Values] = {}

    def __len__(self) -> int:
        return self._count

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __getitem__(self, name: str) -> Values:
        values = self._made.get(name)
        if values is None:
            values = self._made[name] = self._makers[name]()
        return values

    def take(self, index: NDArray[Any]) -> Table:
        """Return the rows at an index array or mask."""
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)

        def maker(name: str) -> Maker:
            return lambda: self[name].take(index)

        return Table(self.schema, len(index), {name: maker(name) for name in self._makers})

    def head(self, count: int) -> Table:
        """Return the first rows."""
        return self if count >= len(self) else self.take(np.arange(count))

    def with_column(self, name: str, data: NDArray[Any]) -> Table:
        """Return the same rows with one more column, which is not in the schema."""
        return Table(self.schema, len(self), {**self._makers, name: lambda: Values(data)})

    def lists(self, names: Sequence[str]) -> list[list[Any]]:
        """Return the named columns as lists of plain Python values."""
        return [self[name].to_list(self.schema.column(name).type) for name in names]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row as a dict of plain Python values, with every column."""
        names = self.schema.names
        for row in zip(*self.lists(names), strict=True):
            yield dict(zip(names, row, strict=True))
