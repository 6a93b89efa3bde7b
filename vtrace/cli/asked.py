"""What QEMU's monitor adds to ``vtrace list``: what was negotiated, and indices of rings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from vtrace.errors import UsageError
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.inventory import Device, Vm
    from vtrace.inventory.qmp import Qmp

__all__ = ["ask", "lines_of_answers"]

_WIDTH: Final = 96
_UNTOUCHABLE: Final = ("vhost-user", "vdpa")
_INDICES: Final = {
    "size": "vring-num",
    "desc": "vring-desc",
    "driver": "vring-avail",
    "device": "vring-used",
    "taken": "last-avail-idx",
    "used": "used-idx",
    "inuse": "inuse",
}


def ask(vm: Vm, address: str, others: list[Vm]) -> dict[str, Any]:
    """Return what QEMU says of a VM and its virtio devices, as JSON has it.

    Raises:
        UsageError: The socket is none, or another VM's.
        UnsupportedError: QEMU is older than 7.2.
    """
    from vtrace.cli.ringread import path_of, right_vm
    from vtrace.inventory.qmp import Qmp

    with Qmp(address) as qmp:
        right_vm(qmp, vm, others)
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
                devices[device.id] = answers(qmp, path, device)
        return {
            "version": qmp.version,
            "state": qmp.run_state(),
            "balloon_bytes": qmp.balloon_bytes(),
            "devices": devices,
        }


def answers(qmp: Qmp, path: str, device: Device) -> dict[str, Any]:
    """Return what QEMU says of a device and its queues."""
    status = qmp.virtio_status(path)
    queues = []
    for queue in device.queues:
        # The indices of a vhost-user ring are not to be had without stopping it.
        if queue.index < status.queues and queue.backend not in _UNTOUCHABLE:
            row = qmp.queue_status(path, queue.index)
            indices = {name: row.get(key) for name, key in _INDICES.items()}
            if queue.backend == "vhost" and status.vhost:
                # QEMU's own are those from before vhost took over; see ringread.
                indices |= {"used": None, "inuse": None, "taken": indices["taken"] or None}
            queues.append({"index": queue.index, "name": queue.name} | indices)
    return {
        "path": path,
        "status": list(status.status),
        "features": sorted(status.features),
        "started": status.started,
        "broken": status.broken,
        "vhost": status.vhost,
        "queues": queues,
    }


def lines_of_answers(said: dict[str, Any]) -> Iterator[str]:
    """Yield what is printed of that."""
    balloon = said["balloon_bytes"]
    text = f"  QEMU {said['version']} says: {said['state']}"
    yield clean(text + ("" if balloon is None else f", the balloon leaves {balloon:,} bytes"))
    for name, device in said["devices"].items():
        if "missing" in device:
            yield f"    {clean(name)}: {clean(device['missing'])}"
            continue
        words = device["status"] or ["not set up by a driver"]
        words = [*words, *(word for word in ("broken", "vhost") if device[word])]
        yield f"    {clean(name)}: {clean(' '.join(words))}"
        short = [feature.removeprefix("VIRTIO_") for feature in device["features"]]
        for line in textwrap.wrap(" ".join(short), _WIDTH):
            yield f"      {clean(line)}"
