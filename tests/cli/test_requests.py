"""``vtrace requests``, and the requests in ``vtrace report``."""

import csv
import io
import json
import subprocess
import sys
from importlib.resources import files

import jsonschema
import pytest

from tests.requests.devices import story
from vtrace.errors import ExitCode
from vtrace.tables import REQUESTS
from vtrace.tables.json_schema import row_schema


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A recording of every kind of device that QEMU serves, and what it holds."""
    told, wanted = story()
    path = tmp_path_factory.mktemp("served") / "served.vtrace"
    return told.write(path, 20, 21, 90), wanted


def rows_of(done):
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.lines]


def test_json_is_what_was_told(vtrace, served):
    path, wanted = served
    rows = rows_of(vtrace("requests", "--json", path))
    assert len(rows) == len(wanted)
    by_pop = {(row["queue"], row["device"], row["pop_ns"]): row for row in rows}
    for want in wanted:
        row = by_pop[want["queue"], want["device"], want["pop_ns"]]
        assert {name: row[name] for name in want} == want


def test_rows_are_as_the_schema_says(vtrace, served):
    schema = json.loads((files("vtrace") / "schemas" / "requests.json").read_text())
    assert schema == row_schema(REQUESTS), "write json.dumps(row_schema(REQUESTS), indent=2)"
    validator = jsonschema.Draft202012Validator(schema)
    for row in rows_of(vtrace("requests", "--json", served[0])):
        validator.validate(row)


def test_csv_and_json_agree(vtrace, served):
    rows = rows_of(vtrace("requests", "--json", served[0]))
    table = list(csv.DictReader(io.StringIO(vtrace("requests", "--csv", served[0]).out)))
    assert [row["operation"] for row in table] == [row["operation"] for row in rows]
    assert [row["pop_ns"] for row in table] == [str(row["pop_ns"]) for row in rows]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["-Y", "failed"], 5),
        (["-Y", "operation == OUT and service_ns > 50us"], 1),
        (["-Y", 'operation == "READ(10)" and lun == 1'], 1),
        (["-Y", "mac == 52:54:00:12:34:56"], 1),
        (["-Y", "device_type == balloon and pages >= 4"], 2),
        (["-Y", "missing(sector) and device == disk0"], 2),
        (["-Y", "request_state == seen and flow contains 7001"], 1),
        (["--device", "scsi0"], 6),
        (["--device", "scsi0", "--queue", "ctrl"], 1),
        (["-c", "3"], 3),
        (["--until", "100us"], 2),
    ],
)
def test_rows_can_be_chosen(vtrace, served, options, count):
    assert len(rows_of(vtrace("requests", "--json", *options, served[0]))) == count


@pytest.mark.parametrize("options", [["--json"], ["--summary"], ["--csv"]])
def test_a_vm_that_is_not_there(vtrace, served, options):
    done = vtrace("requests", *options, "--vm", "nobody", served[0])
    assert done.code == ExitCode.USAGE
    assert "there is no vm nobody in it; there is " in done.err
    assert len(done.err.splitlines()) == 1


def test_a_window_has_the_rows_that_begin_in_it(vtrace, served):
    path, _ = served
    rows = rows_of(vtrace("requests", "--json", path))
    middle = rows[10]["time_ns"]
    first = rows_of(vtrace("requests", "--json", "--until", middle, path))
    second = rows_of(vtrace("requests", "--json", "--since", middle, path))
    times = [row["pop_ns"] for row in first + second]
    assert times == [row["pop_ns"] for row in rows]


def test_text_has_a_line_for_each(vtrace, served):
    path, wanted = served
    done = vtrace("requests", "--utc", path)
    assert done.code == 0
    assert len(done.lines) == 1 + len(wanted) + 1
    assert done.lines[0].split() == [
        "time", "vm", "device", "queue", "operation", "bytes", "status", "queueing", "service",
        "outcome", "what",
    ]  # fmt: skip
    assert "IN" in done.lines[1]
    assert "sector 2048 +8" in done.lines[1]
    assert "ILLEGAL REQUEST: INVALID FIELD IN CDB" in done.out
    assert "256 pages 0x1000-0x10ff" in done.out
    assert "port 1 1 org.test.0" in done.out
    assert done.lines[-1] == f"{len(wanted)} requests; lost 0"


def test_what_a_guest_writes_cannot_steer_a_terminal(vtrace, tmp_path):
    from tests.requests.devices import Devices, message

    told = Devices()
    told.ask(8, 0, [], [message(1, 7, 1) + b"\x1b[2J\xe2\x80\xaeevil\0"])
    path = told.write(tmp_path / "evil.vtrace")
    text = vtrace("requests", path).out + vtrace("requests", "--summary", path).out
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J" in text


def test_summary_is_that_of_report(vtrace, served):
    path, wanted = served
    sums = json.loads(vtrace("requests", "--summary", "--json", path).out)
    report = json.loads(vtrace("report", "--json", path).out)
    schema = json.loads((files("vtrace") / "schemas" / "report.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(report)
    assert sums == {name: report[name] for name in ("requests", "balloons", "serial_ports")}
    assert sum(row["count"] for row in sums["requests"]) == len(wanted)


def test_summary_of_what_was_chosen(vtrace, served):
    path, _ = served
    done = vtrace("requests", "--summary", "--json", "-Y", "failed", path)
    rows = json.loads(done.out)["requests"]
    assert sum(row["count"] for row in rows) == sum(row["failed"] for row in rows) == 5
    assert vtrace("requests", "--summary", "-Y", "sector == 999", path).lines[0] == "no requests"
    report = json.loads(vtrace("report", "--json", "--device", "disk0", path).out)
    assert {row["device"] for row in report["requests"]} == {"disk0"}
    assert report["balloons"] == []


def test_summary_as_text(vtrace, served):
    for verb in (["requests", "--summary"], ["report"]):
        out = vtrace(*verb, served[0]).out
        assert "requests  to devices that QEMU serves" in out
        assert "inflated 260 pages (1.06 MB): 0x1000-0x1102, 0x2000" in out
        assert "statistics MEMFREE 123,456" in out
        assert "org.test.0" in out
        assert "UNSUPP" in out


@pytest.mark.parametrize("option", [["--csv"], ["-c", "1"]])
def test_summary_has_no_rows(vtrace, served, option):
    done = vtrace("requests", "--summary", *option, served[0])
    assert done.code == ExitCode.USAGE
    assert "--summary" in done.err


def test_a_recording_without_such_queues(vtrace, told):
    assert vtrace("requests", "--json", told).out == ""
    done = vtrace("requests", told)
    assert done.lines == ["0 requests; lost 0"]
    assert "no queue in it was served by QEMU" in done.err
    assert "requests" not in json.loads(vtrace("report", "--json", told).out)
    assert "requests" not in vtrace("report", told).out


def test_bytes_are_read_only_where_there_are_requests(served, told, monkeypatch):
    from parsers.tracefile import open_trace
    from parsers.tracefile.decode import _Body
    from vtrace.session import Session

    reads = []
    snaps = _Body.snaps
    monkeypatch.setattr(_Body, "snaps", lambda self, rows: reads.append(rows) or snaps(self, rows))
    for path, some in ((told, False), (served[0], True)):
        reads.clear()
        with open_trace(path) as trace:
            Session(trace).summary()
        assert bool(reads) == some


def test_a_pipe(served):
    path, wanted = served
    for verb, options in (("requests", ["--json"]), ("report", ["--json"])):
        done = subprocess.run(
            [sys.executable, "-m", "vtrace", verb, *options, "-"],
            input=path.read_bytes(),
            capture_output=True,
            check=True,
            timeout=60,
        )
        if verb == "requests":
            assert len(done.stdout.splitlines()) == len(wanted)
        else:
            rows = json.loads(done.stdout)["requests"]
            assert sum(row["count"] for row in rows) == len(wanted)


def test_it_loads_no_view(served, tmp_path):
    program = (
        "import sys; from vtrace.cli import main; code = main(sys.argv[1:]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr);"
        "sys.exit(code)"
    )
    for arguments, heavy in (
        (["requests", "--help"], {"bcc", "numba", "numpy", "pandas", "pyarrow", "scapy"}),
        (["requests", "--json", served[0]], {"bcc", "pandas", "scapy", "textual"}),
        (["report", "--json", served[0]], {"bcc", "pandas", "scapy", "textual"}),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert set(done.stderr.split()) & heavy == set()
