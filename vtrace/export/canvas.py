"""What the parts of a timeline draw on, and helpers that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vtrace.export.events import Events
from vtrace.export.lanes import Lanes
from vtrace.export.tracks import Tracks
from vtrace.session.clock import LATEST_NS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.export.output import OutputFile
    from vtrace.session import Session
    from vtrace.tables import Values

__all__ = ["Canvas", "by_key", "clipped"]


def clipped(times: NDArray[Any]) -> NDArray[np.uint64]:
    """Return times that fit into 63 bits."""
    return np.minimum(times.astype(np.uint64), np.uint64(LATEST_NS))


def by_key(keys: NDArray[Any], value: Callable[[int], int]) -> NDArray[np.int64]:
    """Return ``value(key)`` for each key; it is called once for each distinct one."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    found = np.array([value(int(key)) for key in distinct.tolist()], np.int64)
    return found[inverse] if len(found) else np.zeros(len(keys), np.int64)


@dataclass(slots=True)
class Canvas:
    """The file, the tracks in it, and the shapes of events."""

    session: Session
    file: OutputFile
    tracks: Tracks
    events: Events
    lanes: Lanes

    @classmethod
    def of(cls, session: Session, file: OutputFile) -> Canvas:
        """Return an empty one."""
        return cls(session, file, Tracks(file, session.names), Events(), Lanes())

    def note(self, name: str, width: int = 0) -> tuple[int, int]:
        """Return a debug annotation for ``Events``: of a number of ``width`` bytes, or of text."""
        return self.tracks.name(name, "debug_annotation_names"), width

    def category(self, name: str) -> int:
        """Return the number of a category."""
        return self.tracks.name(name, "event_categories")

    def names(self, values: Values, *, note: bool = False, otherwise: str = "") -> Any:
        """Return for texts the numbers of names of events, or of the text of notes."""
        kind = "debug_annotation_string_values" if note else "event_names"
        pool = values.pool or ("",)
        codes = np.where(values.present(), values.data, 0)
        return by_key(codes, lambda code: self.tracks.name(pool[code] or otherwise, kind))

    def lane(self, parent: int, name: str, start: Any, end: Any) -> NDArray[np.int64]:
        """Return for intervals, in the order of their starts, the lanes below a track.

        0 where there is none free.
        """
        found = self.lanes.place(parent, start, end)
        return by_key(found, lambda lane: self.tracks.lane(parent, name, lane) if lane >= 0 else 0)
