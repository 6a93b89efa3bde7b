"""From batches to rows of the tables, from any place of a recording on."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parsers import wire
from parsers.batch import Snaps
from vtrace.lifecycle import Tracker
from vtrace.model import Kind
from vtrace.session import PacketJoin, Packets, RequestJoin
from vtrace.tables import (
    PACKET,
    Verdict,
    drops_table,
    exits_table,
    lifecycles_table,
    packets_table,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.lifecycle import LifecycleTable, SavedTracker
    from vtrace.session import Requests
    from vtrace.tables import Names, Table

__all__ = ["Decoded", "Decoder", "Saved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What one batch brought to an end, a table at a time."""

    table: Table
    packets: Packets | None = None
    """Packets of the rows, in the same order; of lifecycles those that ``packet_of`` names."""
    packet_of: NDArray[np.int64] | None = None
    """Of lifecycles: which of ``packets`` each carried, -1 for none."""
    requests: Requests | None = None
    request_of: NDArray[np.int64] | None = None
    """Which of ``requests`` each row is."""

    def take(self, rows: NDArray[np.int64]) -> Decoded:
        """Return these rows of it."""
        packets, packet_of, request_of = self.packets, self.packet_of, self.request_of
        if packet_of is not None:
            packet_of = packet_of[rows]
        elif packets is not None:
            packets = packets.take(rows)
        return Decoded(
            table=self.table.take(rows),
            packets=packets,
            packet_of=packet_of,
            requests=self.requests,
            request_of=None if request_of is None else request_of[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A decoder as it was behind a batch."""

    tracker: SavedTracker
    join: PacketJoin
    requests: RequestJoin
    nbytes: int


class Decoder:
    """Feeds a tracker and what joins packets and requests to its chains; keeps nothing."""

    def __init__(self, names: Names, not_probed: Any) -> None:
        self.names = names
        self.tracker = Tracker(not_probed=not_probed)
        self._join = PacketJoin(keep_bytes=True)
        self._requests = RequestJoin(names)

    def feed(self, batch: EventBatch, *, gap: bool = False) -> dict[str, Decoded]:
        """Return the rows of each table that end with a batch; ``gap``: some before it are gone."""
        if gap:
            self.tracker.mark_gap()
        self._join.feed(batch)
        self._requests.feed(batch)
        found = self._tables(self.tracker.feed(batch), self._join.release)
        found["exits"] = Decoded(table=self._exits(batch))
        return found

    def finish(self) -> dict[str, Decoded]:
        """Return what is left as if the recording ended here; nothing can be fed behind it."""
        found = self._tables(self.tracker.finish(), self._join.finish)
        columns = {name: np.empty(0, kind) for name, (kind, _) in wire.COLUMNS.items()}
        found["exits"] = Decoded(table=exits_table(columns, self.names))
        return found

    def _tables(self, chains: LifecycleTable, release: Any) -> dict[str, Decoded]:
        index = self._join.chains(chains.columns)
        rows = self._join.open.rows
        lifecycles = lifecycles_table(chains.columns, self.names, rows, index)
        carried, packet_of = np.unique(index, return_inverse=True)
        if len(carried) and carried[0] < 0:
            carried, packet_of = carried[1:], packet_of - 1
        asked = self._requests.take(lifecycles)
        own = self._join.open.take(carried) if len(carried) else _none()
        packets = release()
        dropped = np.flatnonzero(packets.rows["verdict"] == Verdict.DROPPED)
        drops = packets.take(dropped)
        return {
            "lifecycles": Decoded(table=lifecycles, packets=own, packet_of=packet_of),
            "packets": Decoded(table=packets_table(packets.rows, self.names), packets=packets),
            "drops": Decoded(table=drops_table(drops.rows, self.names), packets=drops),
            "requests": Decoded(
                table=asked.table, requests=asked, request_of=np.arange(len(asked))
            ),
        }

    def _exits(self, batch: EventBatch) -> Table:
        where = batch["kind"] == Kind.EXIT
        columns = {name: batch[name][where] for name in wire.COLUMNS}
        return exits_table(columns, self.names)

    def save(self) -> Saved:
        """Return what it knows, to go on from here later."""
        tracker = self.tracker.save()
        join = self._join.copy()
        requests = copy.deepcopy(self._requests, {id(self.names): self.names})
        size = tracker.nbytes + join.nbytes
        return Saved(tracker=tracker, join=join, requests=requests, nbytes=size)

    @classmethod
    def restored(cls, names: Names, found: Saved) -> Decoder:
        """Return a decoder as it was when it was saved."""
        decoder = cls.__new__(cls)
        decoder.names = names
        decoder.tracker = Tracker.restored(found.tracker)
        decoder._join = found.join.copy()
        decoder._requests = copy.deepcopy(found.requests, {id(names): names})
        return decoder


def _none() -> Packets:
    return Packets(np.zeros(0, PACKET), Snaps.empty())
