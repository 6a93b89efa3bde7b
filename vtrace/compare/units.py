"""Per what counts are shown: packets, requests, seconds, or a number that the user knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vtrace.compare.side import Side

__all__ = ["UNITS", "Measured", "Unit", "measured"]

UNITS: Final = ("packet", "request", "second")
_REQUEST_KINDS: Final = frozenset({"blk", "scsi"})


@dataclass(frozen=True, slots=True)
class Unit:
    """What was asked for: a name of :data:`UNITS`, ``number``, or empty to choose."""

    name: str = ""
    before: int = 0
    """Of ``number``: how many in the first recording."""
    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How many units each recording has, and how that is known."""

    name: str
    before: float
    after: float
    before_basis: str
    after_basis: str

    @property
    def mixed(self) -> bool:
        """The two were not counted in the same way."""
        return self.before_basis.partition(":")[0] != self.after_basis.partition(":")[0]


def measured(before: Side, after: Side, unit: Unit) -> Measured:
    """Return the units of both recordings.

    Without a name it is packets if both have some, else requests if both have some, else seconds.

    Raises:
        UsageError: A recording does not have the unit that was asked for.
    """
    if unit.name == "number":
        return Measured(
            name="unit",
            before=unit.before,
            after=unit.after,
            before_basis="given",
            after_basis="given",
        )
    names = (unit.name,) if unit.name else UNITS
    for name in names:
        counts = [_count(side, name) for side in (before, after)]
        if all(count for count, _ in counts):
            return Measured(
                name=name,
                before=counts[0][0],
                after=counts[1][0],
                before_basis=counts[0][1],
                after_basis=counts[1][1],
            )
    if not unit.name:
        # Not even a length: then counts stand for themselves.
        return Measured(
            name="recording", before=1, after=1, before_basis="whole", after_basis="whole"
        )
    side = before if not _count(before, unit.name)[0] else after
    raise UsageError(
        f"--per {unit.name}: {side.source} has no {_WHAT[unit.name]}; "
        "give the number that you know, as --per 1000, or --per second"
    )


_WHAT: Final = {
    "packet": "packets, neither by a tap's counters nor in its queues",
    "request": "requests: no virtio-blk or virtio-scsi queue of it was recorded",
    "second": "length",
}


def _count(side: Side, name: str) -> tuple[float, str]:
    if name == "second":
        return side.duration_ns / 1e9, "clock"
    if name == "packet":
        if side.tap_packets:
            return side.tap_packets, f"counters: {', '.join(side.taps)}"
        return _sum([queue.packets for queue in side.queues]), "queues"
    return _sum([q.chains for q in side.queues if q.kind in _REQUEST_KINDS]), "queues"


def _sum(counts: Sequence[int]) -> float:
    return float(sum(counts))
