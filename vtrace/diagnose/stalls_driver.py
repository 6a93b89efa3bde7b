"""Kernels of the stall rules: a driver that gives no sign (S1, S2)."""

from __future__ import annotations

from typing import Any

from vtrace.diagnose.stalls_layout import (
    LIKELY,
    POSSIBLE,
    PROVEN,
    RX,
    S1,
    S1_FEW_NS,
    S1_NS,
    S2,
    S2_NS,
)
from vtrace.diagnose.stalls_vcpu import (
    blamed,
    emit,
    settle,
)
from vtrace.lifecycle.cachedir import kernel

__all__ = [
    "close_driver",
    "for_driver",
    "interrupted",
    "look",
]


@kernel
def close_driver(one: Any, out: Any, q: Any, still: Any) -> Any:
    """End the silence of the driver; give out what was proven of it."""
    if q["s1"]:
        emit(one, out, q, S1, q["s1"], q["irq_ns"], q["s1_ns"], still)
    if q["s2"]:
        emit(one, out, q, S2, q["s2"], q["full_ns"], q["s2_ns"], still)


@kernel
def sign(one: Any, out: Any, q: Any) -> Any:
    """The driver has shown that it lives."""
    close_driver(one, out, q, 0)
    for_driver(q)
    q["sign_known"] = 1


@kernel
def for_driver(q: Any) -> Any:
    """Begin to wait for a sign of the driver."""
    q["sign_known"] = 0
    q["sign_used"] = q["used"]
    q["irq_ns"] = 0
    q["signals"] = 0
    q["irqs"] = 0
    q["was_full"] = 0
    q["s1"] = 0
    q["s2"] = 0
    q["full_ns"] = 0
    q["starved"] = 0
    q["refused"] = 0
    q["enqueued"] = 0


@kernel
def judge_driver(threads: Any, vms: Any, q: Any, t: Any) -> Any:
    """The driver was silent up to ``t``: say whether that is too long."""
    v = q["vm"]
    if not q["used_known"] or (q["event_idx"] and not q["event_known"]):
        return
    exhausted = q["avail"] == q["used"]
    since = q["event"] if q["event_idx"] else q["sign_used"]
    unseen = (q["used"] - since) & 0xFFFF
    passed = 0 < unseen < 0x8000
    if q["irq_ns"] and t - q["irq_ns"] >= S1_NS and passed and v >= 0:
        settle(threads, vms, v, t)
        # A queue without a vector never has one.
        lost = q["irqfd"] != 0 and q["irqs"] == 0
        level = 0
        if q["direction"] == RX and q["event_idx"]:
            # What was returned since the last sign: a driver that polls refills before that,
            # Linux when half of the ring is free.
            fresh = (q["used"] - q["sign_used"]) & 0xFFFF
            if lost or exhausted or 4 * min(fresh, unseen) > 3 * q["most"]:
                level = PROVEN
            elif t - q["irq_ns"] >= S1_FEW_NS:
                level = POSSIBLE
        elif q["direction"] == RX:
            # What the driver took without giving anything back cannot be told.
            if exhausted and not q["no_interrupt"]:
                level = LIKELY
        elif q["event_idx"] and (lost or (exhausted and q["was_full"])):
            level = LIKELY
        if level and blamed(vms, q, q["irq_slots"], q["irq_waited"], q["irq_ns"], t):
            q["s1"] = max(q["s1"], level)
            q["s1_ns"] = t
            q["lost"] = lost
            q["unseen"] = unseen
    off = q["no_interrupt"] != 0
    if q["event_idx"]:
        # Whether one was sent before the recording began is not known.
        off = passed and q["signals"] == 0 and q["irqs"] == 0 and q["sign_known"] != 0
    if q["direction"] != RX or not exhausted or not off or v < 0:
        return
    if q["full_ns"] == 0:
        settle(threads, vms, v, t)
        q["full_ns"] = t
        q["full_slots"] = vms[v]["slots"]
        q["full_waited"] = vms[v]["waited"]
    elif t - q["full_ns"] >= S2_NS and q["starved"] + q["refused"] + q["enqueued"] > 0:
        settle(threads, vms, v, t)
        if blamed(vms, q, q["full_slots"], q["full_waited"], q["full_ns"], t):
            q["s2"] = PROVEN
            q["s2_ns"] = t
            q["unseen"] = unseen


@kernel
def look(
    one: Any, out: Any, threads: Any, vms: Any, q: Any, t: Any, avail: Any, event: Any, off: Any
) -> Any:
    """Take in what the driver's side of the ring was at ``t``; ``event`` below 0: not read."""
    new = q["avail_known"] == 0
    changed = avail != q["avail"] or (q["event_idx"] == 0 and off != q["no_interrupt"])
    if event >= 0:
        changed = changed or q["event_known"] == 0 or event != q["event"]
    if new or changed:
        sign(one, out, q)
        if new or (event >= 0 and not q["event_known"]):
            q["sign_known"] = 0
    q["avail"] = avail
    q["avail_known"] = 1
    q["no_interrupt"] = off
    if event >= 0:
        q["event"] = event
        q["event_known"] = 1
    held = (avail - q["used"]) & 0xFFFF
    if q["used_known"] and held <= q["size"]:
        q["most"] = max(q["most"], held)
    if not new and not changed:
        judge_driver(threads, vms, q, t)


@kernel
def interrupted(threads: Any, vms: Any, q: Any, t: Any) -> Any:
    """An interrupt was sent: the driver's time to answer begins, if it has not yet."""
    if q["irq_ns"]:
        return
    q["irq_ns"] = t
    if q["vm"] >= 0:
        settle(threads, vms, q["vm"], t)
        q["irq_slots"] = vms[q["vm"]]["slots"]
        q["irq_waited"] = vms[q["vm"]]["waited"]
