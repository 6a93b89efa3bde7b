"""Builders: tables from what the tracker and the recording hold."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.exit_reasons import exit_reason
from vtrace.flows import FLOW, Known, flow_text
from vtrace.lifecycle import stages
from vtrace.model import TIME_COLUMNS, Direction, Flag, Outcome, TimeState, Trust
from vtrace.tables.schema import DROPS, EXITS, LIFECYCLES, PACKETS, Verdict
from vtrace.tables.table import Maker, Table, Values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import Metadata

__all__ = [
    "NO_PLACE",
    "PACKET",
    "Names",
    "drops_table",
    "exits_table",
    "lifecycles_table",
    "order_only",
    "packets_table",
]


NO_PLACE: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""``place`` of a packet whose drop has none, or that was not dropped."""

PACKET: Final = np.dtype(
    [
        ("time", "<u8"),
        ("end", "<u8"),
        ("place", "<u8"),
        ("position", "<u8"),
        ("chain_first", "<u8"),
        ("chain_last", "<u8"),
        ("packet", "<u4"),
        ("length", "<u4"),
        ("reason", "<i4"),
        ("queue", "<u2"),
        ("drop_queue", "<u2"),
        ("generation", "<u2"),
        ("head", "<u2"),
        ("count", "<u2"),
        ("kind", "<u2"),
        ("captured", "<u2"),
        ("gso_size", "<u2"),
        ("gso_type", "u1"),
        ("hdr_flags", "u1"),
        ("verdict", "u1"),
        ("has_reason", "?"),
        ("has_chain", "?"),
        ("no_mac", "?"),
        ("has_snap", "?"),
        ("flow", FLOW),
    ]
)
"""A packet as the session keeps it: its first record, its flow, its chain, its end."""


class Names:
    """What the ids in a recording stand for, as arrays of codes into one pool of texts."""

    # Attribute of a queue -> column of the tables.
    _ATTRIBUTES: Final = (
        "vm",
        "device",
        "name",
        "direction",
        "backend",
        "ring",
        "interface",
    )

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.pool: list[str] = [""]
        self._codes: dict[str, int] = {"": 0}
        self._lock = threading.Lock()
        self._queues = {name: np.zeros(1 << 16, np.uint32) for name in self._ATTRIBUTES}
        self._seen: Any = None
        self._set_default()

    def code(self, text: object) -> int:
        """Return the code of a text, new if it must be."""
        text = str(text)
        code = self._codes.get(text)
        if code is None:
            # Columns are made at their first use, by any thread.
            with self._lock:
                code = self._codes.get(text)
                if code is None:
                    self.pool.append(text)
                    code = self._codes[text] = len(self.pool) - 1
        return code

    def refresh(self) -> None:
        """Take in the queue table of the metadata, if it is another one."""
        queues = self.metadata.section("queues")
        if queues is self._seen:
            return
        self._seen = queues
        for key, queue in queues.items():
            number = int(key)
            if not 0 <= number < 1 << 16:
                continue
            for attribute in self._ATTRIBUTES:
                code = self.code(queue.get(attribute, ""))
                self._queues[attribute][number] = code

    def _set_default(self) -> None:
        self._queues["direction"][:] = self.code(Direction.NONE)

    def of_queue(self, attribute: str, queues: NDArray[Any]) -> Values:
        """Return an attribute of queues by their ids; missing where it is empty."""
        codes = self._queues[attribute][queues]
        return Values(codes, codes != 0, self.pool)

    def queue(self, number: int) -> Mapping[str, Any]:
        """Return the queue table's row of an id, empty if there is none."""
        found = self.metadata.section("queues").get(str(number), {})
        return found if isinstance(found, Mapping) else {}

    def thread(self, tid: int) -> Mapping[str, Any]:
        """Return the thread table's row of a tid, empty if there is none."""
        found = self.metadata.section("threads").get(str(tid), {})
        return found if isinstance(found, Mapping) else {}

    def reason(self, number: int) -> str:
        """Return the kernel's name of a drop reason, its number if it has none."""
        return str(self.metadata.section("reasons").get(str(number), number))

    def place(self, number: int) -> str:
        """Return the function that an id of a place stands for."""
        return str(self.metadata.section("places").get(str(number), f"place {number}"))

    def texts(self, numbers: NDArray[Any], name: Any, valid: NDArray[np.bool_]) -> Values:
        """Return texts for numbers, ``name(number)`` for each distinct one."""
        distinct, inverse = np.unique(numbers, return_inverse=True)
        codes = np.array([self.code(name(int(n))) for n in distinct], np.uint32)
        data = codes[inverse] if len(distinct) else np.zeros(0, np.uint32)
        return Values(data, valid & (data != 0), self.pool)


# Column of a kind of record -> column of a table that is made of it.
_MADE_OF: Final = {
    ("POP", "count"): "descriptors",
    ("POP", "length"): "readable_bytes",
    ("POP", "room"): "writable_bytes",
    ("POP", "head"): "head",
    ("POP", "position"): "position",
    ("USED", "length"): "used_bytes",
    ("ENQUEUE", "count"): "ahead",
}


def order_only(sections: Mapping[str, Any]) -> bool:
    """Return whether times tell an order and nothing else: their unit is not known."""
    base = sections.get("timebase")
    return isinstance(base, Mapping) and bool(base) and base.get("resolution_ns") is None


def _without_unrecorded(makers: dict[str, Maker], names: Names, count: int) -> dict[str, Maker]:
    # What a recording of another tool does not say is missing, never 0.
    unrecorded = names.metadata.section("unrecorded")
    hidden = {
        column
        for (kind, name), column in _MADE_OF.items()
        if isinstance(unrecorded, Mapping) and name in (unrecorded.get(kind) or ())
    }
    if order_only(names.metadata.sections):
        hidden |= {name for name in makers if name.endswith("_ns")}

    def missing(maker: Maker) -> Maker:
        def make() -> Values:
            values = maker()
            return Values(values.data, np.zeros(count, np.bool_), values.pool)

        return make

    return {name: missing(make) if name in hidden else make for name, make in makers.items()}


def _of_enum(kind: type[IntEnum], codes: NDArray[Any]) -> Values:
    pool = [member.name.lower() for member in kind]
    return Values(np.minimum(codes, len(pool) - 1), None, pool)


def _unless_zero(data: NDArray[Any]) -> Values:
    return Values(data, data != 0)


def _plain(data: NDArray[Any]) -> Maker:
    return lambda: Values(data)


def _nonzero(data: NDArray[Any]) -> Maker:
    return lambda: _unless_zero(data)


def _place_makers(names: Names, queues: NDArray[Any]) -> dict[str, Maker]:
    def maker(attribute: str) -> Maker:
        return lambda: names.of_queue(attribute, queues)

    return {
        "vm": maker("vm"),
        "device": maker("device"),
        "queue": maker("name"),
        "direction": maker("direction"),
        "interface": maker("interface"),
        "backend": maker("backend"),
        "ring": maker("ring"),
        "queue_id": _plain(queues),
    }


def _flow_texts(flows: NDArray[Any], valid: NDArray[np.bool_]) -> Values:
    if not len(flows):
        return Values(np.zeros(0, np.uint32), np.zeros(0, np.bool_), [""])
    # Few flows make up many packets: each is put into words once. What does not show in the
    # words is left out of the comparison.
    keys = flows.copy()
    for hidden in ("ip_len", "ip_id", "udp_len", "l3", "l4", "ttl", "tcp_flags", "vlan"):
        keys[hidden] = 0
    whole = keys.view(np.dtype((np.void, FLOW.itemsize)))
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    pool = [flow_text(flows[index]) or "" for index in first.tolist()]
    known = np.array([bool(text) for text in pool], np.bool_)
    return Values(inverse.astype(np.uint32), valid & known[inverse], pool)


def _flow_makers(flows: NDArray[Any], present: NDArray[np.bool_]) -> dict[str, Maker]:
    known = flows["known"]

    def has(flag: Known) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = present & (known & int(flag) != 0)
        return found

    def number(name: str, flag: Known) -> Maker:
        return lambda: Values(flows[name], has(flag))

    def address(name: str) -> Maker:
        def make() -> Values:
            both = np.stack([flows[f"{name}_hi"], flows[f"{name}_lo"]], axis=1)
            return Values(both, has(Known.IPV4 | Known.IPV6))

        return make

    def ip_id() -> Values:
        valid = has(Known.IPV4) | (has(Known.IPV6) & has(Known.FRAGMENT))
        return Values(flows["ip_id"], valid)

    ip = Known.IPV4 | Known.IPV6
    return {
        "eth_src": number("eth_src", Known.ETHERNET),
        "eth_dst": number("eth_dst", Known.ETHERNET),
        "eth_type": number("eth_type", Known.ETHERTYPE),
        "vlan": number("vlan", Known.VLAN),
        "ip_version": number("ip_version", ip),
        "src": address("src"),
        "dst": address("dst"),
        "protocol": number("protocol", Known.PROTOCOL),
        "ttl": number("ttl", ip),
        "ip_bytes": number("ip_len", ip),
        "ip_id": ip_id,
        "fragment": lambda: Values(known & int(Known.FRAGMENT) != 0, has(ip)),
        "sport": number("sport", Known.PORTS),
        "dport": number("dport", Known.PORTS),
        "udp_bytes": number("udp_len", Known.UDP),
        "tcp_flags": number("tcp_flags", Known.TCP),
        "flow": lambda: _flow_texts(flows, present),
    }


def _packet_makers(
    names: Names, rows: NDArray[Any], present: NDArray[np.bool_]
) -> dict[str, Maker]:
    # What a packet says of itself; for packets, for drops, and for chains that carry one.
    snapped = present & rows["has_snap"]
    dropped = present & (rows["verdict"] == Verdict.DROPPED)

    def checksum() -> Values:
        flags = rows["hdr_flags"]
        codes = np.where(flags & 1, 0, np.where(flags & 2, 1, 2)).astype(np.uint8)
        return Values(codes, snapped, ["offloaded", "valid", "plain"])

    return {
        "frame_bytes": lambda: Values(rows["length"], present & (rows["length"] != 0)),
        "captured_bytes": lambda: Values(rows["captured"], snapped),
        "gso_type": lambda: Values(rows["gso_type"], snapped),
        "gso_bytes": lambda: Values(rows["gso_size"], snapped & (rows["gso_size"] != 0)),
        "checksum": checksum,
        "reason": lambda: names.texts(rows["reason"], names.reason, dropped & rows["has_reason"]),
        "reason_code": lambda: Values(rows["reason"], dropped & rows["has_reason"]),
        "location": lambda: names.texts(
            rows["place"], names.place, dropped & (rows["place"] != NO_PLACE)
        ),
        **_flow_makers(rows["flow"], snapped),
    }


def _first_time(columns: Mapping[str, NDArray[Any]]) -> Values:
    # A chain's story begins when a packet comes for it, or when it is popped; a receive buffer
    # may have been lying there for hours.
    time = np.zeros(len(columns["pop_ns"]), np.uint64)
    for name in ("enqueue_ns", "pop_ns", "used_ns", "signal_ns", "avail_hi_ns", "seen_ns"):
        time = np.where(time == 0, columns[name], time)
    return _unless_zero(time)


def lifecycles_table(
    columns: Mapping[str, NDArray[Any]],
    names: Names,
    packets: NDArray[Any] | None = None,
    index: NDArray[Any] | None = None,
) -> Table:
    """Return the table of the chains that the tracker gave out.

    ``index`` gives for each chain the row of ``packets`` (dtype ``PACKET``) that it carried,
    or -1. The flow columns of the packet can be used in filters, though they are not printed.
    """
    count = len(columns["queue"])
    made: dict[str, dict[str, Values]] = {}

    def stage(name: str) -> Maker:
        def make() -> Values:
            if "stages" not in made:
                found = stages(columns)
                made["stages"] = {key: Values(ns, ok) for key, (ns, ok) in found.items()}
            return made["stages"][name]

        return make

    def state(name: str) -> Maker:
        return lambda: _of_enum(TimeState, columns[name])

    used = columns["outcome"] == Outcome.USED
    makers: dict[str, Maker] = {
        "time_ns": lambda: _first_time(columns),
        **_place_makers(names, columns["queue"]),
        "generation": _plain(columns["generation"]),
        "position": _plain(columns["position"]),
        "head": _plain(columns["head"]),
        "descriptors": _nonzero(columns["descriptors"]),
        "readable_bytes": _plain(columns["readable_bytes"]),
        "writable_bytes": _plain(columns["writable_bytes"]),
        "used_bytes": lambda: Values(columns["used_bytes"], used),
        "packet": _nonzero(columns["packet"]),
        "batch": _nonzero(columns["batch"]),
        "handed_back": _plain(columns["handed_back"]),
        "avail_lo_ns": _nonzero(columns["avail_lo_ns"]),
        "avail_hi_ns": _nonzero(columns["avail_hi_ns"]),
        "outcome": lambda: _of_enum(Outcome, columns["outcome"]),
        "trust": lambda: _of_enum(Trust, columns["trust"]),
        "worker_tid": _nonzero(columns["worker_tid"]),
        "kick_tid": _nonzero(columns["kick_tid"]),
        "cpu": _plain(columns["cpu"]),
    }
    for name in TIME_COLUMNS:
        makers[name] = _nonzero(columns[name])
        column = name.removesuffix("_ns") + "_state"
        makers[column] = state(column)
    for column_name in LIFECYCLES.names:
        if column_name not in makers and column_name.endswith("_ns"):
            makers[column_name] = stage(column_name.removesuffix("_ns"))
    if packets is None or index is None or not len(packets):
        rows, present = np.zeros(count, PACKET), np.zeros(count, np.bool_)
    else:
        rows, present = packets[index], index >= 0
    for column_name, maker in _packet_makers(names, rows, present).items():
        makers.setdefault(column_name, maker)
    return Table(LIFECYCLES, count, _without_unrecorded(makers, names, count))


def packets_table(rows: NDArray[Any], names: Names) -> Table:
    """Return the table of packets; ``rows`` has dtype ``PACKET``."""
    ended = rows["end"] != 0
    chain = rows["has_chain"]
    direction = names.of_queue("direction", rows["queue"])
    towards_guest = direction.data == names.code(Direction.RX)
    makers: dict[str, Maker] = {
        "time_ns": _plain(rows["time"]),
        **_place_makers(names, rows["queue"]),
        "packet": _nonzero(rows["packet"]),
        "verdict": lambda: _of_enum(Verdict, rows["verdict"]),
        "end_ns": lambda: Values(rows["end"], ended),
        "generation": lambda: Values(rows["generation"], chain),
        "position": lambda: Values(rows["position"], chain),
        "head": lambda: Values(rows["head"], chain),
        "ahead": lambda: Values(rows["count"], towards_guest),
        "batch_index": lambda: Values(rows["count"], ~towards_guest & chain),
        **_packet_makers(names, rows, np.ones(len(rows), np.bool_)),
    }
    return Table(PACKETS, len(rows), _without_unrecorded(makers, names, len(rows)))


def drops_table(rows: NDArray[Any], names: Names) -> Table:
    """Return the table of dropped packets; ``rows`` has dtype ``PACKET``, all dropped."""
    makers: dict[str, Maker] = {
        "time_ns": _plain(rows["end"]),
        **_place_makers(names, rows["drop_queue"]),
        "packet": _nonzero(rows["packet"]),
        **_packet_makers(names, rows, np.ones(len(rows), np.bool_)),
    }
    return Table(DROPS, len(rows), makers)


def exits_table(columns: Mapping[str, NDArray[Any]], names: Names) -> Table:
    """Return the table of VM exits from wire columns of EXIT records."""
    tids = columns["tid"]
    everywhere = np.ones(len(tids), np.bool_)
    svm = columns["flags"] & int(Flag.SVM) != 0

    def reason() -> Values:
        # One number for both numberings, so that each distinct one is named once.
        both = (columns["ret"].astype(np.int64) & 0xFFFF_FFFF) << 1 | svm
        return names.texts(both, lambda n: exit_reason(n >> 1, svm=bool(n & 1)), everywhere)

    def vcpu() -> Values:
        distinct, inverse = np.unique(tids, return_inverse=True)
        found = [names.thread(int(tid)).get("vcpu") for tid in distinct]
        number = np.array([-1 if n is None else int(n) for n in found], np.int64)
        return Values(number[inverse], number[inverse] >= 0)

    makers: dict[str, Maker] = {
        "time_ns": _plain(columns["time"]),
        "vm": lambda: names.texts(tids, lambda tid: names.thread(tid).get("vm", ""), everywhere),
        "vcpu": vcpu,
        "tid": _plain(tids),
        "cpu": _plain(columns["cpu"]),
        "reason": reason,
        "reason_code": _plain(columns["ret"]),
        "isa": lambda: Values(svm.astype(np.uint8), None, ["vmx", "svm"]),
        "outside_ns": _plain(columns["span"]),
        "address": _nonzero(columns["address"]),
    }
    return Table(EXITS, len(tids), makers)
