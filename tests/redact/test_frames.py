"""Packets redacted: nothing of the secrets in them, and headers that still make sense."""

import ipaddress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from parsers import wire
from parsers.batch import EventBatch, Snaps
from tests.redact import frames as made
from vtrace.errors import VtraceError
from vtrace.flows import decode
from vtrace.model import Flag, Kind
from vtrace.redact import Check, Redactor

META = {
    "vms": [{"name": "web-prod-1", "pid": 7}],
    "queues": {"1": {"id": 1, "vm": "web-prod-1", "device": "net0", "name": "rx0"}},
}


def batch_of(frames, flags=None, kind=Kind.DELIVER, hdr_flags=0):
    records = np.zeros(len(frames), wire.RECORD)
    records["time"] = np.arange(1, len(frames) + 1)
    records["seq"] = np.arange(len(frames))
    records["kind"] = kind
    records["queue"] = 1
    records["flags"] = flags or 0
    records["length"] = [len(frame) for frame in frames]
    header = np.zeros(len(frames), wire.SNAP)
    header["captured"] = records["length"]
    header["hdr_flags"] = hdr_flags
    offsets = np.zeros(len(frames) + 1, np.int64)
    np.cumsum(records["length"], out=offsets[1:])
    snaps = Snaps(
        rows=np.arange(len(frames), dtype=np.uint32),
        header=header,
        offsets=offsets,
        data=np.frombuffer(b"".join(frames), np.uint8),
    )
    batch = EventBatch.from_records(records, snaps)
    batch.meta = META
    return batch


def redacted(batch, salt="a"):
    redactor = Redactor(salt)
    redactor.collect(batch)
    redactor.seal()
    after = redactor.redact(batch)
    check = Check(redactor.names)
    check.pair(batch, after)
    return redactor, after, check


def one(name, salt="a", **options):
    frame = made.everything()[name]
    flags = [int(Flag.NO_MAC) if made.no_mac(name) else 0]
    _, after, check = redacted(batch_of([frame], flags, **options), salt)
    assert check.found == []
    return frame, after.snaps.bytes_of(0)


@pytest.mark.parametrize("name", list(made.everything()))
def test_no_secret_is_left_at_any_offset_of_any_cut(name):
    whole = made.everything()[name]
    flags = int(Flag.NO_MAC) if made.no_mac(name) else 0
    cuts = [whole[:size] for size in range(1, len(whole) + 1)]
    # In the others all secrets stand where an address does.
    others = [frame for other, frame in made.everything().items() if not made.no_mac(other)]
    frames = cuts + others
    _, after, check = redacted(batch_of(frames, [flags] * len(cuts) + [0] * len(others)))
    assert check.found == []
    for index in range(len(cuts)):
        new = after.snaps.bytes_of(index)
        assert len(new) == index + 1
        for secret in (*made.V4, *made.MACS, *made.V6, made.SECRET, b"web-prod-1"):
            assert secret not in new


def test_all_at_once_keep_their_flows_apart_and_together():
    names = list(made.everything())
    frames = list(made.everything().values())
    flags = [int(Flag.NO_MAC) if made.no_mac(name) else 0 for name in names]
    batch = batch_of(frames, flags)
    _, after, _ = redacted(batch)
    bare = np.array(flags) != 0
    old, new = decode(batch.snaps, bare), decode(after.snaps, bare)
    for field in ("known", "eth_type", "vlan", "protocol", "sport", "dport", "ip_len", "ip_id"):
        assert (old[field] == new[field]).all(), field
    for field in ("src_lo", "dst_lo", "eth_src", "eth_dst"):
        pairs = {*zip(old[field].tolist(), new[field].tolist(), strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), field


@pytest.mark.parametrize("name", ["udp4", "tcp4", "vlan", "options", "echo", "unreachable"])
def test_checksums_of_whole_packets_are_right(name):
    frame, new = one(name)
    shown = Ether(new)
    again = Ether(new)
    for layer in (IP, UDP, TCP, ICMP):
        if layer in again:
            del again[layer].chksum
    # Of the quoted packet the sum cannot be had; it is 0, and stands under the outer sum.
    again = Ether(bytes(again))
    assert shown[IP].chksum == again[IP].chksum
    for layer in (UDP, TCP, ICMP):
        if layer in shown and name != "unreachable":
            assert shown[layer].chksum == again[layer].chksum, layer
    assert len(new) == len(frame)


@pytest.mark.parametrize("name", ["udp6", "tcp6", "qinq", "extensions"])
def test_checksums_over_ipv6(name):
    _, new = one(name)
    shown = Ether(new)
    layer = TCP if TCP in shown else UDP
    again = Ether(new)
    del again[layer].chksum
    assert Ether(bytes(again))[layer].chksum == shown[layer].chksum


def test_a_wrong_checksum_stays_wrong_and_a_missing_one_missing():
    frame = bytearray(made.everything()["udp4"])
    frame[40:42] = (int.from_bytes(frame[40:42]) ^ 0x0101).to_bytes(2, "big")
    _, after, _ = redacted(batch_of([bytes(frame)]))
    shown = Ether(after.snaps.bytes_of(0))
    right = shown.copy()
    del right[UDP].chksum
    assert Ether(bytes(right))[UDP].chksum != shown[UDP].chksum
    frame[40:42] = b"\0\0"
    _, after, _ = redacted(batch_of([bytes(frame)]))
    assert Ether(after.snaps.bytes_of(0))[UDP].chksum == 0


def pseudo(packet, length):
    words = packet[IP].src, packet[IP].dst
    total = 17 + length
    for text in words:
        raw = ipaddress.ip_address(text).packed
        total += int.from_bytes(raw[:2]) + int.from_bytes(raw[2:])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_a_checksum_that_is_to_be_completed_is_that_of_the_new_pseudo_header():
    frame = bytearray(made.everything()["udp4"])
    length = len(frame) - 34
    frame[40:42] = pseudo(Ether(bytes(frame)), length).to_bytes(2, "big")
    for size in (len(frame), 64):
        _, after, _ = redacted(batch_of([bytes(frame[:size])], hdr_flags=1))
        shown = Ether(after.snaps.bytes_of(0))
        assert shown[UDP].chksum == pseudo(shown, length)


def test_of_a_cut_packet_the_checksum_is_marked():
    frame = made.everything()["udp4"][:64]
    redactor, after, _ = redacted(batch_of([frame]))
    assert redactor.checksums == 1
    assert Ether(after.snaps.bytes_of(0))[UDP].chksum == 0


def test_networks_stay_networks_and_tags_stay():
    frame, new = one("vlan")
    assert Ether(new)[Dot1Q].vlan == 77
    shown = Ether(new)[IP]
    net = ipaddress.ip_network(f"{shown.src}/30", strict=False)
    assert ipaddress.ip_address(shown.dst) in net
    assert shown.src.startswith("10.")
    assert new[0] & 3 == frame[0] & 3
    _, new = one("broadcast")
    assert Ether(new).dst == "ff:ff:ff:ff:ff:ff"
    assert Ether(new)[IP].dst == "255.255.255.255"
    _, arp = one("arp")
    assert Ether(arp)[ARP].psrc == shown.src
    assert Ether(arp)[ARP].hwsrc == Ether(arp).src
    _, na = one("na")
    assert ipaddress.ip_address(Ether(na)[IPv6].dst).is_link_local


def test_what_is_quoted_is_the_same_flow():
    _, new = one("unreachable")
    _, flow = one("udp4")
    quoted = Ether(new)[ICMP].payload
    assert (quoted.src, quoted.dst) == (Ether(flow)[IP].src, Ether(flow)[IP].dst)
    assert quoted.sport == 5001


def test_frames_of_unknown_kinds_and_types_lose_all_that_is_not_understood():
    _, new = one("unknown type")
    assert set(new[14:]) == {0}
    frame = made.everything()["udp4"]
    _, after, check = redacted(batch_of([frame], kind=99))
    assert set(after.snaps.bytes_of(0)) == {0}
    assert check.found == []


def test_what_was_not_collected_is_refused_and_not_guessed():
    names = made.everything()
    redactor = Redactor("a")
    redactor.collect(batch_of([names["udp4"]]))
    redactor.seal()
    for name in ("tcp4", "udp6"):
        with pytest.raises(VtraceError, match="changed while it was read"):
            redactor.redact(batch_of([names[name]]))
    other = batch_of([names["udp4"]])
    other.meta = {"host": {"hostname": "new"}}
    with pytest.raises(VtraceError, match="changed while it was read"):
        redactor.redact(other)


def test_a_structural_coincidence_is_no_finding():
    # 8.0.69.0 is what stands between every Ethernet and IPv4 header.
    frames = [
        bytes(Ether(src=made.M1, dst=made.M2) / IP(src=source, dst=made.A2) / UDP() / bytes(30))
        for source in ("8.0.69.0", "69.0.0.58")
    ]
    _, after, check = redacted(batch_of(frames))
    assert check.found == []
    assert Ether(after.snaps.bytes_of(0))[IP].src != "8.0.69.0"


@pytest.mark.parametrize("name", ["udp4", "tcp6", "ns", "arp", "unreachable", "fragment 2"])
def test_the_check_finds_what_is_put_back(name):
    frame = made.everything()[name]
    batch = batch_of([frame])
    redactor, after, _ = redacted(batch)
    found = []
    for at in range(len(frame)):
        data = after.snaps.data.copy()
        data[at : at + 16] = batch.snaps.data[at : at + 16]
        check = Check(redactor.names)
        spoiled = EventBatch(
            columns=after.columns,
            snaps=Snaps(
                rows=after.snaps.rows,
                header=after.snaps.header,
                offsets=after.snaps.offsets,
                data=data,
            ),
        )
        check.pair(batch, spoiled)
        found.append(bool(check.found))
    assert found[0]
    assert found[6]
    if name != "ns":
        assert found[22]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(made.everything())),
    st.lists(st.tuples(st.integers(0, 130), st.binary(min_size=1, max_size=6)), max_size=4),
    st.integers(0, 200),
)
def test_damaged_frames_keep_the_promise(name, damage, cut):
    frame = bytearray(made.everything()[name])
    for at, octets in damage:
        frame[at : at + len(octets)] = octets
    frames = [bytes(frame[:cut]) or b"\0", made.everything()["udp4"]]
    flags = [int(Flag.NO_MAC) if made.no_mac(name) else 0, 0]
    redactor, after, check = redacted(batch_of(frames, flags))
    assert check.found == []
    for index, old in enumerate(frames):
        new = after.snaps.bytes_of(index)
        for table in redactor.names.tables.values():
            for row in table.secret():
                secret = row.tobytes()
                at = new.find(secret)
                # Wherever it reads so, it is not what stood there, or a header's own bytes.
                while at >= 0 and table.family.width > 4:
                    assert old[at : at + len(secret)] != secret or set(secret[1:]) <= {0}
                    at = new.find(secret, at + 1)
