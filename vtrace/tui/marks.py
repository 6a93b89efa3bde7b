"""Marks: places that a person wants to come back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtrace.tui.place import Place

__all__ = ["Mark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A view, where it was, which row, and at which time."""

    view_name: str
    place: Place
    hints: Mapping[str, Any] = field(default_factory=dict)
    """What the view is opened with: its row, its filter."""
    at_ns: int | None = None
    """Where the time cursor was; None: at the newest."""

    @property
    def text(self) -> str:
        """What it is, in a few words; not cleaned."""
        parts = [text for text, _ in self.place.crumbs[1:]]
        row = self.hints.get("row")
        where = " ".join(parts) or "all VMs"
        return f"{self.view_name} {where}" + (f" row {row + 1}" if isinstance(row, int) else "")
