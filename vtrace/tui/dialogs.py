"""Small dialogs over a screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from vtrace.errors import VtraceError
from vtrace.text import clean

if TYPE_CHECKING:
    from textual.app import ComposeResult

__all__ = ["Prompt"]


class Prompt(ModalScreen[str]):
    """Asks for a line of text; gives an empty one if it is left."""

    DEFAULT_CSS = """
    Prompt { align: center middle; background: $background 60%; }
    Prompt #box { width: 76; max-width: 95%; height: auto; background: $panel; color: $foreground;
                  padding: 1 2; border-left: thick $primary; }
    Prompt Input { border: none; height: 1; padding: 0; margin: 1 0; background: $surface; }
    Prompt Input:focus { border: none; }
    Prompt #title { text-style: bold; }
    Prompt #says { height: auto; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", id="prompt.leave"),
        Binding("tab", "cycle", "next", show=False, priority=True, id="prompt.cycle"),
    ]

    def __init__(
        self,
        title: str,
        text: str = "",
        *,
        says: str = "",
        check: Callable[[str], object] | None = None,
        cycle: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._says = says
        self._check = check
        self._cycle = cycle

    def compose(self) -> ComposeResult:
        """Yield the question, the line, and what is said of it."""
        with Vertical(id="box"):
            yield Static(clean(self._title), id="title", markup=False)
            yield Input(self._text, select_on_focus=False)
            yield Static(Text(self._says, style="dim"), id="says", markup=False)

    def on_mount(self) -> None:
        """Begin to type."""
        line = self.query_one(Input)
        line.cursor_blink = False
        line.focus()

    def on_input_changed(self) -> None:
        """Say again what was said at first."""
        self.query_one("#says", Static).update(Text(self._says, style="dim"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give the line, if it is right."""
        event.stop()
        text = event.value.strip()
        try:
            if text and self._check is not None:
                self._check(text)
        except VtraceError as error:
            self.query_one("#says", Static).update(Text(clean(str(error)), style="alarm"))
            return
        self.dismiss(text)

    def action_leave(self) -> None:
        """Give nothing."""
        self.dismiss("")

    def action_cycle(self) -> None:
        """Change the line to the next choice."""
        if self._cycle is not None:
            line = self.query_one(Input)
            line.value = self._cycle(line.value)
            line.cursor_position = len(line.value)
