"""Where in a recording a screen is: all VMs, one VM, its device, its queue, one chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from vtrace.browse.query import Query

__all__ = ["Place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a screen is about; None: all of them."""

    vm: str | None = None
    device: str | None = None
    queue: str | None = None
    chain: tuple[int, int] | None = None
    """Generation of the queue and position in its available ring."""

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the place of a row with ``vm`` and perhaps ``device`` and ``queue``."""
        return cls(vm=row.get("vm"), device=row.get("device"), queue=row.get("queue"))

    @property
    def crumbs(self) -> list[tuple[str, Place]]:
        """The way here, from all VMs; texts are as they were recorded, not cleaned."""
        way: list[tuple[str, Place]] = [("All VMs", Place())]
        if self.vm is not None:
            way.append((self.vm, Place(vm=self.vm)))
        if self.device is not None:
            way.append((self.device, Place(vm=self.vm, device=self.device)))
        if self.queue is not None:
            way.append((self.queue, replace(self, chain=None)))
        if self.chain is not None:
            way.append((f"chain {self.chain[1]:,}".replace(",", " "), self))
        return way

    @property
    def outer(self) -> Place:
        """The place around this one; all VMs if there is none."""
        way = self.crumbs
        return way[-2][1] if len(way) > 1 else self

    def query(self, table: str, filter_text: str = "") -> Query:
        """Return the question for the rows of a table that are here."""
        return Query(
            table=table, vm=self.vm, device=self.device, queue=self.queue, filter=filter_text
        )

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row with ``vm``, ``device`` and ``queue`` is here."""
        return all(
            wanted is None or name not in row or row[name] == wanted
            for name, wanted in (("vm", self.vm), ("device", self.device), ("queue", self.queue))
        )
