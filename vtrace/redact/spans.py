"""Where in captured frames addresses and headers stand, in bulk; all the rest is payload.

A frame is walked by what its headers say, each checked against what was captured. What is not
known is not walked into, so that it is payload: behind an unknown type there is nothing to keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.flows import Frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import Snaps

__all__ = ["L4", "LOOSE", "PLAIN", "Spans", "walk"]

PLAIN: Final = "plain"
"""Part of a header: kept."""
LOOSE: Final = "loose"
"""A number of a header that anyone may choose: kept, unless it reads as an address."""

MAX_TAGS: Final = 2
MAX_EXTENSIONS: Final = 8
MAX_OPTIONS: Final = 8
TCP, UDP, ICMP, ICMP6, IGMP, SCTP, UDPLITE = 6, 17, 1, 58, 2, 132, 136
CHECKSUM_AT: Final = {TCP: 16, UDP: 6, ICMP: 2, ICMP6: 2, IGMP: 2, UDPLITE: 6}


@dataclass(frozen=True, slots=True)
class L4:
    """Transport headers of frames: which, where they start and where their packet ends."""

    rows: NDArray[np.int64]
    version: NDArray[np.int64]
    protocol: NDArray[np.int64]
    l3: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    """By the length in the IP header, from the start of the frame; 0: not told."""
    whole: NDArray[np.bool_]
    """No fragment, and not quoted in another packet."""


@dataclass(slots=True)
class Spans:
    """What was found: (what, rows, offset in the frame, bytes) each."""

    frames: Frames
    found: list[tuple[str, NDArray[np.int64], NDArray[np.int64], int]] = field(default_factory=list)
    headers: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=list
    )
    """IPv4 headers: rows, where they start, their bytes."""
    transports: list[L4] = field(default_factory=list)

    def put(self, what: str, where: NDArray[np.bool_], offset: Any, length: int) -> None:
        """Note a part of the frames at ``where``; an address only where all of it was captured."""
        rows = np.flatnonzero(where)
        at = np.broadcast_to(offset, where.shape)[rows].astype(np.int64)
        if what not in (PLAIN, LOOSE):
            there = at + length <= self.frames.size[rows]
            rows, at = rows[there], at[there]
        if len(rows):
            self.found.append((what, rows, at, length))


def walk(snaps: Snaps, no_mac: NDArray[np.bool_]) -> Spans:
    """Return what the headers of frames say about their bytes.

    ``no_mac`` says which of them start at the network header.
    """
    frames = Frames(snaps)
    spans = Spans(frames)
    count = len(snaps)
    ethernet = ~no_mac
    offset = np.zeros(count, np.int64)
    spans.put("MAC", ethernet, 0, 6)
    spans.put("MAC", ethernet, 6, 6)
    spans.put(PLAIN, ethernet & frames.has(offset, 14), 12, 2)
    whole = ethernet & frames.has(offset, 14)
    kind = frames.number(offset + 12, 2, whole)
    offset[ethernet] = 14
    for _ in range(MAX_TAGS):
        tagged = whole & ((kind == 0x8100) | (kind == 0x88A8)) & frames.has(offset, 4)
        if not tagged.any():
            break
        spans.put(PLAIN, tagged, offset, 4)
        kind = np.where(tagged, frames.number(offset + 2, 2, tagged), kind)
        offset[tagged] += 4
    version = frames.number(offset, 1, no_mac & frames.has(offset, 1)) >> np.uint64(4)
    kind = np.where(no_mac & (version == 4), np.uint64(0x0800), kind)
    kind = np.where(no_mac & (version == 6), np.uint64(0x86DD), kind)
    _arp(spans, (kind == 0x0806) & whole, offset)
    _network(spans, (kind == 0x0800), (kind == 0x86DD), offset, quoted=False)
    return spans


def _arp(spans: Spans, here: NDArray[np.bool_], at: NDArray[np.int64]) -> None:
    here = here & spans.frames.has(at, 8)
    here &= spans.frames.number(at, 6, here) == 0x0001_0800_0604
    spans.put(PLAIN, here, at, 8)
    for name, start, length in (("MAC", 8, 6), ("IPv4", 14, 4), ("MAC", 18, 6), ("IPv4", 24, 4)):
        spans.put(name, here, at + start, length)


def _network(
    spans: Spans,
    four: NDArray[np.bool_],
    six: NDArray[np.bool_],
    at: NDArray[np.int64],
    *,
    quoted: bool,
) -> None:
    frames = spans.frames
    first = frames.number(at, 1, (four | six) & frames.has(at, 1)).astype(np.int64)
    length = (first & 15) << 2
    # A header of which bytes are missing is not kept.
    four = four & (first >> 4 == 4) & (length >= 20) & frames.has(at, 20)
    total = frames.number(at + 2, 2, four).astype(np.int64)
    four &= (total == 0) | (total >= length)
    six = six & (first >> 4 == 6) & frames.has(at, 40)
    start, protocol = np.zeros_like(at), np.full(len(at), -1)
    end, later = np.zeros_like(at), np.zeros(len(at), np.bool_)
    fragment = later.copy()

    spans.put(PLAIN, four, at, 12)
    for place in (12, 16):
        spans.put("IPv4", four, at + place, 4)
    bits = frames.number(at + 6, 2, four)
    fragment |= four & (bits & np.uint64(0x3FFF) != 0)
    later |= four & (bits & np.uint64(0x1FFF) != 0)
    protocol[four] = frames.number(at + 9, 1, four)[four]
    start[four] = (at + length)[four]
    end[four] = (at + total)[four]
    rows = np.flatnonzero(four)
    spans.headers.append((rows, at[rows], length[rows]))

    spans.put(PLAIN, six, at, 8)
    for place in (8, 24):
        spans.put("IPv6", six, at + place, 16)
    walking = six
    behind = at + 40
    end = np.where(walking, behind + frames.number(at + 4, 2, walking).astype(np.int64), end)
    following = frames.number(at + 6, 1, walking).astype(np.int64)
    for _ in range(MAX_EXTENSIONS):
        extension = walking & np.isin(following, (0, 43, 44, 51, 60, 135))
        done = walking & ~extension
        protocol[done], start[done] = following[done], behind[done]
        walking = extension & frames.has(behind, 8)
        if not walking.any():
            break
        part = walking & (following == 44)
        spans.put(PLAIN, walking & ~part, behind, 2)
        spans.put(PLAIN, part, behind, 8)
        fragment |= part
        beyond = part & (frames.number(behind + 2, 2, part) & np.uint64(0xFFF8) != 0)
        later |= beyond
        size = frames.number(behind + 1, 1, walking).astype(np.int64)
        step = np.where(following == 51, (size + 2) * 4, (size + 1) * 8)
        step[part] = 8
        following = np.where(walking, frames.number(behind, 1, walking).astype(np.int64), following)
        behind = np.where(walking, behind + step, behind)
        walking &= ~beyond
    there = (protocol >= 0) & ~later
    _transport(spans, there, protocol, start, quoted=quoted)
    rows = np.flatnonzero(there)
    spans.transports.append(
        L4(
            rows=rows,
            version=np.where(six, 6, 4)[rows],
            protocol=protocol[rows],
            l3=at[rows],
            start=start[rows],
            end=end[rows],
            whole=~fragment[rows] & (not quoted),
        )
    )


def _transport(
    spans: Spans,
    here: NDArray[np.bool_],
    protocol: NDArray[np.int64],
    at: NDArray[np.int64],
    *,
    quoted: bool,
) -> None:
    frames = spans.frames
    tcp = here & (protocol == TCP)
    spans.put(PLAIN, tcp, at, 4)
    spans.put(LOOSE, tcp, at + 4, 8)
    spans.put(PLAIN, tcp, at + 12, 8)
    spans.put(PLAIN, here & np.isin(protocol, (UDP, UDPLITE)), at, 8)
    spans.put(PLAIN, here & (protocol == SCTP), at, 4)
    igmp = here & (protocol == IGMP)
    spans.put(PLAIN, igmp, at, 4)
    spans.put("IPv4", igmp, at + 4, 4)
    for number, echoes, errors in (
        (ICMP, (0, 8), (3, 4, 5, 11, 12)),
        (ICMP6, (128, 129), (1, 2, 3, 4)),
    ):
        icmp = here & (protocol == number)
        if not icmp.any():
            continue
        kind = frames.number(at, 1, icmp & frames.has(at, 1)).astype(np.int64)
        spans.put(PLAIN, icmp, at, 4)
        redirect = icmp & (kind == 5) & (number == ICMP)
        spans.put("IPv4", redirect, at + 4, 4)
        error = icmp & np.isin(kind, errors) & frames.has(at, 8)
        spans.put(LOOSE, (icmp & np.isin(kind, echoes)) | (error & ~redirect), at + 4, 4)
        if error.any() and not quoted:
            no = np.zeros_like(error)
            four, six = (error, no) if number == ICMP else (no, error)
            _network(spans, four, six, at + 8, quoted=True)
        if number == ICMP6 and not quoted:
            _neighbours(spans, icmp, kind, at)


def _neighbours(
    spans: Spans, icmp: NDArray[np.bool_], kind: NDArray[np.int64], at: NDArray[np.int64]
) -> None:
    # RFC 4861, and the group of RFC 2710.
    frames = spans.frames
    sized = {130: 24, 131: 24, 132: 24, 133: 8, 134: 16, 135: 24, 136: 24, 137: 40}
    size = np.zeros_like(at)
    for number, octets in sized.items():
        size[icmp & (kind == number)] = octets
    spans.put(PLAIN, size > 0, at + 4, 4)
    spans.put(PLAIN, icmp & (kind == 134), at + 8, 8)
    spans.put("IPv6", size >= 24, at + 8, 16)
    spans.put("IPv6", size >= 40, at + 24, 16)
    options = icmp & (kind >= 133) & (kind <= 137)
    place = at + size
    for _ in range(MAX_OPTIONS):
        options &= frames.has(place, 8)
        if not options.any():
            break
        option = frames.number(place, 1, options)
        length = frames.number(place + 1, 1, options).astype(np.int64) * 8
        options &= length > 0
        spans.put(PLAIN, options, place, 2)
        link = options & ((option == 1) | (option == 2)) & (length == 8)
        spans.put("MAC", link, place + 2, 6)
        spans.put(PLAIN, options & (option == 5), place, 8)
        prefix = options & (option == 3) & (length == 32)
        spans.put(PLAIN, prefix, place, 16)
        spans.put("IPv6", prefix, place + 16, 16)
        place = np.where(options, place + length, place)
