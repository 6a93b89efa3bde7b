"""The app: which screen is shown, which figures it draws, and what holds everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.theme import Theme as RichTheme
from textual.binding import Binding, BindingType

from vtrace.browse.verdict import Judge, JudgeState, queue_texts
from vtrace.errors import UsageError
from vtrace.tui.base import ViewScreen
from vtrace.tui.filterbar import History
from vtrace.tui.helping import HelpScreen, help_text
from vtrace.tui.keys import wrong_keys
from vtrace.tui.palette import commands
from vtrace.tui.place import Place
from vtrace.tui.screens import VIEW_KEYS, screen_class
from vtrace.tui.taking import TakingApp
from vtrace.tui.theme import DARK, PLAIN, THEMES, styles_of, wanted_theme

if TYPE_CHECKING:
    from textual.app import SystemCommand
    from textual.dom import DOMNode
    from textual.screen import Screen

    from vtrace.browse.browser import Browser

__all__ = ["VtraceApp"]

UPDATES_A_SECOND: Final = 4


class VtraceApp(TakingApp):
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
        super().__init__(browser, ansi_color=True if name == PLAIN.name else None)
        self.verdicts: dict[tuple[str, str, str], str] = {}
        """By (vm, device, queue): what the diagnosis says of a queue, in a few words."""
        self.judge: Judge | None = None
        self.history = History()
        self.first_words = ""
        """A sentence to begin with."""
        self._judged = -1
        self._wants_judge = judge
        self._first = (view, place if place is not None else Place(), dict(hints or {}))
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

    def close_judge(self) -> None:
        """End the diagnosis."""
        if self.judge is not None:
            self.judge.close()

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

    # -- going about -----------------------------------------------------------------------------

    def go(self, view_name: str, place: Place, **hints: Any) -> None:
        """Open a view of a place; backspace comes back."""
        screen = self.made(view_name, place, hints)
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
        screen = self.made(view_name, place, {})
        if screen is not None:
            self.switch_screen(screen)

    def _class(self, view_name: str) -> type[ViewScreen] | None:
        try:
            return screen_class(view_name)
        except (ModuleNotFoundError, KeyError):
            self.say(f"there is no view {view_name}")
            return None

    def made(self, view_name: str, place: Place, hints: dict[str, Any]) -> ViewScreen | None:
        """Return a new screen; None, and a sentence, where there is none of that place."""
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
        screen = self.made(name, place, {})
        if screen is not None:
            self.switch_screen(screen)

    def action_help(self) -> None:
        """Show what the screen says of itself, and the keys in force."""
        view = self.view
        if view is not None and view is self.screen:
            self.push_screen(HelpScreen(help_text(view, min(self.size.width * 95 // 100, 100) - 7)))

    def action_filter(self) -> None:
        """Write a filter."""
        view = self.view
        if view is not None and view is self.screen:
            view.open_filter()

    @property
    def failure(self) -> Exception | None:
        """What ended the app, if that was an error."""
        return self._exception

    def _print_error_renderables(self) -> None:
        # Textual prints a traceback with all that stood in variables, a guest's bytes among it. The
        # command says in one sentence what went wrong.
        if os.environ.get("VTRACE_DEBUG"):
            super()._print_error_renderables()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Return what the command palette offers."""
        return commands(self)

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
