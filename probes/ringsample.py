"""Looks at the traced rings from outside, now and then: events cannot show that nothing happens.

The two indices, the two flags and the two event indices of a split virtqueue stand in guest memory,
which is QEMU's. Their addresses are what vhost uses; they stay in this process. What is read is
the guest's to write: 16-bit numbers that are passed on and never followed.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probes.loader import Loaded
    from probes.sampling import Sampler

__all__ = ["Place", "Reader", "RingSampler", "places_of", "read_memory", "ring_sampler"]

_MOST_SIZE = 32768
_MOST_ADDRESS = 1 << 57
"""End of what a process can have mapped on x86-64, with five levels of page tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a ring is, as vhost knows it."""

    queue: int
    pid: int
    avail: int
    """User address of the available ring in QEMU."""
    used: int
    size: int

    @property
    def parts(self) -> tuple[tuple[int, int], ...] | None:
        """What to read: (address, bytes); None where that cannot be a ring.

        flags and idx of the available ring, used_event behind its entries; the same of the used
        ring, with avail_event.
        """
        last = _MOST_ADDRESS - 8 * _MOST_SIZE - 6
        if not 0 < self.size <= _MOST_SIZE or self.pid <= 0:
            return None
        if not (0 < self.avail < last and 0 < self.used < last):
            return None
        return (
            (self.avail, 4),
            (self.avail + 4 + 2 * self.size, 2),
            (self.used, 4),
            (self.used + 4 + 8 * self.size, 2),
        )


Reader = Callable[[int, tuple[tuple[int, int], ...]], bytes | None]
"""Reads parts of a process's memory in one act: (pid, parts) -> all bytes, None if not all."""


class _Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(pid: int, parts: tuple[tuple[int, int], ...]) -> bytes | None:
    """Read parts of another process's memory; None if any of it cannot be read."""
    total = sum(length for _, length in parts)
    buffer = ctypes.create_string_buffer(total)
    local = _Part(ctypes.addressof(buffer), total)
    remote = (_Part * len(parts))(*(_Part(base, length) for base, length in parts))
    call = ctypes.CDLL(None, use_errno=True).process_vm_readv
    call.restype = ctypes.c_ssize_t
    call.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )
    got = call(pid, ctypes.byref(local), 1, remote, len(parts), 0)
    return buffer.raw if got == total else None


def places_of(table: Any) -> list[Place]:
    """Return the rings that the programs know (map ``queues``) and that can be read."""
    return [
        Place(
            queue=int(value.id),
            pid=int(value.tgid),
            avail=int(value.avail),
            used=int(value.used),
            size=int(value.num),
        )
        for value in (table.values() if table is not None else ())
        if value.id and value.avail and value.used
    ]


class RingSampler:
    """Samples every traced ring; gives out what is new."""

    def __init__(self, places: Callable[[], Iterable[Place]], read: Reader = read_memory) -> None:
        self._places, self._read = places, read
        self._seen: dict[str, dict[str, int]] = {}

    def sample(self, *, whole: bool = False) -> dict[str, dict[str, int]]:
        """Return rows of section ``rings``, by queue id: those that are news, or all.

        News is what changed, and rings again whose ``used_event`` is not the device's place: a
        driver that does not look is seen not to. ``lo_ns`` and ``hi_ns`` are CLOCK_MONOTONIC before
        and after the look. A row without the rest: could not be read. No row of ``whole``: is gone.
        """
        before = list(self._places())
        looked = [(place, self._look(place)) for place in before]
        # A ring that was set up anew, or went away, while it was read: not seen.
        still = set(self._places())
        rows: dict[str, dict[str, int]] = {}
        seen: dict[str, dict[str, int]] = {}
        for place, row in looked:
            if place not in still:
                continue
            key = str(place.queue)
            values = {name: row[name] for name in row if name not in ("lo_ns", "hi_ns")}
            waits = values.get("used") != values.get("used_event")
            if whole or waits or self._seen.get(key) != values:
                rows[key] = row
            seen[key] = values
        self._seen = seen
        return rows

    def _look(self, place: Place) -> dict[str, int]:
        lo_ns = time.monotonic_ns()
        parts = place.parts
        try:
            data = self._read(place.pid, parts) if parts else None
        except OSError:
            data = None
        row = {"lo_ns": lo_ns, "hi_ns": time.monotonic_ns()}
        if data is None or len(data) != _RING.size:
            return row
        avail_flags, avail, used_event, used_flags, used, avail_event = _RING.unpack(data)
        return row | {
            "avail": avail,
            "used": used,
            "used_event": used_event,
            "avail_event": avail_event,
            "avail_flags": avail_flags,
            "used_flags": used_flags,
        }


def ring_sampler(loaded: Loaded) -> Sampler:
    """Return a sampler of the rings that loaded programs know: section ``rings``."""
    sampler = RingSampler(lambda: places_of(loaded.table("queues")))

    def rings(whole: bool) -> dict[str, Any]:
        rows = sampler.sample(whole=whole)
        return {"rings": rows} if rows else {}

    return rings


# Little-endian: vhost on x86-64, legacy devices included.
_RING = struct.Struct("<HHHHHH")
