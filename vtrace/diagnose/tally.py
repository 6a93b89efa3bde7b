"""Packets counted by what became of them: one cell per flow, queue, place and end.

``Tally.feed`` takes packets as the session joins them, in bulk. What is kept is a cell per distinct
combination, not per packet, and of the losses the bursts that they came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.flows import Known, flow_hash, flow_text
from vtrace.model import Kind
from vtrace.tables import Verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BURST_GAP_NS", "Cell", "End", "Span", "Tally", "extend_spans", "spans_of"]

UDP: Final = 17
BURST_GAP_NS: Final = 100_000_000
"""Losses further apart than this belong to two bursts."""

MAX_CELLS: Final = 1 << 16
"""Cells with a flow of their own. What comes after is counted without its flow."""

MAX_SPANS: Final = 256
"""Bursts that a cell remembers; behind that, they run together."""


class End(IntEnum):
    """What became of a packet."""

    QUEUED = 0
    """In the tap's ring at the end."""
    VANISHED = 1
    """Left the ring without a trace: packets behind it were received."""
    RECV_ERROR = 2
    """vhost took it from the tap and could not copy it."""
    IN_FLIGHT = 3
    """In a chain that was not returned."""
    DELIVERED = 4
    SENT = 5
    """From the guest: entered the host's stack."""
    REFUSED = 6
    """The tap did not take it."""
    DROPPED = 7
    """Dropped behind the tap's ring, or elsewhere on the host."""
    TAKEN = 8
    """QEMU read it from the tap, while vhost was not attached to it."""


@dataclass(slots=True)
class Span:
    """A run of packets close together in time."""

    start_ns: int
    end_ns: int
    packets: int


@dataclass(slots=True)
class Cell:
    """Packets that have all of this in common."""

    kind: int
    """Kind of the record that saw them first."""
    end: End
    queue: int
    """Id of the queue, or of the interface for one that was dropped elsewhere."""
    drop_queue: int
    reason: int | None
    place: int
    flow: Any
    """A row of ``flows.FLOW``."""
    count: int = 0
    spans: list[Span] = field(default_factory=list)

    @property
    def from_guest(self) -> bool:
        """Whether the guest sent them."""
        return self.kind == Kind.DELIVER

    @property
    def to_guest(self) -> bool:
        """Whether they had reached the tap on the way to the guest."""
        return self.kind in (Kind.ENQUEUE, Kind.REFUSE)

    @property
    def lost(self) -> bool:
        """Whether they were lost where vtrace looked."""
        return self.end in _LOST

    @property
    def flow_name(self) -> str:
        """The flow in one line; empty where it is not known."""
        return flow_text(self.flow) or ""

    @property
    def first_ns(self) -> int:
        """Time of the first of them."""
        return self.spans[0].start_ns

    @property
    def last_ns(self) -> int:
        """Time of the last of them."""
        return self.spans[-1].end_ns


_LOST: Final = frozenset([End.VANISHED, End.RECV_ERROR, End.REFUSED, End.DROPPED, End.TAKEN])


class Tally:
    """Packets of one protocol (or of all), counted."""

    def __init__(self, protocol: str = "udp") -> None:
        self._udp = protocol == "udp"
        self._cells: dict[int, Cell] = {}
        self._last_taken: dict[int, int] = {}
        self._bad: NDArray[Any] = np.zeros(0, np.uint32)
        self.folded = 0
        """Packets that were counted without their flow, for there were too many flows."""
        self.unread = 0
        """Packets of which nothing was captured, so that their protocol is not known."""

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._cells.values())

    def receive_errors(self, packets: NDArray[Any]) -> None:
        """Note ids of packets that vhost could not copy."""
        if len(packets):
            self._bad = np.concatenate([self._bad, packets])[-(1 << 16) :]

    def feed(self, rows: NDArray[Any]) -> None:
        """Count packets: an array of dtype ``tables.PACKET``."""
        if not len(rows):
            return
        # Where each queue's reader has got to: what was enqueued before that has left the ring.
        taken = rows[rows["has_chain"] & (rows["kind"] == Kind.ENQUEUE)]
        for queue in np.unique(taken["queue"]).tolist():
            newest = int(taken["time"][taken["queue"] == queue].max())
            self._last_taken[queue] = max(self._last_taken.get(queue, 0), newest)
        known = rows["flow"]["known"]
        self.unread += int((known & int(Known.ETHERTYPE) == 0).sum())
        if self._udp:
            is_udp = (known & int(Known.PROTOCOL) != 0) & (rows["flow"]["protocol"] == UDP)
            rows = rows[is_udp]
        if len(rows):
            self._count(rows, self._ends(rows))

    def _ends(self, rows: NDArray[Any]) -> NDArray[np.uint8]:
        verdict, kind = rows["verdict"], rows["kind"]
        ends = np.full(len(rows), End.DROPPED, np.uint8)
        ends[verdict == Verdict.SENT] = End.SENT
        ends[verdict == Verdict.DELIVERED] = End.DELIVERED
        ends[verdict == Verdict.IN_FLIGHT] = End.IN_FLIGHT
        ends[kind == Kind.REFUSE] = End.REFUSED
        waiting = np.flatnonzero(verdict == Verdict.WAITING)
        if len(waiting):
            bad = np.isin(rows["packet"][waiting], self._bad)
            newest = np.array(
                [self._last_taken.get(q, 0) for q in rows["queue"][waiting].tolist()], np.uint64
            )
            gone = rows["time"][waiting] < newest
            ends[waiting] = np.where(bad, End.RECV_ERROR, np.where(gone, End.VANISHED, End.QUEUED))
        return ends

    def _count(self, rows: NDArray[Any], ends: NDArray[np.uint8]) -> None:
        keys = flow_hash(rows["flow"])
        for part in (
            rows["kind"],
            ends,
            rows["queue"],
            rows["drop_queue"],
            rows["reason"].astype(np.int64),
            rows["place"],
            rows["has_reason"],
            rows["flow"]["vlan"],
        ):
            keys = (keys ^ part.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
        distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        cuts = np.searchsorted(inverse[order], np.arange(len(distinct) + 1))
        for index, key in enumerate(distinct.tolist()):
            row, end = rows[first[index]], End(int(ends[first[index]]))
            mine = rows[order[cuts[index] : cuts[index + 1]]]
            cell = self._cell(key, row, end, len(mine))
            cell.count += len(mine)
            ended = (mine["end"] > 0) & (mine["kind"] != Kind.REFUSE)
            times = np.where(ended, mine["end"], mine["time"])
            if cell.lost:
                extend_spans(cell.spans, np.sort(times))
            else:
                _widen(cell.spans, int(times.min()), int(times.max()), len(mine))

    def _cell(self, key: int, row: Any, end: End, count: int) -> Cell:
        cell = self._cells.get(key)
        if cell is not None:
            return cell
        flow = row["flow"].copy()
        if len(self._cells) >= MAX_CELLS:
            self.folded += count
            flow = np.zeros((), flow.dtype)[()]
            parts = (row["kind"], end, row["queue"], row["drop_queue"], row["reason"])
            key = hash(tuple(int(part) for part in parts))
            if key in self._cells:
                return self._cells[key]
        cell = self._cells[key] = Cell(
            kind=int(row["kind"]),
            end=end,
            queue=int(row["queue"]),
            drop_queue=int(row["drop_queue"]),
            reason=int(row["reason"]) if row["has_reason"] else None,
            place=int(row["place"]),
            flow=flow,
        )
        return cell


def _widen(spans: list[Span], start: int, end: int, packets: int) -> None:
    if not spans:
        spans.append(Span(start, end, 0))
    spans[0].start_ns = min(spans[0].start_ns, start)
    spans[0].end_ns = max(spans[0].end_ns, end)
    spans[0].packets += packets


def extend_spans(spans: list[Span], times: NDArray[Any]) -> None:
    """Add sorted times, mostly behind those that came before."""
    breaks = np.flatnonzero(np.diff(times) > np.uint64(BURST_GAP_NS)) + 1
    edges = [0, *breaks.tolist(), len(times)]
    for start, end in pairwise(edges):
        new = Span(int(times[start]), int(times[end - 1]), end - start)
        last = spans[-1] if spans else None
        near = last is not None and new.start_ns <= last.end_ns + BURST_GAP_NS
        if last is not None and (near or len(spans) >= MAX_SPANS):
            last.start_ns = min(last.start_ns, new.start_ns)
            last.end_ns = max(last.end_ns, new.end_ns)
            last.packets += new.packets
        else:
            spans.append(new)


def spans_of(cells: Iterable[Cell]) -> list[Span]:
    """Return the bursts of several cells together, in the order of time."""
    every = sorted((span for cell in cells for span in cell.spans), key=lambda span: span.start_ns)
    united: list[Span] = []
    for span in every:
        if united and span.start_ns <= united[-1].end_ns + BURST_GAP_NS:
            united[-1].end_ns = max(united[-1].end_ns, span.end_ns)
            united[-1].packets += span.packets
        else:
            united.append(Span(span.start_ns, span.end_ns, span.packets))
    return united
