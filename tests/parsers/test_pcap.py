"""pcap and pcapng: against tcpdump and scapy, and damaged."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, PcapWriter, RawPcapReader

from parsers.opening import open_any
from vtrace.model import Flag, Kind
from vtrace.session import PacketJoin, Session

TAP = Path(__file__).parent / "captures" / "tap0.pcap"
COUNT = 23


def frames(count):
    return [
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="10.9.0.1", dst="10.9.0.2")
        / UDP(sport=5001, dport=7001)
        / Raw(bytes(n % 256 for n in range(20 + at)))
        for at in range(count)
    ]


def times(count):
    return [1_787_313_600 + at * 0.25 for at in range(count)]


def write(path, kind, count=COUNT, **options):
    writer = kind(str(path), **options)
    for packet, time in zip(frames(count), times(count), strict=True):
        packet.time = time
        writer.write(packet)
    writer.close()
    return path


def rows_of(path):
    source = open_any(path)
    batches = [batch for batch in source.batches() if len(batch)]
    data = [batch.snaps.bytes_of(at) for batch in batches for at in range(len(batch))]
    columns = {
        name: np.concatenate([batch[name] for batch in batches]) if batches else np.zeros(0)
        for name in ("time", "length", "kind", "flags", "queue")
    }
    return columns, data, source


def test_a_capture_of_tcpdump_is_what_tcpdump_and_scapy_read():
    columns, data, source = rows_of(TAP)
    with RawPcapReader(str(TAP)) as reader:
        read = list(reader)
    assert data == [bytes(one) for one, _ in read]
    assert columns["length"].tolist() == [meta.wirelen for _, meta in read]
    assert columns["time"].tolist() == [
        (meta.sec * 1_000_000 + meta.usec) * 1000 for _, meta in read
    ]
    assert set(columns["kind"].tolist()) == {Kind.CAPTURED}
    assert len(data) == COUNT
    assert not source.damage
    if shutil.which("tcpdump"):
        done = subprocess.run(
            ["tcpdump", "-nr", str(TAP)], capture_output=True, text=True, timeout=30, check=True
        )
        assert len(done.stdout.splitlines()) == COUNT


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PcapWriter, {"linktype": 1}),
        (PcapWriter, {"linktype": 1, "nano": True}),
        (PcapWriter, {"linktype": 1, "endianness": ">"}),
        (PcapNgWriter, {}),
    ],
)
def test_what_scapy_writes_is_read(tmp_path, kind, options):
    path = write(tmp_path / "a", kind, **options)
    columns, data, source = rows_of(path)
    assert data == [bytes(packet) for packet in frames(COUNT)]
    assert columns["time"].tolist() == [int(time * 1000) * 1_000_000 for time in times(COUNT)]
    assert not source.damage


def test_packets_of_a_capture_claim_no_end():
    session = Session(open_any(TAP), join=PacketJoin())
    tables = [chunk.packets for chunk in session.chunks()]
    rows = [
        row
        for table in tables
        for row in zip(*table.lists(("verdict", "end_ns", "position", "src")), strict=True)
    ]
    assert len(rows) == COUNT
    assert {row[:3] for row in rows} == {("captured", None, None)}
    assert {row[3] for row in rows} == {"10.9.0.2"}
    assert session.metadata.section("timebase")["clock"] == "realtime"
    assert session.clock.realtime_ns(session.start_ns) == session.start_ns


def test_a_diagnosis_of_a_capture_finds_no_loss_that_it_did_not_see():
    diagnosis = Session(open_any(TAP)).diagnose()
    assert not diagnosis.findings
    assert not diagnosis.flows


def pcapng_block(kind, body):
    size = 12 + len(body)
    return struct.pack("<II", kind, size) + body + struct.pack("<I", size)


def pcapng(frame, *, flags=None, resolution=None, link=1, name=b"tap0"):
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    options = struct.pack("<HH", 2, len(name)) + name.ljust((len(name) + 3) // 4 * 4, b"\0")
    if resolution is not None:
        options += struct.pack("<HHB3x", 9, 1, resolution)
    interface = struct.pack("<HHI", link, 0, 0) + options + struct.pack("<HH", 0, 0)
    time = 1_787_313_600 * 10**9 + 123
    body = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(frame), len(frame) + 40)
    body += frame.ljust((len(frame) + 3) // 4 * 4, b"\0")
    if flags is not None:
        body += struct.pack("<HH4s", 1, 3, b"hi!") + struct.pack("<HHI", 2, 4, flags)
        body += struct.pack("<HH", 0, 0)
    return pcapng_block(0x0A0D0D0A, section) + pcapng_block(1, interface) + pcapng_block(6, body)


@pytest.mark.parametrize(("flags", "name"), [(1, "in"), (2, "out"), (None, "")])
def test_pcapng_says_interface_direction_and_resolution(tmp_path, flags, name):
    path = tmp_path / "a.pcapng"
    path.write_bytes(pcapng(b"x" * 61, flags=flags, resolution=9))
    columns, data, source = rows_of(path)
    assert data == [b"x" * 61]
    assert columns["length"].tolist() == [101]
    assert columns["time"].tolist() == [1_787_313_600 * 10**9 + 123]
    queue = source.metadata.section("queues")["1"]
    assert (queue["device"], queue["name"], queue["role"]) == ("tap0", name, "interface")


def test_a_cooked_capture_begins_at_the_network_header(tmp_path):
    path = tmp_path / "a.pcapng"
    head = struct.pack(">HHH8sH", 4, 1, 6, bytes(8), 0x0800)
    path.write_bytes(pcapng(head + b"E" * 20, link=113, resolution=9))
    columns, data, source = rows_of(path)
    assert data == [b"E" * 20]
    assert columns["flags"].tolist() == [Flag.NO_MAC]
    assert source.metadata.section("queues")["1"]["name"] == "out"


def test_a_link_that_is_not_known_is_said(tmp_path):
    path = tmp_path / "a.pcapng"
    path.write_bytes(pcapng(b"x" * 60, link=127, resolution=9))
    _, data, source = rows_of(path)
    assert data == [b""]
    assert "link type 127" in source.damage[0].reason


@pytest.mark.parametrize("kind", [PcapWriter, PcapNgWriter])
def test_a_capture_cut_anywhere_keeps_its_whole_frames(tmp_path, kind):
    data = write(tmp_path / "a", kind).read_bytes()
    whole = [bytes(packet) for packet in frames(COUNT)]
    path = tmp_path / "cut"
    for size in range(120, len(data), 97):
        path.write_bytes(data[:size])
        _, found, source = rows_of(path)
        assert found == whole[: len(found)]
    path.write_bytes(data[: len(data) - 3])
    _, found, source = rows_of(path)
    assert len(found) == COUNT - 1
    assert "ends inside of a record" in source.damage[0].reason


@pytest.mark.parametrize("kind", [PcapWriter, PcapNgWriter])
@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_end_in_a_sentence(tmp_path, kind, seed):
    data = bytearray(write(tmp_path / "a", kind).read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(24, len(data), 4).tolist():
        data[at] ^= 0xFF
    path = tmp_path / "damaged"
    path.write_bytes(bytes(data))
    # The header, which may refuse the file, stands before all that was changed.
    columns, found, _ = rows_of(path)
    assert len(found) == len(columns["time"]) <= COUNT
    Session(open_any(path), join=PacketJoin()).diagnose()


def test_a_size_that_is_a_lie_allocates_nothing(tmp_path):
    path = tmp_path / "a.pcap"
    data = bytearray(TAP.read_bytes())
    struct.pack_into("<I", data, 24 + 8, 0xFFFFFFF0)
    path.write_bytes(bytes(data))
    _, found, source = rows_of(path)
    assert not found
    assert "a frame of 4294967280 bytes" in source.damage[0].reason
