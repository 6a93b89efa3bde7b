"""The rows of one table of a recording, read for what is asked and for no more.

Of a file no batch outside of the stretch of time is decoded, none without a record that a row of
the table is made of, and no captured bytes if no column is made of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers import wire
from vtrace.export.rows import queues_table
from vtrace.model import Kind
from vtrace.session import PacketJoin, Session, Window, requests_of
from vtrace.tables import LIFECYCLES, Table, Values

if TYPE_CHECKING:
    from parsers.batch import EventBatch
    from vtrace.filter import Filter
    from vtrace.tables import Schema

__all__ = ["Asked", "tables_of", "touched"]

_KINDS: Final = {"exits": (Kind.EXIT,)}
_DROPS: Final = (Kind.DROP, Kind.REFUSE)
_OF_BYTES: Final = frozenset(
    (
        *("captured_bytes", "gso_type", "gso_bytes", "checksum", "flow"),
        *("eth_src", "eth_dst", "eth_type", "vlan", "ip_version", "src", "dst", "protocol", "ttl"),
        *("ip_bytes", "ip_id", "fragment", "sport", "dport", "udp_bytes", "tcp_flags"),
    )
)
"""Columns that are made of a packet's captured bytes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted of a table."""

    table: str
    columns: tuple[str, ...]
    filters: tuple[Filter, ...] = ()
    window: Window = field(default_factory=Window)


def tables_of(trace: Any, asked: Asked) -> Iterator[Table]:
    """Yield the rows that are asked for, as the batches of a recording bring them to an end."""
    needed = set(asked.columns)
    for one in asked.filters:
        needed |= touched(one)
    for table in _tables(trace, asked, needed):
        chosen = table
        for one in asked.filters:
            chosen = one(chosen)
        if len(chosen):
            yield chosen


def _tables(trace: Any, asked: Asked, needed: set[str]) -> Iterator[Table]:
    source = _Source(trace, kinds=_KINDS.get(asked.table))
    if asked.table in ("lifecycles", "packets", "drops"):
        carried = asked.table != "lifecycles" or not needed <= set(LIFECYCLES.names) - {"flow"}
        source.bytes_too = carried and not needed.isdisjoint(_OF_BYTES)
        if asked.table == "drops" and not source.may_have(_DROPS):
            return
        session = Session(source, window=asked.window, join=PacketJoin() if carried else None)
        for chunk in session.chunks():
            yield getattr(chunk, asked.table)
        return
    session = Session(source, window=asked.window)
    if asked.table == "exits":
        for chunk in session.events_only():
            yield session.within(chunk.exits)
    elif asked.table == "requests":
        for _, table in requests_of(session):
            yield table
    else:
        yield queues_table(session.summary())


class _Source:
    """A recording of which less is read: without the captured bytes, or of some kinds alone."""

    def __init__(self, trace: Any, kinds: Collection[int] | None) -> None:
        self._trace = trace
        self._kinds = kinds
        self.bytes_too = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def may_have(self, kinds: Collection[int]) -> bool:
        """Return whether there may be records of these kinds; true where nothing tells."""
        if not hasattr(self._trace, "totals"):
            return True
        self._trace.scan()
        found = {int(kind) for of_queue in self._trace.totals.values() for kind in of_queue}
        return not found.isdisjoint(int(kind) for kind in kinds)

    def batches(
        self, columns: Collection[str] | None = None, **chosen: Any
    ) -> Iterator[EventBatch]:
        """Yield batches as the recording does."""
        if not self.bytes_too:
            columns = tuple(wire.COLUMNS)
        if self._kinds is not None and hasattr(self._trace, "totals"):
            chosen["kinds"] = self._kinds
        batches: Iterator[EventBatch] = self._trace.batches(columns=columns, **chosen)
        return batches


class _Listening(Table):
    """A table without rows that notes which columns are looked at."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema, 0, {})
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Values:
        self.names.add(name)
        shape = (0, 2) if name in ("src", "dst") else 0
        return Values(np.zeros(shape, np.uint64), np.zeros(0, np.bool_), ("",))


def touched(one: Filter) -> set[str]:
    """Return the columns that a filter looks at."""
    listening = _Listening(one.schema)
    one.mask(listening)
    return listening.names
