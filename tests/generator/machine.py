"""One queue pair of one VM as a discrete-event machine: tap, vCPU with driver, vhost worker.

Written from what the kernel does (``/work`` domain notes, part 1 to 3), not from what vtrace makes
of it. Every step happens at one instant; it moves the rings, writes wire records and notes the
truth of the chains it touches. All in numba, so that the same code makes a test of fifty records
and a benchmark of ten million.

The whole machine is one file on purpose. A kernel has the kernels it calls compiled into it, but
numba's cache looks for changes in the kernel's own file only: with the machine in parts, an edit
of one would leave its old code in the others, and tests would run the generator of yesterday.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit

from parsers import wire

NEVER: Final = 1 << 62
BATCH: Final = 64  # VHOST_NET_BATCH
MOST_DONE: Final = 4096  # heads between two flushes: 64, plus those of one packet
WEIGHT_BYTES: Final = 0x80000
WAKE_NS: Final = 400  # from a kick to the wake that it makes
EXIT_NS: Final = 1600  # what a kick costs the vCPU
XMIT_NS: Final = 300  # from the entry of tun_net_xmit to the packet in the ring, and the wake
BACKDATED_NS: Final = 200_000  # no record is older than the step that writes it by more

# Kinds and flags, said here again: this file takes nothing from the code it tests but the layout.
(KICK, WAKE, RUN, POP, EMPTY, POP_ERROR, HAND_BACK, ENQUEUE, REFUSE, RECV, SEND, DELIVER, USED,
 SIGNAL, IRQ, ENABLE, START, STOP, DROP, EXIT, SCHED_IN, SCHED_OUT,
 SCHED_WAKE) = range(1, 24)  # fmt: skip
F_AVAIL, F_EVENT, F_POSITION, F_USED, F_FAULT, F_NO_INTERRUPT, F_EVENT_IDX, F_SOCKET = (
    1, 2, 4, 8, 16, 32, 64, 128)  # fmt: skip
F_CUT, F_SVM, F_BATCH = 1 << 8, 1 << 10, 1 << 12
MOST_USED: Final = 192  # elements of one call that the probe looks at

RX: Final = 0
TX: Final = 1

# Outcomes of a chain in the truth; the first four are those of vtrace.model.Outcome.
(O_USED, O_IN_FLIGHT, O_DISCARDED, O_RESET, O_NEVER_POPPED) = range(5)

# What the worker does next.
(W_IDLE, W_NEXT, RX_PEEK, RX_POP, RX_BACK, RX_ENABLE, RX_OVERRUN, RX_RECV, RX_DISCARD, W_OUT,
 TX_POP, TX_ENABLE, TX_BATCH, TX_SINGLE, TX_BACK, F_USED_STEP, F_SIGNAL_STEP,
 F_IRQ_STEP) = range(18)  # fmt: skip
# What the vCPU is in the middle of.
(V_NONE, V_TX_ADD, V_TX_KICK, V_TX_WAKE, V_RX_ADD, V_RX_KICK, V_RX_WAKE,
 V_RX_ENABLE) = range(8)  # fmt: skip
# Work items of a vhost-net device.
RX_KICK, TX_KICK, RX_NET, TX_NET = range(4)
# Control actions.
C_RESET, C_RESUME, C_RECREATE = range(3)

CHAIN: Final = np.dtype(
    [
        ("queue", "u2"), ("position", "u8"), ("head", "u2"), ("direction", "u1"),
        ("outcome", "u1"), ("descriptors", "u2"), ("readable_bytes", "u4"),
        ("writable_bytes", "u4"), ("used_bytes", "u4"), ("packet", "u4"), ("batch", "u4"),
        ("handed_back", "u2"), ("used_index", "u2"), ("start", "u2"), ("signal_ret", "u1"),
        ("kicked", "u1"), ("cut", "u1"),
        ("publish_ns", "u8"), ("kick_ns", "u8"), ("enqueue_ns", "u8"),
        ("wake_ns", "u8"), ("run_ns", "u8"), ("first_pop_ns", "u8"), ("pop_ns", "u8"),
        ("backend_ns", "u8"), ("deliver_ns", "u8"), ("used_ns", "u8"), ("signal_ns", "u8"),
        ("irq_ns", "u8"), ("consumed_ns", "u8"), ("live", "i4"), ("flush", "i4"), ("left", "u4"),
    ]
)  # fmt: skip
"""Truth of one chain.

``publish_ns`` is when the driver moved avail->idx past it, ``consumed_ns`` when the driver took it
out of the used ring; the host sees neither. ``pop_ns`` is the last pop, ``first_pop_ns`` the first.
``kick_ns`` is the kick that the driver decided on after adding it, 0 where it was not needed.
``backend_ns`` is the return of its RECV or SEND. ``cut``: its used element was one too many for
the probe. ``live`` (0: free, 1: published, 2: popped,
3: used), ``flush`` and ``left`` are the machine's own.
"""

TOTALS: Final = np.dtype(
    [(name, "i8") for name in (
        "published", "kicks_sent", "kicks_suppressed", "kicks_spurious", "signals_sent",
        "signals_suppressed", "starved", "drained", "handed_back", "pops", "packets_in",
        "packets_refused", "packets_failed", "packets_done", "used", "runs", "wakes", "starts",
    )]
)  # fmt: skip
"""Totals of one queue id."""

PACKET: Final = np.dtype([("id", "u4"), ("length", "u4"), ("enqueue_ns", "u8")])

# Knobs come from scenario.Pair by name; *_ppm are chances in a million.
KNOBS: Final = (
    "end", "event_idx", "mergeable", "indirect_ppm", "fault_ppm", "write_late", "pop_cached",
    "flush_first", "sched", "exits", "svm", "header", "tap_capacity", "tap_gap", "tap_burst",
    "burst_gap", "frame_min", "frame_max", "large_ppm", "tx_gap", "tx_burst", "tx_descs_max",
    "rx_descs", "rx_room", "refill_at", "irq_delay", "sched_delay", "step", "vcpu_step", "weight",
    "recv_error_ppm", "again_ppm", "reject_ppm", "leak_ppm", "pop_error_ppm",
    "disorder_ppm", "hold_ppm", "spurious_ppm", "tx_delayed", "tx_interrupts", "zero_hand_back",
    "cpus", "packet_stride", "shuffle_ppm", "migrate_ppm", "stall_ppm", "stall_ns", "gsi",
)  # fmt: skip
STATE: Final = np.dtype(
    [("rng", "u8"), ("packet", "u8")]
    + [(name, "i8") for name in KNOBS]
    + [(name, "i8") for name in (
        "now", "n", "chains_n", "want_truth", "tap_at", "tap_cpu", "tap_left", "fifo_first",
        "fifo_n", "taken", "poll_rx", "poll_tx", "vcpu_at", "vcpu_free", "vcpu_act", "vcpu_left",
        "vcpu_cpu", "vcpu_tid", "tx_at", "tx_stopped", "tx_again_at", "rx_irq_at", "tx_irq_at",
        "worker_at", "worker_state", "worker_cpu", "worker_tid", "woken", "items", "item0",
        "item1", "item2", "item3", "queued", "wake0", "wake1", "wake2", "wake3", "need",
        "headcount", "sent", "total", "done", "fresh", "batched", "single", "after", "flush_n",
        "flush_dir", "flush_batch", "held", "control_i", "control_at", "qemu_tid", "serial",
        "id_step",
    )]
)  # fmt: skip
RING: Final = np.dtype(
    [(name, "i8") for name in (
        "id", "size", "avail", "added", "cached", "last_avail", "used", "last_used", "used_event",
        "no_interrupt", "avail_event", "no_notify", "signalled", "valid", "free", "run_ns",
        "run_wake", "starts", "base", "skew",
    )]
)  # fmt: skip
"""One ring: 64-bit indices (low 16 bits are the wire's), driver's and device's side."""


class Machine(NamedTuple):
    """All memory of one queue pair."""

    state: np.ndarray
    ring: np.ndarray  # RING, 2
    chains: np.ndarray  # CHAIN, (2, size), by head
    next: np.ndarray  # i4, (2, size): next descriptor of a chain
    free: np.ndarray  # i4, (2, size): stack of free descriptors
    avail: np.ndarray  # i4, (2, size): heads
    used: np.ndarray  # i4, (2, size): heads
    fifo: np.ndarray  # PACKET: tap ring and what vhost took out of it
    done: np.ndarray  # i4: heads to return
    held: np.ndarray  # i4: heads of the TX ring that zero copy returns later
    flush: np.ndarray  # CHAIN: heads being returned
    out: np.ndarray  # wire.RECORD
    written: np.ndarray  # u8: when each was written, for its sequence number
    truth: np.ndarray  # CHAIN: finished
    totals: np.ndarray  # TOTALS, by queue id
    control: np.ndarray  # i8, (n, 2): time, action


def machine(pair_state: np.ndarray, ring: np.ndarray, control: np.ndarray, ids: int,
            records: int = 1 << 14) -> Machine:  # fmt: skip
    """Return the memory of a pair, all free."""
    size = int(ring["size"].max())
    capacity = int(pair_state[0]["tap_capacity"]) + BATCH + 1
    return Machine(
        state=pair_state, ring=ring, chains=np.zeros((2, size), CHAIN),
        next=np.zeros((2, size), np.int32), free=np.zeros((2, size), np.int32),
        avail=np.zeros((2, size), np.int32), used=np.zeros((2, size), np.int32),
        fifo=np.zeros(capacity, PACKET), done=np.zeros(MOST_DONE, np.int32),
        held=np.zeros(MOST_DONE, np.int32),
        flush=np.zeros(MOST_DONE, CHAIN), out=np.zeros(records + 2 * MOST_DONE, wire.RECORD),
        written=np.zeros(records + 2 * MOST_DONE, np.uint64),
        truth=np.zeros(records + 2 * size + 2 * MOST_DONE, CHAIN), totals=np.zeros(ids, TOTALS),
        control=control,
    )  # fmt: skip


# --- Chance ------------------------------------------------------------------------------------


@njit(cache=True)
def below(s, n):
    # splitmix64
    s["rng"] = s["rng"] + np.uint64(0x9E3779B97F4A7C15)
    z = s["rng"]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.int64(z >> np.uint64(1)) % max(n, 1)


@njit(cache=True)
def around(s, mean):
    # At least 1: two steps of one actor never share an instant.
    return 1 + mean // 2 + below(s, mean + 1)


@njit(cache=True)
def chance(s, ppm):
    return ppm > 0 and below(s, 1_000_000) < ppm


# --- Records -----------------------------------------------------------------------------------


@njit(cache=True)
def emit(m, kind, time, cpu, tid, queue, written):
    s = m.state[0]
    i = s["n"]
    s["n"] = i + 1
    r = m.out[i]
    r["time"] = time
    r["address"] = 0
    r["packet"] = 0
    r["seq"] = 0
    r["tid"] = tid
    r["length"] = 0
    r["ret"] = 0
    r["room"] = 0
    r["span"] = 0
    r["queue"] = queue
    r["count"] = 0
    r["head"] = 0
    r["avail"] = 0
    r["position"] = 0
    r["used"] = 0
    r["event"] = 0
    r["kind"] = kind
    r["flags"] = 0
    r["cpu"] = cpu
    m.written[i] = written
    return i


@njit(cache=True)
def worker_record(m, kind, time, d):
    s = m.state[0]
    return emit(m, kind, time, s["worker_cpu"], s["worker_tid"], m.ring[d]["id"], time)


@njit(cache=True)
def places(m, i, d, position, used):
    r = m.out[i]
    r["position"] = position & 0xFFFF
    r["used"] = used & 0xFFFF
    r["flags"] = r["flags"] | F_POSITION | F_USED


@njit(cache=True)
def sample(m, i, d):
    # What a probe reads of the driver's avail ring: flags and used_event, in guest memory.
    s = m.state[0]
    q = m.ring[d]
    r = m.out[i]
    if s["event_idx"]:
        r["flags"] = r["flags"] | F_EVENT_IDX
    if chance(s, s["fault_ppm"]):
        r["flags"] = r["flags"] | F_FAULT
        return False
    if s["event_idx"]:
        r["flags"] = r["flags"] | F_EVENT
        r["event"] = q["used_event"] & 0xFFFF
    if q["no_interrupt"]:
        r["flags"] = r["flags"] | F_NO_INTERRUPT
    return True


@njit(cache=True)
def sample_avail(m, i, d):
    r = m.out[i]
    r["flags"] = r["flags"] | F_AVAIL
    r["avail"] = m.ring[d]["avail"] & 0xFFFF


# --- Truth -------------------------------------------------------------------------------------


@njit(cache=True)
def finish_row(m, row):
    s = m.state[0]
    if s["want_truth"]:
        m.truth[s["chains_n"]] = row
        s["chains_n"] = s["chains_n"] + 1


@njit(cache=True)
def settle_flush(m):
    # The batch being returned is through with its signal and interrupt.
    s = m.state[0]
    d = s["flush_dir"]
    for k in range(s["flush_n"]):
        row = m.flush[k]
        if row["consumed_ns"]:
            finish_row(m, row)
        else:
            row["flush"] = -1
            m.chains[d, row["head"]] = row
    s["flush_n"] = 0


@njit(cache=True)
def close_all(m, reset):
    # A reset or the end: what becomes of the chains that are open.
    settle_flush(m)
    for d in range(2):
        for h in range(m.ring[d]["size"]):
            c = m.chains[d, h]
            if c["live"] == 0:
                continue
            if c["live"] == 3:
                c["outcome"] = O_USED
            elif c["live"] == 2:
                c["outcome"] = O_RESET if reset else O_IN_FLIGHT
            elif c["handed_back"]:
                c["outcome"] = O_DISCARDED
            else:
                c["outcome"] = O_NEVER_POPPED
            finish_row(m, c)
            c["live"] = 0


# --- Driver ------------------------------------------------------------------------------------


@njit(cache=True)
def init_ring(m, d, base):
    q = m.ring[d]
    size = q["size"]
    for k in range(size):
        m.free[d, k] = size - 1 - k
    q["free"] = size
    q["avail"] = base
    q["added"] = base
    q["cached"] = base
    q["last_avail"] = base
    q["used"] = base + q["skew"]
    q["last_used"] = base + q["skew"]
    q["used_event"] = base + q["skew"]
    q["avail_event"] = base
    q["signalled"] = 0
    q["valid"] = 0
    q["no_notify"] = 0
    q["no_interrupt"] = 0


@njit(cache=True)
def add_chain(m, d, t, descs, slots, readable, writable):
    s = m.state[0]
    q = m.ring[d]
    size = q["size"]
    top = q["free"]
    if top > 1 and chance(s, s["shuffle_ppm"]):
        k = below(s, top)
        swap = m.free[d, k]
        m.free[d, k] = m.free[d, top - 1]
        m.free[d, top - 1] = swap
    head = m.free[d, top - 1]
    for k in range(slots):
        m.next[d, m.free[d, top - 1 - k]] = m.free[d, top - 2 - k] if k + 1 < slots else -1
    q["free"] = top - slots
    c = m.chains[d, head]
    c["queue"] = q["id"]
    c["position"] = q["avail"]
    c["head"] = head
    c["direction"] = 1 + d
    c["outcome"] = O_IN_FLIGHT
    c["descriptors"] = descs
    c["readable_bytes"] = readable
    c["writable_bytes"] = writable
    c["used_bytes"] = 0
    c["packet"] = 0
    c["batch"] = 0
    c["handed_back"] = 0
    c["used_index"] = 0
    c["start"] = q["starts"]
    c["signal_ret"] = 0
    c["kicked"] = 0
    c["cut"] = 0
    c["publish_ns"] = t
    c["kick_ns"] = 0
    c["enqueue_ns"] = 0
    c["wake_ns"] = 0
    c["run_ns"] = 0
    c["first_pop_ns"] = 0
    c["pop_ns"] = 0
    c["backend_ns"] = 0
    c["deliver_ns"] = 0
    c["used_ns"] = 0
    c["signal_ns"] = 0
    c["irq_ns"] = 0
    c["consumed_ns"] = 0
    c["live"] = 1
    c["flush"] = -1
    c["left"] = 0
    m.avail[d, q["avail"] % size] = head
    q["avail"] += 1
    m.totals[q["id"]]["published"] += 1


@njit(cache=True)
def consume(m, d, t):
    # Take all there is out of the used ring; say whether there was any.
    q = m.ring[d]
    some = q["last_used"] != q["used"]
    while q["last_used"] != q["used"]:
        head = m.used[d, q["last_used"] % q["size"]]
        q["last_used"] += 1
        c = m.chains[d, head]
        if c["flush"] >= 0:
            m.flush[c["flush"]]["consumed_ns"] = t
        else:
            c["consumed_ns"] = t
            c["outcome"] = O_USED
            finish_row(m, c)
        c["live"] = 0
        k = head
        while k >= 0:
            m.free[d, q["free"]] = k
            q["free"] += 1
            k = m.next[d, k]
    return some


@njit(cache=True)
def need_event(event, new, old):
    return ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)


@njit(cache=True)
def kick(m, d, t):
    # True: the vCPU is on its way to the host. It wakes the worker WAKE_NS later.
    s = m.state[0]
    q = m.ring[d]
    total = m.totals[q["id"]]
    if q["added"] == q["avail"]:
        return False
    if s["event_idx"]:
        needed = need_event(q["avail_event"], q["avail"], q["added"])
    else:
        needed = q["no_notify"] == 0
    spurious = not needed and chance(s, s["spurious_ppm"])
    if needed or spurious:
        total["kicks_sent"] += 1
        if spurious:
            total["kicks_spurious"] += 1
        address = 0xFE003000 + 4 * (2 * s["serial"] + d)
        i = emit(m, KICK, t, s["vcpu_cpu"], s["vcpu_tid"], q["id"], t)
        m.out[i]["address"] = address
        if sample(m, i, d):
            sample_avail(m, i, d)
        places(m, i, d, q["last_avail"], q["used"])
        if s["exits"]:
            back = t + EXIT_NS - 100
            i = emit(m, EXIT, back, s["vcpu_cpu"], s["vcpu_tid"], q["id"], back)
            m.out[i]["address"] = address
            m.out[i]["ret"] = 0x400 if s["svm"] else 49
            m.out[i]["span"] = 2100
            m.out[i]["flags"] = F_SVM if s["svm"] else 0
        for p in range(q["added"], q["avail"]):
            c = m.chains[d, m.avail[d, p % q["size"]]]
            if c["position"] == p:
                c["kick_ns"] = t
                c["kicked"] = 1
                if c["flush"] >= 0:
                    m.flush[c["flush"]]["kick_ns"] = t
                    m.flush[c["flush"]]["kicked"] = 1
    else:
        total["kicks_suppressed"] += 1
    q["added"] = q["avail"]
    return needed or spurious


@njit(cache=True)
def enable_callback(m, d):
    q = m.ring[d]
    q["no_interrupt"] = 0
    q["used_event"] = q["last_used"]


@njit(cache=True)
def vcpu_step(m, t):
    s = m.state[0]
    act = s["vcpu_act"]
    rx = m.ring[RX]
    tx = m.ring[TX]
    pause = around(s, s["vcpu_step"])
    if act == V_NONE:
        if chance(s, s["migrate_ppm"]):
            s["vcpu_cpu"] = below(s, s["cpus"])
        if s["rx_irq_at"] <= min(s["tx_irq_at"], s["tx_at"]):
            s["rx_irq_at"] = NEVER
            if not s["event_idx"]:
                rx["no_interrupt"] = 1
            consume(m, RX, t)
            s["vcpu_left"] = rx["free"] // s["rx_descs"]
            s["vcpu_act"] = V_RX_ADD if s["vcpu_left"] >= s["refill_at"] else V_RX_ENABLE
        elif s["tx_irq_at"] <= s["tx_at"]:
            s["tx_irq_at"] = NEVER
            consume(m, TX, t)
            if s["tx_interrupts"]:
                enable_callback(m, TX)
            elif not s["event_idx"]:
                tx["no_interrupt"] = 1
            if s["tx_stopped"]:
                s["tx_stopped"] = 0
                s["tx_at"] = t + pause
        else:
            s["tx_at"] = NEVER
            consume(m, TX, t)
            s["vcpu_left"] = 1 + below(s, s["tx_burst"])
            s["vcpu_act"] = V_TX_ADD
    elif act == V_TX_ADD:
        indirect = chance(s, s["indirect_ppm"])
        descs = 1 + below(s, s["tx_descs_max"])
        if not indirect:
            descs = min(descs, tx["size"])
        slots = 1 if indirect else descs
        full = False
        if tx["free"] < slots:
            enable_callback(m, TX)
            consume(m, TX, t)
            enable_callback(m, TX)
            full = tx["free"] < slots
        if full:
            s["tx_stopped"] = 1
            s["vcpu_act"] = V_TX_KICK
        else:
            length = s["frame_min"] + below(s, s["frame_max"] - s["frame_min"] + 1)
            if chance(s, s["large_ppm"]):
                length = 4096 + below(s, 60000)
            add_chain(m, TX, t, descs, slots, length + s["header"], 0)
            s["vcpu_left"] -= 1
            if s["vcpu_left"] == 0:
                s["vcpu_act"] = V_TX_KICK
    elif act == V_TX_KICK:
        if s["tx_delayed"] and not s["tx_stopped"]:
            # virtqueue_enable_cb_delayed: three quarters ahead, no proof of anything.
            tx["used_event"] = tx["last_used"] + (tx["avail"] - tx["last_used"]) * 3 // 4
            tx["no_interrupt"] = 0
        s["vcpu_act"] = V_NONE
        if kick(m, TX, t):
            s["vcpu_act"] = V_TX_WAKE
            pause = WAKE_NS
        if not s["tx_stopped"]:
            s["tx_at"] = t + pause + around(s, s["tx_gap"])
        elif tx["last_used"] != tx["used"]:
            s["tx_irq_at"] = t + pause  # enable_cb's second look
    elif act == V_TX_WAKE:
        wake(m, TX_KICK, t, s["vcpu_cpu"], s["vcpu_tid"])
        s["vcpu_act"] = V_NONE
        pause += EXIT_NS - WAKE_NS
    elif act == V_RX_ADD:
        slots = s["rx_descs"]
        if s["vcpu_left"] > 0 and rx["free"] >= slots:
            add_chain(m, RX, t, slots, slots, 0, s["rx_room"])
            s["vcpu_left"] -= 1
        else:
            s["vcpu_act"] = V_RX_KICK
    elif act == V_RX_KICK:
        s["vcpu_act"] = V_RX_ENABLE
        if kick(m, RX, t):
            s["vcpu_act"] = V_RX_WAKE
            pause = WAKE_NS
    elif act == V_RX_WAKE:
        wake(m, RX_KICK, t, s["vcpu_cpu"], s["vcpu_tid"])
        s["vcpu_act"] = V_RX_ENABLE
        pause += EXIT_NS - WAKE_NS
    else:
        enable_callback(m, RX)
        s["vcpu_act"] = V_NONE
        if rx["last_used"] != rx["used"]:
            s["rx_irq_at"] = t + pause
    s["vcpu_free"] = t + pause


@njit(cache=True)
def vcpu_due(s):
    if s["vcpu_act"] != V_NONE:
        return s["vcpu_free"]
    due = min(s["tx_at"], s["rx_irq_at"], s["tx_irq_at"])
    return max(due, s["vcpu_free"])


# --- Tap ---------------------------------------------------------------------------------------


@njit(cache=True)
def next_packet(s):
    # Unique over all pairs; never 0, also where it wraps.
    s["packet"] = s["packet"] + np.uint64(s["packet_stride"])
    p = np.int64(s["packet"] & np.uint64(0xFFFFFFFF))
    if p == 0:
        s["packet"] = s["packet"] + np.uint64(s["packet_stride"])
        p = np.int64(s["packet"] & np.uint64(0xFFFFFFFF))
    return p


@njit(cache=True)
def tap_step(m, t):
    s = m.state[0]
    q = m.ring[RX]
    total = m.totals[q["id"]]
    length = s["frame_min"] + below(s, s["frame_max"] - s["frame_min"] + 1)
    if chance(s, s["large_ppm"]):
        length = 4096 + below(s, 60000)
    if s["mergeable"]:
        # A packet that half the ring cannot hold would stall the queue for good.
        most = max(q["size"] // s["rx_descs"] // 2, 1) * s["rx_room"] - s["header"]
        length = min(length, most)
    packet = next_packet(s)
    waiting = s["fifo_n"] - s["taken"]
    cpu = s["tap_cpu"]
    tid = 20 + cpu
    # Here the packet goes into the ring; the call began before.
    entry = t - XMIT_NS
    late = 700 if s["write_late"] else 0
    if waiting >= s["tap_capacity"]:
        i = emit(m, DROP, t, cpu, tid, q["id"], t)
        r = m.out[i]
        r["packet"] = packet
        r["length"] = length
        r["ret"] = 55
        r["address"] = 1
        i = emit(m, REFUSE, entry, cpu, tid, q["id"], entry + late)
        r = m.out[i]
        r["packet"] = packet
        r["length"] = length
        r["count"] = waiting
        r["ret"] = 1
        total["packets_refused"] += 1
    else:
        i = emit(m, ENQUEUE, entry, cpu, tid, q["id"], entry + late)
        r = m.out[i]
        r["packet"] = packet
        r["length"] = length
        r["count"] = waiting
        f = m.fifo[(s["fifo_first"] + s["fifo_n"]) % len(m.fifo)]
        f["id"] = packet
        f["length"] = length
        f["enqueue_ns"] = entry
        s["fifo_n"] += 1
        total["packets_in"] += 1
        if s["poll_rx"]:
            wake(m, RX_NET, t, cpu, tid)
    s["tap_left"] -= 1
    if s["tap_left"] > 0:
        s["tap_at"] = t + 1000 + around(s, s["tap_gap"])
    else:
        s["tap_left"] = 1 + below(s, s["tap_burst"])
        s["tap_at"] = t + 1000 + around(s, s["burst_gap"])
        s["tap_cpu"] = below(s, s["cpus"])


# --- Worker ------------------------------------------------------------------------------------


@njit(cache=True)
def queue_work(m, item, wake_ns, t, cpu, tid):
    s = m.state[0]
    if s["queued"] >> item & 1:
        return
    s["queued"] |= 1 << item
    if item == RX_KICK:
        s["wake0"] = wake_ns
    elif item == TX_KICK:
        s["wake1"] = wake_ns
    elif item == RX_NET:
        s["wake2"] = wake_ns
    else:
        s["wake3"] = wake_ns
    k = s["items"]
    s["items"] += 1
    if k == 0:
        s["item0"] = item
    elif k == 1:
        s["item1"] = item
    elif k == 2:
        s["item2"] = item
    else:
        s["item3"] = item
    if s["worker_state"] == W_IDLE:
        s["worker_state"] = W_NEXT
        s["woken"] = 1
        delay = around(s, s["sched_delay"])
        if chance(s, s["stall_ppm"]):
            delay += around(s, s["stall_ns"])
        s["worker_at"] = t + 500 + delay
        if s["sched"]:
            i = emit(m, SCHED_WAKE, t + 100, cpu, s["worker_tid"], 0, t + 100)
            m.out[i]["ret"] = tid


@njit(cache=True)
def wake(m, item, t, cpu, tid):
    # vhost_poll_wakeup: the probe sits at its entry, the work is queued within.
    q = m.ring[item & 1]
    i = emit(m, WAKE, t, cpu, tid, q["id"], t)
    if item >= RX_NET:
        m.out[i]["flags"] = F_SOCKET
    m.totals[q["id"]]["wakes"] += 1
    queue_work(m, item, t, t, cpu, tid)


@njit(cache=True)
def take_item(s):
    item = s["item0"]
    s["item0"] = s["item1"]
    s["item1"] = s["item2"]
    s["item2"] = s["item3"]
    s["items"] -= 1
    s["queued"] &= ~(1 << item)
    return item


@njit(cache=True)
def item_wake(s, item):
    if item == RX_KICK:
        return s["wake0"]
    if item == TX_KICK:
        return s["wake1"]
    if item == RX_NET:
        return s["wake2"]
    return s["wake3"]


@njit(cache=True)
def try_pop(m, d, t):
    # vhost_get_vq_desc: head, -1 where the ring is empty, -2 on an error.
    s = m.state[0]
    q = m.ring[d]
    if q["last_avail"] == q["cached"]:
        q["cached"] = q["avail"]
        if q["last_avail"] == q["cached"]:
            i = worker_record(m, EMPTY, t, d)
            places(m, i, d, q["last_avail"], q["used"])
            if sample(m, i, d):
                sample_avail(m, i, d)
            return -1
    if d == TX and chance(s, s["pop_error_ppm"]):
        i = worker_record(m, POP_ERROR, t, d)
        places(m, i, d, q["last_avail"], q["used"])
        m.out[i]["ret"] = -22
        return -2
    head = m.avail[d, q["last_avail"] % q["size"]]
    c = m.chains[d, head]
    i = worker_record(m, POP, t, d)
    r = m.out[i]
    r["head"] = head
    r["count"] = c["descriptors"]
    r["length"] = c["readable_bytes"]
    r["room"] = c["writable_bytes"]
    places(m, i, d, q["last_avail"], q["used"])
    if s["pop_cached"]:
        sample(m, i, d)
        r["avail"] = q["cached"] & 0xFFFF
    elif sample(m, i, d):
        sample_avail(m, i, d)
    if c["first_pop_ns"] == 0:
        c["first_pop_ns"] = t
    c["pop_ns"] = t
    c["run_ns"] = q["run_ns"]
    c["wake_ns"] = q["run_wake"]
    c["live"] = 2
    q["last_avail"] += 1
    m.totals[q["id"]]["pops"] += 1
    return head


@njit(cache=True)
def hand_back(m, d, t, n):
    q = m.ring[d]
    q["last_avail"] -= n
    i = worker_record(m, HAND_BACK, t, d)
    m.out[i]["count"] = n
    places(m, i, d, q["last_avail"], q["used"])
    for p in range(q["last_avail"], q["last_avail"] + n):
        c = m.chains[d, m.avail[d, p % q["size"]]]
        c["handed_back"] += 1
        c["backend_ns"] = 0
        c["live"] = 1
    m.totals[q["id"]]["handed_back"] += n


@njit(cache=True)
def enable_notify(m, d, t):
    # True: more arrived meanwhile.
    q = m.ring[d]
    q["no_notify"] = 0
    q["avail_event"] = q["cached"]
    more = q["avail"] != q["cached"]
    q["cached"] = q["avail"]
    i = worker_record(m, ENABLE, t, d)
    m.out[i]["ret"] = 1 if more else 0
    places(m, i, d, q["last_avail"], q["used"])
    if sample(m, i, d):
        sample_avail(m, i, d)
    if more:
        q["no_notify"] = 1
    return more


@njit(cache=True)
def exceeds_weight(m, d, t, packet_bytes):
    s = m.state[0]
    s["sent"] += 1
    s["total"] += packet_bytes
    if s["sent"] >= s["weight"] or s["total"] >= WEIGHT_BYTES:
        queue_work(m, RX_KICK + d, 0, t, s["worker_cpu"], s["worker_tid"])
        return True
    return False


@njit(cache=True)
def deliver(m, head, t, place):
    s = m.state[0]
    c = m.chains[TX, head]
    if chance(s, s["reject_ppm"]):
        m.totals[m.ring[TX]["id"]]["packets_failed"] += 1
        return 0
    packet = next_packet(s)
    i = worker_record(m, DELIVER, t, TX)
    r = m.out[i]
    r["packet"] = packet
    r["length"] = c["readable_bytes"] - s["header"]
    r["count"] = place
    c["packet"] = packet
    c["deliver_ns"] = t
    m.totals[m.ring[TX]["id"]]["packets_done"] += 1
    return 1


@njit(cache=True)
def rx_step(m, t, state):
    s = m.state[0]
    q = m.ring[RX]
    total = m.totals[q["id"]]
    if state == RX_PEEK:
        if s["taken"] == 0:
            s["taken"] = min(BATCH, s["fifo_n"])
        if s["taken"] == 0:
            s["poll_rx"] = 1
            return W_OUT
        s["need"] = m.fifo[s["fifo_first"]]["length"] + s["header"]
        s["headcount"] = 0
        return RX_POP
    if state == RX_POP:
        head = try_pop(m, RX, t)
        if head < 0:
            total["starved"] += 1
            return RX_BACK if s["headcount"] or s["zero_hand_back"] else RX_ENABLE
        c = m.chains[RX, head]
        m.done[s["done"] + s["headcount"]] = head
        s["headcount"] += 1
        c["left"] = min(s["need"], s["rx_room"])
        s["need"] -= s["rx_room"]
        if s["need"] <= 0:
            return RX_RECV
        return RX_POP if s["mergeable"] else RX_OVERRUN
    if state == RX_BACK:
        hand_back(m, RX, t, s["headcount"])
        return RX_ENABLE
    if state == RX_ENABLE:
        return RX_PEEK if enable_notify(m, RX, t) else W_OUT
    if state == RX_OVERRUN:
        hand_back(m, RX, t, s["headcount"])
        s["headcount"] = 0
        return RX_RECV
    if state == RX_DISCARD:
        hand_back(m, RX, t, s["headcount"])
        return RX_PEEK
    # RX_RECV
    f = m.fifo[s["fifo_first"]]
    i = worker_record(m, RECV, t, RX)
    r = m.out[i]
    r["packet"] = f["id"]
    # What vhost asked for, the virtio header included; one byte where it knows better.
    r["length"] = f["length"] + s["header"] if s["headcount"] else 1
    r["span"] = 1 + s["step"] // 4
    s["fifo_first"] = (s["fifo_first"] + 1) % len(m.fifo)
    s["fifo_n"] -= 1
    s["taken"] -= 1
    if s["headcount"] == 0 or chance(s, s["recv_error_ppm"]):
        r["ret"] = -22
        total["packets_failed"] += 1
        return RX_DISCARD if s["headcount"] else RX_PEEK
    r["ret"] = f["length"] + s["header"]
    total["packets_done"] += 1
    for k in range(s["headcount"]):
        c = m.chains[RX, m.done[s["done"] + k]]
        c["packet"] = f["id"]
        c["enqueue_ns"] = f["enqueue_ns"]
        c["backend_ns"] = t
    s["done"] += s["headcount"]
    heavy = exceeds_weight(m, RX, t, f["length"] + s["header"])
    if s["done"] > BATCH:
        s["after"] = W_NEXT if heavy else RX_PEEK
        return F_USED_STEP
    return W_OUT if heavy else RX_PEEK


@njit(cache=True)
def tx_step(m, t, state):
    s = m.state[0]
    q = m.ring[TX]
    if state == TX_POP:
        if s["done"] >= BATCH:
            s["after"] = TX_POP
            return TX_BATCH
        head = try_pop(m, TX, t)
        if head == -1:
            m.totals[q["id"]]["drained"] += 1
            if s["flush_first"] and s["done"]:
                s["after"] = TX_ENABLE
                return TX_BATCH
            return TX_ENABLE
        s["after"] = W_NEXT
        if head == -2:
            # Nobody comes back to the queue but by some other wake.
            s["tx_again_at"] = t + around(s, 20000)
            return TX_BATCH
        c = m.chains[TX, head]
        if c["readable_bytes"] > 3500:
            s["single"] = head
            if s["batched"]:
                s["after"] = TX_SINGLE
                return TX_BATCH
            return TX_SINGLE
        m.done[s["done"]] = head
        s["done"] += 1
        s["batched"] += 1
        return TX_BATCH if exceeds_weight(m, TX, t, c["readable_bytes"]) else TX_POP
    if state == TX_ENABLE:
        if enable_notify(m, TX, t):
            return TX_POP
        s["after"] = W_NEXT
        return TX_BATCH
    if state == TX_SINGLE:
        c = m.chains[TX, s["single"]]
        span = 300
        again = chance(s, s["again_ppm"])
        if not again:
            deliver(m, s["single"], t - 100, 0)
        i = worker_record(m, SEND, t, TX)
        r = m.out[i]
        r["count"] = 1
        r["length"] = c["readable_bytes"]
        r["ret"] = -11 if again else c["readable_bytes"]
        r["span"] = span
        c["backend_ns"] = t
        if again:
            return TX_BACK
        m.done[s["done"]] = s["single"]
        s["done"] += 1
        s["after"] = W_NEXT
        return TX_BATCH if exceeds_weight(m, TX, t, c["readable_bytes"]) else TX_POP
    if state == TX_BACK:
        hand_back(m, TX, t, 1)
        # The socket has room again later; till then nobody looks at this queue.
        s["tx_again_at"] = t + around(s, 20000)
        s["after"] = W_NEXT
        return TX_BATCH
    # TX_BATCH, at the return of the call.
    if s["batched"]:
        n = s["batched"]
        leak = chance(s, s["leak_ppm"])
        place = 0
        for k in range(n):
            head = m.done[s["done"] - n + k]
            if not leak:
                # The probe counts what enters: a frame that tun rejects leaves no gap.
                place += deliver(m, head, t - 100 * (n - k), place)
            m.chains[TX, head]["backend_ns"] = t
        i = worker_record(m, SEND, t, TX)
        r = m.out[i]
        r["count"] = n
        r["flags"] = F_BATCH
        r["span"] = 100 * (n + 1)
        s["batched"] = 0
        if leak:
            r["ret"] = -77
            s["done"] = 0
    if s["done"]:
        return F_USED_STEP
    return s["after"]


@njit(cache=True)
def flush_step(m, t, state, d):
    s = m.state[0]
    q = m.ring[d]
    total = m.totals[q["id"]]
    if state == F_USED_STEP:
        n = 0
        if d == TX:
            for k in range(s["held"]):
                m.flush[n]["head"] = m.held[k]
                n += 1
            s["held"] = 0
        for k in range(s["done"]):
            # Zero copy: some complete later.
            hold = d == TX and s["held"] < min(q["size"] // 4, BATCH)
            if hold and chance(s, s["hold_ppm"]):
                m.held[s["held"]] = m.done[k]
                s["held"] += 1
            else:
                m.flush[n]["head"] = m.done[k]
                n += 1
        s["done"] = 0
        if n == 0:
            return s["after"]
        if n > 1 and chance(s, s["disorder_ppm"]):
            for k in range(n - 1, 0, -1):
                j = below(s, k + 1)
                a = m.flush[k]["head"]
                m.flush[k]["head"] = m.flush[j]["head"]
                m.flush[j]["head"] = a
        s["flush_n"] = n
        s["flush_dir"] = d
        s["flush_batch"] += 1
        for k in range(n):
            head = np.int64(m.flush[k]["head"])
            c = m.chains[d, head]
            c["used_bytes"] = c["left"]
            if k < MOST_USED:
                i = worker_record(m, USED, t, d)
                r = m.out[i]
                r["head"] = head
                r["length"] = c["used_bytes"]
                r["count"] = n
                # The place of the device in the avail ring, at the entry.
                places(m, i, d, q["last_avail"], q["used"])
                if n > MOST_USED:
                    r["flags"] = r["flags"] | F_CUT
            else:
                c["cut"] = 1
            m.used[d, q["used"] % q["size"]] = head
            c["used_ns"] = t
            c["used_index"] = q["used"] & 0xFFFF
            c["batch"] = s["flush_batch"]
            c["outcome"] = O_USED
            c["live"] = 3
            m.flush[k] = c
            c["flush"] = k
            m.flush[k]["flush"] = -1
            q["used"] += 1
        total["used"] += n
        return F_SIGNAL_STEP
    if state == F_SIGNAL_STEP:
        if s["event_idx"]:
            ret = q["valid"] == 0 or need_event(q["used_event"], q["used"], q["signalled"])
            q["valid"] = 1
            q["signalled"] = q["used"]
        else:
            ret = q["no_interrupt"] == 0
        i = worker_record(m, SIGNAL, t, d)
        r = m.out[i]
        r["ret"] = 1 if ret else 0
        r["used"] = q["used"] & 0xFFFF
        r["flags"] = F_USED
        if sample(m, i, d):
            sample_avail(m, i, d)
        for k in range(s["flush_n"]):
            m.flush[k]["signal_ns"] = t
            m.flush[k]["signal_ret"] = 1 if ret else 0
        if ret:
            total["signals_sent"] += 1
            return F_IRQ_STEP
        total["signals_suppressed"] += 1
        settle_flush(m)
        return s["after"]
    i = worker_record(m, IRQ, t, d)
    r = m.out[i]
    r["address"] = (0x4021 + d) << 32 | 0xFEE00000
    r["ret"] = s["gsi"] + d
    for k in range(s["flush_n"]):
        m.flush[k]["irq_ns"] = t
    settle_flush(m)
    due = t + around(s, s["irq_delay"])
    if d == RX:
        # While the driver polls with interrupts off, one more is nothing new to it.
        if s["vcpu_act"] < V_RX_ADD:
            s["rx_irq_at"] = min(s["rx_irq_at"], due)
    else:
        s["tx_irq_at"] = min(s["tx_irq_at"], due)
    return s["after"]


@njit(cache=True)
def worker_step(m, t):
    s = m.state[0]
    state = s["worker_state"]
    if state == W_NEXT:
        if s["woken"]:
            s["woken"] = 0
            if chance(s, s["migrate_ppm"]):
                s["worker_cpu"] = below(s, s["cpus"])
            if s["sched"]:
                emit(m, SCHED_IN, t - 200, s["worker_cpu"], s["worker_tid"], 0, t - 200)
        if s["items"] == 0:
            s["worker_state"] = W_IDLE
            s["worker_at"] = NEVER
            if s["sched"]:
                i = emit(m, SCHED_OUT, t, s["worker_cpu"], s["worker_tid"], 0, t)
                m.out[i]["count"] = 1
            return
        ready = item_wake(s, s["item0"])
        if ready >= t:
            s["worker_at"] = ready + 1 + s["step"]
            return
        item = take_item(s)
        d = item & 1
        i = worker_record(m, RUN, t, d)
        if item >= RX_NET:
            m.out[i]["flags"] = F_SOCKET
        q = m.ring[d]
        m.totals[q["id"]]["runs"] += 1
        q["run_ns"] = t
        q["run_wake"] = item_wake(s, item)
        q["no_notify"] = 1
        s["sent"] = 0
        s["total"] = 0
        if d == RX:
            s["poll_rx"] = 0
            s["worker_state"] = RX_PEEK
        else:
            s["worker_state"] = TX_POP
        s["worker_at"] = t + around(s, s["step"])
        return
    if state >= F_USED_STEP:
        d = s["flush_dir"] if state > F_USED_STEP else s["fresh"]
        after = flush_step(m, t, state, d)
    elif state >= TX_POP:
        s["fresh"] = TX
        after = tx_step(m, t, state)
    elif state == W_OUT:
        after = W_NEXT
        if s["done"]:
            s["after"] = W_NEXT
            after = F_USED_STEP
    else:
        s["fresh"] = RX
        after = rx_step(m, t, state)
    s["worker_state"] = after
    gap = around(s, s["step"])
    if after == TX_BATCH:
        gap += 100 * (s["batched"] + 2)
    elif after == TX_SINGLE:
        gap += 400
    s["worker_at"] = t + gap


# --- Control -----------------------------------------------------------------------------------


@njit(cache=True)
def start(m, t):
    s = m.state[0]
    for d in range(2):
        q = m.ring[d]
        q["starts"] += 1
        q["valid"] = 0
        q["cached"] = q["last_avail"]
        m.totals[q["id"]]["starts"] += 1
        at = t + 1000 * d
        i = emit(m, START, at, s["qemu_tid"] % s["cpus"], s["qemu_tid"], q["id"], at)
        places(m, i, d, q["last_avail"], q["used"])
    s["poll_rx"] = 1
    # QEMU sets the host notifier once, in case a kick was missed: a wake without a kick.
    wake(m, TX_KICK, t + 2000, s["qemu_tid"] % s["cpus"], s["qemu_tid"])
    if s["fifo_n"]:
        wake(m, RX_NET, t + 2400, s["qemu_tid"] % s["cpus"], s["qemu_tid"])
    s["vcpu_free"] = max(s["vcpu_free"], t + 3000)
    if s["worker_at"] != NEVER:
        s["worker_at"] = max(s["worker_at"], t + 3000)
    s["tap_at"] = max(s["tap_at"], t + 3000)


@njit(cache=True)
def boot(m, t):
    # The driver has set up fresh rings; the device starts on them.
    s = m.state[0]
    s["worker_state"] = W_IDLE
    s["worker_at"] = NEVER
    s["items"] = 0
    s["queued"] = 0
    s["done"] = 0
    s["held"] = 0
    s["batched"] = 0
    s["headcount"] = 0
    s["woken"] = 0
    s["vcpu_act"] = V_NONE
    s["tx_stopped"] = 0
    s["tx_irq_at"] = NEVER
    s["tx_again_at"] = NEVER
    s["rx_irq_at"] = t + 4000  # the first fill
    s["tx_at"] = t + 4000 + around(s, s["tx_gap"]) if s["tx_burst"] else NEVER
    s["vcpu_free"] = t + 3000
    for d in range(2):
        init_ring(m, d, m.ring[d]["base"])
    if not s["event_idx"] and not s["tx_interrupts"]:
        m.ring[TX]["no_interrupt"] = 1
    start(m, t)


@njit(cache=True)
def control_step(m, t):
    s = m.state[0]
    k = s["control_i"]
    action = m.control[k, 1]
    if action == C_RESUME and s["worker_state"] != W_IDLE:
        s["control_at"] = t + 2000  # stopping the backend waits for the worker
        return
    if action == C_RESUME:
        if s["held"] == 0:  # it waits for zero copy too
            start(m, t)
    else:
        close_all(m, True)
        at = t
        if action == C_RECREATE:
            for d in range(2):
                q = m.ring[d]
                i = emit(m, STOP, t + 500 * d, s["qemu_tid"] % s["cpus"], s["qemu_tid"],
                         q["id"], t + 500 * d)  # fmt: skip
                places(m, i, d, q["last_avail"], q["used"])
                q["id"] += s["id_step"]
                q["starts"] = 0
            s["worker_tid"] += 1000
            at = t + 20000
        for d in range(2):
            q = m.ring[d]
            base = 0 if below(s, 2) else below(s, 65536)
            if (base - q["last_avail"]) & 0xFFFF == 0:
                base += 1  # a ring begun anew where it stood cannot be told from a resume
            q["base"] = base
        boot(m, at)
    s["control_i"] = k + 1
    # One that waited can be later than the next was to be; what it has written is ahead of `t`.
    s["control_at"] = max(m.control[k + 1, 0], t + 30_000) if k + 1 < len(m.control) else NEVER


@njit(cache=True)
def advance(m, horizon):
    """Run till ``horizon``; return False where memory was full before."""
    s = m.state[0]
    most_records = len(m.out) - 2 * MOST_DONE
    most_truth = len(m.truth) - 2 * m.chains.shape[1] - MOST_DONE
    end = min(horizon, s["end"])
    while True:
        vcpu_at = vcpu_due(s)
        t = min(s["tap_at"], vcpu_at, s["worker_at"], s["control_at"], s["tx_again_at"])
        if t >= end:
            s["now"] = end
            return True
        if s["n"] >= most_records or s["chains_n"] >= most_truth:
            s["now"] = t
            return False
        if t == s["control_at"]:
            control_step(m, t)
        elif t == s["worker_at"]:
            worker_step(m, t)
        elif t == vcpu_at:
            vcpu_step(m, t)
        elif t == s["tap_at"]:
            tap_step(m, t)
        else:
            s["tx_again_at"] = NEVER
            wake(m, TX_NET, t, below(s, s["cpus"]), 19)


@njit(cache=True)
def begin(m, t):
    """Start the device for the first time."""
    boot(m, t)


@njit(cache=True)
def end(m):
    """Note the truth of what is open."""
    close_all(m, False)
