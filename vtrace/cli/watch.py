"""``vtrace diagnose --watch``: a line a second while batches pass by, then the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parsers.batch import joined
from parsers.tracefile import open_trace
from vtrace.cli import options
from vtrace.cli.attached import Until
from vtrace.cli.diagnose import finish, print_line, width_of_stdout
from vtrace.cli.output import Style
from vtrace.cli.seconds import SECOND_NS, Second, Seconds, line_of, second_json
from vtrace.diagnose.prose.headline import Times
from vtrace.session import Clock, Session

if TYPE_CHECKING:
    import argparse

    from parsers.batch import EventBatch

__all__ = ["Watched", "recorded", "through"]

SILENT_S: Final = 10.0
"""A recording without footer that has not grown for so long is not being written."""


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
        if self.sink is not None and second.by_code:
            self.sink.trigger_at(second.start_ns + SECOND_NS)
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


def recorded(args: argparse.Namespace) -> int:
    """Show a recording second by second, and then the verdict; return the exit code."""
    options.max_loss(args)
    path = options.input_path(args)
    with (
        Until(args) as until,
        open_trace(path, follow=path != "-", stop=_Silent(path, until)) as trace,
    ):
        return through(Watched(trace, args, lambda: until.interrupted), args, source=path)


def through(watched: Watched, args: argparse.Namespace, *, source: str) -> int:
    """Read to the end, print the verdict and return the exit code."""
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
