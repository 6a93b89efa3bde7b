"""The command itself: verbs, help, errors, exit codes."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from vtrace.cli import VERBS, build_parser, load_verb, main
from vtrace.errors import (
    ExitCode,
    InputError,
    LossError,
    PrivilegeError,
    UnsupportedError,
    UsageError,
)

READERS = ("report", "lifecycles", "packets", "exits", "drops")


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "vtrace", *map(str, arguments)],
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )


def test_every_verb_is_a_module_that_agrees_with_the_table():
    for name, summary in VERBS.items():
        module = load_verb(name)
        assert summary == module.SUMMARY
        assert module.DESCRIPTION.strip()
        for line, what in module.EXAMPLES:
            assert what
            assert "vtrace" in line


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_fits_a_terminal(name, vtrace):
    done = vtrace(name, "--help")
    assert done.code == 0
    assert f"usage: vtrace {name}" in done.out
    assert all(len(line) <= 110 for line in done.lines)


def test_help_names_every_verb(vtrace):
    done = vtrace("--help")
    assert done.code == 0
    for name in VERBS:
        assert re.search(rf"^    {name}\s", done.out, re.MULTILINE)
    assert vtrace().out == done.out


@pytest.mark.parametrize("name", VERBS)
def test_examples_can_be_parsed(name):
    for line, _ in load_verb(name).EXAMPLES:
        for words in commands_of(line):
            build_parser([words[0]]).parse_args(words)


def commands_of(line):
    """Return the calls of vtrace in an example for a shell, without the word itself."""
    line = line.removeprefix('eval "$(').removesuffix(')"')
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    calls, call, skip = [], [], False
    for word in [*lexer, "|"]:
        if word == "|":
            calls.append(call)
            call, skip = [], False
        elif word == ">":
            skip = True
        elif not skip:
            call.append(word)
    return [call[1:] for call in calls if call and call[0] == "vtrace"]


def test_version(vtrace):
    assert vtrace("--version").out.startswith("vtrace ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["repot"], "did you mean report?"),
        (["report"], "give a recording"),
        (["report", "a", "-r", "b"], "FILE once"),
        (["report", "--foo", "x"], "unrecognized arguments: --foo"),
        (["report", "x", "--max-loss", "many"], "--max-loss"),
        (["lifecycles", "x", "-c", "-1"], "-c"),
        (["lifecycles", "x", "--since", "noon"], "no time"),
        (["lifecycles", "x", "-Y", "udp.dprt == 1"], "udp.dport"),
        (["packets", "x", "--json", "--hex"], "--hex"),
        (["filter", "x", "-w", "y"], "say what to keep"),
        (["filter", "-", "-Y", "udp", "-w", "y"], "read twice"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments, words, vtrace):
    done = vtrace(*arguments)
    assert done.code == ExitCode.USAGE
    assert done.out == ""
    assert done.err.startswith("vtrace: ")
    assert done.err.count("\n") == 1
    assert words in done.err


@pytest.mark.parametrize("verb", [*READERS, "filter"])
def test_a_file_that_is_not_there(verb, vtrace, tmp_path):
    extra = ["-Y", "udp", "-w", tmp_path / "out"] if verb == "filter" else []
    done = vtrace(verb, tmp_path / "none.vtrace", *extra)
    assert done.code == ExitCode.INPUT
    assert "none.vtrace" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (LossError("x"), 3),
        (PrivilegeError("x"), 4),
        (UnsupportedError("x"), 5),
        (InputError("x"), 6),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
        (ZeroDivisionError("division"), 70),
    ],
)
def test_exit_codes(error, code, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr("vtrace.cli.man.run", fail)
    monkeypatch.setattr("vtrace.cli.silence_stdout", lambda: None)
    assert main(["man"]) == code
    err = capsys.readouterr().err
    if code == 70:
        assert "ZeroDivisionError: division" in err
        assert "this is a bug in vtrace; run with VTRACE_DEBUG=1" in err
    elif code in {0, 130}:
        assert err == ""
    else:
        assert err == "vtrace: x\n"


def test_talk_is_one_short_line_that_steers_no_terminal(vtrace, tmp_path):
    done = vtrace("report", tmp_path / "a\x1b[31m\u202e\nb")
    assert done.code == 6
    assert "a\\x1b[31m\\u202e\\nb: cannot be opened: " in done.err
    assert done.err.count("\n") == 1
    long = vtrace("report", tmp_path / ("x" * 1_000_000))
    assert long.code == 6
    assert len(long.err) < 2100
    assert f"vtrace: {tmp_path}" in long.err
    assert "cannot be opened: " in long.err


def test_a_bug_with_its_traceback(monkeypatch):
    monkeypatch.setattr("vtrace.cli.man.run", lambda args: 1 // 0)
    monkeypatch.setenv("VTRACE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["man"])


def test_a_broken_pipe_is_quiet(busy, root):
    process = subprocess.Popen(
        [sys.executable, "-m", "vtrace", "lifecycles", "--json", busy],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert err == b""


def test_a_terminal_that_knows_no_unicode(told, root):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = command("report", told, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


@pytest.mark.parametrize("verb", READERS)
def test_a_recording_from_stdin(verb, told, root, vtrace):
    with told.open("rb") as file:
        piped = command(verb, "--utc", "-", cwd=root, stdin=file)
    assert piped.returncode == 0, piped.stderr
    # The first line of a report names its source.
    whole = vtrace(verb, "--utc", told).lines
    cut = 1 if verb == "report" else 0
    assert piped.stdout.decode().splitlines()[cut:] == whole[cut:]
    cat = subprocess.Popen(["cat", told], stdout=subprocess.PIPE)
    through = command(verb, "--utc", "-", cwd=root, stdin=cat.stdout)
    cat.stdout.close()
    assert cat.wait(60) == 0
    assert through.stdout == piped.stdout


def test_the_module_is_the_command(root):
    done = command("--version", cwd=root)
    assert done.returncode == 0
    assert done.stdout.startswith(b"vtrace ")
