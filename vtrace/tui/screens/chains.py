"""Chains: all lifecycles of a place, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from vtrace.tui.place import Place
from vtrace.tui.rows import RowsScreen
from vtrace.tui.sources import ViewColumn, lifecycle_columns

if TYPE_CHECKING:
    from vtrace.browse.page import Page

__all__ = ["ChainsScreen", "chain_place"]

KEYS: Final = ("vm", "device", "queue", "generation", "position", "time_ns")


class ChainsScreen(RowsScreen):
    """Descriptor chains in the order in which they ended."""

    view_name = "chains"
    view_title = "Chains"
    table = "lifecycles"
    noun = ("chain", "chains")
    help = """\
Each line is a descriptor chain, in the order in which they ended. Its stages are counted from the
time at the left, when its story begins. Where a stage has no time, a sign says why:

  ·  shared: the event of another chain served this one too
  /  suppressed: the other side had asked for no notification
  -  does not apply to this queue, or is not probed
  ?  lost, or outside of the recording

Enter opens the chain with its packet. The filter is that of vtrace lifecycles -Y:
schedule_ns > 1ms, udp.dport == 7001, outcome != used."""

    def view_columns(self) -> Sequence[ViewColumn]:
        """Return the columns; those that the place says already are left out."""
        return lifecycle_columns(self.place, lambda: self.vtrace)

    def on_grid_opened(self) -> None:
        """Open the chain."""
        self.with_row(self._open)

    def _open(self, page: Page) -> None:
        if len(page):
            place, hints = chain_place(page, 0)
            self.go("chain", place, row=self.grid.cursor, filter_text=self.filter_text, **hints)


def chain_place(page: Page, index: int) -> tuple[Place, dict[str, Any]]:
    """Return the place of a row of lifecycles, and the time at which its story begins."""
    values = [column[index] for column in page.lists(KEYS)]
    vm, device, queue, generation, position, time_ns = values
    place = Place(vm=vm, device=device, queue=queue, chain=(generation, position))
    return place, {"time_ns": time_ns}
