"""pcap and pcapng: frames that another tool captured, as records of the kind CAPTURED.

A capture tells of a frame when it was seen at an interface, and not what became of it. Records are
found one behind the other; all else, times and bytes, is done for a block of them at once. The
formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from parsers import wire
from parsers.batch import EventBatch, Snaps
from parsers.imported import Imported, timebase
from vtrace.errors import InputError
from vtrace.model import Direction, Flag, Kind, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MOST_CAPTURED", "read"]

BLOCK_BYTES: Final = 8 << 20
LONGEST: Final = 1 << 20
"""Bytes of a record or block that are believed; libpcap's own limit is 256 KiB."""
MOST_CAPTURED: Final = 65535
"""Bytes of a frame that a row can hold."""
MOST_ROWS: Final = 1 << 17
MOST_INTERFACES: Final = 1 << 10

ETHERNET: Final = 1
RAW: Final = (12, 14, 101, 228, 229)
"""Link types without a link header: raw IP (DLT_RAW as systems number it), IPv4, IPv6."""
SLL: Final = 113
SLL2: Final = 276
SLL_BYTES: Final = {SLL: 16, SLL2: 20}

SHB, IDB, EPB, SPB, OPB = 0x0A0D0D0A, 1, 6, 3, 2
BYTE_ORDER: Final = 0x1A2B3C4D

IN, OUT = 1, 2
LATEST: Final = (1 << 63) - 1


@dataclass(slots=True)
class Interface:
    """Where frames were captured."""

    link: int
    name: str = ""
    ticks: int = 1_000_000
    """Units of its times in a second."""
    offset_s: int = 0
    ids: dict[int, int] = field(default_factory=dict)
    """Direction (0, IN, OUT) -> id in the queue table."""


@dataclass(slots=True)
class Found:
    """Frames of a block of bytes."""

    at: list[int] = field(default_factory=list)
    interface: list[int] = field(default_factory=list)
    simple: list[int] = field(default_factory=list)
    """Simple packet blocks: they have no time."""


def read(source: Imported, file: BinaryIO) -> Iterator[EventBatch]:
    """Yield the batches of a capture.

    Raises:
        InputError: It has no header that makes sense.
    """
    head = file.read(4)
    walker: _Pcapng | _Pcap
    if head == b"\x0a\x0d\x0d\x0a":
        walker, data = _Pcapng(source), head
    else:
        walker, data = _Pcap(source, head + file.read(20)), b""
    out = _Batches(source, walker)
    offset = walker.start
    ended = False
    while not ended:
        piece = file.read(BLOCK_BYTES)
        ended = not piece
        data += piece
        at = 0
        while True:
            rows, done, wrong = walker.walk(memoryview(data), at)
            if len(rows["time"]):
                yield out.batch(rows)
            stuck, at = done == at, done
            if wrong or stuck:
                break
        offset += at
        data = data[at:]
        if wrong:
            source.report(f"{wrong}; the frames before it were read", f"byte {offset}")
            data = b""
            break
    if data:
        source.report(
            f"ends inside of a record of which {len(data)} bytes are there", f"byte {offset}"
        )
    yield out.last()


class _Pcap:
    def __init__(self, source: Imported, head: bytes) -> None:
        if len(head) < 24:
            raise InputError(f"{source.name}: ends inside of the header of a pcap file")
        little = head[0] in (0xD4, 0x4D)
        self._mark = "<" if little else ">"
        magic, major, _, _, _, _, link = struct.unpack(f"{self._mark}IHHiIII", head)
        if magic not in (0xA1B2C3D4, 0xA1B23C4D) or major != 2:
            raise InputError(f"{source.name}: is no pcap file of version 2")
        self.ticks = 1_000_000_000 if magic == 0xA1B23C4D else 1_000_000
        self.interfaces = [Interface(link & 0x0FFF_FFFF, "", self.ticks)]
        self.start = 24
        self._size = struct.Struct(f"{self._mark}I").unpack_from

    def walk(self, data: memoryview, at: int) -> tuple[dict[str, Any], int, str]:
        places: list[int] = []
        end, wrong, size = len(data), "", self._size
        while at + 16 <= end and len(places) < MOST_ROWS:
            captured = size(data, at + 8)[0]
            if captured > LONGEST:
                wrong = f"a frame of {captured} bytes"
                break
            if at + 16 + captured > end:
                break
            places.append(at)
            at += 16 + captured
        start = np.array(places, np.int64)
        words = _words(data, start, 4, self._mark)
        part = np.minimum(words[:, 1], self.ticks - 1)
        time = words[:, 0] * 1_000_000_000 + part * (1_000_000_000 // self.ticks)
        rows = {
            "time": time,
            "start": start + 16,
            "captured": words[:, 2],
            "length": words[:, 3],
            "interface": np.zeros(len(start), np.int64),
            "direction": np.zeros(len(start), np.int64),
            "data": data,
        }
        return rows, at, wrong


class _Pcapng:
    def __init__(self, source: Imported) -> None:
        self._source = source
        self._mark = "<"
        self._section = 0
        self.interfaces: list[Interface] = []
        self.start = 0
        self.simple = 0

    def walk(self, data: memoryview, at: int) -> tuple[dict[str, Any], int, str]:
        places: list[int] = []
        owners: list[int] = []
        end, wrong, mark = len(data), "", self._mark
        head = struct.Struct(f"{mark}III").unpack_from
        while at + 12 <= end and len(places) < MOST_ROWS:
            kind, size, word = head(data, at)
            if kind == SHB:
                if len(places):
                    # The next section may be of the other byte order.
                    break
                wrong = self._new_section(data, at)
                mark = self._mark
                head = struct.Struct(f"{mark}III").unpack_from
                if wrong:
                    break
                _, size, word = head(data, at)
            if size < 12 or size % 4 or size > LONGEST:
                wrong = f"a block of {size} bytes"
                break
            if at + size > end:
                break
            if kind == EPB and size >= 32:
                number = self._section + word
                if number < len(self.interfaces):
                    places.append(at)
                    owners.append(number)
                else:
                    wrong = f"a frame of interface {word}, which there is not"
                    break
            elif kind == IDB and size >= 20:
                self._interface(bytes(data[at : at + size]))
            elif kind in (SPB, OPB):
                self.simple += 1
            at += size
        return self._rows(data, places, owners), at, wrong

    def _new_section(self, data: memoryview, at: int) -> str:
        order = bytes(data[at + 8 : at + 12])
        if order == BYTE_ORDER.to_bytes(4, "little"):
            self._mark = "<"
        elif order == BYTE_ORDER.to_bytes(4, "big"):
            self._mark = ">"
        else:
            return "a section without a byte order"
        self._section = len(self.interfaces)
        return ""

    def _interface(self, block: bytes) -> None:
        if len(self.interfaces) >= MOST_INTERFACES:
            return
        link = struct.unpack_from(f"{self._mark}H", block, 8)[0]
        one = Interface(link)
        at = 16
        while at + 4 <= len(block) - 4:
            code, size = struct.unpack_from(f"{self._mark}HH", block, at)
            value = block[at + 4 : at + 4 + size]
            if code == 0 or at + 4 + size > len(block) - 4:
                break
            if code == 2:
                one.name = value.rstrip(b"\0").decode(errors="replace")
            elif code == 9 and value:
                power = value[0] & 0x7F
                # Finer than ns by far, or coarser than a second: no clock is so.
                if value[0] & 0x80:
                    one.ticks = 1 << min(power, 62)
                else:
                    one.ticks = 10 ** min(power, 18)
            elif code == 14 and size == 8:
                one.offset_s = struct.unpack(f"{self._mark}q", value)[0]
            at += 4 + (size + 3) // 4 * 4
        self.interfaces.append(one)

    def _rows(self, data: memoryview, places: list[int], owners: list[int]) -> dict[str, Any]:
        start = np.array(places, np.int64)
        owner = np.array(owners, np.int64)
        words = _words(data, start, 7, self._mark)
        stamp = words[:, 3].astype(np.uint64) << np.uint64(32) | words[:, 4].astype(np.uint64)
        time = np.zeros(len(start), np.int64)
        for number in np.unique(owner).tolist():
            mine = owner == number
            one = self.interfaces[number]
            ticks = np.uint64(one.ticks)
            whole = (stamp[mine] // ticks).astype(np.int64)
            part = stamp[mine] % ticks
            if one.ticks <= 1_000_000_000:
                ns = (part * np.uint64(1_000_000_000) // ticks).astype(np.int64)
            else:
                ns = (part.astype(np.float64) * (1e9 / one.ticks)).astype(np.int64)
            whole = np.clip(whole + one.offset_s, 0, 9_000_000_000)
            time[mine] = whole * 1_000_000_000 + ns
        size, captured = words[:, 1], words[:, 5]
        captured = np.minimum(captured, np.maximum(size - 32, 0))
        return {
            "time": time,
            "start": start + 28,
            "captured": captured,
            "length": words[:, 6],
            "interface": owner,
            "direction": self._directions(data, start, size, captured),
            "data": data,
        }

    def _directions(self, data: memoryview, start: Any, size: Any, captured: Any) -> Any:
        # Option epb_flags, where it stands first, or behind others: looked for in a few steps.
        found = np.zeros(len(start), np.int64)
        at = start + 28 + (captured + 3) // 4 * 4
        end = start + size - 4
        raw = np.frombuffer(data, np.uint8)
        open_yet = at + 8 <= end
        for _ in range(8):
            rows = np.flatnonzero(open_yet)
            if not len(rows):
                break
            words = _words_of(raw, at[rows], 2, self._mark, "u2")
            code, length = words[:, 0], words[:, 1]
            hit = (code == 2) & (length == 4)
            flags = _words_of(raw, at[rows][hit] + 4, 1, self._mark, "u4")[:, 0]
            found[rows[hit]] = flags & 3
            at[rows] += 4 + (length + 3) // 4 * 4
            open_yet[rows] = ~hit & (code != 0)
            open_yet &= at + 8 <= end
        return np.where(found == 3, 0, found)


def _words(data: memoryview, start: Any, count: int, mark: str) -> Any:
    return _words_of(np.frombuffer(data, np.uint8), start, count, mark, "u4")


def _words_of(raw: Any, start: Any, count: int, mark: str, kind: str) -> Any:
    # Numbers that stand in a row at each place, as int64.
    width = np.dtype(kind).itemsize
    if not len(start):
        return np.zeros((0, count), np.int64)
    picked = np.ascontiguousarray(raw[start[:, None] + np.arange(width * count)])
    return picked.view(f"{mark}{kind}").astype(np.int64)


class _Batches:
    # Rows into batches, with what is known of their interfaces.
    def __init__(self, source: Imported, walker: _Pcap | _Pcapng) -> None:
        self._source = source
        self._walker = walker
        self._queues: dict[str, Any] = {}
        self._packet = 0
        self._seq = 0
        self._last_ns = 0
        self._late = 0
        self._first = True
        self._links: set[int] = set()

    def batch(self, rows: dict[str, Any]) -> EventBatch:
        order = np.argsort(rows["time"], kind="stable")
        rows = {name: v if name == "data" else v[order] for name, v in rows.items()}
        count = len(order)
        records = np.zeros(count, wire.RECORD)
        records["time"] = rows["time"]
        records["kind"] = Kind.CAPTURED
        records["length"] = np.minimum(rows["length"], 0xFFFFFFFF)
        ids = (self._packet + np.arange(count)) % 0xFFFFFFFF + 1
        records["packet"] = ids
        records["seq"] = (self._seq + 1 + np.arange(count)) & 0xFFFFFFFF
        self._seq += count
        self._packet = int(ids[-1]) % 0xFFFFFFFF
        skip, bare, direction = self._links_of(rows)
        records["flags"] = np.where(bare, int(Flag.NO_MAC), 0)
        records["queue"] = self._ids(rows["interface"], direction)
        captured = np.maximum(np.minimum(rows["captured"], MOST_CAPTURED) - skip, 0)
        records["length"] = np.maximum(records["length"].astype(np.int64) - skip, 0)
        snaps = _snaps(rows["data"], rows["start"] + skip, captured)
        batch = EventBatch.from_records(records, snaps)
        self._late += int((rows["time"] < self._last_ns).sum())
        self._last_ns = max(self._last_ns, int(rows["time"][-1]))
        batch.meta = self._changing()
        if self._first:
            batch.meta |= self._beginning(int(rows["time"][0]))
            self._first = False
        return batch

    def _links_of(self, rows: dict[str, Any]) -> tuple[Any, Any, Any]:
        # Bytes before the frame, whether it starts at the network header, and its direction.
        interface = rows["interface"]
        skip = np.zeros(len(interface), np.int64)
        bare = np.zeros(len(interface), np.bool_)
        direction = rows["direction"].copy()
        raw = np.frombuffer(rows["data"], np.uint8)
        for number in np.unique(interface).tolist():
            link = self._walker.interfaces[number].link
            mine = interface == number
            if link in SLL_BYTES:
                skip[mine], bare[mine] = SLL_BYTES[link], True
                whole = mine & (rows["captured"] >= SLL_BYTES[link])
                at = rows["start"][whole] + (1 if link == SLL else 10)
                # Packet type of packet(7): 4 is what this host sent.
                direction[whole] = np.where(raw[at] == 4, OUT, IN)
            elif link in RAW:
                bare[mine] = True
            elif link != ETHERNET:
                if link not in self._links:
                    self._links.add(link)
                    self._source.report(
                        f"frames of link type {link} are counted, and not decoded; vtrace reads "
                        "Ethernet (1), raw IP (101) and Linux cooked (113, 276)"
                    )
                # No byte of it is of a meaning to vtrace.
                skip[mine] = rows["captured"][mine]
        return np.minimum(skip, rows["captured"]), bare, direction

    def _ids(self, interface: Any, direction: Any) -> Any:
        keys = interface * 4 + direction
        distinct, inverse = np.unique(keys, return_inverse=True)
        found = np.zeros(len(distinct), np.int64)
        for at, key in enumerate(distinct.tolist()):
            number, way = divmod(key, 4)
            one = self._walker.interfaces[number]
            if way not in one.ids:
                one.ids[way] = len(self._queues) + 1
                name = one.name or f"interface{number}"
                self._queues[str(one.ids[way])] = {
                    "id": one.ids[way],
                    "role": str(Role.INTERFACE),
                    "device": name,
                    "interface": one.name,
                    "name": {0: "", IN: "in", OUT: "out"}[way],
                    "direction": str(Direction.NONE),
                }
            found[at] = one.ids[way]
        return found[inverse] & 0xFFFF

    def _changing(self) -> dict[str, Any]:
        count = {"produced": self._seq, "received": self._seq, "lost": 0}
        return {
            "queues": dict(self._queues),
            "counts": {Kind.CAPTURED.name: count},
            "loss": {"late": self._late, "pending": 0},
        }

    def _beginning(self, time: int) -> dict[str, Any]:
        ticks = max(one.ticks for one in self._walker.interfaces)
        return {
            "capture": {"tool": "packet capture"},
            "imported": {"format": self._source.format, "tool": ""},
            "timebase": timebase(
                "realtime", max(1_000_000_000 // ticks, 1), "captures have the time of day"
            ),
            # The times are those of the day already.
            "clock": [{"monotonic_ns": time, "realtime_ns": time}],
            "probes": {},
        }

    def last(self) -> EventBatch:
        """Return what ends the recording."""
        events: dict[str, Any] = {"frame": {"count": self._seq, "as": Kind.CAPTURED.name}}
        simple = getattr(self._walker, "simple", 0)
        if simple:
            events["simple packet block"] = {"count": simple, "as": None}
        meta = self._changing() if self._seq else {}
        if self._first:
            meta |= {"timebase": timebase("realtime", None, "captures have the time of day")}
        meta["imported"] = {"format": self._source.format, "tool": "", "events": events}
        meta["end"] = {"reason": "imported", "ended_ns": self._last_ns}
        return EventBatch.empty(meta)


def _snaps(data: memoryview, start: Any, sizes: Any) -> Snaps:
    count = len(start)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    index = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], sizes)
    header = np.zeros(count, wire.SNAP)
    header["captured"] = sizes
    return Snaps(
        rows=np.arange(count, dtype=np.uint32),
        header=header,
        offsets=offsets,
        data=np.frombuffer(data, np.uint8)[index],
    )
