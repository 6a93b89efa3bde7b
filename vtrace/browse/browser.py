"""A recording that is looked at: read once for its figures, and again wherever rows are wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers.batch import EventBatch, Metadata
from parsers.tracefile import open_trace
from vtrace.browse.chunks import Chunks, Index
from vtrace.browse.lanes import LaneSums
from vtrace.browse.lately import Keeper
from vtrace.browse.series import RecentSeries, SeriesSums
from vtrace.browse.snapshot import Snapshot, State
from vtrace.browse.view import View
from vtrace.errors import InputError, VtraceError
from vtrace.lifecycle.cachedir import compiled
from vtrace.session import Clock, Session
from vtrace.session.report import report_json

if TYPE_CHECKING:
    from datetime import tzinfo

    from numpy.typing import NDArray

    from vtrace.browse.query import Query
    from vtrace.lifecycle import LifecycleTable, RingIndices
    from vtrace.tables import Names

__all__ = ["Browser", "Moment"]

EVERY_S: Final = 0.25
"""Time between snapshots."""
SILENT_S: Final = 5.0
"""A recorder writes once a second; one that has not for so long has a problem."""
IDLE_S: Final = 0.05
MOST_NS: Final = 1 << 62
"""146 years: a time behind that is a damaged one, and views have room to count beyond it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A recording as it stood at a time."""

    snapshot: Snapshot
    chains: LifecycleTable
    """Chains that were under way, or over and held back for what may still come."""
    rings: Mapping[int, RingIndices]
    """Where each queue stood, by its id."""


class Browser:
    """Reads a recording in a thread of its own, and hands out what is known so far.

    ``snapshot`` has the figures: a new one four times a second while there is something new.
    ``view`` gives rows, ``at`` an earlier moment, ``batches`` events. None of them changes what
    was handed out before.

    Args:
        path: A file; pipes cannot be looked at twice.
        follow: Wait for more at its end until it has a footer.
        zone: Time zone of what is shown; None for that of this machine.

    Raises:
        InputError: It cannot be opened, is no recording, or is of a newer version.
    """

    def __init__(self, path: str, *, follow: bool = False, zone: tzinfo | None = None) -> None:
        self.path = path
        self.follow = follow
        self.zone = zone
        self.index = Index()
        self.chunks = Chunks(path, self.index)
        self.snapshot = Snapshot()
        self.ended = False
        """Nothing comes any more: the file is complete, or not followed, and was read."""
        self.cost: float | None = None
        """CPU that the recorder takes, of one CPU; None: not known. Not what the probes take."""
        self.recorder_ended: str | None = None
        """Said by who started the recorder: it is gone, and why."""
        self._trace = open_trace(path, follow=follow, stop=self._idle, poll_seconds=IDLE_S)
        if not self._trace.seekable:
            self._trace.close()
            raise InputError(f"{path}: a pipe can be read once; save it in a file to look at it")
        self.name = str(self._trace.name)
        self._session = Session(self._trace, zone=zone)
        self.lanes = LaneSums()
        """What threads, rings and taps did over the whole recording, as far as it was read."""
        self._series, self._recent = SeriesSums(), RecentSeries()
        self._keeper = Keeper()
        self._views: list[View] = []
        self._closing = False
        self._published = 0.0
        self._changed = False
        self._caught_up = False
        """The end of a file that grows was reached once."""
        self._size = 0
        self._grown = time.monotonic()
        self._totals: Mapping[Any, Any] = {}
        self._threads = [
            threading.Thread(target=self._read, name="vtrace-read", daemon=True),
            threading.Thread(target=self._count, name="vtrace-count", daemon=True),
        ]

    @property
    def clock(self) -> Clock:
        """The clock on the wall, as far as the recording knows it."""
        metadata = Metadata()
        metadata.sections = dict(self.snapshot.metadata)
        return Clock(metadata, self.zone)

    @property
    def names(self) -> Names:
        """Names of queues, threads, reasons and places, for the tables of views."""
        return self.chunks.names

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop reading and close the file."""
        self._closing = True
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)
        self._trace.close()
        self.chunks.close()

    def view(self, query: Query) -> View:
        """Return the rows of a table that a query asks for.

        Raises:
            FilterError: The query's filter has a mistake.
        """
        view = View(self, query)
        self._views = [one for one in self._views if not one.closed] + [view]
        return view

    def batches(
        self,
        since_ns: int | None = None,
        until_ns: int | None = None,
        columns: Collection[str] | None = None,
    ) -> Iterator[EventBatch]:
        """Yield the events of a stretch from the file, batch by batch, as far as it was read.

        Raises:
            InputError: The file changed under us.
        """
        first = 0 if since_ns is None else self.index.at(since_ns)
        for number in range(first, len(self.index)):
            if until_ns is not None and self.index.firsts[number] >= until_ns:
                break
            batch = self.chunks.batch(number, columns)
            if batch is None or not len(batch):
                continue
            times = batch["time"]
            keep = np.ones(len(batch), np.bool_)
            if since_ns is not None:
                keep &= times >= np.uint64(max(since_ns, 0))
            if until_ns is not None:
                keep &= times < np.uint64(max(until_ns, 0))
            yield batch if keep.all() else batch.take(keep)

    @property
    def index_times(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """First time, last time and events of each batch that was read."""
        count = len(self.index)
        arrays = (self.index.firsts, self.index.lasts, self.index.rows)
        firsts, lasts, rows = (np.array(array[:count]) for array in arrays)
        return firsts, lasts, rows

    def at(self, time_ns: int | None) -> Moment:
        """Return the recording as it stood just before a time; None: as far as it was read.

        Its figures are those of ``report --until TIME``. Takes as long as reading a part of the
        file does: not for the thread that draws.

        Raises:
            InputError: The file changed under us.
        """
        index = self.index
        whole = stop = len(index)
        if time_ns is not None:
            whole = stop = index.at(time_ns)
            if stop < len(index) and index.firsts[stop] < time_ns:
                stop += 1
        kept = self._keeper.before(whole)
        session = kept.session(self.name, self.zone)
        for number in range(kept.batches, stop):
            batch = self.chunks.batch(number)
            if batch is None or number in index.gaps:
                session.tracker.mark_gap()
            if batch is None:
                continue
            if time_ns is not None and number >= whole:
                batch = batch.take(batch["time"] < np.uint64(max(time_ns, 0)))
            session.take_in(batch)
        return self._moment(session, stop, cut_ns=time_ns)

    def _moment(self, session: Session, batches: int, cut_ns: int | None) -> Moment:
        rings = session.tracker.rings()
        summary, chains = session.so_far()
        end = session.end_ns
        snapshot = Snapshot(
            number=self.snapshot.number,
            state=self.snapshot.state,
            progress=1.0,
            start_ns=_shown(session.start_ns),
            cut_ns=_shown(cut_ns if cut_ns is not None else None if end is None else end + 1),
            events=session.events,
            batches=batches,
            loss=session.loss(),
            metadata=dict(session.metadata.sections),
            report=report_json(session, summary),
            queue_ids=summary.queue_ids,
            series=self.snapshot.series,
            recent=self.snapshot.recent,
        )
        return Moment(snapshot=snapshot, chains=chains, rings=rings)

    def _read(self) -> None:
        try:
            self._scan()
            self._read_on()
        except VtraceError as error:
            self._fail(str(error))
        except Exception as error:  # a bug: said where it is seen, not thrown where it is not
            self._fail(f"vtrace failed to read on: {type(error).__name__}: {error}")

    def _scan(self) -> None:
        # What the batches say of themselves, before they are read.
        if not self.follow or self._trace.complete:
            self._trace.scan()
            self._session.metadata.update(self._trace.metadata.sections)
            self._totals = dict(self._trace.totals)
        self._publish(State.READING)

    def _read_on(self) -> None:
        session, index, known = self._session, self.index, 0
        for batch in session.summing():
            if self._closing:
                return
            damaged, known = len(session.damage) > known, len(session.damage)
            self._series.feed(batch)
            self._recent.feed(batch)
            if damaged and len(batch):
                self.lanes.mark_gap(self.lanes.last_ns, int(batch["time"][0]))
            self.lanes.feed(batch)
            self.chunks.sections = session.metadata.sections
            index.add(self._trace.offset_of(batch.number), batch, gap=damaged)
            self._keeper.keep(len(index), session)
            self._changed = True
            if time.monotonic() - self._published >= EVERY_S:
                self._publish(State.FOLLOWING if self._caught_up else State.READING)
        self._publish(State.COMPLETE if session.complete else State.CUT_SHORT)
        self.ended = True

    def _idle(self) -> bool:
        # Asked while the file does not grow; true ends the wait.
        if self._closing:
            return True
        size = self._file_size()
        now = time.monotonic()
        if size < self._size:
            return True
        if size > self._size:
            self._size, self._grown = size, now
        if self.recorder_ended is not None and now - self._grown > EVERY_S:
            return True
        self._caught_up = True
        due = now - self._published >= EVERY_S
        silent = now - self._grown > SILENT_S
        if due and (self._changed or silent or self.snapshot.state != State.FOLLOWING):
            self._publish(State.FOLLOWING)
        return False

    def _file_size(self) -> int:
        try:
            return Path(self.path).stat().st_size
        except OSError:
            return 0

    def _sentence(self, state: State) -> str:
        if state is State.CUT_SHORT:
            if self.follow and self._file_size() < self._size:
                return "the file has become shorter, or is gone, while it was read"
            if self.recorder_ended is not None:
                return self.recorder_ended
            return "ends without a footer: still being written (--follow), or cut short"
        if state is State.READING and not len(self.index) and not compiled():
            return "compiling the decoder, once for this installation; that may take a minute"
        if state is State.FOLLOWING:
            silent = time.monotonic() - self._grown
            if silent > SILENT_S:
                return f"nothing was written for {silent:.0f} s: is the recorder gone?"
        return ""

    def _publish(self, state: State) -> None:
        session, before = self._session, self.snapshot
        read = self.index.offsets[-1] if len(self.index) else 0
        progress = read / max(self._file_size(), 1) if state is State.READING else 1.0
        summary, _ = session.so_far()
        end = session.end_ns
        self.snapshot = Snapshot(
            number=before.number + 1,
            state=state,
            sentence=self._sentence(state),
            progress=min(progress, 1.0),
            start_ns=_shown(session.start_ns),
            cut_ns=_shown(None if end is None else end + 1),
            events=session.events,
            batches=len(self.index),
            loss=session.loss(),
            metadata=dict(session.metadata.sections),
            damage=tuple(f"{one.where}: {one.reason}" for one in session.damage),
            report=report_json(session, summary),
            queue_ids=summary.queue_ids,
            totals=self._totals,
            series=self._series.series(),
            recent=self._recent.series(),
        )
        self._changed = False
        self._published = time.monotonic()

    def _fail(self, sentence: str) -> None:
        number = self.snapshot.number + 1
        self.snapshot = replace(self.snapshot, number=number, state=State.FAILED, sentence=sentence)
        self.ended = True

    def _count(self) -> None:
        # The newest view first: it is the one that is looked at.
        while not self._closing:
            busy = False
            for view in reversed(self._views):
                if view.closed or view.sentence:
                    continue
                try:
                    busy = view.count_on()
                except VtraceError as error:
                    view.sentence = str(error)
                except Exception as error:  # a bug: said in the view
                    view.sentence = f"vtrace failed to read on: {type(error).__name__}: {error}"
                if busy:
                    break
            if not busy:
                time.sleep(IDLE_S)


def _shown(time_ns: int | None) -> int | None:
    return None if time_ns is None else min(time_ns, MOST_NS)
