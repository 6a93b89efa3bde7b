"""Sums of queues by VM or by device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from rich.text import Text

from vtrace.tables import QUEUES
from vtrace.tables.human import duration_text
from vtrace.text import clean
from vtrace.tui.figures import QueueFigures, is_idle, queue_figures, rate_text, sparkline
from vtrace.tui.grid import Cell, GridColumn
from vtrace.tui.screens.queues import SPARK, drops_cell, megabytes
from vtrace.tui.sums import SumRow, SumsScreen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.browse.snapshot import Snapshot

__all__ = ["Group", "GroupsScreen", "group_columns", "groups_of"]

HEADS: Final = {"vm": ("VM", 16), "device": ("device", 16)}


def group_columns(by: tuple[str, ...]) -> tuple[GridColumn, ...]:
    """Return the columns of sums by these names."""
    outside = GridColumn("outside", "outside", 7, right=True, sortable=True, rank=9)
    return (
        *(GridColumn(name, *HEADS[name], sortable=True, fit=True) for name in by),
        GridColumn("queues", "queues", 8, right=True, sortable=True, rank=5),
        GridColumn("rate", "rate/s", 6, right=True, sortable=True),
        GridColumn("bytes", "MB/s", 6, right=True, sortable=True, rank=6),
        GridColumn("activity", "activity", SPARK, rank=3),
        GridColumn("in_flight", "in fl", 6, right=True, sortable=True, rank=4),
        GridColumn("kicks", "kicks/s", 7, right=True, sortable=True, rank=8),
        GridColumn("interrupts", "irqs/s", 6, right=True, sortable=True, rank=7),
        GridColumn("drops", "drops", 7, right=True, sortable=True),
        *((outside,) if by == ("vm",) else ()),
        GridColumn("slowest", "slowest", 24, sortable=True, rank=2, fit=True),
        GridColumn("p99", "p99", 6, right=True, sortable=True),
        GridColumn("verdict", "verdict", 24, sortable=True, grow=True),
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Queues that are summed up; rates are a second's, None where none is known."""

    key: tuple[str, ...]
    busy: int
    """Queues that carried something."""
    queues: int
    rate: float | None
    bytes_rate: float | None
    kicks: float | None
    interrupts: float | None
    drops: int | None
    drop_rate: float | None
    in_flight: int
    chains: NDArray[Any]
    """Over time, of all of them."""
    slowest: QueueFigures | None
    outside: float | None
    """Time outside of the guest, in seconds of vCPUs a second; None: not recorded."""
    verdict: str


SORTED_BY: Final[dict[str, Callable[[Group], Any]]] = {
    "vm": lambda one: one.key,
    "device": lambda one: one.key[1:],
    "queues": lambda one: one.busy,
    "rate": lambda one: one.rate or 0,
    "bytes": lambda one: one.bytes_rate or 0,
    "in_flight": lambda one: one.in_flight,
    "kicks": lambda one: one.kicks or 0,
    "interrupts": lambda one: one.interrupts or 0,
    "drops": lambda one: one.drops or 0,
    "outside": lambda one: one.outside or 0,
    "slowest": lambda one: one.slowest.stage if one.slowest else "",
    "p99": lambda one: (one.slowest.p99_ns if one.slowest else 0) or 0,
    "verdict": lambda one: one.verdict,
}


def groups_of(
    figures: Iterable[QueueFigures],
    by: tuple[str, ...],
    verdicts: dict[tuple[str, str, str], str],
    outside: dict[str, float],
) -> list[Group]:
    """Return sums of queues by VM, or by VM and device, in the order of the report.

    ``outside``: by VM, seconds of vCPUs outside of the guest a second.
    """
    parts: dict[tuple[str, ...], list[QueueFigures]] = {}
    for one in figures:
        parts.setdefault(one.key[: len(by)], []).append(one)
    return [_group(key, mine, verdicts, outside) for key, mine in parts.items()]


def _group(
    key: tuple[str, ...],
    mine: list[QueueFigures],
    verdicts: dict[tuple[str, str, str], str],
    outside: dict[str, float],
) -> Group:
    slow = [one for one in mine if one.p99_ns is not None]
    said = [verdicts[one.key] for one in mine if one.key in verdicts]
    different = list(dict.fromkeys(said))
    drops = [one.drops for one in mine if one.drops is not None]
    longest = max(len(one.series.chains) for one in mine)
    chains = np.zeros(longest, np.int64)
    for one in mine:
        if len(one.series.chains):
            chains[-len(one.series.chains) :] += one.series.chains
    return Group(
        key=key,
        busy=sum(not is_idle(one.row) for one in mine),
        queues=len(mine),
        rate=_sum(one.rate for one in mine),
        bytes_rate=_sum(one.bytes_rate for one in mine),
        kicks=_sum(one.kicks for one in mine),
        interrupts=_sum(one.interrupts for one in mine),
        drops=sum(drops) if drops else None,
        drop_rate=_sum(one.drop_rate for one in mine),
        in_flight=sum(one.in_flight for one in mine),
        chains=chains,
        slowest=max(slow, key=lambda one: one.p99_ns or 0) if slow else None,
        outside=outside.get(key[0]) if len(key) == 1 else None,
        verdict=different[0] + (f" +{len(different) - 1}" if len(different) > 1 else "")
        if different
        else "",
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


class GroupsScreen(SumsScreen):
    """Sums of the queues of a place."""

    table = "queues"
    by: ClassVar[tuple[str, ...]] = ("vm",)

    def sum_rows(self, snapshot: Snapshot) -> list[SumRow]:
        """Return the sums."""
        found = [one for one in queue_figures(snapshot) if self.place.holds(one.row)]
        kept = self.matching(QUEUES, [one.row for one in found])
        figures = [one for one, keep in zip(found, kept, strict=True) if keep]
        groups = groups_of(figures, self.by, self.vtrace.verdicts, outside_of(snapshot))
        if self.sort_key:
            groups.sort(key=SORTED_BY[self.sort_key], reverse=self.sort_reverse)
        return [SumRow(one.key, self._cells(one), self._row(one)) for one in groups]

    def _cells(self, one: Group) -> list[Cell]:
        slow = one.slowest
        where = "" if slow is None else " ".join((*slow.key[len(self.by) :], slow.stage))
        idle = "" if one.busy else "faint"
        cells: dict[str, Cell] = {
            "queues": f"{one.busy}/{one.queues}",
            "rate": Text(rate_text(one.rate), style=idle),
            "bytes": "-" if one.bytes_rate is None else megabytes(one.bytes_rate),
            "activity": Text(sparkline(one.chains, SPARK), style=idle or "spark"),
            "in_flight": str(one.in_flight),
            "kicks": rate_text(one.kicks),
            "interrupts": rate_text(one.interrupts),
            "drops": drops_cell(one.drops, one.drop_rate),
            "outside": "-" if one.outside is None else f"{one.outside:.0%}",
            "slowest": Text(clean(where) or "-", style="dim"),
            "p99": "-" if slow is None or slow.p99_ns is None else duration_text(slow.p99_ns),
            "verdict": Text(clean(one.verdict), style="alarm" if one.verdict else ""),
        }
        names = [Text(clean(part), style="bold") for part in one.key]
        return [*names, *(cells[column.key] for column in self.columns[len(names) :])]

    def _row(self, one: Group) -> dict[str, Any]:
        slow = one.slowest
        return {
            **dict(zip(self.by, one.key, strict=True)),
            "queues": one.queues,
            "busy_queues": one.busy,
            "chains_per_second": one.rate,
            "bytes_per_second": one.bytes_rate,
            "in_flight": one.in_flight,
            "kicks_per_second": one.kicks,
            "interrupts_per_second": one.interrupts,
            "drops": one.drops,
            "slowest_queue": None if slow is None else slow.key[2],
            "slowest_stage": None if slow is None else slow.stage,
            "slowest_p99_ns": None if slow is None else slow.p99_ns,
        }


def outside_of(snapshot: Snapshot) -> dict[str, float]:
    """Return for each VM the time that its vCPUs spent outside of the guest, a second."""
    seconds = snapshot.duration_ns / 1e9
    sums: dict[str, float] = {}
    for row in snapshot.exits:
        sums[row["vm"]] = sums.get(row["vm"], 0.0) + row["total_ns"] / 1e9
    return {vm: total / seconds for vm, total in sums.items()} if seconds else {}
