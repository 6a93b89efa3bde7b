"""Sums over requests: by device and operation, the balloon's pages, the bytes of ports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.lifecycle import Histogram
from vtrace.model import Outcome, Trust
from vtrace.requests import (
    BALLOON_STATS,
    Format,
    Known,
    PageSet,
    PartState,
    name_of,
    page_numbers,
    stats_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.session.requests import Requests

__all__ = ["MOST_RANGES", "RequestSums"]

MOST_OPERATIONS: Final = 64
"""Operations of a device that are told apart; a guest can make up any number."""
MOST_STATUSES: Final = 32
MOST_PORTS: Final = 1 << 12
MOST_STATS: Final = 64
MOST_RANGES: Final = 1000
"""Ranges of pages that a report lists, the lowest first."""
OTHERS: Final = "others"

Row = dict[str, Any]
Device = tuple[str, str, str]
"""VM, device and what it is."""

_PAGES: Final = {
    Format.BALLOON_INFLATE: "inflated",
    Format.BALLOON_DEFLATE: "deflated",
}
_PORTS: Final = {Format.SERIAL_IN: "received_bytes", Format.SERIAL_OUT: "sent_bytes"}


@dataclass(slots=True)
class _Operation:
    count: int = 0
    data_bytes: int = 0
    failed: int = 0
    in_flight: int = 0
    ambiguous: int = 0
    unread: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    queueing: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class _Balloon:
    pages: Counter[str] = field(default_factory=Counter)
    sets: dict[str, PageSet] = field(
        default_factory=lambda: {name: PageSet() for name in _PAGES.values()}
    )
    stats: dict[str, int] = field(default_factory=dict)


class RequestSums:
    """Adds up requests; ``rows`` are what ``vtrace report --json`` has of them."""

    def __init__(self) -> None:
        self.requests: list[Row] = []
        self.balloons: list[Row] = []
        self.ports: list[Row] = []
        self._operations: dict[Device, dict[str | None, _Operation]] = {}
        self._balloons: dict[Device, _Balloon] = {}
        self._ports: dict[tuple[Device, int], Counter[str]] = {}
        self._names: dict[tuple[Device, int], str] = {}

    def __bool__(self) -> bool:
        return bool(self.requests)

    def add(self, found: Requests, rows: NDArray[Any] | None = None) -> None:
        """Take in requests: all, or those at an index array."""
        if rows is None:
            rows = np.arange(len(found))
        if not len(rows):
            return
        table = found.table
        keys = [table[name] for name in ("vm", "device", "device_type", "operation")]
        codes = np.stack([np.where(k.present(), k.data, 0)[rows] for k in keys], axis=1)
        distinct, inverse = np.unique(codes, axis=0, return_inverse=True)
        for number, group in enumerate(distinct.tolist()):
            texts = [(k.pool or ("",))[code] for k, code in zip(keys, group, strict=True)]
            vm, device, kind, operation = texts
            mine = rows[inverse.reshape(-1) == number]
            self._add((vm, device, kind), operation or None, found, mine)

    def _add(
        self, device: Device, operation: str | None, found: Requests, rows: NDArray[Any]
    ) -> None:
        sums = self._sums(device, operation)
        table, asked = found.table, found.asked[rows]
        sums.count += len(rows)
        known = asked["known"]
        has_data = known & np.uint32(Known.DATA) != 0
        sums.data_bytes += int(asked["data_bytes"][has_data].sum())
        sums.failed += int(asked["failed"].sum())
        sums.in_flight += int((table["outcome"].data[rows] == Outcome.IN_FLIGHT).sum())
        sums.ambiguous += int((table["trust"].data[rows] == Trust.AMBIGUOUS).sum())
        fine = (PartState.SEEN, PartState.PENDING, PartState.NOT_APPLICABLE)
        unread = ~np.isin(asked["request_state"], fine) | ~np.isin(asked["response_state"], fine)
        sums.unread += int(unread.sum())
        for name in ("response", "status"):
            _count_texts(sums.statuses, table[name], rows, skip="OK" if name == "response" else "")
        for name, histogram in (("queueing_ns", sums.queueing), ("service_ns", sums.service)):
            values = table[name]
            histogram.add(values.data[rows][values.present()[rows]].astype(np.int64))
        kinds = np.unique(asked["format"]).tolist()
        for kind in kinds:
            self._add_format(Format(kind), device, found, rows[asked["format"] == kind])

    def _sums(self, device: Device, operation: str | None) -> _Operation:
        of_device = self._operations.setdefault(device, {})
        if operation not in of_device and len(of_device) >= MOST_OPERATIONS:
            operation = OTHERS
        return of_device.setdefault(operation, _Operation())

    def _add_format(
        self, kind: Format, device: Device, found: Requests, rows: NDArray[Any]
    ) -> None:
        asked = found.asked[rows]
        if kind in _PAGES:
            balloon = self._balloons.setdefault(device, _Balloon())
            balloon.pages[_PAGES[kind]] += int(asked["pages"].astype(np.uint64).sum())
            numbers, _ = page_numbers(found.chains.request, rows)
            balloon.sets[_PAGES[kind]].add(numbers)
        elif kind == Format.BALLOON_STATS:
            balloon = self._balloons.setdefault(device, _Balloon())
            # What was told last holds.
            for tag, value in stats_of(found.chains.request.run(int(rows[-1]), 2048)):
                if len(balloon.stats) < MOST_STATS:
                    balloon.stats[name_of(BALLOON_STATS, tag)] = value
        elif kind in _PORTS:
            for port in np.unique(asked["port"]).tolist():
                mine = asked["port"] == port
                counts = self._port(device, port)
                if counts is not None:
                    counts[_PORTS[kind]] += int(asked["data_bytes"][mine].sum())
        elif kind in {Format.SERIAL_CONTROL_IN, Format.SERIAL_CONTROL_OUT}:
            self._name_ports(device, found, rows)

    def _port(self, device: Device, port: int) -> Counter[str] | None:
        if (device, port) not in self._ports and len(self._ports) >= MOST_PORTS:
            return None
        return self._ports.setdefault((device, port), Counter())

    def _name_ports(self, device: Device, found: Requests, rows: NDArray[Any]) -> None:
        detail = found.table["detail"]
        pool = detail.pool or ("",)
        for row in rows[detail.present()[rows]].tolist():
            if len(self._names) < MOST_PORTS:
                port = int(found.asked["port"][row])
                self._names[device, port] = pool[int(detail.data[row])]

    def keep(self, devices: Collection[tuple[str, str]]) -> None:
        """Leave out the rows of all other devices: (VM, device) each."""
        for name in ("requests", "balloons", "ports"):
            rows = [row for row in getattr(self, name) if (row["vm"], row["device"]) in devices]
            setattr(self, name, rows)

    def finish(self) -> None:
        """Put the sums into rows."""
        self.requests = [
            _operation_row(device, operation, sums)
            for device, of_device in sorted(self._operations.items())
            for operation, sums in sorted(
                of_device.items(), key=lambda one: (-one[1].count, one[0] or "")
            )
        ]
        self.balloons = [
            _balloon_row(device, sums) for device, sums in sorted(self._balloons.items())
        ]
        self.ports = [
            {
                "vm": device[0],
                "device": device[1],
                "port": port,
                "name": self._names.get((device, port)),
                **{name: counts[name] for name in _PORTS.values()},
            }
            for (device, port), counts in sorted(self._ports.items())
        ]


def _count_texts(counts: Counter[str], values: Any, rows: NDArray[Any], skip: str) -> None:
    codes = values.data[rows][values.present()[rows]]
    for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
        text = values.pool[int(code)]
        if text == skip:
            continue
        if text not in counts and len(counts) >= MOST_STATUSES:
            text = OTHERS
        counts[text] += int(count)


def _figures(histogram: Histogram) -> Row | None:
    if not histogram.count:
        return None
    p50, p90, p99 = (round(float(p)) for p in histogram.percentiles((50, 90, 99)))
    return {
        "count": histogram.count,
        "p50_ns": p50,
        "p90_ns": p90,
        "p99_ns": p99,
        "max_ns": histogram.max_ns,
    }


def _operation_row(device: Device, operation: str | None, sums: _Operation) -> Row:
    return {
        "vm": device[0],
        "device": device[1],
        "device_type": device[2],
        "operation": operation,
        "count": sums.count,
        "data_bytes": sums.data_bytes,
        "failed": sums.failed,
        "statuses": dict(sums.statuses.most_common()),
        "in_flight": sums.in_flight,
        "ambiguous": sums.ambiguous,
        "unread": sums.unread,
        "queueing": _figures(sums.queueing),
        "service": _figures(sums.service),
    }


def _balloon_row(device: Device, sums: _Balloon) -> Row:
    row: Row = {"vm": device[0], "device": device[1]}
    for name, pages in sums.sets.items():
        row[f"{name}_pages"] = sums.pages[name]
        row[f"{name}_distinct"] = pages.pages
        row[f"{name}_ranges"] = [
            {"first": first, "last": last} for first, last in pages.ranges[:MOST_RANGES].tolist()
        ]
        row[f"{name}_more_ranges"] = max(len(pages.ranges) - MOST_RANGES, 0)
    row["stats"] = sums.stats
    return row
