"""A few rows of a table, from as many batches as it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vtrace.tables import Table
from vtrace.tables.table import Maker, Values

if TYPE_CHECKING:
    from vtrace.browse.decoder import Decoded
    from vtrace.packets import Frame
    from vtrace.session import Packets, Requests
    from vtrace.tables import Schema

__all__ = ["Page", "joined_tables"]


class Page:
    """Rows ``first`` to ``first + len(page)`` of a view."""

    def __init__(self, schema: Schema, first: int, parts: Sequence[Decoded]) -> None:
        self.first = first
        self._parts = parts
        self.table = joined_tables(schema, [part.table for part in parts])
        """The rows: ``lists(names)`` gives plain values."""

    def __len__(self) -> int:
        return len(self.table)

    def lists(self, names: Sequence[str]) -> list[list[Any]]:
        """Return the named columns as lists of plain Python values."""
        return self.table.lists(names)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each row as the verbs print it with ``--json``."""
        return self.table.rows()

    def packet(self, index: int) -> tuple[Packets, int] | None:
        """Return where the packet of the page's ``index``-th row is; None if it has none."""
        part, row = self._find(index)
        if part.packets is None:
            return None
        if part.packet_of is not None:
            row = int(part.packet_of[row])
        return None if row < 0 else (part.packets, row)

    def frame(self, index: int) -> Frame | None:
        """Return the packet of a row for its dissectors; None if it has none."""
        from vtrace.session.frames import frame_of

        found = self.packet(index)
        return None if found is None else frame_of(*found)

    def request(self, index: int) -> tuple[Requests, int] | None:
        """Return where the request of a row is; None if the table is not that of requests."""
        part, row = self._find(index)
        if part.requests is None or part.request_of is None:
            return None
        return part.requests, int(part.request_of[row])

    def _find(self, index: int) -> tuple[Decoded, int]:
        for part in self._parts:
            if index < len(part.table):
                return part, index
            index -= len(part.table)
        raise IndexError(index)


def joined_tables(schema: Schema, tables: Sequence[Table]) -> Table:
    """Return the rows of several tables of a schema as one table."""
    if len(tables) == 1:
        return tables[0]

    def maker(name: str) -> Maker:
        return lambda: _joined([table[name] for table in tables])

    names = [name for name in schema.names if all(name in table for table in tables)]
    count = sum(len(table) for table in tables)
    if not tables:
        return Table(schema, 0, {column.name: _nothing for column in schema.columns})
    return Table(schema, count, {name: maker(name) for name in names})


def _joined(parts: Sequence[Values]) -> Values:
    data = [part.data for part in parts]
    valid = None
    if any(part.valid is not None for part in parts):
        valid = np.concatenate([part.present() for part in parts])
    pool = parts[0].pool
    if pool is not None and any(part.pool is not pool for part in parts):
        # Codes of another pool: behind those of the first.
        pool = []
        for at, part in enumerate(parts):
            data[at] = part.data.astype(np.int64) + len(pool)
            pool = [*pool, *(part.pool or ())]
    return Values(np.concatenate(data), valid, pool)


def _nothing() -> Values:
    return Values(np.zeros(0, np.uint64), None, [""])
