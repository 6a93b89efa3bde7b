"""virtio-blk: a header, data or segments, and a status byte at the very end.

``struct virtio_blk_req``: le32 type, le32 reserved, le64 sector; then data; the last byte that the
device writes is the status. A sector has 512 bytes whatever the block size is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vtrace.requests.asked import Known

if TYPE_CHECKING:
    from vtrace.requests.view import View

__all__ = ["HEADER_BYTES", "SECTOR_BYTES", "decode"]

HEADER_BYTES: Final = 16
SEGMENT_BYTES: Final = 16
SECTOR_BYTES: Final = 512
MOST_SEGMENTS: Final = 16
"""Segments of a DISCARD that are added up; of one with more, their number is known alone."""

IN, OUT, GET_ID, GET_LIFETIME, ZONE_APPEND, ZONE_REPORT = 0, 1, 8, 10, 15, 16
READS: Final = (IN, GET_ID, GET_LIFETIME, ZONE_REPORT)
WRITES: Final = (OUT, ZONE_APPEND)
SEGMENTED: Final = (11, 13, 14)
WITH_SECTOR: Final = (IN, OUT, ZONE_APPEND, ZONE_REPORT, 18, 20, 22, 24)


def decode(view: View) -> None:
    """Decode virtio-blk requests."""
    head = view.request(HEADER_BYTES)
    kind, known = head.little(0, 4)
    sector, whole = head.little(8, 8)
    view.asks(whole & known, HEADER_BYTES)
    view.put("operation", kind, known, Known.OPERATION)
    view.put("sector", sector, whole & known & np.isin(kind, WITH_SECTOR), Known.SECTOR)

    readable, writable = view.readable, view.writable
    reads = known & np.isin(kind, READS) & (writable >= 1)
    writes = known & np.isin(kind, WRITES) & (readable >= HEADER_BYTES)
    view.put("data_bytes", np.maximum(writable - 1, 0), reads, Known.DATA)
    view.put("data_bytes", np.maximum(readable - HEADER_BYTES, 0), writes, Known.DATA)
    moved = (reads & (kind == IN)) | (writes & (kind == OUT))
    sectors = view.out["data_bytes"] // SECTOR_BYTES
    view.put("sectors", sectors, moved, Known.SECTORS)
    _segments(view, known & np.isin(kind, SEGMENTED))

    # The driver's byte is the last of the chain; a lying chain without one has no status.
    last = view.last_byte
    status = np.where(last >= 0, last, 0).astype(np.uint64)
    there = last >= 0
    at = np.maximum(writable - 1, 0)
    byte, captured = view.response(1, at).little(0, 1)
    captured &= writable >= 1
    status = np.where(there, status, byte)
    there = (there | captured) & (writable != 0)
    view.answers(there, 1)
    view.put("status", status, there, Known.STATUS)
    view.out["failed"] = there & (status != 0)


def _segments(view: View, where: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    # {le64 sector, le32 sectors, le32 flags} for each stretch.
    count = np.maximum(view.readable - HEADER_BYTES, 0) // SEGMENT_BYTES
    view.put("segments", count, where & (view.readable >= HEADER_BYTES), Known.SEGMENTS)
    if not where.any():
        return
    body = view.request(MOST_SEGMENTS * SEGMENT_BYTES, HEADER_BYTES)
    first, there = body.little(0, 8)
    some = where & there & (count > 0)
    view.put("sector", first, some, Known.SECTOR)
    sums = np.zeros(len(count), np.uint64)
    whole = where & (count > 0) & (count <= MOST_SEGMENTS)
    for number in range(MOST_SEGMENTS):
        sectors, there = body.little(number * SEGMENT_BYTES + 8, 4)
        wanted = count > number
        whole &= there | ~wanted
        sums += np.where(wanted, sectors, np.uint64(0))
    view.put("sectors", sums, whole, Known.SECTORS)
