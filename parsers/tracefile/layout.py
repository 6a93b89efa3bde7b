"""What a ``.vtrace`` file holds besides Arrow: schema, versions, caps, summaries, checksums."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

import vtrace
from parsers import wire
from vtrace.model import Kind

if TYPE_CHECKING:
    from parsers.batch import Array, EventBatch, Snaps

__all__ = [
    "BYTES",
    "FORMAT_VERSION",
    "MAGIC",
    "MAX_BODY_BYTES",
    "MAX_DATA_BYTES",
    "MAX_FOOTER_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_ROWS",
    "MAX_SCHEMA_BYTES",
    "SNAP_COLUMNS",
    "BatchHeader",
    "BatchSummary",
    "Tally",
    "checksums",
    "pack_header",
    "schema",
    "snap_checksum",
    "tally",
    "unpack_header",
]

FORMAT_VERSION: Final = 1

MAGIC: Final = b"ARROW1\0\0"
BYTES: Final = "bytes"
"""Column of the captured bytes; the name by which a reader asks for snaps."""

MAX_ROWS: Final = 1 << 20
MAX_DATA_BYTES: Final = 64 << 20
"""Captured bytes of one batch."""
MAX_HEADER_BYTES: Final = 8 << 20
"""Header of a message: Arrow's own fields and our metadata."""
MAX_BODY_BYTES: Final = 256 << 20
MAX_SCHEMA_BYTES: Final = 1 << 20
MAX_FOOTER_BYTES: Final = 64 << 20

SNAP_COLUMNS: Final[dict[str, tuple[str, str]]] = {
    "snap_gso_size": ("<u2", "payload of each segment, bytes; 0: not segmented"),
    "snap_csum_start": ("<u2", "where the checksum starts, from the start of the frame"),
    "snap_csum_offset": ("<u2", "where it is stored, from csum_start"),
    "snap_hdr_flags": ("u1", "VIRTIO_NET_HDR_F_*: 1 needs checksum, 2 data valid"),
    "snap_gso_type": ("u1", "VIRTIO_NET_HDR_GSO_*"),
    "snap_vlan_tci": ("<u2", "VLAN tag held beside the frame; 0: none"),
    "snap_vlan_proto": ("<u2", "TPID of that tag"),
}
"""``wire.SNAP`` as columns. ``captured`` is the length of ``bytes``."""

KEY: Final = b"vtrace"
CRC_KEY: Final = b"vtrace.crc32"

U64: Final = 1 << 64
# Sections of metadata that Metadata and its users take apart, and what they must be.
SHAPES: Final[dict[str, type]] = {
    "host": dict,
    "clock": list,
    "queues": dict,
    "threads": dict,
    "comms": dict,
    "places": dict,
    "reasons": dict,
    "probes": dict,
    "calls": dict,
    "counts": dict,
    "loss": dict,
    "exits": list,
    "vms": list,
    "capture": dict,
    "counters": dict,
    "imported": dict,
    "timebase": dict,
    "unrecorded": dict,
    "rings": dict,
    "config": dict,
    "qmp": dict,
    "gap": dict,
    "end": dict,
}


class Tally(NamedTuple):
    """Events of one kind on one queue, and the sum of their ``length``."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """What a batch says about itself, read without its columns."""

    number: int
    rows: int
    first_ns: int | None
    """Smallest time in it; None without rows."""
    last_ns: int | None
    queues: dict[int, dict[Kind | int, Tally]]
    """Queue id -> kind -> events and bytes. Kinds that are not known are ints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader:
    """A batch without its columns: the custom metadata of its message."""

    trace: str
    """Random id of the recording, so that bytes inside a packet cannot pass for a batch."""
    summary: BatchSummary
    meta: dict[str, Any]
    crc32: list[int]
    """One for each event column in the order of the schema, then one for the snaps."""


def schema() -> pa.Schema:
    """Return the Arrow schema of a recording by this version of vtrace."""

    def field(name: str, kind: str, meaning: str, *, nullable: bool) -> pa.Field:
        arrow = pa.from_numpy_dtype(np.dtype(kind))
        return pa.field(name, arrow, nullable, metadata={"meaning": meaning})

    fields = [
        field(name, kind, meaning, nullable=False) for name, (kind, meaning) in wire.COLUMNS.items()
    ]
    fields += [
        field(name, kind, meaning, nullable=True) for name, (kind, meaning) in SNAP_COLUMNS.items()
    ]
    meaning = {"meaning": "first bytes of the frame, or of a buffer (REQUEST, RESPONSE)"}
    fields.append(pa.field(BYTES, pa.binary(), nullable=True, metadata=meaning))
    return pa.schema(
        fields,
        metadata={
            "vtrace.format": str(FORMAT_VERSION),
            "vtrace.wire": str(wire.WIRE_VERSION),
            "vtrace.version": vtrace.__version__,
        },
    )


def tally(batch: EventBatch) -> dict[int, dict[Kind | int, Tally]]:
    """Count the events of each queue and kind."""
    if not len(batch):
        return {}
    queues, kinds = batch["queue"], batch["kind"]
    kinds_end = int(kinds.max()) + 1
    key = queues.astype(np.int64) * kinds_end + kinds
    if int(queues.max()) * kinds_end < 1 << 18:
        events = np.bincount(key)
        # Weights are floats: exact up to 2^53, and a batch has at most 2^20 * 2^32.
        sums = np.bincount(key, weights=batch["length"]).astype(np.int64)
        keys = np.flatnonzero(events)
        events, sums = events[keys], sums[keys]
    else:
        keys, where, events = np.unique(key, return_inverse=True, return_counts=True)
        sums = np.bincount(where, weights=batch["length"]).astype(np.int64)
    found: dict[int, dict[Kind | int, Tally]] = {}
    for one, n, size in zip(keys.tolist(), events.tolist(), sums.tolist(), strict=True):
        queue, kind = divmod(one, kinds_end)
        found.setdefault(queue, {})[_kind(kind)] = Tally(n, size)
    return found


def checksums(columns: Mapping[str, Array], snaps: Snaps) -> list[int]:
    """Return the CRCs of a batch: each event column's, then that of its snaps."""
    sums = [zlib.crc32(columns[name].data) for name in wire.COLUMNS]
    return [*sums, snap_checksum(snaps)]


def snap_checksum(snaps: Snaps) -> int:
    """Return the CRC over row numbers (u32), headers (``wire.SNAP``) and bytes."""
    if not len(snaps):
        return 0
    crc = zlib.crc32(np.ascontiguousarray(snaps.rows, "<u4").data)
    crc = zlib.crc32(np.ascontiguousarray(snaps.header).view("u1").data, crc)
    return zlib.crc32(np.ascontiguousarray(snaps.data).data, crc)


def pack_header(header: BatchHeader) -> dict[bytes, bytes]:
    """Return the custom metadata of a batch's message."""
    summary = header.summary
    queues = {
        str(queue): {
            kind.name if isinstance(kind, Kind) else str(kind): [*counted]
            for kind, counted in kinds.items()
        }
        for queue, kinds in summary.queues.items()
    }
    text = json.dumps(
        {
            "trace": header.trace,
            "number": summary.number,
            "rows": summary.rows,
            "first_ns": summary.first_ns,
            "last_ns": summary.last_ns,
            "queues": queues,
            "crc32": header.crc32,
            "meta": header.meta,
        },
        separators=(",", ":"),
        allow_nan=False,
        default=_plain,
    ).encode()
    return {KEY: text, CRC_KEY: b"%d" % zlib.crc32(text)}


def unpack_header(metadata: Mapping[bytes, bytes]) -> BatchHeader:
    """Take a batch's metadata apart.

    Raises:
        ValueError: It is not there, damaged, or not what a writer of ours makes.
    """
    text = metadata.get(KEY)
    if text is None:
        raise ValueError("the batch has no metadata of vtrace")
    if metadata.get(CRC_KEY) != b"%d" % zlib.crc32(text):
        raise ValueError("the metadata of the batch does not match its checksum")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("the metadata of the batch is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("the metadata of the batch is no object")  # noqa: TRY004
    rows = _number(found, "rows", MAX_ROWS + 1)
    trace, sums = found.get("trace"), found.get("crc32")
    if not isinstance(trace, str) or not isinstance(sums, list):
        raise ValueError("the metadata of the batch lacks trace or crc32")  # noqa: TRY004
    return BatchHeader(
        trace=trace,
        summary=BatchSummary(
            number=_number(found, "number", 1 << 62),
            rows=rows,
            first_ns=_number(found, "first_ns", U64) if rows else None,
            last_ns=_number(found, "last_ns", U64) if rows else None,
            queues=_queues(found.get("queues")),
        ),
        meta=_meta(found.get("meta")),
        crc32=[one for one in sums if type(one) is int],
    )


def _kind(number: int) -> Kind | int:
    try:
        return Kind(number)
    except ValueError:
        return number


def _plain(value: object) -> object:
    # numpy's scalars, for json.
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"metadata holds a {type(value).__name__}: {value!r}")


def _number(found: Mapping[str, Any], name: str, end: int) -> int:
    value = found.get(name)
    if type(value) is not int or not 0 <= value < end:
        raise ValueError(f"the metadata of the batch has no {name} that makes sense")
    return value


def _queues(found: object) -> dict[int, dict[Kind | int, Tally]]:
    try:
        return {
            int(queue): {
                Kind[kind] if kind in Kind.__members__ else int(kind): Tally(
                    int(counted[0]), int(counted[1])
                )
                for kind, counted in kinds.items()
            }
            for queue, kinds in found.items()  # type: ignore[attr-defined]
        }
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
        raise ValueError("the summary of queues in a batch makes no sense") from None


def _meta(found: object) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError("the metadata of the batch has no meta")  # noqa: TRY004
    for name, section in found.items():
        shape = SHAPES.get(name)
        if shape is not None and not isinstance(section, shape):
            raise ValueError(f"section {name} of a batch is no {shape.__name__}")
        if shape is list and not all(isinstance(one, dict) for one in section):
            raise ValueError(f"section {name} of a batch is no list of objects")
    return found
