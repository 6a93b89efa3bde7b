"""From the body of a batch's message to its columns, with every size known beforehand."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from parsers import wire
from parsers.batch import Array, EventBatch, Snaps
from parsers.tracefile import flat, layout

__all__ = ["DecodeError", "Layout", "decode"]

# Writers may pad a buffer before they compress it; Arrow pads to 64 bytes.
PADDING = 64


class DecodeError(ValueError):
    """The body of a batch is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where each column's field and buffers are in a message, from the file's schema."""

    fields: dict[str, int]
    buffers: dict[str, int]
    """First buffer of each column."""
    field_count: int
    buffer_count: int

    @classmethod
    def of(cls, schema: pa.Schema) -> Layout:
        """Return the layout of a schema.

        Raises:
            ValueError: A column is missing, or of a type that it must not be.
        """
        wanted = layout.schema()
        fields, buffers, at = {}, {}, 0
        for index, field in enumerate(schema):
            kind = field.type
            if field.name in fields:
                raise ValueError(f"column {field.name} is there twice")
            fields[field.name], buffers[field.name] = index, at
            if pa.types.is_primitive(kind):
                at += 2
            elif kind in (pa.binary(), pa.string()):
                at += 3
            else:
                raise ValueError(f"column {field.name} is of type {kind}")
        for field in wanted:
            if field.name not in fields:
                raise ValueError(f"column {field.name} is missing")
            found = schema.field(fields[field.name]).type
            if found != field.type:
                raise ValueError(f"column {field.name} is {found}, expected {field.type}")
        return cls(fields=fields, buffers=buffers, field_count=len(schema), buffer_count=at)


def decode(
    place: Layout,
    record: flat.Record,
    body: bytearray,
    header: layout.BatchHeader,
    columns: Collection[str] | None = None,
) -> EventBatch:
    """Return the batch; its columns are writable, and views of ``body`` if not compressed.

    Args:
        place: Layout of the file.
        record: What the message says about the body.
        body: The body.
        header: What the batch says about itself.
        columns: Names of those to decode (``time`` always is); ``bytes`` stands for all of
            the snaps. None: all.

    Raises:
        DecodeError: Sizes do not fit, or a checksum does not.
    """
    rows = header.summary.rows
    if record.rows != rows:
        raise DecodeError(f"it has {record.rows} rows, its metadata says {rows}")
    if (
        len(record.lengths) != place.field_count
        or len(record.offsets) != place.buffer_count
        or np.any(record.lengths != rows)
    ):
        raise DecodeError("its columns do not fit the schema")
    if len(header.crc32) != len(wire.COLUMNS) + 1:
        raise DecodeError("its metadata has not one checksum for each column")
    if record.codec is not None:
        body_codec = pa.Codec("lz4" if record.codec == "lz4" else "zstd")
    else:
        body_codec = None
    reader = _Body(place, record, body, body_codec)
    decoded = {}
    for (name, (kind, _)), crc in zip(wire.COLUMNS.items(), header.crc32, strict=False):
        if columns is not None and name not in columns and name != "time":
            continue
        if record.nulls[place.fields[name]]:
            raise DecodeError(f"column {name} has nulls")
        values = reader.values(name, 1, np.dtype(kind), rows)
        if zlib.crc32(values.data) != crc:
            raise DecodeError(f"column {name} does not match its checksum")
        decoded[name] = values
    snaps = Snaps.empty()
    if columns is None or layout.BYTES in columns:
        snaps = reader.snaps(rows)
        if layout.snap_checksum(snaps) != header.crc32[-1]:
            raise DecodeError("the captured bytes do not match their checksum")
    return EventBatch(columns=decoded, snaps=snaps, meta=header.meta, number=header.summary.number)


class _Body:
    # The buffers of one body.
    def __init__(
        self,
        place: Layout,
        record: flat.Record,
        body: bytearray,
        codec: pa.Codec | None,
    ) -> None:
        self.place = place
        self.record = record
        self.body = body
        self.codec = codec

    def values(self, name: str, which: int, kind: np.dtype[np.generic], count: int) -> Array:
        # The `which`-th buffer of a column: `count` items, not one byte more is made.
        index = self.place.buffers[name] + which
        start, size = int(self.record.offsets[index]), int(self.record.sizes[index])
        need = count * kind.itemsize
        if start < 0 or size < 0 or start + size > len(self.body):
            raise DecodeError(f"column {name} reaches outside of the body")
        if not count:
            return np.empty(0, kind)
        if self.codec is not None:
            if size < 8:
                raise DecodeError(f"column {name} has {size} bytes")
            declared = int.from_bytes(self.body[start : start + 8], "little", signed=True)
            start, size = start + 8, size - 8
            if declared != -1:
                if not need <= declared <= need + PADDING:
                    raise DecodeError(
                        f"column {name} would decompress to {declared} bytes, expected {need}"
                    )
                packed = memoryview(self.body)[start : start + size]
                try:
                    data = self.codec.decompress(packed, decompressed_size=declared)
                except (OSError, ValueError, pa.ArrowException) as error:
                    raise DecodeError(f"column {name}: {error}") from None
                return np.frombuffer(data, kind, count)
        if size < need:
            raise DecodeError(f"column {name} has {size} bytes, expected {need}")
        return np.frombuffer(self.body, kind, count, start)

    def snaps(self, rows: int) -> Snaps:
        names = [*layout.SNAP_COLUMNS, layout.BYTES]
        nulls = self.record.nulls[[self.place.fields[name] for name in names]]
        count = rows - int(nulls[0])
        if np.any(nulls != nulls[0]) or not 0 <= count <= rows:
            raise DecodeError("its packet columns do not agree on which rows have bytes")
        if not count:
            return Snaps.empty()
        present = self._present(names, rows, count)
        header = np.zeros(count, wire.SNAP)
        for name, (kind, _) in layout.SNAP_COLUMNS.items():
            values = self.values(name, 1, np.dtype(kind), rows)
            header[name.removeprefix("snap_")] = values[present]
        ends = self.values(layout.BYTES, 1, np.dtype("<i4"), rows + 1)
        sizes = np.diff(ends.astype(np.int64))
        total = int(ends[-1])
        if ends[0] or np.any(sizes < 0) or total > layout.MAX_DATA_BYTES:
            raise DecodeError("the offsets of its captured bytes make no sense")
        sizes = sizes[present]
        if int(sizes.sum()) != total or int(sizes.max()) > 0xFFFF:
            raise DecodeError("the sizes of its captured bytes make no sense")
        header["captured"] = sizes
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        data = self.values(layout.BYTES, 2, np.dtype("u1"), total)
        return Snaps(rows=present.astype(np.uint32), header=header, offsets=offsets, data=data)

    def _present(self, names: list[str], rows: int, count: int) -> Array:
        # The rows that have a snap. Where all do, Arrow leaves the bitmap out.
        if count == rows:
            return np.arange(rows)
        octet = np.dtype("u1")
        bitmaps = [self.values(name, 0, octet, (rows + 7) // 8) for name in names]
        if any(not np.array_equal(bitmaps[0], other) for other in bitmaps[1:]):
            raise DecodeError("its packet columns do not agree on which rows have bytes")
        bits = np.unpackbits(bitmaps[0], count=rows, bitorder="little")
        present = np.flatnonzero(bits)
        if len(present) != count:
            raise DecodeError("its packet columns do not agree on which rows have bytes")
        return present
