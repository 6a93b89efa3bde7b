"""``vtrace report``: what a recording holds, summed up."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli import options
from vtrace.cli.exit_sums import by_device, print_by_device
from vtrace.cli.monitor import print_monitor
from vtrace.cli.output import Style, print_json, print_table
from vtrace.cli.request_sums import print_sums
from vtrace.errors import UsageError
from vtrace.model import STAGES
from vtrace.tables.human import count_text, duration_text, size_text
from vtrace.text import clean

if TYPE_CHECKING:
    import argparse

    from vtrace.session import Session, Summary

COUNTS: Final = (
    "chains",
    "complete",
    "partial",
    "ambiguous",
    "handed_back",
    "starved",
    "in_flight",
    "packets",
)
MOST_IDLE: Final = 8
"""Queues that carried nothing and are printed all the same."""

SUMMARY = "sum up a recording: queues, stages, exits, drops"
DESCRIPTION = """\
Sum up a recording: what each queue carried, where the time of its chains went,
how often it was kicked and interrupted, which VM exits there were, what drivers
asked of the devices that QEMU serves, and which packets the kernel dropped.
Where the recording has QEMU's own word (record --qmp), it is held against what
probes saw, and what disagrees is said."""
EXAMPLES = [
    ("vtrace report run.vtrace", "What the queues did, as tables."),
    ("vtrace report --json run.vtrace | jq '.queues[].stages'", "The same, for scripts."),
    ("vtrace report --since 2s --until 3s run.vtrace", "Of one second alone."),
    ("vtrace record -w - --duration 5s | vtrace report -", "Of what is recorded now."),
    ("vtrace report --max-loss 0.1% run.vtrace", "Exit with 3 if more was lost."),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    group = parser.add_argument_group("selection")
    group.add_argument("--vm", metavar="NAME", action="append", help="of this VM")
    group.add_argument("--device", metavar="NAME", action="append", help="of this device")
    group.add_argument("--queue", metavar="NAME", action="append", help="of this queue")
    options.add_window(group)
    options.add_format(parser)
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    from vtrace.cli.reading import conclude, opened
    from vtrace.session.report import report_json

    with opened(args) as session:
        summary = session.summary()
        choose(args, summary)
        if args.json:
            print_json(report_json(session, summary))
        else:
            print_text(session, summary, args)
        return conclude(session, args, quiet=not args.json)


def choose(args: argparse.Namespace, summary: Summary) -> None:
    """Leave what the options ask for.

    Raises:
        UsageError: There is no such VM, device or queue.
    """
    for name in ("vm", "device", "queue"):
        wanted = getattr(args, name)
        if not wanted:
            continue
        there = {row[name] for row in summary.queues}
        if name == "vm":
            there |= {row["vm"] for row in summary.exits}
            summary.exits = [row for row in summary.exits if row["vm"] in wanted]
            rows = summary.exits_by_device
            summary.exits_by_device = [row for row in rows if row["vm"] in wanted]
            summary.interrupts = [r for r in summary.interrupts or () if r["vm"] in wanted]
        if name == "device":
            there |= {row["device"] for row in summary.drops}
        missing = [clean(one) for one in wanted if one not in there]
        if missing:
            known = ", ".join(clean(one) for one in sorted(there) if one) or "none"
            raise UsageError(f"there is no {name} {missing[0]} in it; there is {known}")
        summary.queues = [row for row in summary.queues if row[name] in wanted]
    if args.vm or args.device or args.queue:
        devices = {row["device"] for row in summary.queues} | set(args.device or ())
        summary.drops = [row for row in summary.drops if row["device"] in devices]
        kept = {(row["vm"], row["device"]) for row in summary.queues}
        summary.asked.keep(kept)
        summary.monitor.said.keep(kept)


def print_text(session: Session, summary: Summary, args: argparse.Namespace) -> None:
    """Print the report as tables."""
    style = Style.of(args)
    print_head(session, style, args)
    print_queues(summary.queues, style, args)
    print_stages(summary.queues, style)
    if summary.exits:
        print("\n" + style.bold("VM exits"))
        rows = [
            (
                row["vm"],
                None if row["vcpu"] is None else str(row["vcpu"]),
                row["reason"],
                row["count"],
                duration_text(row["total_ns"]),
                duration_text(row["total_ns"] // max(row["count"], 1)),
            )
            for row in summary.exits
        ]
        print_table(["vm", "vcpu", "reason", "count", "outside", "each"], rows, style, left=3)
    print_by_device(by_device(summary), style)
    if summary.asked:
        print()
        print_sums(summary.asked, style)
    print_monitor(summary.monitor.said, style)
    print("\n" + style.bold("drops"))
    if summary.drops:
        drops = [
            (row["reason"] or "no reason seen", row["location"], row["device"], row["packets"])
            for row in summary.drops
        ]
        print_table(["reason", "location", "device", "packets"], drops, style, left=3)
    else:
        print("none seen")
    print_probes(session, style)


def print_head(session: Session, style: Style, args: argparse.Namespace) -> None:
    """Print where the recording comes from, how long it is, and what was lost."""
    from vtrace.cli.reading import loss_text

    host = session.metadata.section("host")
    parts = [clean(str(getattr(session.source, "name", "live")))]
    if host.get("kernel"):
        parts.append(f"kernel {clean(str(host['kernel']))}")
    start = None if session.start_ns is None else session.clock.text(session.start_ns)
    if start and not args.relative:
        parts.append(f"from {start}")
    parts.append(duration_text(session.duration_ns))
    parts.append(f"{count_text(session.events)} events")
    print(style.bold(" · ".join(parts)))
    print(loss_text(session.loss(), style))
    capture = session.metadata.section("capture")
    for name, what in (("filter", "captured only"), ("display", "filtered by")):
        if capture.get(name):
            print(f"{what}: {clean(str(capture[name]))}")


def shown_queues(
    queues: list[dict[str, Any]], args: argparse.Namespace
) -> tuple[list[dict[str, Any]], str]:
    """Return the queues to print, and a sentence on those that are left out.

    A device may have many queues that nobody uses (a serial device has 64): what did nothing is
    counted, not printed, unless it was asked for.
    """
    busy: list[dict[str, Any]] = []
    idle: list[dict[str, Any]] = []
    for row in queues:
        (busy if any(row[name] for name in COUNTS) else idle).append(row)
    if len(idle) <= MOST_IDLE or args.device or args.queue:
        return queues, ""
    devices = Counter((row["vm"], row["device"]) for row in idle)
    listed = ", ".join(
        f"{clean(vm)} {clean(device)} {count}" for (vm, device), count in devices.items()
    )
    left_out = f"{len(idle)} more carried nothing: {listed} (--device NAME prints them)"
    return busy, left_out


def print_queues(queues: list[dict[str, Any]], style: Style, args: argparse.Namespace) -> None:
    """Print what each queue carried, and its notifications."""
    print("\n" + style.bold("queues"))
    if not queues:
        print("none seen")
        return
    queues, left_out = shown_queues(queues, args)
    heads = ["vm", "device", "queue", "backend", "ring"]
    rows = [
        (
            *(row[name] for name in heads),
            *(row[name] for name in COUNTS),
            None if row["used_bytes"] is None else size_text(row["used_bytes"]),
        )
        for row in queues
    ]
    names = [*heads, *(name.replace("_", " ") for name in COUNTS), "used"]
    print_table(names, rows, style, left=5)
    if left_out:
        print(style.dim(left_out))

    print("\n" + style.bold("notifications") + "  kicks by the driver, interrupts by the device")
    parts = ("needed", "sent", "suppressed", "spurious")
    rows = [
        (
            row["vm"],
            row["device"],
            row["queue"],
            *(row["kicks"][part] for part in parts),
            *(row["interrupts"][part] for part in parts),
        )
        for row in queues
    ]
    heads = ["vm", "device", "queue", "kicks needed", *parts[1:]]
    print_table([*heads, "irqs needed", *parts[1:]], rows, style, left=3)


def print_stages(queues: list[dict[str, Any]], style: Style) -> None:
    """Print where the time of the chains went."""
    rows = []
    for queue in queues:
        for stage in STAGES:
            found = queue["stages"].get(stage)
            if found is None:
                continue
            figures = (found[f"{name}_ns"] for name in ("p50", "p90", "p99", "max"))
            rows.append(
                (
                    queue["vm"],
                    queue["device"],
                    queue["queue"],
                    stage,
                    found["count"],
                    *(duration_text(figure) for figure in figures),
                )
            )
    if rows:
        print("\n" + style.bold("stages"))
        heads = ["vm", "device", "queue", "stage", "chains", "p50", "p90", "p99", "max"]
        print_table(heads, rows, style, left=4)


def print_probes(session: Session, style: Style) -> None:
    """Print which probes were not there, and why."""
    missing = [
        (str(name), str(probe.get("state", "")), str(probe.get("reason", "")))
        for name, probe in sorted(session.metadata.section("probes").items())
        if isinstance(probe, dict) and probe.get("state") != "attached"
    ]
    if missing:
        print("\n" + style.bold("probes that were not available"))
        print_table(["probe", "state", "why"], missing, style, left=3)
