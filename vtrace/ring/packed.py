"""Packed rings: one ring for both directions, two wrap counters, two event suppression areas."""

from __future__ import annotations

from typing import Final

from vtrace.ring.findings import Findings
from vtrace.ring.notify import EVENT, packed_request
from vtrace.ring.nouns import Chain, Feature, Memory, Owner, RawRing, Request, Slot, Snapshot
from vtrace.ring.walk import INDIRECT, NEXT, WRITE, Walk, Walker

__all__ = ["decode_packed"]

_AVAIL: Final = 1 << 7
_USED: Final = 1 << 15


def decode_packed(raw: RawRing, memory: Memory | None) -> Snapshot:
    """Return the snapshot of a packed ring."""
    return Packed(raw, memory).snapshot()


class Packed:
    """Decodes one packed ring.

    Positions do not wrap: ``position % size`` is the place; each lap turns the wrap counter over.
    """

    def __init__(self, raw: RawRing, memory: Memory | None) -> None:
        self.raw, self.size = raw, raw.size
        self.findings = Findings()
        self.walker = Walker(raw, memory, self.findings)
        self.owners: list[Owner] = [Owner.FREE] * raw.size
        self.ids: dict[int, int] = {}
        self.chains: list[Chain] = []
        self.notes: list[str] = []
        self.lap = 1
        """Wrap counter of the lap that begins at position 0."""

    def wrap(self, position: int) -> int:
        """Return the wrap counter at a position."""
        return self.lap ^ (position // self.size & 1)

    def bits(self, position: int) -> tuple[int, int]:
        """Return the bits AVAIL and USED of the descriptor at a position."""
        flags = self.walker.table[position % self.size][3]
        return int(bool(flags & _AVAIL)), int(bool(flags & _USED))

    def name(self, position: int) -> int:
        """Return a position as rings say it: ``place | wrap << 15``."""
        return position % self.size | self.wrap(position) << 15

    def snapshot(self) -> Snapshot:
        known, raw = self.raw.known, self.raw
        if known.taken is None or known.used is None:
            return self._without()
        used, taken = self._indices(known.taken, known.used)
        self._flags(used, taken)
        self._device(used, taken)
        end = self._available(taken, used + self.size)
        self._behind(end, used)
        reaped = self._reaped(end - self.size, used)
        self._returned(end - self.size, used, reaped)
        count = taken - used
        if known.inuse is not None and known.inuse != count:
            self.findings.add(
                "inuse",
                f"the device holds {known.inuse} places, and its indices are {count} apart",
            )
        return self._made(
            available=self.name(end),
            taken=self.name(taken),
            used=self.name(used),
            reaped=None if reaped is None else self.name(reaped),
            interrupts=self._asked("driver", raw.driver, used),
            kicks=self._asked("device", raw.device, end),
        )

    def _made(
        self,
        *,
        interrupts: Request,
        kicks: Request,
        available: int | None = None,
        taken: int | None = None,
        used: int | None = None,
        reaped: int | None = None,
        certain: bool = True,
    ) -> Snapshot:
        if self.walker.unread:
            self.notes.append(
                f"{self.walker.unread} indirect tables are not in what was given: their buffers"
                " are not known"
            )
        return Snapshot(
            layout=self.raw.layout,
            size=self.size,
            features=self.raw.features,
            consistent=self.raw.consistent,
            available=available,
            taken=taken,
            used=used,
            reaped=reaped,
            inuse=self.raw.known.inuse,
            interrupts=interrupts,
            kicks=kicks,
            slots=tuple(
                Slot(at, self.owners[at], self.ids.get(at), address, length, flags, buffer_id)
                for at, (address, length, buffer_id, flags) in enumerate(self.walker.table)
            ),
            chains=tuple(self.chains),
            findings=self.findings.tuple(),
            certain=certain,
            notes=tuple(self.notes),
            work=self.walker.work,
        )

    def _without(self) -> Snapshot:
        """Tell what the flags alone tell."""
        self.notes.append(
            "the device's indices are not known: flags alone do not tell whose a place is, as a"
            " place that was passed over looks like one that is out"
        )
        for at, (address, length, buffer_id, flags) in enumerate(self.walker.table):
            if bool(flags & _AVAIL) != bool(flags & _USED):
                self.owners[at] = Owner.OUTSTANDING
            elif address or length or buffer_id or flags:
                self.owners[at] = Owner.RETURNED
        return self._made(
            interrupts=self._asked("driver", self.raw.driver, None),
            kicks=self._asked("device", self.raw.device, None),
            certain=False,
        )

    def _indices(self, taken: int, used: int) -> tuple[int, int]:
        """Return used and taken as positions, and set the lap."""
        size = self.size
        places = []
        for what, index in (("taken", taken), ("used", used)):
            place = index & 0x7FFF
            if place >= size:
                self.findings.add(
                    "wrap_counters",
                    f"the device's {what} index is {place}, and the ring has {size} places",
                )
            places.append(place % size)
        taken_at, used_at = places
        apart = (taken_at - used_at) % size
        if self.raw.known.wraps:
            wraps_differ = (taken ^ used) >> 15 & 1
            # Ahead within a lap, or behind in the next one.
            if taken_at == used_at:
                apart = size if wraps_differ else 0
            elif wraps_differ != int(taken_at < used_at):
                self.findings.add(
                    "wrap_counters",
                    f"the device took up to place {taken_at} and returned up to {used_at}, and its"
                    f" wrap counters {'differ' if wraps_differ else 'are equal'}",
                )
            self.lap = used >> 15 & 1
            return used_at, used_at + apart
        self.notes.append("the wrap counters of the device are told from the descriptors")
        if apart == 0 and self.raw.known.inuse == size:
            apart = size
        self.lap = self._lap(used_at, used_at + apart)
        return used_at, used_at + apart

    def _lap(self, used: int, taken: int) -> int:
        """Tell the wrap counter from the descriptors."""
        # The place before the next one to take was written in the lap that it belongs to ...
        last = taken - 1
        lap = self.bits(last)[0] ^ (last // self.size & 1)
        if taken > used:
            return lap
        # ... or in the next one, if the driver has published every place again.
        self.lap = 1 - lap
        full = all(self._published(position) for position in range(used, used + self.size))
        return self.lap if full else lap

    def _flags(self, used: int, taken: int) -> None:
        for position in range(used, taken):
            wrap = self.wrap(position)
            if self.bits(position) != (wrap, 1 - wrap):
                place = position % self.size
                self.findings.add(
                    "wrap_flags",
                    f"the device has taken place {place}, and its flags say AVAIL"
                    f" {self.bits(position)[0]} and USED {self.bits(position)[1]} in a lap of wrap"
                    f" counter {wrap}",
                    place,
                )

    def _behind(self, end: int, used: int) -> None:
        """Look at the place before the device's, unless it is published again."""
        if end < used + self.size and self.bits(used - 1)[0] != self.wrap(used - 1):
            place = (used - 1) % self.size
            self.findings.add(
                "wrap_flags",
                f"the device has returned place {place}, and its flags are of another lap",
                place,
            )

    def _device(self, used: int, taken: int) -> None:
        """Note what stands where the device is: what it holds, if it returns in order."""
        position = used
        while position < taken:
            walk = self._walk(position, taken)
            self._add(walk, position, Owner.DEVICE)
            position += len(walk.slots)

    def _available(self, taken: int, end: int) -> int:
        """Return the position behind the last chain that the driver has published."""
        position = taken
        out: set[int] = set()
        while position < end and self._published(position):
            walk = self._walk(position, end)
            last = self.walker.table[walk.slots[-1]][3]
            if len(walk.slots) == end - position and last & NEXT and not last & INDIRECT:
                self.findings.add(
                    "chain_loop",
                    f"the chain at place {position % self.size} has no end within the ring",
                    position % self.size,
                )
            cut = [n for n in range(len(walk.slots)) if not self._published(position + n)]
            if cut:
                place = walk.slots[cut[0]]
                self.findings.add(
                    "chain_cut",
                    f"the chain at place {position % self.size} goes on at place {place}, which the"
                    " driver has not published",
                    place,
                )
            if walk.buffer_id in out:
                self.findings.add(
                    "id_twice",
                    f"the chain at place {position % self.size} has buffer id {walk.buffer_id},"
                    " as one before it",
                    position % self.size,
                )
            out.add(walk.buffer_id)
            self._add(walk, position, Owner.AVAILABLE)
            position += len(walk.slots)
        return position

    def _published(self, position: int) -> bool:
        wrap = self.wrap(position)
        return self.bits(position) == (wrap, 1 - wrap)

    def _walk(self, position: int, end: int) -> Walk:
        return self.walker.packed(position, min(end - position, self.size))

    def _add(self, walk: Walk, position: int, owner: Owner, used: int | None = None) -> None:
        if walk.buffer_id >= self.size:
            self.findings.add(
                "used_range" if owner == Owner.USED else "id_range",
                f"the chain at place {position % self.size} has buffer id {walk.buffer_id}; the"
                f" ring has {self.size} places",
                position % self.size,
            )
        for at in walk.slots:
            self.owners[at] = owner
            self.ids[at] = walk.buffer_id
        self.chains.append(
            Chain(
                head=walk.buffer_id,
                position=self.name(position),
                owner=owner,
                slots=tuple(walk.slots),
                buffers=tuple(walk.buffers),
                indirect=walk.indirect,
                readable_bytes=walk.readable,
                writable_bytes=walk.writable,
                used_bytes=used,
            )
        )

    def _reaped(self, oldest: int, used: int) -> int | None:
        """Return the position up to which the driver says it has reaped: its event offset."""
        event, flags = EVENT.unpack(self.raw.driver)
        place = event & 0x7FFF
        if flags & 3 != 2 or not self.raw.has(Feature.EVENT_IDX) or place >= self.size:
            return None
        position = used - (used - place) % self.size
        if self.wrap(position) != event >> 15:
            position -= self.size
        return position if max(oldest, used - self.size) <= position <= used else None

    def _returned(self, oldest: int, used: int, reaped: int | None) -> None:
        unclear = False
        for position in range(oldest, used):
            at = position % self.size
            if not any(self.walker.table[at]):
                continue  # nobody has ever written it
            if reaped is None:
                self.owners[at] = Owner.RETURNED
                unclear = True
        if unclear:
            self.notes.append(
                "what the driver has reaped is not to be seen: returned slots are used or free"
            )
        if reaped is None:
            return
        position = reaped
        while position < used:
            first = position
            position += 1
            if self.bits(first) != (self.wrap(first),) * 2:
                self.owners[first % self.size] = Owner.USED  # of a batch that one element ends
                continue
            # What it passed over is still as the driver had published it.
            while position < used and self.bits(position) != (self.wrap(position),) * 2:
                position += 1
            _, length, buffer_id, flags = self.walker.table[first % self.size]
            walk = Walk(slots=[at % self.size for at in range(first, position)])
            walk.buffer_id = buffer_id
            self._add(walk, first, Owner.USED, length if flags & WRITE else 0)

    def _asked(self, by: str, area: bytes, index: int | None) -> Request:
        return packed_request(self.raw, by, area, index, self.wrap, self.findings)
