"""Which code a dropped packet gets: by the kernel's reason, the function, the interface.

Names of reasons are verbatim those of ``enum skb_drop_reason`` (include/net/dropreason-core.h);
kernels that give none are placed by the function alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.scene import Owner
from vtrace.flows import Known

if TYPE_CHECKING:
    from vtrace.diagnose.scene import Scene
    from vtrace.diagnose.tally import Cell

__all__ = ["SNIFFERS", "Site", "is_sniffer", "site_of"]

FIREWALL: Final = frozenset(["NETFILTER_DROP", "TC_INGRESS", "XDP", "BPF_CGROUP_EGRESS"])
FIREWALL_PLACES: Final = ("nft_", "nf_", "ipt_", "ip6t_", "ovs_", "br_nf_", "cls_bpf", "tcf_")
BRIDGE_REASONS: Final = ("BRIDGE_",)
BRIDGE_PLACES: Final = ("br_", "__br_", "vxlan_")
NEIGHBOUR_PLACES: Final = ("neigh_", "__neigh_", "arp_", "ndisc_")
FULL_SOCKET: Final = frozenset(["SOCKET_RCVBUFF", "PROTO_MEM", "SOCKET_BACKLOG"])
TAP_FILTERS: Final = frozenset(["TAP_TXFILTER", "TAP_FILTER"])
FROM_GUEST_PLACES: Final = ("tun_get_user", "tun_sendmsg", "tun_xdp_one", "tun_rx_batched")
"""Functions that only a frame of the guest comes through."""
NOT_PACKETS: Final = ("inet_rtm_getroute", "inet6_rtm_getroute")
"""Here the kernel answers a question about a route, for which it makes a packet up."""
SNIFFERS: Final = ("packet_rcv", "tpacket_rcv", "packet_rcv_spkt", "packet_rcv_fanout")
"""Here a copy for a packet socket (tcpdump) is dropped, not the packet."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a packet was lost."""

    code: str
    hop: str
    direction: str
    owner: Owner


def is_sniffer(scene: Scene, cell: Cell) -> bool:
    """Tell whether it was only a copy for a sniffer that was dropped."""
    return scene.place(cell.place).startswith(SNIFFERS)


def site_of(scene: Scene, cell: Cell) -> Site | None:
    """Return the place of a drop that a ``kfree_skb`` showed; None: it concerns no guest."""
    if scene.place(cell.place).startswith(NOT_PACKETS):
        return None
    direction, owner = _whose(scene, cell)
    if not direction:
        return None
    reason = scene.reason(cell.reason) if cell.reason is not None else ""
    place = scene.place(cell.place)
    interface = str(scene.queue(cell.drop_queue).get("interface") or "")
    code, hop = _placed(scene, reason, place, direction, interface)
    if code == "T6" and scene.vhost.get(interface) is False:
        code = "T12"
    return Site(code, hop, direction, owner)


def _placed(
    scene: Scene, reason: str, place: str, direction: str, interface: str
) -> tuple[str, str]:
    towards = direction == "rx"
    if reason == "FULL_RING":
        return "R5a", "tap"
    if reason in TAP_FILTERS or (reason == "SOCKET_FILTER" and place.startswith("tun_")):
        return "R5f", "tap"
    if reason == "DEV_READY":
        return ("R5e", "tap") if towards else ("T8", "tap")
    if reason in FULL_SOCKET:
        return ("D1", "socket") if towards else ("T11", "socket")
    if reason == "NO_SOCKET":
        return ("D1", "socket") if towards else ("T13", "socket")
    if reason.startswith("NEIGH_") or place.startswith(NEIGHBOUR_PLACES):
        return ("R12", "neighbour") if towards else ("T9", "host")
    if reason.startswith("QDISC_") and towards and _is_down(scene, interface):
        return "R3", "bridge"
    if reason.startswith("QDISC_") or reason == "TC_EGRESS":
        return ("R4", "qdisc") if towards else ("T10", "qdisc")
    if reason == "CPU_BACKLOG":
        return ("R1", "wire") if towards else ("T9", "host")
    if reason in FIREWALL or reason.startswith("OVS_") or place.startswith(FIREWALL_PLACES):
        return ("R2", "firewall") if towards else ("T9", "host")
    if reason.startswith(BRIDGE_REASONS) or place.startswith(BRIDGE_PLACES):
        return ("R3", "bridge") if towards else ("T9", "host")
    if place.startswith("tun_"):
        return ("R6", "vhost") if towards else ("T6", "tap")
    if scene.is_bridge(interface) and reason in ("", "NOT_SPECIFIED"):
        return ("R3", "bridge") if towards else ("T9", "host")
    if not towards and reason.startswith(("IP_", "PKT_TOO_BIG", "UNHANDLED_PROTO", "OTHERHOST")):
        return "T9", "host"
    return "D1", "host"


def _is_down(scene: Scene, interface: str) -> bool:
    """Tell whether an interface above taps has no carrier: then its qdisc is noop, and drops.

    A bridge has a carrier as long as one of its ports forwards, and no qdisc of its own.
    """
    if not interface or interface in scene.taps:
        return False
    link = scene.link(interface)
    if link.get("operstate") in ("down", "lowerlayerdown"):
        return True
    return scene.is_bridge(interface) and link.get("qdisc") in (None, "", "noop", "noqueue")


def _whose(scene: Scene, cell: Cell) -> tuple[str, Owner]:
    """Return the direction and the device that a dropped packet belongs to; "" for nobody's."""
    flow = cell.flow
    known = int(flow["known"])
    interface = str(scene.queue(cell.drop_queue).get("interface") or "")
    source = target = None
    if known & (Known.IPV4 | Known.IPV6):
        source = scene.addresses.get((int(flow["src_hi"]), int(flow["src_lo"])))
        target = scene.addresses.get((int(flow["dst_hi"]), int(flow["dst_lo"])))
    if known & Known.ETHERNET:
        source = scene.macs.get(int(flow["eth_src"])) or source
        target = scene.macs.get(int(flow["eth_dst"])) or target
    if source and target and source != target:
        # From guest to guest: it is the sender's until it is at the other one's tap.
        return ("rx", target) if interface == target.interface else ("tx", source)
    if source:
        return "tx", source
    if target:
        return "rx", target
    owners = scene.behind(interface)
    if scene.place(cell.place).startswith(FROM_GUEST_PLACES):
        return "tx", owners[0] if owners else Owner("", interface, interface)
    # An address that nobody has answered for: on its way out at a tap, or a bridge with one.
    if not owners or cell.from_guest:
        return "", Owner()
    if len(owners) == 1:
        return "rx", owners[0]
    return "rx", Owner("", interface, interface)
