"""Single exits of vCPUs, one a line, where a recording holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtrace.tables.human import duration_text
from vtrace.tui.rows import RowsScreen
from vtrace.tui.sources import ViewColumn, text_column, time_column

if TYPE_CHECKING:
    from vtrace.browse.view import View

__all__ = ["EachExitScreen"]


class EachExitScreen(RowsScreen):
    """VM exits in the order of time."""

    view_name = "each_exit"
    view_title = "Single exits"
    table = "exits"
    noun = ("exit", "exits")
    help = """\
Each line is a time that a vCPU left the guest and came back: when it went back in, why it had left,
how long it was outside, and the port or guest-physical address, where the exit has one. The filter
is that of vtrace exits -Y: outside_ns > 100us. Enter shows the time around it."""

    def view_columns(self) -> Sequence[ViewColumn]:
        """Return the columns."""
        return [
            time_column(lambda: self.vtrace),
            *([] if self.place.vm is not None else [text_column("vm", "VM", 12)]),
            text_column("vcpu", "vCPU", 4, right=True),
            text_column("reason", "reason", 20, style="bold"),
            text_column("outside_ns", "outside", 8, right=True, show=duration_text),
            text_column("address", "address", 14, right=True, rank=1, show=lambda n: f"{n:#x}"),
            text_column("tid", "thread", 8, right=True, rank=3, style="dim"),
            text_column("cpu", "CPU", 4, right=True, rank=2),
        ]

    def nothing(self, view: View) -> str:
        """Return why there are no rows."""
        if not view.done or not self.snapshot.exits:
            return super().nothing(view)
        if self.filter_text:
            return (
                f"No single exits match {self.filter_text}: the recording may hold their sums "
                "alone. (/ changes the filter)"
            )
        return "The recording holds the sums of exits alone, not each of them."

    def on_grid_opened(self) -> None:
        """Show the time around the exit."""
        if self.cursor_ns is not None:
            self.go("timeline", self.cursor_place, time_ns=self.cursor_ns)
