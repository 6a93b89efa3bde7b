"""The app: which screen is shown, which figures it draws, and what holds everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from rich.theme import Theme as RichTheme
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType

from vtrace.browse.verdict import Judge, JudgeState, queue_texts
from vtrace.errors import UsageError, VtraceError
from vtrace.session import parse_moment
from vtrace.text import clean
from vtrace.tui import export
from vtrace.tui.base import ViewScreen
from vtrace.tui.dialogs import Prompt
from vtrace.tui.filterbar import History
from vtrace.tui.frame import FrameHeader, KeyLine
from vtrace.tui.grid import Grid
from vtrace.tui.helping import HelpScreen, help_text
from vtrace.tui.keys import wrong_keys
from vtrace.tui.marks import Mark
from vtrace.tui.palette import commands
from vtrace.tui.place import Place
from vtrace.tui.screens import VIEW_KEYS, screen_class
from vtrace.tui.theme import DARK, PLAIN, THEMES, styles_of, wanted_theme

if TYPE_CHECKING:
    from textual.dom import DOMNode
    from textual.screen import Screen

    from vtrace.browse.browser import Browser, Moment
    from vtrace.browse.snapshot import Snapshot
    from vtrace.session import Moment as Asked
    from vtrace.tui.base import Selection

__all__ = ["VtraceApp"]

UPDATES_A_SECOND: Final = 4
STEPS: Final = 200
"""Steps of the time cursor through a recording, roughly."""
FAR: Final = 10
BACK_MARK: Final = "'"


class VtraceApp(App[None]):
    """The terminal UI over a browser."""

    TITLE = "vtrace"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    COMMAND_PALETTE_DISPLAY = "^p"
    CSS = """
    Toast { width: auto; max-width: 80%; background: $panel; color: $foreground; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash,colon", "filter", "filter", key_display="/", id="filter"),
        Binding("space", "pause", "pause", key_display="space", id="pause"),
        Binding("x", "export", "export", id="export"),
        Binding("y", "copy", "copy", show=False, tooltip="copy the row as JSON", id="copy"),
        Binding("v", "mark_row", "mark row", show=False, id="mark_row"),
        Binding("m", "mark", "mark", show=False, tooltip="mark this place: m a", id="mark"),
        Binding("apostrophe", "jump", "go to mark", show=False, key_display="'", id="go_to_mark"),
        Binding("ctrl+t", "follow", "follow", show=False, tooltip="go on, at the end", id="follow"),
        Binding("comma", "scrub(-1)", "back in time", show=False, key_display=",", id="step_back"),
        Binding("full_stop", "scrub(1)", "on in time", show=False, key_display=".", id="step_on"),
        Binding("less_than_sign", "scrub(-10)", "far back in time", show=False, id="far_back"),
        Binding("greater_than_sign", "scrub(10)", "far on in time", show=False, id="far_on"),
        Binding("t", "go_to_time", "go to a time", show=False, id="go_to_time"),
        Binding("b", "time_base", "times of day, or from the start", show=False, id="time_base"),
        Binding("question_mark,f1", "help", "help", key_display="?", id="help", system=True),
        Binding(
            "ctrl+p", "command_palette", "palette", key_display="^p", id="palette", system=True
        ),
        Binding("q,ctrl+q", "quit", "quit", show=False, id="quit"),
        *(
            Binding(key, f"switch('{name}')", name, show=False, id=f"view.{name}")
            for key, name in VIEW_KEYS.items()
        ),
    ]

    def __init__(
        self,
        browser: Browser,
        *,
        keys: Mapping[str, str] | None = None,
        theme: str | None = None,
        view: str = "queues",
        place: Place | None = None,
        hints: Mapping[str, Any] | None = None,
        judge: bool = True,
    ) -> None:
        name = wanted_theme(theme)
        super().__init__(ansi_color=True if name == PLAIN.name else None)
        self.browser = browser
        self.moment: Moment | None = None
        self.at_ns: int | None = None
        """Where the time cursor is; None: at the newest."""
        self.paused = False
        self.time_base = "clock"
        self.verdicts: dict[tuple[str, str, str], str] = {}
        """By (vm, device, queue): what the diagnosis says of a queue, in a few words."""
        self.judge: Judge | None = None
        self.marks: dict[str, Mark] = {}
        self.history = History()
        self.waiting_for = ""
        """What the next key is for, as a sentence."""
        self.first_words = ""
        """A sentence to begin with."""
        self._prefix = ""
        self._held: Snapshot | None = None
        self._number = -1
        self._judged = -1
        self._wants_judge = judge
        self._first = (view, place if place is not None else Place(), dict(hints or {}))
        self._begin: tuple[Asked | None, int | None] = (None, None)
        self._scrub_to: int | None = None
        self._scrubbing = False
        self._writing = 0
        self._named = False
        self._keys = dict(keys or {})
        self._clashes: set[str] = set()
        for one in THEMES:
            self.register_theme(one)
        self.theme = name if name in self.available_themes else DARK.name

    # -- begin and end ---------------------------------------------------------------------------

    def on_mount(self) -> None:
        """Show the first screen and begin to draw."""
        self._use_styles()
        self.theme_changed_signal.subscribe(self, lambda _: self._use_styles())
        if self._keys:
            self.set_keymap(self._keys)
        path = getattr(self.browser, "path", None)
        if self._wants_judge and path is not None:
            self.judge = Judge(path, lambda: self.browser.snapshot)
            self.judge.start()
        view, place, hints = self._first
        self.push_screen(screen_class(view)(place, **hints))
        self.set_interval(1 / UPDATES_A_SECOND, self.tick)
        for sentence in (self.first_words, *wrong_keys(self._keys)):
            if sentence:
                self.say(UsageError(sentence))

    def begin_at(self, moment: Asked | None, at_ns: int | None) -> None:
        """Say at which time it begins, once that is known."""
        self._begin = moment, at_ns

    def close_judge(self) -> None:
        """End the diagnosis."""
        if self.judge is not None:
            self.judge.close()

    @property
    def settled(self) -> bool:
        """Whether nothing that was asked for is still to come."""
        return not (self._scrubbing or self._writing or any(self._begin))

    @property
    def judged(self) -> bool:
        """Whether the diagnosis has said what it has to say."""
        judge = self.judge
        if judge is None:
            return True
        verdict = judge.verdict
        done = verdict.state in (JudgeState.DONE, JudgeState.FAILED)
        return done and verdict.number == self._judged

    # -- figures ---------------------------------------------------------------------------------

    @property
    def shown(self) -> Snapshot:
        """The figures that screens draw."""
        if self.moment is not None:
            return self.moment.snapshot
        if self.paused and self._held is not None:
            return self._held
        return self.browser.snapshot

    @property
    def held(self) -> bool:
        """Whether the figures stand still: paused, or at an earlier time."""
        return self.paused or self.moment is not None

    @property
    def view(self) -> ViewScreen | None:
        """The screen of a view that is in front or behind a dialog."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, ViewScreen):
                return screen
        return None

    def tick(self) -> None:
        """Draw what is new: figures, verdicts."""
        snapshot = self.browser.snapshot
        if any(self._begin) and snapshot.start_ns is not None:
            self._go_to_begin(snapshot)
        self._take_verdicts()
        if self.held or snapshot.number == self._number:
            return
        self._number = snapshot.number
        self.draw()

    def draw(self) -> None:
        """Draw the screen's figures anew."""
        view = self.view
        if view is not None and view.is_mounted:
            view.draw()

    def frame_changed(self) -> None:
        """Draw the header and the keys anew."""
        view = self.view
        if view is not None and view.is_mounted:
            view.query_one(FrameHeader).show()
            view.query_one(KeyLine).show()

    def _take_verdicts(self) -> None:
        if self.judge is None or self.judge.verdict.number == self._judged:
            return
        verdict = self.judge.verdict
        self._judged = verdict.number
        self.set_verdicts(queue_texts(verdict.diagnosis, self.browser.snapshot.queues))

    def set_verdicts(self, verdicts: Mapping[tuple[str, str, str], str]) -> None:
        """Take what the diagnosis says of each queue."""
        self.verdicts = dict(verdicts)
        view = self.view
        if view is not None and view.is_mounted:
            view.on_verdicts()

    def time_text(self, time_ns: int) -> str:
        """Return a time of day, or from the start where that is not known or was asked for."""
        return self.time_texts()(time_ns)

    def time_texts(self) -> Callable[[int], str]:
        """Return what makes texts of times, for many of them."""
        start = self.browser.snapshot.start_ns or 0
        clock = self.browser.clock if self.time_base == "clock" else None

        def text(time_ns: int) -> str:
            of_day = clock.text(time_ns) if clock is not None else None
            if of_day is not None:
                return of_day
            past = abs(time_ns - start) // 1000
            sign = "-" if time_ns < start else ""
            return f"{sign}{past // 1_000_000}.{past % 1_000_000:06d}"

        return text

    # -- going about -----------------------------------------------------------------------------

    def go(self, view_name: str, place: Place, **hints: Any) -> None:
        """Open a view of a place; backspace comes back."""
        screen = self._made(view_name, place, hints)
        if screen is not None:
            self.push_screen(screen)

    def action_switch(self, view_name: str) -> None:
        """Show another view of the same place."""
        view = self.view
        if view is None or view is not self.screen or view.view_name == view_name:
            return
        place = view.place
        cls = self._class(view_name)
        if cls is None:
            return
        if cls.needs_queue and place.queue is None:
            place = view.cursor_place
        screen = self._made(view_name, place, {})
        if screen is not None:
            self.switch_screen(screen)

    def _class(self, view_name: str) -> type[ViewScreen] | None:
        try:
            return screen_class(view_name)
        except (ModuleNotFoundError, KeyError):
            self.say(f"there is no view {view_name}")
            return None

    def _made(self, view_name: str, place: Place, hints: dict[str, Any]) -> ViewScreen | None:
        cls = self._class(view_name)
        if cls is None:
            return None
        if cls.needs_queue and place.queue is None:
            self.say("choose a queue first: this view is about one")
            return None
        return cls(place, **hints)

    async def action_back(self) -> None:
        """Go back to the screen that this one was opened from, or to the place around it."""
        views = [screen for screen in self.screen_stack if isinstance(screen, ViewScreen)]
        if len(views) > 1:
            await self.pop_screen()
            return
        view = self.view
        if view is not None:
            self.crumb_to(view.place.outer)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the way back only where there is one."""
        view = self.view
        if action == "back" and view is not None:
            views = [screen for screen in self.screen_stack if isinstance(screen, ViewScreen)]
            return len(views) > 1 or view.place.outer != view.place
        return True

    def action_crumb(self, at: int) -> None:
        """Go to a part of the way here."""
        view = self.view
        if view is not None:
            self.crumb_to(view.place.crumbs[at][1])

    def crumb_to(self, place: Place) -> None:
        """Show the same view of an outer place, or the queues where it is about one queue."""
        view = self.view
        if view is None or view.place == place:
            return
        name = view.view_name
        if name == "chain":
            name = "chains"
        if view.needs_queue and place.queue is None:
            name = "queues"
        screen = self._made(name, place, {})
        if screen is not None:
            self.switch_screen(screen)

    def action_help(self) -> None:
        """Show what the screen says of itself, and the keys in force."""
        view = self.view
        if view is not None and view is self.screen:
            self.push_screen(HelpScreen(help_text(view)))

    def action_filter(self) -> None:
        """Write a filter."""
        view = self.view
        if view is not None and view is self.screen:
            view.open_filter()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Return what the command palette offers."""
        return commands(self)

    # -- time ------------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Hold the figures, or let them go on."""
        if self.moment is not None or self.at_ns is not None:
            self.leave_moment()
            return
        self._held = None if self.paused else self.browser.snapshot
        self.paused = not self.paused
        self._number = -1
        self.draw()

    def action_follow(self) -> None:
        """Go on with the newest, at the end of the list."""
        self.paused = False
        self._held = None
        self.leave_moment()
        view = self.view
        for grid in view.query(Grid) if view is not None else ():
            grid.action_last()
            grid.follow = True

    def leave_moment(self) -> None:
        """Show the newest again."""
        self.moment = None
        self.at_ns = self._scrub_to = None
        self._number = -1
        self.draw()

    def action_scrub(self, steps: int) -> None:
        """Move the time cursor."""
        snapshot = self.browser.snapshot
        if snapshot.start_ns is None or snapshot.cut_ns is None:
            return
        at = self.at_ns
        if at is None:
            at = self.shown.cut_ns if self.paused else snapshot.cut_ns
        self.scrub((at or snapshot.cut_ns) + steps * step_ns(snapshot.duration_ns))

    def scrub(self, at_ns: int | None) -> None:
        """Show everything as it stood at a time; None or behind the end: the newest."""
        snapshot = self.browser.snapshot
        if at_ns is None or snapshot.start_ns is None or snapshot.cut_ns is None:
            self.leave_moment()
            return
        if at_ns >= snapshot.cut_ns:
            self.leave_moment()
            return
        self.at_ns = self._scrub_to = max(at_ns, snapshot.start_ns)
        self.frame_changed()
        if not self._scrubbing:
            self._scrubbing = True
            self.run_worker(self._scrub(), group="scrub")

    async def _scrub(self) -> None:
        # The newest wish next: many steps leave no queue of moments behind.
        try:
            while self._scrub_to is not None:
                wanted, self._scrub_to = self._scrub_to, None
                moment = await asyncio.to_thread(self.browser.at, wanted)
                if self.at_ns is not None:
                    self.moment = moment
                    self.draw()
        except VtraceError as error:
            self.say(error)
            self.leave_moment()
        finally:
            self._scrubbing = False

    def action_go_to_time(self) -> None:
        """Ask for a time and show everything as it stood then."""
        says = "12:01:03.115, or 2.5s from the start, or nanoseconds as recorded"

        def go(text: str | None) -> None:
            if text:
                self._go_to(self._time(text))

        self.push_screen(Prompt("Go to a time", says=says, check=self._time), go)

    def _time(self, text: str) -> int:
        start = self.browser.snapshot.start_ns
        if start is None:
            raise UsageError("nothing has been recorded yet, so there is no time to go to")
        return self.browser.clock.resolve(parse_moment(text), start)

    def _go_to(self, at_ns: int) -> None:
        self.scrub(at_ns)
        view = self.view
        if view is not None:
            view.go_to_time(at_ns)

    def _go_to_begin(self, snapshot: Snapshot) -> None:
        # A file is read for its figures first: its end says whether the time is in it.
        if snapshot.state.value in {"opening", "reading"}:
            return
        (moment, at_ns), self._begin = self._begin, (None, None)
        try:
            if moment is not None:
                at_ns = self.browser.clock.resolve(moment, snapshot.start_ns or 0)
        except VtraceError as error:
            self.say(error)
        if at_ns is not None:
            self._go_to(at_ns)

    def action_time_base(self) -> None:
        """Show times of day, or times from the start."""
        self.time_base = "start" if self.time_base == "clock" else "clock"
        view = self.view
        if view is not None and view.is_mounted:
            view.on_times()
        self.frame_changed()

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
        screen = self._made(mark.view_name, mark.place, dict(mark.hints))
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
        which = "marked " if selection.marked else ""

        def write(path: str | None) -> None:
            if path:
                self._export(path)

        self.push_screen(
            Prompt(
                f"Export {which}{selection.name}: {rows}",
                export.default_path(selection),
                says="tab changes the format: .jsonl rows as JSON, .csv, .vtrace the part of the "
                "recording that they come from",
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

    # -- looks -----------------------------------------------------------------------------------

    def use_theme(self, name: str) -> None:
        """Change the colours."""
        self.theme = name

    def _use_styles(self) -> None:
        # Names of styles in texts mean what the theme says.
        if self._named:
            self.console.pop_theme()
        self._named = True
        self.console.push_theme(RichTheme(styles_of(self.current_theme, self.theme_variables)))
        for screen in self.screen_stack:
            if isinstance(screen, ViewScreen) and screen.is_mounted:
                screen.on_styles()

    def say(self, words: VtraceError | str) -> None:
        """Show a sentence for a while."""
        severity = "error" if isinstance(words, VtraceError) else "information"
        self.notify(clean(str(words)), severity=cast("Any", severity), markup=False)

    def handle_bindings_clash(self, clashed_bindings: set[Binding], node: DOMNode) -> None:
        """Say which key of keys.toml was taken from something else."""
        new = [
            f"{binding.key} is no longer {binding.description}"
            for binding in clashed_bindings
            if binding.key not in self._clashes
        ]
        self._clashes |= {binding.key for binding in clashed_bindings}
        if new:
            self.say(f"keys.toml: {'; '.join(sorted(new))}")


def step_ns(duration_ns: int) -> int:
    """Return a step of the time cursor: 1, 2 or 5 of a power of ten, a 200th of the recording."""
    wanted = max(duration_ns // STEPS, 1000)
    size = 1000
    while True:
        for part in (1, 2, 5):
            if size * part >= wanted:
                return size * part
        size *= 10
