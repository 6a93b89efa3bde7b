"""``vtrace export``: where it goes, what it refuses, what it leaves behind."""

import os
import re
import stat
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.cli import recordings
from tests.cli.story import small
from tests.generator import Pair, Scenario, lose_bursts, simulate
from vtrace.errors import ExitCode
from vtrace.export import FORMATS, SUFFIXES, TABULAR

NAMES = ("drops", "exits", "lifecycles", "packets", "queues", "requests")


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def options_for(form):
    return ["--table", "packets"] if form in TABULAR else []


@pytest.mark.parametrize(("suffix", "form"), SUFFIXES.items())
def test_the_name_says_the_format(told, vtrace, tmp_path, suffix, form):
    by_name, by_option = tmp_path / f"out{suffix.upper()}", tmp_path / "out"
    assert vtrace("export", told, *options_for(form), "-o", by_name).code == 0
    assert vtrace("export", told, *options_for(form), "--to", form, "-o", by_option).code == 0
    assert by_name.read_bytes() == by_option.read_bytes()


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_belongs_to_its_user_and_replaces_an_older_one(told, vtrace, tmp_path, form):
    out, link = tmp_path / "out", tmp_path / "link"
    out.write_bytes(b"older")
    out.chmod(0o644)
    link.symlink_to(out)
    done = vtrace("export", told, *options_for(form), "--to", form, "-o", link)
    assert (done.code, done.out) == (0, "")
    assert "5 packets" in done.err or "4 chains" in done.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_bytes() != b"older"
    assert link.is_symlink()
    assert sorted(names_in(tmp_path)) == ["link", "out"]


@pytest.mark.parametrize("form", TABULAR)
def test_all_tables_go_into_a_folder(told, vtrace, tmp_path, form):
    out = tmp_path / "tables"
    for _ in range(2):
        assert vtrace("export", told, "--to", form, "-o", out).code == 0
        assert sorted(names_in(out)) == [f"{name}.{form}" for name in NAMES]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    few = tmp_path / "few"
    done = vtrace("export", told, "--to", form, "-o", few, "--table", "drops", "--table", "queues")
    assert done.err.strip() == "vtrace: 2 drops, 2 queues"
    assert sorted(names_in(few)) == [f"drops.{form}", f"queues.{form}"]
    # One table goes into a folder that is there, too.
    assert vtrace("export", told, "--to", form, "-o", few, "--table", "exits").code == 0
    assert f"exits.{form}" in names_in(few)


@pytest.mark.parametrize("form", FORMATS)
def test_stdout_has_the_same_bytes(told, vtrace, tmp_path, form):
    out = tmp_path / "out"
    assert vtrace("export", told, *options_for(form), "--to", form, "-o", out).code == 0
    program = "import sys; from vtrace.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["export", "-", *options_for(form), "--to", form, "-o", "-"]
    with told.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            stdin=file, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The source is named in some: stdin there.
    assert abs(len(done.stdout) - out.stat().st_size) < 500
    assert done.stdout[:4] == out.read_bytes()[:4]


def test_a_pipe_is_written_to_and_stays(told, vtrace, tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    assert vtrace("export", told, "--to", "pcapng", "-o", pipe).code == 0
    reader.join(10)
    assert found[0][:4] == b"\x0a\x0d\x0d\x0a"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say where to with -o"),
        (["-o", "out"], "does not say which format"),
        (["-o", "out.parquet"], "choose one with --table"),
        (["--to", "csv", "-o", "-"], "choose one with --table"),
        (["-o", "o.csv", "--table", "drops", "--table", "exits"], "2 tables need a folder"),
        (["-o", "out.csv", "--table", "dropped"], "there is no table dropped"),
        (["-o", "out.pcapng", "--table", "drops"], "--table is for parquet, csv, jsonl"),
        (["-o", "out.csv", "--table", "exits", "--queue", "rx0"], "has no device and no queue"),
        (["-o", "out.pcapng", "-Y", "outside_ns > 1"], "outside_ns"),
        (["--to", "csv", "-o", "out", "-Y", "verdict == dropped"], "for table lifecycles"),
        (["-o", "out.pcapng", "--since", "yesterday"], "is no time"),
        (["-o", "out.pcapng", "--max-loss", "x"], "--max-loss"),
        (["--to", "xls", "-o", "x"], "invalid choice"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    told, vtrace, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    done = vtrace("export", told, *arguments)
    assert done.code == ExitCode.USAGE
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert names_in(tmp_path) == []


def test_a_window_of_a_pipe_has_no_queues(told, vtrace, tmp_path):
    done = vtrace("export", "-", "--to", "csv", "-o", tmp_path / "t", "--since", "1us")
    assert done.code == ExitCode.USAGE
    assert "the recording twice" in done.err


def test_device_and_queue_leave_the_exits_out(told, vtrace, tmp_path):
    out = tmp_path / "tables"
    assert vtrace("export", told, "--to", "csv", "-o", out, "--queue", "rx0").code == 0
    assert sorted(names_in(out)) == [f"{name}.csv" for name in NAMES if name != "exits"]


def test_the_recording_itself_is_not_overwritten(told, vtrace):
    before = told.read_bytes()
    done = vtrace("export", told, "--to", "pcapng", "-o", told)
    assert done.code == ExitCode.USAGE
    assert told.read_bytes() == before


@pytest.mark.parametrize("form", FORMATS)
def test_what_cannot_be_read_leaves_nothing(vtrace, tmp_path, form):
    out = tmp_path / "out"
    for path in (tmp_path / "missing.vtrace", tmp_path):
        done = vtrace("export", path, *options_for(form), "--to", form, "-o", out)
        assert done.code == ExitCode.INPUT
        assert names_in(tmp_path) == []


@pytest.mark.parametrize("form", FORMATS)
def test_what_fails_on_the_way_leaves_what_was_there(told, vtrace, tmp_path, form, monkeypatch):
    from vtrace.session import Session

    whole = Session.chunks

    def broken(self):
        yield next(whole(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "chunks", broken)
    out = tmp_path / "out"
    out.write_text("older")
    done = vtrace("export", told, *options_for(form), "--to", form, "-o", out)
    assert done.code == ExitCode.INTERRUPTED
    assert names_in(tmp_path) == ["out"]
    assert out.read_text() == "older"
    if form in TABULAR:
        folder = tmp_path / "folder"
        assert vtrace("export", told, "--to", form, "-o", folder).code == ExitCode.INTERRUPTED
        assert not folder.exists()


@pytest.mark.parametrize(
    ("out", "code", "said"),
    [
        ("no/such/out.pcapng", ExitCode.FINDING, "No such file"),
        ("file/out.pcapng", ExitCode.INPUT, "Not a directory"),
    ],
)
def test_a_place_that_cannot_be_written(told, vtrace, tmp_path, out, code, said):
    (tmp_path / "file").write_text("")
    done = vtrace("export", told, "-o", tmp_path / out)
    assert done.code == code
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    done = vtrace("export", told, "--to", "csv", "-o", tmp_path / "file")
    assert done.code == ExitCode.FINDING
    assert "a folder for the tables cannot be made" in done.err


def test_a_full_disk_is_said(told, vtrace):
    done = vtrace("export", told, "--to", "pcapng", "-o", "/dev/full")
    assert done.code == ExitCode.FINDING
    assert "No space left" in done.err


@pytest.mark.parametrize("form", FORMATS)
def test_a_recording_cut_short_is_exported_as_far_as_it_goes(busy, vtrace, tmp_path, form):
    cut = tmp_path / "cut.vtrace"
    cut.write_bytes(busy.read_bytes()[: busy.stat().st_size // 2])
    out = tmp_path / "out"
    done = vtrace("export", cut, *options_for(form), "--to", form, "-o", out)
    assert done.code == ExitCode.INPUT
    assert "without a footer" in done.err or "byte" in done.err
    assert out.stat().st_size > 1000


@pytest.mark.parametrize("form", FORMATS)
def test_loss_is_said_and_may_be_too_much(vtrace, tmp_path, form):
    scenario = Scenario(pairs=(Pair(),), duration_ns=300_000, seed=5)
    recording = lose_bursts(simulate(scenario), np.random.default_rng(1), 2, 30)
    path = recordings.write(tmp_path / "lossy.vtrace", recording, size=300)
    arguments = ["export", path, *options_for(form), "--to", form, "-o", tmp_path / "out"]
    done = vtrace(*arguments)
    assert done.code == 0
    assert "lost" in done.err
    (tmp_path / "out").unlink()
    done = vtrace(*arguments, "--max-loss", "0")
    assert done.code == ExitCode.LOSS
    # What was read is there all the same, as with the other verbs.
    assert (tmp_path / "out").stat().st_size > 500


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_damage_ends_in_no_traceback(told, vtrace, tmp_path, form, seed):
    data = bytearray(told.read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(8, len(data), 12).tolist():
        data[at] ^= 1 << random.integers(0, 8)
    path = tmp_path / "damaged.vtrace"
    path.write_bytes(data)
    done = vtrace("export", path, *options_for(form), "--to", form, "-o", tmp_path / "out")
    assert done.code in (0, ExitCode.INPUT), done.err
    assert "bug" not in done.err


@pytest.mark.parametrize("form", FORMATS)
def test_any_records_and_names_can_be_exported(vtrace, tmp_path, form):
    """Records of any bytes, as a damaged or hostile file may hold them."""
    from parsers import wire
    from parsers.batch import EventBatch
    from parsers.tracefile import TraceWriter
    from vtrace.model import Kind

    random = np.random.default_rng(7)
    path = tmp_path / "hostile.vtrace"
    meta = small().meta()
    meta["queues"]["4"] = {"vm": "", "device": "", "name": "", "pid": -1, "direction": "up"}
    meta["queues"]["5"] = {"vm": "\ud800=", "device": "\0", "name": "=x", "pid": 1 << 40}
    meta["threads"] = {"0": {"vcpu": 1 << 31, "comm": "\x1b", "pid": "x", "vm": 5}, "7": {}}
    meta["capture"] = {"snaplen": "all"}
    meta["host"] = {"kernel": ["\n"]}
    with TraceWriter(path) as writer:
        for number in range(6):
            raw = random.integers(0, 256, 64 * 400, np.uint8).astype(np.uint8)
            records = raw.view(wire.RECORD).copy()
            records["kind"] = random.integers(0, len(Kind) + 2, len(records))
            records["queue"] = random.integers(0, 8, len(records))
            if number % 2:
                records["time"] = np.sort(records["time"] >> np.uint64(8))
            if number % 3:
                records["packet"] %= 50
            batch = EventBatch.from_records(records)
            batch.meta = meta if number in (0, 3) else {}
            writer.write(batch)
    done = vtrace("export", path, *options_for(form), "--to", form, "-o", tmp_path / "out")
    assert done.code in (0, ExitCode.INPUT), done.err
    assert "bug" not in done.err
    if form == "pcapng":
        data = (tmp_path / "out").read_bytes()
        while data:
            size = struct.unpack_from("<I", data, 4)[0]
            assert struct.unpack_from("<I", data, size - 4)[0] == size
            data = data[size:]
    if form == "perfetto":
        from tests.export.test_perfetto import Timeline

        timeline = Timeline(tmp_path / "out")
        assert len(timeline.of("chain")) == int(re.search(r"(\d+) chains", done.err)[1])


def test_without_the_package_perfetto_the_way_out_is_said(told, vtrace, tmp_path, monkeypatch):
    for name in [*sys.modules, "perfetto.protos.perfetto.trace"]:
        if name.partition(".")[0] == "perfetto":
            monkeypatch.setitem(sys.modules, name, None)
    done = vtrace("export", told, "-o", tmp_path / "out.pftrace")
    assert done.code == ExitCode.UNSUPPORTED
    assert "pip install 'vtrace[perfetto]'" in done.err
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("form", FORMATS)
def test_only_what_a_format_needs_is_loaded(told, tmp_path, form):
    program = (
        "import sys; from vtrace.cli import main; code = main(sys.argv[1:]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr);"
        "sys.exit(code)"
    )
    heavy = {"bcc", "pandas", "scapy", "textual"} | ({"perfetto"} if form != "perfetto" else set())
    for arguments, banned in (
        (["export", "--help"], heavy | {"numpy", "numba", "pyarrow", "perfetto"}),
        (["export", told, *options_for(form), "--to", form, "-o", tmp_path / "out"], heavy),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert set(done.stderr.split()) & banned == set()
