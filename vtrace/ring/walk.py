"""Descriptor chains, followed with care: a guest may have written anything into them.

Each descriptor of the ring is looked at once for all chains, and all indirect tables together have
a budget, so the work is bounded by the size of the ring whatever stands in it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from vtrace.model import Ring
from vtrace.ring.findings import Findings
from vtrace.ring.nouns import Buffer, Feature, Memory, RawRing

__all__ = ["INDIRECT", "NEXT", "WRITE", "Walk", "Walker"]

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4

_ENTRY: Final = struct.Struct("<QIHH")
_TABLE_MOST: Final = 1024
"""Entries that a table may have on a ring that is smaller: QEMU takes that many."""
_BUDGET_EACH: Final = 1024
_BUDGET_MOST: Final = 1 << 18

Fields = tuple[int, int, int, int]
"""A descriptor. Split: address, length, flags, next; packed: address, length, id, flags."""


@dataclass(slots=True)
class Walk:
    """What was found on the way along one chain."""

    slots: list[int] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    indirect: int | None = None
    buffer_id: int = 0
    """Packed: id in the last descriptor."""
    readable: int = 0
    writable: int = 0


class Walker:
    """Follows the chains of one ring."""

    def __init__(self, raw: RawRing, memory: Memory | None, findings: Findings) -> None:
        self.raw, self.memory, self.findings = raw, memory, findings
        self.table: list[Fields] = list(_ENTRY.iter_unpack(raw.desc))
        self.claimed: dict[int, int] = {}
        """Slot -> head of the chain that it was found in (split)."""
        self.budget = min(_BUDGET_EACH * raw.size, _BUDGET_MOST)
        self.work = 0
        self.unread = 0
        """Indirect tables that were not read because nobody can."""

    def split(self, head: int, *, quiet: bool = False) -> Walk:
        """Follow a chain of a split ring; ``quiet``: it may be stale, so nothing is found."""
        findings = Findings() if quiet else self.findings
        walk = Walk()
        at, size = head, self.raw.size
        while True:
            if at in self.claimed:
                same = self.claimed[at] == head
                word = "chain_loop" if same else "chain_shared"
                other = "" if same else f", which chain {self.claimed[at]} has already"
                findings.add(word, f"chain {head} comes to descriptor {at}{other or ' again'}", at)
                break
            self.claimed[at] = head
            walk.slots.append(at)
            self.work += 1
            address, length, flags, following = self.table[at]
            if flags & INDIRECT:
                self._indirect(walk, f"chain {head}", (address, length, flags), at, findings)
                break
            walk.buffers.append(Buffer(address, length, flags, at))
            if not flags & NEXT:
                break
            if following >= size:
                findings.add(
                    "next_range",
                    f"descriptor {at} goes on at {following}; the table has {size}",
                    at,
                )
                break
            at = following
        self._measure(walk, f"chain {head}", walk.slots[0] if walk.slots else head, findings)
        return walk

    def packed(self, position: int, most: int) -> Walk:
        """Follow a chain of a packed ring from a position on; it takes at most so many places."""
        walk = Walk()
        size = self.raw.size
        where = f"the chain at place {position % size}"
        for at in (n % size for n in range(position, position + most)):
            self.work += 1
            walk.slots.append(at)
            address, length, walk.buffer_id, flags = self.table[at]
            if flags & INDIRECT:
                self._indirect(walk, where, (address, length, flags), at, self.findings)
                break
            walk.buffers.append(Buffer(address, length, flags, at))
            if not flags & NEXT:
                break
        self._measure(walk, where, position % size, self.findings)
        return walk

    def _indirect(
        self, walk: Walk, where: str, entry: tuple[int, int, int], at: int, findings: Findings
    ) -> None:
        address, length, flags = entry
        walk.indirect = address
        if not self.raw.has(Feature.INDIRECT_DESC):
            findings.add(
                "indirect_feature",
                f"descriptor {at} has an indirect table, and INDIRECT_DESC was not negotiated",
                at,
            )
        if flags & NEXT:
            findings.add(
                "indirect_next", f"descriptor {at} has an indirect table and a successor", at
            )
        if length == 0 or length % 16:
            findings.add(
                "indirect_length",
                f"the indirect table of descriptor {at} has {length} bytes",
                at,
            )
        entries = length // 16
        most = max(self.raw.size, _TABLE_MOST)
        if entries > most:
            findings.add(
                "indirect_long",
                f"the indirect table of descriptor {at} has {entries} entries; {most} are"
                " looked at",
                at,
            )
            entries = most
        if not entries:
            return
        if entries > self.budget:
            findings.add("budget", f"the indirect table of descriptor {at} was not read", at)
            return
        if self.memory is None:
            self.unread += 1
            return
        self.budget -= entries
        data = None if address + 16 * entries > 1 << 64 else self.memory(address, 16 * entries)
        if data is None or len(data) != 16 * entries:
            findings.add(
                "indirect_memory",
                f"the indirect table of descriptor {at} at {address:#x} cannot be read",
                at,
            )
            return
        table: list[Fields] = list(_ENTRY.iter_unpack(data))
        if self.raw.layout == Ring.PACKED:
            self._packed_table(walk, table, at, findings)
        else:
            self._split_table(walk, table, where, at, findings)

    def _packed_table(self, walk: Walk, table: list[Fields], at: int, findings: Findings) -> None:
        for place, (address, length, _, flags) in enumerate(table):
            self.work += 1
            if flags & INDIRECT:
                nested(findings, at, place)
                return
            walk.buffers.append(Buffer(address, length, flags, place))

    def _split_table(
        self, walk: Walk, table: list[Fields], where: str, at: int, findings: Findings
    ) -> None:
        passed: set[int] = set()
        place = 0
        while True:
            if place in passed:
                findings.add("chain_loop", f"{where} comes to entry {place} of its table again", at)
                return
            passed.add(place)
            self.work += 1
            address, length, flags, following = table[place]
            if flags & INDIRECT:
                nested(findings, at, place)
                return
            walk.buffers.append(Buffer(address, length, flags, place))
            if not flags & NEXT:
                return
            if following >= len(table):
                findings.add(
                    "next_range",
                    f"entry {place} of the indirect table of descriptor {at} goes on at"
                    f" {following}; the table has {len(table)}",
                    at,
                )
                return
            place = following

    def _measure(self, walk: Walk, where: str, slot: int, findings: Findings) -> None:
        writable = False
        for address, length, flags, _ in walk.buffers:
            if length == 0:
                findings.add("length_zero", f"{where} has a buffer of no bytes", slot)
            if address + length > 1 << 64:
                findings.add(
                    "address_end", f"{where} has {length} bytes at {address:#x}, beyond 2^64", slot
                )
            if flags & WRITE:
                writable = True
                walk.writable += length
                continue
            walk.readable += length
            if writable:
                findings.add("order", f"{where} has a readable buffer behind a writable one", slot)
        total = walk.readable + walk.writable
        if total > 1 << 32:
            findings.add("length_sum", f"{where} has {total} bytes, more than 2^32", slot)
        if len(walk.buffers) > max(self.raw.size, _TABLE_MOST):
            findings.add("chain_long", f"{where} has {len(walk.buffers)} buffers", slot)


def nested(findings: Findings, at: int, place: int) -> None:
    """Note a table in a table."""
    findings.add(
        "indirect_nested",
        f"entry {place} of the indirect table of descriptor {at} refers to another table",
        at,
    )
