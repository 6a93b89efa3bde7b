"""Counts beside each other, in all and per unit: of queues, of devices, of exits, of drops."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vtrace.compare.match import Names, Pairs
    from vtrace.compare.side import ExitSum, QueueSide, Side
    from vtrace.compare.units import Measured

__all__ = ["device_counts", "drop_rows", "exit_rows", "queue_counts"]

Row = dict[str, Any]
Sums = dict[str, int | None]

_OF_QUEUE: Final = ("chains", "packets", "handed_back", "starved")
_NOTIFICATIONS: Final = ("kicks", "interrupts")
_PARTS: Final = ("needed", "sent", "suppressed", "spurious")
_OF_EXITS: Final = ("count", "total_ns", "user_count", "user_ns")
_OF_DEVICE: Final = ("exits", "outside_ns", "exits_to_qemu", "qemu_ns")


def _per(count: int | None, units: float) -> float | None:
    return None if count is None else count / units


def _counted(place: Row, what: str, first: int | None, second: int | None, units: Measured) -> Row:
    return {
        **place,
        "what": what,
        "before": first,
        "after": second,
        "before_per": _per(first, units.before),
        "after_per": _per(second, units.after),
    }


def queue_counts(
    place: Row, before: QueueSide | None, after: QueueSide | None, units: Measured
) -> list[Row]:
    """Return what a queue carried and its notifications, those that are not 0 on both sides."""
    first, second = _figures(before), _figures(after)
    return [
        _counted(place, what, first.get(what), second.get(what), units)
        for what in (first or second)
        if first.get(what) or second.get(what)
    ]


def _figures(queue: QueueSide | None) -> dict[str, int]:
    if queue is None:
        return {}
    figures = {name: int(getattr(queue, name)) for name in _OF_QUEUE}
    for side in _NOTIFICATIONS:
        sums = getattr(queue, side)
        figures |= {f"{side}_{part}": int(getattr(sums, part)) for part in _PARTS}
    return figures


def device_counts(before: Side, after: Side, pairs: Pairs, units: Measured) -> list[Row]:
    """Return by what exits and interrupts each device was reached.

    An emulated device has no queues: these rows stand beside those of its virtio twin.
    """
    exits = [_by_device(before, None), _by_device(after, pairs)]
    interrupts = [_interrupts(before, None), _interrupts(after, pairs)]
    names = {*exits[0], *exits[1], *(interrupts[0] or ()), *(interrupts[1] or ())}
    none: Sums = dict.fromkeys(_OF_EXITS, 0)
    known = [side.knows_devices for side in (before, after)]
    rows = []
    for vm, device in sorted(names):
        place: Row = {"vm": vm, "device": device, "queue": ""}
        for name, what in zip(_OF_EXITS, _OF_DEVICE, strict=True):
            first, second = (
                sums.get((vm, device), none)[name] if there else None
                for sums, there in zip(exits, known, strict=True)
            )
            if first or second:
                rows.append(_counted(place, what, first, second, units))
        first, second = (None if one is None else one[vm, device] for one in interrupts)
        if first or second:
            rows.append(_counted(place, "interrupts", first, second, units))
    return rows


def _by_device(side: Side, pairs: Pairs | None) -> dict[Names, Sums]:
    found: dict[Names, Sums] = {}
    for row in side.exits:
        if row.device:
            names = pairs.after(row.vm, row.device) if pairs else (row.vm, row.device)
            _add(found.setdefault(names, dict.fromkeys(_OF_EXITS, 0)), row)
    return found


def _interrupts(side: Side, pairs: Pairs | None) -> Counter[Names] | None:
    if side.interrupts is None:
        return None
    found: Counter[Names] = Counter()
    for row in side.interrupts:
        names = pairs.after(row.vm, row.device) if pairs else (row.vm, row.device)
        found[names] += row.interrupts
    return found


def _add(sums: Sums, row: ExitSum) -> None:
    # One part that was not recorded makes the sum unknown, not smaller.
    for name in _OF_EXITS:
        value, known = getattr(row, name), sums[name]
        sums[name] = None if value is None or known is None else known + value


def exit_rows(before: Side, after: Side, pairs: Pairs, units: Measured) -> list[Row]:
    """Return exits by VM, reason and device; those that took most time first."""
    found: dict[tuple[str, str, str], list[Sums | None]] = {}
    for at, side in enumerate((before, after)):
        for exit_ in side.exits:
            vm, device = exit_.vm, exit_.device
            if at:
                vm, device = pairs.after(vm, device) if device else (pairs.vm(vm), "")
            both = found.setdefault((vm, exit_.reason, device), [None, None])
            sums = both[at]
            if sums is None:
                sums = both[at] = dict.fromkeys(_OF_EXITS, 0)
            _add(sums, exit_)
    rows = []
    for (vm, reason, device), both in found.items():
        row: Row = {"vm": vm, "reason": reason, "device": device}
        for name, sums, side, count in zip(
            ("before", "after"), both, (before, after), (units.before, units.after), strict=True
        ):
            seen = side.knows_devices if device else bool(side.exits)
            whole = dict.fromkeys(_OF_EXITS, 0) if sums is None and seen else sums
            row[name] = whole
            row[f"{name}_per"] = whole and {key: _per(n, count) for key, n in whole.items()}
        rows.append(row)
    return sorted(rows, key=_by_weight)


def _by_weight(row: Row) -> tuple[str, float, str, str]:
    times = [per["total_ns"] for per in (row["before_per"], row["after_per"]) if per]
    return row["vm"], -max(times), row["reason"], row["device"]


def drop_rows(before: Side, after: Side, pairs: Pairs, units: Measured) -> list[Row]:
    """Return drops by reason, place and device; most packets first."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for at, side in enumerate((before, after)):
        for drop in side.drops:
            device = pairs.device(drop.device) if at else drop.device
            found.setdefault((drop.reason, drop.location, device), [0, 0])[at] += drop.packets
    rows = [
        {
            "reason": reason,
            "location": location,
            "device": device,
            "before": first,
            "after": second,
            "before_per": _per(first, units.before),
            "after_per": _per(second, units.after),
        }
        for (reason, location, device), (first, second) in found.items()
    ]
    return sorted(rows, key=lambda row: (-max(row["before"], row["after"]), row["reason"]))
