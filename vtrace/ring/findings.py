"""What can be wrong with a ring: stable words, and a list of findings that stays short."""

from __future__ import annotations

from typing import Final

from vtrace.ring.nouns import Finding

__all__ = ["WORDS", "Findings"]

WORDS: Final[dict[str, str]] = {
    "chain_loop": "a chain comes back to a descriptor that it has passed",
    "chain_long": "a chain has more descriptors than the ring has places",
    "chain_cut": "a chain goes on into a place that the driver has not published",
    "chain_shared": "a descriptor belongs to two chains at once",
    "head_range": "a head that is published lies outside of the table",
    "head_twice": "a head is published while its chain is still out",
    "next_range": "a chain goes on outside of its table",
    "order": "a readable buffer stands behind a writable one",
    "length_zero": "a buffer has no bytes",
    "length_sum": "the buffers of a chain sum up to more than 2^32 bytes",
    "address_end": "a buffer goes beyond the last address",
    "indirect_feature": "an indirect table is used that was not negotiated",
    "indirect_length": "the length of an indirect table is zero or no multiple of 16",
    "indirect_long": "an indirect table has more entries than a chain may have",
    "indirect_nested": "an indirect table refers to another one",
    "indirect_next": "a descriptor has an indirect table and a successor",
    "indirect_memory": "an indirect table lies where the guest has no memory",
    "avail_jump": "the driver's index is further ahead than the ring has places",
    "used_beyond": "more chains are returned than were taken or published",
    "used_range": "a used element names a chain outside of the table",
    "used_stray": "a used element names a chain that was not out",
    "used_index": "the used index in memory is not the device's own",
    "inuse": "the device's count of what it holds differs from its indices",
    "id_range": "a buffer id is not below the size of the ring",
    "id_twice": "a buffer id is out twice",
    "wrap_counters": "wrap counters and places of the device contradict each other",
    "wrap_flags": "flags of a descriptor contradict the place of the device",
    "event_range": "an event offset lies outside of the ring",
    "event_flags": "the flags of an event suppression area have a reserved value",
    "size_power": "the size of a split ring is no power of two",
    "budget": "not every indirect table was read: there are too many entries",
}
"""Word -> what it means."""


class Findings:
    """Collects findings: one of each word, and how often it was found."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, int | None]] = {}
        self._counts: dict[str, int] = {}

    def add(self, word: str, text: str, slot: int | None = None) -> None:
        """Note one; the first of its word is kept."""
        self._first.setdefault(word, (text, slot))
        self._counts[word] = self._counts.get(word, 0) + 1

    def tuple(self) -> tuple[Finding, ...]:
        """Return what was found, in the order in which it was found."""
        return tuple(
            Finding(word=word, text=text, slot=slot, count=self._counts[word])
            for word, (text, slot) in self._first.items()
        )
