"""How words are set off from others: by whom the lines are shown."""

from __future__ import annotations

from typing import Protocol

__all__ = ["PLAIN", "Style"]


class Style(Protocol):
    """Sets words off: in colour, or not at all. It adds no cells."""

    def bold(self, text: str) -> str:
        """Return a heading."""

    def dim(self, text: str) -> str:
        """Return what stands back."""

    def alarm(self, text: str) -> str:
        """Return what must not be overlooked."""


class _Plain:
    def bold(self, text: str) -> str:
        return text

    def dim(self, text: str) -> str:
        return text

    def alarm(self, text: str) -> str:
        return text


PLAIN: Style = _Plain()
"""Sets nothing off."""
