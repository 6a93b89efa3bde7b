"""Which chains of a split ring are out, told from its two rings.

The available ring holds the last N heads that were published, the used ring the last N that were
returned, N being the size. A device that returns in order has the chains between the two indices.
One that does not may hold an older chain, whose place has been published over since. So this says
what is certain, and how many chains are not to be seen.

Positions never wrap here. A chain that is published after return ``p`` stands at a position above
``p``, because by then at least ``p + 1`` were published; and a chain is returned less than N
positions ahead of its own, because no more than N are out. The rules below are made of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

__all__ = ["Flight", "Proof", "flight_of"]


class Proof(Enum):
    """How sure it is that a chain is out."""

    SURE = 2
    LIKELY = 1
    """It fits: there are as many that may be out as there must be."""
    NONE = 0
    """One of several that may be."""


@dataclass(frozen=True, slots=True)
class Flight:
    """What is out, and what came back."""

    chains: tuple[tuple[int, int, Proof], ...]
    """(head, position, how sure it is), by position."""
    returned: dict[int, tuple[int, int | None]]
    """Head -> (position in the used ring, bytes); newest first, without those that are out."""
    reaped: int
    """The driver has reaped at least up to this position: it published again what was there."""
    missing: int
    """Chains that are out and not to be seen."""
    certain: bool
    strays: tuple[tuple[str, int | None], ...]
    """Used elements that name what was not out: sentence, head."""


def flight_of(
    size: int,
    heads: Sequence[int],
    elements: Sequence[tuple[int, int]],
    indices: tuple[int, int, int],
    in_order: bool,
) -> Flight:
    """Return what is out on a split ring.

    Args:
        size: Places of the ring.
        heads: The available ring.
        elements: The used ring: (id, bytes).
        indices: Used, taken and available as positions that do not wrap, in this order and at most
            ``size`` apart.
        in_order: The device returns in order, and writes one element for several chains.
    """
    used, taken, avail = indices
    if in_order:
        return _in_order(size, heads, elements, indices)
    young = _young(size, heads, elements, used, avail)
    first = avail - (avail & 0xFFFF if young else size)
    published: dict[int, list[int]] = {}
    for position in range(first, avail):
        published.setdefault(heads[position % size], []).append(position)
    oldest = used - (used & 0xFFFF if young else size)
    back: dict[int, list[int]] = {}
    for position in range(oldest, used):
        back.setdefault(elements[position % size][0], []).append(position)
    waiting = {heads[position % size] for position in range(taken, avail)}

    sure: list[tuple[int, int]] = []
    maybe: list[tuple[int, int]] = []
    for head, positions in published.items():
        before = [position for position in positions if position < taken]
        if not before or head >= size:
            continue
        last = back[head][-1] if head in back else None
        if young:
            if len(before) > len(back.get(head, ())):
                sure.append((head, before[-1]))
        elif last is not None and before[-1] <= last:
            continue
        elif before[-1] >= (used - 1 if last is None else last + size):
            sure.append((head, before[-1]))
        elif head not in waiting:
            maybe.append((head, before[-1]))
    count = taken - used
    chains = [(head, position, Proof.SURE) for head, position in sure]
    if not young and count > len(sure):
        proof = Proof.LIKELY if len(sure) + len(maybe) <= count else Proof.NONE
        chains += [(head, position, proof) for head, position in maybe]
    chains.sort(key=lambda chain: chain[1])
    out = {head for head, _, _ in chains} | waiting
    returned = _newest(size, elements, range(oldest, used), out)
    if young and 0 not in out:
        # What looks as if never written may be chain 0, which wrote no bytes, a lap ago.
        returned.setdefault(0, (oldest - 1, 0))
    shown = len(sure) + (len(maybe) if not young else 0)
    return Flight(
        chains=tuple(chains),
        returned=returned,
        reaped=_reaped(size, published, back, young),
        missing=max(0, count - shown),
        certain=young or count in (0, len(sure)),
        strays=tuple(_strays(size, published, back, young)),
    )


def _in_order(
    size: int,
    heads: Sequence[int],
    elements: Sequence[tuple[int, int]],
    indices: tuple[int, int, int],
) -> Flight:
    used, taken, avail = indices
    chains = tuple((heads[at % size], at, Proof.SURE) for at in range(used, taken))
    out = {heads[at % size] for at in range(used, avail)}
    returned: dict[int, tuple[int, int | None]] = {}
    low = avail & 0xFFFF
    young = low < size and not any(heads[low:])
    # Of a batch only the last element is written, so the order of publishing counts.
    for position in range(used - 1, avail - (low if young else size) - 1, -1):
        head = heads[position % size]
        if head not in out and head not in returned:
            name, length = elements[position % size]
            returned[head] = (position, length if name == head else None)
    if young and 0 not in out:
        returned.setdefault(0, (avail - low - 1, 0))
    return Flight(chains=chains, returned=returned, reaped=0, missing=0, certain=True, strays=())


def _young(
    size: int,
    heads: Sequence[int],
    elements: Sequence[tuple[int, int]],
    used: int,
    avail: int,
) -> bool:
    """Tell whether neither ring was ever written beyond its index: nothing is hidden then."""
    avail, used = avail & 0xFFFF, used & 0xFFFF
    if not used <= avail < size:
        return False
    return not any(heads[avail:]) and all(element == (0, 0) for element in elements[used:])


def _newest(
    size: int, elements: Sequence[tuple[int, int]], window: range, out: set[int]
) -> dict[int, tuple[int, int | None]]:
    returned: dict[int, tuple[int, int | None]] = {}
    for position in reversed(window):
        head, length = elements[position % size]
        if head not in returned and head not in out:
            returned[head] = (position, length)
    return returned


def _reaped(
    size: int, published: dict[int, list[int]], back: dict[int, list[int]], young: bool
) -> int:
    """Return a position up to which the driver has surely reaped, as it published again."""
    reaped = 0
    for head, positions in back.items():
        again = published.get(head, ())
        for number, position in enumerate(positions, 1):
            if len(again) > number if young else again and again[-1] >= position + size:
                reaped = max(reaped, position + 1)
    return reaped


def _strays(
    size: int, published: dict[int, list[int]], back: dict[int, list[int]], young: bool
) -> list[tuple[str, int | None]]:
    found: list[tuple[str, int | None]] = []
    first = min((positions[0] for positions in published.values()), default=0)
    for head, positions in back.items():
        if head >= size:
            continue
        if young and len(positions) > len(published.get(head, ())):
            found.append(
                (
                    f"place {positions[-1] % size} of the used ring names chain {head}, which was"
                    " not out",
                    head,
                )
            )
            continue
        for before, after in pairwise(positions):
            if before + 1 < first:
                continue
            if not any(before < at < after + size for at in published.get(head, ())):
                found.append(
                    (
                        f"place {after % size} of the used ring names chain {head} a second time,"
                        " and it was not published between",
                        head,
                    )
                )
                break
    return found
