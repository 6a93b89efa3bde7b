"""What every screen is: the frame around a view, the figures it draws, how it goes elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Static

from vtrace.errors import VtraceError
from vtrace.text import clean
from vtrace.tui.filterbar import FilterBar
from vtrace.tui.frame import FrameHeader, KeyLine
from vtrace.tui.grid import Grid
from vtrace.tui.place import Place

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult
    from textual.widget import Widget

    from vtrace.browse.browser import Browser, Moment
    from vtrace.browse.snapshot import Snapshot
    from vtrace.tui.app import VtraceApp

__all__ = ["Selection", "ViewScreen"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is exported or copied: the rows a screen shows, as the verbs' JSON names them."""

    name: str
    """What the rows are, for the name of a file: ``queues``, ``lifecycles``."""
    columns: tuple[str, ...]
    rows: Iterable[Mapping[str, Any]]
    """May be made while it is read, and block: it is consumed in a thread."""
    count: int
    filter_text: str = ""
    """What chooses the same rows in ``-Y``; empty: all of the place."""
    place: Place = field(default_factory=Place)
    part: Place | None = None
    """What a .vtrace of it holds, if that is not the place: the line under the cursor."""
    since_ns: int | None = None
    until_ns: int | None = None
    marked: bool = False
    """A person has marked these rows."""
    current: Mapping[str, Any] | None = None
    """The row under the cursor."""


class ViewScreen(Screen[None]):
    """A screen of the recording: header, content, line of keys.

    A subclass says ``view_name``, ``view_title``, ``help`` and its ``BINDINGS``, yields its widgets
    in ``compose_view`` and draws in ``on_figures``.
    """

    view_name: ClassVar[str] = ""
    view_title: ClassVar[str] = ""
    help: ClassVar[str] = ""
    """What ``?`` says of it: lines of text; the keys are listed by themselves."""
    table: ClassVar[str] = ""
    """Schema that its filter is written for; empty: it has no filter."""
    needs_queue: ClassVar[bool] = False
    """It is about one queue: without one the queue under the cursor is taken."""

    DEFAULT_CSS = """
    ViewScreen { layout: vertical; background: $background; color: $foreground; }
    ViewScreen #content { height: 1fr; }
    ViewScreen #note { display: none; padding: 1 3; color: $foreground; width: 1fr; height: auto; }
    ViewScreen.noted #note { display: block; }
    ViewScreen.noted #view { display: none; }
    ViewScreen #view { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("backspace", "app.back", "back", key_display="⌫", id="back"),
    ]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Each key can be rebound by the name of the view and the action.
        own = cls.__dict__.get("BINDINGS")
        if own:
            cls.BINDINGS = [_with_id(one, cls.__dict__.get("view_name", "")) for one in own]
        super().__init_subclass__(**kwargs)

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__()
        self.place = place if place is not None else Place()
        self.hints = hints
        self.filter_text: str = str(hints.get("filter_text", ""))
        self.note = ""
        self._before: Widget | None = None
        self._busy = 0
        self._drawn_number = -1

    # -- what a screen draws from ----------------------------------------------------------------

    @property
    def vtrace(self) -> VtraceApp:
        """The app, by its type."""
        return cast("VtraceApp", self.app)

    @property
    def browser(self) -> Browser:
        """The reader of the recording."""
        return self.vtrace.browser

    @property
    def snapshot(self) -> Snapshot:
        """The figures to draw: the newest, or those of the pause, or of the time scrubbed to."""
        return self.vtrace.shown

    @property
    def moment(self) -> Moment | None:
        """The recording as it stood at the time that was scrubbed to; None: now."""
        return self.vtrace.moment

    @property
    def time_base(self) -> str:
        """How times are shown: ``clock`` or ``start``."""
        return self.vtrace.time_base

    # -- for subclasses --------------------------------------------------------------------------

    def compose_view(self) -> ComposeResult:
        """Yield the widgets of the content."""
        yield from ()

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw a snapshot: at most four times a second, while the screen is shown."""

    def on_filter(self, text: str) -> None:
        """Apply a filter, which is valid for ``table``; empty: none."""

    def on_times(self) -> None:
        """Draw times anew: they are of day, or from the start, as ``app.time_text`` says."""
        self.on_figures(self.snapshot)

    def on_styles(self) -> None:
        """Draw all anew: the theme has changed."""
        for grid in self.query(Grid):
            grid.redraw()
        self.query_one(FrameHeader).redraw()
        self.query_one(KeyLine).redraw()
        self.on_figures(self.snapshot)

    def on_verdicts(self) -> None:
        """Draw verdicts anew: ``app.verdicts`` has changed."""

    def apply_place(self, place: Place) -> None:
        """Be about another place from now on."""
        self.place = place
        self.on_figures(self.snapshot)

    def selection(self) -> Selection | None:
        """Return what can be exported; None: nothing."""
        return None

    @property
    def cursor_place(self) -> Place:
        """The place under the cursor."""
        return self.place

    @property
    def cursor_ns(self) -> int | None:
        """The time under the cursor; None: it has none."""
        return None

    def go_to_time(self, time_ns: int) -> None:
        """Put the cursor where a time is."""

    @property
    def ready(self) -> bool:
        """Whether all that was asked for is drawn; see ``vtrace.tui.snapshot``."""
        return not self._busy and self._drawn_number == self.snapshot.number

    def values_seen(self, field_name: str) -> Iterable[str]:
        """Return values of a field that the filter bar may offer."""
        rows = self.snapshot.queues
        if field_name in {"vm", "device", "queue", "backend", "direction", "ring"}:
            return {str(row[field_name]) for row in rows if row.get(field_name)}
        if field_name == "reason" and self.table == "exits":
            return {str(row["reason"]) for row in self.snapshot.exits}
        if field_name in {"reason", "drop.reason", "location", "drop.location"}:
            name = field_name.removeprefix("drop.")
            return {str(row[name]) for row in self.snapshot.drops if row.get(name)}
        return ()

    # -- what subclasses use ---------------------------------------------------------------------

    def set_filter(self, text: str) -> None:
        """Use a filter that is valid."""
        self.filter_text = text
        self.on_filter(text)
        self.query_one(FrameHeader).show()

    def open_filter(self) -> None:
        """Write a filter in a bar below the header."""
        if not self.table:
            self.notify("this view has no filter", markup=False)
        elif not self.query(FilterBar):
            self._before = self.focused
            bar = FilterBar(self.table, self.filter_text, self.vtrace.history)
            self.mount(bar, after=self.query_one(FrameHeader))

    def on_filter_bar_applied(self, event: FilterBar.Applied) -> None:
        """Use the filter that was written."""
        says = self.vtrace.history.add(event.text)
        if says:
            self.fail(says)
        self._close_filter()
        self.set_filter(event.text)

    def on_filter_bar_left(self) -> None:
        """Keep the filter as it was."""
        self._close_filter()

    def _close_filter(self) -> None:
        for bar in self.query(FilterBar):
            bar.remove()
        if self._before is not None and self._before.is_attached:
            self._before.focus()

    def mark_hints(self) -> dict[str, Any]:
        """Return hints with which a screen like this one is where this one is."""
        hints: dict[str, Any] = {"filter_text": self.filter_text} if self.filter_text else {}
        grids = self.query(Grid)
        if grids:
            hints["row"] = grids.first().cursor
        return hints

    def show_note(self, text: str | None) -> None:
        """Show a sentence instead of the view (empty, reading, failed); None: the view."""
        self.note = text or ""
        self.set_class(bool(text), "noted")
        if text and self.is_mounted:
            self.query_one("#note", Static).update(clean(text).replace("\\n", "\n"))

    def work(
        self,
        blocking: Callable[[], Result],
        then: Callable[[Result], None],
        *,
        group: str = "work",
        failed: Callable[[str], None] | None = None,
    ) -> None:
        """Run what blocks in a thread, then ``then`` with its result here.

        Of one group only the newest counts. A ``VtraceError`` becomes a sentence on the screen (or
        goes to ``failed``).
        """

        async def run() -> None:
            try:
                result = await asyncio.to_thread(blocking)
            except VtraceError as error:
                (failed or self.show_note)(str(error))
                return
            finally:
                self._busy -= 1
            if self.is_attached:
                then(result)

        self._busy += 1
        self.run_worker(run(), group=group, exclusive=True)

    def go(self, view_name: str, place: Place | None = None, **hints: Any) -> None:
        """Open another view, by default of this place; backspace comes back."""
        self.vtrace.go(view_name, self.place if place is None else place, **hints)

    def fail(self, error: VtraceError | str) -> None:
        """Show an error as a passing sentence."""
        self.notify(clean(str(error)), severity="error", markup=False)

    # -- the frame -------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Put the frame around the view."""
        yield FrameHeader()
        with Container(id="content"):
            yield Static("", id="note", markup=False)
            with Container(id="view"):
                yield from self.compose_view()
        yield KeyLine()

    def on_mount(self) -> None:
        """Draw for the first time."""
        if self.note:
            self.show_note(self.note)

    def on_screen_resume(self) -> None:
        """Draw what came while another screen was shown."""
        self.draw()

    def draw(self) -> None:
        """Draw the frame and the figures."""
        snapshot = self.snapshot
        self._drawn_number = snapshot.number
        self.query_one(FrameHeader).show()
        self.on_figures(snapshot)

    def on_key(self, event: events.Key) -> None:
        """Take the second key of ``m a`` and ``' a``."""
        if self.vtrace.second_key(event.key, event.character):
            event.stop()
            event.prevent_default()


def _with_id(binding: BindingType, view_name: str) -> BindingType:
    if not isinstance(binding, Binding):
        binding = Binding(*binding)
    if binding.id is not None:
        return binding
    action = binding.action.replace("'", "").replace('"', "")
    name = action.removesuffix("()").replace("(", "_").replace(")", "").replace(", ", "_")
    from dataclasses import replace

    return replace(binding, id=f"{view_name}.{name}" if view_name else name)
