"""One chain of a recording, with those of its batch, its packet and its request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vtrace.browse.page import Page
from vtrace.tables import LIFECYCLES, REQUESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vtrace.browse.browser import Browser
    from vtrace.browse.decoder import Decoded
    from vtrace.tables import Table

__all__ = ["ChainKey", "FoundChain", "find_chain"]

MOST_BATCHES: Final = 4096
"""Batches that are looked through, from the time that the chain is near."""
MOST_NEIGHBOURS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainKey:
    """What a chain is known by."""

    vm: str | None
    device: str | None
    queue: str | None
    generation: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundChain:
    """A chain of the table of lifecycles."""

    page: Page
    """It and the chains that the device returned together with it, by their position."""
    index: int
    """Which of the page it is."""
    request: Page | None
    """Its row of the table of requests, if QEMU served it."""


def find_chain(browser: Browser, key: ChainKey, time_ns: int | None = None) -> FoundChain | None:
    """Return a chain; None if it is not there.

    Reads the recording from ``time_ns`` on, a time at which the chain was under way or before
    that; from its start if that is not known. Not for the thread that draws.

    Raises:
        InputError: The file changed under us.
    """
    for tables in _parts(browser, time_ns):
        part = tables["lifecycles"]
        rows = _matching(part.table, key)
        if len(rows):
            return _found(part, int(rows[0]), tables["requests"], key)
    return None


def _parts(browser: Browser, time_ns: int | None) -> Iterator[dict[str, Decoded]]:
    first = 0 if time_ns is None else browser.index.at(time_ns)
    for number in range(first, min(len(browser.index), first + MOST_BATCHES)):
        yield browser.chunks.get(number)
    # Chains that are open at the end.
    yield browser.chunks.end()


def _matching(table: Table, key: ChainKey) -> NDArray[np.int64]:
    if not len(table):
        return np.zeros(0, np.int64)
    keep = table["position"].data == np.uint64(key.position)
    keep &= table["generation"].data == np.uint64(key.generation)
    rows = np.flatnonzero(keep)
    for name in ("vm", "device", "queue"):
        wanted = getattr(key, name)
        if wanted is not None and len(rows):
            values = table.take(rows).lists((name,))[0]
            rows = rows[np.array([value == wanted for value in values], np.bool_)]
    return rows


def _found(part: Decoded, row: int, requests: Decoded, key: ChainKey) -> FoundChain:
    table = part.table
    batch = table["batch"]
    rows = np.array([row])
    if batch.present()[row]:
        same = (batch.data == batch.data[row]) & batch.present()
        for name in ("queue_id", "generation"):
            same &= table[name].data == table[name].data[row]
        rows = np.flatnonzero(same)
        rows = rows[np.argsort(table["position"].data[rows], kind="stable")]
        at = int(np.flatnonzero(rows == row)[0])
        first = max(0, min(at - MOST_NEIGHBOURS // 2, len(rows) - MOST_NEIGHBOURS))
        rows = rows[first : first + MOST_NEIGHBOURS]
    asked = _matching(requests.table, key)
    request = Page(REQUESTS, 0, [requests.take(asked[:1])]) if len(asked) else None
    page = Page(LIFECYCLES, 0, [part.take(rows)])
    return FoundChain(page=page, index=int(np.flatnonzero(rows == row)[0]), request=request)
