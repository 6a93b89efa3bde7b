"""The manifest: every program, its probe points, what it needs of the kernel, what it writes.

A program is one ``*.bpf.c``. A row here, a page in ``docs/probes/`` and a test belong to it;
``tests/test_docs.py`` holds the three together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vtrace.model import Kind

__all__ = ["COMMON", "PROGRAMS", "Point", "Program"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One place where a program is attached."""

    handler: str
    """Function in the program."""
    functions: tuple[str, ...]
    """Functions, the first that exists is taken; for a tracepoint ``group:event``."""
    is_return: bool = False
    tracepoint: bool = False
    uprobe: bool = False
    """A function of QEMU, in each of its binaries that runs."""
    modules: tuple[str, ...] = ()
    """Modules that hold the function: not loaded means not there yet."""
    optional: bool = False
    """The program is of use without it."""
    gives: str = ""
    """What is missing without it, for a person."""

    @property
    def name(self) -> str:
        """Name of the point: function, with ``:return`` for its return."""
        return self.functions[0] + (":return" if self.is_return else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One ``*.bpf.c`` with its points."""

    name: str
    title: str
    kinds: tuple[Kind, ...]
    points: tuple[Point, ...]
    offsets: dict[str, tuple[str, str]]
    """Macro -> (module, struct.member)."""
    sizes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Macro -> (module, struct)."""
    symbols: tuple[str, ...] = ()
    """Symbols whose address the program compares with: macro ``SYM_<name>``."""
    needs: tuple[str, ...] = ()
    """Programs whose maps it looks into."""


COMMON: dict[str, tuple[str, str]] = {
    "OFF_DEV_IFINDEX": ("vmlinux", "net_device.ifindex"),
    "OFF_DEV_NAME": ("vmlinux", "net_device.name"),
}
"""Offsets that every program needs."""

_VHOST_OFFSETS = {
    "OFF_DEV_MM": ("vhost", "vhost_dev.mm"),
    "OFF_MM_OWNER": ("vmlinux", "mm_struct.owner"),
    "OFF_TASK_TGID": ("vmlinux", "task_struct.tgid"),
    "OFF_VQ_DEV": ("vhost", "vhost_virtqueue.dev"),
    "OFF_VQ_NUM": ("vhost", "vhost_virtqueue.num"),
    "OFF_VQ_AVAIL": ("vhost", "vhost_virtqueue.avail"),
    "OFF_VQ_USED": ("vhost", "vhost_virtqueue.used"),
    "OFF_VQ_KICK": ("vhost", "vhost_virtqueue.kick"),
    "OFF_VQ_CALL": ("vhost", "vhost_virtqueue.call_ctx.ctx"),
    "OFF_VQ_POLL": ("vhost", "vhost_virtqueue.poll"),
    "OFF_VQ_HANDLE_KICK": ("vhost", "vhost_virtqueue.handle_kick"),
    "OFF_VQ_LAST_AVAIL": ("vhost", "vhost_virtqueue.last_avail_idx"),
    "OFF_VQ_LAST_USED": ("vhost", "vhost_virtqueue.last_used_idx"),
    "OFF_VQ_IOTLB": ("vhost", "vhost_virtqueue.iotlb"),
    "OFF_VQ_PRIVATE_DATA": ("vhost", "vhost_virtqueue.private_data"),
    "OFF_VQ_ACKED_FEATURES": ("vhost", "vhost_virtqueue.acked_features"),
    "OFF_DEV_VQS": ("vhost", "vhost_dev.vqs"),
    "OFF_DEV_NVQS": ("vhost", "vhost_dev.nvqs"),
    "OFF_POLL_WAIT": ("vhost", "vhost_poll.wait"),
    "OFF_POLL_WORK": ("vhost", "vhost_poll.work"),
    "OFF_POLL_MASK": ("vhost", "vhost_poll.mask"),
    "OFF_WORK_FN": ("vhost", "vhost_work.fn"),
    "OFF_NET_VQS": ("vhost_net", "vhost_net.vqs"),
    "OFF_NET_POLL": ("vhost_net", "vhost_net.poll"),
    "OFF_FILE_PRIVATE": ("vmlinux", "file.private_data"),
    "OFF_SOCKET_OPS": ("vmlinux", "socket.ops"),
    "OFF_TFILE_SOCKET": ("tun", "tun_file.socket"),
    "OFF_TFILE_TUN": ("tun", "tun_file.tun"),
    "OFF_TFILE_QUEUE_INDEX": ("tun", "tun_file.queue_index"),
    "OFF_TUN_DEV": ("tun", "tun_struct.dev"),
}

_SKB_OFFSETS = {
    "OFF_SKB_DEV": ("vmlinux", "sk_buff.dev"),
    "OFF_SKB_LEN": ("vmlinux", "sk_buff.len"),
    "OFF_SKB_DATA_LEN": ("vmlinux", "sk_buff.data_len"),
    "OFF_SKB_DATA": ("vmlinux", "sk_buff.data"),
    "OFF_SKB_HEAD": ("vmlinux", "sk_buff.head"),
    "OFF_SKB_END": ("vmlinux", "sk_buff.end"),
    "OFF_SKB_MAC_HEADER": ("vmlinux", "sk_buff.mac_header"),
    "OFF_SKB_NETWORK_HEADER": ("vmlinux", "sk_buff.network_header"),
    "OFF_SKB_CSUM_START": ("vmlinux", "sk_buff.csum_start"),
    "OFF_SKB_CSUM_OFFSET": ("vmlinux", "sk_buff.csum_offset"),
    "OFF_SKB_VLAN_TCI": ("vmlinux", "sk_buff.vlan_tci"),
    "OFF_SKB_VLAN_PROTO": ("vmlinux", "sk_buff.vlan_proto"),
    "OFF_SHINFO_GSO_SIZE": ("vmlinux", "skb_shared_info.gso_size"),
    "OFF_SHINFO_GSO_TYPE": ("vmlinux", "skb_shared_info.gso_type"),
}

_TUN_OFFSETS = _SKB_OFFSETS | {
    "OFF_SKB_QUEUE_MAPPING": ("vmlinux", "sk_buff.queue_mapping"),
    "OFF_TFILE_TX_RING": ("tun", "tun_file.tx_ring"),
    "OFF_TUN_TFILES": ("tun", "tun_struct.tfiles"),
    "OFF_RING_PRODUCER": ("tun", "ptr_ring.producer"),
    "OFF_RING_CONSUMER_HEAD": ("tun", "ptr_ring.consumer_head"),
    "OFF_RING_SIZE": ("tun", "ptr_ring.size"),
    "OFF_RING_QUEUE": ("tun", "ptr_ring.queue"),
    "OFF_MSG_CONTROL": ("vmlinux", "msghdr.msg_control"),
}


def _qemu(
    handler: str,
    *functions: str,
    is_return: bool = False,
    optional: bool = False,
    gives: str = "",
) -> Point:
    return Point(
        handler=handler,
        functions=functions,
        is_return=is_return,
        uprobe=True,
        optional=optional,
        gives=gives,
    )


def _kvm(event: str, *, gives: str = "") -> Point:
    return Point(
        handler=event,
        functions=(f"kvm:{event}",),
        tracepoint=True,
        modules=_KVM,
        optional=bool(gives),
        gives=gives,
    )


_VHOST = ("vhost",)
_NET = ("vhost_net",)
_TUN = ("tun",)
_KVM = ("kvm",)

PROGRAMS: tuple[Program, ...] = (
    Program(
        name="vhost",
        title="vhost-net's data queues",
        kinds=(
            Kind.WAKE,
            Kind.RUN,
            Kind.POP,
            Kind.EMPTY,
            Kind.POP_ERROR,
            Kind.HAND_BACK,
            Kind.USED,
            Kind.SIGNAL,
            Kind.ENABLE,
            Kind.START,
            Kind.STOP,
        ),
        offsets=_VHOST_OFFSETS,
        sizes={
            "SIZEOF_POLL": ("vhost", "vhost_poll"),
            "SIZEOF_NVQ": ("vhost_net", "vhost_net_virtqueue"),
        },
        symbols=(
            "handle_rx_kick",
            "handle_tx_kick",
            "handle_rx_net",
            "handle_tx_net",
            "tun_socket_ops",
            "vhost_poll_wakeup",
        ),
        points=(
            Point(
                handler="vt_poll_wakeup",
                functions=("vhost_poll_wakeup",),
                modules=_VHOST,
                gives="wake-ups of the worker",
            ),
            Point(handler="vt_run", functions=("handle_rx_kick",), modules=_NET),
            Point(handler="vt_run", functions=("handle_tx_kick",), modules=_NET),
            Point(handler="vt_run", functions=("handle_rx_net",), modules=_NET),
            Point(handler="vt_run", functions=("handle_tx_net",), modules=_NET),
            Point(
                handler="vt_pop_entry",
                functions=("vhost_get_vq_desc_n", "vhost_get_vq_desc"),
                modules=_VHOST,
            ),
            Point(
                handler="vt_pop_return",
                functions=("vhost_get_vq_desc_n", "vhost_get_vq_desc"),
                is_return=True,
                modules=_VHOST,
            ),
            Point(handler="vt_hand_back", functions=("vhost_discard_vq_desc",), modules=_VHOST),
            Point(
                handler="vt_used",
                functions=("vhost_add_used_and_signal_n",),
                modules=_VHOST,
            ),
            Point(
                handler="vt_signal",
                functions=("vhost_notify",),
                is_return=True,
                modules=_VHOST,
                optional=True,
                gives="the decision to interrupt (interrupts themselves are still seen)",
            ),
            Point(handler="vt_enable_entry", functions=("vhost_enable_notify",), modules=_VHOST),
            Point(
                handler="vt_enable_return",
                functions=("vhost_enable_notify",),
                is_return=True,
                modules=_VHOST,
            ),
            Point(handler="vt_start_entry", functions=("vhost_vq_init_access",), modules=_VHOST),
            Point(
                handler="vt_start",
                functions=("vhost_vq_init_access",),
                is_return=True,
                modules=_VHOST,
            ),
            Point(handler="vt_stop", functions=("vhost_dev_cleanup",), modules=_VHOST),
        ),
    ),
    Program(
        name="qemu_virtio",
        title="virtio queues that QEMU itself works on",
        kinds=(
            Kind.KICK,
            Kind.RUN,
            Kind.POP,
            Kind.EMPTY,
            Kind.HAND_BACK,
            Kind.DETACH,
            Kind.USED,
            Kind.FLUSH,
            Kind.SIGNAL,
            Kind.IRQ,
            Kind.ENABLE,
            Kind.START,
            Kind.STOP,
            Kind.REQUEST,
            Kind.RESPONSE,
        ),
        offsets={},
        points=(
            _qemu("vt_qemu_pop_entry", "virtqueue_pop"),
            _qemu("vt_qemu_pop_return", "virtqueue_pop", is_return=True),
            _qemu("vt_qemu_fill", "virtqueue_fill"),
            _qemu("vt_qemu_flush", "virtqueue_flush"),
            _qemu("vt_qemu_unpop", "virtqueue_unpop"),
            _qemu("vt_qemu_rewind", "virtqueue_rewind"),
            _qemu("vt_qemu_detach", "virtqueue_detach_element"),
            _qemu("vt_qemu_read", "virtio_queue_host_notifier_read"),
            _qemu("vt_qemu_queue_notify", "virtio_queue_notify"),
            _qemu("vt_qemu_notifier_set", "event_notifier_set"),
            _qemu("vt_qemu_enable_entry", "virtio_queue_set_notification"),
            _qemu("vt_qemu_enable_return", "virtio_queue_set_notification", is_return=True),
            _qemu("vt_qemu_notify_entry", "virtio_notify"),
            _qemu("vt_qemu_notify_return", "virtio_notify", is_return=True),
            _qemu("vt_qemu_notify_entry", "virtio_notify_irqfd", optional=True),
            _qemu("vt_qemu_notify_return", "virtio_notify_irqfd", is_return=True, optional=True),
            _qemu("vt_qemu_msix", "msix_notify"),
            _qemu("vt_qemu_intx", "pci_set_irq"),
            _qemu("vt_qemu_defer", "defer_call", optional=True),
            _qemu("vt_qemu_set_status", "virtio_set_status"),
            _qemu("vt_qemu_reset", "virtio_reset"),
            _qemu("vt_qemu_delete", "virtio_delete_queue"),
            _qemu("vt_qemu_del", "virtio_del_queue"),
        ),
    ),
    Program(
        name="exits",
        title="exits of vCPUs by device, and interrupts",
        kinds=(Kind.EXIT,),
        offsets={},
        points=(
            _kvm("kvm_exit"),
            _kvm("kvm_entry"),
            _kvm("kvm_pio", gives="the port of an exit"),
            _kvm("kvm_mmio", gives="the address of an exit for memory of a device"),
            _kvm("kvm_fast_mmio", gives="the same of a fast MMIO kick"),
            _kvm("kvm_userspace_exit", gives="which exits went to QEMU, and for how long"),
            _kvm("kvm_set_irq", gives="interrupts by line"),
            _kvm("kvm_msi_set_irq", gives="message-signalled interrupts"),
        ),
    ),
    Program(
        name="kvm",
        title="kicks and interrupts",
        kinds=(Kind.KICK, Kind.IRQ),
        offsets={
            "OFF_TASK_FILES": ("vmlinux", "task_struct.files"),
            "OFF_FILES_FDT": ("vmlinux", "files_struct.fdt"),
            "OFF_FDT_FD": ("vmlinux", "fdtable.fd"),
            "OFF_FDT_MAX": ("vmlinux", "fdtable.max_fds"),
            "OFF_FILE_PRIVATE": ("vmlinux", "file.private_data"),
            "OFF_IOEVENTFD_DEV": ("kvm", "_ioeventfd.dev"),
            "OFF_IOEVENTFD_ADDR": ("kvm", "_ioeventfd.addr"),
            "OFF_IOEVENTFD_LENGTH": ("kvm", "_ioeventfd.length"),
            "OFF_IOEVENTFD_EVENTFD": ("kvm", "_ioeventfd.eventfd"),
            "OFF_IOEVENTFD_DATAMATCH": ("kvm", "_ioeventfd.datamatch"),
            "OFF_IOEVENTFD_WILDCARD": ("kvm", "_ioeventfd.wildcard"),
            "OFF_EVENTFD_WQH": ("vmlinux", "eventfd_ctx.wqh"),
            "OFF_WQH_HEAD": ("vmlinux", "wait_queue_head.head"),
            "OFF_WAIT_ENTRY": ("vmlinux", "wait_queue_entry.entry"),
            "OFF_WAIT_FUNC": ("vmlinux", "wait_queue_entry.func"),
            "OFF_IRQFD_WAIT": ("kvm", "kvm_kernel_irqfd.wait"),
            "OFF_IRQFD_EVENTFD": ("kvm", "kvm_kernel_irqfd.eventfd"),
            "OFF_IRQFD_ENTRY": ("kvm", "kvm_kernel_irqfd.irq_entry"),
            "OFF_IRQFD_GSI": ("kvm", "kvm_kernel_irqfd.gsi"),
            "OFF_ENTRY_MSI": ("kvm", "kvm_kernel_irq_routing_entry.msi"),
        },
        points=(
            Point(handler="vt_kick", functions=("ioeventfd_write",), modules=_KVM),
            Point(handler="vt_irq", functions=("irqfd_wakeup",), modules=_KVM),
        ),
    ),
    Program(
        name="tun",
        title="packets through the tap",
        kinds=(Kind.ENQUEUE, Kind.REFUSE, Kind.RECV, Kind.SEND, Kind.DELIVER),
        needs=("vhost",),
        offsets=_TUN_OFFSETS,
        points=(
            Point(handler="vt_xmit_entry", functions=("tun_net_xmit",), modules=_TUN),
            Point(
                handler="vt_xmit_return",
                functions=("tun_net_xmit",),
                is_return=True,
                modules=_TUN,
            ),
            Point(handler="vt_recv_entry", functions=("tun_recvmsg",), modules=_TUN),
            Point(
                handler="vt_recv_return",
                functions=("tun_recvmsg",),
                is_return=True,
                modules=_TUN,
            ),
            Point(handler="vt_send_entry", functions=("tun_sendmsg",), modules=_TUN),
            Point(
                handler="vt_send_return",
                functions=("tun_sendmsg",),
                is_return=True,
                modules=_TUN,
            ),
            Point(
                handler="netif_receive_skb",
                functions=("net:netif_receive_skb",),
                tracepoint=True,
            ),
        ),
    ),
    Program(
        name="drops",
        title="packets that the kernel dropped",
        kinds=(Kind.DROP,),
        offsets=_SKB_OFFSETS,
        points=(Point(handler="kfree_skb", functions=("skb:kfree_skb",), tracepoint=True),),
    ),
    Program(
        name="sched",
        title="scheduling of vhost workers and vCPUs",
        kinds=(Kind.SCHED_IN, Kind.SCHED_OUT, Kind.SCHED_WAKE),
        offsets={},
        points=(
            Point(handler="sched_switch", functions=("sched:sched_switch",), tracepoint=True),
            Point(handler="sched_wakeup", functions=("sched:sched_wakeup",), tracepoint=True),
        ),
    ),
)
