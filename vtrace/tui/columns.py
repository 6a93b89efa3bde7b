"""What a grid is made of: columns and their places, sources of rows, cells made harmless."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from rich.segment import Segment
from rich.text import Text

from vtrace.text import cells as width_of
from vtrace.text import clean

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Cell",
    "GridColumn",
    "Placed",
    "RowList",
    "RowSource",
    "arranged",
    "fitted",
    "fitting",
    "same",
]

Cell = str | Text

GAP: Final = 2


@dataclass(frozen=True, slots=True)
class GridColumn:
    """A column: its name, its heading, how wide it is, and when it leaves."""

    key: str
    head: str
    width: int
    """Cells it needs."""
    right: bool = False
    """Numbers stand to the right."""
    rank: int = 0
    """Where there is no room the highest rank leaves first; 0 never does."""
    sortable: bool = False
    grow: bool = False
    """It takes room that is left."""
    least: int = 0
    """Cells that it shrinks to before it leaves; 0: it does not."""
    fit: bool = False
    """It is as wide as its widest text, ``width`` at most; for rows that are all in memory."""


class RowSource(Protocol):
    """Where a grid has its rows from."""

    def __len__(self) -> int: ...

    def cells(self, first: int, count: int) -> list[list[Cell]] | None:
        """Return the cells of rows at once, one for each column; None: not in memory.

        A single cell takes the whole line.
        """
        ...

    def load(self, first: int, count: int) -> None:
        """Bring rows into memory. Blocks; called in a thread."""
        ...


class RowList:
    """Rows in memory. With ``keys`` the cursor stays on its row when the order changes."""

    def __init__(
        self, rows: Sequence[Sequence[Cell]] = (), keys: Sequence[Hashable] | None = None
    ) -> None:
        self.rows = rows
        self.keys = keys

    def __len__(self) -> int:
        return len(self.rows)

    def cells(self, first: int, count: int) -> list[list[Cell]] | None:
        """Return the cells of rows."""
        return [list(row) for row in self.rows[first : first + count]]

    def load(self, first: int, count: int) -> None:
        """Do nothing: all rows are in memory."""


Placed = tuple[int, GridColumn, int, int]
"""Index of a column, the column, where it begins, and how wide it is."""


def fitting(columns: Sequence[GridColumn], rows: Sequence[Sequence[Cell]]) -> dict[str, int]:
    """Return widths of columns of words by what stands in them.

    Numbers keep their column while they change.
    """
    widths = {}
    for at, column in enumerate(columns):
        if column.fit and rows:
            texts = (row[at] for row in rows if len(row) == len(columns))
            longest = max((width_of(clean(str(text))) for text in texts), default=0)
            widths[column.key] = max(min(longest, column.width), len(column.head) + 1)
    return widths


def arranged(
    columns: Sequence[GridColumn], widths: Mapping[str, int], room: int
) -> tuple[list[Placed], int]:
    """Return the columns that there is room for, where they stand, and the gap between them.

    ``widths``: of those that are as wide as their text.
    """
    kept = [
        (index, replace(column, width=widths.get(column.key, column.width)))
        for index, column in enumerate(columns)
    ]
    gap = GAP
    while len(kept) > 1 and _taken(kept, gap) > room:
        if gap > 1 and _taken(kept, 1) <= room:
            gap = 1
            break
        rank = max(column.rank for _, column in kept)
        if rank == 0:
            gap = 1
            break
        last = max(at for at, (_, column) in enumerate(kept) if column.rank == rank)
        index, column = kept[last]
        over = _taken(kept, 1) - room
        if column.least and column.width - over >= column.least:
            kept[last] = index, replace(column, width=column.width - over)
            gap = 1
            break
        del kept[last]
    left = room - _taken(kept, gap)
    growing = [at for at, (_, column) in enumerate(kept) if column.grow]
    shown: list[Placed] = []
    x = 1
    for at, (index, column) in enumerate(kept):
        width = column.width
        if at in growing and left > 0:
            share = left // len(growing)
            width += share + (left % len(growing) if at == growing[-1] else 0)
        width = min(width, max(room - x + 1, 1))
        shown.append((index, column, x, width))
        x += width + gap
    return shown, gap


def fitted(cell: Cell, room: int, right: bool, console: Console) -> list[Segment]:
    """Return a cell as so many cells of a terminal.

    What a guest or a file wrote is made harmless here, whoever forgot to.
    """
    if isinstance(cell, str):
        text = clean(cell, room)
        segments = [Segment(text)]
    else:
        plain = clean(cell.plain)
        text_cell = cell if plain == cell.plain else Text(plain, style=cell.style)
        if text_cell.cell_len > room:
            text_cell = text_cell.copy()
            text_cell.truncate(room, overflow="ellipsis")
        base = console.get_style(text_cell.style, default="")
        rendered = text_cell.render(console)
        segments = list(Segment.apply_style(rendered, base))
    length = sum(segment.cell_length for segment in segments)
    space = Segment(" " * max(room - length, 0))
    return [space, *segments] if right else [*segments, space]


def _taken(columns: list[tuple[int, GridColumn]], gap: int) -> int:
    return sum(column.width + gap for _, column in columns) - gap


def same(one: Cell, other: Cell) -> bool:
    """Return whether two cells look the same."""
    if isinstance(one, Text) and isinstance(other, Text):
        return one == other and one.style == other.style
    return type(one) is type(other) and one == other
