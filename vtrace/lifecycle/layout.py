"""Memory of the tracker: what it keeps of chains, queues and CPUs, as numpy records.

All of it is allocated by Python and changed by the kernels. Times are ns of CLOCK_MONOTONIC as
int64 (mixing uint64 with int64 makes numba fall back to floats). Ring indices are unwrapped to
int64; their low 16 bits are those of the ring.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtrace.model import TIME_COLUMNS

__all__ = [
    "CPU",
    "EVENT",
    "FRAME",
    "HOLD_ROWS",
    "PACKET",
    "PACKET_SLOTS",
    "QUEUE",
    "ROW",
    "SEQ_WINDOW",
    "STATES",
    "TOTAL",
    "Columns",
    "State",
    "grown",
    "new_state",
    "placed",
    "reserve",
]

Array = NDArray[Any]

STATES: Final = tuple(name.removesuffix("_ns") + "_state" for name in TIME_COLUMNS)
"""State columns, in the order of ``TIME_COLUMNS``."""

HOLD_ROWS: Final = 60_000
"""Finished chains that are held back at most, in case a loss near them shows later."""
HOLD_SPACE: Final = 1 << 17
MOST_CPUS: Final = 1 << 16
SEQ_WINDOW: Final = 4096
"""How far sequence numbers of a CPU may be out of order: a record that states when an act began
is written when it ended, and a preempted thread may do much in between."""
MOST_QUEUES: Final = 1 << 16
MOST_HEADS: Final = 1 << 15
PACKET_SLOTS: Final = 1 << 17
"""Packets under way in all taps that are remembered; a multiple of four."""

ROW: Final = np.dtype(
    [(name, "i8") for name in ("position", "avail_lo_ns", "avail_hi_ns", *TIME_COLUMNS)]
    # Trouble at or after `start` touches the chain, till it is settled; `pushed`: held since.
    + [(name, "i8") for name in ("used_index", "start", "settled", "pushed")]
    + [
        (name, "u4")
        for name in (
            "readable_bytes",
            "writable_bytes",
            "used_bytes",
            "packet",
            "batch",
            "worker_tid",
            "kick_tid",
        )
    ]
    + [(name, "u2") for name in ("queue", "generation", "head", "descriptors", "handed_back")]
    + [("cpu", "u2"), ("slot", "u2"), ("place", "u2"), ("places", "u2"), ("filled", "u2")]
    + [(name, "u1") for name in ("direction", "backend", *STATES, "outcome", "trust")]
    + [(name, "u1") for name in ("live", "joined", "cut", "listed", "packed")]
)
"""A chain. ``live``: see ``codes.FREE``; ``joined``: its RECV or SEND came, or there is none.

Of QEMU's: ``place`` is the raw place in the available ring, ``places`` how many the chain takes
there, ``filled`` the raw place of its used element, ``listed``: its head is among those that wait.
"""

QUEUE: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            # Who it is, and its share of the pools: `base` and `cap` (a power of two).
            "id", "direction", "base", "cap", "generation", "started", "open_n", "open_from",
            # Place in the available ring: the next pop. 0 not known, 1 read elsewhere, 2 sure.
            "position", "position_known", "position_ns",
            # Place in the used ring, in the same way; skew: used index of an available index.
            "used", "used_known", "used_ns", "skew", "skew_known", "proven",
            # What was seen of the driver's index: newest value, when last; the ring of changes.
            "avail", "avail_known", "avail_ns", "obs_n", "obs_at", "obs_low",
            "kick_n", "kick_at", "kick_low", "kicked", "blind_ns", "kick_ns", "kick_avail",
            "kick_tid",
            # Worker: per work item (0 kick, 1 socket) its wake and its run; the run under way.
            "wake0", "wake1", "last_run0", "last_run1", "wake_kick", "wake_kick_tid",
            "run_kick", "run_kick_tid",
            "run_ns", "run_wake", "run_floor", "run_socket", "run_first", "run_knows",
            # Joins: chains that wait for theirs; frames of the SEND under way.
            "waiting", "join_sure", "frames", "frames_seen", "frames_bad", "frames_ever",
            # Used: the act under way and the ring of what waits for signal, irq, seen.
            "act", "act_ns", "act_first", "act_count", "act_seen",
            "after_first", "after_signal", "after_irq", "after_seen", "after_n", "irq_due",
            "signalled", "signalled_known", "gap_end",
            # Notifications.
            "armed", "armed_avail", "event_idx",
            # QEMU's own backend. Of a packed ring `position` counts chains and `used` places;
            # `place` and `used_place` are the raw next ones, `reach` counts places as `used` does.
            "not_probed", "qemu", "packed", "size", "in_order", "stopped", "notify", "starving",
            "place", "reach", "used_place", "turn", "flush_ns", "looked_ns", "run_blind",
            "irq_early", "flush_tid",
        )
    ]
)  # fmt: skip

TOTAL: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            "starved", "packets", "pop_errors", "unknown_used",
            "kicks_needed", "kicks_sent", "kicks_spurious",
            "interrupts_needed", "interrupts_sent", "interrupts_suppressed",
            "interrupts_spurious", "irqs",
        )
    ]
)  # fmt: skip
"""Counters of a queue that are not a sum over its chains."""

CPU: Final = np.dtype(
    [(name, "i8") for name in ("known", "next", "last_ns", "hole_ns", "ahead")]
    + [("seen", "u1", (SEQ_WINDOW,))]
)
"""Sequence numbers of a CPU: the next one, and which of those behind it are there already."""

PACKET: Final = np.dtype([("time", "i8"), ("id", "u4"), ("queue", "u2"), ("live", "u2")])

EVENT: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            "packet", "seq", "tid", "length", "ret", "room", "queue", "count", "head", "avail",
            "position", "used", "event", "flags", "cpu",
        )
    ]
)  # fmt: skip
"""The record under way."""

NUMBER: Final = np.dtype([("number", "i4")])

_POOLS: Final = (
    "slot", "queue", "total", "open", "order", "after", "frames", "changes", "kicks", "hold",
    "waits", "cpu", "numbers", "packets", "event",
)  # fmt: skip

GLOBAL: Final = np.dtype(
    [
        (name, "i8")
        for name in (
            "first_ns", "now", "begun", "from_start", "slots", "cpus", "missing", "gaps",
            "gap_end", "tick", "tick_slot", "pushed", "taken", "frozen", "most_heads",
            "not_probed", "not_probed_qemu", "wanted_queue", "wanted_heads", "late", "events",
            "hold_rows", "lost", "losing", "marked", "strict", "sparse",
            # Addresses.
            *_POOLS,
        )
    ]
)  # fmt: skip

CHANGE: Final = np.dtype([("value", "i8"), ("time", "i8"), ("before", "i8")])
KICKED: Final = np.dtype(
    [("value", "i8"), ("time", "i8"), ("tid", "i8"), ("served", "i8"), ("blind", "i8")]
)
FRAME: Final = np.dtype([("time", "i8"), ("packet", "u4"), ("length", "u4")])


class Columns(NamedTuple):
    """The columns of a batch that the kernels read; ``time`` as int64."""

    time: Array
    packet: Array
    seq: Array
    tid: Array
    length: Array
    ret: Array
    room: Array
    queue: Array
    # A tuple has a method of that name.
    count: Array  # type: ignore[assignment]
    head: Array
    avail: Array
    position: Array
    used: Array
    event: Array
    kind: Array
    flags: Array
    cpu: Array


class State(NamedTuple):
    """Everything that lasts from batch to batch.

    A queue owns ``cap`` places from ``base`` in the pools ``open`` (by head), ``order`` (head by
    position), ``after`` (used chains in order), ``frames``, ``waits``; twice that in
    ``changes`` and ``kicks``.
    """

    one: Array  # GLOBAL, 1
    slot: Array  # NUMBER by queue id: 1 + slot, 0 none
    queue: Array  # QUEUE by slot
    total: Array  # TOTAL by slot
    open: Array  # ROW
    order: Array  # NUMBER
    after: Array  # ROW
    frames: Array  # FRAME
    waits: Array  # NUMBER: heads in the order of their pops, till joined; QEMU: filled ones
    changes: Array  # CHANGE
    kicks: Array  # KICKED
    hold: Array  # ROW: ring of finished chains
    cpu: Array  # CPU by number
    numbers: Array  # NUMBER: of the CPUs in use
    packets: Array  # PACKET
    event: Array  # EVENT, 1


def new_state() -> State:
    """Return the memory of a tracker that has seen nothing."""
    state = State(
        one=np.zeros(1, GLOBAL),
        slot=np.zeros(MOST_QUEUES, NUMBER),
        queue=np.zeros(0, QUEUE),
        total=np.zeros(0, TOTAL),
        open=np.zeros(0, ROW),
        order=np.zeros(0, NUMBER),
        after=np.zeros(0, ROW),
        frames=np.zeros(0, FRAME),
        waits=np.zeros(0, NUMBER),
        changes=np.zeros(0, CHANGE),
        kicks=np.zeros(0, KICKED),
        hold=np.zeros(HOLD_SPACE, ROW),
        cpu=np.zeros(MOST_CPUS, CPU),
        numbers=np.zeros(MOST_CPUS, NUMBER),
        packets=np.zeros(PACKET_SLOTS, PACKET),
        event=np.zeros(1, EVENT),
    )
    state.one[0]["hold_rows"] = HOLD_SPACE
    return placed(state)


def placed(state: State) -> State:
    """Return the state, with the kernels told where its arrays are: they may have moved."""
    for name in _POOLS:
        state.one[0][name] = getattr(state, name).ctypes.data
    return state


def _longer(array: Array, size: int) -> Array:
    # Half as much again: many queues make few copies.
    if size <= len(array):
        return array
    longer = np.zeros(max(size, len(array) * 3 // 2), array.dtype)
    # As bytes: numpy copies records field by field, of which some have fifty.
    longer.view(np.uint8)[: array.nbytes] = array.view(np.uint8)
    return longer


def _taken(state: State) -> int:
    queues = state.queue[: int(state.one[0]["slots"])]
    return int((queues["base"] + queues["cap"]).max()) if len(queues) else 0


def _with_pools(state: State, end: int) -> State:
    return state._replace(
        open=_longer(state.open, end),
        order=_longer(state.order, end),
        after=_longer(state.after, end),
        frames=_longer(state.frames, end),
        waits=_longer(state.waits, end),
        changes=_longer(state.changes, 2 * end),
        kicks=_longer(state.kicks, 2 * end),
    )


def reserve(
    state: State, queue: int, heads: int, direction: int, size: int = 0, in_order: bool = False
) -> State:
    """Return the state with room for a queue of ``heads`` descriptors, new or grown.

    ``size``: descriptors of the ring, 0 where not known; ``in_order``: VIRTIO_F_IN_ORDER.
    """
    one = state.one[0]
    slot = int(state.slot["number"][queue]) - 1
    cap = 1 << max(min(heads, MOST_HEADS) - 1, 15).bit_length()
    if slot >= 0:
        if direction:
            state.queue[slot]["direction"] = direction
        if size:
            state.queue[slot]["size"] = size
            state.queue[slot]["in_order"] = in_order
        return state if cap <= state.queue[slot]["cap"] else grown(state, slot, cap)
    slot, end = int(one["slots"]), _taken(state)
    state = _with_pools(state, end + cap)
    state = state._replace(
        queue=_longer(state.queue, slot + 1), total=_longer(state.total, slot + 1)
    )
    row = state.queue[slot]
    row["id"], row["direction"], row["base"], row["cap"] = queue, direction, end, cap
    row["size"], row["in_order"], row["not_probed"] = size, in_order, one["not_probed"]
    state.slot["number"][queue] = slot + 1
    one["slots"] = slot + 1
    one["most_heads"] = max(int(one["most_heads"]), cap)
    return placed(state)


def grown(state: State, slot: int, cap: int) -> State:
    """Return the state with a slot moved to a larger place of the pools."""
    old = state.queue[slot]
    base, was, end = int(old["base"]), int(old["cap"]), _taken(state)
    state = _with_pools(state, end + cap)
    queue = state.queue[slot]

    state.open[end : end + was] = state.open[base : base + was]
    # Rings are kept by absolute index: each entry goes where its index now falls.
    for pool, times, last in (
        (state.after, 1, int(queue["after_n"])),
        (state.changes, 2, int(queue["obs_n"])),
        (state.kicks, 2, int(queue["kick_n"])),
    ):
        index = np.arange(max(last - was * times, 0), last)
        new = end * times + (index & (cap * times - 1))
        pool[new] = pool[base * times + (index & (was * times - 1))]
    rows = state.open[end : end + cap]
    for head in np.flatnonzero(rows["live"]):
        state.order["number"][end + (int(rows["position"][head]) & (cap - 1))] = head
    state.frames[end : end + was] = state.frames[base : base + was]
    state.waits[end : end + was] = state.waits[base : base + was]
    queue["base"], queue["cap"] = end, cap
    state.one[0]["most_heads"] = max(int(state.one[0]["most_heads"]), cap)
    return placed(state)
