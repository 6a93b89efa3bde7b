"""The layers of one packet, by scapy, for the packet that a person looks at.

Bulk work is for ``vtrace.flows``. Captured bytes come from guests: whatever they are, a packet
comes out, and its texts are cleaned by who prints them. A checksum that the sender left to the
hardware (``hdr_flags & 1``) covers the pseudo-header alone and is shown as offloaded, not as bad.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["GSO_TYPES", "Frame", "Layer", "hexdump", "layers", "one_line"]

NEEDS_CHECKSUM: Final = 1
DATA_VALID: Final = 2
GSO_ECN: Final = 0x80

GSO_TYPES: Final = {0: "none", 1: "TCPv4", 3: "UDP", 4: "TCPv6", 5: "UDP_L4"}
"""VIRTIO_NET_HDR_GSO_*"""

MAX_VALUE: Final = 200
"""Characters of one field's value that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Captured bytes of a packet, with what the host knew of it besides."""

    data: bytes
    length: int = 0
    """Bytes of the whole frame; 0 where not known."""
    no_mac: bool = False
    """The bytes start at the network header."""
    hdr_flags: int = 0
    gso_type: int = 0
    gso_size: int = 0
    vlan: int | None = None
    """Tag held beside the frame."""

    @property
    def offloaded(self) -> bool:
        """The checksum is still to be completed."""
        return bool(self.hdr_flags & NEEDS_CHECKSUM)


@dataclass(frozen=True, slots=True)
class Layer:
    """A header of a packet: its name, and its fields as text."""

    name: str
    fields: list[tuple[str, str]] = field(default_factory=list)


@functools.lru_cache(maxsize=1)
def _scapy() -> Any:
    # What one meets on a tap; each import registers its protocol with those below.
    logging.getLogger("scapy").setLevel(logging.ERROR)
    import scapy.layers.dns
    import scapy.layers.inet
    import scapy.layers.inet6
    import scapy.layers.l2
    from scapy.config import conf

    # 7001 is 7001, not afs3_callback.
    tcp, udp = scapy.layers.inet.TCP, scapy.layers.inet.UDP
    conf.noenum.add(tcp.sport, tcp.dport, udp.sport, udp.dport)
    return scapy


def dissect(frame: Frame) -> Any:
    """Return the scapy packet of a frame; bytes that make no sense become ``Raw``."""
    scapy = _scapy()
    first: Any = scapy.layers.l2.Ether
    if frame.no_mac:
        version = frame.data[0] >> 4 if frame.data else 0
        known = {4: scapy.layers.inet.IP, 6: scapy.layers.inet6.IPv6}
        first = known.get(version, scapy.packet.Raw)
    try:
        return first(frame.data)
    except Exception:
        return scapy.packet.Raw(frame.data)


def _notes(frame: Frame) -> list[str]:
    notes = []
    if frame.vlan is not None:
        notes.append(f"vlan {frame.vlan}")
    if frame.gso_type:
        kind = frame.gso_type & ~GSO_ECN
        notes.append(f"gso {GSO_TYPES.get(kind, kind)} {frame.gso_size}")
    if frame.offloaded:
        notes.append("checksum offloaded")
    return notes


def one_line(frame: Frame) -> str:
    """Return a packet in one line, its offloads in brackets."""
    if not frame.data:
        return "not captured"
    try:
        text = str(dissect(frame).summary())
    except Exception:
        text = f"{len(frame.data)} bytes"
    notes = _notes(frame)
    return f"{text} [{', '.join(notes)}]" if notes else text


def layers(frame: Frame) -> list[Layer]:
    """Return the headers of a packet, the virtio_net_hdr first."""
    found = [_virtio_layer(frame)]
    packet: Any = dissect(frame) if frame.data else None
    while packet is not None and type(packet).__name__ != "NoPayload":
        found.append(_layer(packet, frame))
        packet = packet.payload
    return found


def _virtio_layer(frame: Frame) -> Layer:
    kind = frame.gso_type & ~GSO_ECN
    checksum = "partial (offloaded)" if frame.offloaded else "complete"
    if frame.hdr_flags & DATA_VALID:
        checksum = "valid"
    fields = [("gso", str(GSO_TYPES.get(kind, kind))), ("checksum", checksum)]
    if frame.gso_size:
        fields.insert(1, ("gso_size", str(frame.gso_size)))
    if frame.vlan is not None:
        fields.append(("vlan", str(frame.vlan)))
    return Layer("virtio_net_hdr", fields)


def _layer(packet: Any, frame: Frame) -> Layer:
    fields = []
    for description in packet.fields_desc:
        name = description.name
        if name not in packet.fields:
            continue
        try:
            text = str(description.i2repr(packet, packet.getfieldval(name)))
        except Exception:
            text = "?"
        if name == "chksum":
            text += f" ({_checksum(packet, frame)})"
        fields.append((name, text[:MAX_VALUE]))
    return Layer(str(packet.name), fields)


def _checksum(packet: Any, frame: Frame) -> str:
    # scapy makes the right one when it builds a packet without one.
    transport = type(packet).__name__ in {"UDP", "TCP"}
    if transport and frame.offloaded:
        return "partial: offloaded"
    if transport and frame.length > len(frame.data):
        return "not checked: cut"
    try:
        if transport:
            if type(packet).__name__ == "UDP" and packet.chksum == 0:
                return "none"
            below = packet.underlayer.copy()
            del below.payload.chksum
            right = type(below)(bytes(below)).payload.chksum
        else:
            header = packet.copy()
            header.remove_payload()
            del header.chksum
            right = type(packet)(bytes(header)).chksum
    except Exception:
        return "not checked"
    return "correct" if right == packet.chksum else f"wrong: should be {right:#06x}"


def hexdump(data: bytes, width: int = 16) -> list[str]:
    """Return lines of offset, hexadecimal bytes and printable characters."""
    lines = []
    for at in range(0, len(data), width):
        part = data[at : at + width]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:04x}  {part.hex(' '):<{width * 3 - 1}}  {shown}")
    return lines
