"""Rows for a grid from a view of the recording: only those that are looked at are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from vtrace.tables.human import duration_text
from vtrace.text import clean
from vtrace.tui.grid import Cell, GridColumn

if TYPE_CHECKING:
    from vtrace.browse.page import Page
    from vtrace.browse.view import View
    from vtrace.tui.app import VtraceApp
    from vtrace.tui.place import Place

__all__ = [
    "MARKS",
    "ViewColumn",
    "ViewSource",
    "event_cells",
    "lifecycle_columns",
    "text_column",
    "time_column",
]

MARKS: Final = {"shared": "·", "suppressed": "/", "lost": "?"}
"""What stands for a time that is not there; anything else is ``-``."""
EVENTS: Final = ("kick", "wake", "run", "pop", "used", "irq", "seen")


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


def text_column(
    name: str,
    head: str,
    width: int,
    *,
    style: str = "",
    rank: int = 0,
    right: bool = False,
    grow: bool = False,
    least: int = 0,
    show: Callable[[Any], str] = str,
) -> ViewColumn:
    """Return a column of the table as it is; what is missing is ``-``."""

    def cells(page: Page) -> list[Cell]:
        texts = ["-" if one is None else clean(show(one)) for one in page.lists([name])[0]]
        return [Text(text, style=style) for text in texts] if style else list(texts)

    return ViewColumn(
        GridColumn(name, head, width, right=right, rank=rank, grow=grow, least=least), cells
    )


def time_column(app: Callable[[], VtraceApp], name: str = "time_ns") -> ViewColumn:
    """Return the column of times: of day, or from the start, as the app shows them."""

    def cells(page: Page) -> list[Cell]:
        text = app().time_texts()
        return ["-" if one is None else text(one) for one in page.lists([name])[0]]

    return ViewColumn(GridColumn(name, "time", 15), cells)


def event_cells(page: Page, name: str) -> list[Cell]:
    """Return when an event of each chain happened, from its start, or why it is not known."""
    times, states, starts = page.lists([f"{name}_ns", f"{name}_state", "time_ns"])
    cells: list[Cell] = []
    for time, state, start in zip(times, states, starts, strict=True):
        if time is None or start is None or state == "shared":
            mark = MARKS.get(state, "-" if time is None else "·")
            cells.append(Text(mark, style="warn" if mark == "?" else "faint"))
        else:
            past = time - start
            cells.append("0" if not past else f"{'+' if past > 0 else ''}{duration_text(past)}")
    return cells


def lifecycle_columns(place: Place, app: Callable[[], VtraceApp]) -> list[ViewColumn]:
    """Return the columns of chains, as ``vtrace lifecycles`` prints them."""
    where = [
        (place.vm, text_column("vm", "VM", 8, rank=7)),
        (place.device, text_column("device", "device", 8, rank=4)),
        (place.queue, text_column("queue", "queue", 6, rank=3)),
    ]
    ranks = dict(zip(EVENTS, (8, 9, 6, 1, 0, 5, 10), strict=True))

    def event(name: str) -> ViewColumn:
        column = GridColumn(name, name, 7, right=True, rank=ranks[name])
        return ViewColumn(column, lambda page: event_cells(page, name))

    return [
        time_column(app),
        *(column for fixed, column in where if fixed is None),
        text_column("position", "position", 8, right=True),
        text_column("head", "head", 5, right=True, rank=12, style="dim"),
        ViewColumn(GridColumn("bytes", "bytes", 6, right=True, rank=2), _bytes),
        *(event(name) for name in EVENTS),
        ViewColumn(GridColumn("outcome", "outcome", 9, rank=11), _outcomes),
        text_column(
            "flow", "packet", 30, grow=True, rank=1, least=12, show=lambda text: text or ""
        ),
    ]


def _bytes(page: Page) -> list[Cell]:
    ways, readable, used = page.lists(["direction", "readable_bytes", "used_bytes"])
    sizes = (
        one if way == "tx" else other for way, one, other in zip(ways, readable, used, strict=True)
    )
    return ["-" if size is None else f"{size:,}" for size in sizes]


def _outcomes(page: Page) -> list[Cell]:
    cells: list[Cell] = []
    for what, how in zip(*page.lists(["outcome", "trust"]), strict=True):
        if how != "complete":
            cells.append(Text(f"{what} {how}", style="warn"))
        else:
            cells.append(Text(str(what), style="dim" if what == "used" else "warn"))
    return cells
