"""Values of a recording, taken with care: what makes no sense is None or empty."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["MOST", "cpus_of", "flag", "listed", "mapping", "number", "quoted", "rows", "word"]

LARGEST = 1 << 62
LONGEST = 200
MOST = 4096
"""Rows of one section that are looked at."""


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping with text as keys; empty for anything else."""
    if not isinstance(value, Mapping):
        return {}
    return {key: inner for key, inner in value.items() if isinstance(key, str)}


def rows(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the mappings in a list, not more than ``MOST``; none for anything else."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        yield from (mapping(one) for one in value[:MOST] if isinstance(one, Mapping))


def number(value: Any) -> int | None:
    """Return a count that is not negative, from an int or its digits; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and 0 <= value < LARGEST else None


def word(value: Any) -> str:
    """Return a text that is not too long; empty for anything else."""
    return value[:LONGEST] if isinstance(value, str) else ""


def flag(value: Any) -> bool | None:
    """Return a truth: a bool, 0 or 1, or what QEMU calls on and off; None for anything else."""
    if isinstance(value, str):
        lowered = value.lower()
        if lowered in {"on", "yes", "true", "y"}:
            return True
        return False if lowered in {"off", "no", "false", "n"} else None
    return bool(value) if value in (True, False) and isinstance(value, int) else None


def cpus_of(value: Any) -> frozenset[int] | None:
    """Return CPUs from a list of their numbers; None where that is not known."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return None
    found = frozenset(cpu for one in value[:MOST] if (cpu := number(one)) is not None)
    return found or None


def listed(cpus: Iterable[int]) -> str:
    """Return CPUs as taskset takes them: ``0-2,5``."""
    ordered, parts = sorted(cpus), []
    start = end = None
    for cpu in [*ordered, None]:
        if start is not None and end is not None and cpu != end + 1:
            parts.append(str(start) if start == end else f"{start}-{end}")
            start = None
        if start is None:
            start = cpu
        end = cpu
    return ",".join(parts)


def quoted(name: str) -> str:
    """Return a name as a shell takes it."""
    return shlex.quote(name)
