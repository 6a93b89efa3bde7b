"""A screen whose rows are those of a table of the recording: any number, read as they are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.widgets import Static

from vtrace.browse.snapshot import State
from vtrace.errors import VtraceError
from vtrace.tables import SCHEMAS
from vtrace.tables.human import count_text
from vtrace.text import clean
from vtrace.tui.base import Selection, ViewScreen
from vtrace.tui.grid import Grid
from vtrace.tui.place import Place
from vtrace.tui.sources import ViewColumn, ViewSource

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.page import Page
    from vtrace.browse.snapshot import Snapshot
    from vtrace.browse.view import View

__all__ = ["RowsScreen"]

AT_ONCE = 4096
"""Rows that are exported at a time."""


class RowsScreen(ViewScreen):
    """Rows of one table, at a place, that match a filter.

    A subclass says ``table``, ``noun`` and ``view_columns``. A hint ``row`` or ``time_ns`` says
    where the cursor begins.
    """

    noun: ClassVar[tuple[str, str]] = ("row", "rows")
    """What a row is, and what several are."""
    POLL_S: ClassVar[float] = 0.25

    DEFAULT_CSS = """
    RowsScreen #status { height: 1; color: $text-muted; padding: 0 1; }
    """

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self.rows: View | None = None
        self._opened_paused = False
        self._begin_row: int | None = hints.get("row")
        self._begin_ns: int | None = hints.get("time_ns")

    def view_columns(self) -> Sequence[ViewColumn]:
        """Return the columns, which may depend on the place."""
        raise NotImplementedError

    # -- the table -------------------------------------------------------------------------------

    def compose_view(self) -> ComposeResult:
        """Yield the table and what is known of it."""
        yield Grid([one.column for one in self.view_columns()], id="rows")
        yield Static("", id="status", markup=False)

    @property
    def grid(self) -> Grid:
        """The table."""
        return self.query_one("#rows", Grid)

    def on_mount(self) -> None:
        """Begin to read."""
        self.open_view()
        self.set_interval(self.POLL_S, self._poll)

    def on_unmount(self) -> None:
        """Count no further."""
        if self.rows is not None:
            self.rows.close()

    def open_view(self) -> None:
        """Ask for the rows of the place and the filter."""
        try:
            view = self.browser.view(self.place.query(self.table, self.filter_text))
        except VtraceError as error:
            self.fail(error)
            return
        if self.rows is not None:
            self.rows.close()
        self.rows = view
        self._opened_paused = self.vtrace.paused
        columns = self.view_columns()
        self.grid.set_columns([one.column for one in columns])
        self.grid.set_source(ViewSource(view, columns))
        self._poll()

    def on_figures(self, snapshot: Snapshot) -> None:
        """Take in rows that came."""
        self._poll()

    def on_filter(self, text: str) -> None:
        """Show the rows that match."""
        self.filter_text = text
        self.open_view()

    def apply_place(self, place: Place) -> None:
        """Show the rows of another place."""
        self.place = place
        self.open_view()

    def on_times(self) -> None:
        """Draw times anew: what they count from has changed."""
        self.grid.redraw()

    def _poll(self) -> None:
        view = self.rows
        if view is None or not self.is_mounted:
            return
        if not self.vtrace.paused:
            self._opened_paused = False
        elif not self._opened_paused:
            return
        count = len(view)
        if not count:
            self.show_note(self.nothing(view))
            return
        self.show_note(None)
        self.grid.update()
        self._begin(view)
        self.show_status()

    def _begin(self, view: View) -> None:
        # Where the cursor was asked to begin, once that is known.
        if self._begin_row is not None and (self._begin_row < len(view) or view.done):
            self.grid.go_to(self._begin_row)
            self._begin_row = None
        if self._begin_ns is not None and view.done:
            time_ns, self._begin_ns = self._begin_ns, None
            self.go_to_time(time_ns)

    def nothing(self, view: View) -> str:
        """Return why there are no rows."""
        snapshot = self.browser.snapshot
        if view.sentence:
            return view.sentence
        if snapshot.state is State.FAILED:
            return snapshot.sentence
        if not view.done:
            return f"Reading the recording … {view.progress:.0%}"
        what = self.noun[1]
        if self.filter_text:
            return f"No {what} match {self.filter_text} here. (/ changes the filter)"
        if snapshot.state is State.FOLLOWING:
            return f"No {what} here yet. Waiting for events …"
        return f"No {what} here."

    def show_status(self) -> None:
        """Say where the cursor is, and how much was read."""
        view = self.rows
        if view is None:
            return
        count = self.grid.row_count
        text = Text(f"{count_text(self.grid.cursor + 1)} of {count_text(count)} ")
        text.append(self.noun[0] if count == 1 else self.noun[1])
        if not view.done:
            text.append(f" · counted {view.progress:.0%}", style="accent")
        if self.grid.marked:
            text.append(f" · {count_text(len(self.grid.marked))} marked", style="warn")
        if view.sentence:
            text.append(f" · {clean(view.sentence)}", style="alarm")
        self.query_one("#status", Static).update(text)

    def on_grid_moved(self) -> None:
        """Say where the cursor is."""
        self.show_status()

    def on_grid_failed(self, event: Grid.Failed) -> None:
        """Say why rows could not be read."""
        self.fail(event.sentence)

    @property
    def ready(self) -> bool:
        """Whether the rows are counted and those on the screen are drawn."""
        view = self.rows
        paused = self.vtrace.paused
        drawn = view is not None and view.done and (paused or self.grid.row_count == len(view))
        return super().ready and drawn and not self.grid.waiting

    # -- rows ------------------------------------------------------------------------------------

    def row_under_cursor(self) -> tuple[Page, int] | None:
        """Return the page and the index in it of the row under the cursor, if it is in memory."""
        if self.rows is None or not self.grid.row_count:
            return None
        page = self.rows.peek(self.grid.cursor, 1)
        return (page, 0) if page is not None and len(page) else None

    def with_row(self, then: Callable[[Page], None]) -> None:
        """Call with a page of the row under the cursor, reading it if need be."""
        view, row = self.rows, self.grid.cursor
        if view is not None and self.grid.row_count:
            self.work(lambda: view.load(row, 1), then, group="row", failed=self.fail)

    @property
    def cursor_ns(self) -> int | None:
        """Time of the row under the cursor."""
        found = self.row_under_cursor()
        if found is None:
            return None
        time = found[0].lists(["time_ns"])[0][0]
        return None if time is None else int(time)

    @property
    def cursor_place(self) -> Place:
        """The queue of the row under the cursor."""
        found = self.row_under_cursor()
        if found is None:
            return self.place
        names = [n for n in ("vm", "device", "queue") if n in found[0].table]
        values = [column[0] for column in found[0].lists(names)]
        return Place.of_row(dict(zip(names, values, strict=True)))

    def go_to_time(self, time_ns: int) -> None:
        """Put the cursor on the first row of a time."""
        view = self.rows
        if view is not None:
            self.work(lambda: view.row_at(time_ns), self.grid.go_to, group="time", failed=self.fail)

    def find(self, text: str, step: int = 1) -> None:
        """Put the cursor on the next row that matches a filter, or with -1 on the one before."""
        view, row = self.rows, self.grid.cursor

        def found(at: int | None) -> None:
            if at is None:
                self.notify(f"no {'further' if step > 0 else 'earlier'} {self.noun[0]} matches")
            else:
                self.grid.go_to(at)

        if view is not None:
            self.work(lambda: view.search(text, row, step), found, group="find", failed=self.fail)

    def selection(self) -> Selection | None:
        """Return the rows: the marked ones if there are some, else all."""
        view = self.rows
        if view is None:
            return None
        marked = sorted(row for row in self.grid.marked if isinstance(row, int))
        current = self.row_under_cursor()
        return Selection(
            name=self.table,
            columns=SCHEMAS[self.table].names,
            rows=_rows(view, marked),
            count=len(marked) if marked else len(view),
            filter_text=self.filter_text,
            place=self.place,
            marked=bool(marked),
            current=None if current is None else next(iter(current[0].rows()), None),
        )


def _rows(view: View, marked: Sequence[int]) -> Iterator[dict[str, Any]]:
    for row in marked:
        yield from view.load(row, 1).rows()
    if marked:
        return
    at = 0
    while at < len(view):
        page = view.load(at, AT_ONCE)
        yield from page.rows()
        at += max(len(page), 1)
