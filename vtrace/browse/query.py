"""What rows a view asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

__all__ = ["TABLES", "Query"]

TABLES: Final = ("lifecycles", "packets", "drops", "exits", "requests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Rows of one table: of a VM, a device, a queue, that match a display filter."""

    table: str
    """One of ``TABLES``."""
    vm: str | None = None
    device: str | None = None
    queue: str | None = None
    filter: str = ""
    """In the language of ``-Y``; empty: all rows."""

    def of_table(self, table: str) -> Self:
        """Return the same selection in another table, without the filter."""
        return replace(self, table=table, filter="")

    @property
    def text(self) -> str:
        """The selection and the filter as one display filter."""
        parts = [
            f'{name} == "{_quoted(value)}"'
            for name in ("vm", "device", "queue")
            if (value := getattr(self, name)) is not None
        ]
        if self.filter:
            parts.append(f"({self.filter})" if parts and " or " in self.filter else self.filter)
        return " and ".join(parts)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
