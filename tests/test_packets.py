"""The layers of one packet: what scapy says, and in which bytes it stands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from vtrace.packets import Frame, hexdump, layers, one_line

ETHER = Ether(src="52:54:00:12:34:56", dst="0a:12:f0:11:22:33")
INET = IP(src="10.9.0.1", dst="10.9.0.2", id=7)


def frame_of(packet, **facts):
    data = bytes(packet)
    return Frame(data=data, length=len(data), **facts)


def in_bytes(frame):
    return {
        (layer.name, field.name): frame.data[field.span.start : field.span.stop]
        for layer in layers(frame)
        for field in layer.fields
        if field.span is not None
    }


def test_each_field_knows_its_bytes():
    frame = frame_of(ETHER / INET / UDP(sport=5001, dport=7001) / b"hello")
    found = in_bytes(frame)
    assert found["Ethernet", "dst"] == bytes.fromhex("0a12f0112233")
    assert found["Ethernet", "type"] == b"\x08\x00"
    assert found["IP", "version"] == found["IP", "ihl"] == b"\x45"
    assert found["IP", "id"] == b"\0\x07"
    assert found["IP", "flags"] == b"\0"
    assert found["IP", "frag"] == b"\0\0"
    assert found["IP", "src"] == bytes([10, 9, 0, 1])
    assert found["UDP", "dport"] == (7001).to_bytes(2, "big")
    assert found["Raw", "load"] == b"hello"
    # No options: in no bytes.
    assert ("IP", "options") not in found


@pytest.mark.parametrize(
    ("packet", "spans"),
    [
        (ETHER / INET / UDP() / b"abc", [(0, 14), (14, 34), (34, 42), (42, 45)]),
        (ETHER / Dot1Q(vlan=5) / INET / TCP(), [(0, 14), (14, 18), (18, 38), (38, 58)]),
        (ETHER / IPv6() / UDP() / b"a", [(0, 14), (14, 54), (54, 62), (62, 63)]),
        (ETHER / ARP(), [(0, 14), (14, 42)]),
    ],
)
def test_layers_stand_one_behind_the_other(packet, spans):
    header, *found = layers(frame_of(packet))
    assert header.span is None
    assert [(layer.span.start, layer.span.stop) for layer in found] == spans


def test_options_and_names_of_changing_length():
    frame = frame_of(ETHER / INET / TCP(options=[("MSS", 1460), ("NOP", None)]))
    assert in_bytes(frame)["TCP", "options"][:4] == bytes.fromhex("020405b4")
    frame = frame_of(ETHER / INET / UDP(dport=53) / DNS(qd=DNSQR(qname="www.example.com")))
    assert b"\x03www\x07example\x03com" in in_bytes(frame)["DNS", "qd"]


def test_padding_is_a_layer_of_its_own():
    frame = frame_of(bytes(ETHER / INET / UDP(sport=1, dport=2)) + b"\0" * 18)
    last = layers(frame)[-1]
    assert (last.name, last.span) == ("Padding", range(42, 60))


def test_what_the_recording_knows_of_the_header_stands_first():
    frame = frame_of(
        ETHER / INET / UDP(), hdr_flags=1, gso_type=5, gso_size=1448, vlan=7, no_mac=False
    )
    header, *rest = layers(frame)
    assert header.name == "virtio_net_hdr"
    assert header.summary == "gso UDP_L4 1448, checksum partial (offloaded)"
    assert {field.name: field.text for field in header.fields} == {
        "gso": "UDP_L4",
        "gso_size": "1448",
        "checksum": "partial (offloaded)",
        "vlan": "7",
    }
    assert all(field.span is None for field in header.fields)
    (checksum,) = [field.text for field in rest[2].fields if field.name == "chksum"]
    assert checksum.endswith("(partial: offloaded)")


def test_summaries_are_one_line():
    summaries = [layer.summary for layer in layers(frame_of(ETHER / INET / UDP(sport=1, dport=2)))]
    assert summaries[1] == "52:54:00:12:34:56 > 0a:12:f0:11:22:33 (IPv4)"
    assert summaries[2] == "10.9.0.1 > 10.9.0.2 udp"
    assert summaries[3] == "10.9.0.1:1 > 10.9.0.2:2"


def test_a_frame_without_an_ethernet_header():
    frame = frame_of(INET / UDP(sport=1, dport=2), no_mac=True)
    assert [layer.name for layer in layers(frame)][:3] == ["virtio_net_hdr", "IP", "UDP"]
    assert in_bytes(frame)["UDP", "sport"] == b"\0\x01"


def test_nothing_captured():
    (header,) = layers(Frame(data=b"", length=60))
    assert header.name == "virtio_net_hdr"
    assert one_line(Frame(data=b"")) == "not captured"
    assert hexdump(b"") == []


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from(
        [
            b"",
            bytes(ETHER / INET)[:-6],
            bytes(ETHER / INET / UDP(sport=53))[:-4],
            bytes(ETHER / IPv6())[:20],
            bytes(ETHER / INET / TCP(dataofs=15))[:47],
            bytes(ETHER / ARP())[:22],
        ]
    ),
    rest=st.binary(max_size=80),
    no_mac=st.booleans(),
)
def test_whatever_the_bytes_are_fields_stay_in_them(start, rest, no_mac):
    frame = Frame(data=start + rest, length=1500, no_mac=no_mac)
    end = 0
    for layer in layers(frame)[1:]:
        if layer.span is None:
            break
        assert layer.span.start == end
        end = layer.span.stop
        assert end <= len(frame.data)
        for field in layer.fields:
            assert field.span is None or (
                len(field.span)
                and layer.span.start <= field.span.start
                and field.span.stop <= layer.span.stop
            )
