"""A screen whose rows are sums out of a snapshot: few, all in memory, drawn anew as they change."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from textual.binding import Binding, BindingType

from vtrace.browse.snapshot import State
from vtrace.errors import FilterError
from vtrace.filter import Filter, compile_filter
from vtrace.tables import Table, Type, Values
from vtrace.tui.base import Selection, ViewScreen
from vtrace.tui.grid import Cell, Grid, GridColumn, RowList

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.snapshot import Snapshot
    from vtrace.tables import Schema
    from vtrace.tui.place import Place

__all__ = ["SumRow", "SumsScreen", "nothing_yet", "rows_table"]


@dataclass(frozen=True, slots=True)
class SumRow:
    """A line of the table."""

    key: Hashable
    cells: list[Cell]
    row: Mapping[str, Any]
    """What is exported of it; empty for a line that only says something."""


class SumsScreen(ViewScreen):
    """Sums of a place, sorted by any column.

    A subclass says ``columns`` and ``noun``, and makes ``sum_rows``.
    """

    columns: ClassVar[tuple[GridColumn, ...]] = ()
    noun: ClassVar[tuple[str, str]] = ("row", "rows")

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "sort", tooltip="sort by the next column"),
        Binding("S", "reverse", "turn the order round", show=False),
    ]

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self.sort_key = str(hints.get("sort_key", ""))
        self.sort_reverse = bool(hints.get("sort_reverse", False))
        self._rows: list[SumRow] = []
        self._filters: dict[tuple[str, str], Filter | None] = {}
        self._begin_row: int | None = hints.get("row")

    def sum_rows(self, snapshot: Snapshot) -> list[SumRow]:
        """Return the lines, in the order in which they are shown."""
        raise NotImplementedError

    def compose_view(self) -> ComposeResult:
        """Yield the table."""
        yield Grid(self.columns, id="sums")

    @property
    def grid(self) -> Grid:
        """The table."""
        return self.query_one("#sums", Grid)

    @property
    def cursor_key(self) -> Hashable:
        """Key of the line under the cursor; its number where there is none."""
        return self.grid.key_of(self.grid.cursor)

    def on_mount(self) -> None:
        """Show which column it is sorted by."""
        self._show_sort()

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw the sums."""
        rows = self._rows = self.sum_rows(snapshot)
        if not rows:
            self.show_note(self.nothing(snapshot))
            return
        self.show_note(None)
        grid = self.grid
        grid.set_source(RowList([one.cells for one in rows], [one.key for one in rows]), keep=True)
        if self._begin_row is not None:
            grid.go_to(self._begin_row)
            self._begin_row = None

    def on_filter(self, text: str) -> None:
        """Show what matches."""
        self.filter_text = text
        self.on_figures(self.snapshot)

    def on_verdicts(self) -> None:
        """Draw verdicts anew."""
        self.on_figures(self.snapshot)

    def nothing(self, snapshot: Snapshot) -> str:
        """Return why there is nothing to show."""
        if self.filter_text and snapshot.queues:
            return f"No {self.noun[1]} match {self.filter_text}. (/ changes the filter)"
        return nothing_yet(snapshot, f"No {self.noun[0]} has been seen in this recording.")

    def matching(self, schema: Schema, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Return which rows, as ``report --json`` has them, match the filter."""
        if not self.filter_text.strip() or not rows:
            return [True] * len(rows)
        key = schema.name, self.filter_text
        if key not in self._filters:
            try:
                self._filters = {key: compile_filter(self.filter_text, schema)}
            except FilterError as error:
                self._filters = {key: None}
                self.fail(error)
        chosen = self._filters[key]
        if chosen is None:
            return [True] * len(rows)
        found: list[bool] = chosen.mask(rows_table(schema, rows)).tolist()
        return found

    # -- order -----------------------------------------------------------------------------------

    def on_grid_sorted(self, event: Grid.Sorted) -> None:
        """Sort by a column; a second time turns the order round."""
        self.sort_by(event.key)

    def sort_by(self, key: str) -> None:
        """Sort by a column: numbers from the greatest, words from the first letter."""
        if key == self.sort_key:
            self.sort_reverse = not self.sort_reverse
        else:
            self.sort_key = key
            right = {column.key: column.right for column in self.columns}
            self.sort_reverse = right.get(key, False) or key in {"occupancy", "verdict"}
        self._show_sort()
        self.on_figures(self.snapshot)

    def _show_sort(self) -> None:
        self.grid.sort_key, self.grid.sort_reverse = self.sort_key, self.sort_reverse
        self.grid.refresh_line(0)

    def action_sort(self) -> None:
        """Sort by the next column on the screen; behind the last one in the order of the report."""
        keys = ["", *(column.key for column in self.grid.shown_columns if column.sortable)]
        at = keys.index(self.sort_key) if self.sort_key in keys else 0
        following = keys[(at + 1) % len(keys)]
        if following:
            self.sort_by(following)
        else:
            self.sort_key, self.sort_reverse = "", False
            self._show_sort()
            self.on_figures(self.snapshot)

    def action_reverse(self) -> None:
        """Turn the order round."""
        if self.sort_key:
            self.sort_by(self.sort_key)

    def mark_hints(self) -> dict[str, Any]:
        """Return the row, the filter and the order."""
        order = {"sort_key": self.sort_key, "sort_reverse": self.sort_reverse}
        return super().mark_hints() | order

    def selection(self) -> Selection | None:
        """Return the rows: the marked ones if there are some, else all."""
        marked = self.grid.marked
        rows = [one for one in self._rows if one.row and (not marked or one.key in marked)]
        current = next((one.row for one in self._rows if one.key == self.cursor_key), None)
        return Selection(
            name=self.view_name,
            columns=(),
            rows=[one.row for one in rows],
            count=len(rows),
            place=self.place,
            part=self.cursor_place,
            marked=bool(marked),
            current=current or None,
        )


def nothing_yet(snapshot: Snapshot, empty: str) -> str:
    """Return why there is nothing to show: not yet, not any more, or ``empty``."""
    if snapshot.state in (State.OPENING, State.READING):
        return "Reading the recording …"
    if snapshot.state is State.FAILED:
        return snapshot.sentence
    if snapshot.state is State.FOLLOWING:
        return f"{empty} Waiting for events …"
    return empty


def rows_table(schema: Schema, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows of a report as a table of a schema: nested figures under their flat names."""

    def maker(name: str) -> Any:
        return lambda: _values(schema.column(name).type, [_value(row, name) for row in rows])

    return Table(schema, len(rows), {name: maker(name) for name in schema.names})


def _value(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    head, _, rest = name.partition("_")
    for inner in (row.get(head), row.get("stages", {}).get(head)):
        if isinstance(inner, Mapping) and rest in inner:
            return inner[rest]
    return None


def _values(kind: Type, found: list[Any]) -> Values:
    valid = np.array([value is not None for value in found], np.bool_)
    if kind is Type.TEXT:
        pool = sorted({str(value) for value in found if value is not None}) or [""]
        codes = {text: code for code, text in enumerate(pool)}
        data = np.array([codes.get(str(value), 0) for value in found], np.uint32)
        return Values(data, valid, pool)
    numbers = [int(value) if value is not None else 0 for value in found]
    return Values(np.array(numbers, np.uint64), valid)
