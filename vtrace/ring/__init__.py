"""A snapshot of one virtqueue from its bytes: each slot with its owner, and what does not fit.

Pure: no I/O, no clock. Everything that a guest can write is taken as hostile; see ``walk``. The
rules are those of the virtio specification 1.3, "Split Virtqueues" and "Packed Virtqueues".
"""

from __future__ import annotations

from vtrace.model import Ring
from vtrace.ring.findings import WORDS
from vtrace.ring.nouns import (
    MOST_SIZE,
    Buffer,
    Chain,
    Device,
    Feature,
    Finding,
    Memory,
    Owner,
    RawRing,
    Request,
    Slot,
    Snapshot,
    areas_of,
)
from vtrace.ring.packed import decode_packed
from vtrace.ring.split import decode_split

__all__ = [
    "MOST_SIZE",
    "WORDS",
    "Buffer",
    "Chain",
    "Device",
    "Feature",
    "Finding",
    "Memory",
    "Owner",
    "RawRing",
    "Request",
    "Slot",
    "Snapshot",
    "areas_of",
    "decode",
]


def decode(raw: RawRing, memory: Memory | None = None) -> Snapshot:
    """Return the snapshot of a virtqueue; never raises, whatever stands in it.

    Args:
        raw: Its bytes, and what the device knows.
        memory: Reads indirect tables from guest memory; None: they are not known.
    """
    if raw.layout == Ring.PACKED:
        return decode_packed(raw, memory)
    return decode_split(raw, memory)
