"""A TCG guest on this machine that fills virtqueues to order, for snapshots of real rings.

It boots the full kernel of the test bed's image, if one was built; nothing of the test host runs.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.testbed.cache import cache_folder
from tests.testbed.initramfs import write_cpio

QEMU = "qemu-system-x86_64"
DEADLINE_S = 60
KERNEL_LINE = (
    "console=ttyS0 loglevel=3 mitigations=off cryptomgr.notests random.trust_cpu=on"
    " no_timer_check tsc=reliable ipv6.disable_ipv6=1"
)
INIT = b"""#!/bin/busybox sh
/bin/busybox mkdir -p /bin /dev /proc /sys
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    case $module in virtio*|*failover*) insmod "/modules/$module" 2>/dev/null;; esac
done
ip link set eth0 up
exec <>/dev/ttyS1 >&0
stty -echo raw </dev/ttyS1
echo ready
while read -r line; do eval "$line"; done
"""


def build_folder() -> tuple[Path, Path]:
    """Return kernel and initramfs of the newest image of the test bed."""
    images = sorted(
        cache_folder().glob("*/boot-*/guest-full.cpio"), key=lambda p: p.stat().st_mtime
    )
    for image in reversed(images):
        kernel = image.parent.parent / "vmlinux"
        if kernel.exists():
            return kernel, image
    pytest.skip("no image of the test host was built: make lab builds one")


class RealGuest:
    """A guest with a disk, a NIC that nobody sends to, and a port; each with these options."""

    def __init__(self, place: Path, options: str) -> None:
        if shutil.which(QEMU) is None:
            pytest.skip(f"{QEMU} is not installed")
        kernel, image = build_folder()
        self.place = place
        (place / "initrd").write_bytes(image.read_bytes() + write_cpio({"ringinit": INIT}))
        argv = [QEMU, "-name", "ringed,debug-threads=on", "-M", "pc,hpet=off"]
        argv += ["-accel", "tcg", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-kernel", kernel, "-initrd", place / "initrd", "-append"]
        argv += [f"rdinit=/ringinit {KERNEL_LINE}"]
        argv += ["-serial", f"file:{place}/console.log"]
        argv += ["-serial", f"unix:{place}/talk,server=on,wait=off"]
        argv += ["-qmp", f"unix:{place}/qmp,server=on,wait=off"]
        argv += ["-object", "throttle-group,id=group"]
        argv += ["-blockdev", "null-co,node-name=none,size=67108864,read-zeroes=on"]
        argv += ["-blockdev", "throttle,node-name=slow,throttle-group=group,file=none"]
        argv += ["-device", f"virtio-blk-pci,id=disk,drive=slow,num-queues=1,{options}"]
        argv += ["-netdev", "hubport,id=hub,hubid=0"]
        argv += ["-device", f"virtio-net-pci,id=nic,netdev=hub,romfile=,{options}"]
        argv += ["-device", f"virtio-serial-pci,id=ports,{options}"]
        argv += ["-chardev", f"socket,id=port,path={place}/port,server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=port,name=mute"]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=place
        )
        self.pid = self.process.pid
        self.qmp = str(place / "qmp")
        self.talk = self._door("talk")
        self.words = self.talk.makefile("rb")
        self._until(b"ready")

    def _door(self, name: str) -> socket.socket:
        end = time.monotonic() + DEADLINE_S
        while True:
            door = socket.socket(socket.AF_UNIX)
            try:
                door.settimeout(DEADLINE_S)
                door.connect(os.fspath(self.place / name))
            except OSError:
                door.close()
                if time.monotonic() > end or self.process.poll() is not None:
                    pytest.fail(f"QEMU does not answer: {self.process.poll()}")
                time.sleep(0.05)
            else:
                return door

    def _until(self, word: bytes) -> bytes:
        seen = b""
        while True:
            line = self.words.readline()
            if not line:
                pytest.fail(f"the guest says no more: {seen!r}")
            if line.strip() == word:
                return seen
            seen += line

    def run(self, script: str) -> str:
        """Run a line of shell in the guest; return what it prints."""
        self.talk.sendall(f"{script}; echo; echo done\n".encode())
        return self._until(b"done").decode().strip()

    def ask(self, command: str, **arguments):
        """Ask QEMU's monitor, in a talk of its own: it serves one client."""
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(DEADLINE_S)
            door.connect(self.qmp)
            stream = door.makefile("rw")
            stream.readline()
            for name, values in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": name, "arguments": values}) + "\n")
                stream.flush()
                while "event" in (answer := json.loads(stream.readline())):
                    pass
            assert "return" in answer, answer
            return answer["return"]

    def throttle(self) -> None:
        """Let the disk read a byte a second."""
        limits = {"bps-total": 1}
        self.ask("qom-set", path="/objects/group", property="limits", value=limits)

    def close(self) -> None:
        self.words.close()
        self.talk.close()
        self.process.kill()
        self.process.communicate()
