"""Kernels: a chain from the used ring through signal and interrupt to the driver's proof."""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.codes import (
    AMBIGUOUS,
    BACK,
    COMPLETE,
    D_TX,
    F_AVAIL,
    F_EVENT,
    F_EVENT_IDX,
    F_FAULT,
    F_NO_INTERRUPT,
    F_USED,
    FREE,
    LOST,
    NP_BACKEND,
    NP_IRQ,
    NP_SEEN,
    NP_SIGNAL,
    O_USED,
    PARTIAL,
    SEEN,
    SHARED,
    SUPPRESSED,
    SURE,
    UNKNOWN,
)
from vtrace.lifecycle.held import queue_gap, release, touched
from vtrace.lifecycle.memory import (
    after_at,
    copy_row,
    open_at,
    queue_at,
    total_at,
)
from vtrace.lifecycle.packets import joined
from vtrace.lifecycle.rings import signed16, unwrap

__all__ = [
    "decided",
    "drop_after",
    "give_back",
    "interrupt",
    "mark_signalled",
    "need_event",
    "no_signal",
    "proof",
    "settle",
    "signal",
    "used",
    "used_place",
]


@kernel
def need_event(event: Any, new: Any, old: Any) -> Any:
    """Return whether the index passed ``event + 1`` on its way from ``old`` to ``new``."""
    return ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)


@kernel
def no_signal(s: Any, k: Any, ended: Any) -> Any:
    """The decision for the used chains that wait for one was not seen."""
    q = queue_at(s, k)
    missing = not q["not_probed"] & NP_SIGNAL
    while q["after_signal"] < q["after_n"]:
        row = after_at(s, k, q["after_signal"])
        row["signal_state"] = LOST
        row["irq_state"] = LOST if missing else SUPPRESSED
        if missing and not ended:
            if s["strict"]:
                row["trust"] = AMBIGUOUS
        elif missing and row["trust"] == COMPLETE:
            row["trust"] = PARTIAL
        q["after_signal"] += 1


@kernel
def settle(s: Any, k: Any, end: Any) -> Any:
    """Signal and interrupt of all used chains before ``end`` are known, or never will be."""
    q = queue_at(s, k)
    while q["after_irq"] < end:
        row = after_at(s, k, q["after_irq"])
        row["settled"] = s["now"]
        touched(s, k, row)
        q["after_irq"] += 1
    q["irq_due"] = 0
    if q["not_probed"] & NP_SEEN:
        q["after_seen"] = q["after_irq"]
    release(s, k)


@kernel
def drop_after(s: Any, k: Any, ended: Any) -> Any:
    """Let go of all used chains of a queue: reset, or the end of the recording."""
    q = queue_at(s, k)
    if ended and q["irq_due"] and not q["not_probed"] & NP_IRQ:
        for at in range(q["after_irq"], q["after_signal"]):
            row = after_at(s, k, at)
            if row["trust"] == COMPLETE and row["irq_state"] == LOST:
                row["trust"] = PARTIAL
    no_signal(s, k, ended)
    q["after_seen"] = max(q["after_seen"], q["after_n"])
    settle(s, k, q["after_n"])


@kernel
def used_place(s: Any, k: Any, index: Any, now: Any, step: Any) -> Any:
    """The worker shows its place in the used ring; it moves on by ``step``."""
    q = queue_at(s, k)
    if q["used_known"] == SURE:
        ahead = signed16(index - q["used"])
        if ahead:
            queue_gap(s, k, q["used_ns"], now)
            q["used"] = max(q["used"] + ahead, 0)
    elif q["used_known"] == UNKNOWN:
        q["used"] = index
    else:
        q["used"] = unwrap(q["used"], index)
    q["used_known"] = SURE
    q["used_ns"] = now
    q["used"] += step


@kernel
def end_act(s: Any, k: Any, now: Any) -> Any:
    # Of the act under way, were all elements recorded?
    q = queue_at(s, k)
    if q["act_seen"] < q["act_count"]:
        queue_gap(s, k, q["act_ns"], now)
        if s["strict"]:
            q["used"] = max(q["used"], q["act_first"] + q["act_count"])
    q["act_seen"] = q["act_count"]


@kernel
def same_user(s: Any, k: Any, row: Any, index: Any) -> Any:
    # After a loss, the head may be another chain's by now; unless the order of all says no.
    q = queue_at(s, k)
    gap_end = max(s["gap_end"], q["gap_end"])
    if gap_end == 0 or gap_end < row["pop_ns"]:
        return True
    return q["skew_known"] and index - q["skew"] == row["position"]


@kernel
def used(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The device returns a chain: one element of an act of ``count``."""
    q = queue_at(s, k)
    count = e["count"]
    if q["act"] == 0 or now != q["act_ns"] or count != q["act_count"]:
        end_act(s, k, now)
        if q["after_signal"] < q["after_n"]:
            no_signal(s, k, False)
        settle(s, k, q["after_signal"])
        used_place(s, k, e["used"], now, 0)
        q["act"] += 1
        q["act_ns"] = now
        q["act_first"] = q["used"]
        q["act_count"] = count
        q["act_seen"] = 0
    index = max(q["act_first"] + signed16(e["used"] - q["act_first"]), 0)
    q["used"] = max(q["used"], index + 1)
    q["act_seen"] += 1
    head = e["head"]
    row = open_at(s, q["base"] + head)
    if row["live"] == FREE or not same_user(s, k, row, index):
        total_at(s, k)["unknown_used"] += 1
        return
    again = row["live"] == BACK
    if not joined(s, k, row) and not q["not_probed"] & NP_BACKEND:
        again = True
    if again and s["strict"]:
        # It was popped again, or its RECV or SEND came; that is missing.
        row["trust"] = AMBIGUOUS
    row["used_bytes"] = e["length"]
    give_back(s, k, row, now, index)


@kernel
def give_back(s: Any, k: Any, row: Any, now: Any, index: Any) -> Any:
    """A chain is in the used ring at ``index``: it waits for signal, interrupt and proof."""
    q = queue_at(s, k)
    if q["after_n"] - q["after_first"] >= q["cap"]:
        give_way(s, k)
    row["outcome"] = O_USED
    row["direction"] = q["direction"]
    row["batch"] = q["act"]
    row["used_ns"] = now
    row["used_state"] = SEEN
    row["used_index"] = index
    row["signal_state"] = LOST
    row["irq_state"] = LOST
    row["seen_state"] = LOST
    row["live"] = FREE
    q["open_n"] -= 1
    copy_row(after_at(s, k, q["after_n"]), row)
    q["after_n"] += 1


@kernel
def give_way(s: Any, k: Any) -> Any:
    # The oldest used chain has waited for its proof long enough: the ring went round.
    q = queue_at(s, k)
    if q["after_signal"] == q["after_first"]:
        q["after_signal"] += 1
    end = max(q["after_irq"], q["after_first"] + 1)
    q["after_seen"] = max(q["after_seen"], q["after_first"] + 1)
    settle(s, k, end)


@kernel
def signal(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The device decides whether to interrupt the driver for the act just done."""
    q = queue_at(s, k)
    sent = e["ret"] == 1
    settle(s, k, q["after_signal"])
    if e["flags"] & F_USED:
        end_act(s, k, now)
        used_place(s, k, e["used"], now, 0)
    decided(s, k, e)
    mark_signalled(s, k, sent, now)
    if sent and not q["not_probed"] & NP_IRQ:
        q["irq_due"] = 1
    else:
        settle(s, k, q["after_signal"])


@kernel
def decided(s: Any, k: Any, e: Any) -> Any:
    """Count a decision to interrupt or not; nothing is known of what a packed ring asks for."""
    q = queue_at(s, k)
    total = total_at(s, k)
    flags = e["flags"]
    sent = e["ret"] == 1
    needed = sent
    if q["packed"]:
        pass
    elif flags & F_EVENT_IDX:
        if flags & F_EVENT and q["signalled_known"] and flags & F_USED:
            needed = need_event(e["event"], e["used"], q["signalled"])
    elif not flags & F_FAULT:
        needed = flags & F_NO_INTERRUPT == 0
    total["interrupts_needed"] += needed
    total["interrupts_sent"] += sent
    total["interrupts_suppressed"] += not sent
    total["interrupts_spurious"] += sent and not needed
    if flags & F_USED:
        q["signalled"] = e["used"]
        q["signalled_known"] = 1


@kernel
def mark_signalled(s: Any, k: Any, sent: Any, now: Any) -> Any:
    """Give all used chains that wait for a decision this one."""
    q = queue_at(s, k)
    first = True
    while q["after_signal"] < q["after_n"]:
        row = after_at(s, k, q["after_signal"])
        row["signal_ns"] = now
        if sent:
            row["signal_state"] = SEEN if first else SHARED
            row["irq_state"] = LOST
        else:
            row["signal_state"] = SUPPRESSED
            row["irq_state"] = SUPPRESSED
        first = False
        q["after_signal"] += 1


@kernel
def interrupt(s: Any, k: Any, now: Any) -> Any:
    """The interrupt went to KVM."""
    q = queue_at(s, k)
    total_at(s, k)["irqs"] += 1
    if q["after_signal"] < q["after_n"]:
        settle(s, k, q["after_signal"])
        no_signal(s, k, False)
    first = True
    for at in range(q["after_irq"], q["after_signal"]):
        row = after_at(s, k, at)
        row["irq_ns"] = now
        row["irq_state"] = SEEN if first else SHARED
        first = False
    settle(s, k, q["after_signal"])


@kernel
def proof(s: Any, k: Any, now: Any, e: Any) -> Any:
    """Find what the driver must have taken out of the used ring by now.

    It can have given out no more chains than the ring holds: available index - size. With event
    index it states what it took, as used_event; a transmit driver may state a place up to three
    quarters of its open chains ahead (virtqueue_enable_cb_delayed). 0 is written to disable.
    """
    q = queue_at(s, k)
    if q["used_known"] == UNKNOWN:
        return
    taken = 0
    if q["packed"]:
        # What the driver makes available must not be more than what the ring has room for.
        if q["skew_known"] and q["size"]:
            taken = q["reach"] + q["skew"] - q["size"]
    elif q["skew_known"] and q["avail_known"]:
        taken = q["avail"] + q["skew"] - q["cap"]
    flags = e["flags"]
    if flags & F_EVENT and flags & F_EVENT_IDX and e["event"] != 0:
        event = q["used"] + signed16(e["event"] - q["used"])
        if q["direction"] != D_TX:
            if q["used"] - q["cap"] <= event <= q["used"]:
                taken = max(taken, event)
        elif flags & F_AVAIL and q["skew_known"]:
            ahead = q["avail"] + q["skew"]
            if q["used"] - q["cap"] <= event <= ahead:
                taken = max(taken, 4 * event - 3 * ahead)
    taken = min(taken, q["used"])
    if taken <= q["proven"]:
        return
    q["proven"] = taken
    first = True
    while q["after_seen"] < q["after_n"]:
        row = after_at(s, k, q["after_seen"])
        if row["used_index"] >= taken:
            break
        row["seen_ns"] = now
        row["seen_state"] = SEEN if first else SHARED
        first = False
        q["after_seen"] += 1
    release(s, k)
