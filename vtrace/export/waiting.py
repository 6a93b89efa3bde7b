"""What waits while a recording is read: stages for their packets, packets for their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.model import STAGES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.session import Packets
    from vtrace.tables import Table

__all__ = ["STAGED", "InOrder", "StagesOfPackets"]

STAGED: Final = np.dtype([("stages", "<u8", len(STAGES)), ("valid", "?", len(STAGES))])
"""The stages of the chain of a packet, in the order of ``model.STAGES``."""

MOST_CHAINS: Final = 1 << 18
"""Chains whose packet has not ended; beyond that the oldest are given up."""
MOST_PACKETS: Final = 1 << 17
MOST_BYTES: Final = 64 << 20
"""Packets that wait for earlier ones, and their bytes; beyond that the earliest half goes."""


class StagesOfPackets:
    """Takes chains as they end, and gives their stages to the packets that they carried."""

    def __init__(self) -> None:
        self._keys = np.zeros(0, np.uint64)
        self._rows = np.zeros(0, STAGED)

    def feed(self, chains: Table) -> None:
        """Take in chains that carried a packet."""
        kept = np.flatnonzero(chains["packet"].present())
        if not len(kept):
            return
        chains = chains.take(kept)
        rows = np.zeros(len(kept), STAGED)
        for at, name in enumerate(STAGES):
            values = chains[f"{name}_ns"]
            rows["stages"][:, at] = values.data
            rows["valid"][:, at] = values.present()
        keys = _key(*(chains[name].data for name in ("queue_id", "generation", "position")))
        self._keys = np.concatenate([self._keys, keys])[-MOST_CHAINS:]
        self._rows = np.concatenate([self._rows, rows])[-MOST_CHAINS:]

    def take(self, packets: NDArray[Any]) -> NDArray[Any]:
        """Return the stages of packets (dtype ``tables.PACKET``), and forget their chains."""
        found = np.zeros(len(packets), STAGED)
        carried = np.flatnonzero(packets["has_chain"])
        if not len(carried) or not len(self._keys):
            return found
        rows = packets[carried]
        wanted = _key(rows["queue"], rows["generation"], rows["position"])
        order = np.argsort(self._keys, kind="stable")
        place = np.searchsorted(self._keys[order], wanted, side="right") - 1
        index = order[np.maximum(place, 0)]
        good = (place >= 0) & (self._keys[index] == wanted)
        found[carried[good]] = self._rows[index[good]]
        left = np.ones(len(self._keys), np.bool_)
        left[index[good]] = False
        self._keys, self._rows = self._keys[left], self._rows[left]
        return found


def _key(queue: Any, generation: Any, position: Any) -> NDArray[np.uint64]:
    # Chains that wait are near to each other: the low bits of their places tell them apart.
    high = queue.astype(np.uint64) << np.uint64(48) | generation.astype(np.uint64) << np.uint64(32)
    key: NDArray[np.uint64] = high | (position.astype(np.uint64) & np.uint64(0xFFFF_FFFF))
    return key


class InOrder:
    """Packets come as they end, and leave in the order in which they were first seen."""

    def __init__(self) -> None:
        self._packets: Packets | None = None
        self._staged = np.zeros(0, STAGED)
        self.out_of_order = 0
        """Packets that left behind a later one, as too many waited."""
        self._last = 0

    def add(self, packets: Packets, staged: NDArray[Any]) -> None:
        """Take in packets with their stages."""
        if not len(packets):
            return
        self._packets = packets if self._packets is None else self._packets.joined(packets)
        self._staged = np.concatenate([self._staged, staged])

    def take(self, before_ns: int | None) -> tuple[Packets, NDArray[Any]] | None:
        """Return the packets that were seen before a time, or None; with None all of them."""
        held = self._packets
        if held is None or not len(held):
            return None
        times = held.rows["time"]
        order = np.argsort(times, kind="stable")
        count = len(order)
        if before_ns is not None:
            count = int(np.searchsorted(times[order], np.uint64(max(before_ns, 0))))
            size = 0 if held.snaps is None else len(held.snaps.data)
            if len(order) - count > MOST_PACKETS or size > MOST_BYTES:
                count = max(count, len(order) // 2)
        if not count:
            return None
        gone, left = order[:count], np.sort(order[count:])
        first = times[gone]
        self.out_of_order += int((first < np.uint64(self._last)).sum())
        self._last = max(self._last, int(first[-1]))
        staged, self._staged = self._staged[gone], self._staged[left]
        self._packets = held.take(left)
        return held.take(gone), staged
