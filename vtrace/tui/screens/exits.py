"""Exits: how often and how long vCPUs were outside of the guest, by reason and by device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Static

from vtrace.tables import EXITS
from vtrace.tables.human import count_text, duration_text
from vtrace.text import clean
from vtrace.tui.figures import rate_text
from vtrace.tui.grid import Cell, Grid, GridColumn, RowList
from vtrace.tui.place import Place
from vtrace.tui.sums import SumRow, SumsScreen, nothing_yet

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.snapshot import Snapshot

__all__ = ["ExitsScreen"]

SIDE_BY_SIDE: Final = 130
"""Cells from which on both tables stand beside each other."""
BAR: Final = 12

COLUMNS: Final = (
    GridColumn("vm", "VM", 12, sortable=True, fit=True),
    GridColumn("vcpu", "vCPU", 4, right=True, sortable=True),
    GridColumn("reason", "reason", 20, sortable=True, fit=True),
    GridColumn("count", "count", 10, right=True, sortable=True),
    GridColumn("rate", "rate/s", 6, right=True, rank=3),
    GridColumn("total", "outside", 7, right=True, sortable=True),
    GridColumn("each", "each", 7, right=True, sortable=True, rank=1),
    GridColumn("share", "share of its time", BAR + 5, sortable=True, rank=2),
)
DEVICE_COLUMNS: Final = (
    GridColumn("vm", "VM", 12, fit=True, rank=3),
    GridColumn("vcpu", "vCPU", 4, right=True, rank=4),
    GridColumn("device", "device", 24, fit=True),
    GridColumn("part", "part", 20, fit=True, rank=2),
    GridColumn("access", "access", 22, rank=5),
    GridColumn("count", "count", 10, right=True),
    GridColumn("total", "outside", 7, right=True),
    GridColumn("user", "in QEMU", 7, right=True, rank=1),
)

SORTED_BY: Final[dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    "vm": lambda row: (row["vm"], -1 if row["vcpu"] is None else row["vcpu"]),
    "vcpu": lambda row: -1 if row["vcpu"] is None else row["vcpu"],
    "reason": lambda row: row["reason"],
    "count": lambda row: row["count"],
    "total": lambda row: row["total_ns"],
    "each": lambda row: row["total_ns"] / max(row["count"], 1),
    "share": lambda row: row["total_ns"],
}


class ExitsScreen(SumsScreen):
    """Sums of exits by VM, vCPU and reason, and by device where the recording has that."""

    view_name = "exits"
    view_title = "Exits"
    table = "exits"
    columns = COLUMNS
    noun = ("exit", "exits")
    help = """\
Above, times that vCPUs left the guest and came back, summed up by VM, vCPU and reason: how many,
how long they were outside in all and each time, and which share of the vCPU's time that is. HLT and
its like are a guest that rests; the others are work of the host.

Below (or beside), exits that touched a port or memory of a device, with the time that QEMU took,
where the recording has that. - is not recorded.

Enter shows single exits of the line, where the recording holds them; e shows all of them. The
filter is that of vtrace exits -Y; sums know vm, vcpu and reason alone."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "each", "each exit", tooltip="single exits, one a line"),
    ]

    DEFAULT_CSS = """
    ExitsScreen #panes { layout: vertical; height: 1fr; }
    ExitsScreen.beside #panes { layout: horizontal; }
    ExitsScreen #sums { height: 3fr; width: 1fr; }
    ExitsScreen #side { height: 2fr; width: 1fr; display: none; }
    ExitsScreen.devices #side { display: block; }
    ExitsScreen.beside #side { height: 1fr; border-left: solid $panel; }
    ExitsScreen #side_head { height: 1; padding: 0 1; background: $surface; color: $text-muted; }
    ExitsScreen #by_device { height: 1fr; }
    """

    def compose_view(self) -> ComposeResult:
        """Yield both tables."""
        with Container(id="panes"):
            yield Grid(COLUMNS, id="sums")
            with Container(id="side"):
                yield Static("by device", id="side_head", markup=False)
                yield Grid(DEVICE_COLUMNS, id="by_device")

    def on_resize(self) -> None:
        """Put the tables beside each other where there is room."""
        self.set_class(self.size.width >= SIDE_BY_SIDE, "beside")

    def sum_rows(self, snapshot: Snapshot) -> list[SumRow]:
        """Return the sums by reason; those by device are drawn beside them."""
        self._draw_devices(snapshot)
        vm = self.place.vm
        rows = [row for row in snapshot.exits if vm is None or row["vm"] == vm]
        kept = self.matching(EXITS, rows)
        rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
        if self.sort_key:
            rows.sort(key=SORTED_BY[self.sort_key], reverse=self.sort_reverse)
        seconds = snapshot.duration_ns / 1e9
        return [
            SumRow((row["vm"], row["vcpu"], row["reason"]), _cells(row, seconds), row)
            for row in rows
        ]

    def _draw_devices(self, snapshot: Snapshot) -> None:
        vm = self.place.vm
        found = snapshot.report.get("device_exits") or ()
        rows = [row for row in found if vm is None or row["vm"] == vm]
        rows.sort(key=lambda row: -row["total_ns"])
        self.set_class(bool(rows), "devices")
        grid = self.query_one("#by_device", Grid)
        keys = [(row["vm"], row["vcpu"], row["reason"], row["io"], row["address"]) for row in rows]
        grid.set_source(RowList([_device_cells(row) for row in rows], keys), keep=True)

    def nothing(self, snapshot: Snapshot) -> str:
        """Return why there are no sums."""
        if self.filter_text and snapshot.exits:
            return (
                f"No sums match {self.filter_text}: they know vm, vcpu and reason alone. "
                "(e shows single exits, / changes the filter)"
            )
        return nothing_yet(snapshot, "No exits here: the recording was made without them.")

    @property
    def cursor_place(self) -> Place:
        """The VM of the line under the cursor."""
        key = self.cursor_key
        return Place(vm=key[0]) if isinstance(key, tuple) else self.place

    def on_grid_opened(self, event: Grid.Opened) -> None:
        """Show the single exits of the line."""
        key = self.cursor_key
        if event.grid is not self.grid or not isinstance(key, tuple):
            return
        vm, vcpu, reason = key
        parts = [f'reason == "{reason}"']
        if vcpu is not None:
            parts.insert(0, f"vcpu == {vcpu}")
        self.go("each_exit", Place(vm=vm), filter_text=" and ".join(parts))

    def action_each(self) -> None:
        """Show single exits."""
        self.go("each_exit", Place(vm=self.place.vm), filter_text=self.filter_text)


def _cells(row: Mapping[str, Any], seconds: float) -> list[Cell]:
    share = row["total_ns"] / 1e9 / seconds if seconds else 0.0
    filled = min(round(share * BAR), BAR)
    bar = Text().append("█" * filled, style="spark")
    bar.append("─" * (BAR - filled), style="faint").append(f" {share:4.0%}")
    return [
        clean(row["vm"]),
        "-" if row["vcpu"] is None else str(row["vcpu"]),
        Text(clean(row["reason"]), style="bold"),
        count_text(row["count"]),
        rate_text(row["count"] / seconds if seconds else None),
        duration_text(row["total_ns"]),
        duration_text(row["total_ns"] // max(row["count"], 1)),
        bar,
    ]


def _device_cells(row: Mapping[str, Any]) -> list[Cell]:
    device = row["device"]
    user = row["user_ns"]
    return [
        clean(row["vm"]),
        "-" if row["vcpu"] is None else str(row["vcpu"]),
        Text("-" if device is None else clean(device), style="bold"),
        clean(row["part"]),
        Text(_access(row), style="dim"),
        count_text(row["count"]),
        duration_text(row["total_ns"]),
        "-" if user is None else duration_text(user),
    ]


def _access(row: Mapping[str, Any]) -> str:
    parts = [row["io"] or "", {True: "write", False: "read", None: ""}[row["write"]]]
    if row["address"] is not None:
        parts.append(f"{row['address']:#x}")
    return " ".join(part for part in parts if part) or "-"
