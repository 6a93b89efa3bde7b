"""A file of 2 million events is gone through in the memory that a short one takes."""

import json
import subprocess
import sys

import pytest

from parsers.tracefile import TraceWriter
from tests.generator.recording import stream
from tests.generator.scenario import Pair, Scenario

USE = """
import json, resource, sys
import vtrace
frame = vtrace.open(sys.argv[1]).lifecycles
rows = most = 0
for part in frame[["queue", "time_ns", "service_ns", "trust"]].chunks(50_000):
    rows, most = rows + len(part), max(most, len(part))
slow = frame.where("service_ns > 1us").count()
print(json.dumps([rows, most, slow, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10]))
"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A recording of 200 thousand events, and one ten times as long."""
    folder = tmp_path_factory.mktemp("long")
    scenario = Scenario(pairs=(Pair(),), seed=1, cpus=3)
    paths = []
    for events in (200_000, 2_000_000):
        path = folder / f"{events}.vtrace"
        with TraceWriter(path) as writer:
            for batch in stream(scenario, events, batch=1 << 15):
                writer.write(batch)
        paths.append(path)
    return paths


def test_memory_does_not_grow_with_the_file(recordings, root):
    found = []
    for path in recordings:
        done = subprocess.run(
            [sys.executable, "-c", USE, str(path)],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    (rows, _, slow, short), (many_rows, most, many_slow, long) = found
    assert many_rows > 8 * rows > 0
    assert many_slow > 8 * slow > 0
    assert most == 50_000
    assert long < short + 60, f"{short} MiB for 0.2 M events, {long} MiB for 2 M"
