"""Printing: text tables, JSON lines, CSV; colour where a terminal shows it."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vtrace.text import cells, clean

if TYPE_CHECKING:
    import argparse

    from vtrace.tables import Table

__all__ = ["Cell", "Style", "print_csv", "print_json", "print_json_lines", "print_table"]

Cell = str | int | None

BOLD: Final = "\x1b[1m"
DIM: Final = "\x1b[2m"
RED: Final = "\x1b[1;31m"
RESET: Final = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Style:
    """Colour, or none."""

    color: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> Style:
        """Return the style that the options, the environment and stdout allow."""
        plain = getattr(args, "no_color", False) or os.environ.get("NO_COLOR")
        dumb = os.environ.get("TERM", "") in {"", "dumb"}
        return cls(bool(sys.stdout.isatty() and not plain and not dumb))

    def bold(self, text: str) -> str:
        """Return a heading."""
        return f"{BOLD}{text}{RESET}" if self.color else text

    def dim(self, text: str) -> str:
        """Return what stands back."""
        return f"{DIM}{text}{RESET}" if self.color else text

    def alarm(self, text: str) -> str:
        """Return what must not be overlooked."""
        return f"{RED}{text}{RESET}" if self.color else text


def text_of(cell: Cell) -> str:
    """Return a cell as text that a terminal can show."""
    if cell is None:
        return "-"
    return clean(cell) if isinstance(cell, str) else f"{cell:,}"


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    style: Style,
    *,
    left: int = 1,
    widths: Sequence[int] | None = None,
    head: bool = True,
) -> None:
    """Print rows in columns: the first ``left`` ones to the left, others to the right.

    ``widths`` are for rows that come in several portions; without them all rows are measured.
    """
    texts = [[text_of(cell) for cell in row] for row in rows]
    if widths is None:
        widths = [
            max([cells(name), *(cells(row[at]) for row in texts)]) for at, name in enumerate(heads)
        ]
    if head:
        print(style.bold(_line(heads, widths, left)))
    for row in texts:
        print(_line(row, widths, left))


def _line(row: Sequence[str], widths: Sequence[int], left: int) -> str:
    parts = []
    for at, (text, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - cells(text))
        parts.append(text + space if at < left else space + text)
    return "  ".join(parts).rstrip()


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_json_lines(table: Table) -> None:
    """Print each row of a table as a JSON object on a line."""
    from vtrace.tables.lines import json_lines

    sys.stdout.write(json_lines(table))


def print_csv(table: Table, *, head: bool) -> None:
    """Print a table as CSV; what is missing is empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = table.schema.names
    if head:
        writer.writerow(names)
    writer.writerows(zip(*(_plain(column) for column in table.lists(names)), strict=True))


def _plain(column: list[Any]) -> list[Any]:
    # A text that a spreadsheet would take for a formula is one that a guest may have chosen.
    return [
        "'" + value
        if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}
        else value
        for value in column
    ]
