"""What a person takes along: marks to come back to, rows as files, a row in the clipboard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.binding import Binding, BindingType

from vtrace.errors import VtraceError
from vtrace.text import clean
from vtrace.tui import export
from vtrace.tui.dialogs import Prompt
from vtrace.tui.grid import Grid
from vtrace.tui.marks import Mark
from vtrace.tui.timeapp import TimeApp

if TYPE_CHECKING:
    from vtrace.browse.browser import Browser
    from vtrace.tui.base import Selection, ViewScreen
    from vtrace.tui.place import Place

__all__ = ["TakingApp"]

BACK_MARK: Final = "'"


class TakingApp(TimeApp):
    """An app with marks and exports."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "export", "export", id="export"),
        Binding("y", "copy", "copy", show=False, tooltip="copy the row as JSON", id="copy"),
        Binding("v", "mark_row", "mark row", show=False, id="mark_row"),
        Binding("m", "mark", "mark", show=False, tooltip="mark this place: m a", id="mark"),
        Binding("apostrophe", "jump", "go to mark", show=False, key_display="'", id="go_to_mark"),
    ]

    def __init__(self, browser: Browser, *, ansi_color: bool | None = None) -> None:
        super().__init__(browser, ansi_color=ansi_color)
        self.marks: dict[str, Mark] = {}
        self.waiting_for = ""
        """What the next key is for, as a sentence."""
        self._prefix = ""
        self._writing = 0

    @property
    def settled(self) -> bool:
        """Whether nothing that was asked for is still to come."""
        return super().settled and not self._writing

    def made(self, view_name: str, place: Place, hints: dict[str, Any]) -> ViewScreen | None:
        """Return a new screen; None, and a sentence, where there is none of that place."""
        raise NotImplementedError

    # -- marks -----------------------------------------------------------------------------------

    def action_mark(self) -> None:
        """Wait for the letter of a mark."""
        self._wait("m", "mark this place: press a letter")

    def action_jump(self) -> None:
        """Wait for the letter of a mark to go to."""
        known = " · ".join(f"{letter} {clean(mark.text)}" for letter, mark in self.marks.items())
        self._wait("'", f"go to mark: {known}" if known else "there are no marks yet: m a sets one")

    def _wait(self, prefix: str, says: str) -> None:
        self._prefix = prefix
        self.waiting_for = says
        self.frame_changed()

    def second_key(self, key: str, character: str | None) -> bool:
        """Take the key behind ``m`` or ``'``; return whether it was taken."""
        prefix = self._prefix
        if not prefix:
            return False
        self._wait("", "")
        view = self.view
        if view is None or character is None or not character.isprintable() or key == "escape":
            return True
        if prefix == "m":
            self.marks[character] = self._here(view)
            self.say(f"marked as {character}: ' {character} comes back here")
        else:
            self.jump_to(character)
        return True

    def _here(self, view: ViewScreen) -> Mark:
        hints = view.mark_hints()
        return Mark(view_name=view.view_name, place=view.place, hints=hints, at_ns=self.at_ns)

    def jump_to(self, letter: str) -> None:
        """Go to a mark."""
        mark, view = self.marks.get(letter), self.view
        if mark is None or view is None:
            self.say(f"there is no mark {letter}")
            return
        self.marks[BACK_MARK] = self._here(view)
        screen = self.made(mark.view_name, mark.place, dict(mark.hints))
        if screen is not None:
            self.switch_screen(screen)
            if mark.at_ns != self.at_ns:
                self.scrub(mark.at_ns)

    def action_mark_row(self) -> None:
        """Mark the row under the cursor, or no longer."""
        if isinstance(self.focused, Grid):
            self.focused.toggle_mark()

    # -- export ----------------------------------------------------------------------------------

    def action_export(self) -> None:
        """Ask for a file and write the rows to it."""
        selection = self._selection()
        if selection is None:
            return
        rows = "1 row" if selection.count == 1 else f"{selection.count:,} rows"
        part = "the recording of the line under the cursor"
        if selection.part is None:
            part = "the part of the recording that they come from"
        which = "marked " if selection.marked else ""

        def write(path: str | None) -> None:
            if path:
                self._export(path)

        self.push_screen(
            Prompt(
                f"Export {which}{selection.name}: {rows}",
                export.default_path(selection),
                says=f"tab changes the format: .jsonl rows as JSON, .csv, .vtrace {part}",
                check=export.check_path,
                cycle=export.next_ending,
            ),
            write,
        )

    def _selection(self) -> Selection | None:
        view = self.view
        selection = view.selection() if view is not None and view is self.screen else None
        if selection is None:
            self.say("there are no rows to export on this screen")
        return selection

    def _export(self, path: str) -> None:
        view = self.view
        selection = view.selection() if view is not None else None
        if selection is None:
            return
        recording = str(getattr(self.browser, "path", ""))

        async def run() -> None:
            try:
                says = await asyncio.to_thread(export.export, path, selection, recording)
            except VtraceError as error:
                self.say(error)
            else:
                self.say(says)
            finally:
                self._writing -= 1

        self._writing += 1
        self.run_worker(run(), group="export")

    def action_copy(self) -> None:
        """Copy the row under the cursor as JSON."""
        view = self.view
        selection = view.selection() if view is not None and view is self.screen else None
        if selection is None or selection.current is None:
            self.say("there is no row to copy under the cursor")
            return
        self.copy_to_clipboard(export.row_json(selection.current))
        self.say(f"copied this row of {selection.name} as JSON")
