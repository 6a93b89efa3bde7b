"""A table of a recording that behaves like a pandas frame and is read when its rows are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from vtrace.api.convert import Rows
from vtrace.errors import UsageError
from vtrace.tables import SCHEMAS, Column, Schema, Table

if TYPE_CHECKING:
    import pandas

    from vtrace.api.moments import When
    from vtrace.api.rows import Asked
    from vtrace.session import Window

__all__ = ["CHUNK_ROWS", "Frame"]

CHUNK_ROWS: Final = 100_000

Read = Callable[["Asked"], Iterator[Table]]
MakeWindow = Callable[["When | None", "When | None"], "Window"]


class Frame:
    """Rows of one table, not yet read: which columns, which rows, of which stretch of time.

    ``where``, ``between`` and ``frame[["queue", "service_ns"]]`` narrow it and return another;
    ``to_pandas``, ``chunks``, ``count``, ``head`` and ``frame["service_ns"]`` read, each time anew
    and only what is needed. Rows stand in the order in which the verb of that name prints them.
    """

    def __init__(self, asked: Asked, read: Read, window: MakeWindow, source: str) -> None:
        self._asked = asked
        self._read = read
        self._window = window
        self._source = source

    @property
    def schema(self) -> Schema:
        """Type, unit and meaning of each column of the table."""
        return SCHEMAS[self._asked.table]

    @property
    def columns(self) -> pandas.Index:
        """Names of the columns, in order."""
        import pandas

        return pandas.Index(self._asked.columns)

    @property
    def dtypes(self) -> pandas.Series:
        """The pandas type of each column; the same whatever is in the recording."""
        return self._rows().frame().dtypes

    def where(self, expression: str) -> Frame:
        """Return the rows that match a display filter, ``vtrace``'s own (docs/filters.md).

        ``queue == "rx0" and service_ns > 1ms``. Packet fields (``udp.dport == 7001``) and columns
        that were left out can be asked for, too. Used twice, both must match.

        Raises:
            FilterError: The expression has a mistake; its ``column`` says where.
        """
        from vtrace.filter import compile_filter

        one = compile_filter(expression, self.schema)
        return self._narrowed(filters=(*self._asked.filters, one))

    def between(self, since: When | None = None, until: When | None = None) -> Frame:
        """Return the rows that begin in a stretch of time; batches outside are not decoded.

        ``"2s"`` or a ``timedelta`` counts from the start, an integer is a time as in ``time_ns``,
        ``"12:01:03"`` or a ``datetime`` with a zone is on the wall. Used twice, the last holds.

        Raises:
            UsageError: It is no time, or means nothing in this recording.
        """
        return self._narrowed(window=self._window(since, until))

    @overload
    def __getitem__(self, names: str) -> pandas.Series: ...

    @overload
    def __getitem__(self, names: Sequence[str]) -> Frame: ...

    def __getitem__(self, names: str | Sequence[str]) -> pandas.Series | Frame:
        """Return a frame of some columns; of one name the column itself, which reads it.

        Raises:
            UsageError: There is no such column.
        """
        if isinstance(names, str):
            return self._narrowed(columns=self._checked([names])).to_pandas()[names]
        return self._narrowed(columns=self._checked(names))

    def to_pandas(self) -> pandas.DataFrame:
        """Read all rows into memory.

        Raises:
            InputError: The recording cannot be read.
        """
        rows = self._rows()
        for table in self._read(self._asked):
            rows.add(table)
        return rows.frame()

    def chunks(self, rows: int = CHUNK_ROWS) -> Iterator[pandas.DataFrame]:
        """Yield the rows in frames of so many, the last of fewer, for what memory does not hold.

        The index goes on from frame to frame. Categories of a text are those of its frame.

        Raises:
            InputError: The recording cannot be read.
            UsageError: ``rows`` is less than 1.
        """
        if rows < 1:
            raise UsageError(f"chunks of {rows} rows: expected 1 or more")
        return self._chunks(rows)

    def _chunks(self, rows: int) -> Iterator[pandas.DataFrame]:
        held, start = self._rows(), 0
        for table in self._read(self._asked):
            at = 0
            while at < len(table):
                stop = min(at + rows - len(held), len(table))
                held.add(table if stop - at == len(table) else table.take(np.arange(at, stop)))
                at = stop
                if len(held) == rows:
                    yield held.frame(start)
                    held, start = self._rows(), start + rows
        if len(held):
            yield held.frame(start)

    def head(self, n: int = 5) -> pandas.DataFrame:
        """Return the first rows; stops reading behind them."""
        rows = self._rows()
        if n > 0:
            for table in self._read(self._asked):
                rows.add(table.head(n - len(rows)))
                if len(rows) >= n:
                    break
        return rows.frame()

    def count(self) -> int:
        """Return how many rows there are; makes no column but those of its filter.

        (Of a DataFrame it counts values by column.)
        """
        return sum(len(table) for table in self._read(replace(self._asked, columns=())))

    @property
    def empty(self) -> bool:
        """There is no row; stops reading at the first."""
        return next(self._read(replace(self._asked, columns=())), None) is None

    def groupby(self, by: Any, **options: Any) -> Any:
        """Read the rows and group them: ``to_pandas().groupby``, by what occurs alone."""
        return self.to_pandas().groupby(by, **{"observed": True, **options})

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return not self.empty

    def __iter__(self) -> Iterator[str]:
        return iter(self._asked.columns)

    def __contains__(self, name: object) -> bool:
        return name in self._asked.columns

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as a stream of Arrow: polars and DuckDB take a frame as it is."""
        import pyarrow as pa

        from vtrace.export.arrow import arrow_schema, record_batch

        columns = self._schema_columns()
        narrow = Schema(self.schema.name, self.schema.meaning, columns)
        schema = arrow_schema(narrow)

        def made(table: Table) -> Table:
            makers = {one.name: (lambda name=one.name: table[name]) for one in columns}
            return Table(narrow, len(table), makers)

        batches = (record_batch(made(table), schema) for table in self._read(self._asked))
        return pa.RecordBatchReader.from_batches(schema, batches).__arrow_c_stream__(
            requested_schema
        )

    def __repr__(self) -> str:
        asked = self._asked
        parts = [f"{asked.table} of {self._source}", f"{len(asked.columns)} columns"]
        parts += [f"where {one.text}" for one in asked.filters]
        if asked.window:
            parts.append("between two times")
        return f"<{', '.join(parts)}: .to_pandas() reads it>"

    if not TYPE_CHECKING:  # A checker of types is to know that there is no such attribute.

        def __getattr__(self, name: str) -> Any:
            hint = f'; the column is ["{name}"]' if name in self.schema else ""
            raise AttributeError(
                f"a Frame has no {name!r}{hint}; .to_pandas() reads it into a DataFrame"
            )

    def _narrowed(self, **changes: Any) -> Frame:
        return Frame(replace(self._asked, **changes), self._read, self._window, self._source)

    def _rows(self) -> Rows:
        return Rows(self._schema_columns())

    def _schema_columns(self) -> tuple[Column, ...]:
        return tuple(self.schema.column(name) for name in self._asked.columns)

    def _checked(self, names: Sequence[str]) -> tuple[str, ...]:
        from vtrace.filter.literals import near

        for name in names:
            if name not in self._asked.columns:
                table, hint = self._asked.table, near(str(name), self._asked.columns)
                raise UsageError(f"{table} have no column {name!r}{hint or '; see .columns'}")
        return tuple(dict.fromkeys(names))
