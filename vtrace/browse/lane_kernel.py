"""Kernel of the timeline: one record after the other into the lanes of threads and queues.

It stands in one file, as numba's cache looks at the file of a kernel alone. Times are int64 ns of
CLOCK_MONOTONIC. A bucket is a stretch of ``width`` ns from ``start`` on.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vtrace.lifecycle.cachedir import kernel

__all__ = [
    "COUNTS",
    "DONE",
    "DROP_ROW",
    "GLOBAL",
    "LEVELS",
    "MORE_DROPS",
    "MORE_STALLS",
    "NEW_QUEUE",
    "NEW_THREAD",
    "NOBODY",
    "QUEUE",
    "STALL_ROW",
    "STATES",
    "SVM",
    "THREAD",
    "TID_SLOTS",
    "advance",
    "spread",
]

# Kinds and flags of vtrace.model, as plain numbers: a kernel has them compiled in.
(_KICK, _WAKE, _RUN, _POP, _EMPTY) = range(1, 6)
(_HAND_BACK, _ENQUEUE, _REFUSE, _RECV, _SEND) = range(7, 12)
(_USED, _SIGNAL, _IRQ, _ENABLE, _START, _STOP, _DROP, _EXIT) = range(13, 21)
(_SCHED_IN, _SCHED_OUT, _SCHED_WAKE, _FLUSH, _DETACH) = range(21, 26)
_SHOWN: Final = sum(
    1 << kind
    for kind in (
        *(_KICK, _RUN, _POP, _EMPTY, _HAND_BACK, _ENQUEUE, _REFUSE, _RECV, _USED, _IRQ, _ENABLE),
        *(_START, _STOP, _DROP, _EXIT, _SCHED_IN, _SCHED_OUT, _SCHED_WAKE, _DETACH),
    )
)
_LATEST: Final = 1 << 62
_F_AVAIL, _F_POSITION, _F_USED = 1, 4, 8
_F_SVM, _F_PREEMPTED, _F_PACKED = 1 << 10, 1 << 11, 1 << 13
_STOPPED: Final = 12  # __TASK_STOPPED, __TASK_TRACED as sched_switch reports them

STATES: Final = ("run", "wait", "sleep", "stop", "out")
"""What a thread does, 1 to 4; 0: not known. And beside that: a vCPU is outside the guest."""
_RUNS, _WAITS, _SLEEPS, _STOPS = 1, 2, 3, 4
_OUT: Final = 4
COUNTS: Final = ("kicks", "interrupts", "drops", "refused", "chains", "starved")
"""Counted per queue and bucket."""
LEVELS: Final = ("flight", "flight_end", "avail", "avail_end", "tap", "tap_end")
"""Kept per queue and bucket: the most in flight, the fewest available (not rx: the most that
wait), the most in the tap; and each at its end."""
SVM: Final = 1 << 30
"""Bit of an exit reason that is in AMD's numbering."""
NOBODY: Final = -1
TID_SLOTS: Final = 1024
DONE, NEW_THREAD, NEW_QUEUE, MORE_STALLS, MORE_DROPS = range(5)
"""Why ``advance`` came back."""

GLOBAL: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            "start", "width", "buckets", "bucket", "bucket_end", "first", "now", "threads",
            "queues", "wanted", "stalls", "drops", "stall_ns", "late_ns", "merge_ns",
            "other_threads", "other_queues", "events", "most_threads", "most_queues",
        )
    ]
)  # fmt: skip
THREAD: Final = np.dtype(
    [("tid", "i8"), ("since", "i8"), ("first", "i8"), ("other", "i8"), ("state", "i8")]
)
QUEUE: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            "id", "size", "rx", "worker", "kicker", "flight", "avail", "tap", "tap_since",
            "due_since", "packed", "drop_at", "flight_before", "avail_before", "tap_before",
            # Of the bucket under way.
            "most_flight", "far_avail", "most_tap", "leveled", "tapped", *COUNTS,
        )
    ]
)  # fmt: skip
STALL_ROW: Final = np.dtype(
    [("start", "i8"), ("end", "i8"), ("what", "i8"), ("lane", "i8"), ("other", "i8")]
)
"""``what``: 0 a thread (``lane``: its tid), 1 packets in the tap, 2 chains that were due
(``lane``: id of the queue)."""
DROP_ROW: Final = np.dtype(
    [(name, "i8") for name in ("first", "last", "queue", "drops", "refused")]
)


@kernel
def spread(ns: Any, lane: Any, which: Any, g: Any, begin: Any, end: Any) -> Any:
    """Add the time from ``begin`` to ``end`` to the buckets that it lies in."""
    begin = max(begin, g["start"])
    end = min(end, g["start"] + g["width"] * g["buckets"])
    if end <= begin:
        return
    at = g["bucket"]
    left = g["bucket_end"] - g["width"]
    if begin >= left and 0 <= at < g["buckets"] and end <= g["bucket_end"]:
        ns[lane, which, at] += end - begin
        return
    at = (begin - g["start"]) // g["width"]
    edge = g["start"] + (at + 1) * g["width"]
    while begin < end:
        upto = min(edge, end)
        ns[lane, which, at] += upto - begin
        begin = upto
        at += 1
        edge += g["width"]


@kernel
def blame(row: Any, lane: Any, ns: Any, which: Any, g: Any, begin: Any, end: Any, who: Any) -> Any:
    # Whoever had most of a bucket's time stands for it.
    begin = max(begin, g["start"])
    end = min(end, g["start"] + g["width"] * g["buckets"])
    if end <= begin:
        return
    at = (begin - g["start"]) // g["width"]
    edge = g["start"] + (at + 1) * g["width"]
    while begin < end:
        upto = min(edge, end)
        if 2 * (upto - begin) >= ns[lane, which, at]:
            row[lane, at] = who
        begin = upto
        at += 1
        edge += g["width"]


@kernel
def thread_of(g: Any, keys: Any, tid: Any) -> Any:
    # Lane of a thread; -1 none. Keys are tid << 16 | lane + 1.
    at = (tid * 2654435761 >> 7) & (TID_SLOTS - 1)
    while keys[at] != 0:
        if keys[at] >> 16 == tid:
            return (keys[at] & 0xFFFF) - 1
        at = (at + 1) & (TID_SLOTS - 1)
    return -1


@kernel
def add_stall(g: Any, stalls: Any, start: Any, end: Any, what: Any, lane: Any, other: Any) -> Any:
    row = stalls[g["stalls"]]
    row["start"] = start
    row["end"] = end
    row["what"] = what
    row["lane"] = lane
    row["other"] = other
    g["stalls"] += 1


@kernel
def sched(g: Any, t: Any, lane: Any, ns: Any, who: Any, end: Any, stalls: Any, now: Any,
          kind: Any, ret: Any, count: Any, flags: Any) -> Any:  # fmt: skip
    # A switch or a wake-up of a thread.
    was = t["state"]
    if kind == _SCHED_WAKE and was == _RUNS:
        return
    if was != 0:
        spread(ns, lane, was - 1, g, t["since"], now)
    other = NOBODY
    if kind == _SCHED_IN:
        state = _RUNS
        if was == _WAITS:
            blame(who, lane, ns, _WAITS - 1, g, t["since"], now, ret)
            if now - t["since"] >= g["stall_ns"]:
                add_stall(g, stalls, t["since"], now, 0, t["tid"], ret)
    elif kind == _SCHED_OUT:
        if flags & _F_PREEMPTED:
            state = _WAITS
            other = ret
        elif count & _STOPPED:
            state = _STOPS
        else:
            state = _SLEEPS
    else:
        state = _WAITS
        if was == _WAITS:
            # Woken again while it waits: it waits since the first.
            t["since"] = now
            return
    t["state"] = state
    t["since"] = now
    t["other"] = other
    if 0 <= g["bucket"] < g["buckets"]:
        end[lane, g["bucket"]] = state


@kernel
def leveled(q: Any, kind: Any, flags: Any, position: Any, used: Any, avail: Any,
            count: Any) -> Any:  # fmt: skip
    # How many chains the device has, and how many more it could take, as the ring itself says.
    if flags & _F_PACKED:
        q["packed"] = 1
        if kind == _POP:
            q["flight"] = max(q["flight"], 0) + 1
        elif kind in (_USED, _DETACH):
            q["flight"] = max(q["flight"] - 1, 0)
        elif kind == _HAND_BACK:
            q["flight"] = max(q["flight"] - count, 0)
        elif kind == _START:
            q["flight"] = 0
    elif flags & _F_POSITION or kind == _START:
        place = position + (kind == _POP)
        if flags & _F_USED or kind == _START:
            flight = (place - used - (kind == _USED)) & 0xFFFF
            if flight <= q["size"]:
                q["flight"] = flight
        if flags & _F_AVAIL:
            more = (avail - place) & 0xFFFF
            if more >= 0x8000:
                more = 0
            if more <= q["size"]:
                q["avail"] = more
        elif kind == _EMPTY:
            q["avail"] = 0
        elif kind == _POP and q["avail"] > 0:
            q["avail"] -= 1
    else:
        return
    q["most_flight"] = max(q["most_flight"], q["flight"])
    if q["avail"] >= 0:
        # Of buffers the fewest matter, of chains that wait the most.
        if q["rx"]:
            q["far_avail"] = min(q["far_avail"], q["avail"])
        else:
            q["far_avail"] = max(q["far_avail"], q["avail"])
    q["leveled"] = 1


@kernel
def tapped(g: Any, q: Any, stalls: Any, now: Any, kind: Any, packet: Any,
           count: Any) -> Any:  # fmt: skip
    # Packets in the tap's ring: what ENQUEUE says, less what was taken since.
    if kind == _ENQUEUE:
        q["tap"] = count + 1
        if q["tap_since"] == 0:
            q["tap_since"] = now
    elif kind == _REFUSE:
        q["tap"] = count
    else:
        if packet == 0:
            return
        if q["tap"] > 0:
            q["tap"] -= 1
        if q["tap_since"] and now - q["tap_since"] >= g["late_ns"]:
            add_stall(g, stalls, q["tap_since"], now, 1, q["id"], q["worker"])
        q["tap_since"] = now if q["tap"] > 0 else 0
    q["most_tap"] = max(q["most_tap"], q["tap"])
    q["tapped"] = 1


@kernel
def due(g: Any, q: Any, stalls: Any, now: Any, kind: Any) -> Any:
    # Chains that the driver has published and kicked for, and that nobody takes.
    if kind == _KICK:
        if q["due_since"] == 0 and q["avail"] > 0:
            q["due_since"] = now
    elif kind in (_POP, _EMPTY):
        if q["due_since"] and now - q["due_since"] >= g["late_ns"]:
            add_stall(g, stalls, q["due_since"], now, 2, q["id"], q["worker"])
        q["due_since"] = now if q["avail"] > 0 else 0
    elif kind in (_START, _STOP):
        q["due_since"] = 0


@kernel
def store(g: Any, queues: Any, counts: Any, levels: Any) -> Any:
    # What the queues did in the bucket under way, into its place.
    at = g["bucket"]
    inside = 0 <= at < g["buckets"]
    for lane in range(g["queues"]):
        q = queues[lane]
        if inside:
            counts[lane, 0, at] += q["kicks"]
            counts[lane, 1, at] += q["interrupts"]
            counts[lane, 2, at] += q["drops"]
            counts[lane, 3, at] += q["refused"]
            counts[lane, 4, at] += q["chains"]
            counts[lane, 5, at] += q["starved"]
        q["kicks"] = q["interrupts"] = q["drops"] = q["refused"] = q["chains"] = q["starved"] = 0
        if q["leveled"]:
            if at < 0:
                q["flight_before"] = q["flight"]
                q["avail_before"] = q["avail"]
            elif inside:
                levels[lane, 0, at] = max(levels[lane, 0, at], q["most_flight"])
                levels[lane, 1, at] = q["flight"]
                if q["avail"] >= 0:
                    far = q["far_avail"]
                    if levels[lane, 2, at] >= 0:
                        was = levels[lane, 2, at]
                        far = min(far, was) if q["rx"] else max(far, was)
                    levels[lane, 2, at] = far
                    levels[lane, 3, at] = q["avail"]
        if q["tapped"]:
            if at < 0:
                q["tap_before"] = q["tap"]
            elif inside:
                levels[lane, 4, at] = max(levels[lane, 4, at], q["most_tap"])
                levels[lane, 5, at] = q["tap"]
        q["most_flight"] = q["most_tap"] = -1
        q["far_avail"] = _LATEST if q["rx"] else -1
        q["leveled"] = q["tapped"] = 0


@kernel
def dropped(g: Any, q: Any, drops: Any, now: Any, refused: Any) -> Any:
    # A refusal is a drop, too; where drops are probed it has a record of each.
    at = q["drop_at"]
    if at >= 0 and now - drops[at]["last"] < g["merge_ns"]:
        drops[at]["last"] = max(now, drops[at]["last"])
        drops[at]["drops"] += not refused
        drops[at]["refused"] += refused
        return
    at = g["drops"]
    row = drops[at]
    row["first"] = now
    row["last"] = now
    row["queue"] = q["id"]
    row["drops"] = not refused
    row["refused"] = refused
    q["drop_at"] = at
    g["drops"] += 1


@kernel
def advance(one: Any, keys: Any, lanes: Any, threads: Any, queues: Any, ns: Any,
            who: Any, why: Any, exits: Any, end: Any, counts: Any, levels: Any, stalls: Any,
            drops: Any, time: Any, c_kind: Any, c_flags: Any, c_tid: Any, c_ret: Any, c_span: Any,
            c_queue: Any, c_count: Any, c_packet: Any, c_position: Any, c_used: Any,
            c_avail: Any, first: Any) -> Any:  # fmt: skip
    """Take in the records of a batch from ``first`` on; return (why it ended, the next record)."""
    g = one[0]
    last_tid: Any = -1
    last_lane = -1
    now = g["now"]
    edge = g["bucket_end"]
    inside = 0 <= g["bucket"] < g["buckets"]
    for i in range(first, len(time)):
        kind = np.int64(c_kind[i])
        # Most records say nothing that a lane shows.
        if kind > _DETACH or not _SHOWN >> kind & 1:
            continue
        now = max(time[i], now)
        if now >= edge:
            store(g, queues, counts, levels)
            while now >= g["bucket_end"] and g["bucket"] < g["buckets"]:
                g["bucket"] += 1
                g["bucket_end"] += g["width"]
            inside = 0 <= g["bucket"] < g["buckets"]
            edge = g["bucket_end"] if g["bucket"] < g["buckets"] else _LATEST
        if kind >= _EXIT and kind <= _SCHED_WAKE:
            tid = np.int64(c_tid[i])
            lane = last_lane if tid == last_tid else thread_of(g, keys, tid)
            if lane < 0:
                if g["threads"] < g["most_threads"]:
                    g["wanted"] = tid
                    g["now"] = now
                    return NEW_THREAD, i
                g["other_threads"] += 1
                continue
            last_tid = tid
            last_lane = lane
            if g["stalls"] >= len(stalls):
                g["now"] = now
                return MORE_STALLS, i
            t = threads[lane]
            if t["first"] == 0:
                t["first"] = now
            ret: Any = np.int64(c_ret[i])
            if kind == _EXIT:
                begin = now - np.int64(c_span[i])
                spread(ns, lane, _OUT, g, begin, now)
                reason = ret | SVM if c_flags[i] & _F_SVM else ret
                blame(why, lane, ns, _OUT, g, begin, now, reason)
                if inside:
                    exits[lane, g["bucket"]] += 1
            else:
                sched(g, t, lane, ns, who, end, stalls, now, kind, ret, np.int64(c_count[i]),
                      np.int64(c_flags[i]))  # fmt: skip
            continue
        queue = np.int64(c_queue[i])
        if queue == 0:
            continue
        lane = lanes[queue] - 1
        if lane < 0:
            if g["queues"] < g["most_queues"]:
                g["wanted"] = queue
                g["now"] = now
                return NEW_QUEUE, i
            g["other_queues"] += 1
            continue
        if g["stalls"] >= len(stalls):
            g["now"] = now
            return MORE_STALLS, i
        q = queues[lane]
        if kind in (_DROP, _REFUSE):
            if g["drops"] >= len(drops):
                g["now"] = now
                return MORE_DROPS, i
            dropped(g, q, drops, now, kind == _REFUSE)
            if kind == _DROP:
                q["drops"] += 1
            else:
                q["refused"] += 1
        if kind in (_ENQUEUE, _REFUSE, _RECV):
            tapped(g, q, stalls, now, kind, c_packet[i], np.int64(c_count[i]))
        elif kind != _DROP and kind != _IRQ:
            if kind in (_START, _STOP):
                q["tap_since"] = 0
            leveled(q, kind, np.int64(c_flags[i]), np.int64(c_position[i]), np.int64(c_used[i]),
                    np.int64(c_avail[i]), np.int64(c_count[i]))  # fmt: skip
            if not q["rx"]:
                due(g, q, stalls, now, kind)
            if kind in (_RUN, _POP, _EMPTY):
                q["worker"] = np.int64(c_tid[i])
        if kind == _POP:
            q["chains"] += 1
        elif kind == _KICK:
            q["kicks"] += 1
            q["kicker"] = np.int64(c_tid[i])
        elif kind == _IRQ:
            q["interrupts"] += 1
        elif kind == _EMPTY and q["rx"]:
            q["starved"] += 1
    if len(time):
        now = max(now, time[-1])
    g["now"] = now
    store(g, queues, counts, levels)
    return DONE, len(time)
