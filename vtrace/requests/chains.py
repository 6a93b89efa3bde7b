"""Chains as their records tell of them: sizes, times, and the bytes of both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.requests.parts import Part

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CHAIN", "Chains"]

CHAIN: Final = np.dtype(
    [
        ("serial", "<u8"),
        ("pop_ns", "<u8"),
        ("used_ns", "<u8"),
        ("readable", "<u4"),
        ("writable", "<u4"),
        ("written", "<u4"),
        ("queue", "<u2"),
        ("head", "<u2"),
        ("position", "<u2"),
        ("last_byte", "<i2"),
        ("popped", "?"),
        ("placed", "?"),
        ("foreign", "?"),
        ("used", "?"),
        ("leads", "?"),
        ("taken", "?"),
    ]
)
"""One chain. ``popped``, ``used``: that record was seen; ``last_byte``: of the writable part, -1 if
not read; ``placed``: ``position`` is known; ``foreign``: the answer is that of another chain, as
records between were lost; ``leads``: it is the first of those that became visible together."""


class Chains:
    """Chains in a given order: their records' sums, and what the driver and the device wrote."""

    __slots__ = ("request", "response", "rows")

    def __init__(self, rows: NDArray[Any], pieces: NDArray[Any], data: NDArray[np.uint8]) -> None:
        self.rows = rows
        """Of dtype ``CHAIN``; all zero where no record of the chain was kept."""
        sides = []
        for name, response in (("readable", False), ("writable", True)):
            lengths = np.where(rows["popped"], rows[name].astype(np.int64), -1)
            sides.append(Part(pieces[pieces["response"] == response], data, lengths))
        self.request, self.response = sides

    def __len__(self) -> int:
        return len(self.rows)
