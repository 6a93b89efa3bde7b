"""Program qemu_virtio with a TCG guest on this machine: counts are those of QEMU's own log."""

import collections
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.qemu.conftest import until
from tests.qemu.recording import Recorder, Recording, logged
from tests.qemu.tcg import TcgGuest
from vtrace.model import Flag, Kind

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

READS = 101
BLOCK = 4096
BYTES = 1009
TRACE = ("virtqueue_pop", "virtqueue_fill", "virtqueue_flush")


def devices(ring=""):
    return [
        *("-blockdev", "null-co,node-name=n0,size=67108864,read-zeroes=on"),
        *("-device", f"virtio-blk-pci,drive=n0,id=blk0{ring}"),
        *("-device", f"virtio-balloon-pci,id=balloon0{ring}"),
        *("-netdev", "user,id=u0,restrict=on"),
        *("-device", f"virtio-net-pci,netdev=u0,id=nic0,romfile={ring}"),
    ]


class Run:
    """A guest from its start to its end, with counted work between, all of it recorded."""

    def __init__(self, build, folder, ring):
        self.packed = bool(ring)
        path = folder / "run.vtrace"
        guest = TcgGuest(build, folder, extra=devices(ring), trace=TRACE, serial_options=ring)
        with Recorder(path), guest:
            self.pid = guest.pid
            guest.run(f"dd if=/dev/vda of=/dev/null bs={BLOCK} count={READS} iflag=direct")
            guest.run(f"dd if=/dev/zero of=/dev/vda bs={BLOCK} count=7 oflag=direct")
            assert guest.run(f"head -c {BYTES} /dev/zero | tr '\\0' x").out == "x" * BYTES
            guest.end()
        self.logged = logged(guest.log)
        self.recording = Recording(path)
        self.queues = self.recording.queues(self.pid)

    def queue(self, device, name):
        (found,) = [
            number
            for number, row in self.queues.items()
            if (row["device"], row["name"]) == (device, name)
        ]
        return found


@pytest.fixture(scope="module", params=["split", "packed"])
def run(request, build, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return Run(build, folder, ",packed=on" if request.param == "packed" else "")


def test_pops_fills_and_flushes_are_those_of_qemus_log(run):
    seen = collections.Counter()
    for number in run.queues:
        flushed = run.recording.rows(number, Kind.FLUSH)
        seen[
            run.recording.count(number, Kind.POP),
            run.recording.count(number, Kind.USED),
            int(run.recording.columns["count"][flushed].sum()),
        ] += 1
    seen.pop((0, 0, 0), None)
    # QEMU 7.2 logs fills and flushes of split rings alone.
    known = collections.Counter(
        (found["pop"], found["fill"], found["flush"]) for found in run.logged.values()
    )
    if run.packed:
        seen = collections.Counter(pops for pops, _, _ in seen.elements())
        known = collections.Counter(pops for pops, _, _ in known.elements())
    assert seen == known
    assert sum(known.values()) > 5


def test_nothing_was_lost_or_missed(run):
    loss = run.recording.meta.section("loss")
    assert {name: loss[name] for name in ("late", "missed", "pending", "dropped_records")} == {
        "late": 0,
        "missed": 0,
        "pending": 0,
        "dropped_records": 0,
    }
    counts = run.recording.meta.section("counts")
    assert all(kind["lost"] == 0 for kind in counts.values())
    assert {"qemu_pop", "qemu_enable", "qemu_notify"} <= set(run.recording.meta.section("calls"))


def test_queues_have_their_devices(run):
    ring = "packed" if run.packed else "split"
    row = run.queues[run.queue("blk0", "req0")]
    assert row["backend"] == "qemu"
    assert (row["device_type"], row["ring"], row["index"], row["size"]) == ("blk", ring, 0, 256)
    assert row["qom"] == "/machine/peripheral/blk0/virtio-backend"
    assert run.queues[run.queue("nic0", "tx0")]["direction"] == "tx"
    assert run.queues[run.queue("nic0", "ctrl")]["index"] == 2
    assert run.queues[run.queue("balloon0", "stats")]["device_type"] == "balloon"
    assert run.queues[run.queue("lab", "rx1")]["device_type"] == "serial"
    assert {row["ring"] for row in run.queues.values()} == {ring}
    assert not any("vq" in row or "vdev" in row for row in run.queues.values())


def test_each_request_of_the_disk_is_popped_filled_and_flushed_once(run):
    queue, columns = run.queue("blk0", "req0"), run.recording.columns
    requests = headers(run, queue)
    reads = [sector for kind, sector in requests if kind == 0]
    writes = [sector for kind, sector in requests if kind == 1]
    # A kernel looks at a new disk's first blocks before anybody asks.
    assert reads[-READS:] == [BLOCK // 512 * n for n in range(READS)]
    assert writes == [BLOCK // 512 * n for n in range(7)]
    used = run.recording.rows(queue, Kind.USED)
    pops = run.recording.rows(queue, Kind.POP)
    assert len(used) == len(pops)
    assert set(columns["ret"][used]) == {0}, "the status of every request"
    assert sorted(columns["head"][used]) == sorted(columns["head"][pops])
    written = columns["length"][used]
    assert np.count_nonzero(written == BLOCK + 1) >= READS
    assert np.count_nonzero(written == 1) == 7
    assert columns["room"][pops[-1]] == 1
    assert columns["length"][pops[-1]] == 16 + BLOCK


def headers(run, queue):
    """Return (type, sector) of every request, from the bytes that its driver wrote."""
    found = []
    for row in run.recording.rows(queue, Kind.REQUEST):
        if run.recording.columns["length"][row] == 0:
            assert run.recording.columns["room"][row] == 16
            kind, _, sector = struct.unpack("<IIQ", run.recording.bytes[int(row)])
            found.append((kind, sector))
    return found


def test_places_count_up_as_the_ring_has_them(run):
    queue, columns = run.queue("blk0", "req0"), run.recording.columns
    size = run.queues[queue]["size"]
    starts = run.recording.rows(queue, Kind.START)
    pops = run.recording.rows(queue, Kind.POP)
    pops = pops[pops > starts[-1]]
    assert columns["position"][pops[0]] == (0x8000 if run.packed else 0)
    place, wrap = int(columns["position"][pops[0]]) & 0x7FFF, 1
    for row in pops:
        if not run.packed:
            assert columns["position"][row] == place
            place += 1
            continue
        assert columns["position"][row] == place | wrap << 15
        place += int(columns["ret"][row])
        if place >= size:
            place, wrap = place - size, 1 - wrap
    used = run.recording.rows(queue, Kind.USED)
    used = used[used > starts[-1]]
    if not run.packed:
        assert list(columns["used"][used]) == list(range(len(used)))
    assert len(set(columns["used"][used])) == len(used) or run.packed


def test_every_record_says_whose_it_is(run):
    mine = np.isin(run.recording.columns["queue"], list(run.queues))
    flags = run.recording.columns["flags"][mine]
    kinds = run.recording.columns["kind"][mine]
    assert np.all(flags & int(Flag.QEMU))
    assert not np.any(flags & int(Flag.FAULT))
    if not run.packed:
        popped = flags[kinds == int(Kind.POP)]
        assert np.all(popped & int(Flag.AVAIL))
    # Firmware has a ring of its own first, which is split.
    queue = run.queue("blk0", "req0")
    begin = run.recording.rows(queue, Kind.START)[-1]
    kinds = (Kind.POP, Kind.USED, Kind.FLUSH, Kind.KICK, Kind.REQUEST, Kind.RESPONSE)
    rows = run.recording.rows(queue, *kinds)
    packed = run.recording.columns["flags"][rows[rows > begin]] & int(Flag.PACKED) != 0
    assert np.all(packed == run.packed)


def test_kicks_runs_and_interrupts_go_with_the_work(run):
    queue, times = run.queue("blk0", "req0"), run.recording.columns["time"]
    # One request after the other. QEMU itself kicks a device that starts, and looks at the
    # notifier of one that stops.
    end = times[run.recording.rows(queue, Kind.USED)[-1]]
    kicks, runs = (times[run.recording.rows(queue, kind)] for kind in (Kind.KICK, Kind.RUN))
    kicks, runs = kicks[kicks < end][-READS:], runs[runs < end][-READS:]
    assert np.all(kicks < runs)
    assert np.all(runs[:-1] < kicks[1:])
    raised = run.recording.columns["ret"][run.recording.rows(queue, Kind.SIGNAL)]
    assert run.recording.count(queue, Kind.IRQ) == int(raised.sum()) > READS


def test_what_went_through_the_port_is_there(run):
    queue = run.queue("lab", "tx1")
    said = b"".join(
        run.recording.bytes[int(row)] for row in run.recording.rows(queue, Kind.REQUEST)
    )
    # Up to the snap length of each chain.
    assert b"x" * 100 in said
    pops = run.recording.rows(queue, Kind.POP)
    assert int(run.recording.columns["length"][pops].sum()) > BYTES


def test_the_probes_say_what_they_are_attached_to(run):
    probes = run.recording.meta.section("probes")
    assert probes["virtqueue_pop:return"]["state"] == "attached"
    if not os.path.exists("/sys/bus/event_source/devices/kprobe"):  # noqa: PTH110
        assert probes["ioeventfd_write"]["state"] == "unavailable"
        assert probes["ioeventfd_write"]["reason"]


# Processes that come and go.


def test_other_binaries_and_a_vm_that_dies(build, tmp_path):
    """Record three guests.

    One ran before, one has a binary of its own that is deleted, one is in a mount namespace of its
    own; the first is killed, and started anew.
    """
    path = tmp_path / "run.vtrace"
    program = shutil.which("qemu-system-x86_64")
    data = ["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]
    copy = tmp_path / "engine"
    shutil.copy(program, copy)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    first = TcgGuest(build, tmp_path, extra=devices())
    second = TcgGuest(build, tmp_path, extra=[*devices(), *data], program=str(copy))
    third = TcgGuest(build, tmp_path, extra=[*devices(), *data], program=str(hidden / "vmm"))
    third.command[:0] = [
        *("unshare", "--mount", "sh", "-c"),
        f'mount -t tmpfs none {hidden} && cp {program} {hidden}/vmm && exec "$0" "$@"',
    ]
    for guest in (second, third):
        # Its modules stand where the distribution's QEMU has them.
        module = next(Path("/usr/lib").glob("*/qemu/accel-tcg-x86_64.so"))
        guest.command[:0] = ["env", f"QEMU_MODULE_DIR={module.parent}"]
    fourth = TcgGuest(build, tmp_path, extra=devices())
    try:
        first.start_qemu()
        first.wait_until_up()
        with Recorder(path):
            for guest in (second, third):
                guest.start_qemu()
            for guest in (second, third):
                guest.wait_until_up()
            copy.unlink()
            first_pid = first.pid
            first.run(f"dd if=/dev/vda of=/dev/null bs={BLOCK} count=11 iflag=direct")
            # Names are read out of the process, twice a second.
            time.sleep(1)
            first.kill()
            fourth.start_qemu()
            fourth.wait_until_up()
            for guest, count in ((second, 13), (third, 17), (fourth, 19)):
                guest.run(f"dd if=/dev/vda of=/dev/null bs={BLOCK} count={count} iflag=direct")
            pids = [first_pid, second.pid, third.pid, fourth.pid]
            for guest in (second, third, fourth):
                guest.end()
            until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))  # noqa: PTH110
    finally:
        for guest in (first, second, third, fourth):
            guest.kill()
    recording = Recording(path)
    for pid, least in zip(pids, (11, 13, 17, 19), strict=True):
        queues = recording.queues(pid)
        disks = [n for n, row in queues.items() if row["device_type"] == "blk"]
        (disk,) = disks
        assert recording.count(disk, Kind.POP) >= least
        assert recording.count(disk, Kind.POP) == recording.count(disk, Kind.USED)
        assert queues[disk]["device"] == "blk0"
        # The process is gone, so its queues are.
        assert queues[disk]["extra"]["stopped_ns"] > 0
    (disk,) = [n for n, r in recording.queues(first_pid).items() if r["device_type"] == "blk"]
    assert recording.count(disk, Kind.POP) == 11
    assert recording.count(disk, Kind.START) == 0, "it ran before"
    (disk,) = [n for n, r in recording.queues(pids[3]).items() if r["device_type"] == "blk"]
    assert recording.count(disk, Kind.START) >= 1


def test_a_program_that_is_no_qemu_is_left_alone(tmp_path):
    from probes.qemu import binaries

    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        assert all(sleeper.pid not in binary.pids for binary in binaries())
    finally:
        sleeper.kill()
        sleeper.wait()
