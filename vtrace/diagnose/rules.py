"""Findings of what was dropped, rejected or counted elsewhere than in the tap's ring."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vtrace.diagnose import remedies
from vtrace.diagnose.findings import Basis, Burst, Certainty, Evidence, Finding
from vtrace.diagnose.places import Site
from vtrace.diagnose.scene import Owner
from vtrace.diagnose.sends import EAGAIN, EBADFD, EIO, Sent
from vtrace.diagnose.tally import Cell, Span, spans_of
from vtrace.diagnose.words import count, owner_text

if TYPE_CHECKING:
    from vtrace.diagnose.meters import Deltas
    from vtrace.diagnose.scene import Scene

__all__ = ["Group", "counted", "guest_losses", "rejected", "sites"]

MOST_FLOWS: Final = 20
MOST_BURSTS: Final = 20


@dataclass(slots=True)
class Group:
    """Drops of one code, direction and device."""

    site: Site
    interface: str
    cells: list[Cell] = field(default_factory=list)

    @property
    def packets(self) -> int:
        """Packets in it."""
        return sum(cell.count for cell in self.cells)


def bursts_of(spans: Iterable[Span]) -> list[Burst]:
    """Return the largest bursts."""
    largest = sorted(spans, key=lambda span: -span.packets)[:MOST_BURSTS]
    return [Burst(start_ns=one.start_ns, end_ns=one.end_ns, packets=one.packets) for one in largest]


def flows_of(cells: Iterable[Cell]) -> list[tuple[str, int]]:
    """Return the flows that lost most."""
    sums: Counter[str] = Counter()
    for cell in cells:
        sums[cell.flow_name or "flow not known"] += cell.count
    return sums.most_common(MOST_FLOWS)


def sites(scene: Scene, groups: Iterable[Group], *, lossy: bool) -> list[Finding]:
    """Return a finding for each group of drops that ``kfree_skb`` showed."""
    return [_site(scene, group, lossy) for group in groups]


def _site(scene: Scene, group: Group, lossy: bool) -> Finding:
    site, cells = group.site, group.cells
    ways: Counter[tuple[str, str]] = Counter()
    for cell in cells:
        reason = scene.reason(cell.reason) if cell.reason is not None else ""
        ways[reason, scene.place(cell.place)] += cell.count
    (reason, place), _ = ways.most_common(1)[0]
    spans = spans_of(cells)
    sure = Certainty.PROVEN if site.code != "D1" else Certainty.LIKELY
    finding = Finding(
        code=site.code,
        cause=_cause(site, reason, place, group.interface),
        packets=group.packets,
        certainty=Certainty.LIKELY if lossy and sure == Certainty.PROVEN else sure,
        vm=site.owner.vm,
        device=site.owner.device,
        direction=site.direction,
        bursts=bursts_of(spans),
        flows=flows_of(cells),
        first_ns=spans[0].start_ns,
        last_ns=spans[-1].end_ns,
        remedies=remedies.for_site(scene, site, reason, place, group.interface),
    )
    for (why, where), number in ways.most_common(8):
        text = f"{count(number, 'packet')} dropped in {where}"
        text += f", reason {why}" if why else ", no reason given by this kernel"
        if group.interface:
            text += f", at {group.interface}"
        parts = [f'location == "{where}"']
        if why:
            parts.append(f'reason == "{why}"')
        finding.evidence.append(
            Evidence(text=text, source="DROP records", verb="drops", filter=" and ".join(parts))
        )
    return finding


def _cause(site: Site, reason: str, place: str, interface: str) -> str:
    vm = owner_text(site.owner)
    at = f" at {interface}" if interface else ""
    rule = reason == "NETFILTER_DROP" or place.startswith(("nft_", "nf_", "ipt_", "ip6t_"))
    match site.code:
        case "R1":
            return f"a CPU's backlog was full before packets to {vm} were routed{at}"
        case "R2":
            what = "a netfilter rule" if rule else "a rule (tc, XDP or the like)"
            return f"{what} of this host dropped what was for {vm}{at}"
        case "R3":
            if reason.startswith("QDISC_"):
                return (
                    f"no port of the bridge {interface} forwards, so it has no carrier: what was"
                    f" for {vm} was dropped before it"
                )
            return f"the bridge did not forward what was for {vm}: dropped in {place}{at}"
        case "R4":
            return f"the qdisc of {interface or 'the tap'} dropped what was for {vm}"
        case "R12":
            return f"nobody answered for the guest's address{at}: what waited for it was dropped"
        case "T9":
            what = "a netfilter rule of this host" if rule else f"this host (in {place})"
            return f"{what} dropped what {vm} sent{at}"
        case "T10":
            return f"the qdisc of {interface or 'the way out'} dropped what {vm} sent"
        case "T11":
            return f"the socket on this host that {vm} sends to was full: its reader is too slow"
        case "T13":
            return f"{vm} sends to a port of this host on which nobody listens"
        case "T8":
            return f"{interface or 'the tap'} is down, and so rejected what {vm} sent"
        case "T12":
            return f"the tap rejected what QEMU sent for {vm}{at}, and QEMU does not tell the guest"
        case "T6":
            return f"the tap rejected what {vm} sent{at}"
        case "R5a" | "R5e" | "R5f":
            return f"the tap{at} dropped what was for {vm}"
        case "R6":
            return f"vhost could not copy packets to {vm}: dropped in {place}"
    towards = "was for" if site.direction == "rx" else "came from"
    return f"the kernel dropped what {towards} {vm} in {place}{at}"


def rejected(scene: Scene, queue: int, sent: Sent, known: int, *, lossy: bool) -> list[Finding]:
    """Return findings of frames that vhost sent and the tap did not let in.

    Of those, ``known`` have a drop record, and so a finding.
    """
    owner = scene.owner(queue)
    found = []
    by_code: dict[str, int] = defaultdict(int)
    for error, frames in sent.errors.items():
        code = {EBADFD: "T7", EIO: "T8"}.get(error, "T6")
        by_code[code] += frames
    by_code["T6"] += sent.rejected - sum(sent.errors.values())
    for code, frames in sorted(by_code.items(), reverse=True):
        here = min(known, frames)
        known -= here
        if frames > here:
            found.append(_rejected(scene, queue, owner, code, frames - here, sent, lossy))
    return found


def _rejected(
    scene: Scene, queue: int, owner: Owner, code: str, frames: int, sent: Sent, lossy: bool
) -> Finding:
    vm, tap = owner_text(owner), owner.interface
    xdp = bool(scene.link(tap).get("xdp"))
    why = {
        "T6": "an XDP program is attached to it" if xdp else "it refused them",
        "T7": "the whole batch failed (-EBADFD)",
        "T8": "it is down",
    }[code]
    errors = ", ".join(f"{n} with {e}" for e, n in sorted(sent.errors.items()))
    text = f"vhost sent {count(sent.frames, 'frame')} to {tap}, {sent.entered:,} entered the host"
    if errors:
        text += f"; tun_sendmsg returned an error for: {errors}"
    return Finding(
        code=code,
        cause=f"{tap} did not let in what {vm} sent: {why}",
        packets=frames,
        certainty=Certainty.LIKELY if lossy or (code == "T6" and not xdp) else Certainty.PROVEN,
        vm=owner.vm,
        device=owner.device,
        queue=scene.queue_name(queue),
        direction="tx",
        evidence=[Evidence(text=text, source="SEND and DELIVER records")],
        remedies=remedies.for_sends(scene, code, owner),
        bursts=bursts_of(sent.spans),
        first_ns=sent.spans[0].start_ns if sent.spans else None,
        last_ns=sent.spans[-1].end_ns if sent.spans else None,
    )


def held_up(scene: Scene, queue: int, sent: Sent) -> Finding | None:
    """Return T4 where the tap's send buffer made vhost try again and again."""
    if not sent.retried:
        return None
    owner = scene.owner(queue)
    return Finding(
        code="T4",
        cause=f"{owner.interface} had no room for what {owner_text(owner)} sent: vhost tried"
        " again, and what stood behind waited",
        packets=None,
        certainty=Certainty.PROVEN,
        vm=owner.vm,
        device=owner.device,
        queue=scene.queue_name(queue),
        direction="tx",
        evidence=[
            Evidence(
                text=f"tun_sendmsg returned {EAGAIN} (EAGAIN) or the like for"
                f" {count(sent.retried, 'frame')}, which were given back",
                source="SEND records",
            )
        ],
        remedies=remedies.for_sends(scene, "T4", owner),
    )


def counted(scene: Scene, deltas: Deltas) -> list[Finding]:
    """Return R1 by counters alone: what the host lost before any of our probes."""
    uplinks = (name for name in deltas.objects("link/") if not _is_guests(scene, name))
    backlog, evidence = _grown(deltas, deltas.objects("softnet/"), ("dropped",))
    missed, more = _grown(deltas, uplinks, ("rx_fifo_errors", "rx_missed_errors", "rx_over_errors"))
    dropped = backlog + missed
    if not dropped:
        return []
    return [
        Finding(
            code="R1",
            cause="the host lost frames before its stack saw them: of any protocol, for anyone",
            packets=dropped,
            certainty=Certainty.POSSIBLE,
            direction="rx",
            evidence=evidence + more,
            remedies=remedies.for_site(scene, Site("R1", "wire", "rx", Owner()), "", "", ""),
        )
    ]


def _is_guests(scene: Scene, name: str) -> bool:
    interface = name.removeprefix("link/")
    return interface in scene.taps or scene.is_bridge(interface)


def _grown(
    deltas: Deltas, names: Iterable[str], counters: Iterable[str]
) -> tuple[int, list[Evidence]]:
    # By how much some counters of some objects grew, and each of them as evidence.
    grown = [
        (name, counter, moved)
        for name in names
        for counter in counters
        if (moved := deltas.of(name, counter))
    ]
    evidence = [
        Evidence(
            text=f"{name} {counter} grew by {moved:,}",
            source=f"{name} {counter}",
            basis=Basis.COUNTERS,
        )
        for name, counter, moved in grown
    ]
    return sum(moved for _, _, moved in grown), evidence


_GUEST: Final = (
    ("R8", "RcvbufErrors", "the socket buffer in {vm} was full: its application read too slowly"),
    ("R9", "NoPorts", "nobody listens in {vm} on the port that the packets went to"),
)


def guest_losses(deltas: Deltas, vms: Iterable[str]) -> list[Finding]:
    """Return R7, R8, R9 by the guest's own counters, where they were sampled."""
    found = []
    for vm in vms:
        for code, counter, cause in _GUEST:
            names = (f"guest/{vm}/udp", f"guest/{vm}/udp6")
            total, evidence = _grown(deltas, names, (counter,))
            if total:
                found.append(
                    Finding(
                        code=code,
                        cause=cause.format(vm=vm),
                        packets=total,
                        certainty=Certainty.PROVEN,
                        vm=vm,
                        direction="rx",
                        evidence=evidence,
                        remedies=remedies.for_guest(code),
                    )
                )
        found += _guest_driver(deltas, vm)
    return found


def _guest_driver(deltas: Deltas, vm: str) -> list[Finding]:
    links = deltas.objects(f"guest/{vm}/link/")
    total, evidence = _grown(deltas, links, ("rx_errors", "rx_dropped"))
    if not total:
        return []
    return [
        Finding(
            code="R7",
            cause=f"the driver in {vm} dropped what it had received",
            packets=total,
            certainty=Certainty.LIKELY,
            vm=vm,
            direction="rx",
            evidence=evidence,
            remedies=remedies.for_guest("R7"),
        )
    ]


def unreachable(scene: Scene, replies: Mapping[int, int], known: Iterable[str]) -> list[Finding]:
    """Return R9 by the guest's own word: ICMP port unreachable; not where its counters spoke."""
    by_owner: Counter[Owner] = Counter()
    for queue, number in replies.items():
        by_owner[scene.owner(queue)] += number
    told = set(known)
    return [
        Finding(
            code="R9",
            cause=f"nobody listens in {owner_text(owner)} on the port that {number:,} packets or"
            " more went to: it said so by ICMP",
            packets=None,
            certainty=Certainty.LIKELY,
            vm=owner.vm,
            device=owner.device,
            direction="rx",
            evidence=[
                Evidence(
                    text=f"{owner_text(owner)} sent {count(number, 'ICMP port unreachable')};"
                    " guests limit their rate, so it may be more packets than that",
                    source="DELIVER records",
                    verb="packets",
                    filter="protocol == 1 or protocol == 58",
                )
            ],
            remedies=remedies.for_guest("R9"),
        )
        for owner, number in by_owner.items()
        if owner.vm not in told
    ]
