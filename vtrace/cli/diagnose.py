"""``vtrace diagnose``: where packets died, how many, why, how sure that is, and what to do."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli import options
from vtrace.cli.guests import add_guest_arguments
from vtrace.errors import ExitCode, LossError, UsageError

if TYPE_CHECKING:
    from vtrace.diagnose.findings import Diagnosis
    from vtrace.diagnose.prose.verdict import Look
    from vtrace.session import Session

SUMMARY = "say where packets were lost, why, and what to do"
DESCRIPTION = """\
Say where UDP packets to and from guests were lost: at which hop, how many, why,
how sure that is, and what to type. With FILE of a recording, without it of this
host, live: for --duration, or until Ctrl-C.

The ledger holds every hop to account: what came in, went out, was dropped, and
waits. What the host cannot see, such as the sockets in the guest, is said as
such, with what would show it. Nothing on the host is changed."""
EXAMPLES = [
    ("vtrace diagnose run.vtrace", "The verdict on a recording."),
    ("vtrace diagnose --duration 10s", "On the next ten seconds of this host."),
    ("vtrace diagnose -w run.vtrace --vm cpx", "On one VM until Ctrl-C; keep the recording."),
    (
        "vtrace diagnose --watch -w loss.vtrace",
        "A line a second; a loss writes the seconds around it to loss.vtrace.",
    ),
    ("vtrace diagnose --config", "The configuration of this host alone, reviewed."),
    (
        "vtrace diagnose --duration 10s --vm cpx --guest-cmd 'ssh cpx'",
        "With the guest's own counters: what its sockets dropped is proven.",
    ),
    (
        "vtrace diagnose --fail-on R5,T10 run.vtrace",
        "Exit with 1 if a tap ring was full, or a qdisc on the way out dropped.",
    ),
    ("vtrace diagnose --json run.vtrace | jq '.findings[].code'", "For scripts."),
]

ANY: Final = "any"
WIDTH: Final = 80
WIDEST: Final = 160


def codes_of(text: str) -> frozenset[str]:
    """Return the codes that a list of codes and their beginnings names; ``any`` is itself."""
    from vtrace.diagnose.codes import CODES

    found: set[str] = set()
    for word in text.split(","):
        name = word.strip()
        if name == ANY:
            found.add(ANY)
            continue
        # R5 stands for R5a to R5f, and R1 not for R10.
        mine = {code for code in CODES if re.fullmatch(re.escape(name) + "[a-z]?", code)}
        if not mine:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no code of a finding such as R5a, T11, C-mtu or any; "
                "docs/findings has them all"
            )
        found |= mine
    return frozenset(found)


def duration(text: str) -> float:
    """Return a duration in seconds, as ``vtrace record`` takes it."""
    from vtrace.cli.record import seconds

    return seconds(text)


def size(text: str) -> int:
    """Return a size in bytes, as ``vtrace record`` takes it."""
    from vtrace.cli.record import size_bytes

    return size_bytes(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    options.add_input(parser)
    live = parser.add_argument_group("this host, live (needs root)")
    live.add_argument("--duration", type=duration, metavar="TIME", help="watch for so long")
    live.add_argument("-w", "--write", metavar="FILE", help="keep the recording")
    live.add_argument(
        "--size", type=size, metavar="SIZE", help="stop when the recording has it (1GB without -w)"
    )
    live.add_argument(
        "--flight",
        type=duration,
        default=10.0,
        metavar="TIME",
        help="with --watch -w: write so much from before a loss (10s)",
    )
    add_guest_arguments(parser)
    group = parser.add_argument_group("selection")
    group.add_argument("--vm", metavar="NAME", help="of this VM")
    group.add_argument("--device", metavar="NAME", action="append", help="of this device")
    group.add_argument(
        "--protocol", choices=("udp", "all"), default="udp", help="packets that count (udp)"
    )
    options.add_window(group)
    what = parser.add_argument_group("what is shown")
    what.add_argument("--config", action="store_true", help="review the configuration, no more")
    what.add_argument("--watch", action="store_true", help="a line a second, then the verdict")
    what.add_argument("-v", "--verbose", action="store_true", help="all evidence, bursts, flows")
    options.add_format(parser)
    judge = parser.add_argument_group("for scripts")
    judge.add_argument(
        "--fail-on",
        type=codes_of,
        metavar="CODES",
        help="exit code 1 on such a finding: R5,T10 or any; R5 is R5a to R5f",
    )
    options.add_loss(parser)


def run(args: argparse.Namespace) -> int:
    """Diagnose; return the exit code."""
    named = args.file is not None or args.read is not None
    check(args, named=named)
    if not named:
        from vtrace.cli import attached

        if args.watch:
            return attached.watch(args)
        looked_at = args.duration or args.size or args.write
        return attached.review(args) if args.config and not looked_at else attached.diagnose(args)
    if args.watch:
        from vtrace.cli import watch

        return watch.recorded(args)
    from vtrace.cli.reading import opened

    with opened(args) as session:
        diagnosis = session.diagnose(args.protocol)
        return finish(session, diagnosis, args, source=options.input_path(args))


def check(args: argparse.Namespace, *, named: bool) -> None:
    """Refuse options that do not fit together.

    Raises:
        UsageError: They do not.
    """
    if named:
        for option in ("write", "duration", "size", "guest-cmd", "guest-agent"):
            if getattr(args, option.replace("-", "_")):
                raise UsageError(f"diagnose: --{option} is for this host, not for a recording")
        return
    asked = args.duration or args.size or args.write or args.watch or args.config
    if not asked and not sys.stdin.isatty():
        raise UsageError(
            "diagnose: give a recording, - for stdin, or --duration to look at this host"
        )
    for option in ("since", "until"):
        if getattr(args, option) is not None:
            raise UsageError(f"diagnose: --{option} is for a recording, not for this host")
    if args.write == "-":
        raise UsageError("diagnose: the verdict goes to stdout, so -w needs a file")
    if args.watch and args.config:
        raise UsageError("diagnose: --config is one look, --watch many; give one of them")


def finish(
    session: Session,
    diagnosis: Diagnosis,
    args: argparse.Namespace,
    *,
    source: str,
    stopped: bool = False,
) -> int:
    """Print a diagnosis and return the exit code. ``source`` is empty for what is not kept."""
    from vtrace.cli.output import print_json
    from vtrace.cli.reading import conclude
    from vtrace.diagnose.findings import as_json

    if diagnosis.anchor_ns is None:
        diagnosis.anchor_ns = session.clock.realtime_ns(0)
    choose(diagnosis, args.vm, args.device)
    if args.json and args.watch:
        print_line({"diagnosis": as_json(diagnosis)})
    elif args.json:
        print_json(as_json(diagnosis))
    else:
        config = session.metadata.section("config")
        print_text(diagnosis, args, source, config)
    matched = matches(diagnosis, args.fail_on or (), config=args.config)
    try:
        code = conclude(session, args, quiet=not args.json, stopped=stopped)
    except LossError as error:
        if not matched:
            raise
        say_error(error)
        code = ExitCode.LOSS
    return ExitCode.FINDING if matched else code


def say_error(error: Exception) -> None:
    """Say an error that does not decide the exit code."""
    from vtrace.cli import say

    say(str(error))


def print_line(value: Any) -> None:
    """Print a JSON document on one line."""
    import json

    print(json.dumps(value, separators=(",", ":"), allow_nan=False), flush=True)


def print_text(diagnosis: Diagnosis, args: argparse.Namespace, source: str, config: Any) -> None:
    """Print a diagnosis for people; ``config`` is what the recording knows of the host."""
    from vtrace.diagnose.prose.verdict import config_lines, verdict_lines

    look = look_of(diagnosis, args, source)
    if args.config:
        missing = [str(one) for one in config.get("missing") or ()] if config else None
        lines = config_lines(diagnosis, look, missing)
    else:
        lines = verdict_lines(diagnosis, look)
    print("\n".join(lines), flush=True)


def look_of(diagnosis: Diagnosis, args: argparse.Namespace, source: str) -> Look:
    """Return how the options, the terminal and the environment want it shown."""
    from datetime import UTC

    from vtrace.cli.output import Style
    from vtrace.diagnose.prose.headline import Times
    from vtrace.diagnose.prose.verdict import Look

    return Look(
        width=width_of_stdout(),
        style=Style.of(args),
        verbose=args.verbose,
        times=Times(
            start_ns=diagnosis.start_ns,
            anchor_ns=diagnosis.anchor_ns,
            zone=UTC if args.utc else None,
            relative=args.relative,
        ),
        source=source,
    )


def width_of_stdout() -> int:
    """Return the columns of the terminal; 80 where there is none."""
    if not sys.stdout.isatty():
        return WIDTH
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        return WIDTH
    return min(max(columns, 40), WIDEST)


def choose(diagnosis: Diagnosis, vm: str | None, devices: Sequence[str] | None) -> None:
    """Leave what concerns the VM and the devices that were asked for.

    What is the whole host's, such as its NIC, concerns each VM.

    Raises:
        UsageError: There is no such VM or device.
    """
    parts = ("ledger", "findings", "flows", "blind_spots", "review")
    rows = [row for part in parts for row in getattr(diagnosis, part)]
    for what, wanted in (("vm", [vm] if vm else []), ("device", list(devices or ()))):
        there = {getattr(row, what) for row in rows} - {""}
        for name in wanted:
            if name not in there:
                raise UsageError(_not_there(what, name, there))
    if vm:
        _keep(diagnosis, parts, lambda row: row.vm in ("", vm))
    if devices:
        _keep(diagnosis, parts, lambda row: row.device in devices)
    if vm or devices:
        diagnosis.unexplained = sum(abs(row.unexplained or 0) for row in diagnosis.ledger)


def _keep(diagnosis: Diagnosis, parts: Iterable[str], mine: Callable[[Any], bool]) -> None:
    for part in parts:
        setattr(diagnosis, part, [row for row in getattr(diagnosis, part) if mine(row)])


def _not_there(what: str, name: str, there: Iterable[str]) -> str:
    from vtrace.text import clean

    known = ", ".join(clean(one) for one in sorted(there)) or "none"
    return f"there is no {what} {clean(name)} in it; there is {known}"


def matches(diagnosis: Diagnosis, wanted: Iterable[str], *, config: bool = False) -> bool:
    """Tell whether a finding has one of the codes; a point of the review if it is named."""
    codes = set(wanted)
    findings = {finding.code for finding in diagnosis.findings}
    points = {point.code for point in diagnosis.review}
    if ANY in codes and (points if config else findings):
        return True
    return bool(codes & ((set() if config else findings) | points))
