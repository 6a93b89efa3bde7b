"""The verbs of the terminal UI, where there is no terminal, or one is made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vtrace.cli import main
from vtrace.cli.view import SCREENS
from vtrace.recorder.child import RecorderChild, RecorderError

TRACES = Path(__file__).parents[2] / "examples/traces"
QUIET = str(TRACES / "quiet.vtrace")


def test_without_a_terminal_the_report_is_printed(capsys):
    assert main(["view", QUIET, "--utc", "--queue", "rx0"]) == 0
    viewed = capsys.readouterr().out
    assert main(["report", QUIET, "--utc", "--queue", "rx0"]) == 0
    assert viewed == capsys.readouterr().out


def test_what_another_tool_recorded_is_shown_too(tmp_path, capsys):
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    path, out = tmp_path / "some.pcap", tmp_path / "o.txt"
    packet = Ether() / IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=5, dport=7001) / b"x"
    wrpcap(str(path), [packet] * 3)
    assert main(["view", "--screen", "packets", "--snapshot", str(out), str(path)]) == 0
    assert out.read_text().count("UDP 10.9.0.1:5 > 10.9.0.2:7001") >= 3
    assert "some.pcap" in out.read_text().splitlines()[0]
    assert main(["view", "--follow", "--snapshot", str(out), str(path)]) == 2
    assert "can be followed" in capsys.readouterr().err


def test_a_file_that_is_none(tmp_path, capsys):
    path = tmp_path / "x"
    path.write_bytes(b"\0" * 100)
    assert main(["view", "--snapshot", str(tmp_path / "o.svg"), str(path)]) == 6
    assert "is no recording" in capsys.readouterr().err


@pytest.mark.parametrize("screen", SCREENS)
def test_each_screen_as_text(screen, tmp_path, capsys):
    out = tmp_path / "screen.txt"
    words = ["--vm", "web1", "--device", "nic0", "--queue", "rx0"] if screen == "queue" else []
    code = main(["view", "--screen", screen, "--snapshot", str(out), "--utc", *words, QUIET])
    assert (code, capsys.readouterr().err) == (0, "")
    lines = out.read_text().splitlines()
    assert "quiet.vtrace" in lines[0]
    assert "lost 0" in lines[0]
    assert len(lines) == 30


def test_a_screen_as_a_picture(tmp_path):
    out = tmp_path / "screen.svg"
    assert main(["view", "--snapshot", str(out), "--geometry", "120x20", QUIET]) == 0
    assert out.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--geometry", "1x1"], "is no size"),
        (["--theme", "pink"], "pink"),
        (["--at", "yesterday"], "is no time"),
        (["--screen", "packets", "-Y", "udp.dport ="], "="),
        (["--screen", "cellar"], "cellar"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(words, says, tmp_path, capsys):
    assert main(["view", "--snapshot", str(tmp_path / "o.svg"), *words, QUIET]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "o.svg").exists()


def test_live_needs_a_terminal_or_an_end(tmp_path, capsys):
    assert main(["live"]) == 2
    assert "no terminal" in capsys.readouterr().err
    assert main(["live", "--snapshot", str(tmp_path / "x.svg")]) == 2
    assert "--duration" in capsys.readouterr().err


def test_a_recorder_that_cannot_begin_says_why(tmp_path):
    child = RecorderChild(str(tmp_path / "x.vtrace"), ["--flight", "-1s"], lambda text: None)
    with pytest.raises(RecorderError) as found, child:
        child.wait_recording()
    assert found.value.exit_code == 2
    assert str(found.value)


@pytest.mark.root
def test_a_recorder_ends_in_order_however_its_owner_does(tmp_path):
    """The view is killed: the recording has its footer all the same."""
    path = tmp_path / "kept.vtrace"
    script = (
        "import sys, time\n"
        "from vtrace.recorder.child import RecorderChild\n"
        f"child = RecorderChild({str(path)!r}, [], print)\n"
        "child.wait_recording()\n"
        "print('recording', flush=True)\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while owner.stdout.readline() not in {"recording\n", ""}:
        pass
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    deadline = time.monotonic() + 60
    while path.read_bytes()[-6:] != b"ARROW1":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert main(["report", "--json", str(path)]) == 0


@pytest.mark.root
def test_live_as_a_picture_and_what_it_saves(tmp_path, capsys):
    out, kept = tmp_path / "screen.txt", tmp_path / "kept.vtrace"
    code = main(["live", "--duration", "1s", "--snapshot", str(out), "--save", str(kept)])
    assert code == 0
    assert f"saved in {kept}" in capsys.readouterr().err
    assert f"live {os.uname().nodename}"[:20] in out.read_text().splitlines()[0]
    assert main(["report", "--json", str(kept)]) == 0
    assert json.loads(capsys.readouterr().out)["loss"]["lost"] == 0
