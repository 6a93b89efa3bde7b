"""The table of lifecycles: one row per chain, columns as ``docs/lifecycle.md`` has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vtrace.lifecycle.layout import ROW, STATES
from vtrace.model import TIME_COLUMNS

__all__ = ["COLUMNS", "LifecycleTable"]

Array = NDArray[Any]

COLUMNS: Final[dict[str, np.dtype[Any]]] = {
    name: np.dtype(kind)
    for name, kind in (
        ("queue", "u2"),
        ("generation", "u2"),
        ("position", "u8"),
        ("head", "u2"),
        ("direction", "u1"),
        ("backend", "u1"),
        ("descriptors", "u2"),
        ("readable_bytes", "u4"),
        ("writable_bytes", "u4"),
        ("used_bytes", "u4"),
        ("packet", "u4"),
        ("batch", "u4"),
        ("handed_back", "u2"),
        ("avail_lo_ns", "u8"),
        ("avail_hi_ns", "u8"),
        *((name, "u8") for name in TIME_COLUMNS),
        *((name, "u1") for name in STATES),
        ("outcome", "u1"),
        ("trust", "u1"),
        ("worker_tid", "u4"),
        ("kick_tid", "u4"),
        ("cpu", "u2"),
    )
}
"""Name of every column -> type. Times are CLOCK_MONOTONIC in ns, 0: none.

``direction``: 0 none, 1 rx, 2 tx; ``backend``: 0 vhost, 1 QEMU, by the chain's records.
"""


@dataclass(frozen=True, slots=True)
class LifecycleTable:
    """Chains in the order in which they were finished."""

    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.columns["queue"])

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    @classmethod
    def of_rows(cls, parts: Iterable[Array]) -> LifecycleTable:
        """Return the table of the tracker's rows, in pieces."""
        parts = [part for part in parts if len(part)]
        size = sum(len(part) for part in parts)
        columns = {}
        for name, kind in COLUMNS.items():
            column = np.empty(size, ROW[name])
            at = 0
            for part in parts:
                column[at : at + len(part)] = part[name]
                at += len(part)
            columns[name] = column.view(kind)
        return cls(columns)

    @classmethod
    def concat(cls, tables: Iterable[LifecycleTable]) -> LifecycleTable:
        """Return one table of several."""
        tables = list(tables)
        if not tables:
            return cls.of_rows([])
        return cls(
            {name: np.concatenate([table.columns[name] for table in tables]) for name in COLUMNS}
        )
