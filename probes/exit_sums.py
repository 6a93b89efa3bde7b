"""Sums of exits and of interrupts, from the maps of program ``exits`` into sections of a recording.

A guest can touch any number of addresses, and a batch's metadata has a limit: beyond
:data:`MOST_ROWS` the smallest sums lose their address, and nothing else.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

__all__ = ["MOST_ROWS", "exit_rows", "interrupt_rows", "owner_of", "unkept"]

MOST_ROWS: Final = 2048
"""Rows of each section that keep their address."""

_IO: Final = {1: "pio", 2: "mmio"}
_SUMS: Final = ("count", "total_ns", "user_count", "user_ns")
_WORKER: Final = re.compile(r"(?:vhost|kvm-pit)[-/](\d{1,10})")

Row = dict[str, Any]


def exit_rows(
    tables: Iterable[Any], place: Callable[[int, int], Mapping[str, Any]], *, user: bool
) -> list[Row]:
    """Return the section ``exits``.

    Args:
        tables: maps ``exits`` and ``exits_rest``; None for one that is not there.
        place: (tid, tgid) -> vm and vcpu.
        user: exits to user space were watched; else their sums are left out, not 0.
    """
    rows = []
    for number, table in enumerate(tables):
        for key, value in table.items() if table else ():
            row: Row = {
                **place(key.tid, key.tgid),
                "pid": key.tgid,
                "tid": key.tid,
                "isa": "svm" if key.svm else "vmx",
                "reason": key.reason,
                "count": value.count,
                "total_ns": value.ns,
            }
            if user:
                row |= {"user_count": value.user_count, "user_ns": value.user_ns}
            if key.io in _IO:
                row |= {"io": _IO[key.io], "write": bool(key.write)}
                row["address"] = None if number else key.address
            rows.append(row)
    return sorted(limited(rows), key=_order)


def limited(rows: list[Row]) -> list[Row]:
    """Return rows of which at most :data:`MOST_ROWS` have an address; sums stay as they are."""
    if len(rows) <= MOST_ROWS:
        return rows
    addressed = [row for row in rows if row.get("address") is not None]
    addressed.sort(key=lambda row: row["total_ns"], reverse=True)
    kept = [row for row in rows if row.get("address") is None] + addressed[:MOST_ROWS]
    merged: dict[tuple[Any, ...], Row] = {}
    for row in [*kept, *({**row, "address": None} for row in addressed[MOST_ROWS:])]:
        key = _order(row)
        if key not in merged:
            merged[key] = dict(row)
            continue
        for name in _SUMS:
            if name in row:
                merged[key][name] += row[name]
    return list(merged.values())


def _order(row: Row) -> tuple[Any, ...]:
    address = row.get("address")
    return (
        row["tid"],
        row["reason"],
        row.get("io", ""),
        row.get("write", False),
        -1 if address is None else address,
    )


def interrupt_rows(
    table: Any, name_of: Callable[[int], tuple[int, str]], wanted: Iterable[int] = ()
) -> list[Row]:
    """Return the section ``interrupts``.

    Args:
        table: map ``interrupts``, or None.
        name_of: tgid of the thread that told KVM -> pid and name of its VM; empty where it is no
            VM's.
        wanted: pids of VMs; empty: all.
    """
    only = set(wanted)
    sums: dict[tuple[Any, ...], Row] = {}
    for key, value in table.items() if table else ():
        pid, vm = name_of(key.tgid)
        if only and pid not in only:
            continue
        row: Row = {"pid": pid, "vm": vm}
        if key.msi:
            row |= {"msi_address": key.address, "msi_data": key.data}
        else:
            row["gsi"] = key.gsi
        place = tuple(row.items())
        known = sums.setdefault(place, {**row, "count": 0})
        known["count"] += value.value
    rows = sorted(sums.values(), key=lambda row: row["count"], reverse=True)
    rest: dict[tuple[int, str], Row] = {}
    for row in rows[MOST_ROWS:]:
        known = rest.setdefault(
            (row["pid"], row["vm"]), {"pid": row["pid"], "vm": row["vm"], "count": 0}
        )
        known["count"] += row["count"]
    kept = [*rows[:MOST_ROWS], *rest.values()]
    return sorted(
        kept, key=lambda row: [(name, row[name]) for name in sorted(row) if name != "count"]
    )


def owner_of(comm: str) -> int | None:
    """Return the pid of the VM that a kernel thread works for, by the name KVM or vhost gave it."""
    found = _WORKER.fullmatch(comm)
    return int(found[1]) if found else None


def unkept(table: Any) -> dict[str, int]:
    """Return exits and interrupts that no map had room for, those that are not 0."""
    names = ("exits", "interrupts")
    counts = {name: table[ctypes.c_int(n)].value for n, name in enumerate(names)} if table else {}
    return {name: count for name, count in counts.items() if count}
