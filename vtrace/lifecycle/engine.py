"""Kernels: one record after the other into the state of its queue."""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import close_open, hand_back, place, pop
from vtrace.lifecycle.codes import (
    D_NONE,
    D_RX,
    D_TX,
    DELIVER,
    DONE,
    DRAIN,
    DROP,
    EMPTY,
    ENABLE,
    ENQUEUE,
    F_AVAIL,
    F_POSITION,
    F_SOCKET,
    F_USED,
    HAND_BACK,
    IRQ,
    KICK,
    MORE_HEADS,
    NEW_QUEUE,
    POP,
    POP_ERROR,
    RECV,
    REFUSE,
    RUN,
    SEND,
    SIGNAL,
    SLACK_NS,
    SOFT,
    START,
    STOP,
    SURE,
    UNKNOWN,
    USED,
    WAKE,
)
from vtrace.lifecycle.held import close_hole, gap, room, sequence, tick
from vtrace.lifecycle.layout import MOST_HEADS
from vtrace.lifecycle.packets import deliver, enqueue, recv, send, take_packet
from vtrace.lifecycle.rings import forget_driver, note_kick, observe, signed16
from vtrace.lifecycle.used import drop_after, interrupt, proof, signal, used

__all__ = ["advance", "end"]


@kernel
def look(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    """Take in the driver's index as a record shows it; return it unwrapped, -1 if not known."""
    q = s.queue[k]
    if not c.flags[i] & F_AVAIL or q["position_known"] == UNKNOWN:
        return -1
    value = q["position"] + signed16(c.avail[i] - q["position"])
    if value < 0 or value > q["position"] + q["cap"]:
        return -1
    observe(s, k, value, now)
    return value


@kernel
def first_sight(s: Any, k: Any, i: Any, c: Any) -> Any:
    # Where a record beside the worker's shows the device's places, they are good for a beginning.
    q = s.queue[k]
    if q["position_known"] == UNKNOWN and c.flags[i] & F_POSITION:
        q["position"] = c.position[i]
        q["join"] = q["position"]
        q["position_known"] = SOFT
    if q["used_known"] == UNKNOWN and c.flags[i] & F_USED:
        q["used"] = c.used[i]
        q["used_known"] = SOFT


@kernel
def same_origin(s: Any, k: Any) -> Any:
    # Both indices of a ring begin at 0: what lies between them is with the device.
    q = s.queue[k]
    if q["position_known"] == SURE and q["used_known"] == SURE:
        between = (q["position"] - q["used"]) & 0xFFFF
        if between <= q["cap"]:
            q["skew"] = q["used"] + between - q["position"]
            q["skew_known"] = 1


@kernel
def kick(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    q = s.queue[k]
    total = s.total[k]
    total["kicks_sent"] += 1
    first_sight(s, k, i, c)
    flags = c.flags[i]
    if flags & F_AVAIL and flags & F_POSITION and c.avail[i] == c.position[i]:
        total["kicks_spurious"] += 1
    value = look(s, k, i, now, c)
    q["kick_ns"] = now
    q["kick_tid"] = c.tid[i]
    q["kick_newest"] = value
    if value >= 0:
        note_kick(s, k, value, now, c.tid[i])
    else:
        q["blind_ns"] = now
        if q["armed"]:
            q["armed"] = 0
            total["kicks_needed"] += 1


@kernel
def wake(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    # The first one queues the work; it stays queued till it runs.
    q = s.queue[k]
    if c.flags[i] & F_SOCKET:
        if q["wake1"] == 0:
            q["wake1"] = now
    elif q["wake0"] == 0:
        q["wake0"] = now
        q["wake_kick"] = q["kick_ns"]
        q["wake_kick_tid"] = q["kick_tid"]
        q["wake_kick_avail"] = q["kick_newest"]


@kernel
def run(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    q = s.queue[k]
    socket = c.flags[i] & F_SOCKET != 0
    if socket:
        q["run_wake"] = q["wake1"]
        q["run_floor"] = q["last_run1"]
        q["last_run1"] = now
        q["wake1"] = 0
        q["run_kick"] = 0
    else:
        q["run_wake"] = q["wake0"]
        q["run_floor"] = q["last_run0"]
        q["last_run0"] = now
        q["wake0"] = 0
        q["run_kick"] = q["wake_kick"]
        q["run_kick_tid"] = q["wake_kick_tid"]
        q["run_kick_avail"] = q["wake_kick_avail"]
        q["wake_kick"] = 0
    q["run_knows"] = q["run_floor"] != 0 or q["started"]
    q["run_ns"] = now
    q["run_socket"] = socket
    q["run_first"] = 1
    q["kicked"] = 0
    # It asks for no kicks while it runs.
    q["armed"] = 0


@kernel
def enable(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    q = s.queue[k]
    look(s, k, i, now, c)
    q["armed"] = c.ret[i] == 0
    q["armed_avail"] = max(q["position"], q["avail"] if q["avail_known"] else 0)


@kernel
def start(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    """A backend is attached: the ring goes on where it was, or it is another one."""
    q = s.queue[k]
    known = q["position_known"] == SURE or q["used_known"] == SURE
    same = known
    if q["position_known"] == SURE and (q["position"] & 0xFFFF) != c.position[i]:
        same = False
    if q["used_known"] == SURE and (q["used"] & 0xFFFF) != c.used[i]:
        same = False
    q["started"] = 1
    # vhost interrupts at the first used chain in any case.
    q["signalled_known"] = 0
    if same:
        return
    drop_after(s, k, False)
    close_open(s, k, True)
    if known:
        q["generation"] = (q["generation"] + 1) & 0xFFFF
    forget_driver(s, k)
    q["position"] = c.position[i]
    q["position_known"] = SURE
    q["position_ns"] = now
    q["used"] = c.used[i]
    q["used_known"] = SURE
    q["used_ns"] = now
    q["skew"] = q["used"] - q["position"]
    q["skew_known"] = 1
    q["proven"] = 0
    q["join"] = q["position"]
    q["frames"] = 0
    q["frames_bad"] = 0
    q["act_first"] = 0
    q["act_count"] = 0
    q["act_ns"] = 0
    q["run_ns"] = 0
    q["wake0"] = 0
    q["wake1"] = 0
    q["blind_ns"] = 0


@kernel
def packet_record(s: Any, kind: Any, i: Any, now: Any, c: Any) -> Any:
    # Of a tap, which has no ring.
    if c.packet[i] == 0:
        return
    if kind == ENQUEUE:
        enqueue(s, c.queue[i], c.packet[i], now)
    else:
        take_packet(s, c.packet[i])


@kernel
def step(s: Any, k: Any, kind: Any, i: Any, now: Any, c: Any) -> Any:
    q = s.queue[k]
    if kind == POP:
        pop(s, k, i, now, c)
    elif kind == USED:
        if c.flags[i] & F_POSITION:
            place(s, k, c.position[i], now)
        used(s, k, i, now, c)
    elif kind == SIGNAL:
        look(s, k, i, now, c)
        signal(s, k, i, now, c)
    elif kind == IRQ:
        interrupt(s, k, now)
    elif kind == RECV:
        recv(s, k, i, now, c)
    elif kind == DELIVER:
        deliver(s, k, i, now, c)
    elif kind == SEND:
        send(s, k, i, now, c)
    elif kind == KICK:
        kick(s, k, i, now, c)
    elif kind == WAKE:
        wake(s, k, i, now, c)
    elif kind == RUN:
        run(s, k, i, now, c)
    elif kind == EMPTY:
        place(s, k, c.position[i], now)
        look(s, k, i, now, c)
        s.total[k]["starved"] += 1
    elif kind == ENABLE:
        place(s, k, c.position[i], now)
        enable(s, k, i, now, c)
    elif kind == POP_ERROR:
        place(s, k, c.position[i], now)
        s.total[k]["pop_errors"] += 1
    elif kind == HAND_BACK:
        hand_back(s, k, i, now, c)
    elif kind == START:
        start(s, k, i, now, c)
    elif kind == STOP:
        drop_after(s, k, False)
        close_open(s, k, True)
        q["run_ns"] = 0
    if kind in (KICK, POP, EMPTY, SIGNAL, ENABLE):
        if not q["skew_known"]:
            same_origin(s, k)
        proof(s, k, i, now, c)


@kernel
def advance(s: Any, c: Any, first: Any) -> Any:
    """Take in the records of a batch from ``first`` on; return (why it ended, the next record)."""
    one = s.one[0]
    for i in range(first, len(c.time)):
        now = max(one["now"], c.time[i])
        if not room(s):
            return DRAIN, i
        kind = c.kind[i]
        k = -1
        queue = c.queue[i]
        if (KICK <= kind <= STOP) and kind != ENQUEUE and kind != REFUSE and queue != 0:
            k = s.slot[queue] - 1
            if k < 0:
                one["wanted_queue"] = queue
                return NEW_QUEUE, i
            if kind in (POP, USED):
                if c.head[i] >= MOST_HEADS:
                    k = -1
                elif c.head[i] >= s.queue[k]["cap"]:
                    one["wanted_queue"] = queue
                    one["wanted_heads"] = c.head[i] + 1
                    return MORE_HEADS, i
        if now >= one["tick"] and not tick(s, now):
            return DRAIN, i
        one["now"] = now
        one["events"] += 1
        sequence(s, c.cpu[i], c.seq[i], now)
        if k >= 0:
            q = s.queue[k]
            if q["direction"] == D_NONE:
                if kind == RECV:
                    q["direction"] = D_RX
                elif kind in (SEND, DELIVER):
                    q["direction"] = D_TX
            step(s, k, kind, i, now, c)
        elif kind in (ENQUEUE, REFUSE, DROP):
            packet_record(s, kind, i, now, c)
    return DONE, len(c.time)


@kernel
def end(s: Any, lost: Any, slot: Any) -> Any:
    """The recording is over: ``lost`` records are missing in all. Finish all chains from a slot on.

    From -1 on in the first call. Return the next slot; there is no room to hold the chains of more.
    """
    one = s.one[0]
    if slot < 0:
        slot = 0
        for n in range(one["cpus"]):
            while s.cpu[s.cpus[n]]["hole_ns"]:
                close_hole(s, s.cpus[n], one["now"])
        if lost > one["missing"]:
            # After the last record of some CPU.
            for n in range(one["cpus"]):
                gap(s, s.cpu[s.cpus[n]]["last_ns"] - SLACK_NS, one["now"])
    while slot < one["slots"]:
        if not room(s):
            return slot
        drop_after(s, slot, True)
        close_open(s, slot, False)
        slot += 1
    return slot
