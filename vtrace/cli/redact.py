"""``vtrace redact``: a recording that can be sent to somebody else."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli import options
from vtrace.errors import ExitCode, InputError, UsageError, VtraceError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from parsers.batch import EventBatch
    from vtrace.redact import Redactor

KEPT: Final = ("text", "thread", "path", "cgroup", "table")

SUMMARY = "write a recording without names, addresses and payload"
DESCRIPTION = """\
Write a recording that can be sent to a vendor: names of VMs, hosts, devices,
interfaces and threads, paths, UUIDs and addresses are replaced, the same by the
same everywhere; networks stay networks. Behind the headers all bytes are 0, and
checksums fit again. Times, sizes, counters, ports, kernel symbols, drop and
exit reasons, versions of kernel and QEMU stay, so that a report or a diagnosis
of the file says the same under other names. Then the file is read again and
searched for everything that was replaced; if something is found, it is removed."""
EXAMPLES = [
    ("vtrace redact run.vtrace -w vendor.vtrace", "A file to send."),
    ("vtrace redact run.vtrace -w vendor.vtrace --map names.json", "And what stands for what."),
    ("vtrace redact b.vtrace -w b2.vtrace --salt 'a long secret'", "Same names as in others."),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    group = parser.add_argument_group("redaction")
    group.add_argument(
        "--keep",
        metavar="WHAT",
        action="append",
        choices=KEPT,
        default=[],
        help=f"keep these, without the names in them: {', '.join(KEPT)}; may be repeated",
    )
    group.add_argument(
        "--salt",
        metavar="TEXT",
        default="",
        help="the same TEXT gives the same replacements in all recordings; keep it secret",
    )
    group.add_argument(
        "--map", metavar="FILE", help="write what stands for what (JSON, mode 0600); keep it secret"
    )
    parser.add_argument_group("output").add_argument(
        "-w", "--write", metavar="OUT", required=True, help="the file to write"
    )


def run(args: argparse.Namespace) -> int:
    """Write the recording, and check it."""
    from parsers.opening import open_any
    from vtrace.cli import say
    from vtrace.cli.filter import same_file
    from vtrace.redact import Redactor
    from vtrace.text import clean

    path = options.input_path(args)
    if path == "-" or args.write == "-":
        raise UsageError("redact: both recordings are read twice: give files, not -")
    if same_file(path, args.write):
        raise UsageError(f"redact: {args.write} is the recording itself; write to another file")
    if args.map and (same_file(path, args.map) or same_file(args.write, args.map)):
        raise UsageError(f"redact: {args.map} is a recording; write the map to another file")
    with open_any(path) as trace:
        redactor = Redactor(args.salt, frozenset(args.keep))
        for batch in trace.batches():
            redactor.collect(batch)
        redactor.seal()
        partial = Path(f"{args.write}.partial")
        try:
            checked = written(trace, redactor, partial)
            if args.map:
                write_map(Path(args.map), redactor)
            try:
                partial.replace(args.write)
            except OSError as error:
                raise VtraceError(f"{args.write}: cannot be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        for line in told(redactor):
            say(line)
        say(checked)
        for damage in trace.damage:
            say(clean(f"{damage.where}: {damage.reason}"))
        return ExitCode.INPUT if trace.damage else ExitCode.OK


def written(trace: Any, redactor: Redactor, out: Path) -> str:
    """Write the redacted batches, read them again and look for what was replaced.

    Raises:
        VtraceError: Something was left behind.
    """
    from parsers.tracefile import TraceWriter, open_trace
    from vtrace.redact import Check
    from vtrace.tables.human import count_text

    with TraceWriter(out) as writer:
        for batch in trace.batches():
            writer.write(redactor.redact(batch))
    check = Check(redactor.names)
    with open_trace(out) as other:
        for before, after in paired(trace.batches(), other.batches()):
            check.pair(before, after)
        if other.damage:
            raise InputError(f"{out}: cannot be read again: {other.damage[0].reason}")
    if check.found:
        more = f" (and {len(check.found) - 1} more)" if len(check.found) > 1 else ""
        raise VtraceError(
            f"redact: something was left behind, and nothing is written: {check.found[0]}{more}; "
            "give another --salt or less --keep, or report it as a bug"
        )
    return (
        f"checked: {count_text(check.texts)} texts and {count_text(check.bytes)} captured bytes "
        "read again, nothing of the original found"
    )


def paired(
    before: Iterator[EventBatch], after: Iterator[EventBatch]
) -> Iterator[tuple[EventBatch, EventBatch]]:
    """Yield the batches of both side by side; the writer has split those that are too large."""
    import numpy as np

    for batch in before:
        rows = np.arange(len(batch))
        at = 0
        while True:
            other = next(after, None)
            if other is None:
                raise VtraceError("redact: what was written has fewer batches than the recording")
            whole = at == 0 and len(other) == len(batch)
            mine = batch if whole else batch.take((rows >= at) & (rows < at + len(other)))
            yield mine, other
            at += len(other)
            if at >= len(batch):
                break
    if next(after, None) is not None:
        raise VtraceError("redact: what was written has more batches than the recording")


def write_map(path: Path, redactor: Redactor) -> None:
    """Write what stands for what, for the owner alone.

    Raises:
        VtraceError: The file cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - of a descriptor
            os.fchmod(fd, 0o600)
            json.dump(redactor.names.mapping(), file, indent=1)
            file.write("\n")
    except OSError as error:
        raise VtraceError(f"{path}: cannot be written: {error.strerror}") from error


def told(redactor: Redactor) -> list[str]:
    """Return what was replaced, dropped and kept, in a few lines."""
    from vtrace.tables.human import count_text

    names = redactor.names
    counts = [f"{kind} {count_text(n)}" for kind, n in sorted(names.counts().items())]
    counts += [
        f"{family} {count_text(len(table.secret()))}"
        for family, table in names.tables.items()
        if len(table.secret())
    ]
    lines = [f"replaced: {', '.join(counts) or 'nothing'}"]
    lines.append(
        f"{count_text(redactor.packets)} packets: {count_text(redactor.payload_bytes)} bytes of "
        f"payload are 0; {count_text(redactor.checksums)} checksums of packets with missing bytes"
        f" are 0; {count_text(redactor.coincidences)} numbers that read as an address are 0"
    )
    if names.dropped:
        parts = [f"{where} {count_text(n)}" for where, n in sorted(names.dropped.items())]
        more = f" and {len(parts) - 12} more" if len(parts) > 12 else ""
        lines.append(f"left out, for want of a rule: {', '.join(parts[:12])}{more}")
    if names.unsearchable:
        lines.append(
            f"{count_text(names.unsearchable)} names are replaced but too short or too ordinary to "
            "be looked for"
        )
    if redactor.met:
        lines.append(f"{count_text(redactor.met)} addresses stand for others of the same recording")
    if redactor.tries and redactor.has_salt:
        lines.append(
            f"the salt was turned {redactor.tries} times: addresses differ from those of others"
        )
    lines.append(
        "kept: times, sizes, ids of processes and threads, ports, VLANs, counters, addresses of "
        "guest memory, kernel symbols, reasons, versions of kernel and QEMU"
    )
    return lines
