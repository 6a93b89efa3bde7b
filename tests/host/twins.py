"""The same counted work on emulated devices and on their virtio twins, each recorded.

    python -m tests.host.twins FOLDER

writes the recordings and QEMU's memory trees, from which docs/emulated.md has its figures.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.host.conftest import START_S, frozen
from tests.testbed import Host, delta, udp
from tests.testbed.channel import Job
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
    rings: dict[str, str]
    """Queue of nic0 -> what ``vtrace ring --json`` says of it, while it is recorded."""


def record(host: Host, name: str) -> Twin:
    """Boot a twin, give it the work, and end it."""
    guest = host.guest(name, **OPTIONS[name])
    mtree = host.share / f"{name}-mtree.txt"
    mtree.write_text(guest.monitor("info mtree -f"))
    asking = ("--qmp", guest.qmp_socket)
    job = start_asking(host, name, *asking)
    before = guest.counters()
    work(host, guest)
    moved = delta(before, guest.counters())
    rings = {}
    for queue in ("rx0", "tx0") if name == "vhost" else ():
        words = f"ring {name} nic0 {queue} --json {' '.join(asking)}"
        rings[queue] = host.run(f"cd / && python3 -m vtrace {words}").out
    stop_asking(host, job)
    guest.kill()
    return Twin(host.share / f"{name}.vtrace", mtree, moved, rings)


def start_asking(host: Host, name: str, *asking: str) -> Job:
    """Start a recorder that asks QEMU's monitor: a QEMU that is frozen does not answer."""
    words = f"-w /share/{name}.vtrace --no-sched --vm {name} {' '.join(asking)}"
    job = host.start(f"cd / && exec python3 -m vtrace record {words}")
    # The compiler comes next.
    job.wait_for("looking at the kernel", timeout=START_S)
    with frozen(host):
        job.wait_for("asking QEMU's monitor", timeout=START_S)
    job.wait_for("recording into")
    return job


def stop_asking(host: Host, job: Job) -> None:
    """End it in order; what is sampled last leaves the time to freeze the guests."""
    job.signal(2)
    job.wait_for("for the last time")
    with frozen(host):
        result = job.wait(60)
    assert result.rc == 0, result.err


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
