"""The diagnosis in the background: the same as the verb's, when it is due, and how it ends."""

import itertools
import json
import time
from pathlib import Path

import pytest

import vtrace.browse.verdict as judging
from parsers.tracefile import TraceWriter, open_trace
from tests.cli import diagnoses
from vtrace.browse import Browser
from vtrace.browse.snapshot import Snapshot, State
from vtrace.browse.verdict import Judge, JudgeState, queue_texts, short_text
from vtrace.cli import main
from vtrace.diagnose.findings import Diagnosis, as_json, from_json

TRACES = Path(__file__).resolve().parents[2] / "examples" / "traces"
RINGFULL = TRACES / "ringfull.vtrace"
SECOND = 1_000_000_000
QUEUES = [
    {"vm": "cpx", "device": "net0", "queue": "rx0", "direction": "rx"},
    {"vm": "cpx", "device": "net0", "queue": "tx0", "direction": "tx"},
    {"vm": "cpx", "device": "disk0", "queue": "req0", "direction": "none"},
    {"vm": "db", "device": "net0", "queue": "rx0", "direction": "rx"},
]


def settled(judge, condition, seconds=30.0):
    """Wait until the verdict is as it should be; return it."""
    end = time.monotonic() + seconds
    while not condition(judge.verdict):
        assert time.monotonic() < end, judge.verdict
        time.sleep(0.02)
    return judge.verdict


def reading(cut, **facts):
    return Snapshot(state=State.FOLLOWING, start_ns=0, cut_ns=cut, **facts)


@pytest.fixture
def judged():
    """Return a function that makes a judge and starts it; all are closed at the end."""
    made = []

    def start(*arguments, **options):
        made.append(Judge(*arguments, **options))
        made[-1].start()
        return made[-1]

    yield start
    for judge in made:
        judge.close()


def ended(verdict):
    return verdict.state in (JudgeState.DONE, JudgeState.FAILED)


def test_a_complete_recording_is_judged_as_the_verb_does(judged, capsys):
    judge = judged(RINGFULL, lambda: Snapshot(state=State.COMPLETE, cut_ns=1))
    verdict = settled(judge, ended)
    assert verdict.state is JudgeState.DONE
    assert verdict.progress == 1.0
    assert (verdict.since_ns, verdict.until_ns, verdict.sentence) == (None, None, "")
    assert main(["diagnose", "--json", str(RINGFULL)]) == 0
    assert as_json(verdict.diagnosis) == json.loads(capsys.readouterr().out)


def test_a_stretch_of_a_recording_is_judged_as_the_verb_does(judged, capsys):
    snapshot = Snapshot(state=State.COMPLETE, cut_ns=1)
    judge = judged(RINGFULL, lambda: snapshot, since="1ms", until="2s")
    verdict = settled(judge, ended)
    command = ["diagnose", "--json", "--since", "1ms", "--until", "2s", str(RINGFULL)]
    assert main(command) == 0
    assert as_json(verdict.diagnosis) == json.loads(capsys.readouterr().out)


def test_nothing_is_judged_while_a_file_is_read(judged):
    judge = judged(RINGFULL, lambda: Snapshot(state=State.READING, start_ns=0, cut_ns=5))
    time.sleep(3 * judging.LOOK_S)
    assert judge.verdict.state is JudgeState.WAITING


def test_a_file_that_is_none_is_a_sentence(judged, tmp_path):
    path = tmp_path / "note.vtrace"
    path.write_text("dear diary")
    judge = judged(path, lambda: Snapshot(state=State.COMPLETE, cut_ns=1))
    verdict = settled(judge, ended)
    assert verdict.state is JudgeState.FAILED
    assert "is no recording of vtrace" in verdict.sentence
    assert "Traceback" not in verdict.sentence


def test_a_recording_that_could_not_be_opened_is_not_judged(judged):
    judge = judged("no such file", lambda: Snapshot(state=State.FAILED, sentence="It is gone."))
    assert settled(judge, ended).sentence == "It is gone."


def test_a_file_that_grows_and_then_ends(judged, tmp_path, capsys):
    path = tmp_path / "growing.vtrace"
    with open_trace(RINGFULL) as trace:
        batches = list(trace.batches())
    browser = None
    try:
        with TraceWriter(path) as writer:
            for batch in batches[:9]:
                writer.write(batch)
            browser = Browser(str(path), follow=True)
            browser.start()
            judge = judged(path, lambda: browser.snapshot)
            verdict = settled(judge, lambda verdict: verdict.diagnosis is not None)
            assert verdict.until_ns is not None
            command = ["diagnose", "--json", "--until", str(verdict.until_ns), str(path)]
            main(command)
            assert as_json(verdict.diagnosis) == json.loads(capsys.readouterr().out)
            for batch in batches[9:]:
                writer.write(batch)
        verdict = settled(judge, lambda verdict: verdict.diagnosis and verdict.until_ns is None)
        assert verdict.diagnosis.findings[0].packets == 249
    finally:
        if browser is not None:
            browser.close()


# What is due when: with a diagnosis that takes no time


class Asked(Judge):
    """A judge that notes what it would ask, and takes ``takes`` seconds of CPU by its own word."""

    takes = 0.0
    says: Diagnosis | str = Diagnosis()

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.questions = []

    def _ask(self, since, until):
        self.questions.append((since, until, time.monotonic()))
        return self.says, self.takes


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setattr(judging, "LOOK_S", 0.001)
    monkeypatch.setattr(judging, "LEAST_REST_S", 0.05)
    made = []

    def start(snapshot, **options):
        judge = Asked("file", snapshot)
        for name, value in options.items():
            setattr(judge, name, value)
        made.append(judge)
        judge.start()
        return judge

    yield start
    for judge in made:
        judge.close()


def test_the_last_seconds_of_a_file_that_grows_are_judged_again_and_again(asked):
    cuts = iter(range(5 * SECOND, 1 << 62, SECOND))
    judge = asked(lambda: reading(next(cuts)))
    verdict = settled(judge, lambda _: len(judge.questions) >= 40)
    assert verdict.state is JudgeState.DONE
    # It is short: all of it, and then its end.
    since, until, _ = judge.questions[0]
    assert (since, until) == (None, str(5 * SECOND))
    since, until, _ = judge.questions[-1]
    assert int(until) - int(since) == judging.MOST_NS
    assert verdict.until_ns - verdict.since_ns == judging.MOST_NS


def test_a_run_is_paid_for_by_rest(asked):
    cuts = iter(range(SECOND, 1 << 62, SECOND))
    judge = asked(lambda: reading(next(cuts)), takes=0.03)
    settled(judge, lambda _: len(judge.questions) >= 3)
    times = [when for _, _, when in judge.questions]
    for one, other in itertools.pairwise(times):
        assert other - one >= 0.03 * judging.REST


def test_what_takes_long_looks_at_less(asked, monkeypatch):
    monkeypatch.setattr(judging, "REST", 0)
    cuts = iter(range(60 * SECOND, 1 << 62, SECOND))
    judge = asked(lambda: reading(next(cuts)), takes=4.0)
    settled(judge, lambda _: len(judge.questions) >= 8)
    spans = [int(until) - int(since) for since, until, _ in judge.questions]
    assert spans[0] == judging.MOST_NS
    assert sorted(spans, reverse=True) == spans
    assert spans[-1] == judging.LEAST_NS


def test_what_does_not_grow_is_not_judged_again(asked):
    judge = asked(lambda: reading(SECOND))
    settled(judge, ended)
    time.sleep(0.2)
    assert len(judge.questions) == 1


def test_a_recording_that_has_ended_is_judged_as_a_whole_once(asked):
    state = [reading(60 * SECOND)]
    judge = asked(lambda: state[-1])
    settled(judge, ended)
    state.append(Snapshot(state=State.COMPLETE, start_ns=0, cut_ns=60 * SECOND))
    settled(judge, lambda verdict: verdict.until_ns is None)
    judge._thread.join(5)
    assert not judge._thread.is_alive()
    assert [question[:2] for question in judge.questions][1:] == [(None, None)]


def test_a_run_that_fails_leaves_the_older_verdict(asked):
    cuts = iter(range(SECOND, 1 << 62, SECOND))
    judge = asked(lambda: reading(next(cuts)))
    settled(judge, ended)
    judge.says = "the file is gone"
    verdict = settled(judge, lambda verdict: verdict.state is JudgeState.FAILED)
    assert verdict.sentence == "the file is gone"
    assert verdict.diagnosis == Diagnosis()


# The process


def speaking(monkeypatch, tmp_path, text):
    """Let another program stand for the interpreter that diagnoses."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setattr(judging.sys, "executable", str(program))
    return lambda: Snapshot(state=State.COMPLETE, cut_ns=1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("exit 3", "ended with code 3 and said nothing"),
        ("echo '{\"diagnosis\": 5}'", "what nobody understands"),
        ("echo nonsense", "what nobody understands"),
        ('echo \'{"failed": "it is so"}\'', "it is so"),
        ("kill -9 $$", "ended with code -9"),
    ],
)
def test_a_process_that_fails_is_a_sentence(judged, monkeypatch, tmp_path, text, sentence):
    judge = judged("file", speaking(monkeypatch, tmp_path, text))
    verdict = settled(judge, ended)
    assert verdict.state is JudgeState.FAILED
    assert sentence in verdict.sentence


def test_progress_is_told(judged, monkeypatch, tmp_path):
    judge = judged("file", speaking(monkeypatch, tmp_path, "echo '{\"progress\": 0.5}'; sleep 60"))
    verdict = settled(judge, lambda verdict: verdict.progress == 0.5)
    assert verdict.state is JudgeState.RUNNING


def test_the_process_and_what_it_started_end_with_the_judge(judged, monkeypatch, tmp_path):
    pids = tmp_path / "pids"
    text = f"sleep 600 & echo $$ $! > {pids}; echo '{{\"progress\": 0.5}}'; wait"
    judge = judged("file", speaking(monkeypatch, tmp_path, text))
    settled(judge, lambda verdict: verdict.progress == 0.5)
    started = [int(word) for word in pids.read_text().split()]
    assert all(running(pid) for pid in started)
    judge.close()
    end = time.monotonic() + 10
    while any(running(pid) for pid in started):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert judge.verdict.state is JudgeState.RUNNING


def running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


# What is made of it


def test_a_diagnosis_comes_back_from_json_as_it_was():
    for diagnosis in (diagnoses.lossy(), diagnoses.healthy(), Diagnosis()):
        assert from_json(json.loads(json.dumps(as_json(diagnosis)))) == diagnosis


@pytest.mark.parametrize("bad", [None, [], {}, 3, {"ledger": 1}])
def test_what_is_no_diagnosis_is_refused(bad):
    with pytest.raises(ValueError, match="expected a diagnosis"):
        from_json(bad)


def test_queues_that_findings_are_about():
    diagnosis = diagnoses.lossy()
    assert queue_texts(diagnosis, QUEUES) == {
        ("cpx", "net0", "rx0"): "R5d guest's vCPUs did not run"
    }
    (finding,) = diagnosis.findings
    finding.queue = ""
    finding.direction = "tx"
    assert set(queue_texts(diagnosis, QUEUES)) == {("cpx", "net0", "tx0")}
    finding.direction, finding.device = "none", ""
    assert set(queue_texts(diagnosis, QUEUES)) == {
        ("cpx", "net0", "rx0"),
        ("cpx", "net0", "tx0"),
        ("cpx", "disk0", "req0"),
    }
    finding.vm = ""
    assert queue_texts(diagnosis, QUEUES) == {}
    assert queue_texts(None, QUEUES) == {}


def test_more_findings_of_a_queue_are_counted():
    diagnosis = diagnoses.lossy()
    other = diagnoses.shaped()
    other.queue = "rx0"
    diagnosis.findings.append(other)
    assert queue_texts(diagnosis, QUEUES)["cpx", "net0", "rx0"].endswith("did not run +1")


def test_a_code_that_nobody_knows_has_its_cause():
    (finding,) = diagnoses.lossy().findings
    finding.code, finding.cause = "X1", "a reason"
    assert short_text(finding) == "X1 a reason"
