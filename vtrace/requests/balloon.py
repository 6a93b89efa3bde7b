"""virtio-balloon: arrays of page numbers, statistics, free pages.

A page of the balloon has 4096 bytes whatever the guest's pages have, and its number is a le32. What
a guest writes there may be anything: numbers may come twice, or lie beyond its memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.requests.asked import Known, PartState
from vtrace.requests.queues import Format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.requests.parts import Part
    from vtrace.requests.view import View

__all__ = [
    "MOST_BYTES",
    "PAGE_BYTES",
    "PageSet",
    "decode_free_pages",
    "decode_pages",
    "decode_stats",
    "page_numbers",
    "ranges_of",
    "stats_of",
]

PAGE_BYTES: Final = 4096
PFN_BYTES: Final = 4
MOST_BYTES: Final = 2048
"""Bytes of an array that are looked at: as many as a probe records."""
STAT_BYTES: Final = 10
CHUNK: Final = 1 << 12

COMMAND: Final = 1 << 8
"""Code of a hint queue's command, which the driver writes before and behind its pages."""


def decode_pages(view: View) -> None:
    """Decode requests of the inflate and the deflate queue."""
    readable = view.readable
    view.put("operation", 0, np.ones(len(view.out), np.bool_), Known.OPERATION)
    count = np.maximum(readable, 0) // PFN_BYTES
    view.put("pages", count, readable >= 0, Known.PAGES)
    numbers, row = page_numbers(view.chains.request, view.rows)
    found = np.bincount(row, minlength=len(view.rows))
    need = np.where(readable >= 0, np.maximum(count, 1) * PFN_BYTES, PFN_BYTES)
    view.asks((found >= count) & (found > 0), need)
    first = np.full(len(view.rows), np.iinfo(np.uint32).max, np.uint32)
    last = np.zeros(len(view.rows), np.uint32)
    np.minimum.at(first, row, numbers)
    np.maximum.at(last, row, numbers)
    view.put("first_page", first, found > 0, Known.PAGE_SPAN)
    view.put("last_page", last, found > 0, Known.PAGE_SPAN)
    view.out["known"][found > 0] |= np.uint32(Known.DETAIL)


def decode_stats(view: View) -> None:
    """Decode requests of the statistics queue: {le16 tag, le64 value} each."""
    view.put("operation", 0, np.ones(len(view.out), np.bool_), Known.OPERATION)
    there = view.request(STAT_BYTES).has(0, STAT_BYTES)
    view.asks(there, STAT_BYTES)
    view.out["known"][there] |= np.uint32(Known.DETAIL)


def decode_free_pages(view: View) -> None:
    """Decode requests of the free page queues: the pages are the buffers themselves."""
    readable, writable = view.readable, view.writable
    command, there = view.request(4).little(0, 4)
    says = (readable > 0) if view.format == Format.BALLOON_HINT else np.zeros_like(there)
    view.put("operation", np.where(says, COMMAND, 0), (readable >= 0) | there, Known.OPERATION)
    view.put("value", command, there & says, Known.VALUE)
    view.put("pages", np.maximum(writable, 0) // PAGE_BYTES, (writable > 0) & ~says, Known.PAGES)
    view.asks(there, 4)
    view.out["request_state"][~says] = PartState.NOT_APPLICABLE


def page_numbers(part: Part, rows: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return all recorded page numbers of these chains, and for each the place of its chain."""
    numbers, chain = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for at in range(0, len(rows), CHUNK):
        some = rows[at : at + CHUNK]
        lengths = part.lengths[some]
        widest = int(lengths.max()) if len(lengths) and (lengths >= 0).all() else MOST_BYTES
        width = min(widest, MOST_BYTES) // PFN_BYTES * PFN_BYTES
        if not width:
            continue
        found = part.window(some, width)
        whole = found.have.reshape(len(some), -1, PFN_BYTES).all(axis=2)
        # Beyond the end of the array there is nothing, whatever was recorded.
        inside = np.where(lengths >= 0, lengths, MOST_BYTES)[:, np.newaxis] // PFN_BYTES
        whole &= np.arange(width // PFN_BYTES) < inside
        numbers.append(found.data.view("<u4")[whole].astype(np.uint32))
        chain.append(np.nonzero(whole)[0] + at)
    return np.concatenate(numbers), np.concatenate(chain)


def ranges_of(numbers: NDArray[Any]) -> NDArray[np.int64]:
    """Return numbers as ranges: rows of (first, last), in order, none touching another."""
    distinct = np.unique(numbers).astype(np.int64)
    if not len(distinct):
        return np.zeros((0, 2), np.int64)
    ends = np.flatnonzero(np.diff(distinct) != 1)
    first = distinct[np.concatenate([[0], ends + 1])]
    last = distinct[np.concatenate([ends, [len(distinct) - 1]])]
    return np.stack([first, last], axis=1)


def stats_of(data: bytes) -> list[tuple[int, int]]:
    """Return the statistics in an array: (tag, value) each, as far as it is whole."""
    return [
        (
            int.from_bytes(data[at : at + 2], "little"),
            int.from_bytes(data[at + 2 : at + STAT_BYTES], "little"),
        )
        for at in range(0, len(data) - STAT_BYTES + 1, STAT_BYTES)
    ]


class PageSet:
    """Page numbers of any number of requests as ranges, in bounded memory."""

    MOST: Final = 1 << 16
    """Ranges that are kept: a guest that scatters more has the newest left out."""

    def __init__(self) -> None:
        self.ranges: NDArray[np.int64] = np.zeros((0, 2), np.int64)
        self.cut = False
        """There were more ranges than are kept."""

    def add(self, numbers: NDArray[Any]) -> None:
        """Take in page numbers."""
        both = np.concatenate([self.ranges, ranges_of(numbers)])
        if not len(both):
            return
        both = both[np.argsort(both[:, 0], kind="stable")]
        reach = np.maximum.accumulate(both[:, 1])
        starts = np.ones(len(both), np.bool_)
        starts[1:] = both[1:, 0] > reach[:-1] + 1
        begin = np.flatnonzero(starts)
        ends = np.append(begin[1:], len(both)) - 1
        merged = np.stack([both[begin, 0], reach[ends]], axis=1)
        if len(merged) > self.MOST:
            merged, self.cut = merged[: self.MOST], True
        self.ranges = merged

    @property
    def pages(self) -> int:
        """Distinct pages."""
        return int((self.ranges[:, 1] - self.ranges[:, 0] + 1).sum())
