"""The check that nothing was left behind: a redacted recording held against its original.

It decodes frames with ``vtrace.flows``, not with what redacted them, and trusts nothing that was
counted before. Bytes count as left behind where both recordings have the same at the same place.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers.batch import EventBatch, Snaps
from vtrace.flows import Known, decode
from vtrace.model import Flag, Kind
from vtrace.redact import search
from vtrace.redact.buffers import net_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.redact.names import Names

__all__ = ["Check"]

MOST: Final = 20
"""Findings that are said."""
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f.:]{3,45}")
_MAC: Final = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
TCP, ICMP, ICMP6 = 6, 1, 58
HEADERS: Final = {6: 20, 17: 8, 136: 8, 132: 4, 1: 8, 2: 8}


class Check:
    """Looks at batches of the original and of what was written, pair by pair."""

    def __init__(self, names: Names) -> None:
        self.found: list[str] = []
        """What was left behind, a sentence each."""
        self.texts = 0
        self.bytes = 0
        """Captured bytes that were looked at."""
        self._names = names
        self._needles = search.Needles.of(names)
        self._seen: set[str] = set()
        self._queues: dict[str, Any] = {}
        self._secret: set[str] = set()
        for table in names.tables.values():
            for row in table.secret():
                raw = row.tobytes()
                self._secret.add(raw.hex(":") if len(raw) == 6 else str(ipaddress.ip_address(raw)))

    def pair(self, before: EventBatch, after: EventBatch) -> None:
        """Look at a batch as it was and as it was written."""
        self.metadata(after.meta)
        old, new = before.snaps, after.snaps
        if len(old) != len(new) or not np.array_equal(old.offsets, new.offsets):
            self._note("the batches do not have the same packets")
            return
        if not len(new):
            return
        self.bytes += len(new.data)
        queues = before.meta.get("queues")
        self._queues = queues if isinstance(queues, dict) else self._queues
        kinds = after["kind"][new.rows]
        frames = ~np.isin(kinds, (Kind.REQUEST, Kind.RESPONSE))
        known = np.isin(kinds, [int(kind) for kind in Kind])
        structure, end = _structure(new, after["flags"][new.rows] & np.uint16(Flag.NO_MAC) != 0)
        structure &= np.repeat(frames, np.diff(new.offsets))
        self._payload(new, np.where(known, end, 0), frames)
        if not frames.all():
            part, index = net_frames(after, self._queues)
            structure[index], end = _structure(part, np.zeros(len(part), np.bool_))
            self._payload(part, end, np.ones(len(part), np.bool_))
        for at, length in search.same(old.data, new.data, self._needles):
            index = at[:, np.newaxis] + np.arange(length)
            left = at[~structure[index].any(axis=1)]
            if len(left):
                place = int(np.searchsorted(new.offsets, left[0], side="right")) - 1
                what = "an address" if length in (4, 6, 16) else "a name"
                self._note(
                    f"{what} of {length} bytes stands in the captured bytes of row "
                    f"{int(new.rows[place])} of batch {after.number}, at byte "
                    f"{int(left[0] - new.offsets[place])} ({len(left)} in all)"
                )

    def metadata(self, meta: Any) -> None:
        """Look at all texts of metadata, as they come out of the file."""
        for text in search.texts_of(meta):
            if text in self._seen:
                continue
            if len(self._seen) < 1 << 18:
                self._seen.add(text)
            self.texts += 1
            if not any(char.isalpha() or char in ".:" for char in text):
                continue
            for name in self._names.left_in(text):
                kind, _ = self._names.secrets[name.lower()]
                self._note(
                    f"the name {json.dumps(name)} ({kind}) stands in {json.dumps(text)[:200]}"
                )
            for found in self._addresses(text):
                self._note(f"the address {found} stands in {json.dumps(text)[:200]}")

    def _addresses(self, text: str) -> Iterable[str]:
        for word in _MAC.findall(text):
            if (made := word.lower().replace("-", ":")) in self._secret:
                yield from self._unless_ours(made)
        for word in _ADDRESS.findall(text):
            for part in (word, word.rpartition(":")[0], word.strip(".:")):
                try:
                    made = str(ipaddress.ip_address(part))
                except ValueError:
                    continue
                if made in self._secret:
                    yield from self._unless_ours(made)
                break

    def _unless_ours(self, address: str) -> Iterable[str]:
        # What stands for one address may be another.
        return () if address in self._names.addresses else (address,)

    def _payload(self, snaps: Snaps, end: NDArray[np.int64], frames: NDArray[np.bool_]) -> None:
        sizes = np.diff(snaps.offsets)
        position = np.arange(len(snaps.data)) - np.repeat(snaps.offsets[:-1], sizes)
        behind = position >= np.repeat(np.where(frames, end, 1 << 20), sizes)
        left = np.flatnonzero(behind & (snaps.data != 0))
        if len(left):
            place = int(np.searchsorted(snaps.offsets, left[0], side="right")) - 1
            self._note(
                f"payload stands in the captured bytes of row {int(snaps.rows[place])}, at byte "
                f"{int(left[0] - snaps.offsets[place])} ({len(left)} bytes in all)"
            )

    def _note(self, sentence: str) -> None:
        if len(self.found) < MOST:
            self.found.append(sentence)


def _structure(
    snaps: Snaps, no_mac: NDArray[np.bool_], deep: bool = True
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    # Which bytes are types, lengths, flags and ports; where the payload of each frame begins.
    rows = decode(snaps, no_mac)
    known = rows["known"]
    starts = snaps.offsets[:-1]
    sizes = np.diff(snaps.offsets)
    position = np.arange(len(snaps.data)) - np.repeat(starts, sizes)
    l3, l4 = rows["l3"].astype(np.int64), rows["l4"].astype(np.int64)
    protocol = rows["protocol"]
    ip = known & int(Known.IPV4 | Known.IPV6) != 0
    carried = known & int(Known.PROTOCOL) != 0
    four = known & int(Known.IPV4) != 0
    later = rows["fragment_offset"] > 0

    def each(values: Any) -> NDArray[Any]:
        return np.repeat(values, sizes)

    # Behind an unknown type there is nothing but tags.
    begin = np.where(no_mac, 0, 12)
    head = np.where(ip, l3 + np.where(four, 12, 8), np.where(no_mac, 0, 22))
    marks = (position >= each(begin)) & (position < each(head))
    transport = ip & carried & ~later
    # IPv6: what lies between are the first bytes of extension headers.
    between = ip & ~four
    marks |= (
        each(between)
        & (position >= each(l3 + 40))
        & (position < each(np.where(carried, l4, 1 << 16)))
    )
    marks |= each(transport) & (position >= each(l4)) & (position < each(l4 + 4))
    tcp = transport & (protocol == TCP)
    marks |= each(tcp) & (position >= each(l4 + 12)) & (position < each(l4 + 20))
    udp = transport & np.isin(protocol, (17, 136))
    marks |= each(udp) & (position >= each(l4)) & (position < each(l4 + 8))

    length = np.zeros(len(rows), np.int64)
    for number, size in HEADERS.items():
        length[protocol == number] = size
    length[later] = 0
    end = np.where(transport, l4 + length, np.where(later & ip, l4, 1 << 16))
    end = np.where(ip & carried, end, np.where(ip, 1 << 16, np.where(no_mac, 0, 22)))
    arp = rows["eth_type"] == 0x0806
    end[arp] += 28
    end[protocol == ICMP6] = 1 << 16
    if deep:
        _quoted(snaps, rows, transport, l4, marks, end)
    return marks, end


def _quoted(
    snaps: Snaps,
    rows: NDArray[Any],
    transport: NDArray[np.bool_],
    l4: NDArray[np.int64],
    marks: NDArray[np.bool_],
    end: NDArray[np.int64],
) -> None:
    # What an ICMP error quotes is a packet of its own, without a link header.
    size = np.diff(snaps.offsets)
    there = transport & np.isin(rows["protocol"], (ICMP, ICMP6)) & (l4 + 9 <= size)
    mine = np.flatnonzero(there)
    if not len(mine):
        return
    kind = snaps.data[snaps.offsets[:-1][mine] + l4[mine]]
    errors = np.where(
        rows["protocol"][mine] == ICMP,
        np.isin(kind, (3, 4, 5, 11, 12)),
        np.isin(kind, (1, 2, 3, 4)),
    )
    mine = mine[errors.astype(np.bool_)]
    if not len(mine):
        return
    begin = snaps.offsets[:-1][mine] + l4[mine] + 8
    sizes = snaps.offsets[1:][mine] - begin
    offsets = np.zeros(len(mine) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], sizes)
    header = snaps.header[mine].copy()
    header["vlan_tci"] = header["vlan_proto"] = 0
    inner = Snaps(rows=snaps.rows[mine], header=header, offsets=offsets, data=snaps.data[index])
    inner_marks, inner_end = _structure(inner, np.ones(len(mine), np.bool_), deep=False)
    marks[index] |= inner_marks
    end[mine] = l4[mine] + 8 + inner_end
