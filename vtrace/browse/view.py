"""The rows of one table that a query asks for: any number of them, a page at a time."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.browse.page import Page
from vtrace.filter import Filter, compile_filter
from vtrace.tables import SCHEMAS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.browse.browser import Browser
    from vtrace.browse.chunks import Tables
    from vtrace.browse.decoder import Decoded
    from vtrace.browse.query import Query
    from vtrace.tables import Table, Values

__all__ = ["View"]

MOST_CHOSEN: Final = 16
"""Batches whose chosen rows are remembered."""


class View:
    """Rows in the order in which they ended, counted while the file is read.

    ``len(view)`` grows until ``done``. Rows are numbered from 0 and keep their numbers.

    Raises:
        FilterError: The query's filter has a mistake.
    """

    def __init__(self, browser: Browser, query: Query) -> None:
        self.query = query
        self.schema = SCHEMAS[query.table]
        self.sentence = ""
        """Why it does not go on, if it does not."""
        self._browser = browser
        self._filter = compile_filter(query.filter, self.schema) if query.filter.strip() else None
        self._ends = array("q")
        """Rows up to the end of each batch."""
        self._tail: Decoded | None = None
        self._chosen: OrderedDict[int, tuple[Tables, Decoded]] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        counted = self._ends[-1] if self._ends else 0
        tail = self._tail
        return counted + (0 if tail is None else len(tail.table))

    @property
    def done(self) -> bool:
        """All rows of what was read so far are counted."""
        return len(self._ends) >= len(self._browser.index) and (
            self._tail is not None or not self._browser.ended
        )

    @property
    def progress(self) -> float:
        """Share of what was read so far whose rows are counted, 0 to 1."""
        total = len(self._browser.index)
        return len(self._ends) / total if total else 0.0

    @property
    def closed(self) -> bool:
        """Nobody looks at it any more."""
        return self._closed

    def close(self) -> None:
        """Count no further."""
        self._closed = True

    def count_on(self) -> bool:
        """Count the rows of one more batch; false if there is none. For the browser's thread."""
        number = len(self._ends)
        chunks = self._browser.chunks
        if number < len(self._browser.index):
            rows = len(self._rows_of(chunks.get(number), number).table)
            self._ends.append((self._ends[-1] if self._ends else 0) + rows)
            return True
        if self._tail is None and self._browser.ended:
            self._tail = self._rows_of(chunks.end())
            return True
        return False

    def peek(self, first: int, count: int) -> Page | None:
        """Return rows at once; None if they are not in memory."""
        parts = []
        for number, start, stop in self._places(first, count):
            if number < 0:
                parts.append((self._tail, start, stop))
                continue
            tables = self._browser.chunks.peek(number)
            if tables is None:
                return None
            parts.append((self._rows_of(tables, number), start, stop))
        return self._page(first, parts)

    def load(self, first: int, count: int) -> Page:
        """Return rows, however long that takes: not for the thread that draws.

        Raises:
            InputError: The file changed under us.
        """
        parts = []
        for number, start, stop in self._places(first, count):
            if number < 0:
                parts.append((self._tail, start, stop))
            else:
                tables = self._browser.chunks.get(number)
                parts.append((self._rows_of(tables, number), start, stop))
        return self._page(first, parts)

    def row_at(self, time_ns: int) -> int:
        """Return the first row whose story begins at a time or behind it; ``len`` if none.

        Rows stand in the order in which they ended, so that those around it may be older.

        Raises:
            InputError: The file changed under us.
        """
        index = self._browser.index
        number = index.at(time_ns)
        while number < len(self._ends):
            before = self._ends[number - 1] if number else 0
            if self._ends[number] > before:
                table = self._rows_of(self._browser.chunks.get(number), number).table
                found = np.flatnonzero(table["time_ns"].data >= np.uint64(max(time_ns, 0)))
                if len(found):
                    return before + int(found[0])
            number += 1
        return max(len(self) - 1, 0) if len(self) else 0

    def search(self, text: str, row: int, step: int = 1) -> int | None:
        """Return the next row behind ``row`` that matches a filter too; before it with step -1.

        Raises:
            FilterError: The filter has a mistake.
            InputError: The file changed under us.
        """
        wanted = compile_filter(text, self.schema)
        at = row + step
        while 0 <= at < len(self) and not self._closed:
            begin, found = self._part_of(at)
            matches = np.flatnonzero(wanted.mask(found.table)) + begin
            matches = matches[matches >= at] if step > 0 else matches[matches <= at]
            if len(matches):
                return int(matches[0] if step > 0 else matches[-1])
            at = begin + len(found.table) if step > 0 else begin - 1
        return None

    def _part_of(self, row: int) -> tuple[int, Decoded]:
        # The first row of a row's batch, and its rows.
        number = bisect_right(self._ends, row)
        if number >= len(self._ends) and self._tail is not None:
            return self._ends[-1] if self._ends else 0, self._tail
        begin = self._ends[number - 1] if number else 0
        return begin, self._rows_of(self._browser.chunks.get(number), number)

    def _places(self, first: int, count: int) -> list[tuple[int, int, int]]:
        # Batches (-1: the tail) that the rows are in, and from where to where in each.
        places = []
        total = self._ends[-1] if self._ends else 0
        at, stop = max(first, 0), min(first + count, len(self))
        while at < min(stop, total):
            number = bisect_right(self._ends, at)
            begin = self._ends[number - 1] if number else 0
            end = min(stop, self._ends[number])
            places.append((number, at - begin, end - begin))
            at = end
        if at < stop:
            places.append((-1, at - total, stop - total))
        return places

    def _page(self, first: int, parts: list[Any]) -> Page:
        cut = [found.take(np.arange(start, stop)) for found, start, stop in parts]
        return Page(self.schema, first, cut)

    def _rows_of(self, tables: Tables, number: int = -1) -> Decoded:
        known = self._chosen.get(number)
        if known is not None and known[0] is tables:
            return known[1]
        found = tables[self.query.table]
        chosen = _chosen(self.query, self._filter, found.table)
        if chosen is not None:
            found = found.take(chosen)
            self._chosen[number] = tables, found
            while len(self._chosen) > MOST_CHOSEN:
                # Another thread may have been faster.
                with suppress(KeyError):
                    self._chosen.popitem(last=False)
        return found


def _chosen(query: Query, kept: Filter | None, table: Table) -> NDArray[np.int64] | None:
    # Rows that the query asks for; None: all.
    names = [n for n in ("vm", "device", "queue") if getattr(query, n) is not None]
    if (not names and kept is None) or not len(table):
        return None
    rows = np.arange(len(table))
    for name in names:
        if name in table:
            rows = rows[_is(table.take(rows)[name], getattr(query, name))]
    if kept is not None and len(rows):
        rows = rows[kept.mask(table.take(rows))]
    return rows


def _is(values: Values, text: str) -> NDArray[np.bool_]:
    codes = [code for code, known in enumerate(values.pool or ()) if known == text]
    return np.isin(values.data, codes) & values.present()
