"""``vtrace exits``: VM exits, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vtrace.cli import options
from vtrace.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from vtrace.session import Session
    from vtrace.tables import Table

SUMMARY = "print VM exits, one a line, or their sums by device"
DESCRIPTION = """\
Print the times that a vCPU left the guest and came back, one a line: when it
went back in, why it had left, and how long it was outside. A recording may hold
only their sums. --sum prints these, by vCPU, reason, and the port or memory of a
device that was touched, with the time that QEMU took; and interrupts by line.
(vtrace report has the sums by reason.)

Whose a port or address is, is known for the old devices of a PC and for kicks of
virtqueues; the rest is said to be unknown, unless --mtree has QEMU's memory tree:
virsh qemu-monitor-command --hmp web1 'info mtree -f -o' > web1.txt"""
EXAMPLES = [
    ("vtrace exits run.vtrace", "Every exit."),
    ("vtrace exits --sum run.vtrace", "Sums by reason and device, and time in QEMU."),
    ("vtrace exits --sum --json run.vtrace | jq '.exits[] | .device'", "The same, for scripts."),
    (
        "vtrace exits --sum --mtree web1.txt run.vtrace",
        "With QEMU's memory tree, from its monitor.",
    ),
    ("vtrace exits -Y 'outside_ns > 100us' run.vtrace", "Those that took long."),
    ("vtrace exits -Y 'reason == EPT_MISCONFIG' --json run.vtrace", "MMIO, for scripts."),
]

HEADS: Final = ("time", "vm", "reason", "vcpu", "tid", "cpu", "outside", "address")
WIDTHS: Final = (15, 8, 20, 4, 8, 3, 8, 12)
LEFT: Final = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    options.add_selection(parser, queues=False)
    group = parser.add_argument_group("what is shown")
    group.add_argument(
        "--sum", action="store_true", help="sums by vCPU, reason, and port or memory of a device"
    )
    group.add_argument(
        "--mtree", metavar="TEXT", help="with --sum: QEMU's answer to info mtree -f names devices"
    )
    options.add_format(parser, csv=True)
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Print the exits."""
    if args.sum:
        return print_sum(args)
    if args.mtree is not None:
        raise UsageError("exits: --mtree names the devices of sums; it needs --sum")
    from vtrace.cli import say
    from vtrace.cli.output import Style
    from vtrace.cli.reading import Rows, check_vms, conclude, loss_text, opened, vms_of
    from vtrace.tables import EXITS
    from vtrace.tables.human import count_text

    style = Style.of(args)

    def print_text(table: Table, first: bool) -> None:
        print_exits(table, session, args, first=first)

    rows = Rows(args, EXITS, print_text)
    seen = 0
    with opened(args) as session:
        for chunk in session.events_only():
            table = chunk.exits
            seen += len(table)
            rows.print(table)
            if rows.full:
                break
        if not rows.count and not rows.full:
            check_vms(args.vm, vms_of(session))
        if not args.json and not args.csv:
            print(f"{count_text(rows.count)} exits; {loss_text(session.loss(), style)}")
        if not seen and session.metadata.sections.get("exits"):
            say("it holds the sums of exits alone, not each of them: see vtrace exits --sum")
        quiet = not args.json and not args.csv
        return conclude(session, args, quiet=quiet, stopped=rows.full)


def print_sum(args: argparse.Namespace) -> int:
    """Print sums of exits and interrupts by device.

    Raises:
        UsageError: An option is for single exits, or there is no such VM.
    """
    from vtrace.cli import exit_sums
    from vtrace.cli.output import Style, print_json
    from vtrace.cli.reading import check_vms, conclude, loss_text, opened, vms_of

    for option in ("display_filter", "since", "until"):
        if getattr(args, option) is not None:
            name = "-Y" if option == "display_filter" else f"--{option}"
            raise UsageError(f"exits: {name} is for single exits; their sums are of all of it")
    tree = None if args.mtree is None else exit_sums.memory_tree(args.mtree)
    with opened(args) as session:
        summary = session.summary()
        check_vms(args.vm, vms_of(session))
        if tree is not None:
            summary.use_tree(tree, args.vm[0] if args.vm and len(args.vm) == 1 else None)
        if args.json:
            print_json(exit_sums.as_json(session, summary, args))
        elif args.csv:
            exit_sums.print_csv(summary, args)
        else:
            exit_sums.print_sums(summary, args)
            print(loss_text(session.loss(), Style.of(args)))
        return conclude(session, args, quiet=not args.json and not args.csv)


def print_exits(table: Table, session: Session, args: argparse.Namespace, *, first: bool) -> None:
    """Print exits as text."""
    from vtrace.cli.output import Style, print_table
    from vtrace.cli.reading import time_texts
    from vtrace.tables.human import duration_text

    names = ("vm", "reason", "vcpu", "tid", "cpu", "outside_ns", "address")
    columns = dict(zip(names, table.lists(names), strict=True))
    rows = zip(
        time_texts(table.lists(("time_ns",))[0], session, args),
        columns["vm"],
        columns["reason"],
        *([None if n is None else str(n) for n in columns[name]] for name in names[2:5]),
        [duration_text(ns) for ns in columns["outside_ns"]],
        [None if n is None else f"{n:#x}" for n in columns["address"]],
        strict=True,
    )
    print_table(HEADS, rows, Style.of(args), left=LEFT, widths=WIDTHS, head=first)
