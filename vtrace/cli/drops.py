"""``vtrace drops``: dropped packets, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vtrace.cli import options

if TYPE_CHECKING:
    import argparse

    from vtrace.session import Session
    from vtrace.tables import Table

SUMMARY = "print dropped packets: reason, place, flow"
DESCRIPTION = """\
Print the packets that the kernel dropped, one a line: when, at which device,
the kernel's own name of the reason, the function that dropped it, and the flow.
Why a packet was dropped is for vtrace diagnose to say."""
EXAMPLES = [
    ("vtrace drops run.vtrace", "Every drop."),
    ("vtrace drops -Y 'reason == FULL_RING' run.vtrace", "Those of full tap rings."),
    ("vtrace drops --json run.vtrace | jq -r .flow | sort | uniq -c", "Drops per flow."),
]

HEADS: Final = (
    *("time", "vm", "device", "queue", "reason", "location"),
    "bytes",
    "packet",
)
WIDTHS: Final = (15, 8, 8, 5, 20, 24, 6, 1)
LEFT: Final = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    options.add_selection(parser)
    options.add_format(parser)
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Print the drops."""
    from vtrace.cli.output import Style
    from vtrace.cli.reading import Rows, conclude, loss_text, opened
    from vtrace.session import PacketJoin
    from vtrace.tables import DROPS
    from vtrace.tables.human import count_text

    style = Style.of(args)

    def print_text(table: Table, first: bool) -> None:
        print_drops(table, session, args, first=first)

    rows = Rows(args, DROPS, print_text)
    with opened(args, PacketJoin()) as session:
        for chunk in session.chunks():
            rows.print(chunk.drops)
            if rows.full:
                break
        if not args.json:
            print(f"{count_text(rows.count)} drops; {loss_text(session.loss(), style)}")
        return conclude(session, args, quiet=not args.json, stopped=rows.full)


def print_drops(table: Table, session: Session, args: argparse.Namespace, *, first: bool) -> None:
    """Print drops as text."""
    from vtrace.cli.output import Style, print_table
    from vtrace.cli.reading import time_texts

    names = ("vm", "device", "queue", "reason", "location", "frame_bytes", "flow")
    vm, device, queue, reason, location, size, flow = table.lists(names)
    rows = zip(
        time_texts(table.lists(("time_ns",))[0], session, args),
        vm,
        device,
        queue,
        reason,
        location,
        [None if n is None else str(n) for n in size],
        flow,
        strict=True,
    )
    print_table(HEADS, rows, Style.of(args), left=LEFT, widths=WIDTHS, head=first)
