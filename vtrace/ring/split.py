"""Split rings: descriptor table, available ring, used ring."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from vtrace.ring.findings import Findings
from vtrace.ring.flight import Flight, Proof, flight_of
from vtrace.ring.notify import split_request
from vtrace.ring.nouns import Chain, Feature, Memory, Owner, RawRing, Slot, Snapshot
from vtrace.ring.walk import Walk, Walker

__all__ = ["decode_split"]

_BASE = 1 << 20
"""Added to indices, so that older positions than these are not negative. A multiple of 2^16."""


@dataclass(slots=True)
class Areas:
    """Both rings, unpacked."""

    avail_flags: int
    avail: int
    heads: tuple[int, ...]
    used_event: int
    used_flags: int
    used: int
    elements: list[tuple[int, int]]
    """(id, length)."""
    avail_event: int


def unpacked(raw: RawRing) -> Areas:
    n = raw.size
    avail_flags, avail, *rest = struct.unpack(f"<HH{n}HH", raw.driver)
    used_flags, used = struct.unpack_from("<HH", raw.device)
    return Areas(
        avail_flags=avail_flags,
        avail=avail,
        heads=tuple(rest[:n]),
        used_event=rest[n],
        used_flags=used_flags,
        used=used,
        elements=list(struct.iter_unpack("<II", raw.device[4 : 4 + 8 * n])),
        avail_event=struct.unpack_from("<H", raw.device, 4 + 8 * n)[0],
    )


def decode_split(raw: RawRing, memory: Memory | None) -> Snapshot:
    """Return the snapshot of a split ring."""
    return Split(raw, memory).snapshot()


class Split:
    """Decodes one split ring."""

    def __init__(self, raw: RawRing, memory: Memory | None) -> None:
        self.raw, self.size = raw, raw.size
        self.areas = unpacked(raw)
        self.findings = Findings()
        self.walker = Walker(raw, memory, self.findings)
        self.owners: list[Owner] = [Owner.FREE] * raw.size
        self.heads: dict[int, int] = {}
        """Slot -> head of its chain."""
        self.chains: list[Chain] = []
        self.notes: list[str] = []
        self.certain = True

    def snapshot(self) -> Snapshot:
        raw, areas = self.raw, self.areas
        if self.size & (self.size - 1):
            self.findings.add("size_power", f"the ring has {self.size} places")
        used, taken, avail = self._indices()
        flight = flight_of(
            self.size, areas.heads, areas.elements, (used, taken, avail), raw.has(Feature.IN_ORDER)
        )
        self._device(flight, taken - used)
        self._available(taken, avail)
        self._inferred(flight)
        reaped = self._reaped(flight, used)
        self._returned(flight, used, reaped)
        if flight.missing:
            self._hidden(flight)
        for text, slot in flight.strays:
            self.findings.add("used_stray", text, slot)
        self._checks(taken - used)
        if self.walker.unread:
            self.notes.append(
                f"{self.walker.unread} indirect tables are not in what was given: their buffers"
                " are not known"
            )
        slots = tuple(
            Slot(at, self.owners[at], self.heads.get(at), address, length, flags, following)
            for at, (address, length, flags, following) in enumerate(self.walker.table)
        )
        return Snapshot(
            layout=raw.layout,
            size=self.size,
            features=raw.features,
            consistent=raw.consistent,
            available=areas.avail,
            taken=raw.known.taken,
            used=used & 0xFFFF,
            reaped=None if reaped is None else reaped & 0xFFFF,
            inuse=raw.known.inuse,
            interrupts=split_request(raw, "driver", (areas.avail_flags, areas.used_event), used),
            kicks=split_request(raw, "device", (areas.used_flags, areas.avail_event), areas.avail),
            slots=slots,
            chains=tuple(self.chains),
            findings=self.findings.tuple(),
            certain=self.certain,
            notes=tuple(self.notes),
            work=self.walker.work,
        )

    def _indices(self) -> tuple[int, int, int]:
        """Return used, taken and available as positions that never wrap."""
        known, areas = self.raw.known, self.areas
        used = areas.used if known.used is None else known.used
        if used != areas.used:
            self.findings.add(
                "used_index",
                f"the used index in memory is {areas.used}, and the device is at {used}",
            )
        used_at = _BASE + used
        out = (areas.avail - used) & 0xFFFF
        ahead = out if known.taken is None else (known.taken - used) & 0xFFFF
        if ahead > self.size:
            if known.taken is None:
                self._jump(areas.avail, "returned", used, out)
            else:
                self.findings.add(
                    "used_beyond",
                    f"the used index is {used}, and the device has taken up to {known.taken}:"
                    f" {ahead} apart on a ring of {self.size}",
                )
            ahead = 0
        if known.taken is None:
            self.notes.append(
                "what the device has taken is not known: a chain that is out is available or in"
                " flight"
            )
            return used_at, used_at + ahead, used_at + ahead
        taken_at = used_at + ahead
        waiting = (areas.avail - known.taken) & 0xFFFF
        if waiting > self.size:
            self._jump(areas.avail, "taken", known.taken, waiting)
            waiting = 0
        elif out > self.size and ahead + waiting > self.size:
            self._jump(areas.avail, "returned", used, out)
        return used_at, taken_at, taken_at + waiting

    def _jump(self, avail: int, what: str, index: int, apart: int) -> None:
        self.findings.add(
            "avail_jump",
            f"the available index is {avail}, and the device has {what} up to {index}: {apart}"
            f" apart on a ring of {self.size}",
        )

    def _device(self, flight: Flight, count: int) -> None:
        owner = Owner.DEVICE if self.raw.known.taken is not None else Owner.OUTSTANDING
        if not flight.certain and count:
            self.certain = False
            self.notes.append(
                "which chains are with the device is inferred from both rings: a device may return"
                " out of order, and a place of the available ring is written again after a lap"
            )
        for head, position, proof in flight.chains:
            if proof != Proof.SURE or self._bad_head(head, position):
                continue
            self._add(head, position, owner, self.walker.split(head))

    def _inferred(self, flight: Flight) -> None:
        out = Owner.DEVICE if self.raw.known.taken is not None else Owner.OUTSTANDING
        for head, position, proof in flight.chains:
            if proof != Proof.SURE and head not in self.walker.claimed:
                owner = out if proof == Proof.LIKELY else Owner.UNKNOWN
                self._add(head, position, owner, self.walker.split(head, quiet=True))

    def _available(self, taken: int, avail: int) -> None:
        for position in range(taken, avail):
            head = self.areas.heads[position % self.size]
            if not self._bad_head(head, position):
                self._add(head, position, Owner.AVAILABLE, self.walker.split(head))

    def _bad_head(self, head: int, position: int) -> bool:
        place = position % self.size
        if head >= self.size:
            self.findings.add(
                "head_range",
                f"place {place} of the available ring names head {head}; the table has {self.size}",
            )
            return True
        if self.walker.claimed.get(head) == head:
            self.findings.add(
                "head_twice",
                f"place {place} of the available ring names head {head}, whose chain is still out",
                head,
            )
            return True
        return False

    def _reaped(self, flight: Flight, used: int) -> int | None:
        """Return the position up to which the driver says it has reaped."""
        event = self.areas.used_event
        # 0 is also what drivers write, or leave there, when they want no interrupt.
        if not self.raw.has(Feature.EVENT_IDX) or event == 0:
            return None
        behind = ((used & 0xFFFF) - event) & 0xFFFF
        at = used - behind
        return at if behind <= self.size and at >= flight.reaped else None

    def _returned(self, flight: Flight, used: int, reaped: int | None) -> None:
        """Give owners to what the device returned, newest first: older chains may be stale."""
        live = len(self.chains)
        for head, (position, length) in flight.returned.items():
            if head >= self.size:
                self.findings.add(
                    "used_range",
                    f"place {position % self.size} of the used ring names chain {head}; the table"
                    f" has {self.size}",
                )
                continue
            if head in self.walker.claimed or not any(self.walker.table[head]):
                continue
            if reaped is None:
                self._own(self.walker.split(head, quiet=True).slots, Owner.RETURNED, None)
            elif position >= reaped:
                walk = self.walker.split(head, quiet=True)
                self._add(head, None, Owner.USED, walk, length)
        self.chains[live:] = reversed(self.chains[live:])
        if Owner.RETURNED in self.owners:
            self.notes.append(
                "what the driver has reaped is not to be seen: returned slots are used or free"
            )

    def _hidden(self, flight: Flight) -> None:
        self.certain = False
        self.notes.append(
            f"{flight.missing} chains are with the device whose place in the available ring has"
            " been written again: any slot marked unknown may be theirs"
        )
        for at, owner in enumerate(self.owners):
            if owner in (Owner.FREE, Owner.RETURNED):
                self.owners[at] = Owner.UNKNOWN

    def _add(
        self, head: int, position: int | None, owner: Owner, walk: Walk, used: int | None = None
    ) -> None:
        self._own(walk.slots, owner, head)
        self.chains.append(
            Chain(
                head=head,
                position=None if position is None else position & 0xFFFF,
                owner=owner,
                slots=tuple(walk.slots),
                buffers=tuple(walk.buffers),
                indirect=walk.indirect,
                readable_bytes=walk.readable,
                writable_bytes=walk.writable,
                used_bytes=used,
            )
        )

    def _own(self, slots: list[int], owner: Owner, head: int | None) -> None:
        for at in slots:
            self.owners[at] = owner
            if head is not None:
                self.heads[at] = head

    def _checks(self, count: int) -> None:
        known = self.raw.known
        if known.inuse is None or known.taken is None or known.inuse == count:
            return
        self.findings.add(
            "inuse",
            f"the device holds {known.inuse} chains, and its indices are {count} apart",
        )
