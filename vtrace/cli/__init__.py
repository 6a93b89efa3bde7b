"""The ``vtrace`` command: one module per verb, loaded when it is called.

A verb is a module of this package with ``SUMMARY`` (one line, as in ``VERBS``), ``DESCRIPTION``
(paragraphs), ``EXAMPLES`` (pairs of command line and what it does), ``add_arguments(parser)`` and
``run(args) -> int``, the exit code. It raises ``VtraceError`` for what goes wrong.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vtrace import __version__
from vtrace.errors import ExitCode, UsageError, VtraceError
from vtrace.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VERBS", "Parser", "build_parser", "load_verb", "main"]

VERBS: Final[dict[str, str]] = {
    "list": "show the VMs of this host: devices, queues, threads, taps",
    "doctor": "say what can run here, and what to install",
    "record": "record what the queues do into a file",
    "live": "look at this host in the terminal while it runs",
    "view": "look at a recording in the terminal: queues, chains, packets",
    "report": "sum up a recording: queues, stages, exits, drops",
    "lifecycles": "print descriptor chains, one a line",
    "packets": "print packets with their chain and their end, one a line",
    "exits": "print VM exits, one a line, or their sums by device",
    "requests": "print requests to QEMU's devices and their answers, one a line",
    "drops": "print dropped packets: reason, place, flow",
    "diagnose": "say where packets were lost, why, and what to do",
    "diff": "compare two recordings: stages, notifications, exits, drops",
    "ring": "show a virtqueue slot by slot: who owns it, what does not fit",
    "import": "make a recording of another tool's: trace-cmd, perf, QEMU, pcap",
    "filter": "write the matching part of a recording to a smaller file",
    "merge": "put several recordings on one time axis, as one file",
    "redact": "write a recording without names, addresses and payload",
    "export": "write a recording for Wireshark, Perfetto, pandas, DuckDB",
    "completion": "print a completion script for a shell",
    "man": "print the manual page",
}
"""Verb -> summary. The same text as the module's ``SUMMARY``, so that help need not load it."""

EXIT_BUG: Final = 70
"""Exit code for an error that vtrace did not expect: EX_SOFTWARE of sysexits.h."""

LONGEST_TALK: Final = 2000

DESCRIPTION: Final = """\
Show what happens to every virtqueue descriptor chain, and to the packet
inside it, between a guest driver and the host wire."""

EPILOG: Final = """\
exit codes:
  0 done   1 a finding matched --fail-on   2 usage   3 loss above --max-loss
  4 privilege missing   5 not supported here   6 bad or truncated input (what
  could be read is still printed)   130 interrupted

vtrace VERB --help shows the options of a verb and examples."""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with the lines of descriptions as written, and options in one column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of leaving the program."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", Formatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint as an error of ours."""
        text = " ".join(message.split())
        raise UsageError(f"{text} (see {self.prog} --help)")


def load_verb(name: str) -> Any:
    """Return the module of a verb."""
    return import_module(f"vtrace.cli.{name.replace('-', '_')}{'_' * iskeyword(name)}")


def examples_text(examples: Sequence[tuple[str, str]]) -> str:
    """Return the examples of a verb as they stand at the end of its help."""
    lines = ["examples:"]
    for command, what in examples:
        lines += [f"  {command}", f"      {what}"]
    return "\n".join(lines)


def build_parser(verbs: Sequence[str] = ()) -> Parser:
    """Return the parser, with the arguments of the given verbs alone."""
    parser = Parser(prog="vtrace", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"vtrace {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, summary in VERBS.items():
        if name not in verbs:
            subparsers.add_parser(name, help=summary, add_help=False)
            continue
        module = load_verb(name)
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=module.DESCRIPTION,
            epilog=examples_text(module.EXAMPLES) if module.EXAMPLES else None,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace | None:
    """Return the arguments; None if there is no verb and help has been printed."""
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no verb {verb!r}{hint} (see vtrace --help)")
    parser = build_parser([verb] if verb else [])
    args = parser.parse_args(argv)
    if args.verb is None:
        parser.print_help()
        return None
    return args


def say(message: str) -> None:
    """Write one line of talk to stderr, whatever names stand in it.

    A file, a guest or QEMU's monitor may have chosen them. Of a long one both ends stay: where it
    was, and the way out.
    """
    if len(message) > LONGEST_TALK:
        half = LONGEST_TALK // 2
        message = f"{message[:half]} … {message[-half:]}"
    print(f"vtrace: {clean(message)}", file=sys.stderr)


def silence_stdout() -> None:
    """Point stdout at nothing, so that the flush at exit cannot fail."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; never raises."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that does not know a character shows its number.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        code = int(args.run(args)) if args is not None else ExitCode.OK
        sys.stdout.flush()
    except SystemExit as leave:  # --help and --version
        code = leave.code if isinstance(leave.code, int) else ExitCode.OK
    except VtraceError as error:
        say(str(error))
        code = error.exit_code
    except BrokenPipeError:
        silence_stdout()
        code = ExitCode.OK
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get("VTRACE_DEBUG"):
            raise
        text = " ".join(str(error).split())
        say(f"{type(error).__name__}: {text}")
        say("this is a bug in vtrace; run with VTRACE_DEBUG=1 for the traceback")
        code = EXIT_BUG
    return int(code)
