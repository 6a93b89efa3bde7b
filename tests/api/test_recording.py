"""What a recording says of itself, in figures and in objects; and what it says of bad files."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

import vtrace as api
from parsers.tracefile import TraceWriter, open_trace
from tests.api.conftest import plain
from tests.cli.recordings import REALTIME
from vtrace.diagnose import Diagnosis, Finding, as_json
from vtrace.diagnose.findings import Certainty
from vtrace.errors import InputError, UsageError

BUNDLED = ("quiet", "ringfull", "starving", "blockio")


@pytest.fixture(params=BUNDLED)
def path(request, root):
    return root / "examples" / "traces" / f"{request.param}.vtrace"


def test_the_report_is_that_of_the_verb(path, vtrace):
    recording = api.open(path)
    assert recording.report() == json.loads(vtrace("report", path, "--json").out)
    until = json.loads(vtrace("report", path, "--json", "--until", "200ms").out)
    assert recording.report(until="200ms") == until


def test_the_verdict_is_that_of_the_verb_as_objects(path, vtrace):
    verdict = api.open(path).diagnose()
    assert isinstance(verdict, Diagnosis)
    assert all(isinstance(one, Finding) for one in verdict.findings)
    assert as_json(verdict) == json.loads(vtrace("diagnose", path, "--json").out)


def test_the_verdict_on_a_full_ring(root):
    verdict = api.open(root / "examples/traces/ringfull.vtrace").diagnose(protocol="all")
    finding = verdict.findings[0]
    assert (finding.code, finding.packets) == ("R5d", 249)
    assert finding.certainty is Certainty.PROVEN
    with pytest.raises(UsageError, match="there is udp, all"):
        api.open(root / "examples/traces/ringfull.vtrace").diagnose("tcp")


def test_times_as_timestamps(busy):
    recording = api.open(busy)
    assert recording.start == pandas.Timestamp(REALTIME, unit="ns", tz="UTC")
    assert recording.end - recording.start == recording.duration
    assert recording.duration.value == recording.end_ns - recording.start_ns
    assert recording.report()["duration_ns"] == recording.duration.value
    frame = recording.lifecycles[["kick_ns", "pop_ns"]].to_pandas()
    stamps = recording.timestamps(frame["kick_ns"])
    assert str(stamps.dtype) == "datetime64[ns, UTC]"
    assert stamps.name == "kick_ns"
    assert (stamps.isna() == frame["kick_ns"].isna()).all()
    assert 0 < stamps.isna().sum() < len(stamps)
    first = frame["pop_ns"].iloc[0]
    wall = recording.timestamps(frame["pop_ns"]).iloc[0]
    assert wall - recording.start == pandas.Timedelta(int(first) - recording.start_ns, "ns")


def test_a_recording_without_a_clock(tmp_path, busy):
    path = tmp_path / "no-clock.vtrace"
    with open_trace(busy) as trace, TraceWriter(path) as writer:
        for batch in trace.batches():
            batch.meta.pop("clock", None)
            writer.write(batch)
    recording = api.open(path)
    assert recording.start is None
    assert recording.end is None
    assert recording.duration.value > 0
    times = recording.packets["time_ns"]
    assert len(times)
    assert recording.timestamps(times).isna().all()
    with pytest.raises(UsageError, match="does not say when it was made"):
        recording.drops.between(pandas.Timestamp("2026-08-21 12:00", tz="UTC"))


def test_what_was_lost_and_what_it_knows(busy, vtrace):
    recording = api.open(busy)
    said = json.loads(vtrace("report", busy, "--json").out)["loss"]
    assert dataclasses.asdict(recording.loss) == said
    assert not recording.loss
    assert recording.complete
    assert recording.damage == ()
    sections = recording.metadata
    assert sections["host"]["hostname"] == "lab"
    sections["host"].clear()
    assert recording.metadata["host"]["hostname"] == "lab"


def test_a_file_that_is_cut_short_gives_what_can_be_read(busy, tmp_path, vtrace):
    path = tmp_path / "cut.vtrace"
    data = busy.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    recording = api.open(path)
    assert not recording.complete
    rows = vtrace("packets", path, "--json").lines
    assert plain(recording.packets.to_pandas()) == [json.loads(line) for line in rows]
    assert 0 < len(rows) < api.open(busy).packets.count()


def test_damage_is_listed_and_its_neighbours_are_as_the_verb_has_them(busy, tmp_path, vtrace):
    path = tmp_path / "hurt.vtrace"
    data = bytearray(busy.read_bytes())
    with open_trace(busy) as trace:
        entry = trace.entry(len(trace.offsets) // 2)
    at = entry.body_offset + entry.body_bytes // 2
    data[at : at + 64] = bytes(byte ^ 0x55 for byte in data[at : at + 64])
    path.write_bytes(data)
    recording = api.open(path)
    done = vtrace("lifecycles", path, "--json")
    assert done.code == 6
    wanted = [json.loads(line) for line in done.lines]
    # Twice: a second reading meets the damage at its place, too.
    assert plain(recording.lifecycles.to_pandas()) == wanted
    assert plain(recording.lifecycles.to_pandas()) == wanted
    (damage,) = recording.damage
    assert f"{damage.where}: {damage.reason}" in done.err


def test_a_file_that_grows_is_read_as_far_as_it_is_there(busy, tmp_path):
    path = tmp_path / "grows.vtrace"
    with open_trace(busy) as trace:
        batches = list(trace.batches())
    with TraceWriter(path) as writer:
        for batch in batches[: len(batches) // 2]:
            writer.write(batch)
        writer.flush()
        recording = api.open(path)
        half, end = recording.packets.count(), recording.end_ns
        assert not recording.complete
        for batch in batches[len(batches) // 2 :]:
            writer.write(batch)
    assert recording.packets.count() > half > 0
    assert recording.end_ns > end
    assert recording.complete


def test_what_cannot_be_opened_is_said_as_the_verbs_say_it(tmp_path, vtrace):
    missing, foreign, empty = (tmp_path / name for name in ("gone", "foreign", "empty"))
    foreign.write_bytes(b"\x7fELF" + bytes(100))
    empty.write_bytes(b"")
    for path in (missing, foreign, empty):
        with pytest.raises(api.VtraceError) as found:
            api.open(path)
        assert isinstance(found.value, InputError)
        assert f"vtrace: {found.value}" in vtrace("report", path).err
    with pytest.raises(InputError, match="a pipe can be read once"):
        api.open("-")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="a pipe can be read once"):
        api.open(pipe)
    with pytest.raises(UsageError, match="there is no format"):
        api.open(foreign, form="elf")


def test_a_file_that_went_away(tmp_path, busy):
    path = tmp_path / "run.vtrace"
    path.write_bytes(busy.read_bytes())
    recording = api.open(path)
    path.unlink()
    for ask in (recording.drops.count, recording.report, lambda: recording.loss):
        with pytest.raises(InputError, match="cannot be opened"):
            ask()


def test_other_tools_recordings_are_opened_too(root, vtrace):
    path = root / "tests/parsers/captures/tap0.pcap"
    recording = api.open(path)
    rows = [json.loads(line) for line in vtrace("packets", path, "--json").lines]
    assert rows
    assert plain(recording.packets.to_pandas()) == rows
    assert recording.report() == json.loads(vtrace("report", path, "--json").out)
    assert recording.duration.value == recording.report()["duration_ns"]
    assert recording.loss.received == recording.report()["loss"]["received"]
    assert recording.exits.empty
    assert api.open(path, form="pcap").packets.count() == len(rows)


def test_the_names_of_the_package():
    assert set(api.__all__) <= set(dir(api))
    for name in api.__all__:
        assert getattr(api, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        api.opne  # noqa: B018


def test_a_user_of_types_is_told_of_mistakes(tmp_path):
    # What mypy makes of it for a strict user: right names pass, wrong ones do not.
    script = tmp_path / "use.py"
    script.write_text(
        "import vtrace\n"
        "t = vtrace.open('run.vtrace')\n"
        "rows: int = t.lifecycles.where('queue == rx0').between('1s')[['queue']].count()\n"
        "code: str = t.diagnose().findings[0].code\n"
        "lost: int = t.loss.lost\n"
        "with vtrace.live(vm='web1', duration=5) as host:\n"
        "    ok: bool = host.wait(1.0)\n"
        "wrong: str = t.lifecycles.count()\n"
        "t.reports()\n"
        "t.lifecycles.merge(t.drops)\n"
        "vtrace.opne('run.vtrace')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(api.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("use.py")]
    assert [line.split(":")[1] for line in said] == ["8", "9", "10", "11"], done.stdout


def test_frames_can_be_pickled_once_read(told):
    frame = api.open(told).drops.to_pandas()
    assert pickle.loads(pickle.dumps(frame)).equals(frame)
