"""One descriptor chain: its times and stages, its batch, its packet or its request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from vtrace.browse.snapshot import State
from vtrace.tables import LIFECYCLES
from vtrace.tables.human import count_text
from vtrace.tui.base import Selection, ViewScreen
from vtrace.tui.grid import Grid, RowList
from vtrace.tui.widgets.chain import BATCH_COLUMNS, batch_cells, chain_texts
from vtrace.tui.widgets.hexdump import HexPane
from vtrace.tui.widgets.layers import LayersPane
from vtrace.tui.widgets.pane import Line, LinesPane
from vtrace.tui.widgets.panes import PANE_BINDINGS, Panes

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.onechain import FoundChain
    from vtrace.browse.snapshot import Snapshot
    from vtrace.packets import Frame, Layer
    from vtrace.tui.place import Place

__all__ = ["ChainScreen"]

WIDE: Final = 132
"""Cells from which on its batch, and layers and bytes, stand beside each other."""
SIDE_BY_SIDE: Final = 96
"""Cells from which on layers and bytes stand beside each other."""
BACK_NS: Final = 2_000_000_000
"""The chain before may be so much older."""
AGAIN_S: Final = 0.25
"""Time after which a chain that was not there is looked for again."""
MOST_REQUEST: Final = 65_536
"""Bytes of a request that are shown."""
NOTHING: Final = "No packet and no request of this chain is in the recording."


@dataclass(frozen=True, slots=True)
class Shown:
    """A chain with what is in it."""

    chain: FoundChain
    rows: Sequence[dict[str, Any]]
    """It and those of its batch."""
    frame: Frame | None
    layers: Sequence[Layer]
    data: bytes
    """Of the packet, or what the driver wrote of the request."""
    length: int
    index: int

    @property
    def row(self) -> dict[str, Any]:
        """The chain, as ``vtrace lifecycles --json`` prints it."""
        return self.rows[self.index]


class ChainScreen(Panes, ViewScreen):
    """One chain, wherever it is in the recording."""

    view_name = "chain"
    view_title = "Chain"
    pane_ids: ClassVar[tuple[str, ...]] = ("stages", "layers", "bytes", "batch")
    AUTO_FOCUS = "#stages"
    help = """\
One descriptor chain: when each thing happened to it, counted from when its story begins, and where
a time is not there, why. shared: one kick, one wakeup, one interrupt served this chain and others
too. suppressed: the other side had asked for no notification. lost: records are missing here, or
the recording began or ended first. Below, how long each stage took; the longest stands out.

Left and right go to the chain before and behind it in the ring. tab goes to its packet or request,
to the bytes, and to the chains that the device returned together with it; \\ gives one pane all
the room. Enter opens the timeline around it; on a chain of its batch, that chain."""

    DEFAULT_CSS = """
    ChainScreen #above { height: 2fr; min-height: 8; }
    ChainScreen #below { height: 1fr; min-height: 5; }
    ChainScreen #stages { width: 3fr; }
    ChainScreen #layers, ChainScreen #bytes { width: 1fr; }
    ChainScreen #batch { width: 2fr; height: 1fr; border-top: solid $foreground 25%;
                         border-title-color: $foreground 70%; }
    ChainScreen #batch.beside { border-left: solid $foreground 25%; }
    ChainScreen #batch:focus { border-top: solid $primary; border-title-color: $primary; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "timeline", "timeline", key_display="⏎"),
        Binding("left,h", "beside(-1)", "before", key_display="←"),
        Binding("right,l", "beside(1)", "behind", key_display="→"),
        *PANE_BINDINGS,
    ]

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self._shown: Shown | None = None
        self._asked: Place | None = None
        self._near_ns: int | None = hints.get("time_ns")

    def compose_view(self) -> ComposeResult:
        """Yield the panes."""
        with Horizontal(id="above"):
            yield LinesPane("times", id="stages")
            batch = Grid(BATCH_COLUMNS, id="batch")
            batch.border_title = Text("returned together ")
            yield batch
        with Horizontal(id="below"):
            yield LayersPane(id="layers")
            yield HexPane(id="bytes")

    def shown_panes(self, width: int, height: int) -> tuple[str, ...]:
        """Return the times, and of the others those that there is room for."""
        lower = self.pane if self.pane in {"layers", "bytes"} else "layers"
        if width >= WIDE:
            return self.pane_ids
        upper = "batch" if self.pane == "batch" else "stages"
        if width >= SIDE_BY_SIDE:
            return (upper, "layers", "bytes")
        if self.pane == "batch":
            return ("batch",)
        return ("stages", lower)

    def on_panes_fit(self, shown: tuple[str, ...]) -> None:
        """Hide what is left of panes that are not shown; draw lines between those that are."""
        self.query_one("#above").display = bool({"stages", "batch"} & set(shown))
        self.query_one("#below").display = bool({"layers", "bytes"} & set(shown))
        self.query_one("#batch").set_class("stages" in shown, "beside")
        self.query_one("#bytes", LinesPane).set_beside({"layers", "bytes"} <= set(shown))

    # -- the chain -------------------------------------------------------------------------------

    def on_figures(self, snapshot: Snapshot) -> None:
        """Look for the chain, if that was not done, or it was not there yet."""
        if self._asked == self.place or snapshot.state is State.OPENING:
            return
        self._asked = self.place
        self._find(self.place, self._near_ns)

    def apply_place(self, place: Place) -> None:
        """Show another chain."""
        self._near_ns = None
        super().apply_place(place)

    def _find(self, place: Place, time_ns: int | None) -> None:
        from vtrace.browse.onechain import ChainKey, find_chain

        if place.chain is None:
            self.show_note("Choose a chain first: in the list of chains, or in that of a queue.")
            return
        generation, position = place.chain
        key = ChainKey(
            vm=place.vm,
            device=place.device,
            queue=place.queue,
            generation=generation,
            position=position,
        )
        browser = self.browser
        if self._shown is None:
            self.show_note("Looking for the chain …")

        def look() -> tuple[Shown | None, bool]:
            ended = browser.ended
            found = find_chain(browser, key, time_ns)
            if found is None and time_ns is not None:
                found = find_chain(browser, key)
            return (None if found is None else _shown(found)), ended

        self.work(look, lambda found: self._take(place, *found), group="chain")

    def _take(self, place: Place, found: Shown | None, ended: bool = True) -> None:
        if found is None:
            self._missing(place, ended)
            return
        self.place = place
        self._asked = place
        self._show(found)
        self.vtrace.frame_changed()

    def _missing(self, place: Place, ended: bool) -> None:
        position = count_text(place.chain[1] if place.chain is not None else 0)
        if self._shown is not None:
            self.notify(f"no chain at position {position} in the recording")
        elif ended:
            self.show_note(f"There is no chain at position {position} here.")
        else:
            # It may come.
            following = self.browser.snapshot.state is State.FOLLOWING
            text = f"There is no chain at position {position} yet."
            self.show_note(text if following else "Looking for the chain …")
            self.set_timer(AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._asked = None
        self.on_figures(self.snapshot)

    @property
    def ready(self) -> bool:
        """Whether the chain is drawn, or it is known why not."""
        here = self._shown is not None or bool(self.note and "…" not in self.note)
        return super().ready and here

    def _show(self, found: Shown) -> None:
        self._shown = found
        self.show_note(None)
        self.query_one("#stages", LinesPane).set_lines(self._lines)
        self.query_one(LayersPane).show_layers(found.layers, NOTHING)
        if found.data:
            self.query_one(HexPane).show_bytes(found.data, found.length)
        else:
            self.query_one(HexPane).show_bytes(b"", 0, "No bytes of it are in the recording.")
        batch = self.query_one("#batch", Grid)
        keys = [row["position"] for row in found.rows]
        batch.set_source(RowList([batch_cells(row) for row in found.rows], keys))
        batch.go_to(found.index)
        self.fit_panes()

    def _lines(self, width: int) -> list[Line]:
        found = self._shown
        if found is None:
            return []
        texts = chain_texts(found.rows, found.index, width, self.vtrace.time_text)
        return [Line(text) for text in texts]

    def on_times(self) -> None:
        """Draw times anew: what they count from has changed."""
        self.query_one("#stages", LinesPane).set_lines(self._lines, keep=True)

    def on_layers_pane_pointed(self, event: LayersPane.Pointed) -> None:
        """Mark the bytes of the chosen field."""
        self.query_one(HexPane).mark(event.node.span)

    # -- going on --------------------------------------------------------------------------------

    def action_beside(self, step: int) -> None:
        """Show the chain before it in the ring, or behind it."""
        found = self._shown
        if found is None:
            return
        generation, position = found.row["generation"], found.row["position"] + step
        if position < 0:
            return
        place = replace(self.place, chain=(generation, position))
        near = [at for at, row in enumerate(found.rows) if row["position"] == position]
        if near and found.chain.request is None:
            chain = replace(found.chain, index=near[0])
            self.work(lambda: _shown(chain), lambda other: self._take(place, other), group="chain")
            return
        begin = found.row["time_ns"]
        self._find(place, None if begin is None else max(begin - BACK_NS * (step < 0), 0))

    def on_grid_opened(self, event: Grid.Opened) -> None:
        """Show a chain of the batch."""
        found = self._shown
        if found is not None and event.row < len(found.rows):
            row = found.rows[event.row]
            place = replace(self.place, chain=(row["generation"], row["position"]))
            self._find(place, row["time_ns"])
            self.focus_pane("stages")

    def action_timeline(self) -> None:
        """Open the timeline around the chain."""
        if self.cursor_ns is not None:
            self.go("timeline", replace(self.place, chain=None), time_ns=self.cursor_ns)

    @property
    def cursor_ns(self) -> int | None:
        """When the story of the chain begins."""
        return None if self._shown is None else self._shown.row["time_ns"]

    def selection(self) -> Selection | None:
        """Return the chain."""
        found = self._shown
        if found is None:
            return None
        row = found.row
        return Selection(
            name="lifecycles",
            columns=LIFECYCLES.names,
            rows=[row],
            count=1,
            filter_text=f"position == {row['position']} and generation == {row['generation']}",
            place=replace(self.place, chain=None),
            current=row,
        )


def _shown(chain: FoundChain) -> Shown:
    rows = list(chain.page.rows())
    frame = chain.page.frame(chain.index)
    if chain.request is not None and len(chain.request):
        from vtrace.tui.widgets.asked import request_layers

        asked = next(iter(chain.request.rows()))
        layers, data = request_layers(asked), b""
        found = chain.request.request(0)
        if found is not None:
            requests, at = found
            data = requests.chains.request.run(at, MOST_REQUEST)
        if asked["flow"] is None or frame is None:
            length = asked["request_bytes"] or len(data)
            return Shown(chain, rows, frame, layers, data, length, chain.index)
    if frame is None:
        return Shown(chain, rows, None, (), b"", 0, chain.index)
    from vtrace.packets import layers as layers_of

    length = frame.length or len(frame.data)
    return Shown(chain, rows, frame, layers_of(frame), frame.data, length, chain.index)
