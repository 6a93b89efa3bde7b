"""Codes of the model as plain ints, which numba takes for constants."""

from __future__ import annotations

from typing import Final

__all__: list[str] = []

# vtrace.model.Kind
(KICK, WAKE, RUN, POP, EMPTY, POP_ERROR, HAND_BACK, ENQUEUE, REFUSE, RECV, SEND, DELIVER, USED,
 SIGNAL, IRQ, ENABLE, START, STOP, DROP) = range(1, 20)  # fmt: skip
FLUSH, DETACH = 24, 25

# vtrace.model.Flag
F_AVAIL: Final = 1
F_EVENT: Final = 2
F_POSITION: Final = 4
F_USED: Final = 8
F_FAULT: Final = 16
F_NO_INTERRUPT: Final = 32
F_EVENT_IDX: Final = 64
F_SOCKET: Final = 128
F_CUT: Final = 256
F_BATCH: Final = 4096
F_PACKED: Final = 8192
F_QEMU: Final = 16384

# vtrace.model.TimeState
SEEN, SHARED, SUPPRESSED, NOT_APPLICABLE, NOT_PROBED, LOST = range(6)
# vtrace.model.Outcome
O_USED, O_IN_FLIGHT, O_DISCARDED, O_RESET = range(4)
# vtrace.model.Trust
COMPLETE, PARTIAL, AMBIGUOUS = range(3)

# Column `live` of a chain: no chain; the device has it; handed back; filled in and not flushed.
FREE, POPPED, BACK, FILLED = range(4)

# Column `backend` of a chain.
B_VHOST, B_QEMU = range(2)

# Direction of a queue.
D_NONE, D_RX, D_TX = range(3)

# What is known of a place in a ring: nothing; read beside the worker; from the worker.
UNKNOWN, SOFT, SURE = range(3)

# Bits of `not_probed`, in the order of vtrace.model.TIME_COLUMNS.
(NP_KICK, NP_ENQUEUE, NP_WAKE, NP_RUN, NP_POP, NP_BACKEND, NP_USED, NP_SIGNAL, NP_IRQ,
 NP_SEEN) = (1 << n for n in range(10))  # fmt: skip

# Why a kernel came back before the end of the batch.
DONE, NEW_QUEUE, MORE_HEADS, DRAIN = range(4)

SLACK_NS: Final = 200_000
"""A record is written at most so long after the time that it states."""
HOLE_NS: Final = 1_000_000
"""A sequence number that has not come so long after its successor is lost."""
TICK_NS: Final = 20_000_000
HOLD_NS: Final = 200_000_000
"""A finished chain waits at most so long for CPUs to show whether they lost something."""
SEEN_NS: Final = 1_000_000_000
"""A used chain waits at most so long for a proof that the driver took it."""
