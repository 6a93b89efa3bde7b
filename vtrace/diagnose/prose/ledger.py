"""The ledger of a diagnosis as tables: one for each direction and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.codes import HOPS
from vtrace.diagnose.findings import Basis
from vtrace.diagnose.prose.lines import hanging
from vtrace.tables.human import count_text
from vtrace.text import cells, clean

if TYPE_CHECKING:
    from vtrace.diagnose.findings import Diagnosis, LedgerRow
    from vtrace.diagnose.prose.style import Style

__all__ = ["ledger_lines"]

MARKS: Final = {
    Basis.EVENTS: "e",
    Basis.COUNTERS: "c",
    Basis.DERIVED: "~",
    Basis.UNSEEN: "",
}
MEANINGS: Final = {
    Basis.EVENTS: "e counted packet by packet",
    Basis.COUNTERS: "c by counters of the kernel",
    Basis.DERIVED: "~ follows from its neighbours",
    Basis.UNSEEN: "- not seen here",
}
HEADS: Final = ("hop", "queue", "in  ", "out  ", "dropped  ", "change", "unexplained")
ORDER: Final = {hop: at for at, hop in enumerate(HOPS)}
NAME: Final = 32
"""Cells of a name."""
REASONS_LEAST: Final = 18
"""Cells that reasons need at least to stand beside their row."""


def ledger_lines(diagnosis: Diagnosis, width: int, style: Style) -> list[str]:
    """Return the ledger: a table for each direction and device, then what the marks mean."""
    packets = "UDP packets" if diagnosis.protocol == "udp" else "packets"
    lines = [style.bold(f"ledger of {packets}")]
    groups: dict[tuple[str, str, str], list[LedgerRow]] = {}
    for row in diagnosis.ledger:
        groups.setdefault((row.direction, row.vm, row.device), []).append(row)
    for (direction, vm, device), rows in groups.items():
        rows.sort(key=lambda row: ORDER.get(row.hop, len(ORDER)))
        lines += _table(_heading(direction, vm, device), rows, width, style)
    lines += hanging("  ", _legend(diagnosis.ledger), width)
    return [line.rstrip() for line in lines]


def _heading(direction: str, vm: str, device: str) -> str:
    way = {"rx": "towards", "tx": "from"}.get(direction, "of")
    guest = clean(vm, NAME) if vm else "the guests"
    return f"{way} {guest}" + (f", {clean(device, NAME)}" if device else "")


def _table(heading: str, rows: Sequence[LedgerRow], width: int, style: Style) -> list[str]:
    table = [_cells(row) for row in rows]
    # Most devices have one queue: then its name is no column.
    keep = [
        at
        for at in range(len(HEADS))
        if at != 1 or len({row.queue for row in rows if row.queue}) > 1
    ]
    widths = {at: max(cells(HEADS[at]), *(cells(row[at]) for row in table)) for at in keep}
    lines = ["  " + style.bold(heading), "  " + style.dim(_line(HEADS, keep, widths))]
    behind = 2 + sum(widths[at] + 2 for at in keep)
    for row, texts in zip(rows, table, strict=True):
        line = "  " + _line(texts, keep, widths)
        beside = _reasons(row)
        if beside and width - behind >= max(REASONS_LEAST, min(cells(beside), 40)):
            lead = line + " " * (behind - cells(line))
            more = list(hanging(" " * behind, beside, width))
            lines += [lead + more[0].strip(), *more[1:]]
        else:
            lines.append(line)
            if beside:
                lines += hanging("      ", beside, width)
        if row.note:
            lines += [style.dim(one) for one in hanging("      ", row.note, width)]
    return lines


def _cells(row: LedgerRow) -> list[str]:
    dropped = sum(row.dropped.values())
    unseen = row.basis_dropped is Basis.UNSEEN
    return [
        clean(row.hop, NAME),
        clean(row.queue, NAME),
        _number(row.entered, row.basis_in),
        _number(row.left, row.basis_out),
        _number(None if unseen and not dropped else dropped, row.basis_dropped, mark=dropped > 0),
        "-" if row.occupancy_change is None else f"{row.occupancy_change:+,}".replace("+0", "0"),
        "-" if row.unexplained is None else count_text(row.unexplained),
    ]


def _number(count: int | None, basis: Basis, *, mark: bool = True) -> str:
    # The marks stand in a column of their own, so that numbers stay below each other.
    sign = MARKS[basis] if mark else ""
    return "-  " if count is None else f"{count_text(count)} {sign or ' '}"


def _reasons(row: LedgerRow) -> str:
    found = sorted(row.dropped.items(), key=lambda item: -item[1])
    if len(found) == 1:
        return found[0][0]
    return ", ".join(f"{count_text(count)} {reason}" for reason, count in found)


def _line(texts: Sequence[str], keep: Sequence[int], widths: dict[int, int]) -> str:
    parts = []
    for at in keep:
        space = " " * (widths[at] - cells(texts[at]))
        parts.append(texts[at] + space if at < 2 else space + texts[at])
    return "  ".join(parts)


def _legend(rows: Sequence[LedgerRow]) -> str:
    used: set[Basis] = set()
    for row in rows:
        for count, basis in ((row.entered, row.basis_in), (row.left, row.basis_out)):
            used.add(Basis.UNSEEN if count is None else basis)
        if row.dropped:
            used.add(row.basis_dropped)
    return ";  ".join(text for basis, text in MEANINGS.items() if basis in used)
