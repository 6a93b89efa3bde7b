"""Where QEMU keeps what the probes read: offsets in VirtQueue, VirtQueueElement and VirtIODevice.

Distributions strip QEMU, and its layouts change between versions. But a function that reads or
writes a field has its offset in its code, and QEMU exports all functions that are not static. So
each offset is read off machine code (:mod:`probes.codewalk`), wherever two functions show the same
field they must agree, and what no function shows is refused. No table of versions is involved.

=====================  ==========================================================================
offset                 proven by
=====================  ==========================================================================
vq_size, vdev_vq       virtio_queue_get_num: ``vdev->vq[n].vring.num``; virtio_get_queue
vq_num                 virtio_queue_get_num
vq_desc                virtio_queue_get_desc_addr; tested by virtio_queue_set_notification
vq_avail, vq_used      virtio_queue_get_avail_addr, virtio_queue_get_used_addr
vq_caches              virtio_delete_queue: what it clears and gives to call_rcu
cache_start,           the function that virtio_delete_queue gives to call_rcu destroys three
cache_size             caches at equal distance; virtqueue_flush writes into the third
vq_last_avail_idx      virtio_queue_get_last_avail_idx; virtqueue_rewind sets it back
vq_last_avail_wrap     virtqueue_rewind toggles it
vq_shadow_avail_idx    virtio_queue_set_last_avail_idx sets it along with last_avail_idx
vq_used_idx            virtqueue_flush is the one that sets it; virtio_queue_get_last_avail_idx
vq_used_wrap           virtqueue_flush toggles it; virtio_queue_get_last_avail_idx
vq_signalled_used      virtqueue_flush compares it with used_idx; qmp_x_query_virtio_queue_status
vq_notification        virtio_queue_set_notification; virtio_queue_get_notification
vq_queue_index         virtio_get_queue_index
vq_inuse               virtqueue_detach_element subtracts from it, virtqueue_rewind too
vq_vdev                virtqueue_detach_element passes it on; virtqueue_pop
vq_guest_notifier      virtio_queue_get_guest_notifier
vq_host_notifier       virtio_queue_get_host_notifier
elem_index, elem_len   virtqueue_fill copies them into ``vq->used_elems[n]``, a like structure
elem_ndescs            virtqueue_detach_element; virtqueue_fill
elem_{in,out}_*        virtqueue_map passes them on, with is_write set for ``in``
vdev_name              virtio_init sets it from virtio_device_names; qmp_x_query_virtio_queue_status
vdev_canonical_path    an argument of every call of qapi_event_send_device_deleted, behind the id
vdev_guest_features    virtqueue_unpop and virtqueue_rewind test bit 34 (packed) of it
vdev_device_id         virtio_bus_get_vdev_id; virtio_init sets it
=====================  ==========================================================================

The tests compare with live guests: what is read of their memory at these offsets with what they
say over QMP.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from probes.executable import Executable
from vtrace.errors import UnsupportedError

__all__ = ["FUNCTIONS", "OPTIONAL_FUNCTIONS", "Layout", "layout_of"]

FUNCTIONS = (
    "event_notifier_set",
    "virtio_notify",
    "virtio_queue_host_notifier_read",
    "virtio_queue_notify",
    "virtio_queue_set_notification",
    "virtio_reset",
    "virtio_set_status",
    "virtqueue_detach_element",
    "virtqueue_fill",
    "virtqueue_flush",
    "virtqueue_pop",
    "virtqueue_rewind",
    "virtqueue_unpop",
)
"""Functions to probe that every QEMU must have."""
OPTIONAL_FUNCTIONS = (
    "defer_call",
    "msix_notify",
    "pci_set_irq",
    "virtio_del_queue",
    "virtio_delete_queue",
    "virtio_notify_irqfd",
)
"""Functions to probe that some versions lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One QEMU binary: where its functions start, and its offsets in bytes."""

    build_id: str
    version: str
    """As QEMU prints it; empty if not known."""
    functions: dict[str, int]
    """Offsets in the file, for uprobes, by name; of those that there are."""
    usdt: bool
    """It has static probes of provider ``qemu``."""

    vq_num: int
    vq_desc: int
    vq_avail: int
    vq_used: int
    vq_caches: int
    vq_last_avail_idx: int
    vq_last_avail_wrap: int
    vq_shadow_avail_idx: int
    vq_used_idx: int
    vq_used_wrap: int
    vq_signalled_used: int
    vq_notification: int
    vq_queue_index: int
    vq_inuse: int
    vq_vdev: int
    vq_guest_notifier: int
    vq_host_notifier: int
    vq_size: int
    """Bytes from one VirtQueue of a device to the next."""

    elem_index: int
    elem_len: int
    elem_ndescs: int
    elem_out_num: int
    elem_in_num: int
    elem_in_addr: int
    elem_out_addr: int
    elem_in_sg: int
    elem_out_sg: int

    vdev_name: int
    vdev_canonical_path: int
    vdev_guest_features: int
    vdev_vq: int
    vdev_device_id: int

    cache_start: int
    """Where the first cache (of the descriptors) stands in VRingMemoryRegionCaches."""
    cache_size: int
    """Bytes from a cache to the next: descriptors, driver area, device area. Each begins with its
    address in QEMU, which is 0 where the memory is none."""


LAYOUTS: dict[tuple[int, ...], Layout] = {}


def layout_of(exe: Path) -> Layout:
    """Return the layout of a QEMU binary.

    Args:
        exe: A path, or ``/proc/PID/exe``: that of the binary that runs, whatever became of it on
            disk or in whatever mount namespace it is.

    Raises:
        UnsupportedError: It is no QEMU for x86-64, or something of it could not be proven.
    """
    try:
        found = os.stat(exe)  # noqa: PTH116 (Path.stat has no message of its own either)
    except OSError as error:
        raise UnsupportedError(f"{exe}: cannot be read: {error.strerror}") from error
    # Not by build-id alone: anybody can write one into a file.
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in LAYOUTS:
        LAYOUTS[key] = read_layout(Executable(exe))
    return LAYOUTS[key]


def read_layout(exe: Executable) -> Layout:
    # Decoding needs capstone, which takes a moment to load.
    from probes.layout_facts import facts_of

    missing = [n for n in FUNCTIONS if n not in exe.symbols or not exe.symbols[n].function]
    if len(missing) == len(FUNCTIONS):
        raise UnsupportedError(
            f"{exe.path}: it exports none of QEMU's virtio functions: no QEMU system emulator,"
            " or one whose symbols are hidden"
        )
    if missing:
        raise UnsupportedError(
            f"{exe.path}: QEMU's functions {', '.join(missing)} are not exported: they cannot"
            " be probed"
        )
    names = [*FUNCTIONS, *(n for n in OPTIONAL_FUNCTIONS if n in exe.symbols)]
    return Layout(
        build_id=exe.build_id,
        version=exe.qemu_version,
        functions={name: exe.file_offset(name) for name in names},
        usdt="qemu" in exe.usdt_providers,
        **facts_of(exe),
    )
