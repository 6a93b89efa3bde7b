"""Small words for sentences: counts, durations, shares, names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrace.tables.human import count_text, duration_text

if TYPE_CHECKING:
    from vtrace.diagnose.scene import Owner

__all__ = ["count", "duration", "owner_text", "percent"]


def count(number: int, what: str) -> str:
    """Return ``1 packet``, ``2,000 packets``."""
    return f"{count_text(number)} {what}{'' if number == 1 else 's'}"


def duration(span_ns: int) -> str:
    """Return a duration with three digits and its unit."""
    return duration_text(span_ns)


def percent(share: float) -> str:
    """Return ``97 %``."""
    return f"{share * 100:.0f} %"


def owner_text(owner: Owner) -> str:
    """Return the VM for a sentence, the interface where there is none."""
    return owner.vm or owner.interface
