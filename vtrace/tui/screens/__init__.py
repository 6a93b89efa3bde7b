"""The screens, each one a module that is imported when it is first shown."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from vtrace.tui.base import ViewScreen

__all__ = ["SCREENS", "VIEW_KEYS", "screen_class"]

SCREENS: Final = {
    "vms": "vtrace.tui.screens.vms:VmsScreen",
    "devices": "vtrace.tui.screens.devices:DevicesScreen",
    "queues": "vtrace.tui.screens.queues:QueuesScreen",
    "queue": "vtrace.tui.screens.queue:QueueScreen",
    "timeline": "vtrace.tui.screens.timeline:TimelineScreen",
    "packets": "vtrace.tui.screens.packets:PacketsScreen",
    "drops": "vtrace.tui.screens.drops:DropsScreen",
    "each_exit": "vtrace.tui.screens.each_exit:EachExitScreen",
    "exits": "vtrace.tui.screens.exits:ExitsScreen",
    "requests": "vtrace.tui.screens.requests:RequestsScreen",
    "chains": "vtrace.tui.screens.chains:ChainsScreen",
    "chain": "vtrace.tui.screens.chain:ChainScreen",
}
"""Where the class of each view is."""

VIEW_KEYS: Final = {
    "1": "vms",
    "2": "devices",
    "3": "queues",
    "4": "queue",
    "5": "timeline",
    "6": "packets",
    "7": "drops",
    "8": "exits",
    "9": "requests",
}
"""The digit that shows a view."""


def screen_class(view_name: str) -> type[ViewScreen]:
    """Return the class of a view; KeyError if there is no such view."""
    module, _, name = SCREENS[view_name].partition(":")
    return cast("type[ViewScreen]", getattr(import_module(module), name))
