"""Running the command inside this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli import recordings, story
from vtrace.cli import main


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@pytest.fixture
def vtrace(capsys, monkeypatch):
    """Return a function that runs a command line."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("VTRACE_DEBUG", raising=False)

    def run(*arguments: object) -> Done:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def told(tmp_path_factory) -> Path:
    """A recording of which each record is known: ``story.small``."""
    return story.small().write(tmp_path_factory.mktemp("told") / "told.vtrace", 9, 20)


@pytest.fixture(scope="session")
def busy(tmp_path_factory) -> Path:
    """A recording of a simulated queue pair whose tap ring overflows."""
    path = tmp_path_factory.mktemp("busy") / "busy.vtrace"
    return recordings.write(path, recordings.simulate(recordings.scenario(tap_capacity=2)))
