"""Live and file are one: a process fed by the kernel's ring, another by the file afterwards."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from tests.host.conftest import START_S, frozen
from tests.testbed import Host, udp
from tests.testbed.guest import Guest

VTRACE = Path(sys.executable).with_name("vtrace")


class Passed(threading.Thread):
    """Hands on what comes out of the host; its port has no end, so the size must be told."""

    def __init__(self, link: socket.socket, sink: BinaryIO) -> None:
        super().__init__(daemon=True)
        self.link, self.sink = link, sink
        self.bytes = 0
        self.size: int | None = None
        link.settimeout(0.2)

    def run(self) -> None:
        while self.size is None or self.bytes < self.size:
            try:
                data = self.link.recv(65536)
            except TimeoutError:
                continue
            except OSError:  # the test has failed and closed it
                break
            self.sink.write(data)
            self.sink.flush()
            self.bytes += len(data)
        with contextlib.suppress(OSError):
            self.sink.close()

    def until(self, size: int) -> None:
        self.size = size
        self.join(60)
        assert self.bytes == size


def test_live_tables_equal_those_of_the_file(lab: Host, guest: Guest, tmp_path: Path) -> None:
    live_out = tmp_path / "live.jsonl"
    with lab.open_stream() as link, live_out.open("wb") as out:
        decoder = subprocess.Popen(
            [VTRACE, "lifecycles", "--json", "-"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
        )
        passed = Passed(link, decoder.stdin)
        passed.start()
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
        deadline = time.monotonic() + 60
        while not live_out.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.2)
        early = live_out.stat().st_size
        with frozen(lab):
            lab.run("pkill -INT -of '^python3 -m vtrace record'")
            job.join(60)
        path = lab.share / "live.vtrace"
        passed.until(path.stat().st_size)
        assert decoder.wait(60) == 0, decoder.stderr.read()
        decoder.stderr.close()
    assert [r.lost for r in results] == [0, 0]
    assert early > 0
    done = subprocess.run([VTRACE, "lifecycles", "--json", path], capture_output=True, check=True)
    assert live_out.read_bytes() == done.stdout
    assert done.stdout.count(b"\n") >= 204
