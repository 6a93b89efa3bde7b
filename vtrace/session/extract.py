"""Parts of a recording: the records of chosen chains and packets, and of their queues meanwhile.

What is kept can be traced again: whole chains, every packet with its drop, and what the queue did
while they were under way. Sequence numbers are closed up over what was left out, so that a gap
still means a lost record.
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

__all__ = ["Renumber", "Selection"]

CHAIN: Final = np.dtype(
    [
        ("first", "<u8"),
        ("last", "<u8"),
        ("used", "<u8"),
        ("packet", "<u4"),
        ("queue", "<u2"),
        ("position", "<u2"),
        ("head", "<u2"),
    ]
)
"""A chosen chain: when it was under way, and what its records are known by."""

STARTS: Final = ("kick_ns", "enqueue_ns", "wake_ns", "run_ns", "pop_ns", "backend_ns", "used_ns")
ENDS: Final = ("pop_ns", "backend_ns", "used_ns", "signal_ns", "irq_ns", "seen_ns")

PACKET_KINDS: Final = (Kind.ENQUEUE, Kind.REFUSE, Kind.RECV, Kind.DELIVER, Kind.DROP)
THREAD_KINDS: Final = (Kind.EXIT, Kind.SCHED_IN, Kind.SCHED_OUT, Kind.SCHED_WAKE)
STATE_KINDS: Final = (Kind.START, Kind.STOP)
LONGEST: Final = (1 << 64) - 1


class Selection:
    """Chosen chains and packets, and which records are theirs."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._ids: list[NDArray[Any]] = []
        self._chains = np.zeros(0, CHAIN)
        self._packets = np.zeros(0, np.uint32)
        self._spans: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        self._all: tuple[NDArray[Any], NDArray[Any]] | None = None
        self.chains = 0
        self.packets = 0

    def add_chains(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Choose chains by the columns of the lifecycle table."""
        count = len(columns["queue_id"])
        if not count:
            return
        rows = np.zeros(count, CHAIN)
        rows["queue"] = columns["queue_id"]
        rows["position"] = columns["position"] & np.uint64(0xFFFF)
        rows["head"] = columns["head"]
        rows["packet"] = columns["packet"]
        rows["used"] = columns["used_ns"]
        begins = np.stack([columns[name] for name in STARTS]).astype(np.uint64)
        begins[begins == 0] = LONGEST
        rows["last"] = np.stack([columns[name] for name in ENDS]).max(axis=0)
        rows["first"] = np.minimum(begins.min(axis=0), rows["last"])
        self.chains += count
        self._parts.append(rows)
        self._ids.append(np.unique(rows["packet"]))

    def add_packets(self, packets: Packets) -> None:
        """Choose packets, and the chains that carried them."""
        rows = packets.rows
        if not len(rows):
            return
        self.packets += len(rows)
        self._ids.append(np.unique(rows["packet"]))
        carried = rows[rows["has_chain"]]
        # The chains of one packet follow each other in the ring.
        times = np.maximum(carried["chains"], 1).astype(np.int64)
        index = np.repeat(np.arange(len(carried)), times)
        step = np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
        chains = np.zeros(len(index), CHAIN)
        carried = carried[index]
        chains["queue"] = carried["queue"]
        chains["position"] = (carried["position"] + step.astype(np.uint64)) & np.uint64(0xFFFF)
        chains["head"] = carried["head"]
        chains["packet"] = carried["packet"]
        chains["first"] = np.minimum(carried["time"], carried["chain_first"])
        chains["last"] = carried["chain_last"]
        chains["used"] = np.where(step == 0, carried["chain_used"], 0)
        self._parts.append(chains)

    def seal(self) -> None:
        """Make ready for ``mask``: nothing is added after."""
        chains = np.concatenate([*self._parts, self._chains])
        self._parts = []
        self._chains = chains[np.argsort(chains["first"], kind="stable")]
        ids = np.unique(np.concatenate([*self._ids, self._packets]))
        self._ids = []
        self._packets = ids[ids != 0].astype(np.uint32)
        for queue in np.unique(self._chains["queue"]).tolist():
            mine = self._chains[self._chains["queue"] == queue]
            self._spans[queue] = _united(mine["first"], mine["last"])
        self._all = _united(self._chains["first"], self._chains["last"])

    def mask(self, batch: EventBatch) -> NDArray[np.bool_]:
        """Return which records of a batch are kept."""
        kinds, times, queues = batch["kind"], batch["time"], batch["queue"]
        keep = np.isin(kinds, STATE_KINDS)
        of_chain = (kinds == Kind.POP) | (kinds == Kind.USED)
        of_packet = np.isin(kinds, PACKET_KINDS) & (batch["packet"] != 0)
        of_thread = np.isin(kinds, THREAD_KINDS)
        of_queue = ~(keep | of_chain | of_packet | of_thread)
        keep |= of_packet & np.isin(batch["packet"], self._packets)
        for queue in np.unique(queues[of_queue]).tolist():
            if queue in self._spans:
                here = of_queue & (queues == queue)
                keep[here] = _inside(times[here], self._spans[queue])
        if self._all is not None and of_thread.any():
            keep[of_thread] = _inside(times[of_thread], self._all)
        if of_chain.any():
            keep |= of_chain & self._of_chains(batch)
        return keep

    def _of_chains(self, batch: EventBatch) -> NDArray[np.bool_]:
        times = batch["time"]
        low, high = times.min(), times.max()
        # Sorted by their first time: what begins after the batch is left out at once.
        chains = self._chains[: np.searchsorted(self._chains["first"], high, side="right")]
        chains = chains[chains["last"] >= low]
        found = np.zeros(len(batch), np.bool_)
        pops = np.flatnonzero(batch["kind"] == Kind.POP)
        found[pops] = _covered(
            _key(batch["queue"][pops], batch["position"][pops]),
            times[pops],
            _key(chains["queue"], chains["position"]),
            chains["first"],
            chains["last"],
        )
        used = np.flatnonzero(batch["kind"] == Kind.USED)
        known = chains["used"] != 0
        first = np.where(known, chains["used"], chains["first"])
        last = np.where(known, chains["used"], chains["last"])
        found[used] = _covered(
            _key(batch["queue"][used], batch["head"][used]),
            times[used],
            _key(chains["queue"], chains["head"]),
            first,
            last,
        )
        return found


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


def _key(queues: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.uint32]:
    return (queues.astype(np.uint32) << np.uint32(16)) | numbers.astype(np.uint32)


def _united(first: NDArray[Any], last: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    # Overlapping stretches become one; ``first`` is sorted.
    if not len(first):
        return first, last
    reach = np.maximum.accumulate(last)
    starts = np.ones(len(first), np.bool_)
    starts[1:] = first[1:] > reach[:-1]
    ends = np.append(np.flatnonzero(starts)[1:] - 1, len(first) - 1)
    return first[starts], reach[ends]


def _inside(times: NDArray[Any], spans: tuple[NDArray[Any], NDArray[Any]]) -> NDArray[np.bool_]:
    first, last = spans
    if not len(first):
        return np.zeros(len(times), np.bool_)
    index = np.searchsorted(first, times, side="right") - 1
    inside: NDArray[np.bool_] = (index >= 0) & (times <= last[np.maximum(index, 0)])
    return inside


def _covered(
    keys: NDArray[Any],
    times: NDArray[Any],
    known: NDArray[Any],
    first: NDArray[Any],
    last: NDArray[Any],
) -> NDArray[np.bool_]:
    # Returns where a time lies in a stretch of the same key. Stretches of one key do not
    # overlap: the one that began last before the time is the one that may hold it.
    if not len(known) or not len(keys):
        return np.zeros(len(keys), np.bool_)
    start = min(int(times.min()), int(first.min()))
    order = np.lexsort((first, known))
    distinct, ranks = np.unique(known, return_inverse=True)
    rank = np.searchsorted(distinct, keys)
    present = (rank < len(distinct)) & (distinct[np.minimum(rank, len(distinct) - 1)] == keys)
    # Key and time in one float would lose digits; 2^20 keys and 2^44 ns (4.8 h) fit 64 bits.
    cap = np.uint64((1 << 44) - 1)
    shift = np.uint64(44)
    left = np.minimum(first - np.uint64(start), cap) | ranks.astype(np.uint64) << shift
    right = np.minimum(times - np.uint64(start), cap) | rank.astype(np.uint64) << shift
    index = np.searchsorted(left[order], right, side="right") - 1
    chosen = order[np.maximum(index, 0)]
    hit: NDArray[np.bool_] = present & (index >= 0) & (known[chosen] == keys)
    hit &= (times >= first[chosen]) & (times <= last[chosen])
    return hit
