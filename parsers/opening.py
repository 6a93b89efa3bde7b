"""Open a recording, whoever made it: the format is found by its content.

``open_any`` opens a ``.vtrace`` file as ``open_trace`` does; readers of other formats are loaded
for those alone.
"""

from __future__ import annotations

import io
import os
import re
import sys
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from parsers.tracefile import open_trace
from vtrace.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parsers.batch import EventBatch
    from parsers.imported import Imported

__all__ = ["FORMATS", "detect", "is_own", "open_any", "open_import"]

FORMATS: Final = {
    "trace.dat": "file of trace-cmd record (needs trace-cmd)",
    "ftrace": "text of trace-cmd report, or ftrace's trace file",
    "perf.data": "file of perf record (needs perf)",
    "perf-script": "text of perf script",
    "qemu-log": "text of QEMU's -trace events, as its log backend writes it",
    "simpletrace": "binary trace of a QEMU with the simple backend, version 4",
    "pcap": "packets: tcpdump, Wireshark",
    "pcapng": "packets: Wireshark, dumpcap",
}
"""Formats that are read besides vtrace's own, and what they are."""

HEAD_BYTES: Final = 1 << 16
_MAGICS: Final = (
    (b"\x17\x08\x44tracing", "trace.dat"),
    (b"PERFILE2", "perf.data"),
    (b"2ELIFREP", "perf.data"),
    (b"PERFFILE", "perf.data"),
    (b"\xd4\xc3\xb2\xa1", "pcap"),
    (b"\xa1\xb2\xc3\xd4", "pcap"),
    (b"\x4d\x3c\xb2\xa1", "pcap"),
    (b"\xa1\xb2\x3c\x4d", "pcap"),
    (b"\x0a\x0d\x0d\x0a", "pcapng"),
    (b"\xff" * 8 + 0xF2B177CB0AA429B4.to_bytes(8, "little"), "simpletrace"),
    (b"\xff" * 8 + 0xF2B177CB0AA429B4.to_bytes(8, "big"), "simpletrace"),
)
_GZIP: Final = b"\x1f\x8b"
_TEXTS: Final = (
    (
        "perf-script",
        re.compile(
            rb"^ *[^\n]{1,16} +(?:-?\d+/ *)?-?\d+ +\[\d+\] +\d+\.\d+: +(?:\d+ +)?"
            rb"[^ :\n]+:[^ \n]+:"
        ),
    ),
    (
        "ftrace",
        re.compile(
            rb"^ *[^\n]{1,16}-\d+ +(?:\([^)\n]{1,12}\) +)?\[\d+\] +(?:[^ \n]{4,6} +)?"
            rb"\d+(?:\.\d+)?: +[^ :\n]+:"
        ),
    ),
    ("qemu-log", re.compile(rb"^(?:\d+@\d+\.\d+:)?(?:virtqueue|virtio)_\w+ ")),
    ("qemu-log", re.compile(rb"^\d+@\d+\.\d+:\w+ ")),
)


def detect(head: bytes) -> str | None:
    """Return the format of a file that begins so: a name of ``FORMATS``, ``vtrace``, or None."""
    if head.startswith(b"ARROW1"):
        return "vtrace"
    for magic, form in _MAGICS:
        if head.startswith(magic):
            return form
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(31).decompress(head, HEAD_BYTES)
        except zlib.error:
            return None
    for line in head.split(b"\n")[:400]:
        line = line[:4096]
        for form, pattern in _TEXTS:
            if pattern.match(line):
                return form
    return None


def is_own(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a recording of vtrace, or none that another reader takes.

    Raises:
        InputError: It cannot be opened.
    """
    return detect(_head(path)) in (None, "vtrace")


def open_any(target: str | os.PathLike[str], *, form: str | None = None, table: Any = None) -> Any:
    """Open a recording of any format: a path, or ``-`` for stdin.

    Args:
        target: What to read.
        form: Its format, a name of ``FORMATS``; None: found by its content.
        table: A user's table of events (``parsers.eventmap.load``), or its path.

    Raises:
        InputError: It cannot be opened, or is of no format that is known.
        UnsupportedError: It takes a tool that is not installed.
        UsageError: ``form`` is none, or the table is wrong.
    """
    head = _head(target)
    found = form or detect(head)
    if found is None or found == "vtrace":
        return open_trace(target)
    return open_import(target, found, table)


def open_import(target: str | os.PathLike[str], form: str, table: Any = None) -> Imported:
    """Open a recording of another tool.

    Raises:
        InputError: It cannot be opened.
        UsageError: ``form`` is no format, or the table is wrong.
    """
    from parsers.imported import Imported

    if form not in FORMATS:
        raise UsageError(f"there is no format {form!r}; there is {', '.join(FORMATS)}")
    path = os.fspath(target)
    piped = path == "-"
    if piped and form in ("trace.dat", "perf.data"):
        raise InputError(f"stdin: a {form} is read by its own tool, which needs a file")
    if not piped:
        _open(path).close()
    return Imported("stdin" if piped else path, form, _reader(path, form, table))


def _reader(path: str, form: str, table: Any) -> Callable[[Imported], Iterator[EventBatch]]:
    if form in ("trace.dat", "ftrace", "perf.data", "perf-script"):
        from parsers import perfscript, tracecmd
        from parsers.eventmap import EventMap, load

        known = table if isinstance(table, EventMap) else load(table)
        if form == "trace.dat":
            return lambda source: tracecmd.read_dat(source, path, known)
        if form == "perf.data":
            return lambda source: perfscript.read_data(source, path, known)
        text = tracecmd.read_text if form == "ftrace" else perfscript.read_text
        return _of_file(path, lambda source, file: text(source, file, known))
    if table is not None:
        raise UsageError(f"--map is for events of the kernel, and not for {form}")
    if form == "qemu-log":
        from parsers import qemulog

        return _of_file(path, qemulog.read)
    if form == "simpletrace":
        from parsers import simpletrace

        return _of_file(path, simpletrace.read)
    from parsers import pcap

    return _of_file(path, pcap.read)


def _of_file(
    path: str, read: Callable[[Imported, BinaryIO], Iterator[EventBatch]]
) -> Callable[[Imported], Iterator[EventBatch]]:
    used = False

    def batches(source: Imported) -> Iterator[EventBatch]:
        nonlocal used
        if path == "-":
            if used:
                raise InputError("stdin: a pipe can be read once; use a file")
            used = True
            yield from read(source, sys.stdin.buffer)
            return
        with _open(path) as file:
            yield from read(source, file)

    return batches


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")  # noqa: PTH123 - closed by who reads it
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from error


def _head(target: str | os.PathLike[str]) -> bytes:
    # The first bytes, which stay there to be read.
    if os.fspath(target) == "-":
        stdin = sys.stdin.buffer
        return stdin.peek(HEAD_BYTES)[:HEAD_BYTES] if isinstance(stdin, io.BufferedReader) else b""
    try:
        with open(target, "rb") as file:  # noqa: PTH123 - open() says what it is
            if not file.seekable():
                return b""
            head = file.read(16)
            return head if head.startswith(b"ARROW1") else head + file.read(HEAD_BYTES)
    except OSError:
        return b""
