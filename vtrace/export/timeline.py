"""Recordings as a Perfetto trace: what becomes which track event.

Chains are slices on lanes below their queue, their stages slices inside; flows lead from the kick
on the thread that kicked over the chain to its interrupt. Exits are slices on vCPUs, handlers on
workers. Chains in flight, packets in the tap and drops are counters; a drop and a loss of records
is an instant, too. Times are CLOCK_MONOTONIC; a clock snapshot says what the wall clock was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.export.canvas import Canvas, by_key, clipped
from vtrace.export.chains import Chains
from vtrace.export.levels import Levels
from vtrace.export.ragged import Ragged
from vtrace.export.shapes import schema
from vtrace.session.clock import LATEST_NS
from vtrace.tables import EXITS, Table, Values
from vtrace.tables.human import count_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.export.output import OutputFile
    from vtrace.session import Session

__all__ = ["Timeline", "check_available", "write_timeline"]

LOSSES: Final = ("produced", "received", "lost", "pending", "late", "missed")
LONGEST_SPAN: Final = 0xFFFF_FFFF


def check_available() -> None:
    """See that the package with Perfetto's schema is there.

    Raises:
        UnsupportedError: It is not.
    """
    schema()


def write_timeline(
    session: Session,
    file: OutputFile,
    choose: Callable[[Table], Table],
    names: Mapping[str, Sequence[str] | None],
) -> Timeline:
    """Write what happened in a session, and return what that is.

    Args:
        session: Read to its end; it joins packets.
        file: Takes the bytes.
        choose: Takes the chains that are wanted, of the table of lifecycles.
        names: ``vm``, ``device``, ``queue`` -> the names that are wanted; None for all.
    """
    made = Timeline(session, file, names)
    for chunk in session.chunks():
        made.begin()
        made.chains.draw(choose(chunk.lifecycles))
        made.add_exits(session.within(chunk.exits))
        made.add_drops(chunk.drops)
        made.add_levels(chunk.batch)
        if chunk.batch.meta:
            made.add_loss()
    made.finish()
    return made


class Timeline:
    """A trace that is being written, and in the end what it holds."""

    def __init__(
        self, session: Session, file: OutputFile, names: Mapping[str, Sequence[str] | None]
    ) -> None:
        self._canvas = Canvas.of(session, file)
        self.chains = Chains(self._canvas)
        self.exits = 0
        self.drops = 0
        self.unplaced = 0
        """Exits that are not shown: too many at the same time on one thread."""
        self._session = session
        self._wanted = {name: set(texts) for name, texts in names.items() if texts}
        self._levels = Levels()
        self._dropped: dict[int, int] = {}
        self._begun = False
        self._lost = 0

    def __str__(self) -> str:
        chains = self.chains
        text = (
            f"{count_text(chains.chains)} chains with {count_text(chains.stages)} stages, "
            f"{count_text(self.exits)} exits, {count_text(self.drops)} drops, "
            f"{count_text(chains.flows)} flows"
        )
        if chains.unplaced:
            text += f"; {count_text(chains.unplaced)} chains not shown: no time, or no lane free"
        if self.unplaced:
            text += f"; {count_text(self.unplaced)} exits not shown: no lane free"
        return text

    def begin(self) -> None:
        """Write the clocks, once."""
        if self._begun:
            return
        self._begun = True
        pb, session, tracks = schema(), self._session, self._canvas.tracks
        start = min(session.start_ns or 0, LATEST_NS)
        wall = session.clock.realtime_ns(start)
        packet = tracks.packet()
        clocks = packet.clock_snapshot
        clocks.primary_trace_clock = pb.BUILTIN_CLOCK_MONOTONIC
        for clock, time in (("MONOTONIC", start), ("REALTIME", wall)):
            if time is not None and 0 <= time <= LATEST_NS:
                one = clocks.clocks.add()
                one.clock_id = getattr(pb, f"BUILTIN_CLOCK_{clock}")
                one.timestamp = time
        tracks.write(packet)
        packet = tracks.packet()
        packet.sequence_flags = pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        packet.trace_packet_defaults.timestamp_clock_id = pb.BUILTIN_CLOCK_MONOTONIC
        tracks.write(packet)

    def add_exits(self, table: Table) -> None:
        """Draw exits as slices on their vCPUs."""
        table = table.take(self._is_wanted(table, ("vm",)))
        if not len(table):
            return
        canvas, vm = self._canvas, table["vm"]
        pool = vm.pool or ("",)
        end = clipped(table["time_ns"].data).astype(np.int64)
        span = table["outside_ns"].data.astype(np.int64)
        begin = np.maximum(end - span, 0)
        order = np.argsort(begin, kind="stable")
        table, begin, end = table.take(order), begin[order], end[order]
        tids = table["tid"].data.astype(np.int64)
        keys = np.where(vm.present(), vm.data, 0).astype(np.int64)[order] << 32 | tids
        threads = by_key(
            keys, lambda key: canvas.tracks.thread(key & LONGEST_SPAN, pool[key >> 32])
        )
        where = self._side_by_side(threads, begin, end)
        notes = [canvas.note("address", 10)]
        self._slices(
            begin,
            end,
            where,
            notes=notes,
            name=canvas.names(table["reason"], otherwise="exit"),
            category=canvas.category("exit"),
            note_0=table["address"].data,
        )
        self.exits += int((where > 0).sum())
        self.unplaced += int((where == 0).sum())

    def add_drops(self, table: Table) -> None:
        """Draw drops as instants at their queues, and count them."""
        table = table.take(self._is_wanted(table, ("vm", "device", "queue")))
        if not len(table):
            return
        table = table.take(np.argsort(table["time_ns"].data, kind="stable"))
        canvas, tracks = self._canvas, self._canvas.tracks
        queues = table["queue_id"].data
        count, time = len(table), clipped(table["time_ns"].data)
        names = canvas.names(table["reason"], otherwise="no reason seen")
        canvas.file.write(
            canvas.events.instant(
                count,
                notes=[canvas.note("location"), canvas.note("packet", 5)],
                time=time,
                track=by_key(queues, tracks.queue),
                name=names,
                category=canvas.category("drop"),
                note_0=canvas.names(table["location"], note=True, otherwise="no place seen"),
                note_1=table["packet"].data,
            )
        )
        totals = np.zeros(count, np.int64)
        for queue in np.unique(queues).tolist():
            rows = np.flatnonzero(queues == queue)
            totals[rows] = self._dropped.get(queue, 0) + np.arange(1, len(rows) + 1)
            self._dropped[queue] = int(totals[rows[-1]])
        where = by_key(queues, lambda queue: tracks.counter(tracks.queue(queue), "drops"))
        canvas.file.write(canvas.events.counter(count, time=time, track=where, value=totals))
        self.drops += count

    def add_levels(self, batch: EventBatch) -> None:
        """Draw how full queues and taps are, and what handlers of workers run."""
        if not len(batch):
            return
        canvas, tracks = self._canvas, self._canvas.tracks
        found, queues = self._levels.count(batch), batch["queue"]
        chosen = self._chosen_queues(queues) & self._inside(batch["time"])
        for column, name in enumerate(("chains in flight", "packets in tap")):
            rows = np.flatnonzero((found[:, column] >= 0) & chosen)
            if len(rows):

                def counter(queue: int, name: str = name) -> int:
                    return tracks.counter(tracks.queue(queue), name)

                where = by_key(queues[rows], counter)
                canvas.file.write(
                    canvas.events.counter(
                        len(rows),
                        time=clipped(batch["time"][rows]),
                        track=where,
                        value=found[rows, column],
                    )
                )
        self._handlers(self._levels.handlers(batch))

    def add_loss(self) -> None:
        """Draw what was lost since it was last said."""
        loss = self._session.loss()
        if loss.lost > self._lost:
            self._tell("records lost")
            self._lost = loss.lost

    def finish(self) -> None:
        """Write what was open, and what was lost in all."""
        self.begin()
        self._handlers(self._levels.finish())
        self._tell("end of the recording")
        loss = self._session.loss()
        if loss.lost:
            # Shown by the statistics of a trace as loss of data.
            packet = self._canvas.tracks.packet()
            stats = packet.trace_stats.buffer_stats.add()
            stats.trace_writer_packet_loss = min(loss.lost, LATEST_NS)
            self._canvas.tracks.write(packet)

    def _tell(self, name: str) -> None:
        canvas, loss = self._canvas, self._session.loss()
        numbers = {
            f"note_{at}": min(max(getattr(loss, what), 0), LATEST_NS)
            for at, what in enumerate(LOSSES)
        }
        canvas.file.write(
            canvas.events.instant(
                1,
                notes=[canvas.note(what, 9) for what in LOSSES],
                time=min(self._session.end_ns or 0, LATEST_NS),
                track=canvas.tracks.host(),
                name=canvas.tracks.name(name),
                category=canvas.category("loss"),
                **numbers,
            )
        )

    def _handlers(self, runs: NDArray[Any]) -> None:
        runs = runs[self._chosen_queues(runs["queue"]) & self._inside(runs["begin"])]
        if not len(runs):
            return
        runs = runs[np.argsort(runs["begin"], kind="stable")]
        canvas, names = self._canvas, self._session.names
        begin, end = (clipped(runs[name]).astype(np.int64) for name in ("begin", "end"))
        keys = runs["queue"].astype(np.int64) << 32 | runs["tid"]

        def thread(key: int) -> int:
            vm = str(names.queue(key >> 32).get("vm") or "")
            return canvas.tracks.thread(key & LONGEST_SPAN, vm)

        where = self._side_by_side(by_key(keys, thread), begin, end)
        self._slices(
            begin,
            end,
            where,
            name=canvas.names(names.of_queue("name", runs["queue"]), otherwise="handler"),
            category=canvas.category("handler"),
        )

    def _side_by_side(self, threads: Any, begin: Any, end: Any) -> NDArray[np.int64]:
        # On the thread itself; on lanes below it what would overlap, of records out of order. 0: on
        # none, as there are too many.
        where = np.zeros(len(threads), np.int64)
        for thread in np.unique(threads).tolist():
            rows = np.flatnonzero(threads == thread)
            lanes = self._canvas.lanes.place(thread, begin[rows], end[rows])

            def track(lane: int, below: int = thread) -> int:
                if lane <= 0:
                    return below if lane == 0 else 0
                return self._canvas.tracks.lane(below, "at the same time", lane)

            where[rows] = by_key(lanes, track)
        return where

    def _slices(self, begin: Any, end: Any, where: Any, **values: Any) -> None:
        events, count = self._canvas.events, len(begin)
        said = Ragged(count)
        said.fixed(events.begin(count, time=begin, track=where, **values), where > 0)
        said.fixed(events.end(count, time=end, track=where), where > 0)
        self._canvas.file.write(said.tobytes())

    def _is_wanted(self, table: Table, columns: Sequence[str]) -> NDArray[np.bool_]:
        chosen = np.ones(len(table), np.bool_)
        for name in columns:
            if name in self._wanted:
                values = table[name]
                codes = [
                    at for at, text in enumerate(values.pool or ()) if text in self._wanted[name]
                ]
                chosen &= np.isin(values.data, codes) & values.present()
        return chosen

    def _chosen_queues(self, queues: NDArray[Any]) -> NDArray[np.bool_]:
        names = self._session.names
        chosen = np.ones(len(queues), np.bool_)
        for name, attribute in (("vm", "vm"), ("device", "device"), ("queue", "name")):
            if name in self._wanted:
                wanted = [names.code(text) for text in self._wanted[name]]
                chosen &= np.isin(names.of_queue(attribute, queues).data, wanted)
        return chosen

    def _inside(self, times: NDArray[Any]) -> NDArray[np.bool_]:
        inside = np.zeros(len(times), np.bool_)
        rows = {"time_ns": lambda: Values(times), "row": lambda: Values(np.arange(len(times)))}
        inside[self._session.within(Table(EXITS, len(times), rows))["row"].data] = True
        return inside
