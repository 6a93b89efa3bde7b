"""What the tap does with packets: probes on its functions, and the tracepoints of the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import Direction, Flag, Kind

if TYPE_CHECKING:
    from parsers.kernelevents import KernelEvents
    from parsers.rows import Made, Rows, Threads

__all__ = ["Packets"]

MOST_OPEN: Final = 1 << 16
"""Packets whose address is remembered, newest first."""
ETHERNET: Final = 14
"""``netif_receive_skb`` counts a frame without its Ethernet header."""
BASE: Final = 1 << 15
"""Ids of interfaces in the queue table."""
REASONS: Final = 1 << 24
"""Numbers of reasons of which only the name is known: above all of the kernel's."""
MOST_INTERFACES: Final = 1 << 10
RANK_BITS: Final = 24


class Packets:
    """Packets by the address of their skb, for as long as it is theirs."""

    def __init__(self, events: KernelEvents) -> None:
        self.events = events
        self.interfaces: dict[str, set[int]] = {}
        """Name -> queues whose worker took its packets."""
        self.places: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self._codes: dict[str, int] = {}
        self._place: dict[str, int] = {}
        self._reasons: dict[str, int] = {}
        self._next = 1
        self._known = np.zeros((0, 3), np.int64)
        """Address of the skb, packet id, number of the interface's name."""

    def feed(self, rows: Rows, threads: Threads, made: Made) -> None:
        """Make records of the rows of all threads."""
        number = self.events.number
        role = rows["role"]
        fresh = rows["old"] == 0
        context = self.events.vhost.context
        back, entry = self.events.pairs(rows, threads, "tun_net_xmit")
        sends, send_entry = self.events.pairs(rows, threads, "tun_sendmsg")
        receives, receive_entry = self.events.pairs(rows, threads, "tun_recvmsg")

        # Frames that entered the host within a send.
        frame = (role == number("netif_receive_skb")) & fresh
        inside = threads.before(role == number("tun_sendmsg"))
        ended = threads.before(role == number("tun_sendmsg.return"))
        frames = np.flatnonzero(frame & (inside >= 0) & (ended < inside) & (context > 0))
        self.events.unused["netif_receive_skb"] += int(frame.sum()) - len(frames)

        # A packet begins where the tap takes it, or where it enters the host.
        begins = np.concatenate([entry, frames])
        ids = self._new_ids(len(begins))
        names = self._names(rows, threads, entry)
        names = np.concatenate([names, rows["name"][frames]])
        first = np.stack([rows["skb"][begins], ids, names], axis=1)
        ask = (role == number("consume_skb")) | (role == number("skb_copy_datagram_iovec"))
        took = threads.before(ask)[receives]
        took = np.where(took > receive_entry, took, -1)
        drops = np.flatnonzero((role == number("kfree_skb")) & fresh)
        asked = np.concatenate([np.maximum(took, 0), drops])
        packet, name = self._find(rows, begins, first, asked)
        packet[: len(took)][took < 0] = 0
        taken, dropped = packet[: len(took)], packet[len(took) :]
        self._learn(name[: len(took)], taken, context[receives])

        queue = self._queues(ids[: len(entry)], names[: len(entry)], taken, context[receives])
        ret = rows["ret"][back]
        for kind, which in ((Kind.ENQUEUE, ret == 0), (Kind.REFUSE, ret != 0)):
            at = entry[which]
            made.add(
                kind,
                rows["time"][at],
                rows["line"][at],
                cpu=rows["cpu"][at],
                tid=rows["tid"][at],
                queue=queue[which],
                packet=ids[: len(entry)][which],
                length=rows["len"][at],
                ret=ret[which] if kind == Kind.REFUSE else 0,
            )
        self._receive(rows, made, receives, receive_entry, taken)
        self._send(rows, made, sends, send_entry, frames, inside, ids[len(entry) :])
        self._drop(rows, made, drops, dropped)

    def _new_ids(self, count: int) -> Any:
        ids = (self._next - 1 + np.arange(count)) % 0xFFFFFFFF + 1
        self._next = (self._next - 1 + count) % 0xFFFFFFFF + 1
        return ids

    def _names(self, rows: Rows, threads: Threads, entry: Any) -> Any:
        # The interface that the stack gave this very packet to, just before.
        number = self.events.number
        role = rows["role"]
        out = (role == number("net_dev_start_xmit")) | (role == number("net_dev_queue"))
        before = threads.before(out)[entry]
        same = (before >= 0) & (rows["skb"][before] == rows["skb"][entry])
        return np.where(same, rows["name"][before], 0)

    def _find(self, rows: Rows, begins: Any, first: Any, asked: Any) -> tuple[Any, Any]:
        # Packet and name of the newest packet that began at the address before each asked row.
        known = np.concatenate([self._known, first])
        born = len(self._known)
        time = np.concatenate([np.full(born, -1), rows["time"][begins], rows["time"][asked]])
        line = np.concatenate([np.arange(born), rows["line"][begins], rows["line"][asked]])
        rank = np.empty(len(time), np.int64)
        rank[np.lexsort((line, time))] = np.arange(len(time))
        addresses = np.concatenate([known[:, 0], rows["skb"][asked]])
        _, code = np.unique(addresses, return_inverse=True)
        key = (code.astype(np.int64) << RANK_BITS) | (rank & ((1 << RANK_BITS) - 1))
        mine, wanted = key[: len(known)], key[len(known) :]
        order = np.argsort(mine)
        packet, name = np.zeros(len(asked), np.int64), np.zeros(len(asked), np.int64)
        if len(known):
            found = np.searchsorted(mine[order], wanted) - 1
            hit = order[np.maximum(found, 0)]
            ok = (found >= 0) & (mine[hit] >> RANK_BITS == wanted >> RANK_BITS)
            packet, name = np.where(ok, known[hit, 1], 0), np.where(ok, known[hit, 2], 0)
            # Of an address, only the newest packet is remembered.
            newest = np.ones(len(order), np.bool_)
            ordered = mine[order] >> RANK_BITS
            newest[:-1] = ordered[1:] != ordered[:-1]
            kept = np.sort(order[newest])
            self._known = known[kept][-MOST_OPEN:]
        return packet, name

    def _learn(self, names: Any, packets: Any, queues: Any) -> None:
        ok = (packets > 0) & (queues > 0)
        pairs = {*zip(names[ok].tolist(), queues[ok].tolist(), strict=True)}
        for name, queue in pairs:
            text = self.events.pool[name] if name else ""
            if len(self.interfaces) < MOST_INTERFACES or text in self.interfaces:
                self.interfaces.setdefault(text, set()).add(queue)
            self.events.vhost.directions[queue] = Direction.RX

    def _queues(self, ids: Any, names: Any, taken: Any, queues: Any) -> Any:
        # That of the worker that took the packet; else the only one that took any of the interface.
        found = np.zeros(len(ids), np.int64)
        for name in np.unique(names).tolist():
            text = self.events.pool[name] if name else ""
            of = self.interfaces.get(text, set())
            found[names == name] = next(iter(of)) if len(of) == 1 else self.interface(text)
        order = np.argsort(taken, kind="stable")
        if len(order):
            place = np.minimum(np.searchsorted(taken[order], ids), len(order) - 1)
            hit = order[place]
            ok = (taken[hit] == ids) & (queues[hit] > 0)
            found = np.where(ok, queues[hit], found)
        return found

    def interface(self, name: str) -> int:
        """Return the id of an interface in the queue table; 0 where the name is not known."""
        if not name:
            return 0
        if name not in self._codes and len(self._codes) < MOST_INTERFACES:
            self._codes[name] = BASE + len(self._codes)
        return self._codes.get(name, 0)

    @property
    def interface_ids(self) -> dict[str, int]:
        """Interfaces that stand in the queue table by themselves."""
        return self._codes

    def _receive(self, rows: Rows, made: Made, at: Any, entry: Any, packets: Any) -> None:
        made.add(
            Kind.RECV,
            rows["time"][at],
            rows["line"][at],
            cpu=rows["cpu"][at],
            tid=rows["tid"][at],
            queue=self.events.vhost.context[at],
            packet=packets,
            ret=rows["ret"][at],
            span=rows["time"][at] - rows["time"][entry],
        )

    def _send(
        self, rows: Rows, made: Made, at: Any, entry: Any, frames: Any, inside: Any, ids: Any
    ) -> None:
        context = self.events.vhost.context
        made_by = inside[frames]
        order = np.lexsort((frames, made_by))
        nth = np.zeros(len(frames), np.int64)
        if len(frames):
            sorted_by = made_by[order]
            new = np.ones(len(order), np.bool_)
            new[1:] = sorted_by[1:] != sorted_by[:-1]
            place = np.arange(len(order))
            nth[order] = place - np.maximum.accumulate(np.where(new, place, 0))
        made.add(
            Kind.DELIVER,
            rows["time"][frames],
            rows["line"][frames],
            cpu=rows["cpu"][frames],
            tid=rows["tid"][frames],
            queue=context[frames],
            packet=ids,
            length=(rows["len"][frames] + ETHERNET) * rows.has("len")[frames],
            count=nth,
        )
        for queue in np.unique(context[frames]).tolist():
            self.events.vhost.directions.setdefault(queue, Direction.TX)
        counts = np.bincount(made_by, minlength=len(rows)) if len(frames) else np.zeros(len(rows))
        entered = counts[entry].astype(np.int64)
        # A batch (TUN_MSG_PTR) is handed over with a length of 0: how many are in it is seen by the
        # frames that enter the host meanwhile. Else it is one.
        batch = rows.has("len")[entry] & (rows["len"][entry] == 0)
        known = ~batch | (entered > 0)
        known &= context[at] > 0
        self.events.unused["tun_sendmsg"] += int((~known).sum())
        count = np.where(batch, entered, 1)[known]
        made.add(
            Kind.SEND,
            rows["time"][at[known]],
            rows["line"][at[known]],
            cpu=rows["cpu"][at[known]],
            tid=rows["tid"][at[known]],
            queue=context[at[known]],
            count=count,
            length=rows["len"][entry[known]],
            ret=rows["ret"][at[known]],
            span=rows["time"][at[known]] - rows["time"][entry[known]],
            flags=int(Flag.BATCH) * batch[known],
        )

    def _drop(self, rows: Rows, made: Made, at: Any, packets: Any) -> None:
        reasons = rows["reason"][at]
        numbers = np.zeros(len(at), np.int64)
        for code in np.unique(reasons).tolist():
            numbers[reasons == code] = self._reason(self.events.pool[code] if code else "")
        places = rows["location"][at]
        ids = np.zeros(len(at), np.int64)
        for code in np.unique(places).tolist():
            ids[places == code] = self._location(self.events.pool[code] if code else "")
        made.add(
            Kind.DROP,
            rows["time"][at],
            rows["line"][at],
            cpu=rows["cpu"][at],
            tid=rows["tid"][at],
            packet=packets,
            ret=numbers,
            address=ids,
        )

    def _reason(self, text: str) -> int:
        # The kernel's own number where the text is one; else ours, above all of the kernel's.
        if text.isascii() and text.isdigit() and len(text) < 9:
            return int(text)
        number = self._reasons.get(text)
        if number is None:
            number = REASONS + len(self.reasons)
            if len(self.reasons) < 1 << 12:
                self.reasons[number] = text or "reason not recorded"
                self._reasons[text] = number
        return number

    def _location(self, text: str) -> int:
        if text not in self._place and len(self._place) < 1 << 12:
            self._place[text] = len(self._place) + 1
            self.places[self._place[text]] = text or "place not recorded"
        return self._place.get(text, 0)
