"""Every program compiles, and this kernel's verifier lets it in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from probes import preflight
from probes.manifest import PROGRAMS
from tests.probes.compiling import CASES
from tests.probes.need import need_bpf

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def compiled():
    """Return what became of every case; all in one process, for its seconds."""
    need_bpf()
    if preflight.kernel_headers() is None:
        pytest.skip("no kernel headers (Debian: apt install linux-headers-amd64)")
    done = subprocess.run(
        [sys.executable, "-m", "tests.probes.compiling"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    if "skip" in result:
        pytest.skip(result["skip"])
    return result


@pytest.mark.parametrize("case", list(CASES))
def test_the_verifier_lets_every_handler_in(compiled, case):
    found = compiled["cases"][case]
    assert not found["error"]
    optional = {
        f"{program.name}: {point.handler}"
        for program in PROGRAMS
        for point in program.points
        if point.optional and point.tracepoint
    }
    refused = {n: why for n, why in found["handlers"].items() if why and n not in optional}
    assert not refused


def test_no_program_was_left_out(compiled):
    if compiled["left out"]:
        pytest.skip(f"tracepoints are missing on this kernel: {compiled['left out']}")
    handlers = compiled["cases"]["plain"]["handlers"]
    assert set(handlers) == {
        f"{program.name}: {point.handler}" for program in PROGRAMS for point in program.points
    }
