"""``trace.dat`` through trace-cmd: a file of version 6 that is made here, byte by byte."""

import shutil
import struct
from collections import Counter

import pytest

from parsers.opening import open_any
from vtrace.errors import InputError
from vtrace.model import Kind
from vtrace.session import Session

pytestmark = pytest.mark.skipif(shutil.which("trace-cmd") is None, reason="no trace-cmd")

PAGE = 4096
VQ = 0xFFFF888122C800C8

HEADER_PAGE = b"""\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;
"""
HEADER_EVENT = b"""\
# compressed entry header
\ttype_len    :    5 bits
\ttime_delta  :   27 bits
\tarray       :   32 bits

\tpadding     : type == 29
\ttime_extend : type == 30
\ttime_stamp : type == 31
\tdata max type_len  == 28
"""
COMMON = """\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""
# Name -> id, fields with their C types, and how the kernel prints them.
EVENTS = {
    "get_vq_desc": (
        1500,
        (("u64", "vq"), ("u32", "num"), ("u16", "last_avail"), ("u16", "last_used")),
        '"vq=0x%Lx num=%u last_avail=%u last_used=%u", '
        "REC->vq, REC->num, REC->last_avail, REC->last_used",
    ),
    "get_vq_desc_ret": (1501, (("s32", "ret"),), '"ret=%d", REC->ret'),
    "add_used_n": (
        1502,
        (("u64", "vq"), ("u32", "count"), ("u16", "last_avail"), ("u16", "last_used")),
        '"vq=0x%Lx count=%u last_avail=%u last_used=%u", '
        "REC->vq, REC->count, REC->last_avail, REC->last_used",
    ),
}
SIZES = {"u64": (8, "Q"), "u32": (4, "I"), "u16": (2, "H"), "s32": (4, "i")}


def form_of(name):
    number, fields, text = EVENTS[name]
    lines, at = "", 8
    for kind, field in fields:
        size = SIZES[kind][0]
        signed = int(kind[0] == "s")
        lines += f"\tfield:{kind} {field};\toffset:{at};\tsize:{size};\tsigned:{signed};\n"
        at += size
    head = f"name: {name}\nID: {number}\nformat:\n{COMMON}\n"
    return f"{head}{lines}\nprint fmt: {text}\n".encode()


def record(name, pid, *values):
    number, fields, _ = EVENTS[name]
    codes = "".join(SIZES[kind][1] for kind, _ in fields)
    data = struct.pack("<HBBi" + codes, number, 0, 0, pid, *values)
    return data.ljust((len(data) + 3) // 4 * 4, b"\0")


def page(start, events):
    """A page of the ring buffer: events are (ns behind the one before, record)."""
    data = b"".join(struct.pack("<I", len(body) // 4 | delta << 5) + body for delta, body in events)
    return (struct.pack("<QQ", start, len(data)) + data).ljust(PAGE, b"\0")


def sized(data, width="Q"):
    return struct.pack(f"<{width}", len(data)) + data


def trace_dat(pages):
    """A file with one CPU, clock mono."""
    data = b"\x17\x08\x44tracing6\0" + struct.pack("<BBI", 0, 8, PAGE)
    data += b"header_page\0" + sized(HEADER_PAGE) + b"header_event\0" + sized(HEADER_EVENT)
    data += struct.pack("<I", 0)
    data += struct.pack("<I", 1) + b"vh\0" + struct.pack("<I", len(EVENTS))
    data += b"".join(sized(form_of(name)) for name in EVENTS)
    data += sized(b"", "I") + sized(b"", "I") + sized(b"3643 vhost-3622\n")
    data += struct.pack("<I", 1) + b"options  \0"
    for number, value in ((4, b"local [mono] boot\0"), (5, b"Linux host 6.1.0 x86_64\0")):
        data += struct.pack("<H", number) + sized(value, "I")
    data += struct.pack("<H", 0) + b"flyrecord\0"
    start = (len(data) + 16 + PAGE - 1) // PAGE * PAGE
    data += struct.pack("<QQ", start, PAGE * len(pages))
    return data.ljust(start, b"\0") + b"".join(pages)


def chains(count):
    events = []
    for at in range(count):
        events.append((1000, record("get_vq_desc", 3643, VQ, 256, at, at)))
        events.append((200, record("get_vq_desc_ret", 3643, at)))
        events.append((3000, record("add_used_n", 3643, VQ, 1, at + 1, at)))
    return events


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "trace.dat"
    path.write_bytes(trace_dat([page(5_000_000_000, chains(23))]))
    return path


def test_a_trace_dat_is_read_through_trace_cmd(made):
    source = open_any(made)
    batches = list(source.batches())
    kinds = Counter(Kind(kind).name for batch in batches for kind in batch["kind"].tolist())
    assert kinds == {"POP": 23, "USED": 23}
    assert batches[0]["time"][:2].tolist() == [5_000_001_200, 5_000_004_200]
    known = source.metadata.sections
    assert known["timebase"]["clock"] == "monotonic"
    assert known["timebase"]["resolution_ns"] == 1
    assert known["host"]["kernel"] == "6.1.0"
    assert known["imported"]["tool"].startswith("trace-cmd ")
    assert known["queues"]["1"]["vm"] == "pid:3622"
    assert not source.damage
    (queue,) = Session(open_any(made)).summary().queues
    assert queue["chains"] == 23
    assert queue["stages"]["service"]["max_ns"] == 3000
    assert queue["kicks"]["sent"] is None


def test_a_trace_dat_that_is_cut_short_is_a_sentence(made, tmp_path):
    data = made.read_bytes()
    for size in (20, 300, 1500, len(data) - PAGE):
        path = tmp_path / "cut.dat"
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"cut\.dat: .*nothing of it could be read"):
            list(open_any(path).batches())


@pytest.mark.parametrize("at", range(14, 1400, 173))
def test_a_damaged_trace_dat_is_an_input_error_at_most(made, tmp_path, at):
    data = bytearray(made.read_bytes())
    data[at] ^= 0x5A
    path = tmp_path / "damaged.dat"
    path.write_bytes(bytes(data))
    assert 0 <= records_or_none(path) <= 46


def records_or_none(path):
    try:
        return sum(len(batch) for batch in open_any(path).batches())
    except InputError:
        return 0
