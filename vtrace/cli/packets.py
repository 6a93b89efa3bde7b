"""``vtrace packets``: packets, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vtrace.cli import options

if TYPE_CHECKING:
    import argparse

    from vtrace.packets import Frame
    from vtrace.session import Packets, Session
    from vtrace.tables import Table

SUMMARY = "print packets with their chain and their end, one a line"
DESCRIPTION = """\
Print packets in the order in which their story ended, one a line: when and at
which queue each was seen, the place of its chain in the available ring, how it
ended, and what it is. A checksum that the sender left to the hardware is shown
as offloaded: in the frame it is not complete, and that is not an error."""
EXAMPLES = [
    ("vtrace packets run.vtrace", "Every packet."),
    ("vtrace packets -Y 'verdict == dropped and udp' run.vtrace", "UDP that was dropped."),
    ("vtrace packets --show layers --hex -c 1 run.vtrace", "One packet in full."),
    ("vtrace packets --show flow run.vtrace", "Without dissecting each: much faster."),
    ("vtrace packets --json run.vtrace | jq .flow", "For scripts."),
]

HEADS: Final = ("time", "vm", "device", "queue", "position", "bytes", "verdict", "packet")
WIDTHS: Final = (15, 8, 6, 5, 9, 6, 9, 1)
LEFT: Final = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    options.add_selection(parser)
    options.add_format(parser)
    group = parser.add_argument_group("packets")
    group.add_argument(
        "--show",
        choices=("flow", "line", "layers"),
        default="line",
        help="addresses and ports; one line by scapy; every field of every layer (default: line)",
    )
    group.add_argument("--hex", action="store_true", help="the captured bytes too")
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Print the packets."""
    import numpy as np

    from vtrace.cli.output import Style
    from vtrace.cli.reading import Rows, conclude, loss_text, opened, row_chooser
    from vtrace.errors import UsageError
    from vtrace.session import PacketJoin
    from vtrace.tables import PACKETS, packets_table
    from vtrace.tables.human import count_text

    if args.json and (args.hex or args.show != "line"):
        raise UsageError("packets: --show and --hex are for text, not for --json")
    style = Style.of(args)
    in_bytes = not args.json and (args.hex or args.show != "flow")
    held: list[Packets] = []

    def print_text(table: Table, first: bool) -> None:
        print_packets(table, held[0], session, args, first=first)

    rows = Rows(args, PACKETS, print_text)
    choose = row_chooser(args, PACKETS)
    with opened(args, PacketJoin(keep_bytes=in_bytes)) as session:
        for chunk in session.chunks():
            # Chosen first, so that packets and their bytes stay side by side.
            packets = chunk.packet_rows
            table = chunk.packets
            number = np.arange(len(packets))
            kept = choose(table.with_column("row", number))
            chosen = packets.take(kept["row"].data)
            held[:] = [chosen]
            rows.print_chosen(packets_table(chosen.rows, session.names))
            if rows.full:
                break
        if not args.json:
            print(f"{count_text(rows.count)} packets; {loss_text(session.loss(), style)}")
        return conclude(session, args, quiet=not args.json, stopped=rows.full)


def print_packets(
    table: Table, packets: Packets, session: Session, args: argparse.Namespace, *, first: bool
) -> None:
    """Print packets as text."""
    from vtrace.cli.output import Style, print_table
    from vtrace.cli.reading import time_texts
    from vtrace.session.frames import frame_of

    names = ("vm", "device", "queue", "position", "frame_bytes", "verdict", "reason")
    vm, device, queue, position, size, verdict, reason = table.lists(names)
    location, flow = table.lists(("location", "flow"))
    times = time_texts(table.lists(("time_ns",))[0], session, args)
    style = Style.of(args)
    for at, time in enumerate(times):
        what = flow[at] or "not captured"
        if args.show != "flow":
            what = line_of(frame_of(packets, at), what)
        if verdict[at] == "dropped":
            why = reason[at] or "no reason seen"
            what += f"  <{why} {location[at]}>" if location[at] else f"  <{why}>"
        row = (
            time,
            vm[at],
            device[at],
            queue[at],
            None if position[at] is None else str(position[at]),
            None if size[at] is None else str(size[at]),
            verdict[at],
            what,
        )
        print_table(HEADS, [row], style, left=LEFT, widths=WIDTHS, head=first and at == 0)
        if args.show == "layers" or args.hex:
            print_details(frame_of(packets, at), args)


def line_of(frame: Frame, otherwise: str) -> str:
    """Return a packet in one line by scapy."""
    from vtrace.packets import one_line

    return one_line(frame) if frame.data else otherwise


def print_details(frame: Frame, args: argparse.Namespace) -> None:
    """Print the layers and the bytes of a packet below its line."""
    from vtrace.packets import hexdump, layers
    from vtrace.text import clean

    if args.show == "layers":
        for layer in layers(frame):
            print(f"    {clean(layer.name)}")
            for field in layer.fields:
                print(f"        {clean(field.name):<12} {clean(field.text)}")
    if args.hex:
        for line in hexdump(frame.data):
            print(f"    {line}")
