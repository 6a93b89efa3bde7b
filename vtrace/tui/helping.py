"""Help: what a screen shows, and the keys that are in force on it."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from vtrace.tui.keys import keys_path

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.tui.base import ViewScreen

__all__ = ["HelpScreen", "help_text"]

KEY_WIDTH: Final = 20
MARKS_HELP: Final = (
    "m and a letter marks where you are; ' and the letter goes back there, '' to and fro"
)


def help_text(view: ViewScreen, width: int = 90) -> Text:
    """Return the help of a screen, with the keys as they are bound now."""
    text = Text(no_wrap=False)
    text.append(f"{view.view_title}\n\n", style="title")
    for line in flowed(view.help, max(width, 30)):
        text.append(line + "\n")
    sections: dict[str, dict[str, tuple[list[str], Binding]]] = {
        "on this screen": {},
        "in a table": {},
        "everywhere": {},
    }
    for key, (node, binding, enabled, _) in view.active_bindings.items():
        if not enabled or not binding.description:
            continue
        name = (binding.id or "").partition(".")[0]
        if node is view.app or name in {"", "back"}:
            section = "everywhere"
        elif name == "grid":
            section = "in a table"
        else:
            section = "on this screen"
        keys, _ = sections[section].setdefault(binding.action, ([], binding))
        shown = view.app.get_key_display(binding.with_key(key))
        if shown not in keys:
            keys.append(shown)
    sections["in a table"].setdefault("top", (["gg"], Binding("g", "top", "first row")))
    for title, found in sections.items():
        if not found:
            continue
        text.append(f"\n{title}\n", style="head.sorted")
        for keys, binding in found.values():
            text.append(f"  {'  '.join(keys):<{KEY_WIDTH}}", style="key")
            text.append(f"{binding.tooltip or binding.description}")
            text.append(f"  {binding.id or ''}\n", style="faint")
    text.append(f"\n{MARKS_HELP}.\n", style="dim")
    text.append(
        f"Keys can be changed in {keys_path()}, a line for each: the name at the right = the key,\n"
        'for example  pause = "p"  or  grid.down = ["down", "j"].\n',
        style="dim",
    )
    return text


def flowed(text: str, width: int) -> list[str]:
    """Return a text in lines of a width.

    A line with two spaces in it is a word and what it means; lines that begin with a space go on
    with it.
    """
    lines: list[str] = []
    for paragraph in re.split(r"\n[ ]*\n", text.strip("\n")):
        if lines:
            lines.append("")
        parts: list[str] = []
        for line in paragraph.splitlines():
            item = re.match(r"\s*\S+(?: \S+)*?\s{2,}(?=\S)", line)
            deep = re.match(r"\s{3,}", line)
            if item and not deep:
                parts.append(line)
            elif parts:
                parts[-1] += " " + line.strip()
            else:
                parts.append(line)
        for part in parts:
            item = re.match(r"\s*\S+(?: \S+)*?\s{2,}(?=\S)", part)
            hang = " " * len(item[0]) if item else ""
            begin = item[0] if item else ""
            lines += textwrap.wrap(
                part[len(begin) :], width, initial_indent=begin, subsequent_indent=hang
            )
    return lines


class HelpScreen(ModalScreen[None]):
    """The help of the screen behind it."""

    DEFAULT_CSS = """
    HelpScreen { align: center middle; background: $background 60%; }
    HelpScreen #help { width: 100; max-width: 96%; height: auto; max-height: 92%;
                       background: $panel; color: $foreground; padding: 1 2;
                       border-left: thick $primary; scrollbar-size-vertical: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,backspace", "dismiss", "close", id="help.close"),
        Binding("j", "scroll_down", "down", show=False, id="help.down"),
        Binding("k", "scroll_up", "up", show=False, id="help.up"),
    ]

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """Yield the text."""
        with VerticalScroll(id="help"):
            yield Static(self._text, markup=False)

    def action_scroll_down(self) -> None:
        """Scroll down by a line."""
        self.query_one("#help").scroll_down(animate=False)

    def action_scroll_up(self) -> None:
        """Scroll up by a line."""
        self.query_one("#help").scroll_up(animate=False)
