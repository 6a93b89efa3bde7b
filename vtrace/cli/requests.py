"""``vtrace requests``: what guests asked of the devices that QEMU serves, one request a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vtrace.cli import options
from vtrace.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from vtrace.session import Session
    from vtrace.tables import Table

SUMMARY = "print requests to QEMU's devices and their answers, one a line"
DESCRIPTION = """\
Print what drivers asked of the devices that QEMU serves, in the order in which
the requests ended, one a line: disk and SCSI commands with place, size and
status, pages of the balloon, bytes and control messages of serial ports,
commands of the network control queue, network headers. Waiting in the ring
(queueing) and work of the device (service) stand apart. --summary adds up by
device and operation. A field whose bytes are not there is empty, and
request_state or response_state says why."""
EXAMPLES = [
    ("vtrace requests run.vtrace", "Every request."),
    ("vtrace requests -Y 'operation == OUT and service_ns > 10ms' run.vtrace", "Slow writes."),
    ("vtrace requests -Y failed --json run.vtrace", "What devices refused, for scripts."),
    ("vtrace requests --summary --device disk0 run.vtrace", "Counts, bytes, percentiles."),
    ("vtrace requests --csv run.vtrace > requests.csv", "For a spreadsheet."),
]

HEADS: Final = (
    *("time", "vm", "device", "queue", "operation"),
    *("bytes", "status", "queueing", "service", "outcome", "what"),
)
WIDTHS: Final = (15, 8, 8, 7, 16, 8, 10, 8, 8, 9, 1)
LEFT: Final = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    options.add_selection(parser)
    options.add_format(parser, csv=True)
    parser.add_argument_group("requests").add_argument(
        "--summary", action="store_true", help="sums by device and operation, not each request"
    )
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Print the requests, or their sums."""
    from vtrace.cli import say
    from vtrace.cli.output import Style
    from vtrace.cli.reading import Rows, check_vms, conclude, loss_text, opened, vms_of
    from vtrace.session import requests_of
    from vtrace.tables import REQUESTS
    from vtrace.tables.human import count_text

    if args.summary:
        return sum_up(args)
    style = Style.of(args)

    def print_text(table: Table, first: bool) -> None:
        print_requests(table, session, args, first=first)

    rows = Rows(args, REQUESTS, print_text)
    with opened(args) as session:
        for _, table in requests_of(session):
            rows.print(table)
            if rows.full:
                break
        if not rows.count and not rows.full:
            check_vms(args.vm, vms_of(session))
        text = not (args.json or args.csv)
        if text:
            print(f"{count_text(rows.count)} requests; {loss_text(session.loss(), style)}")
        if not any(
            queue.get("backend") == "qemu" for queue in session.metadata.section("queues").values()
        ):
            say("no queue in it was served by QEMU; vhost's packets are in vtrace packets")
        return conclude(session, args, quiet=text, stopped=rows.full)


def sum_up(args: argparse.Namespace) -> int:
    """Print sums over the requests that the options choose.

    Raises:
        UsageError: The options are for rows, or there is no such VM.
    """
    from vtrace.cli.output import Style, print_json
    from vtrace.cli.reading import (
        check_vms,
        conclude,
        loss_text,
        opened,
        row_chooser,
        vms_of,
    )
    from vtrace.cli.request_sums import print_sums
    from vtrace.session import RequestSums, requests_of
    from vtrace.session.report import sums_json
    from vtrace.tables import REQUESTS

    if args.csv or args.count is not None:
        raise UsageError("requests: --summary has no rows: not with --csv or -c")
    choose = row_chooser(args, REQUESTS)
    sums = RequestSums()
    with opened(args) as session:
        for found, table in requests_of(session):
            sums.add(found, choose(table)["row"].data)
        sums.finish()
        check_vms(args.vm, vms_of(session))
        if args.json:
            print_json(sums_json(sums))
        else:
            style = Style.of(args)
            if sums:
                print_sums(sums, style)
            else:
                print("no requests")
            print(loss_text(session.loss(), style))
        return conclude(session, args, quiet=not args.json)


def print_requests(
    table: Table, session: Session, args: argparse.Namespace, *, first: bool
) -> None:
    """Print requests as text."""
    from vtrace.cli.output import Style, print_table
    from vtrace.cli.reading import time_texts
    from vtrace.tables.human import duration_text
    from vtrace.tables.request_words import operation_text, status_text, what_text

    columns = dict(zip(table.schema.names, table.lists(table.schema.names), strict=True))

    def durations(name: str) -> list[str | None]:
        return [None if ns is None else duration_text(ns) for ns in columns[name]]

    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    cells = zip(
        time_texts(columns["time_ns"], session, args),
        columns["vm"],
        columns["device"],
        columns["queue"],
        [operation_text(row) for row in rows],
        [None if size is None else str(size) for size in columns["data_bytes"]],
        [status_text(row) for row in rows],
        durations("queueing_ns"),
        durations("service_ns"),
        [
            row["outcome"] if row["trust"] == "complete" else f"{row['outcome']} {row['trust']}"
            for row in rows
        ],
        [what_text(row) for row in rows],
        strict=True,
    )
    print_table(HEADS, cells, Style.of(args), left=LEFT, widths=WIDTHS, head=first)
