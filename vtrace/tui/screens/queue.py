"""One queue: its ring as it stands, where the time of its chains goes, and the chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Static

from vtrace.browse.rings import ring_slots
from vtrace.browse.snapshot import State
from vtrace.tables.human import count_text, duration_text
from vtrace.text import clean
from vtrace.tui.rows import RowsScreen
from vtrace.tui.screens.chains import chain_place
from vtrace.tui.sources import ViewColumn, lifecycle_columns
from vtrace.tui.widgets.ring import RingView
from vtrace.tui.widgets.stages import StagesView

if TYPE_CHECKING:
    from textual import events
    from textual.app import ComposeResult

    from vtrace.browse.browser import Moment
    from vtrace.browse.page import Page
    from vtrace.browse.snapshot import Snapshot
    from vtrace.tui.place import Place

__all__ = ["QueueScreen"]

BESIDE: int = 72
"""From so many columns on the stages stand beside the ring."""


class QueueScreen(RowsScreen):
    """The ring of a queue, its stages, its chains."""

    view_name = "queue"
    view_title = "Queue"
    table = "lifecycles"
    noun = ("chain", "chains")
    needs_queue = True
    help = """\
The ring as it stood at the time shown. Each letter is a slot, or the slots that share its place:

  a  available: the driver has published a chain, the device has not taken it
  p  popped: the device works on it, it is in flight
  u  used: returned, and the driver has not shown yet that it took it
  ·  free, as far as was seen      ?  not known

A letter is bold from 1 ms on and reversed from 100 ms on. Of several slots in one place the rarest
owner is shown. Slot 0 is at the top, they go on clockwise. A is the driver's index, N where the
device takes next, U where it returns next, K where it asked to be kicked.

What the driver does is seen only where vtrace looks at the ring: it may be further than is shown.

Beside it: each stage's median (solid) and 99th percentile (light), from 100 ns to 10 s on a
logarithmic scale; its share in the sum of the medians; the part of the chains in which it was seen.
Below: the chains. Enter opens one with its packet."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "other_pane", "ring/stages", show=False),
        Binding("T", "timeline", "timeline"),
    ]

    DEFAULT_CSS = """
    QueueScreen #top { height: 13; }
    QueueScreen RingView { width: 5fr; }
    QueueScreen StagesView { width: 6fr; }
    QueueScreen.one StagesView { display: none; }
    QueueScreen.one.other RingView { display: none; }
    QueueScreen.one.other StagesView { display: block; border-left: none; width: 1fr; }
    """

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self._reading = False
        self._ring_of: tuple[int, int | None] | None = None
        self._follow = not {"row", "time_ns"} & set(hints)

    def view_columns(self) -> Sequence[ViewColumn]:
        """Return the columns of its chains."""
        return lifecycle_columns(self.place, lambda: self.vtrace)

    def compose_view(self) -> ComposeResult:
        """Yield ring and stages, and the chains below."""
        with Horizontal(id="top"):
            yield RingView(id="ring")
            yield StagesView(id="stages")
        yield from super().compose_view()

    @property
    def ring(self) -> RingView:
        """The drawing of the ring."""
        return self.query_one("#ring", RingView)

    def on_resize(self, event: events.Resize) -> None:
        """Give the ring what there is room for."""
        width, height = event.size.width, event.size.height
        self.set_class(width < BESIDE, "one")
        wanted = max(min(int(height * 0.52), 26), min(11, height - 8))
        self.query_one("#top").styles.height = max(wanted, 4)
        # The cursor stays on the screen when the table becomes lower.
        self.call_after_refresh(self._show_cursor)

    def _show_cursor(self) -> None:
        self.grid.show_row(self.grid.cursor)

    def action_other_pane(self) -> None:
        """Show the stages in the place of the ring, or the ring again, where one has room."""
        self.toggle_class("other")

    def action_timeline(self) -> None:
        """Show the timeline around the chain under the cursor."""
        self.go("timeline", self.place, time_ns=self.cursor_ns)

    # -- figures ---------------------------------------------------------------------------------

    def _row(self, snapshot: Snapshot) -> tuple[Mapping[str, Any], int] | None:
        for row, number in zip(snapshot.queues, snapshot.queue_ids, strict=False):
            if self.place.holds(row):
                return row, number
        return None

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw stages, ring and chains."""
        super().on_figures(snapshot)
        found = self._row(snapshot)
        stages = self.query_one("#stages", StagesView)
        if found is None:
            stages.show(None, "")
            self.ring.say(self._why(snapshot))
            return
        seconds = duration_text(snapshot.duration_ns)
        stages.show(found[0], f"({seconds})" if snapshot.duration_ns else "")
        self._draw_ring(snapshot, found[1])

    def _why(self, snapshot: Snapshot) -> str:
        if snapshot.state in (State.OPENING, State.READING):
            return f"Reading the recording … {snapshot.progress:.0%}"
        if snapshot.state is State.FAILED:
            return clean(snapshot.sentence)
        return "This queue had no event up to here."

    def _draw_ring(self, snapshot: Snapshot, number: int) -> None:
        moment = self.moment
        if moment is not None:
            self._ring_of = None
            self._show_ring(moment, number)
            return
        held = snapshot.cut_ns if self.vtrace.paused else None
        wanted = (snapshot.number, held)
        # What takes longer than the time between two snapshots is not asked for twice.
        if self._reading or wanted == self._ring_of:
            return
        self._reading = True

        def read() -> Moment:
            return self.browser.at(held)

        def shown(found: Moment) -> None:
            self._reading = False
            self._ring_of = wanted
            if self.moment is None:
                self._show_ring(found, number)
                # What came meanwhile was not asked for.
                self._draw_ring(self.snapshot, number)

        def failed(sentence: str) -> None:
            self._reading = False
            self.ring.say(clean(sentence))

        self.work(read, shown, group="ring", failed=failed)

    def _show_ring(self, moment: Moment, number: int) -> None:
        snapshot = moment.snapshot
        if not snapshot.cut_ns:
            self.ring.say("Nothing was recorded up to here.")
            return
        queues = snapshot.metadata.get("queues")
        queue = queues.get(str(number), {}) if isinstance(queues, Mapping) else {}
        size = queue.get("size") or 0
        slots = ring_slots(
            moment.chains, number, moment.rings.get(number), snapshot.cut_ns, size=size
        )
        parts = ["ring", "packed" if slots.packed else "split", count_text(slots.size)]
        features = queue.get("features")
        if isinstance(features, int) and features >> 29 & 1:
            parts.append("event-idx")
        self.ring.show(slots, " · ".join(parts).replace("ring · ", "ring  ", 1))

    @property
    def ready(self) -> bool:
        """Whether the ring and the chains are drawn."""
        return super().ready and not self._reading

    # -- chains ----------------------------------------------------------------------------------

    def open_view(self) -> None:
        """Ask for the chains; the newest are shown unless one was asked for."""
        super().open_view()
        self.grid.follow = self._follow and not self.filter_text

    def show_note(self, text: str | None) -> None:
        """Say in the line below that there are no chains: the ring is there all the same."""
        if text and self.is_mounted and self._row(self.snapshot) is not None:
            super().show_note(None)
            self.query_one("#status", Static).update(clean(text))
            return
        super().show_note(text)

    def show_status(self) -> None:
        """Say where the cursor is; it stays on the screen while chains come."""
        super().show_status()
        if self.grid.follow:
            # Once the table knows how long it is.
            self.call_after_refresh(self._show_cursor)

    def on_grid_opened(self) -> None:
        """Open the chain with its packet."""
        self.with_row(self._open)

    def _open(self, page: Page) -> None:
        if len(page):
            place, hints = chain_place(page, 0)
            self.go("chain", place, row=self.grid.cursor, filter_text=self.filter_text, **hints)
