"""A stretch of the timeline as it is drawn: from the events where they are few, else from sums."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from vtrace.browse.falls import falls
from vtrace.browse.lane_rows import LaneRow, Lanes
from vtrace.browse.lanes import COLUMNS
from vtrace.tables.human import duration_text

if TYPE_CHECKING:
    from vtrace.browse.browser import Browser
    from vtrace.browse.lane_window import LaneWindow, Stall
    from vtrace.browse.view import View

__all__ = ["Drawn", "draw", "next_of", "says", "stall_text", "wrapped"]

MOST_EXACT: Final = 1_000_000
"""Events that a stretch is computed from anew; longer ones come from the sums."""
MOST_CHAINS: Final = 24


class Where(Protocol):
    """A place in the recording; None: all."""

    @property
    def vm(self) -> str | None: ...
    @property
    def device(self) -> str | None: ...
    @property
    def queue(self) -> str | None: ...


@dataclass(slots=True)
class Drawn:
    """What was made for a stretch of time."""

    window: LaneWindow
    lanes: Lanes
    rows: list[LaneRow]
    """Lanes, and below them chains where there is room for them."""
    chains: int
    """Popped in that time."""
    counted: bool = True
    """All chains were found by then; else some may be missing among the rows."""


def draw(
    browser: Browser,
    chains: View | None,
    place: Where,
    metadata: Mapping[str, Any],
    t0: int,
    t1: int,
    columns: int,
    room: int,
) -> Drawn:
    """Return the rows of a place from ``t0`` up to ``t1``; ``room``: lines there are for them.

    ``chains``: lifecycles of the place. Blocks: reads the file where the stretch is short.

    Raises:
        InputError: The file changed under us.
    """
    sums = browser.lanes
    begin, until = sums.exact_from(t0), t1 + (t1 - t0) // 4
    firsts, lasts, counts = browser.index_times
    events = int(np.sum(counts[(lasts >= begin) & (firsts < until)]))
    if events <= MOST_EXACT:
        window = sums.exact(browser.batches(begin, until, COLUMNS), t0, t1, columns)
    else:
        window = sums.window(t0, t1, columns)
    lanes = Lanes(
        window,
        metadata,
        vm=place.vm,
        device=place.device,
        queue=place.queue,
        present=sums.present(),
    )
    rows = lanes.rows()
    popped = int(sum(one.chains.sum() for one in lanes.queues()))
    room -= len(rows)
    counted = chains is None or chains.done
    if window.exact and 0 < popped <= 4 * MOST_CHAINS and room > 1 and chains is not None:
        at = chains.row_at(t0)
        page = chains.load(max(at - 8, 0), popped + 16)
        rows += falls(page, t0, t1, columns, min(room, MOST_CHAINS))
    return Drawn(window, lanes, rows, popped, counted)


def next_of(times: Sequence[int], at_ns: int, step: int) -> int | None:
    """Return which of the times is the next, or with -1 the one before; round at the end."""
    if not times:
        return None
    if step > 0:
        return bisect_right(times, at_ns) % len(times)
    return (bisect_left(times, at_ns) - 1) % len(times)


def stall_text(stall: Stall, lanes: Lanes) -> str:
    """Return a stall in words."""
    took = duration_text(stall.long_ns)
    if stall.what == 0:
        text = f"{lanes.thread_name(stall.lane)} was ready and had no CPU for {took}"
        if stall.other > 0:
            text += f", behind {lanes.thread_name(stall.other)}"
        return text if stall.other else f"{text}; its CPU was idle before"
    name = lanes.queue_name(stall.lane)
    what = "packets lay in the tap of" if stall.what == 1 else "nobody took the chains of"
    return f"{what} {name} for {took}"


def says(made: Drawn) -> list[dict[str, Any]]:
    """Return what each lane says of each column in words, for export."""
    window = made.window
    return [
        {
            "lane": row.label,
            "time_ns": window.time_of(column),
            "until_ns": window.time_of(column + 1),
            "says": text,
        }
        for row in made.rows
        if row.what != "chain"
        for column in range(window.columns)
        if (text := made.lanes.facts(row, column))
    ]


def wrapped(texts: Sequence[str], width: int, most: int = 3) -> list[str]:
    """Return texts side by side, in at most so many lines."""
    lines: list[str] = [""]
    for text in texts:
        if lines[-1] and len(lines[-1]) + len(text) + 3 > width:
            lines.append("")
        lines[-1] += f" · {text}" if lines[-1] else text
    return lines[:most]
