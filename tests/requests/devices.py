"""A guest with every kind of device that QEMU serves, told record by record.

Chains are made of the bytes of their buffers; the records are those that the probes of QEMU write
for them. ``story()`` is a recording in which each request and each answer is known.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np

from parsers import wire
from parsers.batch import EventBatch, Snaps
from parsers.tracefile import TraceWriter
from tests.cli.recordings import REALTIME, udp
from vtrace.model import Flag, Kind

START = 1_000_000_000
VCPU, LOOP = 1001, 1000
SNAP = 64
MOST_BUFFERS = 4
MOST_PAGES = 2048

VERSION_1, MRG_RXBUF, HASH_REPORT = 1 << 32, 1 << 15, 1 << 57
EVENT_IDX = 1 << 29

QUEUES = {
    1: ("disk0", "blk", 0, "req0", "none", VERSION_1),
    2: ("scsi0", "scsi", 0, "ctrl", "none", VERSION_1),
    3: ("scsi0", "scsi", 1, "event", "none", VERSION_1),
    4: ("scsi0", "scsi", 2, "req0", "none", VERSION_1),
    5: ("balloon0", "balloon", 0, "inflate", "none", VERSION_1),
    6: ("balloon0", "balloon", 1, "deflate", "none", VERSION_1),
    7: ("balloon0", "balloon", 2, "stats", "none", VERSION_1),
    8: ("serial0", "serial", 2, "ctrl_rx", "none", VERSION_1),
    9: ("serial0", "serial", 3, "ctrl_tx", "none", VERSION_1),
    10: ("serial0", "serial", 4, "rx1", "none", VERSION_1),
    11: ("serial0", "serial", 5, "tx1", "none", VERSION_1),
    12: ("net0", "net", 0, "rx0", "rx", VERSION_1 | MRG_RXBUF),
    13: ("net0", "net", 1, "tx0", "tx", VERSION_1 | MRG_RXBUF),
    14: ("net0", "net", 2, "ctrl", "none", VERSION_1 | MRG_RXBUF),
}
"""Id -> device, its kind, index, name and direction of the queue, features."""


def queue_table(**changes: Any) -> dict[str, Any]:
    """Return the section ``queues``."""
    table = {}
    for number, (device, kind, index, name, direction, features) in QUEUES.items():
        table[str(number)] = {
            "id": number, "role": "virtqueue", "vm": "cpx", "pid": 4242, "device": device,
            "name": name, "direction": direction, "backend": "qemu", "ring": "split",
            "size": 128, "index": index, "device_type": kind,
            "qom": f"/machine/peripheral/{device}", "interface": "", "ifindex": 0,
            "generation": 0, "features": features, "extra": {}, **changes,
        }  # fmt: skip
    return table


class Devices:
    """Records of chains, in the order in which they are told."""

    def __init__(self, snap: int = SNAP) -> None:
        self.told: list[tuple[dict[str, int], bytes | None]] = []
        self.snap = snap
        self.now = START
        self.avail: dict[int, int] = {}
        self.used: dict[int, int] = {}
        self.started: set[int] = set()
        self.filled: dict[int, list[int]] = {}

    def add(self, kind: Kind, queue: int, data: bytes | None = None, **fields: int) -> None:
        """Add a record of QEMU's probes, now."""
        flags = int(fields.pop("flags", 0) | Flag.QEMU)
        row = {"time": self.now, "kind": kind, "queue": queue, "tid": LOOP, "flags": flags}
        self.told.append(({**row, **fields}, data))

    def later(self, ns: int = 1000) -> int:
        """Let time pass, and return what it is then."""
        self.now += ns
        return self.now

    def start(self, queue: int) -> None:
        """The driver is ready: before the first record of a queue."""
        if queue not in self.started:
            self.started.add(queue)
            self.later()
            self.add(Kind.START, queue, flags=int(Flag.POSITION | Flag.USED))

    def kick(self, queue: int) -> None:
        """The driver notifies, and QEMU runs."""
        self.start(queue)
        self.later()
        position, places = self.avail.get(queue, 0), Flag.POSITION | Flag.USED | Flag.AVAIL
        self.add(
            Kind.KICK, queue, tid=VCPU, cpu=1, avail=(position + 1) & 0xFFFF,
            position=position & 0xFFFF, used=self.used.get(queue, 0) & 0xFFFF, flags=int(places),
        )  # fmt: skip
        self.later()
        self.add(Kind.RUN, queue)

    def _pieces(self, kind: Kind, queue: int, chain: dict[str, Any], parts: list[bytes]) -> None:
        # As the probe has it: the first buffers, up to the snap length in all.
        pages = kind == Kind.REQUEST and QUEUES[queue][1] == "balloon" and queue in (5, 6)
        left, offset = (MOST_PAGES if pages else self.snap), 0
        for part in parts[:MOST_BUFFERS]:
            for at in range(0, max(len(part), 1), self.snap):
                size = min(len(part) - at, left, self.snap)
                if size <= 0:
                    break
                cut = Flag.CUT if size < len(part) - at else 0
                self.add(
                    kind, queue, part[at : at + size], head=chain["head"],
                    position=chain["position"], length=offset + at, room=len(part),
                    flags=int(Flag.POSITION | cut),
                )  # fmt: skip
                left -= size
                if not pages:
                    break
            offset += len(part)

    def pop(self, queue: int, head: int, request: list[bytes], writable: int = 0) -> dict[str, Any]:
        """QEMU takes a chain; returns what ``fill`` needs."""
        self.start(queue)
        self.later()
        position = self.avail.get(queue, 0)
        self.avail[queue] = position + 1
        chain = {
            "head": head, "position": position & 0xFFFF, "pop_ns": self.now, "queue": queue,
            "readable": sum(map(len, request)), "writable": writable,
        }  # fmt: skip
        self.add(
            Kind.POP, queue, head=head, count=2, length=chain["readable"], room=writable,
            position=chain["position"], used=self.used.get(queue, 0) & 0xFFFF,
            avail=(position + 1) & 0xFFFF,
            flags=int(Flag.POSITION | Flag.USED | Flag.AVAIL),
        )  # fmt: skip
        self._pieces(Kind.REQUEST, queue, chain, request)
        return chain

    def fill(
        self, chain: dict[str, Any], response: list[bytes], last: int | None = None,
        written: int | None = None,
    ) -> None:  # fmt: skip
        """QEMU fills a chain in. ``last``: its last writable byte, else that of ``response``."""
        self.later()
        queue = chain["queue"]
        data = b"".join(response)
        chain["fill_ns"] = self.now
        if last is None:
            last = data[-1] if data and len(data) == chain["writable"] else -1
        places = self.filled.setdefault(queue, [])
        used = self.used.get(queue, 0) + len(places)
        places.append(chain["head"])
        self.add(
            Kind.USED, queue, head=chain["head"], count=1, ret=last,
            length=len(data) if written is None else written, used=used & 0xFFFF,
            position=self.avail[queue] & 0xFFFF, flags=int(Flag.POSITION | Flag.USED),
        )  # fmt: skip
        self._pieces(Kind.RESPONSE, queue, chain, response)

    def flush(self, queue: int) -> int:
        """The driver can see what was filled in; returns when."""
        self.later()
        count = len(self.filled.pop(queue, []))
        self.add(
            Kind.FLUSH, queue, count=count, used=self.used.get(queue, 0) & 0xFFFF,
            position=self.avail.get(queue, 0) & 0xFFFF, flags=int(Flag.POSITION | Flag.USED),
        )  # fmt: skip
        self.used[queue] = self.used.get(queue, 0) + count
        at = self.now
        self.later(200)
        self.add(Kind.SIGNAL, queue, ret=1, used=self.used[queue] & 0xFFFF, flags=int(Flag.USED))
        return at

    def ask(
        self, queue: int, head: int, request: list[bytes], response: list[bytes],
        service_ns: int = 5000, **answer: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """A request from kick to flush; returns its chain with the times."""
        self.kick(queue)
        kick_ns = self.now - 1000
        chain = self.pop(queue, head, request, sum(map(len, response)))
        self.later(service_ns)
        self.fill(chain, response, **answer)
        chain["used_ns"], chain["kick_ns"] = self.flush(queue), kick_ns
        return chain

    def records(self) -> tuple[np.ndarray, list[bytes | None]]:
        """Return all records in order, and the bytes of each."""
        order = sorted(range(len(self.told)), key=lambda at: self.told[at][0]["time"])
        records = np.zeros(len(order), wire.RECORD)
        for at, number in enumerate(order):
            for name, value in self.told[number][0].items():
                records[name][at] = value
        for cpu in np.unique(records["cpu"]):
            mine = records["cpu"] == cpu
            records["seq"][mine] = np.arange(mine.sum())
        return records, [self.told[number][1] for number in order]

    def batch(self) -> EventBatch:
        """Return all of it as one batch, without metadata."""
        return batch_of(*self.records())

    def meta(self, **changes: Any) -> dict[str, Any]:
        """Return the metadata of the recording."""
        counted: dict[str, dict[str, int]] = {}
        for row, _ in self.told:
            name = Kind(row["kind"]).name
            one = counted.setdefault(name, {"produced": 0, "received": 0, "lost": 0})
            one["produced"] += 1
            one["received"] += 1
        return {
            "host": {"kernel": "6.12.0-test", "machine": "x86_64", "hostname": "lab"},
            "clock": [{"monotonic_ns": START, "realtime_ns": REALTIME}],
            "queues": queue_table(**changes),
            "threads": {},
            "probes": {"virtqueue_pop": {"state": "attached", "reason": ""}},
            "counts": counted,
            "loss": {"late": 0, "missed": 0, "pending": 0},
        }

    def batches(self, *cuts: int) -> list[EventBatch]:
        """Return it cut into batches at these rows; the first has the metadata."""
        whole = self.batch()
        made = []
        for low, high in itertools.pairwise([0, *cuts, len(whole)]):
            mask = np.zeros(len(whole), np.bool_)
            mask[low:high] = True
            made.append(whole.take(mask))
            made[-1].meta = {}
        made[0].meta = self.meta()
        return made

    def write(self, path: Path, *cuts: int) -> Path:
        """Write it to a file."""
        with TraceWriter(path) as writer:
            for batch in self.batches(*cuts):
                writer.write(batch)
        return path


def batch_of(records: np.ndarray, data: list[bytes | None]) -> EventBatch:
    """Return records and the bytes of each as a batch."""
    rows = [at for at, one in enumerate(data) if one is not None]
    parts = [data[at] or b"" for at in rows]
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(one) for one in parts], out=offsets[1:])
    header = np.zeros(len(rows), wire.SNAP)
    header["captured"] = [len(one) for one in parts]
    return EventBatch.from_records(
        records,
        Snaps(
            rows=np.array(rows, np.uint32), header=header, offsets=offsets,
            data=np.frombuffer(b"".join(parts), np.uint8),
        ),
    )  # fmt: skip


# Formats, from the specification


def blk(kind: int, sector: int = 0) -> bytes:
    """Return ``struct virtio_blk_req`` up to its data."""
    return struct.pack("<IIQ", kind, 0, sector)


def cdb(text: str) -> bytes:
    """Return a CDB of 32 bytes."""
    return bytes.fromhex(text).ljust(32, b"\0")


def scsi(command: bytes, target: int = 0, lun: int = 0, tag: int = 0) -> bytes:
    """Return ``struct virtio_scsi_cmd_req``."""
    address = bytes([1, target, 0x40 | lun >> 8, lun & 255, 0, 0, 0, 0])
    return address + struct.pack("<QBBB", tag, 0, 0, 0) + command


def scsi_answer(status: int = 0, response: int = 0, residual: int = 0, sense: bytes = b"") -> bytes:
    """Return ``struct virtio_scsi_cmd_resp``."""
    head = struct.pack("<IIHBB", len(sense), residual, 0, status, response)
    return head + sense.ljust(96, b"\0")


def fixed_sense(key: int, asc: int, ascq: int) -> bytes:
    """Return sense data in the fixed format."""
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0])


def pages(*numbers: int) -> bytes:
    """Return page numbers of a balloon."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def stats(**values: int) -> bytes:
    """Return statistics of a balloon, by tag: t4=..."""
    return b"".join(struct.pack("<HQ", int(tag[1:]), value) for tag, value in values.items())


def message(port: int, event: int, value: int = 0) -> bytes:
    """Return a control message of a console."""
    return struct.pack("<IHH", port, event, value)


def net_header(size: int = 12, **fields: int) -> bytes:
    """Return ``struct virtio_net_hdr`` in one of its sizes."""
    head = struct.pack(
        "<BBHHHH", fields.get("flags", 0), fields.get("gso_type", 0), fields.get("hdr_len", 0),
        fields.get("gso_size", 0), fields.get("csum_start", 0), fields.get("csum_offset", 0),
    )  # fmt: skip
    more = struct.pack("<HIHHHH", fields.get("num_buffers", 1), fields.get("hash_value", 0),
                       fields.get("hash_report", 0), 0, 0, 0)  # fmt: skip
    return (head + more)[:size]


def story() -> tuple[Devices, list[dict[str, Any]]]:
    """Return a recording, and what each of its requests must say, in the order of their ends."""
    told, wanted = Devices(), []

    def ask(
        queue: int, head: int, request: list[bytes], response: list[bytes],
        expect: dict[str, Any], **more: Any,
    ) -> None:  # fmt: skip
        chain = told.ask(queue, head, request, response, **more)
        device, kind, _, name, direction, _ = QUEUES[queue]
        wanted.append({
            "vm": "cpx", "device": device, "queue": name, "direction": direction,
            "device_type": kind, "queue_id": queue, "position": chain["position"], "head": head,
            "request_bytes": chain["readable"],
            "pop_ns": chain["pop_ns"], "used_ns": chain["used_ns"],
            "service_ns": chain["used_ns"] - chain["pop_ns"], "outcome": "used",
            **expect,
        })  # fmt: skip

    block = bytes(range(256)) * 16
    ask(1, 0, [blk(0, 2048)], [block, b"\0"],
        {"operation": "IN", "status": "OK", "failed": False, "sector": 2048, "sectors": 8,
         "data_bytes": 4096, "response_bytes": 4097, "queueing_ns": 2000})  # fmt: skip
    ask(1, 3, [blk(1, 7), block[:1536]], [b"\1"],
        {"operation": "OUT", "status": "IOERR", "failed": True, "sector": 7, "sectors": 3,
         "data_bytes": 1536, "response_bytes": 1}, service_ns=90_000)  # fmt: skip
    ask(1, 5, [blk(4)], [b"\0"], {"operation": "FLUSH", "status": "OK", "sector": None,
                                  "data_bytes": None})  # fmt: skip
    ask(1, 6, [blk(8)], [b"disk-serial".ljust(20, b"\0"), b"\0"],
        {"operation": "GET_ID", "data_bytes": 20, "status": "OK"})  # fmt: skip
    stretches = struct.pack("<QIIQII", 800, 64, 0, 1600, 8, 1)
    ask(1, 7, [blk(11), stretches], [b"\2"],
        {"operation": "DISCARD", "status": "UNSUPP", "failed": True, "segments": 2, "sector": 800,
         "sectors": 72})  # fmt: skip

    ask(4, 1, [scsi(cdb("28 00 00001234 00 0008 00"), 3, 1, 0xAB)], [scsi_answer(), block],
        {"operation": "READ(10)", "target": 3, "lun": 1, "tag": 0xAB, "lba": 0x1234, "blocks": 8,
         "status": "GOOD", "response": "OK", "failed": False, "data_bytes": 4096,
         "residual": 0, "sense": None})  # fmt: skip
    ask(4, 2, [scsi(cdb("8a 00 0000000100000000 00000010 00 00")), block[:512]], [scsi_answer()],
        {"operation": "WRITE(16)", "lba": 1 << 32, "blocks": 16, "data_bytes": 512,
         "status": "GOOD"})  # fmt: skip
    ask(4, 4, [scsi(cdb("12 01 80 00 ff 00"))],
        [scsi_answer(2, 0, 255, fixed_sense(5, 0x24, 0)), bytes(255)],
        {"operation": "INQUIRY", "status": "CHECK CONDITION", "failed": True, "sense_key": 5,
         "asc": 0x24, "ascq": 0, "sense": "ILLEGAL REQUEST: INVALID FIELD IN CDB",
         "residual": 255, "lba": None})  # fmt: skip
    ask(4, 5, [scsi(cdb("00"), 9)], [scsi_answer(0, 3)],
        {"operation": "TEST UNIT READY", "response": "BAD_TARGET", "status": None,
         "failed": True, "data_bytes": 0})  # fmt: skip
    function = struct.pack("<II", 0, 5) + bytes([1, 3, 0x40, 1, 0, 0, 0, 0])
    ask(2, 0, [function + struct.pack("<Q", 77)], [b"\0"],
        {"operation": "TMF LOGICAL_UNIT_RESET", "target": 3, "lun": 1, "tag": 77,
         "response": "OK", "failed": False})  # fmt: skip
    ask(3, 0, [], [struct.pack("<I", 0x8000_0001) + bytes([1, 3, 0x40, 1, 0, 0, 0, 0])
                   + struct.pack("<I", 2)],
        {"operation": "TRANSPORT_RESET", "target": 3, "lun": 1, "value": 2,
         "detail": "EVENTS_MISSED", "queueing_ns": None})  # fmt: skip

    ask(5, 0, [pages(*range(0x1000, 0x1100))], [],
        {"operation": "INFLATE", "pages": 256, "first_page": 0x1000, "last_page": 0x10FF,
         "detail": "0x1000-0x10ff"})  # fmt: skip
    ask(5, 0, [pages(0x1100, 0x1102, 0x1101, 0x2000)], [],
        {"operation": "INFLATE", "pages": 4, "detail": "0x1100-0x1102, 0x2000"})  # fmt: skip
    ask(6, 0, [pages(0x1000)], [], {"operation": "DEFLATE", "pages": 1, "detail": "0x1000"})
    ask(7, 0, [stats(t4=123456, t5=2 << 30, t99=1)], [],
        {"operation": "STATS", "detail": f"MEMFREE=123456 MEMTOT={2 << 30} 99=1"})  # fmt: skip

    ask(9, 0, [message(0xFFFF_FFFF, 0, 1)], [],
        {"operation": "DEVICE_READY", "port": None, "value": 1, "detail": None})  # fmt: skip
    ask(8, 0, [], [message(1, 7, 1) + b"org.test.0\0"],
        {"operation": "PORT_NAME", "port": 1, "value": 1, "detail": "org.test.0",
         "request_state": "not_applicable"})  # fmt: skip
    ask(11, 0, [b"hello", b" world"], [],
        {"operation": "TRANSMIT", "port": 1, "data_bytes": 11})  # fmt: skip
    ask(10, 0, [], [b"pong"],
        {"operation": "RECEIVE", "port": 1, "data_bytes": 4, "response_bytes": 4})  # fmt: skip

    ask(14, 0, [b"\4\0", struct.pack("<H", 2)], [b"\0"],
        {"operation": "MQ_VQ_PAIRS_SET", "value": 2, "status": "OK", "failed": False})  # fmt: skip
    ask(14, 2, [b"\1\1", bytes.fromhex("525400123456")], [b"\1"],
        {"operation": "MAC_ADDR_SET", "mac": "52:54:00:12:34:56", "status": "ERR",
         "failed": True})  # fmt: skip
    table = struct.pack("<I", 1) + bytes(6) + struct.pack("<I", 2) + bytes(12)
    ask(14, 4, [b"\1\0", table], [b"\0"],
        {"operation": "MAC_TABLE_SET", "detail": "unicast=1 multicast=2"})  # fmt: skip

    frame = udp(1, length=100)
    ask(13, 0, [net_header(flags=1, csum_start=34, csum_offset=6), frame.ljust(100, b"\0")], [],
        {"operation": "TRANSMIT", "header_bytes": 12, "hdr_flags": 1, "gso_type": "NONE",
         "num_buffers": 1, "data_bytes": 100,
         "flow": "UDP 10.9.0.1:5001 > 10.9.0.2:7001"})  # fmt: skip
    # A packet that fills two receive buffers; both become visible at once.
    first = told.pop(12, 0, [], 1526)
    second = told.pop(12, 1, [], 1526)
    told.fill(first, [net_header(num_buffers=2, flags=2, gso_type=0x81, gso_size=1448) + frame
                      + bytes(1526 - 12 - len(frame))])  # fmt: skip
    told.fill(second, [bytes(400)], last=-1)
    used_ns = told.flush(12)
    for chain, expect in (
        (first, {"header_bytes": 12, "num_buffers": 2, "gso_type": "TCPV4|ECN", "gso_bytes": 1448,
                 "hdr_flags": 2, "data_bytes": 1514, "response_bytes": 1526,
                 "flow": "UDP 10.9.0.1:5001 > 10.9.0.2:7001"}),
        (second, {"header_bytes": None, "num_buffers": None, "data_bytes": 400,
                  "response_state": "not_applicable", "flow": None}),
    ):  # fmt: skip
        wanted.append({
            "device": "net0", "queue": "rx0", "direction": "rx", "operation": "RECEIVE",
            "pop_ns": chain["pop_ns"], "used_ns": used_ns, "head": chain["head"],
            "queueing_ns": None, **expect,
        })  # fmt: skip
    return told, wanted
