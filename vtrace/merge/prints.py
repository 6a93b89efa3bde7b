"""What two recordings of one run have in common: prints of packets and of chains, as a sample.

A packet is known again by the first bytes of its network layer, a chain by the thread that took or
returned it and its place in the ring. A sample holds the prints of the smallest hashes: of two
samples the same ones are left, however long the recordings are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.flows import Known, decode
from vtrace.model import Flag, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["LEAST", "Match", "Sample", "chain_prints", "matched", "packet_prints"]

PRINT: Final = np.dtype([("hash", "<u8"), ("time", "<i8"), ("queue", "<u2")])

MOST_PRINTS: Final = 1 << 17
"""Prints that a sample holds: 2.3 MB."""
MOST_ALIKE: Final = 8
"""Of what came more often than that in one recording, no time can be told."""
WIDER: Final = 4
"""What is so many windows away still says how sure an offset is."""
LEAST: Final = 8
"""Events that two recordings must share at one offset for it to be believed."""
SHARE: Final = 0.5
"""... and the part of all that they share."""
WINDOWS_NS: Final = tuple(10**power for power in range(3, 9))
"""How far the same events may be apart, 1 us to 0.1 s, tried in this order ..."""
OF_SPAN: Final = 100
"""... and this part of the time that they take: else any two runs would do."""

L3_BYTES: Final = 44
"""Of a packet, from its network header on: addresses, ports, and what tells it from the next."""
_TIMES: Final = 1 << 63


@dataclass(slots=True, frozen=True)
class Match:
    """Events of two recordings that are the same."""

    offset_ns: int
    """To be added to the times of the second."""
    uncertainty_ns: int
    """Distance within which 90 % of the differences are."""
    events: int
    shared: int
    """Prints that both have, at this offset or another."""
    queues: dict[int, int] = field(default_factory=dict)
    """Queue id of the second -> that of the first which the same events are of."""


class Sample:
    """Prints of one recording, bounded."""

    def __init__(self, most: int = MOST_PRINTS) -> None:
        self.rows = np.zeros(0, PRINT)
        self._most = most
        self._below = (1 << 64) - 1

    def add(self, rows: NDArray[Any]) -> None:
        """Take in prints."""
        rows = rows[rows["hash"] <= np.uint64(self._below)]
        if not len(rows):
            return
        self.rows = np.concatenate([self.rows, rows])
        while len(self.rows) > self._most and self._below:
            self._below >>= 1
            self.rows = self.rows[self.rows["hash"] <= np.uint64(self._below)]
        self.rows = self.rows[: self._most]


def _mixed(value: NDArray[np.uint64], part: NDArray[Any]) -> NDArray[np.uint64]:
    # splitmix64's finaliser over the parts, one after the other.
    mixed = (value + part.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    done: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(27))
    return done


def _prints(batch: EventBatch, rows: NDArray[Any], hashes: NDArray[Any]) -> NDArray[Any]:
    made = np.zeros(len(rows), PRINT)
    times = batch["time"][rows]
    made["hash"], made["queue"] = hashes, batch["queue"][rows]
    made["time"] = times.astype(np.int64)
    sane: NDArray[Any] = made[times < np.uint64(_TIMES)]
    return sane


def chain_prints(batch: EventBatch) -> NDArray[Any]:
    """Return prints of the POP and USED records whose place in the ring is known."""
    kinds, flags = batch["kind"], batch["flags"]
    pops = (kinds == Kind.POP) & (flags & int(Flag.POSITION) != 0)
    useds = (kinds == Kind.USED) & (flags & int(Flag.USED) != 0)
    rows = np.flatnonzero(pops | useds)
    place = np.where(pops, batch["position"], batch["used"])[rows]
    value = _mixed(np.zeros(len(rows), np.uint64), batch["tid"][rows])
    value = _mixed(value, kinds[rows])
    return _prints(batch, rows, _mixed(value, place))


def packet_prints(batch: EventBatch) -> NDArray[Any]:
    """Return prints of the packets whose network header was captured, and enough behind it."""
    snaps = batch.snaps
    kinds = batch["kind"][snaps.rows]
    seen = np.isin(kinds, (Kind.ENQUEUE, Kind.REFUSE, Kind.DELIVER, Kind.CAPTURED))
    chosen = np.flatnonzero(seen)
    if not len(chosen):
        return np.zeros(0, PRINT)
    snaps = snaps.take(chosen, snaps.rows[chosen])
    flows = decode(snaps, batch["flags"][snaps.rows] & int(Flag.NO_MAC) != 0)
    start = snaps.offsets[:-1] + flows["l3"]
    left = snaps.offsets[1:] - start
    size = np.where(flows["ip_len"] > 0, np.minimum(flows["ip_len"], L3_BYTES), L3_BYTES)
    usable = (flows["known"] & int(Known.IPV4 | Known.IPV6) != 0) & (left >= size)
    rows = np.flatnonzero(usable)
    start, size = start[rows], size[rows].astype(np.int64)
    value = np.zeros(len(rows), np.uint64)
    last = max(len(snaps.data) - 1, 0)
    # Time to live and header checksum of IPv4 change on the way; nothing else does.
    v4 = flows["ip_version"][rows] == 4
    for byte in range(L3_BYTES):
        here = (byte < size) & ~(v4 & (byte in (8, 10, 11)))
        found = np.where(here, snaps.data[np.minimum(start + byte, last)], 0)
        value = value * np.uint64(0x100000001B3) + found.astype(np.uint64) + np.uint64(1)
    hashes = _mixed(value, size)
    return _prints(batch, snaps.rows[rows].astype(np.int64), hashes)


def matched(first: Sample, second: Sample) -> Match | None:
    """Return at which offset two recordings share their events; None: at none."""
    one, two = _rare(first.rows), _rare(second.rows)
    below = np.searchsorted(one["hash"], two["hash"], side="left")
    above = np.searchsorted(one["hash"], two["hash"], side="right")
    counts = above - below
    total = int(counts.sum())
    if not total:
        return None
    right = np.repeat(np.arange(len(two)), counts)
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    left = below[right] + within
    apart = one["time"][left] - two["time"][right]
    order = np.argsort(apart, kind="stable")
    apart, left, right = apart[order], left[order], right[order]
    shared = len(np.unique(two["hash"][right]))
    span = int(np.ptp(two["time"][right]))
    for window in WINDOWS_NS:
        if window * OF_SPAN > span:
            return None
        ends = np.searchsorted(apart, apart + window, side="right")
        begin = int(np.argmax(ends - np.arange(total)))
        near = slice(begin, int(ends[begin]))
        events = len(np.unique(two["hash"][right[near]]))
        if events < LEAST or events < SHARE * shared:
            continue
        # The window has cut off what is further away: of each event the nearest counts.
        centre = int(apart[(near.start + near.stop) // 2])
        off = np.abs(apart - centre)
        best = np.lexsort((off, right))
        best = best[np.unique(right[best], return_index=True)[1]]
        around = np.sort(apart[best[off[best] <= WIDER * window]])
        offset = int(around[len(around) // 2])
        low, high = (int(v) for v in np.quantile(around - offset, (0.05, 0.95)))
        queues = _partners(one["queue"][left[near]], two["queue"][right[near]])
        return Match(offset, max(-low, high, 0), events, shared, queues)
    return None


def _rare(rows: NDArray[Any]) -> NDArray[Any]:
    # By hash, without what came too often to tell one from the other.
    rows = rows[np.argsort(rows["hash"], kind="stable")]
    _, inverse, counts = np.unique(rows["hash"], return_inverse=True, return_counts=True)
    return rows[counts[inverse] <= MOST_ALIKE] if len(rows) else rows


def _partners(first: NDArray[Any], second: NDArray[Any]) -> dict[int, int]:
    # Each queue's partner is the one that most of its events are of, and the other way round.
    keys = (second.astype(np.uint32) << np.uint32(16)) | first
    pairs, counts = np.unique(keys, return_counts=True)
    found: dict[int, int] = {}
    for pair in pairs[np.argsort(-counts, kind="stable")].tolist():
        theirs, ours = pair >> 16, pair & 0xFFFF
        if theirs and ours and theirs not in found and ours not in found.values():
            found[theirs] = ours
    return found
