"""Rows of the section ``queues``: what the programs know of a queue, without its addresses."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from vtrace.model import Direction, Ring, Role

__all__ = ["DEVICE_TYPES", "DeviceNamer", "queue_row"]

# struct queue_info of include/vtrace_bpf.h.
_INFO: Final = struct.Struct("<QQQIIIHBBBB16sBBH2xQQ")
_ROLES: Final = {1: Role.VIRTQUEUE, 2: Role.TAP, 3: Role.INTERFACE}
_QEMU: Final = 1

DEVICE_TYPES: Final = {
    1: "net",
    2: "blk",
    3: "serial",
    4: "rng",
    5: "balloon",
    8: "scsi",
    9: "9p",
    16: "gpu",
    18: "input",
    19: "vsock",
    20: "crypto",
    22: "iommu",
    23: "iommu",
    24: "mem",
    26: "fs",
    27: "pmem",
    41: "sound",
}
"""Virtio's device ids ("Device Types" in the specification), as the inventory calls the kinds."""

DeviceNamer = Callable[[int, int], tuple[str, str]]
"""(pid, address of the device in QEMU) -> its virtio name, its canonical QOM path."""


def queue_row(number: int, raw: bytes, name_device: DeviceNamer) -> dict[str, Any]:
    """Return the row of one queue, tap queue or interface.

    Args:
        number: Its id.
        raw: Its ``struct queue_info``.
        name_device: Asked for devices of QEMU's own.
    """
    (
        features,
        registered,
        stopped,
        tgid,
        size,
        ifindex,
        index,
        role,
        receives,
        macvtap,
        iotlb,
        name,
        backend,
        packed,
        device_type,
        _,
        vdev,
    ) = _INFO.unpack(raw)
    interface = name.split(b"\0", 1)[0].decode(errors="replace")
    row: dict[str, Any] = {
        "id": number,
        "role": str(_ROLES.get(role, role)),
        "vm": f"pid:{tgid}" if tgid else "",
        "pid": tgid,
        "device": interface,
        "name": "",
        "direction": str(Direction.NONE),
        "backend": "",
        "ring": str(Ring.PACKED if packed else Ring.SPLIT),
        "size": size,
        "interface": interface,
        "ifindex": ifindex,
        "generation": 0,
        "features": features,
        "extra": {"registered_ns": registered, "stopped_ns": stopped},
    }
    if role == 1 and backend == _QEMU:
        kind, qom = name_device(tgid, vdev)
        known = DEVICE_TYPES.get(device_type, kind.removeprefix("virtio-"))
        row |= {
            "backend": "qemu",
            "device": _given_id(qom),
            "index": index,
            "device_type": known or f"virtio {device_type}",
            "qom": qom,
            **_place(known, index),
        }
        return row
    if role != 3:
        direction = Direction.RX if receives else Direction.TX
        row |= {"direction": str(direction), "name": f"{direction}{index}"}
    row["backend"] = "vhost" if role == 1 else ""
    row["extra"] |= {"macvtap": macvtap, "iotlb": iotlb}
    return row


def _given_id(qom: str) -> str:
    # A device that was given an id stands under it.
    _, found, rest = qom.partition("/machine/peripheral/")
    return rest.partition("/")[0] if found else ""


def _place(kind: str, index: int) -> dict[str, str]:
    # Ports of a serial device have a receive and a transmit queue; 2 and 3 are its control queues.
    if kind == "serial" and index not in (2, 3):
        port = index // 2 - (1 if index > 3 else 0)
        direction = Direction.TX if index % 2 else Direction.RX
        return {"name": f"{direction}{port}", "direction": str(direction)}
    return {"name": f"queue{index}"}
