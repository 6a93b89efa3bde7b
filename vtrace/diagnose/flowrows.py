"""The ledger of each flow: what was seen of it, what arrived, what was lost, in which bursts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from vtrace.diagnose import overflow
from vtrace.diagnose.findings import Finding, FlowRow
from vtrace.diagnose.rules import MOST_FLOWS as MOST_OF_FINDING
from vtrace.diagnose.scene import Owner
from vtrace.diagnose.tally import Cell, End
from vtrace.model import Kind

if TYPE_CHECKING:
    from vtrace.diagnose.causes import Episode
    from vtrace.diagnose.rules import Group
    from vtrace.diagnose.scene import Scene

__all__ = ["flow_rows"]

MOST_FLOWS: Final = 1000
MOST_BURSTS: Final = 20


def flow_rows(
    scene: Scene,
    cells: list[Cell],
    groups: list[Group],
    episodes: list[Episode],
    found: list[Finding],
) -> list[FlowRow]:
    """Return the flows, those that lost most first; findings get those of their refusals."""
    codes = {id(cell): group.site for group in groups for cell in group.cells}
    by_queue: dict[int, list[Episode]] = defaultdict(list)
    for episode in episodes:
        by_queue[episode.queue].append(episode)
    for those in by_queue.values():
        those.sort(key=lambda one: one.start_ns)
    rows: dict[tuple[str, str, Owner], FlowRow] = {}
    refused: dict[tuple[Owner, str, str], Counter[str]] = defaultdict(Counter)
    for cell in cells:
        site = codes.get(id(cell))
        if cell.kind == Kind.DROP and site is None:
            continue
        owner = site.owner if site else scene.owner(cell.queue)
        direction = site.direction if site else ("tx" if cell.from_guest else "rx")
        name = cell.flow_name or "flow not known"
        row = rows.get((name, direction, owner))
        if row is None:
            if len(rows) >= 64 * MOST_FLOWS:
                continue
            row = rows[name, direction, owner] = FlowRow(
                flow=name,
                direction=direction,
                vm=owner.vm,
                device=owner.device or owner.interface,
            )
        # What the guest sent was counted when it entered the host; dropped there, it is one.
        if cell.kind != Kind.DROP or direction == "rx":
            row.packets += cell.count
        if cell.lost:
            code = site.code if site else _code_of(scene, cell, by_queue)
            row.dropped[code] = row.dropped.get(code, 0) + cell.count
            near = by_queue.get(cell.queue, []) if cell.end == End.REFUSED else []
            row.bursts += overflow.bursts_in(scene, cell.spans, near)
            if cell.end == End.REFUSED:
                refused[owner, scene.queue_name(cell.queue), code][name] += cell.count
        elif cell.end in (End.DELIVERED, End.SENT):
            row.delivered += cell.count
        else:
            row.in_flight += cell.count
    for row in rows.values():
        if row.direction == "tx":
            row.delivered = max(row.delivered - sum(row.dropped.values()), 0)
        row.bursts = sorted(row.bursts, key=lambda one: -one.packets)[:MOST_BURSTS]
    for finding in found:
        key = (Owner(finding.vm, finding.device, ""), finding.queue, finding.code)
        for (owner, queue, code), flows in refused.items():
            if (Owner(owner.vm, owner.device, ""), queue, code) == key:
                finding.flows = flows.most_common(MOST_OF_FINDING)
    listed = sorted(rows.values(), key=lambda row: (-sum(row.dropped.values()), -row.packets))
    return listed[:MOST_FLOWS]


def _code_of(scene: Scene, cell: Cell, by_queue: Mapping[int, list[Episode]]) -> str:
    # The episodes that these refusals were in; the one with most of them names the code.
    if cell.end == End.VANISHED:
        return "unexplained"
    if cell.end == End.TAKEN:
        return "R5e"
    found = overflow.episodes_in(cell.spans, by_queue.get(cell.queue, []))
    if not found:
        return "R5a"
    return overflow.code_of(scene, max(found, key=lambda one: one.packets))
