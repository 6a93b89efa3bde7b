"""Live and file are one: a process fed by the kernel's ring, another by the file afterwards."""

import subprocess
import sys
import time
from pathlib import Path

from tests.host.conftest import START_S, frozen
from tests.testbed import Host, udp
from tests.testbed.guest import Guest

VTRACE = Path(sys.executable).with_name("vtrace")


def test_live_tables_equal_those_of_the_file(lab: Host, guest: Guest, tmp_path: Path) -> None:
    live_out = tmp_path / "live.jsonl"
    with lab.open_stream() as link, live_out.open("wb") as out:
        link.settimeout(None)
        decoder = subprocess.Popen(
            [VTRACE, "lifecycles", "--json", "-"],
            stdin=link.fileno(),
            stdout=out,
            stderr=subprocess.PIPE,
        )
        with frozen(lab):
            job = lab.start(
                "cd / && python3 -m vtrace record --no-sched -w - 2>/share/live.err "
                "| tee /share/live.vtrace > /dev/virtio-ports/vtrace.stream"
            )
            deadline = time.monotonic() + START_S
            while "recording into" not in lab.run("cat /share/live.err", check=False).out:
                assert time.monotonic() < deadline, "not attached"
                time.sleep(0.3)
        results = [udp(lab, guest, 101), udp(guest, lab, 103)]
        # It is live: rows are there while the recorder runs.
        deadline = time.monotonic() + 30
        while not live_out.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.2)
        early = live_out.stat().st_size
        with frozen(lab):
            lab.run("pkill -INT -of '^python3 -m vtrace record'")
            job.join(60)
        assert decoder.wait(60) == 0, decoder.stderr.read()
        decoder.stderr.close()
    assert [r.lost for r in results] == [0, 0]
    assert early > 0
    path = lab.share / "live.vtrace"
    done = subprocess.run([VTRACE, "lifecycles", "--json", path], capture_output=True, check=True)
    assert live_out.read_bytes() == done.stdout
    assert done.stdout.count(b"\n") >= 204
