"""``vtrace man``: the manual page, made from the parser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrace import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

SUMMARY = "print the manual page"
DESCRIPTION = """\
Print the manual page in the format of man(1). It is made from the same
descriptions as --help, so that both say the same."""
EXAMPLES = [
    ("vtrace man | man -l -", "Read it."),
    ("vtrace man > /usr/local/share/man/man1/vtrace.1", "Install it."),
]

ENVIRONMENT = (
    ("NO_COLOR", "If set, nothing is coloured."),
    ("VTRACE_DEBUG", "If set, an error that is a bug comes with its traceback."),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb: none."""


def run(args: argparse.Namespace) -> int:
    """Print the page."""
    from vtrace.cli import VERBS, build_parser

    print("\n".join(page(build_parser(tuple(VERBS)))))
    return 0


def page(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of the page."""
    from vtrace.cli import VERBS, load_verb

    summary, _, codes = (parser.epilog or "").partition("exit codes:")
    del summary
    yield f'.TH VTRACE 1 "" "vtrace {__version__}" "User Commands"'
    yield ".SH NAME"
    yield r"vtrace \- trace packets and rings of qemu-kvm virtio devices"
    yield ".SH SYNOPSIS"
    yield r".B vtrace"
    yield r"\fIVERB\fR [\fIOPTION\fR]... [\fIFILE\fR]"
    yield ".SH DESCRIPTION"
    yield escape(" ".join((parser.description or "").split()))
    yield ".SH VERBS"
    for name, what in VERBS.items():
        yield from (".TP", rf"\fB{escape(name)}\fR", escape(what[:1].upper() + what[1:]) + ".")
    verbs = subparsers(parser)
    for name in VERBS:
        module = load_verb(name)
        yield f".SH VTRACE {name.upper()}"
        yield from block(module.DESCRIPTION)
        yield from options(verbs[name])
        if module.EXAMPLES:
            yield ".SS Examples"
        for command, what in module.EXAMPLES:
            yield from (".TP", rf"\fB{escape(command)}\fR", escape(what))
    yield ".SH EXIT STATUS"
    yield from block(codes.split("\n\n")[0].strip("\n"))
    yield ".SH ENVIRONMENT"
    for name, what in ENVIRONMENT:
        yield from (".TP", rf"\fB{name}\fR", escape(what))


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each verb."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the arguments of a verb, group by group."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if not actions:
            continue
        yield f".SS {escape((group.title or '').capitalize())}"
        for action in actions:
            value = action.metavar
            if value is None and action.choices is not None:
                value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
            elif value is None and action.nargs != 0:
                value = action.dest.upper()
            names = ", ".join(rf"\fB{escape(name)}\fR" for name in action.option_strings)
            shown = rf"\fI{escape(str(value))}\fR" if value else ""
            yield from (".TP", f"{names} {shown}".strip())
            yield escape((action.help or "").replace("%%", "%"))


def block(text: str) -> Iterator[str]:
    """Yield text paragraph by paragraph; lines that are indented stay as they are."""
    for paragraph in text.strip("\n").split("\n\n"):
        yield ".PP"
        kept = any(line.startswith("  ") for line in paragraph.split("\n"))
        if kept:
            yield ".nf"
            yield from (escape(line) for line in paragraph.split("\n"))
            yield ".fi"
        else:
            yield escape(" ".join(paragraph.split()))


def escape(text: str) -> str:
    """Return text that roff prints as it is."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text[:1] in {".", "'"} else text
