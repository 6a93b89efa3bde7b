"""What the command palette offers: views, actions, marks, themes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from textual.app import SystemCommand

from vtrace.text import clean
from vtrace.tui.screens import SCREENS, VIEW_KEYS
from vtrace.tui.theme import THEMES

if TYPE_CHECKING:
    from vtrace.tui.app import VtraceApp

__all__ = ["commands"]

VIEWS: Final = {
    "vms": "VMs and what their queues do together",
    "devices": "devices of VMs",
    "queues": "queues: which one is sick?",
    "queue": "one queue: its ring, where time goes, its chains",
    "timeline": "vCPUs, workers, rings and drops on one time axis",
    "packets": "packets with their layers and bytes",
    "drops": "what was lost, where, and why",
    "exits": "times that vCPUs left the guest",
    "requests": "requests to disks, serial ports, balloons",
    "chains": "all descriptor chains of this place",
}
ACTIONS: Final = (
    ("Filter", "choose the rows that are shown", "filter"),
    ("Export", "write the rows to a file: JSON lines, CSV, .vtrace", "export"),
    ("Copy", "copy the row under the cursor as JSON", "copy"),
    ("Pause", "hold the figures, or let them go on", "pause"),
    ("Follow", "go on with the newest, at the end of the list", "follow"),
    ("Go to a time", "show everything as it stood then", "go_to_time"),
    ("Step back in time", "move the time cursor", "scrub(-1)"),
    ("Step forward in time", "move the time cursor", "scrub(1)"),
    ("Time base", "times of day, or from the start", "time_base"),
    ("Mark row", "mark the row under the cursor for the export", "mark_row"),
    ("Help", "this screen and its keys", "help"),
    ("Quit", "leave vtrace", "quit"),
)


def commands(app: VtraceApp) -> Iterator[SystemCommand]:
    """Yield all commands."""
    keys = {name: key for key, name in VIEW_KEYS.items()}
    for name in SCREENS:
        if name in VIEWS:
            key = f" ({keys[name]})" if name in keys else ""
            yield SystemCommand(
                f"View: {name}", VIEWS[name] + key, partial(app.action_switch, name)
            )
    for title, says, action in ACTIONS:
        yield SystemCommand(title, says, _run(app, action))
    for letter, mark in sorted(app.marks.items()):
        if letter != "'":
            yield SystemCommand(
                f"Go to mark {letter}", clean(mark.text), partial(app.jump_to, letter)
            )
    own = [theme.name for theme in THEMES]
    for name in [*own, *(one for one in sorted(app.available_themes) if one not in own)]:
        yield SystemCommand(f"Theme: {name}", "colours", partial(app.use_theme, name))


def _run(app: VtraceApp, action: str) -> Callable[[], None]:
    def run() -> None:
        app.call_later(app.run_action, action)

    return run
