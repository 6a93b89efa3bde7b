"""A recording second by second: rates, losses by code, the worst finding."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers.batch import EventBatch, Metadata
from vtrace.diagnose.codes import CODES
from vtrace.flows import Known, decode
from vtrace.model import Flag, Kind
from vtrace.session import Session, Window
from vtrace.session.clock import Base, Moment
from vtrace.tables.human import count_text
from vtrace.text import cells, clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.cli.output import Style
    from vtrace.diagnose.findings import Finding
    from vtrace.diagnose.prose.headline import Times

__all__ = ["SECOND_NS", "Second", "Seconds", "line_of", "second_json"]

SECOND_NS: Final = 1_000_000_000
BEFORE: Final = 2
"""Seconds before the one that is judged, that its cause may lie in."""
MAX_ROWS: Final = 4_000_000
"""Records that are held for that at most."""
QUICK_S: Final = 0.1
"""A second without loss is judged too, where that takes no longer."""
UDP: Final = 17

Device = tuple[str, str]
"""VM and device; or empty, and the interface."""


@dataclass(slots=True, kw_only=True)
class Second:
    """What one second brought."""

    start_ns: int
    towards: Counter[Device] = field(default_factory=Counter)
    """Packets that came to the tap, those that it refused among them."""
    away: Counter[Device] = field(default_factory=Counter)
    """Packets from the guest."""
    refused: int = 0
    """Packets that a tap did not take."""
    lost_records: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def by_code(self) -> dict[str, int]:
        """Packets lost, by code of the finding; those without one have an empty code."""
        counts: Counter[str] = Counter()
        for finding in self.findings:
            if finding.packets:
                counts[finding.code] += finding.packets
        rest = self.refused - sum(counts.values())
        if rest > 0:
            counts[""] = rest
        return dict(counts)


class Seconds:
    """Takes batches in their order, and hands out the seconds that are over."""

    def __init__(self, protocol: str = "udp", vm: str | None = None) -> None:
        self._protocol, self._vm = protocol, vm
        self._metadata = Metadata()
        self._before = Metadata()
        # What was known before the first batch that is held.
        self._held: deque[EventBatch] = deque()
        self._rows = 0
        self.start_ns: int | None = None
        """Time of the first record."""
        self._now: Second | None = None
        self._died = False
        self._lost = 0
        self._took_s = 0.0

    @property
    def metadata(self) -> Metadata:
        """All that is known by now."""
        return self._metadata

    def feed(self, batch: EventBatch) -> Iterator[Second]:
        """Take a batch; yield each second that ends before its last record."""
        self._metadata.update(batch.meta)
        times = batch["time"]
        newest = int(times[-1]) if len(times) else _sampled(batch)
        if self._now is None:
            if not newest:
                self._hold(batch)
                return
            self.start_ns = int(times[0]) if len(times) else newest
            self._now = Second(start_ns=self.start_ns)
        rest = batch
        while newest >= self._now.start_ns + SECOND_NS:
            end = self._now.start_ns + SECOND_NS
            early = rest["time"] < np.uint64(end)
            if len(rest) and early.any():
                self._count(rest.take(early))
                later = rest.take(~early)
                later.meta = {}
                rest = later
            yield self._over(end)
        if len(rest) or rest.meta:
            self._count(rest)

    def finish(self) -> Iterator[Second]:
        """Yield the second that was under way."""
        if self._now is not None:
            yield self._over(self._now.start_ns + SECOND_NS)

    def _over(self, end: int) -> Second:
        done = self._now
        assert done is not None
        lost = _lost(self._metadata)
        done.lost_records, self._lost = lost - self._lost, lost
        if self._died or self._took_s < QUICK_S:
            done.findings = self._judge(done.start_ns, end)
        self._died = False
        self._now = Second(start_ns=end)
        self._let_go(end - BEFORE * SECOND_NS)
        return done

    def _count(self, batch: EventBatch) -> None:
        self._hold(batch)
        second = self._now
        assert second is not None
        rows = self._chosen(batch)
        kinds, queues = batch["kind"][rows], batch["queue"][rows]
        for where, sums in (
            (np.isin(kinds, (Kind.ENQUEUE, Kind.REFUSE)), second.towards),
            (kinds == Kind.DELIVER, second.away),
        ):
            for queue, count in zip(*np.unique(queues[where], return_counts=True), strict=True):
                device = self._device(int(queue))
                if not self._vm or device[0] == self._vm:
                    sums[device] += int(count)
        second.refused += int((kinds == Kind.REFUSE).sum())
        self._died |= bool(np.isin(kinds, (Kind.REFUSE, Kind.DROP)).any())

    def _chosen(self, batch: EventBatch) -> NDArray[Any]:
        rows = batch.snaps.rows
        if self._protocol != "udp" or not len(rows):
            return rows
        no_mac = batch["flags"][rows] & np.uint16(Flag.NO_MAC) != 0
        flows = decode(batch.snaps, no_mac)
        known = flows["known"] & int(Known.PROTOCOL) != 0
        chosen: NDArray[Any] = rows[known & (flows["protocol"] == UDP)]
        return chosen

    def _device(self, queue: int) -> Device:
        entry = self._metadata.section("queues").get(str(queue), {})
        vm = str(entry.get("vm") or "")
        name = str(entry.get("device") or entry.get("interface") or f"queue {queue}")
        return vm, name

    def _hold(self, batch: EventBatch) -> None:
        self._held.append(batch)
        self._rows += len(batch)

    def _let_go(self, before_ns: int) -> None:
        while self._held:
            oldest = self._held[0]
            last = int(oldest["time"][-1]) if len(oldest) else 0
            if last >= before_ns and self._rows <= MAX_ROWS:
                return
            self._held.popleft()
            self._rows -= len(oldest)
            self._before.update(oldest.meta)

    def _judge(self, start_ns: int, end_ns: int) -> list[Finding]:
        began = time.monotonic()
        known = {
            name: dict(section) if isinstance(section, dict) else section
            for name, section in self._before.sections.items()
        }
        window = Window(
            since=Moment(Base.MONOTONIC, start_ns), until=Moment(Base.MONOTONIC, end_ns)
        )
        session = Session([EventBatch.empty(known), *self._held], window=window)
        found = session.diagnose(self._protocol).findings
        self._took_s = time.monotonic() - began
        return [one for one in found if not self._vm or one.vm in ("", self._vm)]


def _sampled(batch: EventBatch) -> int:
    # When the counters of a batch without records were read.
    section = batch.meta.get("counters")
    times = [0]
    for values in section.values() if isinstance(section, dict) else ():
        newest = values.get("hi_ns") if isinstance(values, dict) else None
        if isinstance(newest, int):
            times.append(newest)
    return max(times)


def _lost(metadata: Metadata) -> int:
    counts = metadata.section("counts").values()
    lost = sum(one.get("lost", 0) for one in counts if isinstance(one, dict))
    dropped = metadata.section("loss").get("dropped_records", 0)
    return int(lost) + int(dropped)


# Text


def line_of(second: Second, times: Times, style: Style, width: int) -> str:
    """Return a second as a line: time, rates of each device, losses."""
    lost = second.by_code
    tail = ""
    if lost:
        codes = ", ".join(f"{code or 'no cause found'} {count_text(n)}" for code, n in lost.items())
        tail = f"LOST {count_text(sum(lost.values()))}: {codes}"
    worst = next((one for one in second.findings if one.code in CODES), None)
    if worst is not None:
        tail = f"{tail}  " if tail else ""
        title = CODES[worst.code].title
        tail += title if lost else f"{worst.code}: {title}"
    if second.lost_records:
        records = f"vtrace lost {count_text(second.lost_records)} records"
        tail = f"{tail}  {records}" if tail else records
    head = times.text(second.start_ns).split(".")[0]
    room = width - cells(head) - cells(tail) - 4
    line = f"{head}  {_rates(second, room)}"
    return f"{line}  {style.alarm(tail)}" if tail else line


def _rates(second: Second, room: int) -> str:
    devices = sorted(
        {*second.towards, *second.away},
        key=lambda one: (-(second.towards[one] + second.away[one]), one),
    )
    if not devices:
        return "no packets"
    parts = [
        f"{clean(' '.join(one for one in device if one), 24)} "
        f"rx {count_text(second.towards[device])}/s tx {count_text(second.away[device])}/s"
        for device in devices
    ]
    text = parts[0]
    for at, part in enumerate(parts[1:], start=1):
        more = f" +{len(parts) - at} more"
        if cells(text) + 3 + cells(part) + cells(more) > room:
            return text + more
        text += f" · {part}"
    return text


def second_json(second: Second) -> dict[str, Any]:
    """Return a second as ``schemas/diagnose.json`` has it."""
    return {
        "start_ns": second.start_ns,
        "devices": [
            {
                "vm": vm,
                "device": device,
                "rx": second.towards[vm, device],
                "tx": second.away[vm, device],
            }
            for vm, device in sorted({*second.towards, *second.away})
        ],
        "dropped": second.by_code,
        "worst": second.findings[0].code if second.findings else None,
        "lost_records": second.lost_records,
    }
