"""Sums of a recording that were kept on the way, so that an earlier moment is soon found."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vtrace.lifecycle import Tracker
from vtrace.session import Session

if TYPE_CHECKING:
    from datetime import tzinfo

    from vtrace.lifecycle import SavedTracker
    from vtrace.session import Summary

__all__ = ["Keeper", "Kept"]

MOST_BYTES: Final = 96 << 20
SUMMARY_BYTES: Final = 1 << 16
"""What the sums take, roughly."""


class _Source:
    """Stands for the file in a session that is fed by hand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.complete = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A session as it was behind a number of batches."""

    batches: int
    tracker: SavedTracker | None
    summary: Summary | None
    sections: dict[str, Any]
    events: int
    start_ns: int | None
    end_ns: int | None

    def session(self, name: str, zone: tzinfo | None) -> Session:
        """Return a session that goes on from there."""
        session = Session(_Source(name), zone=zone)
        session.metadata.sections = dict(self.sections)
        session.names.refresh()
        session.events, session.start_ns, session.end_ns = self.events, self.start_ns, self.end_ns
        if self.tracker is not None and self.summary is not None:
            memo = {id(self.summary.names): session.names}
            summary = copy.deepcopy(self.summary, memo)
            session.go_on(Tracker.restored(self.tracker), summary)
        return session


_BEGINNING: Final = Kept(
    batches=0, tracker=None, summary=None, sections={}, events=0, start_ns=None, end_ns=None
)


class Keeper:
    """Keeps a session's sums every so many batches, fewer the longer the recording is."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}
        self._bytes = 0
        self._stride = 8

    def keep(self, batches: int, session: Session) -> None:
        """Keep the sums behind this many batches, if it is time to."""
        if batches % self._stride:
            return
        summary, tracker = session.put_aside()
        self._bytes += tracker.nbytes + SUMMARY_BYTES
        self._kept[batches] = Kept(
            batches=batches,
            tracker=tracker,
            summary=summary,
            sections=dict(session.metadata.sections),
            events=session.events,
            start_ns=session.start_ns,
            end_ns=session.end_ns,
        )
        while self._bytes > MOST_BYTES and len(self._kept) > 1:
            self._stride *= 2
            for number in [number for number in self._kept if number % self._stride]:
                gone = self._kept.pop(number).tracker
                self._bytes -= SUMMARY_BYTES + (0 if gone is None else gone.nbytes)

    def before(self, batches: int) -> Kept:
        """Return the newest sums that are behind no more than this many batches."""
        # Another thread keeps more meanwhile.
        known = dict(self._kept)
        numbers = [number for number in known if number <= batches]
        return known[max(numbers)] if numbers else _BEGINNING
