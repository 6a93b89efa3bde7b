"""Flow keys of captured frames, in bulk: Ethernet, VLAN, IPv4, IPv6, UDP, TCP, ICMP.

``decode`` turns the snaps of a batch into one structured array, a row per snap. Captured bytes come
from guests: a field is read only where its bytes were captured, and a header that contradicts
itself ends the decoding of its frame. ``known`` says which fields of a row mean something.
"""

from __future__ import annotations

import socket
from enum import IntFlag
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import Snaps

__all__ = [
    "FLOW",
    "PROTOCOLS",
    "V4_MAPPED",
    "Known",
    "address_text",
    "decode",
    "flow_hash",
    "flow_text",
    "mac_text",
]


class Known(IntFlag):
    """Which fields of a row of ``FLOW`` hold something."""

    ETHERNET = 1 << 0
    """eth_src, eth_dst"""
    ETHERTYPE = 1 << 1
    """eth_type: that of the innermost tag"""
    VLAN = 1 << 2
    """vlan: the outermost tag, in the frame or held beside it"""
    IPV4 = 1 << 3
    IPV6 = 1 << 4
    """src, dst, ttl, ip_len, l3"""
    PROTOCOL = 1 << 5
    """protocol: what follows the last extension header"""
    FRAGMENT = 1 << 6
    """The packet is a fragment; fragment_offset says where it starts, in bytes."""
    PORTS = 1 << 7
    """sport, dport, l4"""
    UDP = 1 << 8
    """udp_len"""
    TCP = 1 << 9
    """tcp_flags"""


FLOW: Final = np.dtype(
    [
        ("eth_src", "<u8"),
        ("eth_dst", "<u8"),
        ("src_hi", "<u8"),
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("ip_len", "<u4"),
        ("ip_id", "<u4"),
        ("known", "<u2"),
        ("eth_type", "<u2"),
        ("vlan", "<u2"),
        ("fragment_offset", "<u2"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("udp_len", "<u2"),
        ("l3", "<u2"),
        ("l4", "<u2"),
        ("ip_version", "u1"),
        ("protocol", "u1"),
        ("ttl", "u1"),
        ("tcp_flags", "u1"),
    ]
)
"""What is known of the headers of a frame; addresses as two halves, IPv4 as ::ffff:a.b.c.d."""

V4_MAPPED: Final = 0xFFFF_0000_0000
"""Low half of an IPv4 address as an IPv6 one, without the address."""

PROTOCOLS: Final = {
    1: "ICMP",
    2: "IGMP",
    6: "TCP",
    17: "UDP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "ICMPv6",
    89: "OSPF",
    132: "SCTP",
}
"""Names of IP protocols that one meets in a guest."""

ETHERTYPES: Final = {0x0806: "ARP", 0x0800: "IPv4", 0x86DD: "IPv6", 0x88CC: "LLDP"}
"""Names of Ethernet types for a frame that has no addresses to show."""

MAX_TAGS: Final = 2
MAX_EXTENSIONS: Final = 8
"""Extension headers that are followed; more than that is not traffic but an attack."""


class Frames:
    """Captured bytes of many frames, read by per-frame offsets, never out of bounds."""

    def __init__(self, snaps: Snaps) -> None:
        offsets = np.asarray(snaps.offsets, np.int64)
        end = len(snaps.data)
        self.start = np.clip(offsets[:-1], 0, end)
        self.size = np.clip(offsets[1:], self.start, end) - self.start
        self.data = snaps.data if end else np.zeros(1, np.uint8)

    def has(self, offset: NDArray[Any], length: int) -> NDArray[np.bool_]:
        """Return where ``length`` bytes from ``offset`` on were captured."""
        found: NDArray[np.bool_] = offset + length <= self.size
        return found

    def number(
        self, offset: NDArray[Any], length: int, where: NDArray[np.bool_]
    ) -> NDArray[np.uint64]:
        """Return big-endian numbers of ``length`` bytes; 0 where ``where`` is false."""
        index = np.where(where, self.start + offset, 0)
        value = np.zeros(len(index), np.uint64)
        last = len(self.data) - 1
        for byte in range(length):
            value = (value << np.uint64(8)) | self.data[np.minimum(index + byte, last)]
        return np.where(where, value, np.uint64(0))


def decode(snaps: Snaps, no_mac: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Return a row of ``FLOW`` for each snap.

    ``no_mac`` says which of them start at the network header (VTRACE_F_NO_MAC).
    """
    count = len(snaps)
    rows = np.zeros(count, FLOW)
    if not count:
        return rows
    frames = Frames(snaps)
    if no_mac is None:
        no_mac = np.zeros(count, np.bool_)
    offset = _link(frames, rows, snaps, no_mac)
    _ipv4(frames, rows, offset)
    _ipv6(frames, rows, offset)
    _ports(frames, rows)
    return rows


def _mark(rows: NDArray[Any], where: NDArray[np.bool_], known: Known) -> None:
    # Sets flags of ``known`` where ``where`` is true.
    rows["known"] |= where.astype(np.uint16) * np.uint16(known)


def _link(
    frames: Frames, rows: NDArray[Any], snaps: Snaps, no_mac: NDArray[np.bool_]
) -> NDArray[np.int64]:
    # Returns where the network header starts.
    offset = np.zeros(len(rows), np.int64)
    ethernet = ~no_mac & frames.has(offset, 14)
    rows["eth_dst"] = frames.number(offset, 6, ethernet)
    rows["eth_src"] = frames.number(offset + 6, 6, ethernet)
    kind = frames.number(offset + 12, 2, ethernet)
    _mark(rows, ethernet, Known.ETHERNET)
    offset[ethernet] = 14

    # A tag beside the frame is the outermost one.
    held = snaps.header["vlan_tci"]
    beside = (held != 0) | (snaps.header["vlan_proto"] != 0)
    rows["vlan"][beside] = held[beside] & 0xFFF
    _mark(rows, beside, Known.VLAN)
    for _ in range(MAX_TAGS):
        tagged = ethernet & ((kind == 0x8100) | (kind == 0x88A8)) & frames.has(offset, 4)
        if not tagged.any():
            break
        tag = frames.number(offset, 2, tagged)
        outermost = tagged & (rows["known"] & int(Known.VLAN) == 0)
        rows["vlan"][outermost] = (tag[outermost] & np.uint64(0xFFF)).astype(np.uint16)
        _mark(rows, outermost, Known.VLAN)
        kind = np.where(tagged, frames.number(offset + 2, 2, tagged), kind)
        offset[tagged] += 4

    # Without a link header the version is all that tells.
    bare = no_mac & frames.has(offset, 1)
    version = frames.number(offset, 1, bare) >> np.uint64(4)
    kind = np.where(bare & (version == 4), np.uint64(0x0800), kind)
    kind = np.where(bare & (version == 6), np.uint64(0x86DD), kind)
    rows["eth_type"] = kind
    _mark(rows, kind != 0, Known.ETHERTYPE)
    return offset


def _ipv4(frames: Frames, rows: NDArray[Any], offset: NDArray[np.int64]) -> None:
    here = (rows["eth_type"] == 0x0800) & frames.has(offset, 20)
    first = frames.number(offset, 1, here)
    header = ((first & np.uint64(15)) << np.uint64(2)).astype(np.int64)
    total = frames.number(offset + 2, 2, here)
    here &= (first >> np.uint64(4) == 4) & (header >= 20)
    # A total of 0 is what a segment larger than 64 KB has.
    here &= (total == 0) | (total >= header.astype(np.uint64))
    if not here.any():
        return
    _mark(rows, here, Known.IPV4 | Known.PROTOCOL)
    rows["ip_version"][here] = 4
    rows["ip_len"][here] = total[here]
    rows["ip_id"] = np.where(here, frames.number(offset + 4, 2, here), rows["ip_id"])
    rows["ttl"][here] = frames.number(offset + 8, 1, here)[here]
    rows["protocol"][here] = frames.number(offset + 9, 1, here)[here]
    mapped = np.uint64(V4_MAPPED)
    rows["src_lo"][here] = frames.number(offset + 12, 4, here)[here] | mapped
    rows["dst_lo"][here] = frames.number(offset + 16, 4, here)[here] | mapped
    place = frames.number(offset + 6, 2, here)
    fragment = here & (place & np.uint64(0x3FFF) != 0)
    _mark(rows, fragment, Known.FRAGMENT)
    start = (place & np.uint64(0x1FFF)) << np.uint64(3)
    rows["fragment_offset"][fragment] = start[fragment]
    rows["l3"][here] = offset[here]
    rows["l4"][here] = (offset + header)[here]


def _ipv6(frames: Frames, rows: NDArray[Any], offset: NDArray[np.int64]) -> None:
    here = (rows["eth_type"] == 0x86DD) & frames.has(offset, 40)
    here &= frames.number(offset, 1, here) >> np.uint64(4) == 6
    if not here.any():
        return
    _mark(rows, here, Known.IPV6)
    rows["ip_version"][here] = 6
    rows["ip_len"][here] = frames.number(offset + 4, 2, here)[here] + np.uint64(40)
    rows["ttl"][here] = frames.number(offset + 7, 1, here)[here]
    for name, at in (("src_hi", 8), ("src_lo", 16), ("dst_hi", 24), ("dst_lo", 32)):
        rows[name][here] = frames.number(offset + at, 8, here)[here]
    rows["l3"][here] = offset[here]

    following = frames.number(offset + 6, 1, here)
    place = offset + 40
    walking = here.copy()
    for _ in range(MAX_EXTENSIONS):
        extension = walking & np.isin(following, (0, 43, 44, 51, 60, 135))
        walking &= ~extension
        whole = extension & frames.has(place, 8)
        # What was not captured stays unknown: its protocol is not read.
        here &= ~extension | whole
        if not whole.any():
            break
        walking |= whole
        size = frames.number(place + 1, 1, whole).astype(np.int64)
        length = np.where(following == 51, (size + 2) * 4, (size + 1) * 8)
        fragment = whole & (following == 44)
        length[fragment] = 8
        bits = frames.number(place + 2, 2, fragment)
        _mark(rows, fragment, Known.FRAGMENT)
        rows["fragment_offset"][fragment] = (bits & np.uint64(0xFFF8))[fragment]
        rows["ip_id"] = np.where(fragment, frames.number(place + 4, 4, fragment), rows["ip_id"])
        later = fragment & (bits & np.uint64(0xFFF8) != 0)
        following = np.where(whole, frames.number(place, 1, whole), following)
        place = np.where(whole, place + length, place)
        # Behind the first fragment, the next header is in another packet.
        walking &= ~later
    else:
        here &= ~(walking & np.isin(following, (0, 43, 44, 51, 60, 135)))
    _mark(rows, here, Known.PROTOCOL)
    rows["protocol"][here] = following[here]
    rows["l4"][here] = place[here]


def _ports(frames: Frames, rows: NDArray[Any]) -> None:
    known = rows["known"]
    first = (known & int(Known.PROTOCOL) != 0) & (rows["fragment_offset"] == 0)
    offset = rows["l4"].astype(np.int64)
    protocol = rows["protocol"]
    here = first & np.isin(protocol, (6, 17, 132, 136)) & frames.has(offset, 4)
    rows["sport"][here] = frames.number(offset, 2, here)[here]
    rows["dport"][here] = frames.number(offset + 2, 2, here)[here]
    _mark(rows, here, Known.PORTS)
    udp = here & (protocol == 17) & frames.has(offset, 8)
    rows["udp_len"][udp] = frames.number(offset + 4, 2, udp)[udp]
    _mark(rows, udp, Known.UDP)
    tcp = here & (protocol == 6) & frames.has(offset, 14)
    rows["tcp_flags"][tcp] = frames.number(offset + 13, 1, tcp)[tcp]
    _mark(rows, tcp, Known.TCP)


def flow_hash(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a hash of addresses, protocol and ports of each row; 0 without addresses."""
    addressed = rows["known"] & int(Known.IPV4 | Known.IPV6) != 0
    ports = (rows["sport"].astype(np.uint64) << np.uint64(16)) | rows["dport"]
    ports |= rows["protocol"].astype(np.uint64) << np.uint64(32)
    value = np.zeros(len(rows), np.uint64)
    for part in (rows["src_hi"], rows["src_lo"], rows["dst_hi"], rows["dst_lo"], ports):
        # splitmix64's finaliser over the parts, one after the other.
        value = (value + part) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(30)
        value *= np.uint64(0xBF58476D1CE4E5B9)
        value ^= value >> np.uint64(27)
    return np.where(addressed, value | np.uint64(1), np.uint64(0))


def address_text(high: int, low: int) -> str:
    """Return an address as one writes it; IPv4 if it is a mapped one."""
    if high == 0 and low >> 32 == 0xFFFF:
        return ".".join(str(byte) for byte in (low & 0xFFFF_FFFF).to_bytes(4, "big"))
    return socket.inet_ntop(socket.AF_INET6, ((high << 64) | low).to_bytes(16, "big"))


def mac_text(address: int) -> str:
    """Return an Ethernet address as one writes it."""
    return (address & 0xFFFF_FFFF_FFFF).to_bytes(6, "big").hex(":")


def flow_text(row: np.void) -> str | None:
    """Return a flow in one line, ``UDP 10.0.0.1:53 > 10.0.0.2:4000``; None if not known."""
    known = int(row["known"])
    if not known & (Known.IPV4 | Known.IPV6):
        if not known & Known.ETHERTYPE:
            return None
        kind = int(row["eth_type"])
        name = ETHERTYPES.get(kind, f"0x{kind:04x}")
        if not known & Known.ETHERNET:
            return name
        return f"{name} {mac_text(int(row['eth_src']))} > {mac_text(int(row['eth_dst']))}"
    source = address_text(int(row["src_hi"]), int(row["src_lo"]))
    target = address_text(int(row["dst_hi"]), int(row["dst_lo"]))
    if known & Known.PORTS:
        if row["ip_version"] == 6:
            source, target = f"[{source}]", f"[{target}]"
        source, target = f"{source}:{row['sport']}", f"{target}:{row['dport']}"
    name = "IP"
    if known & Known.PROTOCOL:
        protocol = int(row["protocol"])
        name = PROTOCOLS.get(protocol, f"IP/{protocol}")
    text = f"{name} {source} > {target}"
    if known & Known.FRAGMENT:
        text += f" fragment at {row['fragment_offset']}"
    return text
