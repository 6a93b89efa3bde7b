"""Requests: what guests asked of QEMU's devices, summed up and one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from vtrace.tables import REQUESTS
from vtrace.tables.human import count_text, duration_text, size_text
from vtrace.tables.request_words import operation_text, status_text, what_text
from vtrace.text import clean
from vtrace.tui.grid import Cell, Grid, GridColumn, RowList
from vtrace.tui.place import Place
from vtrace.tui.rows import RowsScreen
from vtrace.tui.sources import ViewColumn, text_column, time_column
from vtrace.tui.widgets.pane import Line, LinesPane
from vtrace.tui.widgets.panes import PANE_BINDINGS, Panes

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.page import Page
    from vtrace.browse.snapshot import Snapshot
    from vtrace.browse.view import View

__all__ = ["RequestsScreen"]

PAGE_BYTES: Final = 4096
KEYS: Final = ("vm", "device", "queue", "generation", "position", "time_ns")


class RequestsScreen(Panes, RowsScreen):
    """Requests to the devices that QEMU serves."""

    view_name = "requests"
    view_title = "Requests"
    table = "requests"
    noun = ("request", "requests")
    pane_ids: ClassVar[tuple[str, ...]] = ("rows", "sums", "more")
    AUTO_FOCUS = "#rows"
    help = """\
What drivers asked of the devices that QEMU serves: disk and SCSI commands with place, size and
status, pages of the balloon, bytes and control messages of serial ports, commands of the network
control queue. Above, sums by device and operation, and of balloons and serial ports; below,
requests in the order in which they ended. Waiting in the ring (queueing) and work of the device
(service) stand apart. ? with a word says why something is not there.

Enter opens the chain of a request; on a sum it shows the requests of it. The filter is that of
vtrace requests -Y: operation == OUT and service_ns > 10ms, failed, lun == 1."""

    DEFAULT_CSS = """
    RequestsScreen #top { height: auto; }
    RequestsScreen #more { height: auto; border-top: none; }
    RequestsScreen #rows { height: 1fr; border-top: solid $foreground 25%;
                           border-title-color: $foreground 70%; }
    RequestsScreen #rows:focus { border-top: solid $primary; border-title-color: $primary; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *PANE_BINDINGS,
        Binding("enter", "open_row", "open", key_display="⏎"),
        Binding("f", "failed(1)", "failed"),
        Binding("F", "failed(-1)", "failed before", show=False),
    ]

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self._sums: list[Mapping[str, Any]] = []

    def view_columns(self) -> Sequence[ViewColumn]:
        """Return the columns; those that the place says already are left out."""
        return _request_columns(self)

    def compose_view(self) -> ComposeResult:
        """Yield the sums and the requests."""
        with Vertical(id="top"):
            yield Grid(SUM_COLUMNS, id="sums")
            yield LinesPane(id="more")
        rows = Grid([one.column for one in self.view_columns()], id="rows")
        rows.border_title = Text(" one by one ")
        yield rows
        yield Static("", id="status", markup=False)

    def shown_panes(self, width: int, height: int) -> tuple[str, ...]:
        """Return all panes that have something to show."""
        return ("rows", *(("sums",) if self._sums else ()), *(("more",) if self._more else ()))

    def on_panes_fit(self, shown: tuple[str, ...]) -> None:
        """Hide what is left of panes that are not shown."""
        self.query_one("#top").display = bool({"sums", "more"} & set(shown))
        self.query_one("#status").display = "rows" in shown
        alone = shown == ("sums",)
        # A fifth of the screen for the sums, and less for what else there is.
        count = min(len(self._sums), max(self.size.height // 5, 3)) + 1
        self.query_one("#sums").styles.height = "1fr" if alone else count
        self.query_one("#more").styles.max_height = max(self.size.height // 8, 2)
        self.query_one("#top").styles.height = "1fr" if "rows" not in shown else "auto"

    def action_pane(self, step: int) -> None:
        """Go to the next pane that has something to show."""
        for _ in self.pane_ids:
            at = self.pane_ids.index(self.pane)
            self._pane = self.pane_ids[(at + step) % len(self.pane_ids)]
            if self._pane in self.shown_panes(0, 0):
                break
        self.focus_pane(self._pane)

    # -- sums ------------------------------------------------------------------------------------

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw the sums, and the requests that came."""
        super().on_figures(snapshot)
        self._sums = [row for row in snapshot.report.get("requests", ()) if self.place.holds(row)]
        grid = self.query_one("#sums", Grid)
        keys = [(row["vm"], row["device"], row["operation"]) for row in self._sums]
        grid.set_source(RowList([_sum_cells(row) for row in self._sums], keys), keep=True)
        more = self._more
        self.query_one("#more", LinesPane).set_lines(
            lambda width: [Line(_fit(text, width)) for text in more], keep=True
        )
        self.fit_panes()

    @property
    def _more(self) -> list[Text]:
        report = self.snapshot.report
        texts = [
            text
            for row in report.get("balloons", ())
            if self.place.holds(row)
            for text in _balloon(row)
        ]
        ports = [_port(row) for row in report.get("serial_ports", ()) if self.place.holds(row)]
        return texts + ports

    def nothing(self, view: View) -> str:
        """Return why there are no requests."""
        if view.done and not self.filter_text:
            queues = self.browser.snapshot.metadata.get("queues", {}).values()
            if not any(queue.get("backend") == "qemu" for queue in queues):
                return (
                    "No queue in this recording was served by QEMU: there are no requests.\n"
                    "Packets of vhost's queues are in view 6."
                )
        return super().nothing(view)

    # -- going on --------------------------------------------------------------------------------

    def action_open_row(self) -> None:
        """Open what the cursor is on."""
        widget = self.query_one(f"#{self.pane}")
        if isinstance(widget, Grid):
            widget.action_open()

    def on_grid_opened(self, event: Grid.Opened) -> None:
        """Open the chain of a request, or show the requests of a sum."""
        if event.grid.id == "rows":
            self.with_row(self._open)
        elif event.row < len(self._sums):
            row = self._sums[event.row]
            operation = str(row["operation"]).replace("\\", "\\\\").replace('"', '\\"')
            self.go(
                "requests",
                Place(vm=row["vm"], device=row["device"]),
                filter_text=f'operation == "{operation}"',
            )

    def _open(self, page: Page) -> None:
        if not len(page):
            return
        values = [column[0] for column in page.lists(KEYS)]
        vm, device, queue, generation, position, time_ns = values
        place = Place(vm=vm, device=device, queue=queue, chain=(generation, position))
        self.go("chain", place, time_ns=time_ns)

    def action_failed(self, step: int) -> None:
        """Go to the next request that the device refused, or to the one before."""
        self.find("failed", step)


# The list


def _request_columns(screen: RowsScreen) -> list[ViewColumn]:
    place = screen.place
    where = [
        (place.vm, text_column("vm", "VM", 8, rank=8)),
        (place.device, text_column("device", "device", 9, rank=5)),
        (place.queue, text_column("queue", "queue", 7, rank=7)),
    ]
    return [
        time_column(lambda: screen.vtrace),
        *(column for fixed, column in where if fixed is None),
        _worded("operation", "operation", 15, 0, _operation_cell),
        text_column("data_bytes", "bytes", 8, right=True, rank=3, show=lambda n: f"{n:,}"),
        _worded("status", "status", 12, 2, _status_cell),
        _duration("queueing_ns", "queueing", 4),
        _duration("service_ns", "service", 0),
        _worded("outcome", "outcome", 12, 6, _outcome_cell),
        _worded("what", "what", 14, 1, lambda row: what_text(row), grow=True),
    ]


def _worded(
    key: str,
    head: str,
    width: int,
    rank: int,
    cell: Callable[[Mapping[str, Any]], Cell],
    *,
    grow: bool = False,
) -> ViewColumn:
    column = GridColumn(key, head, width, rank=rank, grow=grow)
    return ViewColumn(column, lambda page: [cell(row) for row in _rows(page)])


def _rows(page: Page) -> list[dict[str, Any]]:
    names = REQUESTS.names
    return [dict(zip(names, row, strict=True)) for row in zip(*page.lists(names), strict=True)]


def _duration(name: str, head: str, rank: int) -> ViewColumn:
    return text_column(name, head, 8, right=True, rank=rank, show=duration_text)


def _operation_cell(row: Mapping[str, Any]) -> Cell:
    return _doubtful(operation_text(row))


def _status_cell(row: Mapping[str, Any]) -> Cell:
    text = _doubtful(status_text(row))
    if row["failed"]:
        text.stylize("alarm")
    elif text.plain in {"OK", "GOOD"}:
        text.stylize("dim")
    return text


def _doubtful(text: str | None) -> Text:
    if text is None:
        return Text("-", style="faint")
    return Text(clean(text), style="warn" if text.startswith("? ") else "text")


def _outcome_cell(row: Mapping[str, Any]) -> Cell:
    if row["trust"] != "complete":
        return Text(f"{row['outcome']} {row['trust']}", style="warn")
    return Text(str(row["outcome"]), style="dim" if row["outcome"] == "used" else "warn")


# The sums

SUM_COLUMNS: Final = (
    GridColumn("vm", "VM", 8, rank=6),
    GridColumn("device", "device", 9),
    GridColumn("operation", "operation", 15),
    GridColumn("count", "count", 9, right=True),
    GridColumn("bytes", "bytes", 8, right=True, rank=2),
    GridColumn("failed", "failed", 6, right=True),
    GridColumn("unread", "unread", 6, right=True, rank=5),
    GridColumn("ambiguous", "ambiguous", 9, right=True, rank=7),
    GridColumn("q50", "queueing p50", 12, right=True, rank=4),
    GridColumn("q99", "p99", 7, right=True, rank=4),
    GridColumn("s50", "service p50", 11, right=True, rank=1),
    GridColumn("s90", "p90", 7, right=True, rank=3),
    GridColumn("s99", "p99", 7, right=True),
    GridColumn("max", "max", 7, right=True, rank=3),
)


def _sum_cells(row: Mapping[str, Any]) -> list[Cell]:
    return [
        row["vm"],
        row["device"],
        row["operation"],
        count_text(row["count"]),
        size_text(row["data_bytes"]),
        _alarming(row["failed"], "alarm"),
        _alarming(row["unread"], "warn"),
        _alarming(row["ambiguous"], "warn"),
        *(_figure(row["queueing"], name) for name in ("p50", "p99")),
        *(_figure(row["service"], name) for name in ("p50", "p90", "p99", "max")),
    ]


def _alarming(count: int, style: str) -> Cell:
    return Text(count_text(count), style=style if count else "dim")


def _figure(figures: Mapping[str, int] | None, name: str) -> Cell:
    return "-" if figures is None else duration_text(figures[f"{name}_ns"])


def _balloon(row: Mapping[str, Any]) -> list[Text]:
    texts = []
    for name in ("inflated", "deflated"):
        pages, distinct = row[f"{name}_pages"], row[f"{name}_distinct"]
        if not pages:
            continue
        text = Text().append(clean(f"balloon {row['vm']} {row['device']}  ", 48), style="dim")
        text.append(f"{name} {count_text(pages)} pages ({size_text(PAGE_BYTES * pages)})", "text")
        if distinct != pages:
            text.append(f", {count_text(distinct)} of them seen and distinct")
        ranges = row[f"{name}_ranges"]
        shown = ", ".join(_range(**one) for one in ranges)
        more = row[f"{name}_more_ranges"]
        if shown:
            text.append(f": {shown}" + (f" and {count_text(more)} more ranges" if more else ""))
        texts.append(text)
    if row["stats"]:
        stats = [f"{clean(name)} {count_text(value)}" for name, value in row["stats"].items()]
        text = Text().append(clean(f"balloon {row['vm']} {row['device']}  ", 48), style="dim")
        texts.append(text.append("statistics " + ", ".join(stats), "text"))
    return texts


def _range(first: int, last: int) -> str:
    return f"{first:#x}" if first == last else f"{first:#x}-{last:#x}"


def _port(row: Mapping[str, Any]) -> Text:
    text = Text().append(
        clean(f"serial port {row['vm']} {row['device']} {row['port']}", 48), style="dim"
    )
    name = f" {clean(str(row['name']), 32)}" if row["name"] else ""
    text.append(f"{name}  ", "text")
    text.append(f"{size_text(row['received_bytes'])} to the guest, ", "text")
    return text.append(f"{size_text(row['sent_bytes'])} from it", "text")


def _fit(text: Text, width: int) -> Text:
    text = text.copy()
    text.truncate(width, overflow="ellipsis")
    return text
