"""``vtrace completion``: a script with which a shell completes command lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vtrace.errors import UnsupportedError

if TYPE_CHECKING:
    import argparse

SUMMARY = "print a completion script for a shell"
DESCRIPTION = """\
Print a script with which a shell completes verbs, options and file names. Put
it where the shell looks for such scripts, or evaluate it."""
EXAMPLES = [
    ('eval "$(vtrace completion bash)"', "In ~/.bashrc."),
    ("vtrace completion zsh > ~/.zfunc/_vtrace", "A folder of zsh's fpath."),
    (
        "vtrace completion fish > ~/.config/fish/completions/vtrace.fish",
        "Where fish looks for it.",
    ),
]

SHELLS: Final = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    from vtrace.cli import VERBS, build_parser

    try:
        import shtab
    except ImportError:
        raise UnsupportedError(
            "completion needs the Python package shtab: pip install shtab"
        ) from None
    parser = build_parser(tuple(VERBS))
    take_files(parser, shtab.FILE)
    print(shtab.complete(parser, shell=args.shell), end="")
    return 0


def take_files(parser: argparse.ArgumentParser, files: object) -> None:
    """Complete file names wherever the parser or one of its verbs takes a FILE."""
    for action in parser._actions:
        if action.metavar in {"FILE", "OUT"}:
            action.complete = files  # type: ignore[attr-defined]
        choices = action.choices
        if isinstance(choices, dict):
            for verb in choices.values():
                take_files(verb, files)
