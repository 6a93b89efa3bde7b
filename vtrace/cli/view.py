"""``vtrace view``: the terminal UI over a recording, whole or still growing."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli import options, say
from vtrace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from vtrace.browse import Browser

SUMMARY = "look at a recording in the terminal: queues, chains, packets"
DESCRIPTION = """\
Open a recording in the terminal: queues, then the chains of one, then the packet
in one of them; the ring, the timeline, drops and their causes, exits, requests.
? says what the keys do. A file that is still being written is followed with
--follow. Where stdout is no terminal, the report is printed instead."""
EXAMPLES = [
    ("vtrace view run.vtrace", "From the queues on."),
    ("vtrace view --follow run.vtrace", "While vtrace record writes it."),
    ("vtrace view --screen drops run.vtrace", "Where packets were lost, and why."),
    ("vtrace view -Y 'udp.dport == 7001' --screen packets run.vtrace", "One flow."),
    ("vtrace view --snapshot queues.svg run.vtrace", "A screen as a picture, for a person."),
]
SCREENS: Final = (
    "vms",
    "devices",
    "queues",
    "queue",
    "chains",
    "timeline",
    "packets",
    "drops",
    "exits",
    "requests",
)
DEFAULT_SIZE: Final = (100, 30)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    parser.add_argument("--follow", action="store_true", help="wait for more at the end of FILE")
    add_screen(parser)


def add_screen(parser: argparse.ArgumentParser) -> None:
    """Add which screen to show, of what, and how."""
    group = parser.add_argument_group("screen")
    group.add_argument("--screen", choices=SCREENS, default="queues", help="the first one")
    group.add_argument("--vm", metavar="NAME", help="of this VM")
    group.add_argument("--device", metavar="NAME", help="of this device")
    group.add_argument("--queue", metavar="NAME", help="of this queue")
    group.add_argument("-Y", "--display-filter", metavar="EXPR", help="rows that match")
    group.add_argument("--at", metavar="TIME", help="as it stood then: 2.5s, 12:01:03.115")
    group.add_argument("--theme", metavar="NAME", help="dark, light, plain")
    group.add_argument("--utc", action="store_true", help="times of day in UTC")
    group.add_argument("--snapshot", metavar="OUT", help="write the screen: .svg, else text")
    group.add_argument(
        "--geometry", type=geometry, metavar="CxR", help="size of a snapshot: 100x30"
    )


def geometry(text: str) -> tuple[int, int]:
    """Return columns and rows of ``100x30``."""
    match = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (20 <= size[0] <= 500 and 5 <= size[1] <= 200):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; try 100x30 (20x5 to 500x200)")
    return size


def run(args: argparse.Namespace) -> int:
    """Show the recording; return the exit code."""
    path = options.input_path(args)
    if not args.snapshot and not on_terminal():
        return report(path, args)
    from vtrace.browse import Browser

    with own_file(path, args) as own:
        browser = Browser(own, follow=args.follow, zone=zone_of(args))
        browser.name = path
        try:
            browser.start()
            return show(browser, args)
        finally:
            browser.close()


@contextmanager
def own_file(path: str, args: argparse.Namespace) -> Iterator[str]:
    """Return a file that can be read anywhere: that of PATH, or a copy that is gone afterwards.

    Raises:
        UsageError: It is to be followed and is no recording of vtrace.
    """
    from parsers.opening import is_own, open_any

    if path != "-" and is_own(path):
        yield path
        return
    if args.follow:
        raise UsageError(f"{path}: only a file that vtrace record writes can be followed")
    from parsers.tracefile import TraceWriter
    from vtrace.recorder.child import spool_folder

    with tempfile.TemporaryDirectory(prefix="vtrace-", dir=spool_folder()) as folder:
        copy = str(Path(folder) / "view.vtrace")
        say(f"reading {path}")
        with open_any(path) as trace, TraceWriter(copy) as writer:
            for batch in trace.batches():
                writer.write(batch)
        yield copy


def zone_of(args: argparse.Namespace) -> Any:
    """Return the time zone that was asked for; None for that of this machine."""
    from datetime import UTC

    return UTC if args.utc else None


def on_terminal() -> bool:
    """Tell whether there is a terminal that can show screens and takes keys."""
    dumb = os.environ.get("TERM", "") in {"", "dumb"}
    return sys.stdin.isatty() and sys.stdout.isatty() and not dumb


def report(path: str, args: argparse.Namespace) -> int:
    """Print the report in place of the screens."""
    from vtrace.cli import build_parser

    words = ["report", path, *(["--utc"] if args.utc else [])]
    for name in ("vm", "device", "queue"):
        if getattr(args, name):
            words += [f"--{name}", getattr(args, name)]
    found = build_parser(["report"]).parse_args(words)
    return int(found.run(found))


def show(browser: Browser, args: argparse.Namespace) -> int:
    """Show the screens, or write the one that was asked for; return the exit code."""
    from vtrace.tui.place import Place

    place = Place(vm=args.vm, device=args.device, queue=args.queue)
    if args.snapshot:
        from vtrace.tui.snapshot import write_snapshot

        write_snapshot(
            browser,
            args.snapshot,
            view=args.screen,
            place=place,
            filter_text=args.display_filter or "",
            size=args.geometry or DEFAULT_SIZE,
            theme=args.theme,
            at=args.at,
        )
        return ExitCode.OK
    from vtrace.tui.run import run_app

    if not sys.stderr.isatty():
        # Textual draws there; what is redirected are messages.
        sys.__stderr__ = sys.__stdout__  # type: ignore[misc]
    return run_app(
        browser,
        view=args.screen,
        place=place,
        filter_text=args.display_filter or "",
        theme=args.theme,
        at=args.at,
    )
