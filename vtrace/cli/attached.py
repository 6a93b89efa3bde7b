"""Diagnosis of this host: record for a while, then judge the recording.

What is recorded goes to the file of ``-w``, or to one without a name that is gone with us. So the
probes are read as fast as ``vtrace record`` does, and live and file are one.

Until ``attach`` this process may be root, behind it is the user who called. So the session, whose
kernels numba compiles and keeps, is imported behind it.
"""

from __future__ import annotations

import os
import pwd
import signal
import tempfile
import threading
import time
from datetime import UTC
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from parsers.batch import EventBatch
from parsers.tracefile import TraceWriter, open_trace
from vtrace.cli import options, say
from vtrace.cli.guests import guests_of
from vtrace.errors import VtraceError
from vtrace.recorder.child import spool_folder
from vtrace.recorder.sinks import FlightSink, RotatingSink, record

if TYPE_CHECKING:
    import argparse

    from probes.attach import Attached

__all__ = ["Until", "attach", "diagnose", "review", "watch"]

MAX_BYTES: Final = 1_000_000_000
"""Size at which a recording without a name ends."""
AFTER_S: Final = 2.0
"""What the flight recorder writes behind a loss."""
AGAIN_S: Final = 2.0
"""A signal so long after the first is a second one: leave at once."""


def attach(args: argparse.Namespace) -> Attached:
    """Attach the probes, and give up the privilege; say on stderr what goes on."""
    from probes.attach import Request
    from vtrace.recorder.live import attach as start

    before = os.geteuid()
    attached = start(Request(vm=args.vm), say)
    if os.geteuid() != before:
        # What is kept for the next time is kept where this user may write.
        os.environ["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir
        os.environ.pop("XDG_CACHE_HOME", None)
    return attached


def diagnose(args: argparse.Namespace) -> int:
    """Record, diagnose, print; return the exit code."""
    options.max_loss(args)
    with Until(args) as until:
        # Asked first: root knows more of the VMs than who called us does.
        guests = guests_of(args)
        attached = attach(args)
        try:
            file = None if args.write else unnamed()
            sink: Any = RotatingSink(args.write) if file is None else FileSink(file)
        except BaseException:
            attached.close()
            raise
        end = "Ctrl-C gives the verdict" if args.duration is None else f"for {args.duration:g} s"
        say(f"watching this host; {end}")
        if guests:
            guests.begin()
        until.begin()
        totals = record(attached, sink, until, guests)
    if totals.failure and not totals.events:
        raise totals.failure
    if until.full:
        say(f"the recording has {totals.written_bytes / 1e6:.0f} MB (--size), so it ends here")
    from vtrace.cli.diagnose import finish
    from vtrace.session import Session

    if file is not None:
        file.seek(0)
    try:
        with open_trace(args.write if file is None else file) as trace:
            session = Session(trace, zone=UTC if args.utc else None)
            diagnosis = session.diagnose(args.protocol)
            diagnosis.source = args.write or "live"
            code = finish(session, diagnosis, args, source=args.write or "")
    finally:
        if file is not None:
            file.close()
    if totals.failure:
        raise totals.failure
    return code


def watch(args: argparse.Namespace) -> int:
    """Print a line a second until the end or Ctrl-C, then the verdict; return the exit code."""
    options.max_loss(args)
    with Until(args) as until:
        guests = guests_of(args)
        attached = attach(args)
        done = threading.Event()

        def stop_in_time() -> None:
            while not done.wait(0.05):
                if until():
                    if guests:
                        guests.finish()
                    attached.stop()
                    return

        from vtrace.cli.watch import Watched, through

        sink = None
        if args.write:
            sink = LossSink(lambda: RotatingSink(args.write), args.flight, "drop", AFTER_S)
        say("watching this host; Ctrl-C gives the verdict")
        if guests:
            guests.begin()
        until.begin()
        threading.Thread(target=stop_in_time, daemon=True).start()
        try:
            with open_trace(attached.data) as trace:
                watched = Watched(trace, args, lambda: False)
                watched.sink, watched.guests = sink, guests
                code = through(watched, args, source="")
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


def review(args: argparse.Namespace) -> int:
    """Review the configuration of this host: nothing is attached for that."""
    from vtrace.cli.diagnose import finish
    from vtrace.inventory import discover, to_json
    from vtrace.recorder.sampled import config_of
    from vtrace.session import Session

    vms = discover()
    if not vms:
        say("no VM runs on this host, or this user may not see it")
    meta = {
        "config": config_of(vms),
        "vms": to_json(vms),
        "host": {"kernel": os.uname().release},
    }
    session = Session([EventBatch.empty(meta)], zone=UTC if args.utc else None)
    diagnosis = session.diagnose(args.protocol)
    diagnosis.source = "live"
    return finish(session, diagnosis, args, source="")


def unnamed() -> BinaryIO:
    """Return a file that has no name, and is gone when it is closed.

    Raises:
        VtraceError: There is no room for one.
    """
    folder = spool_folder()
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise VtraceError(
            f"there is no place for the recording: {folder}: {error.strerror}; "
            "set TMPDIR, or give -w FILE"
        ) from error


class FileSink:
    """Writes batches into an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = TraceWriter(file.fileno())

    @property
    def written_bytes(self) -> int:
        """Bytes written so far."""
        return self._writer.bytes_written

    def write(self, batch: EventBatch) -> None:
        """Write a batch."""
        self._writer.write(batch)

    def close(self) -> None:
        """Finish the recording; the file stays open."""
        self._writer.close()


class LossSink(FlightSink):
    """A flight recorder that is triggered by what was found, not by any drop on the host."""

    def _triggers(self, batch: EventBatch) -> Any:
        return batch["time"] < 0

    def trigger_at(self, time_ns: int) -> None:
        """Write what is held, and what comes until a while behind that time."""
        if self.triggered_ns is None:
            self.triggered_ns = time_ns
        self._until = max(self._until, time_ns + self._after_ns)
        self._write_held()


class Until:
    """Says when to stop: time, size or signal. Inside of ``with`` it takes the signals."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._duration: float | None = args.duration
        self._size = args.size or (None if args.write else MAX_BYTES)
        self._deadline: float | None = None
        self._signalled = 0.0
        self._before: dict[int, Any] = {}
        self.full = False
        """The recording reached its size."""

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, *_: object) -> None:
        # Several processes may pass on one Ctrl-C (a shell, timeout, sudo): that is one.
        now = time.monotonic()
        if self._signalled and now - self._signalled > AGAIN_S:
            raise KeyboardInterrupt
        self._signalled = self._signalled or now

    def begin(self) -> None:
        """Start the clock."""
        if self._duration is not None:
            self._deadline = time.monotonic() + self._duration

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self._signalled > 0

    def __call__(self, events: int = 0, written_bytes: int = 0) -> bool:
        """Tell whether to stop, with that much recorded."""
        self.full = self._size is not None and written_bytes >= self._size
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self.interrupted or late or self.full
