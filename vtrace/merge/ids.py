"""Ids of the merged file: what two sources call alike is one, what is not stays apart.

Queues, places, packets, CPUs and threads have numbers that mean something within their source
alone. The first source keeps its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.errors import InputError
from vtrace.model import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.merge.clocks import Placed

__all__ = ["HOST_TIDS", "Ids", "number_ids"]

HOST_TIDS: Final = 1 << 22
"""No thread id of Linux is larger; those of the n-th further host have n times this added."""
MOST_HOSTS: Final = 256
MOST_QUEUES: Final = 1 << 16
MOST_CPUS: Final = 1 << 16
PACKET_IDS: Final = 0xFFFFFFFF
OTHER_REASON: Final = 1 << 20
"""From here on stand drop reasons of a further kernel that the first one has no number for."""
_NAMED: Final = ("role", "vm", "pid", "device", "name", "direction", "backend", "generation")


class Ids:
    """What the numbers of one source become."""

    def __init__(self) -> None:
        self.queues = np.zeros(MOST_QUEUES, np.uint16)
        self.vms: dict[str, str] = {}
        """VMs that another host has too, under the names that they get."""
        self.places: tuple[NDArray[Any], NDArray[Any]] = (np.zeros(0, "u8"), np.zeros(0, "u8"))
        self.reasons: dict[int, int] = {}
        self.packets = 0
        self.cpus = 0
        self.tids = 0

    def vm(self, name: Any) -> Any:
        """Return the name of a VM."""
        return self.vms.get(name, name) if isinstance(name, str) else name

    def tid(self, tid: Any) -> Any:
        """Return the number of a thread or a process; 0 stays: none."""
        known = type(tid) is int and 0 < tid < HOST_TIDS
        return tid + self.tids if known else tid

    def apply(self, batch: EventBatch) -> dict[str, NDArray[Any]]:
        """Return the columns of a batch that change."""
        kinds = batch["kind"]
        made: dict[str, NDArray[Any]] = {"queue": self.queues[batch["queue"]]}
        if self.packets:
            packet = batch["packet"].astype(np.uint64)
            moved = (packet - np.uint64(1) + np.uint64(self.packets)) % np.uint64(PACKET_IDS)
            made["packet"] = np.where(packet == 0, 0, moved + np.uint64(1)).astype(np.uint32)
        if self.cpus:
            made["cpu"] = (batch["cpu"] + np.uint16(self.cpus)).astype(np.uint16)
        drops = kinds == Kind.DROP
        ret = batch["ret"]
        if self.tids:
            tid = batch["tid"]
            known = (tid > 0) & (tid < HOST_TIDS)
            made["tid"] = np.where(known, tid + np.uint32(self.tids), tid).astype(np.uint32)
            sched = np.isin(kinds, (Kind.SCHED_IN, Kind.SCHED_OUT, Kind.SCHED_WAKE))
            known = sched & (ret > 0) & (ret < HOST_TIDS)
            ret = np.where(known, ret + np.int32(self.tids), ret).astype(np.int32)
        if drops.any():
            old, new = self.places
            if len(old):
                address = batch["address"].copy()
                at = np.minimum(np.searchsorted(old, address), len(old) - 1)
                hit = drops & (old[at] == address)
                address[hit] = new[at[hit]]
                made["address"] = address
            if self.reasons:
                ret = ret.copy()
                for number, other in self.reasons.items():
                    ret[drops & (batch["ret"] == number)] = other
        if ret is not batch["ret"]:
            made["ret"] = ret
        return made


def number_ids(placed: Sequence[Placed]) -> list[Ids]:
    """Return for each source what its numbers become.

    Raises:
        InputError: Together they have more queues, CPUs or hosts than numbers.
    """
    found = [Ids() for _ in placed]
    _hosts(placed, found)
    _queues(placed, found)
    _packets(placed, found)
    _places(placed, found)
    _reasons(placed, found)
    return found


def _hosts(placed: Sequence[Placed], found: list[Ids]) -> None:
    base: dict[int, int] = {}
    free = 0
    for host in dict.fromkeys(one.host for one in placed):
        base[host] = free
        free += 1 + max(one.source.most_cpu for one in placed if one.host == host)
    if free > MOST_CPUS or len(base) > MOST_HOSTS:
        raise InputError(
            f"the sources have {free} CPUs and {len(base)} hosts together; at most {MOST_CPUS} and "
            f"{MOST_HOSTS} can be told apart, so merge fewer"
        )
    order = list(base)
    taken: dict[str, int] = {}
    for one, ids in zip(placed, found, strict=True):
        ids.cpus, ids.tids = base[one.host], order.index(one.host) * HOST_TIDS
        for vm in sorted(_vms(one.source.sections)):
            if taken.setdefault(vm, one.host) != one.host:
                where = one.source.host[0] if one.source.host else one.source.name
                other = f"{vm}@{where}"
                if taken.setdefault(other, one.host) != one.host:
                    other = f"{other}#{order.index(one.host) + 1}"
                    taken[other] = one.host
                ids.vms[vm] = other


def _vms(sections: Mapping[str, Any]) -> set[str]:
    rows = list((sections.get("queues") or {}).values())
    rows += (sections.get("threads") or {}).values()
    names = {row.get("vm") for row in rows if isinstance(row, Mapping)}
    vms = sections.get("vms")
    for vm in vms if isinstance(vms, list) else ():
        if isinstance(vm, Mapping):
            names.add(vm.get("name"))
    return {name for name in names if isinstance(name, str) and name}


def _queues(placed: Sequence[Placed], found: list[Ids]) -> None:
    taken: set[int] = set()
    known: dict[tuple[Any, ...], int] = {}
    free = 1
    for one, ids in zip(placed, found, strict=True):
        table = one.source.sections.get("queues") or {}
        mine = sorted({int(key) for key in table} | one.source.queues)
        times: dict[tuple[Any, ...], int] = {}
        for queue in mine:
            if queue == 0:
                continue
            row = table.get(str(queue))
            key = _key(row, one, ids, times)
            if one.same and one.beside is not None:
                new = int(found[one.beside].queues[queue]) or None
            elif queue in one.queues and one.beside is not None:
                new = int(found[one.beside].queues[one.queues[queue]]) or None
            else:
                new = known.get(key) if key else None
            if new is None:
                while free in taken:
                    free += 1
                new = queue if queue not in taken else free
            if new >= MOST_QUEUES:
                raise InputError(
                    f"{one.source.path}: the sources have more than {MOST_QUEUES - 1} queues "
                    "together, so merge fewer, or parts of them (vtrace filter)"
                )
            ids.queues[queue] = new
            taken.add(new)
            if key:
                known.setdefault(key, new)


def _key(
    row: Any, one: Placed, ids: Ids, times: dict[tuple[Any, ...], int]
) -> tuple[Any, ...] | None:
    # By what a queue of one host is known again. Two of one name in one table stay two.
    if not isinstance(row, Mapping) or not (row.get("vm") or row.get("device")):
        return None
    if not one.source.own:
        return None
    key = (one.host, *(row.get(name) or "" for name in _NAMED))
    times[key] = times.get(key, 0) + 1
    return (*key, times[key])


def _packets(placed: Sequence[Placed], found: list[Ids]) -> None:
    free = 0
    for one, ids in zip(placed, found, strict=True):
        if one.same and one.beside is not None:
            ids.packets = found[one.beside].packets
        elif one.source.packet_ids[1]:
            least, _ = one.source.packet_ids
            # Its smallest id becomes the first free one; the first source keeps its own.
            ids.packets = (free - (least - 1)) % PACKET_IDS if free else 0
        least, most = one.source.packet_ids
        if most:
            free = max(free, (most - 1 + ids.packets) % PACKET_IDS + 1)


def _places(placed: Sequence[Placed], found: list[Ids]) -> None:
    by_symbol: dict[str, int] = {}
    taken: set[int] = set()
    free = 1
    for one, ids in zip(placed, found, strict=True):
        symbols = one.source.sections.get("places") or {}
        table = {int(k): name for k, name in symbols.items() if k.isdecimal() and len(k) < 19}
        mine = sorted(set(table) | one.source.places)
        new: list[int] = []
        for place in mine:
            symbol = table.get(place)
            number = by_symbol.get(symbol) if symbol else None
            if number is None:
                number = place
                if place in taken:
                    while free in taken:
                        free += 1
                    number = free
                    free += 1
            if symbol:
                by_symbol.setdefault(symbol, number)
            new.append(number)
            if place not in taken:
                taken.add(number)
        taken.update(new)
        ids.places = np.array(mine, np.uint64), np.array(new, np.uint64)


def _reasons(placed: Sequence[Placed], found: list[Ids]) -> None:
    names: dict[int, str] = {}
    for one, ids in zip(placed, found, strict=True):
        table = one.source.sections.get("reasons") or {}
        known = {int(k): v for k, v in table.items() if k.isdecimal() and len(k) < 10}
        numbers = {name: number for number, name in names.items()}
        for number, name in known.items():
            if names.get(number, name) == name and name not in numbers:
                names[number] = name
            elif numbers.get(name) != number:
                other = numbers.get(name)
                if other is None:
                    other = OTHER_REASON
                    while other in names:
                        other += 1
                    names[other] = name
                ids.reasons[number] = other
