"""What the stall rules keep, their thresholds, and what they give out.

A *sign* of the driver is a change of what it alone writes: ``avail->idx``, ``used_event``, or,
without event index, the flag that asks for no interrupts. A *look* is a moment at which that was
read, by a probe or by a ring sample. Silence is claimed between two looks, never beyond the last.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

__all__ = [
    "CODES",
    "EAGAIN",
    "EMPTY",
    "ENABLE",
    "ENQUEUE",
    "EPISODE",
    "EXIT",
    "FACTS",
    "F_AVAIL",
    "F_EVENT",
    "F_EVENT_IDX",
    "F_NO_INTERRUPT",
    "F_POSITION",
    "F_PREEMPTED",
    "F_USED",
    "HAND_BACK",
    "IRQ",
    "KICK",
    "LIKELY",
    "ONE",
    "POP",
    "POSSIBLE",
    "PROVEN",
    "QUEUE",
    "R11",
    "R11_NS",
    "R11_ROUNDS",
    "RECV",
    "REFUSE",
    "RUN",
    "RX",
    "S1",
    "S1_FEW_NS",
    "S1_NS",
    "S2",
    "S2_NS",
    "S3",
    "S3_PER_S",
    "SCHED_IN",
    "SCHED_OUT",
    "SCHED_WAKE",
    "SEND",
    "SIGNAL",
    "SLOTS",
    "SLOT_NS",
    "START",
    "STOP",
    "T1",
    "T1_NS",
    "T1_SPARE",
    "T2",
    "T2_NS",
    "THREAD",
    "TX",
    "USED",
    "VM",
    "WAITED_NS",
    "WAKE",
    "Columns",
]

S1_NS: Final = 1_000_000_000
"""A driver serves an interrupt within microseconds, a loaded one within some milliseconds."""
S1_FEW_NS: Final = 10_000_000_000
"""The same where so little was returned that a driver that polls need not have shown a sign: it
refills when half of its buffers are gone (here: three quarters), and moves ``used_event`` when it
stops to poll."""
S2_NS: Final = 1_000_000_000
"""A driver that polls with interrupts off comes round in milliseconds (NAPI: two jiffies)."""
T1_NS: Final = 500_000_000
"""A worker returns a batch of 64 within a millisecond. Shorter waits are those of a loaded host."""
T1_SPARE: Final = 19
"""Linux stops the queue when fewer descriptors are free (2 + MAX_SKB_FRAGS)."""
T2_NS: Final = 500_000_000
"""A kick wakes the worker within the exit that carries it."""
R11_NS: Final = 100_000_000
"""A driver that may run refills an empty ring in less."""
R11_ROUNDS: Final = 1000
"""Rounds in which the driver's index stood still: a race with the driver makes one of them."""
S3_PER_S: Final = 1000
"""Interrupts in one second that had nothing to tell: races make a few."""
SLOT_NS: Final = 100_000_000
SLOTS: Final = 5
"""Different tenths of a second in which a vCPU ran: less is not enough to blame the guest."""
WAITED_NS: Final = 100_000_000
"""A vCPU that waited for a CPU for so long at a time: the host may be the cause."""

CODES: Final = ("", "S1", "S2", "S3", "T1", "T2", "R11")
(S1, S2, S3, T1, T2, R11) = range(1, 7)
PROVEN, LIKELY, POSSIBLE = 3, 2, 1

(KICK, WAKE, RUN, POP, EMPTY, HAND_BACK, ENQUEUE, REFUSE, RECV, SEND, USED, SIGNAL, IRQ, ENABLE,
 START, STOP, EXIT, SCHED_IN, SCHED_OUT, SCHED_WAKE) = (
    1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23)  # fmt: skip
F_AVAIL, F_EVENT, F_POSITION, F_USED, F_NO_INTERRUPT, F_EVENT_IDX, F_PREEMPTED = (
    1, 2, 4, 8, 32, 64, 1 << 11)  # fmt: skip
RX, TX = 1, 2
EAGAIN: Final = 11


def _fields(names: str) -> list[tuple[str, str]]:
    return [(name, "i8") for name in names.split()]


# fmt: off
FACTS: Final = (
    "avail used event position unseen signals irqs kicks rounds backs starved refused enqueued "
    "no_interrupt event_idx wakes runs pops again late_ns peak lost sampled most size"
)
QUEUE: Final = np.dtype(_fields(
    "id direction vm indirect seen_ns avail_known event_known used_known sign_known sign_used "
    "least irqfd irq_ns irq_slots irq_waited was_full s1 s1_ns "
    "full_ns full_slots full_waited s2 s2_ns "
    "pin_ns pin_used pin_slots pin_waited pending "
    "armed armed_at work_ns work_slots work_waited kick_ns "
    "r11_ns r11_avail r11_position r11_end_ns "
    "s3_slot s3_irqs s3_idle s3_start_ns s3_end_ns s3_all s3_n "
    "signalled signalled_known told told_used "
    + FACTS
))
"""One queue. ``most``: chains that its ring was seen to hold; ``least``: descriptors of a chain;
``irqfd``: KVM took an interrupt of it before; ``pending``: woken, and has not run; ``late_ns``:
from the full ring to the next run."""
EPISODE: Final = np.dtype(_fields("queue code level start_ns end_ns open " + FACTS))
"""A stall that was proven, till ``end_ns`` at least; ``open``: it goes on."""
VM: Final = np.dtype(_fields("slot slots waited"))
THREAD: Final = np.dtype(_fields("tid vm on_ns want_ns sched"))
"""A vCPU thread, by tid: on a CPU since, runnable since; ``sched``: its switches are recorded."""
ONE: Final = np.dtype(_fields("now n overflow"))
# fmt: on


class Columns(NamedTuple):
    """The columns of a batch that the kernels read; ``time`` as int64."""

    time: Any
    queue: Any
    kind: Any
    flags: Any
    avail: Any
    event: Any
    position: Any
    used: Any
    # A tuple has a method of that name.
    count: Any
    ret: Any
    tid: Any
