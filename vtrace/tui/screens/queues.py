"""Queues: the first screen. Which queue is sick?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType

from vtrace.browse.snapshot import State
from vtrace.tables.human import count_text, duration_text
from vtrace.text import clean
from vtrace.tui.base import Selection, ViewScreen
from vtrace.tui.figures import QueueFigures, is_idle, queue_figures, rate_text, sparkline
from vtrace.tui.grid import Cell, Grid, GridColumn, RowList
from vtrace.tui.place import Place

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.snapshot import Snapshot

__all__ = ["QueuesScreen"]

SPARK: Final = 14
MANY_IDLE: Final = 4
"""More queues than this that did nothing stand behind one line."""

COLUMNS: Final = (
    GridColumn("vm", "VM", 8, sortable=True, rank=2),
    GridColumn("device", "device", 8, sortable=True),
    GridColumn("queue", "queue", 6, sortable=True),
    GridColumn("backend", "back", 5, sortable=True, rank=10),
    GridColumn("rate", "rate/s", 6, right=True, sortable=True),
    GridColumn("bytes", "MB/s", 5, right=True, sortable=True, rank=6),
    GridColumn("occupancy", "occupancy", SPARK, sortable=True, rank=4),
    GridColumn("in_flight", "in fl", 8, right=True, sortable=True, rank=3),
    GridColumn("kicks", "kicks/s", 7, right=True, sortable=True, rank=8),
    GridColumn("interrupts", "irqs/s", 6, right=True, sortable=True, rank=7),
    GridColumn("drops", "drops", 7, right=True, sortable=True),
    GridColumn("stage", "slowest", 9, sortable=True, rank=9),
    GridColumn("p50", "p50", 6, right=True, sortable=True, rank=5),
    GridColumn("p99", "p99", 6, right=True, sortable=True),
    GridColumn("verdict", "verdict", 12, sortable=True, grow=True),
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
WORDS: Final = frozenset({"vm", "device", "queue", "backend", "stage", "verdict"})


class QueuesScreen(ViewScreen):
    """All queues of a place and what they do."""

    view_name = "queues"
    view_title = "Queues"
    table = "queues"
    help = """\
Each line is a virtqueue. Rates are those of the last two seconds while the recording goes on, and
of all of it once it is complete."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open", key_display="⏎"),
        Binding("s", "sort", "sort"),
        Binding("S", "reverse", "reverse", show=False),
        Binding("z", "idle", "idle queues", show=False),
    ]

    def compose_view(self) -> ComposeResult:
        """Yield the table."""
        yield Grid(COLUMNS, id="queues")

    @property
    def grid(self) -> Grid:
        """The table."""
        return self.query_one("#queues", Grid)

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw the queues."""
        figures = [one for one in queue_figures(snapshot) if self.place.holds(one.row)]
        if not figures:
            self.show_note(nothing(snapshot))
            return
        self.show_note(None)
        self.grid.set_source(self._rows(figures), keep=True)

    def _rows(self, figures: list[QueueFigures]) -> RowList:
        rows = [self._row(one) for one in figures]
        return RowList(rows, [one.key for one in figures])

    def _row(self, one: QueueFigures) -> list[Cell]:
        row = one.row
        full = one.size is not None and one.in_flight >= one.size
        drops: Cell = "-" if one.drops is None else Text(count_text(one.drops), style="dim")
        if one.drops:
            drops = Text(count_text(one.drops), style="alarm")
        size = "" if one.size is None else f"/{one.size}"
        return [
            clean(one.key[0]),
            clean(one.key[1]),
            Text(clean(one.key[2]), style="bold"),
            Text(clean(row["backend"]), style="dim"),
            rate_text(one.rate),
            "-" if one.bytes_rate is None else f"{one.bytes_rate / 1e6:.1f}",
            Text(sparkline(one.series.in_flight, SPARK, one.size), style="spark"),
            Text(f"{one.in_flight}{size}", style="warn" if full else ""),
            rate_text(one.kicks),
            rate_text(one.interrupts),
            drops,
            Text(one.stage or "-", style="dim"),
            "-" if one.p50_ns is None else duration_text(one.p50_ns),
            "-" if one.p99_ns is None else duration_text(one.p99_ns),
            Text(clean(self.vtrace.verdicts.get(one.key, "")), style="alarm"),
        ]

    @property
    def cursor_place(self) -> Place:
        """The queue under the cursor."""
        key = self.grid.key_of(self.grid.cursor)
        if not isinstance(key, tuple):
            return self.place
        return Place(vm=key[0], device=key[1], queue=key[2])

    def on_grid_opened(self) -> None:
        """Open the queue."""
        self.go("queue", self.cursor_place)


def nothing(snapshot: Snapshot) -> str:
    """Return why there is nothing to show."""
    if snapshot.state in (State.OPENING, State.READING):
        return "Reading the recording …"
    if snapshot.state is State.FAILED:
        return snapshot.sentence
    return "No queue has been seen in this recording."


_ = (is_idle, Selection, MANY_IDLE, SORTED_BY, WORDS)
