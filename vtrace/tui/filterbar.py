"""The filter bar: an expression of ``-Y``, told right from wrong while it is typed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from vtrace.errors import FilterError
from vtrace.filter import compile_filter, complete, fields_of
from vtrace.tables import SCHEMAS
from vtrace.text import clean

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.tui.base import ViewScreen

__all__ = ["FilterBar", "History", "candidates", "history_path"]

PROMPT: Final = " / "
MOST_KEPT: Final = 500
_VALUE: Final = re.compile(r"([\w.]+)\s*(?:==|!=|contains)\s*\"?([\w.:-]*)$")
_WORD: Final = re.compile(r"[\w.]*$")
_BARE: Final = re.compile(r"[A-Za-z_][\w.-]*")


def history_path() -> Path:
    """Return where filters are remembered: ``$XDG_STATE_HOME/vtrace/history``."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "vtrace/history"


class History:
    """Filters that were used, the newest last; kept in a file that its owner alone can read."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path if path is not None else history_path()
        self.lines: list[str] = []
        try:
            # A damaged file is no reason not to start: what can be read is kept.
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        self.lines = [line for line in text.splitlines()[-MOST_KEPT:] if line.strip()]

    def add(self, line: str) -> str:
        """Remember a filter; return a sentence where the file cannot be written."""
        if not line.strip() or "\n" in line:
            return ""
        self.lines = [*(one for one in self.lines if one != line), line][-MOST_KEPT:]
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write("\n".join(self.lines) + "\n")
                file.truncate()
        except OSError as error:
            return f"{self.path}: the filter is not remembered: {os.strerror(error.errno or 0)}"
        return ""


def candidates(text: str, table: str, values: Iterable[str] = ()) -> tuple[int, list[str]]:
    """Return where the last word of a filter begins, and what may stand there.

    ``values`` are those that were seen of the field before it.
    """
    schema = SCHEMAS[table]
    match = _VALUE.search(text)
    if match and match[1] in fields_of(schema):
        known = list(fields_of(schema)[match[1]].values) or sorted(set(values))
        start = match.start(2)
        quoted = text[start - 1 : start] == '"'
        found = [one for one in known if one.startswith(match[2]) and '"' not in one]
        if not quoted:
            found = [one if _BARE.fullmatch(one) else f'"{one}"' for one in found]
        return start, found
    match = _WORD.search(text)
    start = match.start() if match else len(text)
    found = complete(text, schema)
    if start == len(text):
        # Nothing is begun: as the table has them, places first.
        order = {name: at for at, name in enumerate(schema.names)}
        found.sort(key=lambda name: order.get(name, len(order)))
    return start, found


class FilterInput(Input):
    """The line that is typed into."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "complete(1)", "complete", id="filter.complete"),
        Binding("shift+tab", "complete(-1)", "complete", show=False, id="filter.complete_back"),
        Binding("up", "past(-1)", "history", key_display="↑", id="filter.older"),
        Binding("down", "past(1)", "history", show=False, id="filter.newer"),
        Binding("escape", "leave", "leave", key_display="esc", id="filter.leave"),
    ]

    @property
    def bar(self) -> FilterBar:
        """The bar that it is in."""
        return cast("FilterBar", self.parent.parent if self.parent else None)

    def action_complete(self, step: int) -> None:
        """Put the next candidate in."""
        self.bar.complete(step)

    def action_past(self, step: int) -> None:
        """Show an older or a newer filter."""
        self.bar.past(step)

    def action_leave(self) -> None:
        """Leave without a change."""
        self.bar.post_message(FilterBar.Left())


class FilterBar(Widget):
    """Two lines below the header, while a filter is written."""

    DEFAULT_CSS = """
    FilterBar { height: auto; background: $surface; layout: vertical; }
    FilterBar Horizontal { height: 1; }
    FilterBar #prompt { width: 3; color: $primary; text-style: bold; }
    FilterBar Input { width: 1fr; background: $surface; color: $foreground; border: none; height: 1;
                      padding: 0; }
    FilterBar Input:focus { border: none; background-tint: $surface 0%; }
    FilterBar #says { height: auto; max-height: 3; width: 1fr; }
    """

    class Applied(Message):
        """The filter is to be used."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Left(Message):
        """The filter stays as it was."""

    def __init__(self, table: str, text: str, history: History) -> None:
        super().__init__()
        self.table = table
        self.history = history
        self._text = text
        self._at = len(history.lines)
        self._typed = text
        self._tries: list[str] = []
        self._try = -1
        self._setting = False
        self.error: FilterError | None = None
        """What is wrong with it."""

    def compose(self) -> ComposeResult:
        """Yield the line and what is said of it."""
        with Horizontal():
            yield Static(PROMPT, id="prompt", markup=False)
            yield FilterInput(self._text, compact=True, select_on_focus=False)
        yield Static("", id="says", markup=False)

    def on_mount(self) -> None:
        """Begin to type."""
        self.input.cursor_blink = False
        self.input.focus()

    def on_resize(self) -> None:
        """Fit what is offered."""
        self.check(self.input.value)

    @property
    def input(self) -> FilterInput:
        """The line."""
        return self.query_one(FilterInput)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say whether it is right."""
        event.stop()
        if not self._setting:
            self._tries, self._try = [], -1
            self._at = len(self.history.lines)
        self._setting = False
        self.check(event.value)

    @on(Input.Submitted)
    def apply(self, event: Input.Submitted) -> None:
        """Use it, if it is right."""
        event.stop()
        self.check(event.value)
        if self.error is None:
            self.post_message(self.Applied(event.value.strip()))

    # -- right or wrong --------------------------------------------------------------------------

    def check(self, text: str) -> None:
        """Say whether an expression is right, and what may come next."""
        self.error = None
        says = self.query_one("#says", Static)
        if text.strip():
            try:
                compile_filter(text, SCHEMAS[self.table])
            except FilterError as error:
                self.error = error
        says.update(self._says(text))

    def _says(self, text: str) -> Text:
        start, found = candidates(text, self.table, self._values(text))
        word = text[start:]
        offered = [one for one in found if one.strip('"') != word]
        ends = self.error is not None and (self.error.column or 0) >= len(text.rstrip())
        if not text.strip():
            line = Text("   ✓ all rows ", style="dim")
        elif self.error is None:
            line = Text().append("   ✓ ", style="good").append(self._meaning(text), style="dim")
        elif ends or (offered and word and (self.error.column or 0) >= start):
            line = Text("   … ", style="dim")
            if ends and not offered:
                line.append(_message(self.error), style="dim")
        else:
            return self._pointed()
        if self._tries:
            offered = self._tries
        room = max(self.size.width - line.cell_len - 8, 20)
        for at, one in enumerate(offered):
            text_of = clean(one)
            if room < len(text_of) + 2:
                line.append(f" +{len(offered) - at}", style="faint")
                break
            room -= len(text_of) + 2
            chosen = bool(self._tries) and at == self._try
            line.append("  ").append(text_of, style="key" if chosen else "accent")
        return line

    def _pointed(self) -> Text:
        # The mark stands below the character that is wrong, what is wrong beside it.
        error = self.error
        assert error is not None
        at = len(PROMPT) + (error.column or 0) - self.input.scroll_offset.x
        message = clean(_message(error))
        width = max(self.size.width, 20)
        at = max(0, min(at, width - 1))
        if at + 2 + len(message) <= width:
            return Text(" " * at + f"^ {message}", style="alarm")
        if len(message) + 1 <= at:
            return Text(" " * (at - len(message) - 1) + f"{message} ^", style="alarm")
        return Text(" " * at + f"^\n   {message}", style="alarm")

    def _meaning(self, text: str) -> str:
        names = re.findall(r"[A-Za-z_][\w.]*", text)
        fields = fields_of(SCHEMAS[self.table])
        known = [fields[name] for name in names if name in fields]
        if not known:
            return ""
        last = known[-1]
        unit = f" ({last.unit})" if last.unit else ""
        return f"{last.name}: {last.meaning}{unit}"

    def _values(self, text: str) -> Iterable[str]:
        match = _VALUE.search(text)
        screen = cast("ViewScreen", self.screen)
        return screen.values_seen(match[1]) if match else ()

    # -- completion and history ------------------------------------------------------------------

    def complete(self, step: int) -> None:
        """Put the next candidate for the last word in."""
        if not self._tries:
            self._typed = self.input.value
            start, found = candidates(self._typed, self.table, self._values(self._typed))
            self._tries = [one for one in found if one != self._typed[start:]]
            self._try = -1 if step > 0 else 0
        if not self._tries:
            return
        self._try = (self._try + step) % len(self._tries)
        start, _ = candidates(self._typed, self.table, self._values(self._typed))
        chosen = self._tries[self._try]
        if len(self._tries) == 1:
            self._tries, self._try = [], -1
        self._set(self._typed[:start] + chosen)

    def past(self, step: int) -> None:
        """Show an older (-1) or a newer filter."""
        if self._at == len(self.history.lines):
            self._typed = self.input.value
        at = max(0, min(self._at + step, len(self.history.lines)))
        if at == self._at:
            return
        self._at = at
        self._set(self.history.lines[at] if at < len(self.history.lines) else self._typed)

    def _set(self, text: str) -> None:
        if text == self.input.value:
            return
        self._setting = True
        self.input.value = text
        self.input.cursor_position = len(text)


def _message(error: FilterError) -> str:
    return re.sub(r"^filter, column \d+: ", "", str(error))
