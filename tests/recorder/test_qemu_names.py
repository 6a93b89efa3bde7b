"""Queues of QEMU's own get the inventory's names."""

import pytest

from tests.inventory.fakehost import QEMU, FakeHost
from vtrace.inventory import discover
from vtrace.recorder.qemu_names import QemuNames


@pytest.fixture
def vm(tmp_path):
    host = FakeHost(tmp_path)
    devices = ["virtio-blk-pci,drive=a,id=disk", "virtio-serial-pci"]
    devices += ["virtserialport,chardev=c,name=agent", "virtio-blk-pci,drive=b"]
    argv = [word for device in devices for word in ("-device", device)]
    nics = ["-nic", "user,model=virtio", "-nic", "user,model=virtio"]
    host.process(7, [QEMU, "-name", "web", *argv, *nics])
    (found,) = discover(host.proc, host.sys)
    return found


def entry(qom, kind, index, **more):
    place = "" if qom.startswith("/") else "/machine/peripheral-anon/"
    return {"qom": f"{place}{qom}/virtio-backend", "device_type": kind, "index": index, **more}


def test_a_queue_gets_its_names(vm):
    names = QemuNames()
    assert names.of(vm, entry("/machine/peripheral/disk", "blk", 0)) == {
        "vm": "web",
        "device": "disk",
        "name": "req0",
        "direction": "none",
    }
    # device[0] is the serial device, [1] its port, [2] the second disk.
    assert names.of(vm, entry("device[2]", "blk", 0))["device"] == "blk1"
    port = names.of(vm, entry("device[0]", "serial", 4, extra={"registered_ns": 5}))
    assert (port["device"], port["name"]) == ("serial0", "rx1")
    assert port["extra"] == {"registered_ns": 5, "port": "agent"}


def test_one_of_two_cards_of_the_board_is_not_guessed(vm):
    names = QemuNames()
    first, second = "/machine/unattached/device[23]", "/machine/unattached/device[24]"
    assert names.of(vm, entry(second, "net", 1))["device"] == "net device[24]"
    found = [names.of(vm, entry(path, "net", 1))["device"] for path in (first, second)]
    assert found == ["net0", "net1"]
    assert names.of(vm, entry(first, "net", 2, features=0))["name"] == "ctrl"
