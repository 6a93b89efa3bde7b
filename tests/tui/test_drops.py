"""The view of drops: the verdict in the words of ``vtrace diagnose``, its evidence, the drops."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli import diagnoses
from tests.tui import hostile
from tests.tui.opened import opened
from vtrace.browse.verdict import JudgeState, Verdict, of_place
from vtrace.cli import main
from vtrace.diagnose.findings import from_json
from vtrace.diagnose.prose.headline import Times
from vtrace.diagnose.prose.verdict import Look, verdict_lines
from vtrace.text import cells
from vtrace.tui.place import Place
from vtrace.tui.widgets.finding import Opens, stretch_lines, verdict_view
from vtrace.tui.widgets.ledger import NAMED, styled

TRACES = Path(__file__).resolve().parents[2] / "examples" / "traces"
RINGFULL = TRACES / "ringfull.vtrace"
STARVING = TRACES / "starving.vtrace"
TIMES = Times(start_ns=diagnoses.START)


class Judged:
    """A judge that has a verdict at once, or never."""

    def __init__(self, verdict):
        self.verdict = verdict

    def start(self):
        pass

    def close(self):
        pass


def judged(one, verdict):
    one.app.judge = Judged(verdict)
    one.view.on_verdicts()


@pytest.fixture(scope="module")
def diagnosis():
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main(["diagnose", "--json", str(RINGFULL)]) == 0
    return from_json(json.loads(text.getvalue()))


# The verdict as lines


@pytest.mark.parametrize("width", [40, 78, 120])
@pytest.mark.parametrize("made", [diagnoses.lossy, diagnoses.healthy])
def test_the_words_are_those_of_the_verb(made, width):
    shown = [line.text.plain.replace("▸", " ") for line in verdict_view(made(), TIMES, width)]
    printed = verdict_lines(made(), Look(width=width, times=TIMES, more="e"))
    # The ledger is there even where nothing was lost.
    assert [line for line in printed if line not in [text.rstrip() for text in shown]] == []


def test_evidence_and_bursts_can_be_chosen(diagnosis):
    lines = list(verdict_view(diagnosis, TIMES, 78))
    leads = [line for line in lines if line.about is not None]
    assert {type(line.about) for line in leads} == {Opens}
    first = next(line for line in leads if line.about.rows)
    assert "▸" in first.text.plain
    assert (first.about.rows.verb, "FULL_RING" in first.about.rows.filter) == ("drops", True)
    burst = next(line for line in leads if line.about.rows is None and "burst" in line.text.plain)
    assert burst.about.time_ns == diagnosis.findings[0].bursts[0].start_ns


def test_styles_are_read_and_escapes_from_outside_are_not():
    text = styled(f"a {NAMED.alarm('R5')} b {NAMED.dim('c')}")
    assert text.plain == "a R5 b c"
    assert [(text.plain[span.start : span.end], span.style) for span in text.spans] == [
        ("R5", "alarm"),
        ("c", "dim"),
    ]
    (finding,) = diagnoses.lossy().findings
    evil = diagnoses.lossy()
    evil.findings = [replace(finding, cause="\x1b[alarm;evil\x1b[; \u202e", vm="\x1b[2J漢" * 30)]
    for line in verdict_view(evil, TIMES, 60):
        assert not hostile.garbles(line.text.plain)


def test_what_concerns_a_vm_or_a_device():
    diagnosis = diagnoses.lossy()
    assert of_place(diagnosis, None, None) is diagnosis
    assert of_place(diagnosis, "cpx", None).findings == diagnosis.findings
    other = of_place(diagnosis, "other", None)
    assert (other.findings, other.unexplained) == ([], 0)
    assert of_place(diagnosis, "cpx", "net1").findings == []


# The screen


def test_the_verdict_first(diagnosis):
    async def steps(one):
        judged(one, Verdict(number=1, state=JudgeState.DONE, diagnosis=diagnosis))
        await one.shows("249 of 1,500 UDP packets towards web1 were lost", "R5d", "proven")
        await one.shows("by reason and place", "249  FULL_RING", "tun_net_xmit")
        assert one.lines[2].startswith(" 249 of 1,500 UDP packets")
        assert one.app.focused is one.pane("verdict")
        await one.press("G")
        await one.shows("note: the recording has no samples")

    opened(RINGFULL, "drops", steps)


def test_evidence_opens_the_rows_it_came_from(diagnosis):
    async def steps(one):
        judged(one, Verdict(number=1, state=JudgeState.DONE, diagnosis=diagnosis))
        await one.shows("▸")
        await one.press("enter")
        await one.until(lambda: one.view.filter_text)
        await one.settled("drops")
        judged(one, one.app.judge.verdict)
        evidence = diagnosis.findings[0].evidence[0]
        assert (one.view.view_name, one.view.filter_text) == (evidence.verb, evidence.filter)
        await one.shows("1 of 249 drops")
        await one.press("backspace")
        await one.until(lambda: not one.view.filter_text)

    opened(RINGFULL, "drops", steps)


def test_a_burst_opens_the_timeline(diagnosis, monkeypatch):
    async def steps(one):
        judged(one, Verdict(number=1, state=JudgeState.DONE, diagnosis=diagnosis))
        await one.shows("▸")
        went = []
        monkeypatch.setattr(one.app, "go", lambda *words, **hints: went.append((words, hints)))
        while one.pane("verdict").chosen.about not in diagnosis.findings[0].bursts:
            await one.press("down")
        await one.press("enter")
        start = diagnosis.findings[0].bursts[0].start_ns
        place = Place(vm="web1", device="nic0", queue="rx0")
        assert went == [(("timeline", place), {"time_ns": start})]
        went.clear()
        await one.press("up", "T")
        assert went == [(("timeline", place), {"time_ns": diagnosis.findings[0].first_ns})]

    opened(RINGFULL, "drops", steps)


def test_all_evidence_and_back(diagnosis):
    async def steps(one):
        judged(one, Verdict(number=1, state=JudgeState.DONE, diagnosis=diagnosis))
        await one.shows("R5d")
        assert "[REFUSE and DROP records]" not in one.pane("verdict").plain
        await one.press("e")
        await one.until(lambda: "[REFUSE and DROP records]" in one.pane("verdict").plain)
        await one.press("e")
        await one.until(lambda: "[REFUSE and DROP records]" not in one.pane("verdict").plain)

    opened(RINGFULL, "drops", steps)


def test_a_reason_shows_its_drops_and_a_drop_its_packet():
    async def steps(one):
        await one.press("tab", "enter")
        await one.shows("1 of 249 drops")
        assert one.view.filter_text == 'reason == "FULL_RING" and location == "tun_net_xmit"'
        await one.press("down", "enter")
        await one.settled("packets")
        await one.shows("1 of 1 packet", "FULL_RING tun")

    opened(RINGFULL, "drops", steps)


def test_while_there_is_no_verdict():
    async def steps(one):
        await one.shows("Nobody diagnoses here.")
        judged(one, Verdict())
        await one.shows("The diagnosis begins when the recording has been read.")
        judged(one, Verdict(state=JudgeState.RUNNING, progress=0.42))
        await one.shows("The recording is being diagnosed: 42%.")
        judged(one, Verdict(state=JudgeState.FAILED, sentence="the \x1b[2Jfile is gone"))
        await one.shows("the \\x1b[2Jfile is gone")

    opened(RINGFULL, "drops", steps)


def test_a_verdict_on_the_last_seconds(diagnosis):
    async def steps(one):
        start = one.view.snapshot.start_ns
        verdict = Verdict(
            state=JudgeState.DONE,
            diagnosis=diagnosis,
            since_ns=start + 10**9,
            until_ns=start + 21 * 10**9,
        )
        judged(one, verdict)
        await one.shows(", 20.0s; the recording goes on.", "249 of 1,500")
        judged(one, replace(verdict, sentence="the file is gone"))
        await one.shows("No newer verdict: the file is gone", "249 of 1,500")

    opened(RINGFULL, "drops", steps)


def test_a_verdict_beside_figures_of_another_time():
    lines = stretch_lines(Verdict(), 80, TIMES, scrubbed=True)
    assert [line.text.plain for line in lines] == [
        "The verdict is not that of the time that is held."
    ]
    assert stretch_lines(Verdict(), 80, TIMES) == []


def test_nothing_was_dropped():
    async def steps(one):
        judged(one, Verdict(state=JudgeState.DONE, diagnosis=diagnoses.healthy()))
        await one.shows("No UDP packet was lost", "no drop was recorded here")
        await one.press("tab", "tab")
        await one.shows("No packet was seen to be dropped here.")

    opened(STARVING, "drops", steps)


def test_the_diagnosis_of_the_app_is_shown():
    async def steps(one):
        await one.shows("249 of 1,500 UDP packets towards web1 were lost")
        assert one.app.verdicts["web1", "nic0", "rx0"] == "R5d guest's vCPUs did not run +1"

    opened(RINGFULL, "drops", steps, size=(160, 48), judge=True)


# Whatever is in it


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    return hostile.write(tmp_path_factory.mktemp("evil") / "evil.vtrace")


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
@pytest.mark.parametrize("view", ["packets", "chain", "drops", "requests"])
def test_no_name_and_no_byte_garbles_the_screen(evil, view, size):
    def check(one):
        for strip in one.app.screen._compositor.render_strips():
            assert not hostile.garbles(strip.text), strip.text
            assert cells(strip.text) == size[0], strip.text

    async def steps(one):
        if view == "drops":
            await one.shows("UDP packets towards web\\x1b[2J")
            await one.shows("FULL\\x07_[/]\\u2066漢RING")
        if view == "packets":
            await one.shows("virtio_net_hdr")
            await one.press("tab", "G", "right")
        for _ in range(4):
            check(one)
            await one.press("tab", "down", "d" if view == "packets" else "down")
        await one.press("backslash")
        check(one)

    place = Place(vm=hostile.VM, device=hostile.DEVICE, queue="rx0", chain=(0, 104))
    opened(
        evil,
        view,
        steps,
        size=size,
        place=place if view == "chain" else None,
        judge=view == "drops",
    )
