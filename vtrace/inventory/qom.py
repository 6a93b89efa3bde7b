"""Paths of QEMU's object model: which device of the inventory, and which queue, one stands for.

QEMU puts a device with an id to ``/machine/peripheral/ID``. One without goes to
``/machine/peripheral-anon/device[N]``, where N counts all of them, virtio or not, in the order of
:func:`vtrace.inventory.addresses.in_order`. What the board makes itself (``-nic``, ``-net nic``,
``-vga``) is under ``/machine/unattached``, numbered among much else: of those only the order is
known. A device on PCI or CCW has its virtio part below it, ``virtio-backend``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from vtrace.inventory.addresses import in_order
from vtrace.inventory.drivers import NET_PAIRS, name_by_index
from vtrace.model import Direction

if TYPE_CHECKING:
    from vtrace.inventory.cmdline import CommandLine
    from vtrace.inventory.nouns import Device, Vm

__all__ = ["QueueMatch", "board_place", "match_queue", "paths_of"]

NUMBER = re.compile(r"^/machine/unattached/device\[(\d{1,9})\]")
PLACE = re.compile(r"^/machine/(peripheral|peripheral-anon|unattached)/([^/]+)")


class QueueMatch(NamedTuple):
    """What the inventory calls a queue."""

    device: str
    queue: str
    direction: str
    """rx or tx of a network device, else none."""
    port: str = ""
    """serial: name of the port."""


def paths_of(line: CommandLine) -> dict[int, str]:
    """Return the paths of devices that options ask for, by ``id()`` of the option."""
    drives = [o for o in line.all("drive") if o.get("if") == "virtio"]
    found = {}
    count = 0
    for option in in_order(line, [], drives):
        name = option.get("id") if option.name == "device" else ""
        if name:
            found[id(option)] = f"/machine/peripheral/{name}"
        elif not line.has("readconfig"):  # its devices would count, too
            found[id(option)] = f"/machine/peripheral-anon/device[{count}]"
            count += 1
    return found


def match_queue(
    vm: Vm, qom: str, device_type: str, index: int, nth: int = -1, features: int = 0
) -> QueueMatch:
    """Return the device and the queue that a device's path and a queue's index stand for.

    A device that is not in the inventory (plugged in later) has the name that its path ends with,
    and its queues those that such a device has.

    Args:
        vm: The VM.
        qom: Canonical path of the device, with ``virtio-backend`` or without.
        device_type: The inventory's kind of it: net, blk, scsi, ...
        index: Index of the queue in the device.
        nth: Its place among the board's own devices of this kind, from 0, in order of their
            numbers (:func:`board_place`); -1 if that is not known.
        features: Features that the driver took; they say where a network device's control queue is.
    """
    place = PLACE.match(qom)
    device = device_at(vm, place[0], device_type) if place else None
    if device is None and place and place[1] != "peripheral" and nth >= 0:
        device = next(iter(board_devices(vm, device_type)[nth:]), None)
    if device is None:
        last = place[2] if place else qom.removesuffix("/virtio-backend").rpartition("/")[2]
        name = last if place and place[1] == "peripheral" else f"{device_type} {last}".rstrip()
        queue = name_by_index(device_type, index, features)
        return QueueMatch(name, queue, direction_of(device_type, queue))
    queue, port = queue_of(device, index, features)
    return QueueMatch(device.id, queue, direction_of(device_type, queue), port)


def device_at(vm: Vm, path: str, kind: str) -> Device | None:
    # An id may have been given again, to another kind of device.
    return next((d for d in vm.devices if d.qom == path and d.kind == kind), None)


def board_devices(vm: Vm, kind: str) -> list[Device]:
    # Those that no path is known of, in the order in which the board makes them.
    return [d for d in vm.devices if d.kind == kind and not d.qom and d.driver]


def board_place(vm: Vm, qom: str, device_type: str, seen: Iterable[str]) -> int:
    """Return the place of a device among the board's own of its kind; -1 if it is not known.

    It is known where there is but one, or where all have been seen: then by their numbers.

    Args:
        vm: The VM.
        qom: Path of the device.
        device_type: Its kind.
        seen: Paths of all devices of this kind that were seen, this one among them.
    """
    count = len(board_devices(vm, device_type))
    if count == 1:
        return 0
    numbers = sorted({int(match[1]) for path in seen if (match := NUMBER.match(path))})
    mine = NUMBER.match(qom)
    return numbers.index(int(mine[1])) if mine and len(numbers) == count else -1


def queue_of(device: Device, index: int, features: int) -> tuple[str, str]:
    if device.kind == "net" and index >= 2 and not features & NET_PAIRS:
        # Without several pairs QEMU has one, and the control queue behind it.
        return name_by_index("net", index, 0), ""
    for queue in device.queues:
        if queue.index == index:
            return queue.name, queue.port
    return name_by_index(device.kind, index, features), ""


def direction_of(kind: str, queue: str) -> str:
    if kind != "net":
        return Direction.NONE
    return {"rx": Direction.RX, "tx": Direction.TX}.get(queue[:2], Direction.NONE)
