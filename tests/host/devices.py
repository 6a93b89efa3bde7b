"""A guest with every virtio device that QEMU serves itself, and counted work for each of them."""

import random
import re
from dataclasses import dataclass, field

from tests.testbed import Host, udp
from tests.testbed.guest import Guest

BLOCK = 4096
PAGE = 4096
MEMORY_MIB = 128


def options(packed: bool, *, iothread: bool = False) -> dict[str, object]:
    """Return what `Host.guest` makes such a guest of; disks hold zeroes and forget."""
    ring = ",packed=on" if packed else ""
    thread = ",iothread=io0" if iothread else ""
    extra = [
        *(("-object", "iothread,id=io0") if iothread else ()),
        *("-blockdev", "null-co,node-name=n0,size=67108864,read-zeroes=on"),
        *("-device", f"virtio-blk-pci,drive=n0,id=blk0{ring}{thread}"),
        *("-device", f"virtio-scsi-pci,id=scsi0{ring}"),
        *("-blockdev", "null-co,node-name=n1,size=67108864,read-zeroes=on"),
        *("-device", "scsi-hd,drive=n1,bus=scsi0.0,id=sd0"),
        *("-device", f"virtio-balloon-pci,id=balloon0{ring}"),
        *("-device", f"virtio-serial-pci,id=serial0{ring}"),
        *("-chardev", "file,id=heap,path=/dev/shm/heap"),
        *("-device", "virtserialport,bus=serial0.0,chardev=heap,name=test.heap,id=heap"),
        *("-blockdev", "null-co,node-name=n2,size=33554432,read-zeroes=on"),
    ]
    return {
        "vhost": False,
        "memory": f"{MEMORY_MIB}M",
        "nic_options": "packed=on" if packed else "",
        "extra": extra,
    }


@dataclass
class Truth:
    """What was asked for, and what the guest's own counters say of it."""

    towards: int = 0
    away: int = 0
    blk_reads: int = 0
    blk_writes: int = 0
    scsi_reads: int = 0
    pages: int = 0
    serial_bytes: int = 0
    guest: dict[str, int] = field(default_factory=dict)
    """By how much counters of the guest moved."""


_COUNTERS = r"""
read -r reads _ rsect _ writes _ wsect _ </sys/block/vda/stat
echo blk.reads $reads; echo blk.writes $writes; echo blk.rsect $rsect; echo blk.wsect $wsect
read -r reads _ rsect _ </sys/block/sda/stat
echo scsi.reads $reads; echo scsi.rsect $rsect
echo scsi.commands $(($(cat /sys/block/sda/device/iorequest_cnt)))
grep balloon_ /proc/vmstat
for name in rx_packets tx_packets; do
    echo net.$name $(cat /sys/class/net/eth0/statistics/$name)
done
"""


def counters(guest: Guest) -> dict[str, int]:
    """Return what the guest counts of its devices."""
    lines = guest.run(_COUNTERS).out.splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def balloon(guest: Guest) -> int:
    """Return the memory in MiB that QEMU says the guest has."""
    found = re.search(r"actual=(\d+)", guest.monitor("info balloon"))
    assert found
    return int(found[1])


def inflate_to(guest: Guest, mib: int) -> None:
    """Set the balloon's target and wait until it is reached."""
    guest.monitor(f"balloon {mib}")
    for _ in range(200):
        if balloon(guest) == mib:
            return
        guest.run("sleep 0.1")
    raise AssertionError(f"the balloon stays at {balloon(guest)} MiB, not {mib}")


def work(host: Host, guest: Guest, chance: random.Random) -> Truth:
    """Give each device counted work, one after the other."""
    truth = Truth()
    before = counters(guest)
    truth.blk_reads = 50 + chance.randrange(50)
    truth.blk_writes = 50 + chance.randrange(50)
    truth.scsi_reads = 50 + chance.randrange(50)
    for count, words in (
        (truth.blk_reads, "if=/dev/vda of=/dev/null iflag=direct"),
        (truth.blk_writes, "if=/dev/zero of=/dev/vda oflag=direct"),
        (truth.scsi_reads, "if=/dev/sda of=/dev/null iflag=direct"),
    ):
        guest.run(f"dd {words} bs={BLOCK} count={count} 2>/dev/null")
    mib = 8 + chance.randrange(8)
    inflate_to(guest, MEMORY_MIB - mib)
    inflate_to(guest, MEMORY_MIB)
    truth.pages = mib * (1 << 20) // PAGE
    truth.serial_bytes = 10_000 + chance.randrange(10_000)
    guest.run(f"head -c {truth.serial_bytes} /dev/zero > /dev/virtio-ports/test.heap")
    truth.towards, truth.away = 100 + chance.randrange(100), 100 + chance.randrange(100)
    results = udp(host, guest, truth.towards), udp(guest, host, truth.away)
    assert [one.lost for one in results] == [0, 0]
    after = counters(guest)
    truth.guest = {name: after[name] - before[name] for name in after}
    return truth
