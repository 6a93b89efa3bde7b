"""What a command may load: start-up stays short, and a missing package harms little."""

import subprocess
import sys

import pytest

HEAVY = {"bcc", "numba", "numpy", "pandas", "pyarrow", "scapy", "textual"}

RUN = """
import sys
from vtrace.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as stop:
    code = stop.code
with open(sys.argv[1], "w") as out:
    out.write("\\n".join({name.partition(".")[0] for name in sys.modules}))
sys.exit(code)
"""

IMPORT = """
import importlib, sys
importlib.import_module(sys.argv[2])
with open(sys.argv[1], "w") as out:
    out.write("\\n".join({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.fixture
def loaded(tmp_path, root):
    """Return a function that runs a program and returns the packages it loaded."""

    def run(program: str, *arguments: str) -> set[str]:
        out = tmp_path / "modules"
        done = subprocess.run(
            [sys.executable, "-c", program, str(out), *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return set(out.read_text().split("\n"))

    return run


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["diagnose", "--help"]])
def test_help_loads_nothing_heavy(loaded, arguments):
    assert loaded(RUN, *arguments) & HEAVY == set()


def test_help_of_record_loads_no_view(loaded):
    modules = loaded(RUN, "record", "--help")
    assert modules & {"numba", "pandas", "scapy", "textual"} == set()


@pytest.mark.parametrize("verb", ["report", "lifecycles", "diagnose"])
def test_reading_loads_no_view_and_no_bcc(loaded, root, verb):
    trace = root / "examples" / "traces" / "quiet.vtrace"
    modules = loaded(RUN, verb, str(trace))
    assert modules & {"bcc", "pandas", "scapy", "textual"} == set()


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("vtrace", HEAVY),
        ("vtrace.errors", HEAVY),
        ("vtrace.model", HEAVY),
        ("parsers", {"bcc", "pandas", "scapy", "textual"}),
        ("probes", {"bcc", "numba", "pandas", "scapy", "textual"}),
        ("vtrace.cli", HEAVY),
        ("vtrace.cli.record", {"bcc", "numba", "pandas", "scapy", "textual"}),
        ("vtrace.cli.diagnose", HEAVY),
        # Imported as root: numba would keep its cache where the user may not write.
        ("vtrace.cli.attached", {"bcc", "numba", "pandas", "scapy", "textual"}),
        ("vtrace.diagnose.codes", HEAVY),
        ("vtrace.ring", HEAVY),
        ("vtrace.cli.ring", HEAVY),
        ("vtrace.cli.report", {"bcc", "pandas", "scapy", "textual"}),
        ("vtrace.lifecycle", {"bcc", "pandas", "scapy", "textual"}),
        ("vtrace.session", {"bcc", "pandas", "scapy", "textual"}),
        ("vtrace.api.recording", {"bcc", "pandas", "scapy", "textual"}),
        ("vtrace.api.live", {"bcc", "pandas", "scapy", "textual"}),
    ],
)
def test_import_loads_only_what_its_room_needs(loaded, module, without):
    assert loaded(IMPORT, module) & without == set()


USE = """
import sys
import vtrace
recording = vtrace.open(sys.argv[2])
recording.lifecycles.where("queue == rx0").between("1ms")[["queue"]].count()
recording.report(), recording.loss, vtrace.VtraceError, vtrace.live
with open(sys.argv[1], "w") as out:
    out.write("\\n".join({name.partition(".")[0] for name in sys.modules}))
"""


def test_pandas_is_loaded_for_frames_alone(loaded, root):
    trace = root / "examples" / "traces" / "quiet.vtrace"
    assert loaded(USE, str(trace)) & {"bcc", "pandas", "scapy", "textual"} == set()
