"""The ring: vtrace's mapped view against bcc's callback, on this kernel.

One CPU runs a BPF program (``BPF_PROG_TEST_RUN``) that writes a record each time, in the way and
with the header that the probes use, so often a second as was asked for; the other CPU reads.
Nothing is attached.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from benchmarks.measure import Sample
from parsers import wire
from probes import loader, preflight
from probes.merge import Merger
from probes.ring import Ring
from vtrace.errors import VtraceError
from vtrace.model import Kind

__all__ = ["Reader", "RingResult", "ring"]

RING_BYTES = 32 << 20
KEPT = 100_000
PROGRAM = """
int vt_bench(struct xdp_md *ctx)
{
	u64 now = bpf_ktime_get_ns();
	struct vtrace_record *r = vt_begin(VTRACE_KIND_POP, now, 1);
	if (r) {
		r->head = r->seq;
		r->length = 1514;
		vt_submit(r);
	}
	/* As often as is wanted, not as often as can be. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < 256; i++)
		if (bpf_ktime_get_ns() - now >= GAP_NS)
			break;
	return XDP_PASS;
}
"""


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf."""

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


@dataclass(frozen=True, slots=True)
class Reader:
    """One way to read, measured."""

    name: str
    produced_rate: Sample
    """Records a second that the program wanted to write."""
    received_rate: Sample
    lost_share: Sample
    cpu_ns: Sample
    """CPU of the reader for each record that it got."""


@dataclass(frozen=True, slots=True)
class RingResult:
    """All readers, or why there are none."""

    why_not: str = ""
    readers: tuple[Reader, ...] = ()


class _Kernel:
    """The program, loaded anew for each run: so its ring and counters begin at nothing."""

    def __init__(self, rate: float) -> None:
        from bcc import BPF

        page = os.sysconf("SC_PAGESIZE")
        macros = {
            "OFF_DEV_IFINDEX": 0,
            "OFF_DEV_NAME": 0,
            "CPU_COUNT": os.cpu_count() or 1,
            "CALL_COUNT": 1,
            "SNAP_BYTES": 128,
            "EVENT_PAGES": RING_BYTES // page,
            "PACKET_PAGES": (1 << 20) // page,
            "GAP_NS": max(int(1e9 / rate), 1),
        }
        include = resources.files("probes") / "include"
        headers = [(include / n).read_text() for n in ("vtrace_wire.h", "vtrace_bpf.h")]
        flags = [f"-D{name}={value}" for name, value in macros.items()]
        self.bpf = loader._compile("\n".join([*headers, PROGRAM]), [*flags, "-Wno-unused-function"])
        self.function = self.bpf.load_func(b"vt_bench", BPF.XDP)
        self._libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)

    def write(self, times: int, cpu: int) -> None:
        """Run the program on a CPU, so often."""
        os.sched_setaffinity(0, {cpu})
        options = _TestRun(
            size=ctypes.sizeof(_TestRun), data_in=bytes(64), data_size_in=64, repeat=times
        )
        failed = self._libbpf.bpf_prog_test_run_opts(self.function.fd, ctypes.byref(options))
        if failed:
            raise OSError(ctypes.get_errno(), "BPF_PROG_TEST_RUN")

    def counts(self) -> tuple[int, int]:
        """Return (produced, lost)."""
        row = self.bpf["counts"][ctypes.c_int(Kind.POP)]
        return sum(cpu.produced for cpu in row), sum(cpu.lost for cpu in row)


def _mapped(kernel: _Kernel) -> Callable[[], int]:
    # As probes.source does: view, copy for the merger, count by kind, give back; every 20 ms.
    view = Ring.of_map(kernel.bpf["events"].map_fd, RING_BYTES, wire.RECORD)
    merger = Merger(128)
    nothing = np.empty(0, wire.packet_dtype(128))
    received = np.zeros(len(Kind), np.int64)

    def read() -> int:
        records, _ = view.take()
        merger.add(records, nothing)
        received[:] += np.bincount(records["kind"], minlength=len(Kind))
        count = len(records)
        view.release()
        merger._events.clear()
        time.sleep(0.02)
        return count

    return read


def _consuming(kernel: _Kernel, got: list[int], one: Callable[..., None]) -> Callable[[], int]:
    kernel.bpf["events"].open_ring_buffer(one)

    def read() -> int:
        before = got[0]
        kernel.bpf.ring_buffer_consume()
        if got[0] == before:
            time.sleep(0.001)
        return got[0] - before

    return read


def _keeping(kernel: _Kernel) -> Callable[[], int]:
    # As cheap as keeping the record can be: its 64 bytes, nothing decoded.
    got, kept = [0], []

    def one(_context: Any, data: Any, size: int) -> None:
        got[0] += 1
        kept.append(ctypes.string_at(data, size))
        if len(kept) > KEPT:
            kept.clear()

    return _consuming(kernel, got, one)


def _counting(kernel: _Kernel) -> Callable[[], int]:
    # The cheapest callback there is: it looks at nothing.
    got = [0]

    def one(_context: Any, _data: Any, _size: int) -> None:
        got[0] += 1

    return _consuming(kernel, got, one)


READERS = (
    ("mapped ring", _mapped),
    ("bcc callback that keeps it", _keeping),
    ("bcc callback that counts", _counting),
)


def _once(
    make: Callable[[_Kernel], Callable[[], int]], records: int, rate: float
) -> tuple[float, ...]:
    kernel = _Kernel(rate)
    allowed = os.sched_getaffinity(0)
    cpus = sorted(allowed)
    try:
        read = make(kernel)
        os.sched_setaffinity(0, {cpus[1]})
        written: list[float] = []

        def write() -> None:
            began = time.monotonic()
            kernel.write(records, cpus[0])
            written.append(time.monotonic() - began)

        writer = threading.Thread(target=write)
        began, cpu_began = time.monotonic(), time.thread_time()
        writer.start()
        received = 0
        while writer.is_alive():
            received += read()
        writer.join()
        while got := read():
            received += got
        cpu, wall = time.thread_time() - cpu_began, time.monotonic() - began
        produced, lost = kernel.counts()
    finally:
        os.sched_setaffinity(0, allowed)
        kernel.bpf.cleanup()
    if produced != received + lost:
        raise RuntimeError(f"{produced} produced, {received} received, {lost} lost")
    seconds = max(written[0], wall)
    return produced / written[0], received / seconds, lost / produced, cpu / received * 1e9


def ring(records: int, rate: float, repeats: int) -> RingResult:
    """Measure all readers; each repeat writes so many records, at a rate a second."""
    if os.geteuid() != 0 or preflight.missing_capabilities():
        return RingResult("loading eBPF takes root")
    problem = preflight.bcc_problem()
    if problem:
        return RingResult(problem)
    if preflight.kernel_headers() is None:
        return RingResult("no kernel headers (Debian: apt install linux-headers-amd64)")
    if len(os.sched_getaffinity(0)) < 2:
        return RingResult("one CPU writes and another reads, and here is only one")
    readers = []
    try:
        for name, make in READERS:
            rows = [_once(make, records, rate) for _ in range(repeats)]
            columns = [Sample(column) for column in zip(*rows, strict=True)]
            readers.append(Reader(name, *columns))
    except (VtraceError, OSError) as error:
        return RingResult(f"the program does not run here: {error}")
    return RingResult("", tuple(readers))
