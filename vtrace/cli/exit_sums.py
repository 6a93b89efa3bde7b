"""Sums of exits by device: what ``vtrace exits --sum`` prints, and a part of the report."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtrace.cli.output import Cell, Style, print_table
from vtrace.errors import InputError
from vtrace.inventory.regions import by_qemu
from vtrace.tables.human import count_text, duration_text

if TYPE_CHECKING:
    import argparse

    from vtrace.session import Session, Summary

__all__ = [
    "COLUMNS",
    "as_json",
    "by_device",
    "chosen",
    "print_by_device",
    "print_csv",
    "print_sums",
]

Row = dict[str, Any]

COLUMNS: Final = (
    "vm",
    "vcpu",
    "reason",
    "io",
    "write",
    "address",
    "device",
    "part",
    "count",
    "total_ns",
    "user_count",
    "user_ns",
)


MOST_TREE_BYTES: Final = 16 << 20


def memory_tree(path: str) -> str:
    """Return the text of a file with QEMU's memory tree.

    Raises:
        InputError: It cannot be read, is too large to be one, or has no device in it.
    """
    from vtrace.inventory.regions import mtree_regions

    try:
        with Path(path).open("rb") as file:
            found = file.read(MOST_TREE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if len(found) > MOST_TREE_BYTES:
        raise InputError(f"{path}: too large for a memory tree of QEMU ({MOST_TREE_BYTES:,} bytes)")
    text = found.decode(errors="replace")
    if not mtree_regions(text):
        raise InputError(f"{path}: no ports and no memory of a device in it: is it info mtree -f?")
    return text


def chosen(summary: Summary, args: argparse.Namespace) -> tuple[list[Row], list[Row] | None]:
    """Return the rows of exits and of interrupts that the options ask for."""
    empty = dict.fromkeys(COLUMNS) | {"part": ""}
    exits = summary.exits_by_device or [empty | row for row in summary.exits]
    interrupts = summary.interrupts
    if args.vm:
        exits = [row for row in exits if row["vm"] in args.vm]
        if interrupts is not None:
            interrupts = [row for row in interrupts if row["vm"] in args.vm]
    return (exits if args.count is None else exits[: args.count]), interrupts


def as_json(session: Session, summary: Summary, args: argparse.Namespace) -> Row:
    """Return the sums as ``schemas/exit-sums.json`` describes them."""
    exits, interrupts = chosen(summary, args)
    return {
        "source": str(getattr(session.source, "name", "live")),
        "duration_ns": session.duration_ns,
        "exits": exits,
        "interrupts": interrupts,
        "unkept": summary.exit_sums.unkept,
    }


def print_csv(summary: Summary, args: argparse.Namespace) -> None:
    """Print the sums of exits as CSV; what is missing is empty."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in chosen(summary, args)[0]:
        writer.writerow([_plain(row[name]) for name in COLUMNS])


def _plain(value: Any) -> Any:
    # A text that a spreadsheet would take for a formula is one that somebody else has chosen.
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value


def print_sums(summary: Summary, args: argparse.Namespace) -> None:
    """Print the sums as text."""
    style = Style.of(args)
    exits, interrupts = chosen(summary, args)
    print(style.bold("VM exits"))
    rows: list[list[Cell]] = [
        [
            *_place(row),
            row["part"] or "-",
            "-" if row["address"] is None else f"{row['address']:#x}",
            "-" if row["write"] is None else "write" if row["write"] else "read",
            *_figures(row),
        ]
        for row in exits
    ]
    heads = ["vm", "vcpu", "reason", "device", "part", "address", "access"]
    print_table([*heads, *_FIGURES], rows, style, left=7)
    if interrupts:
        print("\n" + style.bold("interrupts") + "  as KVM was told of them")
        lines = [(row["vm"] or "-", row["device"], _line(row), row["count"]) for row in interrupts]
        print_table(["vm", "device", "line", "count"], lines, style, left=3)
    for name, count in summary.exit_sums.unkept.items():
        if count:
            print(style.alarm(f"{count_text(count)} {name} are in no sum: there was no room"))


_FIGURES: Final = ("count", "outside", "each", "to QEMU", "in QEMU", "each")


def _place(row: Row) -> list[Cell]:
    vcpu = None if row["vcpu"] is None else str(row["vcpu"])
    return [row["vm"] or "-", vcpu, row["reason"], row["device"] or "-"]


def _figures(row: Row) -> list[Cell]:
    count, user, user_ns = row["count"], row["user_count"], row["user_ns"]
    each = duration_text(row["total_ns"] // max(count, 1))
    cells: list[Cell] = [count, duration_text(row["total_ns"]), each, user]
    if user is None or user_ns is None:
        return [*cells, None, None]
    each = duration_text(user_ns // user) if user else "-"
    return [*cells, duration_text(user_ns), each]


def _line(row: Row) -> str:
    if row["gsi"] is not None:
        return f"gsi {row['gsi']}"
    if row["msi_address"] is None:
        return "-"
    if by_qemu(row["msi_address"]):
        return f"msi by QEMU, data {row['msi_data']:#x}"
    return f"msi {row['msi_address']:#x} {row['msi_data']:#x}"


def by_device(summary: Summary) -> list[Row]:
    """Return the exits that touched a device, by VM, vCPU, reason and device; most time first."""
    sums: dict[tuple[Any, ...], Row] = {}
    for row in summary.exits_by_device:
        if row["device"] is None:
            continue
        place = {name: row[name] for name in ("vm", "vcpu", "reason", "device")}
        known = sums.setdefault(
            tuple(place.values()),
            {**place, "count": 0, "total_ns": 0, "user_count": 0, "user_ns": 0},
        )
        for name in ("count", "total_ns", "user_count", "user_ns"):
            both = (known[name], row[name])
            known[name] = None if None in both else sum(both)
    return sorted(sums.values(), key=lambda row: (row["vm"], row["vcpu"] or 0, -row["total_ns"]))


def print_by_device(rows: list[Row], style: Style) -> None:
    """Print exits by device, as part of the report; nothing where none is known."""
    if rows:
        print(
            "\n" + style.bold("VM exits by device") + "  vtrace exits --sum has ports and addresses"
        )
        heads = ["vm", "vcpu", "reason", "device", *_FIGURES]
        print_table(heads, [[*_place(row), *_figures(row)] for row in rows], style, left=4)
