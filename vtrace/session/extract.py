"""Parts of a recording: the records of chosen chains and packets, and of their queues meanwhile.

A ring is understood from its records in a row: a chain that is torn out of a batch can no longer be
joined to its packet. So a queue is kept for whole stretches, from one moment at which no chain was
under way to another, and one stretch more before each, by which it finds its place. Sequence
numbers are closed up over what was left out, so that a gap still means a lost record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.session.join import Packets

__all__ = ["ENDS", "STARTS", "Renumber", "Selection"]

STRETCH: Final = np.dtype([("first", "<u8"), ("last", "<u8"), ("chosen", "?")])
"""Time during which chains of a queue were under way."""

STARTS: Final = ("kick_ns", "enqueue_ns", "wake_ns", "run_ns", "pop_ns")
ENDS: Final = ("pop_ns", "backend_ns", "used_ns", "signal_ns", "irq_ns")

THREAD_KINDS: Final = (Kind.EXIT, Kind.SCHED_IN, Kind.SCHED_OUT, Kind.SCHED_WAKE)
STATE_KINDS: Final = (Kind.START, Kind.STOP)
LONGEST: Final = (1 << 64) - 1

SETTLED_NS: Final = 5_000_000_000
"""So long after its end no chain comes out that would make a stretch longer."""


class Selection:
    """Chosen chains and packets, and which records are kept for them."""

    def __init__(self) -> None:
        self._open: dict[int, NDArray[Any]] = {}
        self._ids: list[NDArray[Any]] = [np.zeros(0, np.uint32)]
        self._packets = np.zeros(0, np.uint32)
        self._spans: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        self._all = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self.chains = 0
        """Chains that were chosen."""
        self.packets = 0

    def add_chains(self, columns: Mapping[str, NDArray[Any]], chosen: NDArray[np.bool_]) -> None:
        """Take in all chains of a table, by the columns of the lifecycle table."""
        count = len(chosen)
        if not count:
            return
        rows = np.zeros(count, STRETCH)
        begins = np.stack([columns[name] for name in STARTS]).astype(np.uint64)
        begins[begins == 0] = LONGEST
        rows["last"] = np.stack([columns[name] for name in ENDS]).max(axis=0)
        rows["first"] = np.minimum(begins.min(axis=0), rows["last"])
        rows["chosen"] = chosen
        self.chains += int(chosen.sum())
        self._ids.append(np.unique(columns["packet"][chosen]).astype(np.uint32))
        self._add(columns["queue_id"], rows)

    def add_packets(self, packets: Packets) -> None:
        """Choose packets, and the chains that carried them."""
        rows = packets.rows
        if not len(rows):
            return
        self.packets += len(rows)
        self._ids.append(np.unique(rows["packet"]).astype(np.uint32))
        carried = rows[rows["has_chain"]]
        stretches = np.zeros(len(carried), STRETCH)
        stretches["first"] = np.minimum(carried["time"], carried["chain_first"])
        stretches["last"] = np.maximum(carried["chain_last"], stretches["first"])
        stretches["chosen"] = True
        self._add(carried["queue"], stretches)

    def _add(self, queues: NDArray[Any], rows: NDArray[Any]) -> None:
        for queue in np.unique(queues).tolist():
            mine = rows[queues == queue]
            known = self._open.get(queue)
            both = mine if known is None else np.concatenate([known, mine])
            both = _united(both)
            # Of what is settled, a stretch is kept if it is chosen or stands before one.
            settled = both["last"] + np.uint64(SETTLED_NS) < both["last"][-1]
            needed = both["chosen"] | ~settled
            needed[:-1] |= needed[1:]
            self._open[queue] = both[needed]

    def seal(self) -> None:
        """Make ready for ``mask``: nothing is added after."""
        ids = np.unique(np.concatenate(self._ids))
        self._packets = ids[ids != 0]
        everywhere = []
        for queue, rows in self._open.items():
            needed = rows["chosen"].copy()
            everywhere.append(rows[needed])
            needed[:-1] |= needed[1:]
            kept = rows[needed]
            if len(kept):
                self._spans[queue] = kept["first"], kept["last"]
        if everywhere:
            together = _united(np.concatenate(everywhere))
            self._all = together["first"], together["last"]

    def mask(self, batch: EventBatch) -> NDArray[np.bool_]:
        """Return which records of a batch are kept."""
        kinds, times, queues = batch["kind"], batch["time"], batch["queue"]
        keep = np.isin(kinds, STATE_KINDS)
        of_packet = (batch["packet"] != 0) & np.isin(batch["packet"], self._packets)
        keep |= of_packet
        of_thread = np.isin(kinds, THREAD_KINDS)
        for queue in np.unique(queues[~of_thread]).tolist():
            if queue in self._spans:
                here = (queues == queue) & ~of_thread
                keep[here] |= _inside(times[here], self._spans[queue])
        keep[of_thread] |= _inside(times[of_thread], self._all)
        return keep


class Renumber:
    """Closes the gaps in sequence numbers that records left out would leave."""

    def __init__(self) -> None:
        self._removed: dict[int, NDArray[Any]] = {}
        self._count: dict[int, int] = {}

    def batches(
        self, batches: Iterable[tuple[EventBatch, NDArray[np.bool_]]]
    ) -> Iterator[EventBatch]:
        """Yield the kept records of each batch with their new numbers.

        One batch is read ahead: records of a CPU may be out of order by a little.
        """
        held: tuple[EventBatch, NDArray[np.bool_]] | None = None
        for batch, keep in batches:
            self._leave_out(batch, keep)
            if held is not None:
                yield self._renumbered(*held)
            held = batch, keep
        if held is not None:
            yield self._renumbered(*held)

    def _leave_out(self, batch: EventBatch, keep: NDArray[np.bool_]) -> None:
        gone = ~keep
        cpus, seqs = batch["cpu"][gone], batch["seq"][gone]
        for cpu in np.unique(cpus).tolist():
            mine = seqs[cpus == cpu]
            known = self._removed.get(cpu)
            self._removed[cpu] = mine if known is None else np.concatenate([known, mine])

    def _renumbered(self, batch: EventBatch, keep: NDArray[np.bool_]) -> EventBatch:
        kept = batch.take(keep)
        cpus, seqs = kept["cpu"], kept["seq"].copy()
        for cpu in np.unique(batch["cpu"]).tolist():
            removed = self._removed.get(cpu)
            count = self._count.get(cpu, 0)
            if removed is None:
                continue
            here = cpus == cpu
            # Compared around one number, so that a counter that wraps does no harm.
            base = np.uint32(batch["seq"][batch["cpu"] == cpu][-1])
            gone = np.sort((removed - base).astype(np.int32))
            mine = (seqs[here] - base).astype(np.int32)
            before = np.searchsorted(gone, mine) + count
            seqs[here] = (seqs[here] - before.astype(np.uint32)).astype(np.uint32)
            # What lies far behind is only counted.
            mine_all = (batch["seq"][batch["cpu"] == cpu] - base).astype(np.int32)
            floor = int(mine_all.min())
            self._count[cpu] = count + int(np.searchsorted(gone, floor))
            passed = (removed - base).astype(np.int32) < floor
            self._removed[cpu] = removed[~passed]
        kept.columns["seq"] = seqs
        return kept


def _united(rows: NDArray[Any]) -> NDArray[Any]:
    # Stretches that overlap become one.
    if not len(rows):
        return rows
    rows = rows[np.argsort(rows["first"], kind="stable")]
    reach = np.maximum.accumulate(rows["last"])
    starts = np.ones(len(rows), np.bool_)
    starts[1:] = rows["first"][1:] > reach[:-1]
    begin = np.flatnonzero(starts)
    made = np.zeros(len(begin), STRETCH)
    made["first"] = rows["first"][begin]
    made["last"] = reach[np.append(begin[1:] - 1, len(rows) - 1)]
    made["chosen"] = np.logical_or.reduceat(rows["chosen"], begin)
    return made


def _inside(times: NDArray[Any], spans: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[np.bool_]:
    first, last = spans
    if not len(first):
        return np.zeros(len(times), np.bool_)
    index = np.searchsorted(first, times, side="right") - 1
    inside: NDArray[np.bool_] = (index >= 0) & (times <= last[np.maximum(index, 0)])
    return inside
