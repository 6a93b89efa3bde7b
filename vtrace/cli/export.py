"""``vtrace export``: a recording in the formats that other programs read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli import options
from vtrace.errors import UsageError
from vtrace.export import FORMATS, SUFFIXES, TABULAR, format_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vtrace.export.output import Output
    from vtrace.tables import Table

SUMMARY = "write a recording for Wireshark, Perfetto, pandas, DuckDB"
DESCRIPTION = """\
Write a recording as other programs read it. The name of OUT says in which
format, unless --to does:

  pcapng    packets for Wireshark and tshark, dropped ones too, each with its
            queue, verdict, and the stages of its chain as a comment
  perfetto  a timeline for ui.perfetto.dev: vCPUs, workers, queues, chains
  parquet, csv, jsonl
            the tables lifecycles, packets, exits, drops, requests and queues;
            one with --table, else all into the folder OUT

OUT is there when it is whole, and belongs to its user alone."""
EXAMPLES = [
    ("vtrace export run.vtrace -o run.pcapng", "For Wireshark."),
    ("vtrace export run.vtrace -Y 'verdict == dropped' -o drops.pcapng", "What was dropped."),
    ("vtrace export run.vtrace --to pcapng -o - | tshark -r -", "Without a file."),
    ("vtrace export run.vtrace -o run.pftrace", "For ui.perfetto.dev."),
    ("vtrace export run.vtrace --to parquet -o tables", "Every table, into a folder."),
    ("vtrace export run.vtrace --table lifecycles -o chains.parquet", "One table."),
]

FILTERED: Final = {"pcapng": "packets", "perfetto": "lifecycles"}
"""The table that ``-Y`` is about, of the formats that are no tables."""
NO_QUEUE: Final = ("exits",)
"""Tables without device and queue."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", metavar="OUT", help="file or folder; - is stdout")
    group.add_argument("--to", choices=FORMATS, help="format; else OUT's name says it")
    group.add_argument(
        "--table",
        metavar="TABLE",
        action="append",
        help="this table alone: lifecycles, packets, exits, drops, requests, queues",
    )
    options.add_selection(parser, count=False)
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Write the export."""
    from vtrace.cli import say
    from vtrace.cli.reading import conclude, opened
    from vtrace.export.output import Output

    form = format_asked(args)
    path = options.input_path(args)
    if args.output != "-" and same_file(path, args.output):
        raise UsageError(f"export: {args.output} is the recording itself; write to another file")
    write = table_writer(args, form) if form in TABULAR else stream_writer(args, form)
    with opened(args, join_of(form)) as session, Output() as output:
        said = write(session, output)
        output.commit()
        say(said)
        return conclude(session, args)


def format_asked(args: argparse.Namespace) -> str:
    """Return the format, by ``--to`` or by the name of the output.

    Raises:
        UsageError: Neither says it, or an option does not fit to it.
    """
    if args.output is None:
        raise UsageError("export: say where to with -o: a file, a folder, or - for stdout")
    form: str | None = args.to or format_of(args.output)
    if form is None:
        raise UsageError(
            f"export: {args.output} does not say which format it is to be ({', '.join(SUFFIXES)}): "
            f"give --to {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    if args.table and form not in TABULAR:
        raise UsageError(f"export: --table is for {', '.join(TABULAR)}, not for {form}")
    return form


def same_file(one: str, other: str) -> bool:
    """Return whether two paths are one file."""
    from vtrace.cli.filter import same_file as same

    return one != "-" and same(one, other)


def join_of(form: str) -> Any:
    """Return what joins packets: with their bytes, if the format has them."""
    from vtrace.session import PacketJoin

    return PacketJoin(keep_bytes=form == "pcapng")


def stream_writer(args: argparse.Namespace, form: str) -> Callable[[Any, Output], str]:
    """Return what writes a capture or a timeline, and says what it wrote."""
    from vtrace.cli.reading import row_chooser
    from vtrace.tables import SCHEMAS

    choose = row_chooser(args, SCHEMAS[FILTERED[form]])
    if form == "pcapng":
        from vtrace.export.capture import write_capture

        return lambda session, output: str(write_capture(session, output.open(args.output), choose))
    from vtrace.export.timeline import check_available, write_timeline

    check_available()
    names = {name: getattr(args, name) for name in ("vm", "device", "queue")}
    return lambda session, output: str(
        write_timeline(session, output.open(args.output), choose, names)
    )


def table_writer(args: argparse.Namespace, form: str) -> Callable[[Any, Output], str]:
    """Return what writes the tables that are asked for, and says how many rows they have.

    Raises:
        UsageError: There is no such table, or the options do not fit together.
    """
    from vtrace.cli.reading import opened, row_chooser
    from vtrace.errors import FilterError
    from vtrace.export.rows import queues_table
    from vtrace.export.tables import write_tables
    from vtrace.tables import QUEUES, SCHEMAS
    from vtrace.tables.human import count_text

    names = tables_asked(args, form)
    choosers = {}
    for name in names:
        narrowed = argparse.Namespace(**vars(args))
        if name in NO_QUEUE:
            narrowed.device = narrowed.queue = None
        try:
            choosers[name] = row_chooser(narrowed, SCHEMAS[name])
        except FilterError as error:
            if len(names) == 1:
                raise
            raise FilterError(
                f"{error}; that is for table {name}: with --table the expression is for one alone"
            ) from error

    def queues() -> Table:
        with opened(args) as again:
            return queues_table(again.summary())

    windowed = args.since is not None or args.until is not None
    if windowed and QUEUES.name in names and options.input_path(args) == "-":
        raise UsageError(
            "export: --since and --until need the recording twice for the table queues: "
            "give a file, not -, or other tables with --table"
        )

    def write(session: Any, output: Output) -> str:
        files = {name: output.open(path) for name, path in places(args, form, names, output)}
        counts = write_tables(session, files, form, choosers, queues=queues if windowed else None)
        return ", ".join(f"{count_text(counts[name])} {name}" for name in names)

    return write


def tables_asked(args: argparse.Namespace, form: str) -> Sequence[str]:
    """Return the names of the tables that are asked for, each once.

    Raises:
        UsageError: There is no such table, or several are to go into one file.
    """
    from vtrace.export.rows import TABLES

    by_place = args.device or args.queue
    if not args.table:
        if args.output == "-" or format_of(args.output):
            raise UsageError(
                f"export: {args.output} is one file, and each table is one: "
                f"choose one with --table ({', '.join(TABLES)}), or give a folder and --to {form}"
            )
        return [name for name in TABLES if not (by_place and name in NO_QUEUE)]
    for name in args.table:
        if name not in TABLES:
            raise UsageError(f"export: there is no table {name}; there is {', '.join(TABLES)}")
        if by_place and name in NO_QUEUE:
            raise UsageError(f"export: table {name} has no device and no queue to choose by")
    found = list(dict.fromkeys(args.table))
    if len(found) > 1 and (args.output == "-" or format_of(args.output)):
        raise UsageError(f"export: {len(found)} tables need a folder: {args.output} is one file")
    return found


def places(
    args: argparse.Namespace, form: str, names: Sequence[str], output: Output
) -> list[tuple[str, str]]:
    """Return (table, path of its file); one table alone goes to OUT itself, unless a folder."""
    from pathlib import Path

    if len(names) == 1 and args.table and not Path(args.output).is_dir():
        return [(names[0], args.output)]
    folder = output.folder(args.output)
    return [(name, str(folder / f"{name}.{form}")) for name in names]
