"""The app: which screen is shown, which figures it draws, and what holds everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from rich.theme import Theme as RichTheme
from textual.app import App
from textual.binding import Binding, BindingType

from vtrace.browse.verdict import queue_texts
from vtrace.errors import VtraceError
from vtrace.text import clean
from vtrace.tui.base import ViewScreen
from vtrace.tui.frame import FrameHeader, KeyLine
from vtrace.tui.place import Place
from vtrace.tui.screens import VIEW_KEYS, screen_class
from vtrace.tui.theme import PLAIN, THEMES, styles_of, wanted_theme

if TYPE_CHECKING:
    from vtrace.browse.browser import Browser, Moment
    from vtrace.browse.snapshot import Snapshot
    from vtrace.browse.verdict import Judge

__all__ = ["VtraceApp"]

UPDATES_A_SECOND: Final = 4


class VtraceApp(App[None]):
    """The terminal UI over a browser."""

    TITLE = "vtrace"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", key_display="/", id="filter"),
        Binding("space", "pause", "pause", key_display="space", id="pause"),
        Binding("x", "export", "export", id="export"),
        Binding("y", "copy", "copy", show=False, id="copy"),
        Binding("ctrl+t", "follow", "follow", show=False, id="follow"),
        Binding("b", "time_base", "time base", show=False, id="time_base"),
        Binding("question_mark,f1", "help", "help", key_display="?", id="help", system=True),
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
        judge: Judge | None = None,
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
        self.judge = judge
        """Has the recording diagnosed while the app runs; None: nobody does."""
        self._judged = -1
        self.waiting_for = ""
        """What the next key is for, as a sentence."""
        self._held: Snapshot | None = None
        self._number = -1
        self._first = (view, place if place is not None else Place(), dict(hints or {}))
        self._keys = dict(keys or {})
        for one in THEMES:
            self.register_theme(one)
        self.theme = name if name in self.available_themes else THEMES[0].name

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
    def view(self) -> ViewScreen | None:
        """The screen of a view that is in front or behind a dialog."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, ViewScreen):
                return screen
        return None

    def on_mount(self) -> None:
        """Show the first screen and begin to draw."""
        self._use_styles()
        self.theme_changed_signal.subscribe(self, lambda _: self._use_styles())
        if self._keys:
            self.set_keymap(self._keys)
        view, place, hints = self._first
        self.push_screen(screen_class(view)(place, **hints))
        if self.judge is not None:
            self.judge.start()
        self.set_interval(1 / UPDATES_A_SECOND, self.tick)

    def on_unmount(self) -> None:
        """End what runs beside it."""
        if self.judge is not None:
            self.judge.close()

    def _use_styles(self) -> None:
        # Names of styles in texts mean what the theme says.
        console = self.console
        if hasattr(self, "_named"):
            console.pop_theme()
        self._named = True
        console.push_theme(RichTheme(styles_of(self.current_theme, self.theme_variables)))

    def tick(self) -> None:
        """Draw the newest snapshot, if there is one."""
        if self.paused or self.moment is not None:
            return
        self._hear()
        snapshot = self.browser.snapshot
        if snapshot.number == self._number:
            return
        self._number = snapshot.number
        self.draw()

    def _hear(self) -> None:
        # What the diagnosis has found meanwhile.
        if self.judge is None or self.judge.verdict.number == self._judged:
            return
        verdict = self.judge.verdict
        self._judged = verdict.number
        self.set_verdicts(queue_texts(verdict.diagnosis, self.browser.snapshot.queues))

    def draw(self) -> None:
        """Draw the screen's figures anew."""
        view = self.view
        if view is not None and view.is_mounted:
            view.draw()

    @property
    def held(self) -> bool:
        """Whether the figures stand still: paused, or at an earlier time."""
        return self.paused or self.moment is not None

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
            self.notify(f"there is no view {view_name}", severity="warning")
            return None

    def _made(self, view_name: str, place: Place, hints: dict[str, Any]) -> ViewScreen | None:
        cls = self._class(view_name)
        if cls is None:
            return None
        if cls.needs_queue and place.queue is None:
            self.notify("choose a queue first: it is about one")
            return None
        return cls(place, **hints)

    async def action_back(self) -> None:
        """Go back to the screen that this one was opened from."""
        views = [screen for screen in self.screen_stack if isinstance(screen, ViewScreen)]
        if len(views) > 1:
            await self.pop_screen()
            return
        view = self.view
        if view is not None and view.place.outer != view.place:
            self.crumb_to(view.place.outer)

    def action_crumb(self, at: int) -> None:
        """Go to a part of the way here."""
        view = self.view
        if view is not None:
            self.crumb_to(view.place.crumbs[at][1])

    def crumb_to(self, place: Place) -> None:
        """Go to an outer place: in a screen that was there already, or in a new one."""
        view = self.view
        if view is None or view.place == place:
            return
        name = "queues" if view.needs_queue and place.queue is None else view.view_name
        if name == "chain":
            name = "queue" if place.queue is not None else "queues"
        screen = self._made(name, place, {})
        if screen is not None:
            self.switch_screen(screen)

    # -- what holds everywhere -------------------------------------------------------------------

    def action_pause(self) -> None:
        """Hold the figures, or let them go on."""
        if self.moment is not None:
            self.leave_moment()
            return
        self._held = None if self.paused else self.browser.snapshot
        self.paused = not self.paused
        self._number = -1
        self.draw()

    def leave_moment(self) -> None:
        """Show the newest again."""
        self.moment = None
        self.at_ns = None
        self._number = -1
        self.draw()

    def action_time_base(self) -> None:
        """Show times of day, or times from the start."""
        self.time_base = "start" if self.time_base == "clock" else "clock"
        view = self.view
        if view is not None and view.is_mounted:
            view.on_times()
        self.frame_changed()

    def second_key(self, key: str, character: str | None) -> bool:
        """Take a key that another one announced; return whether it was taken."""
        return False

    def set_verdicts(self, verdicts: Mapping[tuple[str, str, str], str]) -> None:
        """Take what the diagnosis says of each queue."""
        self.verdicts = dict(verdicts)
        view = self.view
        if view is not None:
            view.on_verdicts()

    def say(self, error: VtraceError | str) -> None:
        """Show a sentence."""
        severity = "error" if isinstance(error, VtraceError) else "information"
        self.notify(clean(str(error)), severity=cast("Any", severity), markup=False)

    def frame_changed(self) -> None:
        """Draw the header and the keys anew."""
        view = self.view
        if view is not None and view.is_mounted:
            view.query_one(FrameHeader).show()
            view.query_one(KeyLine).show()
