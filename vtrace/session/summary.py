"""Sums over a recording: what ``vtrace report`` prints."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.exit_reasons import exit_reason
from vtrace.model import STAGES, Flag, Kind
from vtrace.session.counted import Counted
from vtrace.session.exits import ExitSums
from vtrace.session.request_sums import RequestSums
from vtrace.session.requests import RequestJoin
from vtrace.session.said import MonitorWatch
from vtrace.session.unrecorded import without_unrecorded
from vtrace.tables import lifecycles_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.lifecycle import LifecycleTable
    from vtrace.tables import Names

__all__ = ["Summary"]

MAX_REFUSED: Final = 1 << 16
"""Refused packets that are kept for their drop to come."""

Row = dict[str, Any]


class Summary:
    """Queues, exits and drops, summed up batch by batch."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.queues: list[Row] = []
        self.queue_ids: list[int] = []
        """For each of them its id in the recording."""
        self.exits: list[Row] = []
        self.drops: list[Row] = []
        self.exits_by_device: list[Row] = []
        """Sums of the kernel by port or address too; see ``vtrace.session.exits``."""
        self.interrupts: list[Row] | None = None
        """By line or message. None: not recorded."""
        self.counted = Counted()
        self.exit_sums = ExitSums(names)
        self._drops: Counter[tuple[int, int | None, int | None]] = Counter()
        self._exits: dict[tuple[int, int, bool], list[int]] = {}
        self._refused = np.zeros(0, np.dtype([("packet", "u4"), ("queue", "u2")]))
        self.asked = RequestSums()
        """What was asked of the devices that QEMU serves."""
        self._join = RequestJoin(names)
        self.monitor = MonitorWatch(names)
        """QEMU's monitor held against the events."""

    def copy(self) -> Summary:
        """Return the same sums, apart from these; the names are shared."""
        return copy.deepcopy(self, {id(self.names): self.names})

    def feed(self, batch: EventBatch) -> None:
        """Take in a batch."""
        self._join.feed(batch)
        self.counted.feed(batch.meta)
        self.exit_sums.feed(batch)
        self.monitor.feed(batch)
        kinds = batch["kind"]
        drops = kinds == Kind.DROP
        refused = kinds == Kind.REFUSE
        if drops.any():
            self._feed_drops(batch, drops)
        if refused.any() or (len(self._refused) and drops.any()):
            self._feed_refused(batch, refused, drops)
        exits = kinds == Kind.EXIT
        if exits.any():
            self._feed_exits(batch, exits)

    def chains(self, chains: LifecycleTable) -> None:
        """Take in chains that have ended, behind the batch that they ended at."""
        self.asked.add(self._join.take(lifecycles_table(chains.columns, self.names)))

    def _feed_drops(self, batch: EventBatch, where: NDArray[np.bool_]) -> None:
        keys = np.zeros(int(where.sum()), [("queue", "i8"), ("ret", "i8"), ("place", "u8")])
        keys["queue"], keys["ret"] = batch["queue"][where], batch["ret"][where]
        keys["place"] = batch["address"][where]
        for key, count in zip(*np.unique(keys, return_counts=True), strict=True):
            queue, reason, place = (int(part) for part in key.item())
            self._drops[queue, reason, place] += int(count)

    def _feed_refused(
        self, batch: EventBatch, refused: NDArray[np.bool_], drops: NDArray[np.bool_]
    ) -> None:
        # A refusal is a drop. The same packet's DROP says why; without one it counts alone.
        new = np.zeros(int(refused.sum()), self._refused.dtype)
        new["packet"], new["queue"] = batch["packet"][refused], batch["queue"][refused]
        waiting = np.concatenate([self._refused, new])
        told = np.isin(waiting["packet"], batch["packet"][drops]) & (waiting["packet"] != 0)
        waiting = waiting[~told]
        surplus = len(waiting) - MAX_REFUSED
        if surplus > 0:
            self._alone(waiting[:surplus])
            waiting = waiting[surplus:]
        self._refused = waiting

    def _alone(self, refused: NDArray[Any]) -> None:
        queues, counts = np.unique(refused["queue"], return_counts=True)
        for queue, count in zip(queues.tolist(), counts.tolist(), strict=True):
            self._drops[queue, None, None] += count

    def _feed_exits(self, batch: EventBatch, where: NDArray[np.bool_]) -> None:
        keys = np.zeros(int(where.sum()), [("tid", "i8"), ("ret", "i8"), ("svm", "?")])
        keys["tid"], keys["ret"] = batch["tid"][where], batch["ret"][where]
        keys["svm"] = batch["flags"][where] & int(Flag.SVM) != 0
        distinct, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        spans = np.zeros(len(distinct), np.uint64)
        np.add.at(spans, inverse, batch["span"][where].astype(np.uint64))
        for key, count, span in zip(distinct, counts.tolist(), spans.tolist(), strict=True):
            sums = self._exits.setdefault(key.item(), [0, 0])
            sums[0] += count
            sums[1] += span

    def finish(self, stats: Mapping[int, Any], why_not: str = "") -> None:
        """Put the sums into rows; ``stats`` are those of the tracker.

        ``why_not``: events are missing, so that QEMU's indices have nothing to be held against.
        """
        self.monitor.finish(why_not)
        self.asked.finish()
        self._alone(self._refused)
        self._refused = self._refused[:0]
        # QEMU's queues become known in the order of their use; they stand in that of the device.
        order = sorted(stats, key=lambda n: (_whole(self.names.queue(n).get("index")), n))
        rows = [(number, self._queue_row(number, stats[number])) for number in order]
        rows.sort(key=lambda found: (found[1]["vm"], found[1]["device"]))
        self.queue_ids = [number for number, _ in rows]
        self.queues = [row for _, row in rows]
        self.exits = self._exit_rows()
        self.exits_by_device = self.exit_sums.exits()
        self.interrupts = self.exit_sums.interrupts()
        self.drops = self._drop_rows()

    def use_tree(self, text: str, vm: str | None = None) -> None:
        """Name the devices of exits by QEMU's memory tree; see ``ExitSums.add_tree``."""
        self.exit_sums.add_tree(text, vm)
        self.exits_by_device = self.exit_sums.exits()

    def _queue_row(self, number: int, stats: Any) -> Row:
        queue = self.names.queue(number)
        row: Row = {
            "vm": str(queue.get("vm", "")),
            "device": str(queue.get("device", "")),
            "queue": str(queue.get("name") or f"queue {number}"),
            "direction": str(queue.get("direction", "none")),
            "backend": str(queue.get("backend", "")),
            "ring": str(queue.get("ring", "")),
        }
        for name in (
            "chains",
            "complete",
            "partial",
            "ambiguous",
            "handed_back",
            "starved",
            "in_flight",
            "packets",
            "used_bytes",
        ):
            row[name] = int(getattr(stats, name))
        for name in ("kicks", "interrupts"):
            sums = getattr(stats, name)
            row[name] = {
                part: _part(sums, part) for part in ("needed", "sent", "suppressed", "spurious")
            }
        row["stages"] = _stage_rows(stats.stages)
        return without_unrecorded(row, self.names.metadata.sections)

    def _exit_rows(self) -> list[Row]:
        # The kernel's own sums know of exits that were not recorded one by one.
        totals = self.names.metadata.sections.get("exits")
        rows: dict[tuple[str, int | None, str], list[int]] = {}
        if totals:
            for total in totals:
                svm = str(total.get("isa", "")).lower() in {"svm", "2"}
                reason = _reason(total.get("reason"), svm=svm)
                vm, vcpu = str(total.get("vm", "")), total.get("vcpu")
                sums = rows.setdefault((vm, vcpu, reason), [0, 0])
                sums[0] += _whole(total.get("count"))
                sums[1] += _whole(total.get("total_ns"))
        else:
            for (tid, code, svm), (count, span) in self._exits.items():
                thread = self.names.thread(tid)
                vm, vcpu = str(thread.get("vm", "")), thread.get("vcpu")
                sums = rows.setdefault((vm, vcpu, _reason(code, svm=svm)), [0, 0])
                sums[0] += count
                sums[1] += span
        found = [
            {"vm": vm, "vcpu": vcpu, "reason": reason, "count": sums[0], "total_ns": sums[1]}
            for (vm, vcpu, reason), sums in rows.items()
        ]
        return sorted(found, key=lambda row: (row["vm"], row["vcpu"] or 0, -row["count"]))

    def _drop_rows(self) -> list[Row]:
        sums: Counter[tuple[str | None, str | None, str]] = Counter()
        for (queue, reason, place), count in self._drops.items():
            name = None if reason is None else self.names.reason(reason)
            location = None if place is None else self.names.place(place)
            device = str(self.names.queue(queue).get("device", ""))
            sums[name, location, device] += count
        return [
            {"reason": reason, "location": location, "device": device, "packets": count}
            for (reason, location, device), count in sums.most_common()
        ]


def _part(sums: Any, name: str) -> int:
    return int(sums[name] if isinstance(sums, Mapping) else getattr(sums, name))


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _reason(reason: Any, *, svm: bool) -> str:
    return exit_reason(reason, svm=svm) if isinstance(reason, int) else str(reason)


def _stage_rows(stages: Mapping[str, Any]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for name in STAGES:
        histogram = stages.get(name)
        if histogram is None or not histogram.count:
            continue
        p50, p90, p99 = (round(float(p)) for p in histogram.percentiles((50, 90, 99)))
        rows[name] = {
            "count": int(histogram.count),
            "p50_ns": p50,
            "p90_ns": p90,
            "p99_ns": p99,
            "max_ns": int(histogram.max_ns),
        }
    return rows
