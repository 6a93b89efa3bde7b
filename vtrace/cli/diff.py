"""``vtrace diff``: two recordings held against each other."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vtrace.cli import options
from vtrace.errors import UsageError

if TYPE_CHECKING:
    from vtrace.compare import Side, Unit

SUMMARY = "compare two recordings: stages, notifications, exits, drops"
DESCRIPTION = """\
Compare two recordings of the same work, before and after a change: how long the
stages of each queue took, how often it was kicked and interrupted, which VM
exits there were and for which device, what was dropped; all of it per packet,
request or second.

A percentile has changed if the interval of the difference leaves out 0; with too
few chains for an interval that is said. Devices are matched by name, or as the
only one of their kind: so an emulated device stands beside its virtio twin."""
EXAMPLES = [
    ("vtrace diff before.vtrace after.vtrace", "What has changed, and how sure that is."),
    ("vtrace diff --per second e1000.vtrace virtio.vtrace", "An emulated device and its twin."),
    ("vtrace diff --per 1000 ide.vtrace blk.vtrace", "Per request, of which there were 1000."),
    ("vtrace diff --map net0=nic1 before.vtrace after.vtrace", "A device that was renamed."),
    ("vtrace diff --markdown before.vtrace after.vtrace", "For a ticket."),
    (
        "vtrace diff --json a.vtrace b.vtrace | jq '.stages[] | select(.verdict == \"longer\")'",
        "For scripts.",
    ),
]


def unit(text: str) -> Unit:
    """Return what counts are shown per."""
    from vtrace.compare.units import UNITS, Unit

    if text in UNITS:
        return Unit(text)
    parts = text.split(":")
    if len(parts) <= 2 and all(p.isascii() and p.isdigit() and len(p) < 16 for p in parts):
        before, after = int(parts[0]), int(parts[-1])
        if before and after:
            return Unit("number", before, after)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither packet, request, second nor a number (1000, or 1000:2000 for both)"
    )


def pair_of_names(text: str) -> tuple[str, str]:
    """Return the two names of ``BEFORE=AFTER``."""
    before, sign, after = text.partition("=")
    if not (before and sign and after):
        raise argparse.ArgumentTypeError(f"{text!r} is not BEFORE=AFTER")
    return before, after


def percentage(text: str) -> float:
    """Return a confidence in percent as a share."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 50 <= value <= 99.99:
        raise argparse.ArgumentTypeError(f"{text!r} is no confidence from 50 to 99.99 percent")
    return value / 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    group = parser.add_argument_group("input")
    group.add_argument("before", metavar="BEFORE", help="recording; - is stdin")
    group.add_argument("after", metavar="AFTER", help="the one to hold against it")
    group = parser.add_argument_group("selection")
    group.add_argument("--vm", metavar="NAME", action="append", help="of this VM")
    group.add_argument(
        "--map",
        metavar="BEFORE=AFTER",
        action="append",
        default=[],
        type=pair_of_names,
        help="a device, VM/DEVICE or VM that is called otherwise in AFTER",
    )
    for side in ("before", "after"):
        group.add_argument(
            f"--mtree-{side}",
            metavar="TEXT",
            help=f"QEMU's answer to info mtree -f names devices in {side.upper()}",
        )
    group = parser.add_argument_group("figures")
    group.add_argument(
        "--per",
        metavar="UNIT",
        type=unit,
        help="packet, request, second, or the number that there were",
    )
    group.add_argument(
        "--confidence", metavar="PERCENT", type=percentage, default=0.95, help="of intervals (95)"
    )
    group = parser.add_argument_group("output")
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="JSON, for scripts")
    kinds.add_argument("--markdown", action="store_true", help="markdown, for a ticket")
    options.add_color(group)
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    from vtrace.cli.comparison import as_json, print_markdown, print_text
    from vtrace.cli.output import Style, print_json
    from vtrace.cli.reading import check_vms
    from vtrace.compare import compare

    options.max_loss(args)
    if args.before == args.after == "-":
        raise UsageError("diff: only one of the two recordings can come from stdin")
    there: set[str] = set()
    first, code = read(args.before, args, args.mtree_before, there)
    second, other = read(args.after, args, args.mtree_after, there)
    check_vms(args.vm, there)
    comparison = compare(first, second, args.per, mapped=args.map, confidence=args.confidence)
    if args.json:
        print_json(as_json(comparison))
    elif args.markdown:
        print_markdown(comparison)
    else:
        print_text(comparison, Style.of(args))
    conclude_loss(args, first, second)
    return max(code, other)


def read(
    path: str, args: argparse.Namespace, tree: str | None, there: set[str]
) -> tuple[Side, int]:
    """Read a recording; return it as a side, and the exit code for what was damaged of it.

    The names of its VMs are put into ``there``.
    """
    from parsers.opening import open_any
    from vtrace.cli.exit_sums import memory_tree
    from vtrace.cli.reading import conclude, vms_of
    from vtrace.session import Session
    from vtrace.session.side import side_of

    text = "" if tree is None else memory_tree(tree)
    with open_any(path) as trace:
        session = Session(trace)
        side = side_of(session, args.vm, text)
        there |= vms_of(session)
        unlimited = argparse.Namespace(max_loss=None)
        return side, conclude(session, unlimited, quiet=True)


def conclude_loss(args: argparse.Namespace, *sides: Side) -> None:
    """Hold the loss of both recordings against ``--max-loss``.

    Raises:
        LossError: One of them lost more.
    """
    from vtrace.errors import LossError

    records, share = options.max_loss(args)
    for side in sides:
        lost, produced = side.loss["lost"], side.loss["produced"]
        part = lost / produced if produced else float(lost > 0)
        if (records is not None and lost > records) or (share is not None and part > share):
            raise LossError(
                f"{side.source}: lost {lost:,} of {produced:,} records: more than --max-loss "
                f"{args.max_loss} allows"
            )
