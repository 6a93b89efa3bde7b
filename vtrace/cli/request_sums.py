"""Sums of requests: as ``report`` and ``requests --summary`` show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vtrace.cli.output import Cell, print_table
from vtrace.tables.human import count_text, duration_text, size_text
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.cli.output import Style
    from vtrace.session import RequestSums

__all__ = ["print_sums"]

SHOWN_RANGES: Final = 8
PAGE_BYTES: Final = 4096


def print_sums(sums: RequestSums, style: Style) -> None:
    """Print the sums as tables."""
    print(style.bold("requests") + "  to devices that QEMU serves")
    heads = ("vm", "device", "operation", "count", "bytes", "failed", "unread", "ambiguous")
    times = ("queueing p50", "p99", "service p50", "p90", "p99", "max")
    rows: list[tuple[Cell, ...]] = [
        (
            row["vm"],
            row["device"],
            row["operation"],
            row["count"],
            size_text(row["data_bytes"]),
            *(row[name] for name in heads[5:]),
            *(_figure(row["queueing"], name) for name in ("p50", "p99")),
            *(_figure(row["service"], name) for name in ("p50", "p90", "p99", "max")),
        )
        for row in sums.requests
    ]
    print_table([*heads, *times], rows, style, left=3)
    statuses: list[tuple[Cell, ...]] = [
        (row["vm"], row["device"], row["operation"], name, count)
        for row in sums.requests
        if row["failed"]
        for name, count in row["statuses"].items()
    ]
    if statuses:
        print("\n" + style.bold("answers") + "  of operations that failed")
        print_table(["vm", "device", "operation", "status", "count"], statuses, style, left=4)
    for row in sums.balloons:
        print_balloon(row, style)
    if sums.ports:
        print("\n" + style.bold("serial ports"))
        ports: list[tuple[Cell, ...]] = [
            (row["vm"], row["device"], str(row["port"]), row["name"], row["received_bytes"],
             row["sent_bytes"])
            for row in sums.ports
        ]  # fmt: skip
        heads_of_ports = ["vm", "device", "port", "name", "to the guest", "from it"]
        print_table(heads_of_ports, ports, style, left=4)


def _figure(figures: dict[str, int] | None, name: str) -> str | None:
    return None if figures is None else duration_text(figures[f"{name}_ns"])


def print_balloon(row: dict[str, Any], style: Style) -> None:
    """Print the pages of a balloon."""
    print("\n" + style.bold(clean(f"balloon {row['vm']} {row['device']}")))
    for name in ("inflated", "deflated"):
        pages, distinct = row[f"{name}_pages"], row[f"{name}_distinct"]
        if not pages:
            continue
        text = f"{name} {count_text(pages)} pages ({size_text(PAGE_BYTES * pages)})"
        if distinct != pages:
            text += f", {count_text(distinct)} of them seen and distinct"
        ranges = row[f"{name}_ranges"]
        parts = [_range(**one) for one in ranges[:SHOWN_RANGES]]
        more = len(ranges) + row[f"{name}_more_ranges"] - len(parts)
        if parts:
            text += ": " + ", ".join(parts)
        print(text + (f" and {count_text(more)} more ranges" if more else ""))
    if row["stats"]:
        stats = [f"{name} {count_text(value)}" for name, value in row["stats"].items()]
        print("statistics " + ", ".join(stats))


def _range(first: int, last: int) -> str:
    return f"{first:#x}" if first == last else f"{first:#x}-{last:#x}"
