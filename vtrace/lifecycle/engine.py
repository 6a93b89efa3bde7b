"""Kernels: one record after the other into the state of its queue."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import close_open, hand_back, place, pop
from vtrace.lifecycle.codes import (
    D_NONE,
    D_RX,
    D_TX,
    DELIVER,
    DETACH,
    DONE,
    DRAIN,
    DROP,
    EMPTY,
    ENABLE,
    ENQUEUE,
    F_AVAIL,
    F_EVENT_IDX,
    F_POSITION,
    F_QEMU,
    F_SOCKET,
    F_USED,
    FLUSH,
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
from vtrace.lifecycle.memory import (
    cpu_at,
    event_at,
    number_at,
    queue_at,
    slot_at,
    total_at,
)
from vtrace.lifecycle.packets import deliver, enqueue, recv, send, take_packet
from vtrace.lifecycle.qemu import qemu_kick, qemu_step
from vtrace.lifecycle.qemu_ring import adopt, qemu_origin
from vtrace.lifecycle.rings import forget_driver, look, note_kick
from vtrace.lifecycle.used import drop_after, interrupt, proof, signal, used

__all__ = ["advance", "end"]


@kernel
def first_sight(s: Any, k: Any, e: Any) -> Any:
    # Where a record beside the worker's shows the device's places, they are good for a beginning.
    q = queue_at(s, k)
    if q["position_known"] == UNKNOWN and e["flags"] & F_POSITION:
        q["position"] = e["position"]
        q["position_known"] = SOFT
    if q["used_known"] == UNKNOWN and e["flags"] & F_USED:
        q["used"] = e["used"]
        q["used_known"] = SOFT


@kernel
def same_origin(s: Any, k: Any) -> Any:
    # Both indices of a ring begin at 0: what lies between them is with the device.
    q = queue_at(s, k)
    if q["position_known"] == SURE and q["used_known"] == SURE:
        between = (q["position"] - q["used"]) & 0xFFFF
        if between <= q["cap"]:
            q["skew"] = q["used"] + between - q["position"]
            q["skew_known"] = 1


@kernel
def kick(s: Any, k: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    total = total_at(s, k)
    total["kicks_sent"] += 1
    first_sight(s, k, e)
    flags = e["flags"]
    if flags & F_AVAIL and flags & F_POSITION and e["avail"] == e["position"]:
        total["kicks_spurious"] += 1
    value = look(s, k, now, e)
    q["kick_ns"] = now
    q["kick_tid"] = e["tid"]
    if value >= 0:
        note_kick(s, k, value, now, e["tid"])
    else:
        q["blind_ns"] = now
        if q["armed"]:
            q["armed"] = 0
            total["kicks_needed"] += 1


@kernel
def wake(s: Any, k: Any, now: Any, e: Any) -> Any:
    # The first one queues the work; it stays queued till it runs.
    q = queue_at(s, k)
    if e["flags"] & F_SOCKET:
        if q["wake1"] == 0:
            q["wake1"] = now
    elif q["wake0"] == 0:
        q["wake0"] = now
        q["wake_kick"] = q["kick_ns"]
        q["wake_kick_tid"] = q["kick_tid"]


@kernel
def run(s: Any, k: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    socket = e["flags"] & F_SOCKET != 0
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
        q["wake_kick"] = 0
    q["run_knows"] = q["run_floor"] != 0 or q["started"]
    q["run_ns"] = now
    q["run_socket"] = socket
    q["run_first"] = 1
    q["kicked"] = 0
    # It asks for no kicks while it runs.
    q["armed"] = 0


@kernel
def enable(s: Any, k: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    look(s, k, now, e)
    q["armed"] = e["ret"] == 0
    q["armed_avail"] = max(q["position"], q["avail"] if q["avail_known"] else 0)


@kernel
def start(s: Any, k: Any, now: Any, e: Any) -> Any:
    """A backend is attached: the ring goes on where it was, or it is another one."""
    q = queue_at(s, k)
    known = q["position_known"] == SURE or q["used_known"] == SURE
    same = known
    if q["position_known"] == SURE and (q["position"] & 0xFFFF) != e["position"]:
        same = False
    if q["used_known"] == SURE and (q["used"] & 0xFFFF) != e["used"]:
        same = False
    q["started"] = 1
    q["join_sure"] = 1
    # vhost interrupts at the first used chain in any case.
    q["signalled_known"] = 0
    if same:
        return
    drop_after(s, k, False)
    close_open(s, k, True)
    if known:
        q["generation"] = (q["generation"] + 1) & 0xFFFF
    forget_driver(s, k)
    q["position"] = e["position"]
    q["position_known"] = SURE
    q["position_ns"] = now
    q["used"] = e["used"]
    q["used_known"] = SURE
    q["used_ns"] = now
    q["skew"] = q["used"] - q["position"]
    q["skew_known"] = 1
    q["proven"] = 0
    q["waiting"] = 0
    q["frames"] = 0
    q["frames_seen"] = 0
    q["frames_bad"] = 0
    q["act_first"] = 0
    q["act_count"] = 0
    q["act_ns"] = 0
    q["run_ns"] = 0
    q["wake0"] = 0
    q["wake1"] = 0
    q["blind_ns"] = 0


@kernel
def step_qemu(s: Any, k: Any, kind: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    adopt(s, k, e)
    if e["flags"] & F_EVENT_IDX:
        q["event_idx"] = 1
    if kind == KICK and q["packed"]:
        qemu_kick(s, k, now, e)
    elif kind == KICK:
        kick(s, k, now, e)
    else:
        qemu_step(s, k, kind, now, e)
    if kind in (KICK, POP, EMPTY, SIGNAL, ENABLE):
        if not q["skew_known"] and q["packed"]:
            qemu_origin(s, k)
        elif not q["skew_known"]:
            same_origin(s, k)
        proof(s, k, now, e)


@kernel
def step(s: Any, k: Any, kind: Any, now: Any, e: Any) -> Any:
    q = queue_at(s, k)
    if q["qemu"] or e["flags"] & F_QEMU:
        step_qemu(s, k, kind, now, e)
        return
    if q["direction"] == D_NONE:
        if kind == RECV:
            q["direction"] = D_RX
        elif kind in (SEND, DELIVER):
            q["direction"] = D_TX
    if kind == POP:
        pop(s, k, now, e)
    elif kind == USED:
        if e["flags"] & F_POSITION:
            place(s, k, e["position"], now)
        used(s, k, now, e)
    elif kind == SIGNAL:
        look(s, k, now, e)
        signal(s, k, now, e)
    elif kind == IRQ:
        interrupt(s, k, now)
    elif kind == RECV:
        recv(s, k, now, e)
    elif kind == DELIVER:
        deliver(s, k, now, e)
    elif kind == SEND:
        send(s, k, now, e)
    elif kind == KICK:
        kick(s, k, now, e)
    elif kind == WAKE:
        wake(s, k, now, e)
    elif kind == RUN:
        run(s, k, now, e)
    elif kind == EMPTY:
        place(s, k, e["position"], now)
        look(s, k, now, e)
        total_at(s, k)["starved"] += 1
    elif kind == ENABLE:
        place(s, k, e["position"], now)
        enable(s, k, now, e)
    elif kind == POP_ERROR:
        place(s, k, e["position"], now)
        total_at(s, k)["pop_errors"] += 1
    elif kind == HAND_BACK:
        hand_back(s, k, now, e)
    elif kind == START:
        start(s, k, now, e)
    elif kind == STOP:
        drop_after(s, k, False)
        close_open(s, k, True)
        q["waiting"] = 0
        q["run_ns"] = 0
    if kind in (KICK, POP, EMPTY, SIGNAL, ENABLE):
        if not q["skew_known"]:
            same_origin(s, k)
        if e["flags"] & F_EVENT_IDX:
            q["event_idx"] = 1
        proof(s, k, now, e)


@kernel
def load(e: Any, c: Any, i: Any) -> Any:
    # The fields of one record side by side.
    e["packet"] = c.packet[i]
    e["seq"] = c.seq[i]
    e["tid"] = c.tid[i]
    e["length"] = c.length[i]
    e["ret"] = c.ret[i]
    e["room"] = c.room[i]
    e["queue"] = c.queue[i]
    e["count"] = c.count[i]
    e["head"] = c.head[i]
    e["avail"] = c.avail[i]
    e["position"] = c.position[i]
    e["used"] = c.used[i]
    e["event"] = c.event[i]
    e["flags"] = c.flags[i]
    e["cpu"] = c.cpu[i]


@kernel
def advance(state: Any, c: Any, first: Any) -> Any:
    """Take in the records of a batch from ``first`` on; return (why it ended, the next record)."""
    s = state[0]
    e = event_at(s)
    for i in range(first, len(c.time)):
        now = max(s["now"], c.time[i])
        if not room(s):
            return DRAIN, i
        kind = np.int64(c.kind[i])
        k = -1
        queue = np.int64(c.queue[i])
        known = KICK <= kind <= STOP or kind in (FLUSH, DETACH)
        if known and kind != ENQUEUE and kind != REFUSE and queue != 0:
            k = slot_at(s, queue)
            if k < 0:
                s["wanted_queue"] = queue
                return NEW_QUEUE, i
            if kind in (POP, USED, DETACH):
                head = np.int64(c.head[i])
                if head >= MOST_HEADS:
                    k = -1
                elif head >= queue_at(s, k)["cap"]:
                    s["wanted_queue"] = queue
                    s["wanted_heads"] = head + 1
                    return MORE_HEADS, i
        if now >= s["tick"] and not tick(s, now):
            return DRAIN, i
        if s["marked"]:
            gap(s, s["now"] - SLACK_NS, now + SLACK_NS)
            s["marked"] = 0
            s["strict"] = not s["sparse"]
        s["now"] = now
        s["events"] += 1
        sequence(s, np.int64(c.cpu[i]), np.int64(c.seq[i]), now)
        if k >= 0:
            load(e, c, i)
            step(s, k, kind, now, e)
        elif kind in (ENQUEUE, REFUSE, DROP) and c.packet[i] != 0:
            packet = np.int64(c.packet[i])
            if kind == ENQUEUE:
                enqueue(s, queue, packet, now)
            else:
                take_packet(s, packet)
    return DONE, len(c.time)


@kernel
def end(state: Any, slot: Any) -> Any:
    """The recording is over: finish all chains from a slot on.

    From -1 on in the first call. Return the next slot; there is no room to hold the chains of more.
    """
    s = state[0]
    if slot < 0:
        slot = 0
        for n in range(s["cpus"]):
            while cpu_at(s, number_at(s, n)["number"])["hole_ns"]:
                close_hole(s, number_at(s, n)["number"], s["now"])
        if s["marked"]:
            gap(s, s["now"] - SLACK_NS, s["now"])
        if s["lost"] > s["missing"]:
            # After the last record of some CPU.
            for n in range(s["cpus"]):
                gap(s, cpu_at(s, number_at(s, n)["number"])["last_ns"] - SLACK_NS, s["now"])
    while slot < s["slots"]:
        if not room(s):
            return slot
        drop_after(s, slot, True)
        close_open(s, slot, False)
        slot += 1
    return slot
