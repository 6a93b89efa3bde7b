"""A driver and a device on one virtqueue, which know whose each slot is.

Written from the virtio specification, and shares no code with what is tested. The driver takes free
descriptors last in first out, as Linux does. ``raw()`` gives the bytes; ``truth()`` the owners.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

from vtrace.ring import Device, Feature, RawRing

EVENT_IDX = 1 << Feature.EVENT_IDX
INDIRECT = 1 << Feature.INDIRECT_DESC
IN_ORDER = 1 << Feature.IN_ORDER
PACKED = 1 << Feature.RING_PACKED


@dataclass
class Held:
    """A chain that is somewhere."""

    name: int
    slots: list[int]
    readable: int
    writable: int
    position: int


@dataclass
class Model:
    """What both layouts share: guest memory for indirect tables, and dice."""

    size: int
    features: int
    dice: random.Random
    memory: dict[int, bytes] = field(default_factory=dict)
    available: list[Held] = field(default_factory=list)
    flight: list[Held] = field(default_factory=list)
    used: list[Held] = field(default_factory=list)

    def has(self, feature: int) -> bool:
        return bool(self.features & feature)

    def read(self, address: int, length: int) -> bytes | None:
        data = self.memory.get(address)
        return data if data is not None and len(data) == length else None

    def buffers(self, most: int) -> list[tuple[int, int, int]]:
        """Return buffers of a chain: (address, length, WRITE or 0), readable ones first."""
        count = self.dice.randint(1, most)
        readable = self.dice.randint(0, count)
        return [
            (self.dice.randrange(1, 1 << 40), self.dice.randint(1, 5000), 0 if n < readable else 2)
            for n in range(count)
        ]

    def step(self) -> None:
        """Let one of the two do one thing."""
        act = self.dice.randrange(4)
        if act == 0:
            self.publish()
        elif act == 1 and self.available:
            self.flight.append(self.available.pop(0))
            self.taken(self.flight[-1])
        elif act == 2 and self.flight:
            if self.has(IN_ORDER):
                batch = [self.flight.pop(0) for _ in range(self.dice.randint(1, len(self.flight)))]
            else:
                at = 0 if self.dice.random() < 0.7 else self.dice.randrange(len(self.flight))
                batch = [self.flight.pop(at)]
            self.give_back(batch)
        elif act == 3:
            for _ in range(self.dice.randint(0, len(self.used))):
                self.reap(self.used.pop(0))
            self.say_reaped()

    def steps(self) -> None:
        """Let them do one to five things."""
        for _ in range(self.dice.randint(1, 5)):
            self.step()

    def table(self, buffers, link: bool) -> int:
        """Put an indirect table into memory; return its address."""
        address = 16 * self.dice.randrange(1, 1 << 40)
        entries = []
        for n, (where, length, write) in enumerate(buffers):
            if link:
                more = n + 1 < len(buffers)
                entries.append(
                    struct.pack("<QIHH", where, length, write | more, n + 1 if more else 0)
                )
            else:
                entries.append(struct.pack("<QIHH", where, length, 0, write))
        self.memory[address] = b"".join(entries)
        return address

    def truth(self) -> list[str]:
        """Return the owner of each slot."""
        owners = ["free"] * self.size
        for owner, chains in (
            ("available", self.available),
            ("device", self.flight),
            ("used", self.used),
        ):
            for chain in chains:
                for slot in chain.slots:
                    owners[slot] = owner
        return owners


@dataclass
class Split(Model):
    """A split ring."""

    start: int = 0
    """Index at which both begin: a ring that has run for long, though nothing is left of that."""

    def __post_init__(self) -> None:
        self.desc = [(0, 0, 0, 0)] * self.size
        self.heads = [0] * self.size
        self.elements = [(0, 0)] * self.size
        self.free = list(range(self.size - 1, -1, -1))
        self.avail = self.device = self.used_index = self.reaped = self.start
        self.used_event = 0

    def publish(self) -> None:
        if not self.free:
            return
        buffers = self.buffers(4)
        indirect = self.has(INDIRECT) and self.dice.random() < 0.5
        if not indirect:
            buffers = buffers[: len(self.free)]
        slots = [self.free.pop() for _ in range(1 if indirect else len(buffers))]
        if indirect:
            address = self.table(buffers, link=True)
            self.desc[slots[0]] = (address, 16 * len(buffers), 4, self.dice.randrange(1 << 16))
        else:
            for n, (slot, (where, length, write)) in enumerate(zip(slots, buffers, strict=True)):
                more = n + 1 < len(slots)
                following = slots[n + 1] if more else self.dice.randrange(1 << 16)
                self.desc[slot] = (where, length, write | more, following)
        self.heads[self.avail % self.size] = slots[0]
        self.available.append(held(slots[0], slots, buffers, self.avail & 0xFFFF))
        self.avail += 1

    def taken(self, chain: Held) -> None:
        self.device += 1

    def give_back(self, batch: list[Held]) -> None:
        # In order, one element stands for the whole batch.
        last = batch[-1]
        self.used_index += len(batch)
        self.elements[(self.used_index - 1) % self.size] = (last.name, last.writable)
        self.used += batch

    def reap(self, chain: Held) -> None:
        self.free += reversed(chain.slots)
        self.reaped += 1

    def say_reaped(self) -> None:
        self.used_event = self.reaped & 0xFFFF

    def raw(self, known: bool = True) -> RawRing:
        driver = struct.pack("<HH", 0, self.avail & 0xFFFF)
        driver += struct.pack(f"<{self.size}H", *self.heads) + struct.pack("<H", self.used_event)
        device = struct.pack("<HH", 0, self.used_index & 0xFFFF)
        device += b"".join(struct.pack("<II", *element) for element in self.elements)
        device += struct.pack("<H", self.avail & 0xFFFF)
        return RawRing(
            layout="split",
            size=self.size,
            features=self.features,
            desc=b"".join(struct.pack("<QIHH", *entry) for entry in self.desc),
            driver=driver,
            device=device,
            known=Device(
                taken=self.device & 0xFFFF, used=self.used_index & 0xFFFF, inuse=len(self.flight)
            )
            if known
            else Device(),
        )


@dataclass
class Packed(Model):
    """A packed ring."""

    def __post_init__(self) -> None:
        self.ring = [(0, 0, 0, 0)] * self.size
        self.free_ids = list(range(self.size - 1, -1, -1))
        self.room = self.size
        self.avail = self.device = self.used_index = self.reaped = 0
        """Positions that do not wrap."""
        self.event = (0 | 1 << 15, 0)

    def wrap(self, position: int) -> int:
        return 1 ^ (position // self.size & 1)

    def publish(self) -> None:
        if not self.room:
            return
        buffers = self.buffers(4)
        indirect = self.has(INDIRECT) and self.dice.random() < 0.5
        if not indirect:
            buffers = buffers[: self.room]
        name = self.free_ids.pop()
        if indirect:
            entries = [(self.table(buffers, link=False), 16 * len(buffers), 4)]
        else:
            last = len(buffers) - 1
            entries = [(a, n, w | (at < last)) for at, (a, n, w) in enumerate(buffers)]
        slots = []
        for at, (address, length, flags) in enumerate(entries):
            position = self.avail + at
            bits = 1 << 7 if self.wrap(position) else 1 << 15
            end = at == len(entries) - 1
            number = name if end else self.dice.randrange(1 << 16)
            self.ring[position % self.size] = (address, length, number, flags | bits)
            slots.append(position % self.size)
        chain = held(name, slots, buffers, self.avail % self.size | self.wrap(self.avail) << 15)
        self.available.append(chain)
        self.avail += len(slots)
        self.room -= len(slots)

    def taken(self, chain: Held) -> None:
        self.device += len(chain.slots)

    def give_back(self, batch: list[Held]) -> None:
        last = batch[-1]
        at = self.used_index % self.size
        bits = (1 << 7 | 1 << 15) if self.wrap(self.used_index) else 0
        self.ring[at] = (self.ring[at][0], last.writable, last.name, bits | 2)
        count = sum(len(chain.slots) for chain in batch)
        self.used_index += count
        self.used += batch

    def reap(self, chain: Held) -> None:
        self.free_ids.append(chain.name)
        self.room += len(chain.slots)
        self.reaped += len(chain.slots)

    def say_reaped(self) -> None:
        place = self.reaped % self.size | self.wrap(self.reaped) << 15
        self.event = (place, 2) if self.has(EVENT_IDX) else (0, 0)

    def truth(self) -> list[str]:
        # A place is whose turn it is to write there, whatever chain once stood in it.
        owners = ["free"] * self.size
        for owner, first, end in (
            ("used", self.reaped, self.used_index),
            ("device", self.used_index, self.device),
            ("available", self.device, self.avail),
        ):
            for position in range(first, end):
                owners[position % self.size] = owner
        return owners

    def raw(self, known: bool = True, wraps: bool = True) -> RawRing:
        def name(position: int) -> int:
            return position % self.size | (self.wrap(position) << 15 if wraps else 0)

        return RawRing(
            layout="packed",
            size=self.size,
            features=self.features | PACKED,
            desc=b"".join(struct.pack("<QIHH", *entry) for entry in self.ring),
            driver=struct.pack("<HH", *self.event),
            device=struct.pack("<HH", 0, 0),
            known=Device(
                taken=name(self.device),
                used=name(self.used_index),
                inuse=self.device - self.used_index,
                wraps=wraps,
            )
            if known
            else Device(),
        )


def held(name, slots, buffers, position) -> Held:
    readable = sum(length for _, length, write in buffers if not write)
    writable = sum(length for _, length, write in buffers if write)
    return Held(name, list(slots), readable, writable, position)
