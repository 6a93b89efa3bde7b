"""Blocks of a pcapng file: section, interfaces, packets in bulk, statistics.

Format: draft-ietf-opsawg-pcapng. Everything is little-endian; times are nanoseconds. Options that
the writers on PyPI leave out (queue, packet id, verdict, drop count) are why this is our own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.export.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ETHERNET",
    "RAW_IP",
    "interface_block",
    "packet_blocks",
    "section_block",
    "statistics_block",
]

ETHERNET: Final = 1
"""LINKTYPE_ETHERNET"""
RAW_IP: Final = 101
"""LINKTYPE_RAW: the packet begins at its IPv4 or IPv6 header."""

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
COMMENT: Final = 1
OS, APPLICATION = 3, 4
IF_NAME, IF_DESCRIPTION, IF_TSRESOL = 2, 3, 9
FLAGS, DROPCOUNT, PACKETID, QUEUE, VERDICT = 2, 4, 5, 6, 7
ISB_START, ISB_END, ISB_IFRECV, ISB_OSDROP = 2, 3, 4, 7

LONGEST: Final = 0xFFF0
"""Bytes of the longest option that is written."""

EBPF_TC: Final = 1
"""Type of a verdict: a number of the kernel's traffic control."""


def _option(code: int, value: bytes) -> bytes:
    value = value[:LONGEST]
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    # Cut where a character ends.
    data = text.encode(errors="backslashreplace")[:LONGEST].decode(errors="ignore").encode()
    return _option(code, data) if data else b""


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    if options:
        options += bytes(4)
    size = struct.pack("<I", 12 + len(body) + len(options))
    return struct.pack("<I", kind) + size + body + options + size


def section_block(*, system: str, application: str, comment: str) -> bytes:
    """Return the header of a section whose length is not known."""
    options = _text(COMMENT, comment) + _text(OS, system) + _text(APPLICATION, application)
    return _block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), options)


def interface_block(name: str, description: str, link: int, snaplen: int) -> bytes:
    """Return the description of an interface; ``snaplen`` 0: not limited."""
    options = _text(IF_NAME, name) + _text(IF_DESCRIPTION, description)
    options += _option(IF_TSRESOL, b"\x09")
    return _block(INTERFACE, struct.pack("<HHI", link, 0, snaplen), options)


def statistics_block(
    interface: int, span: tuple[int, int], received: int, dropped: int, comment: str
) -> bytes:
    """Return what an interface counted between two times."""

    def moment(time: int) -> bytes:
        return struct.pack("<II", time >> 32 & 0xFFFF_FFFF, time & 0xFFFF_FFFF)

    options = _text(COMMENT, comment)
    options += _option(ISB_START, moment(span[0])) + _option(ISB_END, moment(span[1]))
    options += _option(ISB_IFRECV, struct.pack("<Q", received))
    options += _option(ISB_OSDROP, struct.pack("<Q", dropped))
    return _block(STATISTICS, struct.pack("<I", interface) + moment(span[1]), options)


_HEAD: Final = np.dtype(
    [(name, "<u4") for name in ("kind", "size", "interface", "high", "low", "captured", "length")]
)
_OPTION: Final = [("code", "<u2"), ("size", "<u2")]
_FIXED: Final = {
    FLAGS: np.dtype([*_OPTION, ("value", "<u4")]),
    DROPCOUNT: np.dtype([*_OPTION, ("value", "<u8")]),
    PACKETID: np.dtype([*_OPTION, ("value", "<u8")]),
    QUEUE: np.dtype([*_OPTION, ("value", "<u4")]),
    VERDICT: np.dtype([*_OPTION, ("kind", "u1"), ("value", "<u8"), ("pad", "u1", 3)]),
}
_SIZES: Final = {FLAGS: 4, DROPCOUNT: 8, PACKETID: 8, QUEUE: 4, VERDICT: 9}

Numbers = tuple[Any, Any]


def packet_blocks(
    *,
    interface: NDArray[Any],
    time: NDArray[Any],
    length: NDArray[Any],
    data: NDArray[Any],
    offsets: NDArray[Any],
    flags: NDArray[Any],
    queue: NDArray[Any],
    packet: Numbers,
    verdict: Numbers,
    dropped: Numbers,
    comment: Ragged,
) -> bytes:
    """Return the blocks of packets, a row of each argument for each.

    ``data[offsets[i]:offsets[i + 1]]`` are the bytes of packet ``i`` of ``length[i]``. The pairs
    are numbers, and where there is one.
    """
    count = len(interface)
    captured = np.diff(offsets)
    body = Ragged(count)
    body.slices(data, offsets)
    body.padding(captured)
    everywhere = np.ones(count, np.bool_)
    options = {
        FLAGS: (flags, everywhere),
        DROPCOUNT: dropped,
        PACKETID: packet,
        QUEUE: (queue, everywhere),
        VERDICT: verdict,
    }
    for code, (values, where) in options.items():
        row = np.zeros(count, _FIXED[code])
        row["code"], row["size"], row["value"] = code, _SIZES[code], values
        if code == VERDICT:
            row["kind"] = EBPF_TC
        body.fixed(row, where)
    said = np.zeros(count, np.dtype(_OPTION))
    said["code"], said["size"] = COMMENT, comment.lengths
    body.fixed(said)
    body.append(comment)
    body.padding(comment.lengths)
    body.constant(bytes(4))
    head = np.zeros(count, _HEAD)
    size = (body.lengths + _HEAD.itemsize + 4).astype("<u4")
    head["kind"], head["size"], head["interface"] = PACKET, size, interface
    head["high"], head["low"] = time >> np.uint64(32), time & np.uint64(0xFFFF_FFFF)
    head["captured"], head["length"] = captured, length
    blocks = Ragged(count)
    blocks.fixed(head)
    blocks.append(body)
    blocks.fixed(size)
    return blocks.tobytes()
