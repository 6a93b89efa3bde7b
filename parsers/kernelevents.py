"""Events of the kernel, as kprobes and tracepoints print them, into records.

An event with its return is paired within its thread. What an event does not say is found where the
kernel's own code leaves no choice: which queue a worker is at (the one of its last ``vq``), which
packet ``tun_recvmsg`` took (the skb that the thread freed or copied meanwhile), which chains
vhost-net returned (it returns them in the order in which it took them). Where that is not there
either, the record lacks the field, or is not made and counted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from parsers import wire
from parsers.eventlines import Heads, numbers, rest_of, texts
from parsers.eventmap import TEXTS, EventMap
from parsers.hostrecords import Exits, Sched
from parsers.netrecords import Packets
from parsers.rows import Made, Rows, Threads
from parsers.vhostrecords import Vhost

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KernelEvents"]

CARRIED: Final = 48
"""Rows of each thread that are kept for those of the next block."""
MOST_CARRIED: Final = 1 << 16
MOST_NAMES: Final = 4096
"""Event names that are counted one by one."""
OTHERS: Final = "(more names)"

SCHED: Final = ("sched_switch", "sched_wakeup")


class KernelEvents:
    """Takes lines block by block, and gives out records.

    Args:
        table: what events mean.
        declared: roles that the recording says it has; None where it does not say.
    """

    def __init__(self, table: EventMap, declared: set[str] | None = None) -> None:
        self.table = table
        self.declared = declared
        self.roles = list(table.roles)
        self.seen: Counter[str] = Counter()
        """Event name -> how often it came."""
        self.role_of: dict[str, str | None] = {}
        self.unused: Counter[str] = Counter()
        """Role -> events that say too little, by themselves or for want of another."""
        self.calls: dict[str, list[int]] = {}
        self.vhost = Vhost(self)
        self.packets = Packets(self)
        self.exits = Exits(self)
        self.sched = Sched(self)
        self._number = {name: at for at, name in enumerate(self.roles)}
        self._carried = Rows(0)

    def number(self, role: str) -> int:
        """Return the number by which ``Rows.role`` has a role; -1: no such role."""
        return self._number.get(role, -1)

    def has(self, role: str) -> bool:
        """Return whether events of a role are in the recording, as far as that is known yet."""
        if self.declared is not None:
            return role in self.declared
        return any(name == role for name in self.role_of.values())

    def feed(self, heads: Heads) -> tuple[Any, Any]:
        """Take in lines; return records (``wire.RECORD``, no ``seq`` yet) and the line of each."""
        roles = self._count(heads)
        made = Made()
        self.sched.comms(heads)
        rows = Rows.joined(self._carried, self._rows(heads, roles, sched=False))
        if len(rows):
            threads = Threads(rows)
            rows = rows.take(threads.order)
            self.vhost.feed(rows, threads, made)
            self.packets.feed(rows, threads, made)
            self.exits.feed(rows, threads, made)
            self._carried = self._keep(rows)
        sched = self._rows(heads, roles, sched=True)
        if len(sched):
            self.sched.feed(sched, made)
        return made.records()

    def finish(self) -> None:
        """Note what is left without its return."""
        self.vhost.finish()

    def _count(self, heads: Heads) -> Any:
        names = heads.event.dictionary.to_pylist()
        codes = np.asarray(heads.event.indices)
        counts = np.bincount(codes, minlength=len(names))
        numbers_of = np.full(max(len(names), 1), -1, np.int64)
        for code, (raw, count) in enumerate(zip(names, counts.tolist(), strict=True)):
            name = raw.decode(errors="replace")
            if name not in self.seen and len(self.seen) >= MOST_NAMES:
                name = OTHERS
            self.seen[name] += count
            role = self.role_of.setdefault(name, self.table.role(name))
            if role is not None:
                numbers_of[code] = self._number[role]
        return numbers_of[codes] if len(codes) else np.zeros(0, np.int64)

    def _rows(self, heads: Heads, roles: Any, *, sched: bool) -> Rows:
        wanted = np.isin(roles, [self.number(name) for name in SCHED])
        chosen = np.flatnonzero((roles >= 0) & (wanted if sched else ~wanted))
        rows = Rows(len(chosen))
        for name in ("time", "cpu", "tid", "tgid", "line"):
            rows.head[name] = getattr(heads, name)[chosen].astype(np.int64)
        rows.head["role"] = roles[chosen]
        keep = np.ones(len(chosen), np.bool_)
        codes_of = np.asarray(heads.event.indices)[chosen]
        for code in np.unique(codes_of).tolist():
            at = np.flatnonzero(codes_of == code)
            role = self.table.roles[self.roles[int(rows["role"][at[0]])]]
            event = heads.event.dictionary[code].as_py()
            if role.fields:
                rest = rest_of(heads.text.take(pa.array(chosen[at])), event)
            for field in role.fields:
                if field in TEXTS:
                    pool, codes, have = texts(rest, role.patterns(field))
                    known = np.array([self.text(one) for one in pool] or [0], np.int64)
                    rows.put(field, at, np.where(have, known[codes], 0), have)
                else:
                    values, have = numbers(rest, role.patterns(field))
                    rows.put(field, at, values, have)
            for field in role.needs:
                lacking = at[~rows.has(field)[at]]
                self.unused[role.name] += len(lacking)
                keep[lacking] = False
        return rows if keep.all() else rows.take(np.flatnonzero(keep))

    pool: list[str]

    def text(self, raw: bytes) -> int:
        """Return the number of a text that a field holds; 0 where there are too many."""
        if not hasattr(self, "pool"):
            self.pool = [""]
            self._codes: dict[bytes, int] = {}
        code = self._codes.get(raw)
        if code is None:
            if len(self.pool) >= 1 << 16:
                return 0
            code = self._codes[raw] = len(self.pool)
            self.pool.append(raw.decode(errors="replace"))
        return code

    def _keep(self, rows: Rows) -> Rows:
        # The last ones of each thread, so that what follows finds what it belongs to.
        threads = Threads(rows)
        last = threads.last_of[np.arange(len(rows))]
        kept = np.flatnonzero(last - np.arange(len(rows)) < CARRIED)
        if len(kept) > MOST_CARRIED:
            newest = np.argsort(rows["line"][kept], kind="stable")[-MOST_CARRIED:]
            kept = np.sort(kept[newest])
        found = rows.take(kept)
        found.head["old"][:] = 1
        return found

    def call(self, function: str, entries: int, returns: int) -> None:
        """Count the entries of a function, and the returns that belong to one."""
        sums = self.calls.setdefault(function, [0, 0])
        sums[0] += entries
        sums[1] += returns

    def pairs(self, rows: Rows, threads: Threads, function: str) -> tuple[Any, Any]:
        """Return places of returns, and of the entry that each belongs to.

        A call is entered and left in one thread; one that is entered again before it returned has
        lost its return.
        """
        role = rows["role"]
        entry = role == self.number(function)
        back = role == self.number(f"{function}.return")
        before = threads.before(entry)
        other = threads.before(back)
        at = np.flatnonzero(back & (before >= 0) & (other < before) & (rows["old"] == 0))
        fresh = rows["old"] == 0
        if back.any() or self.has(f"{function}.return"):
            self.call(function, int((entry & fresh).sum()), len(at))
            self.unused[f"{function}.return"] += int((back & fresh).sum()) - len(at)
        else:
            self.unused[function] += int((entry & fresh).sum())
        return at, before[at]


def columns_of(records: Any) -> Mapping[str, Any]:
    """Return records as the columns of a batch."""
    return {name: np.ascontiguousarray(records[name]) for name in wire.COLUMNS}
