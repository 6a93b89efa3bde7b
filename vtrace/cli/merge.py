"""``vtrace merge``: several recordings on one time axis, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vtrace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from vtrace.merge import Merge, Placed

SUMMARY = "put several recordings on one time axis, as one file"
DESCRIPTION = """\
Write several recordings as one: of vtrace, of one host or of several, and all
that vtrace import reads. The clock of the first FILE is the axis. The others
are put beside it by what the files allow: one boot of one host, the same
chains or packets in both, the time of day, or an offset that you give. Where
nothing does, that is an error. What two of them saw is told by one."""
EXAMPLES = [
    ("vtrace merge run.vtrace tap0.pcap -w both.vtrace", "Packets found again by their bytes."),
    ("vtrace merge a.vtrace b.vtrace -w day.vtrace", "Two recordings of one host."),
    ("vtrace merge run.vtrace x.dat --offset x.dat=+1.5ms -w o.vtrace", "A clock known to you."),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    group = parser.add_argument_group("input")
    group.add_argument("files", metavar="FILE", nargs="+", help="recordings, two or more")
    group.add_argument(
        "--offset",
        metavar="FILE=TIME",
        action="append",
        default=[],
        help="add this to the times of FILE: +1.5ms, -20us",
    )
    parser.add_argument_group("output").add_argument(
        "-w", "--write", metavar="OUT", required=True, help="the file to write; - is stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Write the merged file."""
    from parsers.tracefile import TraceWriter
    from vtrace.cli import say
    from vtrace.cli.filter import same_file
    from vtrace.merge import Merge

    for path in args.files:
        if path == "-":
            raise UsageError("merge: recordings are read twice: give files, not -")
        if args.write != "-" and same_file(path, args.write):
            raise UsageError(f"merge: {args.write} is one of the recordings; write to another file")
    with Merge(args.files, offsets(args.files, args.offset)) as merge:
        for line in placed_lines(merge.placed):
            say(line)
        with TraceWriter(args.write) as writer:
            for batch in merge.batches():
                writer.write(batch)
        for line in (*left_out_lines(merge), *merge.dropped):
            say(line)
        return conclude(merge)


def offsets(files: Sequence[str], texts: Sequence[str]) -> dict[int, int]:
    """Return what ``--offset`` gives: index of a file -> ns.

    Raises:
        UsageError: It names no file, or the first one, or is no time.
    """
    from vtrace.session.clock import parse_duration

    found: dict[int, int] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        named = [i for i, path in enumerate(files) if name in (path, Path(path).name)]
        if len(named) != 1:
            what = "no FILE" if not named else "more than one FILE"
            raise UsageError(f"--offset: {name!r} is {what} of those given; write FILE=+1.5ms")
        if named[0] == 0:
            raise UsageError(f"--offset: {name} is the first FILE, whose clock is the axis")
        sign, amount = (value[:1], value[1:]) if value[:1] in ("+", "-") else ("", value)
        try:
            ns = parse_duration(amount)
        except ValueError:
            raise UsageError(
                f"--offset: {value!r} is no time: expected +1.5ms, -20us, 0s"
            ) from None
        found[named[0]] = -ns if sign == "-" else ns
    return found


def placed_lines(placed: Sequence[Placed]) -> list[str]:
    """Return for each source its clock, its offset, how sure that is and how it was found."""
    from vtrace.tables.human import count_text

    lines = []
    for one in placed:
        source = one.source
        head = f"{source.name}: {count_text(source.events)} events, clock {source.clock}"
        if one.method == "axis":
            lines.append(f"{head}: the axis")
            continue
        sure = "not known" if one.uncertainty_ns is None else f"{span_text(one.uncertainty_ns)}"
        sign = "-" if one.offset_ns < 0 else "+"
        line = f"{head}: {sign}{span_text(abs(one.offset_ns))}, uncertainty {sure}: {one.how}"
        if one.events:
            line += f", {count_text(one.events)} events matched"
        lines.append(line)
        lines += [f"{one.source.name}: but {note}" for note in one.notes]
    return lines


def left_out_lines(merge: Merge) -> list[str]:
    """Return what is not in the file since another source tells of it."""
    lines = []
    for one, kinds in zip(merge.placed, merge.left_out, strict=True):
        if kinds:
            lines.append(f"{one.source.name}: left out, as another tells of it: {listed(kinds)}")
    return lines


def listed(kinds: Mapping[str, int]) -> str:
    """Return kinds with their counts, the most first."""
    from vtrace.tables.human import count_text

    ordered = sorted(kinds.items(), key=lambda one: -one[1])
    return ", ".join(f"{name} {count_text(count)}" for name, count in ordered)


def span_text(ns: int) -> str:
    """Return a time to the nanosecond, in the unit in which it reads best: ``1.000250 ms``."""
    for unit, size, digits in (("s", 1_000_000_000, 9), ("ms", 1_000_000, 6), ("us", 1_000, 3)):
        if ns >= size:
            return f"{ns // size}.{ns % size:0{digits}d} {unit}"
    return f"{ns} ns"


def conclude(merge: Merge) -> int:
    """Say what was damaged, and return the exit code."""
    from vtrace.cli import say

    code = ExitCode.OK
    for damage in merge.damage:
        say(f"{damage.where}: {damage.reason}")
        code = ExitCode.INPUT
    for path in merge.incomplete if code == ExitCode.OK else ():
        say(f"{path}: ends without a footer; all whole batches were read")
        code = ExitCode.INPUT
    return code
