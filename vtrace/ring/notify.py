"""What each side has said about being notified: interrupts for the driver, kicks for the device."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from vtrace.ring.nouns import Feature, RawRing, Request

if TYPE_CHECKING:
    from vtrace.ring.findings import Findings

__all__ = ["EVENT", "packed_request", "split_request"]

EVENT: Final = struct.Struct("<HH")
"""An event suppression area of a packed ring: offset | wrap << 15, flags."""

_STATES: Final = ("enabled", "disabled", "specific", "reserved")
_PASSED: Final = ": it was passed, and there is none until it asks again"
_WHATS: Final = {"driver": "an interrupt", "device": "a kick"}


def split_request(raw: RawRing, by: str, said: tuple[int, int], index: int) -> Request:
    """Return what a side of a split ring asks for.

    Args:
        raw: The ring.
        by: driver, device.
        said: Flags and event index, as they stand in the ring.
        index: The other side's index now.
    """
    flags, event = said
    what = _WHATS[by]
    text = f"the {by} asks for "
    if not raw.has(Feature.EVENT_IDX):
        off = bool(flags & 1)
        text += f"no {what.split()[1]}s" if off else f"{what} each time"
        state = "disabled" if off else "enabled"
        return Request(by=by, state=state, flags=flags, event=None, distance=None, text=text)
    passing = "used" if by == "driver" else "available"
    text += f"{what} when the {passing} index passes {event}"
    ahead = (event - index) & 0xFFFF
    distance = ahead if ahead <= raw.size else None
    if distance == 0:
        text += ": the next chain"
    elif distance is not None:
        text += f": after {distance} more"
    else:
        text += _PASSED if 0x10000 - ahead <= raw.size else ": not soon"
    return Request(by=by, state="specific", flags=flags, event=event, distance=distance, text=text)


def packed_request(
    raw: RawRing,
    by: str,
    area: bytes,
    index: int | None,
    wrap_at: Callable[[int], int],
    findings: Findings,
) -> Request:
    """Return what a side of a packed ring asks for.

    Args:
        raw: The ring.
        by: driver, device.
        area: Its event suppression area.
        index: The other side's position now, which does not wrap; None: not known.
        wrap_at: Returns the wrap counter at a position.
        findings: Where to note what makes no sense.
    """
    event, flags = EVENT.unpack(area)
    state = _STATES[flags & 3]
    what = _WHATS[by]
    distance: int | None = None
    text = f"the {by} asks for "
    if state == "enabled":
        text += f"{what} each time"
    elif state == "disabled":
        text += f"no {what.split()[1]}s"
    elif state == "reserved":
        text = f"the flags of the {by}'s event area have the reserved value 3"
        findings.add("event_flags", text)
    else:
        place, wrap = event & 0x7FFF, event >> 15
        text += f"{what} at place {place} of a lap with wrap counter {wrap}"
        if not raw.has(Feature.EVENT_IDX):
            findings.add(
                "event_flags", f"the {by} names an event, and EVENT_IDX was not negotiated"
            )
        if place >= raw.size:
            findings.add(
                "event_range",
                f"the {by}'s event offset is {place}; the ring has {raw.size} places",
            )
        elif index is not None:
            distance, words = until(raw.size, index, place, wrap, wrap_at)
            text += words
    return Request(
        by=by,
        state=state,
        flags=flags,
        event=event if state == "specific" else None,
        distance=distance,
        text=text,
    )


def until(
    size: int, index: int, place: int, wrap: int, wrap_at: Callable[[int], int]
) -> tuple[int | None, str]:
    """Return how many places there are until an event, and words for that."""
    ahead = (place - index) % size
    if wrap_at(index + ahead) == wrap:
        return ahead, f": after {ahead} more places" if ahead else ": the next place"
    behind = (index - place) % size
    if behind and wrap_at(index - behind) == wrap:
        return None, _PASSED
    return None, ": not soon"
