"""``vtrace diagnose`` and ``--watch`` on a real kernel, live.

numba takes many minutes to compile in an emulated machine. So the attach process runs there, with
all that needs privilege, and what it sends comes through the relay of ``test_live``; the verb runs
here, on that stream instead of a pipe.
"""

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host.conftest import START_S, frozen
from tests.host.test_live import Passed
from tests.testbed import Host, delta, send, udp
from tests.testbed.channel import Job
from tests.testbed.guest import Guest
from tests.testbed.system import patience
from vtrace.cli import main

RECORD = (
    "cd / && python3 -m vtrace record -w - 2>/share/{name}.err "
    "| tee /share/{name}.vtrace > /dev/virtio-ports/vtrace.stream"
)


class Relayed:
    """The attach process of the host, as the verb knows it."""

    def __init__(self, host: Host, name: str, job: Job, passed: Passed, data: int) -> None:
        self.host, self.name, self.job, self.passed = host, name, job, passed
        self.data = os.fdopen(data, "rb")
        self.stopped = threading.Lock()

    def stop(self) -> None:
        if not self.stopped.acquire(blocking=False):
            return
        with frozen(self.host):
            self.host.run("pkill -INT -of '^python3 -m vtrace record'")
            self.job.join(60)
        self.passed.until((self.host.share / f"{self.name}.vtrace").stat().st_size)

    def failure(self) -> None:
        return None

    def close(self) -> None:
        self.stop()
        self.data.close()


@contextlib.contextmanager
def relayed(host: Host, name: str) -> Iterator[Relayed]:
    """Record in the host; what it writes is there to be read."""
    theirs, ours = os.pipe()
    with host.open_stream() as link:
        passed = Passed(link, os.fdopen(ours, "wb"))
        passed.start()
        job = None
        try:
            with frozen(host):
                job = host.start(RECORD.format(name=name))
                deadline = time.monotonic() + patience(START_S)
                while "recording into" not in host.run(f"cat /share/{name}.err", check=False).out:
                    assert time.monotonic() < deadline, "not attached"
                    time.sleep(0.3)
            attached = Relayed(host, name, job, passed, theirs)
            try:
                yield attached
            finally:
                attached.close()
        finally:
            if job is not None and passed.size is None:
                job.signal(2)
            passed.size = passed.size or 0
            passed.join(5)


def diagnose(
    monkeypatch: pytest.MonkeyPatch, attached: Relayed, workload: Callable[[], None], *words: str
) -> int:
    """Run the verb while a workload runs; Ctrl-C behind it. Return the exit code."""
    failed: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        try:
            workload()
        except BaseException as error:
            failed.append(error)
        finally:
            # A verb that has ended does not take the signal any more.
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("vtrace.cli.attached.attach", lambda args: attached)
    thread = threading.Thread(target=work)
    starter = threading.Timer(1.0, thread.start)
    starter.start()
    try:
        code = main(["diagnose", *words])
    finally:
        over.set()
        starter.join()
    thread.join(patience(60))
    if failed:
        raise failed[0]
    return code


@pytest.fixture(scope="module")
def loser(lab: Host) -> Iterator[Guest]:
    """A guest that is stopped while packets come."""
    guest = lab.guest("loser")
    yield guest
    guest.kill()


def overflow(lab: Host, guest: Guest, count: int) -> None:
    guest.stop()
    try:
        send(lab, guest.address, count, pps=0)
        time.sleep(1)
    finally:
        guest.cont()
    time.sleep(3)


def drawn() -> int:
    """Return a number of packets that no ring holds, another one in each run."""
    count = 3000 + random.randrange(1000)
    print(f"{count} packets", file=sys.stderr)
    return count


def test_a_loss_is_judged_live_as_it_is_from_the_file(
    lab: Host, loser: Guest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = drawn()
    before = lab.counters(loser.tap)
    with relayed(lab, "judged") as attached:
        code = diagnose(
            monkeypatch,
            attached,
            lambda: overflow(lab, loser, sent),
            *(
                "--json",
                "--duration",
                "900s",
                "--vm",
                loser.name,
                "--fail-on",
                "R5",
                "--max-loss",
                "0",
            ),
        )
    lost = delta(before, lab.counters(loser.tap))["link.tx_dropped"]
    said = capsys.readouterr()
    assert code == 1, said.err
    verdict = json.loads(said.out)
    assert verdict["source"] == "live"
    assert verdict["unexplained"] == 0
    (finding,) = [one for one in verdict["findings"] if one["code"].startswith("R5")]
    assert finding["code"] == "R5d"
    assert finding["packets"] == lost > 0
    (tap,) = [row for row in verdict["ledger"] if (row["direction"], row["hop"]) == ("rx", "tap")]
    assert (tap["in"], sum(tap["dropped"].values())) == (sent, lost)
    assert main(["diagnose", "--json", "--vm", loser.name, str(lab.share / "judged.vtrace")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "source": ""} == {**verdict, "source": ""}


def test_a_loss_is_seen_as_it_comes_and_recorded(
    lab: Host,
    loser: Guest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sent = drawn()
    black = tmp_path / "black.vtrace"
    before = lab.counters(loser.tap)

    def workload() -> None:
        assert udp(lab, loser, 101).lost == 0
        time.sleep(1.5)
        assert not black.exists()
        overflow(lab, loser, sent)

    with relayed(lab, "watched") as attached:
        code = diagnose(
            monkeypatch,
            attached,
            workload,
            *("--watch", "--json", "--vm", loser.name, "-w", str(black)),
        )
    lost = delta(before, lab.counters(loser.tap))["link.tx_dropped"]
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "the seconds around each loss" in said.err
    *seconds, last = [json.loads(line) for line in said.out.splitlines()]
    seconds = [line["second"] for line in seconds]
    assert len(seconds) >= 5
    came = sum(device["rx"] for second in seconds for device in second["devices"])
    assert came == sent + 101
    by_code: Counter[str] = Counter()
    for second in seconds:
        by_code.update(second["dropped"])
    assert sum(count for code, count in by_code.items() if code.startswith("R5")) == lost
    assert "" not in by_code
    # A quiet second is a line too.
    assert any(not second["devices"] for second in seconds)
    (finding,) = [one for one in last["diagnosis"]["findings"] if one["code"].startswith("R5")]
    assert finding["packets"] == lost > 0
    assert main(["diagnose", "--json", "--vm", loser.name, str(black)]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert [(one["code"], one["packets"]) for one in kept["findings"]][:1] == [
        (finding["code"], lost)
    ]
