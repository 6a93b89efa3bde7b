"""The terminal UI in a real terminal."""

import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from parsers.tracefile import TraceWriter, open_trace
from tests.tui.terminal import Terminal, exported, in_order, vtrace_command

TRACES = Path(__file__).parents[2] / "examples/traces"
pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


def test_through_a_file(tmp_path):
    with Terminal(vtrace_command("view", TRACES / "ringfull.vtrace"), tmp_path) as terminal:
        terminal.until("web1", "rx0", "tx0", "complete", "lost 0")
        terminal.keys("Enter")
        terminal.until("All VMs", "where the time goes")
        terminal.keys("6")
        terminal.until("packets", "UDP 10.9.0.1", "virtio_net_hdr")
        terminal.keys("d")
        terminal.until("FULL_RING")
        terminal.keys("7")
        terminal.until("R5d", "249")
        terminal.keys("?")
        terminal.until("on this screen")
        terminal.keys("Escape")
        terminal.until("R5d", gone="on this screen")
        terminal.keys("q")
        assert terminal.exit_code() == 0


def test_a_filter_is_typed_and_its_mistakes_are_shown(tmp_path):
    command = vtrace_command("view", "--screen", "packets", TRACES / "ringfull.vtrace")
    with Terminal(command, tmp_path) as terminal:
        terminal.until("of 1,506 packets")
        terminal.keys("/")
        terminal.type("verdict =")
        terminal.type(" 5")
        terminal.until("^ = is not an operator")
        terminal.keys("BSpace", "BSpace")
        terminal.until("/ verdict =", gone="= 5")
        terminal.type('= "dropped"')
        terminal.until("✓")
        terminal.keys("Enter")
        terminal.until("of 249 packets")
        terminal.keys("q")
        assert terminal.exit_code() == 0


def test_a_storm_of_sizes(tmp_path):
    command = vtrace_command("view", "--screen", "packets", TRACES / "quiet.vtrace")
    with Terminal(command, tmp_path) as terminal:
        terminal.until("of 202 packets")
        for columns, rows in ((30, 8), (200, 60), (20, 5), (80, 24), (59, 13), (160, 48)) * 3:
            terminal.resize(columns, rows)
        terminal.resize(100, 30)
        terminal.until("of 202 packets", "virtio_net_hdr")
        terminal.keys("q")
        assert terminal.exit_code() == 0


def test_figures_of_a_file_that_is_written_are_those_of_report(tmp_path):
    """Samples while it grows, and one while paused, equal the report on the file cut there."""
    path = tmp_path / "grows.vtrace"
    with open_trace(TRACES / "ringfull.vtrace") as trace:
        batches = [part for batch in trace.batches() for part in halves(batch, 6)]
    writing = threading.Event()

    def write():
        with TraceWriter(path) as writer:
            for batch in batches:
                writer.write(batch)
                writer.flush()
                if writing.wait(0.25):
                    break

    thread = threading.Thread(target=write)
    thread.start()
    while not path.exists():
        time.sleep(0.01)
    try:
        with Terminal(vtrace_command("view", "--follow", path), tmp_path) as terminal:
            terminal.until("rx0", "following")
            samples = [exported(terminal, tmp_path, f"s{n}.jsonl") for n in range(3)]
            terminal.keys("Space")
            terminal.until("paused")
            held = exported(terminal, tmp_path, "held.jsonl")
            time.sleep(1)
            assert exported(terminal, tmp_path, "again.jsonl") == held
            terminal.keys("Space")
            terminal.until("following", gone="paused")
            writing.set()
            thread.join()
            terminal.until("complete")
            last = exported(terminal, tmp_path, "last.jsonl")
            terminal.keys("q")
            assert terminal.exit_code() == 0
    finally:
        writing.set()
        thread.join()
    assert in_order(path, [last, held, *reversed(samples)])
    assert last != samples[0]


def halves(batch, count):
    """Cut a batch into parts."""
    parts = np.array_split(np.arange(len(batch)), count)
    for number, rows in enumerate(parts):
        mask = np.zeros(len(batch), bool)
        mask[rows] = True
        part = batch.take(mask)
        part.meta = batch.meta if number == 0 else {}
        yield part


def test_what_is_wrong_with_a_file_is_said_before_any_screen(tmp_path):
    (tmp_path / "bad").write_bytes(b"no recording")
    with Terminal(vtrace_command("view", "bad"), tmp_path) as terminal:
        assert terminal.exit_code() == 6
    assert "is no recording of vtrace" in (tmp_path / "stderr").read_text()


def test_a_bug_is_a_sentence(tmp_path):
    script = (
        "import sys\n"
        "from vtrace.cli import main\n"
        "from vtrace.tui.screens import queues\n"
        "def fail(*_):\n"
        "    raise ZeroDivisionError('planted')\n"
        "queues.QueuesScreen.action_sort = fail\n"
        f"sys.exit(main(['view', {str(TRACES / 'quiet.vtrace')!r}]))\n"
    )
    (tmp_path / "planted.py").write_text(script)
    with Terminal(f"{sys.executable} planted.py", tmp_path) as terminal:
        terminal.until("rx0", "complete")
        terminal.keys("s")
        assert terminal.exit_code() == 70
        assert "ZeroDivisionError" not in terminal.screen
    said = (tmp_path / "stderr").read_text()
    assert "ZeroDivisionError: planted" in said
    assert "this is a bug in vtrace" in said
    assert "Traceback" not in said
