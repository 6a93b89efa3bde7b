"""What documentation and examples show runs, and shows what they say."""

import ast
import contextlib
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vtrace
from tests.api import notebooks

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT / "examples" / "traces"
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PAGE = ROOT / "docs" / "api.md"
# Loads probes into this kernel.
LIVE = {"watch_live"}


def script(name, *arguments):
    """Return what a script of the examples prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *map(str, arguments)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_slow_chains():
    code, out, err = script("slow_chains", TRACES / "blockio.vtrace", 7)
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()[2:]]
    assert len(rows) == 7
    # 100 requests a second, and four that wait for each other.
    assert {row[0] for row in rows} == {"capped"}
    totals = [float(row[3]) for row in rows]
    assert totals == sorted(totals, reverse=True)
    assert 35_000 < totals[0] < 50_000


def test_drops_by_flow():
    code, out, err = script("drops_by_flow", TRACES / "ringfull.vtrace")
    assert code == 0, err
    assert re.search(r"UDP .* > 10\.9\.0\.2:7001 +nic0 +FULL_RING +tun_net_xmit +249 +1500", out)
    assert script("drops_by_flow", TRACES / "quiet.vtrace")[1] == "no packet was dropped\n"


def test_queue_latency_csv():
    path = TRACES / "quiet.vtrace"
    code, out, err = script("queue_latency_csv", path)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    wanted = vtrace.open(path).report()["queues"]
    assert len(rows) == sum(len(queue["stages"]) for queue in wanted)
    for queue in wanted:
        mine = {row["stage"]: row for row in rows if row["queue"] == queue["queue"]}
        for stage, found in queue["stages"].items():
            assert int(mine[stage]["p99"]) == found["p99_ns"]


def test_compare_two():
    code, out, err = script("compare_two", TRACES / "quiet.vtrace", TRACES / "ringfull.vtrace")
    assert code == 0, err
    assert re.search(r"web1 +nic0 +rx0 +101 +1251", out)
    assert script("compare_two", TRACES / "quiet.vtrace")[0] == 1


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_an_error_in_a_sentence(path, tmp_path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    if path.stem in LIVE:
        code, _, err = script(path.stem, "-1")
        assert code == 1
        assert re.fullmatch(f"{path.stem}: .+\n", err)
        return
    count = 2 if path.stem == "compare_two" else 1
    code, _, err = script(path.stem, *[tmp_path / "gone.vtrace"] * count)
    assert code == 1
    assert (
        err == f"{path.stem}: {tmp_path}/gone.vtrace: cannot be opened: No such file or directory\n"
    )


def test_every_script_is_tried_and_named():
    names = {path.stem for path in SCRIPTS}
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert names <= tried | LIVE
    text = PAGE.read_text()
    for path in [*SCRIPTS, *notebooks.NOTEBOOKS]:
        assert f"](../{path.relative_to(ROOT)})" in text, path.name


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_cells_give(path):
    stored = json.loads(path.read_text())
    assert notebooks.texts(stored) == notebooks.texts(notebooks.run(path)), (
        "see python -m tests.api.notebooks"
    )


@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_one_of_jupyter(path):
    stored = json.loads(path.read_text())
    assert stored["nbformat"] == 4
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    numbers = [c["execution_count"] for c in stored["cells"] if c["cell_type"] == "code"]
    assert numbers == list(range(1, len(numbers) + 1))


def blocks():
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_each_example_of_the_page_runs_and_prints_what_it_says(monkeypatch):
    """Blocks run one after the other; a comment behind a print is what it prints."""
    monkeypatch.chdir(ROOT)
    names = {"__name__": "__main__"}
    count = 0
    for block in blocks():
        if "vtrace.live(" in block:
            compile(block, str(PAGE), "exec")
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, str(PAGE), "exec"), names)
        wanted = re.findall(r"^ *print\(.*\) +# (.*)$", block, re.MULTILINE)
        assert printed.getvalue().splitlines() == wanted
        count += len(wanted)
    assert count > 8


def test_the_page_names_all_there_is():
    from vtrace.api.frame import Frame
    from vtrace.api.live import Live
    from vtrace.api.recording import Recording

    text = PAGE.read_text()
    for kind in (Recording, Frame, Live):
        for name, thing in vars(kind).items():
            if not name.startswith("_"):
                assert re.search(rf"`{name}[`(]", text), f"{kind.__name__}.{name}"
                assert (thing.__doc__ or "").strip(), name
