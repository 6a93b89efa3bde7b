"""The man page and the completions are made from the parser."""

import shutil
import subprocess

import pytest

from vtrace.cli import VERBS, load_verb


def test_the_page_has_every_verb_option_and_example(vtrace):
    page = vtrace("man").out
    assert page.startswith(".TH VTRACE 1")
    for name in VERBS:
        assert f".SH VTRACE {name.upper()}" in page
        for command, _ in load_verb(name).EXAMPLES:
            assert command.replace("\\", "\\e").replace("-", "\\-") in page
    assert "\\-\\-max\\-loss" in page
    assert "130 interrupted" in page


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_has_no_complaint(vtrace):
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww"],
        input=vtrace("man").out.encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""
    assert b"report" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_that_shell(shell, vtrace):
    done = vtrace("completion", shell)
    assert done.code == 0
    for name in VERBS:
        assert name in done.out
    assert "max-loss" in done.out
    if shutil.which(shell):
        checked = subprocess.run(
            [shell, "-n"], input=done.out.encode(), capture_output=True, timeout=60, check=False
        )
        assert checked.returncode == 0, checked.stderr
