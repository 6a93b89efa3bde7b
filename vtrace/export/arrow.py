"""Tables as Arrow: the schema with what each column means, and the rows as record batches.

Integers keep their width (u64 stays u64), text is dictionary-encoded, a value that was not seen is
null. The metadata of a field says its meaning, its unit, which column holds its state, and the
values that a text can have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from vtrace.flows import address_text, mac_text
from vtrace.tables import Schema, Table, Type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.tables import Column, Values

__all__ = ["arrow_schema", "record_batch", "strings", "utf8"]

TEXT: Final = pa.dictionary(pa.int32(), pa.string())


def utf8(text: str) -> str:
    """Return text that UTF-8 can hold: half of a surrogate pair becomes its escape."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def strings(texts: Sequence[str]) -> pa.Array:
    """Return texts that UTF-8 can hold as an array."""
    data = [text.encode() for text in texts]
    offsets = np.zeros(len(data) + 1, np.int32)
    np.cumsum([len(one) for one in data], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))]
    return pa.Array.from_buffers(pa.string(), len(data), buffers)


def _type(column: Column) -> pa.DataType:
    if column.type is Type.INTEGER:
        return pa.from_numpy_dtype(np.dtype(column.numpy))
    if column.type is Type.BOOLEAN:
        return pa.bool_()
    return TEXT


def _field(column: Column) -> pa.Field:
    said = {"meaning": column.meaning, "unit": column.unit, "state": column.state}
    if column.values:
        said["values"] = json.dumps(column.values)
    if column.type in (Type.ADDRESS, Type.MAC):
        said["type"] = str(column.type)
    return pa.field(column.name, _type(column), metadata={k: v for k, v in said.items() if v})


def arrow_schema(schema: Schema, about: dict[str, str] | None = None) -> pa.Schema:
    """Return the schema of a table; ``about`` becomes metadata of it, beside name and meaning."""
    said = {"vtrace.table": schema.name, "meaning": schema.meaning, **(about or {})}
    return pa.schema(
        [_field(column) for column in schema.columns],
        metadata={key: utf8(text) for key, text in said.items()},
    )


def record_batch(table: Table, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows of a table; ``schema`` is that of ``arrow_schema``."""
    arrays = [
        _array(table[column.name], column, schema.field(column.name).type)
        for column in table.schema.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: Values, column: Column, kind: pa.DataType) -> pa.Array:
    mask = None if values.valid is None or values.valid.all() else ~values.valid
    if column.type is Type.TEXT:
        return _texts(values.data, values.pool or ("",), mask)
    if column.type is Type.ADDRESS:
        pairs = np.ascontiguousarray(values.data, np.uint64).view("u8,u8").ravel()
        if mask is not None:
            # Few addresses make up many rows, and what is not there is none of them.
            pairs = np.where(mask, np.zeros(1, pairs.dtype), pairs)
        distinct, codes = np.unique(pairs, return_inverse=True)
        return _coded(codes, [address_text(high, low) for high, low in distinct.tolist()], mask)
    if column.type is Type.MAC:
        distinct, codes = np.unique(values.data, return_inverse=True)
        return _coded(codes, [mac_text(number) for number in distinct.tolist()], mask)
    return _plain(values.data.astype(column.numpy, copy=False), kind, mask)


def _plain(data: NDArray[Any], kind: pa.DataType, mask: NDArray[np.bool_] | None) -> pa.Array:
    # By its buffers: pa.array() loads pandas.
    valid = None if mask is None else pa.py_buffer(np.packbits(~mask, bitorder="little"))
    count = len(data)
    if kind == pa.bool_():
        data = np.packbits(data, bitorder="little")
    return pa.Array.from_buffers(kind, count, [valid, pa.py_buffer(np.ascontiguousarray(data))])


def _texts(codes: NDArray[Any], pool: Any, mask: NDArray[np.bool_] | None) -> pa.Array:
    # Of the pool, which may be that of the whole recording, what these rows have.
    used = np.zeros(len(pool), np.bool_)
    used[codes if mask is None else codes[~mask]] = True
    codes = codes if mask is None else np.where(mask, 0, codes)
    place = np.cumsum(used) - 1
    texts = [pool[code] for code in np.flatnonzero(used).tolist()]
    return _coded(np.where(used[codes], place[codes], 0), texts, mask)


def _coded(codes: NDArray[Any], texts: list[str], mask: NDArray[np.bool_] | None) -> pa.Array:
    # Two codes may have one text: a dictionary must not.
    places: dict[str, int] = {}
    at = np.array([places.setdefault(utf8(text), len(places)) for text in texts], np.int32)
    indices = at[codes] if len(at) else np.zeros(len(codes), np.int32)
    return pa.DictionaryArray.from_arrays(_plain(indices, pa.int32(), mask), strings(list(places)))
