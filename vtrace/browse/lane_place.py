"""Whose lanes a place has: its queues, their vCPUs and workers, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vtrace.session.sane import not_probed
from vtrace.text import clean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vtrace.browse.lane_window import LaneWindow, QueueLane

__all__ = ["LanePlace"]

MOST_VCPUS: Final = 8
"""vCPUs of a VM that have a row where none of them kicks for a chosen queue."""


@dataclass(slots=True)
class LanePlace:
    """The lanes of a stretch of time that belong to a place."""

    window: LaneWindow
    metadata: Mapping[str, Any]
    vm: str | None = None
    device: str | None = None
    queue: str | None = None
    present: Mapping[int, set[str]] = field(default_factory=dict)
    """What each queue has at other times: its lanes stay while the time is moved."""
    _unread: NDArray[np.bool_] = field(init=False)
    _unseen: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self._unread = self.window.unread
        probes = self.metadata.get("probes")
        self._unseen = not_probed(probes if isinstance(probes, Mapping) else {})

    def queue_row(self, number: int) -> Mapping[str, Any]:
        """Return the queue table's row of an id, empty if there is none."""
        return self._section("queues", number)

    def thread_row(self, tid: int) -> Mapping[str, Any]:
        """Return the thread table's row of a tid, empty if there is none."""
        return self._section("threads", tid)

    def _section(self, name: str, number: int) -> Mapping[str, Any]:
        section = self.metadata.get(name)
        found = section.get(str(number)) if isinstance(section, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def has(self, one: QueueLane, name: str) -> bool:
        """Return whether a queue has a count or a level, here or at other times."""
        values = getattr(one, name)
        level = name in ("flight", "avail", "tap")
        here = bool((values >= 0).any() if level else values.any())
        return here or name in self.present.get(one.id, ())

    # -- who is here -----------------------------------------------------------------------------

    def queues(self) -> list[QueueLane]:
        """Return the queues of the place, those that did something."""
        found = []
        for number, lane in self.window.queues.items():
            row = self.queue_row(number)
            if row.get("role", "virtqueue") == "interface":
                continue
            wanted = ((self.vm, "vm"), (self.device, "device"), (self.queue, "name"))
            if all(value is None or row.get(name) == value for value, name in wanted):
                found.append(lane)

        def order(lane: QueueLane) -> tuple[Any, ...]:
            row = self.queue_row(lane.id)
            return str(row.get("vm")), str(row.get("device")), str(row.get("name")), lane.id

        return sorted(found, key=order)

    def threads(self, queues: list[QueueLane]) -> tuple[list[int], list[int]]:
        """Return the vCPUs and the other threads that matter to queues."""
        workers = list(dict.fromkeys(one.worker for one in queues if one.worker > 0))
        kickers = list(dict.fromkeys(one.kicker for one in queues if one.kicker > 0))
        vcpus, others = [], []
        for tid in self.window.threads:
            row = self.thread_row(tid)
            role, vm = row.get("role"), row.get("vm")
            if role == "vcpu" or (role is None and tid in kickers):
                if tid in kickers or self.vm is None or vm == self.vm:
                    vcpus.append(tid)
            elif tid in workers or (
                self.device is None and (self.vm is None or vm in (self.vm, None))
            ):
                others.append(tid)
        if self.device is not None and kickers:
            # Of one queue: the vCPU that kicks for it.
            mine = [tid for tid in vcpus if tid in kickers]
            vcpus = mine or vcpus
        if self.device is not None:
            vcpus += [tid for tid in kickers if tid not in self.window.threads]
        # A vCPU that kicks QEMU's own queue works on it, too.
        vcpus += [tid for tid in workers if tid in kickers and tid not in vcpus]
        others = [tid for tid in others if tid not in vcpus]
        return sorted(vcpus, key=self._vcpu)[:MOST_VCPUS], sorted(others)

    def _vcpu(self, tid: int) -> tuple[str, int]:
        row = self.thread_row(tid)
        number = row.get("vcpu")
        return str(row.get("vm")), number if isinstance(number, int) else tid

    def thread_name(self, tid: int) -> str:
        """Return a thread by its name and number: ``qemu-io 2231``."""
        comms = self.metadata.get("comms")
        comm = self.thread_row(tid).get("comm")
        if not comm and isinstance(comms, Mapping):
            comm = comms.get(str(tid))
        return f"{clean(str(comm), 16)} {tid}" if comm else f"thread {tid}"

    def queue_name(self, number: int) -> str:
        """Return a queue by as much of its name as is needed to tell it apart here."""
        row = self.queue_row(number)
        name = str(row.get("name") or f"queue {number}")
        vms, devices = self._around()
        if row.get("device") and devices > vms:
            name = f"{row['device']} {name}"
        if row.get("vm") and vms > 1:
            name = f"{row['vm']} {name}"
        return clean(name, 20)

    def _around(self) -> tuple[int, int]:
        # How many VMs and devices the queues here belong to.
        rows = [self.queue_row(one.id) for one in self.queues()]
        devices = {(str(row.get("vm")), str(row.get("device"))) for row in rows}
        return len({vm for vm, _ in devices}), len(devices)
