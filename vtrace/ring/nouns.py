"""What a snapshot of a virtqueue holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from vtrace.errors import InputError
from vtrace.model import Ring

__all__ = [
    "MOST_SIZE",
    "Buffer",
    "Chain",
    "Device",
    "Feature",
    "Finding",
    "Memory",
    "Owner",
    "RawRing",
    "Request",
    "Slot",
    "Snapshot",
    "areas_of",
]

MOST_SIZE: Final = 32768
"""Most places that a ring may have."""

Memory = Callable[[int, int], "bytes | None"]
"""Reads guest memory: (guest-physical address, bytes) -> all of them; None: cannot be read."""


class Feature:
    """Numbers of the feature bits that decide how a ring is read."""

    INDIRECT_DESC: Final = 28
    EVENT_IDX: Final = 29
    VERSION_1: Final = 32
    ACCESS_PLATFORM: Final = 33
    RING_PACKED: Final = 34
    IN_ORDER: Final = 35


class Owner(StrEnum):
    """Who may write a slot next; three of them where the ring itself does not tell."""

    FREE = "free"
    """The driver's, nothing in it."""
    AVAILABLE = "available"
    """Published by the driver, not taken by the device."""
    DEVICE = "device"
    """Taken by the device, in flight."""
    USED = "used"
    """Returned by the device, not reaped by the driver."""
    OUTSTANDING = "outstanding"
    """Available or with the device: what the device has taken is not known."""
    RETURNED = "returned"
    """Used or free: returned, and a driver leaves no trace of reaping."""
    UNKNOWN = "unknown"
    """Cannot be told from memory, because the device returns out of order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What the device itself knows; None: not known.

    Split: indices modulo 2**16. Packed: ``place | wrap << 15``; where the wrap counters are not
    known (QMP does not say them), ``wraps`` is False and they are told from the descriptors.
    """

    taken: int | None = None
    """Place of the next chain to take (``last_avail_idx``)."""
    used: int | None = None
    """Place of the next used element (``used_idx``)."""
    inuse: int | None = None
    """What it holds: chains of a split ring, places of a packed one."""
    wraps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRing:
    """The bytes of a virtqueue, as they were read.

    Raises:
        InputError: The size is none that a ring can have, or an area is too short.
    """

    layout: str
    """split, packed."""
    size: int
    features: int
    """Negotiated features, by bit."""
    desc: bytes
    """Split: descriptor table. Packed: the ring."""
    driver: bytes
    """Split: available ring. Packed: event suppression of the driver."""
    device: bytes
    """Split: used ring. Packed: event suppression of the device."""
    known: Device = field(default_factory=Device)
    consistent: bool = True
    """No index moved while it was read."""

    def __post_init__(self) -> None:
        if self.layout not in (Ring.SPLIT, Ring.PACKED):
            raise InputError(f"ring: layout is {self.layout!r}, expected split or packed")
        for name, _, length in areas_of(self.layout, self.size):
            got = len(getattr(self, name))
            if got != length:
                raise InputError(
                    f"ring of {self.size}: area {name} has {got} bytes, expected {length}"
                )

    def has(self, bit: int) -> bool:
        """Whether a feature was negotiated."""
        return bool(self.features >> bit & 1)


def areas_of(layout: str, size: int) -> tuple[tuple[str, int, int], ...]:
    """Return the areas of a ring: (name in ``RawRing``, alignment, bytes).

    Raises:
        InputError: No ring has this size.
    """
    if not 0 < size <= MOST_SIZE:
        raise InputError(f"ring: size is {size}, expected 1 to {MOST_SIZE}")
    if layout == Ring.PACKED:
        return (("desc", 16, 16 * size), ("driver", 4, 4), ("device", 4, 4))
    return (("desc", 16, 16 * size), ("driver", 2, 6 + 2 * size), ("device", 4, 6 + 8 * size))


class Buffer(NamedTuple):
    """One descriptor of a chain."""

    address: int
    """Guest-physical."""
    length: int
    flags: int
    """As it stands there: NEXT 1, WRITE 2, INDIRECT 4; packed also AVAIL 0x80, USED 0x8000."""
    place: int
    """Its place in the ring, or in the indirect table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A descriptor chain that is in the hands of somebody."""

    head: int
    """Split: index of its first descriptor. Packed: buffer id."""
    position: int | None
    """Split: index in the available ring. Packed: ``place | wrap << 15``. None: not to be seen."""
    owner: Owner
    slots: tuple[int, ...]
    """Slots of the ring that it takes; not the entries of an indirect table."""
    buffers: tuple[Buffer, ...]
    """Its buffers in order; those of the indirect table if it has one."""
    indirect: int | None = None
    """Guest-physical address of the indirect table."""
    readable_bytes: int = 0
    writable_bytes: int = 0
    used_bytes: int | None = None
    """What the device says it wrote; only once it is returned."""


class Slot(NamedTuple):
    """One place of the descriptor table or ring."""

    place: int
    owner: Owner
    head: int | None
    """Head or buffer id of the chain that it belongs to; None: of none."""
    address: int
    length: int
    flags: int
    link: int
    """Split: ``next``. Packed: buffer id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one side has said about being notified."""

    by: str
    """driver: about interrupts. device: about kicks."""
    state: str
    """enabled, disabled, specific (at one index)."""
    flags: int
    event: int | None
    """Index at which, if specific. Packed: ``place | wrap << 15``."""
    distance: int | None
    """Chains (packed: places) until then; 0: the next one. None: not specific, or not soon."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in a ring that does not fit together."""

    word: str
    """Stable; ``vtrace.ring.WORDS`` has all."""
    text: str
    slot: int | None = None
    """Slot that it is about; None: about the whole."""
    count: int = 1
    """How often it was found; the text is about the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A virtqueue at one moment, slot by slot."""

    layout: str
    size: int
    features: int
    consistent: bool
    """False: the ring moved while it was read; findings may come from that."""
    available: int | None
    """Driver: place of the next chain to publish."""
    taken: int | None
    """Device: place of the next chain to take."""
    used: int | None
    """Device: place of the next used element. Packed: ``place | wrap << 15``, as the others."""
    reaped: int | None
    """Driver: place up to which it says it has reaped (its event index). None: it does not say."""
    inuse: int | None
    interrupts: Request
    kicks: Request
    slots: tuple[Slot, ...]
    chains: tuple[Chain, ...]
    findings: tuple[Finding, ...]
    certain: bool
    """False: which slots are with the device is inferred; ``notes`` says why."""
    notes: tuple[str, ...]
    """Sentences on what cannot be known from what was given."""
    work: int
    """Descriptors that were looked at."""

    def counts(self) -> dict[str, int]:
        """Return how many slots each owner has."""
        counts = dict.fromkeys((str(owner) for owner in Owner), 0)
        for slot in self.slots:
            counts[slot.owner] += 1
        return counts
