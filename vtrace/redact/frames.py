"""Captured frames without payload and with other addresses; their checksums fit again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vtrace.redact.spans import CHECKSUM_AT, ICMP, LOOSE, PLAIN, UDP, Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import Snaps
    from vtrace.redact.addresses import Replacements

__all__ = ["checksums", "collect", "rewrite"]

NEEDS_CHECKSUM = 1
"""VIRTIO_NET_HDR_F_NEEDS_CSUM: the field holds the sum of the pseudo header alone."""


def _places(
    spans: Spans, rows: NDArray[np.int64], at: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    # Index of each byte among the data, and whether it was captured.
    frames = spans.frames
    index = (frames.start[rows] + at)[:, np.newaxis] + np.arange(length)
    inside = (at[:, np.newaxis] + np.arange(length)) < frames.size[rows][:, np.newaxis]
    return index, inside


def collect(spans: Spans, tables: Mapping[str, Replacements]) -> None:
    """Take in all addresses of frames."""
    for what, rows, at, length in spans.found:
        if what in tables:
            index, _ = _places(spans, rows, at, length)
            tables[what].add(spans.frames.data[index])


def rewrite(
    snaps: Snaps, spans: Spans, tables: Mapping[str, Replacements]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the bytes of frames as they may be shown.

    Returns:
        The bytes, as long as before, with 0 for what is not a known header; and which of them are
        numbers that anyone may choose.
    """
    data = spans.frames.data
    made = np.zeros(len(snaps.data), np.uint8)
    loose = np.zeros(len(made), np.bool_)
    for what, rows, at, length in spans.found:
        index, inside = _places(spans, rows, at, length)
        if what in (PLAIN, LOOSE):
            index = index[inside]
            made[index] = data[index]
            if what == LOOSE:
                loose[index] = True
        else:
            made[index] = tables[what].of(data[index])
    return made, loose


class _Sums:
    # Sums of 16-bit words over any stretch of the data.
    def __init__(self, data: NDArray[np.uint8]) -> None:
        weights = np.where(np.arange(len(data)) & 1, 1, 256)
        both = np.zeros(len(data) + 1, np.int64)
        np.cumsum(data * weights, out=both[1:])
        other = np.zeros(len(data) + 1, np.int64)
        np.cumsum(data * (257 - weights), out=other[1:])
        self._even, self._odd = both, other

    def of(self, begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        even = self._even[end] - self._even[begin]
        odd = self._odd[end] - self._odd[begin]
        return np.where(begin & 1, odd, even)


def _folded(value: NDArray[np.int64]) -> NDArray[np.int64]:
    # Of a sum in ones' complement, which 0xffff does not change.
    return value % 0xFFFF


def checksums(snaps: Snaps, spans: Spans, made: NDArray[np.uint8]) -> int:
    """Make the checksums in rewritten frames fit; return how many were set to 0.

    One that was right is right again, one that was wrong is wrong by as much, and one that stood
    for a part still does. That of a packet of which bytes are missing cannot be had: it becomes 0.
    """
    if not len(made):
        return 0
    frames, data = spans.frames, spans.frames.data
    old, new = _Sums(data), _Sums(made)
    for rows, at, length in spans.headers:
        fits = at + length <= frames.size[rows]
        begin = frames.start[rows] + at
        _adjust(data, made, old, new, begin[fits], (begin + length)[fits], (begin + 10)[fits])
        # With options that were not captured, nothing can be said.
        for byte in (10, 11):
            made[begin[~fits] + byte] = 0
    unknown = 0
    for one in spans.transports:
        for protocol in np.unique(one.protocol).tolist():
            where = CHECKSUM_AT.get(protocol)
            if where is None:
                continue
            mine = (one.protocol == protocol) & (one.start + where + 2 <= frames.size[one.rows])
            rows = one.rows[mine]
            begin = frames.start[rows] + one.start[mine]
            place, end = begin + where, frames.start[rows] + one.end[mine]
            addresses = np.where(one.version[mine] == 6, 8, 12) + one.l3[mine] + frames.start[rows]
            size = np.where(one.version[mine] == 6, 32, 8)
            none = (data[place] == 0) & (data[place + 1] == 0)
            held = snaps.header["hdr_flags"][rows] & NEEDS_CHECKSUM != 0
            held &= one.whole[mine]
            whole = one.whole[mine] & (one.end[mine] <= frames.size[rows]) & (end >= place + 2)
            held &= ~none | (protocol != UDP)
            pseudo = new.of(addresses, addresses + size) - old.of(addresses, addresses + size)
            if protocol in (ICMP, 2):
                pseudo = np.zeros_like(pseudo)
            # The sum of the pseudo header is stored as it is, a checksum as its complement.
            value = data[place].astype(np.int64) << 8 | data[place + 1]
            part = _nonzero(_folded(value + pseudo))
            difference = np.zeros_like(value)
            full = whole & ~held
            difference[full] = (
                new.of(begin[full], end[full]) - old.of(begin[full], end[full]) + pseudo[full]
            )
            right = _folded(value - difference)
            right = np.where((right == 0) & (value != 0), 0xFFFF, right)
            keep_zero = none & (protocol == UDP)
            chosen = np.where(held, part, np.where(full & ~keep_zero, right, 0))
            unknown += int((~held & ~full & ~none).sum())
            made[place], made[place + 1] = chosen >> 8, chosen & 0xFF
    return unknown


def _nonzero(value: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(value == 0, 0xFFFF, value)


def _adjust(
    data: NDArray[np.uint8],
    made: NDArray[np.uint8],
    old: _Sums,
    new: _Sums,
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    place: NDArray[np.int64],
) -> None:
    # RFC 1624: the complement moves by what the sum moved; the field itself is the same in both.
    value = data[place].astype(np.int64) << 8 | data[place + 1]
    difference = new.of(begin, end) - old.of(begin, end)
    found: NDArray[Any] = np.where(value == 0, 0, _folded(value - difference))
    made[place], made[place + 1] = found >> 8, found & 0xFF
