"""Sums that a recording of another tool cannot have: missing, not 0.

The section ``unrecorded`` says which columns of which kinds the events did not tell; ``*`` stands
for a kind that they do not have at all. A recording of vtrace's own has no such section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vtrace.tables.build import order_only

__all__ = ["clock_is_unknown", "without_unrecorded"]

PARTS: Final = ("needed", "sent", "suppressed", "spurious")
ALL: Final = "*"


def clock_is_unknown(sections: Mapping[str, Any]) -> bool:
    """Return whether times tell an order and nothing else."""
    return order_only(sections)


def without_unrecorded(row: dict[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a report's queues with None for what was not recorded."""
    if order_only(sections):
        row = {**row, "stages": {}}
    unrecorded = sections.get("unrecorded")
    if not isinstance(unrecorded, Mapping) or not unrecorded:
        return row

    def lacks(kind: str, *columns: str) -> bool:
        found = unrecorded.get(kind)
        return isinstance(found, list) and any(name in found for name in (*columns, ALL))

    row = dict(row)
    for name, missing in (
        ("used_bytes", lacks("USED", "length")),
        ("handed_back", lacks("HAND_BACK")),
        ("starved", lacks("EMPTY")),
        ("packets", all(lacks(kind) for kind in ("RECV", "SEND", "DELIVER"))),
    ):
        if missing:
            row[name] = None
    hidden: dict[str, set[str]] = {"kicks": set(), "interrupts": set()}
    if lacks("KICK"):
        hidden["kicks"] = set(PARTS)
    elif lacks("KICK", "avail", "position"):
        hidden["kicks"] = {"spurious"}
    if lacks("ENABLE"):
        hidden["kicks"] |= {"needed"}
    if lacks("SIGNAL", "ret"):
        hidden["interrupts"] = {"needed", "suppressed", "spurious"}
    if lacks("SIGNAL") and lacks("IRQ"):
        hidden["interrupts"] = set(PARTS)
    for name, parts in hidden.items():
        row[name] = {key: None if key in parts else count for key, count in row[name].items()}
    return row
