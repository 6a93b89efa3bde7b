"""What can run here, and what to install where it cannot: asked before anything is attached.

``doctor`` prints this, ``record`` acts on it; both ask the same functions, so that the table and
what attaching then does are equal.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from probes.btf import Btf, MissingTypeError
from probes.manifest import COMMON, PROGRAMS, Point, Program
from probes.symbols import Symbols
from vtrace.errors import PrivilegeError, UnsupportedError

__all__ = [
    "Check",
    "Kernel",
    "PointState",
    "ProgramState",
    "bcc_problem",
    "checks",
    "has_uprobes",
    "kernel_headers",
    "missing_capabilities",
    "programs",
]

_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
_UPROBE_PMU = Path("/sys/bus/event_source/devices/uprobe/type")
_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_SYS_ADMIN, _SYSLOG, _PERFMON, _BPF = 21, 34, 38, 39


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor's report on the machine."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointState:
    """Whether one probe point can be attached."""

    point: Point
    symbol: str | None
    """What will be attached to; None if nothing can be."""
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Tell whether it can be attached."""
        return self.symbol is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramState:
    """Whether one program can run, with its points."""

    program: Program
    ready: bool
    reason: str
    points: tuple[PointState, ...]
    macros: dict[str, int]
    """Offsets, sizes and symbol addresses for its text."""


class Kernel:
    """The running kernel, as the probes need to know it."""

    def __init__(self) -> None:
        self.symbols = Symbols()
        self._modules = _modules()
        self.btf = Btf()
        self.tracefs = _tracefs()
        self.has_kprobes = _KPROBE_PMU.exists()
        self.has_uprobes = has_uprobes()

    def point(self, point: Point) -> PointState:
        """Find out what a point would be attached to."""
        if point.tracepoint:
            return self._tracepoint(point)
        if point.uprobe:
            # Whether a QEMU has it is asked of each binary (probes/qemu.py).
            if self.has_uprobes:
                return PointState(point=point, symbol=point.functions[0])
            return PointState(
                point=point, symbol=None, reason="this kernel has no uprobes (CONFIG_UPROBES)"
            )
        if not self.has_kprobes:
            return PointState(
                point=point, symbol=None, reason="this kernel has no kprobes (CONFIG_KPROBES)"
            )
        for function in point.functions:
            symbol = self.symbols.resolve(function)
            if symbol:
                return PointState(point=point, symbol=symbol)
        return PointState(point=point, symbol=None, reason=self._absent(point))

    def _absent(self, point: Point) -> str:
        missing = [m for m in point.modules if not Path("/sys/module", m).exists()]
        what = f"no kernel symbol {' or '.join(point.functions)}"
        if missing:
            return f"{what} (module {missing[0]} is not loaded; try: modprobe {missing[0]})"
        return what

    def _tracepoint(self, point: Point) -> PointState:
        name = point.functions[0]
        if self.tracefs is None:
            return PointState(
                point=point,
                symbol=None,
                reason="tracefs is not mounted or not readable (try: mount -t tracefs "
                "tracefs /sys/kernel/tracing)",
            )
        if (self.tracefs / "events" / name.replace(":", "/") / "id").exists():
            return PointState(point=point, symbol=name)
        missing = [m for m in point.modules if not Path("/sys/module", m).exists()]
        hint = f" (module {missing[0]} is not loaded)" if missing else ""
        return PointState(point=point, symbol=None, reason=f"no tracepoint {name}{hint}")

    def macros(self, program: Program) -> dict[str, int]:
        """Return offsets, sizes and symbol addresses of a program.

        Raises:
            UnsupportedError: The kernel lacks one of them; the text names it.
        """
        values = {}
        for macro, (module, path) in (COMMON | program.offsets).items():
            values[macro] = self.btf.offset(module, path)
        for macro, (module, struct) in program.sizes.items():
            values[macro] = self.btf.size(module, struct)
        for name in program.symbols:
            address = self.symbols.address(name)
            if address is None:
                raise UnsupportedError(f"no kernel symbol {name}")
            if not address:
                raise UnsupportedError(
                    f"the address of kernel symbol {name} is hidden (it takes CAP_SYSLOG and a "
                    "sysctl kernel.kptr_restrict below 2)"
                )
            values[f"SYM_{name}"] = address
        return values

    def net_device_private(self) -> int:
        """Return the offset of a driver's private part behind ``struct net_device``.

        Newer kernels have a member ``priv``; before, it follows the struct, aligned to 32.
        """
        if self.btf.has_member("vmlinux", "net_device.priv"):
            return self.btf.offset("vmlinux", "net_device.priv")
        return (self.btf.size("vmlinux", "net_device") + 31) // 32 * 32

    def read_new_modules(self) -> None:
        """Read the symbols again where modules have come or gone since."""
        modules = _modules()
        if modules != self._modules:
            self._modules = modules
            self.symbols = Symbols()

    def used_count_argument(self) -> int:
        """Return which argument of vhost_add_used_and_signal_n is the count (from 1).

        Since in-order support the function has nheads before it: five arguments, not four.
        """
        return self.btf.arity("vhost", "vhost_add_used_and_signal_n")

    def drop_reasons(self) -> dict[int, str]:
        """Return this kernel's skb_drop_reason by number, without its prefix."""
        reasons = self.btf.enum("vmlinux", "skb_drop_reason")
        return {value: name.removeprefix("SKB_DROP_REASON_") for name, value in reasons.items()}

    def has_drop_reason(self) -> bool:
        """Tell whether skb:kfree_skb says why."""
        if self.tracefs is None:
            return False
        form = self.tracefs / "events/skb/kfree_skb/format"
        return form.exists() and " reason;" in form.read_text()


def has_uprobes() -> bool:
    """Tell whether this kernel has uprobes."""
    return _UPROBE_PMU.exists()


def _modules() -> tuple[str, ...]:
    try:
        lines = Path("/proc/modules").read_text().splitlines()
    except OSError:
        return ()
    return tuple(line.split(" ", 1)[0] for line in lines)


def _tracefs() -> Path | None:
    # os.path says False of what may not be looked at; Path.is_dir raises.
    return next((d for d in _TRACEFS if os.path.isdir(d / "events")), None)  # noqa: PTH112


def programs(kernel: Kernel) -> list[ProgramState]:
    """Say of every program whether it can run on this kernel, in the order of the manifest."""
    states: dict[str, ProgramState] = {}
    for program in PROGRAMS:
        points = tuple(kernel.point(point) for point in program.points)
        macros: dict[str, int] = {}
        reason = ""
        missing = [p for p in points if not p.ready and not p.point.optional]
        needed = [n for n in program.needs if not states[n].ready]
        if missing:
            reason = missing[0].reason
        elif needed:
            reason = f"it needs program {needed[0]}"
        else:
            try:
                macros = kernel.macros(program)
            except (MissingTypeError, UnsupportedError) as error:
                reason = str(error)
        states[program.name] = ProgramState(
            program=program, ready=not reason, reason=reason, points=points, macros=macros
        )
    return list(states.values())


def missing_capabilities() -> list[str]:
    """Return the names of capabilities that recording needs and this process lacks."""
    with Path("/proc/self/status").open() as lines:
        value = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    if value >> _SYS_ADMIN & 1:
        return []
    wanted = {"CAP_BPF": _BPF, "CAP_PERFMON": _PERFMON, "CAP_SYSLOG": _SYSLOG}
    return [name for name, bit in wanted.items() if not value >> bit & 1]


def bcc_problem() -> str | None:
    """Say why bcc cannot be used: not there, or another project's module; None if it can."""
    spec = importlib.util.find_spec("bcc")
    if spec is None:
        return "bcc is not here (Debian: apt install python3-bpfcc)"
    # The finder is asked directly: find_spec("bcc.libbcc") would run whatever bcc this is.
    folders = spec.submodule_search_locations or []
    if importlib.machinery.PathFinder.find_spec("bcc.libbcc", folders) is None:
        return (
            f"the module bcc at {spec.origin} is another project (PyPI's bcc); remove it "
            "(pip uninstall bcc) and apt install python3-bpfcc"
        )
    return None


def kernel_headers() -> tuple[Path, Path] | None:
    """Return (build, source) header folders for bcc; None if there are none at all.

    The running kernel's own where they are; else those of any Debian kernel: the programs take
    every offset of a kernel struct from BTF, so only basic types come from headers.
    """
    own = Path("/lib/modules", os.uname().release)
    if (own / "build/include/generated").is_dir():
        source = own / "source" if (own / "source/include").is_dir() else own / "build"
        return own / "build", source
    for build in sorted(Path("/usr/src").glob("linux-headers-*-amd64"), reverse=True):
        common = build.with_name(build.name.removesuffix("-amd64") + "-common")
        if (build / "include/generated").is_dir() and (common / "include").is_dir():
            return build, common
    return None


def checks() -> list[Check]:
    """Look at the machine: bcc, headers, BTF, kprobes, uprobes, tracefs, privilege."""
    headers = kernel_headers()
    lacking = missing_capabilities()
    problem = bcc_problem()
    btf = Path("/sys/kernel/btf/vmlinux").exists()
    tracefs = _tracefs() is not None
    return [
        Check(
            name="privilege",
            ok=not lacking,
            detail="enough to record" if not lacking else f"lacks {', '.join(lacking)}",
            remedy="run as root (sudo vtrace record ...)" if lacking else "",
        ),
        Check(
            name="bcc",
            ok=problem is None,
            detail=problem or "python3-bpfcc",
            remedy="apt install python3-bpfcc" if problem else "",
        ),
        Check(
            name="kernel headers",
            ok=headers is not None,
            detail=str(headers[0]) if headers else "none found",
            remedy="" if headers else "apt install linux-headers-amd64",
        ),
        Check(
            name="BTF",
            ok=btf,
            detail="/sys/kernel/btf/vmlinux" if btf else "no /sys/kernel/btf/vmlinux",
            remedy="" if btf else "a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
        Check(
            name="kprobes",
            ok=_KPROBE_PMU.exists(),
            detail="yes" if _KPROBE_PMU.exists() else "this kernel has none (CONFIG_KPROBES)",
        ),
        uprobes_check(lacking),
        Check(
            name="tracefs",
            ok=tracefs,
            detail="readable" if tracefs else "not mounted or not readable",
            remedy="" if tracefs else "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    ]


def uprobes_check(lacking: list[str]) -> Check:
    """Return whether functions of QEMU can be probed: without, its own queues are not seen."""
    if not has_uprobes():
        return Check(
            name="uprobes",
            ok=False,
            detail="this kernel has none (CONFIG_UPROBES); QEMU's own queues are not traced",
            remedy="a kernel with CONFIG_UPROBES, as distributions have it",
        )
    if lacking:
        return Check(
            name="uprobes",
            ok=False,
            detail=f"the kernel has them; attaching lacks {', '.join(lacking)}",
            remedy="run as root (sudo vtrace record ...)",
        )
    return Check(name="uprobes", ok=True, detail="on functions of QEMU")


def require_privilege() -> None:
    """Raise unless this process may load and attach programs.

    Raises:
        PrivilegeError: With what is missing.
    """
    lacking = missing_capabilities()
    if lacking:
        raise PrivilegeError(
            f"recording needs {', '.join(lacking)}: run as root (sudo vtrace ...); files can be "
            "read without privilege"
        )
