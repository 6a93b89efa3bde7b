"""The timeline: one axis, moved by keys and mouse."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui.opened import opened
from vtrace.text import cells
from vtrace.tui.place import Place
from vtrace.tui.widgets.lanes import LanesView, axis_lines, tick_step

TRACES = Path(__file__).resolve().parents[2] / "examples" / "traces"
RINGFULL = TRACES / "ringfull.vtrace"
QUIET = TRACES / "quiet.vtrace"
RX = Place(vm="web1", device="nic0", queue="rx0")


def seconds(time_ns):
    return f"12:00:{time_ns // 1_000_000_000:02d}.{time_ns // 1000 % 1_000_000:06d}"


@pytest.mark.parametrize("span", [3_000, 1_000_000, 7_777_777, 5_000_000_000, 40_000_000_000])
@pytest.mark.parametrize("columns", [30, 61, 140])
def test_ticks_stand_at_round_times(span, columns):
    t0 = 1_234_567_891
    axis = axis_lines((t0, t0 + span), columns, seconds, [], -1, t0)
    line, ruler = (text.plain for text in axis)
    assert len(line) == len(ruler) == columns
    step = max(tick_step(span, columns), 1000)
    assert str(step).rstrip("0") in ("1", "2", "5")
    ticks = {(tick - t0) * columns // span for tick in range(0, t0 + span, step) if tick >= t0}
    assert {at for at, char in enumerate(ruler) if char == "┬"} == ticks
    if span == 1_000_000 and columns > 30:
        assert "12:00:01.23" in line


def test_stalls_and_the_cursor_are_on_the_ruler():
    ruler = axis_lines((0, 1_000_000), 50, seconds, [3, 70], 9)[1].plain
    assert ruler[3] == "◆"
    assert ruler[9] == "▼"
    assert ruler.count("◆") == 1


def span_of(one):
    return one.view._t0, one.view._t1


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (160, 48)])
def test_the_whole_recording_is_shown_first(size):
    async def steps(one):
        await one.shows("vCPU 0", "worker 149", "tap rx0", "✕", "■")
        snapshot = one.app.browser.snapshot
        assert span_of(one) == (snapshot.start_ns, snapshot.cut_ns)
        assert one.view.cursor_ns == sum(span_of(one)) // 2
        assert all(cells(line) <= size[0] for line in one.lines)
        if size[0] >= 100:
            await one.shows("FULL: refused 249")

    opened(RINGFULL, "timeline", steps, size=size, place=RX)


def test_keys_move_and_zoom():
    async def steps(one):
        t0, t1 = span_of(one)
        await one.press("plus", "plus")
        await one.settled()
        assert span_of(one)[1] - span_of(one)[0] == pytest.approx((t1 - t0) / 4, rel=0.01)
        before = span_of(one)
        await one.press("l")
        await one.settled()
        assert span_of(one)[0] > before[0]
        await one.press("h")
        await one.settled()
        assert span_of(one) == before
        at = one.view.cursor_ns
        await one.press("right", "right")
        assert one.view.cursor_ns > at
        await one.press("left", "left", "left")
        assert one.view.cursor_ns < at
        for _ in range(40):
            await one.press("plus")
        await one.settled()
        assert span_of(one)[1] - span_of(one)[0] == 2_000
        await one.press("0")
        await one.settled()
        assert span_of(one) == (t0, t1)
        await one.press("minus", "home", "end")
        await one.settled()
        assert span_of(one) == (t0, t1)

    opened(QUIET, "timeline", steps)


def test_drops_and_stalls_are_one_key_away():
    async def steps(one):
        drops = one.app.browser.lanes.drops()
        await one.press("d")
        await one.settled()
        assert one.view.cursor_ns == drops[0].first_ns
        await one.shows("✕ 249 dropped within 5.74ms")
        stalls = [stall.start_ns for stall in one.app.browser.lanes.stalls()]
        await one.press("right_square_bracket")
        await one.settled()
        assert one.view.cursor_ns in stalls
        assert one.view.cursor_ns > drops[0].first_ns
        after = one.view.cursor_ns
        await one.press("left_square_bracket")
        await one.settled()
        assert one.view.cursor_ns < after
        await one.shows("packets lay in the tap of rx0 for 1.04s")

    opened(RINGFULL, "timeline", steps, size=(120, 30))


def test_it_opens_around_a_time_and_says_what_happened():
    async def steps(one):
        first, last = span_of(one)
        assert first < one.view.cursor_ns < last
        assert last - first == 5_000_000
        # A chain is a line there, and what the columns mean stands below.
        await one.shows("tx0 0", "service", "a column")
        await one.press("enter")
        await one.settled("chains")
        await one.press("backspace")
        await one.settled("timeline")

    place = Place(vm="web1", device="nic0", queue="tx0")

    async def find(one):
        page = one.view.rows.load(0, 1)
        at = page.lists(["time_ns"])[0][0]
        one.view.go("timeline", place, time_ns=at)
        await one.settled("timeline")
        await steps(one)

    opened(QUIET, "chains", find, place=place, size=(120, 34))


def test_the_mouse_points_pulls_and_zooms():
    async def steps(one):
        lanes = one.pane("lanes")
        await one.press("plus", "plus")
        await one.settled()
        before = span_of(one)
        await one.pilot.click(LanesView, offset=(lanes.label + 21, 4))
        assert lanes.cursor == 20
        assert lanes.selected == 2
        lanes.post_message(LanesView.Zoomed(20, 1))
        await one.until(lambda: span_of(one) != before)
        await one.settled()
        zoomed = span_of(one)
        assert zoomed[1] - zoomed[0] == pytest.approx((before[1] - before[0]) / 2, rel=0.01)
        lanes.post_message(LanesView.Dragged(10))
        await one.until(lambda: span_of(one) != zoomed)
        assert span_of(one)[0] < zoomed[0]
        await one.settled()

    opened(RINGFULL, "timeline", steps, size=(100, 30))


def test_what_is_shown_can_be_exported():
    async def steps(one):
        selection = one.view.selection()
        rows = list(selection.rows)
        assert selection.count == len(rows) > 50
        assert set(rows[0]) == set(selection.columns)
        assert any("stopped" in row["says"] for row in rows)
        assert (selection.since_ns, selection.until_ns) == span_of(one)

    opened(RINGFULL, "timeline", steps, place=RX)


def test_lanes_that_have_no_room_can_be_scrolled_to():
    async def steps(one):
        lanes = one.pane("lanes")
        await one.shows("below (up, down)")
        for _ in lanes.rows:
            await one.press("down")
        await one.shows(lanes.rows[-1].label)
        assert lanes.selected == len(lanes.rows) - 1

    opened(RINGFULL, "timeline", steps, size=(70, 14))


def test_resizing_all_the_time_does_no_harm():
    async def steps(one):
        for width, height in ((30, 8), (200, 60), (12, 4), (100, 30)):
            await one.pilot.resize_terminal(width, height)
            await one.pilot.pause()
        await one.settled()
        await one.shows("vCPU 0")

    opened(RINGFULL, "timeline", steps)
