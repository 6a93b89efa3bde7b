"""Every recording x every offline verb: what is run, and where its output is kept.

Recordings are those of ``examples/traces``, and the one told in ``tests.cli.story``. Rows are kept
as text for the first of them, and as a digest for all. ``python -m tests.golden --update-golden``
writes what the verbs print now; read the diff.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.cli import story
from vtrace.cli import main

HERE = Path(__file__).resolve().parent
TRACES = HERE.parent.parent / "examples" / "traces"
TOLD = "told"

RUNS = {
    "report.txt": ("report", "--utc"),
    "report.json": ("report", "--json"),
    "lifecycles.txt": ("lifecycles", "--utc", "-c", "40"),
    "packets.txt": ("packets", "--utc", "-c", "40"),
    "packets-full.txt": ("packets", "--utc", "-c", "3", "--show", "layers", "--hex"),
    "exits.txt": ("exits", "--utc", "-c", "40"),
    "drops.txt": ("drops", "--utc", "-c", "40"),
    "diagnose.txt": ("diagnose", "--utc"),
    "diagnose-full.txt": ("diagnose", "--utc", "--verbose"),
    "diagnose.json": ("diagnose", "--json"),
    "watch.txt": ("diagnose", "--utc", "--watch"),
}
"""Name of the output -> command line, without the recording."""

DIGESTED = {
    "lifecycles": ("lifecycles", "--json"),
    "packets": ("packets", "--json"),
    "exits": ("exits", "--json"),
    "drops": ("drops", "--json"),
    "chains with UDP": ("lifecycles", "--json", "-Y", "udp"),
    "packets from tx": ("packets", "--json", "-Y", "direction == tx"),
}
"""What of the output is kept as number of lines and checksum alone."""


def recordings() -> list[str]:
    """Return the names of all recordings."""
    return [TOLD, *sorted(path.stem for path in TRACES.glob("*.vtrace"))]


@contextlib.contextmanager
def recording(name: str) -> Iterator[str]:
    """Enter the folder of a recording; return its file's name there."""
    before = Path.cwd()
    try:
        if name != TOLD:
            os.chdir(TRACES)
            yield f"{name}.vtrace"
            return
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            story.small().write(Path("told.vtrace"), 9, 20)
            yield "told.vtrace"
            os.chdir(before)
    finally:
        os.chdir(before)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command line; return exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    plain = {"NO_COLOR": "1", "TZ": "UTC"}
    with (
        mock.patch.dict(os.environ, plain),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        time.tzset()
        code = main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def outputs(name: str) -> dict[str, str]:
    """Return every output for a recording, by the name of its file."""
    found = {}
    with recording(name) as file:
        for output, arguments in RUNS.items():
            code, out, err = run(*arguments, file)
            found[output] = out
            if code or err:
                found[f"{output}.err"] = f"exit {code}\n{err}"
        digests = {}
        for what, arguments in DIGESTED.items():
            code, out, _ = run(*arguments, file)
            checksum = hashlib.sha256(out.encode()).hexdigest()[:16]
            digests[what] = {"exit": code, "lines": out.count("\n"), "sha256": checksum}
        found["digests.json"] = json.dumps(digests, indent=2) + "\n"
    return found
