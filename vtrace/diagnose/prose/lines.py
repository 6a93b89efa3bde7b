"""Sentences in lines of a width, made safe for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from vtrace.text import cells, clean

__all__ = ["hanging", "wrapped"]

GAP: Final = re.compile(r" (?!(?<=\d )(?:ns|us|ms|s|%|B|kB|MB|GB)(?!\w))")
"""Where a line may end: not between a number and its unit."""


def wrapped(text: str, width: int) -> list[str]:
    """Return text in lines of at most ``width`` cells; a longer word is broken."""
    lines: list[str] = []
    line = ""
    for word in GAP.split(clean(text)):
        if line and cells(line) + 1 + cells(word) > width:
            lines.append(line.rstrip())
            line = ""
        line = f"{line} {word}" if line else word
        while cells(line) > width:
            at = _fitting(line, width)
            lines.append(line[:at])
            line = line[at:]
    lines.append(line.rstrip())
    return lines


def _fitting(text: str, width: int) -> int:
    # How many characters go into that many cells; one at least.
    used = 0
    for at, char in enumerate(text):
        used += cells(char)
        if used > width:
            return max(at, 1)
    return len(text)


def hanging(lead: str, text: str, width: int) -> Iterator[str]:
    """Yield text behind a lead; further lines begin below its first word."""
    space = " " * cells(lead)
    for at, line in enumerate(wrapped(text, max(width - len(space), 20))):
        yield (space if at else lead) + line
