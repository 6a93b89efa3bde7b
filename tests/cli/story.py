"""Recordings told record by record, for tests that know each of them."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any, Self

import numpy as np

from parsers import wire
from parsers.batch import EventBatch, Snaps
from parsers.tracefile import TraceWriter
from tests.cli.recordings import FULL_RING, PLACE, REALTIME, VCPU, udp
from vtrace.model import Flag, Kind

START = 1_000_000_000
RX, TX, ETH0 = 1, 2, 3
WORKER = 812
SNAP_FIELDS = ("gso_size", "csum_start", "csum_offset", "hdr_flags", "gso_type", "vlan_tci")


class Story:
    """Records in the order of their times, with frames."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, int], bytes | None, dict[str, int]]] = []
        self.lost = 0

    def add(self, at: int, kind: Kind, frame: bytes | None = None, **fields: int) -> Self:
        """Add a record, ``at`` ns after the start."""
        snap = {name: fields.pop(name) for name in SNAP_FIELDS if name in fields}
        self.told.append((START + at, {"kind": kind, **fields}, frame, snap))
        return self

    def batch(self) -> EventBatch:
        """Return all of it as one batch, without metadata."""
        told = sorted(self.told, key=lambda one: one[0])
        records = np.zeros(len(told), wire.RECORD)
        records["time"] = [time for time, _, _, _ in told]
        for at, (_, fields, _, _) in enumerate(told):
            for name, value in fields.items():
                records[name][at] = value
        for cpu in np.unique(records["cpu"]):
            mine = records["cpu"] == cpu
            records["seq"][mine] = np.arange(mine.sum())
        rows = [at for at, (_, _, frame, _) in enumerate(told) if frame is not None]
        frames = [told[at][2] or b"" for at in rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(frame) for frame in frames], out=offsets[1:])
        header = np.zeros(len(rows), wire.SNAP)
        header["captured"] = [len(frame) for frame in frames]
        for at, row in enumerate(rows):
            for name, value in told[row][3].items():
                header[name][at] = value
        snaps = Snaps(
            rows=np.array(rows, np.uint32),
            header=header,
            offsets=offsets,
            data=np.frombuffer(b"".join(frames), np.uint8),
        )
        return EventBatch.from_records(records, snaps)

    def meta(self) -> dict[str, Any]:
        """Return the metadata of the recording."""
        counted = Counter(Kind(one[1]["kind"]).name for one in self.told)
        counts = {
            name: {"produced": count, "received": count, "lost": 0}
            for name, count in counted.items()
        }
        if self.lost:
            counts["POP"]["produced"] += self.lost
            counts["POP"]["lost"] += self.lost
        common = {"vm": "cpx", "pid": 4242, "backend": "vhost", "ring": "split", "size": 256}
        tap = {"device": "net0", "role": "virtqueue", "interface": "tap0"}
        return {
            "host": {"kernel": "6.12.0-test", "machine": "x86_64", "hostname": "lab"},
            "clock": [{"monotonic_ns": START, "realtime_ns": REALTIME}],
            "queues": {
                str(RX): {"id": RX, **common, **tap, "name": "rx0", "direction": "rx"},
                str(TX): {"id": TX, **common, **tap, "name": "tx0", "direction": "tx"},
                str(ETH0): {"id": ETH0, "role": "interface", "device": "eth0", "direction": "none"},
            },
            "threads": {str(VCPU): {"comm": "CPU 0/KVM", "vm": "cpx", "vcpu": 0}},
            "places": {str(PLACE): "tun_net_xmit", "5": "udp_queue_rcv_one_skb"},
            "reasons": {str(FULL_RING): "FULL_RING", "6": "SOCKET_RCVBUFF"},
            "probes": {
                "vhost_get_vq_desc": {"state": "attached", "reason": ""},
                "sched:sched_switch": {"state": "unavailable", "reason": "switched off"},
            },
            "counts": counts,
            "loss": {"late": 0, "missed": 0, "pending": 0},
        }

    def batches(self, *cuts: int) -> list[EventBatch]:
        """Return it cut into batches at these rows; the first has the metadata."""
        whole = self.batch()
        edges = [0, *cuts, len(whole)]
        made = []
        for low, high in itertools.pairwise(edges):
            mask = np.zeros(len(whole), np.bool_)
            mask[low:high] = True
            made.append(whole.take(mask))
        made[0].meta = self.meta()
        return made

    def write(self, path: Path, *cuts: int) -> Path:
        """Write it to a file."""
        with TraceWriter(path) as writer:
            for batch in self.batches(*cuts):
                writer.write(batch)
        return path


def small() -> Story:
    """Return two packets in, one refused, two out in one batch, one of them dropped later."""
    story = Story()
    work = {"cpu": 2, "tid": WORKER}
    guest = {"cpu": 1, "tid": VCPU}
    places = int(Flag.POSITION | Flag.USED)
    for queue in (RX, TX):
        story.add(0, Kind.START, queue=queue, flags=places, **work)

    # Towards the guest: packet 11 wakes the worker, packet 12 follows, 13 finds a full ring.
    rx = {"queue": RX, "cpu": 3, "tid": 77}
    story.add(10_000, Kind.ENQUEUE, udp(11, length=142), packet=11, length=142, count=0, **rx)
    story.add(10_100, Kind.WAKE, queue=RX, cpu=3, tid=77, flags=int(Flag.SOCKET))
    story.add(
        11_000, Kind.ENQUEUE, udp(12, length=1514), packet=12, length=1514, count=1,
        hdr_flags=1, **rx,
    )  # fmt: skip
    story.add(11_500, Kind.REFUSE, udp(13, length=90), packet=13, length=90, count=2, ret=1, **rx)
    story.add(11_550, Kind.DROP, queue=RX, packet=13, length=90, ret=FULL_RING, address=PLACE,
              cpu=3, tid=77)  # fmt: skip
    story.add(14_000, Kind.RUN, queue=RX, flags=int(Flag.SOCKET), **work)
    for index, (packet, length) in enumerate(((11, 142), (12, 1514))):
        at = 15_000 + 1000 * index
        story.add(
            at, Kind.POP, queue=RX, head=40 + index, count=1, room=1526, position=index,
            avail=128, flags=places | int(Flag.AVAIL), **work,
        )  # fmt: skip
        story.add(at + 400, Kind.RECV, queue=RX, packet=packet, length=length, ret=length,
                  span=200, **work)  # fmt: skip
    for index, length in enumerate((154, 1526)):
        story.add(17_000, Kind.USED, queue=RX, head=40 + index, length=length, count=2,
                  used=index, position=2, flags=places, **work)  # fmt: skip
    story.add(17_500, Kind.SIGNAL, queue=RX, ret=1, used=2, avail=128,
              flags=int(Flag.USED | Flag.AVAIL), **work)  # fmt: skip
    story.add(17_600, Kind.IRQ, queue=RX, ret=24, address=0x4021_FEE0_0000, **work)
    story.add(18_000, Kind.EMPTY, queue=RX, position=2, used=2, avail=128,
              flags=places | int(Flag.AVAIL), **work)  # fmt: skip

    # From the guest: one kick, two chains, one batch; the second packet dies in the host.
    story.add(30_000, Kind.KICK, queue=TX, address=0xFE003004, avail=2, flags=int(Flag.AVAIL),
              **guest)  # fmt: skip
    story.add(30_200, Kind.WAKE, queue=TX, **guest)
    story.add(31_900, Kind.EXIT, ret=49, span=2100, address=0xFE003004, **guest)
    story.add(33_000, Kind.RUN, queue=TX, **work)
    for index in range(2):
        story.add(34_000 + 500 * index, Kind.POP, queue=TX, head=7 + index, count=2, length=112,
                  position=index, avail=2, flags=places | int(Flag.AVAIL), **work)  # fmt: skip
    for index in range(2):
        story.add(36_000 + 300 * index, Kind.DELIVER, udp(21 + index, length=100, ports=(7001, 53)),
                  queue=TX, packet=21 + index, length=100, count=index, **work)  # fmt: skip
    story.add(36_800, Kind.DROP, queue=ETH0, packet=22, length=100, ret=6, address=5, **work)
    story.add(37_000, Kind.SEND, queue=TX, count=2, length=224, ret=0, span=1500,
              flags=int(Flag.BATCH), **work)  # fmt: skip
    for index in range(2):
        story.add(37_500, Kind.USED, queue=TX, head=7 + index, count=2, used=index,
                  position=2, flags=places, **work)  # fmt: skip
    story.add(37_700, Kind.SIGNAL, queue=TX, ret=0, used=2, flags=int(Flag.USED), **work)
    story.add(50_000, Kind.EXIT, ret=12, span=9_000, **guest)
    return story
