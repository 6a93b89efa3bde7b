"""QEMU's own backends: counted work for each device, split and packed, equals what was recorded."""

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.host import devices
from tests.host.conftest import Case, frozen, now_ns, start_recording, stop_recording, timed
from tests.host.devices import BLOCK, Truth
from tests.host.rows import Rows, read_rows
from tests.testbed import Host
from tests.testbed.fixtures import shared_guest
from vtrace.model import Kind, Outcome, TimeState, Trust

VTRACE = Path(sys.executable).with_name("vtrace")
RINGS = ("split", "packed")
LOGGED = ("virtqueue_pop", "virtqueue_fill", "virtqueue_flush")
PLUGGED = 17
"""Reads of the disk that was plugged in while recording."""


@dataclass
class Machines:
    """One recording in which each machine was started, worked, and ended."""

    path: Path
    cases: dict[str, Case] = field(default_factory=dict)
    truths: dict[str, Truth] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)

    def rows(self, case: str) -> Rows:
        cut = self.cases[case]
        return read_rows(self.path, cut.since_ns, cut.until_ns)

    def requests(self, case: str, **wanted: str) -> list[dict[str, Any]]:
        """Return the rows of the verb in the time of a case, those of a device or queue."""
        done = subprocess.run(
            [VTRACE, "requests", "--json", self.path], capture_output=True, check=True
        )
        cut = self.cases[case]
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return [
            row
            for row in rows
            if cut.since_ns <= row["time_ns"] < cut.until_ns
            and all(row[name] == value for name, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def machines(lab: Host) -> Machines:
    """Record two machines from before their start to behind their end.

    The shared guest runs the same binary, so what firmware asks for is seen, too.
    """
    shared_guest(lab)
    seed = random.randrange(1 << 30)
    print(f"{lab.name}: work is drawn with seed {seed}")
    job, _ = start_recording(lab, name="devices")
    made = Machines(lab.share / "devices.vtrace")
    for ring in RINGS:
        words = devices.options(packed=ring == "packed")
        log = f"/dev/shm/{ring}.log"
        traced = [part for name in LOGGED for part in ("-trace", name)]
        words["extra"] = [*words["extra"], *traced, "-D", log]
        guest = lab.guest(ring, **words)
        with timed(lab, made.cases, ring):
            made.truths[ring] = devices.work(lab, guest, random.Random(seed))
        if ring == "split":
            guest.monitor("device_add virtio-blk-pci,drive=n2,id=blk1")
            guest.run("for i in $(seq 100); do [ -b /dev/vdb ] && break; sleep 0.1; done")
            with timed(lab, made.cases, "plugged"):
                guest.run(f"dd if=/dev/vdb of=/dev/null iflag=direct bs={BLOCK} count={PLUGGED}")
        with frozen(lab):
            time.sleep(1)
        guest.kill()
        made.logs[ring] = lab.run(f"cat {log}").out
        lab.run(f"rm {log} /dev/shm/heap")
    made.cases["all"] = Case(0, now_ns(lab))
    stop_recording(lab, job)
    return made


def queue_of(rows: Rows, vm: str, device: str, name: str) -> int:
    """Return the id of a queue that QEMU serves."""
    (number,) = (
        int(number)
        for number, queue in rows.metadata.section("queues").items()
        if (queue["vm"], queue["device"], queue["name"]) == (vm, device, name)
        and queue["backend"] == "qemu"
    )
    return number


@pytest.mark.parametrize("ring", RINGS)
def test_blk_requests_are_those_of_the_guest(machines: Machines, ring: str) -> None:
    truth = machines.truths[ring]
    rows = machines.requests(ring, vm=ring, device="blk0")
    reads = [row for row in rows if row["operation"] == "IN"]
    writes = [row for row in rows if row["operation"] == "OUT"]
    assert len(reads) == truth.guest["blk.reads"] == truth.blk_reads
    assert len(writes) == truth.guest["blk.writes"] == truth.blk_writes
    for found, sectors in ((reads, "blk.rsect"), (writes, "blk.wsect")):
        assert sum(row["data_bytes"] for row in found) == truth.guest[sectors] * 512
        assert [row["sector"] for row in found] == [n * 8 for n in range(len(found))]
    assert {row["status"] for row in rows} == {"OK"}


@pytest.mark.parametrize("ring", RINGS)
def test_scsi_commands_are_those_of_the_guest(machines: Machines, ring: str) -> None:
    truth = machines.truths[ring]
    rows = machines.requests(ring, vm=ring, device="scsi0")
    assert len(rows) == truth.guest["scsi.commands"]
    reads = [row for row in rows if row["operation"].startswith("READ(")]
    assert len(reads) == truth.guest["scsi.reads"] == truth.scsi_reads
    assert {row["status"] for row in reads} == {"GOOD"}
    assert {row["lun"] for row in rows} == {0}
    assert sum(row["data_bytes"] for row in reads) == truth.scsi_reads * BLOCK


@pytest.mark.parametrize("ring", RINGS)
def test_the_balloon_takes_and_gives_the_pages_that_the_guest_counts(
    machines: Machines, ring: str
) -> None:
    truth = machines.truths[ring]
    rows = machines.requests(ring, vm=ring, device="balloon0")
    for operation, counter in (("INFLATE", "balloon_inflate"), ("DEFLATE", "balloon_deflate")):
        pages = sum(row["pages"] for row in rows if row["operation"] == operation)
        assert pages == truth.pages == truth.guest[counter]


@pytest.mark.parametrize("ring", RINGS)
def test_serial_bytes_are_those_that_were_written(machines: Machines, ring: str) -> None:
    rows = machines.requests(ring, vm=ring, device="serial0")
    assert (
        sum(row["data_bytes"] for row in rows if row["data_bytes"])
        == machines.truths[ring].serial_bytes
    )


@pytest.mark.parametrize("ring", RINGS)
def test_a_packet_is_a_chain(machines: Machines, ring: str) -> None:
    truth, rows = machines.truths[ring], machines.rows(ring)
    for name, counter, most in (
        ("rx0", "net.rx_packets", truth.towards),
        ("tx0", "net.tx_packets", truth.away),
    ):
        chains = rows.chains_of(queue_of(rows, ring, "nic0", name))
        assert len(chains["pop_ns"]) == truth.guest[counter] == most


@pytest.mark.parametrize("ring", RINGS)
def test_every_request_is_one_complete_lifecycle(machines: Machines, ring: str) -> None:
    rows = machines.rows(ring)
    queues = {
        int(number): queue
        for number, queue in rows.metadata.section("queues").items()
        if queue["vm"] == ring and queue["backend"] == "qemu"
    }
    assert {queue["ring"] for queue in queues.values() if queue["device"] != "lab"} == {ring}
    assert {queue["device_type"] for queue in queues.values()} >= {
        "net",
        "blk",
        "scsi",
        "balloon",
        "serial",
    }
    seen = 0
    for number, queue in queues.items():
        pops = rows.count(Kind.POP, number)
        used = rows.count(Kind.USED, number)
        flushed = int(rows.of(Kind.FLUSH, number)["count"].sum())
        assert pops - int(rows.of(Kind.HAND_BACK, number)["count"].sum()) == used == flushed, queue
        chains = rows.chains_of(number)
        if queue["device"] == "lab":
            continue  # the agent's: its commands go across the borders of the case
        seen += len(chains["pop_ns"])
        assert set(chains["trust"].tolist()) <= {Trust.COMPLETE}, queue
        assert set(chains["outcome"].tolist()) <= {Outcome.USED}, queue
        positions = np.sort(chains["position"])
        assert (np.diff(positions) == 1).all(), queue
    assert seen > 350


def test_split_and_packed_give_the_same_lifecycles(machines: Machines) -> None:
    # The same work, drawn with the same seed. What a packed ring does not show of its driver
    # (how far it has published, what it has seen) is what differs.
    same = ("descriptors", "readable_bytes", "writable_bytes", "used_bytes", "handed_back")
    same += ("outcome", "trust", "wake_state", "run_state", "pop_state", "backend_state")
    same += ("used_state", "signal_state", "irq_state")
    for device, name in (("blk0", "req0"), ("balloon0", "inflate"), ("balloon0", "deflate")):
        split, packed = (
            rows.chains_of(queue_of(rows, ring, device, name))
            for ring, rows in ((ring, machines.rows(ring)) for ring in RINGS)
        )
        assert len(split["pop_ns"]) > 8
        for column in same:
            assert split[column].tolist() == packed[column].tolist(), (device, name, column)


@pytest.mark.parametrize("ring", RINGS)
def test_pops_fills_and_flushes_equal_qemus_own_log(machines: Machines, ring: str) -> None:
    logged: dict[str, Counter[str]] = {}
    for name, queue in re.findall(r"(virtqueue_\w+) vq (0x[0-9a-f]+)", machines.logs[ring]):
        logged.setdefault(queue, Counter())[name] += 1
    # QEMU does not log what it fills and flushes of a packed ring.
    compared = LOGGED if ring == "split" else LOGGED[:1]
    kinds = (Kind.POP, Kind.USED, Kind.FLUSH)[: len(compared)]
    rows = machines.rows("all")
    recorded = []
    for number, queue in rows.metadata.section("queues").items():
        if queue["vm"] == ring and queue["backend"] == "qemu":
            counts = tuple(rows.count(kind, int(number)) for kind in kinds)
            if any(counts):
                recorded.append(counts)
    assert sorted(recorded) == sorted(
        tuple(counts[name] for name in compared) for counts in logged.values()
    )
    assert len(recorded) >= 8


@pytest.mark.parametrize("ring", RINGS)
def test_kicks_and_interrupts_are_seen(machines: Machines, ring: str) -> None:
    rows = machines.rows(ring)
    chains = rows.chains_of(queue_of(rows, ring, "blk0", "req0"))
    # One request after the other: each has its kick and its interrupt.
    for state in ("kick_state", "run_state", "pop_state", "used_state", "signal_state"):
        assert set(chains[state].tolist()) == {TimeState.SEEN}, state
    assert set(chains["irq_state"].tolist()) <= {TimeState.SEEN, TimeState.SHARED}
    assert (chains["kick_ns"] <= chains["pop_ns"]).all()
    assert (chains["pop_ns"] <= chains["used_ns"]).all()


def test_a_disk_that_was_plugged_in_is_followed(machines: Machines) -> None:
    rows = machines.requests("plugged", vm="split", device="blk1", operation="IN")
    assert len(rows) == PLUGGED


def test_nothing_was_lost_and_the_dead_are_known(machines: Machines) -> None:
    rows = machines.rows("all")
    counts = rows.metadata.section("counts")
    assert sum(kind["lost"] for kind in counts.values()) == 0
    calls = rows.metadata.section("calls")
    assert {name: c["entry"] - c["return"] for name, c in calls.items()} == dict.fromkeys(calls, 0)
