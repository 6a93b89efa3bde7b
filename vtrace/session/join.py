"""Packets joined: the record that saw one first, its drop, the chain that carried it.

A packet is kept open until its chain and its end are known, and a little longer for a drop behind
its delivery. What is kept is bounded: the oldest packets go first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers.batch import Snaps
from vtrace.flows import decode
from vtrace.model import Flag, Kind, Outcome
from vtrace.session.clock import LATEST_NS
from vtrace.tables import PACKET, Verdict
from vtrace.tables.build import NO_PLACE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["PacketJoin", "Packets"]

LINGER_NS: Final = 100_000_000
"""How long an ended packet is kept for a drop that comes after."""

CHAIN_ENDS: Final = ("pop_ns", "used_ns", "signal_ns", "irq_ns")

FEW: Final = 1 << 15
"""Ended packets that may wait for more before they are let go."""

MAX_OPEN: Final = 1 << 18
"""Packets that are kept open: more than the chains that the tracker may hold back."""


class Packets:
    """Packets with their captured bytes: ``rows`` of dtype ``PACKET``, a snap for each."""

    __slots__ = ("rows", "snaps")

    def __init__(self, rows: NDArray[Any], snaps: Snaps | None) -> None:
        self.rows = rows
        self.snaps = snaps
        """Aligned with ``rows``, of size 0 where nothing was captured; None if not kept."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: NDArray[Any]) -> Packets:
        """Return the packets at an index array."""
        snaps = self.snaps
        if snaps is not None:
            snaps = snaps.take(index, np.arange(len(index), dtype=np.uint32))
        return Packets(self.rows[index], snaps)

    def joined(self, other: Packets) -> Packets:
        """Return these packets and then the others."""
        rows = np.concatenate([self.rows, other.rows])
        if self.snaps is None or other.snaps is None:
            return Packets(rows, None)
        first, second = self.snaps, other.snaps
        snaps = Snaps(
            rows=np.arange(len(rows), dtype=np.uint32),
            header=np.concatenate([first.header, second.header]),
            offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
            data=np.concatenate([first.data, second.data]),
        )
        return Packets(rows, snaps)

    def bytes_of(self, index: int) -> bytes:
        """Return the captured bytes of a packet."""
        return b"" if self.snaps is None else self.snaps.bytes_of(index)


class _Room:
    """Arrays that grow at their end without being copied each time."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def extend(self, name: str, known: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
        """Return ``known`` and ``more`` as one array; ``known`` is what was returned last."""
        count, total = len(known), len(known) + len(more)
        array = self._arrays.get(name)
        if array is None or total > len(array):
            array = self._arrays[name] = np.zeros(max(2 * total, 1024), known.dtype)
            array[:count] = known
        array[count:total] = more
        return array[:total]


class PacketJoin:
    """Packets that are open, in the order they were seen."""

    def __init__(
        self,
        *,
        keep_bytes: bool = False,
        linger_ns: int = LINGER_NS,
        max_open: int = MAX_OPEN,
    ) -> None:
        self.open = Packets(np.zeros(0, PACKET), Snaps.empty() if keep_bytes else None)
        self._room = _Room()
        self._keep_bytes = keep_bytes
        self._linger_ns = linger_ns
        self._max_open = max_open
        self._now = 0

    def feed(self, batch: EventBatch) -> None:
        """Take in the packet records of a batch."""
        if not len(batch):
            return
        self._now = max(self._now, min(int(batch["time"][-1]), LATEST_NS))
        kinds = batch["kind"]
        first = np.isin(kinds, (Kind.ENQUEUE, Kind.REFUSE, Kind.DELIVER, Kind.CAPTURED))
        rows = np.flatnonzero(first)
        if len(rows):
            self._append(self._packets(batch, rows))
        drops = np.flatnonzero(kinds == Kind.DROP)
        if len(drops):
            self._drop(batch, drops)

    def copy(self) -> PacketJoin:
        """Return the same packets, apart from these: to go on from here later."""
        other = PacketJoin(
            keep_bytes=self._keep_bytes, linger_ns=self._linger_ns, max_open=self._max_open
        )
        other._now = self._now
        rows, snaps = self.open.rows, self.open.snaps
        if snaps is not None:
            snaps = Snaps(
                rows=snaps.rows.copy(),
                header=snaps.header.copy(),
                offsets=snaps.offsets.copy(),
                data=snaps.data.copy(),
            )
        other.open = Packets(rows.copy(), snaps)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of memory that a copy takes."""
        snaps = self.open.snaps
        size = 0 if snaps is None else snaps.data.nbytes + snaps.header.nbytes
        return int(self.open.rows.nbytes) + size

    def _append(self, new: Packets) -> None:
        # Rows are large and many stay: they are put behind the others, not copied with them.
        count, total = len(self.open), len(self.open) + len(new)
        rows = self._room.extend("rows", self.open.rows, new.rows)
        old, snaps = self.open.snaps, new.snaps
        if old is None or snaps is None:
            self.open = Packets(rows, None)
            return
        behind = snaps.offsets[1:] + old.offsets[-1]
        self.open = Packets(
            rows,
            Snaps(
                rows=self._room.extend(
                    "places", old.rows, np.arange(count, total, dtype=np.uint32)
                ),
                header=self._room.extend("header", old.header, snaps.header),
                offsets=self._room.extend("offsets", old.offsets, behind),
                data=self._room.extend("data", old.data, snaps.data),
            ),
        )

    def _keep(self, index: NDArray[Any]) -> None:
        # What is given out is never written to again.
        self.open = self.open.take(index)
        self._room = _Room()

    def _packets(self, batch: EventBatch, rows: NDArray[Any]) -> Packets:
        made = np.zeros(len(rows), PACKET)
        for name in ("time", "packet", "length", "queue", "count", "kind"):
            made[name] = batch[name][rows]
        made["no_mac"] = batch["flags"][rows] & int(Flag.NO_MAC) != 0
        made["drop_queue"] = made["queue"]
        made["place"] = NO_PLACE
        kinds = made["kind"]
        sent = kinds == Kind.DELIVER
        gone = (kinds == Kind.REFUSE) | (kinds == Kind.DROP)
        made["verdict"][sent] = Verdict.SENT
        made["verdict"][kinds == Kind.CAPTURED] = Verdict.CAPTURED
        made["verdict"][gone] = Verdict.DROPPED
        made["end"] = np.where(sent | gone, made["time"], 0)
        dropped = kinds == Kind.DROP
        made["reason"] = np.where(dropped, batch["ret"][rows], 0)
        made["has_reason"] = dropped
        made["place"][dropped] = batch["address"][rows][dropped]
        snaps = self._snaps(batch, rows, made)
        return Packets(made, snaps if self._keep_bytes else None)

    @staticmethod
    def _snaps(batch: EventBatch, rows: NDArray[Any], made: NDArray[Any]) -> Snaps:
        # Returns a snap for each row, empty where there is none, and fills in what they say.
        snaps = batch.snaps
        which = snaps.index_of(rows, len(batch))
        has = which >= 0
        held = snaps.take(which[has], np.flatnonzero(has))
        made["has_snap"] = has
        made["captured"][has] = np.diff(held.offsets)
        for name in ("gso_size", "gso_type", "hdr_flags"):
            made[name][has] = held.header[name]
        made["flow"][has] = decode(held, made["no_mac"][has])
        header = np.zeros(len(rows), held.header.dtype)
        header[has] = held.header
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(made["captured"], out=offsets[1:])
        return Snaps(
            rows=np.arange(len(rows), dtype=np.uint32),
            header=header,
            offsets=offsets,
            data=held.data,
        )

    def _drop(self, batch: EventBatch, drops: NDArray[Any]) -> None:
        # The newest open packet of that id takes the drop; a drop that finds none is a packet
        # of its own, and so is a second drop of the same id: a clone.
        rows = self.open.rows
        ids = batch["packet"][drops]
        free = (rows["verdict"] != Verdict.DROPPED) | (
            (rows["kind"] == Kind.REFUSE) & ~rows["has_reason"]
        )
        places = np.flatnonzero(free)
        target = _newest(rows["packet"][places], ids)
        found = (target >= 0) & (ids != 0)
        target = places[target[found]] if len(places) else np.zeros(0, np.int64)
        _, once = np.unique(target, return_index=True)
        taken = np.flatnonzero(found)[once]
        target, source = target[once], drops[taken]
        rows["verdict"][target] = Verdict.DROPPED
        rows["end"][target] = batch["time"][source]
        rows["reason"][target] = batch["ret"][source]
        rows["place"][target] = batch["address"][source]
        rows["drop_queue"][target] = batch["queue"][source]
        rows["has_reason"][target] = True
        alone = np.ones(len(drops), np.bool_)
        alone[taken] = False
        if alone.any():
            self._append(self._packets(batch, drops[alone]))

    def chains(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Join chains to the packets they carried: rows of ``open.rows``, -1 for none."""
        rows = self.open.rows
        ids = columns["packet"]
        wanted = _key(ids, columns["queue"])
        index = _newest(_key(rows["packet"], rows["queue"]), wanted)
        index[ids == 0] = -1
        chains = np.flatnonzero(index >= 0)
        ends = np.maximum.reduce([columns[name][chains] for name in CHAIN_ENDS])
        np.maximum.at(rows["chain_last"], index[chains], ends)
        # Of several chains of one packet the first is the one with its head.
        packets, first = np.unique(index[chains], return_index=True)
        chains = chains[first]
        new = ~rows["has_chain"][packets]
        packets, chains = packets[new], chains[new]
        for name in ("position", "head", "generation"):
            rows[name][packets] = columns[name][chains]
        rows["has_chain"][packets] = True
        rows["chain_first"][packets] = columns["pop_ns"][chains]
        open_yet = rows["verdict"][packets] <= Verdict.IN_FLIGHT
        packets, chains = packets[open_yet], chains[open_yet]
        used = columns["outcome"][chains] == Outcome.USED
        rows["verdict"][packets] = np.where(used, Verdict.DELIVERED, Verdict.IN_FLIGHT)
        rows["end"][packets] = np.where(used, columns["used_ns"][chains], 0)
        return index

    def release(self) -> Packets:
        """Return the packets that have ended, and forget them."""
        rows = self.open.rows
        if not len(rows):
            return self.open
        verdict, end = rows["verdict"], rows["end"].astype(np.int64)
        age = self._now - end
        done = (verdict == Verdict.DELIVERED) | (verdict == Verdict.DROPPED)
        done |= (verdict == Verdict.SENT) & rows["has_chain"]
        done &= age > self._linger_ns
        done |= verdict == Verdict.CAPTURED
        surplus = len(rows) - int(done.sum()) - self._max_open
        if surplus > 0:
            done[np.flatnonzero(~done)[:surplus]] = True
        # Many at a time, as all others have to move up.
        count = int(done.sum())
        if not count or (surplus <= 0 and count < min(len(rows) // 4, FEW)):
            return self.open.take(np.zeros(0, np.int64))
        gone = self.open.take(np.flatnonzero(done))
        self._keep(np.flatnonzero(~done))
        return gone

    def finish(self) -> Packets:
        """Return all that is left."""
        rest = self.open
        self._room = _Room()
        self.open = rest.take(np.zeros(0, np.int64))
        return rest


def _key(packets: NDArray[Any], queues: NDArray[Any]) -> NDArray[np.uint64]:
    return (packets.astype(np.uint64) << np.uint64(16)) | queues.astype(np.uint64)


def _newest(keys: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    # Returns for each wanted key where it stands last in ``keys``, -1 if nowhere.
    if not len(keys) or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], wanted, side="right") - 1
    found = order[np.maximum(place, 0)]
    missing = (place < 0) | (keys[found] != wanted)
    return np.where(missing, -1, found).astype(np.int64)
