"""What one recording gives to a comparison. Counts are of the whole recording."""

from __future__ import annotations

from dataclasses import dataclass, field

from vtrace.lifecycle import Histogram, Notifications

__all__ = ["DeviceSums", "DropSum", "ExitSum", "QueueSide", "Side"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSide:
    """One queue of one recording."""

    vm: str
    device: str
    queue: str
    kind: str = ""
    """net, blk, scsi, ...; empty: not known."""
    backend: str = ""
    ring: str = ""
    chains: int = 0
    packets: int = 0
    handed_back: int = 0
    starved: int = 0
    ambiguous: int = 0
    kicks: Notifications = field(default_factory=Notifications)
    interrupts: Notifications = field(default_factory=Notifications)
    stages: dict[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitSum:
    """Exits of a VM's vCPUs for one reason, and one device where it is known."""

    vm: str
    reason: str
    device: str = ""
    """Device whose port or address was touched; empty: not an exit for I/O, or not recorded."""
    count: int = 0
    total_ns: int = 0
    """Outside the guest."""
    user_count: int | None = None
    """Those that went to QEMU. None: not recorded."""
    user_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSums:
    """Interrupts that KVM was given for a device, by line or message."""

    vm: str
    device: str
    interrupts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSum:
    """Packets that were dropped."""

    reason: str
    location: str = ""
    device: str = ""
    packets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One recording."""

    source: str
    duration_ns: int = 0
    """From the first probe's start to the end; else from the first event to the last."""
    loss: dict[str, int] = field(default_factory=dict)
    """produced, received, lost, pending, late, missed."""
    damaged: bool = False
    """Parts of it could not be read."""
    queues: tuple[QueueSide, ...] = ()
    exits: tuple[ExitSum, ...] = ()
    interrupts: tuple[DeviceSums, ...] | None = None
    """None: not recorded."""
    drops: tuple[DropSum, ...] = ()
    devices: dict[tuple[str, str], str] = field(default_factory=dict)
    """(VM, device) -> kind (net, blk, ...), of the inventory; emulated ones too."""
    tap_packets: int | None = None
    """rx_packets + tx_packets of the VMs' taps, by the kernel's counters. None: not sampled."""
    taps: tuple[str, ...] = ()

    @property
    def vms(self) -> tuple[str, ...]:
        """Names of VMs that something was recorded of."""
        names = {queue.vm for queue in self.queues} | {row.vm for row in self.exits}
        names |= {row.vm for row in self.interrupts or ()}
        return tuple(sorted(names or {vm for vm, _ in self.devices}))

    @property
    def places(self) -> dict[tuple[str, str], str]:
        """(VM, device) -> kind, of all that has a name: also what stands in no inventory."""
        found = [(row.vm, row.device) for row in self.exits]
        found += [(row.vm, row.device) for row in self.interrupts or ()]
        kinds = {names: "" for names in found if names[1]} | self.devices
        for queue in self.queues:
            names = (queue.vm, queue.device)
            kinds[names] = queue.kind or kinds.get(names, "")
        return kinds

    @property
    def knows_devices(self) -> bool:
        """Whether exits were recorded with the device that they touched, and their time in QEMU."""
        return any(row.device or row.user_count is not None for row in self.exits)

    @property
    def lossy(self) -> bool:
        """Whether records are missing."""
        return self.damaged or any(self.loss.get(name) for name in ("lost", "missed", "pending"))
