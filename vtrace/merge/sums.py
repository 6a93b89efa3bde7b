"""What adds up over the sources: records by kind, loss, calls, exits, interrupts.

Two recorders of one host at the same time have each summed up the same: one of them tells. Parts of
one recording go on counting from part to part: the largest tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtrace.merge.clocks import Placed
    from vtrace.merge.ids import Ids

__all__ = ["Sums", "section_of", "whole"]

Meta = dict[str, Any]


def section_of(one: Placed, name: str) -> Any:
    """Return a section of a source; an empty object where there is none."""
    section = one.source.sections.get(name)
    return section if isinstance(section, dict | list) else {}


class Sums:
    """Adds up what the sources have counted."""

    def __init__(self, placed: Sequence[Placed], ids: Sequence[Ids]) -> None:
        self._placed, self._ids = placed, ids

    def not_told(self, one: Placed) -> bool:
        """Tell whether a source's exits are in no sum, nor in those of another part of it."""
        first = next(other for other in self._placed if other.part == one.part)
        return one is first and self._told_twice(one) and not self._continued(one)

    def _told_twice(self, one: Placed) -> bool:
        # Sums of a stretch that another source of the host has summed up too.
        before = True
        for other in self._placed:
            if other is one:
                before = False
            elif other.host == one.host and self._exits(other):
                if other.part == one.part:
                    # They go on counting from part to part.
                    mine, theirs = self._exits(one), self._exits(other)
                    if theirs > mine or (theirs == mine and before):
                        return True
                elif before and _overlap(one, other):
                    return True
        return False

    def _continued(self, one: Placed) -> bool:
        # Another part of the same recording has the sums.
        return any(
            other is not one and other.part == one.part and not self._told_twice(other)
            for other in self._placed
        )

    def _exits(self, one: Placed) -> int:
        rows = [*section_of(one, "exits"), *section_of(one, "interrupts")]
        return sum(whole(row.get("count")) for row in rows if isinstance(row, Mapping))

    def ending(self, left_out: Sequence[Mapping[str, int]], late: int) -> Meta:
        """Return what stands in the last batch.

        Args:
            left_out: For each source, kind -> records that another one tells of.
            late: Records that came behind their place in the order.
        """
        counts = self._added("counts")
        for kinds in left_out:
            for kind, count in kinds.items():
                row = counts.get(kind, {})
                for name in row.keys() & {"produced", "received"}:
                    row[name] = max(whole(row.get(name)) - count, 0)
        loss = self._added("loss", flat=True)
        loss["late"] = max(whole(loss.get("late")), late)
        made: Meta = {"counts": counts, "loss": loss}
        calls = self._added("calls")
        if calls:
            made["calls"] = calls
        for name in ("exits", "interrupts"):
            if any(name in one.source.sections for one in self._placed):
                made[name] = self._sums(name)
        last = [
            o.source.last_ns + o.offset_ns for o in self._placed if o.source.last_ns is not None
        ]
        made["end"] = {"reason": "merged", "ended_ns": max(last, default=0)}
        return made

    def _added(self, name: str, *, flat: bool = False) -> Meta:
        total: Meta = {}
        for part in dict.fromkeys(one.part for one in self._placed):
            largest: Meta = {}
            for one in self._placed:
                if one.part == part:
                    section = section_of(one, name)
                    rows = {"": section} if flat else section
                    for key, row in rows.items():
                        _each(largest.setdefault(key, {}), row, max)
            for key, row in largest.items():
                _each(total.setdefault(key, {}), row, lambda a, b: a + b)
        found: Meta = total.get("", {}) if flat else total
        return found

    def _sums(self, name: str) -> list[Meta]:
        found: dict[Any, Meta] = {}
        for one, ids in zip(self._placed, self._ids, strict=True):
            if self._told_twice(one):
                continue
            for row in section_of(one, name):
                if not isinstance(row, Mapping):
                    continue
                mine = {**row, "vm": ids.vm(row.get("vm", ""))}
                for each in ("pid", "tid"):
                    if each in mine:
                        mine[each] = ids.tid(mine[each])
                sums = ("count", "total_ns", "user_count", "user_ns")
                key = repr(sorted((k, v) for k, v in mine.items() if k not in sums))
                known = found.setdefault(key, {k: v for k, v in mine.items() if k not in sums})
                for each in sums:
                    if type(mine.get(each)) is int:
                        known[each] = known.get(each, 0) + mine[each]
        return list(found.values())


def _overlap(one: Placed, other: Placed) -> bool:
    spans = []
    for each in (one, other):
        if each.source.first_ns is None or each.source.last_ns is None:
            return False
        spans.append((each.source.first_ns + each.offset_ns, each.source.last_ns + each.offset_ns))
    return spans[0][0] <= spans[1][1] and spans[1][0] <= spans[0][1]


def whole(value: Any) -> int:
    """Return a count; 0 of what is none."""
    return value if type(value) is int and value >= 0 else 0


def _each(into: Meta, row: Any, join: Any) -> None:
    for name, value in row.items() if isinstance(row, Mapping) else ():
        if type(value) is int:
            into[name] = join(into.get(name, 0), value)
