"""Kernels of the stall rules: one pass over the records, one row of state for each queue."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtrace.diagnose.stalls_device import (
    close_pin,
    close_rounds,
    close_storm,
    close_work,
    pin,
    round_over,
    signal,
    storm,
    storm_second,
    work,
)
from vtrace.diagnose.stalls_driver import (
    close_driver,
    for_driver,
    interrupted,
    look,
)
from vtrace.diagnose.stalls_layout import (
    EAGAIN,
    EMPTY,
    ENABLE,
    ENQUEUE,
    EXIT,
    F_AVAIL,
    F_EVENT,
    F_EVENT_IDX,
    F_NO_INTERRUPT,
    F_POSITION,
    F_USED,
    HAND_BACK,
    IRQ,
    KICK,
    POP,
    RECV,
    REFUSE,
    RUN,
    RX,
    SEND,
    SIGNAL,
    START,
    STOP,
    TX,
    USED,
    WAKE,
)
from vtrace.diagnose.stalls_vcpu import (
    vcpu,
)
from vtrace.lifecycle.cachedir import kernel

__all__ = [
    "advance",
    "doubt",
    "finish",
    "forget",
    "sampled",
]


@kernel
def stopped(one: Any, out: Any, threads: Any, vms: Any, q: Any, t: Any) -> Any:
    """The ring is begun anew: end all that was under way, and forget it."""
    close_driver(one, out, q, 0)
    close_pin(one, out, threads, vms, q, t, 0)
    close_work(one, out, threads, vms, q, t, 0)
    close_rounds(one, out, q, 0)
    storm_second(q)
    close_storm(one, out, q, 0)
    lose(q)


@kernel
def lose(q: Any) -> Any:
    for_driver(q)
    q["avail_known"] = 0
    q["event_known"] = 0
    q["used_known"] = 0
    q["signalled_known"] = 0
    q["armed"] = 0
    q["pending"] = 0
    q["pin_ns"] = 0
    q["work_ns"] = 0
    q["r11_ns"] = 0
    q["rounds"] = 0
    q["s3_start_ns"] = 0
    q["s3_idle"] = 0
    q["s3_irqs"] = 0
    q["told"] = 0
    q["told_used"] = -1


@kernel
def forget(queues: Any, threads: Any) -> Any:
    """Forget all that is under way: nobody knows what happened in between."""
    for k in range(len(queues)):
        lose(queues[k])
    for i in range(len(threads)):
        threads[i]["on_ns"] = 0
        threads[i]["want_ns"] = 0


@kernel
def doubt(one: Any, queues: Any, vms: Any, threads: Any) -> Any:
    """Records were lost: begin anew with all that rests on a record that did not come.

    That the driver's side of a ring still is what it was rests on none: only time begins anew, and
    an interrupt that was not seen to arrive may have.
    """
    for i in range(len(threads)):
        threads[i]["on_ns"] = 0
        threads[i]["want_ns"] = 0
    for k in range(len(queues)):
        q = queues[k]
        sent, irqs, avail_known, event_known = (
            q["irq_ns"],
            q["irqs"],
            q["avail_known"],
            q["event_known"],
        )
        used_known, sign_used, signals = q["used_known"], q["sign_used"], q["signals"]
        full = q["was_full"]
        lose(q)
        q["avail_known"] = avail_known
        q["event_known"] = event_known
        q["used_known"] = used_known
        if sent == 0 or q["vm"] < 0:
            continue
        q["irq_ns"] = one[0]["now"]
        q["irq_slots"] = vms[q["vm"]]["slots"]
        q["irq_waited"] = vms[q["vm"]]["waited"]
        q["irqs"] = max(irqs, 1)
        q["signals"] = signals
        q["sign_used"] = sign_used
        q["was_full"] = full


@kernel
def advance(
    one: Any,
    out: Any,
    slots: Any,
    queues: Any,
    vms: Any,
    threads: Any,
    c: Any,
    first: Any,
    last: Any,
) -> Any:
    """Take in the records ``first`` to ``last`` of columns ``c``."""
    for i in range(first, last):
        kind = c.kind[i]
        t = c.time[i]
        one[0]["now"] = max(one[0]["now"], t)
        flags = np.int64(c.flags[i])
        if kind >= EXIT or kind == KICK:
            vcpu(threads, vms, kind, t, np.int64(c.tid[i]), flags)
            if kind >= EXIT:
                continue
        k = slots[c.queue[i]]
        if k < 0:
            continue
        q = queues[k]
        if kind == ENQUEUE:
            q["enqueued"] += 1
            continue
        if kind == REFUSE:
            q["refused"] += 1
            continue
        if kind in (START, STOP):
            stopped(one, out, threads, vms, q, t)
        if t < q["seen_ns"]:
            # Came late: what it says of the ring is known better. That somebody came counts.
            if kind in (WAKE, RUN, POP):
                q["armed"] = 0
                close_work(one, out, threads, vms, q, t, 0)
            continue
        q["seen_ns"] = t
        used = np.int64(c.used[i])
        if kind == USED:
            # The place of this element: the next is behind it.
            used = (used + 1) & 0xFFFF
        if flags & F_USED:
            q["used"] = used
            if not q["used_known"]:
                q["sign_used"] = used
            q["used_known"] = 1
        if flags & F_POSITION:
            q["position"] = np.int64(c.position[i])
        if kind in (RECV, USED):
            close_rounds(one, out, q, 0)
        elif kind == SEND:
            q["again"] += c.ret[i] == -EAGAIN
        elif kind == HAND_BACK:
            q["backs"] += c.count[i]
        elif kind == WAKE:
            q["wakes"] += 1
            q["pending"] = 1
            # It was told, whether it runs or not.
            q["armed"] = 0
            close_work(one, out, threads, vms, q, t, 0)
        elif kind == RUN:
            q["runs"] += 1
            q["pending"] = 0
            if q["pin_ns"] == 0:
                q["again"] = 0
                q["backs"] = 0
            elif q["late_ns"] == 0:
                q["late_ns"] = t - q["pin_ns"]
            q["armed"] = 0
            close_work(one, out, threads, vms, q, t, 0)
        elif kind == POP:
            q["pops"] += 1
            if q["pin_ns"] and q["late_ns"] == 0:
                q["late_ns"] = t - q["pin_ns"]
            close_work(one, out, threads, vms, q, t, 0)
            descs = np.int64(c.count[i])
            q["least"] = min(q["least"], descs) if q["least"] else descs
        elif kind == IRQ:
            q["irqs"] += 1
            q["irqfd"] = 1
            if q["signals"] == 0:
                interrupted(threads, vms, q, t)
            # Without anything returned since the last, or without a decision of vhost at all.
            idle = q["told_used"] == q["used"] or q["told"] == 2
            storm(one, out, q, t, 1 if idle and q["used_known"] else 0)
            q["told"] = 0
            q["told_used"] = q["used"]
            continue
        if not flags & F_AVAIL:
            if kind == SIGNAL and c.ret[i]:
                q["signals"] += 1
                interrupted(threads, vms, q, t)
            continue
        avail = np.int64(c.avail[i])
        event = np.int64(c.event[i]) if flags & F_EVENT else np.int64(-1)
        if flags & F_EVENT_IDX:
            q["event_idx"] = 1
        off = 1 if flags & F_NO_INTERRUPT and not flags & F_EVENT_IDX else 0
        look(one, out, threads, vms, q, t, avail, event, off)
        if kind == SIGNAL:
            signal(q, flags, used, event, c.ret[i])
            if c.ret[i]:
                q["signals"] += 1
                interrupted(threads, vms, q, t)
        elif kind == EMPTY:
            q["starved"] += 1
        elif kind == ENABLE:
            if c.ret[i]:
                if q["direction"] == RX:
                    round_over(one, out, q, t, avail)
            else:
                # Told to be told. What came right then is announced by a kick, too.
                q["armed"] = 1
                q["armed_at"] = q["position"] if q["direction"] == TX else avail
                if avail != q["armed_at"]:
                    work(threads, vms, q, t)
        elif kind == KICK and avail != q["position"]:
            if q["kick_ns"] == 0:
                # The first since there was work: it may come late.
                close_work(one, out, threads, vms, q, t, 0)
            work(threads, vms, q, t)
            q["kicks"] += 1
            if q["kick_ns"] == 0:
                q["kick_ns"] = t
        pin(one, out, threads, vms, q, t)


@kernel
def sampled(
    one: Any, out: Any, threads: Any, vms: Any, q: Any, lo: Any, hi: Any, avail: Any, used: Any,
    used_event: Any, avail_event: Any, avail_flags: Any, used_flags: Any,
) -> Any:  # fmt: skip
    """Take in a ring sample, read between ``lo`` and ``hi``; not one older than the records."""
    # One from before a flight recorder's hole, or repeated.
    if hi < one[0]["now"] - 1_000_000_000:
        return
    one[0]["now"] = max(one[0]["now"], hi)
    if q["avail_known"] and (avail - q["avail"]) & 0xFFFF >= 0x8000:
        return
    if q["used_known"] and (used - q["used"]) & 0xFFFF >= 0x8000:
        return
    q["sampled"] += 1
    if not q["used_known"] or used != q["used"]:
        q["used"] = used
        if not q["used_known"]:
            q["sign_used"] = used
        q["used_known"] = 1
    event = used_event if q["event_idx"] else -1
    off = avail_flags & 1 if not q["event_idx"] else 0
    # What it was, it was at `lo` at the latest of the looks that prove silence.
    look(one, out, threads, vms, q, lo, avail, event, off)
    if q["armed"] and avail != q["armed_at"]:
        asked = used_flags & 1 == 0
        if q["event_idx"]:
            asked = (avail - avail_event - 1) & 0xFFFF < 0x8000
        if asked:
            work(threads, vms, q, hi)
    pin(one, out, threads, vms, q, hi)


@kernel
def finish(one: Any, out: Any, queues: Any, vms: Any, threads: Any, now: Any) -> Any:
    """Give out what goes on at ``now``."""
    for k in range(len(queues)):
        q = queues[k]
        close_driver(one, out, q, 1)
        close_pin(one, out, threads, vms, q, now, 1)
        close_work(one, out, threads, vms, q, now, 1)
        close_rounds(one, out, q, 1)
        storm_second(q)
        close_storm(one, out, q, 1)
