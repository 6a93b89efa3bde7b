"""Findings R5 and R10: a tap that refused packets, by what its reader did meanwhile."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

from vtrace.diagnose import remedies
from vtrace.diagnose.causes import Episode, Reader
from vtrace.diagnose.findings import Burst, Certainty, Evidence, Finding
from vtrace.diagnose.tally import End
from vtrace.diagnose.words import count, duration, owner_text, percent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vtrace.diagnose.scene import Owner, Scene
    from vtrace.diagnose.tally import Cell, Span

__all__ = ["add_taken", "bursts_in", "code_of", "episodes_in", "mark_taken", "overflows"]

SURE: Final = 0.8
"""Share of the time above which what the reader did is the proven cause."""
LIKELY: Final = 0.5
MOST_BURSTS: Final = 20
SOON_NS: Final = 60_000_000_000
"""A pause that is longer than this says nothing of a packet before it."""

_CODES: Final = {
    Reader.RUNNING: "R5a",
    Reader.SENDER_RAN: "R5a",
    Reader.OTHER_RAN: "R5b",
    Reader.NO_BUFFERS: "R5c",
    Reader.NO_VCPU: "R5d",
    Reader.STOPPED: "R5d",
    Reader.ABSENT: "R5e",
}


def code_of(scene: Scene, episode: Episode) -> str:
    """Return the code of an episode."""
    reason = scene.reason(episode.reason) if episode.reason is not None else ""
    if reason in ("TAP_TXFILTER", "TAP_FILTER", "SOCKET_FILTER"):
        return "R5f"
    if reason == "DEV_READY":
        return "R5e"
    if reason not in ("", "FULL_RING", "NOT_SPECIFIED"):
        return "D1"
    owner = scene.owner(episode.queue)
    if scene.vhost.get(owner.interface) is False:
        return "R10"
    if not episode.served and episode.reader in (Reader.UNKNOWN, Reader.ABSENT):
        # Nobody had read this queue since the recording began.
        if episode.stopped_vcpus:
            return "R5d"
        if not episode.woken:
            return "R5e"
    return _CODES.get(episode.reader, "R5a")


def overflows(scene: Scene, episodes: Iterable[Episode], *, lossy: bool) -> list[Finding]:
    """Return a finding for each queue and cause; ``lossy``: records were lost meanwhile."""
    groups: dict[tuple[Owner, str, str], list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.packets:
            owner, queue = scene.owner(episode.queue), scene.queue_name(episode.queue)
            groups[owner, queue, code_of(scene, episode)].append(episode)
    return [
        _finding(scene, owner, queue, code, group, lossy)
        for (owner, queue, code), group in groups.items()
    ]


def _finding(
    scene: Scene, owner: Owner, queue: str, code: str, group: list[Episode], lossy: bool
) -> Finding:
    packets = sum(one.packets for one in group)
    spent: Counter[Reader] = Counter()
    instead: Counter[int] = Counter()
    for one in group:
        spent.update(one.spent)
        instead.update(one.instead)
    total = sum(spent.values())
    held = sum(spent[reader] for reader, of in _CODES.items() if of == code)
    share = held / total if total else 0.0
    tap = owner.interface
    limit = max((one.depth for one in group), default=0) or scene.ring_size(tap)
    finding = Finding(
        code=code,
        cause=_cause(scene, owner, code, group, spent, instead),
        packets=packets,
        certainty=_certainty(scene, code, group, share, lossy),
        vm=owner.vm,
        device=owner.device,
        queue=queue,
        direction="rx",
        bursts=_bursts(scene, group, limit),
        first_ns=min(one.start_ns for one in group),
        last_ns=max(one.end_ns for one in group),
    )
    reasons = sorted({scene.reason(one.reason) for one in group if one.reason is not None})
    reason = ", ".join(reasons) or "no reason given"
    finding.evidence.append(
        Evidence(
            text=f"{tap} refused {count(packets, 'packet')} in tun_net_xmit ({reason}), in"
            f" {count(len(group), 'episode')}; its ring filled"
            f" {count(sum(one.fills for one in group), 'time')}",
            source="REFUSE and DROP records",
            verb="drops",
            filter=_filter(tap, queue, reasons),
        )
    )
    if limit and code not in ("R5f", "D1"):
        finding.evidence.append(
            Evidence(text=f"{tap} held {count(limit, 'packet')} when it refused: its ring was full")
        )
    if total and code not in ("R5f", "D1", "R10"):
        parts = [
            f"{words} {percent(spent[reader] / total)}"
            for reader, words in _SPENT.items()
            if spent[reader] * 200 >= total
        ]
        finding.evidence.append(
            Evidence(
                text=f"while the ring filled, {duration(total)} in all, its reader: "
                + ", ".join(parts),
                source="SCHED, RUN and EMPTY records",
                verb="lifecycles",
                filter=f'device == "{owner.device}" and queue == "{queue}"',
            )
        )
    finding.evidence += _more(scene, owner, code, group, instead)
    finding.remedies = remedies.for_overflow(scene, code, owner, limit, finding.bursts, instead)
    return finding


def mark_taken(cells: Iterable[Cell], starts: Mapping[int, Sequence[int]]) -> None:
    """Find packets that QEMU read from a tap, since vhost had let go of it.

    A VM that is paused, or whose driver resets, gives its queues back to QEMU, which may read a
    packet before it stops too. What left the ring unseen, and was followed by a START of its queue
    before long, left it so.
    """
    for cell in cells:
        if cell.end != End.VANISHED:
            continue
        last = cell.last_ns
        if any(cell.first_ns <= start <= last + SOON_NS for start in starts.get(cell.queue, ())):
            cell.end = End.TAKEN


def add_taken(scene: Scene, cells: Iterable[Cell], found: list[Finding], *, lossy: bool) -> None:
    """Count what QEMU took with the R5e of its queue; make one where there is none."""
    for cell in cells:
        if cell.end != End.TAKEN:
            continue
        owner, queue = scene.owner(cell.queue), scene.queue_name(cell.queue)
        place = (owner.vm, owner.device, queue)
        mine = [f for f in found if f.code == "R5e" and (f.vm, f.device, f.queue) == place]
        if not mine:
            mine = [
                Finding(
                    code="R5e",
                    cause=f"vhost was not attached to {owner.interface}, and QEMU, which read it"
                    " meanwhile, did not pass on what it took",
                    packets=0,
                    certainty=Certainty.LIKELY,
                    vm=owner.vm,
                    device=owner.device,
                    queue=queue,
                    direction="rx",
                    first_ns=cell.first_ns,
                    last_ns=cell.last_ns,
                    remedies=remedies.for_overflow(scene, "R5e", owner, None, [], Counter()),
                )
            ]
            found += mine
        finding = mine[0]
        finding.packets = (finding.packets or 0) + cell.count
        text = f"{count(cell.count, 'packet')} left the ring of {owner.interface} without vhost,"
        text += " before it was attached again: QEMU read them"
        finding.evidence.append(Evidence(text=text, source="ENQUEUE, RECV and START records"))
        if lossy:
            finding.certainty = Certainty.POSSIBLE


_SPENT: Final = {
    Reader.RUNNING: "ran",
    Reader.SENDER_RAN: "was ready while the sender (or nobody) had its CPU",
    Reader.OTHER_RAN: "was ready while another thread had its CPU",
    Reader.NO_BUFFERS: "had no receive buffer, with the guest free to give some",
    Reader.NO_VCPU: "had no receive buffer, with no vCPU of the guest running",
    Reader.STOPPED: "was stopped itself",
    Reader.ABSENT: "slept, though a packet and a buffer were there",
    Reader.UNKNOWN: "is not known",
}


def _cause(
    scene: Scene,
    owner: Owner,
    code: str,
    group: list[Episode],
    spent: Counter[Reader],
    instead: Counter[int],
) -> str:
    tap, vm = owner.interface, owner_text(owner)
    span = duration(sum(spent.values()))
    limit = max(one.depth for one in group)
    ring = f"the ring of {tap} ({count(limit, 'packet')})" if limit else f"the ring of {tap}"
    if code == "R5b":
        who = _who(scene, instead)
        ran = f"{who} had its CPU" if who else "another thread had its CPU"
        return f"{ring} filled while the vhost worker of {vm} was ready to run and {ran}"
    if code == "R5c":
        return f"{ring} filled while {vm} gave vhost no receive buffers, though its vCPUs could run"
    if code == "R5d":
        why = "its vCPUs did not run"
        if any(one.stopped_vcpus for one in group) or spent[Reader.STOPPED]:
            why = "QEMU was stopped by a signal, so its vCPUs did not run"
            if spent[Reader.STOPPED] > spent[Reader.NO_VCPU]:
                why = "QEMU was stopped by a signal, and its vhost worker with it"
        return f"{ring} filled while {vm} took nothing: {why} ({span})"
    if code == "R5e":
        if any(scene.reason(one.reason or 0) == "DEV_READY" for one in group if one.reason):
            return f"{tap} had no queue to put the packets into: no backend was attached"
        return (
            f"{ring} filled and nobody read it: vhost was not attached to the tap"
            f" (a paused VM, or a queue that the guest does not use)"
        )
    if code == "R5f":
        return f"a filter on {tap} dropped the packets before its ring"
    if code == "R10":
        return f"{ring} filled: QEMU, which reads it itself (vhost is off), did not keep up"
    if code == "D1":
        return f"{tap} refused the packets for a reason that vtrace does not place"
    return (
        f"packets came to {tap} faster than its vhost worker, which ran, took them: {ring} filled"
    )


def _certainty(
    scene: Scene, code: str, group: list[Episode], share: float, lossy: bool
) -> Certainty:
    if code in ("R5f", "R10"):
        sure = Certainty.PROVEN
    elif code == "R5e":
        ready = [scene.reason(one.reason) == "DEV_READY" for one in group if one.reason is not None]
        seen = all(one.attached_ns is not None for one in group) or (ready and all(ready))
        sure = (
            Certainty.PROVEN
            if seen
            else Certainty.LIKELY
            if share >= LIKELY
            else (Certainty.POSSIBLE)
        )
    elif code == "R5d" and not share:
        sure = Certainty.LIKELY  # /proc alone says that QEMU stands
    elif share >= SURE:
        sure = Certainty.PROVEN
    else:
        sure = Certainty.LIKELY if share >= LIKELY else Certainty.POSSIBLE
    if lossy and sure == Certainty.PROVEN:
        return Certainty.LIKELY
    return sure


def _bursts(scene: Scene, group: list[Episode], limit: int | None) -> list[Burst]:
    largest = sorted(group, key=lambda one: -one.packets)[:MOST_BURSTS]
    return [
        Burst(
            start_ns=one.start_ns,
            end_ns=one.end_ns,
            packets=one.packets,
            depth=one.depth or None,
            limit=limit,
            running=_who(scene, one.instead),
        )
        for one in largest
    ]


def episodes_in(spans: Iterable[Span], episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes of a queue, which are in order, that share time with a span."""
    found: list[Episode] = []
    for span in spans:
        # They do not overlap, so their ends are in order too.
        first = bisect_left(episodes, span.start_ns, key=lambda one: one.end_ns)
        last = bisect_right(episodes, span.end_ns, key=lambda one: one.start_ns)
        found += episodes[first:last]
    return found


def bursts_in(scene: Scene, spans: Iterable[Span], episodes: Sequence[Episode]) -> list[Burst]:
    """Return bursts of a flow, with what is known of the queue meanwhile."""
    found = []
    for span in spans:
        inside = episodes_in([span], episodes)
        instead: Counter[int] = Counter()
        for one in inside:
            instead.update(one.instead)
        depth = max((one.depth for one in inside), default=0) or None
        found.append(
            Burst(
                start_ns=span.start_ns,
                end_ns=span.end_ns,
                packets=span.packets,
                depth=depth,
                limit=depth,
                running=_who(scene, instead),
            )
        )
    return found


def _who(scene: Scene, instead: Counter[int]) -> str:
    names = [scene.comm(tid) for tid, _ in instead.most_common(2)]
    return " and ".join(names)


def _more(
    scene: Scene, owner: Owner, code: str, group: list[Episode], instead: Counter[int]
) -> list[Evidence]:
    found = []
    if instead and code in ("R5a", "R5b"):
        parts = [f"{scene.comm(tid)} {duration(ns)}" for tid, ns in instead.most_common(3)]
        found.append(
            Evidence(text="ran instead of the worker: " + ", ".join(parts), source="SCHED records")
        )
    if code == "R5e":
        ends = [one.attached_ns for one in group if one.attached_ns is not None]
        if ends:
            late = max(ends) - max(one.end_ns for one in group)
            text = f"a backend was attached again {duration(max(late, 0))} after the last refusal"
            found.append(Evidence(text=text, source="START records"))
    if code == "R5d":
        states = {scene.thread_state(tid) for tid in scene.threads(owner.vm, "vcpu")}
        if states & {"T", "t"}:
            found.append(Evidence(text="its vCPU threads are in state T (stopped)", source="/proc"))
    others = sum(one.others for one in group)
    if others:
        text = f"{count(others, 'packet')} of other protocols went the same way, not counted here"
        found.append(Evidence(text=text))
    return found


def _filter(tap: str, queue: str, reasons: list[str]) -> str:
    parts = [f'interface == "{tap}"']
    if queue:
        parts.append(f'queue == "{queue}"')
    if len(reasons) == 1:
        parts.append(f'reason == "{reasons[0]}"')
    return " and ".join(parts)
