"""Kernels: packets in the taps, and which chains each belongs to."""

from __future__ import annotations

from typing import Any

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import give_up_join, partial, pending
from vtrace.lifecycle.codes import (
    D_TX,
    F_BATCH,
    LOST,
    NOT_APPLICABLE,
    NP_ENQUEUE,
    SEEN,
    SHARED,
)
from vtrace.lifecycle.held import queue_gap
from vtrace.lifecycle.layout import PACKET_SLOTS

__all__ = ["deliver", "enqueue", "recv", "send", "take_packet"]


@kernel
def enqueue(s: Any, queue: Any, packet: Any, now: Any) -> Any:
    """A tap has the packet. Of four in one bucket of the table, the oldest gives way."""
    first = (packet & (PACKET_SLOTS // 4 - 1)) * 4
    best = first
    for at in range(first, first + 4):
        row = s.packets[at]
        if not row["live"] or row["id"] == packet:
            best = at
            break
        if row["time"] < s.packets[best]["time"]:
            best = at
    row = s.packets[best]
    row["live"] = 1
    row["id"] = packet
    row["queue"] = queue
    row["time"] = now


@kernel
def take_packet(s: Any, packet: Any) -> Any:
    """Return when a tap took the packet, and forget it; 0 if that was not seen."""
    first = (packet & (PACKET_SLOTS // 4 - 1)) * 4
    for at in range(first, first + 4):
        row = s.packets[at]
        if row["live"] and row["id"] == packet:
            row["live"] = 0
            return row["time"]
    return 0


@kernel
def pending_row(s: Any, k: Any, n: Any) -> Any:
    # The n-th chain that waits for a join.
    q = s.queue[k]
    position = q["join"] + n
    return s.open[q["base"] + s.order[q["base"] + (position & (q["cap"] - 1))]]


@kernel
def doubtful(s: Any, k: Any) -> Any:
    # Something was lost since the first of the chains that wait was popped.
    gap_end = max(s.one[0]["gap_end"], s.queue[k]["gap_end"])
    return gap_end >= pending_row(s, k, 0)["pop_ns"]


@kernel
def fits(s: Any, k: Any, count: Any, length: Any) -> Any:
    # vhost takes chains till the packet has room, and not one more.
    room = 0
    for n in range(count):
        row = pending_row(s, k, n)
        if row["cut"]:
            return True
        if n and room >= length:
            return False
        room += row["writable_bytes"]
    return room >= length


@kernel
def recv(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    """A packet was copied from the tap into the chains popped since the one before."""
    q = s.queue[k]
    packet = c.packet[i]
    entered = take_packet(s, packet) if packet else 0
    good = c.ret[i] >= 0
    if good:
        s.total[k]["packets"] += 1
    count = pending(s, k)
    if count == 0:
        return
    length = max(c.length[i], c.ret[i])
    if doubtful(s, k) or not fits(s, k, count, length):
        queue_gap(s, k, pending_row(s, k, 0)["pop_ns"], now)
        give_up_join(s, k, count)
        return
    for n in range(count):
        row = pending_row(s, k, n)
        row["joined"] = 1
        row["backend_ns"] = now
        row["backend_state"] = SHARED if n else SEEN
        row["packet"] = packet if good else 0
        row["enqueue_ns"] = entered
        if entered:
            row["enqueue_state"] = SHARED if n else SEEN
            row["start"] = min(row["start"], entered)
        else:
            row["enqueue_state"] = LOST
            row["start"] = 0
            partial(s, row, NP_ENQUEUE)
    q["join"] += count


@kernel
def deliver(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    """A frame of the SEND under way entered the host."""
    q = s.queue[k]
    q["frames_ever"] = 1
    s.total[k]["packets"] += 1
    if c.count[i] == 0 and q["frames"]:
        # The SEND before has not shown its return.
        q["frames_bad"] = 1
        q["frames"] = 0
    if c.count[i] != q["frames"] or q["frames"] >= q["cap"]:
        q["frames_bad"] = 1
        return
    frame = s.frames[q["base"] + q["frames"]]
    frame["time"] = now
    frame["packet"] = c.packet[i]
    frame["length"] = c.length[i]
    q["frames"] += 1


@kernel
def same_overhead(s: Any, k: Any, count: Any) -> Any:
    # Every chain holds the same header before its frame.
    q = s.queue[k]
    for n in range(1, count):
        one = pending_row(s, k, n - 1)["readable_bytes"] - s.frames[q["base"] + n - 1]["length"]
        two = pending_row(s, k, n)["readable_bytes"] - s.frames[q["base"] + n]["length"]
        if one != two:
            return False
    return True


@kernel
def send(s: Any, k: Any, i: Any, now: Any, c: Any) -> Any:
    """The tap took the chains popped since the SEND before; a large one may wait for its own."""
    q = s.queue[k]
    frames = q["frames"]
    bad = q["frames_bad"]
    q["frames"] = 0
    q["frames_bad"] = 0
    count = c.count[i]
    if c.ret[i] >= 0 and not q["frames_ever"]:
        s.total[k]["packets"] += count
    waiting = pending(s, k)
    if waiting == 0:
        return
    batch = c.flags[i] & F_BATCH
    fit = waiting == count or (batch and waiting == count + 1)
    if fit and not bad and frames == count and waiting > count:
        fit = same_overhead(s, k, count)
    if bad or not fit or doubtful(s, k):
        if not fit:
            queue_gap(s, k, pending_row(s, k, 0)["pop_ns"], now)
        give_up_join(s, k, waiting)
        return
    for n in range(count):
        row = pending_row(s, k, n)
        row["joined"] = 1
        if frames == count:
            frame = s.frames[q["base"] + n]
            row["packet"] = frame["packet"]
            row["backend_ns"] = frame["time"]
            row["backend_state"] = SEEN
        elif c.ret[i] < 0 or not q["frames_ever"]:
            row["backend_ns"] = now
            row["backend_state"] = SHARED if n else SEEN
        else:
            # The tap rejected some: which ones cannot be told.
            row["backend_state"] = LOST
    q["join"] += count


@kernel
def joined(s: Any, k: Any, row: Any) -> Any:
    """A chain is used: its RECV or SEND, if there must be one, should have come."""
    q = s.queue[k]
    if row["joined"] or q["direction"] == 0:
        if not row["joined"]:
            row["backend_state"] = NOT_APPLICABLE
        return True
    if q["direction"] != D_TX:
        row["enqueue_state"] = LOST
    row["backend_state"] = LOST
    if row["position"] >= q["join"]:
        q["join"] = row["position"] + 1
        q["frames"] = 0
    return False
