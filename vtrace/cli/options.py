"""Options that several verbs have, so that they look and work alike."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vtrace.errors import UsageError

if TYPE_CHECKING:
    from vtrace.session import Window

__all__ = [
    "add_format",
    "add_input",
    "add_loss",
    "add_selection",
    "add_window",
    "input_path",
    "max_loss",
    "window",
]


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add FILE and its other spelling, ``-r FILE``."""
    group = parser.add_argument_group("input")
    group.add_argument("file", metavar="FILE", nargs="?", help="recording; - is stdin")
    group.add_argument("-r", "--read", metavar="FILE", help="the same as FILE")


def input_path(args: argparse.Namespace) -> str:
    """Return the recording that was named.

    Raises:
        UsageError: None was, or two.
    """
    if args.file is not None and args.read is not None:
        raise UsageError(f"{args.verb}: give FILE once, not also as -r")
    path = args.file if args.file is not None else args.read
    if path is None:
        raise UsageError(f"{args.verb}: give a recording, or - for stdin")
    return str(path)


def add_window(group: Any) -> None:
    """Add ``--since`` and ``--until``."""
    group.add_argument(
        "--since",
        metavar="TIME",
        help="from: ns as recorded, 10ms from the start, or 12:01:03.115",
    )
    group.add_argument("--until", metavar="TIME", help="up to, not including")


def window(args: argparse.Namespace) -> Window:
    """Return the stretch of the recording that was asked for."""
    from vtrace.session.clock import Window, parse_moment

    return Window(
        since=None if args.since is None else parse_moment(args.since),
        until=None if args.until is None else parse_moment(args.until),
    )


def add_selection(
    parser: argparse.ArgumentParser, *, queues: bool = True, count: bool = True
) -> None:
    """Add what chooses rows: ``-Y``, ``--vm``, ``--since``, ``-c``, ..."""
    group = parser.add_argument_group("selection")
    group.add_argument(
        "-Y",
        "--display-filter",
        metavar="EXPR",
        help="rows that match: 'udp.dport == 7001 and queue == \"rx0\"'",
    )
    group.add_argument("--vm", metavar="NAME", action="append", help="rows of this VM")
    if queues:
        group.add_argument("--device", metavar="NAME", action="append", help="rows of this device")
        group.add_argument(
            "--queue", metavar="NAME", action="append", help="rows of this queue: rx0, tx1"
        )
    add_window(group)
    if count:
        group.add_argument(
            "-c", "--count", metavar="N", type=whole_number, help="stop after N rows"
        )


def whole_number(text: str) -> int:
    """Return a count of at least 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def add_format(parser: argparse.ArgumentParser, *, csv: bool = False) -> None:
    """Add how things are printed."""
    group = parser.add_argument_group("output")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="JSON, for scripts")
    if csv:
        kinds.add_argument("--csv", action="store_true", help="comma-separated values")
    times = group.add_mutually_exclusive_group()
    times.add_argument("--utc", action="store_true", help="times of day in UTC")
    times.add_argument(
        "--relative", action="store_true", help="times from the start of the recording"
    )
    add_color(group)


def add_color(group: Any) -> None:
    """Add ``--no-color``."""
    group.add_argument("--no-color", action="store_true", help="no colours; so does NO_COLOR=1")


def add_loss(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-loss``."""
    parser.add_argument_group("loss").add_argument(
        "--max-loss",
        metavar="N",
        help="exit with 3 if more records were lost: 0, 1000, 0.1%%",
    )


def max_loss(args: argparse.Namespace) -> tuple[int | None, float | None]:
    """Return the loss that is allowed: records, or their share.

    Raises:
        UsageError: It is neither.
    """
    text = args.max_loss
    if text is None:
        return None, None
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share <= 1:
                return None, share
        elif text.isascii() and text.isdigit():
            return int(text), None
    except ValueError:
        pass
    raise UsageError(f"--max-loss: {text!r} is neither a number of records nor a share (0.1%)")
