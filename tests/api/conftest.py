"""Recordings, and the rows that the verbs print of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from parsers.tracefile import reader
from tests.cli.conftest import busy, told, vtrace
from tests.requests.devices import story

__all__ = ["busy", "told", "vtrace"]


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Path:
    """A recording of every kind of device that QEMU serves."""
    return story()[0].write(tmp_path_factory.mktemp("served") / "served.vtrace", 20, 21, 90)


@pytest.fixture
def printed(vtrace):
    """Return a function that returns what a verb prints with --json, row by row."""

    def run(*arguments: object) -> list[dict]:
        done = vtrace(*arguments, "--json")
        assert done.code == 0, done.err
        return [json.loads(line) for line in done.lines]

    return run


@pytest.fixture
def decoded(monkeypatch):
    """A list that gets, for each batch that is decoded, the columns that are wanted of it."""
    seen = []
    decode = reader.decode

    def spy(layout, record, body, header, columns):
        seen.append(None if columns is None else tuple(columns))
        return decode(layout, record, body, header, columns)

    monkeypatch.setattr(reader, "decode", spy)
    return seen


def plain(frame: pandas.DataFrame) -> list[dict]:
    """Return the rows of a frame as JSON has them: None for what is missing."""
    columns = {
        name: [None if pandas.isna(value) else value for value in frame[name].tolist()]
        for name in frame.columns
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
