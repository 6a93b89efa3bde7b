"""The filter bar: right and wrong while it is typed, completion, history."""

from __future__ import annotations

import asyncio
import stat

import pytest

from tests.tui.fakes import FakeBrowser, queue_row, snapshot
from vtrace.tui.app import VtraceApp
from vtrace.tui.filterbar import FilterBar, History, candidates, history_path

ROWS = [queue_row(), queue_row(queue="tx0"), queue_row("db 01", "net0", "rx0")]


def shown(app):
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def tried(steps, size=(100, 20)):
    app = VtraceApp(FakeBrowser(snapshot(ROWS)), theme="dark", judge=False)

    async def run():
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await pilot.press("slash")
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(run())


async def typed(pilot, text):
    bar = pilot.app.screen.query_one(FilterBar)
    bar.input.value = text
    bar.input.cursor_position = len(text)
    await pilot.pause()
    return bar


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("queue = 3", 6),
        ("queu == 3", 0),
        ('vm == "a" and nothere > 1', 14),
        ("starved > rx0", 10),
    ],
)
def test_the_mark_stands_below_what_is_wrong(text, at):
    async def steps(app, pilot):
        bar = await typed(pilot, text)
        assert bar.error is not None
        line, says = shown(app)[2], shown(app)[3]
        assert says.index("^") == line.index(text) + at
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen.query(FilterBar)
        assert app.view.filter_text == ""

    tried(steps)


def test_what_is_only_unfinished_is_not_an_alarm():
    async def steps(app, pilot):
        for text in ("que", "queue", "queue ==", 'queue == "rx0" and'):
            await typed(pilot, text)
            assert "^" not in shown(app)[3], text
        await typed(pilot, 'queue == "rx0"')
        assert "✓" in shown(app)[3]
        assert "queue: role of the queue" in shown(app)[3]

    tried(steps)


def test_enter_applies_and_the_header_shows_it():
    async def steps(app, pilot):
        await typed(pilot, 'queue == "tx0"')
        await pilot.press("enter")
        await pilot.pause()
        assert not app.screen.query(FilterBar)
        assert app.view.filter_text == 'queue == "tx0"'
        assert [key[2] for key in app.view.grid.source.keys] == ["tx0"]
        assert '⌕ queue == "tx0" ✓' in shown(app)[1]
        await pilot.press("down")
        assert app.focused is app.view.grid
        await pilot.press("slash")
        await pilot.pause()
        await typed(pilot, "")
        await pilot.press("enter")
        await pilot.pause()
        assert len(app.view.grid.source) == 3

    tried(steps)


def test_escape_leaves_all_as_it_was():
    async def steps(app, pilot):
        await typed(pilot, 'queue == "tx0"')
        await pilot.press("escape")
        await pilot.pause()
        assert app.view.filter_text == ""
        assert not app.screen.query(FilterBar)
        assert app.focused is app.view.grid

    tried(steps)


def test_keys_of_the_screen_are_text_in_the_bar():
    async def steps(app, pilot):
        await pilot.press(*"x y q 1".replace(" ", ""))
        await pilot.press("space")
        assert app.screen.query_one(FilterBar).input.value == "xyq1 "
        assert not app.paused

    tried(steps)


def test_tab_completes_fields_and_values():
    async def steps(app, pilot):
        bar = await typed(pilot, "back")
        await pilot.press("tab")
        assert bar.input.value == "backend"
        bar = await typed(pilot, "vm == ")
        await pilot.press("tab")
        first = bar.input.value
        await pilot.press("tab")
        assert {first, bar.input.value} == {"vm == cpx", 'vm == "db 01"'}
        await pilot.press("tab")
        assert bar.input.value == first
        assert bar.error is None

    tried(steps)


def test_values_are_offered_quoted_where_they_must_be():
    assert candidates("vm == ", "queues", {"a b", "x"})[1] == ['"a b"', "x"]
    assert candidates('vm == "', "queues", {"a b", 'q"q'})[1] == ["a b"]
    assert candidates("outcome == u", "lifecycles")[1] == ["used"]
    assert "udp.port" in candidates("udp.", "lifecycles")[1]
    assert candidates("", "queues")[1][:3] == ["vm", "device", "queue"]


def test_history_comes_back_and_is_its_owners_alone():
    history = History()
    for text in ("starved > 0", "vm == cpx", "starved > 0"):
        assert history.add(text) == ""
    assert stat.S_IMODE(history_path().stat().st_mode) == 0o600
    assert History().lines == ["vm == cpx", "starved > 0"]

    async def steps(app, pilot):
        bar = await typed(pilot, "vm")
        await pilot.press("up")
        assert bar.input.value == "starved > 0"
        await pilot.press("up", "up")
        assert bar.input.value == "vm == cpx"
        await pilot.press("down", "down")
        assert bar.input.value == "vm"

    tried(steps)


def test_a_history_that_cannot_be_kept_is_a_sentence(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    history = History(path / "history")
    assert "is not remembered" in history.add("starved > 0")
    assert history.lines == ["starved > 0"]
