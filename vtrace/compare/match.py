"""Which device of one recording is which of the other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vtrace.errors import UsageError
from vtrace.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vtrace.compare.side import Side

__all__ = ["Names", "Pairs", "pair"]

Names = tuple[str, str]
"""VM and device."""


@dataclass(slots=True)
class Pairs:
    """Partners of devices; rows of both sides go by the names of the first recording."""

    partner: dict[Names, Names] = field(default_factory=dict)
    """Device of the second recording -> of the first."""
    why: dict[Names, str] = field(default_factory=dict)
    """Device of the first recording -> how its partner is known."""
    vms: dict[str, str] = field(default_factory=dict)
    """VM of the second recording -> of the first."""

    def vm(self, name: str) -> str:
        """Return what a VM of the second recording is called in rows."""
        return self.vms.get(name, name)

    def after(self, vm: str, device: str) -> Names:
        """Return what a device of the second recording is called in rows."""
        return self.partner.get((vm, device), (self.vm(vm), device))

    def device(self, name: str) -> str:
        """Return what a device is called that stands without its VM: an interface, a drop's."""
        found = {mine[1] for theirs, mine in self.partner.items() if theirs[1] == name}
        return found.pop() if len(found) == 1 else name


def pair(before: Side, after: Side, mapped: Sequence[tuple[str, str]] = ()) -> Pairs:
    """Return the partners: as ``mapped`` says, else of the same name, else the only one of a kind.

    ``mapped``: pairs of names, first and second recording: a device, ``VM/DEVICE``, or a VM.

    Raises:
        UsageError: A name is not there, or stands for several.
    """
    pairs = Pairs()
    mine, theirs = before.places, after.places
    for left, right in mapped:
        if left in before.vms and right in after.vms:
            pairs.vms[right] = left
    rest = [vm for vm in after.vms if vm not in pairs.vms and vm not in before.vms]
    free = [vm for vm in before.vms if vm not in pairs.vms.values() and vm not in after.vms]
    if len(rest) == len(free) == 1:
        pairs.vms[rest[0]] = free[0]
    for left, right in mapped:
        if left in before.vms and right in after.vms:
            continue
        first = _named(left, mine, before.source)
        second = _named(right, theirs, after.source)
        if second in pairs.partner or first in pairs.why:
            raise UsageError(
                f"--map {clean(left)}={clean(right)}: one of them has a partner already"
            )
        _join(pairs, first, second, "as told")
    for vm, device in theirs:
        same = (pairs.vm(vm), device)
        if (vm, device) not in pairs.partner and same in mine and same not in pairs.why:
            _join(pairs, same, (vm, device), "same name")
    _join_lone(pairs, mine, theirs)
    return pairs


def _join(pairs: Pairs, first: Names, second: Names, why: str) -> None:
    pairs.partner[second] = first
    pairs.why[first] = why


def _join_lone(pairs: Pairs, mine: dict[Names, str], theirs: dict[Names, str]) -> None:
    # Exactly one of a kind in the VM on each side, however they are called.
    ours = Counter((vm, kind) for (vm, _), kind in mine.items())
    others = Counter((pairs.vm(vm), kind) for (vm, _), kind in theirs.items())
    for (vm, device), kind in theirs.items():
        key = (pairs.vm(vm), kind)
        if not kind or (vm, device) in pairs.partner or others[key] != 1 or ours[key] != 1:
            continue
        (lone,) = [names for names, its in mine.items() if (names[0], its) == key]
        if lone not in pairs.why:
            _join(pairs, lone, (vm, device), f"the only {kind} device")


def _named(text: str, devices: Iterable[Names], source: str) -> Names:
    every = list(devices)
    found = [names for names in every if text in {names[1], "/".join(names)}]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"--map: {clean(text)} is in several VMs of {source}; write VM/{clean(text)}"
        )
    known = ", ".join(sorted(clean(device) for _, device in every)) or "none"
    raise UsageError(f"--map: there is no device {clean(text)} in {source}; there is {known}")
