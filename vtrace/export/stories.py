"""When each stage of a chain began and ended, so that the slices of a chain nest.

The stages of a chain follow each other. In a recording that is damaged one may begin before the
one before it ended: it is cut there, and its length is said beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import STAGES, TIME_COLUMNS, TimeState
from vtrace.session.clock import LATEST_NS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.tables import Table

__all__ = ["SHOWN", "Stories", "stories_of"]

SHOWN: Final = tuple(name for name in STAGES if name != "idle")
"""Stages that are slices: a buffer that lies ready is none of a packet's."""

ENDS: Final = {
    "schedule": "run",
    "queueing": "pop",
    "service": "used",
    "complete": "signal",
    "interrupt": "irq",
    "reap": "seen",
}
"""Stage -> the event that ends it; ``notify`` ends with the wake of a worker, else with the pop."""


@dataclass(frozen=True, slots=True)
class Stories:
    """Chains with the times of their stages, ns; a row for each chain, a column for each stage."""

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    valid: NDArray[np.bool_]
    """The chain has that stage."""
    took: NDArray[np.int64]
    """How long the stage was."""
    timed: NDArray[np.bool_]
    """Something of the chain has a time."""

    @property
    def cut(self) -> NDArray[np.bool_]:
        """Stages that are shown shorter than they were."""
        shorter: NDArray[np.bool_] = self.valid & (self.ends - self.begins != self.took)
        return shorter

    def take(self, index: NDArray[Any]) -> Stories:
        """Return the chains at an index array."""
        return Stories(*(getattr(self, one.name)[index] for one in fields(self)))


def _time(table: Table, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    values = table[f"{name}_ns"]
    data = np.minimum(values.data, np.uint64(LATEST_NS)).astype(np.int64)
    return data, values.present()


def stories_of(table: Table) -> Stories:
    """Return when the chains of a table of lifecycles began, ended, and had their stages."""
    count = len(table)
    shape = (count, len(SHOWN))
    begins, ends, took = (np.zeros(shape, np.int64) for _ in range(3))
    valid = np.zeros(shape, np.bool_)
    start = np.full(count, LATEST_NS, np.int64)
    end = np.full(count, -1, np.int64)
    for name in TIME_COLUMNS:
        # An event that other chains share says nothing of when this one began or ended.
        time, present = _time(table, name.removesuffix("_ns"))
        states = table[name.removesuffix("_ns") + "_state"].data
        own = present & (states == TimeState.SEEN)
        start[own] = np.minimum(start[own], time[own])
        end[own] = np.maximum(end[own], time[own])
    for stage, name in enumerate(SHOWN):
        length, valid[:, stage] = _time(table, name)
        took[:, stage] = length
        event = _notified(table, length) if name == "notify" else _time(table, ENDS[name])[0]
        ends[:, stage] = event
        begins[:, stage] = np.maximum(event - length, 0)
    first = np.where(valid, begins, LATEST_NS).min(axis=1, initial=LATEST_NS)
    start = np.minimum(start, first)
    at = start.copy()
    for stage in range(len(SHOWN)):
        has = valid[:, stage]
        begins[:, stage] = np.where(has, np.maximum(begins[:, stage], at), at)
        ends[:, stage] = np.where(has, np.maximum(ends[:, stage], begins[:, stage]), at)
        at = ends[:, stage]
    end = np.maximum(end, np.where(valid, ends, -1).max(axis=1, initial=-1))
    return Stories(start, end, begins, ends, valid, took, end >= 0)


def _notified(table: Table, length: NDArray[Any]) -> NDArray[np.int64]:
    wake, woken = _time(table, "wake")
    begun = [_time(table, name) for name in ("enqueue", "kick")]
    fits = np.zeros(len(table), np.bool_)
    for time, present in begun:
        fits |= present & (wake - length == time)
    return np.where(woken & fits, wake, _time(table, "pop")[0])
