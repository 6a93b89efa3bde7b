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

__all__ = ["GSO_TYPES", "Field", "Frame", "Layer", "hexdump", "layers", "one_line"]

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
class Field:
    """A field of a header, as text."""

    name: str
    text: str
    span: range | None = None
    """Captured bytes that it is in, those of a few bits whole; None: in none, or not known."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A header of a packet."""

    name: str
    fields: list[Field] = field(default_factory=list)
    span: range | None = None
    """Captured bytes that it is in; None: in none, or not known."""
    summary: str = ""
    """What matters most of it, in one line; may be empty."""


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
    """Return the headers of a packet, the virtio_net_hdr first.

    That one is what the recording knows of it; it is no part of the captured bytes.
    """
    found = [_virtio_layer(frame)]
    packet: Any = dissect(frame) if frame.data else None
    at: int | None = 0
    while packet is not None and type(packet).__name__ != "NoPayload":
        layer = _layer(packet, frame, at)
        found.append(layer)
        at = layer.span.stop if layer.span is not None else None
        packet = packet.payload
    return found


def _virtio_layer(frame: Frame) -> Layer:
    kind = frame.gso_type & ~GSO_ECN
    checksum = "partial (offloaded)" if frame.offloaded else "complete"
    if frame.hdr_flags & DATA_VALID:
        checksum = "valid"
    gso = str(GSO_TYPES.get(kind, kind))
    fields = [Field("gso", gso), Field("checksum", checksum)]
    if frame.gso_size:
        fields.insert(1, Field("gso_size", str(frame.gso_size)))
    if frame.vlan is not None:
        fields.append(Field("vlan", str(frame.vlan)))
    size = f" {frame.gso_size}" if frame.gso_size else ""
    return Layer("virtio_net_hdr", fields, summary=f"gso {gso}{size}, checksum {checksum}")


def _layer(packet: Any, frame: Frame, at: int | None) -> Layer:
    # The bytes it was made of, if they are where one looks for them.
    raw = packet.raw_packet_cache
    if at is None or not isinstance(raw, bytes) or frame.data[at : at + len(raw)] != raw:
        at, raw = None, b""
    spans = _spans(packet, raw) if raw else {}
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
        inside = spans.get(name)
        span = None
        if at is not None and inside is not None:
            span = range(at + inside.start, at + inside.stop)
        fields.append(Field(name, text[:MAX_VALUE], span))
    whole = None if at is None else range(at, at + len(raw))
    summary = _summary(packet) or (f"{len(raw)} bytes" if raw else "")
    return Layer(str(packet.name), fields, whole, summary)


def _spans(packet: Any, raw: bytes) -> dict[str, range]:
    # scapy does not say where in the bytes a field was: it is asked to take them off again.
    spans: dict[str, range] = {}
    rest: Any = raw
    bits = 0
    try:
        for description in packet.fields_desc:
            before = 8 * len(raw) - bits
            rest, value = description.getfield(packet, rest)
            left, taken = rest if isinstance(rest, tuple) else (rest, 0)
            now = 8 * len(left) - taken
            if now < 0 or now > before:
                break
            bits = 8 * len(raw) - now
            if value is not None and now < before:
                spans[description.name] = range((8 * len(raw) - before) // 8, (bits + 7) // 8)
    except Exception:
        # Those that came out so far are right.
        return spans
    return spans


def _summary(packet: Any) -> str:
    try:
        found = packet.mysummary()
    except Exception:
        return ""
    text = found[0] if isinstance(found, tuple) and found else found
    if not isinstance(text, str):
        return ""
    name = f"{packet.name} "
    return text[len(name) if text.lower().startswith(name.lower()) else 0 :][:MAX_VALUE]


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
