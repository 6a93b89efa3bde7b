"""Who carries the packets, and how: vhost, the virtio-net header, the send buffer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.findings import Review
from vtrace.diagnose.review.values import flag, word

if TYPE_CHECKING:
    from vtrace.diagnose.review.host import Host

__all__ = ["RULES"]

SIZE: Final = re.compile(r"^(\d{1,15})([kKmMgGtT]?)[bB]?$")
UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
INT_MAX: Final = (1 << 31) - 1


def vhost_off(host: Host) -> Iterator[Review]:
    """Raise a device that QEMU itself serves."""
    for nic in host.nics:
        if not nic.virtio or nic.vhost is not False or nic.type not in {"tap", "bridge"}:
            continue
        lost = host.found(nic, "R10", "T12")
        if nic.accel != "kvm" and not lost:
            continue
        in_vain = any("goes on without it" in note for note in nic.notes)
        text = (
            f"QEMU's main loop, which serves its disks and monitor as well, copies each packet"
            f" between {nic.interface} and the guest; vhost does it in a thread of its own."
        )
        if in_vain:
            text += (
                " vhost=on was given and QEMU could not have it, as when vhost_net is not loaded."
            )
        if lost:
            text += f" {packets(sum(one.packets or 0 for one in lost))} died on this way."
        yield Review(
            code="C-vhost",
            text=text,
            vm=nic.vm,
            device=nic.device,
            setting=f"vhost of {nic.backend_id or nic.device}",
            current="off",
            proposed="on",
            command="modprobe vhost_net" if in_vain else nic.netdev_option("vhost=on"),
            weight=2 if lost else 1,
        )


def vhost_on(host: Host) -> Iterator[Review]:
    """Say what vhost means for a guest whose sockets overflow."""
    for nic in host.nics:
        lost = host.found(nic, "R8")
        if not nic.vhost or not lost:
            continue
        yield Review(
            code="C-vhost",
            text=(
                "vhost delivers faster than the application in the guest reads"
                f" ({packets(sum(one.packets or 0 for one in lost))} died in its socket). Larger"
                " buffers in the guest come first; without vhost the sender would be slowed down,"
                " and so would all else on this device."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"vhost of {nic.backend_id or nic.device}",
            current="on",
            proposed="on, with larger socket buffers in the guest",
            command="sysctl -w net.core.rmem_max=8388608 net.core.rmem_default=1048576",
            weight=0,
        )


def vnet_hdr(host: Host) -> Iterator[Review]:
    """Raise a tap without the virtio-net header: it rules out all offloads."""
    for nic in host.nics:
        if not nic.virtio or nic.link is None or flag(nic.link.tap.get("vnet_hdr")) is not False:
            continue
        yield Review(
            code="C-vnet-hdr",
            text=(
                f"Without vnet_hdr {nic.interface} cannot tell of a checksum still to be done, nor"
                f" of a packet still to be cut ({nic.link.mtu or 1500} bytes is the largest): both"
                " sides do it in software for each packet."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"vnet_hdr of {nic.interface}",
            current="off",
            proposed="on",
            command=nic.netdev_option("vnet_hdr=on"),
            weight=1,
        )


def sndbuf(host: Host) -> Iterator[Review]:
    """Raise a send buffer of the tap that has a limit."""
    for nic in host.nics:
        given = word(nic.backend.get("sndbuf"))
        limit = size_of(given)
        if not limit or limit >= INT_MAX:
            continue
        lost = host.found(nic, "T4", "T6", "T8")
        vhost = " vhost sends packets of the guest one by one instead of up to 64 at once, and"
        yield Review(
            code="C-sndbuf",
            text=(
                f"With sndbuf={given}{vhost if nic.vhost else ''} one receiver behind"
                f" {nic.interface or 'the tap'} that is slow to free {limit} bytes holds up all"
                f" others of {nic.device}, and a tap that is down rejects instead of passing on."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"sndbuf of {nic.backend_id or nic.device}",
            current=given,
            proposed="0 (no limit, QEMU's default)",
            command=nic.netdev_option("sndbuf=0"),
            weight=2 if any(one.packets for one in lost) else 1,
        )


def size_of(text: str) -> int | None:
    """Return a size as QEMU reads it: ``64K``; None for anything else."""
    match = SIZE.match(text)
    return int(match[1]) * UNITS[match[2].lower()] if match else None


def packets(count: int) -> str:
    """Return a count of packets in words."""
    return "1 packet" if count == 1 else f"{count} packets"


RULES: Final = (vhost_off, vhost_on, vnet_hdr, sndbuf)
