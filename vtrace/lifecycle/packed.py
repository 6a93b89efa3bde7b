"""Kernels: places in a packed ring.

A raw place is ``place | wrap << 15``; the wrap counter turns over each time the ring has been gone
round. Two places that follow each other in time differ by less than two rounds.
"""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.codes import SURE, UNKNOWN
from vtrace.lifecycle.held import queue_gap
from vtrace.lifecycle.memory import queue_at

__all__ = ["between", "next_place", "packed_place", "packed_used"]


@kernel
def next_place(q: Any, place: Any, count: Any) -> Any:
    """Return the raw place that is ``count`` places behind another."""
    index = (place & 0x7FFF) + count
    wrap = place & 0x8000
    if q["size"] and index >= q["size"]:
        index -= q["size"]
        wrap ^= 0x8000
    return (index & 0x7FFF) | wrap


@kernel
def between(q: Any, place: Any, before: Any) -> Any:
    """Return how many places one has to go from ``before`` to ``place``: below two rounds."""
    size = q["size"] or 0x8000
    ahead = (place & 0x7FFF) - (before & 0x7FFF)
    if (place ^ before) & 0x8000:
        ahead += size
    return ahead % (2 * size)


@kernel
def learn_size(s: Any, q: Any, place: Any, expected: Any) -> Any:
    # Where the queue table does not say, the first time around shows it; unless something is lost.
    ahead = (expected & 0x7FFF) - (place & 0x7FFF)
    if not q["size"] and not s["strict"] and (place ^ expected) & 0x8000 and ahead > 0:
        q["size"] = ahead
        return True
    return False


@kernel
def packed_place(s: Any, k: Any, place: Any, now: Any) -> Any:
    """The device shows its next place in the available ring: does it fit?"""
    q = queue_at(s, k)
    known = q["position_known"] == SURE
    if not known:
        # Chains of before may be handed back.
        q["position"] += 0x8000
    elif place != q["place"] and not learn_size(s, q, place, q["place"]):
        queue_gap(s, k, q["position_ns"], now)
        q["skew_known"] = 0
    q["place"] = place
    q["position_known"] = SURE
    q["position_ns"] = now


@kernel
def packed_used(s: Any, k: Any, place: Any, now: Any) -> Any:
    """The device shows its next place in the used ring: does it fit?"""
    q = queue_at(s, k)
    known = q["used_known"] != UNKNOWN
    if known and place != q["used_place"] and not learn_size(s, q, place, q["used_place"]):
        queue_gap(s, k, q["used_ns"], now)
        q["used"] += between(q, place, q["used_place"])
    q["used_place"] = place
    q["used_known"] = SURE
    q["used_ns"] = now
