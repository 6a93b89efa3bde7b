"""Requests decoded in bulk: what was asked, and what the device answered.

Everything here was written by a guest or is derived from it. A field is read only where its bytes
were recorded; lengths are believed for what they are, the length of the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import Outcome, Trust
from vtrace.requests import balloon, blk, net, scsi, serial
from vtrace.requests.asked import ASKED, PartState
from vtrace.requests.queues import Format, QueueFormat
from vtrace.requests.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.requests.chains import Chains

__all__ = ["decode_requests"]

_DECODERS: Final[dict[Format, Callable[[View], None]]] = {
    Format.BLK: blk.decode,
    Format.SCSI: scsi.decode_commands,
    Format.SCSI_CONTROL: scsi.decode_control,
    Format.SCSI_EVENT: scsi.decode_events,
    Format.BALLOON_INFLATE: balloon.decode_pages,
    Format.BALLOON_DEFLATE: balloon.decode_pages,
    Format.BALLOON_STATS: balloon.decode_stats,
    Format.BALLOON_HINT: balloon.decode_free_pages,
    Format.BALLOON_REPORT: balloon.decode_free_pages,
    Format.SERIAL_IN: serial.decode_data,
    Format.SERIAL_OUT: serial.decode_data,
    Format.SERIAL_CONTROL_IN: serial.decode_control,
    Format.SERIAL_CONTROL_OUT: serial.decode_control,
    Format.NET_CONTROL: net.decode_control,
    Format.NET_RX: net.decode_rx,
    Format.NET_TX: net.decode_tx,
}

CHUNK: Final = 1 << 14
"""Chains that are decoded at a time: bounds the memory that their bytes take."""


def decode_requests(
    chains: Chains,
    formats: Sequence[QueueFormat],
    which: NDArray[Any],
    used_bytes: NDArray[Any],
    outcome: NDArray[Any],
    trust: NDArray[Any],
) -> NDArray[Any]:
    """Return a row of dtype ``ASKED`` for each chain.

    Args:
        chains: The chains' records.
        formats: Formats of queues.
        which: For each chain, the one of ``formats`` that its queue has.
        used_bytes: Bytes that the device says it wrote, of chains that were returned.
        outcome: ``vtrace.model.Outcome`` of each.
        trust: ``vtrace.model.Trust`` of each.
    """
    asked = np.zeros(len(chains), ASKED)
    asked["request_state"] = PartState.NOT_APPLICABLE
    asked["response_state"] = PartState.NOT_APPLICABLE
    returned = outcome == Outcome.USED
    # Ports of one device have formats of their own, but are decoded together.
    groups: dict[tuple[Format, int, bool], list[int]] = {}
    for number, one in enumerate(formats):
        key = one.format, one.header_bytes, one.mergeable
        groups.setdefault(key, []).append(number)
    ports = np.array([one.port for one in formats], np.uint32)
    for (kind, header_bytes, mergeable), numbers in groups.items():
        decoder = _DECODERS.get(kind)
        if decoder is None:
            continue
        all_rows = np.flatnonzero(np.isin(which, numbers))
        for at in range(0, len(all_rows), CHUNK):
            rows = all_rows[at : at + CHUNK]
            view = View(
                format=kind,
                header_bytes=header_bytes,
                mergeable=mergeable,
                ports=ports[which[rows]],
                chains=chains,
                rows=rows,
                used_bytes=np.where(returned[rows], used_bytes[rows], 0).astype(np.uint64),
                returned=returned[rows],
                in_flight=outcome[rows] == Outcome.IN_FLIGHT,
                doubtful=trust[rows] == Trust.AMBIGUOUS,
            )
            decoder(view)
            asked[rows] = view.out
    return asked
