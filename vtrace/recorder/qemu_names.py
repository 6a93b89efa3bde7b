"""Names of QEMU's own queues: the QOM path of a device is joined with the inventory's devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtrace.inventory import Device, Vm

__all__ = ["name_of"]

_GIVEN = "/machine/peripheral/"


def name_of(vm: Vm, entry: dict[str, Any]) -> dict[str, Any]:
    """Return keys to add to the entry of a queue of QEMU's own: vm, device, name, direction.

    A device that has an id stands under it in QOM. One without is found where it is the only one
    of its kind; else it is called by its kind and its place in QOM.
    """
    qom, kind, index = entry["qom"], entry["device_type"], entry["index"]
    found = _device(vm, qom, kind)
    if found is None:
        return {"vm": vm.name, "device": _by_path(qom, kind)}
    names: dict[str, Any] = {"vm": vm.name, "device": found.id}
    for queue in found.queues:
        if queue.index == index:
            names |= {"name": queue.name, "direction": str(queue.direction)}
    return names


def _device(vm: Vm, qom: str, kind: str) -> Device | None:
    of_kind = [device for device in vm.devices if device.kind == kind]
    if qom.startswith(_GIVEN):
        name = qom.removeprefix(_GIVEN).partition("/")[0]
        return next((device for device in of_kind if device.named and device.id == name), None)
    nameless = [device for device in of_kind if not device.named]
    return nameless[0] if len(nameless) == 1 else None


def _by_path(qom: str, kind: str) -> str:
    parts = [part for part in qom.split("/") if part and part != "virtio-backend"]
    return f"{kind} {parts[-1]}" if parts else kind
