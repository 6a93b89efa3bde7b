"""What a small function does with its arguments, read off its x86-64 machine code.

The code is walked, not run. Every register holds a sum of unknowns with factors, such as
``load(arg0 + 0xe8) + 152 * arg1 + 0x10``, so it does not matter how the compiler multiplied,
which register it took or in which order it wrote. What comes out is each access to memory,
each call with its arguments and each value returned.

Limits: a truncated or extended value counts as itself (offsets are what is wanted, not values);
a place where paths meet is walked for the first few that come; memory is not followed, but for
the stack. An instruction that is not known makes what it writes unknown, never wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from probes.codevalue import Value, arg, load, number, signed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Access", "Call", "Walk", "walk"]

MOST_INSTRUCTIONS = 10_000
MOST_VISITS = 4
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
MOVES = frozenset(["mov", "movabs", "movzx", "movsx", "movsxd", "movd", "movq"])
PAIRS = frozenset(["punpckldq", "punpcklqdq"])
WIDE_MOVES = frozenset(["movups", "movaps", "movdqu", "movdqa"])
TESTS = frozenset(["test", "cmp", "bt"])
MODIFIES = frozenset(
    ["add", "sub", "xor", "pxor", "xorps", "or", "and", "inc", "dec", "shl", "shr", "sal", "sar"]
)
CONDITIONS = re.compile(r"j(n?(ae?|be?|c|e|ge?|le?|o|p|s|z)|p[eo]|[er]?cxz)$")


class Access(NamedTuple):
    """An access to memory."""

    what: str
    """load, store; test, cmp, bt of what is there; sub, xor: a store again, of what was there
    changed by a value."""
    address: Value
    size: int
    other: Value | None
    """The value that is stored, tested against, or changes it; None for a load."""
    place: int


class Call(NamedTuple):
    """A call, or a jump out of the function."""

    target: int | None
    args: tuple[Value, ...]
    """The six registers for arguments, whether or not the callee takes them."""
    result: Value
    place: int


@dataclass(slots=True)
class Walk:
    """What a function does."""

    accesses: list[Access] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    returns: list[Value] = field(default_factory=list)
    """Each value of rax at a return, in the order in which they were found."""

    def of(self, what: str, size: int) -> list[Access]:
        """Return the accesses of a kind and a size in bytes."""
        return [a for a in self.accesses if a.what == what and a.size == size]


@dataclass(slots=True)
class State:
    registers: dict[str, Value]
    stack: dict[int, Value]

    def copy(self) -> State:
        return State(dict(self.registers), dict(self.stack))


STACK = Value(((("stack",), 1),))


def change(value: Value, before: Value) -> tuple[str, Value] | None:
    # How a value that is stored differs from what was loaded from there.
    (term, _), *_ = before.terms
    if value.terms and value.terms[0][0][0] == "xor":
        _, first, second = value.terms[0][0]
        return ("xor", second) if first == before else None
    if dict(value.terms).get(term) == 1 and (less := before.plus(value, -1)) is not None:
        return "sub", less
    return None


@cache
def decoder() -> Any:
    import capstone

    made = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    made.detail = True
    return made


@cache
def full_name(register: str) -> str:
    # rax for eax, ax, al and ah; r8 for r8d, r8w and r8b.
    if register[0] == "r" and register[1:2].isdigit():
        return register.rstrip("dwb")
    short = register.removeprefix("e").removeprefix("r")
    if len(short) == 2 and short[1] in "lhx" and short[0] in "abcd":
        return f"r{short[0]}x"
    short = short.removesuffix("l") if len(short) == 3 else short
    return f"r{short}" if short in {"si", "di", "bp", "sp"} else register


def walk(start: int, code: bytes) -> Walk:
    """Walk all paths of a function.

    Args:
        start: Address of its first byte.
        code: Its bytes.
    """
    return Walker(start, code).run()


class Walker:
    """One walk through one function."""

    def __init__(self, start: int, code: bytes) -> None:
        self.start, self.code = start, code
        self.walk = Walk()
        self.state = State({}, {})
        registers = {name: arg(n) for n, name in enumerate(ARGUMENTS)}
        self.waiting = [(start, State({**registers, "rsp": STACK}, {}))]
        self.seen: Counter[int] = Counter()
        self.left = MOST_INSTRUCTIONS
        self.actions: dict[str, Callable[[Any], None]] = {
            "lea": self.lea,
            "push": self.push,
            "pop": self.pop,
            "nop": lambda _: None,
            "endbr64": lambda _: None,
            "call": self.call,
            "imul": self.multiply,
        }

    def run(self) -> Walk:
        """Return all that was found."""
        while self.waiting:
            place, self.state = self.waiting.pop()
            for instruction in self.block(place):
                if not self.step(instruction):
                    break
        return self.walk

    def block(self, place: int) -> Iterator[Any]:
        offset = place - self.start
        for instruction in decoder().disasm(self.code[offset:], place):
            if self.seen[instruction.address] == MOST_VISITS or not self.left:
                return
            self.seen[instruction.address] += 1
            self.left -= 1
            yield instruction

    def step(self, i: Any) -> bool:
        """Do an instruction; return whether the next one follows."""
        name = i.mnemonic.split()[-1]
        if name == "ret":
            self.walk.returns.append(self.register("rax", i))
            return False
        if name == "jmp":
            self.jump(i)
            return False
        if CONDITIONS.match(name):
            self.jump(i, self.state.copy())
        elif name in self.actions:
            self.actions[name](i)
        elif name in MOVES or name in WIDE_MOVES:
            self.put(i, i.operands[0], self.get(i, i.operands[1]))
        elif name in TESTS:
            self.test(i)
        elif name in MODIFIES or name in PAIRS:
            self.modify(name, i)
        else:
            self.unknown(i)
        return name not in {"ud2", "hlt"}

    # Values

    def fresh(self, i: Any, what: str) -> Value:
        return Value(((("new", i.address, what), 1),))

    def register(self, name: str, i: Any) -> Value:
        full = full_name(name)
        if full not in self.state.registers:
            self.state.registers[full] = Value(((("new", 0, full), 1),))
        return self.state.registers[full]

    def address(self, i: Any, operand: Any) -> Value:
        memory = operand.mem
        if memory.segment:
            return self.fresh(i, "segment")
        value = number(memory.disp)
        for register, scale in ((memory.base, 1), (memory.index, memory.scale)):
            if not register:
                continue
            name = i.reg_name(register)
            part = number(i.address + i.size) if name == "rip" else self.register(name, i)
            value = value.plus(part, scale) or self.fresh(i, "address")
        return value

    def get(self, i: Any, operand: Any) -> Value:
        import capstone

        if operand.type == capstone.x86.X86_OP_IMM:
            return number(signed(operand.imm))
        if operand.type == capstone.x86.X86_OP_REG:
            return self.register(i.reg_name(operand.reg), i)
        address = self.address(i, operand)
        offset = address.offset_from(STACK)
        if offset is not None:
            return self.state.stack.get(offset) or self.fresh(i, "stack")
        self.walk.accesses.append(Access("load", address, operand.size, None, i.address))
        return load(address, operand.size)

    def put(self, i: Any, operand: Any, value: Value) -> None:
        import capstone

        if operand.type == capstone.x86.X86_OP_REG:
            self.state.registers[full_name(i.reg_name(operand.reg))] = value
        elif operand.type == capstone.x86.X86_OP_MEM:
            self.store(i, self.address(i, operand), operand.size, value)

    def store(self, i: Any, address: Value, size: int, value: Value) -> None:
        offset = address.offset_from(STACK)
        if offset is not None:
            self.state.stack[offset] = value
            return
        if value.terms and value.terms[0][0][0] == "pair":
            # Two values that a vector register brought together.
            _, low, high = value.terms[0][0]
            self.store(i, address, size // 2, low)
            self.store(i, Value(address.terms, address.constant + size // 2), size // 2, high)
            return
        self.walk.accesses.append(Access("store", address, size, value, i.address))
        if changed := change(value, load(address, size)):
            self.walk.accesses.append(Access(changed[0], address, size, changed[1], i.address))

    # Instructions

    def lea(self, i: Any) -> None:
        self.put(i, i.operands[0], self.address(i, i.operands[1]))

    def test(self, i: Any) -> None:
        import capstone

        first, second = i.operands[0], i.operands[1]
        if first.type != capstone.x86.X86_OP_MEM:
            first, second = second, first
        other = self.get(i, second)
        if first.type == capstone.x86.X86_OP_MEM:
            address = self.address(i, first)
            self.walk.accesses.append(Access(i.mnemonic, address, first.size, other, i.address))
        elif (found := self.get(i, first).loaded) is not None:
            # A value that was loaded just before.
            self.walk.accesses.append(Access(i.mnemonic, found[0], found[1], other, i.address))
        elif (found := other.loaded) is not None:
            value = self.get(i, first)
            self.walk.accesses.append(Access(i.mnemonic, found[0], found[1], value, i.address))

    def modify(self, name: str, i: Any) -> None:
        target = i.operands[0]
        other = self.get(i, i.operands[1]) if len(i.operands) > 1 else number(1)
        before = self.get(i, target)
        after: Value | None = None
        if name in {"add", "inc"}:
            after = before.plus(other)
        elif name in {"xor", "sub", "pxor", "xorps"} and before == other:
            after = number(0)
        elif name in {"sub", "dec"}:
            after = before.plus(other, -1)
        elif name in {"shl", "sal"} and not other.terms and 0 <= other.constant < 32:
            after = number(0).plus(before, 1 << other.constant)
        elif name == "or" and before == number(0):
            after = other
        elif name in PAIRS:
            after = Value(((("pair", before, other), 1),))
        elif name == "shr" and before.loaded and not other.terms:
            after = Value(((("shr", before, other.constant), 1),))
        elif name == "and" and other == number(1) and before.terms:
            self.note_bit(i, before.terms[0][0])
        elif name == "xor":
            after = Value(((("xor", before, other), 1),))
        self.put(i, target, after or self.fresh(i, "result"))

    def multiply(self, i: Any) -> None:
        factors = [self.get(i, operand) for operand in i.operands[-2:]]
        known = [f.constant for f in factors if not f.terms]
        product = None
        if known and len(i.operands) > 1:
            product = number(0).plus(factors[1 if factors[0] == number(known[0]) else 0], known[0])
        if product is None:
            self.unknown(i)
        else:
            self.put(i, i.operands[0], product)

    def note_bit(self, i: Any, term: Any) -> None:
        # load >> n & 1: a test of bit n.
        if term[0] == "shr" and (loaded := term[1].loaded):
            self.walk.accesses.append(
                Access("bt", loaded[0], loaded[1], number(term[2]), i.address)
            )

    def push(self, i: Any) -> None:
        value = self.get(i, i.operands[0])
        self.move_stack(-8)
        offset = self.register("rsp", i).offset_from(STACK)
        if offset is not None:
            self.state.stack[offset] = value

    def pop(self, i: Any) -> None:
        offset = self.register("rsp", i).offset_from(STACK)
        value = self.state.stack.get(offset) if offset is not None else None
        self.put(i, i.operands[0], value or self.fresh(i, "popped"))
        self.move_stack(8)

    def move_stack(self, count: int) -> None:
        pointer = self.state.registers["rsp"]
        self.state.registers["rsp"] = Value(pointer.terms, pointer.constant + count)

    def call(self, i: Any) -> None:
        result = Value(((("ret", i.address), 1),))
        self.note_call(i, result)
        # What a compiler reads behind a call, it knows the callee to keep (-fipa-ra).
        self.state.registers["rax"] = result
        self.state.registers["rdx"] = self.fresh(i, "rdx")

    def note_call(self, i: Any, result: Value) -> None:
        args = tuple(self.register(name, i) for name in ARGUMENTS)
        self.walk.calls.append(Call(self.target(i), args, result, i.address))

    def target(self, i: Any) -> int | None:
        import capstone

        operand = i.operands[0]
        return operand.imm if operand.type == capstone.x86.X86_OP_IMM else None

    def jump(self, i: Any, state: State | None = None) -> None:
        target = self.target(i)
        if target is not None and self.start <= target < self.start + len(self.code):
            self.waiting.append((target, state or self.state))
        elif state is None:
            self.note_call(i, Value(((("ret", i.address), 1),)))

    def unknown(self, i: Any) -> None:
        import capstone

        for operand in i.operands:
            if operand.type == capstone.x86.X86_OP_MEM:
                address = self.address(i, operand)
                if operand.access & capstone.CS_AC_READ:
                    self.walk.accesses.append(
                        Access("load", address, operand.size, None, i.address)
                    )
                if operand.access & capstone.CS_AC_WRITE:
                    self.store(i, address, operand.size, self.fresh(i, "stored"))
        try:
            written = i.regs_access()[1]
        except capstone.CsError:
            written = [o.reg for o in i.operands if o.type == capstone.x86.X86_OP_REG]
        for register in written:
            name = i.reg_name(register)
            self.state.registers[full_name(name)] = self.fresh(i, name)
