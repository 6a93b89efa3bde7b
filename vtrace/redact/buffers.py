"""Bytes of requests and answers (REQUEST, RESPONSE) without the data that they carry.

Kept are the bytes that say what was asked, by the format of the queue: headers, CDBs, page numbers,
statuses. A queue of another format keeps none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers.batch import Snaps
from vtrace.model import Kind
from vtrace.requests import Format, format_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.requests import QueueFormat

__all__ = ["kept_bytes", "net_frames"]

ALL: Final = 1 << 31
CDB_BYTES: Final = 32
SENSE_END: Final = 30
SEGMENTED: Final = (11, 13, 14)
"""virtio-blk: types of which the data are ranges of sectors."""
SEGMENTS_END: Final = 16 + 16 * 16
MOST_NET_HEADER: Final = 12
"""Behind it stands the hash of addresses and ports."""
_ARGUMENTS: Final = {0: 3, 2: 4, 4: 4, 5: 10, 6: 12}
"""virtio-net, class of a command -> where its arguments that are numbers end."""
_REQUESTS: Final = {
    Format.BLK: 16,
    Format.SCSI_CONTROL: 24,
    Format.BALLOON_INFLATE: ALL,
    Format.BALLOON_DEFLATE: ALL,
    Format.BALLOON_STATS: ALL,
    Format.BALLOON_HINT: 4,
    Format.SERIAL_CONTROL_OUT: 8,
}
_ANSWERS: Final = {
    Format.SCSI: SENSE_END,
    Format.SCSI_CONTROL: 8,
    Format.SCSI_EVENT: 16,
    Format.SERIAL_CONTROL_IN: 8,
    Format.NET_CONTROL: 1,
}


def kept_bytes(
    batch: EventBatch, chosen: NDArray[np.int64], queues: Mapping[str, Any]
) -> NDArray[np.bool_]:
    """Return which bytes of the batch's snaps stay, of the snaps at indices ``chosen``."""
    snaps = batch.snaps
    keep = np.zeros(len(snaps.data), np.bool_)
    rows = snaps.rows[chosen]
    numbers = batch["queue"][rows]
    answer = batch["kind"][rows] == Kind.RESPONSE
    for number in np.unique(numbers).tolist():
        row = queues.get(str(number))
        form = format_of(row if isinstance(row, Mapping) else {})
        for side in (False, True):
            mine = (numbers == number) & (answer == side)
            if mine.any():
                _keep(keep, batch, chosen[mine], form, answer=side)
    return keep


def net_frames(batch: EventBatch, queues: Mapping[str, Any]) -> tuple[Snaps, NDArray[np.int64]]:
    """Return the frames behind the headers of network requests, and where their bytes are.

    One whose headers lie in several buffers ends with the buffer that it begins in.
    """
    snaps = batch.snaps
    rows = snaps.rows
    header = np.full(len(snaps), -1)
    for kind, wanted in ((Kind.REQUEST, Format.NET_TX), (Kind.RESPONSE, Format.NET_RX)):
        mine = batch["kind"][rows] == kind
        for number in np.unique(batch["queue"][rows[mine]]).tolist():
            row = queues.get(str(number))
            form = format_of(row if isinstance(row, Mapping) else {})
            if form.format is wanted:
                header[mine & (batch["queue"][rows] == number)] = form.header_bytes
    start = header - batch["length"][rows].astype(np.int64)
    size = np.diff(snaps.offsets)
    chosen = np.flatnonzero((header >= 0) & (start >= 0) & (start < size))
    begin = snaps.offsets[:-1][chosen] + start[chosen]
    offsets = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(snaps.offsets[1:][chosen] - begin, out=offsets[1:])
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], np.diff(offsets))
    made = Snaps(
        rows=rows[chosen],
        header=snaps.header[chosen],
        offsets=offsets,
        data=snaps.data[index],
    )
    return made, index


def _keep(
    keep: NDArray[np.bool_],
    batch: EventBatch,
    chosen: NDArray[np.int64],
    form: QueueFormat,
    *,
    answer: bool,
) -> None:
    snaps = batch.snaps
    rows = snaps.rows[chosen]
    start = snaps.offsets[:-1][chosen]
    size = snaps.offsets[1:][chosen] - start
    # Where in the chain the first byte of the buffer stands.
    first = batch["length"][rows].astype(np.int64)
    end = np.full(len(chosen), _limit(form, answer=answer))
    if form.format is Format.BLK and answer:
        # The status has a buffer of its own; where it has not, the record of USED tells it.
        end = np.where(batch["room"][rows] == 1, ALL, 0)
    elif form.format is Format.BLK:
        kind = _first_of_chain(batch, chosen, start, size, first)
        end[np.isin(kind, SEGMENTED)] = SEGMENTS_END
    elif form.format is Format.NET_CONTROL and not answer:
        group = _first_of_chain(batch, chosen, start, size, first)
        end = np.full(len(chosen), 2)
        for code, limit in _ARGUMENTS.items():
            end[group == code] = limit
    length = np.clip(end - first, 0, size)
    total = int(length.sum())
    begins = np.cumsum(length) - length
    keep[np.arange(total) + np.repeat(start - begins, length)] = True


def _limit(form: QueueFormat, *, answer: bool) -> int:
    if answer:
        if form.format is Format.NET_RX:
            return min(form.header_bytes, MOST_NET_HEADER)
        return _ANSWERS.get(form.format, 0)
    if form.format is Format.SCSI:
        return form.header_bytes + CDB_BYTES
    if form.format is Format.NET_TX:
        return min(form.header_bytes, MOST_NET_HEADER)
    return _REQUESTS.get(form.format, 0)


def _first_of_chain(
    batch: EventBatch,
    chosen: NDArray[np.int64],
    start: NDArray[Any],
    size: NDArray[Any],
    first: NDArray[np.int64],
) -> NDArray[np.int64]:
    # The first byte of the chain of each buffer; -1 where it stands in another batch.
    heads = batch["head"][batch.snaps.rows[chosen]]
    found = np.full(len(chosen), -1)
    begins = (first == 0) & (size > 0)
    for head in np.unique(heads).tolist():
        mine = np.flatnonzero(heads == head)
        at = np.where(begins[mine], np.arange(len(mine)), -1)
        last = np.maximum.accumulate(at)
        known = last >= 0
        found[mine[known]] = batch.snaps.data[start[mine[last[known]]]]
    return found
