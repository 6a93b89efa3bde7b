"""The nouns of vtrace: kinds of events, stages, states, queues. Standard library only.

Terms are those of the virtio specification, the kernel and QEMU. A number carries its unit in its
name; a code that is not known survives as an int.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag, StrEnum

__all__ = [
    "STAGES",
    "TIME_COLUMNS",
    "Direction",
    "Flag",
    "Kind",
    "Outcome",
    "Queue",
    "Ring",
    "Role",
    "TimeState",
    "Trust",
]


class Kind(IntEnum):
    """Kind of a record: ``enum vtrace_kind`` of ``probes/include/vtrace_wire.h``."""

    NONE = 0
    KICK = 1
    """The driver notified the device and an ioeventfd took it (``ioeventfd_write``)."""
    WAKE = 2
    """A vhost work item was woken (``vhost_poll_wakeup``), by a kick or by the tap."""
    RUN = 3
    """The vhost worker began a handler (``handle_{rx,tx}_{kick,net}``)."""
    POP = 4
    """The device took a chain from the available ring (``vhost_get_vq_desc``)."""
    EMPTY = 5
    """The device found no chain. On a receive queue a packet waits: starvation."""
    POP_ERROR = 6
    """The device could not use what it found (negative return)."""
    HAND_BACK = 7
    """The device gave the last ``count`` chains back (``vhost_discard_vq_desc``)."""
    ENQUEUE = 8
    """The tap took a packet towards the guest into its ring (``tun_net_xmit``)."""
    REFUSE = 9
    """The tap dropped a packet towards the guest (``tun_net_xmit`` returned 1)."""
    RECV = 10
    """vhost copied a packet out of the tap into popped chains (``tun_recvmsg``)."""
    SEND = 11
    """vhost handed one packet or a batch to the tap (``tun_sendmsg``)."""
    DELIVER = 12
    """One frame of a SEND entered the host's stack (``net:netif_receive_skb``)."""
    USED = 13
    """The device returned one chain in the used ring."""
    SIGNAL = 14
    """The device decided whether to interrupt the driver (``vhost_notify``)."""
    IRQ = 15
    """The interrupt went to KVM (``irqfd_wakeup``)."""
    ENABLE = 16
    """The device asked to be notified again (``vhost_enable_notify``)."""
    START = 17
    """A backend was attached to the queue (``vhost_vq_init_access``)."""
    STOP = 18
    """The vhost device went away (``vhost_dev_cleanup``)."""
    DROP = 19
    """The kernel dropped a packet (``skb:kfree_skb``)."""
    EXIT = 20
    """A vCPU left the guest and came back (``kvm_exit`` .. ``kvm_entry``)."""
    SCHED_IN = 21
    """A traced thread got a CPU."""
    SCHED_OUT = 22
    """A traced thread left its CPU."""
    SCHED_WAKE = 23
    """A traced thread became runnable."""
    FLUSH = 24
    """QEMU made the elements of the USED before it visible (``virtqueue_flush``)."""
    DETACH = 25
    """QEMU forgot a chain without returning it (``virtqueue_detach_element``)."""
    REQUEST = 26
    """Bytes that the driver wrote into a chain, of one buffer."""
    RESPONSE = 27
    """Bytes that the device wrote into a chain, of one buffer."""
    CAPTURED = 28
    """A frame that another tool saw at an interface (pcap); no probe writes it."""


class Flag(IntFlag):
    """Flags of a record: ``enum vtrace_flag`` of the wire header."""

    AVAIL = 1 << 0
    EVENT = 1 << 1
    POSITION = 1 << 2
    USED = 1 << 3
    FAULT = 1 << 4
    NO_INTERRUPT = 1 << 5
    EVENT_IDX = 1 << 6
    SOCKET = 1 << 7
    CUT = 1 << 8
    NO_MAC = 1 << 9
    SVM = 1 << 10
    PREEMPTED = 1 << 11
    BATCH = 1 << 12
    PACKED = 1 << 13
    QEMU = 1 << 14


class Role(StrEnum):
    """What an entry of the queue table stands for."""

    VIRTQUEUE = "virtqueue"
    TAP = "tap"
    """A queue of a tap that no vhost virtqueue has been seen on."""
    INTERFACE = "interface"
    """A network interface, as the place of a drop."""


class Direction(StrEnum):
    """Direction of a queue as the guest sees it."""

    RX = "rx"
    TX = "tx"
    NONE = "none"


class Ring(StrEnum):
    """Layout of the virtqueue."""

    SPLIT = "split"
    PACKED = "packed"


class TimeState(IntEnum):
    """State of each time of a lifecycle: why it is, or is not, there."""

    SEEN = 0
    SHARED = 1
    """Another chain's event served this one: one kick, one batch, one interrupt."""
    SUPPRESSED = 2
    """The other side had asked for no notification."""
    NOT_APPLICABLE = 3
    NOT_PROBED = 4
    LOST = 5
    """Should have been seen; records were lost, or the recording began or ended first."""


class Outcome(IntEnum):
    """How a chain ended."""

    USED = 0
    IN_FLIGHT = 1
    DISCARDED = 2
    """Handed back and never popped again."""
    RESET = 3
    """The device was reset or stopped while the chain was open."""


class Trust(IntEnum):
    """How far a lifecycle can be trusted."""

    COMPLETE = 0
    """No stage of it was lost."""
    PARTIAL = 1
    """Recording began after it or ended before it."""
    AMBIGUOUS = 2
    """Records lost near it: what is shown was seen, what is missing may have been."""


TIME_COLUMNS = (
    "kick_ns",
    "enqueue_ns",
    "wake_ns",
    "run_ns",
    "pop_ns",
    "backend_ns",
    "used_ns",
    "signal_ns",
    "irq_ns",
    "seen_ns",
)
"""Times of a lifecycle that carry a :class:`TimeState`, in the order they happen."""

STAGES = (
    "idle",
    "notify",
    "schedule",
    "queueing",
    "service",
    "complete",
    "interrupt",
    "reap",
)
"""Stages of a lifecycle; each is a difference of two seen or shared times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One row of the queue table: what a record's ``queue`` stands for."""

    id: int
    role: str = Role.VIRTQUEUE
    vm: str = ""
    """Name of the VM; ``pid:N`` where it has none."""
    pid: int = 0
    """Process id of QEMU (tgid); 0 where not known."""
    device: str = ""
    """QEMU's id of the device, else ``netN``; for an interface its name."""
    name: str = ""
    """Role of the queue in the device: rx0, tx0, ..."""
    direction: str = Direction.NONE
    backend: str = "vhost"
    ring: str = Ring.SPLIT
    size: int = 0
    """Descriptors in the ring; 0 where not known."""
    interface: str = ""
    """Name of the tap behind it."""
    ifindex: int = 0
    generation: int = 0
    """Counts the vhost devices that the kernel made at this id's place."""
    features: int = 0
    """Acknowledged feature bits 0..63 as the backend holds them."""
    extra: dict[str, str | int] = field(default_factory=dict)
