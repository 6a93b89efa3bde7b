"""The columns of each table: name, type, unit, one-line meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from vtrace.model import (
    STAGES,
    TIME_COLUMNS,
    Direction,
    Outcome,
    Ring,
    TimeState,
    Trust,
)

__all__ = [
    "DROPS",
    "EXITS",
    "LIFECYCLES",
    "PACKETS",
    "QUEUES",
    "SCHEMAS",
    "Column",
    "Schema",
    "Type",
    "Verdict",
]


class Verdict(IntEnum):
    """How a packet ended at its queue."""

    WAITING = 0
    """In the tap's ring; no chain has taken it."""
    IN_FLIGHT = 1
    """In a chain that has not been returned."""
    DELIVERED = 2
    """Towards the guest: its chain was returned to the driver."""
    SENT = 3
    """From the guest: it entered the host's stack."""
    DROPPED = 4
    CAPTURED = 5
    """Seen at an interface by another tool; what became of it was not recorded."""


class Type(StrEnum):
    """What the values of a column are."""

    INTEGER = "integer"
    BOOLEAN = "boolean"
    TEXT = "text"
    ADDRESS = "address"
    """An IPv4 or IPv6 address."""
    MAC = "mac"
    """An Ethernet address."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    meaning: str
    type: Type = Type.INTEGER
    numpy: str = "u8"
    """Type of the values in memory; of the codes, for text."""
    unit: str = ""
    state: str = ""
    """Name of the column that says why a value is missing, if there is one."""
    values: tuple[str, ...] = ()
    """All values that a text can have, if there are few."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a table, in order."""

    name: str
    meaning: str
    columns: tuple[Column, ...]

    def __contains__(self, name: object) -> bool:
        return any(column.name == name for column in self.columns)

    def column(self, name: str) -> Column:
        """Return a column by its name; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)


def _text(name: str, meaning: str) -> Column:
    return Column(name, meaning, Type.TEXT, "u4")


def _choice(name: str, meaning: str, values: Iterable[str]) -> Column:
    return Column(name, meaning, Type.TEXT, "u4", values=tuple(values))


def _members(kind: type[IntEnum]) -> tuple[str, ...]:
    return tuple(member.name.lower() for member in kind)


def _time(name: str, meaning: str, state: str = "") -> Column:
    return Column(name, meaning, Type.INTEGER, "u8", "ns", state)


def _number(name: str, meaning: str, numpy: str = "u4", unit: str = "") -> Column:
    return Column(name, meaning, Type.INTEGER, numpy, unit)


_PLACE: Final = (
    _text("vm", "name of the VM; pid:N where it has none"),
    _text("device", "QEMU's id of the device, else netN; the name of a host interface"),
    _text("queue", "role of the queue in the device: rx0, tx0, ..."),
    _choice("direction", "rx or tx as the guest sees it; none for other queues", Direction),
)

_TIMES: Final = {
    "kick_ns": "the driver notified the device",
    "enqueue_ns": "receive: the tap took the packet into its ring",
    "wake_ns": "the worker was woken",
    "run_ns": "the worker began its handler; QEMU was told to look",
    "pop_ns": "the device took the chain from the available ring",
    "backend_ns": "the packet was copied from the tap, or handed to it",
    "used_ns": "the device returned the chain in the used ring",
    "signal_ns": "the device decided whether to interrupt the driver",
    "irq_ns": "the interrupt went to KVM",
    "seen_ns": "first proof that the driver consumed the chain",
}

_STAGES: Final = {
    "idle": "avail_hi to enqueue: the buffer lay ready; never a latency",
    "notify": "rx: enqueue to wake; tx: kick to wake; others: kick to pop",
    "schedule": "wake to run: the worker waited for a CPU",
    "queueing": "run (or when the chain came, if later) to pop",
    "service": "pop to used",
    "complete": "used to signal",
    "interrupt": "signal to irq",
    "reap": "irq to seen",
}

_FLOW: Final = (
    Column("eth_src", "Ethernet source", Type.MAC, "u8"),
    Column("eth_dst", "Ethernet destination", Type.MAC, "u8"),
    _number("eth_type", "Ethernet type behind all tags", "u2"),
    _number("vlan", "VLAN id of the outermost tag", "u2"),
    _number("ip_version", "4 or 6", "u1"),
    Column("src", "IP source", Type.ADDRESS, "u8"),
    Column("dst", "IP destination", Type.ADDRESS, "u8"),
    _number("protocol", "IP protocol behind all extension headers", "u1"),
    _number("ttl", "time to live, or hop limit", "u1"),
    _number("ip_bytes", "length that the IP header states", "u4", "bytes"),
    _number("ip_id", "identification", "u4"),
    Column("fragment", "the packet is a fragment", Type.BOOLEAN, "?"),
    _number("sport", "source port", "u2"),
    _number("dport", "destination port", "u2"),
    _number("udp_bytes", "length that the UDP header states", "u2", "bytes"),
    _number("tcp_flags", "TCP flags: 1 FIN, 2 SYN, 4 RST, 8 PSH, 16 ACK, ...", "u1"),
)

_FLOW_TEXT: Final = _text("flow", "protocol, addresses and ports in one line")


def _with_states() -> tuple[Column, ...]:
    # Each time of a lifecycle, and behind it why it is, or is not, there.
    columns: list[Column] = []
    for name in TIME_COLUMNS:
        state = name.removesuffix("_ns") + "_state"
        columns.append(_time(name, _TIMES[name], state))
        columns.append(_choice(state, f"why {name} is, or is not, there", _members(TimeState)))
    return tuple(columns)


LIFECYCLES: Final = Schema(
    "lifecycles",
    "one descriptor chain on its way through the available and the used ring",
    (
        _time("time_ns", "when its story begins: enqueue if seen, else pop, else later"),
        *_PLACE,
        _text("backend", "who serves the queue: vhost, qemu"),
        _choice("ring", "layout: split or packed", Ring),
        _number("queue_id", "id of the queue in the recording", "u2"),
        _number("generation", "counts resets and reattachments of the queue", "u2"),
        _number(
            "position", "place in the available ring, counted through; packed: chains counted", "u8"
        ),
        _number("head", "first descriptor of the chain; of a packed ring the buffer id", "u2"),
        _number("descriptors", "descriptors in the chain", "u2"),
        _number("readable_bytes", "bytes that the device may read", "u4", "bytes"),
        _number("writable_bytes", "bytes that the device may write", "u4", "bytes"),
        _number("used_bytes", "bytes that the device says it wrote", "u4", "bytes"),
        _number("packet", "id of the packet in it", "u4"),
        _number("batch", "id of the batch that it was returned in", "u4"),
        _number("handed_back", "times it was popped and given back", "u2"),
        _time("avail_lo_ns", "the driver had not yet published it"),
        _time("avail_hi_ns", "the driver had published it"),
        *_with_states(),
        *(_time(f"{name}_ns", _STAGES[name]) for name in STAGES),
        _choice("outcome", "how the chain ended", _members(Outcome)),
        _choice("trust", "how far the row can be trusted", _members(Trust)),
        _number("worker_tid", "thread that popped it"),
        _number("kick_tid", "thread that kicked for it"),
        _number("cpu", "CPU that it was popped on", "u2"),
        _FLOW_TEXT,
    ),
)

PACKETS: Final = Schema(
    "packets",
    "one packet at a queue, with the chain that carried it and how it ended",
    (
        _time("time_ns", "when it was first seen"),
        *_PLACE,
        _number("queue_id", "id of the queue in the recording", "u2"),
        _text("interface", "tap behind the queue, or the interface itself"),
        _number("packet", "id of the packet"),
        _number("frame_bytes", "length of the frame", "u4", "bytes"),
        _number("captured_bytes", "bytes of it in the recording", "u2", "bytes"),
        _choice("verdict", "how it ended at the queue", _members(Verdict)),
        _text("reason", "kernel's name of the drop reason"),
        _text("location", "kernel function that dropped it"),
        _time("end_ns", "when it was delivered, sent or dropped"),
        _number("generation", "generation of the chain's queue", "u2"),
        _number("position", "place of its chain in the available ring", "u8"),
        _number("head", "first descriptor of its chain", "u2"),
        _number("ahead", "receive: packets in the tap ring before it", "u2"),
        _number("batch_index", "transmit: its place in the batch, from 0", "u2"),
        *_FLOW,
        _number("gso_type", "VIRTIO_NET_HDR_GSO_*: 0 none, 1 TCPv4, 4 TCPv6, 5 UDP", "u1"),
        _number("gso_bytes", "payload of each segment", "u2", "bytes"),
        _choice(
            "checksum",
            "offloaded: still partial; valid: checked; plain: neither",
            ("offloaded", "valid", "plain"),
        ),
        _FLOW_TEXT,
    ),
)

DROPS: Final = Schema(
    "drops",
    "one packet that the kernel dropped",
    (
        _time("time_ns", "when it was dropped"),
        *_PLACE,
        _number("queue_id", "id of the queue in the recording", "u2"),
        _text("interface", "tap behind the queue, or the interface itself"),
        _text("reason", "kernel's name of the drop reason"),
        _number("reason_code", "its number in that kernel"),
        _text("location", "kernel function that dropped it"),
        _number("packet", "id of the packet"),
        _number("frame_bytes", "length of the frame", "u4", "bytes"),
        _number("captured_bytes", "bytes of it in the recording", "u2", "bytes"),
        *_FLOW,
        _FLOW_TEXT,
    ),
)

EXITS: Final = Schema(
    "exits",
    "one time that a vCPU left the guest and came back",
    (
        _time("time_ns", "when it went back into the guest"),
        _text("vm", "name of the VM"),
        _number("vcpu", "number of the vCPU"),
        _number("tid", "thread of the vCPU"),
        _number("cpu", "CPU that it ran on", "u2"),
        _text("reason", "name of the exit reason"),
        _number("reason_code", "its number"),
        _choice("isa", "whose numbering of reasons", ("vmx", "svm")),
        _time("outside_ns", "time outside the guest; 4294967295 and longer are that"),
        _number("address", "guest-physical address or port, where the exit has one", "u8"),
    ),
)

_COUNTS: Final = (
    ("chains", "chains that the device took"),
    ("complete", "chains with no stage lost"),
    ("partial", "chains that began before the recording, or outlived it"),
    ("ambiguous", "chains with lost records near them"),
    ("handed_back", "times that chains were popped and given back"),
    ("starved", "times that a packet waited and there was no chain"),
    ("in_flight", "chains that are popped and not returned"),
    ("packets", "packets that the queue carried"),
)

QUEUES: Final = Schema(
    "queues",
    "one queue and what it did",
    (
        *_PLACE,
        _text("backend", "who serves the queue: vhost, qemu"),
        _choice("ring", "layout: split or packed", Ring),
        *(_number(name, meaning, "u8") for name, meaning in _COUNTS),
        _number("used_bytes", "bytes in the chains that were returned", "u8", "bytes"),
        *(
            _number(f"{what}_{kind}", f"{what}: {meaning}", "u8")
            for what in ("kicks", "interrupts")
            for kind, meaning in (
                ("needed", "the ring's rules asked for one"),
                ("sent", "one was sent"),
                ("suppressed", "the other side had asked for none"),
                ("spurious", "sent without need"),
            )
        ),
        *(
            _time(f"{stage}_{figure}_ns", f"{figure} of stage {stage}")
            for stage in STAGES
            for figure in ("p50", "p90", "p99", "max")
        ),
    ),
)

SCHEMAS: Final = {schema.name: schema for schema in (LIFECYCLES, PACKETS, EXITS, DROPS, QUEUES)}
"""Every table by its name."""
