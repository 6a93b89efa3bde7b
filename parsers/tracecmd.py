"""``trace.dat`` through ``trace-cmd report``, and the text that it prints.

trace-cmd reads the file; no plugins are loaded (``-N``), and nothing of the file is run. The text
of ftrace's own ``trace`` file has the same form.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from parsers.eventlines import FTRACE
from parsers.imported import Imported, timebase
from parsers.kernelbatches import batches, text_batches
from parsers.lines import Tool, blocks, output, tool_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parsers.batch import EventBatch
    from parsers.eventmap import EventMap

__all__ = ["MAGIC", "PACKAGE", "read_dat", "read_text"]

MAGIC: Final = b"\x17\x08\x44tracing"
PACKAGE: Final = "trace-cmd"
TOOL: Final = "trace-cmd"
NOTHING: Final = "trace-cmd prints no event of it, as of one that is cut short"
MOST_TALK: Final = 4 << 20
MOST_SYMBOLS: Final = 64 << 20

RAW: Final = ("kvm_exit", "kvm_mmio", "kvm_pio", "kvm_msi_set_irq")
"""Events of which the fields say more than the kernel's own words."""

CLOCKS: Final = {
    "mono": "monotonic",
    "mono_raw": "monotonic_raw",
    "boot": "boottime",
    "tai": "tai",
    "x86-tsc": "tsc",
}


def read_dat(source: Imported, path: str, table: EventMap) -> Iterator[EventBatch]:
    """Yield the batches of a ``trace.dat``.

    Raises:
        UnsupportedError: trace-cmd is not installed.
        InputError: trace-cmd can read nothing of it.
    """
    path = str(Path(path).resolve())
    declared = set(
        output([TOOL, "report", "-N", "-E", "-i", path], PACKAGE, MOST_TALK).decode().split()
    )
    options = output([TOOL, "dump", "--options", "-i", path], PACKAGE, MOST_TALK)
    command = [TOOL, "report", "-N", "-t"]
    for name in RAW:
        command += ["-r", name]
    meta = _meta(options.decode(errors="replace"), _version())
    with Tool([*command, "-i", path], PACKAGE) as tool:
        lines = blocks(tool.read, lambda n: source.report(f"{n} lines were too long"))
        events = 0
        symbols: Symbols | None = None
        for batch in batches(source, lines, FTRACE, table, meta, declared or None):
            events += len(batch)
            if batch.meta.get("places"):
                symbols = symbols or Symbols(path)
                batch.meta["places"] = symbols.named(batch.meta["places"])
            yield batch
        problem = tool.finish()
        if not events and not _seen(source):
            raise tool_error(source.name, problem or tool.talk or NOTHING)
        if problem:
            source.report(f"{problem}; what it had printed was read")


def read_text(source: Imported, file: BinaryIO, table: EventMap) -> Iterator[EventBatch]:
    """Yield the batches of what ``trace-cmd report`` printed, or of ftrace's ``trace`` file."""
    why = "the text does not say which clock was set"
    yield from text_batches(source, file, FTRACE, table, tool="trace-cmd report", why=why)


def _seen(source: Imported) -> bool:
    imported = source.metadata.sections.get("imported", {})
    return bool(imported.get("events"))


def _version() -> str:
    text = output([TOOL, "--version"], PACKAGE, MOST_TALK).decode(errors="replace")
    found = re.search(r"version ([0-9.]+)", text)
    return f"trace-cmd {found[1]}" if found else "trace-cmd"


def _meta(options: str, version: str) -> dict[str, Any]:
    host: dict[str, Any] = {}
    uname = re.search(r"UNAME[^\n]*\n(\S+) (\S+) (\S+) (\S+)", options)
    if uname:
        host = {"kernel": uname[3], "machine": uname[4], "hostname": uname[2]}
    if cpus := re.search(r"CPUCOUNT[^\n]*\n([0-9]{1,5})", options):
        host["cpus"] = int(cpus[1])
    clock = re.search(r'"([\w-]{1,32})" \[clock\]', options) or re.search(
        r"TRACECLOCK[^\n]*\n[^\n]*\[([\w-]{1,32})\]", options
    )
    if clock:
        name = CLOCKS.get(clock[1], clock[1])
        base = timebase(name, None, f"trace.dat: trace-cmd record -C {clock[1]}")
    else:
        base = timebase("unknown", None, "trace.dat does not say")
    return {
        "host": host,
        "capture": {"tool": "trace-cmd"},
        "imported": {"format": "trace.dat", "tool": version},
        "timebase": base,
    }


class Symbols:
    """Kernel symbols of a ``trace.dat``, read when a place has to be named."""

    def __init__(self, path: str) -> None:
        text = output([TOOL, "report", "-N", "-f", "-i", path], PACKAGE, MOST_SYMBOLS)
        self._known: list[tuple[int, str]] = []
        for line in text.splitlines():
            address, _, name = line.decode(errors="replace").strip().partition(" ")
            if re.fullmatch(r"[0-9a-f]{1,16}", address):
                self._known.append((int(address, 16), name.split("\t")[0].split(" ")[0]))
        self._known.sort(key=lambda row: row[0])
        self._addresses = [row[0] for row in self._known]

    def named(self, places: dict[str, str]) -> dict[str, str]:
        """Return places with the name of the function that each address is in."""
        return {number: self._name(text) for number, text in places.items()}

    def _name(self, text: str) -> str:
        from bisect import bisect_right

        if not re.fullmatch(r"0x[0-9a-f]{1,16}", text):
            return text
        at = bisect_right(self._addresses, int(text, 16)) - 1
        return self._known[at][1] if at >= 0 else text
