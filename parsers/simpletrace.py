"""Binary traces of QEMU's simple backend (``--enable-trace-backends=simple``), version 4.

QEMU does not promise the format. Version 4, the one that names its events, is that of QEMU 4.0 and
later (trace/simple.c, scripts/simpletrace.py). Times are those of ``get_clock()``, CLOCK_MONOTONIC.
The arguments of the events that vtrace knows are numbers of 8 bytes each, and their count is
checked; of others, length and name are enough.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from parsers.batch import EventBatch
from parsers.imported import Imported, Sequence, timebase
from parsers.qemuevents import EVENTS, MOST_NAMES, NAMES, QemuEvents
from parsers.qemulog import ARGUMENTS, beginning, ending
from vtrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read"]

HEADER_ID: Final = (1 << 64) - 1
DROPPED_ID: Final = (1 << 64) - 2
MAGIC: Final = 0xF2B177CB0AA429B4
VERSION: Final = 4
MAPPING: Final = 0
EVENT: Final = 1
HEAD_BYTES: Final = 24
BLOCK_BYTES: Final = 4 << 20
LONGEST: Final = 1 << 16
"""Bytes of a record: QEMU's buffer for all has four times as many."""
LATEST: Final = (1 << 63) - 1


def read(source: Imported, file: BinaryIO) -> Iterator[EventBatch]:
    """Yield the batches of a binary trace.

    Raises:
        InputError: It is of another version.
    """
    start = file.read(24)
    order = "little" if start[8:16] == MAGIC.to_bytes(8, "little") else "big"
    words = struct.unpack(_mark(order) + "QQQ", start) if len(start) == 24 else (0, 0, 0)
    if words[:2] != (HEADER_ID, MAGIC):
        raise InputError(f"{source.name}: is no trace of QEMU's simple backend")
    if words[2] != VERSION:
        raise InputError(
            f"{source.name}: is a simple trace of version {words[2]}, and vtrace reads "
            f"version {VERSION}: print it with scripts/simpletrace.py of that QEMU's sources"
        )
    walker = _Walker(order)
    events, sequence = QemuEvents(), Sequence()
    first, last_ns, data, offset = True, 0, b"", 24
    while piece := file.read(BLOCK_BYTES):
        data += piece
        columns, done, lost, wrong = walker.walk(data, events)
        events_gap = [(line, 0, count) for line, count in lost]
        records, lines = events.feed(columns)
        sequence.number(records, lines, events_gap)
        batch = EventBatch.from_records(records)
        batch.meta = {**events.sections(), **sequence.sections()}
        for row in batch.meta["queues"].values():
            row["pid"] = walker.pid
            row["vm"] = f"pid:{walker.pid}" if walker.pid else ""
        if first:
            batch.meta |= beginning(events, source, timed=True)
            batch.meta["timebase"] = timebase("monotonic", 1, "QEMU's simple backend")
            first = False
        if len(records):
            last_ns = max(last_ns, int(records["time"][-1]))
        yield batch
        offset += done
        data = data[done:]
        if wrong:
            source.report(f"{wrong}; what came before was read", f"byte {offset}")
            data = b""
            break
    if data:
        source.report(f"ends inside of a record of which {len(data)} bytes are there")
    yield ending(events, source, last_ns)


def _mark(order: str) -> str:
    return "<" if order == "little" else ">"


class _Walker:
    def __init__(self, order: str) -> None:
        self.pid = 0
        self._mark = _mark(order)
        self._u64 = struct.Struct(f"{self._mark}Q").unpack_from
        self._head = struct.Struct(f"{self._mark}QQII").unpack_from
        self._map = struct.Struct(f"{self._mark}QI").unpack_from
        self._names: dict[int, str] = {}
        self._what: dict[int, int] = {}
        self._sizes = [HEAD_BYTES + 8 * len(EVENTS[name]) for name in NAMES]
        self._line = 0

    def walk(
        self, data: bytes, events: QemuEvents
    ) -> tuple[dict[str, Any], int, list[tuple[int, int]], str]:
        """Return the events that are known, how far it came, losses, and what is wrong there."""
        places: list[int] = []
        whats: list[int] = []
        numbers: list[int] = []
        lost: list[tuple[int, int]] = []
        counts: dict[int, int] = {}
        at, end, wrong = 0, len(data), ""
        while at + 8 <= end:
            kind = self._u64(data, at)[0]
            if kind == MAPPING:
                if at + 20 > end:
                    break
                number, size = self._map(data, at + 8)
                if size > 1024 or len(self._names) >= MOST_NAMES:
                    wrong = f"a name of {size} bytes for an event"
                    break
                if at + 20 + size > end:
                    break
                name = data[at + 20 : at + 20 + size].decode(errors="replace")
                self._names[number] = name
                if name in EVENTS:
                    self._what[number] = NAMES.index(name)
                at += 20 + size
                continue
            if kind != EVENT:
                wrong = f"a record of type {kind}, which there is not"
                break
            if at + 8 + HEAD_BYTES > end:
                break
            number, _, size, pid = self._head(data, at + 8)
            if not HEAD_BYTES <= size <= LONGEST:
                wrong = f"a record of {size} bytes"
                break
            if at + 8 + size > end:
                break
            self._line += 1
            if number == DROPPED_ID:
                if size >= HEAD_BYTES + 8:
                    lost.append((self._line, self._u64(data, at + 8 + HEAD_BYTES)[0] & 0xFFFFFFFF))
            else:
                self.pid = self.pid or pid
                counts[number] = counts.get(number, 0) + 1
                what = self._what.get(number)
                if what is not None and size == self._sizes[what]:
                    places.append(at + 8)
                    whats.append(what)
                    numbers.append(self._line)
            at += 8 + size
        for number, count in counts.items():
            name = self._names.get(number, f"event {number}")
            events.seen[name if len(events.seen) < MOST_NAMES else "(more names)"] += count
        return self._columns(data, places, whats, numbers), at, lost, wrong

    def _columns(
        self, data: bytes, places: list[int], whats: list[int], numbers: list[int]
    ) -> dict[str, Any]:
        raw = np.frombuffer(data, np.uint8)
        start = np.array(places, np.int64)
        what = np.array(whats, np.int64)

        def word(offsets: Any) -> Any:
            picked = raw[offsets[:, None] + np.arange(8)]
            words = np.ascontiguousarray(picked).view(f"{self._mark}u8").reshape(-1)
            return words.astype(np.uint64).view(np.int64)

        count = len(start)
        found: dict[str, Any] = {
            "what": what,
            "line": np.array(numbers, np.int64),
            "tid": np.zeros(count, np.int64),
            "time": np.zeros(count, np.int64),
        }
        for name in ARGUMENTS:
            found[name] = np.zeros(count, np.int64)
        if count:
            found["time"] = word(start + 8) & LATEST
        for number in np.unique(what).tolist():
            at = np.flatnonzero(what == number)
            for nth, name in enumerate(EVENTS[NAMES[number]]):
                values = word(start[at] + HEAD_BYTES + 8 * nth)
                # Pointers have 64 bits; numbers 32 or fewer, and may be signed.
                if name not in ("vq", "elem", "vdev"):
                    values = values & 0xFFFFFFFF
                found[name][at] = values
        return found
