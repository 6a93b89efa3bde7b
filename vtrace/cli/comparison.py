"""A comparison as tables: for a terminal, as markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli.output import Cell, Style, print_table, text_of
from vtrace.compare.order import Verdict
from vtrace.tables.human import count_text, duration_text
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.compare import Comparison, Side

__all__ = ["TextTable", "as_json", "head_lines", "print_markdown", "print_text", "tables_of"]

Row = dict[str, Any]

_TIMES: Final = frozenset({"outside_ns", "qemu_ns"})
_WORDS: Final = {
    "outside_ns": "time outside the guest",
    "qemu_ns": "time in QEMU",
    "exits_to_qemu": "exits to QEMU",
}
_MANY: Final = 10
"""From this factor on a change is shown as one, not in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A table of text, with its heading."""

    title: str
    heads: Sequence[str]
    left: int
    """Columns that stand to the left."""
    rows: Sequence[Sequence[Cell]]


def figure(value: float | None, *, ns: bool = False) -> str:
    """Return a count or a time per unit: three digits that count, or a whole number."""
    if value is None:
        return "-"
    if ns:
        # A time per unit may be below a nanosecond; then it is nothing that one would look for.
        return duration_text(round(value))
    if not value:
        return "0"
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.2g}"


def change_text(before: float | None, after: float | None) -> str:
    """Return a change in words: ``+12 %``, ``x 31``, ``new``, ``gone``."""
    if before is None or after is None:
        return "-"
    if before == after:
        return "="
    if not before:
        return "new"
    if not after:
        return "gone"
    ratio = after / before
    if ratio >= _MANY:
        return f"x {figure(ratio)}"
    if ratio <= 1 / _MANY:
        return f"/ {figure(1 / ratio)}"
    return f"{100 * (ratio - 1):+.1f} %"


def signed(ns: int | None) -> str:
    """Return a difference with its sign; ``?`` where it has no bound."""
    if ns is None:
        return "?"
    return ("+" if ns > 0 else "") + duration_text(ns)


def head_lines(comparison: Comparison) -> list[str]:
    """Return what is compared, and per what."""
    units = comparison.units
    lines = []
    for word, side, count, basis in (
        ("before", comparison.before, units.before, units.before_basis),
        ("after", comparison.after, units.after, units.after_basis),
    ):
        lines.append(f"{word:6}  {side.source} · {_length(side)} · {_loss(side)}")
        if units.name not in {"second", "recording"}:
            lines[-1] += f" · {figure(count)} {units.name}s ({basis})"
    level = f"{100 * comparison.confidence:.3g} %"
    per = "in all" if units.name == "recording" else f"per {units.name}"
    lines.append(f"counts {per}; a change of a percentile is one with {level} confidence")
    return lines


def _length(side: Side) -> str:
    return duration_text(side.duration_ns)


def _loss(side: Side) -> str:
    text = f"lost {count_text(side.loss.get('lost', 0))}"
    others = [(n, side.loss.get(n, 0)) for n in ("pending", "missed")]
    return text + "".join(f", {name} {count_text(count)}" for name, count in others if count)


def tables_of(comparison: Comparison) -> list[TextTable]:
    """Return the tables that have rows."""
    vms = {row["vm"] for rows in (comparison.counts, comparison.exits) for row in rows}
    several = len(vms | {row["vm"] for row in comparison.stages}) > 1
    made = [
        _pairs(comparison),
        _stages(comparison, several),
        *_counts(comparison, several),
        *_exits(comparison, several),
        _drops(comparison),
    ]
    return [table for table in made if table.rows]


def _pairs(comparison: Comparison) -> TextTable:
    def name(place: Row | None) -> str:
        return "-" if place is None else f"{place['vm']}/{place['device']}".lstrip("/")

    rows = [
        (name(row["before"]), name(row["after"]), row["why"])
        for row in comparison.pairs
        if row["why"] != "same name"
    ]
    return TextTable(title="partners", heads=("before", "after", "matched by"), left=3, rows=rows)


def _place(row: Row, several: bool, *names: str) -> list[Cell]:
    return [*([row["vm"]] if several else ()), *(row[name] or "-" for name in names)]


def _stages(comparison: Comparison, several: bool) -> TextTable:
    rows: list[list[Cell]] = []
    seen: tuple[str, ...] = ()
    for row in comparison.stages:
        place = _place(row, several, "device", "queue", "stage")
        again = tuple(map(str, place)) == seen
        seen = tuple(map(str, place))
        before, after = row["before"], row["after"]
        first, second = (duration_text(one["ns"]) if one else "-" for one in (before, after))
        change, interval = "-", "-"
        if row["verdict"] == Verdict.TOO_FEW:
            interval = "-"
        elif row["change_ns"] is not None:
            change = signed(row["change_ns"])
            interval = f"{signed(row['low_ns'])} .. {signed(row['high_ns'])}"
        rows.append(
            [
                *([""] * len(place) if again else place),
                f"p{row['percentile']}",
                f"{count_text(before['count'] if before else 0)}",
                f"{count_text(after['count'] if after else 0)}",
                first,
                second,
                change,
                interval,
                row["verdict"],
            ]
        )
    heads = ["device", "queue", "stage", "", "n before", "n after", "before", "after", "change"]
    return TextTable(
        title="stages",
        heads=[*(["vm"] if several else ()), *heads, "interval", "verdict"],
        left=4 + several,
        rows=rows,
    )


def _counts(comparison: Comparison, several: bool) -> list[TextTable]:
    per = comparison.units.name
    whole = per == "recording"
    made = []
    for title, of_queue in (("queues", True), ("devices by exits and interrupts", False)):
        rows: list[list[Cell]] = []
        seen: tuple[str, ...] = ()
        for row in comparison.counts:
            if bool(row["queue"]) != of_queue:
                continue
            place = _place(row, several, "device", *(["queue"] if of_queue else ()))
            again = tuple(map(str, place)) == seen
            seen = tuple(map(str, place))
            ns = row["what"] in _TIMES
            cells: list[Cell] = [
                *([""] * len(place) if again else place),
                _WORDS.get(row["what"], row["what"].replace("_", " ")),
                _total(row["before"], ns),
                _total(row["after"], ns),
            ]
            if not whole:
                cells += [figure(row["before_per"], ns=ns), figure(row["after_per"], ns=ns)]
            rows.append([*cells, change_text(row["before_per"], row["after_per"])])
        heads = ["device", *(["queue"] if of_queue else ()), "what", "before", "after"]
        heads += [] if whole else [f"before/{per}", f"after/{per}"]
        made.append(
            TextTable(
                title=title,
                heads=[*(["vm"] if several else ()), *heads, "change"],
                left=2 + of_queue + several,
                rows=rows,
            )
        )
    return made


def _total(value: int | None, ns: bool) -> str:
    if value is None:
        return "-"
    return duration_text(value) if ns else count_text(value)


def _exits(comparison: Comparison, several: bool) -> list[TextTable]:
    per = comparison.units.name
    rows: list[list[Cell]] = []
    times: list[list[Cell]] = []
    for row in comparison.exits:
        first, second = row["before_per"] or {}, row["after_per"] or {}
        place = _place(row, several, "reason", "device")
        counts = [one["count"] if one else None for one in (row["before"], row["after"])]
        rows.append(
            [
                *place,
                *counts,
                *(figure(one.get("count")) for one in (first, second)),
                change_text(first.get("count"), second.get("count")),
            ]
        )
        spans = [
            figure(one.get(f"{n}_ns"), ns=True)
            for n in ("total", "user")
            for one in (first, second)
        ]
        change = change_text(first.get("total_ns"), second.get("total_ns"))
        times.append([*place, spans[0], spans[1], change, spans[2], spans[3]])
    heads = [*(["vm"] if several else ()), "reason", "device"]
    return [
        TextTable(
            title="VM exits",
            heads=[*heads, "before", "after", f"before/{per}", f"after/{per}", "change"],
            left=2 + several,
            rows=rows,
        ),
        TextTable(
            title=f"time outside the guest per {per}, and how much of it in QEMU",
            heads=[*heads, "outside before", "after", "change", "QEMU before", "after"],
            left=2 + several,
            rows=times,
        ),
    ]


def _drops(comparison: Comparison) -> TextTable:
    rows = [
        (
            row["reason"],
            row["location"] or "-",
            row["device"] or "-",
            row["before"],
            row["after"],
            figure(row["before_per"]),
            figure(row["after_per"]),
            change_text(row["before_per"], row["after_per"]),
        )
        for row in comparison.drops
    ]
    per = comparison.units.name
    heads = ("reason", "location", "device", "before", "after", f"before/{per}", f"after/{per}")
    return TextTable(title="drops", heads=(*heads, "change"), left=3, rows=rows)


def print_text(comparison: Comparison, style: Style) -> None:
    """Print a comparison for a terminal."""
    first, second, how = head_lines(comparison)
    print(style.bold(first))
    print(style.bold(second))
    print(how)
    for warning in comparison.warnings:
        print(style.alarm(clean(f"warning: {warning}")))
    for table in tables_of(comparison):
        print("\n" + style.bold(table.title))
        print_table(table.heads, table.rows, style, left=table.left)


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def print_markdown(comparison: Comparison) -> None:
    """Print a comparison as markdown, for a ticket."""
    lines = head_lines(comparison)
    print("\n".join(f"- {_markdown(line)}" for line in lines))
    for warning in comparison.warnings:
        print(f"- **warning**: {_markdown(clean(warning))}")
    for table in tables_of(comparison):
        print(f"\n### {table.title}\n")
        print("| " + " | ".join(_markdown(head) for head in table.heads) + " |")
        marks = ["---" if at < table.left else "---:" for at in range(len(table.heads))]
        print("| " + " | ".join(marks) + " |")
        for row in table.rows:
            print("| " + " | ".join(_markdown(text_of(cell)) for cell in row) + " |")


def as_json(comparison: Comparison) -> Row:
    """Return a comparison as ``schemas/diff.json`` describes it."""
    units = comparison.units

    def side(one: Side, count: float, basis: str) -> Row:
        return {
            "source": one.source,
            "duration_ns": one.duration_ns,
            "loss": one.loss,
            "units": count,
            "basis": basis,
        }

    return {
        "before": side(comparison.before, units.before, units.before_basis),
        "after": side(comparison.after, units.after, units.after_basis),
        "per": units.name,
        "confidence": comparison.confidence,
        "devices": comparison.pairs,
        "stages": comparison.stages,
        "counts": comparison.counts,
        "exits": comparison.exits,
        "drops": comparison.drops,
        "warnings": comparison.warnings,
    }
