"""``vtrace lifecycles``: descriptor chains, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vtrace.cli import options

if TYPE_CHECKING:
    import argparse

    from vtrace.session import Session
    from vtrace.tables import Table

SUMMARY = "print descriptor chains, one a line"
DESCRIPTION = """\
Print descriptor chains in the order in which they ended, one a line: where in
the available ring, and when each stage happened, counted from when its story
begins. In the text, a stage that was not seen says why:

  ·  shared: the event of another chain served this one too
  /  suppressed: the other side had asked for no notification
  -  does not apply to this queue, or is not probed
  ?  lost, or outside of the recording"""
EXAMPLES = [
    ("vtrace lifecycles run.vtrace", "Every chain."),
    (
        "vtrace lifecycles -Y 'queue == rx0 and schedule_ns > 1ms' run.vtrace",
        "Chains of rx0 whose worker waited for a CPU.",
    ),
    ("vtrace lifecycles -Y 'udp.dport == 7001' --json run.vtrace", "By packet, for scripts."),
    ("vtrace lifecycles --csv run.vtrace > chains.csv", "For a spreadsheet."),
]

MARKS: Final = {"shared": "·", "suppressed": "/", "lost": "?"}
SHOWN: Final = ("kick", "wake", "run", "pop", "used", "irq", "seen")
HEADS: Final = (
    *("time", "vm", "device", "queue", "position", "head", "bytes"),
    *SHOWN,
    "outcome",
    "packet",
)
WIDTHS: Final = (15, 8, 6, 5, 9, 5, 6, *(7 for _ in SHOWN), 9, 1)
LEFT: Final = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    options.add_selection(parser)
    options.add_format(parser, csv=True)
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Print the chains."""
    from vtrace.cli.output import Style
    from vtrace.cli.reading import Rows, conclude, loss_text, opened
    from vtrace.session import PacketJoin
    from vtrace.tables import LIFECYCLES
    from vtrace.tables.human import count_text

    style = Style.of(args)

    def print_text(table: Table, first: bool) -> None:
        print_chains(table, session, args, first=first)

    rows = Rows(args, LIFECYCLES, print_text)
    with opened(args, PacketJoin()) as session:
        for chunk in session.chunks():
            rows.print(chunk.lifecycles)
            if rows.full:
                break
        text = not (args.json or args.csv)
        if text:
            print(f"{count_text(rows.count)} chains; {loss_text(session.loss(), style)}")
        return conclude(session, args, quiet=text, stopped=rows.full)


def print_chains(table: Table, session: Session, args: argparse.Namespace, *, first: bool) -> None:
    """Print chains as text."""
    from vtrace.cli.output import Style, print_table
    from vtrace.cli.reading import time_texts

    names = ("vm", "device", "queue", "position", "head", "readable_bytes", "used_bytes")
    vm, device, queue, position, head, readable, used = table.lists(names)
    direction, outcome, trust, flow = table.lists(("direction", "outcome", "trust", "flow"))
    start = table.lists(("time_ns",))[0]
    events = [events_of(table, name, start) for name in SHOWN]
    rows = zip(
        time_texts(start, session, args),
        vm,
        device,
        queue,
        [None if n is None else str(n) for n in position],
        [None if n is None else str(n) for n in head],
        [
            one if way == "tx" else other
            for way, one, other in zip(direction, readable, used, strict=True)
        ],
        *events,
        [
            what if how == "complete" else f"{what} {how}"
            for what, how in zip(outcome, trust, strict=True)
        ],
        [text or "" for text in flow],
        strict=True,
    )
    style = Style.of(args)
    print_table(HEADS, rows, style, left=LEFT, widths=WIDTHS, head=first)


def events_of(table: Table, name: str, start: list[int | None]) -> list[str]:
    """Return when an event of each chain happened, from its start, or why it did not."""
    from vtrace.tables.human import duration_text

    times, states = table.lists((f"{name}_ns", f"{name}_state"))
    texts = []
    for time, state, begin in zip(times, states, start, strict=True):
        if time is None or begin is None or state == "shared":
            texts.append(MARKS.get(state, "-" if time is None else "·"))
        else:
            past = time - begin
            texts.append("0" if not past else f"{'+' if past > 0 else ''}{duration_text(past)}")
    return texts
