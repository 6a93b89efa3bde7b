"""What vhost does with a ring: kprobes on its functions into records."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import Direction, Flag, Kind

if TYPE_CHECKING:
    from parsers.kernelevents import KernelEvents
    from parsers.rows import Made, Rows, Threads

__all__ = ["Vhost"]

NEAR: Final = 1024
"""``struct vhost_poll`` stands near the start of ``struct vhost_virtqueue``, before its arrays."""
WAIT: Final = 64
"""Bytes from a wait entry to the work behind it, at most."""
MOST_QUEUES: Final = 1 << 12
MOST_POINTERS: Final = 1 << 16
MOST_OPEN: Final = 1 << 16
"""Chains that were taken and not returned."""

HANDLERS: Final = ("handle_rx_kick", "handle_tx_kick", "handle_rx_net", "handle_tx_net")


class Vhost:
    """Queues by the address of their ``struct vhost_virtqueue``, and what happens to them."""

    def __init__(self, events: KernelEvents) -> None:
        self.events = events
        self.queues: dict[int, int] = {}
        """Address -> id."""
        self.sizes: dict[int, int] = {}
        self.directions: dict[int, str] = {}
        self.workers: dict[int, int] = {}
        """Queue id -> thread."""
        self.wakers: dict[int, int] = {}
        """vCPU or other thread that kicked -> queue id."""
        self.pointers: dict[int, int] = {}
        """Work item, wait entry, ioeventfd -> queue id."""
        self.used_unknown = 0
        """Returned chains of which the head is not known: they were taken before it began."""
        self._addresses: list[int] = []
        self._sockets: set[int] = set()
        """Work items of the tap's polls."""
        self._open = np.zeros((0, 3), np.int64)

    def feed(self, rows: Rows, threads: Threads, made: Made) -> None:
        """Make records of the rows of all threads."""
        self.queue = self._queues(rows)
        role = rows["role"]
        number = self.events.number
        vq = self.queue > 0
        self.context = np.where(vq, self.queue, 0)
        before = threads.before(vq)
        self.context = np.where(vq, self.queue, np.where(before >= 0, self.queue[before], 0))
        self._runs(rows, threads, made)
        self._wakes(rows, threads, made)
        self._kicks(rows, threads, made)
        self._pops(rows, threads, made)
        self._enables(rows, threads, made)
        self._signals(rows, threads, made)
        fresh = rows["old"] == 0
        at = np.flatnonzero((role == number("vhost_discard_vq_desc")) & fresh & vq)
        self._add(
            made,
            Kind.HAND_BACK,
            rows,
            at,
            position=rows["last_avail"][at] - rows["n"][at],
            used=rows["last_used"][at],
            count=rows["n"][at],
            flags=int(Flag.POSITION) | np.where(rows.has("last_used")[at], int(Flag.USED), 0),
        )
        self._returns(rows, made)
        self._interrupts(rows, threads, made)

    def _add(self, made: Made, kind: Kind, rows: Rows, at: Any, **columns: Any) -> None:
        queue = columns.pop("queue", None)
        made.add(
            kind,
            rows["time"][at],
            rows["line"][at],
            cpu=rows["cpu"][at],
            tid=rows["tid"][at],
            queue=self.queue[at] if queue is None else queue,
            **columns,
        )

    def _queues(self, rows: Rows) -> Any:
        # Ids of the queues that rows name, 0 for none.
        address = rows["vq"]
        there = rows.has("vq") & (address != 0)
        found = np.zeros(len(rows), np.int64)
        distinct, inverse = np.unique(address[there], return_inverse=True)
        ids = np.zeros(len(distinct), np.int64)
        for at, one in enumerate(distinct.tolist()):
            if one not in self.queues and len(self.queues) < MOST_QUEUES:
                self.queues[one] = len(self.queues) + 1
            ids[at] = self.queues.get(one, 0)
        found[there] = ids[inverse] if len(distinct) else 0
        sized = np.flatnonzero((found > 0) & rows.has("num"))
        for queue, size in {*zip(found[sized].tolist(), rows["num"][sized].tolist(), strict=True)}:
            if 0 < size <= 1 << 15:
                self.sizes[queue] = size
        taken = np.flatnonzero((found > 0) & (rows["tid"] > 0))
        for queue, tid in {*zip(found[taken].tolist(), rows["tid"][taken].tolist(), strict=True)}:
            self.workers.setdefault(queue, tid)
        return found

    def _near(self, pointer: int) -> int:
        # The queue in whose structure an address lies, 0 for none.
        if len(self._addresses) != len(self.queues):
            self._addresses = sorted(self.queues)
        at = bisect_right(self._addresses, pointer) - 1
        if at < 0 or pointer - self._addresses[at] >= NEAR:
            return 0
        return self.queues[self._addresses[at]]

    def _learn(self, pointer: int, queue: int) -> None:
        if pointer and queue and len(self.pointers) < MOST_POINTERS:
            self.pointers.setdefault(pointer, queue)

    def _of(self, pointers: Any) -> Any:
        # Queues of pointers; each distinct one is looked up once.
        distinct, inverse = np.unique(pointers, return_inverse=True)
        found = np.zeros(len(distinct), np.int64)
        for at, one in enumerate(distinct.tolist()):
            queue = self.pointers.get(one, 0) or self._near(one)
            self._learn(one, queue)
            found[at] = queue
        return found[inverse] if len(distinct) else np.zeros(0, np.int64)

    def _runs(self, rows: Rows, threads: Threads, made: Made) -> None:
        role = rows["role"]
        numbers = [self.events.number(name) for name in HANDLERS]
        handler = np.isin(role, numbers)
        at = np.flatnonzero(handler)
        if not len(at):
            return
        # The first queue that the worker looks at in this run is the handler's.
        following = threads.behind(self.queue > 0)[at]
        again = threads.behind(handler)[at]
        told = (following >= 0) & ((again < 0) | (following < again))
        work = rows["work"][at]
        queue = np.where(told, self.queue[following], 0)
        for pointer, one in {*zip(work[told].tolist(), queue[told].tolist(), strict=True)}:
            self._learn(pointer, one)
        queue = np.where(queue > 0, queue, np.where(work != 0, self._of(work), 0))
        socket = np.isin(role[at], numbers[2:])
        receives = np.isin(role[at], [numbers[0], numbers[2]])
        for one, direction in {*zip(queue.tolist(), receives.tolist(), strict=True)}:
            if one:
                self.directions.setdefault(one, Direction.RX if direction else Direction.TX)
        if len(self._sockets) < MOST_POINTERS:
            self._sockets |= set(work[socket & (work != 0)].tolist())
        fresh = rows["old"][at] == 0
        known = fresh & (queue > 0)
        for name, mine in zip(HANDLERS, numbers, strict=True):
            self.events.unused[name] += int((fresh & ~known & (role[at] == mine)).sum())
        self._add(
            made,
            Kind.RUN,
            rows,
            at[known],
            queue=queue[known],
            flags=np.where(socket[known], int(Flag.SOCKET), 0),
        )

    def _wakes(self, rows: Rows, threads: Threads, made: Made) -> None:
        at = np.flatnonzero(rows["role"] == self.events.number("vhost_poll_wakeup"))
        if not len(at):
            return
        wait = rows["wait"][at]
        # The tap's wait entry stands before its work in one ``struct vhost_poll``.
        distinct, inverse = np.unique(wait, return_inverse=True)
        sockets = sorted(self._sockets)
        for pointer in distinct.tolist():
            place = bisect_right(sockets, pointer)
            if place < len(sockets) and sockets[place] - pointer <= WAIT:
                self._learn(pointer, self.pointers.get(sockets[place], 0))
        queue = self._of(wait)
        near = np.array([self._near(one) > 0 for one in distinct.tolist()], np.bool_)[inverse]
        fresh = rows["old"][at] == 0
        known = fresh & (queue > 0)
        self.events.unused["vhost_poll_wakeup"] += int((fresh & ~known).sum())
        self.woken = np.zeros(len(rows), np.int64)
        self.woken[at] = queue
        self._add(
            made,
            Kind.WAKE,
            rows,
            at[known],
            queue=queue[known],
            flags=np.where(near[known], 0, int(Flag.SOCKET)),
        )

    woken: Any = None

    def _kicks(self, rows: Rows, threads: Threads, made: Made) -> None:
        role = rows["role"]
        kick = role == self.events.number("ioeventfd_write")
        at = np.flatnonzero(kick)
        self.kicked = np.zeros(len(rows), np.int64)
        if not len(at):
            return
        # The eventfd wakes the worker from within the write.
        queue = np.zeros(len(at), np.int64)
        if self.woken is not None and len(self.woken) == len(rows):
            wake = threads.behind(self.woken > 0)[at]
            again = threads.behind(kick)[at]
            entry = threads.behind(role == self.events.number("kvm_entry"))[at]
            told = (wake >= 0) & ((again < 0) | (wake < again)) & ((entry < 0) | (wake < entry))
            queue = np.where(told, self.woken[wake], 0)
        device = rows["dev"][at]
        for pointer, one in {*zip(device.tolist(), queue.tolist(), strict=True)}:
            self._learn(pointer, one)
        queue = np.where(queue > 0, queue, np.where(device != 0, self._of(device), 0))
        self.kicked[at] = queue
        tids = rows["tid"][at]
        for tid, one in {*zip(tids.tolist(), queue.tolist(), strict=True)}:
            if one and len(self.wakers) < MOST_POINTERS:
                self.wakers.setdefault(tid, one)
        fresh = rows["old"][at] == 0
        known = fresh & (queue > 0)
        self.events.unused["ioeventfd_write"] += int((fresh & ~known).sum())
        self._add(
            made, Kind.KICK, rows, at[known], queue=queue[known], address=rows["addr"][at[known]]
        )

    def _pops(self, rows: Rows, threads: Threads, made: Made) -> None:
        back, entry = self.events.pairs(rows, threads, "vhost_get_vq_desc")
        self._popped = np.zeros((0, 5), np.int64)
        if not len(back):
            return
        ret, size = rows["ret"][back], rows["num"][entry]
        position = rows["last_avail"][entry] & 0xFFFF
        queue = self.queue[entry]
        used = int(Flag.USED) * rows.has("last_used")[entry]
        place = {"position": position, "used": rows["last_used"][entry], "queue": queue}
        flags = int(Flag.POSITION) | used
        for kind, which in (
            (Kind.POP, (ret >= 0) & (ret < size)),
            (Kind.EMPTY, ret == size),
            (Kind.POP_ERROR, ret < 0),
        ):
            which = which & (queue > 0)
            own = {name: values[which] for name, values in place.items()}
            mine = flags[which]
            if kind == Kind.POP:
                # Sizes are not in the event: CUT says that they are not whole.
                own["head"] = ret[which]
                mine = mine | int(Flag.CUT)
            elif kind == Kind.EMPTY:
                # What the function found: the driver's index is the device's place.
                own["avail"] = own["position"]
                mine = mine | int(Flag.AVAIL)
            else:
                own["ret"] = ret[which]
            self._add(made, kind, rows, back[which], flags=mine, **own)
        popped = (ret >= 0) & (ret < size) & (queue > 0)
        self._popped = np.stack(
            [queue, position, ret, rows["time"][back], rows["line"][back]], axis=1
        )[popped]

    def _returns(self, rows: Rows, made: Made) -> None:
        # USED: vhost-net returns chains in the order in which it took them.
        name = "vhost_add_used_n"
        if not self.events.has(name):
            name = "vhost_add_used_and_signal_n"
        fresh = rows["old"] == 0
        at = np.flatnonzero((rows["role"] == self.events.number(name)) & fresh & (self.queue > 0))
        pops = np.concatenate([self._open, self._popped[:, :3]])
        time = np.concatenate([np.full(len(self._open), -1), self._popped[:, 3]])
        line = np.concatenate([np.full(len(self._open), -1), self._popped[:, 4]])
        counts = np.clip(rows["count"][at], 0, 1 << 15)
        if counts.sum() > 1 << 22:
            counts = np.minimum(counts, 1)
        which = np.repeat(np.arange(len(at)), counts)
        nth = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        used = (rows["last_used"][at][which] + nth) & 0xFFFF
        # Rank of pops and returns in time.
        all_time = np.concatenate([time, rows["time"][at]])
        all_line = np.concatenate([line, rows["line"][at]])
        rank = np.empty(len(all_time), np.int64)
        rank[np.lexsort((all_line, all_time))] = np.arange(len(all_time))
        shift = np.int64(1 << 31)
        keys = (pops[:, 0] << 16 | pops[:, 1]) * shift + rank[: len(pops)]
        order = np.argsort(keys)
        wanted = (self.queue[at][which] << 16 | used) * shift + rank[len(pops) :][which]
        found = np.searchsorted(keys[order], wanted, "right") - 1
        hit = order[np.maximum(found, 0)] if len(pops) else np.zeros(len(wanted), np.int64)
        known = (found >= 0) & (len(pops) > 0)
        if len(pops):
            known &= keys[hit] // shift == wanted // shift
        self.used_unknown += int((~known).sum())
        # An act is as large as what is known of it.
        size = np.bincount(which[known], minlength=len(at))
        act = at[which[known]]
        last = rows["last_avail"][act]
        self._add(
            made,
            Kind.USED,
            rows,
            act,
            head=pops[hit[known], 2] if len(pops) else np.zeros(0, np.int64),
            used=used[known],
            count=size[which[known]],
            position=last,
            flags=int(Flag.USED) | int(Flag.POSITION) * rows.has("last_avail")[act],
        )
        left = np.ones(len(pops), np.bool_)
        left[hit[known]] = False
        # Of a place that was taken twice (handed back), the newest.
        order = order[left[order]]
        newest = np.ones(len(order), np.bool_)
        if len(order):
            place = keys[order] // shift
            newest[:-1] = place[1:] != place[:-1]
        kept = order[newest]
        self._open = pops[np.sort(kept)][-MOST_OPEN:]

    def _enables(self, rows: Rows, threads: Threads, made: Made) -> None:
        back, entry = self.events.pairs(rows, threads, "vhost_enable_notify")
        if not len(back):
            return
        used = int(Flag.USED) * rows.has("last_used")[entry]
        self._add(
            made,
            Kind.ENABLE,
            rows,
            back,
            queue=self.queue[entry],
            ret=rows["ret"][back] != 0,
            position=rows["last_avail"][entry],
            used=rows["last_used"][entry],
            flags=int(Flag.POSITION) | used,
        )

    def _signals(self, rows: Rows, threads: Threads, made: Made) -> None:
        back, entry = self.events.pairs(rows, threads, "vhost_notify")
        if not len(back):
            return
        used = int(Flag.USED) * rows.has("last_used")[entry]
        self._add(
            made,
            Kind.SIGNAL,
            rows,
            back,
            queue=self.queue[entry],
            ret=rows["ret"][back] & 1,
            used=rows["last_used"][entry],
            flags=used,
        )

    def _interrupts(self, rows: Rows, threads: Threads, made: Made) -> None:
        # The eventfd is signalled from within the function that returns chains.
        role = rows["role"]
        irq = role == self.events.number("irqfd_wakeup")
        at = np.flatnonzero(irq & (rows["old"] == 0))
        if not len(at):
            return
        known = self.context[at] > 0
        self.events.unused["irqfd_wakeup"] += int((~known).sum())
        at = at[known]
        message = (role == self.events.number("kvm_msi_set_irq")) & rows.has("address")
        behind, again = threads.behind(message)[at], threads.behind(irq)[at]
        told = (behind >= 0) & ((again < 0) | (behind < again))
        address = rows["data"][behind] << 32 | rows["address"][behind] & 0xFFFFFFFF
        self._add(
            made,
            Kind.IRQ,
            rows,
            at,
            queue=self.context[at],
            address=np.where(told, address, 0),
        )

    def finish(self) -> None:
        """Do nothing: what has no return was counted as a call."""
