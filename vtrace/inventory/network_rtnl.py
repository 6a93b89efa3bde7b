"""Links, addresses, qdiscs, neighbours and routes of one network namespace, by rtnetlink.

Links, addresses and qdiscs come through pyroute2. Neighbours and routes are read by hand: a router
has a million of them, and pyroute2 decodes all before it gives the first.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtrace.inventory.links import (
    Link,
    features_of,
    link_of_message,
    links_of_sysfs,
)
from vtrace.inventory.network_qdiscs import qdisc_of_message

__all__ = ["Namespace", "namespace_here", "namespace_of_sysfs"]

MOST_LINKS = 256
MOST_ROWS = 2000
"""Neighbours, routes and qdiscs that are kept, of each."""
MOST_MESSAGES = 20_000
"""Neighbours and routes that are looked at, of each."""

RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x001, 0x300
RT_TABLE_LOCAL = 255
NUD = {
    0x00: "none",
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}
ROUTE_TYPES = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
STP = {0: "disabled", 1: "listening", 2: "learning", 3: "forwarding", 4: "blocking"}
PORT_FLAGS = {
    "isolated": "IFLA_BRPORT_ISOLATED",
    "locked": "IFLA_BRPORT_LOCKED",
    "hairpin": "IFLA_BRPORT_MODE",
    "learning": "IFLA_BRPORT_LEARNING",
    "flood": "IFLA_BRPORT_UNICAST_FLOOD",
    "mcast_flood": "IFLA_BRPORT_MCAST_FLOOD",
    "bcast_flood": "IFLA_BRPORT_BCAST_FLOOD",
    "guard": "IFLA_BRPORT_GUARD",
    "neigh_suppress": "IFLA_BRPORT_NEIGH_SUPPRESS",
}
BRIDGE_FLAGS = {
    "stp": "IFLA_BR_STP_STATE",
    "vlan_filtering": "IFLA_BR_VLAN_FILTERING",
    "nf_call_iptables": "IFLA_BR_NF_CALL_IPTABLES",
    "nf_call_ip6tables": "IFLA_BR_NF_CALL_IP6TABLES",
    "mcast_snooping": "IFLA_BR_MCAST_SNOOPING",
}


@dataclass(slots=True)
class Namespace:
    """What one network namespace is set to."""

    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    qdiscs: list[dict[str, Any]] = field(default_factory=list)
    neighbours: list[dict[str, Any]] = field(default_factory=list)
    routes: list[dict[str, Any]] = field(default_factory=list)
    sysctls: dict[str, int | str] = field(default_factory=dict)
    firewall: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def namespace_here(taps: frozenset[str], sys: Path, *, forwards: bool) -> Namespace:
    """Return the network namespace of this thread.

    Args:
        taps: Interfaces of guests in it. They, their bridges and the ways out come first where
            there are too many of something.
        forwards: Packets are routed between its interfaces: any route is a way out.
        sys: Where /sys is, for where pyroute2 is missing.
    """
    found = Namespace()
    try:
        messages, addresses, qdiscs = ask_pyroute2()
    except ImportError:
        found.missing.append(
            "pyroute2 is not installed: interfaces are as /sys/class/net has them, and there are no"
            " addresses, qdiscs, bridge ports"
        )
        found.links = sysfs_links(sys)
    except OSError as error:
        found.missing.append(f"rtnetlink: {error}; interfaces are as /sys/class/net has them")
        found.links = sysfs_links(sys)
    else:
        names = {m["index"]: str(m.get_attr("IFLA_IFNAME")) for m in messages}
        found.links = {names[m["index"]]: link_entry(m, names) for m in messages}
        for message in addresses:
            link = found.links.get(names.get(message["index"], ""))
            if link is not None and (cidr := cidr_of(message)):
                link["addresses"].append(cidr)
        found.qdiscs = [
            qdisc_of_message(m, names[m["index"]]) for m in qdiscs if m["index"] in names
        ]
    names = {link["ifindex"]: name for name, link in found.links.items()}
    routes = list(limited(found, "routes", ask_routes(names)))
    ways_out = {r["link"] for r in routes if forwards or r["destination"] == "default"}
    concerned = concerned_links(found.links, taps, ways_out)
    found.routes = kept(found, "routes", [r for r in routes if r["link"] in concerned])
    neighbours = limited(found, "neighbours", ask_neighbours(names))
    found.neighbours = kept(found, "neighbours", [n for n in neighbours if n["link"] in concerned])
    keep_links(found, concerned)
    for name in found.links:
        offloads = features_of(name)
        if offloads is None:
            found.missing.append(f"offloads of {name} could not be asked for")
        else:
            found.links[name]["offloads"] = offloads
    return found


def namespace_of_sysfs(sys: Path) -> Namespace:
    """Return the interfaces of a network namespace as files show them."""
    return Namespace(links=sysfs_links(sys))


def ask_pyroute2() -> tuple[list[Any], list[Any], list[Any]]:
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            return list(route.get_links()), list(route.get_addr()), list(route.get_qdiscs())
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from error


def sysfs_links(sys: Path) -> dict[str, dict[str, Any]]:
    return {name: plain(link) for name, link in links_of_sysfs(sys).by_name.items()}


def plain(link: Link) -> dict[str, Any]:
    made: dict[str, Any] = {"ifindex": link.ifindex, "kind": link.kind}
    for key in ("operstate", "mtu_bytes", "txqueuelen", "master"):
        if (value := getattr(link, key)) not in {None, ""}:
            made[key] = value
    made["addresses"] = []
    if link.kind == "tun":
        tap = {key: getattr(link, key) for key in ("tap", "vnet_hdr", "multi_queue", "queues")}
        tap["queues_enabled"] = link.queues_enabled
        made["tap"] = {key: value for key, value in tap.items() if value is not None}
    return made


def link_entry(message: Any, names: dict[int, str]) -> dict[str, Any]:
    made = plain(link_of_message(message, names))
    made["up"] = bool(message["flags"] & 1)
    if mac := message.get_attr("IFLA_ADDRESS"):
        made["mac"] = mac
    if qdisc := message.get_attr("IFLA_QDISC"):
        made["qdisc"] = qdisc
    # What a VLAN or macvlan is on; the other end of a veth, if it is in this namespace.
    lower = names.get(message.get_attr("IFLA_LINK") or 0)
    if lower and message.get_attr("IFLA_LINK_NETNSID") is None:
        made["lower"] = lower
    xdp = message.get_attr("IFLA_XDP")
    if xdp is not None:
        made["xdp"] = bool(xdp.get_attr("IFLA_XDP_ATTACHED"))
    info = message.get_attr("IFLA_LINKINFO")
    if info is None:
        return made
    data = info.get_attr("IFLA_INFO_DATA")
    if made["kind"] == "bridge" and data is not None:
        made["bridge"] = switches(data, BRIDGE_FLAGS)
    if made["kind"] == "vlan" and data is not None:
        made["vlan"] = data.get_attr("IFLA_VLAN_ID")
    port = info.get_attr("IFLA_INFO_SLAVE_DATA")
    if info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge" and port is not None:
        state = port.get_attr("IFLA_BRPORT_STATE")
        made["bridge_port"] = {
            **({} if state is None else {"state": STP.get(state, str(state))}),
            **switches(port, PORT_FLAGS),
        }
    return made


def switches(data: Any, names: dict[str, str]) -> dict[str, bool]:
    if not hasattr(data, "get_attr"):
        return {}
    values = {key: data.get_attr(name) for key, name in names.items()}
    return {key: bool(value) for key, value in values.items() if value is not None}


def cidr_of(message: Any) -> str:
    # IFA_LOCAL is ours where the address is that of a peer.
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return f"{address}/{message['prefixlen']}" if address else ""


def concerned_links(
    links: dict[str, dict[str, Any]], taps: frozenset[str], ways_out: set[str]
) -> set[str]:
    """Return the links that packets of guests may pass: taps, their bridges, the ways out."""
    found = with_all(links, {*taps, *ways_out}, "master")
    bridges = {name for name in found if links.get(name, {}).get("kind") == "bridge"}
    found |= {name for name, link in links.items() if link.get("master") in bridges}
    found = with_all(links, found, "lower")
    return {name for name in found if name in links}


def with_all(links: dict[str, dict[str, Any]], names: set[str], key: str) -> set[str]:
    """Return links, and what they name under a key, and what that names, and so on."""
    found, new = set[str](), names
    while new:
        found |= new
        new = {links.get(name, {}).get(key, "") for name in new} - found - {""}
    return found


def keep_links(found: Namespace, concerned: set[str]) -> None:
    if len(found.links) > MOST_LINKS:
        ordered = sorted(found.links, key=lambda name: name not in concerned)
        chosen = set(ordered[:MOST_LINKS])
        found.missing.append(f"{len(found.links) - MOST_LINKS} of {len(found.links)} interfaces")
        found.links = {name: link for name, link in found.links.items() if name in chosen}
        found.qdiscs = [one for one in found.qdiscs if one["link"] in chosen]
    found.qdiscs.sort(key=lambda one: one["link"] not in concerned)
    found.qdiscs = kept(found, "qdiscs", found.qdiscs)


def kept(found: Namespace, what: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) > MOST_ROWS:
        found.missing.append(f"{len(rows) - MOST_ROWS} of {len(rows)} {what}")
    return rows[:MOST_ROWS]


def limited(
    found: Namespace, what: str, rows: Iterator[dict[str, Any] | None]
) -> Iterator[dict[str, Any]]:
    # None: a row that is of no interest, but took time.
    try:
        for count, row in enumerate(rows):
            if count >= MOST_MESSAGES:
                found.missing.append(f"{what} beyond the first {MOST_MESSAGES}")
                return
            if row is not None:
                yield row
    except OSError as error:
        found.missing.append(f"{what}: rtnetlink: {error.strerror or error}")


def ask_neighbours(names: dict[int, str]) -> Iterator[dict[str, Any] | None]:
    # struct ndmsg: family, 3 pad, ifindex, state, flags, type.
    for body in dump(RTM_GETNEIGH, RTM_NEWNEIGH, 12):
        family, ifindex, state = struct.unpack_from("=BxxxiH", body)
        attrs = attributes(body, 12)
        address = address_of(family, attrs.get(1))
        if ifindex not in names or not address or state == 0x40:
            yield None
            continue
        row = {"address": address, "link": names[ifindex], "state": NUD.get(state, str(state))}
        mac = attrs.get(2, b"")
        yield {**row, "mac": mac.hex(":")} if mac else row


def ask_routes(names: dict[int, str]) -> Iterator[dict[str, Any] | None]:
    # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    for body in dump(RTM_GETROUTE, RTM_NEWROUTE, 12):
        family, length, _, _, table, _, _, kind, flags = struct.unpack_from("=8BI", body)
        attrs = attributes(body, 12)
        if 15 in attrs:
            table = int.from_bytes(attrs[15][:4], "little" if LITTLE else "big")
        if table == RT_TABLE_LOCAL or kind not in ROUTE_TYPES or flags & 0x200:  # a cached one
            yield None
            continue
        base: dict[str, Any] = {
            "destination": f"{address_of(family, attrs.get(1))}/{length}" if length else "default",
            "family": "inet6" if family == socket.AF_INET6 else "inet",
        }
        if table != 254:
            base["table"] = table
        if kind != 1:
            base["type"] = ROUTE_TYPES[kind]
        made = False
        for ifindex, inner in hops(attrs):
            if ifindex in names:
                gateway = address_of(family, inner.get(5))
                made = True
                yield {**base, "link": names[ifindex], **({"gateway": gateway} if gateway else {})}
        if not made:
            yield None


LITTLE = struct.pack("=H", 1) == b"\1\0"


def hops(attrs: dict[int, bytes]) -> Iterator[tuple[int, dict[int, bytes]]]:
    if len(attrs.get(4, b"")) == 4:
        yield struct.unpack("=i", attrs[4])[0], attrs
    data = attrs.get(9, b"")  # RTA_MULTIPATH: struct rtnexthop {len, flags, hops, ifindex}
    while len(data) >= 8:
        length, _, _, ifindex = struct.unpack_from("=HBBi", data)
        if length < 8:
            return
        yield ifindex, attributes(data[:length], 8)
        data = data[(length + 3) & ~3 :]


def address_of(family: int, data: bytes | None) -> str:
    length = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}.get(family)
    return socket.inet_ntop(family, data) if data is not None and len(data) == length else ""


def attributes(body: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def dump(question: int, answer: int, header: int) -> Iterator[bytes]:
    """Yield the bodies of a dump of rtnetlink, as they come."""
    flags = NLM_F_REQUEST | NLM_F_DUMP
    request = struct.pack("=IHHII", 16 + header, question, flags, 1, 0) + bytes(header)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as door:
        door.settimeout(5.0)
        door.send(request)
        while True:
            data = door.recv(1 << 16)
            at = 0
            while at + 16 <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                body = data[at + 16 : at + length]
                if kind == NLMSG_DONE or length < 16:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, os.strerror(code))
                if kind == answer and len(body) >= header:
                    yield body
                at += (length + 3) & ~3
