"""Kernels: loss, and the finished chains that wait until none near them can show any more."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.codes import (
    AMBIGUOUS,
    HOLD_NS,
    HOLE_NS,
    LOST,
    SEEN_NS,
    SLACK_NS,
    TICK_NS,
)
from vtrace.lifecycle.layout import HOLD_ROWS

__all__ = ["close_hole", "gap", "push", "queue_gap", "ready", "release", "room", "sequence", "tick"]


@kernel
def mark_hold(s: Any, begin: Any) -> Any:
    one = s.one[0]
    mask = len(s.hold) - 1
    at = one["pushed"] - 1
    while at >= max(one["frozen"], one["taken"]):
        row = s.hold[at & mask]
        if row["pushed"] < begin:
            return
        if row["settled"] >= begin:
            row["trust"] = AMBIGUOUS
        at -= 1


@kernel
def mark_after(s: Any, begin: Any, slot: Any) -> Any:
    q = s.queue[slot]
    at = q["after_irq"] - 1
    while at >= q["after_first"]:
        row = s.after[q["base"] + (at & (q["cap"] - 1))]
        if row["settled"] < begin:
            return
        row["trust"] = AMBIGUOUS
        at -= 1


@kernel
def gap(s: Any, begin: Any, end: Any) -> Any:
    """Records were lost between two times, nobody knows of which queue."""
    one = s.one[0]
    one["gaps"] += 1
    one["gap_end"] = max(one["gap_end"], end)
    mark_hold(s, begin)
    for slot in range(one["slots"]):
        mark_after(s, begin, slot)


@kernel
def queue_gap(s: Any, k: Any, begin: Any, end: Any) -> Any:
    """What a queue shows does not fit: something of it is missing between two times.

    Chains that were through with their interrupt and proven to be consumed before stand.
    """
    q = s.queue[k]
    q["gap_end"] = max(q["gap_end"], end)
    mark_after(s, begin, k)


@kernel
def close_hole(s: Any, number: Any, now: Any) -> Any:
    # The next sequence number of a CPU is lost; go on behind the hole.
    c = s.cpu[number]
    one = s.one[0]
    gap(s, c["last_ns"] - SLACK_NS, c["hole_ns"] + SLACK_NS)
    while (c["seen"] & np.uint64(1)) == 0:
        c["seen"] = c["seen"] >> np.uint64(1)
        c["next"] += 1
        one["missing"] += 1
    skip_seen(c)
    c["last_ns"] = max(c["last_ns"], c["hole_ns"])
    c["hole_ns"] = now if c["seen"] else 0


@kernel
def skip_seen(c: Any) -> Any:
    while c["seen"] & np.uint64(1):
        c["seen"] = c["seen"] >> np.uint64(1)
        c["next"] += 1


@kernel
def clean_ns(s: Any) -> Any:
    """Return the time before which no CPU can turn out to have lost a record."""
    clean = np.int64(0x7FFFFFFFFFFFFFFF)
    for n in range(s.one[0]["cpus"]):
        clean = min(clean, s.cpu[s.cpus[n]]["last_ns"] - SLACK_NS)
    return clean


@kernel
def new_cpu(s: Any, number: Any, seq: Any, now: Any) -> Any:
    one = s.one[0]
    c = s.cpu[number]
    # What others have been cleared of is out of the house: look back no further.
    begin = clean_ns(s)
    c["known"] = 1
    s.cpus[one["cpus"]] = number
    one["cpus"] += 1
    if not one["begun"]:
        one["begun"] = 1
        one["first_ns"] = now
        # A recording begins at 0 on all CPUs; what was cut out of one does not.
        one["from_start"] = seq < 64
    c["last_ns"] = one["first_ns"] if one["cpus"] == 1 else begin + SLACK_NS
    c["next"] = 0 if one["from_start"] and seq < 0x10000 else seq


@kernel
def sequence(s: Any, number: Any, seq: Any, now: Any) -> Any:
    """Take in the sequence number of a record; find the ones that are missing.

    Records of a CPU are not quite in order, as some state the time at which an act began and are
    written when it ended. ``next`` is the lowest number that has not come, bit n of ``seen`` says
    that ``next + n`` has.
    """
    c = s.cpu[number]
    if not c["known"]:
        new_cpu(s, number, seq, now)
    ahead = (seq - c["next"]) & 0xFFFFFFFF
    if ahead == 0:
        c["next"] = seq + 1
        if c["seen"]:
            c["seen"] = c["seen"] >> np.uint64(1)
            skip_seen(c)
            c["hole_ns"] = now if c["seen"] else 0
        c["last_ns"] = now
        return
    if ahead >= 0x80000000:
        s.one[0]["late"] += 1
        return
    if c["hole_ns"] == 0:
        c["hole_ns"] = now
    while c["hole_ns"] and (ahead >= 64 or now > c["hole_ns"] + HOLE_NS):
        if c["seen"] == 0:
            # Nothing behind the hole but this record.
            gap(s, c["last_ns"] - SLACK_NS, c["hole_ns"] + SLACK_NS)
            s.one[0]["missing"] += ahead
            c["next"] = seq + 1
            c["hole_ns"] = 0
            c["last_ns"] = now
            return
        close_hole(s, number, now)
        ahead = (seq - c["next"]) & 0xFFFFFFFF
        if ahead == 0:
            c["next"] = seq + 1
            c["hole_ns"] = 0
            c["last_ns"] = now
            return
        if c["hole_ns"] == 0:
            c["hole_ns"] = now
            if ahead < 64:
                break
    c["seen"] |= np.uint64(1) << np.uint64(ahead)


@kernel
def push(s: Any, row: Any) -> Any:
    """Hold a finished chain; when too many are held, the oldest is final."""
    one = s.one[0]
    place = one["pushed"] & (len(s.hold) - 1)
    s.hold[place] = row
    s.hold[place]["pushed"] = one["now"]
    one["pushed"] += 1
    one["frozen"] = max(one["frozen"], one["pushed"] - HOLD_ROWS)


@kernel
def release(s: Any, k: Any) -> Any:
    """Let go of the used chains of a queue that wait for nothing more."""
    q = s.queue[k]
    end = min(q["after_irq"], q["after_seen"])
    while q["after_first"] < end:
        push(s, s.after[q["base"] + (q["after_first"] & (q["cap"] - 1))])
        q["after_first"] += 1


@kernel
def room(s: Any) -> Any:
    """Return whether the chains that a record or a queue can finish at once can be held."""
    one = s.one[0]
    return one["pushed"] - one["taken"] + 2 * one["most_heads"] + 8 <= len(s.hold)


@kernel
def tick(s: Any, now: Any) -> Any:
    """Give up waiting for what does not come; at times that the stream alone decides.

    False: no room for more held chains; to be called again.
    """
    one = s.one[0]
    while one["tick_slot"] < one["slots"]:
        if not room(s):
            return False
        k = one["tick_slot"]
        q = s.queue[k]
        while q["after_seen"] < q["after_irq"]:
            row = s.after[q["base"] + (q["after_seen"] & (q["cap"] - 1))]
            if row["used_ns"] + SEEN_NS > now:
                break
            row["seen_state"] = LOST
            q["after_seen"] += 1
        release(s, k)
        one["tick_slot"] += 1
    one["tick_slot"] = 0
    one["tick"] = now - now % TICK_NS + TICK_NS
    mask = len(s.hold) - 1
    while one["frozen"] < one["pushed"]:
        if s.hold[one["frozen"] & mask]["pushed"] + HOLD_NS > now:
            break
        one["frozen"] += 1
    return True


@kernel
def ready(s: Any) -> Any:
    """Return how many held chains no loss can touch any more."""
    one = s.one[0]
    clean = clean_ns(s)
    mask = len(s.hold) - 1
    at = max(one["frozen"], one["taken"])
    while at < one["pushed"] and s.hold[at & mask]["pushed"] < clean:
        at += 1
    return at - one["taken"]
