"""Rows for a grid from a view of the recording: only those that are looked at are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtrace.browse.page import Page
    from vtrace.browse.view import View
    from vtrace.tui.grid import Cell, GridColumn

__all__ = ["ViewColumn", "ViewSource"]


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column of a grid, and how its cells are made of a page of rows."""

    column: GridColumn
    cells: Callable[[Page], list[Cell]]


class ViewSource:
    """A ``RowSource`` over a view."""

    stable = True
    """Rows do not change once they are there: only more come."""

    def __init__(self, view: View, columns: Sequence[ViewColumn]) -> None:
        self.view = view
        self.columns = tuple(columns)

    def __len__(self) -> int:
        return len(self.view)

    def cells(self, first: int, count: int) -> list[list[Cell]] | None:
        """Return the cells of rows that are in memory."""
        page = self.view.peek(first, count)
        if page is None:
            return None
        return [list(row) for row in zip(*(one.cells(page) for one in self.columns), strict=True)]

    def load(self, first: int, count: int) -> None:
        """Read rows, and a screenful before and behind them."""
        start = max(first - count, 0)
        self.view.load(start, count * 3)
