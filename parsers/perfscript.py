"""``perf.data`` through ``perf script``, and the text that it prints.

perf prints no addresses and symbols, and runs no script; it may open files that ``perf.data``
names, to read their build ids.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from parsers.eventlines import PERF
from parsers.imported import Imported, timebase
from parsers.kernelbatches import batches, text_batches
from parsers.lines import Tool, blocks, output, tool_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parsers.batch import EventBatch
    from parsers.eventmap import EventMap

__all__ = ["MAGICS", "PACKAGE", "read_data", "read_text"]

MAGICS: Final = (b"PERFILE2", b"2ELIFREP", b"PERFFILE")
PACKAGE: Final = "linux-perf"
TOOL: Final = "perf"
MOST_TALK: Final = 4 << 20

CLOCKS: Final = {
    "0": "realtime",
    "1": "monotonic",
    "4": "monotonic_raw",
    "7": "boottime",
    "11": "tai",
}
"""clockid_t of linux/time.h."""


def read_data(source: Imported, path: str, table: EventMap) -> Iterator[EventBatch]:
    """Yield the batches of a ``perf.data``.

    Raises:
        UnsupportedError: perf is not installed.
        InputError: perf can read nothing of it.
    """
    path = str(Path(path).resolve())
    listed = output([TOOL, "evlist", "-f", "-v", "-i", path], PACKAGE, MOST_TALK)
    attributes = listed.decode(errors="replace").splitlines()
    declared = {line.split(": ")[0].strip() for line in attributes if line}
    # -I prints the host's part of the header; only its comments are looked at.
    header = output([TOOL, "script", "-f", "--header-only", "-I", "-i", path], PACKAGE, MOST_TALK)
    # Without addresses there is no symbol to look up.
    fields = "+pid,-ip,-sym,-dso,-symoff"
    command = [TOOL, "script", "-f", "-F", fields, "--ns", "--show-lost-events", "-i", path]
    meta = _meta(header.decode(errors="replace"), attributes)
    with Tool(command, PACKAGE) as tool:
        lines = blocks(tool.read, lambda n: source.report(f"{n} lines were too long"))
        yield from batches(source, lines, PERF, table, meta, declared or None)
        problem = tool.finish()
        events = source.metadata.sections.get("imported", {}).get("events")
        if not events:
            raise tool_error(source.name, problem or tool.talk or "perf prints no event of it")
        if problem:
            source.report(f"{problem}; what it had printed was read")


def read_text(source: Imported, file: BinaryIO, table: EventMap) -> Iterator[EventBatch]:
    """Yield the batches of what ``perf script`` printed."""
    why = "the text does not say (perf record -k)"
    yield from text_batches(source, file, PERF, table, tool="perf script", why=why)


def _meta(header: str, attributes: list[str]) -> dict[str, Any]:
    def line(name: str) -> str:
        found = re.search(rf"^# {name} : (.{{1,200}})$", header, re.MULTILINE)
        return found[1].strip() if found else ""

    host: dict[str, Any] = {}
    for name, key in (("hostname", "hostname"), ("os release", "kernel"), ("arch", "machine")):
        if line(name):
            host[key] = line(name)
    if re.fullmatch(r"[0-9]{1,5}", line("nrcpus online")):
        host["cpus"] = int(line("nrcpus online"))
    ids = {found[1] for one in attributes if (found := re.search(r"\bclockid: ([0-9]+)", one))}
    if len(ids) == 1:
        number = next(iter(ids))
        name = CLOCKS.get(number, f"clockid {number}")
        base = timebase(name, 1, f"perf.data: clockid {number}")
    else:
        base = timebase("local", 1, "perf.data: no -k, so the clock is sched_clock")
    version = line("perf version")
    return {
        "host": host,
        "capture": {"tool": "perf"},
        "imported": {"format": "perf.data", "tool": f"perf {version}".strip()},
        "timebase": base,
    }
