"""Counters over a recording: the first and the newest sample of each object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["Counted"]

MOST_OBJECTS: Final = 1 << 14


class Counted:
    """First and newest samples of the interfaces' counters."""

    def __init__(self) -> None:
        self._samples: dict[str, list[Mapping[str, Any]]] = {}

    def feed(self, meta: Mapping[str, Any]) -> None:
        """Take in the sections of a batch."""
        section = meta.get("counters")
        for name, values in section.items() if isinstance(section, Mapping) else ():
            if not name.startswith("link/") or not isinstance(values, Mapping):
                continue
            both = self._samples.get(name)
            if both is not None:
                both[1] = values
            elif len(self._samples) < MOST_OBJECTS:
                self._samples[name] = [values, values]

    def packets(self, interface: str, netns: int | None = None) -> int | None:
        """Return by how much rx_packets + tx_packets of an interface moved.

        None: it was not sampled twice, or its counters began anew in between.
        """
        names = [f"link/{interface}"] if netns is None else [f"link/{interface}@{netns}"]
        both = next((self._samples[name] for name in names if name in self._samples), None)
        if both is None or both[0] is both[1]:
            return None
        moved = 0
        for name in ("rx_packets", "tx_packets"):
            first, last = (sample.get(name) for sample in both)
            if not isinstance(first, int) or not isinstance(last, int) or last < first:
                return None
            moved += last - first
        return moved
