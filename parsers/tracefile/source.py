"""Where a trace's bytes come from: a file that can be read anywhere, or a pipe.

Files are read, not mapped: one that shrinks while it is mapped kills the process with SIGBUS,
and of compressed data nothing would be saved but one copy of 16 bytes a record.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import BinaryIO, Final, Protocol

from vtrace.errors import InputError

__all__ = ["FileSource", "PipeSource", "Source", "open_source"]

CHUNK_BYTES: Final = 1 << 20


class Source(Protocol):
    """Bytes of a trace, by offset."""

    name: str
    error: str
    """What the system said when it last could not read; empty if it could."""

    def read_at(self, offset: int, size: int) -> bytearray:
        """Return up to ``size`` bytes; fewer only where the source ends for now."""

    seekable: bool
    """False for a pipe, which is read once."""

    def reach(self, end: int) -> int:
        """Return how many bytes there are by now; a pipe waits until it has ``end``."""

    def forget(self, offset: int) -> None:
        """Let go of what stands before ``offset``: it will not be asked for again."""

    def close(self) -> None:
        """Close what was opened for it."""


class FileSource:
    """A file, or an object like one that can seek."""

    seekable = True

    def __init__(self, file: BinaryIO, name: str, *, owned: bool) -> None:
        self.name = name
        self.error = ""
        self._file = file
        self._owned = owned
        self._start = file.tell()
        self._fd: int | None
        try:
            self._fd = file.fileno()
        except OSError:
            self._fd = None

    def read_at(self, offset: int, size: int) -> bytearray:
        """Return up to ``size`` bytes at ``offset``."""
        there = self.reach(0) - offset
        data = bytearray(max(min(size, there), 0))
        view = memoryview(data)
        done = 0
        at = self._start + offset
        try:
            while done < len(data):
                if self._fd is not None:
                    got = os.preadv(self._fd, [view[done:]], at + done)
                else:
                    self._file.seek(at + done)
                    piece = self._file.read(len(data) - done)
                    got = len(piece)
                    view[done : done + got] = piece
                if not got:
                    break
                done += got
        except (OSError, ValueError) as error:
            self.error = str(error)
        view.release()
        del data[done:]
        return data

    def reach(self, end: int) -> int:
        """Return the bytes there are now."""
        try:
            if self._fd is not None:
                return max(os.fstat(self._fd).st_size - self._start, 0)
            return max(self._file.seek(0, io.SEEK_END) - self._start, 0)
        except (OSError, ValueError) as error:
            self.error = str(error)
            return 0

    def forget(self, offset: int) -> None:
        """Do nothing: a file keeps its bytes."""

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owned:
            self._file.close()


class PipeSource:
    """A pipe: what was read stays until it is forgotten."""

    seekable = False

    def __init__(self, file: BinaryIO, name: str, *, owned: bool) -> None:
        self.name = name
        self.error = ""
        self._file = file
        self._owned = owned
        self._base = 0
        self._data = bytearray()
        self._ended = False

    def read_at(self, offset: int, size: int) -> bytearray:
        """Return ``size`` bytes at ``offset``; waits for them until the pipe ends."""
        start = offset - self._base
        if start < 0:
            return bytearray()
        self.reach(offset + size)
        return self._data[start : start + size]

    def reach(self, end: int) -> int:
        """Read until there are ``end`` bytes, or the pipe ends; return how many there are."""
        # read1 returns what there is; a plain read() waits for all that is asked for.
        read = getattr(self._file, "read1", self._file.read)
        while not self._ended and self._base + len(self._data) < end:
            missing = min(end - self._base - len(self._data), CHUNK_BYTES)
            try:
                piece = read(missing)
            except (OSError, ValueError) as error:
                self.error = str(error)
                piece = b""
            self._ended = not piece
            self._data += piece or b""
        return self._base + len(self._data)

    def forget(self, offset: int) -> None:
        """Drop what stands before ``offset``."""
        count = min(max(offset - self._base, 0), len(self._data))
        del self._data[:count]
        self._base += count

    def close(self) -> None:
        """Close the pipe, if it was opened here."""
        if self._owned:
            self._file.close()


def open_source(target: str | os.PathLike[str] | BinaryIO) -> Source:
    """Open a path, ``-`` for stdin, or a binary file object.

    Raises:
        InputError: It cannot be opened.
    """
    if not isinstance(target, str | os.PathLike):
        name = getattr(target, "name", None)
        name = name if isinstance(name, str) else "input"
        kind = FileSource if target.seekable() else PipeSource
        return kind(target, name, owned=False)
    path = os.fspath(target)
    if path == "-":
        stdin = sys.stdin.buffer
        kind = FileSource if stdin.seekable() else PipeSource
        return kind(stdin, "stdin", owned=False)
    try:
        file = open(path, "rb")  # noqa: PTH123, SIM115 - closed by the source
        mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error
    if stat.S_ISREG(mode):
        return FileSource(file, path, owned=True)
    return PipeSource(file, path, owned=True)
