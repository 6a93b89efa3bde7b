"""Several recordings on one time axis, as one.

Each source is read twice: once to see which clock it has and what it shares with the others, once
to write. Memory does not grow with the length of a source.

    with Merge(["host.vtrace", "tap0.pcap"]) as merge:
        for one in merge.placed:
            print(one.source.name, one.offset_ns, one.uncertainty_ns, one.how)
        for batch in merge.batches():
            writer.write(batch)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from vtrace.errors import UsageError
from vtrace.merge.clocks import Placed, place
from vtrace.merge.ids import number_ids
from vtrace.merge.order import in_order, piece
from vtrace.merge.overlap import Overlap
from vtrace.merge.sections import Sections
from vtrace.merge.survey import Source

if TYPE_CHECKING:
    from parsers.batch import EventBatch

__all__ = ["MOST_SOURCES", "Merge", "Placed"]

MOST_SOURCES: Final = 64
META_BYTES: Final = 2 << 20
"""Of what stands in the header of one batch, which takes 8 MiB at most."""


class Merge:
    """Sources put on the axis of the first, ready to be written as one.

    Args:
        paths: Recordings of any format that is read; the first one's clock is the axis.
        offsets: Index of a source -> ns to add to its times, given by hand.

    Raises:
        InputError: One cannot be read, or nothing puts its clock beside another.
        UsageError: There are none, or too many.
    """

    def __init__(self, paths: Sequence[str], offsets: Mapping[int, int] | None = None) -> None:
        if not 2 <= len(paths) <= MOST_SOURCES:
            raise UsageError(f"merge: give two to {MOST_SOURCES} recordings, not {len(paths)}")
        self._sources: list[Source] = []
        try:
            for path in paths:
                source = Source(path)
                self._sources.append(source)
                source.read()
            self.placed = place(self._sources, offsets or {})
            self._ids = number_ids(self.placed)
            self._overlap = Overlap(self.placed, self._ids)
            self._sections = Sections(self.placed, self._ids)
        except BaseException:
            self.close()
            raise

    @property
    def left_out(self) -> list[dict[str, int]]:
        """For each source, kind -> records that another one tells of; known behind the last."""
        return self._overlap.left_out

    @property
    def dropped(self) -> list[str]:
        """Sentences: sections of the metadata that are not in the merged file."""
        return self._sections.dropped

    @property
    def damage(self) -> list[Any]:
        """What could not be read of the sources."""
        return [damage for source in self._sources for damage in source.trace.damage]

    @property
    def incomplete(self) -> list[str]:
        """Paths of sources that did not end in order."""
        return [source.path for source in self._sources if not source.trace.complete]

    def batches(self) -> Iterator[EventBatch]:
        """Yield the batches of the merged file, once."""
        from parsers.batch import EventBatch

        beginning = self._sections.beginning()
        beginning["merged"] = self.section()
        for meta in _apart(beginning):
            yield EventBatch.empty(meta)
        newest = late = 0
        holes = self._holes()
        stream = in_order(self.placed, self._ids, self._overlap, self._sections.in_place)
        for batch in stream:
            times = batch["time"]
            if len(batch):
                late += int((times < np.uint64(newest)).sum())
                newest = max(newest, int(times[-1]))
            while holes and len(batch) and int(batch["time"][-1]) >= holes[0][1]:
                first_ns, last_ns = holes.pop(0)
                at = int(np.searchsorted(batch["time"], np.uint64(last_ns)))
                before, behind = piece(batch, 0, at), piece(batch, at, len(batch))
                before.meta = batch.meta
                behind.meta = {"gap": {"first_ns": first_ns, "last_ns": last_ns}}
                yield before
                batch = behind
            yield batch
        ending = self._sections.ending(self.left_out, late)
        for meta in _apart({"merged": self.section(), **ending}):
            yield EventBatch.empty(meta)

    def _holes(self) -> list[tuple[int, int]]:
        # Times between the first and the last event that no source covers. What lies between two
        # parts of one recording was recorded.
        spans: dict[int, tuple[int, int]] = {}
        for one in self.placed:
            if one.source.first_ns is None or one.source.last_ns is None:
                continue
            low, high = one.source.first_ns + one.offset_ns, one.source.last_ns + one.offset_ns
            known = spans.get(one.part, (low, high))
            spans[one.part] = min(low, known[0]), max(high, known[1])
        found: list[tuple[int, int]] = []
        reach: int | None = None
        for low, high in sorted(spans.values()):
            if reach is not None and low > reach:
                found.append((reach, low))
            reach = high if reach is None else max(reach, high)
        return found

    def section(self) -> dict[str, Any]:
        """Return the section ``merged``: what was put together, and how sure it is."""
        rows = []
        for one, left_out in zip(self.placed, self.left_out, strict=True):
            source = one.source
            imported = source.sections.get("imported")
            rows.append(
                {
                    "name": source.name,
                    "format": str(imported.get("format")) if imported else "vtrace",
                    "host": source.host[0] if source.host else "",
                    "clock": source.clock,
                    "events": source.events,
                    "first_ns": source.first_ns,
                    "last_ns": source.last_ns,
                    "offset_ns": one.offset_ns,
                    "uncertainty_ns": one.uncertainty_ns,
                    "method": one.method,
                    "beside": one.beside,
                    "matched": one.events,
                    "host_number": one.host,
                    "left_out": dict(left_out),
                    "damage": len(source.trace.damage),
                }
            )
        return {"sources": rows, "dropped": self.dropped}

    def close(self) -> None:
        """Close the sources."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _apart(meta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    # Sections for one batch after the other: together they may be too large.
    some: dict[str, Any] = {}
    size = 0
    for name, section in meta.items():
        more = len(json.dumps(section))
        if some and size + more > META_BYTES:
            yield some
            some, size = {}, 0
        some[name] = section
        size += more
    if some:
        yield some
