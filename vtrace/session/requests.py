"""Requests joined: the chains that the tracker gives out, with what was asked in them.

A row is a lifecycle of a queue that QEMU serves. Its bytes are found by the times of its POP and
its USED; what was lost of them leaves the row without those fields, and a state says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers import wire
from vtrace.model import Kind
from vtrace.requests import (
    ASKED,
    CHAIN,
    Chains,
    Exchanges,
    QueueFormat,
    decode_requests,
    format_of,
)
from vtrace.requests.parts import PIECE
from vtrace.tables import Table, requests_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.session.session import Session
    from vtrace.tables import Names

__all__ = ["RequestJoin", "Requests", "WhereAsked", "requests_of"]

BACKEND: Final = "qemu"


class Requests:
    """Requests that have ended, side by side with their lifecycles."""

    __slots__ = ("asked", "chains", "lifecycles", "names", "table")

    def __init__(
        self, asked: NDArray[Any], chains: Chains, lifecycles: Table, names: Names
    ) -> None:
        self.asked = asked
        """Of dtype ``vtrace.requests.ASKED``."""
        self.chains = chains
        self.lifecycles = lifecycles
        self.names = names
        self.table = requests_table(asked, chains, lifecycles, names)

    def __len__(self) -> int:
        return len(self.asked)


class RequestJoin:
    """Takes batches and the lifecycles that come out at them; gives out requests."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._exchanges = Exchanges()
        self._formats: dict[int, tuple[Any, QueueFormat]] = {}

    def feed(self, batch: EventBatch) -> None:
        """Take in the records of a batch."""
        self._exchanges.feed(batch)

    def take(self, lifecycles: Table) -> Requests:
        """Return the requests of the lifecycles of QEMU's queues, in their order."""
        backend = lifecycles["backend"]
        code = self._names.code(BACKEND)
        table = lifecycles.take(backend.present() & (backend.data == code))
        if not len(table):
            nothing = np.zeros(0, np.uint8)
            chains = Chains(np.zeros(0, CHAIN), np.zeros(0, PIECE), nothing)
            return Requests(np.zeros(0, ASKED), chains, table, self._names)
        queue = table["queue_id"].data
        pop, used = table["pop_ns"], table["used_ns"]
        chains = self._exchanges.take(
            queue,
            table["head"].data,
            np.where(pop.present(), pop.data, 0),
            np.where(used.present(), used.data, 0),
        )
        distinct, which = np.unique(queue, return_inverse=True)
        asked = decode_requests(
            chains,
            [self._format(number) for number in distinct.tolist()],
            which,
            table["used_bytes"].data,
            table["outcome"].data,
            table["trust"].data,
        )
        return Requests(asked, chains, table, self._names)

    def _format(self, number: int) -> QueueFormat:
        row = self._names.queue(number)
        known = self._formats.get(number)
        if known is None or known[0] is not row:
            # The queue table is another object when it has changed.
            known = self._formats[number] = row, format_of(row)
        return known[1]


class WhereAsked(Collection[str]):
    """The columns to read of a source: bytes only once there are records of requests.

    A source that counts the records of the batches that it has met is asked at each batch; so a
    recording without such records is read without its bytes.
    """

    _KINDS: Final = (Kind.REQUEST, Kind.RESPONSE)

    def __init__(self, source: Any) -> None:
        self._source = source

    @property
    def bytes_too(self) -> bool:
        """There are records of requests."""
        totals = getattr(self._source, "totals", None)
        if totals is None:
            return True
        return any(kind in kinds for kinds in totals.values() for kind in self._KINDS)

    def __contains__(self, name: object) -> bool:
        return name in wire.COLUMNS or (name == "bytes" and self.bytes_too)

    def __iter__(self) -> Iterator[str]:
        yield from wire.COLUMNS
        if self.bytes_too:
            yield "bytes"

    def __len__(self) -> int:
        return len(wire.COLUMNS) + self.bytes_too


def requests_of(session: Session) -> Iterator[tuple[Requests, Table]]:
    """Yield the requests of a recording as their chains end; of their table what is in the window.

    The table has a column ``row`` more: where among the requests each stands.
    """
    join = RequestJoin(session.names)
    for chunk in session.chunks():
        join.feed(chunk.batch)
        found = join.take(chunk.all_lifecycles)
        yield found, session.within(found.table.with_column("row", np.arange(len(found))))
