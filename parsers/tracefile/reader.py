"""Reader of ``.vtrace`` files, growing files and pipes: everything undamaged comes out.

The batches are found by walking from message to message, which works alike with a footer and
without. The footer says that the recording is complete, and where to go on behind damage.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.ipc

import vtrace
from parsers import wire
from parsers.batch import Damage, EventBatch, Metadata
from parsers.tracefile import flat, layout
from parsers.tracefile.decode import DecodeError, Layout, decode
from parsers.tracefile.source import Source, open_source
from parsers.tracefile.walk import (
    PREFIX_BYTES,
    BrokenError,
    CutError,
    Entry,
    Walker,
    footer_of,
    read_message,
)
from vtrace.errors import InputError

if TYPE_CHECKING:
    from vtrace.model import Kind

__all__ = ["Summaries", "Tail", "Trace", "find_tail", "open_trace"]

POLL_SECONDS: Final = 0.1
# Sections of metadata under names that we do not know, kept for what they are worth.
MAX_STRANGE_SECTIONS: Final = 32
MAX_DAMAGE: Final = 1000
DRAIN_BYTES: Final = 1 << 20
WAY_OUT: Final = "was the recorder stopped before it wrote? record again"


def open_trace(
    target: str | os.PathLike[str] | BinaryIO,
    *,
    follow: bool = False,
    stop: Callable[[], bool] | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> Trace:
    """Open a recording: a path, ``-`` for stdin, or a binary file object.

    Args:
        target: What to read.
        follow: Wait for more at the end of a file that is not complete.
        stop: Asked while waiting; true ends the wait, and with it the batches.
        poll_seconds: Time between looks at a file that is followed.

    Raises:
        InputError: It cannot be opened, is no recording, or is of a newer version.
    """
    source = open_source(target)
    try:
        return Trace(source, follow=follow, stop=stop, poll_seconds=poll_seconds)
    except BaseException:
        source.close()
        raise


class Trace:
    """A recording that is open for reading.

    Attributes:
        name: Path of it, for a person.
        metadata: Sections of all batches met so far, the newest of each. Of a file, those of
            the first batch are there from the start, and all of them after ``scan``.
        damage: What could not be read so far.
        totals: Queue id -> kind -> events and bytes, of all batches met so far.
        version: Of the vtrace that wrote it.
        schema_message: Message of its Arrow schema, prefix included.
    """

    def __init__(
        self,
        source: Source,
        *,
        follow: bool = False,
        stop: Callable[[], bool] | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.name = source.name
        self.metadata = Metadata()
        self.damage: list[Damage] = []
        self.totals: dict[int, dict[Kind | int, layout.Tally]] = {}
        self.version = ""
        self.schema_message = b""
        self._source = source
        self._follow = follow and source.seekable
        self._stop = stop
        self._poll_seconds = poll_seconds
        self._seen_damage: set[tuple[int, str]] = set()
        self._offsets = array("q")
        self._numbers = array("q")
        self._newest = -1
        self._scanned = False
        self._complete = False
        self._pipe_used = False
        self._first, self._layout = self._open()
        if source.seekable:
            with contextlib.suppress(BrokenError):
                entry = self._walker().entry(self._first)
                if entry is not None:
                    self._take_meta(entry.header.meta)

    @property
    def seekable(self) -> bool:
        """It can be read again, and anywhere; a pipe cannot."""
        return self._source.seekable

    @property
    def complete(self) -> bool:
        """The footer is there: the recording ended in order. Of a pipe, known at its end."""
        if not self._complete and self._source.seekable:
            self._complete = footer_of(self._source) is not None
        return self._complete

    @property
    def summaries(self) -> Sequence[layout.BatchSummary]:
        """Summary of each batch, read anew from the file whenever it is asked for.

        A file is scanned for it once; one that is followed shows what was met so far. Of a
        pipe there are none: see ``totals``.
        """
        if not self._source.seekable:
            return ()
        if not self._follow:
            self.scan()
        return Summaries(self)

    def scan(self) -> None:
        """Go through all batches of a file without decoding their columns.

        Fills ``metadata``, ``totals`` and, but for damage inside of columns, ``damage``. Does
        nothing on a pipe.
        """
        if self._scanned or not self._source.seekable:
            return
        walker = self._walker()
        for entry in walker.walk():
            self._take(entry)
        self._end(walker)

    def batches(
        self,
        columns: Collection[str] | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        kinds: Collection[int] | None = None,
    ) -> Iterator[EventBatch]:
        """Yield the batches that are whole; what is not goes to ``damage``.

        A batch out of which no row is left, by the times or for damage, comes without rows
        if it has metadata; but nothing comes behind the first that begins at ``until_ns``.

        Args:
            columns: Names of the columns to decode besides ``time``; ``bytes`` stands for the
                snaps. None: all.
            since_ns: Leave out rows before this time.
            until_ns: Leave out rows at this time and later.
            kinds: Leave out the rows of batches that have no record of these kinds.

        Raises:
            InputError: A pipe was read before.
        """
        if not self._source.seekable:
            if self._pipe_used:
                raise InputError(f"{self.name}: a pipe can be read once; use a file")
            self._pipe_used = True
        walker = self._walker(self._wait)
        over = False
        for entry in walker.walk():
            self._take(entry)
            first = entry.header.summary.first_ns
            over = over or (until_ns is not None and first is not None and first >= until_ns)
            if over:
                # The rest is walked through for what is damaged there.
                continue
            if kinds is not None and not _has_some(entry.header.summary, kinds):
                batch = EventBatch.empty(entry.header.meta)
                batch.number = entry.number
            else:
                batch = self._select(entry, columns, since_ns, until_ns)
            if len(batch) or batch.meta or not entry.header.summary.rows:
                yield batch
        self._end(walker)

    def batch(self, index: int, columns: Collection[str] | None = None) -> EventBatch | None:
        """Return the ``index``-th batch of a file; None if it is damaged."""
        return self._decode(self.entry(index), columns)

    def entry(self, index: int) -> Entry:
        """Return the ``index``-th batch of a file without decoding it.

        Raises:
            InputError: It is not there any more.
        """
        if not self._follow:
            self.scan()
        return self._entry_at(self._offsets[index])

    def batch_at(self, offset: int, columns: Collection[str] | None = None) -> EventBatch | None:
        """Return the batch at a byte offset, one of ``offsets``; None if it is damaged.

        Raises:
            InputError: It is not there any more.
        """
        return self._decode(self._entry_at(offset), columns)

    def _entry_at(self, offset: int) -> Entry:
        try:
            entry = self._walker().entry(offset)
        except BrokenError as error:
            raise InputError(
                f"{self.name}: the batch at byte {offset} changed while it was read: {error}"
            ) from None
        if entry is None:
            raise InputError(
                f"{self.name}: the batch at byte {offset} is there no more; is the file "
                "being written anew?"
            )
        return entry

    @property
    def offsets(self) -> Sequence[int]:
        """Byte offset of each batch met so far."""
        return self._offsets

    def offset_of(self, number: int) -> int:
        """Return the byte offset of the batch of a number, one that was met; KeyError if not."""
        place = bisect_left(self._numbers, number)
        if place == len(self._numbers) or self._numbers[place] != number:
            raise KeyError(number)
        return self._offsets[place]

    def close(self) -> None:
        """Close the file, if it was opened here."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> tuple[int, Layout]:
        # Magic and schema: where the first batch is, and where its columns are.
        while True:
            try:
                return self._read_schema()
            except CutError as error:
                if self._follow and self._wait():
                    continue
                there = self._source.reach(0)
                if there:
                    text = f"ends inside of its header, behind {there} bytes ({error})"
                else:
                    text = "is empty (0 bytes), expected a recording of vtrace"
                raise InputError(f"{self.name}: {text}; {self._source.error or WAY_OUT}") from None

    def _read_schema(self) -> tuple[int, Layout]:
        source, start = self._source, len(layout.MAGIC)
        head = source.read_at(0, start)
        if not layout.MAGIC.startswith(head):
            self._foreign(f"expected ARROW1 at its start, found {bytes(head)!r}")
        if len(head) < start:
            raise CutError(f"{len(head)} of {start} bytes of its mark")
        try:
            data = read_message(source, start, layout.MAX_SCHEMA_BYTES)
            if data is None:
                raise BrokenError("expected a schema, found the end of the stream")
            prefix = source.read_at(start, PREFIX_BYTES)
            message = flat.Message(data)
            if message.kind != flat.HEADER_SCHEMA or message.body_bytes:
                raise BrokenError("the first message is no schema")
            self.schema_message = bytes(prefix + data)
            schema = pa.ipc.read_schema(pa.py_buffer(self.schema_message))
            metadata = schema.metadata or {}
        except CutError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            self._foreign(f"its Arrow schema cannot be read ({error})")
        if b"vtrace.format" not in metadata:
            self._foreign("it is an Arrow file without the metadata of vtrace")
        self.version = metadata.get(b"vtrace.version", b"?").decode(errors="replace")
        self._check_version(metadata, b"vtrace.format", layout.FORMAT_VERSION)
        self._check_version(metadata, b"vtrace.wire", wire.WIRE_VERSION)
        try:
            place = Layout.of(schema)
        except ValueError as error:
            self._foreign(str(error))
        return start + len(self.schema_message), place

    def _check_version(self, metadata: dict[bytes, bytes], key: bytes, known: int) -> None:
        text = metadata.get(key, b"")
        if not re.fullmatch(rb"[0-9]{1,9}", text):
            self._foreign(f"expected a number for {key.decode()}, found {text[:40]!r}")
        if int(text) > known:
            raise InputError(
                f"{self.name}: {key.decode()} is {int(text)}, and this vtrace "
                f"{vtrace.__version__} reads up to {known}; the file was written by "
                f"vtrace {self.version}: use that or a newer one"
            )

    def _foreign(self, found: str) -> NoReturn:
        raise InputError(
            f"{self.name}: is no recording of vtrace: {found}; "
            "vtrace reads what vtrace record wrote"
        )

    def _walker(self, wait: Callable[[], bool] = lambda: False) -> Walker:
        return Walker(self._source, self._first, self._report, wait)

    def _wait(self) -> bool:
        if not self._follow or (self._stop is not None and self._stop()):
            return False
        time.sleep(self._poll_seconds)
        return True

    def _report(self, offset: int, reason: str, batches: int) -> None:
        # Reading a file twice finds its damage twice.
        if (offset, reason) in self._seen_damage:
            return
        if len(self.damage) >= MAX_DAMAGE:
            last = self.damage[-1]
            reason = "and more, which is not listed"
            batches += last.batches if last.reason == reason else 0
            if last.reason == reason:
                self.damage.pop()
        else:
            self._seen_damage.add((offset, reason))
        self.damage.append(
            Damage(
                where=f"{self.name}: byte {offset}",
                reason=reason,
                batches=batches,
                offset=offset,
            )
        )

    def _take(self, entry: Entry) -> None:
        # Batches come in the order of their numbers; those of a second walk are known.
        if entry.number <= self._newest:
            return
        self._newest = entry.number
        if self._source.seekable:
            self._offsets.append(entry.offset)
            self._numbers.append(entry.number)
        self._take_meta(entry.header.meta)
        for queue, kinds in entry.header.summary.queues.items():
            total = self.totals.setdefault(queue, {})
            for kind, (events, size) in kinds.items():
                old = total.get(kind, layout.Tally(0, 0))
                total[kind] = layout.Tally(old.events + events, old.bytes + size)

    def _take_meta(self, meta: dict[str, Any]) -> None:
        known = self.metadata.sections
        strange = sum(name not in layout.SHAPES for name in known)
        for name, section in meta.items():
            if name not in layout.SHAPES and name not in known:
                strange += 1
                if strange > MAX_STRANGE_SECTIONS:
                    continue
            self.metadata.update({name: section})

    def _select(
        self,
        entry: Entry,
        columns: Collection[str] | None,
        since_ns: int | None,
        until_ns: int | None,
    ) -> EventBatch:
        header = entry.header
        summary = header.summary
        nothing = EventBatch.empty(header.meta)
        nothing.number = summary.number
        first, last = summary.first_ns, summary.last_ns
        if first is None or last is None:
            return nothing
        if since_ns is not None and last < since_ns:
            return nothing
        if until_ns is not None and first >= until_ns:
            return nothing
        batch = self._decode(entry, columns)
        if batch is None:
            return nothing
        cut_first = since_ns is not None and first < since_ns
        cut_last = until_ns is not None and last >= until_ns
        if cut_first or cut_last:
            times = batch["time"]
            low = times >= np.uint64(max(since_ns or 0, 0))
            high = times < np.uint64(until_ns) if cut_last else True  # type: ignore[arg-type]
            batch = batch.take(low & high)
        return batch

    def _decode(self, entry: Entry, columns: Collection[str] | None) -> EventBatch | None:
        body = self._source.read_at(entry.body_offset, entry.body_bytes)
        try:
            record = entry.message.record()
            return decode(self._layout, record, body, entry.header, columns)
        except (flat.FlatError, DecodeError) as error:
            reason = self._source.error or str(error)
            self._report(entry.offset, f"batch {entry.number} is left out: {reason}", 1)
            return None

    def _end(self, walker: Walker) -> None:
        if not self._source.seekable:
            self._complete = walker.at_mark and self._drain(walker.position)
            return
        if self._follow and not self.complete:
            return
        self._scanned = True
        if walker.at_mark and not self.complete:
            reason = "the footer is cut short or damaged; the batches do not need it"
            self._report(walker.position, reason, 0)
        elif not walker.found and not self.complete and not self.damage:
            reason = "the file ends behind its header, before the first batch"
            self._report(walker.position, reason, 0)

    def _drain(self, at: int) -> bool:
        # Read the footer off a pipe, lest its writer break; true if it is whole.
        tail = b""
        while data := self._source.read_at(at, DRAIN_BYTES):
            at += len(data)
            self._source.forget(at)
            tail = (tail + data)[-6:]
        return tail == layout.MAGIC[:6]


def _has_some(summary: layout.BatchSummary, kinds: Collection[int]) -> bool:
    return any(int(kind) in kinds for found in summary.queues.values() for kind in found)


class Summaries(Sequence[layout.BatchSummary]):
    """The summaries of a file's batches; only their places are held in memory."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __len__(self) -> int:
        return len(self._trace.offsets)

    @overload
    def __getitem__(self, index: int) -> layout.BatchSummary: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[layout.BatchSummary]: ...

    def __getitem__(
        self, index: int | slice
    ) -> layout.BatchSummary | Sequence[layout.BatchSummary]:
        """Return one summary, or a list of some."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        return self._trace.entry(index).header.summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What is needed to write on behind a file's last whole batch."""

    schema: bytes
    trace: str
    blocks: list[int]
    """Offset, header bytes and body bytes of each batch, one after the other."""
    next_number: int
    end: int


def find_tail(path: str | os.PathLike[str]) -> Tail:
    """Look for the place where a recording can be continued.

    Raises:
        InputError: The file is no recording, or too new.
    """
    blocks: list[int] = []
    trace_id, next_number = "", 0
    with open_trace(path) as trace:
        trace.scan()
        end = len(layout.MAGIC) + len(trace.schema_message)
        for index in range(len(trace.offsets)):
            entry = trace.entry(index)
            head = entry.body_offset - entry.offset
            blocks.extend((entry.offset, head, entry.body_bytes))
            trace_id, next_number, end = entry.header.trace, entry.number + 1, entry.end
        schema = trace.schema_message
    return Tail(schema=schema, trace=trace_id, blocks=blocks, next_number=next_number, end=end)
