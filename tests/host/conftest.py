"""One recording per kernel, of many workloads one after the other; tests look at it cut by time."""

import contextlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.host.rows import Rows, read_rows
from tests.testbed import Host, delta, send, udp
from tests.testbed.channel import Job
from tests.testbed.errors import CommandError
from tests.testbed.fixtures import leave_out

START_S = 120
"""Limit for attaching all probes: the compiler runs in an emulated machine."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is the same on every kernel (marker `one_kernel`): it runs on the first."""
    unwanted = [
        item
        for item in items
        if item.get_closest_marker("one_kernel")
        and getattr(item, "callspec", None)
        and item.callspec.params.get("lab") != "bookworm"
    ]
    leave_out(config, items, unwanted)


@dataclass
class Case:
    """One workload: when it ran, in ns of the host's monotonic clock, and what others counted."""

    since_ns: int = 0
    until_ns: int = 0
    truth: SimpleNamespace = field(default_factory=SimpleNamespace)


@dataclass
class Recording:
    path: Path
    cases: dict[str, Case]
    start_s: float
    said: str

    def rows(self, case: str) -> Rows:
        """Return the tables of one case."""
        cut = self.cases[case]
        return read_rows(self.path, cut.since_ns, cut.until_ns)


def now_ns(host: Host) -> int:
    """Return the host's monotonic clock; its uptime is that, to 10 ms."""
    return int(float(host.run("cat /proc/uptime").out.split()[0]) * 1e9)


@contextlib.contextmanager
def timed(host: Host, cases: dict[str, Case], name: str) -> Iterator[SimpleNamespace]:
    case = Case(since_ns=now_ns(host) - 10_000_000)
    yield case.truth
    time.sleep(0.3)
    case.until_ns = now_ns(host) + 10_000_000
    cases[name] = case


@contextlib.contextmanager
def frozen(host: Host) -> Iterator[None]:
    """Keep the guests off their CPUs while kernel text is patched.

    An emulated vCPU may run a breakpoint that text_poke has already taken away: seen once on
    6.12 in svm_vcpu_run, with interrupts off, as a panic of the test host. Real CPUs do not.
    """
    host.run("pkill -STOP -x qemu-system-x86; true")
    try:
        yield
    finally:
        host.run("pkill -CONT -x qemu-system-x86; true")


def start_recording(host: Host, *options: str, name: str = "run") -> tuple[Job, float]:
    """Start the recorder and return when every probe is attached."""
    began = time.monotonic()
    words = " ".join(options)
    with frozen(host):
        job = host.start(f"cd / && exec python3 -m vtrace record -w /share/{name}.vtrace {words}")
        job.wait_for("recording into", timeout=START_S)
    return job, time.monotonic() - began


def stop_recording(host: Host, job: Job) -> str:
    """End a recorder in order; return what it said."""
    with frozen(host):
        job.signal(2)
        result = job.wait(60)
    assert result.rc == 0, result.err
    return job.errors


def watch_with_bpftrace(host: Host) -> Job:
    """Count, with another tool and at other points, what our probes count.

    A kick is an ioeventfd that woke vhost; an interrupt an irqfd that vhost signalled.
    """
    script = (
        "kprobe:ioeventfd_write { @kicking[tid] = 1; } "
        "kretprobe:ioeventfd_write { delete(@kicking[tid]); } "
        "kprobe:vhost_poll_wakeup / @kicking[tid] / { @kicks = count(); } "
        "kprobe:vhost_add_used_and_signal_n { @signalling[tid] = 1; } "
        "kretprobe:vhost_add_used_and_signal_n { delete(@signalling[tid]); } "
        "kprobe:irqfd_wakeup / @signalling[tid] && (arg3 & 1) / { @interrupts = count(); } "
    )
    with frozen(host):
        job = host.start(f"exec bpftrace -B none -f json -e '{script}'")
        job.wait_for("attached_probes", timeout=90)
        time.sleep(1)
    return job


def bpftrace_counts(host: Host, job: Job) -> dict[str, int]:
    with frozen(host):
        for _ in range(3):
            job.signal(2)
            with contextlib.suppress(CommandError):
                job.join(8)
                break
    counts = {}
    for line in job.output.splitlines():
        word = json.loads(line) if line.startswith("{") else {}
        if word.get("type") == "map":
            counts |= {name.lstrip("@"): value for name, value in word["data"].items()}
    return counts


@pytest.fixture(scope="session")
def recording(lab: Host) -> Recording:
    """Record every workload of the tests in this folder, once per kernel."""
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    print(f"seed {seed}")
    cases: dict[str, Case] = {}
    guest = lab.guest("cpx")
    counter = watch_with_bpftrace(lab)
    job, start_s = start_recording(lab)
    before, inside = lab.counters(guest.tap), guest.counters()
    with timed(lab, cases, "quiet") as truth:
        truth.towards = udp(lab, guest, 1009)
        truth.away = udp(guest, lab, 1009)
        # Counted before the guests are frozen again: one run behind that had an interrupt more in
        # the guest than signals and irqfds, which agreed.
        truth.host = delta(before, lab.counters(guest.tap))
        truth.guest = delta(inside, guest.counters())
        truth.bpftrace = bpftrace_counts(lab, counter)
    with timed(lab, cases, "stopped") as truth:
        truth.sent = 4000 + chance.randrange(100)
        before, inside = lab.counters(guest.tap), guest.counters()
        guest.stop()
        try:
            send(lab, guest.address, truth.sent, pps=0)
            time.sleep(1)
        finally:
            guest.cont()
        time.sleep(3)
        truth.host = delta(before, lab.counters(guest.tap))
        truth.guest = delta(inside, guest.counters())
    with timed(lab, cases, "resumed") as truth:
        guest.monitor("stop")
        guest.monitor("cont")
        truth.towards, truth.away = udp(lab, guest, 23), udp(guest, lab, 23)
    with timed(lab, cases, "rebound") as truth:
        guest.run(
            "d=$(basename $(readlink -f /sys/class/net/eth0/device)); "
            "cd /sys/bus/virtio/drivers/virtio_net; echo $d > unbind; echo $d > bind; "
            f"ip link set eth0 up; ip addr add {guest.address}/24 dev eth0; sleep 1"
        )
        truth.towards, truth.away = udp(lab, guest, 29), udp(guest, lab, 29)
    other = lab.guest("windows", nic_options="event_idx=off,indirect_desc=off,mrg_rxbuf=off")
    with timed(lab, cases, "windows") as truth:
        before, inside = lab.counters(other.tap), other.counters()
        truth.towards, truth.away = udp(lab, other, 211), udp(other, lab, 211)
        truth.host = delta(before, lab.counters(other.tap))
        truth.guest = delta(inside, other.counters())
    with timed(lab, cases, "died"):
        other.kill()
    said = stop_recording(lab, job)
    return Recording(lab.share / "run.vtrace", cases, start_s, said)
