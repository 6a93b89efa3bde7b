"""Frames and packet rows for tests."""

from __future__ import annotations

import numpy as np

from parsers import wire
from parsers.batch import Metadata, Snaps
from vtrace.flows import decode
from vtrace.tables import PACKET, Names, Verdict


def snaps_of(frames: list[bytes]) -> Snaps:
    """Return frames as the snaps of a batch."""
    offsets = np.zeros(len(frames) + 1, np.int64)
    np.cumsum([len(frame) for frame in frames], out=offsets[1:])
    header = np.zeros(len(frames), wire.SNAP)
    header["captured"] = [len(frame) for frame in frames]
    return Snaps(
        rows=np.arange(len(frames), dtype=np.uint32),
        header=header,
        offsets=offsets,
        data=np.frombuffer(b"".join(frames), np.uint8),
    )


def rows_of(frames: list[bytes]) -> np.ndarray:
    """Return packets of which nothing but the frame is known."""
    rows = np.zeros(len(frames), PACKET)
    rows["flow"] = decode(snaps_of(frames))
    rows["captured"] = rows["length"] = [len(frame) for frame in frames]
    rows["has_snap"] = rows["captured"] > 0
    rows["packet"] = np.arange(1, len(frames) + 1)
    rows["queue"] = rows["drop_queue"] = 1 + np.arange(len(frames)) % 2
    return rows


def drop(rows: np.ndarray, index: int, reason: int, place: int) -> None:
    """Make a packet one that was dropped."""
    rows["verdict"][index] = Verdict.DROPPED
    rows["reason"][index], rows["has_reason"][index] = reason, True
    rows["place"][index] = place


def names() -> Names:
    """Return the names of two queues, two places and a reason."""
    metadata = Metadata()
    metadata.update(
        {
            "queues": {
                "1": {"vm": "cpx", "device": "net0", "name": "rx0", "direction": "rx"},
                "2": {"vm": "db01", "device": "net0", "name": "tx0", "direction": "tx"},
            },
            "places": {"4": "tun_net_xmit"},
            "reasons": {"67": "FULL_RING"},
        }
    )
    found = Names(metadata)
    found.refresh()
    return found
