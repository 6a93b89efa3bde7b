"""Every table of a recording in one pass, in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import STAGES
from vtrace.session import RequestJoin, Summary
from vtrace.tables import QUEUES, REQUESTS, SCHEMAS, Table, Type, Values

if TYPE_CHECKING:
    from vtrace.session import Session
    from vtrace.tables import Column

__all__ = ["TABLES", "queues_table", "tables_of"]

TABLES: Final = tuple(SCHEMAS)
"""Names of all tables: lifecycles, packets, exits, drops, queues, requests."""

_NESTED: Final = ("kicks", "interrupts")


def tables_of(session: Session, wanted: Sequence[str]) -> Iterator[tuple[str, Table]]:
    """Yield (name, rows) of the tables that are wanted, as the chains of each batch end.

    The rows are in the window of the session. The table of queues comes last, once; it is that
    of the whole recording, so a session with a window has it from ``Session.summary`` alone.
    """
    requests = RequestJoin(session.names) if REQUESTS.name in wanted else None
    for chunk in session.chunks():
        for name in ("lifecycles", "packets", "drops"):
            if name in wanted:
                yield name, getattr(chunk, name)
        if "exits" in wanted:
            yield "exits", session.within(chunk.exits)
        if requests is not None:
            requests.feed(chunk.batch)
            yield REQUESTS.name, session.within(requests.take(chunk.all_lifecycles).table)
    if QUEUES.name in wanted and not session.window:
        summary = Summary(session.names)
        summary.finish(session.tracker.stats())
        yield QUEUES.name, queues_table(summary)


def queues_table(summary: Summary) -> Table:
    """Return the queues of a summary as the table that ``QUEUES`` describes."""
    flat = [_flat(row) for row in summary.queues]

    def maker(column: Column) -> Any:
        return lambda: _values([row.get(column.name) for row in flat], column)

    return Table(QUEUES, len(flat), {column.name: maker(column) for column in QUEUES.columns})


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if not isinstance(value, dict)}
    for name in _NESTED:
        flat |= {f"{name}_{part}": count for part, count in row[name].items()}
    for stage in STAGES:
        figures = row["stages"].get(stage, {})
        for figure in ("p50", "p90", "p99", "max"):
            flat[f"{stage}_{figure}_ns"] = figures.get(f"{figure}_ns")
    return flat


def _values(found: list[Any], column: Column) -> Values:
    if column.type is Type.TEXT:
        pool = [""]
        codes = np.zeros(len(found), np.uint32)
        for at, text in enumerate(found):
            if text:
                codes[at] = len(pool)
                pool.append(str(text))
        return Values(codes, codes != 0, pool)
    valid = np.array([value is not None for value in found], np.bool_)
    return Values(np.array([value or 0 for value in found], np.uint64), valid)
