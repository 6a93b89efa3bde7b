"""``vtrace redact``: the same report and the same findings under other names."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from parsers.tracefile import TraceWriter, open_trace
from tests.requests import devices
from vtrace.errors import ExitCode

EXAMPLES = Path(__file__).parents[2] / "examples" / "traces"
TRACES = ["quiet", "ringfull", "starving"]


def back(value, mapping):
    """Return a value with its original names."""
    names = {new: old for known in mapping.values() for new, old in known.items()}

    def turned(one):
        if isinstance(one, dict):
            return {turned(key): turned(each) for key, each in one.items()}
        if isinstance(one, list):
            return [turned(each) for each in one]
        if isinstance(one, str):
            for new in sorted(names, key=len, reverse=True):
                one = one.replace(new, names[new])
        return one

    return turned(value)


@pytest.fixture
def redact(vtrace, tmp_path):
    def run(path, *options):
        out, table = tmp_path / "out.vtrace", tmp_path / "map.json"
        done = vtrace("redact", path, "-w", out, "--map", table, *options)
        assert done.code == 0, done.err
        assert "nothing of the original found" in done.err
        assert not done.out
        return out, json.loads(table.read_text()), done

    return run


def rows(vtrace, verb, path, *options):
    done = vtrace(verb, "--json", *options, path)
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.lines] if verb != "report" else json.loads(done.out)
    for one in found if isinstance(found, list) else [found]:
        one.pop("source", None)
    return found


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("verb", ["report", "diagnose", "lifecycles", "packets", "drops", "exits"])
def test_bundled_recordings_say_the_same(name, verb, vtrace, redact):
    path = EXAMPLES / f"{name}.vtrace"
    out, mapping, _ = redact(path)
    told = lambda path: (  # noqa: E731
        json.loads(vtrace("diagnose", "--json", path).out)
        if verb == "diagnose"
        else rows(vtrace, verb, path)
    )
    before, after = told(path), told(out)
    if isinstance(before, dict):
        before.pop("source", None), after.pop("source", None)
    # Nothing was dropped where nothing was lost.
    assert before or verb == "drops"
    assert not before or json.dumps(before) != json.dumps(after)
    assert len(before) == len(after)
    without = lambda value: json.dumps(value, sort_keys=True)  # noqa: E731
    assert without(back(after, mapping)) == without(before)


def test_a_simulated_recording_with_drops_and_exits(busy, vtrace, redact):
    out, mapping, done = redact(busy)
    before, after = rows(vtrace, "report", busy), rows(vtrace, "report", out)
    assert json.dumps(back(after, mapping), sort_keys=True) == json.dumps(before, sort_keys=True)
    assert "left out" not in done.err
    with open_trace(busy) as one, open_trace(out) as other:
        for old, new in zip(one.batches(), other.batches(), strict=True):
            for column in old.columns:
                assert np.array_equal(old[column], new[column])


def test_requests_are_the_same_without_their_data(vtrace, redact, tmp_path):
    made, _ = devices.story()
    path = made.write(tmp_path / "run.vtrace")
    out, mapping, _ = redact(path)
    before, after = rows(vtrace, "requests", path), rows(vtrace, "requests", out)
    after = back(after, mapping)
    assert len(before) == len(after) > 5
    free = {"vm", "device", "mac", "detail"}
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in old.items() if k not in free} == {
            k: v for k, v in new.items() if k not in free
        }


def test_data_of_disks_and_ports_is_gone(vtrace, redact, tmp_path):
    made, _ = devices.story()
    path = made.write(tmp_path / "run.vtrace")
    out, _, _ = redact(path)
    text = b""
    with open_trace(out) as trace:
        for batch in trace.batches():
            text += batch.snaps.data.tobytes()
    with open_trace(path) as trace:
        whole = b"".join(batch.snaps.data.tobytes() for batch in trace.batches())
    assert b"org.qemu" not in text
    assert sum(map(bool, text)) < sum(map(bool, whole))


def test_what_it_writes_is_for_the_owner_alone_and_nothing_else_is_left(redact, tmp_path):
    out, mapping, done = redact(EXAMPLES / "quiet.vtrace")
    for path in (out, tmp_path / "map.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["map.json", "out.vtrace"]
    assert mapping["VM"] == {"vm1": "web1"}
    assert "replaced: VM 1, device 2, host 1" in done.err
    assert "kept: times" in done.err
    for secret in (b"web1", b"mon_iothread", b"udptool"):
        assert secret not in out.read_bytes()


def test_a_leak_leaves_no_file(vtrace, tmp_path, monkeypatch):
    from vtrace.redact import redactor, shapes

    # The name is known from the queues, and a rule lets it through.
    careless = shapes.listed(shapes.record({"name": shapes.number, "pid": shapes.number}))

    def let_through(value, names, where):
        return [{**one, "name": "web1"} for one in careless(value, names, where)]

    monkeypatch.setitem(redactor.SECTIONS, "vms", let_through)
    out = tmp_path / "out.vtrace"
    done = vtrace("redact", EXAMPLES / "quiet.vtrace", "-w", out, "--map", tmp_path / "m")
    assert done.code == ExitCode.FINDING
    assert 'the name "web1" (VM) stands in "web1"' in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_payload_that_is_left_leaves_no_file(vtrace, tmp_path, monkeypatch):
    from vtrace.redact import frames

    monkeypatch.setattr(
        frames, "rewrite", lambda snaps, spans, tables: (snaps.data.copy(), snaps.data == 300)
    )
    done = vtrace("redact", EXAMPLES / "quiet.vtrace", "-w", tmp_path / "out.vtrace")
    assert done.code == ExitCode.FINDING
    assert "stands in the captured bytes" in done.err
    assert list(tmp_path.iterdir()) == []


def test_sections_that_nobody_knows_are_left_out_and_said(vtrace, redact, tmp_path):
    path = tmp_path / "new.vtrace"
    with open_trace(EXAMPLES / "quiet.vtrace") as trace, TraceWriter(path) as writer:
        for batch in trace.batches():
            batch.meta = {**batch.meta, "telepathy": {"of": "web1"}}
            writer.write(batch)
    out, _, done = redact(path)
    assert "left out, for want of a rule: telepathy" in done.err
    with open_trace(out) as trace:
        trace.scan()
        assert "telepathy" not in trace.metadata


def test_a_salt_makes_two_recordings_comparable(vtrace, tmp_path):
    outs = [tmp_path / "a.vtrace", tmp_path / "b.vtrace"]
    for name, out in zip(("quiet", "starving"), outs, strict=True):
        assert vtrace("redact", EXAMPLES / f"{name}.vtrace", "-w", out, "--salt", "s").code == 0
    reports = [rows(vtrace, "report", out) for out in outs]
    assert reports[0]["queues"][0]["vm"] == reports[1]["queues"][0]["vm"] != "web1"


def test_a_cut_recording_is_redacted_as_far_as_it_goes(vtrace, tmp_path):
    path, out = tmp_path / "cut.vtrace", tmp_path / "out.vtrace"
    whole = (EXAMPLES / "ringfull.vtrace").read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    done = vtrace("redact", path, "-w", out)
    assert done.code == ExitCode.INPUT
    assert "nothing of the original found" in done.err
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-", "-w", "x"], "give files, not -"),
        (["IN", "-w", "-"], "give files, not -"),
        (["IN", "-w", "IN"], "is the recording itself"),
        (["IN", "-w", "x", "--map", "IN"], "write the map to another file"),
        (["IN", "-w", "x", "--keep", "all"], "invalid choice"),
        (["IN"], "-w"),
        (["IN", "-w", "/nowhere/x"], "cannot be written"),
        (["IN", "-w", "x", "--map", "/nowhere/m"], "cannot be written"),
    ],
)
def test_usage(arguments, sentence, vtrace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = str(EXAMPLES / "quiet.vtrace")
    done = vtrace("redact", *(known if one == "IN" else one for one in arguments))
    assert done.code in (ExitCode.USAGE, ExitCode.FINDING)
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
