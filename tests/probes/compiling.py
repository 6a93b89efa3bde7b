"""Compile every program and put it before this kernel's verifier; print what came of it as JSON.

Runs as a process of its own (``python -m tests.probes.compiling``), so that it can have a tracefs
in a private mount namespace. Offsets and addresses that this kernel has no BTF or symbols for are
made up: the verifier does not know what is behind them.
"""

import ctypes
import itertools
import json
import sys

from probes import loader, preflight
from probes.btf import MissingTypeError
from probes.manifest import COMMON, PROGRAMS
from probes.pcap import compile_filter

MANY = " or ".join(f"host 10.0.{n}.1" for n in range(20))
CASES = {
    "plain": {},
    "vlan and ip6": {"filter": "vlan and ip6"},
    # Offsets that the packet itself gives, long jumps, and every option.
    "udp port 7001 or more": {
        "filter": f"udp port 7001 or (({MANY}) and udp[8 + udp[9]] & 3 != 0)",
        "options": {"vms": (1,), "each_exit": True, "snap_bytes": 256},
    },
    # What is left without tracefs, and without kprobes.
    "vhost and kvm": {"programs": ("vhost", "kvm")},
    "sched alone": {"programs": ("sched",)},
    # A development machine, and a host of VMs that vhost does nothing for.
    "qemu alone": {"programs": ("qemu_virtio",)},
    "qemu and kvm": {"programs": ("qemu_virtio", "kvm"), "options": {"vms": (1,)}},
}
NEWNS, PRIVATE, RECURSIVE = 0x20000, 1 << 18, 1 << 14


def own_tracefs():
    """Mount a tracefs that only this process sees."""
    lib = ctypes.CDLL(None, use_errno=True)
    if lib.unshare(NEWNS) or lib.mount(None, b"/", None, PRIVATE | RECURSIVE, None):
        return False
    return lib.mount(b"tracefs", b"/sys/kernel/tracing", b"tracefs", 0, None) == 0


def made_up(kernel, program, numbers):
    """Return the state of a program as it would be on a kernel that has all it needs."""
    macros = {}
    for macro, (module, path) in (COMMON | program.offsets).items():
        try:
            macros[macro] = kernel.btf.offset(module, path)
        except MissingTypeError:
            macros[macro] = next(numbers)
    for macro in program.sizes:
        macros[macro] = 1000
    for name in program.symbols:
        macros[f"SYM_{name}"] = 0xFFFFFFFFC0000000 + next(numbers)
    points = []
    for point in program.points:
        state = preflight.PointState(point=point, symbol=point.functions[0])
        # bcc takes the arguments of a tracepoint from its format: it cannot be made up.
        points.append(kernel.point(point) if point.tracepoint else state)
    lacking = [p.reason for p in points if not p.ready and not p.point.optional]
    return preflight.ProgramState(
        program=program,
        ready=not lacking,
        reason=lacking[0] if lacking else "",
        points=tuple(points),
        macros=macros,
    )


def attempt(kernel, states, case):
    from bcc import BPF

    expression = case.get("filter")
    options = loader.Options(
        event_bytes=1 << 16,
        packet_bytes=1 << 16,
        filter_code=compile_filter(expression) if expression else "",
        **case.get("options", {}),
    )
    wanted = case.get("programs", [program.name for program in PROGRAMS])
    chosen = [state for state in states if state.ready and state.program.name in wanted]
    # Loads the tracepoints' programs too.
    bpf = loader._compile(loader._text(chosen, options), loader._flags(chosen, options, kernel))
    handlers = {}
    for state in chosen:
        for point in state.points:
            name = f"{state.program.name}: {point.point.handler}"
            if point.point.tracepoint:
                handlers[name] = "" if point.ready else point.reason
                continue
            try:
                bpf.load_func(point.point.handler.encode(), BPF.KPROBE)
                handlers[name] = ""
            except Exception as error:
                handlers[name] = str(error)
    bpf.cleanup()
    return handlers


def main():
    if not preflight._tracefs() and not own_tracefs():
        print(json.dumps({"skip": "no tracefs, and none can be mounted"}))
        return
    kernel = preflight.Kernel()
    kernel.used_count_argument = lambda: 4
    numbers = itertools.count(8, 8)
    states = [made_up(kernel, program, numbers) for program in PROGRAMS]
    result = {"left out": {s.program.name: s.reason for s in states if not s.ready}, "cases": {}}
    for name in sys.argv[1:] or CASES:
        try:
            result["cases"][name] = {"handlers": attempt(kernel, states, CASES[name]), "error": ""}
        except Exception as error:
            result["cases"][name] = {"handlers": {}, "error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
