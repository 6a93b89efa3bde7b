"""Kernels of the stall rules: full ring, lost kick, livelock, storm (T1, T2, R11, S3)."""

from __future__ import annotations

from typing import Any

from vtrace.diagnose.stalls_layout import (
    F_EVENT,
    F_EVENT_IDX,
    LIKELY,
    PROVEN,
    R11,
    R11_NS,
    R11_ROUNDS,
    S3,
    S3_PER_S,
    T1,
    T1_NS,
    T1_SPARE,
    T2,
    T2_NS,
    TX,
)
from vtrace.diagnose.stalls_vcpu import (
    blamed,
    emit,
    settle,
)
from vtrace.lifecycle.cachedir import kernel

__all__ = [
    "close_pin",
    "close_rounds",
    "close_storm",
    "close_work",
    "pin",
    "round_over",
    "signal",
    "storm",
    "storm_second",
    "work",
]


# --- T1: a full transmit ring ------------------------------------------------------------------


@kernel
def close_pin(one: Any, out: Any, threads: Any, vms: Any, q: Any, t: Any, still: Any) -> Any:
    """Something was returned at ``t``, or the recording ends: was the ring full for too long?"""
    if q["pin_ns"] and q["vm"] >= 0 and t - q["pin_ns"] >= T1_NS:
        settle(threads, vms, q["vm"], t)
        if blamed(vms, q, q["pin_slots"], q["pin_waited"], q["pin_ns"], t):
            # The ring as it was while it was full.
            now = q["used"]
            q["used"] = q["pin_used"]
            emit(one, out, q, T1, PROVEN, q["pin_ns"], t, still)
            q["used"] = now
    if not still:
        q["pin_ns"] = 0


@kernel
def pin(one: Any, out: Any, threads: Any, vms: Any, q: Any, t: Any) -> Any:
    """Look whether the transmit ring is full, and whether something was returned."""
    if q["direction"] != TX or q["size"] <= 0 or not q["used_known"] or not q["avail_known"]:
        return
    if q["pin_ns"] and q["used"] != q["pin_used"]:
        close_pin(one, out, threads, vms, q, t, 0)
    held = (q["avail"] - q["used"]) & 0xFFFF
    if held > q["size"] or q["pin_ns"]:
        return
    slots = held if q["indirect"] else held * max(q["least"], 1)
    if slots < (q["size"] - T1_SPARE if q["size"] >= 4 * T1_SPARE else q["size"]):
        return
    q["was_full"] = 1
    q["pin_ns"] = t
    q["pin_used"] = q["used"]
    q["wakes"] = q["pending"]
    q["runs"] = 0
    q["pops"] = 0
    q["late_ns"] = 0
    if q["vm"] >= 0:
        settle(threads, vms, q["vm"], t)
        q["pin_slots"] = vms[q["vm"]]["slots"]
        q["pin_waited"] = vms[q["vm"]]["waited"]


# --- T2: work that nobody comes for ------------------------------------------------------------


@kernel
def work(threads: Any, vms: Any, q: Any, t: Any) -> Any:
    """There is work, and the device has asked to be told of it (or was told)."""
    if q["work_ns"]:
        return
    q["work_ns"] = t
    q["kicks"] = 0
    q["sampled"] = 0
    q["kick_ns"] = 0
    if q["vm"] >= 0:
        settle(threads, vms, q["vm"], t)
        q["work_slots"] = vms[q["vm"]]["slots"]
        q["work_waited"] = vms[q["vm"]]["waited"]


@kernel
def close_work(one: Any, out: Any, threads: Any, vms: Any, q: Any, t: Any, still: Any) -> Any:
    """Somebody came at ``t``, or the recording ends: was it too late?"""
    if q["work_ns"] and q["vm"] >= 0:
        settle(threads, vms, q["vm"], t)
        v = q["vm"]
        waited = vms[v]["waited"] - q["work_waited"]
        if q["kick_ns"]:
            # KVM took the kick: what the guest did after it does not matter.
            if t - q["kick_ns"] >= T2_NS and 2 * waited < t - q["kick_ns"]:
                emit(one, out, q, T2, PROVEN, q["kick_ns"], t, still)
        elif t - q["work_ns"] >= T2_NS and blamed(
            vms, q, q["work_slots"], q["work_waited"], q["work_ns"], t
        ):
            emit(one, out, q, T2, LIKELY, q["work_ns"], t, still)
    if not still:
        q["work_ns"] = 0


# --- R11 and S3 --------------------------------------------------------------------------------


@kernel
def close_rounds(one: Any, out: Any, q: Any, still: Any) -> Any:
    """A packet was received, or the driver gave buffers: was there a livelock before?"""
    took = q["r11_end_ns"] - q["r11_ns"]
    if q["r11_ns"] and q["rounds"] >= R11_ROUNDS and took >= R11_NS:
        emit(one, out, q, R11, PROVEN, q["r11_ns"], q["r11_end_ns"], still)
    if not still:
        q["r11_ns"] = 0
        q["rounds"] = 0


@kernel
def round_over(one: Any, out: Any, q: Any, t: Any, avail: Any) -> Any:
    """``vhost_enable_notify`` said that there is more: is there?"""
    if q["r11_ns"] == 0 or avail != q["r11_avail"] or q["position"] != q["r11_position"]:
        close_rounds(one, out, q, 0)
        q["r11_ns"] = t
        q["r11_avail"] = avail
        q["r11_position"] = q["position"]
        q["backs"] = 0
    else:
        q["rounds"] += 1
    q["r11_end_ns"] = t


@kernel
def close_storm(one: Any, out: Any, q: Any, still: Any) -> Any:
    """Give out a storm that is over, or goes on."""
    if q["s3_start_ns"]:
        held = q["irqs"]
        q["irqs"] = q["s3_all"]
        q["rounds"] = q["s3_n"]
        emit(one, out, q, S3, PROVEN, q["s3_start_ns"], q["s3_end_ns"], still)
        q["irqs"] = held
        q["rounds"] = 0
    if not still:
        q["s3_start_ns"] = 0


@kernel
def storm(one: Any, out: Any, q: Any, t: Any, idle: Any) -> Any:
    """Count an interrupt, and whether it had nothing to tell."""
    slot = t // 1_000_000_000
    if slot != q["s3_slot"]:
        storm_second(q)
        if q["s3_start_ns"] and q["s3_end_ns"] < slot * 1_000_000_000:
            close_storm(one, out, q, 0)
        q["s3_slot"] = slot
        q["s3_irqs"] = 0
        q["s3_idle"] = 0
    q["s3_irqs"] += 1
    q["s3_idle"] += idle


@kernel
def storm_second(q: Any) -> Any:
    """A second is over: was it one of a storm?"""
    if q["s3_idle"] < S3_PER_S or 2 * q["s3_idle"] < q["s3_irqs"]:
        return
    if q["s3_start_ns"] == 0:
        q["s3_start_ns"] = q["s3_slot"] * 1_000_000_000
        q["s3_all"] = 0
        q["s3_n"] = 0
        q["peak"] = 0
    q["s3_end_ns"] = (q["s3_slot"] + 1) * 1_000_000_000
    q["s3_all"] += q["s3_irqs"]
    q["s3_n"] += q["s3_idle"]
    q["peak"] = max(q["peak"], q["s3_idle"])
    q["s3_idle"] = 0
    q["s3_irqs"] = 0


@kernel
def signal(q: Any, flags: Any, used: Any, event: Any, sent: Any) -> Any:
    """Note a decision about an interrupt: whether the ring's own rule asks for it."""
    if sent:
        q["told"] = 1
        if flags & F_EVENT_IDX and flags & F_EVENT and q["signalled_known"]:
            asked = (used - event - 1) & 0xFFFF < (used - q["signalled"]) & 0xFFFF
            if not asked:
                q["told"] = 2
    q["signalled"] = used
    q["signalled_known"] = 1
