"""What QEMU's monitor says of one VM: for ``list``, ``ring`` and ``record``.

A monitor serves one client at a time, so it is asked where a user names it and let go at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtrace.errors import UnsupportedError, UsageError
from vtrace.inventory.board import LINES
from vtrace.inventory.drivers import driver_of
from vtrace.inventory.qmp import QmpError
from vtrace.inventory.regions import mtree_regions, pci_lines, pci_regions

if TYPE_CHECKING:
    from vtrace.inventory.nouns import Device, Vm
    from vtrace.inventory.qmp import Qmp, VirtioDevice

__all__ = ["answers", "look", "map_of", "monitors_of", "path_of", "right_vm"]

UNTOUCHABLE: Final = ("vhost-user", "vdpa")
"""Backends whose indices are not to be had without stopping the ring."""
MOST_QUEUES: Final = 256
"""Queues of a device that are asked for."""
MOST_REGIONS: Final = 1024
"""Regions that go into a recording: each batch that names the VMs has them."""
_INDICES: Final = {
    "size": "vring-num",
    "desc": "vring-desc",
    "driver": "vring-avail",
    "device": "vring-used",
    "taken": "last-avail-idx",
    "used": "used-idx",
    "inuse": "inuse",
}
_PERIPHERAL = re.compile(r"^/machine/peripheral/([^/]+)/")


def monitors_of(vm: Vm, proc: Path = Path("/proc")) -> list[str]:
    """Return the QMP sockets that the command line of a VM names."""
    from vtrace.inventory.cmdline import parse

    try:
        argv = (proc / str(vm.pid) / "cmdline").read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    line = parse(argv.rstrip("\0").split("\0"))
    paths = [option.text for option in line.all("qmp", "qmp-pretty")]
    found = [match[1] for text in paths if (match := re.match(r"unix:([^,]+)", text))]
    control = {o.get("chardev") for o in line.all("mon") if o.get("mode") == "control"}
    chardevs = [o for o in line.all("chardev") if o.get("id") in control]
    return found + [o.get("path") for o in chardevs if o.get("path")]


def path_of(vm: Vm, device: Device, known: Sequence[VirtioDevice]) -> str:
    """Return the QOM path of a device's virtio part.

    A device without an id is the n-th of its driver, as QEMU numbers those.

    Raises:
        UsageError: It cannot be told.
    """
    if device.named:
        suffix = f"/{device.id}/virtio-backend"
        for one in known:
            if one.path.endswith(suffix) or one.path.endswith(f"/{device.id}"):
                return one.path
        raise UsageError(f"QEMU's monitor has no virtio device {device.id!r}")
    name = driver_name(device)
    ours = [d for d in vm.devices if not d.named and driver_name(d) == name]
    theirs = sorted((d for d in known if d.name == name and unnamed(d.path)), key=order_of)
    if len(ours) != len(theirs):
        raise UsageError(
            f"QEMU has {len(theirs)} devices {name} without an id, and its command line"
            f" {len(ours)}: which is {device.id!r} cannot be told"
        )
    return theirs[ours.index(device)].path


def driver_name(device: Device) -> str:
    driver = driver_of(device.driver)
    return driver.name if driver else device.driver


def unnamed(path: str) -> bool:
    return "/peripheral-anon/" in path or "/unattached/" in path


def order_of(device: VirtioDevice) -> tuple[bool, int]:
    # What the board makes comes first.
    number = re.search(r"device\[(\d+)\]", device.path)
    return "/peripheral-anon/" in device.path, int(number[1]) if number else 0


def right_vm(qmp: Qmp, vm: Vm, others: Sequence[Vm]) -> None:
    """Raise UsageError if the monitor is another VM's: memory would be read from the wrong one."""
    name = qmp.guest_name()
    named = "" if vm.name.startswith("pid:") else vm.name
    strangers = {other.pid for other in others if other.pid != vm.pid}
    if name != named or qmp.peer in strangers:
        raise UsageError(
            f"{qmp.address}: it is the monitor of {name or 'a guest without a name'!r}, not of"
            f" {vm.name!r}"
        )


def answers(qmp: Qmp, vm: Vm) -> dict[str, Any]:
    """Return what QEMU says of a VM and its virtio devices, as ``list --json`` has it.

    Raises:
        UnsupportedError: QEMU is older than 7.2.
        VtraceError: It does not answer.
    """
    known = qmp.virtio_devices()
    devices: dict[str, Any] = {}
    for device in vm.devices:
        if not device.queues:
            continue
        try:
            path = path_of(vm, device, known)
        except UsageError as error:
            devices[device.id] = {"missing": str(error)}
        else:
            indices = [(queue.index, queue.name, queue.backend) for queue in device.queues]
            devices[device.id] = _device(qmp, path, indices)
    return {
        "version": qmp.version,
        "state": qmp.run_state(),
        "balloon_bytes": qmp.balloon_bytes(),
        "devices": devices,
    }


def _device(qmp: Qmp, path: str, queues: Sequence[tuple[int, str, str]]) -> dict[str, Any]:
    status = qmp.virtio_status(path)
    rows = []
    for index, name, backend in queues:
        # The indices of a vhost-user ring are not to be had without stopping it.
        if index < status.queues and backend not in UNTOUCHABLE:
            row = qmp.queue_status(path, index)
            indices = {key: row.get(said) for key, said in _INDICES.items()}
            if backend == "vhost" and status.vhost:
                # QEMU's own are those from before vhost took over, and the index of vhost that
                # it fetches may be 0 for want of an answer.
                indices |= {"used": None, "inuse": None, "taken": indices["taken"] or None}
            rows.append({"index": index, "name": name} | indices)
    return {
        "path": path,
        "status": list(status.status),
        "features": sorted(status.features),
        "started": status.started,
        "broken": status.broken,
        "vhost": status.vhost,
        "queues": rows,
    }


def look(qmp: Qmp, vm: Vm) -> dict[str, Any]:
    """Return what QEMU says now, as the section ``qmp`` of a recording has it.

    Like :func:`answers`, with the times between which each device was asked, negotiated feature
    bits, the number of queues, what vhost has of a queue, and devices that were plugged in later.

    Raises:
        UnsupportedError: QEMU is older than 7.2.
        VtraceError: It does not answer.
    """
    lo_ns = time.monotonic_ns()
    balloon = qmp.balloon_bytes()
    found: dict[str, Any] = {
        "lo_ns": lo_ns,
        "hi_ns": time.monotonic_ns(),
        "version": qmp.version,
        "state": qmp.run_state(),
        "balloon_bytes": balloon,
    }
    known = qmp.virtio_devices()
    devices: dict[str, Any] = {}
    paths = set()
    for device in vm.devices:
        if not device.queues:
            continue
        try:
            path = path_of(vm, device, known)
        except UsageError as error:
            devices[device.id] = {"missing": str(error)}
            continue
        paths.add(path)
        queues = [(queue.index, queue.name, queue.backend) for queue in device.queues]
        devices[device.id] = _looked_at(qmp, path, queues)
    for one in known:
        named = _PERIPHERAL.match(one.path)
        if one.path not in paths and named:
            devices[named[1]] = _looked_at(qmp, one.path, None)
    return found | {"devices": devices}


def _looked_at(
    qmp: Qmp, path: str, queues: Sequence[tuple[int, str, str]] | None
) -> dict[str, Any]:
    lo_ns = time.monotonic_ns()
    try:
        status = qmp.virtio_status(path)
        if queues is None:
            # Who serves it is not known: asked for indices, a vhost-user ring stops.
            count = 0 if status.vhost else min(status.queues, MOST_QUEUES)
            queues = [(index, "", "qemu") for index in range(count)]
        said = _device(qmp, path, queues[:MOST_QUEUES])
        for row in said["queues"] if status.vhost else ():
            try:
                row["vhost_size"] = qmp.vhost_queue_status(path, row["index"]).get("num")
            except (QmpError, UnsupportedError):
                row["vhost_size"] = None
    except QmpError as error:
        # Unplugged meanwhile: the others are there.
        return {"missing": str(error)}
    hi_ns = time.monotonic_ns()
    return said | {
        "lo_ns": lo_ns,
        "hi_ns": hi_ns,
        "virtio": status.name,
        "bits": status.bits,
        "num_queues": status.queues,
    }


def map_of(qmp: Qmp, vm: Vm) -> dict[str, Any]:
    """Return ``regions`` and ``lines`` of a VM, as the section ``vms`` has them.

    Interrupt lines are those that firmware wrote: right with the interrupt controllers of a
    ``pc``, and left out for ``q35``, where the I/O APIC has others.
    """
    from vtrace.inventory import to_json

    (listed,) = to_json([vm])
    rows: list[dict[str, Any]] = []
    lines: dict[int, str] = {}
    with suppress(QmpError, UnsupportedError):
        rows += mtree_regions(qmp.human("info mtree -f -o"), listed["devices"])
    try:
        buses = qmp.execute("query-pci")
    except (QmpError, UnsupportedError):
        pass
    else:
        rows += pci_regions(buses)
        if vm.machine.partition("-")[0] == "pc" and "q35" not in vm.machine:
            # What the board is known to have there has a better name than its class.
            lines = {n: name for n, name in pci_lines(buses).items() if n not in LINES}
    # The memory tree comes first: it calls a register by its name, not by its BAR.
    unique: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        unique.setdefault((row["io"], row["base"], row["size"], row["device"]), row)
    return {
        "regions": list(unique.values())[:MOST_REGIONS],
        "lines": {str(line): device for line, device in lines.items()},
    }
