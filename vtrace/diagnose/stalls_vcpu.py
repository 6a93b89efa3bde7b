"""Kernels of the stall rules: whether a VM's vCPUs ran; an episode written down."""

from __future__ import annotations

from typing import Any

from vtrace.diagnose.stalls_layout import (
    F_PREEMPTED,
    SCHED_IN,
    SCHED_OUT,
    SCHED_WAKE,
    SLOT_NS,
    SLOTS,
    WAITED_NS,
)
from vtrace.lifecycle.cachedir import kernel

__all__ = [
    "blamed",
    "counted",
    "emit",
    "settle",
    "vcpu",
]


@kernel
def ran(vm: Any, start: Any, end: Any) -> Any:
    """Note that a vCPU ran between two times: count tenths of a second not yet counted."""
    first = max(start // SLOT_NS, vm["slot"] + 1)
    last = end // SLOT_NS
    if last >= first:
        vm["slots"] += last - first + 1
        vm["slot"] = last


@kernel
def settle(threads: Any, vms: Any, v: Any, t: Any) -> Any:
    """Bring to the time ``t`` what a VM's vCPUs have run and waited."""
    for i in range(len(threads)):
        h = threads[i]
        if h["vm"] != v:
            continue
        if h["on_ns"]:
            ran(vms[v], h["on_ns"], t)
            h["on_ns"] = t
        elif h["want_ns"] and t - h["want_ns"] >= WAITED_NS:
            vms[v]["waited"] += t - h["want_ns"]
            h["want_ns"] = t


@kernel
def thread_at(threads: Any, tid: Any) -> Any:
    """Return the place of a vCPU thread, -1 if it is none."""
    low, high = 0, len(threads)
    while low < high:
        mid = (low + high) // 2
        if threads[mid]["tid"] < tid:
            low = mid + 1
        else:
            high = mid
    return low if low < len(threads) and threads[low]["tid"] == tid else -1


@kernel
def vcpu(threads: Any, vms: Any, kind: Any, t: Any, tid: Any, flags: Any) -> Any:
    """Take in a record about a thread, if it is a vCPU."""
    i = thread_at(threads, tid)
    if i < 0:
        return
    h = threads[i]
    v = vms[h["vm"]]
    if kind == SCHED_OUT:
        if h["on_ns"]:
            ran(v, h["on_ns"], t)
        h["on_ns"] = 0
        h["want_ns"] = t if flags & F_PREEMPTED else 0
        h["sched"] = 1
        return
    if kind == SCHED_WAKE:
        if h["on_ns"] == 0 and h["want_ns"] == 0:
            h["want_ns"] = t
        h["sched"] = 1
        return
    if kind == SCHED_IN:
        if h["want_ns"] and t - h["want_ns"] >= WAITED_NS:
            v["waited"] += t - h["want_ns"]
        h["want_ns"] = 0
        h["on_ns"] = t
        h["sched"] = 1
    ran(v, t, t)


@kernel
def counted(vms: Any, threads: Any, tid: Any, start: Any, end: Any, run: Any, wait: Any) -> Any:
    """Take in what a vCPU's own counters say: it ran and waited so many ns between two times."""
    i = thread_at(threads, tid)
    if i < 0 or threads[i]["sched"]:
        return
    v = vms[threads[i]["vm"]]
    if run >= 1_000_000:
        ran(v, end - min(run, end - start), end)
    if wait >= WAITED_NS:
        v["waited"] += wait


@kernel
def blamed(vms: Any, q: Any, slots: Any, waited: Any, since: Any, t: Any) -> Any:
    """Return whether the vCPUs ran meanwhile, and were not kept waiting for most of it."""
    v = q["vm"]
    if v < 0:
        return False
    return vms[v]["slots"] - slots >= SLOTS and 2 * (vms[v]["waited"] - waited) < t - since


@kernel
def emit(
    one: Any, out: Any, q: Any, code: Any, level: Any, start: Any, end: Any, still: Any
) -> Any:
    """Write an episode, with what is known of the queue now."""
    i = one[0]["n"]
    if i >= len(out):
        one[0]["overflow"] += 1
        return
    one[0]["n"] = i + 1
    e = out[i]
    e["queue"] = q["id"]
    e["code"] = code
    e["level"] = level
    e["start_ns"] = start
    e["end_ns"] = end
    e["open"] = still
    e["avail"] = q["avail"]
    e["used"] = q["used"]
    e["event"] = q["event"]
    e["position"] = q["position"]
    e["unseen"] = q["unseen"]
    e["signals"] = q["signals"]
    e["irqs"] = q["irqs"]
    e["kicks"] = q["kicks"]
    e["rounds"] = q["rounds"]
    e["backs"] = q["backs"]
    e["starved"] = q["starved"]
    e["refused"] = q["refused"]
    e["enqueued"] = q["enqueued"]
    e["no_interrupt"] = q["no_interrupt"]
    e["event_idx"] = q["event_idx"]
    e["wakes"] = q["wakes"]
    e["runs"] = q["runs"]
    e["pops"] = q["pops"]
    e["again"] = q["again"]
    e["late_ns"] = q["late_ns"]
    e["peak"] = q["peak"]
    e["lost"] = q["lost"]
    e["sampled"] = q["sampled"]
    e["most"] = q["most"]
    e["size"] = q["size"]
