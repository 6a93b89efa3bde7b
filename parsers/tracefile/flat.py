"""A careful walk through the few Arrow flatbuffers that a trace needs.

pyarrow tells neither where a message's buffers are nor how large each will be once
decompressed, and both must be known before anything is allocated for them. Every access here is
checked against the buffer; whatever does not fit is a ``FlatError``.

Names and slots are those of Arrow's ``Message.fbs``, ``Schema.fbs`` and ``File.fbs``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from parsers.batch import Array

__all__ = [
    "BLOCK",
    "HEADER_RECORD_BATCH",
    "HEADER_SCHEMA",
    "FlatError",
    "Message",
    "Record",
    "build_footer",
    "footer_blocks",
]

HEADER_SCHEMA: Final = 1
HEADER_RECORD_BATCH: Final = 3
METADATA_V5: Final = 4

BLOCK: Final = np.dtype([("offset", "<i8"), ("header", "<i4"), ("pad", "<i4"), ("body", "<i8")])
"""``struct Block``: where a message starts, the bytes of its header and of its body."""

PAIR: Final = np.dtype([("first", "<i8"), ("second", "<i8")])
# struct FieldNode {length, null_count} and struct Buffer {offset, length}.

# More custom metadata than any writer of ours has.
MAX_KEYS: Final = 16


class FlatError(ValueError):
    """A flatbuffer is not what it should be."""


class _Table:
    # A table: at the signed offset before it stands the list of its fields' places.
    __slots__ = ("at", "data", "fields", "size")

    def __init__(self, data: bytes | bytearray, at: int) -> None:
        self.data = data
        self.at = at
        fields = at - self.number("<i", at)
        self.fields = fields
        self.size = self.number("<H", fields)

    def number(self, form: str, at: int) -> int:
        if not 0 <= at <= len(self.data) - struct.calcsize(form):
            raise FlatError(f"offset {at} is outside of the {len(self.data)} bytes")
        value: int = struct.unpack_from(form, self.data, at)[0]
        return value

    def place(self, slot: int) -> int | None:
        entry = 4 + 2 * slot
        if entry + 2 > self.size:
            return None
        offset = self.number("<H", self.fields + entry)
        return self.at + offset if offset else None

    def scalar(self, slot: int, form: str) -> int:
        at = self.place(slot)
        return 0 if at is None else self.number(form, at)

    def target(self, slot: int) -> int | None:
        at = self.place(slot)
        return None if at is None else at + self.number("<I", at)

    def table(self, slot: int) -> _Table | None:
        at = self.target(slot)
        return None if at is None else _Table(self.data, at)

    def vector(self, slot: int, width: int) -> tuple[int, int]:
        at = self.target(slot)
        if at is None:
            return 0, 0
        count = self.number("<I", at)
        if at + 4 + count * width > len(self.data):
            raise FlatError(f"{count} elements do not fit into the message")
        return at + 4, count

    def string(self, slot: int) -> bytes:
        start, count = self.vector(slot, 1)
        return bytes(self.data[start : start + count])

    def structs(self, slot: int, kind: np.dtype[np.void]) -> Array:
        start, count = self.vector(slot, kind.itemsize)
        return np.frombuffer(self.data, kind, count, start)


def _root(data: bytes | bytearray) -> _Table:
    if len(data) < 8:
        raise FlatError(f"{len(data)} bytes are too few for a message")
    start: int = struct.unpack_from("<I", data)[0]
    return _Table(data, start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a record batch's header says about its body."""

    rows: int
    lengths: Array
    """Rows of each column."""
    nulls: Array
    """Nulls of each column."""
    offsets: Array
    """Where each buffer starts in the body."""
    sizes: Array
    """Bytes of each buffer in the body."""
    codec: str | None
    """``zstd``, ``lz4``; None if the buffers are as they are."""


class Message:
    """The header of an Arrow message."""

    __slots__ = ("_table", "body_bytes", "kind")

    def __init__(self, data: bytes | bytearray) -> None:
        self._table = _root(data)
        self.kind = self._table.scalar(1, "<B")
        self.body_bytes = self._table.scalar(3, "<q")

    def metadata(self) -> dict[bytes, bytes]:
        """Return the custom metadata of the message."""
        table = self._table
        start, count = table.vector(4, 4)
        if count > MAX_KEYS:
            raise FlatError(f"{count} keys of metadata, at most {MAX_KEYS} make sense")
        found = {}
        for at in range(start, start + 4 * count, 4):
            pair = _Table(table.data, at + table.number("<I", at))
            found[pair.string(0)] = pair.string(1)
        return found

    def record(self) -> Record:
        """Return the header of a record batch."""
        header = self._table.table(2)
        if header is None or self.kind != HEADER_RECORD_BATCH:
            raise FlatError("the message holds no record batch")
        compression = header.table(3)
        codec = None
        if compression is not None:
            number = compression.scalar(0, "<b")
            codec = {0: "lz4", 1: "zstd"}.get(number)
            if codec is None or compression.scalar(1, "<b"):
                raise FlatError(f"compression {number} is not known")
        nodes = header.structs(1, PAIR)
        buffers = header.structs(2, PAIR)
        return Record(
            rows=header.scalar(0, "<q"),
            lengths=nodes["first"],
            nulls=nodes["second"],
            offsets=buffers["first"],
            sizes=buffers["second"],
            codec=codec,
        )


def footer_blocks(footer: bytes | bytearray) -> Array:
    """Return the blocks (dtype ``BLOCK``) of the record batches that a footer lists."""
    return _root(footer).structs(3, BLOCK)


def build_footer(schema_message: bytes, blocks: Array) -> bytes:
    """Return the footer of a file: its schema again, and where its batches are.

    The schema message (without its prefix) is taken in whole behind the blocks, and the footer
    points at the schema inside it: offsets in a flatbuffer are relative, so nothing changes.
    """
    message = _root(schema_message)
    schema = message.target(2)
    if message.scalar(1, "<B") != HEADER_SCHEMA or schema is None:
        raise FlatError("the message holds no schema")
    vtable, table, no_dictionaries, count, first = 4, 20, 40, 44, 48
    behind = first + len(blocks) * BLOCK.itemsize
    head = struct.pack(
        "<I HHHHHH xxxx iIIIh xx I I",
        table,
        12,
        18,
        16,  # version
        4,  # schema
        8,  # dictionaries
        12,  # recordBatches
        table - vtable,
        behind + schema - (table + 4),
        no_dictionaries - (table + 8),
        count - (table + 12),
        METADATA_V5,
        0,
        len(blocks),
    )
    return head + blocks.astype(BLOCK).tobytes() + schema_message
