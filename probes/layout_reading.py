"""How :mod:`probes.layout_facts` asks one binary, and refuses what it does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from probes.codewalk import Walk, walk
from vtrace.errors import UnsupportedError

if TYPE_CHECKING:
    from probes.codevalue import Value
    from probes.executable import Executable

__all__ = ["Reading"]


class Reading:
    """Walks of one binary's functions, each made once."""

    def __init__(self, exe: Executable) -> None:
        self.exe = exe
        self.walks: dict[str, Walk] = {}

    def refusal(self, what: str, where: str, found: str) -> UnsupportedError:
        """Return the error that says what could not be proven."""
        version = f"QEMU {self.exe.qemu_version}" if self.exe.qemu_version else "this program"
        return UnsupportedError(
            f"{self.exe.path}: the layout of {version} could not be proven: {what} from {where}:"
            f" found {found}"
        )

    def one(self, what: str, where: str, offsets: Iterable[int | None]) -> int:
        """Return the one offset that there is, or refuse."""
        distinct = sorted({o for o in offsets if o is not None})
        if len(distinct) != 1:
            raise self.refusal(what, where, ", ".join(map(str, distinct)) or "none")
        return distinct[0]

    def same(self, what: str, where: str, offset: int, offsets: Iterable[int | None]) -> None:
        """Refuse unless a second function shows this offset, too."""
        if offset not in (distinct := {o for o in offsets if o is not None}):
            found = ", ".join(map(str, sorted(distinct))) or "none"
            raise self.refusal(what, where, f"{found} instead of {offset}")

    def has(self, name: str) -> bool:
        """Tell whether a function of this name is exported."""
        symbol = self.exe.symbols.get(name)
        return symbol is not None and symbol.function

    def walked(self, name: str) -> Walk:
        """Return the walk of an exported function."""
        if name not in self.walks:
            if not self.has(name):
                raise self.refusal("a field", name, "no such function")
            start, code = self.exe.function(self.exe.symbols[name].address)
            self.walks[name] = walk(start, code)
        return self.walks[name]

    def calls(self, found: Walk, name: str) -> Iterator[tuple[Value, ...]]:
        """Yield the arguments of each call of an exported function."""
        for call in found.calls:
            if call.target is not None and self.exe.names.get(call.target) == name:
                yield call.args
