"""Rows of any batch of a recording: decoded anew from the nearest place that was kept."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from parsers.batch import EventBatch, Metadata
from parsers.tracefile import open_trace
from vtrace.browse.decoder import Decoded, Decoder
from vtrace.session.clock import LATEST_NS
from vtrace.session.sane import not_probed, sane
from vtrace.tables import Names

if TYPE_CHECKING:
    from collections.abc import Collection

    from vtrace.browse.decoder import Saved

__all__ = ["Chunks", "Index"]

MOST_ROWS: Final = 300_000
"""Events of batches whose rows are kept in memory; a batch counts as 1000 at least."""
LEAST_ROWS: Final = 1000
MOST_SAVED_BYTES: Final = 192 << 20
MOST_CURSORS: Final = 2

Tables = dict[str, Decoded]


class Index:
    """Where the batches of a recording are; one thread adds, others read."""

    def __init__(self) -> None:
        self.offsets = array("q")
        self.firsts = array("q")
        """First time of each batch; of one without rows that of the batch before."""
        self.lasts = array("q")
        self.rows = array("q")
        self.gaps: set[int] = set()
        """Batches before which others are missing."""

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, offset: int, batch: EventBatch, *, gap: bool) -> None:
        """Take in the next batch."""
        before = self.lasts[-1] if self.lasts else 0
        first, last = (min(time, LATEST_NS) for time in batch.time_range or (before, before))
        if gap:
            self.gaps.add(len(self))
        self.offsets.append(offset)
        self.firsts.append(first)
        self.lasts.append(max(last, before))
        # Read by others: the last one to grow.
        self.rows.append(len(batch))

    def at(self, time_ns: int) -> int:
        """Return the first batch that has an event at a time or behind it; their number if none."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.lasts[middle] < time_ns:
                low = middle + 1
            else:
                high = middle
        return low


class Chunks:
    """The rows of each batch, by its number; that of the end has what was open then.

    Rows come from a tracker that must have seen all before. It is put aside now and then, so that
    any batch is a few batches away. One caller at a time; others wait.
    """

    def __init__(self, path: str, index: Index) -> None:
        self.index = index
        self.lock = threading.RLock()
        self.metadata = Metadata()
        self.names = Names(self.metadata)
        self.sections: dict[str, Any] = {}
        """The newest sections of the metadata; the reader puts them here."""
        self._path = path
        self._trace: Any = None
        self._not_probed: Any = None
        self._kept: OrderedDict[int, Tables] = OrderedDict()
        self._kept_rows = 0
        self._cursors: list[tuple[int, Decoder]] = []
        self._saved: dict[int, Saved] = {}
        self._saved_bytes = 0
        self._stride = 1

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            if self._trace is not None:
                self._trace.close()
                self._trace = None

    def peek(self, number: int) -> Tables | None:
        """Return the rows of a batch if they are in memory, and nobody is busy here."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
            return found
        finally:
            self.lock.release()

    def get(self, number: int) -> Tables:
        """Return the rows of a batch.

        Raises:
            InputError: The file changed under us.
        """
        with self.lock:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
                return found
            return self._decode(number)

    def end(self) -> Tables:
        """Return the rows that are open behind the last batch."""
        with self.lock:
            count = len(self.index)
            cursor = self._cursor(count)
            decoder = Decoder.restored(self.names, cursor.save())
            self._cursors.append((count, cursor))
            return decoder.finish()

    def batch(self, number: int, columns: Collection[str] | None = None) -> EventBatch | None:
        """Return a batch as it stands in the file; None if it is damaged.

        Raises:
            InputError: The file changed under us.
        """
        with self.lock:
            if self._trace is None:
                self._trace = open_trace(self._path, follow=True, stop=lambda: True)
            batch = self._trace.batch_at(self.index.offsets[number], columns)
            if batch is not None and batch.meta:
                batch.meta = sane(batch.meta)
            return batch  # type: ignore[no-any-return]

    def _decode(self, number: int) -> Tables:
        cursor = self._cursor(number)
        tables = self._step(number, cursor)
        self._cursors.append((number + 1, cursor))
        self._keep(number, tables)
        return tables

    def _cursor(self, number: int) -> Decoder:
        # Returns a decoder that stands before a batch, taken out of the list.
        self.metadata.sections = dict(self.sections)
        self.names.refresh()
        at, cursor = 0, None
        for place, (there, _) in enumerate(self._cursors):
            if at <= there <= number:
                at, cursor = there, place
        kept = max((there for there in self._saved if there <= number), default=-1)
        if cursor is not None and at >= kept:
            decoder = self._cursors.pop(cursor)[1]
        elif kept >= 0:
            at, decoder = kept, Decoder.restored(self.names, self._saved[kept])
        else:
            at, decoder = 0, self._first()
        while len(self._cursors) >= MOST_CURSORS:
            self._cursors.pop(0)
        for between in range(at, number):
            tables = self._step(between, decoder)
            if number - between <= 2:
                self._keep(between, tables)
        return decoder

    def _first(self) -> Decoder:
        if self._not_probed is None:
            self._not_probed = not_probed(self.metadata.section("probes"))
        return Decoder(self.names, self._not_probed)

    def _step(self, number: int, decoder: Decoder) -> Tables:
        if number % self._stride == 0 and number and number not in self._saved:
            self._save(number, decoder)
        batch = self.batch(number)
        gap = number in self.index.gaps or batch is None
        return decoder.feed(EventBatch.empty() if batch is None else batch, gap=gap)

    def _save(self, number: int, decoder: Decoder) -> None:
        found = decoder.save()
        self._saved[number] = found
        self._saved_bytes += found.nbytes
        while self._saved_bytes > MOST_SAVED_BYTES and len(self._saved) > 1:
            self._stride *= 2
            for there in [there for there in self._saved if there % self._stride]:
                self._saved_bytes -= self._saved.pop(there).nbytes

    def _keep(self, number: int, tables: Tables) -> None:
        if number in self._kept:
            return
        self._kept[number] = tables
        self._kept_rows += max(self.index.rows[number], LEAST_ROWS)
        while self._kept_rows > MOST_ROWS and len(self._kept) > 1:
            old, _ = self._kept.popitem(last=False)
            self._kept_rows -= max(self.index.rows[old], LEAST_ROWS)
