"""Event streams written by hand: a host, a tap, a worker, and what happened to packets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from parsers import wire
from parsers.batch import EventBatch, Snaps
from vtrace.model import Flag, Kind
from vtrace.session import Session

if TYPE_CHECKING:
    from vtrace.diagnose import Diagnosis

MS = 1_000_000
RX, TX, BRIDGE, UPLINK, RX1 = 1, 2, 5, 6, 3
WORKER, VCPU, SENDER, HOG = 40, 41, 50, 60
GUEST_MAC, HOST_MAC = "52:54:00:00:00:02", "0a:00:00:00:00:01"
REASONS = {
    "2": "NOT_SPECIFIED",
    "3": "NO_SOCKET",
    "6": "SOCKET_RCVBUFF",
    "11": "NETFILTER_DROP",
    "52": "NEIGH_FAILED",
    "57": "QDISC_DROP",
    "70": "DEV_READY",
    "71": "FULL_RING",
    "72": "TAP_FILTER",
}
PLACES = {
    "1": "tun_net_xmit",
    "2": "nft_do_chain",
    "3": "br_handle_frame",
    "4": "packet_rcv",
    "5": "udp_queue_rcv_one_skb",
    "6": "__udp4_lib_rcv",
    "7": "somewhere_new",
    "8": "tun_get_user",
    "9": "__neigh_event_send",
    "10": "__dev_xmit_skb",
}
REASON = {name: int(number) for number, name in REASONS.items()}
PLACE = {name: int(number) for number, name in PLACES.items()}


def metadata(*, vhost: bool = True, **more: Any) -> dict[str, Any]:
    """Return the metadata of a host with one guest, cpx, behind tap0."""
    nic = {"vm": "cpx", "pid": 39, "device": "nic0", "interface": "tap0", "ring": "split"}
    queues = {
        str(RX): {**nic, "name": "rx0", "direction": "rx", "role": "virtqueue", "size": 256},
        str(RX1): {**nic, "name": "rx1", "direction": "rx", "role": "virtqueue", "size": 256},
        str(TX): {**nic, "name": "tx0", "direction": "tx", "role": "virtqueue", "size": 256},
        str(BRIDGE): {"device": "br0", "interface": "br0", "role": "interface"},
        str(UPLINK): {"device": "eth7", "interface": "eth7", "role": "interface"},
    }
    for queue in queues.values():
        if queue["role"] == "virtqueue":
            queue["backend"] = "vhost" if vhost else ""
    net = {"interface": "tap0", "vhost": vhost, "txqueuelen": 1000}
    return {
        "queues": queues,
        "reasons": REASONS,
        "places": PLACES,
        "threads": {
            str(WORKER): {"comm": "vhost-39", "role": "vhost", "vm": "cpx"},
            str(VCPU): {"comm": "CPU 0/KVM", "role": "vcpu", "vm": "cpx", "vcpu": 0},
        },
        "comms": {str(HOG): "stress-ng", str(SENDER): "iperf3"},
        "vms": [{"name": "cpx", "pid": 39, "devices": [{"id": "nic0", "net": net}]}],
        **more,
    }


def towards(dport: int = 7001, *, v6: bool = False, vlan: int | None = None) -> bytes:
    """Return a UDP frame to the guest."""
    return _frame(HOST_MAC, GUEST_MAC, ("10.9.0.1", "10.9.0.2"), dport, v6, vlan)


def away(dport: int = 7002, *, v6: bool = False) -> bytes:
    """Return a UDP frame from the guest."""
    return _frame(GUEST_MAC, HOST_MAC, ("10.9.0.2", "10.9.0.1"), dport, v6, None)


def _frame(
    source: str, target: str, ends: tuple[str, str], dport: int, v6: bool, vlan: int | None
) -> bytes:
    link = Ether(src=source, dst=target)
    if vlan is not None:
        link /= Dot1Q(vlan=vlan)
    if v6:
        ends = ("fd00::" + ends[0].rsplit(".", 1)[1], "fd00::" + ends[1].rsplit(".", 1)[1])
        return bytes(link / IPv6(src=ends[0], dst=ends[1]) / UDP(sport=5001, dport=dport))
    return bytes(link / IP(src=ends[0], dst=ends[1]) / UDP(sport=5001, dport=dport))


class Story:
    """Records in the order of their time."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any], bytes | None]] = []
        self._packet = 0
        self._position = 0

    def add(self, kind: Kind, at: int, frame: bytes | None = None, **fields: Any) -> None:
        """Add a record at a time in ns."""
        self.rows.append((at, {"kind": int(kind), **fields}, frame))

    def packet(self) -> int:
        """Return a new packet id."""
        self._packet += 1
        return self._packet

    def enqueue(self, at: int, held: int = 0, frame: bytes | None = None, queue: int = RX) -> int:
        """A packet comes into the tap's ring, which holds ``held``; return its id."""
        number = self.packet()
        self.add(
            Kind.ENQUEUE,
            at,
            frame or towards(),
            queue=queue,
            packet=number,
            count=held,
            length=128,
            tid=SENDER,
        )
        return number

    def refuse(
        self,
        at: int,
        held: int = 1000,
        frame: bytes | None = None,
        reason: str = "FULL_RING",
        queue: int = RX,
    ) -> int:
        """The tap refuses a packet, and says why."""
        number, frame = self.packet(), frame or towards()
        same = {"queue": queue, "packet": number, "length": 128, "tid": SENDER}
        self.add(Kind.REFUSE, at, frame, count=held, ret=1, **same)
        self.add(
            Kind.DROP, at + 1, frame, ret=REASON[reason], address=PLACE["tun_net_xmit"], **same
        )
        return number

    def deliver(self, at: int, packet: int, queue: int = RX) -> None:
        """The worker takes a packet and gives it to the guest in a chain."""
        place = {"queue": queue, "tid": WORKER}
        flags = int(Flag.AVAIL | Flag.POSITION | Flag.USED)
        position = self._position
        self._position += 1
        ring = {"position": position, "used": position, "avail": position + 8, "flags": flags}
        self.add(Kind.POP, at, head=position % 256, count=1, room=1536, **ring, **place)
        self.add(Kind.RECV, at + 10, packet=packet, length=140, ret=140, span=5, **place)
        self.add(Kind.USED, at + 20, head=position % 256, length=140, count=1, **ring, **place)

    def receive(self, at: int, held: int = 0, frame: bytes | None = None) -> None:
        """A packet comes and goes its way to the guest."""
        self.deliver(at + 100, self.enqueue(at, held, frame))

    def send(self, at: int, frames: list[bytes], *, lost: int = 0, ret: int = 0) -> None:
        """vhost sends a batch; the last ``lost`` frames of it do not come out of the tap."""
        for index, frame in enumerate(frames[: len(frames) - lost]):
            number = self.packet()
            self.add(
                Kind.DELIVER, at + 10 + index, frame, queue=TX, packet=number, count=index,
                length=128, tid=WORKER,
            )  # fmt: skip
        end = at + 20 + len(frames)
        self.add(Kind.SEND, end, queue=TX, count=len(frames), ret=ret, span=end - at, tid=WORKER)

    def drop(
        self, at: int, frame: bytes, reason: str, place: str, queue: int = 0, *, bare: bool = False
    ) -> None:
        """The kernel drops a packet somewhere."""
        flags = int(Flag.NO_MAC) if bare else 0
        self.add(
            Kind.DROP, at, frame[14:] if bare else frame, queue=queue, packet=self.packet(),
            ret=REASON[reason], address=PLACE[place], length=128, flags=flags, tid=SENDER,
        )  # fmt: skip

    def runs(self, tid: int, at: int, until: int, behind: int = 0, before: int = 0, *,
             ready: bool = False, state: int = 1) -> None:  # fmt: skip
        """A thread has a CPU for a while, behind one thread and before another."""
        self.add(Kind.SCHED_IN, at, tid=tid, ret=behind)
        flags = int(Flag.PREEMPTED) if ready else 0
        self.add(
            Kind.SCHED_OUT, until, tid=tid, ret=before, flags=flags, count=0 if ready else state
        )

    def batches(self, meta: dict[str, Any], size: int = 1000) -> list[EventBatch]:
        """Return the story in batches; the metadata comes first."""
        rows = sorted(self.rows, key=lambda row: row[0])
        cuts = range(0, len(rows), size)
        return [EventBatch.empty(meta), *(_batch(rows[at : at + size], at) for at in cuts)]

    def diagnose(self, meta: dict[str, Any] | None = None, size: int = 1000) -> Diagnosis:
        """Return the verdict on the story."""
        return Session(self.batches(meta or metadata(), size)).diagnose()


def _batch(rows: list[tuple[int, dict[str, Any], bytes | None]], first: int) -> EventBatch:
    records = np.zeros(len(rows), wire.RECORD)
    frames, places = [], []
    for index, (at, values, frame) in enumerate(rows):
        records["time"][index] = at
        records["seq"][index] = first + index + 1
        for name, value in values.items():
            records[name][index] = value
        if frame is not None:
            frames.append(frame)
            places.append(index)
    offsets = np.zeros(len(frames) + 1, np.int64)
    np.cumsum([len(frame) for frame in frames], out=offsets[1:])
    header = np.zeros(len(frames), wire.SNAP)
    header["captured"] = [len(frame) for frame in frames]
    data = np.frombuffer(b"".join(frames), np.uint8)
    snaps = Snaps(rows=np.array(places, np.uint32), header=header, offsets=offsets, data=data)
    return EventBatch.from_records(records, snaps)
