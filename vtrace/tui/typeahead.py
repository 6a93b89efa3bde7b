"""Keys that are typed before there is something to type into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual import events
from textual.app import App
from textual.widgets import Input

if TYPE_CHECKING:
    from textual.timer import Timer

__all__ = ["TypeAheadApp"]

OPENING: Final = ("filter", "export", "go_to_time", "command_palette", "find")
"""Actions that open a line to type into."""
LONGEST_S: Final = 1.0
"""So long a line may take to open; behind that keys are keys again."""


class TypeAheadApp(App[None]):
    """An app in which ``/udp`` typed at once is a filter, not three commands.

    A dialog takes a few turns of the event loop to open. What is typed behind the key that opens
    it is held back until it has the focus.
    """

    def __init__(self, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._typed: list[events.Event] | None = None
        self._limit: Timer | None = None

    async def on_event(self, event: events.Event) -> None:
        """Hold keys back while a line is being opened."""
        # One that comes back from a widget that had no use for it is not typed again.
        if isinstance(event, (events.Key, events.Paste)) and not event.is_forwarded:
            if self._typed is not None:
                self._typed.append(event)
                return
            if isinstance(event, events.Key) and self._opens(event.key):
                self._typed = []
                self._limit = self.set_timer(LONGEST_S, self._release)
        await super().on_event(event)

    def _opens(self, key: str) -> bool:
        if isinstance(self.focused, Input):
            return False
        found = self.screen.active_bindings.get(key)
        if found is None or not found.enabled:
            return False
        action = found.binding.action.removeprefix("app.").partition("(")[0]
        return action in OPENING

    async def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Give what was typed to the line that has opened."""
        if isinstance(event.widget, Input):
            await self._release()

    async def _release(self) -> None:
        typed, self._typed = self._typed, None
        if self._limit is not None:
            self._limit.stop()
        for event in typed or ():
            await super().on_event(event)
