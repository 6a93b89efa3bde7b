"""What is left to hardware or to the guest, and whether packets fit where they go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.findings import Review
from vtrace.diagnose.review.values import flag, number, quoted

if TYPE_CHECKING:
    from vtrace.diagnose.review.host import Host, Link, Nic

__all__ = ["RULES"]

CHECKSUMS: Final = ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6")
CUTTING: Final = ("tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation")
ASKED_OFF: Final = ("csum", "gso", "guest_csum", "guest_tso4", "guest_tso6", "host_tso4")
ETHERNET: Final = 1500
"""Payload that a receive buffer without MRG_RXBUF and without TSO holds in Linux."""


def turned_off(host: Host) -> Iterator[Review]:
    """Raise offloads that the device does not offer since it was told so."""
    for nic in host.nics:
        names = [name for name in ASKED_OFF if flag(nic.asked.get(name)) is False]
        if not nic.virtio or not names:
            continue
        given = ",".join(f"{name}=off" for name in names)
        whole = ",".join(f"{name}=on" for name in names)
        yield Review(
            code="C-offload",
            text=(
                f"{given}: what the guest and {nic.interface or 'the tap'} could leave to each"
                " other is done in software, per packet:"
                + (" checksums of UDP too," if {"csum", "guest_csum"} & set(names) else "")
                + " and TCP in packets of the MTU instead of up to 64 KiB."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"offloads of {nic.device}",
            current=given,
            proposed=whole,
            command=nic.device_option(whole),
            weight=1,
        )


def not_taken(host: Host) -> Iterator[Review]:
    """Raise a guest that takes no packets with the checksum still to be done."""
    for nic in host.nics:
        link = nic.link
        if not nic.virtio or link is None or not nic.features:
            continue
        if flag(nic.asked.get("guest_csum")) is False or not flag(link.tap.get("vnet_hdr")):
            continue
        if link.offload("tx-checksum-ip-generic") is not False:
            continue
        yield Review(
            code="C-offload",
            text=(
                f"The guest's driver is up and did not take checksum offload (or gave it back), so"
                f" the host sums up every packet before it goes into {nic.interface}. In the guest,"
                " with its name of the interface:"
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"tx-checksum-ip-generic of {nic.interface}, as the guest set it",
            current="off",
            proposed="on",
            command="ethtool -K eth0 rx on",
            weight=1,
        )


def gro_forwarding(host: Host) -> Iterator[Review]:
    """Raise UDP packets that are put together on arrival and taken apart before the tap."""
    for nic in host.nics:
        if nic.link is None or nic.link.offload("tx-udp-segmentation") is not False:
            continue
        for link in host.ways_out(nic):
            if link.offload("rx-udp-gro-forwarding"):
                yield Review(
                    code="C-offload",
                    text=(
                        f"{link.name} puts UDP packets together and the guest behind"
                        f" {nic.interface} does not take them whole (USO): they are cut up again in"
                        f" software, and come to the {nic.link.txqueuelen or 'few'} places of its"
                        " ring up to 64 at once."
                    ),
                    vm=nic.vm,
                    device=nic.device,
                    setting=f"rx-udp-gro-forwarding of {link.name}",
                    current="on",
                    proposed="off",
                    command=(
                        f"{host.inside(link)}ethtool -K {quoted(link.name)}"
                        " rx-udp-gro-forwarding off"
                    ),
                    weight=1,
                )


def lro(host: Host) -> Iterator[Review]:
    """Raise LRO on an interface whose packets are passed on."""
    for nic in host.nics:
        for link in host.ways_out(nic):
            if link.offload("rx-lro"):
                yield Review(
                    code="C-offload",
                    text=(
                        f"{link.name} merges TCP packets for good (LRO), and what is passed on to"
                        f" {nic.interface} cannot be taken apart again: the kernel drops it. UDP is"
                        " not merged."
                    ),
                    device=link.name,
                    setting=f"rx-lro of {link.name}",
                    current="on",
                    proposed="off",
                    command=f"{host.inside(link)}ethtool -K {quoted(link.name)} lro off",
                    weight=1,
                )


def no_checksums(host: Host) -> Iterator[Review]:
    """Raise a NIC that leaves the checksums of guests to the CPU."""
    for nic in host.nics:
        if not nic.virtio or nic.link is None or not flag(nic.link.tap.get("vnet_hdr")):
            continue
        for link in host.ways_out(nic):
            # A NIC only: its kind is empty. Others hand the checksum on.
            if link.kind or link.offload(*CHECKSUMS) is not False:
                continue
            yield Review(
                code="C-offload",
                text=(
                    f"The guest leaves checksums to be done and {link.name} does none: the worker"
                    " sums up every packet that leaves the host."
                ),
                device=link.name,
                setting=f"tx-checksumming of {link.name}",
                current="off",
                proposed="on",
                command=f"{host.inside(link)}ethtool -K {quoted(link.name)} tx on",
                weight=1,
            )


def bridge_mtu(host: Host) -> Iterator[Review]:
    """Raise a bridge that takes larger packets than the tap."""
    for nic in host.nics:
        link, bridge = nic.link, host.bridge_of(nic.link)
        if link is None or bridge is None or not link.mtu:
            continue
        lost = host.found(nic, "R3") + host.found_at(link, "R3")
        if bridge.mtu and bridge.mtu > link.mtu and bridge.addresses:
            yield Review(
                code="C-mtu",
                text=(
                    f"The host sends packets of up to {bridge.mtu} bytes by {bridge.name}, and the"
                    f" bridge drops those of more than {link.mtu} before {nic.interface}: no"
                    " counter says so."
                ),
                vm=nic.vm,
                device=nic.device,
                setting=f"mtu of {bridge.name} and {nic.interface}",
                current=f"{bridge.mtu} and {link.mtu}",
                proposed=f"{link.mtu} for both",
                command=f"{host.inside(link)}ip link set dev {quoted(bridge.name)} mtu {link.mtu}",
                weight=2,
            )
            continue
        larger = [port for port in host.ports_of(bridge) if port.mtu and port.mtu > link.mtu]
        if larger:
            port = max(larger, key=lambda one: (one.mtu or 0, one.key))
            yield Review(
                code="C-mtu",
                text=(
                    f"{port.name} lets in packets of up to {port.mtu} bytes; those of more than"
                    f" {link.mtu} the bridge drops before {nic.interface}, and no counter says so."
                ),
                vm=nic.vm,
                device=nic.device,
                setting=f"mtu of {port.name} and {nic.interface}",
                current=f"{port.mtu} and {link.mtu}",
                proposed=f"{port.mtu} for both, and in the guest",
                command=f"{host.inside(link)}ip link set dev {quoted(link.name)} mtu {port.mtu}",
                weight=2 if lost else 0,
            )


def guest_mtu(host: Host) -> Iterator[Review]:
    """Raise an MTU that QEMU tells the guest and the way out does not have."""
    for nic in host.nics:
        told = number(nic.asked.get("host_mtu"))
        bridge = host.bridge_of(nic.link)
        if not told or nic.link is None or bridge is None:
            continue
        smaller = [port for port in host.ports_of(bridge) if port.mtu and port.mtu < told]
        if not smaller:
            continue
        port = min(smaller, key=lambda one: (one.mtu or 0, one.key))
        yield Review(
            code="C-mtu",
            text=(
                f"The guest is told an MTU of {told}; what it sends of more than {port.mtu} bytes"
                f" the bridge drops before {port.name}, and no counter says so."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"host_mtu of {nic.device}",
            current=str(told),
            proposed=str(port.mtu),
            command=nic.device_option(f"host_mtu={port.mtu}"),
            weight=2,
        )


def buffers(host: Host) -> Iterator[Review]:
    """Raise receive buffers that are smaller than what may come."""
    for nic in host.nics:
        link = nic.link
        if not nic.virtio or link is None or not link.mtu or nic.mergeable is not False:
            continue
        whole = link.offload(*CUTTING)
        if whole:
            yield from large_buffers(nic, link)
        elif whole is False and link.mtu > max(ETHERNET, number(nic.asked.get("host_mtu")) or 0):
            yield Review(
                code="C-mtu",
                text=(
                    f"Without mergeable buffers the guest posts room for {ETHERNET} bytes a packet,"
                    f" and {nic.interface} takes {link.mtu}: what is larger is thrown away while it"
                    " is copied, and the counters of the tap do not move."
                ),
                vm=nic.vm,
                device=nic.device,
                setting=f"mrg_rxbuf of {nic.device}, mtu of {nic.interface}",
                current=f"off, {link.mtu}",
                proposed=f"on, {link.mtu}",
                command=nic.device_option("mrg_rxbuf=on"),
                weight=2,
            )


def large_buffers(nic: Nic, link: Link) -> Iterator[Review]:
    yield Review(
        code="C-offload",
        text=(
            "Without mergeable buffers, and with packets of up to 64 KiB allowed, the guest posts"
            f" 64 KiB for each packet, a UDP packet of {min(link.mtu or ETHERNET, ETHERNET)} bytes"
            " too: memory and cache that mergeable buffers save."
        ),
        vm=nic.vm,
        device=nic.device,
        setting=f"mrg_rxbuf of {nic.device}",
        current="off",
        proposed="on",
        command=nic.device_option("mrg_rxbuf=on"),
        weight=1,
    )


RULES: Final = (
    turned_off,
    not_taken,
    gro_forwarding,
    lro,
    no_checksums,
    bridge_mtu,
    guest_mtu,
    buffers,
)
