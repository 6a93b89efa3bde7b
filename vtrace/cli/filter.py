"""``vtrace filter``: the matching part of a recording as a smaller file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrace.cli import options
from vtrace.errors import FilterError, InputError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.session import Chunk, Session
    from vtrace.session.extract import Selection
    from vtrace.tables import Table

SUMMARY = "write the matching part of a recording to a smaller file"
DESCRIPTION = """\
Write the part of a recording that matches to a file of its own: all records of
the chains and packets that match, and all that their queues did meanwhile, so
that the smaller file can be traced again. A queue is kept from one moment at
which no chain was under way to another, so chains that do not match may be in
it too. Names, configuration, clocks and loss counters are kept as they are."""
EXAMPLES = [
    ("vtrace filter -Y 'udp.dport == 7001' run.vtrace -w small.vtrace", "One flow."),
    ("vtrace filter --queue rx0 --since 2s --until 3s run.vtrace -w s.vtrace", "One second."),
    ("vtrace filter -Y 'verdict == dropped' run.vtrace -w drops.vtrace", "What was dropped."),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    options.add_selection(parser, count=False)
    parser.add_argument_group("output").add_argument(
        "-w", "--write", metavar="OUT", required=True, help="the file to write"
    )
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Write the smaller file."""
    from parsers.opening import open_any
    from parsers.tracefile import TraceWriter
    from vtrace.cli import say
    from vtrace.cli.reading import conclude
    from vtrace.session import PacketJoin, Session
    from vtrace.session.extract import Selection
    from vtrace.tables.human import count_text

    options.max_loss(args)
    window = options.window(args)
    choosers = choosers_of(args)
    if not choosers:
        raise UsageError("filter: say what to keep: -Y, --vm, --device, --queue, --since, --until")
    path = options.input_path(args)
    if path == "-":
        raise UsageError("filter: the recording is read twice: give a file, not -")
    if args.write != "-" and same_file(path, args.write):
        raise UsageError(f"filter: {args.write} is the recording itself; write to another file")
    with open_any(path) as trace:
        session = Session(trace, window=window, join=PacketJoin())
        selection = Selection()
        for chunk in session.chunks():
            add_chains(selection, session, chunk, choosers.get("lifecycles"))
            if "packets" in choosers:
                add_packets(selection, chunk, choosers["packets"])
        selection.seal()
        kept = total = 0
        with TraceWriter(args.write) as writer:
            for batch, before in kept_batches(trace, selection, args):
                if len(batch) or batch.meta:
                    writer.write(batch)
                kept += len(batch)
                total += before
        say(
            f"kept {count_text(kept)} of {count_text(total)} records: for "
            f"{count_text(selection.chains)} chains and {count_text(selection.packets)} packets"
        )
        return conclude(session, args)


def choosers_of(args: argparse.Namespace) -> dict[str, Callable[[Table], Table]]:
    """Return what chooses the rows of each table that the expression makes sense for.

    Raises:
        FilterError: It makes sense for none.
    """
    from vtrace.cli.reading import row_chooser
    from vtrace.tables import LIFECYCLES, PACKETS

    named = args.vm or args.device or args.queue or args.since or args.until
    if args.display_filter is None and not named:
        return {}
    found: dict[str, Callable[[Table], Table]] = {}
    errors: list[FilterError] = []
    for schema in (LIFECYCLES, PACKETS):
        try:
            found[schema.name] = row_chooser(args, schema)
        except FilterError as error:
            errors.append(error)
    if not found:
        # Which of the two complains about less is the one that was meant.
        raise max(errors, key=lambda error: error.column or 0)
    return found


def same_file(one: str, other: str) -> bool:
    """Return whether two paths are one file."""
    try:
        return Path(one).samefile(other)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{other}: {os.strerror(error.errno or 0)}") from error


def add_chains(
    selection: Selection,
    session: Session,
    chunk: Chunk,
    choose: Callable[[Table], Table] | None,
) -> None:
    """Take in the chains of a chunk, and choose those that match."""
    import numpy as np

    from vtrace.session.extract import ENDS, STARTS

    table = chunk.all_lifecycles
    chosen = np.zeros(len(table), np.bool_)
    if choose is not None:
        numbered = table.with_column("row", np.arange(len(table)))
        chosen[choose(session.within(numbered))["row"].data] = True
    names = {"queue_id", "packet", *STARTS, *ENDS}
    selection.add_chains({name: table[name].data for name in names}, chosen)


def add_packets(selection: Selection, chunk: Chunk, choose: Callable[[Table], Table]) -> None:
    """Choose the packets of a chunk that match."""
    import numpy as np

    table = chunk.packets.with_column("row", np.arange(len(chunk.packet_rows)))
    selection.add_packets(chunk.packet_rows.take(choose(table)["row"].data))


def kept_batches(
    trace: Any, selection: Selection, args: argparse.Namespace
) -> Iterator[tuple[EventBatch, int]]:
    """Yield each batch with the records that are kept, and how many there were."""
    from vtrace.session.extract import Renumber

    counts: list[int] = []

    def masked() -> Iterator[tuple[EventBatch, NDArray[Any]]]:
        for batch in trace.batches():
            counts.append(len(batch))
            yield batch, selection.mask(batch)

    for number, batch in enumerate(Renumber().batches(masked())):
        before = counts[number]
        if number == 0 or "capture" in batch.meta:
            # Sparse: what is missing in a queue was left out, not lost.
            capture = batch.meta.get("capture", {})
            capture = {**capture, "display": describe(args), "sparse": True}
            batch.meta = {**batch.meta, "capture": capture}
        yield batch, before


def describe(args: argparse.Namespace) -> str:
    """Return what was asked for, as one expression to read."""
    parts = [args.display_filter] if args.display_filter else []
    for name in ("vm", "device", "queue"):
        if getattr(args, name):
            values = ", ".join(f'"{value}"' for value in getattr(args, name))
            parts.append(f"{name} in {{{values}}}")
    for name in ("since", "until"):
        parts += [f"{name} {value}" for value in (getattr(args, name),) if value]
    return " and ".join(parts)
