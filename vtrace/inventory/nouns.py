"""What the inventory holds: VMs, threads, devices, virtqueues, network backends.

Names and threads are as the host shows them, not cleaned for a terminal. What could not be read is
None (``unknown`` for a role) with a sentence in ``missing``; it is never shown as absent or zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vtrace.model import Direction, Ring

__all__ = [
    "AddressSource",
    "Backend",
    "Device",
    "NetBackend",
    "Proof",
    "Seen",
    "SizeSource",
    "Thread",
    "ThreadKind",
    "ThreadRole",
    "Virtqueue",
    "Vm",
]


class Seen(StrEnum):
    """Whether all of a thing could be read."""

    ALL = "all"
    PARTIAL = "partial"
    """``missing`` says what could not be, and why."""


class ThreadRole(StrEnum):
    """What a thread does for its VM."""

    VCPU = "vcpu"
    VHOST = "vhost"
    """A vhost worker: serves virtqueues in the kernel."""
    IOTHREAD = "iothread"
    QEMU = "qemu"
    """Another thread of QEMU: main loop, thread pool, RCU, migration, displays."""
    KVM = "kvm"
    """A helper of KVM in the kernel."""
    UNKNOWN = "unknown"
    """QEMU does not name its threads, and nothing else proves the role."""


class ThreadKind(StrEnum):
    """What a thread is to the kernel."""

    THREAD = "thread"
    KTHREAD = "kthread"
    """A thread of the kernel, outside of QEMU."""
    VHOST_TASK = "vhost_task"
    """A kernel worker that is a thread of QEMU (Linux 6.4 and later)."""


class Proof(StrEnum):
    """How the role of a thread is known, from strong to weak."""

    KERNEL = "kernel"
    """The kernel made it and named it."""
    IOCTL = "ioctl"
    """It sits in KVM_RUN on the file of the vCPU."""
    MAIN = "main"
    """It is the first thread of the process."""
    NAME = "name"
    """QEMU named it (``-name debug-threads=on``)."""
    SIGNALS = "signals"
    """It takes SIGUSR1, which QEMU blocks in all threads but KVM vCPUs; numbered by age."""
    NONE = "none"


class Backend(StrEnum):
    """Who serves a virtqueue."""

    VHOST = "vhost"
    QEMU = "qemu"
    VHOST_USER = "vhost-user"
    VDPA = "vdpa"
    UNKNOWN = "unknown"


class AddressSource(StrEnum):
    """Where the address of a device is from."""

    ASKED = "asked"
    DERIVED = "derived"
    """Not asked for: QEMU takes the first free slot, and all devices before it are known."""
    UNKNOWN = "unknown"


class SizeSource(StrEnum):
    """Where the size of a ring is from."""

    ASKED = "asked"
    DEFAULT = "default"
    """QEMU's default for this machine type."""
    CLAMPED = "clamped"
    """More was asked for than QEMU gives with this backend."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread that works for a VM."""

    tid: int
    comm: str
    role: str = ThreadRole.UNKNOWN
    kind: str = ThreadKind.THREAD
    vcpu: int | None = None
    """QEMU's index of the vCPU."""
    kvm_id: int | None = None
    """KVM's id of the vCPU, where it was seen: the APIC id on x86, with gaps."""
    iothread: str = ""
    """QEMU's id of the iothread."""
    proof: str = Proof.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Virtqueue:
    """A virtqueue that a device offers."""

    index: int
    name: str
    direction: str = Direction.NONE
    backend: str = Backend.QEMU
    ring: str = Ring.SPLIT
    """Layout that the device offers at best; the driver may choose split."""
    size: int = 0
    """Descriptors that the device offers; the driver may take fewer. 0: not known."""
    size_source: str = SizeSource.UNKNOWN
    tid: int | None = None
    """Thread that serves it. None: not known."""
    port: str = ""
    """serial: name of the port, as it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetBackend:
    """The host's end of a network device."""

    id: str = ""
    """QEMU's id of the netdev."""
    type: str = ""
    """tap, macvtap, vhost-user, vhost-vdpa, user, ..."""
    interface: str = ""
    ifindex: int | None = None
    netns: int | None = None
    """Inode of the network namespace, if it is not ours."""
    vhost: bool | None = None
    """vhost-net serves it, once the driver is ready. None: not known."""
    vnet_hdr: bool | None = None
    multi_queue: bool | None = None
    queues: int | None = None
    """Queues of the interface that are open."""
    queues_enabled: int | None = None
    """Those of them that the guest uses."""
    txqueuelen: int | None = None
    """Packets that one tap queue holds towards the guest."""
    mtu_bytes: int | None = None
    operstate: str = ""
    master: str = ""
    """Bridge or bond that it is a port of."""
    offloads: dict[str, bool] | None = None
    """Features by the kernel's names. On a tap they mirror what the guest negotiated."""
    path: str = ""
    """Socket or device file behind it."""
    missing: tuple[str, ...] = ()

    @property
    def seen(self) -> Seen:
        """Whether all of it could be read."""
        return Seen.PARTIAL if self.missing else Seen.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device of a VM that has virtqueues, or a network interface on the host."""

    id: str
    """QEMU's id, else the kind and a number: net0."""
    named: bool = True
    """QEMU was given this id."""
    kind: str
    """net, blk, scsi, serial, balloon, vsock, ..."""
    driver: str
    bus: str = ""
    """pci, ccw, mmio."""
    address: str | None = None
    """``0000:00:05.0`` on the root bus, ``pci.2:00.0`` below a bridge (the guest numbers that
    bus). None: not known."""
    address_source: str = AddressSource.UNKNOWN
    qom: str = ""
    """Where QEMU has it: ``/machine/peripheral/net0``. Empty: not known, as of the board's own."""
    queues: tuple[Virtqueue, ...] = ()
    net: NetBackend | None = None
    iothread: str = ""
    drive: str = ""
    """Block node or drive behind it."""
    traced: bool = True
    untraced: str = ""
    """Why it is seen but not traced."""
    notes: tuple[str, ...] = ()
    """What a reader should know of it."""
    missing: tuple[str, ...] = ()

    @property
    def seen(self) -> Seen:
        """Whether all of it could be read."""
        partial = self.missing or (self.net is not None and self.net.missing)
        return Seen.PARTIAL if partial else Seen.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A guest that runs on this host."""

    name: str
    """As given to QEMU; ``pid:N`` where it has none."""
    pid: int
    exe: str = ""
    version: str = ""
    """Version of QEMU as its executable carries it; empty: not known."""
    accel: str = "unknown"
    """kvm, tcg, ...; unknown."""
    machine: str = ""
    uuid: str = ""
    vcpus: int | None = None
    container: str = ""
    """Id of the container that it runs in."""
    threads: tuple[Thread, ...] = ()
    devices: tuple[Device, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def seen(self) -> Seen:
        """Whether all of it could be read."""
        partial = self.missing or any(d.seen == Seen.PARTIAL for d in self.devices)
        return Seen.PARTIAL if partial else Seen.ALL
