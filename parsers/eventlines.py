"""Lines of ``trace-cmd report``, of ftrace's ``trace`` file and of ``perf script``, in bulk.

Each line has a head (command, thread, CPU, time, event) and the event's own text. Heads are taken
apart by one regular expression for a block of lines, whose time is linear in their length (RE2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parsers.eventmap import named

__all__ = ["FTRACE", "PERF", "Heads", "matches", "numbers", "rest_of", "take_apart", "texts"]

# No limits on counts but for the command: they make a match several times slower. Lengths are
# looked at afterwards.
FTRACE: Final = (
    r"^ *(?P<comm>.{1,16})-(?P<tid>[0-9]+) +(?:\( *(?P<tgid>[0-9]+|-+)\) +)?"
    r"\[(?P<cpu>[0-9]+)\] +(?:[^ ]+ +)?(?P<sec>[0-9]+)\.?(?P<frac>[0-9]*): +(?P<event>[^ :]+):"
)
"""``comm-tid [cpu] seconds.fraction: event: text``; also with tgid and flags."""

PERF: Final = (
    r"^ *(?P<comm>.{1,16}) +(?:(?P<tgid>-?[0-9]+)/ *)?(?P<tid>-?[0-9]+) +\[(?P<cpu>[0-9]+)\] +"
    r"(?P<sec>[0-9]+)\.?(?P<frac>[0-9]*): +(?:[0-9]+ +)?(?P<event>[^ ]+):(?: |$)"
)
"""``comm pid/tid [cpu] seconds.fraction: system:event: text``; pid where ``-F`` asks for it."""

LONGEST: Final = {"tid": 9, "tgid": 9, "cpu": 4, "sec": 18, "frac": 9, "event": 100}
"""Characters that each part of a head may have."""

MOST_SECONDS: Final = 9_000_000_000
"""Seconds that still fit in 63 bits of nanoseconds."""


@dataclass(slots=True)
class Heads:
    """Lines taken apart; all columns have one length."""

    time: Any
    """ns; or what the clock counts, where the lines have no fraction."""
    cpu: Any
    tid: Any
    tgid: Any
    """Process of the thread, -1 where the line does not say."""
    comm: pa.DictionaryArray
    event: pa.DictionaryArray
    text: pa.Array
    """Whole lines."""
    line: Any
    """Number of each line in the file, from 0."""
    digits: int
    """Digits behind the point; 0: the times are counts of some clock."""

    def __len__(self) -> int:
        return len(self.time)


def take_apart(lines: pa.Array, head: str, first: int) -> tuple[Heads, pa.Array]:
    """Return the lines that have a head, and the others. ``first``: number of the first line."""
    parts = pc.extract_regex(lines, head)
    ok = np.asarray(pc.is_valid(parts))
    column = {field.name: pc.struct_field(parts, [at]) for at, field in enumerate(parts.type)}
    for name, most in LONGEST.items():
        ok &= np.asarray(pc.less_equal(pc.binary_length(column[name]), most).fill_null(False))
    column["text"] = lines
    if not ok.all():
        column = {name: values.filter(pa.array(ok)) for name, values in column.items()}
    seconds = _whole(column["sec"])
    sizes = np.asarray(pc.binary_length(column["frac"]))
    digits = int(sizes.max()) if len(sizes) else 0
    fraction = _whole(_or_zero(column["frac"]))
    scale = np.array([10 ** (9 - n) for n in range(10)], np.int64)[sizes]
    point = sizes > 0
    time = np.where(point, np.minimum(seconds, MOST_SECONDS) * 1_000_000_000, seconds)
    time += fraction * scale * point
    sane = ~point | (seconds <= MOST_SECONDS)
    tgid = column["tgid"]
    known = np.asarray(pc.match_substring_regex(tgid, "^[0-9]+$"))
    process = np.full(len(seconds), -1, np.int64)
    if known.any():
        process[known] = _whole(tgid.filter(pa.array(known)))
    heads = Heads(
        time=time,
        cpu=_whole(column["cpu"]),
        tid=_whole(column["tid"]),
        tgid=process,
        comm=column["comm"].dictionary_encode(),
        event=column["event"].dictionary_encode(),
        text=column["text"],
        line=first + np.flatnonzero(ok),
        digits=digits,
    )
    if not sane.all():
        heads = _only(heads, sane)
        ok[np.flatnonzero(ok)[~sane]] = False
    return heads, lines.filter(pa.array(~ok))


def _only(heads: Heads, which: Any) -> Heads:
    mask = pa.array(which)
    return Heads(
        time=heads.time[which],
        cpu=heads.cpu[which],
        tid=heads.tid[which],
        tgid=heads.tgid[which],
        comm=heads.comm.filter(mask),
        event=heads.event.filter(mask),
        text=heads.text.filter(mask),
        line=heads.line[which],
        digits=heads.digits,
    )


def rest_of(lines: pa.Array, event: bytes) -> pa.Array:
    """Return what stands behind the head in lines of one event; empty where that is not found."""
    name = re.escape(event.decode("latin-1"))
    found = pc.struct_field(pc.extract_regex(lines, f": +(?:[0-9]+ +)?{name}:(?P<v>.*)"), [0])
    return found.fill_null(b"")


def _or_zero(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(pc.binary_length(values), 0), pa.scalar(b"0"), values)


def _whole(values: pa.Array) -> Any:
    return np.array(values.cast(pa.string()).cast(pa.int64()))


def matches(texts_: pa.Array, pattern: str) -> tuple[pa.Array, Any]:
    """Return what a pattern's group holds in each text, and where it matched."""
    found = pc.struct_field(pc.extract_regex(texts_, named(pattern)), [0])
    return found, np.asarray(pc.is_valid(found))


def numbers(texts_: pa.Array, patterns: list[str]) -> tuple[Any, Any]:
    """Return the number that a field has in each text, as int64 (64 bits, signed), and where."""
    values, have = np.zeros(len(texts_), np.int64), np.zeros(len(texts_), np.bool_)
    for pattern in patterns:
        rest = np.flatnonzero(~have)
        if not len(rest):
            break
        found, ok = matches(texts_.take(pa.array(rest)) if have.any() else texts_, pattern)
        if not ok.any():
            continue
        at = rest[ok]
        found = found.filter(pa.array(ok)).cast(pa.string())
        number, sound = _parsed(found)
        values[at] = number
        have[at] = sound
    return values, have


def _parsed(found: pa.Array) -> tuple[Any, Any]:
    # A user's expression may have caught anything.
    hexadecimal = np.asarray(pc.match_substring_regex(found, "^0x[0-9a-fA-F]{1,16}$"))
    decimal = np.asarray(pc.match_substring_regex(found, "^-?[0-9]{1,18}$"))
    number = np.zeros(len(found), np.int64)
    if hexadecimal.any():
        column = found.filter(pa.array(hexadecimal)).cast(pa.uint64())
        number[hexadecimal] = np.array(column).view(np.int64)
    if decimal.any():
        number[decimal] = np.array(found.filter(pa.array(decimal)).cast(pa.int64()))
    return number, hexadecimal | decimal


def texts(texts_: pa.Array, patterns: list[str]) -> tuple[list[bytes], Any, Any]:
    """Return what a field holds in each text: distinct values, code of each row, and where."""
    pool: list[bytes] = []
    codes, have = np.zeros(len(texts_), np.int64), np.zeros(len(texts_), np.bool_)
    for pattern in patterns:
        rest = np.flatnonzero(~have)
        if not len(rest):
            break
        found, ok = matches(texts_.take(pa.array(rest)) if have.any() else texts_, pattern)
        if not ok.any():
            continue
        coded = found.filter(pa.array(ok)).dictionary_encode()
        at = rest[ok]
        codes[at] = np.asarray(coded.indices) + len(pool)
        have[at] = True
        pool += coded.dictionary.to_pylist()
    return pool, codes, have
