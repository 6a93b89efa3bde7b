"""Capture filter: libpcap compiles the expression, this turns its program into C for the probes.

libpcap gives classic BPF: an accumulator A, an index X, sixteen words M, loads from the frame, and
jumps that only go forward. Each instruction becomes one line of C; the kernel's verifier sees plain
bounded code. A load behind the captured bytes ends the program with "no match", as a load behind
the end of the frame does in classic BPF.
"""

from __future__ import annotations

import ctypes
import ctypes.util

from vtrace.errors import FilterError, UnsupportedError

__all__ = ["compile_filter", "instructions", "translate"]

FRAME_BYTES = 256
"""Bytes of a frame that a filter can look at; a power of two."""

_DLT_EN10MB = 1
_NETMASK_UNKNOWN = 0xFFFFFFFF
_SNAPLEN = 262144

# Instruction classes, sizes, modes and operations, from <pcap/bpf.h>.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_OPERATORS = {
    0x00: "+",
    0x10: "-",
    0x20: "*",
    0x40: "|",
    0x50: "&",
    0x60: "<<",
    0x70: ">>",
    0xA0: "^",
}
_TESTS = {0x10: "A == {v}", 0x20: "A > {v}", 0x30: "A >= {v}", 0x40: "A & {v}"}

Instruction = tuple[int, int, int, int]
"""code, jt, jf, k."""


class _Insn(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint), ("insns", ctypes.POINTER(_Insn)))


def instructions(expression: str) -> list[Instruction]:
    """Compile a pcap expression for Ethernet frames.

    Raises:
        FilterError: The expression is wrong; the text is libpcap's.
        UnsupportedError: libpcap is not here.
    """
    name = ctypes.util.find_library("pcap") or "libpcap.so.0.8"
    try:
        lib = ctypes.CDLL(name)
    except OSError as error:
        raise UnsupportedError(
            "libpcap is not here, so -f cannot be used (Debian: apt install libpcap0.8)"
        ) from error
    lib.pcap_open_dead.restype = ctypes.c_void_p
    lib.pcap_geterr.restype = ctypes.c_char_p
    handle = ctypes.c_void_p(lib.pcap_open_dead(_DLT_EN10MB, _SNAPLEN))
    program = _Program()
    try:
        status = lib.pcap_compile(
            handle,
            ctypes.byref(program),
            expression.encode(errors="surrogateescape"),
            1,
            ctypes.c_uint32(_NETMASK_UNKNOWN),
        )
        if status != 0:
            said = lib.pcap_geterr(handle).decode(errors="replace")
            raise FilterError(f"capture filter {expression!r}: {said}")
        rows = [
            (insn.code, insn.jt, insn.jf, insn.k)
            for insn in program.insns[: program.count]
        ]
        lib.pcap_freecode(ctypes.byref(program))
    finally:
        lib.pcap_close(handle)
    return rows


def _load(size: int, offset: str, *, constant: bool) -> str:
    if constant:
        start = int(offset)
        if start + size > FRAME_BYTES:
            return "return 0;"
        index = [str(start + i) for i in range(size)]
        check = f"if ({start + size} > have) return 0;"
    else:
        index = [f"o + {i}" if i else "o" for i in range(size)]
        check = (
            f"o = {offset}; "
            f"if (X >= {FRAME_BYTES} || o >= {FRAME_BYTES} || o + {size} > have) return 0; "
            f"VT_BOUND(o, {FRAME_BYTES - 1});"
        )
    value = " | ".join(
        f"(u32)b[{place}]" + (f" << {8 * (size - 1 - i)}" if i < size - 1 else "")
        for i, place in enumerate(index)
    )
    return f"{check} A = {value};"


def translate(rows: list[Instruction]) -> str:
    """Return the C function ``vt_filter(const u8 *b, u32 have, u32 length)`` for a program.

    Raises:
        FilterError: The program uses what frames in a probe do not have.
    """
    targets = set()
    for at, (code, jt, jf, k) in enumerate(rows):
        if code & 7 == _JMP:
            targets |= {at + 1 + k} if code & 0xF0 == 0 else {at + 1 + jt, at + 1 + jf}
    if max(targets, default=0) >= len(rows):
        # libpcap's only jump backwards, as an offset of 32 bits that wraps.
        raise FilterError(
            "this filter walks a chain of headers (protochain), which a probe cannot do; name the "
            "protocol (ip6 proto 17)"
        )
    lines = [_line(at, *row) for at, row in enumerate(rows)]
    body = "\n".join(
        (f"L{at}:;\n" if at in targets else "") + f"\t{line}"
        for at, line in enumerate(lines)
    )
    return (
        "static __always_inline u32 vt_filter(const u8 *b, u32 have, u32 length)\n{\n"
        "\tu32 A = 0, X = 0, M[16] = {};\n\tunsigned long long o = 0;\n"
        + body
        + "\n\treturn 0;\n}\n"
    )


def _line(at: int, code: int, jt: int, jf: int, k: int) -> str:
    kind = code & 7
    if kind in (_LD, _LDX):
        return _load_line(code, kind, k)
    if kind == _ST:
        return f"M[{k & 15}] = A;"
    if kind == _STX:
        return f"M[{k & 15}] = X;"
    if kind == _ALU:
        return _alu_line(code, k)
    if kind == _JMP:
        if code & 0xF0 == 0:
            return f"goto L{at + 1 + k};"
        value = "X" if code & 0x08 else f"{k}u"
        test = _TESTS[code & 0xF0].format(v=value)
        return f"if ({test}) goto L{at + 1 + jt}; else goto L{at + 1 + jf};"
    if kind == _RET:
        return "return A;" if code & 0x18 == 0x10 else f"return {k}u;"
    return "A = X;" if code & 0xF8 == 0x80 else "X = A;"


def _load_line(code: int, kind: int, k: int) -> str:
    mode, size = code & 0xE0, _SIZES[code & 0x18]
    register = "A" if kind == _LD else "X"
    if mode == _IMM:
        return f"{register} = {k}u;"
    if mode == _LEN:
        return f"{register} = length;"
    if mode == _MEM:
        return f"{register} = M[{k & 15}];"
    if mode == _MSH:
        if k >= FRAME_BYTES:
            return "return 0;"
        return f"if ({k + 1} > have) return 0; X = ((u32)b[{k}] & 15) << 2;"
    if k >= 1 << 31:
        raise FilterError(
            "this filter asks for something beside the frame (an interface, a direction) that a "
            "probe does not have; use --vm, or a filter on addresses and ports"
        )
    if mode == _ABS:
        return _load(size, str(k), constant=True)
    return _load(size, f"X + {k}u", constant=False)


def _alu_line(code: int, k: int) -> str:
    operation = code & 0xF0
    value = "X" if code & 0x08 else f"{k}u"
    if operation == 0x80:
        return "A = -A;"
    if operation in (0x30, 0x90):
        sign = "/" if operation == 0x30 else "%"
        return f"if (!{value}) return 0; A = A {sign} {value};"
    if operation in (0x60, 0x70) and value == "X":
        return f"A = X < 32 ? A {_OPERATORS[operation]} X : 0;"
    return f"A = A {_OPERATORS[operation]} {value};"


def compile_filter(expression: str) -> str:
    """Return the C text of a capture filter."""
    return translate(instructions(expression))
