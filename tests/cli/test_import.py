"""``vtrace import``, and other tools' recordings wherever a verb takes one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

CAPTURES = Path(__file__).parents[1] / "parsers" / "captures"
RECEIVE = CAPTURES / "perf-script-receive.txt.gz"
TAP = CAPTURES / "tap0.pcap"


def test_import_writes_a_recording_and_says_what_became_of_the_events(vtrace, tmp_path):
    out = tmp_path / "a.vtrace"
    done = vtrace("import", RECEIVE, "-w", out)
    assert done.code == 0
    assert done.out == ""
    assert "clock unknown" in done.err
    assert "nothing was made of" in done.err
    assert "kvm:kvm_eoi" in done.err
    direct = json.loads(vtrace("report", "--json", RECEIVE).out)
    written = json.loads(vtrace("report", "--json", out).out)
    assert {**direct, "source": ""} == {**written, "source": ""}
    schema = json.loads((Path(__file__).parents[2] / "vtrace/schemas/report.json").read_text())
    jsonschema.validate(direct, schema)
    assert direct["queues"][0]["used_bytes"] is None


@pytest.mark.parametrize(
    "line",
    [
        ("report",),
        ("lifecycles",),
        ("packets", "--show", "flow"),
        ("exits",),
        ("exits", "--sum"),
        ("drops",),
        ("diagnose",),
        ("requests",),
    ],
)
@pytest.mark.parametrize("path", [RECEIVE, TAP], ids=["perf", "pcap"])
def test_a_verb_takes_the_file_itself(vtrace, line, path):
    done = vtrace(*line, path)
    assert done.code == 0, done.err
    assert "None" not in done.out


def test_rows_that_were_not_recorded_are_null(vtrace):
    rows = [json.loads(line) for line in vtrace("lifecycles", "--json", RECEIVE).out.splitlines()]
    assert len(rows) == 6
    assert {row["used_bytes"] for row in rows} == {None}
    assert {row["signal_ns"] for row in rows} == {None}
    assert {row["signal_state"] for row in rows} == {"not_probed"}


def test_a_window_and_a_filter_work_on_a_capture(vtrace, tmp_path):
    rows = vtrace("packets", "--json", "--since", "10ms", "--until", "40ms", TAP).out.splitlines()
    assert 0 < len(rows) < 23
    small = tmp_path / "small.vtrace"
    assert vtrace("filter", "-Y", "udp.dport == 7000", TAP, "-w", small).code == 0
    assert vtrace("packets", "--json", small).out.count("\n") > 0


def test_what_cannot_be_imported_is_a_sentence(vtrace, tmp_path):
    bad = tmp_path / "a"
    bad.write_bytes(b"nothing\n")
    out = tmp_path / "b.vtrace"
    for arguments, code in (
        ((bad,), 6),
        ((tmp_path / "absent",), 6),
        ((TAP, "--map", bad), 2),
        ((RECEIVE, "--map", tmp_path / "absent"), 2),
        ((RECEIVE, "--map", bad), 2),
        ((bad, "--format", "pcap"), 6),
        ((bad, "--format", "trace.dat"), (5, 6)),
        ((bad, "--format", "perf.data"), (5, 6)),
        ((bad, "--format", "simpletrace"), 6),
        ((bad, "--format", "qemu-log"), 6),
    ):
        done = vtrace("import", *arguments, "-w", out)
        assert done.code == code or done.code in (code if isinstance(code, tuple) else ()), done.err
        assert done.err.startswith("vtrace: ")
        assert "bug" not in done.err
        assert not out.exists()


def test_a_missing_tool_says_what_to_install(vtrace, tmp_path, monkeypatch):
    path = tmp_path / "trace.dat"
    path.write_bytes(b"\x17\x08\x44tracing7\0")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = vtrace("report", path)
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert "apt install trace-cmd" in done.err


def test_a_name_is_no_option_and_no_shell_line(vtrace, tmp_path, monkeypatch):
    if shutil.which("trace-cmd") is None:
        pytest.skip("no trace-cmd")
    monkeypatch.chdir(tmp_path)
    for name in ("-h", "a; touch owned", "$(touch owned)"):
        Path(name).write_bytes(b"\x17\x08\x44tracing6\0" + b"\xff" * 3000)
        done = vtrace("import", "-w", "out.vtrace", "-r", f"./{name}")
        assert done.code == 6, done.err
    assert not Path("owned").exists()


def test_text_comes_through_a_pipe(tmp_path):
    text = subprocess.run(["gzip", "-dc", str(RECEIVE)], capture_output=True, check=True).stdout
    done = subprocess.run(
        [sys.executable, "-m", "vtrace", "import", "-", "-w", str(tmp_path / "a.vtrace")],
        input=text,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert b"perf-script: " in done.stderr


@pytest.fixture(scope="module")
def switches(tmp_path_factory):
    """A perf.data of this machine's scheduler."""
    if shutil.which("perf") is None:
        pytest.skip("no perf")
    path = tmp_path_factory.mktemp("perf") / "perf.data"
    command = ["perf", "record", "-a", "-k", "CLOCK_MONOTONIC", "-e", "sched:sched_switch"]
    done = subprocess.run(
        [*command, "-o", str(path), "sleep", "0.2"], capture_output=True, timeout=60, check=False
    )
    if done.returncode or not path.exists():
        pytest.skip("perf may not record tracepoints here")
    return path


def test_a_perf_data_is_what_perf_script_prints(vtrace, switches, tmp_path):
    text = subprocess.run(
        ["perf", "script", "-f", "-i", str(switches)], capture_output=True, timeout=60, check=True
    ).stdout
    printed = tmp_path / "perf.txt"
    printed.write_bytes(text)
    for path, clock in ((switches, "clock monotonic"), (printed, "clock unknown")):
        done = vtrace("import", path, "-w", tmp_path / "a.vtrace")
        assert done.code == 0, done.err
        assert clock in done.err
        count = text.count(b" sched:sched_switch: ")
        assert f"of {count:,} events" in done.err
    cut = tmp_path / "cut.data"
    cut.write_bytes(switches.read_bytes()[:3000])
    done = vtrace("report", cut)
    assert done.code == 6
    assert "perf" in done.err
