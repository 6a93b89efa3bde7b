"""Kernels: a chain from its pop to its end in the device, and the packet it carries."""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.codes import (
    AMBIGUOUS,
    BACK,
    COMPLETE,
    D_NONE,
    D_RX,
    F_AVAIL,
    F_CUT,
    FILLED,
    FREE,
    LOST,
    NOT_APPLICABLE,
    NP_BACKEND,
    NP_KICK,
    NP_RUN,
    NP_WAKE,
    O_DISCARDED,
    O_IN_FLIGHT,
    O_RESET,
    O_USED,
    PARTIAL,
    POPPED,
    SEEN,
    SHARED,
    SUPPRESSED,
    SURE,
    UNKNOWN,
)
from vtrace.lifecycle.held import push, queue_gap, touched
from vtrace.lifecycle.memory import (
    kick_at,
    open_at,
    order_at,
    popped_at,
    queue_at,
    wait_at,
)
from vtrace.lifecycle.rings import (
    avail_window,
    find_kick,
    forget_driver,
    observe,
    reached,
    signed16,
    unwrap,
)

__all__ = [
    "close_open",
    "end_chain",
    "forget_wait",
    "give_up_join",
    "hand_back",
    "no_longer",
    "partial",
    "place",
    "pop",
    "taken",
    "waiting_row",
]


@kernel
def partial(s: Any, k: Any, row: Any, bit: Any) -> Any:
    """Note that a time is missing as the recording began or ended first, if one looks for it."""
    if row["trust"] == COMPLETE and not queue_at(s, k)["not_probed"] & bit:
        row["trust"] = PARTIAL


@kernel
def end_chain(s: Any, k: Any, row: Any, outcome: Any) -> Any:
    """Finish a chain that is not in the used ring, and forget it."""
    q = queue_at(s, k)
    row["outcome"] = outcome
    row["direction"] = q["direction"]
    never = LOST if outcome in (O_IN_FLIGHT, O_USED) else NOT_APPLICABLE
    if outcome != O_DISCARDED and not row["joined"]:
        row["backend_state"] = NOT_APPLICABLE if q["direction"] == D_NONE else never
    row["used_state"] = never
    row["signal_state"] = never
    row["irq_state"] = never
    row["seen_state"] = never
    if q["direction"] == D_RX and row["enqueue_ns"] == 0 and not row["joined"]:
        row["enqueue_state"] = never
    row["settled"] = s["now"]
    if row["live"] == FILLED and outcome != O_USED:
        # Filled in, and the driver never saw it.
        row["used_bytes"] = 0
    if outcome == O_IN_FLIGHT and row["trust"] == COMPLETE:
        row["trust"] = PARTIAL
    touched(s, k, row)
    push(s, row)
    row["live"] = FREE
    q["open_n"] -= 1


@kernel
def close_open(s: Any, k: Any, reset: Any) -> Any:
    """Finish all chains of a queue that are popped or handed back, oldest first."""
    q = queue_at(s, k)
    # None is older than the first that was popped when there was none.
    span = q["position"] - q["open_from"]
    for step in range(q["cap"] - span if 0 <= span < q["cap"] else 0, 3 * q["cap"]):
        if q["open_n"] == 0:
            return
        # Those popped by position, then those handed back; then what a loss has left out of order.
        turn = step // q["cap"]
        head = step - 2 * q["cap"]
        if turn < 2:
            head = order_at(s, k, q["position"] + step)["number"]
        row = open_at(s, q["base"] + head)
        if row["live"] in (POPPED, FILLED) and turn != 1:
            end_chain(s, k, row, O_RESET if reset else O_IN_FLIGHT)
        elif row["live"] == BACK and turn != 0:
            if not reset and row["trust"] == COMPLETE:
                row["trust"] = PARTIAL
            end_chain(s, k, row, O_DISCARDED)


@kernel
def place(s: Any, k: Any, index: Any, now: Any) -> Any:
    """The worker shows its next place in the available ring: does it fit?"""
    q = queue_at(s, k)
    if q["position_known"] == SURE:
        ahead = signed16(index - q["position"])
        if ahead:
            queue_gap(s, k, q["position_ns"], now)
            if ahead < 0 and -ahead > q["cap"]:
                ahead += 0x10000
            q["position"] += ahead
            if q["position"] < 0:
                q["position"] += 0x10000
            if s["strict"] and not q["qemu"]:
                q["waiting"] = 0
                q["frames_bad"] = 1
    else:
        known = q["position_known"] != UNKNOWN
        q["position"] = unwrap(q["position"], index) if known else index
        q["position_known"] = SURE
    q["position_ns"] = now


@kernel
def set_kick(s: Any, k: Any, row: Any) -> Any:
    q = queue_at(s, k)
    if q["direction"] == D_RX:
        # A refill: the kick that the run came from, if that announced this buffer.
        row["kick_state"] = NOT_APPLICABLE
        at = find_kick(s, k, row["position"])
        if at >= 0 and not q["run_socket"] and kick_at(s, at)["time"] == q["run_kick"]:
            row["kick_ns"] = q["run_kick"]
            row["kick_tid"] = q["run_kick_tid"]
            row["kick_state"] = SHARED if q["kicked"] else SEEN
            q["kicked"] = 1
        return
    at = find_kick(s, k, row["position"])
    blind = kick_at(s, at)["blind"] if at >= 0 else q["blind_ns"]
    if blind > row["avail_lo_ns"]:
        # A kick came, but what it announced could not be read.
        row["kick_state"] = LOST
    elif at >= 0:
        kick = kick_at(s, at)
        row["kick_ns"] = kick["time"]
        row["kick_tid"] = kick["tid"]
        row["kick_state"] = SHARED if kick["served"] else SEEN
        kick["served"] = 1
    elif q["run_blind"] and q["run_ns"] > row["avail_lo_ns"]:
        # QEMU was told to look, and by whom was not seen.
        row["kick_state"] = LOST
    elif row["avail_lo_ns"] == 0 and not q["started"]:
        row["kick_state"] = LOST
        partial(s, k, row, NP_KICK)
    else:
        row["kick_state"] = SUPPRESSED


@kernel
def set_run(s: Any, k: Any, row: Any) -> Any:
    q = queue_at(s, k)
    state = SEEN if q["run_first"] else SHARED
    row["run_ns"] = q["run_ns"]
    row["wake_ns"] = q["run_wake"]
    row["run_state"] = state if q["run_ns"] else LOST
    if q["run_wake"]:
        row["wake_state"] = state
    elif q["run_ns"] and q["run_knows"]:
        row["wake_state"] = NOT_APPLICABLE
    else:
        row["wake_state"] = LOST
        partial(s, k, row, NP_WAKE)
    if not q["run_ns"]:
        partial(s, k, row, NP_RUN)
    q["run_first"] = 0


@kernel
def set_read(s: Any, k: Any, row: Any) -> Any:
    # QEMU has no worker that is woken. It may look without being told to: then there is no run.
    q = queue_at(s, k)
    row["wake_ns"] = 0
    row["wake_state"] = NOT_APPLICABLE
    row["run_ns"] = q["run_ns"]
    if q["run_ns"]:
        row["run_state"] = SEEN if q["run_first"] else SHARED
    elif q["run_floor"] or q["started"]:
        row["run_state"] = NOT_APPLICABLE
    else:
        row["run_state"] = LOST
        partial(s, k, row, NP_RUN)
    q["run_first"] = 0


@kernel
def forget_wait(s: Any, k: Any, head: Any) -> Any:
    """Take a chain, and those popped before it, off those that wait for a packet."""
    q = queue_at(s, k)
    for n in range(q["waiting"]):
        if wait_at(s, k, n)["number"] == head:
            no_longer(s, k, n + 1)
            return


@kernel
def pop(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The device took a chain. Its head is within the queue's share of the pools."""
    q = queue_at(s, k)
    place(s, k, e["position"], now)
    position = q["position"]
    if q["avail_known"] and q["avail"] > position + q["cap"]:
        # The driver cannot be so far ahead: after a loss, begin anew.
        forget_driver(s, k)
    if e["flags"] & F_AVAIL:
        ahead = (e["avail"] - e["position"]) & 0xFFFF
        if 0 < ahead <= q["cap"]:
            observe(s, k, position + ahead, now)
    taken(s, k, now, e)


@kernel
def taken(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The device took the chain at its place in the available ring, which goes on."""
    q = queue_at(s, k)
    head = e["head"]
    position = q["position"]
    reached(s, k, position + 1, now)
    before = popped_at(s, k, position)
    if before["live"] == BACK and before["position"] == position and before["head"] != head:
        # Another head at the same place: the ring is another one.
        queue_gap(s, k, before["start"], now)
        end_chain(s, k, before, O_DISCARDED)
    row = open_at(s, q["base"] + head)
    again = row["live"] == BACK and row["position"] == position
    if row["live"] and not again:
        # The driver has it back, so it was used; that record is missing.
        queue_gap(s, k, row["start"], now)
        row["trust"] = AMBIGUOUS
        if not q["qemu"]:
            forget_wait(s, k, head)
        end_chain(s, k, row, O_DISCARDED if row["live"] == BACK else O_USED)
    if not again:
        row["position"] = position
        row["queue"] = q["id"]
        row["slot"] = k
        row["generation"] = q["generation"]
        row["head"] = head
        row["handed_back"] = 0
        row["kick_ns"] = 0
        row["kick_tid"] = 0
        row["start"] = 0x7FFFFFFFFFFFFFFF
        low, high = avail_window(s, k, position)
        row["avail_lo_ns"] = low
        row["avail_hi_ns"] = high
        row["trust"] = COMPLETE
    if not again or row["kick_state"] == NOT_APPLICABLE:
        set_kick(s, k, row)
    if q["qemu"]:
        set_read(s, k, row)
    else:
        set_run(s, k, row)
    if q["open_n"] == 0:
        q["open_from"] = position
    q["open_n"] += row["live"] == FREE
    row["backend"] = q["qemu"]
    row["packed"] = q["packed"]
    row["live"] = POPPED
    row["joined"] = q["qemu"]
    row["cut"] = e["flags"] & F_CUT != 0
    row["descriptors"] = e["count"]
    row["readable_bytes"] = e["length"]
    row["writable_bytes"] = e["room"]
    row["used_bytes"] = 0
    row["packet"] = 0
    row["batch"] = 0
    row["enqueue_ns"] = 0
    row["enqueue_state"] = NOT_APPLICABLE
    row["pop_ns"] = now
    row["pop_state"] = SEEN
    row["backend_ns"] = 0
    row["backend_state"] = NOT_APPLICABLE if q["qemu"] else LOST
    row["used_ns"] = 0
    row["signal_ns"] = 0
    row["irq_ns"] = 0
    row["seen_ns"] = 0
    row["worker_tid"] = e["tid"]
    row["cpu"] = e["cpu"]
    start = min(row["start"], now)
    if q["run_ns"] or (q["qemu"] and q["run_floor"]):
        start = min(start, q["run_floor"])
    if q["direction"] != D_RX:
        start = min(start, row["avail_lo_ns"])
    row["start"] = start
    order_at(s, k, position)["number"] = head
    if q["waiting"] < q["cap"] and not q["qemu"]:
        wait_at(s, k, q["waiting"])["number"] = head
        q["waiting"] += 1
    q["position"] = position + 1


@kernel
def hand_back(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The device gave the last chains back: they will be popped again."""
    q = queue_at(s, k)
    if q["position_known"] == SURE:
        if e["count"] > q["position"]:
            # More than was popped; index 0 is as far as the place can show it.
            queue_gap(s, k, q["position_ns"], now)
        q["position"] = max(q["position"] - e["count"], 0)
    place(s, k, e["position"], now)
    while q["waiting"] > 0 and waiting_row(s, k, q["waiting"] - 1)["position"] >= q["position"]:
        q["waiting"] -= 1
    for n in range(min(e["count"], q["cap"])):
        position = q["position"] + n
        row = popped_at(s, k, position)
        if row["live"] == POPPED and row["position"] == position:
            row["live"] = BACK
            row["handed_back"] += 1
            if not q["join_sure"]:
                # The first of the recording: it may have been tried before that began.
                partial(s, k, row, NP_BACKEND)
            row["joined"] = 0
            row["packet"] = 0
            row["backend_ns"] = 0
            row["backend_state"] = NOT_APPLICABLE
            row["enqueue_ns"] = 0
            row["enqueue_state"] = NOT_APPLICABLE


@kernel
def waiting_row(s: Any, k: Any, n: Any) -> Any:
    """Return the n-th popped chain that waits for a packet."""
    return open_at(s, queue_at(s, k)["base"] + wait_at(s, k, n)["number"])


@kernel
def no_longer(s: Any, k: Any, count: Any) -> Any:
    """Take the first chains off those that wait for a packet."""
    q = queue_at(s, k)
    for n in range(count, q["waiting"]):
        wait_at(s, k, n - count)["number"] = wait_at(s, k, n)["number"]
    q["waiting"] -= count


@kernel
def give_up_join(s: Any, k: Any) -> Any:
    """Leave all chains that wait without a packet: which belongs to which cannot be told."""
    q = queue_at(s, k)
    for n in range(q["waiting"]):
        row = waiting_row(s, k, n)
        if not q["join_sure"]:
            partial(s, k, row, NP_BACKEND)
        elif s["strict"]:
            row["trust"] = AMBIGUOUS
        row["joined"] = 1
        row["backend_state"] = LOST
        if q["direction"] == D_RX:
            row["enqueue_state"] = LOST
    q["waiting"] = 0
    q["join_sure"] = 1
