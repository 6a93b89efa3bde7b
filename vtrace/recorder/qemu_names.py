"""Names of QEMU's own queues: the QOM path of a device is joined with the inventory's devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtrace.inventory import board_place, match_queue

if TYPE_CHECKING:
    from vtrace.inventory import Vm

__all__ = ["QemuNames"]


class QemuNames:
    """Puts names to queues; keeps in mind which devices there were."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], set[str]] = {}

    def of(self, vm: Vm, entry: dict[str, Any]) -> dict[str, Any]:
        """Return keys to add to the entry of a queue: vm, device, name, direction, extra."""
        qom, kind, index = entry["qom"], entry["device_type"], entry["index"]
        seen = self._seen.setdefault((vm.pid, kind), set())
        seen.add(qom)
        nth = board_place(vm, qom, kind, seen)
        found = match_queue(vm, qom, kind, index, nth, entry.get("features", 0))
        names: dict[str, Any] = {
            "vm": vm.name,
            "device": found.device,
            "name": found.queue,
            "direction": str(found.direction),
        }
        if found.port:
            names["extra"] = {**entry.get("extra", {}), "port": found.port}
        return names
