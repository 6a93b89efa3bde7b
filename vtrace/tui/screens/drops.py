"""Drops: the verdict in words, the evidence for it, and the packets that were dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from vtrace.browse.snapshot import State
from vtrace.browse.verdict import JudgeState, Verdict, of_place
from vtrace.diagnose.prose.headline import Times
from vtrace.tables.human import count_text
from vtrace.text import clean
from vtrace.tui.grid import Cell, Grid, GridColumn, RowList
from vtrace.tui.place import Place
from vtrace.tui.rows import RowsScreen
from vtrace.tui.sources import ViewColumn, text_column, time_column
from vtrace.tui.widgets.finding import Opens, stretch_lines, verdict_view, waiting_lines
from vtrace.tui.widgets.pane import Line, LinesPane
from vtrace.tui.widgets.panes import PANE_BINDINGS, Panes

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from vtrace.browse.page import Page
    from vtrace.browse.snapshot import Snapshot
    from vtrace.browse.view import View

__all__ = ["DropsScreen"]

SIDE_BY_SIDE: Final = 132
"""Cells from which on the verdict and the drops stand beside each other."""
VIEWS: Final = {
    "drops": "drops",
    "packets": "packets",
    "lifecycles": "chains",
    "exits": "exits",
    "requests": "requests",
}
"""Table that evidence names -> the view that shows its rows."""
MOST_REASONS: Final = 8
"""Lines of reasons that are seen at once."""


class DropsScreen(Panes, RowsScreen):
    """What was lost, why, and what to do; then drops by reason, and one by one."""

    view_name = "drops"
    view_title = "Drops"
    table = "drops"
    noun = ("drop", "drops")
    pane_ids: ClassVar[tuple[str, ...]] = ("verdict", "reasons", "rows")
    help = """\
The verdict first, in the words of vtrace diagnose: what was lost, where, why, how sure that is, and
what to type. Enter on a line with ▸ shows the rows that it came from; T shows the timeline there.
The ledger holds every hop to account: what came in, went out, was dropped, and waits; what does
not balance is unexplained.

Then the drops that were recorded: by the kernel's own name of the reason and by place, and one by
one. Enter on a reason shows its drops, on a drop its packet. The filter is that of vtrace drops -Y.

A recording that is being written is judged again and again, its last seconds, by a process that
takes a tenth of a CPU at most. e shows all evidence, or what matters most."""

    DEFAULT_CSS = """
    DropsScreen #panes { height: 1fr; }
    DropsScreen #verdict { height: 1fr; width: 1fr; border-top: none; }
    DropsScreen #lists { width: 1fr; height: auto; }
    DropsScreen #reasons { height: auto; border-top: solid $foreground 25%;
                           border-title-color: $foreground 70%; }
    DropsScreen #rows { height: 1fr; border-top: solid $foreground 25%;
                        border-title-color: $foreground 70%; }
    DropsScreen #reasons:focus, DropsScreen #rows:focus {
        border-top: solid $primary; border-title-color: $primary; border-title-style: bold; }
    DropsScreen.beside #panes { layout: horizontal; }
    DropsScreen.beside #verdict { width: 3fr; }
    DropsScreen.beside #lists { width: 2fr; height: 1fr; border-left: solid $foreground 25%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *PANE_BINDINGS,
        Binding("enter", "open_row", "evidence", key_display="⏎"),
        Binding("T", "timeline", "timeline"),
        Binding("e", "verbose", "all evidence"),
    ]

    def __init__(self, place: Place | None = None, **hints: Any) -> None:
        super().__init__(place, **hints)
        self._about: tuple[Any, ...] = ()
        self._reasons: list[tuple[str, ...]] = []
        self._verbose = False
        if self.filter_text or "pane" in hints:
            self._pane = str(hints.get("pane", "rows"))
        self.AUTO_FOCUS = f"#{self.pane}"  # type: ignore[misc]

    def view_columns(self) -> Sequence[ViewColumn]:
        """Return the columns of single drops."""
        return _drop_columns(self)

    def compose_view(self) -> ComposeResult:
        """Yield the verdict, the reasons and the drops."""
        with Vertical(id="panes"):
            yield LinesPane("verdict", id="verdict")
            with Vertical(id="lists"):
                reasons = Grid(REASON_COLUMNS, id="reasons")
                reasons.border_title = Text(" by reason and place ")
                yield reasons
                rows = Grid([one.column for one in self.view_columns()], id="rows")
                rows.border_title = Text(" one by one ")
                yield rows
                yield Static("", id="status", markup=False)

    def shown_panes(self, width: int, height: int) -> tuple[str, ...]:
        """Return all panes, or the verdict and one of the lists."""
        if width >= SIDE_BY_SIDE:
            return self.pane_ids
        if self.pane == "rows":
            return ("rows",)
        return ("verdict", "reasons")

    def on_panes_fit(self, shown: tuple[str, ...]) -> None:
        """Give the lists the room that their place has."""
        beside = len(shown) == len(self.pane_ids)
        self.set_class(beside, "beside")
        self.query_one("#lists").display = bool({"reasons", "rows"} & set(shown))
        fits = "verdict" in shown and not beside
        self.query_one("#lists").styles.height = "auto" if fits else "1fr"
        self.query_one("#status").display = "rows" in shown

    # -- the verdict -----------------------------------------------------------------------------

    def on_verdicts(self) -> None:
        """Draw the verdict anew."""
        self._draw_verdict()

    def on_figures(self, snapshot: Snapshot) -> None:
        """Draw the reasons, and the drops that came."""
        super().on_figures(snapshot)
        self._draw_verdict()
        self._draw_reasons(snapshot)

    def on_times(self) -> None:
        """Draw times anew: what they count from has changed."""
        super().on_times()
        self._about = ()
        self._draw_verdict()

    @property
    def _verdict(self) -> Verdict:
        judge = self.vtrace.judge
        return Verdict(sentence="Nobody diagnoses here.") if judge is None else judge.verdict

    def _draw_verdict(self) -> None:
        verdict = self._verdict
        pane = self.query_one("#verdict", LinesPane)
        if verdict.diagnosis is None:
            self._about = ()
            pane.set_lines(lambda width: waiting_lines(verdict, width))
            return
        about = (
            *(id(verdict.diagnosis), verdict.sentence, self.place, self.time_base),
            *(self._verbose, verdict.since_ns, scrubbed := self.moment is not None),
        )
        if about == self._about:
            return
        keep, self._about = bool(self._about), about
        chosen = pane.chosen
        diagnosis = of_place(verdict.diagnosis, self.place.vm, self.place.device)
        times = Times(
            start_ns=self.snapshot.start_ns,
            anchor_ns=diagnosis.anchor_ns,
            zone=self.browser.clock.zone,
            relative=self.time_base != "clock",
        )
        verbose = self._verbose

        def lines(width: int) -> list[Line]:
            return [
                *stretch_lines(verdict, width, times, scrubbed=scrubbed),
                *verdict_view(diagnosis, times, width, verbose=verbose),
            ]

        pane.set_lines(lines, keep=keep)
        if chosen is not None:
            pane.choose(chosen)

    def action_verbose(self) -> None:
        """Show all evidence, or what matters most."""
        self._verbose = not self._verbose
        self._draw_verdict()

    # -- reasons ---------------------------------------------------------------------------------

    def _draw_reasons(self, snapshot: Snapshot) -> None:
        rows = [row for row in snapshot.drops if self._is_here(row)]
        rows.sort(key=lambda row: -row["packets"])
        grid = self.query_one("#reasons", Grid)
        self._reasons = [
            tuple(row.get(name) or "" for name in ("reason", "location", "device")) for row in rows
        ]
        grid.set_source(RowList([_reason_cells(row) for row in rows], self._reasons), keep=True)
        grid.styles.height = min(max(len(rows), 1), MOST_REASONS) + 2
        if not rows:
            grid.set_source(RowList([["-", "no drop was recorded here", "", ""]]))

    def _is_here(self, row: Any) -> bool:
        # Drops are added up by interface or device; a VM is told by its devices.
        place = self.place
        if place.vm is None:
            return True
        mine = {
            name
            for queue in self.snapshot.metadata.get("queues", {}).values()
            if queue.get("vm") == place.vm
            and (place.device is None or queue.get("device") == place.device)
            for name in (queue.get("device"), queue.get("interface"))
        }
        return row.get("device") in mine

    # -- single drops ----------------------------------------------------------------------------

    def show_note(self, text: str | None) -> None:
        """Say beside the verdict why there are no drops; the verdict stays."""
        if text and self.browser.snapshot.state in (State.OPENING, State.FAILED):
            super().show_note(text)
            return
        super().show_note(None)
        if text:
            self.query_one("#status", Static).update(Text(clean(text), style="dim"))

    def nothing(self, view: View) -> str:
        """Return why there are no drops."""
        if view.done and not self.filter_text:
            return "No packet was seen to be dropped here."
        return super().nothing(view)

    # -- going on --------------------------------------------------------------------------------

    def action_open_row(self) -> None:
        """Open what the cursor is on."""
        widget = self.query_one(f"#{self.pane}")
        if isinstance(widget, (LinesPane, Grid)):
            widget.action_open()

    def on_lines_pane_opened(self, event: LinesPane.Opened) -> None:
        """Show the rows that a piece of evidence came from; else the time that it is about."""
        if not isinstance(event.about, Opens):
            return
        rows = event.about.rows
        if rows is None:
            self._to_time(event.about)
        elif VIEWS.get(rows.verb) == self.view_name:
            self.go("drops", Place(), filter_text=rows.filter, pane="rows")
        elif rows.verb in VIEWS:
            self.go(VIEWS[rows.verb], Place(), filter_text=rows.filter)

    def action_timeline(self) -> None:
        """Show the timeline where the cursor is."""
        about = self.query_one("#verdict", LinesPane).chosen
        if self.pane == "verdict" and isinstance(about, Opens):
            self._to_time(about)
        elif self.cursor_ns is not None:
            self.go("timeline", self.cursor_place, time_ns=self.cursor_ns)

    def _to_time(self, about: Opens) -> None:
        finding = about.finding
        place = Place(
            vm=finding.vm or None,
            device=(finding.device or None) if finding.vm else None,
            queue=(finding.queue or None) if finding.vm and finding.device else None,
        )
        if about.time_ns is None:
            self.notify("it has no time of its own")
        else:
            self.go("timeline", place, time_ns=about.time_ns)

    def on_grid_opened(self, event: Grid.Opened) -> None:
        """Show the drops of a reason, or the packet of a drop."""
        if event.grid.id == "rows":
            self.with_row(self._open_packet)
        elif event.row < len(self._reasons):
            names = ("reason", "location")
            parts = [
                f'{name} == "{_quoted(value)}"'
                for name, value in zip(names, self._reasons[event.row], strict=False)
                if value
            ]
            self.on_filter(" and ".join(parts))
            self.vtrace.frame_changed()
            self.focus_pane("rows")

    def _open_packet(self, page: Page) -> None:
        fields = next(iter(page.rows()), None)
        if fields is None:
            return
        parts = ["verdict == dropped"]
        if fields["packet"] is not None:
            parts.append(f"packet == {fields['packet']}")
        if fields["reason"]:
            parts.append(f'reason == "{_quoted(fields["reason"])}"')
        self.go("packets", Place(), filter_text=" and ".join(parts), time_ns=fields["time_ns"])

    @property
    def ready(self) -> bool:
        """Whether the verdict and the drops are drawn."""
        judge = self.vtrace.judge
        judged = judge is None or judge.verdict.state in (JudgeState.DONE, JudgeState.FAILED)
        view = self.rows
        empty = view is not None and view.done and not len(view)
        return judged and (empty or super().ready)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


# The lists

REASON_COLUMNS: Final = (
    GridColumn("packets", "packets", 9, right=True),
    GridColumn("reason", "reason", 22, grow=True),
    GridColumn("location", "place", 22, grow=True, rank=1),
    GridColumn("device", "device", 12, rank=2),
)


def _reason_cells(row: Any) -> list[Cell]:
    return [
        count_text(row["packets"]),
        Text(clean(str(row.get("reason") or "-")), style="alarm"),
        str(row.get("location") or "-"),
        str(row.get("device") or "-"),
    ]


def _drop_columns(screen: RowsScreen) -> list[ViewColumn]:
    place = screen.place
    where = [
        (place.vm, text_column("vm", "VM", 8, rank=6)),
        (place.device, text_column("device", "device", 8, rank=3)),
        (place.queue, text_column("queue", "queue", 5, rank=5)),
    ]
    return [
        time_column(lambda: screen.vtrace),
        *(column for fixed, column in where if fixed is None),
        text_column("reason", "reason", 14, style="alarm"),
        text_column("location", "place", 14, rank=2),
        text_column("frame_bytes", "bytes", 6, right=True, rank=4, show=lambda n: f"{n:,}"),
        text_column("flow", "packet", 24, grow=True, rank=1),
    ]
