"""The verb: what it reads, chooses, prints, and with which code it ends."""

import argparse
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from parsers.batch import EventBatch
from parsers.tracefile import TraceWriter, open_trace
from tests.cli import diagnoses
from tests.cli.recordings import REALTIME, udp
from tests.cli.story import RX, START, TX, Story, small
from vtrace.cli.attached import FileSink, Until, unnamed
from vtrace.cli.diagnose import choose, codes_of, matches
from vtrace.cli.output import Style
from vtrace.cli.seconds import Second, Seconds, line_of, second_json
from vtrace.diagnose.prose.headline import Times
from vtrace.errors import ExitCode, UsageError
from vtrace.model import Kind

SECOND = 1_000_000_000


def published(part=None):
    text = (files("vtrace") / "schemas" / "diagnose.json").read_text()
    whole = jsonschema.Draft202012Validator(json.loads(text))
    return whole.evolve(schema=whole.schema["$defs"][part]) if part else whole


# A recording


def test_a_verdict_for_scripts(told, vtrace):
    done = vtrace("diagnose", "--json", told)
    assert (done.code, done.err) == (0, "")
    verdict = json.loads(done.out)
    published().validate(verdict)
    assert verdict["source"] == str(told)
    assert verdict["protocol"] == "udp"
    assert verdict["start_ns"] == START
    assert verdict["anchor_ns"] == REALTIME - START
    assert verdict["loss"]["lost"] == 0
    lost = {finding["code"]: finding["packets"] for finding in verdict["findings"]}
    assert lost["T11"] == 1
    assert sum(count for code, count in lost.items() if code.startswith("R5")) == 1
    assert verdict["unexplained"] == 0


def test_a_verdict_as_text(told, vtrace):
    done = vtrace("diagnose", "--utc", told)
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].startswith("2 UDP packets were lost: 1 of 2 from cpx: ")
    for words in (
        "1 of 3 towards cpx: ",
        "T11  1 packet",
        "FULL_RING",
        "ledger of UDP packets",
        "docs/findings/T11.md",
    ):
        assert words in done.out
    assert "\x1b" not in done.out
    assert all(len(line) <= 80 for line in done.lines if not line.startswith(" " * 12))


def test_of_a_stretch(told, vtrace):
    verdict = json.loads(vtrace("diagnose", "--json", "--since", "25us", told).out)
    assert [finding["code"] for finding in verdict["findings"]] == ["T11"]


def test_of_a_vm_or_device(told, vtrace):
    verdict = json.loads(vtrace("diagnose", "--json", "--device", "net0", told).out)
    assert {row["device"] for row in verdict["ledger"]} == {"net0"}
    assert verdict["findings"]
    assert vtrace("diagnose", "--vm", "cpx", told).out == vtrace("diagnose", told).out
    for option, words in (
        ("--vm", "no vm db01 in it; there is cpx"),
        ("--device", "no device db01"),
    ):
        done = vtrace("diagnose", option, "db01", told)
        assert done.code == ExitCode.USAGE
        assert words in done.err


def test_from_stdin(told, root, vtrace):
    cat = subprocess.Popen(["cat", told], stdout=subprocess.PIPE)
    done = subprocess.run(
        [sys.executable, "-m", "vtrace", "diagnose", "--utc", "-"],
        cwd=root,
        stdin=cat.stdout,
        capture_output=True,
        timeout=120,
        check=True,
    )
    cat.stdout.close()
    assert cat.wait(60) == 0
    assert done.stdout.decode() == vtrace("diagnose", "--utc", told).out


def test_the_configuration_alone(told, vtrace):
    done = vtrace("diagnose", "--config", told)
    assert done.code == 0
    assert "R5" not in done.out
    assert "does not say how the host was configured" in done.out


@pytest.mark.parametrize(
    ("codes", "code"),
    [("any", 1), ("R5", 1), ("R5a,T11", 1), ("T11", 1), ("T10,R1", 0), ("C-mtu", 0), ("T1", 0)],
)
def test_fail_on(codes, code, told, vtrace):
    done = vtrace("diagnose", "--fail-on", codes, told)
    assert done.code == code
    assert done.lines[0].startswith("2 UDP packets were lost")


def test_fail_on_says_more_than_loss_does(tmp_path, vtrace):
    story = small()
    story.lost = 50
    path = story.write(tmp_path / "lossy.vtrace", 9)
    assert vtrace("diagnose", "--max-loss", "0", path).code == ExitCode.LOSS
    done = vtrace("diagnose", "--max-loss", "0", "--fail-on", "any", path)
    assert done.code == ExitCode.FINDING
    assert "more than --max-loss 0 allows" in done.err
    assert "vtrace lost 50 records" in done.out


@pytest.mark.parametrize("data", [b"", b"no recording" * 99, b"ARROW1\0\0" + b"\0" * 64])
@pytest.mark.parametrize("options", [[], ["--json"], ["--watch"]])
def test_rubbish_is_one_sentence(data, options, tmp_path, vtrace):
    path = tmp_path / "rubbish.vtrace"
    path.write_bytes(data)
    os.utime(path, (0, 0))
    done = vtrace("diagnose", *options, path)
    assert done.code == ExitCode.INPUT
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "rubbish.vtrace" in done.err


def test_a_recording_that_was_cut_short_is_judged_as_far_as_it_goes(told, tmp_path, vtrace):
    cut = tmp_path / "cut.vtrace"
    cut.write_bytes(told.read_bytes()[:-700])
    done = vtrace("diagnose", cut)
    assert done.code == ExitCode.INPUT
    assert done.out
    assert "cut.vtrace" in done.err


def test_a_broken_pipe_is_quiet(told, root):
    process = subprocess.Popen(
        [sys.executable, "-m", "vtrace", "diagnose", "-v", told],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(120) == 0
    assert err == b""


def test_a_terminal_has_colours_unless_it_must_not(told, root):
    assert b"\x1b[1m" in on_a_terminal(root, "diagnose", told)
    assert b"\x1b" not in on_a_terminal(root, "diagnose", told, NO_COLOR="1")
    assert b"\x1b" not in on_a_terminal(root, "diagnose", "--no-color", told)


def on_a_terminal(root, *words, **environment):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **environment}
    if "NO_COLOR" not in environment:
        environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "vtrace", *map(str, words)],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        env=environment,
    )
    os.close(theirs)
    data = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        data += part
    os.close(ours)
    assert process.wait(120) == 0
    return data


# Usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a recording"),
        (["x", "-r", "y"], "FILE once"),
        (["--fail-on", "R99", "x"], "'R99' is no code"),
        (["--fail-on", "", "x"], "is no code"),
        (["-w", "y", "x"], "--write is for this host"),
        (["--duration", "1s", "x"], "--duration is for this host"),
        (["--duration", "soon"], "no duration"),
        (["--guest-cmd", "ssh cpx", "x"], "--guest-cmd is for this host"),
        (["--duration", "1s", "-w", "-"], "-w needs a file"),
        (["--watch", "--config"], "one look"),
        (["--watch", "--since", "1s"], "--since is for a recording"),
        (["--protocol", "tcp", "x"], "--protocol"),
        (["--since", "noon", "x"], "no time"),
        (["--max-loss", "many", "x"], "--max-loss"),
    ],
)
def test_wrong_usage(arguments, words, vtrace, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    done = vtrace("diagnose", *arguments)
    assert done.code == ExitCode.USAGE
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert words in done.err


def test_codes_and_their_beginnings():
    assert codes_of("R5") == {"R5a", "R5b", "R5c", "R5d", "R5e", "R5f"}
    assert codes_of("R1") == {"R1"}
    assert codes_of("R10, T1") == {"R10", "T1"}
    assert codes_of("C-mtu,any") == {"C-mtu", "any"}
    for wrong in ("R", "r5a", "R5.", "R5aa", "C"):
        with pytest.raises(argparse.ArgumentTypeError, match="no code"):
            codes_of(wrong)


def test_what_matches():
    diagnosis = diagnoses.lossy()
    assert matches(diagnosis, {"any"})
    assert matches(diagnosis, {"R5d"})
    assert not matches(diagnosis, {"R5a"})
    assert not matches(diagnosis, set())
    assert matches(diagnosis, {"C-txqueuelen"})
    assert not matches(diagnoses.healthy(), {"any"})
    # Of the configuration alone, its points are what counts.
    assert matches(diagnoses.healthy(), {"any"}, config=True)
    assert not matches(diagnosis, {"R5d"}, config=True)


def test_what_is_left_of_a_choice():
    diagnosis = diagnoses.worst()
    host = diagnoses.shaped()
    host.vm, host.device, host.code = "", "eth0", "R1"
    diagnosis.findings.append(host)
    choose(diagnosis, "cpx", None)
    assert len(diagnosis.findings) == 4
    choose(diagnosis, None, ["eth0"])
    assert diagnosis.findings == [host]
    assert (diagnosis.ledger, diagnosis.unexplained) == ([], 0)
    with pytest.raises(UsageError, match=r"no vm b\\x1b in it; there is none"):
        choose(diagnosis, "b\x1b", None)


# A line a second


def seconds_of(story, cuts=(), **options):
    seconds = Seconds(**options)
    done = [second for batch in story.batches(*cuts) for second in seconds.feed(batch)]
    return [*done, *seconds.finish()]


def three_seconds():
    story = Story()
    for at in (0, 10, 20, SECOND, SECOND + 10, 2 * SECOND + 5):
        story.add(at, Kind.ENQUEUE, udp(1, length=100), queue=RX, packet=at + 1, length=100)
    story.add(30, Kind.DELIVER, udp(2, length=100), queue=TX, packet=7777, length=100)
    story.add(40, Kind.DELIVER, bytes(60), queue=TX, packet=7778, length=60)
    return story


@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 3, 4, 5, 6, 7)])
def test_packets_of_each_second(cuts):
    done = seconds_of(three_seconds(), cuts)
    assert [second.start_ns for second in done] == [START, START + SECOND, START + 2 * SECOND]
    assert [second.towards["cpx", "net0"] for second in done] == [3, 2, 1]
    # Of two frames from the guest one is UDP.
    assert [second.away["cpx", "net0"] for second in done] == [1, 0, 0]
    assert sum(second.away.total() for second in seconds_of(three_seconds(), protocol="all")) == 2
    other = seconds_of(three_seconds(), vm="db01")
    assert [second.towards.total() for second in other] == [0, 0, 0]


def test_a_second_without_packets_ends_by_its_counters():
    (first,) = three_seconds().batches()
    seconds = Seconds()
    assert len(list(seconds.feed(first))) == 2
    hi_ns = START + 5 * SECOND
    sampled = EventBatch.empty({"counters": {"link/tap0": {"lo_ns": hi_ns - 9, "hi_ns": hi_ns}}})
    assert [second.towards.total() for second in seconds.feed(sampled)] == [1, 0, 0]
    rubbish = EventBatch.empty({"counters": {"a": 1, "b": {"hi_ns": "x"}, "missing": ["x"]}})
    assert list(seconds.feed(rubbish)) == []


def test_a_loss_is_counted_in_its_second(root):
    with open_trace(root / "examples" / "traces" / "ringfull.vtrace") as trace:
        seconds = Seconds()
        done = [second for batch in trace.batches() for second in seconds.feed(batch)]
        done += seconds.finish()
    whole = [second for second in done if second.refused]
    assert len(whole) == 1
    assert whole[0].by_code == {"R5d": whole[0].refused}
    assert sum(second.towards.total() for second in done) == 1500


def test_what_has_no_cause_is_counted_too():
    second = Second(start_ns=0, refused=5)
    assert second.by_code == {"": 5}
    second.findings = [diagnoses.stopped()]
    second.refused = 1772
    assert second.by_code == {"R5d": 1771, "": 1}


TIMES = Times(start_ns=START, anchor_ns=None)


def test_a_line():
    second = Second(start_ns=START + SECOND)
    assert line_of(second, TIMES, Style(False), 80) == "+1  no packets"
    second.towards["cpx", "net0"] = 61_204
    second.away["cpx", "net0"] = 1_100
    assert line_of(second, TIMES, Style(False), 80) == "+1  cpx net0 rx 61,204/s tx 1,100/s"
    second.findings = [diagnoses.stopped(), diagnoses.shaped()]
    second.lost_records = 3
    assert line_of(second, TIMES, Style(False), 200) == (
        "+1  cpx net0 rx 61,204/s tx 1,100/s  LOST 2,119: R5d 1,771, R4 348  "
        "the guest's vCPUs did not run  vtrace lost 3 records"
    )
    published("second").validate(second_json(second))


def test_a_line_with_a_stall():
    second = Second(start_ns=START, findings=[diagnoses.interrupt()])
    line = line_of(second, TIMES, Style(False), 80)
    assert line == "+0  no packets  S1: an interrupt was lost or not served"


def test_a_line_of_many_devices_keeps_to_the_width_and_says_so():
    second = Second(start_ns=START, findings=[diagnoses.stopped()])
    for number in range(50):
        second.towards[f"vm{number}\x1b", "net0"] = number
    line = line_of(second, TIMES, Style(False), 120)
    assert len(line) <= 120
    assert line.isprintable()
    assert "vm49\\x1b net0 rx 49/s" in line
    assert " more  LOST 1,771" in line


@pytest.mark.parametrize("option", ["--utc", "--json"])
def test_watching_a_recording(option, tmp_path, vtrace):
    path = three_seconds().write(tmp_path / "three.vtrace", 4)
    done = vtrace("diagnose", "--watch", option, path)
    assert (done.code, done.err) == (0, "")
    if option == "--json":
        lines = [json.loads(line) for line in done.lines]
        for line in lines:
            published("watched").validate(line)
        assert [line["second"]["devices"][0]["rx"] for line in lines[:-1]] == [3, 2, 1]
        alone = json.loads(vtrace("diagnose", "--json", path).out)
        assert lines[-1]["diagnosis"] == alone
        return
    assert [line.split("  ")[0] for line in done.lines[:3]] == ["12:00:00", "12:00:01", "12:00:02"]
    assert done.lines[3] == ""
    assert "\n".join(done.lines[4:]) + "\n" == vtrace("diagnose", option, path).out


def test_watching_a_recording_that_grows(tmp_path, root):
    first, *rest = three_seconds().batches(3, 4, 6)
    path = tmp_path / "grows.vtrace"
    with TraceWriter(path) as writer:
        writer.write(first)
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "vtrace", "diagnose", "--watch", "--utc", path],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        # It waits for more: what it prints comes from batches that were not there before.
        time.sleep(1.0)
        for batch in rest:
            writer.write(batch)
        line = process.stdout.readline()
        assert "rx 3/s" in line
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(120) == 0
    assert "rx 1/s" in out


def test_ctrl_c_ends_watching_with_the_verdict(tmp_path, root):
    first, *_ = three_seconds().batches(7)
    path = tmp_path / "grows.vtrace"
    with TraceWriter(path) as writer:
        writer.write(first)
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "vtrace", "diagnose", "--watch", path],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "rx 3/s" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "No UDP packet was lost" in out


# This host


def test_the_configuration_of_this_host(vtrace):
    done = vtrace("diagnose", "--config", "--json")
    assert done.code == 0
    verdict = json.loads(done.out)
    published().validate(verdict)
    assert verdict["source"] == "live"
    assert verdict["findings"] == []


AS_NOBODY = """
import os, sys
import probes.attach, probes.preflight, vtrace.cli.attached, vtrace.recorder.live
from vtrace.cli import main
if os.geteuid() == 0:
    # Loaded before: nobody may not be able to read this clone.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(["diagnose", "--duration", "1s"]))
"""


def test_live_without_privilege_is_one_sentence(root):
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == ExitCode.PRIVILEGE
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "run as root" in done.stderr


def arguments(**given):
    return argparse.Namespace(**{"duration": None, "size": None, "write": None, **given})


def test_until_a_time_a_size_or_a_signal():
    with Until(arguments(duration=0.2)) as until:
        until.begin()
        assert not until(5, 10**9 - 1)
        time.sleep(0.25)
        assert until(5, 0)
        assert not until.full
    with Until(arguments()) as until:
        assert until(0, 10**9)
        assert until.full
    with Until(arguments(write="x")) as until:
        assert not until(0, 10**12)
    with Until(arguments(size=100)) as until:
        assert until(0, 100)
        before = signal.getsignal(signal.SIGINT)
        assert not until.interrupted
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(0.3)
        assert until.interrupted
        assert until(0, 0)
    assert signal.getsignal(signal.SIGINT) is not before


def test_a_recording_without_a_name(told):
    with unnamed() as file:
        assert os.fstat(file.fileno()).st_nlink == 0
        sink = FileSink(file)
        with open_trace(told) as trace:
            for batch in trace.batches():
                sink.write(batch)
        assert sink.written_bytes > 1000
        sink.close()
        file.seek(0)
        with open_trace(file) as trace, open_trace(told) as first:
            again, before = list(trace.batches()), list(first.batches())
            assert trace.complete
    assert len(again) == len(before)
    for one, other in zip(again, before, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one.columns)


def test_no_place_for_a_recording(monkeypatch):
    from vtrace.errors import VtraceError

    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(VtraceError, match=r"no place for the recording: /nowhere: .*-w FILE"):
        unnamed()
