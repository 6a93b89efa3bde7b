"""Whose port or address it is: knowledge of the board, notify addresses, QEMU's memory tree.

What is not known is said, with the address: ``unknown (mmio 0xfebc0000)``. Pure: QMP's answers come
in as text or as what JSON gives, and are taken for hostile.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from vtrace.inventory.board import LINES, MEMORY, PORTS

__all__ = [
    "PAGE",
    "Region",
    "Regions",
    "by_qemu",
    "mtree_regions",
    "pci_lines",
    "pci_regions",
    "region_of",
]

PAGE: Final = 4096
"""Exits for MMIO are summed up by pages of this size."""

MOST_REGIONS: Final = 1 << 16
MOST_LOOKED_AT: Final = 256
"""Regions that may lie over each other at an address: QEMU's flat view has one there."""
MOST_NAMED: Final = 16
"""Devices of one page that are named."""
_MOST_LINES: Final = 1 << 18
_DEEPEST: Final = 32
_SPACES: Final = ("pio", "mmio")

APIC: Final = 0xFEE0_0000
"""Messages are written there; the bits below say to whom."""
APIC_BYTES: Final = 1 << 20

# QEMU's layout of the BAR of a modern virtio device (hw/virtio/virtio-pci.c): the page in which it
# is notified is the fourth.
_BEFORE_NOTIFY: Final = (
    (3 * PAGE, "common configuration"),
    (2 * PAGE, "interrupt status"),
    (PAGE, "device configuration"),
)


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of ports or of guest-physical memory that belongs to a device."""

    io: str
    """pio or mmio."""
    first: int
    last: int
    device: str
    """Empty: only its name, in ``part``, is known."""
    part: str = ""


_BOARD: Final = (
    *(Region("pio", *row) for row in PORTS),
    *(Region("mmio", *row) for row in MEMORY),
)


class Layer:
    """Regions of one source; the narrowest that holds an address is its owner."""

    def __init__(self, regions: Iterable[Region]) -> None:
        self._rows: dict[str, list[Region]] = {io: [] for io in _SPACES}
        for region in regions:
            self._rows[region.io].append(region)
        self._first: dict[str, list[int]] = {}
        self._reach: dict[str, list[int]] = {}
        for io, rows in self._rows.items():
            rows.sort(key=lambda region: region.first)
            self._first[io] = [region.first for region in rows]
            # The furthest end so far: behind it no earlier region reaches.
            reach, furthest = [], -1
            for region in rows:
                furthest = max(furthest, region.last)
                reach.append(furthest)
            self._reach[io] = reach

    def owners(self, io: str, first: int, last: int) -> list[Region]:
        """Return the regions that touch a stretch, the narrowest first.

        Of a heap of regions over each other those that begin last are looked at.
        """
        rows, reach = self._rows[io], self._reach[io]
        found = []
        end = bisect_right(self._first[io], last) - 1
        for at in range(end, max(end - MOST_LOOKED_AT, -1), -1):
            if reach[at] < first:
                break
            if rows[at].last >= first:
                found.append(rows[at])
        return sorted(found, key=lambda region: (region.last - region.first, region.first))


class Regions:
    """Owners of the ports, addresses and interrupts of one VM."""

    def __init__(
        self,
        *,
        known: Iterable[Region] = (),
        notify: Iterable[tuple[int, str, str]] = (),
        lines: Mapping[int, str] | None = None,
        messages: Mapping[tuple[int, int], str] | None = None,
        qemu: bool = True,
    ) -> None:
        """Put the sources together.

        Args:
            known: what QMP says.
            notify: address or port at which a queue was notified, device, queue.
            lines: interrupt line -> device, beside the board's.
            messages: MSI (address, data) -> device.
            qemu: it is QEMU: the places of its virtio BARs follow from the notify address.
        """
        owned = list(known)
        # A name that QEMU gave a region says less than what the board is known to have there.
        nameless = [replace(r, device=r.part, part="") for r in owned if not r.device]
        self._layers = [
            Layer(_notify_regions(notify, qemu=qemu)),
            Layer(region for region in owned if region.device),
            Layer(_BOARD),
            Layer(nameless),
        ]
        self._lines = {**LINES, **(lines or {})}
        self._messages = dict(messages or {})

    def owner(self, io: str, address: int) -> tuple[str, str]:
        """Return device and part of a port, or of a page of guest-physical memory.

        Where several devices share a page, all of them are named.
        """
        if io not in _SPACES:
            return "", ""
        first = address if io == "pio" else address // PAGE * PAGE
        last = address if io == "pio" else first + PAGE - 1
        for layer in self._layers:
            found = layer.owners(io, first, last)
            if io == "pio":
                found = found[:1]
            devices = list(dict.fromkeys(region.device for region in found))
            if devices:
                parts = dict.fromkeys(r.part for r in found if r.part)
                if len(devices) > MOST_NAMED:
                    devices[MOST_NAMED:] = ["others"]
                return " or ".join(devices), ", ".join(parts) if len(devices) == 1 else ""
        what = "port" if io == "pio" else "mmio"
        return f"unknown ({what} {first:#x})", ""

    def line(self, gsi: int) -> str:
        """Return the device of an interrupt line."""
        return self._lines.get(gsi) or f"unknown (gsi {gsi})"

    def message(self, address: int, data: int) -> str:
        """Return the device of a message-signalled interrupt.

        KVM says of a message that QEMU itself sends the address without the APIC's page.
        """
        found = self._messages.get((address, data))
        if not found and by_qemu(address):
            found = self._messages.get((APIC | address, data))
            return found or f"unknown (message sent by QEMU itself, data {data:#x})"
        return found or f"unknown (msi {address:#x} {data:#x})"


def by_qemu(address: int) -> bool:
    """Tell whether a message, by its address as KVM says it, is one that QEMU sent itself."""
    return address < APIC_BYTES


def _notify_regions(notify: Iterable[tuple[int, str, str]], *, qemu: bool) -> Iterable[Region]:
    pages: dict[int, tuple[str, list[str]]] = {}
    for address, device, queue in notify:
        if address <= 0xFFFF:
            yield Region("pio", address, address, device, f"notify {queue}")
            continue
        page = address // PAGE * PAGE
        pages.setdefault(page, (device, []))[1].append(queue)
    for page, (device, queues) in pages.items():
        part = "notify " + ", ".join(sorted(set(queues)))
        yield Region("mmio", page, page + PAGE - 1, device, part)
        if qemu:
            for before, part in _BEFORE_NOTIFY:
                if page >= before and page - before not in pages:
                    first = page - before
                    yield Region("mmio", first, first + PAGE - 1, device, part)


def region_of(row: Any) -> Region | None:
    """Return a region of the section ``vms``; None where it makes no sense."""
    if not isinstance(row, Mapping):
        return None
    base, size, io = row.get("base"), row.get("size"), row.get("io", "mmio")
    name, device = row.get("name"), row.get("device")
    if type(base) is not int or type(size) is not int or io not in _SPACES:
        return None
    if not 0 <= base < 1 << 64 or not 0 < size <= 1 << 64:
        return None
    device, name = (one if isinstance(one, str) else "" for one in (device, name))
    if not device and not name:
        return None
    return Region(io, base, base + size - 1, device, name)


# Answers of QEMU


_SECTION = re.compile(
    r"^ +([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([a-z/]+)\): (.+)$", re.IGNORECASE
)
_SPACE = re.compile(r'^ +AS "(memory|I/O)", root: ')
_MODERN = re.compile(r"virtio-pci-(?:common|isr|device|notify)-(virtio-\w+)$")
_ROOTS: Final = frozenset({"io", "system"})
"""What QEMU calls ports and memory where nobody is."""
_OWNER = re.compile(r" owner:\{(?:dev|obj) (?:id=([^}\s]+)|path=([^}\s]+))")


def mtree_regions(text: str, devices: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return the regions of ``info mtree -f`` (better ``-f -o``, which names the owners).

    RAM, ROM and what is unassigned are left out. ``devices`` are the inventory's: the only device
    of a model gets the regions that are named after it, as ``e1000-mmio``. Rows are ``{io, base,
    size, name, device}``, as the section ``vms`` has them under ``regions``.
    """
    models: dict[str, list[str]] = {}
    for device in devices:
        model = str(device.get("driver", "")).lower()
        models.setdefault(model, []).append(str(device.get("id", "")))
    places = {str(d.get("qom")): str(d.get("id", "")) for d in devices if d.get("qom")}
    rows: list[dict[str, Any]] = []
    space: str | None = None
    for line in text[: _MOST_LINES * 80].splitlines()[:_MOST_LINES]:
        if line.startswith("FlatView"):
            space = None
        found = _SPACE.match(line)
        if found:
            space = "pio" if found[1] == "I/O" else "mmio"
        section = _SECTION.match(line) if space else None
        if section is None or section[3].lower() != "i/o":
            continue
        first, last = int(section[1], 16), int(section[2], 16)
        if last < first or len(rows) >= MOST_REGIONS:
            continue
        name = re.split(r" owner:| parent:| orphan| @[0-9a-f]{16}| KVM$| kvm$", section[4])[0]
        if name.strip() in _ROOTS:
            continue
        rows.append(
            {
                "io": space,
                "base": first,
                "size": last - first + 1,
                "name": name.strip(),
                "device": _device_of(section[4], name.strip(), models, places),
            }
        )
    return rows


def _device_of(
    rest: str, name: str, models: Mapping[str, list[str]], places: Mapping[str, str]
) -> str:
    owner = _OWNER.search(rest)
    # A place of the board's own says less than the region's name.
    if owner and (owner[1] or owner[2].startswith("/machine/peripheral")):
        return owner[1] or places.get(owner[2]) or owner[2].rpartition("/")[2]
    # The model a region is named after: the longest that fits.
    modern = _MODERN.match(name.lower())
    name = modern[1] if modern else name
    for suffix in ("-pci", "-pci-non-transitional") if modern else ():
        models = {**models, name: models.get(f"{name}{suffix}") or models.get(name, [])}
    fits = [m for m in models if m and (name.lower() == m or name.lower().startswith(f"{m}-"))]
    ids = models[max(fits, key=len)] if fits else []
    return ids[0] if len(ids) == 1 else ""


def _pci_devices(answer: Any, depth: int = 0) -> Iterable[Mapping[str, Any]]:
    if not isinstance(answer, list) or depth > _DEEPEST:
        return
    for bus in answer[:MOST_REGIONS]:
        devices = bus.get("devices") if isinstance(bus, Mapping) else None
        for device in devices[:MOST_REGIONS] if isinstance(devices, list) else ():
            if not isinstance(device, Mapping):
                continue
            yield device
            bridge = device.get("pci_bridge")
            if isinstance(bridge, Mapping):
                yield from _pci_devices([{"devices": bridge.get("devices")}], depth + 1)


def _pci_name(device: Mapping[str, Any]) -> str:
    name = device.get("qdev_id")
    if isinstance(name, str) and name:
        return name
    numbers = [device.get(key) for key in ("bus", "slot", "function")]
    bus, slot, function = (n if type(n) is int and 0 <= n < 256 else 0 for n in numbers)
    place = f"{bus:02x}:{slot:02x}.{function:x}"
    kind = device.get("class_info")
    what = kind.get("desc") if isinstance(kind, Mapping) else None
    return f"{what} {place}" if isinstance(what, str) and what else f"pci {place}"


def pci_regions(answer: Any) -> list[dict[str, Any]]:
    """Return the regions of QMP's ``query-pci``: the BARs that the guest has placed."""
    rows: list[dict[str, Any]] = []
    for device in _pci_devices(answer):
        bars = device.get("regions")
        for bar in bars[:8] if isinstance(bars, list) else ():
            if not isinstance(bar, Mapping) or len(rows) >= MOST_REGIONS:
                continue
            base, size, number = bar.get("address"), bar.get("size"), bar.get("bar")
            if type(base) is not int or type(size) is not int or base <= 0 or size <= 0:
                continue
            rows.append(
                {
                    "io": "pio" if bar.get("type") == "io" else "mmio",
                    "base": base,
                    "size": size,
                    "name": f"BAR {number}" if type(number) is int else "BAR",
                    "device": _pci_name(device),
                }
            )
    return rows


def pci_lines(answer: Any) -> dict[int, str]:
    """Return interrupt line -> devices that use its pin, by ``query-pci``.

    The line is what the guest's firmware wrote: right with the two PICs, which few guests use
    beside an I/O APIC on q35.
    """
    found: dict[int, list[str]] = {}
    for device in _pci_devices(answer):
        line, pin = device.get("irq"), device.get("irq_pin", 1)
        if type(line) is int and 0 < line < 24 and pin:
            found.setdefault(line, []).append(_pci_name(device))
    return {line: " or ".join(dict.fromkeys(names)) for line, names in found.items()}
