"""The rows of a comparison: plain values, as ``schemas/diff.json`` describes them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vtrace.compare.counts import device_counts, drop_rows, exit_rows, queue_counts
from vtrace.compare.match import Pairs, pair
from vtrace.compare.order import Interval, Verdict, difference, quantile_interval
from vtrace.compare.units import Measured, Unit, measured
from vtrace.model import STAGES

if TYPE_CHECKING:
    from vtrace.compare.side import QueueSide, Side
    from vtrace.lifecycle import Histogram

__all__ = ["SHARES", "Comparison", "compare"]

Row = dict[str, Any]

SHARES: Final = (50, 90, 99)
"""Percentiles that are compared."""


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What changed from one recording to another."""

    before: Side
    after: Side
    units: Measured
    confidence: float
    pairs: list[Row] = field(default_factory=list)
    """Devices: ``before``, ``after`` (None: no partner), ``why``."""
    stages: list[Row] = field(default_factory=list)
    counts: list[Row] = field(default_factory=list)
    """Of queues, and (``queue`` empty) of whole devices."""
    exits: list[Row] = field(default_factory=list)
    drops: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def compare(
    before: Side,
    after: Side,
    unit: Unit | None = None,
    *,
    mapped: Iterable[tuple[str, str]] = (),
    confidence: float = 0.95,
) -> Comparison:
    """Compare two recordings.

    Raises:
        UsageError: A unit or a name is not there.
    """
    pairs = pair(before, after, list(mapped))
    units = measured(before, after, unit or Unit())
    made = Comparison(before=before, after=after, units=units, confidence=confidence)
    made.pairs = _pair_rows(before, after, pairs)
    queues = _queues(before, after, pairs)
    for (vm, device, name), (mine, theirs) in queues.items():
        place = {"vm": vm, "device": device, "queue": name}
        made.stages += _stage_rows(place, mine, theirs, math.sqrt(confidence))
        made.counts += queue_counts(place, mine, theirs, units)
    made.counts += device_counts(before, after, pairs, units)
    made.exits = exit_rows(before, after, pairs, units)
    made.drops = drop_rows(before, after, pairs, units)
    made.warnings = _warnings(before, after, units)
    return made


def _pair_rows(before: Side, after: Side, pairs: Pairs) -> list[Row]:
    # Devices of the board that both have are no news; what has queues or was told is.
    notable = {(q.vm, q.device) for q in before.queues} | set(before.devices)
    others = {(q.vm, q.device) for q in after.queues} | set(after.devices)
    theirs = {mine: their for their, mine in pairs.partner.items()}
    told = {mine for mine, why in pairs.why.items() if why == "as told"}
    rows: list[Row] = []
    for mine in sorted(notable | told | {pairs.partner[o] for o in others if o in pairs.partner}):
        partner = theirs.get(mine)
        rows.append(
            {
                "before": {"vm": mine[0], "device": mine[1]},
                "after": None if partner is None else {"vm": partner[0], "device": partner[1]},
                "why": pairs.why.get(mine, "no partner"),
            }
        )
    rows += [
        {"before": None, "after": {"vm": other[0], "device": other[1]}, "why": "no partner"}
        for other in sorted(others)
        if other not in pairs.partner
    ]
    return rows


Both = tuple["QueueSide | None", "QueueSide | None"]


def _queues(before: Side, after: Side, pairs: Pairs) -> dict[tuple[str, str, str], Both]:
    found: dict[tuple[str, str, str], Both] = {
        (q.vm, q.device, q.queue): (q, None) for q in before.queues
    }
    for q in after.queues:
        key = (*pairs.after(q.vm, q.device), q.queue)
        found[key] = (found.get(key, (None, None))[0], q)
    return dict(sorted(found.items(), key=lambda item: item[0]))


def _stage_rows(
    place: Row, before: QueueSide | None, after: QueueSide | None, each: float
) -> list[Row]:
    rows = []
    for stage in STAGES:
        mine, theirs = _stage(before, stage), _stage(after, stage)
        if mine is None and theirs is None:
            continue
        for share in SHARES:
            first = None if mine is None else quantile_interval(mine, share / 100, each)
            second = None if theirs is None else quantile_interval(theirs, share / 100, each)
            rows.append(
                {
                    **place,
                    "stage": stage,
                    "percentile": share,
                    "before": _interval_row(first),
                    "after": _interval_row(second),
                    **_change_row(first, second),
                }
            )
    return rows


def _stage(queue: QueueSide | None, stage: str) -> Histogram | None:
    found = None if queue is None else queue.stages.get(stage)
    return found if found is not None and found.count else None


def _interval_row(interval: Interval | None) -> Row | None:
    if interval is None:
        return None
    return {name: getattr(interval, name) for name in ("count", "ns", "low_ns", "high_ns")}


def _change_row(first: Interval | None, second: Interval | None) -> Row:
    if first is None or second is None:
        verdict = Verdict.AFTER_ONLY if first is None else Verdict.BEFORE_ONLY
        return {"change_ns": None, "low_ns": None, "high_ns": None, "verdict": str(verdict)}
    change = difference(first, second)
    return {
        "change_ns": None if change.verdict is Verdict.TOO_FEW else change.ns,
        "low_ns": change.low_ns,
        "high_ns": change.high_ns,
        "verdict": str(change.verdict),
    }


def _warnings(before: Side, after: Side, units: Measured) -> list[str]:
    said = []
    for side in (before, after):
        if side.lossy:
            what = "parts of it could not be read" if side.damaged else "records were lost"
            said.append(f"{side.source}: {what}, so its counts are too small by an unknown number")
        ambiguous = sum(queue.ambiguous for queue in side.queues)
        if ambiguous:
            said.append(f"{side.source}: {ambiguous:,} chains are ambiguous; stages are missing")
        if not side.queues and not side.exits:
            said.append(f"{side.source}: neither queues nor exits were recorded")
    if units.mixed:
        said.append(
            f"{units.name}s were counted in two ways ({units.before_basis}; {units.after_basis}): "
            "figures per unit are comparable only as far as these are"
        )
    if before.knows_devices != after.knows_devices:
        blind = after if before.knows_devices else before
        if blind.exits:
            said.append(f"{blind.source}: exits were recorded without device and time in QEMU")
    return said
