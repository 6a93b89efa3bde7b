"""Figures of a queue as the list of queues shows them: rates, occupancy, the slowest stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.browse.snapshot import EMPTY_SERIES, QueueKey, Snapshot, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.browse.snapshot import Series

__all__ = [
    "QueueFigures",
    "is_idle",
    "is_live",
    "queue_figures",
    "rate_text",
    "sparkline",
]

RECENT_NS: Final = 2_000_000_000
"""What "now" is where a recording goes on."""
LATENCIES: Final = ("notify", "schedule", "queueing", "service", "complete", "interrupt")
"""Stages that make a packet late: in ``idle`` a buffer lies ready, in ``reap`` the guest has it."""
WORK: Final = (
    *("chains", "complete", "partial", "ambiguous", "handed_back", "starved", "in_flight"),
    "packets",
)
BARS: Final = "▁▂▃▄▅▆▇█"
NOT_KNOWN: Final = "·"


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue; rates are per second, None where they are not known or do not apply."""

    key: QueueKey
    row: Mapping[str, Any]
    """As ``report --json`` has it."""
    queue_id: int
    size: int | None
    rate: float | None
    """Chains that the device took."""
    bytes_rate: float | None
    """Bytes that the device wrote; None for a queue that it only reads."""
    kicks: float | None
    interrupts: float | None
    drops: int | None
    """Packets dropped at it, in all; None where no packets pass."""
    drop_rate: float | None
    """Known only while the recording goes on."""
    in_flight: int
    stage: str
    """The stage with the longest 99th percentile; empty: none was seen."""
    p50_ns: int | None
    p99_ns: int | None
    series: Series
    """What the sparkline shows."""


def is_live(snapshot: Snapshot) -> bool:
    """Return whether rates are those of the last seconds: it is being written."""
    return snapshot.state is State.FOLLOWING


def is_idle(row: Mapping[str, Any]) -> bool:
    """Return whether a queue did nothing."""
    return not any(row.get(name) for name in WORK)


def queue_figures(snapshot: Snapshot) -> list[QueueFigures]:
    """Return the figures of each queue, in the order of the report."""
    live = is_live(snapshot)
    sizes = _sizes(snapshot.metadata)
    ids = snapshot.queue_ids
    seconds = snapshot.duration_ns / 1e9
    return [
        _figures(row, ids[at] if at < len(ids) else -1, snapshot, sizes, seconds, live)
        for at, row in enumerate(snapshot.queues)
    ]


def _figures(
    row: Mapping[str, Any],
    queue_id: int,
    snapshot: Snapshot,
    sizes: Mapping[int, int],
    seconds: float,
    live: bool,
) -> QueueFigures:
    whole = snapshot.series.get(queue_id, EMPTY_SERIES)
    recent = snapshot.recent.get(queue_id, EMPTY_SERIES) if live else EMPTY_SERIES
    has_packets = row["direction"] in {"rx", "tx"}
    drops = int(whole.drops.sum()) if has_packets else None
    rates: dict[str, float | None]
    if live:
        rates = {
            name: _recent_rate(recent, name)
            for name in ("chains", "used_bytes", "kicks", "interrupts", "drops")
        }
    else:
        totals = {
            "chains": row["chains"],
            "used_bytes": row["used_bytes"],
            "kicks": row["kicks"]["sent"],
            "interrupts": row["interrupts"]["sent"],
            "drops": drops or 0,
        }
        rates = {
            name: total / seconds if seconds and total is not None else None
            for name, total in totals.items()
        }
    stage, p50, p99 = _dominating(row["stages"])
    return QueueFigures(
        key=(row["vm"], row["device"], row["queue"]),
        row=row,
        queue_id=queue_id,
        size=sizes.get(queue_id),
        rate=rates["chains"],
        bytes_rate=None if row["direction"] == "tx" else rates["used_bytes"],
        kicks=rates["kicks"],
        interrupts=rates["interrupts"],
        drops=drops,
        drop_rate=rates["drops"] if has_packets and live else None,
        in_flight=row["in_flight"],
        stage=stage,
        p50_ns=p50,
        p99_ns=p99,
        series=recent if live else whole,
    )


def _recent_rate(series: Series, name: str) -> float | None:
    values: NDArray[Any] = getattr(series, name)
    count = max(RECENT_NS // series.width_ns, 1)
    last = values[-count:]
    if not len(last):
        return None
    return float(last.sum()) / (len(last) * series.width_ns / 1e9)


def _sizes(metadata: Mapping[str, Any]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    queues = metadata.get("queues")
    for name, queue in queues.items() if isinstance(queues, Mapping) else ():
        size = queue.get("size") if isinstance(queue, Mapping) else None
        if isinstance(size, int) and size > 0 and str(name).isdigit():
            sizes[int(name)] = size
    return sizes


def _dominating(stages: Mapping[str, Any]) -> tuple[str, int | None, int | None]:
    found = [(stages[name]["p99_ns"], name) for name in LATENCIES if name in stages]
    if not found:
        return "", None, None
    p99, name = max(found)
    return name, stages[name]["p50_ns"], p99


def rate_text(rate: float | None) -> str:
    """Return a rate in at most five characters: ``0``, ``0.4``, ``402``, ``61.2k``, ``1.25M``."""
    if rate is None:
        return "-"
    if rate == 0:
        return "0"
    if rate < 0.095:
        return "<0.1"
    for size, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")):
        value = rate / size
        if value < 999.5:
            if unit == "" and value >= 9.95:
                return f"{value:.0f}"
            digits = 1 if value < 99.95 or unit == "" else 0
            return f"{value:.{digits}f}{unit}"
    return f"{rate:.0e}"


def sparkline(values: Sequence[int] | NDArray[Any], width: int, full: int | None = None) -> str:
    """Return bars for the greatest value of each part of a series, -1 as ``·``.

    The scale is logarithmic, from 0 to ``full`` (or the greatest value), so that one chain of 256
    can be seen beside a ring that is full.
    """
    numbers = np.asarray(values, np.int64)
    if width <= 0:
        return ""
    if not len(numbers):
        return NOT_KNOWN * width
    if len(numbers) > width:
        edges = np.arange(width) * len(numbers) // width
        numbers = np.maximum.reduceat(numbers, edges)
    top = math.log2(1 + max(full or 0, int(numbers.max()), 1))
    levels = np.ceil(np.log2(1 + np.maximum(numbers, 0)) / top * (len(BARS) - 1))
    levels = np.where(numbers < 0, -1, np.minimum(levels, len(BARS) - 1))
    bars = [NOT_KNOWN if level < 0 else BARS[int(level)] for level in levels.tolist()]
    return "".join(bars).rjust(width, NOT_KNOWN)
