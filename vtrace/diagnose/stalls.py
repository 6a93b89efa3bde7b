"""Stalls: notifications that were lost or not served, rings that stay full, livelock, storms.

    stalls = Stalls()
    for batch in source:
        stalls.feed(batch, metadata)  # after metadata.update(batch.meta)
    for finding in stalls.finish(): ...

Pure: no I/O, no clock. Memory is bounded by the number of queues and vCPUs. Records decide, and
samples between them: of the rings (section ``rings``) and of the vCPU threads (``counters``). Where
records were lost nothing is claimed. docs/findings says what each code means.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.diagnose import stalls_engine as engine
from vtrace.diagnose.stalls_layout import CODES, EPISODE, ONE, QUEUE, T2, THREAD, VM, Columns
from vtrace.diagnose.stalls_vcpu import counted
from vtrace.diagnose.stalls_words import finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch, Metadata
    from vtrace.diagnose.findings import Finding

__all__ = ["Span", "Stalls"]

_DIRECTIONS: Final = {"rx": 1, "tx": 2}
_ROOM: Final = 4096
"""Episodes of one call of a kernel; one lasts a tenth of a second at least."""
_KEPT: Final = 32
"""Episodes kept of one queue and code, the longest."""
_SAMPLE: Final = ("avail", "used", "used_event", "avail_event", "avail_flags", "used_flags")
_COUNTERS: Final = ("lo_ns", "hi_ns", "run_ns", "wait_ns")
_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time in which a queue stood still for a reason that was found."""

    code: str
    queue: int
    """Its id in the recording; of a receive queue, that of its tap queue too."""
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class _Sum:
    # What happened to one queue under one code.
    count: int
    total_ns: int
    first_ns: int
    last_ns: int
    longest: list[tuple[int, int, NDArray[Any]]]


class Stalls:
    """Finds stalls in a stream of batches."""

    def __init__(self) -> None:
        self._one = np.zeros(1, ONE)
        self._out = np.zeros(_ROOM, EPISODE)
        self._slots = np.full(1 << 16, -1, np.int32)
        self._queues = np.zeros(0, QUEUE)
        self._threads = np.zeros(0, THREAD)
        self._vms = np.zeros(0, VM)
        self._vm_of: dict[int, int] = {}
        self._entries: dict[int, dict[str, Any]] = {}
        self._counters: dict[int, dict[str, int]] = {}
        self._pending: list[tuple[int, int, str, int, dict[str, Any]]] = []
        self._serial = 0
        # Records lost by the ring, dropped by the pipe, returns missed; those missed for certain.
        self._losses = (0, 0, 0)
        self._missed = 0
        self._gap = False
        # The newest hole of a flight recorder: the section is repeated at the end.
        self._hole: Any = {}
        self._first_ns: int | None = None
        # Episodes of the last batch wait for the next one's counters: it may tell of a loss.
        self._fresh: list[NDArray[Any]] = []
        self._sums: dict[tuple[int, int], _Sum] = {}
        self.discarded = 0
        """Episodes that were not believed, since records were lost near them."""

    def feed(self, batch: EventBatch, meta: Metadata | None = None) -> None:
        """Take in a batch; ``meta``: what batches before the first one have said."""
        own: Mapping[str, Any] = batch.meta
        if meta is not None and not self._entries:
            self._learn({name: meta.section(name) for name in ("queues", "threads")})
        self._learn(own)
        if self._gap or own.get("gap", self._hole) != self._hole:
            self._hole = own.get("gap", self._hole)
            self._gap = False
            self.discarded += len(self._fresh)
            self._fresh = []
            engine.forget(self._queues, self._threads)
        lost = self._lost(own)
        old = len(self._pending)
        self._hold(own)
        made = self._rows(batch, old)
        if lost:
            engine.doubt(self._one, self._queues, self._vms, self._threads)
            self.discarded += len(made) + len(self._fresh)
            made, self._fresh = [], []
        for episode in self._fresh:
            self._add(episode)
        self._fresh = made

    def mark_gap(self) -> None:
        """Say that events are missing between the last batch and the next one."""
        self._gap = True

    def finish(self) -> list[Finding]:
        """Return what was found so far, stalls that go on included; may be called again."""
        queues, threads, vms = self._queues.copy(), self._threads.copy(), self._vms.copy()
        one, counters = self._one.copy(), dict(self._counters)
        pieces = [self._out[:0]]
        for _, _, kind, number, row in sorted(self._pending, key=lambda item: item[:2]):
            self._apply(one, queues, threads, vms, kind, number, row)
            pieces.append(self._taken(one))
        self._counters = counters
        engine.finish(one, self._out, queues, vms, threads, int(one["now"][0]))
        pieces.append(self._taken(one))
        sums = {
            key: _Sum(s.count, s.total_ns, s.first_ns, s.last_ns, list(s.longest))
            for key, s in self._sums.items()
        }
        for episode in [*self._fresh, *(row for piece in pieces for row in piece)]:
            _add(sums, episode)
        self._drop_symptoms(sums)
        first = self._first_ns or 0
        return [
            finding(
                CODES[code],
                self._entries.get(queue, {}),
                [episode for _, _, episode in sorted(s.longest, reverse=True, key=_rank)],
                count=s.count,
                total_ns=s.total_ns,
                first_ns=s.first_ns,
                last_ns=s.last_ns,
                zero_ns=first,
            )
            for (queue, code), s in sorted(sums.items())
            if s.longest
        ]

    def spans(self) -> list[Span]:
        """Return when queues stood still, as far as it is over; the longest of each only."""
        return sorted(
            (
                Span(
                    code=CODES[code],
                    queue=queue,
                    start_ns=int(episode["start_ns"]),
                    end_ns=int(episode["end_ns"]),
                )
                for (queue, code), s in self._sums.items()
                for _, _, episode in s.longest
            ),
            key=lambda span: (span.start_ns, span.code, span.queue),
        )

    @staticmethod
    def _drop_symptoms(sums: dict[tuple[int, int], _Sum]) -> None:
        # A ring fills because a kick was lost: that is the cause.
        for (queue, code), s in sums.items():
            lost = sums.get((queue, T2))
            if CODES[code] != "T1" or lost is None:
                continue
            s.longest = [
                (took, start, e)
                for took, start, e in s.longest
                if not any(
                    o["start_ns"] <= e["end_ns"] and e["start_ns"] <= o["end_ns"]
                    for _, _, o in lost.longest
                )
            ]

    # What the stream says beside its records.

    def _learn(self, meta: Mapping[str, Any]) -> None:
        for key, entry in meta.get("queues", {}).items():
            number = _number(key)
            if entry.get("role", "virtqueue") != "virtqueue" or not 0 < number < 1 << 16:
                continue
            self._entries[number] = entry
            if self._slots[number] < 0:
                self._slots[number] = len(self._queues)
                self._queues = np.append(self._queues, np.zeros(1, QUEUE))
                self._queues[-1]["told_used"] = -1
            row = self._queues[self._slots[number]]
            row["id"] = number
            row["direction"] = _DIRECTIONS.get(entry.get("direction", ""), 0)
            row["size"] = int(entry.get("size") or 0)
            row["indirect"] = int(entry.get("features") or 0) >> 28 & 1
            row["vm"] = self._vm(int(entry.get("pid") or 0))
        vcpus = {
            _number(tid): int(entry.get("pid") or 0)
            for tid, entry in meta.get("threads", {}).items()
            if entry.get("role") == "vcpu"
        }
        pids = {entry.get("vm"): int(entry.get("pid") or 0) for entry in self._entries.values()}
        for key, entry in meta.get("counters", {}).items():
            # Where no probe saw them: their counters name the VM.
            if key.startswith("thread/") and entry.get("role") == "vcpu":
                pid = pids.get(entry.get("vm"))
                if pid:
                    vcpus.setdefault(_number(key.removeprefix("thread/")), pid)
        known = {int(tid) for tid in self._threads["tid"]}
        new = [(tid, self._vm(pid)) for tid, pid in vcpus.items() if tid and tid not in known]
        if new:
            rows = np.zeros(len(new), THREAD)
            for row, (tid, vm) in zip(rows, new, strict=True):
                row["tid"], row["vm"] = tid, vm
            both = np.append(self._threads, rows)
            self._threads = both[np.argsort(both["tid"])]

    def _vm(self, pid: int) -> int:
        if pid not in self._vm_of:
            self._vm_of[pid] = len(self._vm_of)
            self._vms = np.append(self._vms, np.zeros(1, VM))
        return self._vm_of[pid]

    def _lost(self, meta: Mapping[str, Any]) -> bool:
        # All counters are cumulative; the first ones may tell of a time before the first row.
        lost, dropped, missed = self._losses
        if "counts" in meta:
            lost = sum(int(kind.get("lost", 0)) for kind in meta["counts"].values())
        loss = meta.get("loss", {})
        if loss:
            dropped = sum(int(loss.get(n, 0)) for n in ("dropped_records", "dropped_batches"))
            missed = int(loss.get("missed", 0))
        # A call that is under way while counters are read looks like a missed return: once.
        lasting = min(missed, self._losses[2])
        told = (lost, dropped) > self._losses[:2] or lasting > self._missed
        self._losses, self._missed = (lost, dropped, missed), max(lasting, self._missed)
        return told and self._first_ns is not None

    def _hold(self, meta: Mapping[str, Any]) -> None:
        # Samples wait until the records have come up to their time.
        for key, row in meta.get("rings", {}).items():
            if _ints(row, ("lo_ns", "hi_ns", *_SAMPLE)):
                self._wait("ring", _number(key), row)
        for key, row in meta.get("counters", {}).items():
            if key.startswith("thread/") and _ints(row, _COUNTERS):
                self._wait("thread", _number(key.removeprefix("thread/")), row)

    def _wait(self, kind: str, number: int, row: dict[str, Any]) -> None:
        self._serial += 1
        self._pending.append((int(row["hi_ns"]), self._serial, kind, number, row))

    # Records and samples, in the order of time.

    def _rows(self, batch: EventBatch, old: int) -> list[NDArray[Any]]:
        time = batch["time"].astype(np.int64)
        columns = Columns(time, *(batch[name] for name in Columns._fields[1:]))
        if len(time) and self._first_ns is None:
            self._first_ns = int(time[0])
        end_ns = int(time[-1]) if len(time) else -1
        # What waited when this batch came is older than what comes next.
        due = [p for i, p in enumerate(self._pending) if p[0] <= end_ns or i < old]
        self._pending = [p for i, p in enumerate(self._pending) if p[0] > end_ns and i >= old]
        at, made = 0, []
        for hi_ns, _, kind, number, row in sorted(due, key=lambda item: item[:2]):
            upto = max(at, int(np.searchsorted(time, hi_ns, "right")))
            made += self._advance(columns, at, upto)
            at = upto
            self._apply(self._one, self._queues, self._threads, self._vms, kind, number, row)
            made += list(self._taken(self._one))
        return made + self._advance(columns, at, len(time))

    def _advance(self, columns: Columns, first: int, last: int) -> list[NDArray[Any]]:
        if first == last:
            return []
        engine.advance(
            self._one,
            self._out,
            self._slots,
            self._queues,
            self._vms,
            self._threads,
            columns,
            first,
            last,
        )
        return list(self._taken(self._one))

    def _taken(self, one: NDArray[Any]) -> NDArray[Any]:
        rows = self._out[: int(one["n"][0])].copy()
        one["n"][0] = 0
        return rows

    def _apply(
        self,
        one: NDArray[Any],
        queues: NDArray[Any],
        threads: NDArray[Any],
        vms: NDArray[Any],
        kind: str,
        number: int,
        row: dict[str, Any],
    ) -> None:
        if kind == "thread":
            before = self._counters.get(number)
            self._counters[number] = row
            if before is not None and row["hi_ns"] > before["hi_ns"]:
                run, wait = (row[name] - before[name] for name in ("run_ns", "wait_ns"))
                start = before["hi_ns"]
                counted(vms, threads, number, start, max(row["lo_ns"], start), run, wait)
            return
        slot = int(self._slots[number]) if 0 < number < 1 << 16 else -1
        if slot >= 0:
            numbers = [int(row[name]) & 0xFFFF for name in _SAMPLE]
            lo_ns, hi_ns = int(row["lo_ns"]), int(row["hi_ns"])
            engine.sampled(one, self._out, threads, vms, queues[slot], lo_ns, hi_ns, *numbers)

    def _add(self, episode: NDArray[Any]) -> None:
        _add(self._sums, episode)


def _rank(item: tuple[int, int, Any]) -> tuple[int, int]:
    return item[:2]


def _ints(row: Any, names: tuple[str, ...]) -> bool:
    return isinstance(row, Mapping) and all(
        type(row.get(name)) is int and 0 <= row[name] < _NEVER for name in names
    )


def _number(key: str) -> int:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else 0


def _add(sums: dict[tuple[int, int], _Sum], episode: NDArray[Any]) -> None:
    key = int(episode["queue"]), int(episode["code"])
    start, end = int(episode["start_ns"]), int(episode["end_ns"])
    s = sums.setdefault(key, _Sum(0, 0, _NEVER, 0, []))
    s.count += 1
    s.total_ns += end - start
    s.first_ns, s.last_ns = min(s.first_ns, start), max(s.last_ns, end)
    # A number of its own each: the rows themselves are never compared.
    heapq.heappush(s.longest, (end - start, -s.count, episode))
    if len(s.longest) > _KEPT:
        heapq.heappop(s.longest)
