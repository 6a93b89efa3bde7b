"""Memory of a guest, read from QEMU's process by guest-physical address.

QEMU's monitor says where RAM is (``info mtree -f``) and where a region of it begins in QEMU
(``gpa2hva``); a guest may have several regions, and an area may reach over two of them.
"""

from __future__ import annotations

import ctypes
import errno
import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, Protocol

from probes.ringsample import Reader, read_memory
from vtrace.errors import PrivilegeError, VtraceError

__all__ = ["GuestRam"]

_RANGE: Final = re.compile(r"^ +([0-9a-f]+)-([0-9a-f]+) \(prio -?\d+, (\w+)\): ", re.MULTILINE)
_HOST: Final = re.compile(r"is 0x([0-9a-f]+)")
_KINDS: Final = frozenset({"ram", "rom", "romd", "ramd", "nv-ram"})
_MOST_PARTS: Final = 64


class Human(Protocol):
    """The human monitor of a QEMU."""

    def human(self, line: str) -> str:
        """Return what it says to a line."""


class GuestRam:
    """RAM of one guest. Regions are asked for once: a DIMM that is plugged in later is not seen."""

    def __init__(self, monitor: Human, pid: int, read: Reader = read_memory) -> None:
        self._monitor, self._pid, self._reader = monitor, pid, read
        self._ranges = ranges_of(monitor.human("info mtree -f"))
        self._starts = [first for first, _ in self._ranges]
        self._hosts: dict[int, int | None] = {}

    def read(self, address: int, length: int) -> bytes | None:
        """Return bytes at a guest-physical address; None: there is no RAM, or not that much.

        Raises:
            PrivilegeError: QEMU's memory may not be read.
        """
        return self.read_all(((address, length),))

    def read_all(self, areas: Iterable[tuple[int, int]]) -> bytes | None:
        """Return the bytes of several areas (address, bytes), read in one act and in this order.

        Raises:
            PrivilegeError: QEMU's memory may not be read.
        """
        parts: list[tuple[int, int]] = []
        for address, length in areas:
            found = self.parts(address, length)
            if found is None:
                return None
            parts += found
        ctypes.set_errno(0)
        data = self._reader(self._pid, tuple(parts))
        if data is None and ctypes.get_errno() in (errno.EPERM, errno.EACCES):
            raise PrivilegeError(
                f"memory of process {self._pid} may not be read: run it as root (sudo)"
            )
        return data

    def parts(self, address: int, length: int) -> tuple[tuple[int, int], ...] | None:
        """Return where that is in QEMU: (address, bytes), in order; None: not all of it is RAM."""
        found: list[tuple[int, int]] = []
        while length > 0:
            at = bisect_right(self._starts, address) - 1
            if at < 0 or len(found) == _MOST_PARTS:
                return None
            first, end = self._ranges[at]
            host = self._host(first) if address < end else None
            if host is None:
                return None
            count = min(length, end - address)
            found.append((host + address - first, count))
            address, length = address + count, length - count
        return tuple(found)

    def _host(self, first: int) -> int | None:
        if first not in self._hosts:
            match = _HOST.search(self._monitor.human(f"gpa2hva {first:#x}"))
            self._hosts[first] = int(match[1], 16) if match else None
        return self._hosts[first]


def ranges_of(text: str) -> list[tuple[int, int]]:
    """Return the ranges of RAM (first, end) in what ``info mtree -f`` says.

    Raises:
        VtraceError: There is none.
    """
    views = re.split(r"(?=^FlatView #)", text.replace("\r", ""), flags=re.MULTILINE)
    for view in views:
        if not re.search(r'^ AS "memory", root: ', view, re.MULTILINE):
            continue
        found = [
            (int(first, 16), int(last, 16) + 1)
            for first, last, kind in _RANGE.findall(view)
            if kind in _KINDS
        ]
        if found:
            return sorted(found)
    raise VtraceError("QEMU's monitor shows no RAM of this guest (info mtree -f)")
