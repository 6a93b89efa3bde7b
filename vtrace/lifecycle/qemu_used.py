"""Kernels: a chain that QEMU is done with, from the fill to the interrupt."""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import end_chain, waiting_row
from vtrace.lifecycle.codes import (
    AMBIGUOUS,
    BACK,
    D_RX,
    D_TX,
    F_POSITION,
    F_USED,
    FILLED,
    FREE,
    LOST,
    NP_IRQ,
    NP_SIGNAL,
    O_DISCARDED,
    O_USED,
    SEEN,
    SHARED,
)
from vtrace.lifecycle.held import queue_gap
from vtrace.lifecycle.memory import after_at, open_at, popped_at, queue_at, total_at, wait_at
from vtrace.lifecycle.packed import between, next_place
from vtrace.lifecycle.qemu_ring import doubtful, end_run, show_place, show_used
from vtrace.lifecycle.rings import look
from vtrace.lifecycle.used import decided, give_back, mark_signalled, no_signal, settle

__all__ = ["detach", "filled_in", "flush", "qemu_interrupt", "qemu_signal"]


@kernel
def filled_in(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The device is done with the chain, but the driver cannot see it yet."""
    q = queue_at(s, k)
    if e["flags"] & F_POSITION:
        show_place(s, k, e["position"], now)
    row = open_at(s, q["base"] + e["head"])
    if row["live"] == FREE or row["live"] == FILLED or doubtful(s, k, row):
        total_at(s, k)["unknown_used"] += 1
        return
    if row["live"] == BACK and s["strict"]:
        row["trust"] = AMBIGUOUS
    row["live"] = FILLED
    row["used_bytes"] = e["length"]
    row["filled"] = e["used"]
    if not q["in_order"] and not row["listed"] and q["waiting"] < q["cap"]:
        row["listed"] = 1
        wait_at(s, k, q["waiting"])["number"] = e["head"]
        q["waiting"] += 1


@kernel
def in_turn(s: Any, k: Any, now: Any, base: Any) -> Any:
    # VIRTIO_F_IN_ORDER: what is filled in becomes visible up to the first chain that is not.
    q = queue_at(s, k)
    q["turn"] = max(q["turn"], q["position"] - q["cap"])
    while q["turn"] < q["position"]:
        row = popped_at(s, k, q["turn"])
        if row["live"] != FREE and row["position"] == q["turn"] and row["place"] == base:
            break
        q["turn"] += 1
    found = 0
    while q["turn"] < q["position"]:
        row = popped_at(s, k, q["turn"])
        if row["live"] != FILLED or row["position"] != q["turn"]:
            break
        visible(s, k, row, now, q["used"] + row["places"])
        q["turn"] += 1
        found += 1
    return found


@kernel
def visible(s: Any, k: Any, row: Any, now: Any, end: Any) -> Any:
    # The chain is returned; its element ends before the place `end` of the used ring.
    q = queue_at(s, k)
    if q["packed"] and end > q["used"]:
        q["used_place"] = next_place(q, q["used_place"], end - q["used"])
    q["used"] = max(q["used"], end)
    give_back(s, k, row, now, end - 1)


@kernel
def flush(s: Any, k: Any, now: Any, e: Any) -> Any:
    """What was filled in becomes visible to the driver."""
    q = queue_at(s, k)
    known = e["flags"] & F_USED
    q["act"] += 1
    q["irq_early"] = 0
    if q["not_probed"] & NP_SIGNAL:
        no_signal(s, k, False)
        settle(s, k, q["after_signal"])
    if e["flags"] & F_POSITION:
        show_place(s, k, e["position"], now)
    if known:
        show_used(s, k, e["used"], now)
    found = 0
    if q["in_order"]:
        found = in_turn(s, k, now, e["used"])
    else:
        before = q["used"]
        for n in range(q["waiting"]):
            row = waiting_row(s, k, n)
            row["listed"] = 0
            if row["live"] != FILLED:
                continue
            ahead = q["used"] - before
            mine = True
            if known and q["packed"]:
                ahead = between(q, row["filled"], e["used"])
                mine = (ahead < q["size"] or not q["size"]) and not doubtful(s, k, row)
            elif known:
                ahead = (row["filled"] - e["used"]) & 0xFFFF
                mine = ahead < e["count"]
            if mine:
                visible(s, k, row, now, before + ahead + row["places"])
                found += 1
            else:
                # The FLUSH behind it is missing.
                row["trust"] = AMBIGUOUS
                end_chain(s, k, row, O_USED)
        q["waiting"] = 0
        if found != e["count"]:
            queue_gap(s, k, q["flush_ns"], now)
        if not q["packed"]:
            q["used"] = before + e["count"]
    q["flush_ns"] = now
    q["flush_tid"] = e["tid"]
    if found:
        q["join_sure"] = 1
    if q["direction"] == D_RX:
        # One packet is returned at a time.
        total_at(s, k)["packets"] += found > 0
        end_run(s, k, now)
    elif q["direction"] == D_TX:
        total_at(s, k)["packets"] += found


@kernel
def detach(s: Any, k: Any, e: Any) -> Any:
    """QEMU forgets the chain; the driver never gets it back."""
    q = queue_at(s, k)
    row = open_at(s, q["base"] + e["head"])
    if row["live"] == FREE or row["live"] == FILLED:
        return
    if doubtful(s, k, row):
        row["trust"] = AMBIGUOUS
    end_chain(s, k, row, O_DISCARDED)


@kernel
def raised(s: Any, k: Any, now: Any, end: Any) -> Any:
    # The interrupt is that of all chains before `end` whose signal asked for one.
    q = queue_at(s, k)
    first = True
    for at in range(q["after_irq"], end):
        row = after_at(s, k, at)
        if row["irq_state"] == LOST and row["signal_state"] <= SHARED:
            row["irq_ns"] = now
            row["irq_state"] = SEEN if first else SHARED
            first = False
    settle(s, k, end)


@kernel
def qemu_signal(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The device has decided whether to interrupt for all that was flushed since."""
    q = queue_at(s, k)
    sent = e["ret"] == 1
    due = q["irq_due"]
    before = q["after_signal"]
    if e["flags"] & F_USED:
        show_used(s, k, e["used"], now)
    look(s, k, now, e)
    decided(s, k, e)
    mark_signalled(s, k, sent, now)
    early = q["irq_early"]
    q["irq_early"] = 0
    if not sent:
        if not due:
            settle(s, k, q["after_signal"])
    elif early:
        settle(s, k, before)
        raised(s, k, early, q["after_signal"])
    elif q["not_probed"] & NP_IRQ:
        settle(s, k, q["after_signal"])
    else:
        q["irq_due"] = 1


@kernel
def qemu_interrupt(s: Any, k: Any, now: Any, e: Any) -> Any:
    """An interrupt was raised: for a decision before, or for the one under way."""
    q = queue_at(s, k)
    total_at(s, k)["irqs"] += 1
    if q["not_probed"] & NP_SIGNAL:
        no_signal(s, k, False)
        for at in range(q["after_irq"], q["after_signal"]):
            row = after_at(s, k, at)
            row["irq_ns"] = now
            row["irq_state"] = SHARED if at > q["after_irq"] else SEEN
        settle(s, k, q["after_signal"])
    elif q["irq_due"] and (q["after_signal"] == q["after_n"] or q["flush_tid"] != e["tid"]):
        raised(s, k, now, q["after_signal"])
    else:
        # From within the call that decides on it, of which the return is yet to come.
        q["irq_early"] = now
