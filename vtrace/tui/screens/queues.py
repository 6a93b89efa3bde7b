"""Queues: the first screen. Which queue is sick?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType

from vtrace.tables import QUEUES
from vtrace.tables.human import count_text, duration_text
from vtrace.text import clean
from vtrace.tui.figures import QueueFigures, is_idle, queue_figures, rate_text, sparkline
from vtrace.tui.grid import Cell, GridColumn
from vtrace.tui.place import Place
from vtrace.tui.sums import SumRow, SumsScreen
from vtrace.tui.widgets.stages import StagesView

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.snapshot import Snapshot

__all__ = ["QueuesScreen"]

SPARK: Final = 14
FRAME: Final = 4
"""Lines of header, headings and keys."""
DETAIL: Final = 14
"""Lines of the stages."""
MANY_LINES: Final = 20
"""So many lines are enough for any list."""
MANY_IDLE: Final = 4
"""More queues than this that did nothing stand behind one line."""

COLUMNS: Final = (
    GridColumn("vm", "VM", 12, sortable=True, fit=True, rank=2),
    GridColumn("device", "device", 12, sortable=True, fit=True),
    GridColumn("queue", "queue", 10, sortable=True, fit=True),
    GridColumn("backend", "back", 5, sortable=True, fit=True, rank=11),
    GridColumn("rate", "rate/s", 6, right=True, sortable=True),
    GridColumn("bytes", "MB/s", 6, right=True, sortable=True, rank=7),
    GridColumn("occupancy", "occupancy", SPARK, sortable=True, rank=3),
    GridColumn("in_flight", "in fl", 8, right=True, sortable=True, rank=4),
    GridColumn("kicks", "kicks/s", 7, right=True, sortable=True, rank=9),
    GridColumn("interrupts", "irqs/s", 6, right=True, sortable=True, rank=8),
    GridColumn("drops", "drops", 7, right=True, sortable=True),
    GridColumn("stage", "slowest", 9, sortable=True, fit=True, rank=6),
    GridColumn("p50", "p50", 6, right=True, sortable=True, rank=5),
    GridColumn("p99", "p99", 6, right=True, sortable=True),
    GridColumn("verdict", "verdict", 24, sortable=True, grow=True),
)

SORTED_BY: Final[dict[str, Callable[[QueueFigures], Any]]] = {
    "vm": lambda one: one.key,
    "device": lambda one: one.key[1:],
    "queue": lambda one: one.key[2],
    "backend": lambda one: one.row["backend"],
    "rate": lambda one: one.rate or 0,
    "bytes": lambda one: one.bytes_rate or 0,
    "occupancy": lambda one: one.in_flight / (one.size or 1),
    "in_flight": lambda one: one.in_flight,
    "kicks": lambda one: one.kicks or 0,
    "interrupts": lambda one: one.interrupts or 0,
    "drops": lambda one: one.drops or 0,
    "stage": lambda one: one.stage,
    "p50": lambda one: one.p50_ns or 0,
    "p99": lambda one: one.p99_ns or 0,
}


class QueuesScreen(SumsScreen):
    """All queues of a place and what they do."""

    view_name = "queues"
    view_title = "Queues"
    table = "queues"
    columns = COLUMNS
    noun = ("queue", "queues")
    help = """\
Each line is a virtqueue. Rates are a second's: of the last two while the recording goes on, of all
of it once it is complete.

rate/s     chains that the device took
MB/s       bytes that it wrote into the guest; - where it only reads (transmit)
occupancy  chains in flight over time, popped and not returned, against the size of the ring; the
           scale is logarithmic, · is not known
in fl      chains in flight now, and the size of the ring
kicks/s    notifications by the driver that were sent; irqs/s interrupts by the device
drops      packets dropped at the queue, in all; while it goes on also how many a second
slowest    the stage with the longest 99th percentile, of those that make a packet late, with its
           p50 and p99: notify, schedule (the worker waits for a CPU), queueing, service, ...
verdict    what the diagnosis says of it (7 has the whole of it)

Enter opens the queue. s sorts by the next column and S turns the order round, as a click on a
heading does. The filter is over the columns of vtrace report: vm == "web1", starved > 0,
schedule_p99_ns > 1ms."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "chains", "chains", tooltip="the chains of the queue"),
        Binding("z", "idle", "idle", show=False, tooltip="show queues that carried nothing"),
    ]

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self.show_idle = bool(hints.get("show_idle"))
        self._figures: dict[Any, QueueFigures] = {}
        self._detailed: Any = None

    DEFAULT_CSS = """
    QueuesScreen StagesView { height: 14; display: none; border-left: none; }
    QueuesScreen.detailed StagesView { display: block; }
    """

    def compose_view(self) -> ComposeResult:
        """Yield the table, and where the time of the queue under the cursor goes."""
        yield from super().compose_view()
        yield StagesView(id="stages")

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw the queues."""
        super().on_figures(snapshot)
        self._detail()

    def on_resize(self) -> None:
        """Show the stages where there is room."""
        self._detail()

    def on_grid_moved(self) -> None:
        """Show the stages of another queue."""
        self._detail()

    def _detail(self) -> None:
        if not self.is_mounted:
            return
        one = self._figures.get(self.cursor_key)
        room = self.size.height - FRAME - DETAIL
        fits = room > len(self._rows) or room >= MANY_LINES
        self.set_class(fits and one is not None, "detailed")
        stages = self.query_one(StagesView)
        if one is None or not fits or (one.row == stages.row and one.key == self._detailed):
            return
        self._detailed = one.key
        stages.show(one.row, clean(" ".join(one.key)))

    def sum_rows(self, snapshot: Snapshot) -> list[SumRow]:
        """Return the queues of the place."""
        found = [one for one in queue_figures(snapshot) if self.place.holds(one.row)]
        kept = self.matching(QUEUES, [one.row for one in found])
        figures = [one for one, keep in zip(found, kept, strict=True) if keep]
        self._figures = {one.key: one for one in figures}
        idle = [one for one in figures if is_idle(one.row)]
        hide = MANY_IDLE < len(idle) < len(figures) and not self.show_idle
        shown = [one for one in figures if not (hide and is_idle(one.row))]
        rows = [SumRow(one.key, self._cells(one), one.row) for one in self._sorted(shown)]
        if hide:
            text = Text(f"{count_text(len(idle))} queues carried nothing (z shows them)", "dim")
            rows.append(SumRow("idle", [text], {}))
        return rows

    def _sorted(self, figures: list[QueueFigures]) -> Sequence[QueueFigures]:
        if not self.sort_key:
            return figures
        if self.sort_key == "verdict":
            return sorted(figures, key=lambda one: self._verdict(one), reverse=self.sort_reverse)
        key = SORTED_BY[self.sort_key]
        return sorted(figures, key=key, reverse=self.sort_reverse)

    def _verdict(self, one: QueueFigures) -> str:
        return self.vtrace.verdicts.get(one.key, "")

    def _cells(self, one: QueueFigures) -> list[Cell]:
        row = one.row
        full = one.size is not None and one.in_flight >= one.size
        size = "" if one.size is None else f"/{one.size}"
        idle = "faint" if is_idle(row) else ""
        verdict = self._verdict(one)
        return [
            clean(one.key[0]),
            clean(one.key[1]),
            Text(clean(one.key[2]), style="bold"),
            Text(clean(row["backend"]), style="dim"),
            Text(rate_text(one.rate), style=idle),
            "-" if one.bytes_rate is None else megabytes(one.bytes_rate),
            Text(sparkline(one.series.in_flight, SPARK, one.size), style=idle or "spark"),
            Text(f"{one.in_flight}{size}", style="warn" if full else ""),
            rate_text(one.kicks),
            rate_text(one.interrupts),
            drops_cell(one.drops, one.drop_rate),
            Text(one.stage or "-", style="dim"),
            "-" if one.p50_ns is None else duration_text(one.p50_ns),
            "-" if one.p99_ns is None else duration_text(one.p99_ns),
            Text(clean(verdict), style="alarm" if verdict else ""),
        ]

    @property
    def cursor_place(self) -> Place:
        """The queue under the cursor."""
        key = self.cursor_key
        if not isinstance(key, tuple):
            return self.place
        return Place(vm=key[0], device=key[1], queue=key[2])

    def on_grid_opened(self) -> None:
        """Open the queue, or show those that did nothing."""
        if self.cursor_key == "idle":
            self.action_idle()
        elif self.cursor_place.queue is not None:
            self.go("queue", self.cursor_place)

    def action_idle(self) -> None:
        """Show queues that carried nothing, or no longer."""
        self.show_idle = not self.show_idle
        self.on_figures(self.snapshot)

    def action_chains(self) -> None:
        """Show the chains of the queue."""
        self.go("chains", self.cursor_place)


def megabytes(rate: float) -> str:
    """Return bytes a second in MB: ``0``, ``<0.1``, ``12.2``."""
    value = rate / 1e6
    if not value:
        return "0"
    return "<0.1" if value < 0.05 else f"{value:,.1f}"


def drops_cell(drops: int | None, rate: float | None) -> Cell:
    """Return dropped packets, loud if there are some: a second's while they go on."""
    if drops is None:
        return "-"
    if not drops:
        return Text("0", style="dim")
    return Text(f"{rate_text(rate)}/s" if rate else count_text(drops), style="alarm")
