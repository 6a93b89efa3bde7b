"""VMs: what all queues of each VM do together."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vtrace.tui.place import Place
from vtrace.tui.screens.groups import GroupsScreen, group_columns

if TYPE_CHECKING:
    from vtrace.tui.grid import GridColumn

__all__ = ["VmsScreen"]


class VmsScreen(GroupsScreen):
    """The VMs of the recording."""

    view_name = "vms"
    view_title = "VMs"
    noun = ("VM", "VMs")
    by = ("vm",)
    columns: ClassVar[tuple[GridColumn, ...]] = group_columns(by)
    help = """\
Each line is a VM: the sums of all its queues, the share of time that its vCPUs spent outside of the
guest (of one vCPU: with four it can be 400 %), and the queue whose slowest stage takes longest,
with the p99 of that. The filter is over the columns of queues: those that match are summed up.

Enter shows the devices of the VM."""

    @property
    def cursor_place(self) -> Place:
        """The VM under the cursor."""
        key = self.cursor_key
        return Place(vm=key[0]) if isinstance(key, tuple) else self.place

    def on_grid_opened(self) -> None:
        """Show the devices of the VM."""
        self.go("devices", self.cursor_place)
