"""Numbers for people: durations, sizes, counts."""

from __future__ import annotations

__all__ = ["count_text", "duration_text", "seconds_text", "size_text"]


def duration_text(ns: int) -> str:
    """Return a duration with three digits that count: ``812ns``, ``9.80us``, ``1.25s``."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    if ns < 1000:
        return f"{sign}{ns}ns"
    for unit, size in (("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)):
        value = ns / size
        if value < 999.5 or unit == "s":
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{sign}{value:.{digits}f}{unit}"


def seconds_text(ns: int) -> str:
    """Return a length of time in seconds to the millisecond: ``12.345 s``."""
    return f"{ns // 1_000_000_000:,}.{ns // 1_000_000 % 1000:03d} s"


def size_text(size: int) -> str:
    """Return a size in bytes: ``0 B``, ``64.0 kB``, ``1.25 GB``."""
    if size < 1000:
        return f"{size} B"
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        value, unit = value / 1000, larger
        if value < 999.5:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def count_text(count: int) -> str:
    """Return a count with its thousands apart: ``1,912``."""
    return f"{count:,}"
