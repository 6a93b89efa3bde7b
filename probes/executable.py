"""An ELF executable as far as probes need it: symbols, bytes by address, functions, notes.

Only what the loader of the running system would use is trusted: program headers say where a byte
of memory stands in the file. The file may be anyone's; whatever is in it, the outcome is an
answer or an UnsupportedError of one sentence.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from vtrace.errors import UnsupportedError

__all__ = ["Executable", "Symbol"]

SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
NOTE = struct.Struct("<III")  # Elf64_Nhdr
TYPE_FUNCTION, TYPE_IFUNC = 2, 10
EXECUTABLE = 1  # PF_X
LARGEST_BYTES = 1 << 28
WINDOW_BYTES = 1 << 20
MOST_PARTS = 1000
MOST_SYMBOLS = 200_000
LARGEST_FUNCTION_BYTES = 1 << 16
MOST_NOTES = 10_000
VERSION = re.compile(rb"QEMU emulator version ([0-9][^\n\0 ]{0,40})")
BUILD_ID_NOTE, STAPSDT_NOTE = 3, 3


class Symbol(NamedTuple):
    """A dynamic symbol that is defined in this file."""

    address: int
    size: int
    function: bool


@contextmanager
def told(path: Path) -> Iterator[None]:
    # A damaged file makes pyelftools and struct raise what they like: one sentence comes out.
    try:
        yield
    except UnsupportedError:
        raise
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedError(f"{path}: damaged ELF file: {words[:120]}") from error


class Executable:
    """A 64-bit x86 ELF file.

    Raises:
        UnsupportedError: It cannot be read, or is of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Not mapped: a file that shrinks under a map ends the process.
            if not S_ISREG(path.stat().st_mode):
                raise UnsupportedError(f"{path}: not a regular file")
            with path.open("rb") as file:
                self._bytes = file.read(LARGEST_BYTES + 1)
        except OSError as error:
            raise UnsupportedError(f"{path}: cannot be read: {error.strerror}") from error
        with told(path):
            self._check()

    def _check(self) -> None:
        head = self._bytes[:20]
        if head[:4] != b"\x7fELF":
            raise UnsupportedError(f"{self.path}: not an ELF file")
        if len(self._bytes) > LARGEST_BYTES:
            raise UnsupportedError(f"{self.path}: more than {LARGEST_BYTES} bytes")
        if len(head) == 20 and (head[4], head[5]) != (2, 1):
            raise UnsupportedError(f"{self.path}: a 32-bit or big-endian program, not 64-bit x86")
        from elftools.elf.elffile import ELFFile

        self._elf = ELFFile(BytesIO(self._bytes))
        machine = self._elf["e_machine"]
        if machine != "EM_X86_64":
            name = str(machine).removeprefix("EM_")
            raise UnsupportedError(f"{self.path}: made for {name}; only x86-64 code can be decoded")
        if max(self._elf.num_segments(), self._elf.num_sections()) > MOST_PARTS:
            raise UnsupportedError(f"{self.path}: damaged ELF file: more than {MOST_PARTS} parts")
        segments = [s for s in self._elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        self._loads: list[tuple[int, int, int, int]] = [
            (s["p_vaddr"], s["p_offset"], s["p_filesz"], s["p_flags"]) for s in segments
        ]
        size = len(self._bytes)
        for _, offset, length, _ in self._loads:
            if offset + length > size:
                raise UnsupportedError(
                    f"{self.path}: truncated: {size} bytes, and a segment ends at {offset + length}"
                )

    def _section(self, name: str, largest_bytes: int) -> bytes:
        section = self._elf.get_section_by_name(name)
        if section is None or section["sh_type"] == "SHT_NOBITS":
            return b""
        start, length = section["sh_offset"], section["sh_size"]
        if start + length > len(self._bytes):
            raise UnsupportedError(f"{self.path}: truncated: section {name} is not all there")
        if length > largest_bytes:
            raise UnsupportedError(f"{self.path}: section {name} has {length} bytes")
        return self._bytes[start : start + length]

    @cached_property
    def symbols(self) -> dict[str, Symbol]:
        """Dynamic symbols by name."""
        with told(self.path):
            return self._symbols()

    def _symbols(self) -> dict[str, Symbol]:
        table = self._section(".dynsym", MOST_SYMBOLS * SYMBOL.size)
        names = self._section(".dynstr", MOST_SYMBOLS * 100)
        found: dict[str, Symbol] = {}
        whole = len(table) - len(table) % SYMBOL.size
        for name, info, _, index, value, size in SYMBOL.iter_unpack(table[:whole]):
            if index and name < len(names):
                text = names[name : names.find(b"\0", name)].decode(errors="replace")
                kind = info & 15
                found.setdefault(text, Symbol(value, size, kind in {TYPE_FUNCTION, TYPE_IFUNC}))
        return found

    @cached_property
    def names(self) -> dict[int, str]:
        """Names of functions by address."""
        return {s.address: name for name, s in self.symbols.items() if s.function}

    def _at(self, address: int) -> tuple[int, int, int]:
        # Offset in the file, bytes from there to the end of the segment, flags.
        for start, offset, length, flags in self._loads:
            if start <= address < start + length:
                return offset + address - start, start + length - address, flags
        raise UnsupportedError(f"{self.path}: address {address:#x} is not in the file")

    def file_offset(self, name: str) -> int:
        """Return where a function starts in the file, as a uprobe wants it."""
        offset, _, flags = self._at(self.symbols[name].address)
        if not flags & EXECUTABLE:
            raise UnsupportedError(f"{self.path}: {name} is not in executable memory")
        return offset

    def read(self, address: int, count: int) -> bytes:
        """Return bytes by address; fewer where the segment ends."""
        offset, left, _ = self._at(address)
        return self._bytes[offset : offset + min(count, left)]

    def function(self, address: int) -> tuple[int, bytes]:
        """Return a function by an address in it: where it starts, and its code.

        The size is that of its symbol; a static function's is from ``.eh_frame_hdr``.
        """
        name = self.names.get(address)
        if name is not None and (size := self.symbols[name].size):
            return address, self.read(address, min(size, LARGEST_FUNCTION_BYTES))
        starts = self._starts
        place = bisect_right(starts, address)
        if not place or place == len(starts):
            raise UnsupportedError(f"{self.path}: no function is known at {address:#x}")
        start = starts[place - 1]
        return start, self.read(start, min(starts[place] - start, LARGEST_FUNCTION_BYTES))

    @cached_property
    def _starts(self) -> list[int]:
        with told(self.path):
            return self._function_starts()

    def _function_starts(self) -> list[int]:
        # .eh_frame_hdr: version 1, encodings; count; a sorted table of (start, entry), both
        # 32 bits relative to the section (Linux Standard Base, "Exception Frames").
        section = self._elf.get_section_by_name(".eh_frame_hdr")
        data = self._section(".eh_frame_hdr", MOST_SYMBOLS * 16)
        if section is None or data[:1] != b"\1" or data[2:4] != b"\x03\x3b":
            return []
        (count,) = struct.unpack_from("<I", data, 8)
        count = min(count, (len(data) - 12) // 8)
        base = section["sh_addr"]
        return sorted(
            base + start for start, _ in struct.iter_unpack("<ii", data[12:][: count * 8])
        )

    def callers(self, address: int) -> list[int]:
        """Return the addresses of direct calls (``call rel32``, ``jmp rel32``) to a function."""
        import numpy as np

        found: list[int] = []
        for start, offset, length, flags in self._loads:
            if not flags & EXECUTABLE:
                continue
            code = np.frombuffer(self._bytes, np.uint8, length, offset)
            for first in range(0, length, WINDOW_BYTES):
                part = code[first : first + WINDOW_BYTES + 4]
                places = np.flatnonzero((part[:-4] & 0xFE) == 0xE8)
                # Four bytes of displacement behind the opcode, relative to what follows them.
                four = part[places[:, None] + np.arange(1, 5)].astype(np.int64)
                displacement = (four << np.array([0, 8, 16, 24])).sum(axis=1)
                displacement -= (displacement >> 31) << 32
                hits = places[start + first + places + 5 + displacement == address]
                found += [start + first + int(hit) for hit in hits]
        return found

    @cached_property
    def build_id(self) -> str:
        """The build-id in hexadecimal; empty if there is none."""
        for kind, owner, content in self._notes(".note.gnu.build-id"):
            if (kind, owner) == (BUILD_ID_NOTE, b"GNU"):
                return content.hex()
        return ""

    @cached_property
    def usdt_providers(self) -> frozenset[str]:
        """Providers of its static probes (``sys/sdt.h``)."""
        found = set()
        for kind, owner, content in self._notes(".note.stapsdt"):
            if (kind, owner) == (STAPSDT_NOTE, b"stapsdt"):
                # Three addresses, then provider, name and arguments.
                found.add(content[24:].split(b"\0", 1)[0].decode(errors="replace"))
        return frozenset(found)

    @cached_property
    def qemu_version(self) -> str:
        """The version that QEMU prints of itself; empty if the file has no such text."""
        match = VERSION.search(self._bytes)
        return match[1].decode(errors="replace") if match else ""

    def _notes(self, section: str) -> list[tuple[int, bytes, bytes]]:
        return list(self._iterate_notes(section))[:MOST_NOTES]

    def _iterate_notes(self, section: str) -> Iterator[tuple[int, bytes, bytes]]:
        with told(self.path):
            data = self._section(section, MOST_NOTES * 100)
        place = 0
        while place + NOTE.size <= len(data):
            names, length, kind = NOTE.unpack_from(data, place)
            place += NOTE.size
            owner = data[place : place + names].rstrip(b"\0")
            place += (names + 3) & ~3
            content = data[place : place + length]
            place += (length + 3) & ~3
            yield kind, owner, content

    def __repr__(self) -> str:
        return f"Executable({str(self.path)!r})"
