"""Kernels: queues that QEMU itself serves.

It differs from vhost in this. A chain is filled in (USED) and becomes visible to the driver at the
FLUSH behind it. There is no worker to wake: QEMU is told to look (RUN), or looks by itself. The
interrupt comes before the return of the call that decided on it, or much later for several of them.
Receive queues are emptied by packets, not by kicks. The ring may be a packed one.
"""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import close_open, end_chain, partial, place, taken, waiting_row
from vtrace.lifecycle.codes import (
    AMBIGUOUS,
    BACK,
    D_RX,
    D_TX,
    DETACH,
    EMPTY,
    ENABLE,
    F_AVAIL,
    F_EVENT_IDX,
    F_PACKED,
    F_POSITION,
    F_USED,
    FILLED,
    FLUSH,
    FREE,
    HAND_BACK,
    IRQ,
    LOST,
    NP_BACKEND,
    NP_IRQ,
    NP_SIGNAL,
    O_DISCARDED,
    O_USED,
    POP,
    POPPED,
    RUN,
    SEEN,
    SHARED,
    SIGNAL,
    START,
    STOP,
    SURE,
    UNKNOWN,
    USED,
)
from vtrace.lifecycle.held import queue_gap
from vtrace.lifecycle.memory import after_at, open_at, popped_at, queue_at, total_at, wait_at
from vtrace.lifecycle.packed import between, next_place, packed_place, packed_used
from vtrace.lifecycle.rings import forget_driver, look, note_kick, observe, reached
from vtrace.lifecycle.used import (
    decided,
    drop_after,
    give_back,
    mark_signalled,
    no_signal,
    settle,
    used_place,
)

__all__ = ["adopt", "qemu_kick", "qemu_origin", "qemu_step"]


@kernel
def adopt(s: Any, k: Any, e: Any) -> Any:
    """A queue turns out to be one of QEMU's own, or its ring to be laid out in another way."""
    q = queue_at(s, k)
    if not q["qemu"]:
        q["qemu"] = 1
        q["not_probed"] = s["not_probed_qemu"]
        q["waiting"] = 0
        q["run_ns"] = 0
        q["run_floor"] = 0
        # As QEMU begins; one that has been running may say otherwise any moment.
        q["notify"] = 1
    packed = e["flags"] & F_PACKED != 0
    if e["flags"] & (F_POSITION | F_USED) and q["packed"] != packed:
        if q["position_known"] != UNKNOWN or q["used_known"] != UNKNOWN:
            # The driver has set up another ring, and that was not seen.
            queue_gap(s, k, q["position_ns"], s["now"])
            end_ring(s, k)
            q["generation"] = (q["generation"] + 1) & 0xFFFF
        forget_ring(s, k)
        q["packed"] = packed


@kernel
def end_ring(s: Any, k: Any) -> Any:
    # What is open ends with its ring.
    q = queue_at(s, k)
    drop_after(s, k, False)
    close_open(s, k, True)
    for n in range(q["waiting"]):
        waiting_row(s, k, n)["listed"] = 0
    q["waiting"] = 0
    q["run_ns"] = 0
    q["run_kick"] = 0
    q["run_blind"] = 0
    q["irq_early"] = 0
    q["starving"] = 0
    q["blind_ns"] = 0


@kernel
def forget_ring(s: Any, k: Any) -> Any:
    # Of both sides: places, and what was seen of the driver.
    q = queue_at(s, k)
    forget_driver(s, k)
    q["position"] = 0
    q["position_known"] = UNKNOWN
    q["used"] = 0
    q["used_known"] = UNKNOWN
    q["reach"] = 0
    q["turn"] = 0
    q["skew_known"] = 0
    q["proven"] = 0
    q["signalled_known"] = 0
    q["event_idx"] = 0


@kernel
def show_place(s: Any, k: Any, index: Any, now: Any) -> Any:
    if queue_at(s, k)["packed"]:
        packed_place(s, k, index, now)
    else:
        place(s, k, index, now)


@kernel
def show_used(s: Any, k: Any, index: Any, now: Any) -> Any:
    if queue_at(s, k)["packed"]:
        packed_used(s, k, index, now)
    else:
        used_place(s, k, index, now, 0)


@kernel
def qemu_origin(s: Any, k: Any) -> Any:
    """What lies between both places of a packed ring is with the device."""
    q = queue_at(s, k)
    if q["position_known"] == SURE and q["used_known"] == SURE and q["size"]:
        inside = between(q, q["place"], q["used_place"])
        if inside <= q["size"]:
            q["skew"] = q["used"] + inside - q["reach"]
            q["skew_known"] = 1


@kernel
def arm(s: Any, k: Any) -> Any:
    # Kicks are asked for from the next place on.
    q = queue_at(s, k)
    q["armed"] = q["notify"]
    q["armed_avail"] = q["position"]


@kernel
def qemu_kick(s: Any, k: Any, now: Any, e: Any) -> Any:
    """A kick of a packed ring: it is for the next chain, unless the device took that meanwhile.

    For how many more, nobody can see.
    """
    q = queue_at(s, k)
    total_at(s, k)["kicks_sent"] += 1
    q["kick_ns"] = now
    q["kick_tid"] = e["tid"]
    if e["flags"] & F_POSITION and q["position_known"] == SURE and e["position"] == q["place"]:
        note_kick(s, k, q["position"] + 1, now, e["tid"])
    q["blind_ns"] = now


@kernel
def told_to_look(s: Any, k: Any, now: Any) -> Any:
    # RUN. On a receive queue it is of a meaning only where packets wait for chains.
    q = queue_at(s, k)
    kicked = q["kick_ns"] > q["last_run0"]
    q["run_blind"] = not kicked
    q["last_run0"] = now
    if q["direction"] == D_RX and not q["starving"]:
        return
    q["run_ns"] = now
    q["run_floor"] = now
    q["run_first"] = 1
    q["run_kick"] = q["kick_ns"] if kicked else 0
    q["run_kick_tid"] = q["kick_tid"]
    q["run_socket"] = 0
    q["kicked"] = 0
    q["starving"] = 0


@kernel
def end_run(s: Any, k: Any, now: Any) -> Any:
    # Whatever is popped from now on, QEMU was not told to.
    q = queue_at(s, k)
    q["run_ns"] = 0
    q["run_kick"] = 0
    q["run_blind"] = 0
    q["run_floor"] = now


@kernel
def qemu_pop(s: Any, k: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    show_place(s, k, e["position"], now)
    position = q["position"]
    if q["avail_known"] and q["avail"] > position + q["cap"]:
        forget_driver(s, k)
    if e["flags"] & F_AVAIL:
        # It may be what QEMU knew of the driver before: there can be more by now.
        ahead = (e["avail"] - e["position"]) & 0xFFFF
        if 0 < ahead <= q["cap"]:
            reached(s, k, position + ahead, now)
    taken(s, k, now, e)
    row = popped_at(s, k, position)
    places = min(max(e["ret"], 1), 0x8000) if q["packed"] else 1
    row["place"] = e["position"]
    row["places"] = places
    q["looked_ns"] = now
    q["reach"] += places
    if q["packed"]:
        q["place"] = next_place(q, e["position"], places)
    elif q["event_idx"] and q["avail"] <= q["position"]:
        # It states its next place to the driver with each chain that it takes.
        arm(s, k)


@kernel
def found_empty(s: Any, k: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    total = total_at(s, k)
    show_place(s, k, e["position"], now)
    if q["packed"]:
        # Nothing has come since, so a kick meanwhile was for nothing.
        total["kicks_spurious"] += q["kick_ns"] > q["looked_ns"]
        observe(s, k, q["position"], now)
        q["kick_low"] = q["kick_n"]
        q["blind_ns"] = 0
    else:
        look(s, k, now, e)
    q["looked_ns"] = now
    arm(s, k)
    total["starved"] += 1
    q["starving"] = 1
    end_run(s, k, now)


@kernel
def qemu_hand_back(s: Any, k: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    count = min(e["count"], q["cap"])
    if q["position_known"] == SURE:
        if count > q["position"]:
            queue_gap(s, k, q["position_ns"], now)
        q["position"] = max(q["position"] - count, 0)
    first = popped_at(s, k, q["position"])
    if not q["packed"]:
        place(s, k, e["position"], now)
    elif count:
        mine = first["live"] == POPPED and first["position"] == q["position"]
        q["place"] = first["place"] if mine else 0x10000
        packed_place(s, k, e["position"], now)
    for n in range(count):
        position = q["position"] + n
        row = popped_at(s, k, position)
        if row["live"] == POPPED and row["position"] == position:
            row["live"] = BACK
            row["handed_back"] += 1
            q["reach"] -= row["places"]
            if not q["join_sure"]:
                # The first of the recording: it may have been tried before that began.
                partial(s, k, row, NP_BACKEND)


@kernel
def doubtful(s: Any, k: Any, row: Any) -> Any:
    # The head may be another chain's by now. QEMU keeps no order that could tell.
    gap_end = max(s["gap_end"], queue_at(s, k)["gap_end"])
    return gap_end > 0 and gap_end >= row["pop_ns"]


@kernel
def filled_in(s: Any, k: Any, now: Any, e: Any) -> Any:
    # USED: the device is done with the chain, but the driver cannot see it yet.
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
    # QEMU forgets the chain; the driver never gets it back.
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


@kernel
def qemu_enable(s: Any, k: Any, e: Any, now: Any) -> Any:
    q = queue_at(s, k)
    show_place(s, k, e["position"], now)
    look(s, k, now, e)
    q["notify"] = e["ret"] == 0
    arm(s, k)
    if q["avail_known"]:
        q["armed_avail"] = max(q["armed_avail"], q["avail"])
    if q["direction"] == D_RX:
        # It asks for kicks only where a packet has found no room; and may then find some.
        if q["notify"]:
            total_at(s, k)["starved"] += not q["starving"]
            q["starving"] = 1
        elif q["starving"]:
            total_at(s, k)["starved"] -= 1
            q["starving"] = 0


@kernel
def qemu_start(s: Any, k: Any, now: Any, e: Any) -> Any:
    # DRIVER_OK: a new ring, or a VM that goes on.
    q = queue_at(s, k)
    known = q["position_known"] == SURE or q["used_known"] == SURE
    same = known and not q["stopped"]
    position = q["place"] if q["packed"] else q["position"] & 0xFFFF
    used = q["used_place"] if q["packed"] else q["used"] & 0xFFFF
    if q["position_known"] == SURE and position != e["position"]:
        same = False
    if q["used_known"] == SURE and used != e["used"]:
        same = False
    q["started"] = 1
    q["join_sure"] = 1
    q["stopped"] = 0
    if same:
        return
    end_ring(s, k)
    if known:
        q["generation"] = (q["generation"] + 1) & 0xFFFF
    forget_ring(s, k)
    show_place(s, k, e["position"], now)
    show_used(s, k, e["used"], now)
    if q["packed"]:
        q["position"] = 0
    q["turn"] = q["position"]
    q["run_floor"] = now
    q["flush_ns"] = now
    q["event_idx"] = e["flags"] & F_EVENT_IDX != 0
    if q["packed"]:
        qemu_origin(s, k)
    else:
        q["skew"] = q["used"] - q["position"]
        q["skew_known"] = 1
    q["notify"] = 1
    arm(s, k)


@kernel
def qemu_step(s: Any, k: Any, kind: Any, now: Any, e: Any) -> Any:
    """Take in a record of a queue that QEMU serves, but for the looks at the driver's indices."""
    q = queue_at(s, k)
    if kind == POP:
        qemu_pop(s, k, now, e)
    elif kind == USED:
        filled_in(s, k, now, e)
    elif kind == FLUSH:
        flush(s, k, now, e)
    elif kind == SIGNAL:
        qemu_signal(s, k, now, e)
    elif kind == IRQ:
        qemu_interrupt(s, k, now, e)
    elif kind == RUN:
        told_to_look(s, k, now)
    elif kind == EMPTY:
        found_empty(s, k, now, e)
    elif kind == ENABLE:
        qemu_enable(s, k, e, now)
    elif kind == HAND_BACK:
        qemu_hand_back(s, k, now, e)
    elif kind == DETACH:
        detach(s, k, e)
    elif kind == START:
        qemu_start(s, k, now, e)
    elif kind == STOP:
        end_ring(s, k)
        q["stopped"] = 1
