"""``vtrace import``: a recording of another tool as one of vtrace's own."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli import options
from vtrace.errors import ExitCode, InputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

FORMATS: Final = (
    "trace.dat",
    "ftrace",
    "perf.data",
    "perf-script",
    "qemu-log",
    "simpletrace",
    "pcap",
    "pcapng",
)

SUMMARY = "make a recording of another tool's: trace-cmd, perf, QEMU, pcap"
DESCRIPTION = """\
Read what another tool has recorded, and write what of it vtrace knows as a
recording: kprobe events on functions of vhost, KVM and the tap, tracepoints
(kvm, sched, skb), QEMU's trace events of virtqueues, captured packets. What an
event did not say is missing in the recording, and what nothing is made of is
counted by its name. All verbs read these files directly too; importing is for
reading once what is read often."""
EXAMPLES = [
    ("vtrace import trace.dat -w run.vtrace", "What trace-cmd has recorded."),
    ("vtrace import perf.data --map probes.toml -w run.vtrace", "With kprobes of your own names."),
    ("perf script | vtrace import - -w run.vtrace", "What perf prints."),
    ("vtrace report trace.dat", "Without a file in between."),
    ("vtrace packets tap0.pcap", "Packets of a capture."),
]

MOST_NAMES: Final = 12
"""Event names that are said one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    group = parser.add_argument_group("import")
    group.add_argument(
        "--format",
        choices=FORMATS,
        metavar="F",
        help=f"of FILE, if not found: {', '.join(FORMATS)}",
    )
    group.add_argument(
        "--map",
        metavar="TOML",
        help="names of your probes and their fields, instead of ~/.config/vtrace/events.toml",
    )
    parser.add_argument_group("output").add_argument(
        "-w", "--write", metavar="OUT", required=True, help="the file to write; - is stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Write the recording."""
    from parsers.imported import Imported
    from parsers.opening import open_any
    from parsers.tracefile import TraceWriter
    from vtrace.cli import say
    from vtrace.cli.filter import same_file
    from vtrace.text import clean

    path = options.input_path(args)
    if path != "-" and args.write != "-" and same_file(path, args.write):
        raise UsageError(f"import: {args.write} is the recording itself; write to another file")
    with open_any(path, form=args.format, table=args.map) as source:
        if not isinstance(source, Imported):
            raise InputError(
                f"{path}: is a recording of vtrace already; vtrace filter writes a part of it"
            )
        batches = source.batches()
        # Nothing is written where nothing can be read, which shows before the first record.
        held = []
        for batch in batches:
            held.append(batch)
            if len(batch):
                break
        with TraceWriter(args.write) as writer:
            for batch in chain(held, batches):
                writer.write(batch)
        for line in told(source.metadata.sections):
            say(line)
        for damage in source.damage:
            say(clean(f"{damage.where}: {damage.reason}"))
        return ExitCode.INPUT if source.damage else ExitCode.OK


def told(sections: Mapping[str, Any]) -> list[str]:
    """Return what became of the events, in a few lines."""
    from vtrace.tables.human import count_text

    imported = sections.get("imported", {})
    events: dict[str, dict[str, Any]] = imported.get("events", {})
    counts = sections.get("counts", {})
    records = sum(kind.get("received", 0) for kind in counts.values())
    total = sum(row["count"] for row in events.values())
    base = sections.get("timebase", {})
    tool = f" through {imported['tool']}" if imported.get("tool") else ""
    clock = f"clock {base.get('clock')} ({base.get('known_by')})"
    lines = [
        f"{imported.get('format')}{tool}: {count_text(records)} records of "
        f"{count_text(total)} events; {clock}"
    ]
    lost = sum(kind.get("lost", 0) for kind in counts.values())
    if lost:
        lines.append(f"lost {count_text(lost)} events, as the tool says")
    for what, chosen in (
        ("nothing was made of", {n: r["count"] for n, r in events.items() if r["as"] is None}),
        (
            "too little is known to use",
            {n: r["unused"] for n, r in events.items() if r.get("unused")},
        ),
    ):
        if chosen:
            lines.append(f"{what} {listed(chosen)}")
    return lines


def listed(counts: Mapping[str, int]) -> str:
    """Return names with their counts, the most first."""
    from vtrace.tables.human import count_text

    ordered = sorted(counts.items(), key=lambda one: -one[1])
    texts = [f"{name} {count_text(count)}" for name, count in ordered[:MOST_NAMES]]
    rest = ordered[MOST_NAMES:]
    if rest:
        texts.append(f"{len(rest)} more names {count_text(sum(count for _, count in rest))}")
    return ", ".join(texts)
