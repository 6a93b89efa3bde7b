"""The list of queues, and the sums by VM and device, on figures that are made up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.tui.fakes import IDLE, FakeBrowser, queue_row, series, snapshot
from vtrace.browse.snapshot import State
from vtrace.session import Loss
from vtrace.tables import QUEUES
from vtrace.tui.app import VtraceApp
from vtrace.tui.figures import queue_figures, rate_text, sparkline
from vtrace.tui.place import Place
from vtrace.tui.sums import rows_table


def shown(app):
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def tried(first, steps, size=(160, 24), **given):
    browser = FakeBrowser(first)
    app = VtraceApp(browser, theme="dark", judge=False, **given)

    async def until(pilot, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "\n".join(shown(app))
            await pilot.pause(0.01)
        await pilot.pause()

    async def run():
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.view is not None and app.view.is_mounted)
            await pilot.pause()
            await steps(app, pilot, lambda condition: until(pilot, condition))

    asyncio.run(run())
    return app


ROWS = [
    queue_row(),
    queue_row(queue="tx0", used_bytes=0, chains=50),
    queue_row(device="disk0", queue="req0", chains=4000),
    queue_row("db01", "net0", "rx0", chains=200),
]


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.01, "<0.1"),
        (0.42, "0.4"),
        (9.96, "10"),
        (402, "402"),
        (999.6, "1.0k"),
        (61_234, "61.2k"),
        (123_456, "123k"),
        (2_345_678, "2.3M"),
    ],
)
def test_rates_take_five_cells(rate, text):
    assert rate_text(rate) == text
    assert len(text) <= 5


def test_bars_tell_empty_from_one_from_full_and_from_not_known():
    assert sparkline([0, 1, 256, -1], 4, 256) == "▁▂█·"
    assert sparkline([0] * 30 + [256] + [0] * 29, 6, 256) == "▁▁▁█▁▁"
    assert sparkline([], 3) == "···"
    assert sparkline([1, 1], 4, 1) == "··██"
    assert len(sparkline(np.arange(1000), 14, 256)) == 14


def test_rates_of_a_complete_file_are_of_all_of_it_and_live_of_two_seconds():
    each = series([0] * 200 + [8] * 8, drops=4)
    first = snapshot(ROWS, each=each)
    whole = queue_figures(first)[0]
    assert whole.rate == pytest.approx(1000 / 10)
    assert whole.kicks == pytest.approx(1)
    assert whole.drops == 4
    assert whole.drop_rate is None
    live = queue_figures(replace(first, state=State.FOLLOWING))[0]
    assert live.rate == pytest.approx(25 / 0.25)
    assert live.drop_rate == pytest.approx(4 / 2)
    assert queue_figures(first)[1].bytes_rate is None
    assert queue_figures(first)[2].drops is None


def test_the_stage_that_dominates_is_that_with_the_longest_tail():
    figures = queue_figures(snapshot(ROWS))[0]
    assert (figures.stage, figures.p50_ns, figures.p99_ns) == ("schedule", 9_800, 8_700_000)
    none = queue_figures(snapshot([queue_row(stages={})]))[0]
    assert (none.stage, none.p99_ns) == ("", None)


def test_rows_are_a_table_that_filters_read():
    table = rows_table(QUEUES, ROWS)
    assert table.lists(["kicks_sent", "schedule_p99_ns", "idle_p50_ns"]) == [
        [10] * 4,
        [8_700_000] * 4,
        [None] * 4,
    ]


def test_a_sick_queue_is_seen_without_a_key():
    async def steps(app, pilot, until):
        app.set_verdicts({("cpx", "net0", "rx0"): "R5c guest gives no buffers"})
        await pilot.pause()
        line = shown(app)[3]
        for part in ("cpx", "rx0", "100", "3/256", "8.70ms", "schedule", "R5c guest gives no buf"):
            assert part in line
        assert "lost 0" in shown(app)[0]

    tried(snapshot(ROWS), steps)


def test_loss_is_loud():
    async def steps(app, pilot, until):
        head = shown(app)[0]
        assert "lost 12 (0.2%)" in head
        app.browser.snapshot = snapshot(ROWS, 2, loss=Loss(produced=9, received=9, missed=3))
        await until(lambda: "missed 3" in shown(app)[0])

    tried(snapshot(ROWS, loss=Loss(produced=5000, received=4988, lost=12)), steps)


def test_queues_that_did_nothing_stand_behind_one_line():
    idle = [queue_row("cpx", "ser0", f"tx{at}", **IDLE) for at in range(64)]

    async def steps(app, pilot, until):
        assert len(app.view.grid.source) == 5
        assert shown(app)[7].strip() == "64 queues carried nothing (z shows them)"
        await pilot.press("z")
        await pilot.pause()
        assert len(app.view.grid.source) == 68
        await pilot.press("z", "end", "enter")
        await pilot.pause()
        assert len(app.view.grid.source) == 68

    tried(snapshot(ROWS + idle), steps)


def test_any_column_sorts_by_key_and_by_mouse():
    async def steps(app, pilot, until):
        grid = app.view.grid
        app.view.sort_by("rate")
        await pilot.pause()
        assert [key[1:] for key in grid.source.keys][:2] == [("disk0", "req0"), ("net0", "rx0")]
        assert "rate/s▾" in shown(app)[2]
        await pilot.press("S")
        await pilot.pause()
        assert grid.source.keys[-1][1] == "disk0"
        at = shown(app)[2].index("device")
        await pilot.click(grid, offset=(at + 1, 0))
        await pilot.pause()
        assert grid.source.keys[0][1] == "disk0"
        assert "device▴" in shown(app)[2]
        for column in grid.columns:
            app.view.sort_by(column.key)

    tried(snapshot(ROWS), steps)


def test_a_filter_chooses_queues_and_says_where_none_is_left():
    async def steps(app, pilot, until):
        app.view.set_filter('vm == "db01" and schedule_p99_ns > 1ms')
        await pilot.pause()
        assert app.view.grid.source.keys == [("db01", "net0", "rx0")]
        assert "schedule_p99_ns > 1ms ✓" in shown(app)[1]
        app.view.set_filter("starved > 5")
        await pilot.pause()
        assert "No queues match starved > 5." in "\n".join(shown(app))
        app.view.set_filter("")
        await pilot.pause()
        assert len(app.view.grid.source) == 4

    tried(snapshot(ROWS), steps)


def test_sums_by_vm_and_device_are_those_of_their_queues():
    async def steps(app, pilot, until):
        line = next(line for line in shown(app) if line.startswith(" cpx"))
        assert "3/3" in line
        assert "505" in line
        assert "net0 rx0 schedule" in line or "net0 tx0 schedule" in line or "disk0" in line
        await pilot.press("enter")
        await until(lambda: app.view.view_name == "devices" and app.view.grid.row_count)
        assert app.view.place == Place(vm="cpx")
        assert list(app.view.grid.source.keys) == [("cpx", "net0"), ("cpx", "disk0")]
        await pilot.press("enter")
        await until(lambda: app.view.view_name == "queues" and app.view.grid.row_count)
        assert [key[2] for key in app.view.grid.source.keys] == ["rx0", "tx0"]
        await pilot.press("backspace", "backspace")
        await until(lambda: app.view.view_name == "vms")

    tried(snapshot(ROWS), steps, view="vms")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"state": State.OPENING}, "Reading the recording"),
        ({"state": State.COMPLETE}, "No queue has been seen"),
        ({"state": State.FAILED, "sentence": "run.vtrace: is no recording"}, "is no recording"),
        ({"state": State.FOLLOWING}, "Waiting for events"),
    ],
)
def test_without_queues_a_sentence_says_why(given, words):
    async def steps(app, pilot, until):
        assert words in "\n".join(shown(app))

    tried(snapshot([], **given), steps, size=(80, 24))


def test_pause_holds_the_figures_and_following_goes_on():
    async def steps(app, pilot, until):
        await pilot.press("space")
        rows = [queue_row(chains=9000), *ROWS[1:]]
        app.browser.snapshot = snapshot(rows, 2)
        app.tick()
        await pilot.pause()
        assert "paused" in shown(app)[0]
        assert " 100 " in shown(app)[3]
        await pilot.press("space")
        await until(lambda: " 900 " in shown(app)[3])
        assert "paused" not in shown(app)[0]

    tried(snapshot(ROWS), steps)


def test_a_recorder_that_died_is_said_and_stays_said():
    async def steps(app, pilot, until):
        assert "  queues" in shown(app)[1]
        app.browser.snapshot = snapshot(
            ROWS, 2, state=State.CUT_SHORT, sentence="the recorder is gone: killed\x1b[2J"
        )
        await until(lambda: "the recorder is gone: killed\\x1b[2J" in shown(app)[2])
        assert "cut short" in shown(app)[0]
        assert "rx0" in shown(app)[4]

    tried(snapshot(ROWS, state=State.FOLLOWING), steps)


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (40, 8), (20, 5), (200, 60)])
def test_every_size_is_usable(size):
    async def steps(app, pilot, until):
        app.set_verdicts({("cpx", "net0", "rx0"): "R5c guest gives no buffers"})
        await pilot.pause()
        for strip in app.screen._compositor.render_strips():
            assert strip.cell_length == size[0]
        keys = [column.key for column in app.view.grid.shown_columns]
        assert keys[0] in {"vm", "device"}
        if size[0] >= 60:
            assert {"queue", "rate", "drops", "p99", "verdict"} <= set(keys)

    tried(snapshot(ROWS), steps, size=size)


def test_a_storm_of_sizes_ends_in_the_right_picture():
    async def steps(app, pilot, until):
        before = shown(app)
        for at in range(40):
            await pilot.resize_terminal(20 + at * 7 % 180, 5 + at * 3 % 50)
        await pilot.resize_terminal(160, 24)
        await until(lambda: shown(app) == before)

    tried(snapshot(ROWS), steps)
