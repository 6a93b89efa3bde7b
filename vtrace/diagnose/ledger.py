"""The ledger: for each hop, what came in, what went out, and what was lost in between.

From events where there are events, from counters where there are none; the rest follows from its
neighbours and is marked so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.findings import Basis, LedgerRow
from vtrace.diagnose.tally import Cell, End

if TYPE_CHECKING:
    from vtrace.diagnose.meters import Deltas
    from vtrace.diagnose.rules import Group
    from vtrace.diagnose.scene import Owner, Scene
    from vtrace.diagnose.sends import Sent

__all__ = ["Books", "ledger"]

UPSTREAM: Final = ("wire", "firewall", "neighbour", "bridge", "qdisc", "host", "socket")
"""Hops before the tap towards the guest; only those that dropped are shown."""
ALL_PROTOCOLS: Final = "frames of any protocol: which, one knows only behind this hop"
COUNTED: Final = "by the counters of the tap: packets of any protocol"


@dataclass(slots=True)
class Books:
    """What the ledger is made of."""

    cells: list[Cell]
    groups: list[Group]
    sends: Mapping[int, Sent]
    consumed: Mapping[int, int]
    """Queue -> packets whose chain the driver has taken back."""
    deltas: Deltas


@dataclass(slots=True)
class _Queue:
    ends: Counter[End] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    consumed: int = 0


def ledger(scene: Scene, books: Books) -> list[LedgerRow]:
    """Return the rows in the order of the path: towards the guest, then from it."""
    owners = sorted(_owners(scene, books), key=lambda one: (one.vm, one.device, one.interface))
    rows: list[LedgerRow] = []
    for owner in owners:
        rows += _towards(scene, books, owner)
        rows += _away(scene, books, owner)
    return rows


def _reason(scene: Scene, cell: Cell, unknown: str = "") -> str:
    return unknown if cell.reason is None else scene.reason(cell.reason)


def _owners(scene: Scene, books: Books) -> set[Owner]:
    found = {scene.owner(cell.queue) for cell in books.cells if cell.to_guest or cell.from_guest}
    found |= {group.site.owner for group in books.groups}
    found |= {scene.owner(queue) for queue in books.sends}
    return found


def _towards(scene: Scene, books: Books, owner: Owner) -> list[LedgerRow]:
    queues: dict[str, _Queue] = defaultdict(_Queue)
    numbers: dict[str, set[int]] = defaultdict(set)
    for cell in books.cells:
        if not cell.to_guest or scene.owner(cell.queue) != owner:
            continue
        name = scene.queue_name(cell.queue)
        numbers[name].add(cell.queue)
        queue = queues[name]
        queue.ends[cell.end] += cell.count
        reason = _reason(scene, cell, "reason not seen")
        if cell.end == End.REFUSED:
            queue.refused[reason] += cell.count
        elif cell.end == End.TAKEN:
            queue.refused["read by QEMU without vhost"] += cell.count
        elif cell.end == End.DROPPED:
            queue.dropped[f"{reason} in {scene.place(cell.place)}"] += cell.count
    for group in books.groups:
        # Dropped at the tap, by a drop record that no refusal goes with.
        if group.site.owner != owner or (group.site.direction, group.site.hop) != ("rx", "tap"):
            continue
        for cell in group.cells:
            queue = queues[scene.queue_name(cell.drop_queue)]
            queue.ends[End.REFUSED] += cell.count
            reason = _reason(scene, cell, "reason not seen")
            queue.refused[reason] += cell.count
    for name, ids in numbers.items():
        queues[name].consumed = sum(books.consumed.get(one, 0) for one in ids)
    entered = sum(sum(queue.ends.values()) for queue in queues.values())
    upstream = _upstream(scene, books, owner, entered if queues else None)
    served = scene.vhost.get(owner.interface) is not False
    rows = upstream
    for name in sorted(queues):
        tap = _tap_row(owner, name, queues[name])
        if served:
            rows.append(tap)
            rows += _behind_tap(books, owner, name, queues[name], tap.left or 0)
        else:
            rows.append(_unserved(books, owner, tap))
    return rows


def _upstream(scene: Scene, books: Books, owner: Owner, entered: int | None) -> list[LedgerRow]:
    # Backwards from the tap: each hop let through what the next one got.
    drops: dict[str, Counter[str]] = defaultdict(Counter)
    for group in books.groups:
        site = group.site
        behind = any(cell.to_guest for cell in group.cells)
        if site.owner == owner and site.direction == "rx" and not behind:
            for cell in group.cells:
                reason = _reason(scene, cell)
                words = (
                    reason
                    if reason not in ("", "NOT_SPECIFIED")
                    else (f"{reason or 'no reason'} in {scene.place(cell.place)}")
                )
                drops[site.hop][words] += cell.count
    rows: list[LedgerRow] = []
    through = entered
    for hop in reversed(UPSTREAM):
        if hop not in drops:
            continue
        lost = sum(drops[hop].values())
        came = (through or 0) + lost
        rows.append(
            LedgerRow(
                direction="rx",
                hop=hop,
                vm=owner.vm,
                device=owner.device or owner.interface,
                entered=came,
                left=through or 0,
                dropped=dict(drops[hop].most_common()),
                unexplained=0,
                basis_in=Basis.DERIVED,
                basis_out=Basis.DERIVED,
            )
        )
        through = came
    return rows[::-1]


def _tap_row(owner: Owner, name: str, queue: _Queue) -> LedgerRow:
    ends = queue.ends
    taken = ends[End.DELIVERED] + ends[End.IN_FLIGHT] + ends[End.RECV_ERROR] + ends[End.DROPPED]
    row = LedgerRow(
        direction="rx",
        hop="tap",
        vm=owner.vm,
        device=owner.device or owner.interface,
        queue=name,
        entered=sum(ends.values()),
        left=taken,
        dropped=dict(queue.refused.most_common()),
        occupancy_change=ends[End.QUEUED],
        unexplained=ends[End.VANISHED],
    )
    if ends[End.VANISHED]:
        row.note = "packets left the ring without a trace, though ones behind them were received"
    return row


def _behind_tap(
    books: Books, owner: Owner, name: str, queue: _Queue, taken: int
) -> list[LedgerRow]:
    ends = queue.ends
    dropped = dict(queue.dropped.most_common())
    if ends[End.RECV_ERROR]:
        dropped["tun_recvmsg failed"] = ends[End.RECV_ERROR]
    delivered = ends[End.DELIVERED]
    device = owner.device or owner.interface
    rows = [
        LedgerRow(
            direction="rx",
            hop="vhost",
            vm=owner.vm,
            device=device,
            queue=name,
            entered=taken,
            left=delivered,
            dropped=dropped,
            occupancy_change=ends[End.IN_FLIGHT],
            unexplained=taken - delivered - sum(dropped.values()) - ends[End.IN_FLIGHT],
        ),
        LedgerRow(
            direction="rx",
            hop="guest ring",
            vm=owner.vm,
            device=device,
            queue=name,
            entered=delivered,
            left=queue.consumed,
            occupancy_change=delivered - queue.consumed,
            unexplained=0,
            note="what the driver has taken is known from what it did next"
            if queue.consumed < delivered
            else "",
        ),
    ]
    rows.append(_guest_row(books, owner, name, queue.consumed))
    return rows


def _guest_row(books: Books, owner: Owner, name: str, consumed: int) -> LedgerRow:
    row = LedgerRow(
        direction="rx",
        hop="guest",
        vm=owner.vm,
        device=owner.device or owner.interface,
        queue=name,
        entered=consumed,
        basis_in=Basis.DERIVED,
        basis_out=Basis.UNSEEN,
        basis_dropped=Basis.UNSEEN,
        note="the host cannot see it",
    )
    got = [books.deltas.of(f"guest/{owner.vm}/{udp}", "InDatagrams") for udp in ("udp", "udp6")]
    known = [number for number in got if number is not None]
    if known:
        row.left = sum(known)
        row.basis_out = row.basis_dropped = Basis.COUNTERS
        row.note = "by the guest's own counters, of all its interfaces"
        for counter in ("RcvbufErrors", "NoPorts", "InCsumErrors", "MemErrors"):
            lost = sum(
                books.deltas.of(f"guest/{owner.vm}/{udp}", counter) or 0 for udp in ("udp", "udp6")
            )
            if lost:
                row.dropped[counter] = lost
        # What the guest counted its driver has taken, even where nothing on the host showed it.
        row.entered = max(consumed, row.left + sum(row.dropped.values()))
    return row


def _unserved(books: Books, owner: Owner, tap: LedgerRow) -> LedgerRow:
    # vhost is off: QEMU reads the tap, and no probe sees it.
    taken = books.deltas.of(f"link/{owner.interface}", "tx_packets")
    tap.left, tap.basis_out = taken, Basis.UNSEEN if taken is None else Basis.COUNTERS
    tap.occupancy_change = tap.unexplained = None
    tap.note = "QEMU reads this tap itself (vhost is off)" + ("; " + COUNTED if taken else "")
    return tap


def _away(scene: Scene, books: Books, owner: Owner) -> list[LedgerRow]:
    rows = []
    told = _told_at_tap(scene, books, owner)
    for number, sent in sorted(books.sends.items()):
        if scene.owner(number) != owner:
            continue
        if sum(told.values()) == sent.rejected:
            dropped, told = dict(told.most_common()), Counter()
        else:
            dropped = {f"error {code}": frames for code, frames in sorted(sent.errors.items())}
            silent = sent.rejected - sum(sent.errors.values())
            if silent > 0:
                dropped["rejected"] = silent
        rows.append(
            LedgerRow(
                direction="tx",
                hop="tap",
                vm=owner.vm,
                device=owner.device or owner.interface,
                queue=scene.queue_name(number),
                entered=sent.frames,
                left=sent.entered,
                dropped=dropped,
                unexplained=sent.frames - sent.entered - sum(dropped.values()),
                note=ALL_PROTOCOLS,
            )
        )
    if told and not rows:
        rows.append(
            LedgerRow(
                direction="tx",
                hop="tap",
                vm=owner.vm,
                device=owner.device or owner.interface,
                dropped=dict(told.most_common()),
                basis_in=Basis.UNSEEN,
                basis_out=Basis.UNSEEN,
                note="what vhost or QEMU sent to the tap was not seen",
            )
        )
    if scene.vhost.get(owner.interface) is False:
        brought = books.deltas.of(f"link/{owner.interface}", "rx_packets")
        if brought:
            rows.append(
                LedgerRow(
                    direction="tx",
                    hop="tap",
                    vm=owner.vm,
                    device=owner.device or owner.interface,
                    left=brought,
                    basis_in=Basis.UNSEEN,
                    basis_out=Basis.COUNTERS,
                    note=COUNTED,
                )
            )
    return rows + _host_rows(scene, books, owner)


def _told_at_tap(scene: Scene, books: Books, owner: Owner) -> Counter[str]:
    # What the tap rejected with a drop record, by reason.
    found: Counter[str] = Counter()
    for group in books.groups:
        if group.site.owner == owner and (group.site.direction, group.site.hop) == ("tx", "tap"):
            for cell in group.cells:
                found[_reason(scene, cell, "no reason")] += cell.count
    return found


def _host_rows(scene: Scene, books: Books, owner: Owner) -> list[LedgerRow]:
    entered = sum(
        cell.count for cell in books.cells if cell.from_guest and scene.owner(cell.queue) == owner
    )
    drops: dict[str, Counter[str]] = defaultdict(Counter)
    for group in books.groups:
        site = group.site
        if site.owner == owner and site.direction == "tx":
            for cell in group.cells:
                reason = _reason(scene, cell, "no reason")
                drops[site.hop][reason] += cell.count
    if not entered and not drops:
        return []
    rows = []
    through = entered
    for hop in ("host", "qdisc", "socket"):
        if hop not in drops and hop != "host":
            continue
        lost = sum(drops[hop].values())
        rows.append(
            LedgerRow(
                direction="tx",
                hop=hop,
                vm=owner.vm,
                device=owner.device or owner.interface,
                entered=through,
                left=max(through - lost, 0),
                dropped=dict(drops[hop].most_common()),
                unexplained=0 if through >= lost else lost - through,
                basis_in=Basis.EVENTS if hop == "host" else Basis.DERIVED,
                basis_out=Basis.DERIVED,
            )
        )
        through = max(through - lost, 0)
    return rows


def unexplained(rows: Iterable[LedgerRow]) -> int:
    """Return the sum of what does not balance, without sign."""
    return sum(abs(row.unexplained or 0) for row in rows)
