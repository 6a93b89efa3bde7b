"""Looking for secrets in bytes and texts, with other means than those that replaced them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.redact.names import Names

__all__ = ["Needles", "same", "texts_of"]

_BITS: Final = 20
_MIX: Final = np.uint32(0x9E3779B1)
SHORTEST_NAME: Final = 4


@dataclass(frozen=True, slots=True)
class Needles:
    """What is looked for in bytes: all addresses, and names of four bytes and more."""

    heads: NDArray[np.bool_]
    """By a hash of four bytes: something begins so."""
    sets: tuple[tuple[int, NDArray[Any]], ...]
    """Length, and all of that length, ascending (dtype ``S``)."""

    @classmethod
    def of(cls, names: Names) -> Needles:
        """Return what is to be looked for."""
        found: dict[int, list[bytes]] = {}
        for table in names.tables.values():
            rows = table.secret()
            found.setdefault(table.family.width, []).extend(row.tobytes() for row in rows)
        for text in names.secrets:
            try:
                raw = text.encode(errors="surrogateescape")
            except UnicodeEncodeError:
                raw = text.encode(errors="surrogatepass")
            if len(raw) >= SHORTEST_NAME:
                found.setdefault(len(raw), []).append(raw)
        heads = np.zeros(1 << _BITS, np.bool_)
        sets = []
        for length, values in sorted(found.items()):
            array = np.unique(np.array(values, f"S{length}"))
            if len(array):
                first = array.view(np.uint8).reshape(-1, length)[:, :4]
                heads[_hash(np.ascontiguousarray(first).view("<u4").ravel())] = True
                sets.append((length, array))
        return cls(heads, tuple(sets))


def _hash(values: NDArray[Any]) -> NDArray[np.uint32]:
    return (values.astype(np.uint32) * _MIX) >> np.uint32(32 - _BITS)


def same(
    before: NDArray[np.uint8], after: NDArray[np.uint8], needles: Needles
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield where bytes that are looked for stand unchanged: places, and length.

    Bytes that are the same by chance somewhere else were not left behind: what is kept is where it
    was.
    """
    size = len(after)
    if size < 4 or not needles.sets:
        return
    alike = before == after
    four = alike[:-3] & alike[1:-2] & alike[2:-1] & alike[3:]
    some = after != 0
    four &= some[:-3] | some[1:-2] | some[2:-1] | some[3:]
    at = np.flatnonzero(four)
    if not len(at):
        return
    value = np.zeros(len(at), np.uint32)
    for byte in range(4):
        value |= after[at + byte].astype(np.uint32) << np.uint32(8 * byte)
    at = at[needles.heads[_hash(value)]]
    for length, known in needles.sets:
        some = at[at + length <= size]
        if not len(some):
            continue
        index = some[:, np.newaxis] + np.arange(length)
        window = np.ascontiguousarray(after[index])
        hits = np.isin(window.view(f"S{length}").ravel(), known) & alike[index].all(axis=1)
        if hits.any():
            yield some[hits], length


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts in a value as JSON has it, keys included."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
