"""Lines of text, many at a time, from a file or from a tool that prints them.

A block of lines is an Arrow array over the bytes that were read: no Python object for a line. What
is longer than a line of a trace can be is left out and counted. A tool runs without a shell, is
given no names to interpret, has a limit on its memory, and is ended if it stops to print.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Final, Self

import numpy as np
import pyarrow as pa

from vtrace.errors import InputError, UnsupportedError

__all__ = ["Tool", "blocks", "output", "reader_of", "tool_error"]

BLOCK_BYTES: Final = 4 << 20
MOST_LINE: Final = 1 << 16
"""Bytes of a line."""
MOST_MEMORY: Final = 8 << 30
"""Address space of a tool."""
SILENCE_SECONDS: Final = 120
"""A tool that has printed nothing for so long is ended."""
MOST_TALK: Final = 4096

Read = Callable[[int], bytes]


def blocks(read: Read, too_long: Callable[[int], None]) -> Iterator[pa.Array]:
    """Yield arrays of lines (binary, without their ends) until there are no more bytes.

    ``too_long`` is called with the number of lines that were left out.
    """
    rest = b""
    skipping = False
    while True:
        piece = read(BLOCK_BYTES)
        if not piece:
            break
        if skipping:
            at = piece.find(b"\n")
            if at < 0:
                continue
            piece, skipping = piece[at + 1 :], False
        data = rest + piece if rest else piece
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if len(rest) > MOST_LINE:
            too_long(1)
            rest, skipping = b"", True
        if end:
            yield _lines(data, end, too_long)
    if rest:
        yield _lines(rest + b"\n", len(rest) + 1, too_long)


def _lines(data: bytes, end: int, too_long: Callable[[int], None]) -> pa.Array:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8, end) == 0x0A)
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends + 1
    lines = pa.Array.from_buffers(
        pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    long = np.diff(offsets) > MOST_LINE
    if long.any():
        too_long(int(long.sum()))
        lines = lines.filter(pa.array(~long))
    return lines


def reader_of(file: BinaryIO, name: str, problem: Callable[[str], None]) -> Read:
    """Return what reads a text file; one that gzip has packed is unpacked on the way."""
    head = b""
    with contextlib.suppress(OSError):
        head = file.read(2)
    source = _Prefixed(head, file, problem)
    if head != b"\x1f\x8b":
        return source.read
    return _Gzip(source, problem).read


class _Prefixed:
    # A file of which the first bytes were looked at.
    def __init__(self, head: bytes, file: BinaryIO, problem: Callable[[str], None]) -> None:
        self._head = head
        self._file = file
        self._problem = problem

    def read(self, size: int) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        try:
            return self._file.read(size) or b""
        except (OSError, ValueError) as error:
            self._problem(f"cannot be read further: {error}")
            return b""


class _Gzip:
    def __init__(self, source: _Prefixed, problem: Callable[[str], None]) -> None:
        self._source = source
        self._problem = problem
        self._inflate = zlib.decompressobj(31)
        self._inside = False
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ended:
            packed = self._inflate.unconsumed_tail
            if self._inflate.eof:
                # One stream may stand behind another.
                packed = self._inflate.unused_data
                self._inflate = zlib.decompressobj(31)
                self._inside = False
            packed = packed or self._source.read(1 << 18)
            if not packed:
                self._ended = True
                if self._inside:
                    self._problem("its gzip stream is cut short; what came before was read")
                break
            self._inside = True
            try:
                piece = self._inflate.decompress(packed, size)
            except zlib.error as error:
                self._ended = True
                self._problem(f"its gzip stream is damaged ({error}); what came before was read")
                break
            if piece:
                return piece
        return b""


class Tool:
    """A program that prints what is to be read.

    Args:
        command: its name and arguments; nothing of it goes through a shell.
        package: Debian's package that has it.

    Raises:
        UnsupportedError: It is not installed.
    """

    def __init__(self, command: Sequence[str], package: str) -> None:
        self.command = command
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
        }
        environment.update(LC_ALL="C", TZ="UTC", PAGER="cat", PERF_PAGER="cat")
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                bufsize=0,
            )
        except FileNotFoundError:
            raise missing(command[0], package) from None
        except OSError as error:
            raise UnsupportedError(f"{command[0]}: cannot be run: {error.strerror}") from error
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
            resource.prlimit(self._process.pid, resource.RLIMIT_CORE, (0, 0))
        self.silent = False
        self._talk = bytearray()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while piece := stream.read(1 << 16):
                self._talk += piece[: MOST_TALK - len(self._talk)]

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes that it printed; none at its end."""
        stream = self._process.stdout
        assert stream is not None
        found = bytearray()
        while len(found) < size:
            if not select.select([stream], [], [], SILENCE_SECONDS)[0]:
                self.silent = True
                self._process.kill()
                break
            piece = stream.read(size - len(found))
            if not piece:
                break
            found += piece
        return bytes(found)

    def finish(self) -> str:
        """Wait for its end; return what went wrong in a few words, empty if nothing did."""
        if self.silent:
            self.close()
            return f"{self.command[0]} printed nothing for {SILENCE_SECONDS} s and was ended"
        code = self._process.wait()
        self._listener.join(5)
        if code == 0:
            return ""
        talk = self.talk
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        return f"{self.command[0]} {how}" + (f": {talk}" if talk else "")

    @property
    def talk(self) -> str:
        """The last line that it wrote to stderr."""
        lines = [line.strip() for line in self._talk.decode(errors="replace").splitlines()]
        lines = [line for line in lines if line]
        return lines[-1] if lines else ""

    def close(self) -> int:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        code = self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    self._listener.join(5)
                    stream.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def missing(name: str, package: str) -> UnsupportedError:
    """Return the error for a tool that is not installed."""
    return UnsupportedError(
        f"{name} is needed to read this, and is not installed: apt install {package}"
    )


def output(command: Sequence[str], package: str, most: int) -> bytes:
    """Return what a tool prints, ``most`` bytes of it."""
    with Tool(command, package) as tool:
        return tool.read(most)


def tool_error(name: str, problem: str) -> InputError:
    """Return the error for a file that its tool could not read at all."""
    return InputError(f"{name}: {problem}; nothing of it could be read")
