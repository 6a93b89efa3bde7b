"""What names in an expression stand for: columns, and fields of the packet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from vtrace.tables import Column, Schema, Type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.tables import Table, Values

__all__ = ["PROTOCOL_FIELDS", "Field", "Source", "article", "fields_of"]


@dataclass(frozen=True, slots=True)
class Source:
    """A column that a field reads, and when: where ``guard`` has one of ``values``."""

    column: str
    guard: str = ""
    values: tuple[int, ...] = ()

    def of(self, table: Table) -> tuple[Values, NDArray[np.bool_]]:
        """Return the column and where it counts."""
        values = table[self.column]
        present = values.present()
        if self.guard:
            guard = table[self.guard]
            present = present & guard.present() & np.isin(guard.data, self.values)
        return values, present


@dataclass(frozen=True, slots=True)
class Field:
    """What a name in an expression stands for."""

    name: str
    type: Type
    meaning: str
    sources: tuple[Source, ...]
    unit: str = ""
    version: int = 0
    """IP version that addresses must have; 0 for any."""
    values: tuple[str, ...] = ()
    presence: bool = False
    """The name alone asks whether it is there: ``udp``."""


_V4: Final = ("ip_version", (4,))
_V6: Final = ("ip_version", (6,))
_UDP: Final = ("protocol", (17,))
_TCP: Final = ("protocol", (6,))
_ANY: Final[tuple[str, tuple[int, ...]]] = ("", ())

# Name, type, columns, guard, meaning.
_PACKET_FIELDS: Final = (
    ("frame.len", Type.INTEGER, ("frame_bytes",), _ANY, "length of the frame"),
    ("frame.cap_len", Type.INTEGER, ("captured_bytes",), _ANY, "bytes recorded of it"),
    ("eth.src", Type.MAC, ("eth_src",), _ANY, "Ethernet source"),
    ("eth.dst", Type.MAC, ("eth_dst",), _ANY, "Ethernet destination"),
    ("eth.addr", Type.MAC, ("eth_src", "eth_dst"), _ANY, "either Ethernet address"),
    ("eth.type", Type.INTEGER, ("eth_type",), _ANY, "Ethernet type behind all tags"),
    ("vlan.id", Type.INTEGER, ("vlan",), _ANY, "VLAN id of the outermost tag"),
    ("ip.src", Type.ADDRESS, ("src",), _V4, "IPv4 source"),
    ("ip.dst", Type.ADDRESS, ("dst",), _V4, "IPv4 destination"),
    ("ip.addr", Type.ADDRESS, ("src", "dst"), _V4, "either IPv4 address"),
    ("ip.proto", Type.INTEGER, ("protocol",), _V4, "protocol"),
    ("ip.ttl", Type.INTEGER, ("ttl",), _V4, "time to live"),
    ("ip.len", Type.INTEGER, ("ip_bytes",), _V4, "total length"),
    ("ip.id", Type.INTEGER, ("ip_id",), _V4, "identification"),
    ("ip.fragment", Type.BOOLEAN, ("fragment",), _V4, "it is a fragment"),
    ("ipv6.src", Type.ADDRESS, ("src",), _V6, "IPv6 source"),
    ("ipv6.dst", Type.ADDRESS, ("dst",), _V6, "IPv6 destination"),
    ("ipv6.addr", Type.ADDRESS, ("src", "dst"), _V6, "either IPv6 address"),
    ("ipv6.nxt", Type.INTEGER, ("protocol",), _V6, "protocol behind all extensions"),
    ("ipv6.hlim", Type.INTEGER, ("ttl",), _V6, "hop limit"),
    ("ipv6.fragment", Type.BOOLEAN, ("fragment",), _V6, "it is a fragment"),
    ("udp.sport", Type.INTEGER, ("sport",), _UDP, "UDP source port"),
    ("udp.dport", Type.INTEGER, ("dport",), _UDP, "UDP destination port"),
    ("udp.port", Type.INTEGER, ("sport", "dport"), _UDP, "either UDP port"),
    ("udp.length", Type.INTEGER, ("udp_bytes",), _UDP, "length in the UDP header"),
    ("tcp.sport", Type.INTEGER, ("sport",), _TCP, "TCP source port"),
    ("tcp.dport", Type.INTEGER, ("dport",), _TCP, "TCP destination port"),
    ("tcp.port", Type.INTEGER, ("sport", "dport"), _TCP, "either TCP port"),
    ("tcp.flags", Type.INTEGER, ("tcp_flags",), _TCP, "TCP flags"),
    ("gso.type", Type.INTEGER, ("gso_type",), _ANY, "VIRTIO_NET_HDR_GSO_*"),
    ("gso.size", Type.INTEGER, ("gso_bytes",), _ANY, "payload of each segment"),
    ("drop.reason", Type.TEXT, ("reason",), _ANY, "kernel's name of the drop reason"),
    ("drop.code", Type.INTEGER, ("reason_code",), _ANY, "number of the drop reason"),
    ("drop.location", Type.TEXT, ("location",), _ANY, "function that dropped it"),
)

PROTOCOL_FIELDS: Final = (
    ("eth", "eth_type", _ANY),
    ("vlan", "vlan", _ANY),
    ("arp", "eth_type", ("eth_type", (0x0806,))),
    ("ip", "ip_version", _V4),
    ("ipv6", "ip_version", _V6),
    ("udp", "protocol", _UDP),
    ("tcp", "protocol", _TCP),
    ("icmp", "protocol", ("protocol", (1,))),
    ("icmpv6", "protocol", ("protocol", (58,))),
    ("sctp", "protocol", ("protocol", (132,))),
)

WITH_PACKETS: Final = frozenset({"lifecycles", "packets", "drops"})
"""Tables whose rows have a packet to ask."""

_BYTES: Final = frozenset({"frame.len", "frame.cap_len", "ip.len", "udp.length", "gso.size"})


@lru_cache(maxsize=16)
def fields_of(schema: Schema) -> dict[str, Field]:
    """Return every name that can stand in an expression over a table."""
    fields: dict[str, Field] = {}
    if schema.name in WITH_PACKETS:
        for name, column, (guard, values) in PROTOCOL_FIELDS:
            fields[name] = Field(
                name,
                Type.BOOLEAN,
                f"the packet has a header of {name}",
                (Source(column, guard, values),),
                presence=True,
            )
        for name, kind, columns, (guard, values), meaning in _PACKET_FIELDS:
            fields[name] = Field(
                name,
                kind,
                meaning,
                tuple(Source(column, guard, values) for column in columns),
                unit="bytes" if name in _BYTES else "",
                version=values[0] if guard == "ip_version" else 0,
            )
    for own in schema.columns:
        fields[own.name] = _field_of(own, fields.get(own.name))
    return fields


def _field_of(column: Column, packet: Field | None) -> Field:
    # ``vlan`` is a column and a header: alone it asks for the header.
    return Field(
        column.name,
        column.type,
        column.meaning,
        (Source(column.name),),
        unit=column.unit,
        values=column.values,
        presence=packet is not None and packet.presence,
    )


def article(field: Field) -> str:
    """Return what the values of a field are, in words."""
    names = {
        Type.INTEGER: "a number",
        Type.BOOLEAN: "true or false",
        Type.TEXT: "text",
        Type.ADDRESS: "an IP address",
        Type.MAC: "an Ethernet address",
    }
    return names[field.type]
