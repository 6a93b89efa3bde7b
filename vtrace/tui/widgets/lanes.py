"""Lanes that share one time axis, with a cursor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from rich.text import Text
from textual.message import Message
from textual.widget import Widget

from vtrace.text import cells, clean

if TYPE_CHECKING:
    from textual import events

    from vtrace.browse.lane_rows import LaneRow

__all__ = ["LanesView", "axis_lines", "tick_step"]

LABELS: Final = (12, 24)
"""The least and the most columns that labels take."""
NOTE: Final = 26
NOTES_FROM: Final = 98
"""From so many columns on there is room for notes at the right."""
STEPS: Final = (1, 2, 5)

TimeText = Callable[[int], str]


class LanesView(Widget, can_focus=True):
    """Rows of lanes below a time axis; a column is the cursor."""

    DEFAULT_CSS = """
    LanesView { height: 1fr; background: $background; color: $foreground; padding: 0 1; }
    """

    class Pointed(Message):
        """A column was clicked."""

        def __init__(self, column: int, row: int) -> None:
            super().__init__()
            self.column = column
            self.row = row

    class Dragged(Message):
        """The lanes were pulled by so many columns to the right."""

        def __init__(self, columns: int) -> None:
            super().__init__()
            self.columns = columns

    class Zoomed(Message):
        """The wheel was turned with ctrl, at a column: +1 closer, -1 further."""

        def __init__(self, column: int, step: int) -> None:
            super().__init__()
            self.column = column
            self.step = step

    class Resized(Message):
        """There is another number of columns."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 as Textual names it
        super().__init__(id=id)
        self.rows: Sequence[LaneRow] = ()
        self.span = (0, 1)
        self.cursor = 0
        self.selected = 0
        self.first = 0
        """First row that is shown."""
        self.stalls: Sequence[int] = ()
        """Columns that a stall begins in."""
        self.facts: Sequence[str] = ()
        self.time_text: TimeText = str
        self.clock_ns = 0
        """What the clock of ``time_text`` shows at the beginning of the span."""
        self._pressed: int | None = None

    @property
    def label(self) -> int:
        """Columns that the labels take."""
        least, most = LABELS
        wide = max((cells(clean(row.label)) for row in self.rows), default=0) + 2
        return max(least, min(wide, most, self.size.width // 4))

    @property
    def columns(self) -> int:
        """Columns of time."""
        return max(self.size.width - self.label - (NOTE if self._noted else 0), 8)

    @property
    def _noted(self) -> bool:
        return self.size.width >= NOTES_FROM

    @property
    def height_of_rows(self) -> int:
        """Lines for rows, between the axis and the facts."""
        return max(self.size.height - 2 - max(len(self.facts), 1) - 1, 1)

    def on_resize(self) -> None:
        """Say that there are other columns."""
        self.post_message(self.Resized())

    def choose(self, row: int) -> None:
        """Go to a row, and scroll to it."""
        self.selected = max(0, min(row, len(self.rows) - 1))
        room = self.height_of_rows
        self.first = max(min(self.first, self.selected), self.selected - room + 1, 0)
        self.refresh()

    def render(self) -> Text:
        """Return all lines."""
        columns, label = self.columns, self.label
        top = axis_lines(
            self.span, columns, self.time_text, self.stalls, self.cursor, self.clock_ns
        )
        lines = [Text(" " * label).append_text(line) for line in top]
        room = self.height_of_rows
        self.first = max(min(self.first, len(self.rows) - room), 0)
        shown = self.rows[self.first : self.first + room]
        for at, row in enumerate(shown, self.first):
            lines.append(self._line(row, label, columns, chosen=at == self.selected))
        lines += [Text()] * (room - len(shown))
        more = len(self.rows) - self.first - len(shown)
        rule = Text("─" * max(self.size.width, 0), style="faint")
        if more > 0 or self.first:
            words = f" {self.first} lanes above, {more} below (up, down) "
            rule = Text("─" * 2, style="faint").append(words, style="dim")
            rule.append("─" * max(self.size.width - rule.cell_len, 0), style="faint")
        lines.append(rule)
        lines += [Text(fact) for fact in self.facts]
        for line in lines:
            line.truncate(self.size.width, overflow="ellipsis")
        return Text("\n", no_wrap=True).join(lines[: self.size.height])

    def _line(self, row: LaneRow, label: int, columns: int, *, chosen: bool) -> Text:
        name = clean(row.label, label - 2)
        line = Text()
        line.append(name, style="bold" if chosen else "dim")
        line.append(" " * (label - cells(name)))
        if not row.chars:
            return line.append(clean(row.note), style="faint")
        start = len(line)
        line.append(row.chars[:columns].ljust(columns))
        for first, last, style in runs(row.styles[:columns]):
            if style:
                line.stylize(style, start + first, start + last)
        if 0 <= self.cursor < columns:
            line.stylize("cursor", start + self.cursor, start + self.cursor + 1)
        if self._noted:
            line.append("  ").append(
                clean(row.note, NOTE - 2), style="alarm" if row.loud else "dim"
            )
        return line

    # -- the mouse -------------------------------------------------------------------------------

    def _column(self, event: events.MouseEvent) -> int:
        return int(event.x) - self.styles.padding.left - self.label

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Begin to pull."""
        self._pressed = self._column(event)
        self.capture_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Pull the lanes along."""
        if self._pressed is None or not event.button:
            return
        moved = self._column(event) - self._pressed
        if moved:
            self._pressed += moved
            self.post_message(self.Dragged(moved))

    def on_mouse_up(self, event: events.MouseUp) -> None:
        """Let go."""
        self._pressed = None
        self.release_mouse()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor there."""
        column, row = self._column(event), int(event.y) - 2 + self.first
        if 0 <= column < self.columns:
            self.post_message(self.Pointed(column, row))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll, or with ctrl see more of the time."""
        self._scrolled(event, 1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll, or with ctrl look closer."""
        self._scrolled(event, -1)

    def _scrolled(self, event: events.MouseEvent, step: int) -> None:
        event.stop()
        if event.ctrl:
            self.post_message(self.Zoomed(self._column(event), -step))
        else:
            self.choose(self.selected + step)


def runs(styles: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return stretches of one style: first, end, style."""
    found: list[tuple[int, int, str]] = []
    first = 0
    for at in range(1, len(styles) + 1):
        if at == len(styles) or styles[at] != styles[first]:
            found.append((first, at, styles[first]))
            first = at
    return found


def tick_step(span_ns: int, columns: int, label: int = 13) -> int:
    """Return the time between two ticks: 1, 2 or 5 of a power of ten, with room for a label."""
    least = max(span_ns * label // max(columns, 1), 1)
    step = 1
    while True:
        for factor in STEPS:
            if step * factor >= least:
                return step * factor
        step *= 10


def axis_lines(
    span: tuple[int, int],
    columns: int,
    time_text: TimeText,
    stalls: Sequence[int],
    cursor: int,
    clock_ns: int = 0,
) -> list[Text]:
    """Return the times and the ruler below them; a stall is ``◆`` on the ruler.

    Ticks stand at round times of the clock that ``time_text`` shows: it shows ``clock_ns`` at the
    beginning.
    """
    t0, t1 = span
    # The clock that is shown has microseconds.
    step = max(tick_step(t1 - t0, columns), 1000)
    tick = t0 + (-clock_ns) % step
    labels, ruler = [" "] * columns, ["─"] * columns
    before = ""
    while tick < t1:
        at = (tick - t0) * columns // (t1 - t0)
        text = _digits(time_text(tick), step)
        shown = text
        if before and text.rpartition(".")[0] == before.rpartition(".")[0] and "." in text:
            shown = "." + text.rpartition(".")[2]
        before = text
        if 0 <= at < columns:
            ruler[at] = "┬"
            if at + len(shown) <= columns and labels[max(at - 1, 0)] == " ":
                labels[at : at + len(shown)] = list(shown)
        tick += step
    line = Text("".join(labels), style="dim")
    rule = Text("".join(ruler), style="faint")
    for at in stalls:
        if 0 <= at < columns:
            rule = _at(rule, at, "◆", "orange")
    if 0 <= cursor < columns:
        rule = _at(rule, cursor, "▼", "key")
    return [line, rule]


def _digits(text: str, step: int) -> str:
    # Only as many digits behind the point as the step needs; the clock has microseconds.
    whole, point, part = text.rpartition(".")
    if not point:
        return text
    need = 0
    while need < len(part) and 10 ** (9 - need) > step:
        need += 1
    return f"{whole}.{part[:need]}" if need else whole


def _at(line: Text, at: int, char: str, style: str) -> Text:
    return line[:at].append(char, style=style).append_text(line[at + 1 :])
