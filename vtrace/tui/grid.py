"""A table of any number of rows: only what is on the screen is made, only what changed is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from rich.segment import Segment
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from vtrace.errors import VtraceError
from vtrace.tui.columns import (
    Cell,
    GridColumn,
    Placed,
    RowList,
    RowSource,
    arranged,
    fitted,
    fitting,
    same,
)

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events

__all__ = ["Cell", "Grid", "GridColumn", "RowList", "RowSource"]

KEPT_ROWS: Final = 1024
"""Rows whose cells, and whose lines, are kept."""
WAITING: Final = "…"
"""Stands for cells that are being read."""


class Grid(ScrollView, can_focus=True, inherit_bindings=False):
    """A table by lines, with a cursor that is a row.

    ``update`` shows what its source has now: it draws the cells that changed and nothing else.
    """

    DEFAULT_CSS = """
    Grid { height: 1fr; background: $background; color: $foreground; overflow-x: hidden;
           scrollbar-size-vertical: 1; scrollbar-gutter: stable; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "cursor(-1)", "up", show=False, id="grid.up"),
        Binding("down,j", "cursor(1)", "down", show=False, id="grid.down"),
        Binding("pageup,ctrl+b", "page(-1)", "page up", show=False, id="grid.page_up"),
        Binding("pagedown,ctrl+f", "page(1)", "page down", show=False, id="grid.page_down"),
        Binding("home", "first", "first row", show=False, id="grid.first"),
        Binding("end,G", "last", "last row", show=False, id="grid.last"),
        Binding("enter", "open", "open", key_display="⏎", id="grid.open"),
    ]

    cursor: reactive[int] = reactive(0, repaint=False)

    class Opened(Message):
        """A row was chosen: enter, or a second click."""

        def __init__(self, grid: Grid, row: int) -> None:
            super().__init__()
            self.grid = grid
            self.row = row

        @property
        def control(self) -> Grid:
            """The grid."""
            return self.grid

    class Moved(Opened):
        """The cursor stands on another row."""

    class Sorted(Message):
        """The heading of a column that can be sorted by was clicked."""

        def __init__(self, grid: Grid, key: str) -> None:
            super().__init__()
            self.grid = grid
            self.key = key

        @property
        def control(self) -> Grid:
            """The grid."""
            return self.grid

    class Failed(Message):
        """Rows could not be read; ``sentence`` says why."""

        def __init__(self, grid: Grid, sentence: str) -> None:
            super().__init__()
            self.grid = grid
            self.sentence = sentence

        @property
        def control(self) -> Grid:
            """The grid."""
            return self.grid

    def __init__(
        self,
        columns: Sequence[GridColumn],
        source: RowSource | None = None,
        *,
        id: str | None = None,  # noqa: A002 as Textual names it
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.source: RowSource = source if source is not None else RowList()
        self.sort_key = ""
        self.sort_reverse = False
        self.marked: set[Hashable] = set()
        """Keys of rows (their numbers where rows have no keys) that a person has marked."""
        self.follow = False
        """The cursor stays on the last row while rows are added."""
        self._rows: dict[int, list[Cell]] = {}
        self._strips: dict[int, Strip] = {}
        self._shown: list[Placed] = []
        self._count = 0
        self._wanted: tuple[int, int] | None = None
        self._loading = False
        self._g = False
        self._gap = 1
        self._width = 0
        self._fitting: dict[str, int] = {}
        self._styles: dict[str, Style] = {}

    def on_mount(self) -> None:
        """Take in the rows that are there."""
        self._measure()
        self._count = len(self.source)

    # -- rows ------------------------------------------------------------------------------------

    @property
    def row_count(self) -> int:
        """Rows there are, as far as they are shown."""
        return self._count

    def key_of(self, row: int) -> Hashable:
        """Return what a row is known by: its key, or its number."""
        keys = getattr(self.source, "keys", None)
        return keys[row] if keys is not None and 0 <= row < len(keys) else row

    def set_columns(self, columns: Sequence[GridColumn]) -> None:
        """Show other columns."""
        self.columns = tuple(columns)
        self._arrange()
        self.redraw()

    def set_source(self, source: RowSource, *, keep: bool = False) -> None:
        """Show the rows of another source; from the top, or with ``keep`` where the cursor is."""
        key = self.key_of(self.cursor) if self._count else None
        self.source = source
        self._measure()
        if not keep:
            self.marked.clear()
            self._rows.clear()
            self._strips.clear()
            self._count = len(source)
            self._resize()
            self.cursor = 0
            self.scroll_to(y=0, animate=False, immediate=True)
            self.refresh()
            return
        keys = getattr(source, "keys", None)
        row = self.cursor
        if keys is not None and key is not None:
            try:
                row = keys.index(key)
            except ValueError:
                row = min(row, len(source) - 1)
        moved = row - self.cursor
        self.set_reactive(Grid.cursor, max(row, 0))
        self.update()
        if moved:
            self._strips.clear()
            self.scroll_to(y=self.scroll_y + moved, animate=False, immediate=True)
            self.refresh()

    def update(self) -> None:
        """Draw what has changed in the source since it was drawn."""
        count = len(self.source)
        if count != self._count:
            at_end = self.follow
            self._count = count
            self._resize()
            if self.cursor >= count:
                self.cursor = max(count - 1, 0)
            if at_end and count:
                self.cursor = count - 1
            self._strips.clear()
            self.refresh()
        if getattr(self.source, "stable", False):
            return
        first, height = self._window()
        fresh = self.source.cells(first, height)
        if fresh is None:
            return
        self._rows = {row: cells for row, cells in self._rows.items() if first <= row}
        for at, cells in enumerate(fresh):
            row = first + at
            old = self._rows.get(row)
            self._rows[row] = cells
            if old is None or len(old) != len(cells) or len(cells) == 1:
                self._strips.pop(row, None)
                self.refresh_line(row + 1)
                continue
            for index, _, x, width in self._shown:
                if not same(old[index], cells[index]):
                    self._strips.pop(row, None)
                    self.refresh(Region(x, at + 1, width, 1))
        for row in [row for row in self._rows if row >= first + len(fresh)]:
            del self._rows[row]

    def redraw(self) -> None:
        """Forget what was drawn and draw it anew."""
        self._rows.clear()
        self._strips.clear()
        self._styles.clear()
        self.refresh()

    def _window(self) -> tuple[int, int]:
        return self.scroll_offset.y, max(self.size.height - 1, 0)

    def _resize(self) -> None:
        self.virtual_size = Size(self._width, self._count + 1)

    def _cells_of(self, row: int) -> list[Cell] | None:
        cells = self._rows.get(row)
        if cells is not None:
            return cells
        first, height = self._window()
        fresh = self.source.cells(first, min(height, self._count - first))
        if fresh is None:
            self._want(first, height)
            return None
        if len(self._rows) > KEPT_ROWS:
            self._rows.clear()
        for at, found in enumerate(fresh):
            self._rows[first + at] = found
        return self._rows.get(row)

    def _want(self, first: int, count: int) -> None:
        self._wanted = first, count
        if not self._loading:
            self._loading = True
            self.run_worker(self._load(), group="grid", exit_on_error=True)

    async def _load(self) -> None:
        # One at a time, the newest wish next: a long scroll leaves no queue of pages behind.
        try:
            while self._wanted is not None:
                wanted, self._wanted = self._wanted, None
                source = self.source
                await asyncio.to_thread(source.load, *wanted)
                if source is self.source:
                    self._strips.clear()
                    self.refresh()
        except VtraceError as error:
            self.post_message(self.Failed(self, str(error)))
        finally:
            self._loading = False

    @property
    def waiting(self) -> bool:
        """Whether rows are being read."""
        return self._loading

    # -- columns ---------------------------------------------------------------------------------

    def _measure(self) -> None:
        rows = self.source.rows if isinstance(self.source, RowList) else ()
        widths = fitting(self.columns, rows)
        if widths != self._fitting:
            self._fitting = widths
            self._arrange()
            self._strips.clear()
            self.refresh()

    def _arrange(self) -> None:
        """Choose the columns that there is room for, and where they stand."""
        self._width = self.scrollable_content_region.width
        self._shown, self._gap = arranged(self.columns, self._fitting, self._width - 1)

    @property
    def shown_columns(self) -> list[GridColumn]:
        """Columns that there is room for."""
        return [column for _, column, _, _ in self._shown]

    # -- drawing ---------------------------------------------------------------------------------

    def notify_style_update(self) -> None:
        """Draw all anew: the theme has changed."""
        super().notify_style_update()
        self._styles.clear()
        self._strips.clear()

    def on_resize(self) -> None:
        """Choose the columns anew."""
        self._arrange()
        self._strips.clear()
        self._resize()
        self.refresh()

    def on_focus(self) -> None:
        """Show the cursor as that of the focus."""
        self._strips.pop(self.cursor, None)
        self.refresh_line(self.cursor + 1)

    on_blur = on_focus

    def _style(self, name: str) -> Style:
        style = self._styles.get(name)
        if style is None:
            style = self._styles[name] = self.app.console.get_style(name, default="")
        return style

    def render_line(self, y: int) -> Strip:
        """Return a line: the headings, a row, or nothing."""
        width = self._width
        base = self._styles.get("*")
        if base is None:
            base = self._styles["*"] = self.rich_style
        if y == 0:
            return self._head(width).apply_style(base)
        row = self.scroll_offset.y + y - 1
        if row >= self._count:
            return Strip.blank(width, base)
        strip = self._strips.get(row)
        if strip is None:
            if len(self._strips) > KEPT_ROWS:
                self._strips.clear()
            cells = self._cells_of(row)
            strip = self._line(row, cells, width).apply_style(base)
            if cells is not None:
                self._strips[row] = strip
        return strip

    def _head(self, width: int) -> Strip:
        segments: list[Segment] = []
        x = 0
        for _, column, start, room in self._shown:
            if start > x:
                segments.append(Segment(" " * (start - x)))
            name, style = column.head, self._style("head")
            if column.key == self.sort_key:
                # The sign stands in the gap, so that the heading keeps its place.
                name += "▾" if self.sort_reverse else "▴"
                room += 1
                style = self._style("head.sorted")
            segments.extend(self._fitted(Text(name, style=style), room, column.right))
            x = start + room
        return Strip(segments).adjust_cell_length(width)

    def _line(self, row: int, cells: list[Cell] | None, width: int) -> Strip:
        segments: list[Segment] = []
        x = 0
        if cells is not None and len(cells) == 1 < len(self.columns):
            segments = [Segment(" "), *self._fitted(cells[0], max(width - 2, 1), False)]
            cells, shown = None, []
        else:
            shown = self._shown
        for index, column, start, room in shown:
            if start > x:
                segments.append(Segment(" " * (start - x)))
            cell: Cell = cells[index] if cells is not None else Text(WAITING, style="faint")
            segments.extend(self._fitted(cell, room, column.right))
            x = start + room
        strip = Strip(segments).adjust_cell_length(width)
        if self.key_of(row) in self.marked:
            strip = Strip([Segment("▪", self._style("warn")), *strip.crop(1)]).apply_style(
                self._style("marked")
            )
        if row == self.cursor:
            strip = strip.apply_style(self._style("cursor" if self.has_focus else "cursor.blur"))
        return strip

    def _fitted(self, cell: Cell, room: int, right: bool) -> list[Segment]:
        return fitted(cell, room, right, self.app.console)

    # -- the cursor ------------------------------------------------------------------------------

    def validate_cursor(self, row: int) -> int:
        """Keep the cursor on a row."""
        return max(0, min(row, self._count - 1)) if self._count else 0

    def watch_cursor(self, old: int, new: int) -> None:
        """Draw both rows, and scroll to the new one."""
        for row in (old, new):
            self._strips.pop(row, None)
            if self.is_mounted:
                self.refresh_line(row + 1)
        self.show_row(new)
        self.post_message(self.Moved(self, new))

    def show_row(self, row: int) -> None:
        """Scroll so that a row is on the screen."""
        first, height = self._window()
        if height <= 0:
            return
        if row < first:
            self.scroll_to(y=row, animate=False, immediate=True)
        elif row >= first + height:
            self.scroll_to(y=row - height + 1, animate=False, immediate=True)

    def go_to(self, row: int) -> None:
        """Put the cursor on a row, with rows around it on the screen."""
        _, height = self._window()
        self.cursor = row
        self.scroll_to(y=max(self.cursor - height // 2, 0), animate=False, immediate=True)

    def action_cursor(self, step: int) -> None:
        """Move the cursor by rows."""
        self.follow = False
        self.cursor += step

    def action_page(self, step: int) -> None:
        """Move the cursor by a screenful."""
        self.follow = False
        self.cursor += step * max(self._window()[1] - 1, 1)

    def action_first(self) -> None:
        """Go to the first row."""
        self.follow = False
        self.cursor = 0
        self.scroll_to(y=0, animate=False, immediate=True)

    def action_last(self) -> None:
        """Go to the last row."""
        self.cursor = self._count - 1

    def action_open(self) -> None:
        """Open the row under the cursor."""
        if self._count:
            self.post_message(self.Opened(self, self.cursor))

    def toggle_mark(self) -> None:
        """Mark the row under the cursor, or no longer, and go to the next."""
        if not self._count:
            return
        key = self.key_of(self.cursor)
        self.marked.symmetric_difference_update({key})
        self._strips.pop(self.cursor, None)
        self.refresh_line(self.cursor + 1)
        self.cursor += 1

    def on_key(self, event: events.Key) -> None:
        """Take ``gg``: to the first row."""
        if event.key == "g":
            event.stop()
            event.prevent_default()
            if self._g:
                self.action_first()
            self._g = not self._g
        else:
            self._g = False

    def on_click(self, event: events.Click) -> None:
        """Choose the row, open it at the second click; sort by a heading."""
        if event.y == 0:
            for _, column, x, width in self._shown:
                if x - 1 <= event.x < x + width + self._gap - 1 and column.sortable:
                    self.post_message(self.Sorted(self, column.key))
            return
        row = self.scroll_offset.y + event.y - 1
        if row < self._count:
            self.follow = False
            if event.chain >= 2 and row == self.cursor:
                self.action_open()
            self.cursor = row
