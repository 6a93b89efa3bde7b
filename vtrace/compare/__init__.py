"""Two recordings held against each other: what ``vtrace diff`` prints. Pure: no I/O, no clock.

    comparison = compare(before, after, Unit("packet"))
    comparison.stages      # percentiles, their change, and how sure that is
    comparison.counts      # chains, notifications, exits, interrupts of each device
    comparison.exits       # by reason and device
    comparison.drops

A :class:`Side` is what one recording gives; ``vtrace.session.side`` makes it. ``docs/diff.md`` says
how intervals are made and what they do not cover.
"""

from vtrace.compare.match import Names, Pairs, pair
from vtrace.compare.order import Interval, difference, quantile_interval, rank_interval
from vtrace.compare.rows import Comparison, compare
from vtrace.compare.said import compare_pages, compare_places, compare_rings
from vtrace.compare.seen import CODES, PLACES, Disagreement, PagesSeen, QueueSeen, Said, Span
from vtrace.compare.side import DeviceSums, DropSum, ExitSum, QueueSide, Side
from vtrace.compare.units import Measured, Unit, measured

__all__ = [
    "CODES",
    "PLACES",
    "Comparison",
    "DeviceSums",
    "Disagreement",
    "DropSum",
    "ExitSum",
    "Interval",
    "Measured",
    "Names",
    "PagesSeen",
    "Pairs",
    "QueueSeen",
    "QueueSide",
    "Said",
    "Side",
    "Span",
    "Unit",
    "compare",
    "compare_pages",
    "compare_places",
    "compare_rings",
    "difference",
    "measured",
    "pair",
    "quantile_interval",
    "rank_interval",
]
