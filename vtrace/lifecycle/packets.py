"""Kernels: packets in the taps, and which chains each belongs to."""

from __future__ import annotations

from typing import Any, Final

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.chains import (
    forget_wait,
    give_up_join,
    no_longer,
    partial,
    waiting_row,
)
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
from vtrace.lifecycle.memory import (
    frame_at,
    packet_at,
    queue_at,
    total_at,
)

__all__ = ["deliver", "enqueue", "recv", "send", "take_packet"]

MOST_HEADER: Final = 64
"""No virtio header before a frame is longer."""


@kernel
def enqueue(s: Any, queue: Any, packet: Any, now: Any) -> Any:
    """A tap has the packet. Of four in one bucket of the table, the oldest gives way."""
    first = (packet & (PACKET_SLOTS // 4 - 1)) * 4
    best = first
    for at in range(first, first + 4):
        row = packet_at(s, at)
        if not row["live"] or row["id"] == packet:
            best = at
            break
        if row["time"] < packet_at(s, best)["time"]:
            best = at
    row = packet_at(s, best)
    row["live"] = 1
    row["id"] = packet
    row["queue"] = queue
    row["time"] = now


@kernel
def take_packet(s: Any, packet: Any) -> Any:
    """Return when a tap took the packet, and forget it; 0 if that was not seen."""
    first = (packet & (PACKET_SLOTS // 4 - 1)) * 4
    for at in range(first, first + 4):
        row = packet_at(s, at)
        if row["live"] and row["id"] == packet:
            row["live"] = 0
            return row["time"]
    return 0


@kernel
def doubtful(s: Any, k: Any) -> Any:
    # Something was lost since the first of the chains that wait was popped.
    gap_end = max(s["gap_end"], queue_at(s, k)["gap_end"])
    return gap_end > 0 and gap_end >= waiting_row(s, k, 0)["pop_ns"]


@kernel
def fits(s: Any, k: Any, count: Any, length: Any) -> Any:
    # vhost takes chains till the packet has room, and not one more.
    room = 0
    for n in range(count):
        row = waiting_row(s, k, n)
        if row["cut"]:
            return True
        if n and room >= length:
            return False
        room += row["writable_bytes"]
    return room >= length


@kernel
def recv(s: Any, k: Any, now: Any, e: Any) -> Any:
    """A packet was copied from the tap into the chains popped since the one before."""
    q = queue_at(s, k)
    packet = e["packet"]
    entered = take_packet(s, packet) if packet else 0
    if e["ret"] < 0:
        # vhost takes no chain for it, or hands back what it took.
        return
    total_at(s, k)["packets"] += 1
    count = q["waiting"]
    if count == 0:
        return
    length = max(e["length"], e["ret"])
    sure = s["strict"] or not q["join_sure"]
    if doubtful(s, k) or (sure and not fits(s, k, count, length)):
        if q["join_sure"]:
            queue_gap(s, k, waiting_row(s, k, 0)["pop_ns"], now)
        give_up_join(s, k)
        return
    q["join_sure"] = 1
    for n in range(count):
        row = waiting_row(s, k, n)
        row["joined"] = 1
        row["backend_ns"] = now
        row["backend_state"] = SHARED if n else SEEN
        row["packet"] = packet
        row["enqueue_ns"] = entered
        if entered:
            row["enqueue_state"] = SHARED if n else SEEN
            row["start"] = min(row["start"], entered)
        else:
            row["enqueue_state"] = LOST
            row["start"] = 0
            partial(s, k, row, NP_ENQUEUE)
    no_longer(s, k, count)


@kernel
def deliver(s: Any, k: Any, now: Any, e: Any) -> Any:
    """A frame of the SEND under way entered the host."""
    q = queue_at(s, k)
    q["frames_ever"] = 1
    total_at(s, k)["packets"] += 1
    place = e["count"]
    if place >= q["cap"]:
        q["frames_bad"] = 1
        return
    if place < q["frames"]:
        # The SEND before has not shown its return.
        q["frames_bad"] = 1
        q["frames"] = 0
        q["frames_seen"] = 0
    for n in range(q["frames"], place):
        frame_at(s, q["base"] + n)["time"] = 0
    frame = frame_at(s, q["base"] + place)
    frame["time"] = now
    frame["packet"] = e["packet"]
    frame["length"] = e["length"]
    q["frames"] = place + 1
    q["frames_seen"] += 1


@kernel
def same_overhead(s: Any, k: Any, count: Any) -> Any:
    # Every chain holds the same header before its frame.
    q = queue_at(s, k)
    last = waiting_row(s, k, count - 1)
    over = last["readable_bytes"] - frame_at(s, q["base"] + count - 1)["length"]
    if not q["join_sure"] and not last["cut"] and not 0 <= over <= MOST_HEADER:
        return False
    for n in range(1, count):
        one = waiting_row(s, k, n - 1)["readable_bytes"] - frame_at(s, q["base"] + n - 1)["length"]
        two = waiting_row(s, k, n)["readable_bytes"] - frame_at(s, q["base"] + n)["length"]
        if one != two:
            return False
    return True


@kernel
def join_in_order(s: Any, k: Any, frames: Any) -> Any:
    # As many frames as chains wait.
    q = queue_at(s, k)
    at = 0
    for place in range(frames):
        frame = frame_at(s, q["base"] + place)
        if frame["time"]:
            row = waiting_row(s, k, at)
            row["joined"] = 1
            row["packet"] = frame["packet"]
            row["backend_ns"] = frame["time"]
            row["backend_state"] = SEEN
            at += 1
    q["waiting"] = 0


@kernel
def send(s: Any, k: Any, now: Any, e: Any) -> Any:
    """The tap took the chains popped since the SEND before; a large one may wait for its own."""
    q = queue_at(s, k)
    # Where the last frame entered, the places of all are those of their chains.
    frames = q["frames"]
    seen = q["frames_seen"]
    bad = q["frames_bad"]
    q["frames"] = 0
    q["frames_seen"] = 0
    q["frames_bad"] = 0
    count = e["count"]
    if e["ret"] >= 0 and not q["frames_ever"]:
        total_at(s, k)["packets"] += count
    waiting = q["waiting"]
    if waiting == 0:
        return
    batch = e["flags"] & F_BATCH
    fit = waiting == count or (batch and waiting == count + 1)
    if fit and not bad and seen == count and (waiting > count or not q["join_sure"]):
        # The first of the recording: the batch may have begun before it, and a large one wait too.
        fit = same_overhead(s, k, count)
    picked = s["sparse"] or q["join_sure"]
    if picked and not s["strict"] and not fit and 0 < seen == waiting:
        # A filter has picked some of the batch.
        join_in_order(s, k, frames)
        return
    if bad or not fit or doubtful(s, k):
        if not fit and q["join_sure"]:
            queue_gap(s, k, waiting_row(s, k, 0)["pop_ns"], now)
        give_up_join(s, k)
        return
    q["join_sure"] = 1
    for n in range(count):
        row = waiting_row(s, k, n)
        row["joined"] = 1
        if frames == count and frame_at(s, q["base"] + n)["time"]:
            frame = frame_at(s, q["base"] + n)
            row["packet"] = frame["packet"]
            row["backend_ns"] = frame["time"]
            row["backend_state"] = SEEN
        elif e["ret"] < 0 or not q["frames_ever"]:
            row["backend_ns"] = now
            row["backend_state"] = SHARED if n else SEEN
        else:
            # The tap rejected it, or another: which one may not be told.
            row["backend_state"] = LOST
    no_longer(s, k, count)


@kernel
def joined(s: Any, k: Any, row: Any) -> Any:
    """A chain is used: its RECV or SEND, if there must be one, should have come."""
    q = queue_at(s, k)
    if row["joined"] or q["direction"] == 0:
        if not row["joined"]:
            row["backend_state"] = NOT_APPLICABLE
        return True
    if q["direction"] != D_TX:
        row["enqueue_state"] = LOST
    row["backend_state"] = LOST
    forget_wait(s, k, row["head"])
    q["frames"] = 0
    q["frames_seen"] = 0
    return False
