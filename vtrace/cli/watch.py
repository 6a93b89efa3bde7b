"""``vtrace diagnose --watch``: a line a second while batches pass by, then the verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parsers.batch import joined
from parsers.tracefile import open_trace
from vtrace.cli import options, say
from vtrace.cli.attached import Until, attach
from vtrace.cli.diagnose import finish, print_line, width_of_stdout
from vtrace.cli.guests import guests_of
from vtrace.cli.headline import Times
from vtrace.cli.output import Style
from vtrace.cli.seconds import Second, Seconds, line_of, second_json
from vtrace.recorder.sinks import FlightSink, RotatingSink
from vtrace.session import Clock, Session

if TYPE_CHECKING:
    import argparse

    from parsers.batch import EventBatch

__all__ = ["Watched", "run"]

SILENT_S: Final = 10.0
"""A recording without footer that has not grown for so long is not being written."""
AFTER_S: Final = 2.0
"""What the flight recorder writes behind a loss."""


class Watched:
    """A source that shows its batches to ``Seconds`` while a session reads them."""

    def __init__(self, trace: Any, args: argparse.Namespace, stop: Callable[[], bool]) -> None:
        self._trace, self._args, self._stop = trace, args, stop
        self._seconds = Seconds(args.protocol, args.vm)
        self._style, self._width = Style.of(args), width_of_stdout()
        self.sink: Any = None
        """Takes each batch too: the flight recorder."""
        self.guests: Any = None
        """What the guests say goes into the next batch."""
        self.stopped = False
        """It ended before its source did."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def batches(self, columns: Any = None, **window: Any) -> Iterator[EventBatch]:
        """Yield the batches, and print each second that is over."""
        for batch in self._trace.batches(columns=columns, **window):
            if self.guests is not None:
                batch.meta = joined(batch.meta, self.guests.take())
            if self.sink is not None:
                self.sink.write(batch)
            for second in self._seconds.feed(batch):
                self._print(second)
            yield batch
            if self._stop():
                break
        # Whoever follows a file ends by a signal, too, while there is no batch.
        self.stopped = self._stop()
        for second in self._seconds.finish():
            self._print(second)

    def _print(self, second: Second) -> None:
        if self._args.json:
            print_line({"second": second_json(second)})
            return
        clock = Clock(self._seconds.metadata)
        times = Times(
            start_ns=self._seconds.start_ns,
            anchor_ns=clock.realtime_ns(0),
            zone=UTC if self._args.utc else None,
            relative=self._args.relative,
        )
        print(line_of(second, times, self._style, self._width), flush=True)


def run(args: argparse.Namespace, *, live: bool) -> int:
    """Print seconds until the end, or Ctrl-C, and then the verdict; return the exit code."""
    options.max_loss(args)
    with Until(args) as until:
        return _live(args, until) if live else _recorded(args, until)


def _recorded(args: argparse.Namespace, until: Until) -> int:
    path = options.input_path(args)
    with open_trace(path, follow=path != "-", stop=_Silent(path, until)) as trace:
        watched = Watched(trace, args, lambda: until.interrupted)
        return _through(watched, args, source=path)


def _live(args: argparse.Namespace, until: Until) -> int:
    guests = guests_of(args)
    attached = attach(args)
    sink = None
    if args.write:
        sink = FlightSink(lambda: RotatingSink(args.write), args.flight, "drop", AFTER_S)
    say("watching this host; Ctrl-C gives the verdict")
    if guests:
        guests.begin()
    until.begin()
    done = threading.Event()

    def stop_in_time() -> None:
        while not done.wait(0.05):
            if until(0, 0):
                if guests:
                    guests.finish()
                attached.stop()
                return

    threading.Thread(target=stop_in_time, daemon=True).start()
    try:
        with open_trace(attached.data) as trace:
            watched = Watched(trace, args, lambda: False)
            watched.sink, watched.guests = sink, guests
            code = _through(watched, args, source="")
        failure = attached.failure()
    finally:
        done.set()
        if sink is not None:
            sink.close()
        attached.close()
    if sink is not None:
        triggered = sink.triggered_ns is not None
        say(f"{args.write}: the seconds around each loss" if triggered else "no loss: no file")
    if failure:
        raise failure
    return code


def _through(watched: Watched, args: argparse.Namespace, *, source: str) -> int:
    session = Session(watched, window=options.window(args), zone=UTC if args.utc else None)
    diagnosis = session.diagnose(args.protocol)
    if not source:
        diagnosis.source = "live"
    if not args.json:
        print()
    return finish(session, diagnosis, args, source=source, stopped=watched.stopped)


class _Silent:
    """Says when a file that is followed will not grow any more, or nobody wants to wait."""

    def __init__(self, path: str, until: Until) -> None:
        self._path, self._until = Path(path), until

    def __call__(self) -> bool:
        if self._until.interrupted:
            return True
        try:
            return time.time() - self._path.stat().st_mtime > SILENT_S
        except OSError:
            return True
