"""The terminal UI over a host that is recorded: its figures are those of ``report``.

The recorder runs in the test host; the screens here, on the file that both see.
"""

import shutil
import time

import pytest

from tests.host.conftest import START_S, frozen
from tests.testbed import Host, udp
from tests.testbed.guest import Guest
from tests.testbed.system import patience
from tests.tui.terminal import Terminal, exported, in_order, vtrace_command

pytestmark = [
    pytest.mark.one_kernel,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]


def test_live_screens_tell_what_report_tells(lab: Host, guest: Guest, tmp_path):
    trace = lab.share / "view.vtrace"
    with frozen(lab):
        job = lab.start(f"cd / && python3 -m vtrace record -w {lab.inside(trace)}")
        job.wait_for("recording into", patience(START_S))
    command = vtrace_command("view", "--follow", trace)
    samples = []
    with Terminal(command, tmp_path) as terminal:
        terminal.until("following", "lost 0", seconds=patience(90))
        for number in range(3):
            udp(lab, guest, 211)
            samples.append(exported(terminal, tmp_path, f"s{number}.jsonl"))
        terminal.until("nic0", "rx0")
        terminal.keys("Space")
        terminal.until("paused")
        held = exported(terminal, tmp_path, "held.jsonl")
        udp(lab, guest, 101)
        time.sleep(2)
        assert exported(terminal, tmp_path, "again.jsonl") == held
        terminal.keys("Space")
        terminal.until("following", gone="paused")
        with frozen(lab):
            job.signal(2)
            job.wait(timeout=patience(60)).check()
        terminal.until("complete", seconds=patience(60))
        last = exported(terminal, tmp_path, "last.jsonl")
        terminal.keys("q")
        assert terminal.exit_code() == 0
    packets = {row["queue"]: row["packets"] for row in last if row["device"] == "nic0"}
    assert packets["rx0"] == 3 * 211 + 101
    assert in_order(trace, [last, held, *reversed(samples)])
    assert held != last


def test_a_recorder_that_is_killed(lab: Host, guest: Guest, tmp_path):
    trace = lab.share / "killed.vtrace"
    with frozen(lab):
        job = lab.start(f"cd / && python3 -m vtrace record -w {lab.inside(trace)}")
        job.wait_for("recording into", patience(START_S))
    udp(lab, guest, 53)
    with Terminal(vtrace_command("view", "--follow", trace), tmp_path) as terminal:
        terminal.until("rx0", "following", seconds=patience(90))
        with frozen(lab):
            job.signal(9)
        terminal.until("nothing was written for", seconds=patience(60))
        terminal.keys("q")
        assert terminal.exit_code() == 0
