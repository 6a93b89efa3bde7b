"""Kernels: loss, and the finished chains that wait until none near them can show any more."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.codes import (
    AMBIGUOUS,
    FILLED,
    HOLD_NS,
    HOLE_NS,
    LOST,
    NOT_APPLICABLE,
    POPPED,
    SEEN_NS,
    SLACK_NS,
    TICK_NS,
)
from vtrace.lifecycle.layout import HOLD_ROWS, SEQ_WINDOW
from vtrace.lifecycle.memory import (
    after_at,
    copy_row,
    cpu_at,
    hold_at,
    number_at,
    popped_at,
    queue_at,
)

__all__ = [
    "close_hole",
    "gap",
    "push",
    "queue_gap",
    "ready",
    "release",
    "room",
    "sequence",
    "tick",
    "touched",
]


@kernel
def touched(s: Any, k: Any, row: Any) -> Any:
    """Set the trust of a chain to ambiguous if records were lost since it began."""
    gap_end = max(s["gap_end"], queue_at(s, k)["gap_end"])
    if gap_end and gap_end >= row["start"]:
        row["trust"] = AMBIGUOUS


@kernel
def strike(row: Any, begin: Any, end: Any) -> Any:
    # Something was lost near the chain. A packet that it was given then may be another's.
    row["trust"] = AMBIGUOUS
    if row["packed"] and row["used_ns"] >= begin and row["pop_ns"] <= end:
        # Places come again after two rounds, and so may its head have.
        row["used_ns"] = 0
        row["used_state"] = LOST
        row["signal_ns"] = 0
        row["signal_state"] = LOST
        row["irq_ns"] = 0
        row["irq_state"] = LOST
        row["seen_ns"] = 0
        row["seen_state"] = LOST
    if row["joined"] and row["pop_ns"] <= end and row["backend_ns"] >= begin:
        row["packet"] = 0
        row["backend_ns"] = 0
        row["backend_state"] = LOST
        row["enqueue_ns"] = 0
        if row["enqueue_state"] != NOT_APPLICABLE:
            row["enqueue_state"] = LOST


@kernel
def mark_hold(s: Any, begin: Any, end: Any) -> Any:
    at = s["pushed"] - 1
    while at >= max(s["frozen"], s["taken"]):
        row = hold_at(s, at)
        if row["pushed"] < begin:
            return
        if row["settled"] >= begin and row["start"] <= end:
            strike(row, begin, end)
        at -= 1


@kernel
def mark_queue(s: Any, k: Any, begin: Any, end: Any) -> Any:
    # Chains that are used; then those that are popped and not.
    q = queue_at(s, k)
    at = q["after_n"] - 1
    while at >= q["after_first"]:
        row = after_at(s, k, at)
        if at < q["after_irq"] and row["settled"] < begin:
            break
        if row["start"] <= end:
            strike(row, begin, end)
        at -= 1
    position = q["position"] - 1
    idle = 0
    while position >= max(q["position"] - q["cap"], 0) and idle < 64:
        row = popped_at(s, k, position)
        if row["live"] in (POPPED, FILLED) and row["position"] == position:
            strike(row, begin, end)
            idle = 0
        idle += 1
        position -= 1


@kernel
def gap(s: Any, begin: Any, end: Any) -> Any:
    """Records were lost between two times, nobody knows of which queue."""
    s["gaps"] += 1
    s["gap_end"] = max(s["gap_end"], end)
    mark_hold(s, begin, end)
    for slot in range(s["slots"]):
        mark_queue(s, slot, begin, end)


@kernel
def seq_gap(s: Any, begin: Any, end: Any, count: Any) -> Any:
    # A filtered file has gaps too: they count where the counters of the probes tell of a loss.
    if s["lost"] > s["missing"] or s["losing"]:
        s["missing"] += count
        gap(s, begin, end)


@kernel
def queue_gap(s: Any, k: Any, begin: Any, end: Any) -> Any:
    """What a queue shows does not fit: something of it is missing between two times.

    Chains that were through with their interrupt and proven to be consumed before stand.
    """
    if not s["strict"]:
        # Nothing is on record as lost: a filter has picked what is here.
        return
    q = queue_at(s, k)
    q["gap_end"] = max(q["gap_end"], end)
    mark_queue(s, k, begin, end)


@kernel
def skip_seen(c: Any) -> Any:
    while c["ahead"] and c["seen"][c["next"] & (SEQ_WINDOW - 1)]:
        c["seen"][c["next"] & (SEQ_WINDOW - 1)] = 0
        c["next"] += 1
        c["ahead"] -= 1


@kernel
def close_hole(s: Any, number: Any, now: Any) -> Any:
    """Take the next sequence numbers of a CPU for lost, up to one that came."""
    c = cpu_at(s, number)
    count = 0
    while c["ahead"] and not c["seen"][c["next"] & (SEQ_WINDOW - 1)]:
        c["next"] += 1
        count += 1
    seq_gap(s, c["last_ns"] - SLACK_NS, c["hole_ns"] + SLACK_NS, count)
    skip_seen(c)
    c["last_ns"] = max(c["last_ns"], c["hole_ns"])
    c["hole_ns"] = now if c["ahead"] else 0


@kernel
def clean_ns(s: Any) -> Any:
    """Return the time before which no CPU can turn out to have lost a record."""
    clean = np.int64(0x7FFFFFFFFFFFFFFF)
    for n in range(s["cpus"]):
        clean = min(clean, cpu_at(s, number_at(s, n)["number"])["last_ns"] - SLACK_NS)
    return clean


@kernel
def new_cpu(s: Any, number: Any, seq: Any, now: Any) -> Any:
    c = cpu_at(s, number)
    # What others have been cleared of is out of the house: look back no further.
    begin = clean_ns(s)
    c["known"] = 1
    number_at(s, s["cpus"])["number"] = number
    s["cpus"] += 1
    if not s["begun"]:
        s["begun"] = 1
        s["first_ns"] = now
        # A recording begins at 0 on all CPUs; what was cut out of one does not.
        s["from_start"] = seq < 64
    c["last_ns"] = s["first_ns"] if s["cpus"] == 1 else begin + SLACK_NS
    c["next"] = 0 if s["from_start"] and seq < 0x10000 else seq


@kernel
def sequence(s: Any, number: Any, seq: Any, now: Any) -> Any:
    """Take in the sequence number of a record; find the ones that are missing.

    Records of a CPU are not quite in order, as some state the time at which an act began and are
    written when it ended. ``next`` is the lowest number that has not come, ``seen`` says which
    behind it have, ``ahead`` how many.
    """
    c = cpu_at(s, number)
    if not c["known"]:
        new_cpu(s, number, seq, now)
    while c["hole_ns"] and now > c["hole_ns"] + HOLE_NS:
        close_hole(s, number, now)
    ahead = (seq - c["next"]) & 0xFFFFFFFF
    if ahead >= 0x80000000:
        s["late"] += 1
        return
    while ahead >= SEQ_WINDOW and c["ahead"]:
        close_hole(s, number, now)
        ahead = (seq - c["next"]) & 0xFFFFFFFF
    if ahead >= SEQ_WINDOW:
        seq_gap(s, c["last_ns"] - SLACK_NS, now + SLACK_NS, ahead)
        c["next"] = seq
        ahead = 0
    if ahead == 0:
        c["next"] += 1
        c["last_ns"] = now
        if c["ahead"]:
            skip_seen(c)
            c["hole_ns"] = now if c["ahead"] else 0
        return
    if c["hole_ns"] == 0:
        c["hole_ns"] = now
    at = (c["next"] + ahead) & (SEQ_WINDOW - 1)
    c["ahead"] += 1 - c["seen"][at]
    c["seen"][at] = 1


@kernel
def push(s: Any, row: Any) -> Any:
    """Hold a finished chain; when too many are held, the oldest is final."""
    place = hold_at(s, s["pushed"])
    copy_row(place, row)
    place["pushed"] = s["now"]
    s["pushed"] += 1
    s["frozen"] = max(s["frozen"], s["pushed"] - HOLD_ROWS)


@kernel
def release(s: Any, k: Any) -> Any:
    """Let go of the used chains of a queue that wait for nothing more."""
    q = queue_at(s, k)
    end = min(q["after_irq"], q["after_seen"])
    while q["after_first"] < end:
        push(s, after_at(s, k, q["after_first"]))
        q["after_first"] += 1


@kernel
def give_up(s: Any, k: Any, now: Any) -> Any:
    # QEMU may signal for several batches at once, and interrupt for several signals: no later
    # batch says that one has been missed. Time does.
    q = queue_at(s, k)
    while q["after_irq"] < q["after_n"]:
        row = after_at(s, k, q["after_irq"])
        if row["used_ns"] + SEEN_NS > now:
            return
        if q["after_signal"] == q["after_irq"]:
            q["after_signal"] += 1
            if s["strict"]:
                row["trust"] = AMBIGUOUS
        row["settled"] = now
        touched(s, k, row)
        q["after_irq"] += 1
    q["irq_due"] = 0


@kernel
def room(s: Any) -> Any:
    """Return whether the chains that a record or a queue can finish at once can be held."""
    return s["pushed"] - s["taken"] + 2 * s["most_heads"] + 8 <= s["hold_rows"]


@kernel
def tick(s: Any, now: Any) -> Any:
    """Give up waiting for what does not come; at times that the stream alone decides.

    False: no room for more held chains; to be called again.
    """
    while s["tick_slot"] < s["slots"]:
        if not room(s):
            return False
        k = s["tick_slot"]
        q = queue_at(s, k)
        if q["qemu"]:
            give_up(s, k, now)
        while q["after_seen"] < q["after_irq"]:
            row = after_at(s, k, q["after_seen"])
            if row["used_ns"] + SEEN_NS > now:
                break
            row["seen_state"] = LOST
            q["after_seen"] += 1
        release(s, k)
        s["tick_slot"] += 1
    s["tick_slot"] = 0
    s["tick"] = now - now % TICK_NS + TICK_NS
    while s["frozen"] < s["pushed"]:
        if hold_at(s, s["frozen"])["pushed"] + HOLD_NS > now:
            break
        s["frozen"] += 1
    return True


@kernel
def ready(state: Any) -> Any:
    """Return how many held chains no loss can touch any more."""
    s = state[0]
    clean = clean_ns(s)
    at = max(s["frozen"], s["taken"])
    while at < s["pushed"] and hold_at(s, at)["pushed"] < clean:
        at += 1
    return at - s["taken"]
