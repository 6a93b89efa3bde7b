"""Stalls that are made for real, and rings looked at from outside, on each kernel.

One guest has a device for each harm, so that all of them share a recording. Of the quiet device and
of everything before a harm nothing may be found.
"""

import base64
import contextlib
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from parsers.batch import Metadata
from parsers.tracefile import open_trace
from tests.host.conftest import start_recording, stop_recording
from tests.testbed import Host, Receiver, send
from tests.testbed.channel import Job
from tests.testbed.guest import Guest
from vtrace.diagnose.findings import Certainty, Finding
from vtrace.diagnose.stalls import Stalls
from vtrace.model import Kind

QUIET, DOWN, KICK, CALL, STORM, FULL, LIVELOCK = range(7)
TAMPER = Path(__file__).with_name("tamper.py")
HOG = Path(__file__).with_name("hog.c")


class Story:
    """What was done, what others counted meanwhile, and what the recording says."""

    def __init__(self, path: Path, truth: SimpleNamespace) -> None:
        self.truth = truth
        self.metadata = Metadata()
        self.samples: dict[str, list[dict[str, int]]] = {}
        self.events: dict[tuple[int, int], int] = {}
        stalls = Stalls()
        with open_trace(path) as trace:
            for batch in trace.batches():
                self.metadata.update(batch.meta)
                stalls.feed(batch, self.metadata)
                for key, row in batch.meta.get("rings", {}).items():
                    self.samples.setdefault(key, []).append(row)
                for queue, kind in zip(
                    batch["queue"].tolist(), batch["kind"].tolist(), strict=True
                ):
                    self.events[queue, kind] = self.events.get((queue, kind), 0) + 1
            assert not trace.damage, trace.damage
        self.findings: list[Finding] = stalls.finish()

    def queue(self, tap: str, name: str) -> str:
        (found,) = (
            key
            for key, entry in self.metadata.section("queues").items()
            if entry["interface"] == tap and entry["name"] == name
        )
        return found

    def of(self, nic: int, vm: str = "harm") -> list[Finding]:
        """Return the findings about one device of a guest."""
        return [f for f in self.findings if (f.vm, f.device) == (vm, f"nic{nic}")]


def call_eventfd(host: Host, guest: Guest, link: str) -> int:
    """Find the eventfd whose signal makes the guest count an interrupt of a receive queue."""

    def counted() -> int:
        script = (
            f"d=$(basename $(readlink -f /sys/class/net/{link}/device)); "
            "grep $d-input.0 /proc/interrupts"
        )
        return int(guest.run(script).out.split()[1])

    left = host.run(f"python3 /share/tamper.py list {guest.pid}").out.split()
    while len(left) > 1:
        half = left[: len(left) // 2]
        before = counted()
        host.run(f"python3 /share/tamper.py storm {guest.pid} 1 {' '.join(half)}")
        time.sleep(0.2)
        left = half if counted() > before else left[len(half) :]
    return int(left[0])


def _share(nanoseconds: int) -> str:
    """Return shell text that sets what Linux 6.12 keeps of a CPU for ordinary threads."""
    return (
        "mount -t debugfs none /sys/kernel/debug 2>/dev/null; "
        "for f in /sys/kernel/debug/sched/fair_server/cpu*/runtime; do "
        f"[ -e $f ] && echo {nanoseconds} >$f; done; true"
    )


@contextlib.contextmanager
def starved_worker(host: Host, guest: Guest, tid: int) -> Iterator[None]:
    """Keep a vhost worker from its CPU: a real-time thread is on it and does not let go."""
    host.run(f"taskset -pc 1 {tid}; sysctl -qw kernel.sched_rt_runtime_us=-1; {_share(0)}")
    host.run(f"for t in /proc/{guest.pid}/task/*; do [ ${{t##*/}} = {tid} ] || "
             "taskset -pc 0 ${t##*/}; done")  # fmt: skip
    # The recorder looks at the ring meanwhile: not from behind the real-time thread.
    host.run("for p in $(pgrep -f '^python3 -m vtrace record'); do taskset -apc 0 $p; done")
    job = host.start("exec taskset -c 1 chrt -f 50 timeout 20 sh -c 'while :; do :; done'")
    time.sleep(0.3)
    try:
        yield
    finally:
        job.kill()
        host.run(f"sysctl -qw kernel.sched_rt_runtime_us=950000; {_share(50_000_000)}")


def starve_poll(guest: Guest, folder: Path) -> Job:
    """Let a real-time thread have the only vCPU for six seconds; NAPI is a thread that waits.

    Its interrupt comes, switches interrupts off and wakes the thread: that is all.
    """
    binary = folder / "hog"
    flags = ["-Os", "-static", "-nostdlib", "-ffreestanding", "-Wl,-n,-s,--build-id=none"]
    subprocess.run(["gcc", *flags, "-o", binary, HOG], check=True)
    text = base64.b64encode(binary.read_bytes()).decode()
    guest.run(
        f"echo {text} | base64 -d >/tmp/hog; chmod +x /tmp/hog; "
        "echo 1 >/sys/class/net/eth0/threaded; echo -1 >/proc/sys/kernel/sched_rt_runtime_us; "
        + _share(0)
    )
    return guest.start("exec /tmp/hog")


def worker_of(host: Host, guest: Guest, nth: int) -> int:
    """Return the thread id of the worker of a guest's n-th vhost device."""
    found = host.run(
        f'for d in /proc/[0-9]*/task/*; do read -r c <$d/comm && [ "$c" = vhost-{guest.pid} ] '
        "&& echo ${d##*/}; done 2>/dev/null; true"
    ).out.split()
    return sorted(map(int, found))[nth]


def ring_size(guest: Guest) -> int:
    """Return the descriptors of its rings; QEMU's default differs between suites."""
    return int(guest.run("ethtool -g eth0 | awk '/^RX:/ { n = $2 } END { print n }'").out)


def counted(guest: Guest, link: str) -> tuple[int, int]:
    out = guest.run(f"cd /sys/class/net/{link}/statistics; cat rx_packets tx_packets").out.split()
    return int(out[0]), int(out[1])


@pytest.fixture(scope="session")
def story(lab: Host, tmp_path_factory: pytest.TempPathFactory) -> Story:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    print(f"seed {seed}")
    (lab.share / "tamper.py").write_bytes(TAMPER.read_bytes())
    guest = lab.guest("harm", taps=7, memory="192M")
    nics = guest.nics
    truth = SimpleNamespace(taps=[nic.tap for nic in nics])
    truth.size = size = ring_size(guest)
    # A worker that is a thread of QEMU is stopped with it.
    truth.worker_stops = bool(lab.run(f"cat /proc/{guest.pid}/task/*/comm").out.count("vhost-"))
    call = call_eventfd(lab, guest, nics[STORM].link)
    job, _ = start_recording(lab, name="rings")

    def both_ways(nic: int, count: int) -> None:
        there = Receiver(guest, count=count, idle=20)
        here = Receiver(lab, count=count, idle=20)
        send(lab, nics[nic].address, count)
        send(guest, nics[nic].host_address, count)
        assert there.result(20)["received"] == here.result(20)["received"] == count

    def tamper(verb: str, *numbers: int) -> None:
        words = " ".join(map(str, numbers))
        lab.run(f"python3 /share/tamper.py {verb} {guest.pid} {words}")

    # Quiet: a counted run between two standstills.
    for nic in range(len(nics)):
        both_ways(nic, 7)
    time.sleep(2.5)
    truth.before = counted(guest, "eth0")
    truth.count = 400 + chance.randrange(300)
    both_ways(QUIET, truth.count)
    time.sleep(2.5)
    truth.after = counted(guest, "eth0")
    # The interface is down in the guest: nobody serves the interrupts.
    guest.run(f"ip link set {nics[DOWN].link} down")
    truth.down = size * 7 // 8 + chance.randrange(20)
    send(lab, nics[DOWN].address, truth.down)
    # A kick that vhost does not hear.
    tamper("lose-kick", KICK, 1)
    send(guest, nics[KICK].host_address, 11)
    # An interrupt that KVM does not hear.
    tamper("lose-call", CALL, 0)
    send(lab, nics[CALL].address, 11)
    # Interrupts for nothing.
    truth.storm = 20_000 + chance.randrange(1000)
    tamper("storm", truth.storm, call)
    time.sleep(3)
    # A worker that gets no CPU, and a guest that sends.
    with starved_worker(lab, guest, worker_of(lab, guest, FULL)):
        # One socket may have less under way than a long ring holds.
        words = ["udptool", "send", nics[FULL].host_address, "7001", "700", "200", "0"]
        floods = [guest.start(words) for _ in range(1 + size // 200)]
        time.sleep(5)
    for flood in floods:
        flood.kill()
    # Nobody refills, and a packet comes that is larger than what is left.
    lab.run(f"ip link set {nics[LIVELOCK].tap} mtu 9000")
    # Seven came before: three buffers are left.
    truth.small = size - 10
    guest.stop()
    try:
        send(lab, nics[LIVELOCK].address, truth.small)
        send(lab, nics[LIVELOCK].address, 3, size=8900)
        time.sleep(2)
    finally:
        guest.cont()
    time.sleep(2)
    # A driver that polls with interrupts off, and whose poll gets no vCPU.
    poll = lab.guest("poll", nic_options="event_idx=off")
    send(lab, poll.address, 20)
    hog = starve_poll(poll, tmp_path_factory.mktemp("hog"))
    time.sleep(0.5)
    send(lab, poll.address, size * 3 // 2, pps=1000)
    time.sleep(3)
    hog.wait(60)
    stop_recording(lab, job)
    guest.kill()
    poll.kill()
    return Story(lab.share / "rings.vtrace", truth)


@pytest.mark.parametrize(("name", "index"), [("rx0", 0), ("tx0", 1)])
def test_samples_at_a_standstill_equal_what_the_guest_counted(
    story: Story, name: str, index: int
) -> None:
    # The driver began at 0, and gives a chain to each packet.
    before, after = story.truth.before[index], story.truth.after[index]
    assert after - before == story.truth.count
    rows = [r for r in story.samples[story.queue(story.truth.taps[QUIET], name)] if "used" in r]
    assert {row["used"] for row in rows} >= {before & 0xFFFF, after & 0xFFFF}
    last = rows[-1]
    assert last["used"] == after & 0xFFFF
    assert last["lo_ns"] <= last["hi_ns"]
    if name == "tx0":
        assert last["avail"] == last["used"]
    else:
        assert 0 < (last["avail"] - last["used"]) & 0xFFFF <= story.truth.size


def test_nothing_is_found_of_the_quiet_device(story: Story) -> None:
    assert story.of(QUIET) == []


def found(story: Story, nic: int, code: str, direction: str, vm: str = "harm") -> Finding:
    (one,) = story.of(nic, vm)
    assert (one.code, one.direction) == (code, direction)
    assert one.evidence
    assert one.remedies
    print(one.cause, *(e.text for e in one.evidence), sep="\n  ")
    return one


def test_an_interface_that_is_down_does_not_serve_interrupts(story: Story) -> None:
    one = found(story, DOWN, "S1", "rx")
    assert one.certainty == Certainty.PROVEN
    assert one.last_ns - one.first_ns > 3_000_000_000


def test_a_kick_that_vhost_does_not_hear(story: Story) -> None:
    one = found(story, KICK, "T2", "tx")
    assert one.certainty == Certainty.PROVEN
    assert "between KVM and vhost" in one.cause


def test_an_interrupt_that_kvm_does_not_hear(story: Story) -> None:
    one = found(story, CALL, "S1", "rx")
    assert one.certainty == Certainty.PROVEN
    assert "was lost" in one.cause


def test_interrupts_for_nothing(story: Story) -> None:
    found(story, STORM, "S3", "rx")
    queue = int(story.queue(story.truth.taps[STORM], "rx0"))
    assert story.events[queue, Kind.IRQ] >= story.truth.storm


def test_a_driver_that_polls_and_whose_poll_does_not_run(story: Story) -> None:
    one = found(story, 0, "S2", "rx", "poll")
    assert one.certainty == Certainty.PROVEN


def test_a_transmit_ring_that_stays_full(story: Story) -> None:
    if story.truth.worker_stops:
        # On 6.12 the real-time thread holds up the guest's sender, too: the ring is not filled.
        assert {f.code for f in story.of(FULL)} <= {"T1"}
        return
    one = found(story, FULL, "T1", "tx")
    assert "did not run" in one.cause


def test_a_packet_larger_than_what_is_left_of_the_ring(story: Story) -> None:
    # What a livelock begins with. Neither of these kernels has the bug: it ends with the refill.
    queue = int(story.queue(story.truth.taps[LIVELOCK], "rx0"))
    if not story.truth.worker_stops:
        assert story.events.get((queue, Kind.HAND_BACK), 0) > 0
        assert story.events[queue, Kind.RECV] == 7 + story.truth.small + 3
    assert story.of(LIVELOCK) == []
