"""PCI addresses of devices that were given none.

QEMU puts such a device into the first free slot of the root bus, in the order in which it makes
devices: display and NICs of the board, ``-device`` in ``key=value`` form, ``-drive if=virtio``,
``-device`` in JSON form. Where all of them are known, so is the slot; where one is not, nothing is
said. Checked against ``query-pci`` of QEMU in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vtrace.inventory.drivers import NICS, driver_of
from vtrace.inventory.nouns import AddressSource

if TYPE_CHECKING:
    from vtrace.inventory.cmdline import CommandLine, Option

__all__ = ["asked_place", "derive", "in_order"]

ROOT_BUSES = frozenset({"", "pci", "pci.0", "pcie.0"})
OTHER_PCI = frozenset(
    [
        "VGA",
        "AC97",
        "ES1370",
        "ahci",
        "am53c974",
        "bochs-display",
        "cirrus-vga",
        "dc390",
        "edu",
        "i82801b11-bridge",
        "ich9-ahci",
        "ich9-intel-hda",
        "intel-hda",
        "ivshmem-doorbell",
        "ivshmem-plain",
        "lsi53c895a",
        "megasas",
        "megasas-gen2",
        "mptsas1068",
        "nec-usb-xhci",
        "nvme",
        "pci-bridge",
        "pci-ohci",
        "pci-serial",
        "pci-serial-2x",
        "pci-serial-4x",
        "pci-testdev",
        "pcie-pci-bridge",
        "pcie-root-port",
        "piix3-usb-uhci",
        "piix4-usb-uhci",
        "pvpanic-pci",
        "pvscsi",
        "pxb",
        "pxb-pcie",
        "qemu-xhci",
        "qxl",
        "qxl-vga",
        "rtl8139",
        "sdhci-pci",
        "secondary-vga",
        "usb-ehci",
        "vmware-svga",
        "x3130-upstream",
        "xio3130-downstream",
    ]
)
ELSEWHERE = re.compile(
    r"^(usb-(?!ehci|net)|isa-|scsi-|ide-|virtconsole|virtserialport|hda-|pvpanic$|vmcoreinfo$"
    r"|vmgenid$|loader$|tpm-|floppy$|nvdimm$|pc-dimm$|i8042$|kvmvapic$|fw_cfg)"
)


def asked_place(option: Option, bus: str) -> tuple[str | None, str]:
    """Return the address that an option asks for; None without one."""
    if bus == "ccw":
        number = option.get("devno")
        return (number, AddressSource.ASKED) if number else (None, AddressSource.UNKNOWN)
    slot = slot_of(option.get("addr"))
    if bus != "pci" or slot is None:
        return None, AddressSource.UNKNOWN
    return shown(option.get("bus"), *slot), AddressSource.ASKED


def shown(bus: str, slot: int, function: int) -> str:
    prefix = "0000:00" if bus in ROOT_BUSES else bus
    return f"{prefix}:{slot:02x}.{function}"


def slot_of(text: str) -> tuple[int, int] | None:
    # As QEMU reads it: hexadecimal, with a function behind a dot or without.
    slot, _, function = text.partition(".")
    try:
        return int(slot, 16), int(function or "0", 16)
    except ValueError:
        return None


def derive(
    line: CommandLine,
    machine: str,
    nics: Sequence[Option],
    drives: Sequence[Option],
) -> dict[int, str]:
    """Return the addresses of devices without one, by ``id()`` of their option.

    Args:
        line: The command line.
        machine: Machine type.
        nics: NICs of the board: -nic first, then -net nic.
        drives: Drives with if=virtio.
    """
    taken = board(line, machine, bool(nics))
    if taken is None:
        return {}
    found: dict[int, str] = {}
    if has_display(line):
        slot = min(set(range(32)) - taken)
        taken.add(slot)
        found[id(line.last("vga"))] = shown("", slot, 0)
    for option in in_order(line, nics, drives):
        on_root = on_root_bus(option)
        if on_root is None:
            break  # it may or may not take a slot: what comes after is not known
        if not on_root:
            continue
        asked = slot_of(option.get("addr")) if option.get("addr") else None
        if asked is not None:
            taken.add(asked[0])
            continue
        free = next((slot for slot in range(32) if slot not in taken), None)
        if free is None:
            break
        taken.add(free)
        found[id(option)] = shown("", free, 0)
    return found


def board(line: CommandLine, machine: str, nics: bool) -> set[int] | None:
    # Slots that the machine itself takes; None where that is not known.
    if not line.has("nodefaults") and not nics and not line.has("net") and not line.has("netdev"):
        return None  # a default NIC, if no device is one
    if line.has("usb") or line.value("machine", "usb") == "on" or line.has("usbdevice"):
        return None
    if line.has("readconfig") or line.has("balloon") or line.has("soundhw"):
        return None
    if re.match(r"^(pc$|pc-i440fx|pc-0|pc-1)", machine or "pc"):
        taken = {0, 1}
    elif re.match(r"^(q35$|pc-q35)", machine):
        taken = {0, 31}
    else:
        return None
    return taken


def has_display(line: CommandLine) -> bool:
    vga = line.last("vga")
    return not line.has("nodefaults") if vga is None else vga.text != "none"


def in_order(
    line: CommandLine, nics: Sequence[Option], drives: Sequence[Option]
) -> Iterable[Option]:
    """Yield the options that make devices, in the order in which QEMU makes them."""
    yield from nics
    devices = [
        option
        for option in line.all("device", "virtfs", "balloon")
        if option.name != "balloon" or option.get("type") == "virtio"
    ]
    yield from (o for o in devices if not o.text.lstrip().startswith("{"))
    yield from drives
    yield from (o for o in devices if o.text.lstrip().startswith("{"))


def on_root_bus(option: Option) -> bool | None:
    # None: it cannot be told whether the device takes a slot.
    if option.name != "device":
        return option.get("model") not in {"ne2k_isa", "virtio-net-device"}
    model = option.get("driver")
    if option.get("bus") not in ROOT_BUSES:
        return False
    driver = driver_of(model)
    if model in OTHER_PCI or model in NICS or (driver and driver.bus == "pci"):
        return model not in {"ne2k_isa", "usb-net"}
    return False if ELSEWHERE.match(model) or driver else None
