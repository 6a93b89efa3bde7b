"""QEMU's monitor beside a recording of a TCG guest on this machine: both see the same rings."""

import json
import time

import pytest

from parsers.tracefile import TraceWriter, open_trace
from tests.qemu.recording import Recorder
from tests.qemu.tcg import TcgGuest
from tests.requests.test_real_guest import MEMORY, PAGES, balloon_to, devices
from vtrace.cli import main
from vtrace.session.sane import sane

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def vtrace(capsys):
    """Return a function that runs a command line, and returns what it prints."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return run


@pytest.fixture(scope="module", params=["", ",packed=on"], ids=["split", "packed"])
def recorded(request, build, tmp_path_factory):
    """Counted work of a guest that ran before, with its monitor asked; the path of the file."""
    folder = tmp_path_factory.mktemp("asked")
    path = folder / "run.vtrace"
    ring = request.param
    with TcgGuest(build, folder, extra=devices(ring), serial_options=ring) as guest:
        guest.run("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0")
        with Recorder(path, "--vm", str(guest.pid), "--qmp", str(guest.qmp)):
            guest.run("dd if=/dev/vda of=/dev/null bs=4096 count=101 iflag=direct")
            guest.run("dd if=/dev/sda of=/dev/null bs=65536 count=13 iflag=direct")
            guest.run("ping -c 3 -i 0.2 10.0.2.2")
            balloon_to(guest, MEMORY - PAGES * 4096)
            # The balloon is still for a while, so that all of its pages are told.
            time.sleep(1)
    return path


def test_both_agree(vtrace, recorded):
    found = json.loads(vtrace("report", "--json", recorded))["monitor"]
    assert (found["disagreements"], found["not_compared"]) == ([], [])
    # Disk, SCSI, balloon, both network queues, both of the port.
    assert found["queues"] >= 7
    assert found["facts"] >= 40
    assert f"QMP agrees: {found['queues']} queues, " in vtrace("report", recorded)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("qmp_taken", lambda disk: disk["queues"][0].update(taken=disk["queues"][0]["taken"] ^ 1)),
        ("qmp_used", lambda disk: disk["queues"][0].update(used=disk["queues"][0]["used"] ^ 1)),
        ("qmp_ring_size", lambda disk: disk["queues"][0].update(size=128)),
        ("qmp_features", lambda disk: disk["features"].remove("VIRTIO_BLK_F_FLUSH")),
    ],
)
def test_one_thing_changed_is_one_disagreement(vtrace, recorded, tmp_path, code, change):
    path = tmp_path / "changed.vtrace"
    with open_trace(str(recorded)) as trace, TraceWriter(path) as writer:
        for batch in trace.batches():
            for said in batch.meta.get("qmp", {}).values():
                if "look" in said:
                    change(said["look"]["devices"]["blk0"])
            writer.write(batch)
    (found,) = json.loads(vtrace("report", "--json", path))["monitor"]["disagreements"]
    assert (found["code"], found["device"]) == (code, "blk0")


def test_what_was_asked_keeps_its_shape(recorded):
    with open_trace(str(recorded)) as trace:
        looks = [one.meta["qmp"] for one in trace.batches() if "qmp" in one.meta]
        (vm,) = trace.metadata.sections["vms"]
    assert len(looks) >= 2
    for section in looks:
        kept = sane({"qmp": section})["qmp"]
        for name, said in section.items():
            for device, row in said["look"]["devices"].items():
                assert kept[name]["look"]["devices"][device]["bits"] == row["bits"]
    registers = {row["device"] for row in vm["regions"] if row["io"] == "mmio"}
    assert {"blk0", "scsi0", "nic0", "balloon0", "lab"} <= registers
    # None of them hides what a PC is known to have there.
    assert {row["device"] for row in vm["regions"] if row["name"] == "serial"} == {""}
