"""What a view shows of a recording at one moment: figures that do not change any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.session import Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.tracefile import Tally
    from vtrace.model import Kind

__all__ = ["EMPTY_SERIES", "QueueKey", "Series", "Snapshot", "State"]

QueueKey = tuple[str, str, str]
"""VM, device, queue: what a row of ``Snapshot.queues`` is about."""


class State(StrEnum):
    """What the reader does."""

    OPENING = "opening"
    READING = "reading"
    FOLLOWING = "following"
    """At the end of a file that is being written."""
    COMPLETE = "complete"
    CUT_SHORT = "cut short"
    """At the end of a file that has no footer and does not grow any more."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What a queue did over time: one number a bucket, buckets of ``width_ns``.

    ``chains``: popped; ``in_flight``: at the end of the bucket, as far as pops and used elements
    tell; -1 where the bucket lies before the first event or in a gap.
    """

    start_ns: int
    width_ns: int
    chains: NDArray[np.int64]
    in_flight: NDArray[np.int64]
    kicks: NDArray[np.int64]
    interrupts: NDArray[np.int64]
    drops: NDArray[np.int64]
    used_bytes: NDArray[np.int64]


_NONE: Final = np.zeros(0, np.int64)
EMPTY_SERIES: Final = Series(
    start_ns=0,
    width_ns=1,
    chains=_NONE,
    in_flight=_NONE,
    kicks=_NONE,
    interrupts=_NONE,
    drops=_NONE,
    used_bytes=_NONE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A recording up to ``cut_ns``: ``vtrace report --until CUT`` has the same figures."""

    number: int = 0
    """Grows with each snapshot."""
    state: State = State.OPENING
    sentence: str = ""
    """What a person has to know of the state: why it failed, that the recorder is gone, ..."""
    progress: float = 0.0
    """Share of the file that was read, 0 to 1."""
    start_ns: int | None = None
    """First time in it; None without events."""
    cut_ns: int | None = None
    """First time that is not in it; None without events."""
    events: int = 0
    batches: int = 0
    """Batches that were read: what a view shows while this snapshot is held."""
    loss: Loss = field(default_factory=Loss)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the metadata, the newest of each."""
    damage: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    """As ``report --json`` prints the same stretch of the recording; empty before the first."""
    queue_ids: Sequence[int] = ()
    """For each row of ``queues`` its id in the recording."""
    totals: Mapping[int, Mapping[Kind | int, Tally]] = field(default_factory=dict)
    """Events and bytes of the whole file by queue and kind, as its batches say before they are
    read; of a file that is followed, of what was read."""
    series: Mapping[int, Series] = field(default_factory=dict)
    """By id of the queue, over the whole recording."""
    recent: Mapping[int, Series] = field(default_factory=dict)
    """By id of the queue, over the last minute: buckets of 250 ms."""

    @property
    def queues(self) -> Sequence[Mapping[str, Any]]:
        """Queues and what they did."""
        return _rows(self.report, "queues")

    @property
    def exits(self) -> Sequence[Mapping[str, Any]]:
        """VM exits by VM, vCPU and reason."""
        return _rows(self.report, "exits")

    @property
    def drops(self) -> Sequence[Mapping[str, Any]]:
        """Dropped packets by reason, place and device."""
        return _rows(self.report, "drops")

    @property
    def duration_ns(self) -> int:
        """Time from the first to the last event."""
        return int(self.report.get("duration_ns", 0))


def _rows(report: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = report.get(name, ())
    return found
