"""Recordings and the command line, as the tests of the verbs have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import busy, told, vtrace
from tests.requests.devices import story

__all__ = ["busy", "rows", "served", "told", "vtrace"]


@pytest.fixture
def rows(vtrace) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that returns what a verb prints with --json."""

    def run(*arguments: object) -> list[dict[str, Any]]:
        done = vtrace(*arguments, "--json")
        assert done.code == 0, done.err
        return [json.loads(line) for line in done.lines]

    return run


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Path:
    """A recording of every kind of device that QEMU serves."""
    return story()[0].write(tmp_path_factory.mktemp("served") / "served.vtrace", 20, 21, 90)
