"""Bulk decoding of frames: against scapy, and against whatever a guest may send."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether

from tests.tables.frames import snaps_of
from vtrace.flows import FLOW, Known, address_text, decode, flow_hash, flow_text, mac_text

A, B = "52:54:00:12:34:56", "0a:12:f0:11:22:33"
ETHER = Ether(src=A, dst=B)
V4 = IP(src="10.9.0.1", dst="10.9.0.2", id=77)
V6 = IPv6(src="fe80::1", dst="2001:db8::2")

FRAMES = {
    "udp": (ETHER / V4 / UDP(sport=5001, dport=7001), "UDP 10.9.0.1:5001 > 10.9.0.2:7001"),
    "tcp": (ETHER / V4 / TCP(sport=1, dport=2), "TCP 10.9.0.1:1 > 10.9.0.2:2"),
    "icmp": (ETHER / V4 / ICMP(), "ICMP 10.9.0.1 > 10.9.0.2"),
    "options": (
        ETHER / IP(src="10.9.0.1", dst="10.9.0.2", options=b"\1\1\1\1") / UDP(sport=9, dport=8),
        "UDP 10.9.0.1:9 > 10.9.0.2:8",
    ),
    "first fragment": (
        ETHER / IP(src="1.2.3.4", dst="5.6.7.8", flags="MF") / UDP(sport=1, dport=2),
        "UDP 1.2.3.4:1 > 5.6.7.8:2 fragment at 0",
    ),
    "later fragment": (
        ETHER / IP(src="1.2.3.4", dst="5.6.7.8", frag=185, proto=17) / (b"x" * 32),
        "UDP 1.2.3.4 > 5.6.7.8 fragment at 1480",
    ),
    "one tag": (ETHER / Dot1Q(vlan=42) / V4 / UDP(sport=3, dport=4), "UDP 10.9.0.1:3 > 10.9.0.2:4"),
    "two tags": (
        ETHER / Dot1AD(vlan=7) / Dot1Q(vlan=42) / V4 / UDP(sport=3, dport=4),
        "UDP 10.9.0.1:3 > 10.9.0.2:4",
    ),
    "v6 udp": (ETHER / V6 / UDP(sport=5, dport=6), "UDP [fe80::1]:5 > [2001:db8::2]:6"),
    "v6 extensions": (
        ETHER / V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(sport=5, dport=6),
        "TCP [fe80::1]:5 > [2001:db8::2]:6",
    ),
    "v6 fragment": (
        ETHER / V6 / IPv6ExtHdrFragment(offset=2, nh=17, id=9) / (b"x" * 16),
        "UDP fe80::1 > 2001:db8::2 fragment at 16",
    ),
    "arp": (ETHER / ARP(), f"ARP {A} > {B}"),
    "unknown": (Ether(src=A, dst=B, type=0x1234), f"0x1234 {A} > {B}"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_flow_of_a_frame_in_words(name):
    frame, text = FRAMES[name]
    (row,) = decode(snaps_of([bytes(frame)]))
    assert flow_text(row) == text


def test_frames_of_a_batch_do_not_mix():
    frames = [bytes(frame) for frame, _ in FRAMES.values()]
    rows = decode(snaps_of(frames))
    assert [flow_text(row) for row in rows] == [text for _, text in FRAMES.values()]


def test_fields_are_those_of_the_headers():
    frame = (
        ETHER / IP(src="10.9.0.1", dst="10.9.0.2", id=77, ttl=9) / UDP(sport=1, dport=2) / b"abc"
    )
    (row,) = decode(snaps_of([bytes(frame)]))
    assert mac_text(int(row["eth_src"])) == A
    assert mac_text(int(row["eth_dst"])) == B
    assert (row["ttl"], row["ip_id"], row["ip_len"], row["udp_len"]) == (9, 77, 31, 11)
    assert (row["l3"], row["l4"]) == (14, 34)


def test_tcp_flags():
    (row,) = decode(snaps_of([bytes(ETHER / V6 / TCP(flags="SA"))]))
    assert row["tcp_flags"] == 0x12


@pytest.mark.parametrize(("name", "vlan"), [("one tag", 42), ("two tags", 7)])
def test_vlan_is_the_outermost_tag(name, vlan):
    (row,) = decode(snaps_of([bytes(FRAMES[name][0])]))
    assert row["known"] & Known.VLAN
    assert row["vlan"] == vlan


def test_a_tag_beside_the_frame_is_outermost():
    snaps = snaps_of([bytes(FRAMES["one tag"][0])])
    snaps.header["vlan_tci"], snaps.header["vlan_proto"] = 0x6003, 0x8100
    (row,) = decode(snaps)
    assert row["vlan"] == 3


def test_a_frame_without_link_header():
    snaps = snaps_of([bytes(V4 / UDP(sport=1, dport=2)), bytes(V6 / UDP(sport=1, dport=2))])
    rows = decode(snaps, np.array([True, True]))
    assert flow_text(rows[0]) == "UDP 10.9.0.1:1 > 10.9.0.2:2"
    assert flow_text(rows[1]) == "UDP [fe80::1]:1 > [2001:db8::2]:2"


def test_a_frame_that_was_cut_is_known_up_to_there():
    whole = bytes(FRAMES["v6 extensions"][0])
    (full,) = decode(snaps_of([whole]))
    for size in range(len(whole)):
        (row,) = decode(snaps_of([whole[:size]]))
        assert row["known"] & ~full["known"] == 0
        for name in FLOW.names:
            if name != "known":
                assert row[name] in {0, full[name]}


def test_a_cut_frame_does_not_read_its_neighbour():
    whole = bytes(FRAMES["udp"][0])
    rows = decode(snaps_of([whole[:36], whole]))
    assert not rows[0]["known"] & Known.PORTS
    assert rows[1]["known"] & Known.PORTS


@pytest.mark.parametrize("length", range(5))
def test_a_header_length_that_is_too_small_ends_it(length):
    frame = bytearray(bytes(FRAMES["udp"][0]))
    frame[14] = 0x40 | length
    (row,) = decode(snaps_of([bytes(frame)]))
    assert not row["known"] & (Known.IPV4 | Known.PORTS)


def test_endless_extensions_are_not_followed():
    frame = bytes(ETHER / V6)[:14]
    header = bytearray(bytes(V6))
    header[6] = 0
    chain = bytes([0, 0, 0, 0, 0, 0, 0, 0]) * 40
    (row,) = decode(snaps_of([frame + bytes(header) + chain]))
    assert not row["known"] & Known.PROTOCOL


@settings(max_examples=200, deadline=None)
@given(
    frames=st.lists(st.binary(max_size=120), max_size=6),
    mutations=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    choice=st.sampled_from(sorted(FRAMES)),
    bare=st.booleans(),
)
def test_any_bytes_are_decoded_without_a_word(frames, mutations, choice, bare):
    mutated = bytearray(bytes(FRAMES[choice][0]))
    for at, value in mutations:
        mutated[at % len(mutated)] = value
    frames = [*frames, bytes(mutated)]
    rows = decode(snaps_of(frames), np.full(len(frames), bare))
    hashes = flow_hash(rows)
    for row, key in zip(rows, hashes, strict=True):
        flow_text(row)
        assert (key == 0) == (not row["known"] & (Known.IPV4 | Known.IPV6))


def test_no_snaps_no_rows():
    assert len(decode(snaps_of([]))) == 0


def test_the_hash_of_a_flow_is_its_own():
    frames = [bytes(FRAMES[name][0]) for name in ("udp", "udp", "tcp", "v6 udp", "arp")]
    same, again, other, six, none = flow_hash(decode(snaps_of(frames)))
    assert same == again
    assert len({same, other, six}) == 3
    assert none == 0


def test_addresses_in_words():
    assert address_text(0, 0xFFFF0A090001) == "10.9.0.1"
    assert address_text(0, 1) == "::1"
