"""The app over real recordings: going about, time, marks, export, what it looks like."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tui.fakes import FakeBrowser, queue_row, snapshot
from tests.tui.opened import Opened, opened
from vtrace.browse import Browser
from vtrace.errors import UsageError
from vtrace.text import clean
from vtrace.tui import snapshot as shots
from vtrace.tui.app import VtraceApp
from vtrace.tui.export import default_path, export
from vtrace.tui.place import Place
from vtrace.tui.run import made_app
from vtrace.tui.timeapp import step_ns

TRACES = Path(__file__).parents[2] / "examples" / "traces"
QUIET, FULL = TRACES / "quiet.vtrace", TRACES / "ringfull.vtrace"
RX = Place(vm="web1", device="nic0", queue="rx0")


def vtrace(*words):
    done = subprocess.run(
        [sys.executable, "-m", "vtrace", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_going_in_and_back_keeps_the_way():
    async def steps(one):
        await one.press("c")
        await one.settled("chains")
        assert one.view.place == RX
        assert "All VMs › web1 › nic0 › rx0" in one.lines[1]  # noqa: RUF001
        assert one.view.grid.row_count == 1251
        await one.press("backspace")
        await one.settled("queues")
        assert "back" not in one.lines[-1]
        await one.press("2")
        await one.settled("devices")
        await one.press("3")
        await one.settled("queues")

    opened(FULL, "queues", steps, size=(120, 30))


def test_crumbs_can_be_clicked():
    async def steps(one):
        await one.pilot.click("FrameHeader", offset=(one.lines[1].index("nic0") + 1, 1))
        await one.until(lambda: one.view.place == Place(vm="web1", device="nic0"))
        await one.settled("chains")
        assert one.view.grid.row_count == 1257

    opened(FULL, "chains", steps, size=(120, 30), place=RX)


def test_rows_are_those_that_the_verb_prints():
    async def steps(one):
        await one.press("b")
        one.view.set_filter("schedule_ns > 2ms")
        await one.until(lambda: one.view.ready)
        said = vtrace(
            "lifecycles", "--relative", "-Y", "schedule_ns > 2ms", "--queue", "rx0", FULL
        ).splitlines()
        assert one.view.grid.row_count == len(said) - 2
        shown = [line.split() for line in one.lines[3:13]]
        for mine, verbs in zip(shown, said[1:11], strict=True):
            kept = verbs.split()
            assert mine[0] == kept[0]
            # Some columns have no room, and what is too long for its own ends in ….
            assert {one for one in mine if "…" not in one} <= {*kept, "used"}

    opened(FULL, "chains", steps, size=(120, 30), place=RX)


def test_without_matches_a_sentence_says_so():
    async def steps(one):
        one.view.set_filter("udp.dport == 1")
        await one.shows("No chains match udp.dport == 1 here.")
        one.view.set_filter("")
        await one.until(lambda: one.view.grid.row_count == 202)

    opened(QUIET, "chains", steps)


def test_an_earlier_time_has_the_figures_of_the_report_until_then():
    async def steps(one):
        app = one.app
        await one.press("t", *"2.5s", "enter")
        await one.until(lambda: app.moment is not None and app.settled)
        report = json.loads(vtrace("report", "--json", "--until", "2.5s", QUIET))
        assert dict(app.shown.report) | {"source": ""} == report | {"source": ""}
        assert re.search(r"at 12:27:49\.\d{6} held", one.lines[0])
        at = app.at_ns
        await one.press("full_stop")
        await one.until(lambda: app.settled)
        assert app.at_ns == at + step_ns(app.browser.snapshot.duration_ns)
        await one.press("comma", "comma", "greater_than_sign", "less_than_sign")
        await one.until(lambda: app.settled)
        assert app.at_ns == at - step_ns(app.browser.snapshot.duration_ns)
        await one.press("space")
        assert app.moment is None
        assert "complete" in one.lines[0]

    opened(QUIET, "queues", steps, size=(120, 30))


def test_a_time_that_is_none_is_told_in_the_dialog():
    async def steps(one):
        await one.press("t", *"soon", "enter")
        assert "'soon' is no time" in one.text
        await one.press("escape")
        assert "is no time" not in one.text
        assert one.app.at_ns is None

    opened(QUIET, "queues", steps, size=(100, 30))


def test_marks_bring_back_view_row_and_time():
    async def steps(one):
        app = one.app
        await one.press("down", "down", "down", "m", "a")
        await one.press("end", "3")
        await one.settled("queues")
        await one.press("apostrophe", "a")
        await one.settled("chains")
        await one.until(lambda: one.view.grid.cursor == 3)
        await one.press("apostrophe", "apostrophe")
        await one.settled("queues")
        await one.press("apostrophe", "x")
        await one.shows("there is no mark x")
        await one.press("apostrophe")
        await one.until(lambda: "a chains web1 nic0 rx0 row 4" in one.lines[-1])
        await one.press("escape")
        await one.until(lambda: "pause" in one.lines[-1])
        assert set(app.marks) == {"a", "'"}

    opened(QUIET, "chains", steps, size=(100, 30), place=RX)


def test_help_lists_the_keys_and_closes():
    async def steps(one):
        await one.press("question_mark")
        await one.shows("shared: the event of another chain")
        await one.press("escape")
        assert "shared: the event" not in one.text
        await one.press("ctrl+p")
        await one.pilot.pause()
        await one.press(*"theme")
        await one.shows("Theme: vtrace-light")
        await one.press("escape", "escape")

    opened(QUIET, "chains", steps, size=(100, 40))


def exported(one, path, monkeypatch=None):
    async def run():
        await one.press("x")
        prompt = one.app.screen
        line = prompt.query_one("Input")
        line.value = str(path)
        await one.press("enter")
        await one.until(lambda: one.app.settled)

    return run()


def test_exported_rows_are_those_of_the_verbs(tmp_path):
    async def steps(one):
        one.view.set_filter("position < 5")
        await one.until(lambda: one.view.ready)
        await exported(one, tmp_path / "rows.jsonl")
        await exported(one, tmp_path / "rows.csv")
        await one.shows("5 rows written to")
        await one.press("v", "v")
        assert len(one.view.grid.marked) == 2
        await exported(one, tmp_path / "marked.jsonl")

    opened(QUIET, "chains", steps, size=(100, 30), place=RX)
    chosen = ("-Y", "position < 5", "--queue", "rx0", QUIET)
    assert (tmp_path / "rows.jsonl").read_text() == vtrace("lifecycles", "--json", *chosen)
    assert (tmp_path / "rows.csv").read_text() == vtrace("lifecycles", "--csv", *chosen)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    assert (tmp_path / "marked.jsonl").read_text() == "".join(lines[:2])


def test_an_exported_part_is_what_filter_writes(tmp_path):
    async def steps(one):
        one.view.set_filter("position < 5")
        await one.until(lambda: one.view.ready)
        await exported(one, tmp_path / "part.vtrace")
        await one.shows("5 chains")

    opened(QUIET, "chains", steps, size=(100, 30), place=RX)
    chosen = ("-Y", "position < 5", "--queue", "rx0")
    both = [
        [json.loads(line) for line in vtrace("lifecycles", "--json", *chosen, path).splitlines()]
        for path in (QUIET, tmp_path / "part.vtrace")
    ]
    # What comes behind a chain is not kept: when the driver was seen to have it.
    same = ("position", "head", "kick_ns", "pop_ns", "used_ns", "packet", "flow", "outcome")
    whole, part = ([[row[name] for name in same] for row in rows] for rows in both)
    assert whole == part
    assert len(part) == 5


def test_queues_are_exported_as_the_report_has_them(tmp_path):
    async def steps(one):
        await exported(one, tmp_path / "q.jsonl")
        await exported(one, tmp_path / "q.csv")
        await one.press("down")
        await exported(one, tmp_path / "q.vtrace")
        await one.until(lambda: (tmp_path / "q.vtrace").exists())

    opened(FULL, "queues", steps, size=(100, 30))
    rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert rows == json.loads(vtrace("report", "--json", FULL))["queues"]
    part = vtrace("lifecycles", "--json", "--queue", "tx0", tmp_path / "q.vtrace")
    assert len(part.splitlines()) == rows[1]["chains"] == 6
    with (tmp_path / "q.csv").open() as file:
        flat = list(csv.DictReader(file))
    assert flat[0]["kicks_sent"] == str(rows[0]["kicks"]["sent"])
    assert flat[1]["service_p99_ns"] == str(rows[1]["stages"]["service"]["p99_ns"])


def test_nothing_is_overwritten_and_no_format_is_guessed(tmp_path):
    taken = tmp_path / "taken.csv"
    taken.write_text("mine")

    async def steps(one):
        await one.press("x")
        one.app.screen.query_one("Input").value = str(taken)
        await one.press("enter")
        assert "is there already" in one.text
        await one.press("tab")
        assert one.app.screen.query_one("Input").value.endswith("taken.vtrace")
        one.app.screen.query_one("Input").value = str(tmp_path / "rows.txt")
        await one.press("enter")
        assert "its ending says the format" in one.text
        await one.press("escape")

    opened(QUIET, "chains", steps, size=(120, 30), place=RX)
    assert taken.read_text() == "mine"


def test_all_of_it_is_no_part(tmp_path):
    async def steps(one):
        selection = one.view.selection()
        assert selection.place == Place()
        with pytest.raises(UsageError, match="all of the recording"):
            export(str(tmp_path / "all.vtrace"), selection, str(QUIET))
        assert re.fullmatch(r"vtrace-lifecycles(-\d+)?\.jsonl", default_path(selection))

    opened(QUIET, "chains", steps)


def test_a_row_is_copied_as_json():
    async def steps(one):
        await one.press("down", "y")
        row = json.loads(one.app.clipboard)
        assert (row["queue"], row["position"]) == ("rx0", 1)

    opened(QUIET, "chains", steps, place=RX)


def test_exits_are_those_of_the_report_and_lead_to_single_ones():
    async def steps(one):
        first = json.loads(vtrace("report", "--json", QUIET))["exits"][0]
        assert first["reason"] in one.lines[3]
        assert f"{first['count']:,}" in one.lines[3]
        one.view.set_filter("reason == NPF")
        await one.until(lambda: one.view.grid.row_count == 1)
        one.view.set_filter("outside_ns > 1ms")
        await one.shows("they know vm, vcpu and reason alone")
        await one.press("e")
        await one.settled("each_exit")
        count = len(vtrace("exits", "--json", "-Y", "outside_ns > 1ms", QUIET).splitlines())
        assert one.view.grid.row_count == count

    opened(QUIET, "exits", steps, size=(120, 30))


def test_an_exit_that_touched_a_device_is_shown_with_the_time_in_qemu():
    row = {
        "vm": "cpx",
        "vcpu": 1,
        "reason": "EPT_MISCONFIG",
        "io": "mmio",
        "write": True,
        "address": 0xFE003000,
        "device": "net0",
        "part": "notify",
        "count": 12,
        "total_ns": 5_000_000,
        "user_count": None,
        "user_ns": None,
    }
    sums = [{"vm": "cpx", "vcpu": 1, "reason": "HLT", "count": 3, "total_ns": 10**9}]
    first = snapshot([queue_row()], exits=sums, device_exits=[row])
    for size, beside in (((160, 30), True), ((80, 24), False)):
        app = VtraceApp(FakeBrowser(first), view="exits", theme="dark", judge=False)

        async def run(app=app, size=size, beside=beside):
            async with app.run_test(size=size) as pilot:
                await pilot.pause()
                await pilot.pause()
                lines = [strip.text for strip in app.screen._compositor.render_strips()]
                device = next(line for line in lines if "notify" in line)
                assert device[device.index("5.00ms") :].split()[1] == "-"
                assert app.view.has_class("beside") == beside
                assert any("10%" in line for line in lines)

        asyncio.run(run())


# -- looks ---------------------------------------------------------------------------------------


def test_names_that_a_guest_chose_do_not_steer_the_terminal():
    bad = "\x1b[2J\u202eevil\x00 日本\u200b"
    rows = [queue_row(bad, bad, "rx0"), queue_row(bad, bad, bad, direction="tx")]
    host = {"host": {"kernel": bad, "mode": bad, "hostname": bad}}
    first = snapshot(rows, metadata=host)
    for view in ("queues", "vms", "devices"):
        browser = FakeBrowser(first, name=f"/tmp/{bad}.vtrace")
        app = VtraceApp(browser, view=view, theme="dark", judge=False)
        app.verdicts = {(bad, bad, "rx0"): bad}

        async def run(app=app):
            async with app.run_test(size=(140, 30)) as pilot:
                await pilot.pause()
                app.view.set_filter("")
                app.say(bad)
                await pilot.press("m", "a", "apostrophe")
                await pilot.pause()
                for strip in app.screen._compositor.render_strips():
                    assert clean(strip.text) == strip.text
                    assert strip.cell_length == 140

        asyncio.run(run())


def test_no_color_leaves_no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = VtraceApp(FakeBrowser(snapshot([queue_row(), queue_row(queue="tx0")])), judge=False)

    async def run():
        async with app.run_test(size=(100, 20)) as pilot:
            await pilot.pause()
            app.set_verdicts({("cpx", "net0", "rx0"): "R5c guest gives no buffers"})
            await pilot.press("down", "slash")
            await pilot.pause()
            filters = app.get_line_filters()
            for strip in app.screen._compositor.render_strips():
                for segment in strip.apply_filter(filters[-1], app.screen.background_colors[1]):
                    style = segment.style
                    for colour in (style.color, style.bgcolor) if style else ():
                        assert colour is None or colour.is_default
            assert app.theme == "vtrace-plain"

    asyncio.run(run())


def test_themes_change_while_it_runs():
    async def steps(one):
        def svg():
            return one.app.export_screenshot()

        dark = svg()
        one.app.use_theme("vtrace-light")
        await one.pilot.pause()
        await one.until(lambda: "#fbfaf7" in svg())
        assert "#fbfaf7" not in dark
        for name in ("nord", "vtrace-plain", "vtrace-dark"):
            one.app.use_theme(name)
            await one.pilot.pause()
        await one.until(lambda: svg() == dark)

    opened(QUIET, "queues", steps, size=(100, 24))


def test_a_theme_a_filter_or_a_screen_that_is_none_is_refused_at_once():
    browser = FakeBrowser(snapshot([]))
    given = {"place": None, "filter_text": "", "theme": None, "at": None, "keys": {}}
    for change, words in (
        ({"theme": "puce"}, "no theme puce"),
        ({"filter_text": "queue = 1"}, "did you mean =="),
        ({"at": "soon"}, "is no time"),
        ({"view": "sums"}, "no screen sums"),
    ):
        with pytest.raises(UsageError, match=words):
            made_app(browser, **({"view": "queues"} | given | change))


def test_a_file_that_is_cut_short_says_so(tmp_path):
    path = tmp_path / "cut.vtrace"
    data = FULL.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])

    async def steps(one):
        await one.shows("cut short")
        await one.press("c")
        await one.settled("chains")
        assert one.view.grid.row_count > 100

    opened(path, "queues", steps)


def test_a_file_that_grows_is_followed_held_and_followed_again(tmp_path):
    data = FULL.read_bytes()
    path = tmp_path / "grows.vtrace"
    path.write_bytes(data[: len(data) * 45 // 100])
    browser = Browser(str(path), follow=True)
    app = VtraceApp(browser, theme="dark", view="chains", judge=False)

    async def run():
        async with app.run_test(size=(100, 20)) as pilot:
            one = Opened(app, pilot)
            await one.shows("▸ following", "No chains here yet. Waiting for events")
            await one.press("ctrl+t", "space")
            with path.open("ab") as file:
                file.write(data[len(data) * 45 // 100 :])
            await one.until(lambda: browser.ended)
            await one.until(lambda: len(one.view.rows) == 1257)
            assert "paused" in one.lines[0]
            assert one.view.grid.row_count == 0
            await one.press("space")
            await one.until(lambda: one.view.grid.row_count == 1257)
            await one.press("ctrl+t")
            await one.shows("complete", "1,257 of 1,257 chains")

    browser.start()
    try:
        asyncio.run(run())
    finally:
        browser.close()


def test_drawing_fifty_queues_takes_a_small_part_of_a_core():
    # The figure is that of benchmarks; here: an order of magnitude below.
    rows = [queue_row(f"vm{at // 4}", "net0", f"rx{at % 4}") for at in range(50)]
    browser = FakeBrowser(snapshot(rows))
    app = VtraceApp(browser, theme="dark", judge=False)

    async def run():
        async with app.run_test(size=(160, 56)) as pilot:
            await pilot.pause()
            began = time.process_time()
            for number in range(2, 22):
                changed = [row | {"chains": number * 1000 + at} for at, row in enumerate(rows)]
                browser.snapshot = snapshot(changed, number)
                app.tick()
                await pilot.pause()
            return (time.process_time() - began) / 20

    assert asyncio.run(run()) < 0.25 * 0.25


def test_a_snapshot_is_a_file_of_the_kind_that_its_name_says(tmp_path):
    for name, words in (("one.svg", "<svg"), ("one.txt", " vtrace  quiet.vtrace")):
        browser = Browser(str(QUIET))
        browser.start()
        try:
            shots.write_snapshot(browser, str(tmp_path / name), view="chains", place=RX)
        finally:
            browser.close()
        text = (tmp_path / name).read_text()
        assert text.startswith(words)
        assert "12:27:4" in text or "notify" not in text
        assert "used" in text
        assert "@font-face" not in text
        assert "url(http" not in text
