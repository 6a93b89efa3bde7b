"""The same counted work on emulated devices and on their virtio twins, each recorded.

    python -m tests.host.twins FOLDER

writes the recordings and QEMU's memory trees, from which docs/emulated.md has its figures.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.host.conftest import start_recording, stop_recording
from tests.testbed import Host, delta, udp
from tests.testbed.guest import Guest

PACKETS = 101
READS = 60
LINES = 5
LINE = "vtrace"
CHARACTERS = LINES * (len(LINE) + len("\r\n"))

_DISK = ("-blockdev", "null-co,node-name=n0,size=67108864,read-zeroes=on", "-device")
OPTIONS = {
    "emulated": {
        "kernel": "full",
        "nic": "e1000",
        "memory": "256M",
        "extra": (*_DISK, "ide-hd,drive=n0,bus=ide.0,id=disk0"),
    },
    "qemu": {"vhost": False, "extra": (*_DISK, "virtio-blk-pci,drive=n0,id=disk0")},
    "vhost": {"extra": (*_DISK, "virtio-blk-pci,drive=n0,id=disk0")},
}


@dataclass
class Twin:
    """A recording of the work."""

    path: Path
    mtree: Path
    """QEMU's answer to ``info mtree -f``."""
    moved: dict[str, int]
    """By how much counters of the guest moved."""


def record(host: Host, name: str) -> Twin:
    """Boot a twin, give it the work, and end it."""
    guest = host.guest(name, **OPTIONS[name])
    mtree = host.share / f"{name}-mtree.txt"
    mtree.write_text(guest.monitor("info mtree -f"))
    job, _ = start_recording(host, "--no-sched", "--vm", name, name=name)
    before = guest.counters()
    work(host, guest)
    moved = delta(before, guest.counters())
    stop_recording(host, job)
    guest.kill()
    return Twin(host.share / f"{name}.vtrace", mtree, moved)


def work(host: Host, guest: Guest) -> None:
    """Send packets both ways, read blocks, write lines to the serial port."""
    results = [udp(*pair, PACKETS, pps=100) for pair in ((host, guest), (guest, host))]
    assert [one.received for one in results] == [PACKETS, PACKETS]
    guest.run(
        f"disk=/dev/vda; [ -b $disk ] || disk=/dev/sda; "
        f"dd if=$disk of=/dev/null iflag=direct bs=4096 count={READS} 2>/dev/null"
    )
    guest.run(f"for i in $(seq {LINES}); do echo {LINE} >/dev/ttyS0; done")
    # What is written drains by interrupts.
    guest.run("sleep 1")


def main() -> None:
    """Record all and copy what is of use to a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    with Host.boot("bookworm", say=print) as host:
        host.sync_source()
        for name in OPTIONS:
            twin = record(host, name)
            shutil.copy(twin.path, folder)
            shutil.copy(twin.mtree, folder)


if __name__ == "__main__":
    main()
