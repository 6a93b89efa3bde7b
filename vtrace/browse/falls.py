"""Chains on the time axis: each a line of its own that falls through its stages."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from vtrace.browse.lane_rows import LaneRow
from vtrace.tables.human import duration_text
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.browse.page import Page

__all__ = ["LEGEND", "falls"]

EVENTS: Final = (
    ("enqueue", "e"),
    ("kick", "k"),
    ("wake", "w"),
    ("run", "r"),
    ("pop", "p"),
    ("used", "u"),
    ("irq", "i"),
)
"""Times of a chain, and the letter at which each stands."""
SEGMENTS: Final = {
    "enqueue": ("╌", "dim"),
    "kick": ("╌", "dim"),
    "wake": ("░", "orange"),
    "run": ("─", "blue"),
    "pop": ("█", "cyan"),
    "used": ("─", "green"),
}
"""What follows an event up to the next one: its sign, and the name of its style."""
LEGEND: Final = "e tap  k kick  w wake ░ waits  r run  p pop █ service  u used  i irq"
NAMES: Final = (
    *("vm", "device", "queue", "position", "flow", "seen_ns", "time_ns"),
    *(f"{name}_ns" for name, _ in EVENTS),
)


def falls(page: Page, t0: int, t1: int, columns: int, most: int) -> list[LaneRow]:
    """Return rows for chains of a page that lie between ``t0`` and ``t1``, at most ``most``."""
    rows = []
    for values in zip(*page.lists(NAMES), strict=True):
        chain: dict[str, Any] = dict(zip(NAMES, values, strict=True))
        times = [
            (int(chain[f"{name}_ns"]), name, letter)
            for name, letter in EVENTS
            if chain[f"{name}_ns"] is not None
        ]
        times.sort(key=lambda event: event[0])
        if times and times[-1][0] >= t0 and times[0][0] < t1:
            rows.append(_row(chain, times, t0, t1, columns))
        if len(rows) >= most:
            break
    return rows


def _row(
    chain: dict[str, Any], times: list[tuple[int, str, str]], t0: int, t1: int, columns: int
) -> LaneRow:
    chars, styles = [" "] * columns, [""] * columns

    def column(time_ns: int) -> int:
        return (time_ns - t0) * columns // max(t1 - t0, 1)

    woken = next((time_ns for time_ns, name, _ in times if name == "wake"), t1)
    ran = next((time_ns for time_ns, name, _ in times if name == "run"), t0)
    for (begin, name, _), (end, _, _) in pairwise(times):
        # A packet that comes while the worker is on its way waits for it, too.
        waits = name in ("enqueue", "kick") and woken <= begin and end <= ran
        sign, style = SEGMENTS["wake" if waits else name]
        for at in range(max(column(begin), 0), min(column(end), columns)):
            chars[at], styles[at] = sign, style
    for time_ns, _, letter in times:
        at = column(time_ns)
        if 0 <= at < columns:
            chars[at], styles[at] = letter, "bold"
    took = duration_text(times[-1][0] - times[0][0])
    return LaneRow(
        label=f"{clean(str(chain['queue']), 6)} {chain['position']:,}",
        what="chain",
        chars="".join(chars),
        styles=tuple(styles),
        note=f"{took} {chain['flow'] or ''}".rstrip(),
        about=int(chain["position"]),
    )
