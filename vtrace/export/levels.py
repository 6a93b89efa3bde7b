"""What runs along with the events: chains in flight, packets in the tap, handlers of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.lifecycle.cachedir import kernel
from vtrace.model import Flag, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["RUNS", "Levels"]

POP, USED, HAND_BACK, DETACH = (
    int(Kind.POP), int(Kind.USED), int(Kind.HAND_BACK), int(Kind.DETACH),
)  # fmt: skip
START, STOP, ENQUEUE, RECV = int(Kind.START), int(Kind.STOP), int(Kind.ENQUEUE), int(Kind.RECV)
EMPTY, RUN = int(Kind.EMPTY), int(Kind.RUN)
FROM_RING, TO_RING = int(Kind.POP), int(Kind.ENABLE)
QEMU: Final = int(Flag.QEMU)
QUEUES: Final = 1 << 16

RUNS: Final = np.dtype([("queue", "u2"), ("tid", "u4"), ("begin", "u8"), ("end", "u8")])
"""A handler of a worker: from RUN to the last that it did on that queue."""


@kernel
def _count(kind: Any, queue: Any, count: Any, ret: Any, flight: Any, tap: Any, out: Any) -> None:
    # out[:, 0] and out[:, 1]: chains in flight and packets in the tap behind each event, or -1.
    for i in range(len(kind)):
        k, q = kind[i], queue[i]
        step, reset = np.int64(0), False
        if k == POP:
            step = np.int64(1)
        elif k in (USED, DETACH):
            step = np.int64(-1)
        elif k == HAND_BACK:
            step = -np.int64(count[i])
        elif k in (START, STOP):
            reset = flight[q] != 0
            flight[q] = 0
        out[i, 0] = -1
        out[i, 1] = -1
        if step != 0 or reset:
            flight[q] = max(flight[q] + step, 0)
            out[i, 0] = flight[q]
        if k == ENQUEUE:
            tap[q] = np.int64(count[i]) + 1
            out[i, 1] = tap[q]
        elif k == RECV and ret[i] >= 0 and tap[q] > 0:
            tap[q] -= 1
            out[i, 1] = tap[q]


@kernel
def _handle(kind: Any, queue: Any, tid: Any, flags: Any, time: Any, opened: Any, out: Any) -> Any:
    # ``opened``: the handler of each queue that runs, of dtype RUNS. Returns how many have ended.
    ended = 0
    for i in range(len(kind)):
        k, q = kind[i], queue[i]
        row = opened[q]
        if k == RUN:
            if row["begin"] != 0:
                out[ended] = row
                ended += 1
            row["queue"], row["tid"] = q, tid[i]
            row["begin"], row["end"] = time[i], time[i]
        elif (
            k >= FROM_RING
            and k <= TO_RING
            and row["begin"] != 0
            and row["tid"] == tid[i]
            and (flags[i] & QEMU == 0 or k in (POP, EMPTY))
        ):
            row["end"] = max(row["end"], time[i])
    return ended


class Levels:
    """Takes batches in their order."""

    def __init__(self) -> None:
        self._flight = np.zeros(QUEUES, np.int64)
        self._tap = np.zeros(QUEUES, np.int64)
        self._opened = np.zeros(QUEUES, RUNS)

    def count(self, batch: EventBatch) -> NDArray[np.int64]:
        """Return behind each event the chains in flight and the packets in the tap of its queue.

        -1 where neither has changed. Both are 0 at the start of the recording, and never less.
        """
        out = np.full((len(batch), 2), -1, np.int64)
        columns = (batch[name] for name in ("kind", "queue", "count", "ret"))
        _count(*columns, self._flight, self._tap, out)
        return out

    def handlers(self, batch: EventBatch) -> NDArray[Any]:
        """Return the handlers that have ended, of dtype ``RUNS``."""
        out = np.zeros(len(batch), RUNS)
        columns = (batch[name] for name in ("kind", "queue", "tid", "flags", "time"))
        return out[: int(_handle(*columns, self._opened, out))]

    def finish(self) -> NDArray[Any]:
        """Return the handlers that were running at the end."""
        rest: NDArray[Any] = self._opened[self._opened["begin"] != 0]
        self._opened["begin"] = 0
        return rest
