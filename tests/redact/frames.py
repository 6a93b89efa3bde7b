"""Frames with secrets at every place that a header has for them, made with scapy."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

M1, M2, M3 = "52:54:00:9a:bc:de", "00:16:3e:11:22:33", "0a:f7:45:67:89:ab"
A1, A2, A3 = "10.71.82.93", "10.71.82.94", "198.51.100.77"
S1, S2 = "2001:db8:aaaa:1::57", "2001:db8:aaaa:2::58"
LL = "fe80::5054:ff:fe9a:bcde"
MACS = [bytes.fromhex(m.replace(":", "")) for m in (M1, M2, M3)]
V4 = [bytes(map(int, a.split("."))) for a in (A1, A2, A3)]
SECRET = b"customer-db-password"


def v6(text: str) -> bytes:
    import socket

    return socket.inet_pton(socket.AF_INET6, text)


V6 = [v6(one) for one in (S1, S2, LL)]


def everything() -> dict[str, bytes]:
    """Return frames by what is special about them."""
    e, e6 = Ether(src=M1, dst=M2), Ether(src=M1, dst=M2, type=0x86DD)
    load = Raw(SECRET + V4[0] + MACS[0] + V6[0] + b"web-prod-1" + bytes(range(1, 60)))
    udp4 = IP(src=A1, dst=A2) / UDP(sport=5001, dport=7001) / load
    udp6 = IPv6(src=S1, dst=S2) / UDP(sport=5001, dport=7001) / load
    frames = {
        "udp4": e / udp4,
        "tcp4": e / IP(src=A1, dst=A3) / TCP(sport=1, dport=443, options=[("MSS", 1460)]) / load,
        "udp6": e6 / udp6,
        "tcp6": e6 / IPv6(src=S1, dst=S2) / TCP(sport=1, dport=2) / load,
        "vlan": e / Dot1Q(vlan=77) / udp4,
        "qinq": e / Dot1AD(vlan=5) / Dot1Q(vlan=77) / udp6,
        "three tags": e / Dot1AD(vlan=5) / Dot1Q(vlan=7) / Dot1Q(vlan=9) / udp4,
        "arp": e / ARP(hwsrc=M1, psrc=A1, hwdst=M3, pdst=A2),
        "arp padded": e / ARP(hwsrc=M1, psrc=A1, pdst=A2) / load,
        "options": e / IP(src=A1, dst=A2, options=[IPOption_RR(routers=[A3, A1])]) / UDP() / load,
        "fragment 1": e / IP(src=A1, dst=A2, flags="MF", id=7) / UDP(len=4000) / load,
        "fragment 2": e / IP(src=A1, dst=A2, frag=100, id=7, proto=17) / load,
        "unreachable": e / IP(src=A3, dst=A1) / ICMP(type=3, code=3) / udp4,
        "redirect": e / IP(src=A3, dst=A1) / ICMP(type=5, gw=A2) / udp4,
        "echo": e / IP(src=A1, dst=A2) / ICMP(type=8) / load,
        "unreachable6": e6 / IPv6(src=S2, dst=S1) / ICMPv6DestUnreach() / udp6,
        "ns": e6
        / IPv6(src=LL, dst="ff02::1:ff00:57")
        / ICMPv6ND_NS(tgt=S1)
        / ICMPv6NDOptSrcLLAddr(lladdr=M1),
        "na": e6 / IPv6(src=S1, dst=LL) / ICMPv6ND_NA(tgt=S1) / ICMPv6NDOptDstLLAddr(lladdr=M3),
        "ra": e6 / IPv6(src=LL, dst="ff02::1") / ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix=S1),
        "extensions": e6
        / IPv6(src=S1, dst=S2)
        / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrRouting(addresses=[S1, S2])
        / IPv6ExtHdrDestOpt()
        / UDP(sport=1, dport=2)
        / load,
        "fragment6": e6 / IPv6(src=S1, dst=S2) / IPv6ExtHdrFragment(offset=9, nh=17) / load,
        "tunnel": e / IP(src=A1, dst=A2, proto=4) / udp4,
        "unknown type": Ether(src=M1, dst=M2, type=0x88CC) / load,
        "unknown protocol": e / IP(src=A1, dst=A2, proto=99) / load,
        "name alone": e / IP(src=A1, dst=A2) / UDP() / Raw(b"web-prod-1"),
        "sequence": e
        / IP(src=A1, dst=A2)
        / TCP(seq=int.from_bytes(V4[0]), ack=int.from_bytes(V4[2]))
        / load,
        "broadcast": Ether(src=M1, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255"),
        "liar": e / IP(src=A1, dst=A2, ihl=4) / load,
        "long header": e / IP(src=A1, dst=A2, ihl=15, proto=17) / load,
    }
    made = {name: bytes(frame) for name, frame in frames.items()}
    made["bare"] = bytes(udp4)
    made["bare6"] = bytes(udp6)
    return made


def no_mac(name: str) -> bool:
    """Tell whether a frame begins with its network header."""
    return name.startswith("bare")
