"""pcapng files: read by tshark and capinfos, held against what vtrace packets prints."""

import json
import re
import shutil
import struct
import subprocess
from collections import Counter

import numpy as np
import pytest

from tests.cli import recordings
from tests.cli.story import RX, Story, small
from vtrace.model import Flag, Kind

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")

FIELDS = (
    "frame.interface_name", "frame.interface_description", "frame.interface_queue",
    "frame.packet_id", "frame.verdict.ebpf_tc", "frame.drop_count", "frame.packet_flags",
    "frame.time_epoch", "frame.len", "frame.cap_len", "frame.comment",
)  # fmt: skip


def tool(*arguments):
    done = subprocess.run(
        [str(one) for one in arguments],
        capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if not line.startswith("Running as user")]
    assert (done.returncode, said) == (0, []), "it does not open clean"
    return done.stdout


def packets_of(path):
    """Return what tshark says of each packet, as FIELDS."""
    lines = tool(
        "tshark", "-n", "-r", path, "-T", "fields", "-E", "separator=|",
        *(word for name in FIELDS for word in ("-e", name)),
    ).splitlines()  # fmt: skip
    return [dict(zip(FIELDS, line.split("|"), strict=True)) for line in lines]


def blocks_of(path):
    """Return (kind, body) of each block, with sizes checked at both ends."""
    data, found = path.read_bytes(), []
    while data:
        kind, size = struct.unpack_from("<II", data)
        assert size % 4 == 0
        assert struct.unpack_from("<I", data, size - 4)[0] == size
        found.append((kind, data[8 : size - 4]))
        data = data[size:]
    return found


def options_of(data):
    """Return code -> value of options."""
    found = {}
    while data:
        code, size = struct.unpack_from("<HH", data)
        if not code:
            break
        found[code] = data[4 : 4 + size]
        data = data[4 + size + -size % 4 :]
    return found


@pytest.fixture
def captured(vtrace, tmp_path):
    """Return a function that exports a recording to pcapng."""

    def run(path, *options, code=0):
        out = tmp_path / "out.pcapng"
        done = vtrace("export", path, "-o", out, *options)
        assert done.code == code, done.err
        return out

    return run


VERDICTS = {"delivered": "0", "sent": "0", "dropped": "2", "waiting": "", "in_flight": ""}


def check_against_rows(path, packets, lifecycles, realtime):
    """Assert that a capture holds packets, each with what is known of it, in order."""
    found = packets_of(path)
    packets = sorted(packets, key=lambda row: row["time_ns"])
    chains = {(r["queue_id"], r["generation"], r["position"]): r for r in lifecycles}
    assert len(found) == len(packets) > 0
    for one, row in zip(found, packets, strict=True):
        names = [row[name] for name in ("vm", "device", "queue") if row[name]]
        assert one["frame.interface_name"] == " ".join(names)
        assert one["frame.interface_queue"] == str(row["queue_id"])
        assert one["frame.packet_id"] == str(row["packet"] or "")
        assert one["frame.verdict.ebpf_tc"] == VERDICTS[row["verdict"]]
        wall = row["time_ns"] + realtime
        assert one["frame.time_epoch"] == f"{wall // 10**9}.{wall % 10**9:09d}"
        assert one["frame.cap_len"] == str(row["captured_bytes"] or 0)
        assert int(one["frame.len"]) == max(row["frame_bytes"] or 0, row["captured_bytes"] or 0)
        flags = int(one["frame.packet_flags"], 16)
        assert flags & 3 == {"rx": 1, "tx": 2, "none": 0}[row["direction"]]
        assert flags >> 9 & 1 == (row["checksum"] == "offloaded")
        check_comment(one["frame.comment"], row, chains)
    return found


def check_comment(text, row, chains):
    head, *rest = text.split("; ")
    assert head.split(":")[0] == row["verdict"]
    if row["verdict"] == "dropped":
        reason = row["reason"] or "no reason seen"
        place = f" in {row['location']}" if row["location"] else ""
        assert head == f"dropped: {reason}{place}"
    if row["position"] is not None:
        generation = f" generation {row['generation']}" if row["generation"] else ""
        assert rest[0] == f"chain {row['position']} head {row['head']}{generation}"
    stages = {name: int(ns) for name, ns in re.findall(r"(\w+) (\d+) ns", text)}
    chain = chains.get((row["queue_id"], row["generation"], row["position"]), {})
    assert stages == {
        name.removesuffix("_ns"): value
        for name, value in chain.items()
        if name.removesuffix("_ns") in STAGES and value is not None
    }
    assert ("; checksum " in text) == (row["checksum"] is not None)


STAGES = ("idle", "notify", "schedule", "queueing", "service", "complete", "interrupt", "reap")


@needs_tshark
@pytest.mark.parametrize("name", ["quiet", "ringfull", "starving"])
def test_a_bundled_recording_is_what_packets_prints(name, root, rows, vtrace, captured):
    path = root / "examples" / "traces" / f"{name}.vtrace"
    from parsers.tracefile import open_trace

    with open_trace(path) as trace:
        trace.scan()
        (anchor, *_) = trace.metadata.section("clock")
    out = captured(path)
    found = check_against_rows(
        out,
        rows("packets", path),
        rows("lifecycles", path),
        anchor["realtime_ns"] - anchor["monotonic_ns"],
    )
    report = json.loads(vtrace("report", "--json", path).out)
    dropped = [one for one in found if one["frame.verdict.ebpf_tc"] == "2"]
    assert len(dropped) == sum(drop["packets"] for drop in report["drops"])
    assert len(found) - len(dropped) == sum(queue["packets"] for queue in report["queues"])
    places = Counter(one["frame.interface_name"] for one in found if one not in dropped)
    wanted = {f"{q['vm']} {q['device']} {q['queue']}": q["packets"] for q in report["queues"]}
    assert places == {name: count for name, count in wanted.items() if count}
    assert "Strict time order:   True" in tool("capinfos", "-o", out)


@needs_tshark
def test_drops_are_counted_at_the_packet_behind_them(busy, rows, captured):
    out = captured(busy)
    found = check_against_rows(
        out, rows("packets", busy), rows("lifecycles", busy), recordings.REALTIME - FIRST
    )
    since = Counter()
    for one in found:
        name = one["frame.interface_name"]
        if one["frame.verdict.ebpf_tc"] == "2":
            since[name] += 1
            assert one["frame.drop_count"] == ""
        else:
            assert one["frame.drop_count"] == str(since.pop(name, 0))
    assert any(one["frame.drop_count"] not in ("", "0") for one in found)


FIRST = 1_000_000_000
"""Time of the first record of ``busy``, at which its clock is told."""


def test_a_story_block_by_block(told, captured):
    blocks = blocks_of(captured(told))
    assert [kind for kind, _ in blocks] == [0x0A0D0D0A, 1, 1, 6, 6, 6, 6, 6, 5, 5]
    section = options_of(blocks[0][1][16:])
    assert section[4].startswith(b"vtrace ")
    assert section[3] == b"Linux 6.12.0-test x86_64"
    assert b"told.vtrace" in section[1]
    rx = blocks[1][1]
    assert struct.unpack_from("<HHI", rx) == (1, 0, 0)
    assert options_of(rx[8:]) == {
        2: b"cpx net0 rx0",
        3: b"queue_id 1, rx, vhost, split, tap tap0",
        9: b"\x09",
    }
    received = [options_of(body[12:]) for kind, body in blocks if kind == 5]
    assert [struct.unpack("<Q", one[4])[0] for one in received] == [3, 2]
    assert [struct.unpack("<Q", one[7])[0] for one in received] == [1, 1]
    said = f"vtrace lost 0 of {len(small().told)} records".encode()
    assert [one[1] for one in received] == [said, said]
    frames = []
    for kind, body in blocks:
        if kind == 6:
            _, high, low, size, length = struct.unpack_from("<IIIII", body)
            frames.append(((high << 32 | low) - recordings.REALTIME, length, body[20 : 20 + size]))
    assert frames == [
        (at, length, recordings.udp(number, length=length, ports=ports))
        for at, length, number, ports in (
            (10_000, 142, 11, (5001, 7001)), (11_000, 1514, 12, (5001, 7001)),
            (11_500, 90, 13, (5001, 7001)), (36_000, 100, 21, (7001, 53)),
            (36_300, 100, 22, (7001, 53)),
        )
    ]  # fmt: skip


@needs_tshark
def test_what_is_beside_the_frame_is_said(tmp_path, captured):
    told = Story()
    told.add(0, Kind.START, queue=RX, flags=int(Flag.POSITION | Flag.USED))
    frame = recordings.udp(1, length=3000)
    told.add(10, Kind.ENQUEUE, frame, packet=1, queue=RX, length=3000, hdr_flags=1, gso_type=1,
             gso_size=1448, vlan_tci=0x2005)  # fmt: skip
    told.add(20, Kind.ENQUEUE, b"\xff" * 6 + frame[6:], packet=2, queue=RX, length=3000,
             hdr_flags=2, gso_type=0x84, gso_size=1440)  # fmt: skip
    told.add(30, Kind.ENQUEUE, b"\x33" * 6 + frame[6:], packet=3, queue=RX, length=3000)
    told.add(40, Kind.DROP, frame[14:], packet=9, queue=RX, length=50, ret=6, address=5,
             flags=int(Flag.NO_MAC))  # fmt: skip
    found = packets_of(captured(told.write(tmp_path / "beside.vtrace")))
    assert [one["frame.comment"] for one in found] == [
        "waiting; checksum offloaded; gso TCPv4 1448; vlan 5 beside the frame",
        "waiting; checksum valid; gso TCPv6 1440",
        "waiting; checksum plain",
        "dropped: SOCKET_RCVBUFF in udp_queue_rcv_one_skb; checksum plain",
    ]
    # Direction, unicast/broadcast/multicast, checksum not ready, valid, segmentation.
    flags = [int(one["frame.packet_flags"], 16) for one in found]
    assert flags == [1 | 1 << 2 | 1 << 9 | 1 << 11, 1 | 3 << 2 | 1 << 10 | 1 << 11, 1 | 2 << 2, 1]
    assert "without Ethernet header" in found[3]["frame.interface_description"]
    protocols = tool("tshark", "-n", "-r", tmp_path / "out.pcapng", "-T", "fields", "-e", "ip.dst")
    assert protocols.splitlines()[3] == "10.9.0.2"


@needs_tshark
def test_only_what_matches_is_in_it(busy, rows, captured):
    out = captured(busy, "-Y", "verdict == dropped", "--queue", "rx0")
    wanted = rows("packets", busy, "-Y", "verdict == dropped", "--queue", "rx0")
    assert [one["frame.packet_id"] for one in packets_of(out)] == [
        str(row["packet"]) for row in sorted(wanted, key=lambda row: row["time_ns"])
    ]


@needs_tshark
def test_a_recording_without_a_clock_says_so(tmp_path, captured):
    for number, clock in enumerate(
        ([], [{"monotonic_ns": 1, "realtime_ns": -(1 << 70)}], [{"monotonic_ns": "x"}])
    ):
        told = small()
        meta = told.meta() | {"clock": clock}
        told.meta = lambda meta=meta: meta
        out = captured(told.write(tmp_path / f"{number}.vtrace"))
        assert packets_of(out)[0]["frame.time_epoch"] == "1.000010000"
        section = options_of(blocks_of(out)[0][1][16:])
        assert b"times count from the start of the machine" in section[1]


@needs_tshark
def test_names_cannot_steer_a_view(tmp_path, captured):
    told = small()
    meta = told.meta()
    for queue in meta["queues"].values():
        queue["device"] = "net0\x1b[2J\u202e\ud800" + "x" * 100_000
    meta["reasons"] = {str(recordings.FULL_RING): "FULL\n\x07" + "y" * 100_000}
    told.meta = lambda: meta
    found = packets_of(captured(told.write(tmp_path / "evil.vtrace")))
    assert found[0]["frame.interface_name"].startswith("cpx net0\\x1b[2J\\u202e\\ud800xxx")
    assert max(len(one["frame.interface_name"]) for one in found) <= 100
    assert any("dropped: FULL\\n\\x07yyy" in one["frame.comment"] for one in found)
    assert max(len(one["frame.comment"]) for one in found) < 400


def test_what_a_full_wait_lets_go_is_said(monkeypatch):
    from parsers.batch import Snaps
    from vtrace.export import waiting
    from vtrace.session import Packets
    from vtrace.tables import PACKET

    monkeypatch.setattr(waiting, "MOST_PACKETS", 8)
    held = waiting.InOrder()
    gone = []
    for times in ([50, 60], [40, 45, 70], range(100, 110), [10]):
        rows = np.zeros(len(times), PACKET)
        rows["time"] = list(times)
        offsets = np.zeros(len(times) + 1, np.int64)
        snaps = Snaps(rows=np.arange(len(times)), header=np.zeros(len(times), "u1"),
                      offsets=offsets, data=np.zeros(0, np.uint8))  # fmt: skip
        held.add(Packets(rows, snaps), np.zeros(len(times), waiting.STAGED))
        ready = held.take(42)
        gone += [] if ready is None else ready[0].rows["time"].tolist()
    assert gone[:7] == [40, 45, 50, 60, 70, 100, 101]
    rest = held.take(None)
    gone += rest[0].rows["time"].tolist()
    assert sorted(gone) == [10, 40, 45, 50, 60, 70, *range(100, 110)]
    assert held.out_of_order == 1
