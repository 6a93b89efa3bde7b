"""Devices: what the queues of each device do together."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vtrace.tui.place import Place
from vtrace.tui.screens.groups import GroupsScreen, group_columns

if TYPE_CHECKING:
    from vtrace.tui.grid import GridColumn

__all__ = ["DevicesScreen"]


class DevicesScreen(GroupsScreen):
    """The devices of a VM, or of all VMs."""

    view_name = "devices"
    view_title = "Devices"
    noun = ("device", "devices")
    by = ("vm", "device")
    columns: ClassVar[tuple[GridColumn, ...]] = group_columns(by)
    help = """\
Each line is a device: the sums of its queues, and the queue whose slowest stage takes longest, with
the p99 of that. The filter is over the columns of queues: queues that match are summed up.

Enter shows the queues of the device."""

    @property
    def cursor_place(self) -> Place:
        """The device under the cursor."""
        key = self.cursor_key
        return Place(vm=key[0], device=key[1]) if isinstance(key, tuple) else self.place

    def on_grid_opened(self) -> None:
        """Show the queues of the device."""
        self.go("queues", self.cursor_place)
