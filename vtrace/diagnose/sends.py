"""Frames from the guest that the tap did not let in: what vhost sent, less what came out.

A frame that an XDP program drops, or that the tap rejects before there is an skb, leaves no drop
record. So each SEND is held against the frames that entered the host while it ran.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.diagnose.tally import Span, extend_spans
from vtrace.model import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch

__all__ = ["Sends", "Sent"]

EAGAIN: Final = -11
EBADFD: Final = -77
EIO: Final = -5
RETRIED: Final = (EAGAIN, -12, -105)
"""EAGAIN, ENOMEM, ENOBUFS: vhost gives the chain back and tries again."""


@dataclass(slots=True)
class Sent:
    """What became of the frames of one transmit queue."""

    frames: int = 0
    """Handed to the tap, without those that were given back to be tried again."""
    entered: int = 0
    """Came into the host's stack."""
    rejected: int = 0
    errors: dict[int, int] = field(default_factory=dict)
    """Return value of tun_sendmsg below 0 -> frames."""
    retried: int = 0
    spans: list[Span] = field(default_factory=list)
    """When frames were rejected."""


class Sends:
    """Frames of all transmit queues."""

    def __init__(self) -> None:
        self.queues: dict[int, Sent] = {}
        self._entered: dict[int, NDArray[Any]] = {}

    def feed(self, batch: EventBatch, inside: NDArray[np.bool_] | None = None) -> None:
        """Take in a batch; of SENDs only those in ``inside`` count."""
        kinds = batch["kind"]
        entered, sends = kinds == Kind.DELIVER, kinds == Kind.SEND
        if not entered.any() and not sends.any():
            return
        for queue in np.unique(batch["queue"][entered | sends]).tolist():
            mine = batch["queue"] == queue
            times = np.concatenate(
                [
                    self._entered.get(queue, np.zeros(0, np.uint64)),
                    batch["time"][mine & entered].astype(np.uint64),
                ]
            )
            rows = np.flatnonzero(mine & sends)
            ends = batch["time"][rows].astype(np.uint64)
            starts = ends - batch["span"][rows].astype(np.uint64)
            # One worker serves a queue: its sends do not overlap.
            seen = np.searchsorted(times, ends, "right") - np.searchsorted(times, starts, "left")
            if inside is not None:
                rows, seen = rows[inside[rows]], seen[inside[rows]]
            self._count(queue, batch, rows, seen)
            last = ends[-1] if len(ends) else np.uint64(0)
            self._entered[queue] = times[times > last][-4096:]

    def _count(self, queue: int, batch: EventBatch, rows: NDArray[Any], seen: NDArray[Any]) -> None:
        if not len(rows):
            return
        sent = self.queues.setdefault(queue, Sent())
        ret = batch["ret"][rows]
        count = np.maximum(batch["count"][rows].astype(np.int64), 1)
        again = np.isin(ret, RETRIED)
        sent.retried += int(count[again].sum())
        missing = np.where(again, 0, np.maximum(count - seen, 0))
        sent.frames += int(count[~again].sum())
        sent.entered += int(np.minimum(seen, count)[~again].sum())
        sent.rejected += int(missing.sum())
        for code in np.unique(ret[(ret < 0) & ~again]).tolist():
            hit = ret == code
            sent.errors[code] = sent.errors.get(code, 0) + int(missing[hit].sum())
        gone = np.flatnonzero(missing)
        if len(gone):
            times = np.repeat(batch["time"][rows[gone]], missing[gone])
            extend_spans(sent.spans, times)
