"""The session: batches in, chunks of tables out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers import wire
from parsers.batch import EventBatch, Metadata
from vtrace.lifecycle import LifecycleTable, SavedTracker, Tracker
from vtrace.model import Kind
from vtrace.session.clock import Clock, Window
from vtrace.session.join import PacketJoin, Packets
from vtrace.session.requests import WhereAsked
from vtrace.session.sane import not_probed, sane
from vtrace.session.summary import Summary
from vtrace.session.unrecorded import clock_is_unknown
from vtrace.tables import (
    Names,
    Table,
    Verdict,
    drops_table,
    exits_table,
    lifecycles_table,
    packets_table,
)

if TYPE_CHECKING:
    from datetime import tzinfo

    from numpy.typing import NDArray

    from parsers.batch import Damage
    from vtrace.diagnose import Diagnoser, Diagnosis

__all__ = ["Chunk", "Loss", "Session"]

MARGIN_NS: Final = 1_000_000_000
"""What is read before and behind a window, so that the chains in it are whole."""

DIAGNOSE_MARGIN_NS: Final = 10_000_000_000
"""The same for a diagnosis: what threads and queues were doing when the window opened."""

_ADDS_UP: Final = frozenset(
    ("calls", "counts", "counters", "end", "exits", "gap", "interrupts", "loss", "rings")
)
"""Sections of the metadata that say what happened so far."""

EVERYTHING: Final = (*wire.COLUMNS, "bytes")
WITHOUT_BYTES: Final = tuple(wire.COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Records that were wanted and what became of them.

    produced = received + lost + pending
    """

    produced: int = 0
    received: int = 0
    lost: int = 0
    """Refused by a full ring, or dropped by a full pipe."""
    pending: int = 0
    late: int = 0
    """Received, but too late to be put in order."""
    missed: int = 0
    """Returns that no probe saw; the call was recorded."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.missed or self.pending)

    @property
    def share(self) -> float:
        """Lost records of those produced, 0 to 1."""
        return self.lost / self.produced if self.produced else float(self.lost > 0)


@dataclass(slots=True)
class Chunk:
    """What one batch brought to an end."""

    batch: EventBatch
    lifecycles: Table
    packet_rows: Packets
    names: Names
    all_lifecycles: Table
    """Those of before and behind the window too."""

    @property
    def packets(self) -> Table:
        """Packets that have ended, in the order of ``packet_rows``."""
        return packets_table(self.packet_rows.rows, self.names)

    @property
    def drops(self) -> Table:
        """Packets that were dropped."""
        rows = self.packet_rows.rows
        return drops_table(rows[rows["verdict"] == Verdict.DROPPED], self.names)

    @property
    def exits(self) -> Table:
        """VM exits of the batch."""
        where = self.batch["kind"] == Kind.EXIT
        columns = {name: self.batch[name][where] for name in wire.COLUMNS}
        return exits_table(columns, self.names)


class Session:
    """A source, a tracker, and what both say so far."""

    def __init__(
        self,
        source: Iterable[EventBatch] | Any,
        *,
        window: Window | None = None,
        zone: tzinfo | None = None,
        join: PacketJoin | None = None,
    ) -> None:
        self.source = source
        self.window = window or Window()
        self.zone = zone
        self.join = join
        self.metadata = Metadata()
        self.names = Names(self.metadata)
        self.events = 0
        self.start_ns: int | None = None
        """First time in the recording, or in what was read of it."""
        self.end_ns: int | None = None
        self._bounds: tuple[int | None, int | None] = (None, None)
        self._tracker: Tracker | None = None
        self._margin_ns = MARGIN_NS
        self._diagnoser: Diagnoser | None = None
        self._summary = Summary(self.names)

    @property
    def tracker(self) -> Tracker:
        """The tracker, made when it is first needed: by then it is known what was probed."""
        if self._tracker is None:
            self._tracker = Tracker(not_probed=not_probed(self.metadata.section("probes")))
        return self._tracker

    @property
    def damage(self) -> list[Damage]:
        """What of the source could not be read so far."""
        return list(getattr(self.source, "damage", ()))

    @property
    def complete(self) -> bool:
        """Whether the recording ended in order; so does a source that cannot tell."""
        return bool(getattr(self.source, "complete", True))

    @property
    def clock(self) -> Clock:
        """The clock on the wall, as far as the recording knows it."""
        return Clock(self.metadata, self.zone)

    @property
    def duration_ns(self) -> int:
        """Time from the first to the last event."""
        if self.start_ns is None or self.end_ns is None:
            return 0
        if clock_is_unknown(self.metadata.sections):
            return 0
        return self.end_ns - self.start_ns

    def loss(self) -> Loss:
        """Return what was lost, by the counters that the recording carries."""
        counts = self.metadata.section("counts")
        produced, received, lost = (
            sum(_int(kind, name) for kind in counts.values())
            for name in ("produced", "received", "lost")
        )
        section = self.metadata.section("loss")
        # Whole batches that a full pipe dropped had been received before that.
        dropped = _int(section, "dropped_records")
        missed = section.get("missed")
        if not isinstance(missed, int):
            calls = self.metadata.section("calls").values()
            missed = sum(max(_int(c, "entry") - _int(c, "return"), 0) for c in calls)
        if not counts:
            produced = received = self.events
        return Loss(
            produced=produced,
            received=received - dropped,
            lost=lost + dropped,
            pending=_int(section, "pending"),
            late=_int(section, "late"),
            missed=missed,
        )

    def chunks(self) -> Iterator[Chunk]:
        """Yield what each batch brought to an end; the last chunk is what stays open."""
        for batch in self._batches(EVERYTHING, self._margin_ns):
            if self.join:
                self.join.feed(batch)
            if self._diagnoser:
                inside = self._inside(batch["time"]) if self.window else None
                self._diagnoser.events(batch, inside, self._valid(), self._bounds)
            yield self._chunk(batch, self.tracker.feed(batch), last=False)
        yield self._chunk(EventBatch.empty(), self.tracker.finish(), last=True)

    def events_only(self) -> Iterator[Chunk]:
        """Yield the batches without tracking chains: for exits."""
        nothing = PacketJoin().finish()
        empty = lifecycles_table(LifecycleTable.concat([]).columns, self.names)
        for batch in self._batches(WITHOUT_BYTES, 0):
            yield Chunk(batch, empty, nothing, self.names, empty)

    def summary(self) -> Summary:
        """Read to the end and return the sums."""
        for _ in self.summing():
            pass
        summary = self._summary
        summary.chains(self.tracker.finish())
        summary.finish(self.tracker.stats(), self._unheld())
        return summary

    def _unheld(self) -> str:
        # Why what QEMU said of its rings cannot be held against events.
        loss = self.loss()
        if self.window:
            return "only a part of the recording was read"
        if loss.lost or loss.missed or loss.late or self.damage:
            return "records were lost, or could not be read"
        return ""

    def summing(self) -> Iterator[EventBatch]:
        """Read to the end; yield each batch when it is in the sums. See ``so_far``."""
        for batch in self._batches(WhereAsked(self.source), 0):
            self.sum_up(batch)
            yield batch

    def sum_up(self, batch: EventBatch) -> None:
        """Put a batch into the sums."""
        self._summary.feed(batch)
        self._summary.chains(self.tracker.feed(batch))

    def take_in(self, batch: EventBatch) -> None:
        """Put a batch into the sums that comes from elsewhere than the session's source."""
        self._meet(batch)
        self.sum_up(batch)

    def put_aside(self) -> tuple[Summary, SavedTracker]:
        """Return a copy of the sums and the tracker, to go on from here later."""
        return self._summary.copy(), self.tracker.save()

    def go_on(self, tracker: Tracker, summary: Summary) -> None:
        """Go on from where a session was put aside."""
        self._tracker, self._summary = tracker, summary

    def so_far(self) -> tuple[Summary, LifecycleTable]:
        """Return the sums as if the recording ended here, and the chains that are not in the past.

        Nothing that is here is changed: the sums go on from where they were.
        """
        tracker = Tracker.restored(self.tracker.save())
        summary = self._summary.copy()
        rest = tracker.finish()
        summary.chains(rest)
        summary.finish(tracker.stats(), self._unheld())
        return summary, rest

    def diagnose(self, protocol: str = "udp") -> Diagnosis:
        """Read to the end and return the verdict on what was lost.

        ``protocol``: what the ledger counts, udp or all.
        """
        from vtrace.diagnose import Diagnoser

        self.join = self.join or PacketJoin()
        diagnoser = Diagnoser(self.names, protocol)
        self._diagnoser, self._margin_ns = diagnoser, DIAGNOSE_MARGIN_NS
        for chunk in self.chunks():
            rows = chunk.packet_rows.rows
            # What became of a captured frame nobody saw: it is no part of a ledger.
            diagnoser.packets(rows[rows["verdict"] != Verdict.CAPTURED])
        loss = self.loss()
        names = ("produced", "received", "lost", "pending", "late", "missed")
        bounds = self._bounds if self.window else (None, None)
        verdict = diagnoser.finish({name: getattr(loss, name) for name in names}, bounds)
        verdict.source = str(getattr(self.source, "name", "live"))
        verdict.duration_ns = self.duration_ns
        verdict.start_ns = self.start_ns
        return verdict

    def _valid(self) -> tuple[int, int]:
        # The time in which samples of counters are of use: what is further off may hold more.
        since, until = self._bounds
        return (
            0 if since is None else max(since - MARGIN_NS, 0),
            (1 << 63) - 1 if until is None else until + MARGIN_NS,
        )

    def _chunk(self, batch: EventBatch, chains: Any, *, last: bool) -> Chunk:
        columns = chains.columns
        if self.join is None:
            table = lifecycles_table(columns, self.names)
            packets = PacketJoin().finish()
        else:
            index = self.join.chains(columns)
            if self._diagnoser:
                rows = self.join.open.rows
                outside = np.flatnonzero(~self._inside(rows["time"])) if self.window else ()
                self._diagnoser.chains(
                    columns, np.where(np.isin(index, outside), -1, index), rows, self._bounds
                )
            table = lifecycles_table(columns, self.names, self.join.open.rows, index)
            packets = self.join.finish() if last else self.join.release()
        chunk = Chunk(batch, self.within(table), packets, self.names, table)
        if self.window:
            inside = self._inside(packets.rows["time"])
            chunk.packet_rows = packets.take(np.flatnonzero(inside))
            if self._diagnoser:
                outside = ~inside & (packets.rows["verdict"] != Verdict.CAPTURED)
                self._diagnoser.around(packets.rows[outside])
        return chunk

    def within(self, table: Table) -> Table:
        """Return the rows of a table that begin in the window."""
        if not self.window or not len(table):
            return table
        return table.take(self._inside(table["time_ns"].data))

    def _inside(self, times: NDArray[Any]) -> NDArray[np.bool_]:
        since, until = self._bounds
        inside = np.ones(len(times), np.bool_)
        if since is not None:
            inside &= times >= np.uint64(since)
        if until is not None:
            inside &= times < np.uint64(until)
        return inside

    def _batches(self, columns: Iterable[str], margin_ns: int) -> Iterator[EventBatch]:
        known_damage = 0
        for batch in self._source(columns, margin_ns):
            if len(self.damage) > known_damage:
                known_damage = len(self.damage)
                self.tracker.mark_gap()
                if self._diagnoser:
                    self._diagnoser.mark_gap()
            self._meet(batch)
            yield batch

    def _meet(self, batch: EventBatch) -> None:
        # What a batch says of the recording as a whole.
        if batch.meta:
            batch.meta = sane(batch.meta)
            self.metadata.update(batch.meta)
            self.names.refresh()
        span = batch.time_range
        if span is not None:
            if self.start_ns is None:
                self.start_ns = span[0]
            self.end_ns = max(span[1], self.end_ns or 0)
        self.events += len(batch)

    def _source(self, columns: Iterable[str], margin_ns: int) -> Iterator[EventBatch]:
        if not hasattr(self.source, "batches"):
            yield from self._cut(self.source, margin_ns)
            return
        if not self.window:
            yield from self.source.batches(columns=columns)
            return
        trace: Any = self.source
        first = next((s.first_ns for s in trace.summaries if s.first_ns is not None), None)
        if first is None:
            # A pipe: where it starts, its first batch will say.
            yield from self._cut(trace.batches(columns=columns), margin_ns)
            return
        # Names and clocks of the whole recording; what adds up, as far as it is read.
        known = sane(trace.metadata.sections)
        self.metadata.update({n: section for n, section in known.items() if n not in _ADDS_UP})
        since, until = self._resolve(first)
        yield from trace.batches(
            columns=columns,
            since_ns=None if since is None else max(since - margin_ns, 0),
            until_ns=None if until is None else until + margin_ns,
        )

    def _cut(self, batches: Iterable[EventBatch], margin_ns: int) -> Iterator[EventBatch]:
        known = Metadata()
        resolved = not self.window
        for batch in batches:
            known.update(batch.meta)
            if not resolved and batch.time_range:
                self.metadata.update(sane(known.sections))
                self._resolve(batch.time_range[0])
                resolved = True
            if self.window and len(batch):
                since, until = self._bounds
                times = batch["time"]
                keep = np.ones(len(times), np.bool_)
                if since is not None:
                    keep &= times >= np.uint64(max(since - margin_ns, 0))
                if until is not None:
                    keep &= times < np.uint64(until + margin_ns)
                yield batch if keep.all() else batch.take(keep)
            else:
                yield batch

    def _resolve(self, start_ns: int) -> tuple[int | None, int | None]:
        clock = self.clock
        since, until = self.window.since, self.window.until
        self._bounds = (
            None if since is None else clock.resolve(since, start_ns),
            None if until is None else clock.resolve(until, start_ns),
        )
        return self._bounds


def _int(section: Any, name: str) -> int:
    value = section.get(name, 0) if hasattr(section, "get") else 0
    return value if isinstance(value, int) else 0
