"""Which figures the app draws: the newest, those of a pause, those of an earlier time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from textual.binding import Binding, BindingType

from vtrace.errors import UsageError, VtraceError
from vtrace.session import parse_moment
from vtrace.text import clean
from vtrace.tui.base import ViewScreen
from vtrace.tui.dialogs import Prompt
from vtrace.tui.frame import FrameHeader, KeyLine
from vtrace.tui.grid import Grid
from vtrace.tui.typeahead import TypeAheadApp

if TYPE_CHECKING:
    from vtrace.browse.browser import Browser, Moment
    from vtrace.browse.snapshot import Snapshot
    from vtrace.session import Moment as Asked

__all__ = ["TimeApp", "step_ns"]

STEPS: Final = 200
"""Steps of the time cursor through a recording, roughly."""


class TimeApp(TypeAheadApp):
    """An app over a browser that can be paused, and moved in time."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "pause", key_display="space", id="pause"),
        Binding("ctrl+t", "follow", "follow", show=False, tooltip="go on, at the end", id="follow"),
        Binding("comma", "scrub(-1)", "back in time", show=False, key_display=",", id="step_back"),
        Binding("full_stop", "scrub(1)", "on in time", show=False, key_display=".", id="step_on"),
        Binding("less_than_sign", "scrub(-10)", "far back in time", show=False, id="far_back"),
        Binding("greater_than_sign", "scrub(10)", "far on in time", show=False, id="far_on"),
        Binding("t", "go_to_time", "go to a time", show=False, id="go_to_time"),
        Binding("b", "time_base", "times of day, or from the start", show=False, id="time_base"),
    ]

    def __init__(self, browser: Browser, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self.browser = browser
        self.moment: Moment | None = None
        self.at_ns: int | None = None
        """Where the time cursor is; None: at the newest."""
        self.paused = False
        self.time_base = "clock"
        self._held: Snapshot | None = None
        self._number = -1
        self._begin: tuple[Asked | None, int | None] = (None, None)
        self._scrub_to: int | None = None
        self._scrubbing = False

    def begin_at(self, moment: Asked | None, at_ns: int | None) -> None:
        """Say at which time it begins, once that is known."""
        self._begin = moment, at_ns

    @property
    def settled(self) -> bool:
        """Whether nothing that was asked for is still to come."""
        return not (self._scrubbing or any(self._begin))

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

    def say(self, words: VtraceError | str) -> None:
        """Show a sentence for a while."""
        severity = "error" if isinstance(words, VtraceError) else "information"
        self.notify(clean(str(words)), severity=cast("Any", severity), markup=False)

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
            self.frame_changed()

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


def step_ns(duration_ns: int) -> int:
    """Return a step of the time cursor: 1, 2 or 5 of a power of ten, a 200th of the recording."""
    wanted = max(duration_ns // STEPS, 1000)
    size = 1000
    while True:
        for part in (1, 2, 5):
            if size * part >= wanted:
                return size * part
        size *= 10
