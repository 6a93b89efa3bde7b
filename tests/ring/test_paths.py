"""Devices without an id, as a real QEMU numbers them: no kernel boots."""

import shutil
import subprocess
import time

import pytest

from tests.ring.realguest import QEMU
from vtrace.errors import UsageError
from vtrace.inventory import discover
from vtrace.inventory.monitor import path_of
from vtrace.inventory.qmp import Qmp

OPTIONS = (
    "-M pc -display none -S -name pathed"
    " -nic user,model=virtio-net-pci -netdev user,id=u"
    " -drive if=virtio,format=raw,file.driver=null-co,file.size=1M"
    " -device virtio-blk-pci,drive=a,queue-size=64,num-queues=1"
    " -device virtio-net-pci,netdev=u,rx_queue_size=512"
    " -device virtio-blk-pci,drive=b,queue-size=32,num-queues=1"
    " -device virtio-blk-pci,drive=c,queue-size=16,num-queues=1,id=mine"
    " -device virtio-balloon-pci"
    " -blockdev null-co,node-name=a -blockdev null-co,node-name=b -blockdev null-co,node-name=c"
)


@pytest.fixture
def qmp(tmp_path):
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    path = tmp_path / "qmp"
    words = [QEMU, *OPTIONS.split(), "-qmp", f"unix:{path},server=on,wait=off"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 30
    talk = None
    while talk is None:
        try:
            talk = Qmp(str(path))
        except UsageError:
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                pytest.fail(f"QEMU: {process.communicate()[0]}")
            time.sleep(0.05)
    talk.pid = process.pid
    yield talk
    talk.close()
    process.kill()
    process.communicate()


def test_each_device_is_the_one_that_is_meant(qmp):
    (vm,) = [vm for vm in discover() if vm.pid == qmp.pid]
    known = qmp.virtio_devices()
    devices = [d for d in vm.devices if d.queues]
    sizes = {d.id: d.queues[0].size for d in devices if d.kind in ("blk", "net")}
    assert sorted(sizes.values()) == [16, 32, 64, 256, 256, 512]
    paths = {device.id: path_of(vm, device, known) for device in devices}
    assert len(set(paths.values())) == len(devices) == 7
    for name, size in sizes.items():
        assert qmp.queue_status(paths[name], 0)["vring-num"] == size, name
