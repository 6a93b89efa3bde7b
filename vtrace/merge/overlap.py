"""Who tells of what two sources saw: nothing is counted twice.

Of each queue's ring, of its drops, of each thread's exits and of its scheduling one source tells at
a time: the one with more kinds of events, then with more events, then the one that was named first.
From its first to its last event of that, and a little around, the same of the others is left out
and counted. Before and behind, the others tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.merge.survey import keys_of
from vtrace.model import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.merge.clocks import Placed
    from vtrace.merge.ids import Ids

__all__ = ["Overlap", "merged_keys"]

SURE: Final = 4
"""Times the uncertainty, within which 90 % are: no event is further off ..."""
APART_NS: Final = 10_000
"""... than that, and this: two probes at one function do not read the clock at one moment."""

_CAPTURED: Final = 3
_NAMES: Final = {kind.value: kind.name for kind in Kind}


def merged_keys(one: Placed, ids: Ids, keys: NDArray[Any]) -> NDArray[np.uint64]:
    """Return keys of a source with the numbers of the merged file and its host in them."""
    group, about = keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)
    threads = (group == 2) | (group == 4)
    queue = ids.queues[np.where(threads, 0, about).astype(np.int64) & 0xFFFF].astype(np.uint64)
    host = np.where(queue == 0, np.uint64(one.host), np.uint64(0))
    about = np.where(threads, about, queue)
    made: NDArray[np.uint64] = (host << np.uint64(40)) | (group << np.uint64(32)) | about
    return made


class Overlap:
    """Stretches in which another source tells, for each source."""

    def __init__(self, placed: Sequence[Placed], ids: Sequence[Ids]) -> None:
        self._placed, self._ids = placed, ids
        self.left_out: list[dict[str, int]] = [{} for _ in placed]
        """For each source: kind -> events that are left out."""
        self._spans: list[list[NDArray[Any]]] = [[] for _ in placed]
        rows: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for one, own in zip(placed, ids, strict=True):
            rows.append((merged_keys(one, own, one.source.seen["key"]), one.source.seen))
        for index in range(len(placed)):
            for other in range(len(placed)):
                if other != index:
                    self._add(index, other, rows)

    def _add(self, index: int, other: int, rows: list[tuple[NDArray[Any], NDArray[Any]]]) -> None:
        # What ``other`` tells of what ``index`` has too.
        (mine, my), (theirs, their) = rows[index], rows[other]
        if self._placed[index].part == self._placed[other].part:
            # Of one recording what both have is the same record: ``order`` finds those.
            return
        _, at, where = np.intersect1d(mine, theirs, return_indices=True)
        at = at[my["key"][at] >> np.uint64(32) != _CAPTURED]
        where = where[their["key"][where] >> np.uint64(32) != _CAPTURED]
        a, b = my[at], their[where]
        many = np.array([int(kinds).bit_count() for kinds in b["kinds"].tolist()], np.int64)
        few = np.array([int(kinds).bit_count() for kinds in a["kinds"].tolist()], np.int64)
        ahead = (many > few) | (
            (many == few)
            & ((b["count"] > a["count"]) | ((b["count"] == a["count"]) & (other < index)))
        )
        if not ahead.any():
            return
        base = self._placed[other]
        slack = (base.uncertainty_ns or 0) + (self._placed[index].uncertainty_ns or 0)
        slack = SURE * slack + APART_NS
        made = np.zeros(int(ahead.sum()), [("key", "<u8"), ("first", "<i8"), ("last", "<i8")])
        made["key"] = mine[at][ahead]
        made["first"] = b["first"][ahead] + base.offset_ns - slack
        made["last"] = b["last"][ahead] + base.offset_ns + slack
        self._spans[index].append(made[np.argsort(made["key"])])

    def keep(self, index: int, batch: EventBatch, times: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which records of a source's batch are told by it; ``times`` on the axis."""
        kept = np.ones(len(batch), np.bool_)
        spans = self._spans[index]
        if not spans or not len(batch):
            return kept
        keys = merged_keys(self._placed[index], self._ids[index], keys_of(batch))
        for rows in spans:
            at = np.minimum(np.searchsorted(rows["key"], keys), len(rows) - 1)
            hit = rows["key"][at] == keys
            kept &= ~(hit & (times >= rows["first"][at]) & (times <= rows["last"][at]))
        self.leave_out(index, batch["kind"][~kept])
        return kept

    def leave_out(self, index: int, kinds: NDArray[Any]) -> None:
        """Count records of a source that are left out."""
        found = self.left_out[index]
        for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True):
            name = _NAMES.get(int(kind), str(int(kind)))
            found[name] = found.get(name, 0) + int(count)
