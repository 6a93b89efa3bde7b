"""Reading the bytes of one virtqueue of a guest on this host, for ``vtrace ring``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vtrace.errors import PrivilegeError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from vtrace.inventory import Device, Vm
    from vtrace.inventory.guestram import GuestRam
    from vtrace.inventory.qmp import Qmp, VirtioStatus
    from vtrace.ring import Device as Known
    from vtrace.ring import RawRing, Snapshot

__all__ = ["Taken", "device_named", "queue_named", "take"]

_TRIES: Final = 5
"""Times that a ring is read until it stands still meanwhile."""


@dataclass(slots=True)
class Taken:
    """A ring as it was read, and whose it is."""

    raw: RawRing
    vm: str = ""
    device: str = ""
    queue: str = ""
    index: int | None = None
    backend: str = ""
    state: str = ""
    """What the guest did: running, paused, ..."""
    features: tuple[str, ...] = ()
    """Negotiated features by name."""
    addresses: dict[str, int] = field(default_factory=dict)
    """Guest-physical address of each area."""
    tables: dict[int, bytes] = field(default_factory=dict)
    """Indirect tables that were read while decoding."""
    snapshot: Snapshot | None = None


def device_named(vm: Vm, name: str) -> Device:
    """Return a device of a VM.

    Raises:
        UsageError: It has none of this name.
    """
    found = [device for device in vm.devices if device.id == name]
    if found:
        return found[0]
    with_queues = [device.id for device in vm.devices if device.queues]
    raise UsageError(f"{vm.name} has no device {name!r}; {near(name, with_queues)}")


def queue_named(device: Device, name: str) -> tuple[str, int, str]:
    """Return name, index and backend of a virtqueue; a number is taken as its index.

    Raises:
        UsageError: The device has none of this name.
    """
    for queue in device.queues:
        if name in (queue.name, str(queue.index)):
            return queue.name, queue.index, queue.backend
    if name.isdecimal() and len(name) < 5:
        # Ports that were plugged in later have queues that the inventory does not know.
        return name, int(name), device.queues[-1].backend if device.queues else "unknown"
    names = [queue.name for queue in device.queues]
    raise UsageError(f"{device.id} has no queue {name!r}; {near(name, names)}")


def near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = ", ".join(repr(one) for one in (close or names[:12]))
    if not listed:
        return "it has none"
    return f"did you mean {listed}?" if close else f"there is {listed}"


def take(vm: Vm, device: Device, queue: str, address: str, others: Sequence[Vm] = ()) -> Taken:
    """Read a virtqueue by way of QEMU's monitor, and decode it.

    Raises:
        UsageError: The names or the socket are wrong.
        PrivilegeError: QEMU's memory may not be read.
        UnsupportedError: This ring cannot be read.
    """
    from vtrace.inventory.guestram import GuestRam
    from vtrace.inventory.monitor import UNTOUCHABLE, path_of, right_vm
    from vtrace.inventory.qmp import Qmp

    name, index, backend = queue_named(device, queue)
    if backend in UNTOUCHABLE:
        raise UnsupportedError(
            f"{device.id} is served by {backend}: asking QEMU for its indices would stop the ring"
        )
    with Qmp(address) as qmp:
        right_vm(qmp, vm, others)
        path = path_of(vm, device, qmp.virtio_devices())
        status = qmp.virtio_status(path)
        if index >= status.queues:
            raise UsageError(f"{device.id} has {status.queues} queues, and none of index {index}")
        ram = GuestRam(qmp, vm.pid)
        served = "qemu" if backend == "vhost" and not status.vhost else backend
        taken = RingReader(qmp, ram, path, index, status, vhost=served == "vhost").take()
        taken.vm, taken.device, taken.queue, taken.index = vm.name, device.id, name, index
        taken.backend = served
        return taken


class RingReader:
    """Reads one ring, whose place QEMU's monitor knows."""

    def __init__(
        self,
        qmp: Qmp,
        ram: GuestRam,
        path: str,
        index: int,
        status: VirtioStatus,
        *,
        vhost: bool,
    ) -> None:
        self.qmp, self.ram, self.path, self.index = qmp, ram, path, index
        self.status, self.vhost = status, vhost
        self.tables: dict[int, bytes] = {}

    def take(self) -> Taken:
        """Read it until it stands still, a few times at most; then decode it."""
        from vtrace.ring import decode

        state = self.qmp.run_state()
        raw, places = self._look()
        for _ in range(_TRIES - 1):
            if raw.consistent:
                break
            raw, places = self._look()
        taken = Taken(
            raw=raw,
            state=state,
            features=tuple(sorted(self.status.features)),
            addresses=places,
            tables=self.tables,
        )
        taken.snapshot = decode(raw, self._table)
        return taken

    def _look(self) -> tuple[RawRing, dict[str, int]]:
        from vtrace.model import Ring
        from vtrace.ring import Device as Known
        from vtrace.ring import Feature, RawRing

        packed = self.status.bits >> Feature.RING_PACKED & 1
        layout = Ring.PACKED if packed else Ring.SPLIT
        before = self.qmp.queue_status(self.path, self.index)
        places = self._places(before, layout)
        first, again = self._areas(places), self._areas(places)
        after = self.qmp.queue_status(self.path, self.index)
        moving = ("last-avail-idx", "used-idx", "inuse", "vring-desc")
        still = first == again and all(before.get(key) == after.get(key) for key in moving)
        raw = RawRing(
            layout=layout,
            size=before["vring-num"],
            features=self.status.bits,
            # What QEMU said before is of another moment, if it moved.
            known=self._known(before, layout) if still else Known(),
            consistent=still,
            **first,
        )
        return raw, {name: address for name, (address, _) in places.items()}

    def _places(self, status: dict[str, int], layout: str) -> dict[str, tuple[int, int]]:
        from vtrace.ring import areas_of

        keys = {"desc": "vring-desc", "driver": "vring-avail", "device": "vring-used"}
        if not all(status.get(key) for key in (*keys.values(), "vring-num")):
            raise UnsupportedError(
                "the driver has not set up this queue: it has no ring in guest memory"
            )
        return {
            name: (status[keys[name]], length)
            for name, _, length in areas_of(layout, status["vring-num"])
        }

    def _areas(self, places: dict[str, tuple[int, int]]) -> dict[str, bytes]:
        # The used index first: it is behind the others, also when they move meanwhile.
        order = ("device", "driver", "desc")
        data = self.ram.read_all(places[name] for name in order)
        if data is None:
            at = ", ".join(f"{name} {address:#x}" for name, (address, _) in places.items())
            raise PrivilegeError(
                f"the ring ({at}) cannot be read from QEMU's memory; root can (sudo), if it lies in"
                " RAM of the guest"
            )
        areas, begin = {}, 0
        for name in order:
            areas[name] = data[begin : begin + places[name][1]]
            begin += places[name][1]
        return areas

    def _known(self, status: dict[str, int], layout: str) -> Known:
        from vtrace.model import Ring
        from vtrace.ring import Device as Known

        taken = status.get("last-avail-idx")
        if self.vhost:
            # The used index that QEMU has of this ring is an old one. Its 0 may mean that it did
            # not ask vhost.
            return Known(taken=taken or None)
        used, inuse = status.get("used-idx"), status.get("inuse")
        if taken is None and used is not None and inuse is not None:
            taken = (used + inuse) & 0xFFFF if layout == Ring.SPLIT else None
        if taken is None:
            return Known()
        return Known(taken=taken, used=used, inuse=inuse, wraps=layout != Ring.PACKED)

    def _table(self, address: int, length: int) -> bytes | None:
        if address not in self.tables or len(self.tables[address]) != length:
            data = self.ram.read(address, length)
            if data is None:
                return None
            self.tables[address] = bytes(data)
        return self.tables[address]
