"""Kernels: queues that QEMU itself serves.

It differs from vhost in this. A chain is filled in (USED) and becomes visible to the driver at the
FLUSH behind it. There is no worker to wake: QEMU is told to look (RUN), or looks by itself. The
interrupt comes before the return of the call that decided on it, or much later for several of them.
Receive queues are emptied by packets, not by kicks. The ring may be a packed one.
"""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import partial, place, taken
from vtrace.lifecycle.codes import (
    BACK,
    D_RX,
    DETACH,
    EMPTY,
    ENABLE,
    F_AVAIL,
    F_POSITION,
    FLUSH,
    HAND_BACK,
    IRQ,
    NP_BACKEND,
    POP,
    POPPED,
    RUN,
    SIGNAL,
    START,
    STOP,
    SURE,
    USED,
)
from vtrace.lifecycle.held import queue_gap
from vtrace.lifecycle.memory import popped_at, queue_at, total_at
from vtrace.lifecycle.packed import next_place, packed_place
from vtrace.lifecycle.qemu_ring import arm, end_ring, end_run, qemu_start, show_place
from vtrace.lifecycle.qemu_used import detach, filled_in, flush, qemu_interrupt, qemu_signal
from vtrace.lifecycle.rings import forget_driver, look, note_kick, observe, reached

__all__ = ["qemu_kick", "qemu_step"]


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
