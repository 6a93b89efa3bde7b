"""Times as they are typed, and what they mean in a recording."""

import re
from datetime import UTC

import pytest

from parsers.batch import Metadata
from tests.cli.recordings import REALTIME
from vtrace.errors import UsageError
from vtrace.session import Clock, Window, parse_duration, parse_moment

START = 5_000_000_000
SECOND = 1_000_000_000


def clock(realtime=REALTIME):
    metadata = Metadata()
    metadata.update({"clock": [{"monotonic_ns": START, "realtime_ns": realtime}]})
    return Clock(metadata, UTC)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10ns", 10),
        ("10us", 10_000),
        ("1.5ms", 1_500_000),
        ("2s", 2 * SECOND),
        ("2m", 120 * SECOND),
        ("1h", 3600 * SECOND),
    ],
)
def test_durations(text, ns):
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "10", "ms", "1.ms", "10 parsecs", "-1s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("5000000001", START + 1),
        ("0s", START),
        ("10ms", START + 10_000_000),
        ("12:00:00", START),
        ("12:00:01.5", START + SECOND * 3 // 2),
        ("12:01", START + 60 * SECOND),
        ("2026-08-21T12:00:01", START + SECOND),
        ("2026-08-21 12:00:01", START + SECOND),
        ("11:59:59", START - SECOND),
        ("11:00:00", 0),
    ],
)
def test_moments(text, ns):
    assert clock().resolve(parse_moment(text), START) == ns


def test_a_recording_that_goes_on_past_midnight():
    late = clock(REALTIME + (11 * 3600 + 3590) * SECOND)
    assert late.resolve(parse_moment("00:00:05"), START) == START + 15 * SECOND


@pytest.mark.parametrize("text", ["9" * 20, "99999999h", "2800-01-01T00:00"])
def test_a_moment_behind_all_times(text, busy, vtrace):
    for verb in ("report", "requests"):
        done = vtrace(verb, "--since", text, busy)
        assert done.code == 0, done.err
        assert vtrace(verb, "--until", text, busy).out == vtrace(verb, busy).out


def test_a_clock_that_makes_no_sense():
    said = Metadata()
    said.update({"clock": [{"monotonic_ns": 0, "realtime_ns": 10**40}]})
    far = Clock(said)
    with pytest.raises(UsageError, match="clock makes no sense"):
        far.resolve(parse_moment("12:00:00"), START)


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 5000 + "s", "2026-02-30T00:00"])
def test_what_no_clock_says(text):
    with pytest.raises(UsageError, match="is no time"):
        parse_moment(text)


@pytest.mark.parametrize("text", ["noon", "25:00:00", "12:61:00", "10 parsecs", "-1", "1:2:3:4"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="is no time"):
        parse_moment(text)


def test_a_time_of_day_without_a_clock():
    with pytest.raises(UsageError, match="does not say when"):
        Clock(Metadata()).resolve(parse_moment("12:00:00"), START)
    assert not Clock(Metadata())
    assert Clock(Metadata()).text(START) is None


@pytest.mark.parametrize(
    "anchors", [[], [{}], [{"monotonic_ns": "x", "realtime_ns": 1}], "text", {"a": 1}]
)
def test_anchors_that_make_no_sense(anchors):
    metadata = Metadata()
    metadata.sections["clock"] = anchors
    assert not Clock(metadata)


def test_times_in_words():
    assert clock().text(START + 1_234_567) == "12:00:00.001234"
    assert clock(1 << 80).text(START) is None


def test_a_window_without_ends_is_none():
    assert not Window()
    assert Window(since=parse_moment("1s"))
