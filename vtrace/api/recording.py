"""A recording: its tables, its figures, its verdict."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsers.opening import open_any
from vtrace.api.frame import Frame
from vtrace.api.moments import window_of
from vtrace.api.rows import Asked, tables_of
from vtrace.errors import InputError, UsageError
from vtrace.session import Clock, Loss, Session, Window
from vtrace.session.report import report_json
from vtrace.session.sane import sane
from vtrace.session.unrecorded import clock_is_unknown
from vtrace.tables import SCHEMAS, Table

if TYPE_CHECKING:
    import pandas

    from parsers.batch import Damage, Metadata
    from vtrace.api.moments import When
    from vtrace.diagnose import Diagnosis

__all__ = ["Recording", "open_recording"]


@dataclass(frozen=True, slots=True)
class _Known:
    """What batches say of themselves; found without their columns."""

    metadata: Metadata
    start_ns: int | None
    end_ns: int | None
    complete: bool
    loss: Loss


class Recording:
    """A recording that can be asked. Nothing stays open: each question reads what it needs.

    A file that still grows is read as far as it has been written at the time of the question.
    """

    def __init__(self, path: str, form: str | None = None) -> None:
        self.path = path
        self._form = form
        self._damage: list[Damage] = []
        self._seen: tuple[tuple[int, int], _Known] | None = None

    @property
    def lifecycles(self) -> Frame:
        """Descriptor chains: one on its way through the available and the used ring."""
        return self._frame("lifecycles")

    @property
    def packets(self) -> Frame:
        """Packets at a queue, with the chain that carried each and how it ended."""
        return self._frame("packets")

    @property
    def exits(self) -> Frame:
        """VM exits one by one, where they were recorded so; ``report()`` has their sums."""
        return self._frame("exits")

    @property
    def drops(self) -> Frame:
        """Packets that the kernel dropped."""
        return self._frame("drops")

    @property
    def requests(self) -> Frame:
        """Requests to devices that QEMU serves, with their answers."""
        return self._frame("requests")

    @property
    def queues(self) -> Frame:
        """Queues and what they did: the whole recording in a row each."""
        return self._frame("queues")

    def report(self, since: When | None = None, until: When | None = None) -> dict[str, Any]:
        """Return what ``vtrace report --json`` prints (docs/json.md).

        Raises:
            InputError: The recording cannot be read.
            UsageError: ``since`` or ``until`` is no time.
        """
        window = self._window(since, until)
        with self._opened() as trace:
            session = Session(trace, window=window)
            return report_json(session, session.summary())

    def diagnose(
        self, protocol: str = "udp", since: When | None = None, until: When | None = None
    ) -> Diagnosis:
        """Return the verdict on what was lost: ledger, findings with evidence and remedies.

        ``protocol``: what the ledger counts, udp or all.

        Raises:
            InputError: The recording cannot be read.
            UsageError: ``since`` or ``until`` is no time, or there is no such protocol.
        """
        if protocol not in ("udp", "all"):
            raise UsageError(f"there is no protocol {protocol!r} to count; there is udp, all")
        window = self._window(since, until)
        with self._opened() as trace:
            session = Session(trace, window=window)
            verdict = session.diagnose(protocol)
            if verdict.anchor_ns is None:
                verdict.anchor_ns = session.clock.realtime_ns(0)
            return verdict

    @property
    def loss(self) -> Loss:
        """Records that were lost while recording; true if there were any."""
        return self._known().loss

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What cannot be read; inside of columns as far as they have been read."""
        self._known()
        return tuple(self._damage)

    @property
    def complete(self) -> bool:
        """The recording ended in order; one that is cut short or still grows did not."""
        return self._known().complete

    @property
    def metadata(self) -> dict[str, Any]:
        """Sections of the metadata: host, queues, probes, config, ... (docs/trace-file.md)."""
        return copy.deepcopy(self._known().metadata.sections)

    @property
    def start_ns(self) -> int | None:
        """First time, CLOCK_MONOTONIC of the recorded host, ns; None without events."""
        return self._known().start_ns

    @property
    def end_ns(self) -> int | None:
        """Last time; None without events."""
        return self._known().end_ns

    @property
    def start(self) -> pandas.Timestamp | None:
        """First time on the wall, UTC; None without events, or if the recording has no clock."""
        return self._timestamp(self.start_ns)

    @property
    def end(self) -> pandas.Timestamp | None:
        """Last time on the wall, UTC; None as for ``start``."""
        return self._timestamp(self.end_ns)

    @property
    def duration(self) -> pandas.Timedelta:
        """Time from the first to the last event; 0 where their times tell an order alone."""
        import pandas

        known = self._known()
        if known.start_ns is None or known.end_ns is None:
            return pandas.Timedelta(0, unit="ns")
        if clock_is_unknown(known.metadata.sections):
            return pandas.Timedelta(0, unit="ns")
        return pandas.Timedelta(min(known.end_ns - known.start_ns, (1 << 63) - 1), unit="ns")

    def timestamps(self, times: pandas.Series) -> pandas.Series:
        """Return a column of times (``time_ns``, ``pop_ns``, ...) as timestamps on the wall, UTC.

        What is missing is NaT; so is all of it if the recording has no clock.
        """
        import pandas

        offset = Clock(self._known().metadata).realtime_ns(0)
        missing = times.isna() if offset is not None else times.isna() | True
        wall = times.astype("Int64").where(~missing, 0).astype("int64") + (offset or 0)
        stamps = pandas.Series(
            pandas.DatetimeIndex(wall.to_numpy("datetime64[ns]"), tz="UTC"),
            index=times.index,
            name=times.name,
        )
        return stamps.mask(missing)

    def __repr__(self) -> str:
        return f"<recording {self.path}>"

    def _frame(self, table: str) -> Frame:
        asked = Asked(table, SCHEMAS[table].names)
        return Frame(asked, self._rows, self._window, self.path)

    def _rows(self, asked: Asked) -> Iterator[Table]:
        with self._opened() as trace:
            yield from tables_of(trace, asked)

    def _window(self, since: When | None, until: When | None) -> Window:
        if since is None and until is None:
            return Window()
        return window_of(since, until, Clock(self._known().metadata))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        # Opened anew for each reading: what is damaged is met at its place each time.
        if Path(self.path).is_fifo():
            raise self._once()
        with open_any(self.path, form=self._form) as trace:
            if not getattr(trace, "seekable", True):
                raise self._once()
            try:
                yield trace
            finally:
                self._damage += [one for one in trace.damage if one not in self._damage]

    def _once(self) -> InputError:
        return InputError(
            f"{self.path}: a pipe can be read once; save it in a file to ask it questions"
        )

    def _known(self) -> _Known:
        try:
            status = Path(self.path).stat()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened: {error.strerror}") from error
        mark = status.st_size, status.st_mtime_ns
        if self._seen is None or self._seen[0] != mark:
            self._seen = mark, self._look()
        return self._seen[1]

    def _look(self) -> _Known:
        with self._opened() as trace:
            session = Session(trace)
            metadata = session.metadata
            if hasattr(trace, "totals"):
                trace.scan()
                metadata.update(sane(trace.metadata.sections))
                spans = [(one.first_ns, one.last_ns) for one in trace.summaries if one.rows]
                times = [span for span in spans if span[0] is not None and span[1] is not None]
                session.events = sum(one.rows for one in trace.summaries)
                session.start_ns = times[0][0] if times else None
                session.end_ns = max((last or 0 for _, last in times), default=None)
            else:
                for _ in session.events_only():
                    pass
            return _Known(
                metadata, session.start_ns, session.end_ns, session.complete, session.loss()
            )

    def _timestamp(self, time_ns: int | None) -> pandas.Timestamp | None:
        import pandas

        wall = None
        if time_ns is not None:
            wall = Clock(self._known().metadata).realtime_ns(time_ns)
        try:
            return None if wall is None else pandas.Timestamp(wall, unit="ns", tz="UTC")
        except (OverflowError, ValueError):
            return None


def open_recording(path: str | os.PathLike[str], *, form: str | None = None) -> Recording:
    """Open a recording; ``vtrace.open`` is this.

    Args:
        path: A ``.vtrace`` file, or another tool's: trace.dat, perf.data, pcap, ...
        form: Its format, where its content does not tell: a name of ``parsers.opening.FORMATS``.

    Raises:
        InputError: It cannot be opened, is no recording, or is of a newer version.
        UnsupportedError: It takes a tool that is not installed.
        UsageError: There is no format ``form``.
    """
    recording = Recording(os.fspath(path), form)
    if recording.path == "-":
        raise InputError("stdin: a pipe can be read once; save it in a file to ask it questions")
    with recording._opened():
        return recording
