"""Requests put together from their records: POP and REQUEST, USED and RESPONSE of one chain.

A chain is known by its queue and head from its POP to its USED; the pieces have the time of the
record that they belong to. Whatever of them is missing, the others still make up the chain: it then
says what it does not know. What is kept is bounded: the oldest chains go first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import Flag, Kind
from vtrace.requests.chains import CHAIN, Chains
from vtrace.requests.grown import Grown
from vtrace.requests.parts import PIECE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["Exchanges"]

KINDS: Final = (Kind.POP, Kind.USED, Kind.FLUSH, Kind.REQUEST, Kind.RESPONSE)
ANSWERS: Final = (Kind.USED, Kind.RESPONSE)
PIECES: Final = (Kind.REQUEST, Kind.RESPONSE)

MAX_CHAINS: Final = 1 << 18
"""Chains that are kept: more than the tracker holds back and rings can hold in practice."""
MAX_BYTES: Final = 1 << 28
"""... and bytes of them."""
LINGER_NS: Final = 5_000_000_000
"""So long a chain that another one followed waits for its lifecycle."""
FEW: Final = 1 << 13

LAST: Final = np.dtype([("key", "<u4"), ("time", "<u8"), ("serial", "<u8"), ("answered", "?")])


class Exchanges:
    """Chains that are under way, or whose lifecycle has not come out yet."""

    def __init__(self, max_chains: int = MAX_CHAINS, max_bytes: int = MAX_BYTES) -> None:
        self._rows = Grown(CHAIN)
        self._pieces = Grown(PIECE)
        self._data = Grown(np.dtype(np.uint8))
        self._last = np.zeros(0, LAST)
        self._filling: set[int] = set()
        self._next = 1
        self._now = 0
        self._taken = 0
        self._max_chains, self._max_bytes = max_chains, max_bytes

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def kept_bytes(self) -> int:
        """Bytes of chains that are kept."""
        return len(self._data)

    def feed(self, batch: EventBatch) -> None:
        """Take in the records of a batch that are about requests."""
        if not len(batch):
            return
        self._now = max(self._now, int(batch["time"][-1]))
        wanted = np.isin(batch["kind"], KINDS) & (batch["flags"] & np.uint16(Flag.QEMU) != 0)
        rows = np.flatnonzero(wanted)
        if not len(rows):
            return
        leads = self._leads(batch, rows)
        keep = batch["kind"][rows] != Kind.FLUSH
        rows, leads = rows[keep], leads[keep]
        if len(rows):
            serials = self._serials(batch, rows)
            self._update(batch, rows, serials, leads)
            self._add_pieces(batch, rows, serials)
            self._bound()

    def _leads(self, batch: EventBatch, rows: NDArray[Any]) -> NDArray[np.bool_]:
        # A USED leads if the event before it, of USED and FLUSH of its queue, is a FLUSH.
        kinds, queues = batch["kind"][rows], batch["queue"][rows]
        leads = np.zeros(len(rows), np.bool_)
        ends = np.flatnonzero((kinds == Kind.USED) | (kinds == Kind.FLUSH))
        ends = ends[np.argsort(queues[ends], kind="stable")]
        if not len(ends):
            return leads
        used, queue = kinds[ends] == Kind.USED, queues[ends]
        first = np.ones(len(ends), np.bool_)
        first[1:] = queue[1:] != queue[:-1]
        after_used = np.zeros(len(ends), np.bool_)
        after_used[1:] = used[:-1]
        after_used[first] = [number in self._filling for number in queue[first].tolist()]
        leads[ends] = used & ~after_used
        last = np.append(first[1:], True)
        for number, filling in zip(queue[last].tolist(), used[last].tolist(), strict=True):
            (self._filling.add if filling else self._filling.discard)(number)
        return leads

    def _serials(self, batch: EventBatch, rows: NDArray[Any]) -> NDArray[np.uint64]:
        # Which chain a record is of. A chain begins where the driver's side comes after the
        # device's, or at another time; and where the device's side comes twice.
        keys = batch["queue"][rows].astype(np.uint32) << np.uint32(16) | batch["head"][rows]
        order = np.argsort(keys, kind="stable")
        key, time = keys[order], batch["time"][rows][order]
        answer = np.isin(batch["kind"][rows][order], ANSWERS)
        first = np.ones(len(key), np.bool_)
        first[1:] = key[1:] != key[:-1]
        before_time, before_answer = np.zeros_like(time), np.zeros_like(answer)
        before_time[1:], before_answer[1:] = time[:-1], answer[:-1]
        known = np.searchsorted(self._last["key"], key[first])
        there = known < len(self._last)
        there[there] = self._last["key"][known[there]] == key[first][there]
        held = self._last[known[there]]
        firsts = np.flatnonzero(first)
        before_time[firsts[there]] = held["time"]
        before_answer[firsts[there]] = held["answered"]
        other_time = time != before_time
        new = np.where(answer, before_answer & other_time, before_answer | other_time)
        new[firsts[~there]] = True
        runs = np.flatnonzero(new | first)
        serial = np.zeros(len(runs), np.uint64)
        fresh = new[runs]
        rank = np.argsort(np.argsort(order[runs[fresh]]))
        serial[fresh] = np.uint64(self._next) + rank.astype(np.uint64)
        self._next += int(fresh.sum())
        of_first = np.zeros(len(key), np.uint64)
        of_first[firsts[there]] = held["serial"]
        serial[~fresh] = of_first[runs[~fresh]]
        of_row = np.repeat(serial, np.diff(np.append(runs, len(key))))
        self._remember(key, time, answer, of_row, first)
        found = np.zeros(len(rows), np.uint64)
        found[order] = of_row
        return found

    def _remember(
        self,
        key: NDArray[Any],
        time: NDArray[Any],
        answer: NDArray[Any],
        serial: NDArray[Any],
        first: NDArray[np.bool_],
    ) -> None:
        ends = np.flatnonzero(np.append(first[1:], True))
        newest = np.zeros(len(ends), LAST)
        newest["key"], newest["time"] = key[ends], time[ends]
        newest["answered"], newest["serial"] = answer[ends], serial[ends]
        others = self._last[~np.isin(self._last["key"], newest["key"])]
        both = np.concatenate([others, newest])
        if len(both) > self._max_chains:
            both = both[np.argsort(both["serial"])[-self._max_chains :]]
        self._last = both[np.argsort(both["key"])]

    def _update(
        self,
        batch: EventBatch,
        rows: NDArray[Any],
        serials: NDArray[np.uint64],
        leads: NDArray[np.bool_],
    ) -> None:
        known = int(self._rows.view["serial"][-1]) if len(self._rows) else 0
        new, place = np.unique(serials, return_index=True)
        place, new = place[new > known], new[new > known]
        made = np.zeros(len(new), CHAIN)
        made["serial"], made["last_byte"] = new, -1
        made["queue"], made["head"] = batch["queue"][rows[place]], batch["head"][rows[place]]
        self._rows.append(made)
        chains = self._rows.view
        at = np.searchsorted(chains["serial"], serials)
        # A chain that was let go for lack of room has no row any more.
        there = at < len(chains)
        there[there] = chains["serial"][at[there]] == serials[there]
        kinds = batch["kind"][rows]
        asks = there & ~np.isin(kinds, ANSWERS)
        chains["pop_ns"][at[asks]] = batch["time"][rows[asks]]
        answers = there & np.isin(kinds, ANSWERS)
        chains["used_ns"][at[answers]] = batch["time"][rows[answers]]
        pops = there & (kinds == Kind.POP)
        chains["popped"][at[pops]] = True
        for name, column in (("readable", "length"), ("writable", "room")):
            chains[name][at[pops]] = batch[column][rows[pops]]
        places = batch["flags"][rows] & np.uint16(Flag.POSITION) != 0
        placed = pops & places
        chains["placed"][at[placed]] = True
        chains["position"][at[placed]] = batch["position"][rows[placed]]
        # An answer has the position of its own POP.
        known = there & places & (kinds == Kind.RESPONSE)
        known[known] = chains["placed"][at[known]]
        other = chains["position"][at[known]] != batch["position"][rows[known]]
        chains["foreign"][at[known][other]] = True
        used = there & (kinds == Kind.USED)
        chains["used"][at[used]] = True
        chains["written"][at[used]] = batch["length"][rows[used]]
        ret = batch["ret"][rows[used]]
        chains["last_byte"][at[used]] = np.where((ret >= 0) & (ret < 256), ret, -1)
        chains["leads"][at[used]] = leads[used]

    def _add_pieces(
        self, batch: EventBatch, rows: NDArray[Any], serials: NDArray[np.uint64]
    ) -> None:
        kinds = batch["kind"][rows]
        of_piece = np.isin(kinds, PIECES)
        rows, serials = rows[of_piece], serials[of_piece]
        if not len(rows):
            return
        snaps = batch.snaps
        which = snaps.index_of(rows, len(batch))
        has = which >= 0
        held = snaps.take(which[has], np.flatnonzero(has))
        made = np.zeros(len(rows), PIECE)
        made["chain"], made["offset"] = serials, batch["length"][rows]
        made["response"] = batch["kind"][rows] == Kind.RESPONSE
        flags = batch["flags"][rows]
        made["fault"] = flags & np.uint16(Flag.FAULT) != 0
        made["size"][has] = np.diff(held.offsets)
        made["cut"] = flags & np.uint16(Flag.CUT) != 0
        made["cut"] |= made["size"] < batch["room"][rows]
        made["start"][has] = held.offsets[:-1] + len(self._data)
        self._data.append(held.data[: int(held.offsets[-1])])
        self._pieces.append(made)

    def take(
        self,
        queue: NDArray[Any],
        head: NDArray[Any],
        pop_ns: NDArray[Any],
        used_ns: NDArray[Any],
    ) -> Chains:
        """Return the chains of lifecycles, in their order, and forget them.

        ``pop_ns`` is 0 where the POP was not seen; ``used_ns`` where the chain was not returned.
        """
        found = self._find(queue, head, pop_ns, used_ns)
        rows = np.zeros(len(queue), CHAIN)
        rows["last_byte"] = -1
        has = found >= 0
        rows[has] = self._rows.view[found[has]]
        # What became visible before it was filled in, or never, has another chain's answer.
        foreign = rows["foreign"] | (rows["used_ns"] > used_ns)
        rows["last_byte"][foreign] = -1
        serials = rows["serial"][has]
        order = np.argsort(serials)
        place = np.flatnonzero(has)[order]
        serials = serials[order]
        pieces = self._pieces.view
        at = np.searchsorted(serials, pieces["chain"])
        mine = at < len(serials)
        mine[mine] = serials[at[mine]] == pieces["chain"][mine]
        chosen = pieces[mine].copy()
        chosen["chain"] = place[at[mine]]
        chosen = chosen[~(chosen["response"] & foreign[chosen["chain"].astype(np.int64)])]
        # The bytes are copied together: what is given out does not change with what is kept.
        sizes = chosen["size"].astype(np.int64)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        total = int(ends[-1]) if len(ends) else 0
        index = np.arange(total) + np.repeat(chosen["start"] - starts, sizes)
        data = self._data.view[index]
        chosen["start"] = starts
        self._rows.view["taken"][found[has]] = True
        self._taken += int(has.sum())
        if self._taken > max(FEW, len(self._rows) // 2):
            self._compact()
        return Chains(rows, chosen, data)

    def _find(
        self,
        queue: NDArray[Any],
        head: NDArray[Any],
        pop_ns: NDArray[Any],
        used_ns: NDArray[Any],
    ) -> NDArray[np.int64]:
        # Each lifecycle goes behind all chains of its key that began no later: the one before
        # it is its own if the times agree.
        chains = self._rows.view
        known = len(chains)
        if not known or not len(queue):
            return np.full(len(queue), -1, np.int64)
        popped = pop_ns != 0
        begun = np.where(chains["pop_ns"] != 0, chains["pop_ns"], chains["used_ns"])
        keys = np.concatenate(
            [
                chains["queue"].astype(np.uint32) << np.uint32(16) | chains["head"],
                queue.astype(np.uint32) << np.uint32(16) | head.astype(np.uint32),
            ]
        )
        times = np.concatenate([begun, np.where(popped, pop_ns, used_ns)])
        asking = np.zeros(len(keys), np.bool_)
        asking[known:] = True
        order = np.lexsort((asking, times, keys))
        newest = np.maximum.accumulate(np.where(asking[order], -1, np.arange(len(order))))
        before = np.full(len(keys), -1, np.int64)
        before[order] = np.where(newest >= 0, order[np.maximum(newest, 0)], -1)
        found = before[known:]
        mine = np.maximum(found, 0)
        same = (found >= 0) & (keys[mine] == keys[known:]) & ~chains["taken"][mine]
        by_pop = popped & (chains["pop_ns"][mine] == pop_ns)
        by_used = ~popped & (chains["pop_ns"][mine] == 0) & (chains["used_ns"][mine] <= used_ns)
        return np.where(same & (by_pop | by_used), found, -1)

    def _compact(self) -> None:
        # What another chain of its key followed long ago had no lifecycle, and gets none.
        chains = self._rows.view
        newest = np.isin(chains["serial"], self._last["serial"])
        last = np.maximum(chains["pop_ns"], chains["used_ns"]).astype(np.int64)
        self._keep(~chains["taken"] & (newest | (last >= self._now - LINGER_NS)))

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        serials = self._rows.view["serial"][keep]
        self._rows.keep(keep)
        self._taken = int(self._rows.view["taken"].sum())
        pieces = self._pieces.view
        at = np.searchsorted(serials, pieces["chain"])
        stay = at < len(serials)
        stay[stay] = serials[at[stay]] == pieces["chain"][stay]
        self._pieces.keep(stay)
        pieces = self._pieces.view
        sizes = pieces["size"].astype(np.int64)
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        index = np.arange(total) + np.repeat(pieces["start"] - (ends - sizes), sizes)
        self._data.replace(self._data.view[index])
        pieces["start"] = ends - sizes

    def _bound(self) -> None:
        if self._fits():
            return
        self._compact()
        # By halves, so that it is not done again for the next record.
        while not self._fits():
            keep = np.ones(len(self._rows), np.bool_)
            keep[: (len(keep) + 1) // 2] = False
            self._keep(keep)

    def _fits(self) -> bool:
        return len(self._rows) <= self._max_chains and len(self._data) <= self._max_bytes
