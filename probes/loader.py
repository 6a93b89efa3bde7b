"""Loader: compiles the programs with bcc, attaches them, and hands out what they fill.

The one place where bcc is imported. All programs are one translation unit: the wire header, the
shared header, then each program that can run here.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from parsers import wire
from probes import preflight, uprobe
from probes.ring import Ring
from vtrace.errors import UnsupportedError, VtraceError

__all__ = ["CALLS", "Loaded", "Options", "load"]

CALLS = (
    "POP_ENTRY",
    "POP_RETURN",
    "USED_ENTRY",
    "SIGNAL_RETURN",
    "ENABLE_ENTRY",
    "ENABLE_RETURN",
    "XMIT_ENTRY",
    "XMIT_RETURN",
    "RECV_ENTRY",
    "RECV_RETURN",
    "SEND_ENTRY",
    "SEND_RETURN",
    "KICK_ENTRY",
    "QEMU_POP_ENTRY",
    "QEMU_POP_RETURN",
    "QEMU_ENABLE_ENTRY",
    "QEMU_ENABLE_RETURN",
    "QEMU_NOTIFY_ENTRY",
    "QEMU_NOTIFY_RETURN",
)
"""Entry and return counters, in the order of their index."""

_PAGE = os.sysconf("SC_PAGESIZE")
_KPROBE_TYPE = 2
"""BPF_PROG_TYPE_KPROBE: a uprobe's program is one, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to record."""

    event_bytes: int = 32 << 20
    """Size of the event ring; a power of two."""
    packet_bytes: int = 32 << 20
    """Size of the packet ring; a power of two."""
    snap_bytes: int = 128
    """Bytes kept of a frame; a power of two."""
    vms: tuple[int, ...] = ()
    """Process ids of the VMs to trace; empty: all."""
    taps: tuple[int, ...] = ()
    """Interface indices of their taps."""
    each_exit: bool = False
    programs: tuple[str, ...] = ()
    """Programs to run; empty: all that can."""
    filter_code: str = ""
    """C text of a packet filter (``probes.pcap``)."""


class Loaded:
    """Programs in the kernel, attached; maps to read."""

    def __init__(self, bpf: Any, options: Options, states: list[preflight.ProgramState]) -> None:
        self._bpf = bpf
        self.options = options
        self.states = states
        """What could run, as it turned out when it was attached."""
        self.failures: dict[str, str] = {}
        """Point -> why attaching failed though preflight had found it."""
        self.events = Ring.of_map(bpf["events"].map_fd, options.event_bytes, wire.RECORD)
        self.packets = Ring.of_map(
            bpf["packets"].map_fd,
            options.packet_bytes,
            wire.packet_dtype(options.snap_bytes),
        )
        self._attached: list[Callable[[], None]] = []

    def attach(self) -> None:
        """Attach every point of every program that can run."""
        for state in self.states:
            if not state.ready:
                continue
            for point in state.points:
                if point.ready and not point.point.tracepoint and not point.point.uprobe:
                    self._attach_kprobe(point)

    def _attach_kprobe(self, state: preflight.PointState) -> None:
        point, bpf = state.point, self._bpf
        symbol = (state.symbol or "").encode()
        attach = bpf.attach_kretprobe if point.is_return else bpf.attach_kprobe
        detach = bpf.detach_kretprobe if point.is_return else bpf.detach_kprobe
        try:
            # maxactive stays at the default: any other goes through tracefs, and stays there after
            # kill -9. A missed return shows as entries without returns.
            attach(event=symbol, fn_name=point.handler.encode())
        except Exception as error:  # bcc raises bare Exception
            self.failures[point.name] = str(error)
            if not point.optional:
                raise UnsupportedError(
                    f"{point.name} was found but cannot be attached: {error}"
                ) from error
            return
        self._attached.append(lambda: detach(event=symbol))

    def attach_uprobes(
        self, path: Path, offsets: Mapping[str, int]
    ) -> tuple[list[int], dict[str, str]]:
        """Attach every point that is a uprobe to a binary.

        Args:
            path: The file; ``/proc/PID/exe`` will do.
            offsets: Function -> offset in the file.

        Returns:
            File descriptors, which detach when they are closed; and of points, why they were not
            attached.
        """
        descriptors: list[int] = []
        failed: dict[str, str] = {}
        for state in self.states:
            for point in (p.point for p in state.points if state.ready and p.point.uprobe):
                offset = offsets.get(point.functions[0])
                if offset is None:
                    lacks = f"this QEMU has no {point.functions[0]}"
                    failed[point.name] = lacks + (" and does without" if point.optional else "")
                    continue
                program = self._bpf.load_func(point.handler.encode(), _KPROBE_TYPE)
                try:
                    fd = uprobe.attach(program.fd, path, offset, is_return=point.is_return)
                except UnsupportedError as error:
                    failed[point.name] = str(error)
                    continue
                descriptors.append(fd)
        return descriptors, failed

    def detach(self) -> None:
        """Detach everything; maps and rings stay readable until :meth:`close`."""
        for undo in reversed(self._attached):
            undo()
        self._attached.clear()
        for name in list(self._bpf.tracepoint_fds):
            self._bpf.detach_tracepoint(tp=name)

    def close(self) -> None:
        """Free programs and maps."""
        self._bpf.cleanup()

    def table(self, name: str) -> Any:
        """Return a map of the programs; None if no running program has it."""
        try:
            return self._bpf[name]
        except KeyError:
            return None

    def counts(self) -> list[tuple[int, int]]:
        """Return (produced, lost) per kind, summed over CPUs."""
        table = self._bpf["counts"]
        return [
            (sum(cpu.produced for cpu in row), sum(cpu.lost for cpu in row))
            for row in (table[ctypes.c_int(kind)] for kind in range(len(table)))
        ]

    def calls(self) -> dict[str, int]:
        """Return the entry and return counters, summed over CPUs."""
        table = self._bpf["calls"]
        return {name: sum(table[ctypes.c_int(index)]) for index, name in enumerate(CALLS)}


def load(
    options: Options,
    kernel: preflight.Kernel | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Compile what can run here and load it; nothing is attached but tracepoints.

    Raises:
        PrivilegeError: The process may not.
        UnsupportedError: No program can run, or bcc or headers are missing.
    """
    preflight.require_privilege()
    problem = preflight.bcc_problem()
    if problem:
        raise UnsupportedError(problem)
    progress("looking at the kernel")
    kernel = kernel or preflight.Kernel()
    states = [
        s
        for s in preflight.programs(kernel)
        if not options.programs or s.program.name in options.programs
    ]
    ready = [s for s in states if s.ready]
    if not ready:
        why = "; ".join(f"{s.program.name}: {s.reason}" for s in states)
        raise UnsupportedError(f"no probe can run here: {why}")
    progress("compiling " + ", ".join(s.program.name for s in ready))
    bpf = _compile(_text(ready, options), _flags(ready, options, kernel))
    for pid in options.vms:
        bpf["vms"][ctypes.c_uint32(pid)] = ctypes.c_uint32(1)
    for ifindex in options.taps:
        bpf["taps"][ctypes.c_uint32(ifindex)] = ctypes.c_uint32(1)
    return Loaded(bpf, options, states)


def _text(ready: Iterable[preflight.ProgramState], options: Options) -> str:
    folder = resources.files("probes")
    parts = ["include/vtrace_wire.h", "include/vtrace_bpf.h", "include/vtrace_skb.h"]
    chunks = [folder.joinpath(part).read_text() for part in parts]
    if options.filter_code:
        chunks.append(options.filter_code)
        chunks.append(folder.joinpath("include/vtrace_filter.h").read_text())
    names = [f"{state.program.name}.bpf.c" for state in ready]
    if "qemu_virtio.bpf.c" in names:
        chunks.append(folder.joinpath("include/vtrace_qemu.h").read_text())
    chunks.extend(folder.joinpath(name).read_text() for name in names)
    return "\n".join(chunks)


def _flags(
    ready: Iterable[preflight.ProgramState], options: Options, kernel: preflight.Kernel
) -> list[str]:
    macros: dict[str, int | str] = {}
    names = set()
    for state in ready:
        macros |= state.macros
        names.add(state.program.name)
        # bcc attaches a tracepoint by compiling it: one that is not there must not be compiled.
        macros |= {
            f"HAVE_{point.point.handler}": 1
            for point in state.points
            if point.point.tracepoint and point.point.optional and point.ready
        }
    if "exits" in names:
        macros["WITH_EXITS"] = 1
    macros |= {f"WITH_{name.upper()}": 1 for name in names}
    macros["CPU_COUNT"] = os.cpu_count() or 1
    macros["SNAP_BYTES"] = options.snap_bytes
    macros["EVENT_PAGES"] = options.event_bytes // _PAGE
    macros["PACKET_PAGES"] = options.packet_bytes // _PAGE
    macros["CALL_COUNT"] = len(CALLS)
    for index, name in enumerate(CALLS):
        macros[f"CALL_{name}"] = index
    macros["OFF_DEV_PRIV"] = kernel.net_device_private()
    # The bit-field's byte and the shift in it; GSO types from include/linux/skbuff.h.
    bits = kernel.btf.bit_offset("vmlinux", "sk_buff.ip_summed")
    macros["OFF_SKB_IP_SUMMED"] = bits // 8
    macros["SHIFT_SKB_IP_SUMMED"] = bits % 8
    macros |= {"GSO_TCPV4": 1 << 0, "GSO_TCPV6": 1 << 4, "GSO_UDP_L4": 1 << 17}
    if "vhost" in names:
        macros["USED_COUNT_ARG(ctx)"] = f"PT_REGS_PARM{kernel.used_count_argument()}(ctx)"
    if kernel.has_drop_reason():
        macros["HAS_DROP_REASON"] = 1
    if options.each_exit:
        macros["EACH_EXIT"] = 1
    if options.vms:
        macros["FILTER_VM"] = 1
    if options.filter_code:
        macros["FILTER_PACKETS"] = 1
    flags = [
        f"-D{name}={value:#x}" if isinstance(value, int) else f"-D{name}={value}"
        for name, value in macros.items()
    ]
    return [*flags, "-Wno-macro-redefined", "-Wno-unused-function"]


def _compile(text: str, flags: list[str]) -> Any:
    from bcc import BPF

    headers = preflight.kernel_headers()
    if headers is None:
        raise UnsupportedError("no kernel headers here (Debian: apt install linux-headers-amd64)")
    with tempfile.TemporaryDirectory(prefix="vtrace-") as folder:
        own = Path("/lib/modules", os.uname().release, "build")
        if headers[0] != own:
            os.environ["BCC_KERNEL_SOURCE"] = str(_merged(Path(folder), *headers))
        try:
            return _quietly(lambda: BPF(text=text.encode(), cflags=flags))
        finally:
            os.environ.pop("BCC_KERNEL_SOURCE", None)


def _merged(folder: Path, build: Path, source: Path) -> Path:
    # bcc wants one tree; Debian has two. Links put one together.
    for part in ("include", "arch/x86/include"):
        target = folder / part
        target.mkdir(parents=True)
        for origin in (source / part, build / part):
            for entry in origin.iterdir() if origin.is_dir() else ():
                link = target / entry.name
                if not link.exists():
                    link.symlink_to(entry)
    return folder


def _quietly(build: Callable[[], Any]) -> Any:
    # clang and libbpf write to file descriptor 2; it is shown only where they fail.
    with tempfile.TemporaryFile() as talk:
        kept = os.dup(2)
        os.dup2(talk.fileno(), 2)
        try:
            return build()
        except Exception as error:
            os.dup2(kept, 2)
            talk.seek(0)
            said = talk.read().decode(errors="replace")
            if os.environ.get("VTRACE_DEBUG"):
                os.write(2, said.encode())
            raise VtraceError(
                "the probes do not load on this kernel: "
                + (_reason(said) or str(error))
                + " (VTRACE_DEBUG=1 shows all that the compiler and the verifier said)"
            ) from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _reason(said: str) -> str:
    errors = [line for line in said.splitlines() if "error:" in line]
    lines = errors or [line for line in said.splitlines() if line.strip()]
    return lines[0].strip() if errors else (lines[-1].strip() if lines else "")
