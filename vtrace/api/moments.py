"""Times that a caller gives: as the command line takes them, as numbers, as Python's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from vtrace.errors import UsageError
from vtrace.session import Window, parse_moment

if TYPE_CHECKING:
    from vtrace.session import Clock, Moment

__all__ = ["When", "window_of"]

When = str | int | timedelta | datetime
"""A moment: what ``--since`` takes ("2s", "12:01:03"), nanoseconds as in the columns, a time from
the start, a time of day with its zone (``pandas.Timestamp`` is one)."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def window_of(since: When | None, until: When | None, clock: Clock) -> Window:
    """Return the stretch of a recording between two moments.

    Raises:
        UsageError: One is no time, or means nothing in this recording.
    """
    return Window(
        since=None if since is None else _moment(since, clock),
        until=None if until is None else _moment(until, clock),
    )


def _moment(when: Any, clock: Clock) -> Moment:
    if isinstance(when, str):
        return parse_moment(when)
    # pandas.NaT is a datetime, and no time; it is not even itself.
    if when == when:
        if isinstance(when, timedelta):
            return parse_moment(f"{_positive(_nanoseconds(when), when)}ns")
        if isinstance(when, datetime):
            return parse_moment(str(_of_day(when, clock)))
        if not isinstance(when, bool) and hasattr(when, "__index__"):
            return parse_moment(str(_positive(int(when), when)))
    raise UsageError(
        f"{when!r} is no time: expected nanoseconds, a text as --since takes it, a timedelta "
        "from the start, or a datetime with a time zone"
    )


def _of_day(when: datetime, clock: Clock) -> int:
    if when.tzinfo is None:
        raise UsageError(f"{when} has no time zone: give it one (tz='UTC'), or a text")
    offset = clock.realtime_ns(0)
    if offset is None:
        raise UsageError(
            "the recording does not say when it was made, so a time of day means nothing; "
            "give a time from its start (10ms)"
        )
    return max(_nanoseconds(when - _EPOCH) - offset, 0)


def _positive(number: int, when: object) -> int:
    if number < 0:
        raise UsageError(f"{when!r} is before the start: expected a time of 0 or more")
    return number


def _nanoseconds(span: timedelta) -> int:
    # pandas has its own, which knows nanoseconds.
    finer = getattr(span, "as_unit", None)
    if finer is not None:
        return int(finer("ns").value)
    return ((span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds) * 1_000
