"""Ring samples: read from memory as the specification lays it out, and never more than that."""

import ctypes
import mmap
import os
import struct

import pytest

from parsers.batch import Metadata, joined
from probes.ringsample import Place, RingSampler, places_of, read_memory

SIZE = 256
AVAIL_BYTES, USED_BYTES = 6 + 2 * SIZE, 6 + 8 * SIZE
NAMES = ("avail_flags", "avail", "used_event", "used_flags", "used", "avail_event")


class Ring:
    """A split ring in shared memory, at its addresses in this process."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 3 * mmap.PAGESIZE)
        view = ctypes.c_char.from_buffer(self.memory)
        self.avail = ctypes.addressof(view)
        self.used = self.avail + mmap.PAGESIZE
        del view

    def set(self, **values):
        for name, value in values.items():
            self.memory[self._at(name) : self._at(name) + 2] = struct.pack("<H", value)

    def _at(self, name):
        return {
            "avail_flags": 0,
            "avail": 2,
            "used_event": AVAIL_BYTES - 2,
            "used_flags": mmap.PAGESIZE,
            "used": mmap.PAGESIZE + 2,
            "avail_event": mmap.PAGESIZE + USED_BYTES - 2,
        }[name]

    def place(self, **other):
        values = {"queue": 3, "pid": os.getpid(), "avail": self.avail, "used": self.used}
        return Place(**(values | {"size": SIZE} | other))


@pytest.fixture
def ring():
    made = Ring()
    made.set(avail_flags=1, avail=65535, used_event=7, used_flags=0, used=65279, avail_event=65530)
    return made


def test_every_field_is_read_from_its_place(ring):
    rows = RingSampler(lambda: [ring.place()]).sample()
    row = rows["3"]
    assert [row[name] for name in NAMES] == [1, 65535, 7, 0, 65279, 65530]
    assert 0 < row["lo_ns"] <= row["hi_ns"]


def test_another_process_is_read(ring):
    # The child's own copy: not what this process has at that address.
    own = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(own))
    ready, told = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        own[:4] = b"ring"
        os.write(told, b"x")
        os.read(wait, 1)
        os._exit(0)
    os.read(ready, 1)
    try:
        assert read_memory(child, ((address, 4),)) == b"ring"
        assert own[:4] == bytes(4)
    finally:
        os.write(go, b"x")
        os.waitpid(child, 0)
        for fd in (ready, told, wait, go):
            os.close(fd)
    assert read_memory(child, ((address, 4),)) is None


def test_only_news_is_given_out(ring):
    ring.set(used_event=65279)
    sampler = RingSampler(lambda: [ring.place()])
    assert list(sampler.sample()) == ["3"]
    assert sampler.sample() == {}
    ring.set(avail=0)
    assert sampler.sample()["3"]["avail"] == 0
    assert sampler.sample() == {}
    assert list(sampler.sample(whole=True)) == ["3"]


def test_a_ring_whose_driver_has_not_looked_is_given_out_again(ring):
    ring.set(used=10, used_event=9)
    sampler = RingSampler(lambda: [ring.place()])
    first, second = sampler.sample()["3"], sampler.sample()["3"]
    assert first["used_event"] == second["used_event"] == 9
    assert second["lo_ns"] >= first["hi_ns"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 65535},
        {"size": -1},
        {"avail": 0},
        {"used": 0},
        {"avail": (1 << 64) - 4},
        {"used": 1 << 63},
        {"avail": 4096},
        {"pid": 0},
        {"pid": -1},
        {"pid": 1 << 30},
    ],
)
def test_what_cannot_be_read_is_not_seen(ring, wrong):
    (row,) = RingSampler(lambda: [ring.place(**wrong)]).sample().values()
    assert set(row) == {"lo_ns", "hi_ns"}


def test_half_a_ring_is_not_seen(ring):
    # The used ring ends where nothing is mapped.
    gap = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(gap))
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    try:
        place = ring.place(used=address + mmap.PAGESIZE - 8)
        (row,) = RingSampler(lambda: [place]).sample().values()
        assert set(row) == {"lo_ns", "hi_ns"}
    finally:
        libc.mprotect(ctypes.c_void_p(address + mmap.PAGESIZE), mmap.PAGESIZE, 3)


def test_a_ring_that_changes_its_place_meanwhile_is_not_seen(ring):
    rounds = iter([[ring.place()], [ring.place(avail=ring.avail + 4096)], [], [ring.place()]])
    sampler = RingSampler(lambda: next(rounds))
    assert sampler.sample() == {}
    assert sampler.sample() == {}


def test_a_reader_that_fails_or_says_too_little_is_not_believed(ring):
    def fails(pid, parts):
        raise OSError

    for read in (fails, lambda pid, parts: b"123", lambda pid, parts: None):
        (row,) = RingSampler(lambda: [ring.place()], read).sample().values()
        assert set(row) == {"lo_ns", "hi_ns"}


class Entry(ctypes.Structure):
    """As struct queue_state of include/vtrace_bpf.h."""

    _fields_ = (
        ("avail", ctypes.c_uint64), ("used", ctypes.c_uint64), ("num", ctypes.c_uint32),
        ("tgid", ctypes.c_uint32), ("id", ctypes.c_uint16),
    )  # fmt: skip


def test_rings_without_an_id_or_an_address_are_left_out():
    table = {
        1: Entry(avail=4096, used=8192, num=256, tgid=7, id=5),
        2: Entry(avail=4096, used=8192, num=256, tgid=7, id=0),
        3: Entry(avail=0, used=0, num=256, tgid=7, id=6),
    }
    assert places_of(table) == [Place(queue=5, pid=7, avail=4096, used=8192, size=256)]
    assert places_of(None) == []


def test_rings_that_are_not_repeated_keep_their_row():
    metadata = Metadata()
    metadata.update({"rings": {"1": {"avail": 1}, "2": {"avail": 2}}})
    metadata.update({"rings": {"2": {"avail": 3}}})
    assert metadata.section("rings") == {"1": {"avail": 1}, "2": {"avail": 3}}
    both = joined({"rings": {"1": {"avail": 1}}}, {"rings": {"2": {"avail": 2}}})
    assert both == {"rings": {"1": {"avail": 1}, "2": {"avail": 2}}}


def test_no_address_is_given_out(ring):
    rows = RingSampler(lambda: [ring.place()]).sample(whole=True)
    (row,) = rows.values()
    assert set(row) == {"lo_ns", "hi_ns", *NAMES}
    times = {"lo_ns", "hi_ns"}
    assert all(value < 1 << 16 for name, value in row.items() if name not in times)
