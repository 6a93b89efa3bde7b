"""Rings of a real guest, slot by slot, against QEMU's monitor and what the guest says of itself."""

import json
import os
import time

import pytest

from tests.ring.realguest import RealGuest
from vtrace.cli import main
from vtrace.inventory.qmp import Qmp

LAYOUTS = ["split", "packed"]


@pytest.fixture(scope="module", params=LAYOUTS)
def guest(request, tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("memory of another process needs root")
    place = tmp_path_factory.mktemp("ringed")
    guest = RealGuest(place, f"packed={'on' if request.param == 'packed' else 'off'}")
    guest.layout = request.param
    yield guest
    guest.close()


@pytest.fixture
def ring(guest, capsys):
    """Return a function that takes a snapshot as JSON."""

    def take(*words):
        capsys.readouterr()
        code = main(["ring", str(guest.pid), *words, "--qmp", guest.qmp, "--json"])
        out = capsys.readouterr()
        assert code == 0, out.err
        shot = json.loads(out.out)
        assert shot["consistent"]
        assert shot["certain"]
        assert shot["findings"] == []
        assert shot["ring"] == guest.layout
        return shot

    return take


def owned(shot, owner):
    return [slot["place"] for slot in shot["slots"] if slot["owner"] == owner]


def status_of(guest, device, index):
    with Qmp(guest.qmp) as qmp:
        path = f"/machine/peripheral/{device}/virtio-backend"
        return path, qmp.queue_status(path, index)


def test_requests_of_a_disk_that_does_not_answer(guest, ring):
    guest.throttle()
    reads = " ".join(str(n) for n in range(1, 10))
    guest.run(
        f"for at in {reads}; do dd if=/dev/vda of=/dev/null bs=4k count=1 skip=$((at * 8))"
        " iflag=direct >/dev/null 2>&1 & done; sleep 1"
    )
    asked = int(guest.run("cat /sys/block/vda/inflight").split()[0])
    assert asked >= 5
    shot = ring("disk", "req0")
    _, status = status_of(guest, "disk", 0)
    assert status["inuse"] == asked
    # One descriptor each, as Linux uses an indirect table: header, data, status.
    assert len(owned(shot, "device")) == asked
    assert shot["owners"]["free"] == 256 - asked
    chains = [chain for chain in shot["chains"] if chain["owner"] == "device"]
    assert len(chains) == len(shot["chains"]) == asked
    for chain in chains:
        assert chain["indirect"] is not None
        assert [buffer["length"] for buffer in chain["buffers"]] == [16, 4096, 1]
        assert (chain["readable_bytes"], chain["writable_bytes"]) == (16, 4097)
    assert shot["indices"]["taken"] & 0x7FFF == status["last-avail-idx"]
    assert shot["indices"]["used"] & 0x7FFF == status["used-idx"]
    assert shot["state"] == "running"


def test_a_port_that_nobody_reads(guest, ring):
    guest.run("(exec sleep 1000 </dev/vport2p1) & sleep 0.5")
    host = guest._door("port")
    for size in (7, 11, 13):
        host.sendall(b"x" * size)
        time.sleep(0.3)
    host.close()
    shot = ring("ports", "rx1")
    # The driver takes out one message for the reader, and leaves the others in the ring.
    if guest.layout == "split":
        assert owned(shot, "free") == [0]
        assert owned(shot, "used") == [1, 2]
        assert [c["used_bytes"] for c in shot["chains"] if c["owner"] == "used"] == [11, 13]
        assert shot["indices"]["reaped"] == 1
    else:
        # No event index is set up for this queue.
        assert owned(shot, "returned") == [0, 1, 2]
    assert owned(shot, "available") == list(range(3, 128))
    assert {c["writable_bytes"] for c in shot["chains"] if c["owner"] == "available"} == {4096}


def test_the_rest_of_a_guest_that_is_stopped(guest, ring):
    guest.ask("stop")
    shot = ring("nic", "rx0")
    assert shot["state"] == "paused"
    assert owned(shot, "available") == list(range(256))
    assert len(shot["chains"]) == 256
    assert shot["indices"]["taken"] & 0x7FFF == 0
    assert ring("nic", "tx0")["owners"]["free"] == 256
    control = ring("ports", "ctrl_rx")
    assert control["owners"]["available"] == 32
    # QEMU lets the disk finish before it stops, and the driver is not there to see it.
    disk = ring("disk", "req0")
    assert disk["owners"]["device"] == 0
    assert disk["owners"]["used"] >= 5
    assert disk["owners"]["used"] + disk["owners"]["free"] == 256


def test_the_next_chain_is_the_one_that_qemu_sees(guest, ring):
    path, status = status_of(guest, "nic", 0)
    shot = ring("nic", "rx0")
    first = shot["chains"][0]
    assert shot["addresses"] == {
        "desc": status["vring-desc"],
        "driver": status["vring-avail"],
        "device": status["vring-used"],
    }
    if guest.layout == "packed":
        return  # QEMU shows no elements of packed rings
    with Qmp(guest.qmp) as qmp:
        element = qmp.queue_element(path, 0)
    (buffer,) = element["descs"]
    assert (buffer["addr"], buffer["len"]) == (
        first["buffers"][0]["address"],
        first["buffers"][0]["length"],
    )
    assert element["index"] == first["head"]
    assert element["avail"]["idx"] == shot["indices"]["available"]
    assert element["used"]["idx"] == shot["indices"]["used"]


def test_what_qemu_says_of_devices(guest):
    with Qmp(guest.qmp) as qmp:
        devices = {device.path.split("/")[3]: device for device in qmp.virtio_devices()}
        assert set(devices) == {"disk", "nic", "ports"}
        status = qmp.virtio_status(devices["nic"].path)
        assert status.name == "virtio-net"
        assert ("VIRTIO_F_RING_PACKED" in status.features) == (guest.layout == "packed")
        assert "DRIVER_OK" in status.status
        assert not status.vhost
        assert qmp.balloon_bytes() is None
        assert qmp.guest_name() == "ringed"
        assert qmp.peer == guest.pid


def test_a_ring_that_was_kept(guest, tmp_path, capsys):
    kept = tmp_path / "kept.ring.json"
    words = ["ring", str(guest.pid), "disk", "req0", "--qmp", guest.qmp, "--save", str(kept)]
    assert main([*words, "--chains"]) == 0
    first = capsys.readouterr().out
    assert kept.stat().st_mode & 0o777 == 0o600
    assert main(["ring", str(kept), "--chains"]) == 0
    assert capsys.readouterr().out == first


def test_a_monitor_that_somebody_else_holds(guest, capsys):
    with Qmp(guest.qmp), pytest.raises(Exception, match="one client"):
        Qmp(guest.qmp, timeout_s=0.3)
    assert main(["ring", str(guest.pid), "nic", "rx0"]) == 2
    err = capsys.readouterr().err
    assert f"its command line has --qmp {guest.qmp}" in err
    assert main(["ring", str(guest.pid), "nc", "rx0", "--qmp", guest.qmp]) == 2
    assert "did you mean 'nic'?" in capsys.readouterr().err
    assert main(["ring", str(guest.pid), "nic", "ctl", "--qmp", guest.qmp]) == 2
    assert "did you mean 'ctrl'?" in capsys.readouterr().err


def test_list_with_what_qemu_says(guest, capsys):
    capsys.readouterr()
    assert main(["list", "--vm", str(guest.pid), "--qmp", guest.qmp, "--json"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)
    devices = vm["qmp"]["devices"]
    assert set(devices) == {"disk", "nic", "ports"}
    for name, device in devices.items():
        assert device["started"], name
        assert "DRIVER_OK" in device["status"]
        packed = "VIRTIO_F_RING_PACKED" in device["features"]
        assert packed == (guest.layout == "packed")
        assert not device["vhost"]
    receive = devices["nic"]["queues"][0]
    assert (receive["name"], receive["size"], receive["inuse"]) == ("rx0", 256, 0)
    assert receive["desc"] == status_of(guest, "nic", 0)[1]["vring-desc"]
    assert main(["list", "--vm", str(guest.pid), "--qmp", guest.qmp]) == 0
    out = capsys.readouterr().out
    assert "says: " in out
    assert "RING_F_EVENT_IDX" in out
    assert main(["list", "--qmp", guest.qmp]) == 2
    assert "--vm" in capsys.readouterr().err
