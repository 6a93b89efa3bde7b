"""The wire layout as numpy dtypes, and the schema of the columns in a file.

``probes/include/vtrace_wire.h`` is the truth; ``tests/parsers/test_wire.py`` compiles it and
compares sizes, offsets and enums with what stands here.
"""

from __future__ import annotations

from typing import Final

import numpy as np

__all__ = ["COLUMNS", "RECORD", "RING_HEADER_BYTES", "SNAP", "WIRE_VERSION", "packet_dtype"]

WIRE_VERSION: Final = 1

COLUMNS: Final[dict[str, tuple[str, str]]] = {
    "time": ("<u8", "CLOCK_MONOTONIC, ns"),
    "address": ("<u8", "guest-physical address or port; MSI message; id of a place"),
    "packet": ("<u4", "packet id, reused after 2^32 packets; 0: none"),
    "seq": ("<u4", "per-CPU sequence number of the attempt: a gap is a lost record"),
    "tid": ("<u4", "thread the record is about"),
    "length": ("<u4", "bytes: readable by the device (POP), written (USED), frame"),
    "ret": ("<i4", "return value or code"),
    "room": ("<u4", "bytes writable by the device (POP)"),
    "span": ("<u4", "ns the act took; 4294967295: that long or longer"),
    "queue": ("<u2", "id in the queue table"),
    "count": ("<u2", "how many: descriptors, elements, packets"),
    "head": ("<u2", "first descriptor of the chain"),
    "avail": ("<u2", "driver's avail->idx, if flag AVAIL"),
    "position": ("<u2", "device's place in the available ring, if flag POSITION"),
    "used": ("<u2", "device's place in the used ring, if flag USED"),
    "event": ("<u2", "driver's used_event, if flag EVENT"),
    "kind": ("<u2", "vtrace.model.Kind"),
    "flags": ("<u2", "vtrace.model.Flag, or-ed"),
    "cpu": ("<u2", "CPU the record was written on"),
}
"""Name of every wire column -> (numpy type, meaning). Order is that of the C struct."""

RECORD: Final = np.dtype([(name, kind) for name, (kind, _) in COLUMNS.items()])
"""``struct vtrace_record``: 64 bytes, no padding."""

SNAP: Final = np.dtype(
    [
        ("captured", "<u2"),
        ("gso_size", "<u2"),
        ("csum_start", "<u2"),
        ("csum_offset", "<u2"),
        ("hdr_flags", "u1"),
        ("gso_type", "u1"),
        ("vlan_tci", "<u2"),
        ("vlan_proto", "<u2"),
        ("reserved", "<u2"),
    ]
)
"""``struct vtrace_snap``: 16 bytes between a record of the packet ring and its bytes."""

RING_HEADER_BYTES: Final = 8
"""BPF ring buffer header before each record: u32 length|busy|discard, u32 page offset."""


def packet_dtype(snap_bytes: int) -> np.dtype[np.void]:
    """Return the dtype of a packet-ring record with a snap area of ``snap_bytes``."""
    return np.dtype([("record", RECORD), ("snap", SNAP), ("bytes", "u1", (snap_bytes,))])
