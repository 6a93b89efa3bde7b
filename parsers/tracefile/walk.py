"""From message to message through a trace, and on behind damage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from parsers.tracefile import flat, layout

if TYPE_CHECKING:
    from parsers.batch import Array
    from parsers.tracefile.source import Source

__all__ = [
    "PREFIX_BYTES",
    "BrokenError",
    "CutError",
    "Entry",
    "Walker",
    "footer_of",
    "read_message",
]

PREFIX_BYTES: Final = 8
MARK: Final = 0xFFFFFFFF
# The first byte behind the mark is never FF (sizes are multiples of 8), so a mark is the end of
# a run of FF. Written out for the sake of re, which looks for a literal start fast.
MARKS: Final = re.compile(rb"\xff\xff\xff\xff+")
SEARCH_BYTES: Final = 1 << 20
MAX_CANDIDATES: Final = 50_000
"""Places behind damage that are looked at as possible batches, for a whole walk."""
MIN_MESSAGE_BYTES: Final = 64

Report = Callable[[int, str, int], None]
"""Takes in damage: byte offset, reason, batches missing for it."""


class BrokenError(ValueError):
    """What stands here is no batch."""


class CutError(BrokenError):
    """It may be a batch, but the source ends before it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One batch, found but not decoded."""

    offset: int
    body_offset: int
    body_bytes: int
    message: flat.Message
    header: layout.BatchHeader

    @property
    def number(self) -> int:
        """Return its number in the recording."""
        return self.header.summary.number

    @property
    def end(self) -> int:
        """Return the offset behind it."""
        return self.body_offset + self.body_bytes


def read_message(source: Source, at: int, limit: int) -> bytearray | None:
    """Return the header of the message at ``at``; None at the end-of-stream mark.

    Raises:
        CutError: The source ends before it does.
        BrokenError: There is none.
    """
    prefix = source.read_at(at, PREFIX_BYTES)
    if len(prefix) < PREFIX_BYTES:
        raise CutError(f"cut short: expected a message, found {len(prefix)} bytes")
    mark = int.from_bytes(prefix[:4], "little")
    size = int.from_bytes(prefix[4:], "little", signed=True)
    if mark != MARK:
        raise BrokenError(f"expected a message (ffffffff), found {prefix[:4].hex()}")
    if not size:
        return None
    if not 0 < size <= limit or size % 8:
        raise BrokenError(f"a message header of {size} bytes makes no sense")
    head = source.read_at(at + PREFIX_BYTES, size)
    if len(head) < size:
        raise CutError(f"cut short: {len(head)} of {size} bytes of a message header")
    return head


def footer_of(source: Source) -> Array | None:
    """Return the blocks that the footer of a file lists; None where it has no footer."""
    size = source.reach(0)
    tail = source.read_at(size - 10, 10) if size > 18 else b""
    if tail[4:] != layout.MAGIC[:6]:
        return None
    length = int.from_bytes(tail[:4], "little", signed=True)
    if not 0 < length <= min(size - 18, layout.MAX_FOOTER_BYTES):
        return None
    try:
        return flat.footer_blocks(source.read_at(size - 10 - length, length))
    except flat.FlatError:
        return None


class Walker:
    """Finds the batches of a trace, one after the other.

    Args:
        source: The bytes.
        first: Offset of the first batch.
        report: Told of all damage met.
        wait: Called where a file ends that may grow: true to look again.
    """

    def __init__(
        self,
        source: Source,
        first: int,
        report: Report,
        wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self.found = 0
        self.position = first
        """Where the walk is; at its end, the offset of the end-of-stream mark."""
        self.at_mark = False
        """The walk has ended at the end-of-stream mark."""
        self._source = source
        self._report = report
        self._wait = wait
        self._trace: str | None = None
        self._candidates = MAX_CANDIDATES
        self._searched: tuple[int, int] = (-1, 0)

    def entry(self, at: int) -> Entry | None:
        """Return the batch at ``at``; None at the end-of-stream mark.

        Raises:
            CutError: The source ends before it does.
            BrokenError: There is none.
        """
        source = self._source
        head = read_message(source, at, layout.MAX_HEADER_BYTES)
        if head is None:
            return None
        try:
            message = flat.Message(head)
            if message.kind != flat.HEADER_RECORD_BATCH:
                raise BrokenError(f"expected a batch, found a message {message.kind}")
            header = layout.unpack_header(message.metadata())
        except ValueError as error:
            raise BrokenError(str(error)) from None
        body = message.body_bytes
        if not 0 <= body <= layout.MAX_BODY_BYTES:
            raise BrokenError(f"a batch of {body} bytes makes no sense")
        if self._trace not in (None, header.trace):
            raise BrokenError("the batch belongs to another recording")
        start = at + PREFIX_BYTES + len(head)
        there = source.reach(start + body) - start
        if there < body:
            raise CutError(f"cut short: {max(there, 0)} of {body} bytes of a batch")
        return Entry(
            offset=at,
            body_offset=start,
            body_bytes=body,
            message=message,
            header=header,
        )

    def walk(self) -> Iterator[Entry]:
        """Yield the batches in order; report what is missing, broken or there twice."""
        source = self._source
        # Where to look for the next batch behind damage: behind the mark of the message before,
        # because its lengths may be what is wrong.
        behind = len(layout.MAGIC) + PREFIX_BYTES
        expected = 0
        broken: tuple[int, str] | None = None
        while True:
            at = self.position
            try:
                entry = self.entry(at)
                reason = "the batches end early"
            except BrokenError as error:
                entry, reason = None, str(error)
                self.at_mark = False
                if isinstance(error, CutError) and self._go_on():
                    continue
                there = source.reach(at + 1)
                if there == at and not source.error:
                    break
                if source.error:
                    reason = f"{reason} ({source.error})"
            else:
                self.at_mark = entry is None
                if self.at_mark and self._go_on():
                    continue
                if self.at_mark and not self._more_behind_mark(at):
                    break
            if entry is None:
                found = self._resync(behind, at)
                if found is None:
                    if self.at_mark and footer_of(source) is None:
                        break
                    if self._go_on():
                        continue
                    broken = broken or (at, reason)
                    break
                broken = broken or (at, reason)
                self.position = found
                continue
            number = entry.number
            gap = number - expected
            if gap < 0:
                self._report(
                    at,
                    f"batch {number} again or out of order, expected {expected}; left out",
                    0,
                )
            elif broken:
                self._report(*broken, gap)
            elif gap:
                missing = (
                    f"batch {expected} is"
                    if gap == 1
                    else f"batches {expected} to {number - 1} are"
                )
                self._report(at, f"{missing} missing before this place", gap)
            broken = None
            source.forget(at)
            self.position, behind = entry.end, at + PREFIX_BYTES
            self._trace = self._trace or entry.header.trace
            if gap >= 0:
                expected = number + 1
                self.found += 1
                yield entry
        if broken:
            self._report(*broken, self._listed_behind(broken[0]))

    def _go_on(self) -> bool:
        # At the end of what there is: true if there may be more by now.
        return self._source.seekable and (footer_of(self._source) is None and self._wait())

    def _listed_behind(self, at: int) -> int:
        blocks = footer_of(self._source) if self._source.seekable else None
        return 0 if blocks is None else int(np.count_nonzero(blocks["offset"] >= at))

    def _more_behind_mark(self, at: int) -> bool:
        # The mark ends the stream, unless the footer lists batches behind it, or it has no
        # footer behind it at all.
        if not self._source.seekable:
            return False
        if footer_of(self._source) is not None:
            return self._listed_behind(at) > 0
        return self._source.reach(0) > at + PREFIX_BYTES

    def _resync(self, behind: int, bad: int) -> int | None:
        # Offset of the next batch that is whole.
        for at in self._places(behind):
            if at == bad or at < behind:
                continue
            if not self._candidates:
                return None
            self._candidates -= 1
            try:
                if self.entry(at) is not None:
                    return at
            except BrokenError:
                continue
        return None

    def _places(self, start: int) -> Iterator[int]:
        source = self._source
        blocks = footer_of(source) if source.seekable else None
        if blocks is not None:
            offsets = blocks["offset"]
            offsets = np.sort(offsets[offsets >= start])
            yield from offsets[: MAX_CANDIDATES // 2].tolist()
        at = start
        if self._searched[0] == start:
            # Looked through before, when a file that grows was shorter.
            at = self._searched[1]
        while True:
            data = source.read_at(at, SEARCH_BYTES)
            if len(data) < MIN_MESSAGE_BYTES:
                return
            for run in MARKS.finditer(data, 0, len(data) - 4):
                place = run.end() - 4
                size = int.from_bytes(data[place + 4 : place + 8], "little")
                if 0 < size <= layout.MAX_HEADER_BYTES and not size % 8:
                    yield at + place
            if len(data) < SEARCH_BYTES:
                return
            at += len(data) - PREFIX_BYTES
            self._searched = (start, at)
            source.forget(at)
