"""Network interfaces: rtnetlink and ethtool on this host, /sys/class/net elsewhere.

rtnetlink goes first because it answers for the network namespace we are in, or have entered;
/sys/class/net shows the one that it was mounted in. Offloads come from the ETHTOOL ioctls by hand:
pyroute2 0.9 has no ETHTOOL_MSG_FEATURES_GET, and its own ioctl class leaves its socket open.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vtrace.inventory.netns import visit

__all__ = ["Link", "Links", "links_here", "links_in", "links_of_sysfs"]

# linux/if_tun.h
IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_VNET_HDR = 0x4000

# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL = 0x8946
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GSSET_INFO = 0x37
ETHTOOL_GFEATURES = 0x3A
ETH_SS_FEATURES = 4
ETH_GSTRING_LEN = 32
IFNAMSIZ = 16

OFFLOADS = frozenset(
    [
        "rx-checksum",
        "rx-gro",
        "rx-gro-hw",
        "rx-lro",
        "rx-udp-gro-forwarding",
        "tx-checksum-ip-generic",
        "tx-checksum-ipv4",
        "tx-checksum-ipv6",
        "tx-generic-segmentation",
        "tx-scatter-gather",
        "tx-tcp-ecn-segmentation",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "tx-udp-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-udp_tnl-segmentation",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface."""

    name: str
    ifindex: int
    kind: str = ""
    """Kind of the link: tun, macvtap, bridge, ...; empty: a device, or not known."""
    tap: bool | None = None
    vnet_hdr: bool | None = None
    multi_queue: bool | None = None
    queues: int | None = None
    """Queues that a process has open."""
    queues_enabled: int | None = None
    """Those of them that the guest uses."""
    txqueuelen: int | None = None
    mtu_bytes: int | None = None
    operstate: str = ""
    master: str = ""
    offloads: dict[str, bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """The interfaces of one network namespace."""

    by_name: dict[str, Link]
    missing: str = ""
    """Why there are none, or less than all of them."""

    def by_index(self, ifindex: int) -> Link | None:
        """Return the interface with this index."""
        return next((x for x in self.by_name.values() if x.ifindex == ifindex), None)


def links_here(sys: Path) -> Links:
    """Return the interfaces of our network namespace."""
    try:
        found = {link.name: link for link in ask_netlink()}
    except ImportError:
        fallen = links_of_sysfs(sys)
        found = {n: with_offloads(link) for n, link in fallen.by_name.items()}
        reason = "pyroute2 is not installed: interfaces are as /sys/class/net has them"
        return Links(by_name=found, missing=reason)
    except OSError as error:
        fallen = links_of_sysfs(sys)
        return replace(fallen, missing=f"rtnetlink failed: {error}")
    return Links(by_name=found)


def links_in(netns: Path, sys: Path) -> Links:
    """Return the interfaces of another network namespace, which a thread of ours enters."""
    try:
        return visit(netns, lambda: links_here(sys))
    except FileNotFoundError:
        return Links(by_name={}, missing="its process has gone")
    except PermissionError:
        return Links(
            by_name={},
            missing="it is in another network namespace, which needs root to enter",
        )
    except OSError as error:
        return Links(by_name={}, missing=f"its network namespace: {error}")


def links_of_sysfs(sys: Path) -> Links:
    """Return the interfaces as files show them; offloads are not among them."""
    net = sys / "class" / "net"
    try:
        names = sorted(os.listdir(net))  # noqa: PTH208 - names alone
    except OSError as error:
        return Links(by_name={}, missing=f"{net}: {error.strerror}")
    found = (link_of_sysfs(net / name) for name in names)
    return Links(by_name={link.name: link for link in found if link is not None})


def link_of_sysfs(place: Path) -> Link | None:
    ifindex = number(place / "ifindex")
    if ifindex is None:
        return None
    flags = number(place / "tun_flags")
    master = place / "master"
    kind = "" if flags is None else "tun"
    if (place / "macvtap").exists():
        kind = "macvtap"
    return Link(
        name=place.name,
        ifindex=ifindex,
        kind=kind,
        tap=None if flags is None else bool(flags & IFF_TAP),
        vnet_hdr=None if flags is None else bool(flags & IFF_VNET_HDR),
        multi_queue=None if flags is None else bool(flags & IFF_MULTI_QUEUE),
        txqueuelen=number(place / "tx_queue_len"),
        mtu_bytes=number(place / "mtu"),
        operstate=text(place / "operstate"),
        master=master.resolve().name if master.exists() else "",
    )


def ask_netlink() -> Iterator[Link]:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        messages = list(route.get_links())
    names = {message["index"]: message.get_attr("IFLA_IFNAME") for message in messages}
    for message in messages:
        yield with_offloads(link_of_message(message, names))


def link_of_message(message: Any, names: dict[int, str]) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") or "") if info else ""
    data = info.get_attr("IFLA_INFO_DATA") if info and kind == "tun" else None
    tun = {} if data is None else dict(data["attrs"])
    enabled = tun.get("IFLA_TUN_NUM_QUEUES")  # only there for a multi-queue tap
    disabled = tun.get("IFLA_TUN_NUM_DISABLED_QUEUES") or 0
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        ifindex=message["index"],
        kind=kind,
        tap=tun.get("IFLA_TUN_TYPE") == IFF_TAP if tun else None,
        vnet_hdr=flag(tun.get("IFLA_TUN_VNET_HDR")),
        multi_queue=flag(tun.get("IFLA_TUN_MULTI_QUEUE")),
        queues=None if enabled is None else enabled + disabled,
        queues_enabled=enabled,
        txqueuelen=message.get_attr("IFLA_TXQLEN"),
        mtu_bytes=message.get_attr("IFLA_MTU"),
        operstate=(message.get_attr("IFLA_OPERSTATE") or "").lower(),
        master=names.get(message.get_attr("IFLA_MASTER") or 0, ""),
    )


def with_offloads(link: Link) -> Link:
    return replace(link, offloads=features_of(link.name))


def features_of(interface: str) -> dict[str, bool] | None:
    """Return the features of an interface that matter here; None where it does not say."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
            names = feature_names(door, interface)
            blocks = (len(names) + 31) // 32
            # cmd, blocks; then {available, requested, active, never_changed} for each 32.
            answer = ethtool(
                door,
                interface,
                struct.pack("=II", ETHTOOL_GFEATURES, blocks) + bytes(16 * blocks),
            )
    except OSError:
        return None
    active = [struct.unpack_from("=I", answer, 8 + 16 * n + 8)[0] for n in range(blocks)]
    return {
        name: bool(active[bit // 32] >> bit % 32 & 1)
        for bit, name in enumerate(names)
        if name in OFFLOADS
    }


def feature_names(door: socket.socket, interface: str) -> list[str]:
    question = struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0)
    count = struct.unpack_from("=I", ethtool(door, interface, question), 16)[0]
    question = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count)
    answer = ethtool(door, interface, question + bytes(ETH_GSTRING_LEN * count))
    return [
        answer[at : at + ETH_GSTRING_LEN].split(b"\0", 1)[0].decode("ascii", "replace")
        for at in range(12, 12 + ETH_GSTRING_LEN * count, ETH_GSTRING_LEN)
    ]


def ethtool(door: socket.socket, interface: str, question: bytes) -> bytes:
    # struct ifreq: the name, then a pointer to the question, which the answer overwrites.
    buffer = array.array("B", question)
    name = interface.encode("utf-8", "surrogateescape")[: IFNAMSIZ - 1]
    request = struct.pack(f"{IFNAMSIZ}sP16x", name, buffer.buffer_info()[0])
    fcntl.ioctl(door.fileno(), SIOCETHTOOL, request)
    return buffer.tobytes()


def flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def number(path: Path) -> int | None:
    try:
        return int(text(path), 0)
    except ValueError:
        return None
