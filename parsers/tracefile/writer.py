"""Writer of ``.vtrace`` files and pipes."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from parsers import wire
from parsers.batch import Array, EventBatch, Snaps
from parsers.tracefile import flat, layout, reader
from vtrace.errors import InputError, VtraceError

__all__ = ["DEFAULT_LEVEL", "TraceWriter", "rotated_name"]

DEFAULT_LEVEL: Final = 1
"""Level of zstd; docs/trace-file.md has the figures it was chosen by."""

PREFIX_BYTES: Final = 8
END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"


class TraceWriter:
    """Write event batches to a file or a pipe.

    Each batch is handed to the system with one write, so that a process that is killed leaves
    all its batches behind, and half a batch at most.

    Args:
        target: Path, ``-`` for stdout, or an open file descriptor, which stays open.
        compression: ``zstd``, ``lz4`` or ``none``.
        level: Level of zstd.
        mode: Permissions of the file.
        append: Go on behind the last whole batch of a file that is there.

    Raises:
        InputError: The file to append to is no recording, or one of another version.
        VtraceError: The file cannot be written.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | int,
        *,
        compression: str = "zstd",
        level: int = DEFAULT_LEVEL,
        mode: int = 0o600,
        append: bool = False,
    ) -> None:
        if compression not in ("zstd", "lz4", "none"):
            raise ValueError(f"compression is zstd, lz4 or none, not {compression!r}")
        codec = None
        if compression != "none":
            zstd_level = level if compression == "zstd" else None
            codec = pa.Codec(compression, compression_level=zstd_level)
        self._schema = layout.schema()
        self._sink = _Sink()
        self._ipc = pa.ipc.new_stream(
            self._sink,
            self._schema,
            options=pa.ipc.IpcWriteOptions(compression=codec, use_threads=False),
        )
        self._header = self._schema.serialize().to_pybytes()
        self._skip = len(self._header)
        self._blocks = array("q")
        self._number = 0
        self._trace = secrets.token_hex(8)
        self._end = 0
        self._started = 0
        self._closed = False
        self._owned = not isinstance(target, int) and os.fspath(target) != "-"
        self.name = "stdout" if target in (1, "-") else str(target)
        if isinstance(target, int):
            self._fd = target
        elif not self._owned:
            self._fd = 1
        else:
            self._fd = self._open(Path(target), mode, append)
        try:
            if not self._end:
                self._put(layout.MAGIC + self._header)
        except BaseException:
            self._release()
            raise

    @property
    def bytes_written(self) -> int:
        """Bytes that this writer has handed to the system; the size of a new file."""
        return self._end - self._started

    @property
    def batches_written(self) -> int:
        """Batches in the file."""
        return self._number

    def write(self, batch: EventBatch) -> None:
        """Write a batch; its number becomes the next of the file.

        One that is larger than the format allows goes in parts, metadata with the first.

        Raises:
            VtraceError: The target takes no more; what was written before stays readable.
            BrokenPipeError: Nobody reads the pipe any more.
        """
        if self._closed:
            raise ValueError(f"{self.name} is closed")
        for part in _parts(batch):
            self._write(part)

    def flush(self, *, sync: bool = False) -> None:
        """Make what was written readable by others, which it is as soon as it is written.

        Args:
            sync: Wait until it is on the disk, where it outlives a crash of the machine.
        """
        if sync and not self._closed:
            # A pipe has nothing to sync.
            with contextlib.suppress(OSError):
                os.fdatasync(self._fd)

    def close(self) -> None:
        """Write the footer, which makes the file complete, and close it."""
        if self._closed:
            return
        self._closed = True
        try:
            blocks = np.frombuffer(self._blocks, "<i8").reshape(-1, 3)
            table = np.zeros(len(blocks), flat.BLOCK)
            table["offset"], table["header"], table["body"] = blocks.T
            footer = flat.build_footer(self._header[PREFIX_BYTES:], table)
            size = len(footer).to_bytes(4, "little")
            self._put(END_OF_STREAM + footer + size + layout.MAGIC[:6])
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The first error says more than the one that closing meets.
        with contextlib.suppress(*([VtraceError, OSError] if error else [])):
            self.close()

    def _open(self, path: Path, mode: int, append: bool) -> int:
        tail = None
        try:
            if append and path.exists() and path.stat().st_size:
                tail = reader.find_tail(path)
            flags = os.O_WRONLY | os.O_CREAT | (0 if tail else os.O_TRUNC)
            fd = os.open(path, flags | os.O_CLOEXEC, mode)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.fchmod(fd, mode)
                if tail:
                    self._resume(fd, path, tail)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise VtraceError(f"{path}: cannot be written: {error.strerror}") from error
        return fd

    def _resume(self, fd: int, path: Path, tail: reader.Tail) -> None:
        found = pa.ipc.read_schema(pa.py_buffer(tail.schema))
        if found.metadata.get(b"vtrace.format") != b"%d" % layout.FORMAT_VERSION or (
            not found.equals(self._schema)
        ):
            raise InputError(
                f"{path}: cannot append: it is of another version of the format than "
                f"{layout.FORMAT_VERSION}; write to a new file, and merge the two"
            )
        self._header = tail.schema
        self._blocks.extend(tail.blocks)
        self._number = tail.next_number
        self._trace = tail.trace or self._trace
        self._end = self._started = tail.end
        os.ftruncate(fd, tail.end)
        os.lseek(fd, tail.end, os.SEEK_SET)

    def _write(self, batch: EventBatch) -> None:
        rows = len(batch)
        columns = {
            name: np.ascontiguousarray(batch[name], kind)
            for name, (kind, _) in wire.COLUMNS.items()
        }
        snaps = _in_order(batch.snaps)
        times = columns["time"]
        header = layout.BatchHeader(
            trace=self._trace,
            summary=layout.BatchSummary(
                number=self._number,
                rows=rows,
                first_ns=int(times.min()) if rows else None,
                last_ns=int(times.max()) if rows else None,
                queues=layout.tally(batch),
            ),
            meta=batch.meta,
            crc32=layout.checksums(columns, snaps),
        )
        metadata = layout.pack_header(header)
        if len(metadata[layout.KEY]) > layout.MAX_HEADER_BYTES - (1 << 16):
            raise VtraceError(
                f"{self.name}: the metadata of batch {self._number} is "
                f"{len(metadata[layout.KEY])} bytes, at most "
                f"{layout.MAX_HEADER_BYTES >> 20} MiB fit; send its sections apart"
            )
        arrays = [
            _array(self._schema.field(name).type, rows, [None, column])
            for name, column in columns.items()
        ]
        arrays += _snap_arrays(self._schema, rows, snaps)
        self._ipc.write_batch(
            pa.RecordBatch.from_arrays(arrays, schema=self._schema),
            custom_metadata=metadata,
        )
        # The stream writer begins with the schema, which the file has already.
        message = memoryview(self._sink.take())[self._skip :]
        self._skip = 0
        size = PREFIX_BYTES + int.from_bytes(message[4:8], "little")
        at = self._end
        self._put(message)
        self._blocks.extend((at, size, len(message) - size))
        self._number += 1

    def _put(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        try:
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            # Half a batch is of no use, and would stand before the footer.
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.fstat(self._fd).st_mode):
                    os.ftruncate(self._fd, self._end)
                    os.lseek(self._fd, self._end, os.SEEK_SET)
            raise VtraceError(
                f"{self.name}: cannot be written behind byte {self._end}: "
                f"{error.strerror}; the {self._number} batches before are kept"
            ) from error
        self._end += len(data)

    def _release(self) -> None:
        self._closed = True
        if self._owned:
            os.close(self._fd)
            self._owned = False


def rotated_name(path: str | os.PathLike[str], number: int) -> Path:
    """Return the name of the ``number``-th file of a rotation: run.vtrace, run.00001.vtrace."""
    base = Path(path)
    return base.with_name(f"{base.stem}.{number:05}{base.suffix}")


class _Sink:
    # What pyarrow writes to: collects the pieces of one message.
    closed = False

    def __init__(self) -> None:
        self._pieces: list[Any] = []

    def write(self, piece: Any) -> int:
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        message = b"".join(self._pieces)
        self._pieces.clear()
        return message

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _parts(batch: EventBatch) -> Iterator[EventBatch]:
    rows = len(batch)
    if rows <= layout.MAX_ROWS and len(batch.snaps.data) <= layout.MAX_DATA_BYTES:
        yield batch
        return
    first = np.arange(rows) < rows // 2
    head, rest = batch.take(first), batch.take(~first)
    rest.meta = {}
    yield from _parts(head)
    yield from _parts(rest)


def _in_order(snaps: Snaps) -> Snaps:
    # As it will be read: rows ascending, `captured` the length, `reserved` zero.
    if not len(snaps):
        return snaps
    if not np.all(snaps.rows[1:] > snaps.rows[:-1]):
        order = np.argsort(snaps.rows, kind="stable")
        snaps = snaps.take(order, snaps.rows[order])
        if not np.all(snaps.rows[1:] > snaps.rows[:-1]):
            raise ValueError("a row has more than one snap")
    sizes = np.diff(snaps.offsets)
    if int(sizes.max()) > 0xFFFF:
        raise ValueError(f"a snap of {sizes.max()} bytes; at most 65535 can be told")
    header = snaps.header.copy()
    header["captured"] = sizes
    header["reserved"] = 0
    data = snaps.data[int(snaps.offsets[0]) : int(snaps.offsets[-1])]
    offsets = snaps.offsets - snaps.offsets[0]
    return Snaps(rows=snaps.rows, header=header, offsets=offsets, data=data)


def _array(kind: pa.DataType, rows: int, buffers: list[Array | None], nulls: int = 0) -> pa.Array:
    wrapped = [None if one is None else pa.py_buffer(one) for one in buffers]
    return pa.Array.from_buffers(kind, rows, wrapped, null_count=nulls)


def _snap_arrays(schema: pa.Schema, rows: int, snaps: Snaps) -> list[pa.Array]:
    present = np.zeros(rows, np.bool_)
    present[snaps.rows] = True
    bitmap = np.packbits(present, bitorder="little")
    nulls = rows - len(snaps)
    arrays = []
    for name, (kind, _) in layout.SNAP_COLUMNS.items():
        values = np.zeros(rows, kind)
        if len(snaps):
            values[snaps.rows] = snaps.header[name.removeprefix("snap_")]
        arrays.append(_array(schema.field(name).type, rows, [bitmap, values], nulls))
    offsets = np.zeros(rows + 1, "<i4")
    if len(snaps):
        offsets[1:][snaps.rows] = np.diff(snaps.offsets)
        np.cumsum(offsets, out=offsets)
    data = np.ascontiguousarray(snaps.data)
    arrays.append(_array(pa.binary(), rows, [bitmap, offsets, data], nulls))
    return arrays
