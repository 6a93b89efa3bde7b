"""Screens of several panes: which of them are shown, the way from one to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.binding import Binding, BindingType
from textual.widget import Widget

if TYPE_CHECKING:
    from vtrace.tui.base import ViewScreen as _Screen
else:
    # Beside a screen, not one of its own: styles are inherited along one line only.
    _Screen = object

__all__ = ["PANE_BINDINGS", "Panes"]

PANE_BINDINGS: Final[list[BindingType]] = [
    Binding("tab", "pane(1)", "pane", key_display="⇥"),
    Binding("shift+tab", "pane(-1)", "pane before", show=False),
    Binding("backslash", "maximise", "maximise", key_display="\\", show=False),
]


class Panes(_Screen):
    """What a screen with panes does: ``tab`` goes round, a backslash gives all room to one.

    The screen has ``PANE_BINDINGS`` among its own; it says ``pane_ids`` in the order of ``tab``,
    and in ``shown_panes`` which of them there is room for.
    """

    pane_ids: ClassVar[tuple[str, ...]] = ()

    maximised: str = ""
    """Name of the pane that has all the room; empty: none."""
    _pane: str = ""

    @property
    def pane(self) -> str:
        """Name of the pane that has the focus, or had it last."""
        return self._pane or self.pane_ids[0]

    def shown_panes(self, width: int, height: int) -> tuple[str, ...]:
        """Return the panes that are shown while ``self.pane`` has the focus."""
        raise NotImplementedError

    def fit_panes(self) -> None:
        """Show the panes that there is room for."""
        size = self.size
        shown = self.shown_panes(size.width, size.height)
        if self.maximised:
            shown = (self.pane,)
        for name in self.pane_ids:
            for widget in self.query(f"#{name}"):
                widget.display = name in shown
        self.on_panes_fit(shown)

    def on_panes_fit(self, shown: tuple[str, ...]) -> None:
        """Fit what is around the panes."""

    def on_resize(self) -> None:
        """Show the panes that there is room for."""
        self.fit_panes()

    def on_descendant_focus(self) -> None:
        """Keep in mind which pane is looked at."""
        focused: Widget | None = self.focused
        while focused is not None and focused is not self:
            if focused.id in self.pane_ids:
                if focused.id != self._pane:
                    self._pane = focused.id
                    self.fit_panes()
                return
            focused = focused.parent if isinstance(focused.parent, Widget) else None

    def show_note(self, text: str | None) -> None:
        """Show a sentence instead of the panes, or the panes: then one of them has the focus."""
        super().show_note(text)
        if not text and self.focused is None and self.is_mounted:
            self.call_after_refresh(self._focus_one)

    def _focus_one(self) -> None:
        if self.focused is None and self.is_attached:
            self.focus_pane(self.pane)

    def focus_pane(self, name: str) -> None:
        """Go to a pane; it is shown, whether there was room for it or not."""
        self._pane = name
        self.fit_panes()
        self.query_one(f"#{name}").focus()

    def action_pane(self, step: int) -> None:
        """Go to the next pane, or to the one before."""
        at = self.pane_ids.index(self.pane)
        self.focus_pane(self.pane_ids[(at + step) % len(self.pane_ids)])

    def action_maximise(self) -> None:
        """Give all the room to a pane, or to all again."""
        self.maximised = "" if self.maximised else self.pane
        self.fit_panes()
