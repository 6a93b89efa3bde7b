"""QEMU's trace events: a real QEMU's log against what its guest did; simpletrace made by hand."""

import re
import shutil
import struct
import subprocess
from collections import Counter

import pytest

from parsers.opening import open_any
from vtrace.errors import InputError
from vtrace.model import Kind
from vtrace.session import Session

READS = 13
"""Sectors that the boot sector reads, one request for each."""

# mov cx,13; again: push cx; mov ax,0x0201; mov bx,0x7e00; mov cx,1; mov dx,0x0080; int 0x13;
# pop cx; loop again; mov al,0; out 0xf4,al; cli; hlt; jmp back
BOOT = bytes.fromhex("b9") + READS.to_bytes(2, "little")
BOOT += bytes.fromhex("51b80102bb007eb90100ba8000cd1359e2ee")
BOOT += bytes.fromhex("b000e6f4faf4ebfc")
BOOT = BOOT.ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """What QEMU logs of a boot sector that reads: with times and without."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("no QEMU (qemu-system-x86_64)")
    folder = tmp_path_factory.mktemp("qemu")
    (folder / "disk").write_bytes(BOOT.ljust(1 << 20, b"\0"))
    found = {}
    for times in ("on", "off"):
        log = folder / f"{times}.log"
        command = [qemu, "-M", "pc", "-m", "32", "-display", "none", "-nodefaults"]
        command += ["-drive", f"file={folder / 'disk'},format=raw,if=none,id=d"]
        command += [
            "-device",
            "virtio-blk-pci,drive=d",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=1",
        ]
        command += ["-trace", "virtqueue_*", "-trace", "virtio_*"]
        command += ["-msg", f"timestamp={times}", "-D", str(log)]
        subprocess.run(command, timeout=20, check=False, capture_output=True)
        found[times] = log
    return found


def records(path):
    source = open_any(path)
    rows = []
    for batch in source.batches():
        rows += zip(*(batch[n].tolist() for n in ("kind", "queue", "head", "length")), strict=True)
    return rows, source


def test_a_log_has_a_record_for_each_of_its_lines(logs):
    text = logs["on"].read_text()
    names = Counter(re.findall(r"^\d+@[\d.]+:(\w+)", text, re.MULTILINE))
    rows, source = records(logs["on"])
    kinds = Counter(Kind(row[0]).name for row in rows)
    # The BIOS reads the boot sector itself.
    assert kinds["POP"] == names["virtqueue_pop"] == READS + 1
    assert kinds["USED"] == names["virtqueue_fill"] == READS + 1
    assert kinds["FLUSH"] == names["virtqueue_flush"]
    assert kinds["RUN"] == names["virtio_queue_notify"]
    told = source.metadata.section("imported")["events"]
    assert {name: row["count"] for name, row in told.items()} == names
    assert not source.damage


def test_chains_of_a_log_are_told_apart_and_served(logs):
    session = Session(open_any(logs["on"]))
    (table,) = [chunk.lifecycles for chunk in session.chunks() if len(chunk.lifecycles)]
    assert len(table) == READS + 1
    assert set(table.lists(("outcome",))[0]) == {"used"}
    # A sector, and the byte of status.
    assert set(table.lists(("used_bytes",))[0]) == {513}
    assert all(value > 0 for value in table.lists(("service_ns",))[0])
    assert set(table.lists(("kick_state",))[0]) == {"not_probed"}
    assert set(table.lists(("irq_state",))[0]) == {"not_probed"}
    for column in ("position", "head", "readable_bytes", "writable_bytes"):
        assert set(table.lists((column,))[0]) == {None}, column
    assert set(table.lists(("descriptors",))[0]) == {3}
    assert session.clock.text(session.start_ns)
    assert session.metadata.section("timebase")["clock"] == "realtime"


def test_a_log_without_times_has_none(logs):
    session = Session(open_any(logs["off"]))
    (table,) = [chunk.lifecycles for chunk in session.chunks() if len(chunk.lifecycles)]
    assert len(table) == READS + 1
    for column in ("time_ns", "pop_ns", "used_ns", "service_ns"):
        assert set(table.lists((column,))[0]) == {None}, column
    summary = Session(open_any(logs["off"])).summary()
    (queue,) = summary.queues
    assert queue["stages"] == {}
    assert queue["kicks"]["sent"] is None
    assert session.duration_ns == 0


def test_other_lines_of_stderr_are_passed_over(tmp_path):
    path = tmp_path / "a.log"
    path.write_text(
        "qemu: warning: host doesn't support requested feature\n"
        "7@5.000001:virtqueue_pop vq 0x10 elem 0x20 in_num 1 out_num 0\n"
        "virtqueue_pop vq\n"
        "7@5.000003:virtqueue_fill vq 0x10 elem 0x20 len 4 idx 0\n"
        "7@5.000004:virtqueue_flush vq 0x10 count 1\n"
    )
    rows, _ = records(path)
    assert [row[0] for row in rows] == [Kind.POP, Kind.USED, Kind.FLUSH]


def test_a_log_without_events_that_are_known_says_what_to_trace(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("7@5.000001:memory_region_ops_read cpu 0\n")
    with pytest.raises(InputError, match="-trace 'virtqueue_"):
        list(open_any(path).batches())


# Simpletrace, as trace/simple.c writes it

NAMES = {
    3: ("virtqueue_pop", 4),
    9: ("virtqueue_fill", 4),
    11: ("virtqueue_flush", 2),
    20: ("qmp_job", 1),
}


def simple(events, version=4, mark="<"):
    """A trace: events are (time, id, arguments), or (time, None, how many were dropped)."""
    data = struct.pack(f"{mark}QQQ", 2**64 - 1, 0xF2B177CB0AA429B4, version)
    for number, (name, _) in NAMES.items():
        data += struct.pack(f"{mark}QQI", 0, number, len(name)) + name.encode()
    for time, number, arguments in events:
        if number is None:
            number, arguments = 2**64 - 2, (arguments,)
        body = struct.pack(f"{mark}{len(arguments)}Q", *arguments)
        data += struct.pack(f"{mark}QQQII", 1, number, time, 24 + len(body), 4242) + body
    return data


EVENTS = [
    (1000, 3, (0x7F00, 0x8800, 1, 2)),
    (1500, 20, (5,)),
    (2000, 9, (0x7F00, 0x8800, 513, 0)),
    (2100, 11, (0x7F00, 1)),
    (2200, None, 3),
    (2300, 3, (0x7F00, 0x9900, 1, 1)),
]


@pytest.mark.parametrize("mark", "<>")
def test_a_simple_trace_is_read(tmp_path, mark):
    path = tmp_path / "trace-4242"
    path.write_bytes(simple(EVENTS, mark=mark))
    source = open_any(path)
    batch, last = source.batches()
    assert [Kind(kind).name for kind in batch["kind"]] == ["POP", "USED", "FLUSH", "POP"]
    assert batch["time"].tolist() == [1000, 2000, 2100, 2300]
    assert batch["count"].tolist() == [3, 1, 1, 2]
    assert batch["length"].tolist() == [0, 513, 0, 0]
    # A gap where QEMU dropped some.
    assert batch["seq"].tolist() == [1, 2, 3, 7]
    assert source.metadata.section("counts")["NONE"]["lost"] == 3
    assert last.meta["imported"]["events"]["qmp_job"] == {"count": 1, "as": None}
    assert source.metadata.section("queues")["1"]["vm"] == "pid:4242"
    assert not source.damage


def test_a_simple_trace_cut_anywhere_keeps_what_is_whole(tmp_path):
    data = simple(EVENTS)
    path = tmp_path / "trace"
    whole = len(EVENTS)
    for size in range(24, len(data), 7):
        path.write_bytes(data[:size])
        source = open_any(path)
        count = sum(len(batch) for batch in source.batches())
        assert count <= whole - 2
    assert source.damage


def test_a_simple_trace_of_another_version_says_what_reads_it(tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(simple(EVENTS, version=3))
    with pytest.raises(InputError, match=r"version 3, .*scripts/simpletrace\.py"):
        list(open_any(path).batches())


@pytest.mark.parametrize("at", range(120, 260, 9))
def test_a_damaged_simple_trace_ends_in_a_sentence(tmp_path, at):
    data = bytearray(simple(EVENTS))
    data[at] ^= 0xFF
    path = tmp_path / "trace"
    path.write_bytes(bytes(data))
    source = open_any(path)
    session = Session(source)
    session.summary()
    assert all(damage.reason for damage in source.damage)
