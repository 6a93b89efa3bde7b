"""Places of rings as events go by: the newest events as arrays, of older ones what they came to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.compare import Span
from vtrace.model import Flag, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.tables import Names

__all__ = ["TURNS", "Around", "Past", "Places", "index_of"]

KEPT_NS: Final = 10_000_000_000
KEPT_ROWS: Final = 1 << 20
"""Events that are kept: those of so long, and no more than that."""

_PLACED: Final = (
    *(Kind.POP, Kind.EMPTY, Kind.USED, Kind.HAND_BACK, Kind.FLUSH),
    *(Kind.ENABLE, Kind.SIGNAL, Kind.START, Kind.STOP),
)
TURNS: Final = (int(Kind.START), int(Kind.STOP))
"""Kinds of events at which a ring begins or ends."""
_PAGES_BYTES: Final = 4
"""A page number in a balloon's queue."""

_ROW: Final = np.dtype(
    [
        ("time", "i8"),
        ("pages", "i8"),
        ("taken_lo", "i4"),
        ("taken_hi", "i4"),
        ("used_lo", "i4"),
        ("used_hi", "i4"),
        ("queue", "u2"),
        ("kind", "u2"),
    ]
)
"""A record: the places before and after it, -1 where it says none; pages into the balloon."""


@dataclass(slots=True)
class Past:
    """What a queue had come to when its events were let go."""

    taken: int = -1
    used: int = -1
    kind: int = 0
    pages: int = 0
    turned: int = 0
    """Time of its last START or STOP."""
    stopped: int = 0
    """Time of its last STOP."""


@dataclass(slots=True)
class Around:
    """Events of a queue around a look."""

    before: NDArray[Any]
    """Since the ring began, if it did so before the look."""
    inside: NDArray[Any]
    after: NDArray[Any]
    past: Past

    def span(self, name: str) -> Span | None:
        """Return a place before and after the look; None: it is not known."""
        lo, hi = f"{name}_lo", f"{name}_hi"
        first = _told(self.before, lo, hi)[-1:]
        inside = _told(self.inside, lo, hi)
        behind = _told(self.after, lo, hi)[:1]
        if len(first):
            before = _either(first[0], hi, lo)
        else:
            before = -1 if len(self.before) else int(getattr(self.past, name))
        newest = before if not len(first) else int(first[0][hi])
        if len(inside):
            before = before if before >= 0 else _either(inside[0], lo, hi)
            newest = int(inside[-1][hi])
        if len(behind) and int(behind[0]["kind"]) not in TURNS:
            newest = _either(behind[0], lo, hi)
            before = before if before >= 0 else newest
        return Span(before, newest) if before >= 0 and newest >= 0 else None


def _told(rows: NDArray[Any], lo: str, hi: str) -> NDArray[Any]:
    found: NDArray[Any] = rows[(rows[lo] >= 0) | (rows[hi] >= 0)]
    return found


def _either(row: Any, first: str, second: str) -> int:
    return int(row[first]) if row[first] >= 0 else int(row[second])


class Places:
    """What becomes of the places of all queues."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.past: dict[int, Past] = {}
        self.let_go_ns = 0
        """Time up to which events are not kept."""
        self._held: list[NDArray[Any]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Places:
        # Arrays that are held are never changed.
        other = Places(memo.get(id(self._names), self._names))
        other.past = copy.deepcopy(self.past, memo)
        other.let_go_ns, other._held = self.let_go_ns, list(self._held)
        return other

    def clear(self) -> None:
        """Forget all: what comes next does not follow what came before."""
        self.past.clear()
        self._held.clear()

    def around(self, number: int, lo: int, hi: int) -> Around:
        """Return the events of a queue before, within and behind a time."""
        rows = self.rows()
        mine = rows[rows["queue"] == number]
        times = mine["time"]
        first, behind = np.searchsorted(times, (lo, hi))
        before = mine[:first]
        turns = np.flatnonzero(np.isin(before["kind"], TURNS))
        if len(turns):
            before = before[turns[-1] :]
        past = self.past.get(number) or Past()
        return Around(before, mine[first:behind], mine[behind:], past)

    def pages_sign(self, number: int) -> int:
        """Return 1 for the inflate queue of a balloon, -1 for its deflate queue, else 0."""
        row = self._names.queue(number)
        if row.get("device_type") != "balloon":
            return 0
        return {0: 1, 1: -1}.get(index_of(row), 0)  # type: ignore[arg-type]

    def rows(self) -> NDArray[Any]:
        """Return the events that are kept, in order."""
        if len(self._held) > 1:
            self._held = [np.concatenate(self._held)]
        return self._held[0] if self._held else np.zeros(0, _ROW)

    def turned(self, number: int) -> int:
        """Return when a ring last began or ended; 0: it was not seen."""
        past = self.past.get(number) or Past()
        return self._newest(number, TURNS) or past.turned

    def stopped(self, number: int) -> int:
        """Return when a ring last ended; 0: it was not seen."""
        past = self.past.get(number) or Past()
        return self._newest(number, TURNS[1:]) or past.stopped

    def _newest(self, number: int, kinds: tuple[int, ...]) -> int:
        rows = self.rows()
        mine = rows[(rows["queue"] == number) & np.isin(rows["kind"], kinds)]
        return int(mine[-1]["time"]) if len(mine) else 0

    def hold(self, batch: EventBatch) -> None:
        """Take in the events of a batch that has some."""
        where = np.flatnonzero(np.isin(batch["kind"], _PLACED))
        if len(where):
            self._held.append(self._rows_of(batch, where))
        if not self._held:
            return
        newest, oldest = int(batch["time"][-1]), int(self._held[0]["time"][0])
        if sum(map(len, self._held)) <= KEPT_ROWS and newest - oldest <= 2 * KEPT_NS:
            return
        rows = self.rows()
        keep = int(np.searchsorted(rows["time"], newest - KEPT_NS))
        keep = max(keep, len(rows) - KEPT_ROWS // 2)
        self._forget(rows[:keep])
        self._held = [rows[keep:]]

    def _forget(self, rows: NDArray[Any]) -> None:
        if len(rows):
            self.let_go_ns = int(rows[-1]["time"])
        for number in np.unique(rows["queue"]).tolist():
            mine = rows[rows["queue"] == number]
            past = self.past.setdefault(number, Past())
            turns = mine[np.isin(mine["kind"], TURNS)]
            if len(turns):
                past.turned = int(turns[-1]["time"])
                ends = turns[turns["kind"] == TURNS[1]]
                past.stopped = int(ends[-1]["time"]) if len(ends) else past.stopped
            since = mine[np.searchsorted(mine["time"], past.turned) :]
            for name in ("taken", "used"):
                told = _told(since, f"{name}_lo", f"{name}_hi")[-1:]
                if len(told):
                    setattr(past, name, int(told[0][f"{name}_hi"]))
                elif len(turns):
                    setattr(past, name, -1)
            past.kind = int(mine[-1]["kind"])
            past.pages += int(mine["pages"].sum())

    def _rows_of(self, batch: EventBatch, where: NDArray[Any]) -> NDArray[Any]:
        rows = np.zeros(len(where), _ROW)
        flags, kinds = batch["flags"][where], batch["kind"][where]
        queues = batch["queue"][where]
        packed = flags & int(Flag.PACKED) != 0
        rows["time"], rows["queue"], rows["kind"] = batch["time"][where], queues, kinds
        position = batch["position"][where].astype(np.int32)
        used = batch["used"][where].astype(np.int32)
        count = batch["count"][where].astype(np.int32)
        placed = flags & int(Flag.POSITION) != 0
        has_used = (flags & int(Flag.USED) != 0) & (kinds != int(Kind.USED))
        rows["taken_lo"] = np.where(placed, position, -1)
        rows["taken_hi"] = rows["taken_lo"]
        rows["used_lo"] = np.where(has_used, used, -1)
        rows["used_hi"] = rows["used_lo"]
        pops = (kinds == int(Kind.POP)) & placed
        rows["taken_hi"][pops & ~packed] = (position[pops & ~packed] + 1) & 0xFFFF
        turns = pops & packed
        if turns.any():
            sizes = np.array([_size(self._names.queue(int(n))) for n in queues[turns]], np.int32)
            steps = batch["ret"][where][turns].astype(np.int64)
            rows["taken_hi"][turns] = advanced(position[turns], steps, sizes)
        flushed = (kinds == int(Kind.FLUSH)) & has_used
        rows["used_hi"][flushed] = np.where(packed, -1, (used + count) & 0xFFFF)[flushed]
        # Where it goes back to is known, where it came from is not.
        rows["taken_lo"][np.isin(kinds, (int(Kind.HAND_BACK), int(Kind.START)))] = -1
        rows["used_lo"][kinds == int(Kind.START)] = -1
        for name in ("taken_hi", "used_hi"):
            rows[name][kinds == int(Kind.STOP)] = -1
        rows["pages"] = self._pages_of(batch, where, queues, kinds)
        return rows

    def _pages_of(
        self, batch: EventBatch, where: NDArray[Any], queues: NDArray[Any], kinds: NDArray[Any]
    ) -> NDArray[Any]:
        pages = np.zeros(len(where), np.int64)
        for number in np.unique(queues).tolist():
            sign = self.pages_sign(number)
            if sign:
                mine = (queues == number) & (kinds == int(Kind.POP))
                pages[mine] = sign * (batch["length"][where][mine].astype(np.int64) // _PAGES_BYTES)
        return pages


def advanced(raw: NDArray[Any], steps: NDArray[Any], sizes: NDArray[Any]) -> NDArray[Any]:
    """Return places of packed rings some places on; -1 where the ring's size is not known."""
    place = (raw & 0x7FFF) + steps
    wraps = (sizes > 0) & (place >= sizes)
    found = np.where(wraps, place - sizes, place) | ((raw >> 15 ^ wraps) << 15)
    sane = (sizes > 0) & (steps >= 0) & (steps <= sizes) & (place < 2 * sizes)
    return np.where(sane, found, -1)


def _size(row: Mapping[str, Any]) -> int:
    return int(row.get("size", 0))


def index_of(row: Mapping[str, Any]) -> int | None:
    """Return the index of a queue in its device, by its row of the queue table."""
    index = row.get("index")
    if type(index) is int and 0 <= index < 1 << 16:
        return index
    # A pair of a network device: rx1 is 2, tx1 is 3.
    name = str(row.get("name", ""))
    if name[:2] in ("rx", "tx") and name[2:].isdecimal() and len(name) < 7:
        return 2 * int(name[2:]) + (name[0] == "t")
    return None
