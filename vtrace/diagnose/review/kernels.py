"""Known bugs of the kernel in features that are in use here.

A kernel is judged by what it has, not by its version, wherever that tells: distributions take fixes
into old versions. Where nothing tells but the version, the text says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.findings import Review
from vtrace.diagnose.review.values import flag, mapping, number, quoted, word

if TYPE_CHECKING:
    from vtrace.diagnose.review.host import Host, Link

__all__ = ["RULES"]

Version = tuple[int, int, int]
VERSION: Final = re.compile(r"^(\d{1,3})\.(\d{1,3})(?:\.(\d{1,4}))?")
# Linux commit d3bb267bbdcb ("vhost: cache avail index in vhost_enable_notify()") (in v5.18), fixed
# by 09861858a683 ("vhost: fix vhost_get_avail_idx for a non empty ring"): CVE-2026-74356 lists
# these as affected. Nothing but the code of a function differs: no symbol and no type tells.
LIVELOCK: Final[tuple[tuple[Version, Version], ...]] = (
    ((5, 18, 0), (6, 12, 97)),
    ((6, 13, 0), (6, 18, 40)),
    ((6, 19, 0), (7, 1, 5)),
)
IN_ORDER: Final = 1 << 35


def livelock(host: Host) -> Iterator[Review]:
    """Raise a kernel whose worker may retry a large packet for ever."""
    version = version_of(host.kernel)
    if version is None:
        return
    hit = host.found(None, "R11")
    if not any(first <= version < fixed for first, fixed in LIVELOCK) and not hit:
        return
    for nic in host.nics:
        link = nic.link
        if not nic.vhost or not nic.virtio or link is None or nic.mergeable is False:
            continue
        jumbo = link.mtu is not None and link.mtu > 1500
        whole = link.offload("tx-tcp-segmentation", "tx-udp-segmentation")
        if not (jumbo or whole or hit):
            continue
        what = f"of up to {link.mtu} bytes" if jumbo else "of up to 64 KiB, put together by GRO"
        yield Review(
            code="C-kernel",
            text=(
                f"vhost of Linux {host.kernel} is told by its version to have CVE-2026-74356 (fixed"
                " by 09861858a683; your distribution may have the fix): a packet that needs more"
                " buffers than the guest has posted is tried again for ever, the worker at 100 %"
                f" of a CPU. {nic.interface} takes packets {what}, and the guest takes them in"
                " several buffers."
            ),
            setting="kernel",
            current=host.kernel,
            proposed="6.12.97, 6.18.40, 7.1.5 or later; or no large packets on the tap",
            command=f"{host.inside(link)}{smaller(link, whole=bool(whole))}",
            weight=2 if hit else 1 if jumbo or link.offload("tx-udp-segmentation") else 0,
            vm=nic.vm if hit else "",
            device=nic.device if hit else "",
        )
        if not hit:
            return  # one point for the host


def smaller(link: Link, *, whole: bool) -> str:
    if whole:
        return f"ethtool -K {quoted(link.name)} gro off gso off tso off"
    return f"ip link set dev {quoted(link.name)} mtu 1500"


def in_order(host: Host) -> Iterator[Review]:
    """Raise VIRTIO_F_IN_ORDER with a vhost that loses count when it hands buffers back."""
    rewinds = flag(mapping(host.config.get("kernel")).get("vhost_get_vq_desc_n"))
    for nic in host.nics:
        if rewinds is not False or not nic.vhost or not (nic.features or 0) & IN_ORDER:
            continue
        yield Review(
            code="C-kernel",
            text=(
                "The guest negotiated IN_ORDER, and this vhost does not count back when it hands"
                " buffers back (fixed by 779bcdd4b9ae; told by vhost_get_vq_desc_n, which it has"
                " not): after a packet that found too few buffers the guest meets a wrong id and"
                " stops its queue."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"in_order of {nic.device}",
            current="on",
            proposed="off, or a kernel with the fix",
            command=nic.device_option("in_order=off"),
            weight=2,
        )


def zerocopy(host: Host) -> Iterator[Review]:
    """Raise the experiment of transmitting without a copy."""
    modules = mapping(mapping(host.config.get("modules")).get("vhost_net"))
    given = word(modules.get("experimental_zcopytx"))
    on = bool(number(given)) or bool(flag(given))
    if not on or not any(nic.vhost for nic in host.nics):
        return
    yield Review(
        code="C-kernel",
        text=(
            "With experimental_zcopytx a buffer of the guest is in use until the last receiver let"
            " go of it: one slow socket or neighbour keeps descriptors of the transmit ring, and"
            " then all of them. The kernel has it off by default."
        ),
        setting="experimental_zcopytx of vhost_net",
        current=given,
        proposed="0",
        command="echo options vhost_net experimental_zcopytx=0 > /etc/modprobe.d/vhost_net.conf",
        weight=1,
    )


def version_of(release: str) -> Version | None:
    """Return the version in ``uname -r``; None where there is none, or it says nothing.

    The kernels of RHEL keep the number of the version that they were begun with, whatever they
    have taken over since.
    """
    match = VERSION.match(release)
    if match is None or re.search(r"\.el\d", release):
        return None
    return int(match[1]), int(match[2]), int(match[3] or 0)


RULES: Final = (livelock, in_order, zerocopy)
