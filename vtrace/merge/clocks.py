"""One time axis: by how much each source's times have to be moved, and how that is known.

The axis is the clock of the first source. Each other one is put beside a source that has its place
already, by the best of what the files allow: an offset given by hand, the same boot, the same
events, the time of day. Where nothing does, that is an error: no offset is made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vtrace.errors import InputError
from vtrace.merge.prints import LEAST, Match, matched
from vtrace.merge.survey import LATEST_NS

if TYPE_CHECKING:
    from vtrace.merge.survey import Source

__all__ = ["Placed", "place"]

BOOT_NS: Final = 1_000_000_000
"""Two looks at the moment of one boot are not further apart, but for a clock that was set ..."""
SLEW: Final = 0.0005
"""... or slewed meanwhile: adjtimex allows 500 ppm."""
BESIDE_NS: Final = 1_000_000
"""How far two ways to tell an offset may disagree without a word."""


@dataclass(slots=True)
class Placed:
    """Where a source is on the axis."""

    source: Source
    offset_ns: int = 0
    """Added to its times."""
    uncertainty_ns: int | None = 0
    """None: nothing says how far it may be off."""
    how: str = "the axis"
    method: str = "axis"
    """axis, given, boot, chains, packets or realtime."""
    events: int = 0
    """Events that both have, by which it was found."""
    beside: int | None = None
    """Which source it was put beside."""
    host: int = 0
    """Sources of one number are of one boot of one host."""
    same: bool = False
    """It is a part of the same recording as ``beside``."""
    part: int = 0
    """Sources of one number are parts of one recording, by the first of them."""
    queues: dict[int, int] = field(default_factory=dict)
    """Queue id -> that of ``beside`` which its events are of."""
    notes: list[str] = field(default_factory=list)


def place(sources: Sequence[Source], offsets: Mapping[int, int]) -> list[Placed]:
    """Return where each source is, the first at 0.

    Args:
        sources: What was read.
        offsets: Index of a source -> ns that were given by hand.

    Raises:
        InputError: Nothing puts a source beside another.
    """
    for source in sources:
        if source.resolution_ns is None and source.events:
            raise InputError(
                f"{source.path}: its times tell an order and no more (clock {source.clock}), so "
                "they can stand beside no other's; record it with another clock (docs/import.md)"
            )
    found: dict[int, Placed] = {0: Placed(sources[0])}
    hosts = 1
    while len(found) < len(sources):
        best = _next(sources, offsets, found)
        if best is None:
            raise _nothing(sources, found)
        index, placed = best
        if placed.host < 0:
            placed.host = hosts
            hosts += 1
        beside = placed.beside
        placed.part = found[beside].part if placed.same and beside is not None else index
        found[index] = placed
    return [_representable(found[index]) for index in range(len(sources))]


def _next(
    sources: Sequence[Source], offsets: Mapping[int, int], found: Mapping[int, Placed]
) -> tuple[int, Placed] | None:
    # By the best way there is, in the order in which they were named.
    waiting = [index for index in range(len(sources)) if index not in found]
    for way in (_boot, _events, _realtime):
        for index in waiting:
            for beside, base in found.items():
                if index in offsets:
                    continue
                placed = way(sources[index], base)
                if placed is not None:
                    placed.beside = beside
                    return index, placed
    for index in waiting:
        if index in offsets:
            return index, _given(sources[index], offsets[index], found)
    return None


def _given(source: Source, offset_ns: int, found: Mapping[int, Placed]) -> Placed:
    # Whether it is of the same host, and which of its queues are the same, its events say.
    placed = Placed(source, offset_ns, None, "given by hand", "given", host=-1)
    for beside, base in found.items():
        boot = _boot(source, base)
        same = None
        if not _apart(source, base.source):
            same = matched(base.source.chains, source.chains)
        if boot is None and same is None:
            continue
        placed.beside, placed.host = beside, base.host
        if same is not None:
            placed.events, placed.queues = same.events, same.queues
            off = abs(base.offset_ns + same.offset_ns - offset_ns)
            if off > 2 * same.uncertainty_ns + BESIDE_NS:
                placed.notes.append(
                    f"{same.events} events that {base.source.name} has too are {off} ns away"
                )
        break
    return placed


def _boot(source: Source, base: Placed) -> Placed | None:
    other = base.source
    if source.clock != "monotonic" or other.clock != "monotonic":
        return None
    if not source.host or source.host != other.host:
        return None
    ours, theirs = source.anchors, other.anchors
    if not ours or not theirs:
        return None
    # The moment of the boot, as the nearest two anchors have it.
    _, one, two = min((abs(a[0] - b[0]), a, b) for a in ours for b in theirs)
    apart = abs((one[1] - one[0]) - (two[1] - two[0]))
    if apart > BOOT_NS + SLEW * abs(one[0] - two[0]):
        return None
    same = ours[0] == theirs[0]
    how = f"one boot of {source.host[0]}: host and clock anchors agree"
    if same:
        how = f"the same recording as {other.name}: one first clock anchor"
    match = None if same else matched(other.chains, source.chains)
    if match is not None and abs(match.offset_ns) > match.uncertainty_ns + BESIDE_NS:
        # Regular traffic looks alike, and rings come round: the clock is the same all the same.
        match = None
    return Placed(
        source,
        base.offset_ns,
        base.uncertainty_ns,
        how,
        "boot",
        host=base.host,
        same=same,
        events=match.events if match else 0,
        queues=match.queues if match else {},
    )


def _events(source: Source, base: Placed) -> Placed | None:
    other = base.source
    chains = None if _apart(source, other) else matched(other.chains, source.chains)
    packets = None if chains else matched(other.packets, source.packets)
    match: Match | None = chains or packets
    if match is None:
        return None
    step = max(source.resolution_ns or 0, other.resolution_ns or 0)
    uncertainty = match.uncertainty_ns + (max(1, step))
    what = "chains" if chains else "packets"
    placed = Placed(
        source,
        base.offset_ns + match.offset_ns,
        None if base.uncertainty_ns is None else base.uncertainty_ns + uncertainty,
        f"the same {what} as in {other.name}",
        what,
        events=match.events,
        host=base.host if chains else -1,
        queues=match.queues if chains else {},
    )
    told = _realtime(source, base)
    if told is not None:
        off = abs(told.offset_ns - placed.offset_ns)
        if off > uncertainty + (told.uncertainty_ns or 0) + BESIDE_NS:
            placed.notes.append(f"by the time of day it would be {off} ns away from that")
    return placed


def _apart(source: Source, other: Source) -> bool:
    # Two hosts, or two boots of one: what looks alike in their rings is chance.
    if source.host and other.host and source.host[0] != other.host[0]:
        return True
    return bool(source.own and other.own and source.anchors and other.anchors)


def _realtime(source: Source, base: Placed) -> Placed | None:
    ours, theirs = _of_day(source), _of_day(base.source)
    if ours is None or theirs is None:
        return None
    offset = ours[0] - theirs[0]
    known = ours[1] is not None and theirs[1] is not None and base.uncertainty_ns is not None
    uncertainty = (ours[1] or 0) + (theirs[1] or 0) + (base.uncertainty_ns or 0)
    how = "the time of day"
    if not source.host or source.host != base.source.host:
        how += ", as far as both clocks were right"
    return Placed(
        source, base.offset_ns + offset, uncertainty if known else None, how, "realtime", host=-1
    )


def _of_day(source: Source) -> tuple[int, int | None] | None:
    # Time of day less time of its clock, and by how much that moved.
    if source.clock == "realtime":
        return 0, source.resolution_ns
    apart = [real - mono for mono, real in source.anchors]
    if source.clock != "monotonic" or not apart:
        return None
    moved = max(apart) - min(apart) if len(apart) > 1 else None
    return apart[0], moved


def _nothing(sources: Sequence[Source], found: Mapping[int, Placed]) -> InputError:
    source = next(one for index, one in enumerate(sources) if index not in found)
    other = found[0].source
    return InputError(
        f"{source.path}: nothing puts its clock ({source.clock}) beside that of {other.path} "
        f"({other.clock}): not one boot, no {LEAST} packets or chains that both have seen, no time "
        f"of day in both; give --offset {source.name}=+1.5ms"
    )


def _representable(placed: Placed) -> Placed:
    source = placed.source
    if source.first_ns is not None and source.last_ns is not None:
        low, high = source.first_ns + placed.offset_ns, source.last_ns + placed.offset_ns
        if low < 0 or high > LATEST_NS:
            raise InputError(
                f"{source.path}: its events would lie before the clock of the first source began; "
                "name it first"
            )
    return placed
