"""Kernel symbols: addresses, and the names that the compiler left of a function.

``/proc/kallsyms`` has some 10 MB. It is searched as bytes, once per name; no line of it becomes a
Python object that is not asked for.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Symbols"]

_ADDRESS_DIGITS = 16


class Symbols:
    """``/proc/kallsyms`` of this boot; addresses are zero without privilege."""

    def __init__(self, path: Path = Path("/proc/kallsyms")) -> None:
        text = path.read_bytes().rstrip(b"\n")
        self._text = b"\n%b\n" % text if text else b"\n"

    def _places(self, name: str) -> list[tuple[int, str]]:
        # Every symbol that is `name` or `name.something`: (offset of its line, full name).
        found = []
        needle = b" " + name.encode()
        at = self._text.find(needle)
        while at >= 0:
            end = at + len(needle)
            if self._text[end : end + 1] in (b"\n", b"\t", b"."):
                start = self._text.rindex(b"\n", 0, at) + 1
                stop = end
                while self._text[stop : stop + 1] not in (b"\n", b"\t", b""):
                    stop += 1
                found.append((start, self._text[at + 1 : stop].decode()))
            at = self._text.find(needle, end)
        return found

    def __contains__(self, name: str) -> bool:
        return any(full == name for _, full in self._places(name))

    def address(self, name: str) -> int | None:
        """Return the address of a symbol; None if there is none, 0 if it is hidden from us."""
        for start, full in self._places(name):
            if full == name:
                return int(self._text[start : start + _ADDRESS_DIGITS], 16)
        return None

    @property
    def readable(self) -> bool:
        """Tell whether addresses are shown to this process (``kptr_restrict``, CAP_SYSLOG)."""
        return bool(self.address("vfs_read"))

    def resolve(self, function: str) -> str | None:
        """Return the symbol to probe for a function: itself, or the clone that the compiler made.

        ``vhost_notify`` may be there as ``vhost_notify.isra.0`` only. Pieces that the compiler
        split off (``.cold``, ``.part``) are no entry points.
        """
        names = [full for _, full in self._places(function)]
        if function in names:
            return function
        clones = [name for name in names if not {"cold", "part"} & set(name.split("."))]
        return clones[0] if clones else None

    @cached_property
    def _functions(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        # Addresses of all functions, sorted, and where their lines start.
        raw = np.frombuffer(self._text, np.uint8)
        starts = np.flatnonzero(raw == ord("\n"))[:-1] + 1
        kinds = raw[starts + _ADDRESS_DIGITS + 1]
        starts = starts[np.isin(kinds, np.frombuffer(b"tTwW", np.uint8))]
        digits: NDArray[Any] = raw[starts[:, None] + np.arange(_ADDRESS_DIGITS)]
        values = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0"))
        address = np.zeros(len(starts), np.uint64)
        for column in values.T:
            address = (address << np.uint64(4)) | column.astype(np.uint64)
        order = np.argsort(address, kind="stable")
        # A hidden address is zero: it says nothing.
        order = order[np.count_nonzero(address == 0) :]
        return address[order], starts[order]

    def name_of(self, address: int) -> str:
        """Return the function that an address lies in, without its offset."""
        addresses, starts = self._functions
        index = int(np.searchsorted(addresses, np.uint64(address), side="right")) - 1
        if index < 0:
            return "unknown"  # an address says nothing elsewhere, and does not leave the host
        line = self._text[starts[index] : starts[index] + 300].split(b"\n", 1)[0]
        return line.split()[2].decode()
