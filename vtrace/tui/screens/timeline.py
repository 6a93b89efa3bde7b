"""The timeline: what guest, worker, ring and tap did, on one time axis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.binding import Binding, BindingType

from vtrace.browse.falls import LEGEND
from vtrace.browse.lane_drawing import Drawn, draw, next_of, says, stall_text, wrapped
from vtrace.browse.snapshot import State
from vtrace.errors import VtraceError
from vtrace.tables.human import count_text, duration_text
from vtrace.tui.base import Selection, ViewScreen
from vtrace.tui.widgets.lanes import LanesView

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.lane_window import Stall
    from vtrace.browse.snapshot import Snapshot
    from vtrace.browse.view import View
    from vtrace.tui.place import Place

__all__ = ["TimelineScreen"]

AGAIN_S: Final = 0.5
LEAST_NS: Final = 2_000
AROUND_NS: Final = 5_000_000
"""What is shown around a time that was asked for."""
LIVE_NS: Final = 10_000_000_000
"""What is shown of a recording that goes on."""


class TimelineScreen(ViewScreen):
    """Lanes of a place against time."""

    view_name = "timeline"
    view_title = "Timeline"
    help = """\
Lanes share the time axis; the facts of the column under the cursor stand below.

  █ ▄    how much of the column a vCPU was in the guest (or had a CPU), or a worker ran
  ░      ready, and another thread had the CPU     ■  stopped with its VM
  ▁      asleep; of a vCPU, yellow: out of the guest
  ▼ ▲    kicks by the driver, interrupts to the guest
  ring   chains that the device has; buffers or waiting: published and not yet taken (○ none)
  tap    packets in the ring of the tap, red: full and refusing; ✕ packets dropped; ? records lost

Ring and tap are drawn on a logarithmic scale. Nothing is drawn of times of which nothing is known.
Close enough, chains are lines of their own below the lanes, a letter at each event.

A stall (◆ on the ruler, [ and ] go there) is a thread that was ready and got no CPU for 1 ms, or
packets in the tap, or chains that the driver kicked for, which nobody took for 10 ms.

A stretch of more than a million events is drawn from sums; the line below says how coarse."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open_chains", "chains", key_display="⏎"),
        Binding("plus,equals_sign", "zoom(1)", "closer", key_display="+"),
        Binding("minus,underscore", "zoom(-1)", "further", key_display="-"),
        Binding("left", "step(-1)", "left", show=False),
        Binding("right", "step(1)", "right", show=False),
        Binding("h,shift+left,pageup", "pan(-1)", "pan left", show=False, key_display="h"),
        Binding("l,shift+right,pagedown", "pan(1)", "pan right", show=False, key_display="l"),
        Binding("up,k", "choose(-1)", "lane above", show=False),
        Binding("down,j", "choose(1)", "lane below", show=False),
        Binding("left_square_bracket", "stall(-1)", "stall before", show=False, key_display="["),
        Binding("right_square_bracket", "stall(1)", "stall", key_display="[ ]"),
        Binding("d", "drop(1)", "drop"),
        Binding("D", "drop(-1)", "drop before", show=False),
        Binding("g", "app.go_to_time", "go to a time", show=False),
        Binding("0", "whole", "all of it", show=False),
        Binding("home", "edge(-1)", "beginning", show=False),
        Binding("end", "edge(1)", "end", show=False),
    ]

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        at_ns = hints.get("time_ns", hints.get("at_ns"))
        self._begin_ns: int | None = at_ns
        self._span_ns: int = int(hints.get("span_ns") or AROUND_NS)
        self._t0, self._t1 = 0, 0
        self._cursor_ns = 0
        self._end = at_ns is None
        """The newest is shown, and what comes."""
        self._picture: Drawn | None = None
        self._placed = at_ns is not None
        """Somebody has put the cursor where it is; else it stays in the middle."""
        self._said = 0, ""
        """Where a jump went, and what is there: said while the cursor is there."""
        self._wanted: tuple[int, int] | None = None
        self._picturing = False
        self._chains: View | None = None

    def compose_view(self) -> ComposeResult:
        """Yield the lanes."""
        yield LanesView(id="lanes")

    @property
    def lanes(self) -> LanesView:
        """The drawing."""
        return self.query_one("#lanes", LanesView)

    def on_mount(self) -> None:
        """Begin to look for the chains."""
        super().on_mount()
        self.lanes.focus()
        self._chains = self.browser.view(self.place.query("lifecycles"))

    def on_unmount(self) -> None:
        """Look for no more chains."""
        if self._chains is not None:
            self._chains.close()

    def apply_place(self, place: Place) -> None:
        """Be about another place."""
        if self._chains is not None:
            self._chains.close()
        self._chains = self.browser.view(place.query("lifecycles"))
        super().apply_place(place)

    # -- which time is shown ---------------------------------------------------------------------

    @property
    def _bounds(self) -> tuple[int, int] | None:
        # All of the recording, as far as the figures that are shown go.
        snapshot = self.browser.snapshot
        cut = self.snapshot.cut_ns if self.vtrace.paused else snapshot.cut_ns
        if snapshot.start_ns is None or cut is None:
            return None
        return snapshot.start_ns, max(cut, snapshot.start_ns + LEAST_NS)

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw what came."""
        bounds = self._bounds
        if bounds is None:
            self.show_note(self._why(snapshot))
            return
        self.show_note(None)
        first, last = bounds
        if self._begin_ns is not None and (self._begin_ns < last or self.browser.ended):
            at, self._begin_ns = self._begin_ns, None
            self._center(at, self._span_ns)
        elif self._end:
            live = snapshot.state is State.FOLLOWING
            wide = self._t1 - self._t0 if self._t1 else (LIVE_NS if live else last - first)
            if not live and self._t0 <= first:
                wide = last - first
            self._t0, self._t1 = max(last - wide, first), last
            if not self._placed or self._cursor_ns < self._t0:
                self._cursor_ns = (self._t0 + self._t1) // 2
        if self.moment is not None and self.vtrace.at_ns is not None:
            self._cursor_ns = self.vtrace.at_ns
        self._want()

    def _why(self, snapshot: Snapshot) -> str:
        if snapshot.state is State.FAILED:
            return snapshot.sentence
        if snapshot.state in (State.OPENING, State.READING):
            return f"Reading the recording … {snapshot.progress:.0%}"
        return "There is no event in this recording."

    def go_to_time(self, time_ns: int) -> None:
        """Put the cursor on a time."""
        self._placed = True
        if self._t0 <= time_ns < self._t1:
            self._cursor_ns = time_ns
            self._show()
        else:
            self._center(time_ns, self._t1 - self._t0 or self._span_ns)
            self._want()

    def _center(self, time_ns: int, span_ns: int) -> None:
        self._cursor_ns = time_ns
        self._move(time_ns - span_ns // 2, time_ns - span_ns // 2 + span_ns)

    def _move(self, t0: int, t1: int) -> None:
        # Not beyond the recording.
        self._placed = True
        first, last = self._bounds or (0, 1)
        wide = max(min(t1 - t0, last - first), min(LEAST_NS, last - first))
        self._t0 = max(min(t0, last - wide), first)
        self._t1 = self._t0 + wide
        self._end = self._t1 >= last
        self._cursor_ns = max(min(self._cursor_ns, self._t1 - 1), self._t0)

    # -- drawing ---------------------------------------------------------------------------------

    def _want(self) -> None:
        # The newest wish next: keys that are held down leave no queue of drawings behind.
        if self._t1 <= self._t0 or not self.is_mounted:
            return
        self._wanted = self._t0, self._t1
        self._show()
        if not self._picturing:
            self._picturing = True
            self.run_worker(self._draw_lanes(), group="lanes")

    async def _draw_lanes(self) -> None:
        try:
            while self._wanted is not None:
                (t0, t1), self._wanted = self._wanted, None
                columns, room = self.lanes.columns, self.lanes.height_of_rows
                place, metadata = self.place, self.snapshot.metadata
                made = await asyncio.to_thread(
                    draw, self.browser, self._chains, place, metadata, t0, t1, columns, room
                )
                if self.is_attached:
                    self._picture = made
                    self._show()
                    if self.lanes.columns != columns:
                        # Other lanes have other names, and leave another number of columns.
                        self._wanted = self._wanted or (t0, t1)
        except VtraceError as error:
            self.fail(error)
        finally:
            self._picturing = False
        if self._picture is not None and not self._picture.counted:
            # Chains are still being counted: look again.
            self.set_timer(AGAIN_S, self._want)

    def _show(self) -> None:
        made, drawing = self._picture, self.lanes
        drawing.time_text = self.vtrace.time_text
        if made is None:
            return
        window = made.window
        drawing.rows = made.rows
        drawing.span = window.t0, window.t1
        past = window.t0 - (self.snapshot.start_ns or 0)
        clock = self.browser.clock.realtime_ns(window.t0)
        drawing.clock_ns = past if clock is None or self.time_base != "clock" else clock
        drawing.cursor = column = window.column_of(self._cursor_ns)
        drawing.selected = min(drawing.selected, max(len(made.rows) - 1, 0))
        drawing.stalls = [
            window.column_of(one.start_ns)
            for one in self._stalls(made)
            if window.t0 <= one.start_ns < window.t1
        ]
        drawing.facts = self._facts(made, column)
        drawing.refresh()

    def _facts(self, made: Drawn, column: int) -> list[str]:
        window = made.window
        a_column = (window.t1 - window.t0) / window.columns
        how = f"{duration_text(int(a_column))} a column"
        if not window.exact:
            how += f", from sums of {duration_text(window.bucket_ns)}"
        first = f"{self.vtrace.time_text(self._cursor_ns)}  ·  {how}"
        if self._said[0] == self._cursor_ns and self._said[1]:
            first += f"  ·  {self._said[1]}"
        if window.other_events:
            first += f"  ·  {count_text(window.other_events)} events of more threads or queues"
        if any(row.what == "chain" for row in made.rows):
            first += f"  ·  {LEGEND}"
        elif made.chains:
            first += f"  ·  {count_text(made.chains)} chains: closer (+) they have lines"
        room, most = self.lanes.size.width - 2, min(self.lanes.size.height // 7, 3)
        said = [made.lanes.facts(row, column) for row in made.rows if row.what != "chain"]
        return [first, *wrapped([text for text in said if text], room, most)]

    # -- keys and mouse --------------------------------------------------------------------------

    def action_zoom(self, step: int) -> None:
        """Look closer, or see more of the time."""
        self._zoom(self._cursor_ns, step)

    def _zoom(self, at_ns: int, step: int) -> None:
        wide = self._t1 - self._t0
        new = max(wide // 2, LEAST_NS) if step > 0 else wide * 2
        share = (at_ns - self._t0) / max(wide, 1)
        self._move(int(at_ns - new * share), int(at_ns - new * share) + new)
        self._want()

    def action_step(self, step: int) -> None:
        """Move the cursor by a column; at an edge the time moves."""
        self._placed = True
        wide = self._t1 - self._t0
        columns = self.lanes.columns
        column = (self._cursor_ns - self._t0) * columns // max(wide, 1) + step
        self._cursor_ns = self._t0 + (2 * column + 1) * wide // (2 * columns)
        if 0 <= column < columns:
            self._show()
        else:
            by = step * (wide // 4)
            self._move(self._t0 + by, self._t1 + by)
            self._want()

    def action_pan(self, step: int) -> None:
        """Move the time by a quarter of what is shown."""
        by = step * ((self._t1 - self._t0) // 4)
        self._cursor_ns += by
        self._move(self._t0 + by, self._t1 + by)
        self._want()

    def action_choose(self, step: int) -> None:
        """Go to another lane."""
        self.lanes.choose(self.lanes.selected + step)

    def action_whole(self) -> None:
        """Show the whole recording."""
        first, last = self._bounds or (0, 1)
        self._move(first, last)
        self._want()

    def action_edge(self, step: int) -> None:
        """Go to the beginning or the end."""
        bounds = self._bounds
        if bounds:
            wide = self._t1 - self._t0
            self._cursor_ns = bounds[0] if step < 0 else bounds[1] - 1
            t0 = bounds[0] if step < 0 else bounds[1] - wide
            self._move(t0, t0 + wide)
            self._want()

    def action_stall(self, step: int) -> None:
        """Go to the next stall of the lanes shown, or with -1 to the one before."""
        made = self._picture
        if made is None:
            return
        stalls = self._stalls(made)
        found = next_of([one.start_ns for one in stalls], self._cursor_ns, step)
        if found is None:
            self.notify("these lanes have no stall")
            return
        stall = stalls[found]
        self._said = stall.start_ns, f"◆ {stall_text(stall, made.lanes)}"
        self._jump(stall.start_ns, stall.long_ns)

    def action_drop(self, step: int) -> None:
        """Go to the next drop, or with -1 to the one before."""
        drops = self.browser.lanes.drops()
        found = next_of([one.first_ns for one in drops], self._cursor_ns, step)
        if found is None:
            self.notify("no packet was dropped, as far as was seen")
            return
        drop = drops[found]
        span = duration_text(drop.last_ns - drop.first_ns)
        self._said = drop.first_ns, f"✕ {count_text(drop.count)} dropped within {span}"
        self._jump(drop.first_ns, drop.last_ns - drop.first_ns)

    def _jump(self, at_ns: int, long_ns: int) -> None:
        # All of it on the screen, and what led to it.
        wide = self._t1 - self._t0
        if not 4 * long_ns <= wide <= 400 * max(long_ns, 10_000):
            wide = max(6 * long_ns, 1_000_000)
        if self._t0 <= at_ns and at_ns + long_ns < self._t1 and wide == self._t1 - self._t0:
            self._cursor_ns = at_ns
            self._show()
            return
        self._cursor_ns = at_ns
        self._move(at_ns - wide // 3, at_ns - wide // 3 + wide)
        self._want()

    def _stalls(self, made: Drawn) -> list[Stall]:
        shown = {(row.what in ("vcpu", "thread"), row.about) for row in made.rows}
        return [one for one in self.browser.lanes.stalls() if ((one.what == 0), one.lane) in shown]

    def action_open_chains(self) -> None:
        """Open the chains of the time under the cursor."""
        self.go("chains", time_ns=self._cursor_ns)

    def on_lanes_view_pointed(self, event: LanesView.Pointed) -> None:
        """Put the cursor where the mouse is."""
        self._placed = True
        self._cursor_ns = self._t0 + (2 * event.column + 1) * (self._t1 - self._t0) // (
            2 * self.lanes.columns
        )
        self.lanes.choose(event.row)
        self._show()

    def on_lanes_view_dragged(self, event: LanesView.Dragged) -> None:
        """Pull the time along."""
        by = -event.columns * (self._t1 - self._t0) // self.lanes.columns
        self._move(self._t0 + by, self._t1 + by)
        self._want()

    def on_lanes_view_zoomed(self, event: LanesView.Zoomed) -> None:
        """Look closer at what is under the mouse."""
        wide = self._t1 - self._t0
        self._zoom(self._t0 + event.column * wide // self.lanes.columns, event.step)

    def on_lanes_view_resized(self) -> None:
        """Draw for the columns that there are now."""
        self._want()

    # -- for others ------------------------------------------------------------------------------

    @property
    def cursor_ns(self) -> int | None:
        """Time under the cursor."""
        return self._cursor_ns or None

    @property
    def ready(self) -> bool:
        """Whether the lanes are drawn."""
        return super().ready and self._picture is not None and not self._picturing

    def selection(self) -> Selection | None:
        """Return the lanes as rows: what each says in each column."""
        made = self._picture
        if made is None:
            return None
        rows = says(made)
        return Selection(
            name="timeline",
            columns=("lane", "time_ns", "until_ns", "says"),
            rows=rows,
            count=len(rows),
            place=self.place,
            since_ns=made.window.t0,
            until_ns=made.window.t1,
        )
