"""Facts about this kernel's types, from BTF, through libbpf.

The kernel is feature-tested, never asked for its version: members, sizes, argument counts and
enums come from ``/sys/kernel/btf/{vmlinux,<module>}``. libbpf (Debian: ``libbpf1``, which bcc
brings along) parses; what stands here walks its types with ctypes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vtrace.errors import UnsupportedError

__all__ = ["Btf", "MissingTypeError"]

# BTF kinds, from include/uapi/linux/btf.h.
_STRUCT, _UNION, _ENUM, _FUNC, _ENUM64 = 4, 5, 6, 12, 19
_TRANSPARENT = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag


class MissingTypeError(UnsupportedError):
    """This kernel's BTF does not have a type or a member that a probe needs."""


class _Type(ctypes.Structure):
    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("size_or_type", ctypes.c_uint32),
    )

    @property
    def kind(self) -> int:
        return int(self.info >> 24) & 0x1F

    @property
    def count(self) -> int:
        return int(self.info) & 0xFFFF

    @property
    def bitfields(self) -> bool:
        return bool(self.info >> 31)


class _Triple(ctypes.Structure):
    # btf_member {name_off, type, offset}; btf_enum64 {name_off, low, high}.
    _fields_ = (
        ("name_off", ctypes.c_uint32),
        ("second", ctypes.c_uint32),
        ("third", ctypes.c_uint32),
    )


class _Pair(ctypes.Structure):
    # btf_enum {name_off, val}.
    _fields_ = (("name_off", ctypes.c_uint32), ("value", ctypes.c_int32))


@dataclass(frozen=True, slots=True)
class _Member:
    type_id: int
    bit_offset: int


@lru_cache(maxsize=1)
def _libbpf() -> ctypes.CDLL:
    for name in ("libbpf.so.1", ctypes.util.find_library("bpf")):
        if not name:
            continue
        try:
            lib = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        lib.btf__parse_split.restype = ctypes.c_void_p
        lib.btf__parse_split.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        lib.btf__find_by_name_kind.restype = ctypes.c_int32
        lib.btf__find_by_name_kind.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_uint32,
        ]
        lib.btf__type_by_id.restype = ctypes.POINTER(_Type)
        lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__name_by_offset.restype = ctypes.c_char_p
        lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        lib.btf__free.argtypes = [ctypes.c_void_p]
        lib.btf__free.restype = None
        lib.libbpf_set_print.argtypes = [ctypes.c_void_p]
        lib.libbpf_set_print(None)
        return lib
    raise UnsupportedError(
        "libbpf.so.1 is not here; kernel types cannot be read (Debian: apt install libbpf1)"
    )


class Btf:
    """Types of the running kernel and of those of its modules that are asked for."""

    def __init__(self, directory: Path = Path("/sys/kernel/btf")) -> None:
        self._directory = directory
        self._lib = _libbpf()
        self._base = self._lib.btf__load_vmlinux_btf()
        if not self._base:
            raise UnsupportedError(
                f"{directory}/vmlinux cannot be read; probes need a kernel with "
                "CONFIG_DEBUG_INFO_BTF"
            )
        self._modules: dict[str, int | None] = {"vmlinux": self._base}

    def _load(self, module: str) -> int | None:
        if module not in self._modules:
            path = self._directory / module
            handle = None
            if path.exists():
                handle = self._lib.btf__parse_split(str(path).encode(), self._base)
            self._modules[module] = handle or None
        return self._modules[module]

    def has_module(self, module: str) -> bool:
        """Tell whether BTF of ``module`` can be read (it is loaded, or built in)."""
        return self._load(module) is not None

    def _handle(self, module: str) -> int:
        # What a kernel builds in has its types in vmlinux.
        return self._load(module) or self._base

    def _find(self, module: str, name: str, kinds: tuple[int, ...]) -> tuple[int, int]:
        handle = self._handle(module)
        for kind in kinds:
            found = self._lib.btf__find_by_name_kind(handle, name.encode(), kind)
            if found > 0:
                return handle, found
        raise MissingTypeError(f"BTF of {module} has no type {name}")

    def _type(self, handle: int, type_id: int) -> _Type:
        kind: _Type = self._lib.btf__type_by_id(handle, type_id).contents
        while kind.kind in _TRANSPARENT:
            kind = self._lib.btf__type_by_id(handle, kind.size_or_type).contents
        return kind

    def _name(self, handle: int, offset: int) -> str:
        raw: bytes | None = self._lib.btf__name_by_offset(handle, offset)
        return raw.decode() if raw else ""

    def _behind(self, item: _Type, row: type[ctypes.Structure]) -> ctypes.Array[ctypes.Structure]:
        address = ctypes.addressof(item) + ctypes.sizeof(_Type)
        return (row * item.count).from_address(address)

    def _member(self, handle: int, outer: _Type, name: str) -> _Member | None:
        for member in self._behind(outer, _Triple):
            assert isinstance(member, _Triple)
            offset = member.third & 0xFFFFFF if outer.bitfields else member.third
            found = self._name(handle, member.name_off)
            if found == name:
                return _Member(member.second, offset)
            if not found:
                inner = self._type(handle, member.second)
                if inner.kind in (_STRUCT, _UNION):
                    deeper = self._member(handle, inner, name)
                    if deeper:
                        return _Member(deeper.type_id, offset + deeper.bit_offset)
        return None

    def bit_offset(self, module: str, path: str) -> int:
        """Return the offset in bits of ``struct.member[.member...]``.

        Members of anonymous structs and unions are found by their own name.
        """
        struct, *members = path.split(".")
        handle, type_id = self._find(module, struct, (_STRUCT, _UNION))
        current = self._type(handle, type_id)
        bits = 0
        for name in members:
            found = self._member(handle, current, name)
            if found is None:
                raise MissingTypeError(f"BTF of {module}: {struct} has no member {name}")
            bits += found.bit_offset
            current = self._type(handle, found.type_id)
        return bits

    def offset(self, module: str, path: str) -> int:
        """Return the offset in bytes of ``struct.member[.member...]``."""
        return self.bit_offset(module, path) // 8

    def size(self, module: str, struct: str) -> int:
        """Return the size in bytes of a struct."""
        handle, type_id = self._find(module, struct, (_STRUCT, _UNION))
        return int(self._type(handle, type_id).size_or_type)

    def has_member(self, module: str, path: str) -> bool:
        """Tell whether a struct and its member exist."""
        try:
            self.bit_offset(module, path)
        except MissingTypeError:
            return False
        return True

    def arity(self, module: str, function: str) -> int:
        """Return the number of arguments of a function."""
        handle, type_id = self._find(module, function, (_FUNC,))
        func = self._lib.btf__type_by_id(handle, type_id).contents
        return int(self._lib.btf__type_by_id(handle, func.size_or_type).contents.count)

    def has_function(self, module: str, function: str) -> bool:
        """Tell whether BTF describes a function."""
        try:
            self._find(module, function, (_FUNC,))
        except MissingTypeError:
            return False
        return True

    def enum(self, module: str, name: str) -> dict[str, int]:
        """Return the values of an enum by name; empty if the kernel has no such enum."""
        try:
            handle, type_id = self._find(module, name, (_ENUM, _ENUM64))
        except MissingTypeError:
            return {}
        item = self._type(handle, type_id)
        if item.kind == _ENUM64:
            return {
                self._name(handle, row.name_off): row.second | row.third << 32
                for row in self._behind(item, _Triple)
                if isinstance(row, _Triple)
            }
        return {
            self._name(handle, row.name_off): row.value
            for row in self._behind(item, _Pair)
            if isinstance(row, _Pair)
        }

    def close(self) -> None:
        """Free libbpf's copies."""
        for name, handle in self._modules.items():
            if handle and name != "vmlinux":
                self._lib.btf__free(handle)
        if self._base:
            self._lib.btf__free(self._base)
        self._modules, self._base = {}, 0
