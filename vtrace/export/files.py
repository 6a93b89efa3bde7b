"""Tables as files: Parquet, CSV, JSON lines, each written row group by row group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from vtrace.export.arrow import arrow_schema, record_batch, strings
from vtrace.tables.lines import json_lines

if TYPE_CHECKING:
    from vtrace.export.output import OutputFile
    from vtrace.tables import Schema, Table

__all__ = ["WRITERS", "CsvFile", "JsonLinesFile", "ParquetFile", "TableFile"]

GROUP_ROWS: Final = 1 << 17
"""Rows of a row group of Parquet: what a reader takes in at once."""

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a text may begin with that a spreadsheet takes for a formula."""


class TableFile(Protocol):
    """What a table is written to, in one format."""

    def __init__(self, file: OutputFile, schema: Schema, about: dict[str, str]) -> None:
        """Begin; ``about`` is what is to be said of the recording."""

    def write(self, table: Table) -> None:
        """Take rows."""

    def close(self) -> None:
        """Write what is left."""


class ParquetFile:
    """A table as Parquet: zstd, dictionaries, the Arrow schema with units and meanings."""

    def __init__(self, file: OutputFile, schema: Schema, about: dict[str, str]) -> None:
        self._schema = arrow_schema(schema, about)
        self._sink = pa.PythonFile(file, mode="w")
        self._writer = pa.parquet.ParquetWriter(self._sink, self._schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, table: Table) -> None:
        """Write rows, once there are enough of them."""
        if len(table):
            self._waiting.append(record_batch(table, self._schema))
            self._rows += len(table)
        if self._rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the footer."""
        if self._waiting:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        rows = pa.Table.from_batches(self._waiting, self._schema).unify_dictionaries()
        self._writer.write_table(rows, row_group_size=GROUP_ROWS)
        self._waiting, self._rows = [], 0


class CsvFile:
    """A table as CSV: a head, and what is missing is empty."""

    def __init__(self, file: OutputFile, schema: Schema, about: dict[str, str]) -> None:
        del about  # CSV has no place for it
        self._file = file
        self._schema = arrow_schema(schema)
        file.write((",".join(schema.names) + "\n").encode())

    def write(self, table: Table) -> None:
        """Write rows."""
        if not len(table):
            return
        batch = record_batch(table, self._schema)
        columns = [_plain(column) for column in batch.columns]
        rows = pa.RecordBatch.from_arrays(columns, names=list(self._schema.names))
        options = pa.csv.WriteOptions(include_header=False, quoting_style="needed")
        sink = pa.BufferOutputStream()
        pa.csv.write_csv(rows, sink, options)
        self._file.write(sink.getvalue())

    def close(self) -> None:
        """Do nothing: each row is written."""


class JsonLinesFile:
    """A table as JSON lines, the same that the verbs print with ``--json``."""

    def __init__(self, file: OutputFile, schema: Schema, about: dict[str, str]) -> None:
        del schema, about  # each line says its names
        self._file = file

    def write(self, table: Table) -> None:
        """Write rows."""
        if len(table):
            self._file.write(json_lines(table).encode())

    def close(self) -> None:
        """Do nothing: each row is written."""


def _plain(column: Any) -> Any:
    if not pa.types.is_dictionary(column.type):
        return column
    # A text that a spreadsheet would take for a formula is one that a guest may have chosen.
    texts = [
        "'" + text if text.startswith(FORMULA) else text for text in column.dictionary.to_pylist()
    ]
    return strings(texts).take(column.indices)


WRITERS: Final[dict[str, type[TableFile]]] = {
    "parquet": ParquetFile,
    "csv": CsvFile,
    "jsonl": JsonLinesFile,
}
"""Format -> its writer."""
