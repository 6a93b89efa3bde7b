"""Times of a recording: monotonic, on the wall, since its start."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from vtrace.errors import UsageError

if TYPE_CHECKING:
    from datetime import tzinfo

    from parsers.batch import Metadata

__all__ = ["Clock", "Moment", "Window", "parse_duration", "parse_moment"]

UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
"""Units of time and the nanoseconds they have."""

LATEST_NS: Final = (1 << 63) - 1
"""No clock of a kernel goes further; margins behind it still fit into 64 bits."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)")
_CLOCK: Final = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)[T ])?"
    r"(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<part>\d{1,9}))?)?"
)


class Base(Enum):
    """What a moment counts from."""

    MONOTONIC = "monotonic"
    START = "start"
    WALL = "wall"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment as it was typed; which one it is, the recording tells."""

    base: Base
    ns: int
    """Nanoseconds from the base; on the wall, from midnight."""
    date: str = ""
    """Day on the wall; empty for that of the recording's start."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a recording, open where nothing was said."""

    since: Moment | None = None
    until: Moment | None = None

    def __bool__(self) -> bool:
        return self.since is not None or self.until is not None


def parse_duration(text: str) -> int:
    """Return ``10us``, ``1.5ms``, ``2s`` in nanoseconds; ValueError if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if not match or match[2] not in UNITS_NS:
        raise ValueError(text)
    whole, _, part = match[1].partition(".")
    unit = UNITS_NS[match[2]]
    return int(whole) * unit + (int(part) * unit // 10 ** len(part) if part else 0)


def parse_moment(text: str) -> Moment:
    """Return a moment: ns as recorded, ``10ms`` from the start, or ``12:01:03.115``.

    Raises:
        UsageError: It is none of these.
    """
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= 20:
        return Moment(Base.MONOTONIC, int(text))
    try:
        return Moment(Base.START, parse_duration(text))
    except ValueError:
        pass
    match = _CLOCK.fullmatch(text)
    if match:
        hour, minute = int(match["hour"]), int(match["minute"])
        second = int(match["second"] or 0)
        if hour < 24 and minute < 60 and second < 60 and _is_day(match["date"]):
            ns = ((hour * 60 + minute) * 60 + second) * 1_000_000_000
            ns += int((match["part"] or "").ljust(9, "0"))
            return Moment(Base.WALL, ns, match["date"] or "")
    raise UsageError(
        f"{text!r} is no time: expected nanoseconds (81250000), a time from the start "
        "(10ms, 2.5s) or of day (12:01:03.115, 2026-08-21T12:01:03)"
    )


def _is_day(text: str | None) -> bool:
    try:
        # The first and the last have no room for a time zone.
        return not text or 1 < datetime.fromisoformat(text).year < 9999
    except ValueError:
        return False


class Clock:
    """What the clock on the wall said, by the anchors of a recording."""

    def __init__(self, metadata: Metadata, zone: tzinfo | None = None) -> None:
        anchors = metadata.sections.get("clock") or []
        self._anchor: tuple[int, int] | None = None
        for anchor in anchors if isinstance(anchors, list) else []:
            try:
                self._anchor = int(anchor["monotonic_ns"]), int(anchor["realtime_ns"])
            except (KeyError, TypeError, ValueError):
                continue
            break
        self.zone = zone
        """Time zone of what is shown; None for that of this machine."""

    def __bool__(self) -> bool:
        return self._anchor is not None

    def realtime_ns(self, monotonic_ns: int) -> int | None:
        """Return nanoseconds since 1970; None if the recording has no anchor."""
        if self._anchor is None:
            return None
        return self._anchor[1] + monotonic_ns - self._anchor[0]

    def text(self, monotonic_ns: int) -> str | None:
        """Return the time of day with microseconds, ``12:01:03.114203``."""
        wall = self.realtime_ns(monotonic_ns)
        if wall is None:
            return None
        seconds, ns = divmod(wall, 1_000_000_000)
        try:
            moment = datetime.fromtimestamp(seconds, self.zone)
        except (OverflowError, OSError, ValueError):
            return None
        return f"{moment:%H:%M:%S}.{ns // 1000:06d}"

    def resolve(self, moment: Moment, start_ns: int) -> int:
        """Return which monotonic time a moment is, ``LATEST_NS`` at most.

        Raises:
            UsageError: A time of day, and the recording has no anchor that makes sense.
        """
        if moment.base is Base.MONOTONIC:
            return min(moment.ns, LATEST_NS)
        if moment.base is Base.START:
            return min(start_ns + moment.ns, LATEST_NS)
        try:
            return min(self._of_day(moment, start_ns), LATEST_NS)
        except (OverflowError, OSError, ValueError):
            raise UsageError(
                "the recording's clock makes no sense, so a time of day means nothing; "
                "give a time from its start (10ms)"
            ) from None

    def _of_day(self, moment: Moment, start_ns: int) -> int:
        if self._anchor is None:
            raise UsageError(
                "the recording does not say when it was made, so a time of day means nothing; "
                "give a time from its start (10ms)"
            )
        start = self.realtime_ns(start_ns) or 0
        if moment.date:
            day = datetime.fromisoformat(moment.date).replace(tzinfo=self.zone)
        else:
            day = datetime.fromtimestamp(start // 1_000_000_000, self.zone)
            day = day.replace(hour=0, minute=0, second=0, microsecond=0)
        wall = self._wall(day, moment.ns)
        # A recording that goes on past midnight: the time is that of the next day.
        if not moment.date and wall < start - 43_200_000_000_000:
            wall = self._wall(day + timedelta(days=1), moment.ns)
        return max(self._anchor[0] + wall - self._anchor[1], 0)

    @staticmethod
    def _wall(day: datetime, ns: int) -> int:
        seconds, rest = divmod(ns, 1_000_000_000)
        moment = day + timedelta(seconds=seconds)
        return int(moment.timestamp()) * 1_000_000_000 + rest
