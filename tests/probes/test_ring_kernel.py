"""The reading end of a ring against the kernel's own: vtrace's way to write a record, run by the
kernel's test runner (``BPF_PROG_TEST_RUN``) a counted number of times on two CPUs at once.
"""

import ctypes
import os
import threading
from importlib import resources

import numpy as np
import pytest

from parsers import wire
from probes import loader, preflight
from probes.ring import Ring
from tests.probes.need import need_bpf
from vtrace.model import Kind

pytestmark = [
    pytest.mark.root,
    # bcc would rather have bytes than text; it takes both.
    pytest.mark.filterwarnings("ignore:not a bytes object:DeprecationWarning"),
]

SNAP = 128
PACKET = wire.packet_dtype(SNAP)
RECORDS = 10_007
PACKETS_EVERY, DISCARDS_EVERY = 5, 7

PROGRAM = """
/* An event each time it runs, a packet at every fifth, and every seventh event thrown away. */
int vt_test(struct xdp_md *ctx)
{
	u32 zero = 0;
	u64 now = bpf_ktime_get_ns();
	struct vtrace_record *r = vt_begin(VTRACE_KIND_KICK, now, 7);
	if (r) {
		r->address = ~now;
		r->length = r->seq * 3;
		if (DISCARDS && r->seq % 7 == 0)
			events.ringbuf_discard(r, BPF_RB_NO_WAKEUP);
		else
			vt_submit(r);
	}
	u32 *seq = sequence.lookup(&zero);
	struct packet_record *p = scratch.lookup(&zero);
	if (!PACKETS || !seq || !p || *seq % 6 != 5)
		return XDP_PASS;
	u32 before = *seq;
	vt_head(&p->record, VTRACE_KIND_DROP, now, vt_next_seq(), 9);
	p->record.length = before;
	p->snap.captured = 16;
	__builtin_memset(p->bytes, before, 16);
	vt_output(p);
	return XDP_PASS;
}
"""


class TestRun(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf."""

    __test__ = False
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("context_in", ctypes.c_void_p),
        ("context_out", ctypes.c_void_p),
        ("context_size_in", ctypes.c_uint32),
        ("context_size_out", ctypes.c_uint32),
        ("result", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Writer:
    """The test program in the kernel, with the rings that it fills."""

    def __init__(self, event_bytes, *, packets=False, discards=False):
        from bcc import BPF

        page = os.sysconf("SC_PAGESIZE")
        macros = {
            "OFF_DEV_IFINDEX": 0,
            "OFF_DEV_NAME": 0,
            "CPU_COUNT": os.cpu_count(),
            "CALL_COUNT": 1,
            "SNAP_BYTES": SNAP,
            "EVENT_PAGES": event_bytes // page,
            "PACKET_PAGES": (1 << 20) // page,
            "PACKETS": int(packets),
            "DISCARDS": int(discards),
        }
        include = resources.files("probes") / "include"
        text = "\n".join(
            [*((include / name).read_text() for name in ("vtrace_wire.h", "vtrace_bpf.h")), PROGRAM]
        )
        flags = [f"-D{name}={value}" for name, value in macros.items()]
        self.bpf = loader._compile(text, [*flags, "-Wno-unused-function"])
        self.function = self.bpf.load_func(b"vt_test", BPF.XDP)
        self.events = Ring.of_map(self.bpf["events"].map_fd, event_bytes, wire.RECORD)
        self.packets = Ring.of_map(self.bpf["packets"].map_fd, 1 << 20, PACKET)
        self._libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)

    def run(self, cpu, times):
        os.sched_setaffinity(0, {cpu})
        options = TestRun(
            size=ctypes.sizeof(TestRun), data_in=bytes(64), data_size_in=64, repeat=times
        )
        failed = self._libbpf.bpf_prog_test_run_opts(self.function.fd, ctypes.byref(options))
        if failed:
            raise OSError(ctypes.get_errno(), "BPF_PROG_TEST_RUN")

    def start(self, times):
        """Run the program on two CPUs (or one, if there is no other), so often on each."""
        cpus = sorted(os.sched_getaffinity(0))[:2]
        threads = [threading.Thread(target=self.run, args=(cpu, times)) for cpu in cpus]
        for thread in threads:
            thread.start()
        return cpus, threads

    def counts(self):
        """Return {kind: (produced, lost)} as the probes count them."""
        table = self.bpf["counts"]
        found = {}
        for kind in Kind:
            row = table[ctypes.c_int(kind)]
            totals = (sum(cpu.produced for cpu in row), sum(cpu.lost for cpu in row))
            if any(totals):
                found[kind] = totals
        return found

    def close(self):
        self.bpf.cleanup()


@pytest.fixture
def writer():
    need_bpf()
    if preflight.kernel_headers() is None:
        pytest.skip("no kernel headers (Debian: apt install linux-headers-amd64)")
    made = []

    def make(*args, **options):
        made.append(Writer(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def drain(ring):
    view, whole = ring.take()
    rows = view.copy()
    ring.release()
    return rows, whole


def read_while(ring, threads):
    """Read until the writers have ended and the ring is empty."""
    parts = []
    while True:
        running = any(thread.is_alive() for thread in threads)
        rows, whole = drain(ring)
        parts.append(rows)
        if not running and whole:
            return np.concatenate(parts)


def sequences(cpus, *parts):
    """Return {cpu: its sequence numbers in the order in which they were read}."""
    rows = np.concatenate(parts)
    assert set(rows["cpu"].tolist()) <= set(cpus)
    return {cpu: rows["seq"][rows["cpu"] == cpu] for cpu in cpus}


def test_every_record_arrives_in_the_order_of_its_cpu(writer):
    # The ring holds them all: the reader is as slow as it likes.
    kernel = writer(1 << 21)
    cpus, threads = kernel.start(RECORDS)
    rows = read_while(kernel.events, threads)
    assert len(rows) == RECORDS * len(cpus)
    for found in sequences(cpus, rows).values():
        assert (found == np.arange(1, RECORDS + 1)).all()
    assert kernel.counts() == {Kind.KICK: (RECORDS * len(cpus), 0)}
    assert (kernel.events.pending_bytes, kernel.events.discarded) == (0, 0)
    # And every field of each.
    assert (rows["address"] == ~rows["time"]).all()
    assert (rows["length"] == rows["seq"] * 3).all()
    assert set(rows["kind"]) == {Kind.KICK}
    assert set(rows["queue"]) == {7}
    for cpu in cpus:
        assert (np.diff(rows["time"][rows["cpu"] == cpu].astype(np.int64)) >= 0).all()


def test_discarded_records_and_both_rings(writer):
    kernel = writer(1 << 21, packets=True, discards=True)
    cpus, threads = kernel.start(RECORDS)
    events = read_while(kernel.events, threads)
    packets, whole = drain(kernel.packets)
    assert whole
    counts = kernel.counts()
    assert counts[Kind.KICK] == (RECORDS * len(cpus), 0)
    assert counts[Kind.DROP] == (len(packets), 0)
    assert len(events) + kernel.events.discarded == RECORDS * len(cpus)
    assert kernel.events.discarded > RECORDS / 10
    assert len(packets) > RECORDS / 10
    # One number a CPU for both rings; what is missing is what was thrown away.
    assert not (events["seq"] % 7 == 0).any()
    for found in sequences(cpus, events, packets["record"]).values():
        assert len(np.unique(found)) == len(found)
        missing = np.setdiff1d(np.arange(1, found.max() + 1), found)
        assert (missing % 7 == 0).all()
    assert (packets["bytes"][:, :16] == (packets["record"]["length"] & 0xFF)[:, None]).all()
    assert set(packets["snap"]["captured"]) == {16}


def test_a_reader_held_back_loses_exactly_what_is_counted(writer):
    size = 1 << 16
    kernel = writer(size)
    cpus, threads = kernel.start(RECORDS)
    for thread in threads:
        thread.join()
    # Nothing has been read: the ring is full, to the last place.
    assert size - 72 <= kernel.events.pending_bytes < size
    held, whole = drain(kernel.events)
    assert whole
    assert len(held) == (size - 1) // 72
    # Then it is read for a while, and falls behind again and again.
    again, threads = kernel.start(RECORDS)
    received = [held]
    while any(thread.is_alive() for thread in threads):
        received.append(drain(kernel.events)[0])
        threads[0].join(0.0005)
    received.append(read_while(kernel.events, threads))
    rows = np.concatenate(received)
    produced, lost = kernel.counts()[Kind.KICK]
    assert produced == 2 * RECORDS * len(cpus)
    assert again == cpus
    assert lost >= RECORDS * len(cpus) - len(held) > 0
    assert produced == len(rows) + lost
    assert kernel.events.pending_bytes == 0
    # A gap in the numbers is a lost record, and there is no other.
    for found in sequences(cpus, rows).values():
        assert (np.diff(found.astype(np.int64)) > 0).all()
        assert found.max() <= 2 * RECORDS
    assert (rows["address"] == ~rows["time"]).all()


def test_the_next_reader_takes_what_the_last_left(writer):
    kernel = writer(1 << 16)
    kernel_cpu = min(os.sched_getaffinity(0))
    thread = threading.Thread(target=kernel.run, args=(kernel_cpu, 23))
    thread.start()
    thread.join()
    view, _ = kernel.events.take()
    assert len(view) == 23
    # Not released: another reader of the same map sees them still.
    again = Ring.of_map(kernel.bpf["events"].map_fd, 1 << 16, wire.RECORD)
    rows, whole = drain(again)
    assert whole
    assert rows["seq"].tolist() == list(range(1, 24))
    assert len(drain(Ring.of_map(kernel.bpf["events"].map_fd, 1 << 16, wire.RECORD))[0]) == 0
