"""The diagnosis of a stream: takes what the session brings, batch by batch, and judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.diagnose import overflow, rules
from vtrace.diagnose.causes import Causes
from vtrace.diagnose.findings import (
    BlindSpot,
    Certainty,
    Diagnosis,
    Disagreement,
    Evidence,
    Finding,
    Review,
)
from vtrace.diagnose.flowrows import flow_rows
from vtrace.diagnose.late import Late
from vtrace.diagnose.ledger import Books, ledger, unexplained
from vtrace.diagnose.meters import Deltas, Meters
from vtrace.diagnose.places import Site, is_sniffer, site_of
from vtrace.diagnose.review import review
from vtrace.diagnose.scene import Owner, Scene
from vtrace.diagnose.sends import Sends
from vtrace.diagnose.stalls import Stalls
from vtrace.diagnose.tally import UDP, Cell, End, Tally
from vtrace.diagnose.timeline import Timeline
from vtrace.diagnose.words import count
from vtrace.lifecycle.codes import B_VHOST
from vtrace.model import Flag, Kind, TimeState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.tables import Names

__all__ = ["Diagnoser"]


class Diagnoser:
    """Counts while it is fed; ``finish`` judges."""

    def __init__(self, names: Names, protocol: str = "udp") -> None:
        self._names = names
        self._protocol = protocol
        self.scene = Scene(names)
        self._tally = Tally(protocol)
        self._around = Tally("all")
        self._timeline = Timeline()
        self._causes = Causes(self.scene, self._timeline, protocol)
        self._sends = Sends()
        self._meters = Meters(self.scene)
        self._deltas = Deltas()
        self._stalls = Stalls()
        self._late = Late(self.scene, self._timeline)
        self._consumed: Counter[int] = Counter()
        self._unreachable: Counter[int] = Counter()

    def events(
        self,
        batch: EventBatch,
        inside: NDArray[np.bool_] | None = None,
        valid: tuple[int, int] = (0, (1 << 63) - 1),
        within: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """Take in the records of a batch; chains and packets that end with it come after.

        ``inside`` chooses the events that count, ``valid`` the time of which samples
        are of use, ``within`` is the time that is asked for.
        """
        own = batch["flags"] & int(Flag.QEMU) != 0
        if own.any():
            # What QEMU serves itself is no part of these verdicts: with vhost off the tap's own
            # records and counters say what came and what went.
            batch = batch.take(~own)
            inside = None if inside is None else inside[~own]
        kinds = batch["kind"]
        self._timeline.feed(batch)
        self._causes.feed(batch, inside)
        self._sends.feed(batch, inside)
        failed = (kinds == Kind.RECV) & (batch["packet"] != 0)
        failed &= batch["ret"].astype(np.int64) != batch["length"].astype(np.int64)
        self._tally.receive_errors(batch["packet"][failed])
        self._meters.feed(batch, *valid)
        self._deltas.feed(batch.meta.get("counters"), *within)
        self._stalls.feed(batch, self._names.metadata)
        self._late.feed(batch, inside)
        self._replies(batch, inside)

    def packets(self, rows: NDArray[Any]) -> None:
        """Take in packets that have ended: an array of dtype ``tables.PACKET``."""
        self._tally.feed(rows)

    def around(self, rows: NDArray[Any]) -> None:
        """Take in packets from around the time that is asked for: they show addresses of guests."""
        self._around.feed(rows)

    def mark_gap(self) -> None:
        """Say that events are missing between the last batch and the next one."""
        self._stalls.mark_gap()

    def chains(
        self,
        columns: Mapping[str, NDArray[Any]],
        index: NDArray[Any],
        rows: NDArray[Any],
        within: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """Take in chains that have ended, and for each the packet in ``rows`` it carried or -1."""
        vhost = columns["backend"] == B_VHOST
        if not vhost.all():
            columns = {name: column[vhost] for name, column in columns.items()}
            index = index[vhost]
        since, until = within
        self._late.chains(columns, (since or 0, (1 << 63) - 1 if until is None else until))
        carried = np.flatnonzero(index >= 0)
        if not len(carried):
            return
        packets = rows[index[carried]]
        first = packets["position"] == columns["position"][carried]
        seen = np.isin(columns["seen_state"][carried], (TimeState.SEEN, TimeState.SHARED))
        mine = first & seen & (packets["kind"] == Kind.ENQUEUE)
        if self._protocol == "udp":
            mine &= packets["flow"]["protocol"] == UDP
        self._consumed.update(packets["queue"][mine].tolist())

    def _replies(self, batch: EventBatch, inside: NDArray[np.bool_] | None) -> None:
        # ICMP and ICMPv6 port unreachable from a guest, by their bytes, with or without a tag.
        snaps = batch.snaps
        if not len(snaps):
            return
        sent = batch["kind"][snaps.rows] == Kind.DELIVER
        if inside is not None:
            sent &= inside[snaps.rows]
        sizes, starts = np.diff(snaps.offsets), snaps.offsets[:-1]
        for tag in (0, 4):
            for ether, protocol_at, protocol, word_at, word in (
                (0x0800, 23, 1, 34, 0x0303),
                (0x86DD, 20, 58, 54, 0x0104),
            ):
                fits = np.flatnonzero(sent & (sizes >= word_at + tag + 2))
                at = starts[fits] + tag
                data = snaps.data
                hit = data[at + 12].astype(np.uint16) << 8 | data[at + 13] == ether
                hit &= data[at + protocol_at] == protocol
                hit &= data[at + word_at].astype(np.uint16) << 8 | data[at + word_at + 1] == word
                queues = batch["queue"][snaps.rows[fits[hit]]]
                self._unreachable.update(queues.tolist())

    def finish(
        self,
        loss: Mapping[str, int],
        within: tuple[int | None, int | None] = (None, None),
    ) -> Diagnosis:
        """Return the verdict; ``loss`` has what vtrace itself lost.

        ``within``: the time that is asked for. More than that was fed, to understand it.
        """
        scene = self.scene
        scene.learn(chain(self._tally, self._around))
        cells = list(self._tally)
        lossy = bool(loss.get("lost") or loss.get("missed"))
        episodes = self._causes.finish()
        overflow.mark_taken(cells, self._timeline.starts)
        groups, copies, elsewhere = self._groups(cells)
        found = overflow.overflows(scene, episodes, lossy=lossy)
        overflow.add_taken(scene, cells, found, lossy=lossy)
        found += rules.sites(scene, groups, lossy=lossy)
        # What the tap rejected with a drop record is not counted again by its absence.
        told_at_tap: Counter[Owner] = Counter()
        for group in groups:
            if (group.site.direction, group.site.hop) == ("tx", "tap"):
                told_at_tap[group.site.owner] += group.packets
        for queue, sent in self._sends.queues.items():
            owner = scene.owner(queue)
            known = min(told_at_tap[owner], sent.rejected)
            told_at_tap[owner] -= known
            found += rules.rejected(scene, queue, sent, known, lossy=lossy)
            late = rules.held_up(scene, queue, sent)
            found += [late] if late else []
        found += self._late.finish()
        found += [one for one in self._stalls.finish() if _is_within(one, within)]
        if not any(one.code == "R1" for one in found):
            found += rules.counted(scene, self._deltas)
        vms = sorted({owner.vm for owner in scene.taps.values() if owner.vm})
        found += rules.guest_losses(self._deltas, vms)
        told = {one.vm for one in found if one.code == "R9"} | set(self._answering(vms))
        found += rules.unreachable(scene, self._unreachable, told)
        books = Books(cells, groups, self._sends.queues, self._consumed, self._deltas)
        rows = ledger(scene, books)
        flows = flow_rows(scene, cells, groups, episodes, found)
        unserved = [tap for tap, vhost in scene.vhost.items() if vhost is False]
        filtered = bool(scene.section("capture").get("capture_filter"))
        found = _united(found)
        found.sort(key=_order)
        return Diagnosis(
            protocol=self._protocol,
            ledger=rows,
            findings=found,
            flows=flows,
            disagreements=[] if filtered else self._disagreements(cells, unserved),
            blind_spots=self._blind(cells),
            review=self._review(found),
            unexplained=unexplained(rows),
            loss=dict(loss),
            notes=self._notes(loss, copies, elsewhere),
        )

    def _disagreements(self, cells: list[Cell], unserved: list[str]) -> list[Disagreement]:
        # That QEMU read packets beside vhost explains as many of the tap's.
        taken: Counter[str] = Counter()
        for cell in cells:
            if cell.end == End.TAKEN:
                taken[f"link/{self.scene.owner(cell.queue).interface} tx_packets"] += cell.count
        return [
            one
            for one in self._meters.disagreements(skip=unserved)
            if not 0 < one.second_count - one.first_count <= taken[one.second]
        ]

    def _review(self, found: list[Finding]) -> list[Review]:
        scene = self.scene
        host = scene.section("host")
        return review(
            scene.section("config"),
            scene.section("vms") or (),
            scene.section("queues"),
            found,
            str(host.get("kernel") or ""),
        )

    def _groups(self, cells: list[Cell]) -> tuple[list[rules.Group], int, int]:
        scene = self.scene
        groups: dict[tuple[Site, str], rules.Group] = {}
        copies = elsewhere = 0
        for cell in cells:
            if cell.end == End.RECV_ERROR:
                site: Site | None = Site("R6", "vhost", "rx", scene.owner(cell.queue))
            elif cell.end != End.DROPPED:
                continue
            elif is_sniffer(scene, cell):
                copies += cell.count
                continue
            else:
                site = self._behind_tap(cell) if cell.to_guest else site_of(scene, cell)
            if site is None:
                elsewhere += cell.count
                continue
            interface = str(scene.queue(cell.drop_queue).get("interface") or "")
            key = (site, interface)
            groups.setdefault(key, rules.Group(site, interface)).cells.append(cell)
        return list(groups.values()), copies, elsewhere

    def _behind_tap(self, cell: Cell) -> Site:
        # It was in the tap's ring: the ring was emptied with the queue, or the copy failed.
        place = self.scene.place(cell.place)
        owner = self.scene.owner(cell.queue)
        if place.startswith(("tun_do_read", "tun_recvmsg", "tun_put_user")):
            return Site("R6", "vhost", "rx", owner)
        if place.startswith(("tun_", "__ptr_ring", "ptr_ring", "skb_queue_purge", "vhost_net")):
            return Site("R5e", "vhost", "rx", owner)
        return Site("D1", "vhost", "rx", owner)

    def _answering(self, vms: list[str]) -> list[str]:
        return [vm for vm in vms if f"guest/{vm}/udp" in self._deltas.last]

    def _blind(self, cells: list[Cell]) -> list[BlindSpot]:
        scene = self.scene
        sums: Counter[Owner] = Counter()
        for cell in cells:
            if cell.to_guest and cell.end == End.DELIVERED:
                sums[scene.owner(cell.queue)] += cell.count
        answering = set(self._answering([owner.vm for owner in sums]))
        return [
            BlindSpot(
                text=f"What became of {count(packets, 'packet')} behind the driver of {owner.name}"
                " the host cannot see: a full socket buffer (R8) or a port without listener (R9)"
                " shows in the guest's counters alone.",
                vm=owner.vm,
                device=owner.device,
                packets=packets,
                proof="--guest-cmd or --guest-agent samples them; or, in the guest: nstat -az |"
                " grep -E 'Udp.*(RcvbufErrors|NoPorts)'",
            )
            for owner, packets in sorted(sums.items(), key=lambda one: -one[1])
            if owner.vm not in answering
        ]

    def _notes(self, loss: Mapping[str, int], copies: int, elsewhere: int) -> list[str]:
        notes = []
        if loss.get("lost"):
            notes.append(
                f"vtrace lost {count(loss['lost'], 'record')}: numbers by events are at least what"
                " is shown, and certainty is lower"
            )
        if loss.get("missed"):
            notes.append(
                f"{count(loss['missed'], 'return')} of probed functions were not seen: compare with"
                " the counters"
            )
        capture = self.scene.section("capture")
        if capture.get("capture_filter"):
            notes.append(
                "the recording has only what a capture filter let through: nothing is said of the"
                " rest, and it is not held against counters"
            )
        if copies:
            notes.append(
                f"{count(copies, 'copy') if copies == 1 else f'{copies:,} copies'} for a sniffer"
                " (tcpdump or the like) were dropped: the packets themselves went on"
            )
        if elsewhere:
            notes.append(
                f"{count(elsewhere, 'UDP packet' if self._protocol == 'udp' else 'packet')} dropped"
                " on this host that were neither for nor from a guest: not counted here"
            )
        if self._tally.folded:
            notes.append(
                f"{count(self._tally.folded, 'packet')} of very many flows were counted without"
                " their flow"
            )
        if self._tally.unread:
            notes.append(
                f"of {count(self._tally.unread, 'packet')} too little was captured to know the"
                " protocol"
            )
        probes = self.scene.section("probes")
        missing = [
            str(name)
            for name, probe in probes.items()
            if isinstance(probe, Mapping)
            and probe.get("state") != "attached"
            and str(name).partition(":")[0] in _NEEDED
        ]
        if missing:
            notes.append(
                f"not probed here: {', '.join(sorted(missing))}; what they show is missing"
            )
        counters = self.scene.section("counters")
        if not counters:
            notes.append(
                "the recording has no samples of the kernel's counters: nothing is held against"
                " them"
            )
        return notes


_NEEDED: Final = frozenset(
    ["tun_net_xmit", "tun_recvmsg", "tun_sendmsg", "vhost_get_vq_desc", "kfree_skb", "sched_switch"]
)


_COVERED: Final = {"S1": ("R5c", "R5d"), "S2": ("R5c", "R5d"), "T1": ("T3",)}
"""A stall -> findings that say the same: a driver that does not serve its interrupts gives no
buffers, a worker without a CPU leaves the ring full."""


def _united(found: list[Finding]) -> list[Finding]:
    # One cause is told once; what else was seen of it becomes its evidence.
    kept = []
    for one in found:
        place = (one.vm, one.device, one.queue)
        same = [
            other
            for other in found
            if other.code in _COVERED.get(one.code, ())
            and (other.vm, other.device, other.queue) == place
            and _is_within(other, (one.first_ns, None if one.last_ns is None else one.last_ns + 1))
        ]
        if same:
            same[0].evidence.append(Evidence(text=one.cause, source=f"finding {one.code}"))
            same[0].evidence += one.evidence
        else:
            kept.append(one)
    return kept


def _is_within(finding: Finding, within: tuple[int | None, int | None]) -> bool:
    since, until = within
    late = since is not None and finding.last_ns is not None and finding.last_ns < since
    early = until is not None and finding.first_ns is not None and finding.first_ns >= until
    return not (late or early)


def _order(finding: Finding) -> tuple[int, int, str]:
    # Those that cost most first; those that cost none behind them, the surest first.
    sure = list(Certainty).index(finding.certainty)
    return (-(finding.packets or 0), sure, finding.code)
