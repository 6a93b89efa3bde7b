"""Packets: the list, and of the one under the cursor its layers, its bytes and its chain."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Static

from vtrace.text import clean
from vtrace.tui.grid import Cell, Grid, GridColumn
from vtrace.tui.place import Place
from vtrace.tui.rows import RowsScreen
from vtrace.tui.sources import ViewColumn, text_column, time_column
from vtrace.tui.widgets.chain import chain_texts
from vtrace.tui.widgets.hexdump import HexPane
from vtrace.tui.widgets.layers import LayersPane
from vtrace.tui.widgets.pane import Line, LinesPane
from vtrace.tui.widgets.panes import PANE_BINDINGS, Panes

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.timer import Timer

    from vtrace.browse.onechain import FoundChain
    from vtrace.browse.page import Page
    from vtrace.packets import Frame, Layer

__all__ = ["PacketsScreen", "packet_columns", "verdict_cells"]

REST_S: Final = 0.06
"""A packet is looked at when the cursor has rested on it for so long."""
KEPT: Final = 64
"""Packets whose layers are kept."""
SIDE_BY_SIDE: Final = 96
"""Cells from which on layers and bytes stand side by side."""
ALL: Final = 150
"""Cells from which on the chain stands beside them."""
NOT_CAPTURED: Final = "not captured: the recording holds no bytes of this packet"
NO_CHAIN: Final = "No chain: no buffer of the guest's was used for this packet."


@dataclass(slots=True)
class Dissected:
    """A packet and its layers."""

    row: dict[str, Any]
    frame: Frame | None
    layers: Sequence[Layer]
    chain: FoundChain | None = None
    """Once it was looked for, and found."""


class PacketsScreen(Panes, RowsScreen):
    """Packets in the order in which their story ended; four linked panes."""

    view_name = "packets"
    view_title = "Packets"
    table = "packets"
    noun = ("packet", "packets")
    pane_ids: ClassVar[tuple[str, ...]] = ("rows", "layers", "bytes", "chain")
    AUTO_FOCUS = "#rows"
    help = """\
Above, packets in the order in which their story ended: when and where each was seen, the place of
its chain in the available ring, and how it ended. Below, the one under the cursor: its layers (the
virtio_net_hdr first), its bytes with those of the chosen field marked, and the chain that carried
it. A checksum that the sender left to the hardware is not complete in the frame: it is shown as
offloaded, not as wrong.

tab goes from pane to pane, \\ gives one all the room. In the layers, left and right fold and
unfold. Enter in the list or in the chain opens the chain. d and D go to the next and the previous
dropped packet. The filter is that of vtrace packets -Y: udp.dport == 7001, verdict == dropped."""

    DEFAULT_CSS = """
    PacketsScreen #rows { height: 2fr; min-height: 4; }
    PacketsScreen #below { height: 3fr; }
    PacketsScreen #layers { width: 1fr; }
    PacketsScreen #bytes { width: 1fr; }
    PacketsScreen #chain { width: 1fr; }
    PacketsScreen.all #bytes { width: 76; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *PANE_BINDINGS,
        Binding("d", "drop(1)", "drop"),
        Binding("D", "drop(-1)", "drop before", show=False),
        Binding("enter", "open_row", "chain", key_display="⏎"),
    ]

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self._kept: OrderedDict[int, Dissected] = OrderedDict()
        self._looked_at: int | None = None
        self._found: FoundChain | None = None
        self._rest: Timer | None = None

    def view_columns(self) -> Sequence[ViewColumn]:
        """Return the columns; those that the place says already are left out."""
        return packet_columns(self)

    def compose_view(self) -> ComposeResult:
        """Yield the four panes."""
        yield Grid([one.column for one in self.view_columns()], id="rows")
        yield Static("", id="status", markup=False)
        with Horizontal(id="below"):
            yield LayersPane(id="layers")
            yield HexPane(id="bytes")
            yield LinesPane("chain", id="chain")

    def shown_panes(self, width: int, height: int) -> tuple[str, ...]:
        """Return the list, and of the others those that there is room for."""
        lower = self.pane if self.pane != "rows" else "layers"
        if width >= ALL:
            return self.pane_ids
        if width >= SIDE_BY_SIDE:
            other = lower if lower != "layers" else "bytes"
            return ("rows", "layers", other)
        return ("rows", lower)

    def on_panes_fit(self, shown: tuple[str, ...]) -> None:
        """Hide what is left of panes that are not shown; draw lines between those that are."""
        self.query_one("#status").display = "rows" in shown
        lower = [name for name in shown if name != "rows"]
        self.query_one("#below").display = bool(lower)
        self.set_class(len(lower) == 3, "all")
        for at, name in enumerate(lower):
            self.query_one(f"#{name}", LinesPane).set_beside(bool(at))

    # -- the packet under the cursor -------------------------------------------------------------

    def open_view(self) -> None:
        """Ask for the packets of the place and the filter."""
        self._kept.clear()
        self._looked_at = None
        super().open_view()

    def show_status(self) -> None:
        """Look at the packet under the cursor."""
        super().show_status()
        row = self.grid.cursor
        if row == self._looked_at or not self.grid.row_count:
            return
        self._looked_at = row
        if self._rest is not None:
            self._rest.stop()
            self._rest = None
        known = self._kept.get(row)
        if known is not None:
            self._kept.move_to_end(row)
            self._show(row, known)
        else:
            self._rest = self.set_timer(REST_S, lambda: self._look_at(row))

    def _look_at(self, row: int) -> None:
        view, self._rest = self.rows, None
        if view is not None and row == self._looked_at:
            self.work(
                lambda: _dissect(view.load(row, 1)),
                lambda found: self._keep(row, found),
                group="packet",
                failed=lambda sentence: self._say_failed("layers", sentence),
            )

    def _keep(self, row: int, found: Dissected | None) -> None:
        if found is None:
            return
        self._kept[row] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        if row == self._looked_at:
            self._show(row, found)

    def _show(self, row: int, found: Dissected) -> None:
        frame = found.frame
        data = b"" if frame is None else frame.data
        length = found.row["frame_bytes"] or len(data)
        self.query_one(HexPane).show_bytes(data, length, NOT_CAPTURED)
        self.query_one(LayersPane).show_layers(found.layers, NOT_CAPTURED)
        self._show_chain(row, found)

    def _show_chain(self, row: int, found: Dissected) -> None:
        pane = self.query_one("#chain", LinesPane)
        self._found = None
        fields = found.row
        if fields["position"] is None:
            pane.set_lines(lambda width: _fate(fields, width))
            return
        if found.chain is not None:
            self._show_found(found.chain)
            return
        from vtrace.browse.onechain import ChainKey, find_chain

        key = ChainKey(
            **{name: fields[name] for name in ("vm", "device", "queue")},
            generation=fields["generation"],
            position=fields["position"],
        )
        browser, time_ns = self.browser, fields["time_ns"]

        def show(chain: FoundChain | None) -> None:
            found.chain = chain
            if row != self._looked_at:
                return
            if chain is None:
                pane.set_texts([Text("The chain is not in the recording.", style="dim")])
            else:
                self._show_found(chain)

        self.work(
            lambda: find_chain(browser, key, time_ns),
            show,
            group="chain",
            failed=lambda sentence: self._say_failed("chain", sentence),
        )

    def _show_found(self, chain: FoundChain) -> None:
        self._found = chain
        pane = self.query_one("#chain", LinesPane)
        pane.set_lines(lambda width: self._chain_lines(chain, width))

    def _chain_lines(self, chain: FoundChain, width: int) -> list[Line]:
        rows = list(chain.page.rows())
        texts = chain_texts(rows, chain.index, width, self.vtrace.time_text)
        return [Line(text) for text in texts]

    def _say_failed(self, pane: str, sentence: str) -> None:
        self.query_one(f"#{pane}", LinesPane).set_texts([Text(clean(sentence), style="alarm")])

    def on_layers_pane_pointed(self, event: LayersPane.Pointed) -> None:
        """Mark the bytes of the chosen field."""
        self.query_one(HexPane).mark(event.node.span)

    def on_times(self) -> None:
        """Draw times anew."""
        super().on_times()
        found = self._found
        if found is not None:
            self.query_one("#chain", LinesPane).set_lines(
                lambda width: self._chain_lines(found, width), keep=True
            )

    # -- going on --------------------------------------------------------------------------------

    def on_grid_opened(self) -> None:
        """Open the chain."""
        self.with_row(self._open)

    def action_open_row(self) -> None:
        """Open the chain."""
        self.with_row(self._open)

    def _open(self, page: Page) -> None:
        fields = next(iter(page.rows()), None)
        if fields is None:
            return
        if fields["position"] is None:
            self.notify("no chain: no buffer of the guest's was used for this packet")
            return
        place = Place(
            vm=fields["vm"],
            device=fields["device"],
            queue=fields["queue"],
            chain=(fields["generation"], fields["position"]),
        )
        self.go("chain", place, time_ns=fields["time_ns"])

    def action_drop(self, step: int) -> None:
        """Go to the next packet that was dropped, or to the one before."""
        self.find("verdict == dropped", step)

    @property
    def ready(self) -> bool:
        """Whether the packet under the cursor is drawn, too."""
        looked = self._rest is None and self._looked_at == self.grid.cursor
        return super().ready and (looked or not self.grid.row_count)


def _dissect(page: Page) -> Dissected | None:
    from vtrace.packets import layers

    row = next(iter(page.rows()), None)
    if row is None:
        return None
    frame = page.frame(0)
    return Dissected(row, frame, () if frame is None else layers(frame))


def _fate(row: dict[str, Any], width: int) -> list[Line]:
    from vtrace.tui.widgets.finding import sentence_lines

    lines = sentence_lines(NO_CHAIN, width)
    if row["verdict"] == "dropped":
        where = f" in {row['location']}" if row["location"] else ""
        reason = row["reason"] or "no reason seen"
        lines += sentence_lines(f"Dropped{where}: {reason}.", width, "alarm")
    return lines


# The list


def packet_columns(screen: RowsScreen) -> list[ViewColumn]:
    """Return the columns of packets."""
    place = screen.place
    where = [
        (place.vm, text_column("vm", "VM", 8, rank=6)),
        (place.device, text_column("device", "device", 8, rank=5)),
        (place.queue, text_column("queue", "queue", 5, rank=3)),
    ]
    return [
        time_column(lambda: screen.vtrace),
        *(column for fixed, column in where if fixed is None),
        text_column("flow", "packet", 35, grow=True, show=lambda text: text or "not captured"),
        text_column("frame_bytes", "bytes", 6, right=True, rank=1, show=lambda n: f"{n:,}"),
        text_column("position", "chain", 8, right=True, rank=2, show=lambda n: f"{n:,}"),
        ViewColumn(GridColumn("verdict", "verdict", 12, grow=True), verdict_cells),
    ]


def verdict_cells(page: Page) -> list[Cell]:
    """Return how packets ended; of those that were dropped the reason and the place."""
    cells: list[Cell] = []
    for verdict, reason, location in zip(
        *page.lists(["verdict", "reason", "location"]), strict=True
    ):
        if verdict == "dropped":
            text = Text().append(clean(reason or "dropped"), style="alarm")
            if location:
                text.append(f" {clean(location)}", style="dim")
            cells.append(text)
        else:
            quiet = verdict in {"delivered", "sent"}
            cells.append(Text(str(verdict).replace("_", " "), style="dim" if quiet else "warn"))
    return cells
