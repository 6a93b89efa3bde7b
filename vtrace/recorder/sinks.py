"""Recorder: from the attach process's pipe into files, with rotation or as a flight recorder."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from parsers.batch import EventBatch, Metadata, joined
from parsers.tracefile import TraceWriter, open_trace, rotated_name
from vtrace.errors import VtraceError
from vtrace.model import Kind

if TYPE_CHECKING:
    from probes.attach import Attached
    from vtrace.counters.guest import Guests
    from vtrace.recorder.monitors import Monitors

__all__ = ["FlightSink", "RotatingSink", "Totals", "record"]


class Sink(Protocol):
    """Takes batches and puts them somewhere."""

    written_bytes: int

    def write(self, batch: EventBatch) -> None:
        """Take one batch."""

    def close(self) -> None:
        """Finish what is open."""


@dataclass(slots=True, kw_only=True)
class Totals:
    """What a recording came to."""

    events: int = 0
    lost: int = 0
    pending: int = 0
    late: int = 0
    missed: int = 0
    dropped: int = 0
    written_bytes: int = 0
    failure: VtraceError | None = None
    unfiltered: list[str] = field(default_factory=list)
    """Network queues that QEMU serves, at which a capture filter does not look."""

    def sentence(self) -> str:
        """Return one line for a person."""
        loss = f"lost {self.lost}"
        for name in ("late", "missed", "dropped", "pending"):
            count = getattr(self, name)
            if count:
                loss += f", {name} {count}"
        size = f"{self.written_bytes / 1e6:.1f} MB"
        return f"{self.events} events, {size}, {loss}"


class RotatingSink:
    """One file, or a run of files of a size or time of which the newest are kept.

    Each file begins with all metadata known so far, so that it can be read alone.
    """

    def __init__(
        self,
        name: str,
        *,
        rotate_bytes: int | None = None,
        rotate_s: float | None = None,
        keep: int | None = None,
    ) -> None:
        self._name = name
        self._rotate_bytes, self._rotate_s, self._keep = rotate_bytes, rotate_s, keep
        self._metadata = Metadata()
        self._files: deque[Path] = deque()
        self._count = 0
        self._done_bytes = 0
        self._writer = self._open()

    def _open(self) -> TraceWriter:
        self._opened = time.monotonic()
        if self._name == "-":
            return TraceWriter(1)
        path = Path(self._name)
        if self._rotate_bytes or self._rotate_s:
            path = Path(rotated_name(path, self._count))
            self._count += 1
            self._files.append(path)
            while self._keep and len(self._files) > self._keep:
                self._files.popleft().unlink(missing_ok=True)
        return TraceWriter(path)

    @property
    def written_bytes(self) -> int:
        """Bytes written, over all files."""
        return self._done_bytes + self._writer.bytes_written

    def write(self, batch: EventBatch) -> None:
        """Write a batch; begin a new file where one is due."""
        self._metadata.update(batch.meta)
        due = (self._rotate_bytes and self._writer.bytes_written >= self._rotate_bytes) or (
            self._rotate_s and time.monotonic() - self._opened >= self._rotate_s
        )
        if due and len(batch) and self._writer.batches_written:
            self._done_bytes += self._writer.bytes_written
            self._writer.close()
            self._writer = self._open()
            new = {"qmp": batch.meta["qmp"]} if "qmp" in batch.meta else {}
            batch.meta = without_looks(self._metadata.sections) | new
        self._writer.write(batch)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


_TRIGGER_KINDS = {"drop": Kind.DROP, "refuse": Kind.REFUSE, "starved": Kind.EMPTY}


def without_looks(sections: dict[str, Any]) -> dict[str, Any]:
    """Return metadata for the begin of a file without what QEMU's monitor said before it.

    A look at the monitor is held against the events around it, and these are in another file.
    """
    found = dict(sections)
    if "qmp" in found:
        found["qmp"] = {name: {} for name in found["qmp"]}
    return found


class FlightSink:
    """Holds the newest batches; writes them, and what follows for a while, when triggered."""

    def __init__(
        self, make: Callable[[], RotatingSink], hold_s: float, trigger: str, after_s: float
    ) -> None:
        self._make = make
        self._hold_ns, self._after_ns = int(hold_s * 1e9), int(after_s * 1e9)
        self.trigger = trigger
        self._kind = _TRIGGER_KINDS[trigger]
        self._metadata = Metadata()
        self._before = Metadata()
        self._held: deque[EventBatch] = deque()
        self._sink: RotatingSink | None = None
        self._until = 0
        self._written_ns = 0
        self._left_out = False
        self.triggered_ns: int | None = None
        """Time of the first event that triggered; None: none has."""

    @property
    def written_bytes(self) -> int:
        """Bytes written so far; 0 before the trigger."""
        return self._sink.written_bytes if self._sink else 0

    def write(self, batch: EventBatch) -> None:
        """Hold a batch, or write it behind a trigger."""
        self._metadata.update(batch.meta)
        newest = self._time_of(batch)
        hits = batch["time"][self._triggers(batch)]
        if len(hits):
            if self.triggered_ns is None:
                self.triggered_ns = int(hits[0])
            self._until = int(hits[-1]) + self._after_ns
        self._held.append(batch)
        while len(self._held) > 1 and newest - self._time_of(self._held[0]) > self._hold_ns:
            old = self._held.popleft()
            self._left_out |= len(old) > 0
            self._before.update(old.meta)
        if len(hits) or 0 < newest <= self._until:
            self._write_held()

    def _triggers(self, batch: EventBatch) -> Any:
        hit = batch["kind"] == self._kind
        if self._kind == Kind.EMPTY:
            queues = self._metadata.section("queues")
            rx = [int(n) for n, q in queues.items() if q.get("direction") == "rx"]
            hit &= np.isin(batch["queue"], rx)
        return hit

    @staticmethod
    def _time_of(batch: EventBatch) -> int:
        # The last event, or the clock: a batch may have samples and no events.
        last = int(batch["time"][-1]) if len(batch) else 0
        anchors = batch.meta.get("clock") or [{}]
        return max(last, int(anchors[-1].get("monotonic_ns", 0)))

    def _write_held(self) -> None:
        # Counters as they were before the first event that is kept, not as they are now.
        before = self._before.sections.get("counters")
        meta: dict[str, Any] = {"counters": before} if before else {}
        if self._sink is None:
            self._sink = self._make()
            self._sink.write(EventBatch.empty(self._uncounted() | meta))
        elif self._left_out:
            meta["gap"] = {
                "first_ns": self._written_ns,
                "last_ns": next((int(b["time"][0]) for b in self._held if len(b)), self._until),
            }
            self._sink.write(EventBatch.empty(meta))
        self._left_out = False
        for batch in self._held:
            self._sink.write(batch)
            self._before.update(batch.meta)
            self._written_ns = max(self._written_ns, self._time_of(batch))
        self._held.clear()

    def _uncounted(self) -> dict[str, Any]:
        sections = without_looks(self._metadata.sections)
        return {n: section for n, section in sections.items() if n != "counters"}

    def close(self) -> None:
        """Finish the file, if there is one."""
        if self._sink:
            # Counters of now are of no use: what they counted since is not in the file.
            self._sink.write(EventBatch.empty(self._uncounted()))
            self._sink.close()


def served_by_qemu(metadata: Metadata) -> list[str]:
    """Return the network queues that QEMU serves itself: VM, device, queue."""
    return sorted(
        " ".join(str(row.get(name, "")) for name in ("vm", "device", "name"))
        for row in metadata.section("queues").values()
        if (row.get("backend"), row.get("device_type")) == ("qemu", "net")
        and row.get("direction") in ("rx", "tx")
    )


def record(
    attached: Attached,
    sink: Sink,
    stopping: Callable[[int, int], bool],
    guests: Guests | None = None,
    monitors: Monitors | None = None,
) -> Totals:
    """Move batches from the attach process into a sink until told to stop.

    ``stopping(events, written_bytes)`` is asked twenty times a second. What ``guests`` and
    ``monitors`` say goes into the next batch; they are asked for the last time before the probes
    are detached.
    """
    totals = Totals()
    metadata = Metadata()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            if stopping(totals.events, totals.written_bytes):
                if monitors:
                    monitors.finish()
                if guests:
                    guests.finish()
                attached.stop()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with open_trace(attached.data) as stream:
            for batch in stream.batches():
                if guests:
                    batch.meta = joined(batch.meta, guests.take())
                if monitors:
                    batch.meta = monitors.join(batch.meta)
                metadata.update(batch.meta)
                totals.events += len(batch)
                sink.write(batch)
                totals.written_bytes = sink.written_bytes
        totals.failure = attached.failure()
    finally:
        done.set()
        sink.close()
        totals.written_bytes = sink.written_bytes
        attached.close()
    totals.unfiltered = served_by_qemu(metadata)
    loss = metadata.section("loss")
    totals.lost = sum(c["lost"] for c in metadata.section("counts").values())
    totals.pending, totals.late = loss.get("pending", 0), loss.get("late", 0)
    totals.missed, totals.dropped = loss.get("missed", 0), loss.get("dropped_records", 0)
    if "end" not in metadata and not totals.failure:
        totals.failure = VtraceError(
            "the attach process ended before it was told to (killed?); what it had sent is written"
        )
    return totals
