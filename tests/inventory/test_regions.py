"""Whose port, address or interrupt it is."""

import random

import pytest

from vtrace.inventory.board import LINES, MEMORY, PORTS
from vtrace.inventory.regions import (
    MOST_LOOKED_AT,
    MOST_NAMED,
    Layer,
    Region,
    Regions,
    mtree_regions,
    pci_lines,
    pci_regions,
    region_of,
)

# QEMU 7.2.22, "info mtree -f" of a guest with an e1000 and virtio-serial, shortened.
MTREE = """\
FlatView #0
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 AS "e1000", root: bus master container
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): pc.ram KVM
  00000000000c3000-00000000000e7fff (prio 0, rom): pc.ram @00000000000c3000 KVM
  00000000febc0000-00000000febdffff (prio 1, i/o): e1000-mmio
  00000000febf4000-00000000febf4fff (prio 0, i/o): virtio-pci-common-virtio-serial
  00000000febf7000-00000000febf7fff (prio 0, i/o): virtio-pci-notify-virtio-serial
  00000000febff000-00000000febff03f (prio 0, i/o): msix-table
  00000000fee00000-00000000feefffff (prio 4096, i/o): kvm-apic-msi

FlatView #1
 AS "I/O", root: io
 Root memory region: io
  0000000000000020-0000000000000021 (prio 0, i/o): kvm-pic
  0000000000000022-000000000000003f (prio 0, i/o): io @0000000000000022
  00000000000003f8-00000000000003ff (prio 0, i/o): serial
  000000000000c040-000000000000c07f (prio 1, i/o): e1000-io

FlatView #2
 AS "virtio-net", root: nowhere
  0000000000000000-ffffffffffffffff (prio 0, i/o): elsewhere
"""
DEVICES = [
    {"id": "nic0", "driver": "e1000"},
    {"id": "lab", "driver": "virtio-serial-pci"},
    {"id": "nic1", "driver": "virtio-net-pci"},
]


def known(*rows):
    return [region_of(row) for row in rows]


@pytest.mark.parametrize(
    ("io", "address", "owner"),
    [
        ("pio", 0x3F8, ("COM1", "")),
        ("pio", 0x2FF, ("COM2", "")),
        ("pio", 0x1F7, ("IDE primary", "command")),
        ("pio", 0x3F6, ("IDE primary", "control")),
        ("pio", 0x376, ("IDE secondary", "control")),
        ("pio", 0x60, ("i8042", "data")),
        ("pio", 0x71, ("RTC", "")),
        ("pio", 0xCF8, ("PCI configuration", "")),
        ("pio", 0xCF9, ("reset control", "")),
        ("pio", 0x608, ("ACPI", "PM registers")),
        ("pio", 0x510, ("fw_cfg", "")),
        ("pio", 0x402, ("debug port", "firmware's log")),
        ("mmio", 0xFEE000B0, ("LAPIC", "")),
        ("mmio", 0xFEC00000, ("IOAPIC", "")),
        ("mmio", 0xFED00000, ("HPET", "")),
        ("mmio", 0xB8000, ("VGA", "window")),
        ("pio", 0xC123, ("unknown (port 0xc123)", "")),
        ("mmio", 0xFEBC0123, ("unknown (mmio 0xfebc0000)", "")),
        ("none", 0, ("", "")),
    ],
)
def test_what_a_pc_has_where(io, address, owner):
    assert Regions().owner(io, address) == owner


def test_the_board_is_in_order_and_no_two_share_a_port_but_one_within_another():
    for table in (PORTS, MEMORY):
        assert all(first <= last for first, last, _, _ in table)
    for first, last, _, _ in PORTS:
        for other, end, _, _ in PORTS:
            apart = last < other or end < first
            within = (first <= other and end <= last) or (other <= first and last <= end)
            assert apart or within


def test_interrupt_lines():
    regions = Regions(lines={11: "nic0"})
    assert [regions.line(n) for n in (0, 4, 14, 12)] == ["PIT", "COM1", "IDE primary", "i8042"]
    assert regions.line(11) == "nic0"
    assert regions.line(10) == "unknown (gsi 10)"
    assert set(LINES) <= set(range(16))


def test_where_queues_are_notified():
    notify = [(0xFE003004, "net0", "tx0"), (0xFE003000, "net0", "rx0"), (0xC050, "old", "tx0")]
    regions = Regions(notify=notify)
    assert regions.owner("mmio", 0xFE003000) == ("net0", "notify rx0, tx0")
    assert regions.owner("mmio", 0xFE001000) == ("net0", "interrupt status")
    assert regions.owner("pio", 0xC050) == ("old", "notify tx0")
    assert regions.owner("mmio", 0xFE004000)[0] == "unknown (mmio 0xfe004000)"
    assert Regions(notify=notify, qemu=False).owner("mmio", 0xFE001000)[0].startswith("unknown")


def test_messages():
    regions = Regions(messages={(0xFEE00000, 0x4021): "net0"})
    assert regions.message(0xFEE00000, 0x4021) == "net0"
    assert regions.message(0xFEE00000, 0x4022) == "unknown (msi 0xfee00000 0x4022)"
    # KVM takes the page off the address of a message that QEMU sends itself.
    assert regions.message(0, 0x4021) == "net0"
    assert regions.message(0, 0x2A) == "unknown (message sent by QEMU itself, data 0x2a)"


def test_the_narrowest_is_the_owner_and_several_in_a_page_are_all_named():
    rows = (
        {"io": "mmio", "base": 0x10000, "size": 0x10000, "name": "BAR 0", "device": "a"},
        {"io": "mmio", "base": 0x12000, "size": 0x40, "name": "table", "device": "b"},
        {"io": "pio", "base": 0xC000, "size": 64, "name": "BAR 1", "device": "a"},
        {"io": "pio", "base": 0xC010, "size": 4, "name": "inner", "device": "b"},
    )
    regions = Regions(known=known(*rows))
    assert regions.owner("mmio", 0x11000) == ("a", "BAR 0")
    assert regions.owner("mmio", 0x12000) == ("b or a", "")
    assert regions.owner("pio", 0xC011) == ("b", "inner")
    assert regions.owner("pio", 0xC03F) == ("a", "BAR 1")
    assert regions.owner("pio", 0xC040)[0] == "unknown (port 0xc040)"


def test_a_heap_of_regions_over_each_other_costs_no_more_than_a_few():
    # A recording may claim that each device has all of memory.
    heap = [Region("mmio", at, (1 << 64) - 1, f"device{at}") for at in range(20_000)]
    assert len(Layer(heap).owners("mmio", 1 << 32, 1 << 32)) == MOST_LOOKED_AT
    device, part = Regions(known=heap).owner("mmio", 1 << 32)
    assert device.startswith("device19999 or device19998 or ")
    assert device.endswith(" or others")
    assert device.count(" or ") == MOST_NAMED
    assert part == ""


def test_the_memory_tree_of_qemu():
    rows = mtree_regions(MTREE, DEVICES)
    assert [(r["io"], r["base"], r["size"], r["name"], r["device"]) for r in rows] == [
        ("mmio", 0xFEBC0000, 0x20000, "e1000-mmio", "nic0"),
        ("mmio", 0xFEBF4000, 0x1000, "virtio-pci-common-virtio-serial", "lab"),
        ("mmio", 0xFEBF7000, 0x1000, "virtio-pci-notify-virtio-serial", "lab"),
        ("mmio", 0xFEBFF000, 0x40, "msix-table", ""),
        ("mmio", 0xFEE00000, 0x100000, "kvm-apic-msi", ""),
        ("pio", 0x20, 2, "kvm-pic", ""),
        ("pio", 0x3F8, 8, "serial", ""),
        ("pio", 0xC040, 64, "e1000-io", "nic0"),
    ]
    regions = Regions(known=known(*rows))
    assert regions.owner("mmio", 0xFEBC3000) == ("nic0", "e1000-mmio")
    assert regions.owner("pio", 0x3F8) == ("COM1", "")
    assert regions.owner("mmio", 0xFEBFF000) == ("msix-table", "")
    assert regions.owner("mmio", 0xFEE00000) == ("LAPIC", "")


def test_two_of_a_model_are_not_guessed():
    rows = mtree_regions(MTREE, [*DEVICES, {"id": "nic9", "driver": "e1000"}])
    assert {row["device"] for row in rows if row["name"].startswith("e1000")} == {""}


def test_owners_that_the_tree_names():
    line = "  00000000febff000-00000000febff03f (prio 0, i/o): msix-table owner:{dev id=nic7}\n"
    other = (
        "  00000000febd0000-00000000febd0fff (prio 0, i/o): x "
        "owner:{dev path=/machine/unattached/device[3]} parent:{obj path=/machine}\n"
    )
    head = 'FlatView #0\n AS "memory", root: system\n'
    rows = mtree_regions(head + line + other)
    assert [(row["name"], row["device"]) for row in rows] == [
        ("msix-table", "nic7"),
        ("x", ""),
    ]
    anonymous = other.replace("unattached/device[3]", "peripheral-anon/device[1]")
    device = {"id": "blk0", "driver": "?", "qom": "/machine/peripheral-anon/device[1]"}
    assert [row["device"] for row in mtree_regions(head + anonymous, [device])] == ["blk0"]
    assert [row["device"] for row in mtree_regions(head + anonymous)] == ["device[1]"]


QUERY_PCI = [
    {
        "bus": 0,
        "devices": [
            {
                "bus": 0,
                "slot": 3,
                "function": 0,
                "irq": 11,
                "irq_pin": 1,
                "qdev_id": "nic0",
                "class_info": {"desc": "Ethernet controller", "class": 512},
                "regions": [
                    {"bar": 0, "type": "memory", "address": 0xFEBC0000, "size": 0x20000},
                    {"bar": 1, "type": "io", "address": 0xC040, "size": 64},
                    {"bar": 6, "type": "memory", "address": -1, "size": 4096},
                ],
            },
            {
                "bus": 0,
                "slot": 4,
                "function": 0,
                "irq": 0,
                "irq_pin": 0,
                "qdev_id": "",
                "class_info": {"desc": "PCI bridge", "class": 1540},
                "regions": [],
                "pci_bridge": {
                    "bus": {"number": 1},
                    "devices": [
                        {
                            "bus": 1,
                            "slot": 0,
                            "function": 0,
                            "irq": 11,
                            "irq_pin": 1,
                            "qdev_id": "",
                            "class_info": {"desc": "IDE controller"},
                            "regions": [{"bar": 4, "type": "io", "address": 0xD000, "size": 16}],
                        }
                    ],
                },
            },
        ],
    }
]


def test_bars_and_lines_by_query_pci():
    rows = pci_regions(QUERY_PCI)
    assert [(r["io"], r["base"], r["name"], r["device"]) for r in rows] == [
        ("mmio", 0xFEBC0000, "BAR 0", "nic0"),
        ("pio", 0xC040, "BAR 1", "nic0"),
        ("pio", 0xD000, "BAR 4", "IDE controller 01:00.0"),
    ]
    assert pci_lines(QUERY_PCI) == {11: "nic0 or IDE controller 01:00.0"}


@pytest.mark.parametrize(
    "row",
    [
        None,
        {},
        {"base": -1, "size": 1, "name": "x"},
        {"base": 0, "size": 0, "name": "x"},
        {"base": 0, "size": 1 << 65, "name": "x"},
        {"base": 0, "size": 1, "name": "x", "io": "tape"},
        {"base": 0, "size": 1, "name": None},
        {"base": True, "size": 1, "name": "x"},
    ],
)
def test_a_region_that_makes_no_sense_is_none(row):
    assert region_of(row) is None


def test_a_region_that_does():
    row = {"base": 4096, "size": 2, "name": "n", "device": "d"}
    assert region_of(row) == Region("mmio", 4096, 4097, "d", "n")


def test_whatever_qemu_may_say_is_no_crash():
    chance = random.Random(5)
    pieces = [
        *MTREE.splitlines(True),
        "FlatView",
        "  ffffffffffffffff-0000000000000000 (prio 0, i/o)",
    ]
    for _ in range(300):
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(30)))
        cut = text[: chance.randrange(len(text) + 1)]
        for row in mtree_regions(cut, DEVICES):
            assert region_of(row) is not None
    deep = QUERY_PCI
    for _ in range(200):
        deep = [{"devices": [{"pci_bridge": {"devices": deep[0]["devices"]}}]}]
    odd = [
        None,
        1,
        "x",
        [],
        {},
        [None],
        [{"devices": None}],
        [{"devices": [{"regions": [{}]}]}],
        deep,
    ]
    for answer in odd:
        assert pci_regions(answer) == []
        assert pci_lines(answer) == {}
