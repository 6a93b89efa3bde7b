"""What an emulated device costs beside its virtio twin, on the same counted work."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.host.twins import CHARACTERS, OPTIONS, PACKETS, READS, Twin, record
from tests.testbed import Host

pytestmark = pytest.mark.one_kernel

VTRACE = Path(sys.executable).with_name("vtrace")


def vtrace(*words: object) -> dict[str, Any]:
    """Return what a verb says as JSON."""
    done = subprocess.run([VTRACE, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def twins(lab: Host) -> dict[str, Twin]:
    return {name: record(lab, name) for name in OPTIONS}


def exits(twin: Twin) -> list[dict[str, Any]]:
    sums = vtrace("exits", "--sum", "--json", "--mtree", twin.mtree, twin.path)
    return sums["exits"]


def total(rows: list[dict[str, Any]], name: str = "count", **wanted: object) -> int:
    """Return the sum over the rows of a device, a port, a direction."""
    return sum(
        row[name] or 0 for row in rows if all(row[key] == value for key, value in wanted.items())
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_each_character_is_an_exit_to_qemu(twins: dict[str, Twin], name: str) -> None:
    rows = exits(twins[name])
    sent = {"io": "pio", "address": 0x3F8, "write": True}
    assert total(rows, **sent) == total(rows, "user_count", **sent) == CHARACTERS


def test_an_emulated_card_stops_the_guest_for_each_packet(twins: dict[str, Twin]) -> None:
    rows = exits(twins["emulated"])
    card = [row for row in rows if row["part"].startswith("e1000")]
    # A packet to send is a write to TDT; one received is an interrupt, whose cause is read.
    # KVM itself keeps writes to some registers until QEMU asks (coalesced MMIO).
    assert 2 * PACKETS <= total(card, "user_count") <= total(card)
    assert total(card, "user_ns") > 0


@pytest.mark.parametrize("name", ["qemu", "vhost"])
def test_no_kick_of_a_virtio_device_goes_to_qemu(twins: dict[str, Twin], name: str) -> None:
    twin = twins[name]
    report = vtrace("report", "--json", twin.path)
    kicks = {
        (queue["device"], queue["queue"]): queue["kicks"]["sent"] for queue in report["queues"]
    }
    assert kicks["disk0", "req0"] == READS
    assert 0 < kicks["nic0", "tx0"] <= PACKETS
    notified = [row for row in exits(twin) if "notify" in row["part"]]
    assert total(notified) >= READS + kicks["nic0", "tx0"]
    assert total(notified, "user_count") == 0


def test_the_disk_of_ports_needs_several_exits_for_each_request(twins: dict[str, Twin]) -> None:
    rows = exits(twins["emulated"])
    ports = [row for row in rows if row["io"] == "pio" and row["address"] in range(0x1F0, 0x1F8)]
    # Drive, count, three parts of the address, command; status.
    assert total(ports, "user_count") >= 6 * READS


@pytest.mark.parametrize(("before", "after"), [("emulated", "vhost"), ("qemu", "vhost")])
def test_twins_are_held_against_each_other(twins: dict[str, Twin], before: str, after: str) -> None:
    pair = (twins[before].path, twins[after].path)
    found = vtrace("diff", "--json", *pair)
    assert [side["units"] for side in (found["before"], found["after"])] == [2 * PACKETS] * 2


# QEMU's own word: the recordings were made with --qmp.


def test_registers_have_their_device_without_a_memory_tree(twins: dict[str, Twin]) -> None:
    path = twins["emulated"].path
    with_tree = total([row for row in exits(twins["emulated"]) if "e1000" in row["part"]])
    sums = vtrace("exits", "--sum", "--json", path)
    card = [row for row in sums["exits"] if row["device"] == "nic0"]
    assert {row["part"] for row in card} == {"e1000-mmio"}
    assert total(card) == with_tree > 2 * PACKETS
    lines = {row["gsi"]: row["device"] for row in sums["interrupts"] if row["gsi"] is not None}
    assert "nic0" in lines.values()
    assert lines[4] == "COM1"
    report = vtrace("report", "--json", path)
    assert "nic0" in {row["device"] for row in report["device_exits"]}


@pytest.mark.parametrize("name", ["qemu", "vhost"])
def test_qemu_and_the_probes_agree(twins: dict[str, Twin], name: str) -> None:
    found = vtrace("report", "--json", twins[name].path)["monitor"]
    assert found["disagreements"] == []
    assert found["queues"] >= 3
    assert found["facts"] >= 15
    # What QEMU has of a ring under vhost is of before vhost.
    why = [row["why"] for row in found["not_compared"] if row["what"] == "places in a ring"]
    known = [] if name == "qemu" else ["QEMU does not know them while vhost serves it"]
    assert why == known


@pytest.mark.parametrize("queue", ["rx0", "tx0"])
def test_a_ring_that_vhost_serves(twins: dict[str, Twin], queue: str) -> None:
    shot = json.loads(twins["vhost"].rings[queue])
    assert (shot["backend"], shot["ring"], shot["size"]) == ("vhost", "split", 256)
    assert shot["consistent"]
    assert shot["findings"] == []
    owners = shot["owners"]
    assert sum(owners.values()) == 256
    # The driver lends all buffers for receiving, and has none out for sending.
    out = owners["available"] + owners["outstanding"] + owners["device"]
    if queue == "rx0":
        assert out > 200
        assert {chain["writable_bytes"] > 0 for chain in shot["chains"]} == {True}
    else:
        assert out == 0
    # All that was sent went through it.
    assert shot["indices"]["used"] >= PACKETS
