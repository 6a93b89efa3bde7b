"""A recording that another tool made, read as batches: it looks as a ``.vtrace`` file does.

Its metadata says what is known of it: the section ``imported`` (format, tool, events by name and
what they became), ``timebase`` (which clock its times are of) and ``unrecorded`` (columns of each
kind that its events do not say, and that are 0 for that).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from parsers.batch import Damage, EventBatch, Metadata
from vtrace.model import Kind

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Imported", "Sequence", "timebase"]

MOST_DAMAGE: Final = 100

Open = Callable[["Imported"], Iterator[EventBatch]]


class Imported:
    """A source of batches like ``parsers.tracefile.Trace``; each call of ``batches`` reads anew."""

    complete = True
    """Whether it ended in order cannot be told of these formats; what is cut short is damage."""
    summaries: tuple[()] = ()

    def __init__(self, name: str, form: str, read: Open) -> None:
        self.name = name
        self.format = form
        self.metadata = Metadata()
        self.damage: list[Damage] = []
        self._read = read

    def report(self, reason: str, where: str = "") -> None:
        """Note what could not be read."""
        damage = Damage(where=f"{self.name}: {where}" if where else self.name, reason=reason)
        if damage not in self.damage and len(self.damage) < MOST_DAMAGE:
            self.damage.append(damage)

    def batches(
        self,
        columns: Collection[str] | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> Iterator[EventBatch]:
        """Yield the batches; ``columns`` is for the sake of others: all are there.

        Raises:
            InputError: Nothing of it can be read.
            UnsupportedError: The tool that reads it is not there.
        """
        del columns
        for number, batch in enumerate(self._read(self)):
            batch.number = number
            self.metadata.update(batch.meta)
            if since_ns is not None or until_ns is not None:
                times = batch["time"]
                inside = np.ones(len(times), np.bool_)
                if since_ns is not None:
                    inside &= times >= np.uint64(max(since_ns, 0))
                if until_ns is not None:
                    inside &= times < np.uint64(max(until_ns, 0))
                batch = batch.take(inside)
            yield batch

    def scan(self) -> None:
        """Do nothing: there is no short way through."""

    def close(self) -> None:
        """Do nothing: a file is open only while it is read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Sequence:
    """Numbers records by CPU, with a gap where the tool said that it lost some; counts both."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self.lost = 0
        self.counts: dict[str, int] = {}
        self.late = 0
        self._newest = 0

    def number(self, records: Any, lines: Any, gaps: list[tuple[int, int, int]]) -> None:
        """Fill in ``seq``. ``gaps``: line, CPU and how many were lost before it."""
        cpus = records["cpu"]
        for cpu in np.unique(cpus).tolist():
            at = np.flatnonzero(cpus == cpu)
            first = self._next.get(cpu, 1)
            seq = first + np.arange(len(at))
            for line, where, count in gaps:
                if where == cpu:
                    seq += np.where(lines[at] > line, count, 0)
            records["seq"][at] = seq & 0xFFFFFFFF
            self._next[cpu] = int(seq[-1]) + 1
        for _, cpu, count in gaps:
            self.lost += count
            if not (cpus == cpu).any():
                self._next[cpu] = self._next.get(cpu, 1) + count
        if len(records):
            self.late += int((records["time"] < self._newest).sum())
            self._newest = max(self._newest, int(records["time"][-1]))
        for kind, count in zip(*np.unique(records["kind"], return_counts=True), strict=True):
            name = Kind(int(kind)).name
            self.counts[name] = self.counts.get(name, 0) + int(count)

    def sections(self) -> dict[str, Any]:
        """Return the sections ``counts`` and ``loss``.

        What kind the lost events were is not known: they stand under ``NONE``.
        """
        counts = {
            name: {"produced": count, "received": count, "lost": 0}
            for name, count in self.counts.items()
        }
        if self.lost:
            counts[Kind.NONE.name] = {"produced": self.lost, "received": 0, "lost": self.lost}
        return {"counts": counts, "loss": {"late": self.late, "pending": 0}}


def timebase(clock: str, resolution_ns: int | None, why: str) -> dict[str, Any]:
    """Return the section ``timebase``.

    Args:
        clock: monotonic, realtime, boottime, local, tsc, none, or another's name; ``unknown``.
        resolution_ns: What the last digit stands for; None where the unit is not known.
        why: How that is known, for a person.
    """
    return {"clock": clock, "resolution_ns": resolution_ns, "known_by": why}
