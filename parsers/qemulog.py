"""QEMU's ``-trace`` events as its log backend writes them, to stderr or to the file of ``-D``.

A line begins with the thread and the time of day (``2184@1755771234.123456:``), unless QEMU was
started with ``-msg timestamp=off``. Then nothing is known of times but their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parsers.batch import EventBatch
from parsers.eventlines import numbers
from parsers.eventmap import NUMBER
from parsers.imported import Imported, Sequence, timebase
from parsers.lines import blocks, reader_of
from parsers.qemuevents import EVENTS, MOST_NAMES, NAMES, UNRECORDED, QemuEvents
from vtrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read"]

HEAD: Final = (
    r"^(?:(?P<tid>[0-9]+)@(?P<sec>[0-9]+)\.(?P<frac>[0-9]{6}):)?"
    r"(?P<event>[a-zA-Z_][a-zA-Z0-9_]*)(?: |$)"
)
LONGEST: Final = {"tid": 9, "sec": 10, "event": 100}
ARGUMENTS: Final = tuple(dict.fromkeys(name for names in EVENTS.values() for name in names))


def read(source: Imported, file: BinaryIO) -> Iterator[EventBatch]:
    """Yield the batches of a log.

    Raises:
        InputError: There is no event in it that vtrace knows.
    """
    lines = blocks(
        reader_of(file, source.name, source.report),
        lambda n: source.report(f"{n} lines were too long"),
    )
    events, sequence = QemuEvents(), Sequence()
    first, line, timed, known = True, 0, True, 0
    last_ns = 0
    for block in lines:
        columns, stamped = _columns(block, line, events)
        line += len(block)
        known += len(columns["time"])
        if first:
            timed = stamped
        elif timed != stamped and len(columns["time"]):
            source.report("lines with and without a time; those of the other sort are left out")
            columns = {name: values[:0] for name, values in columns.items()}
        if not timed:
            columns["time"] = columns["line"] + 1
        records, at = events.feed(columns)
        sequence.number(records, at, [])
        batch = EventBatch.from_records(records)
        batch.meta = {**events.sections(), **sequence.sections()}
        if first:
            batch.meta |= beginning(events, source, timed=timed)
            first = False
        if timed and first_time(batch):
            batch.meta["clock"] = [_anchor(batch)]
        if len(records):
            last_ns = max(last_ns, int(records["time"][-1]))
        yield batch
    if not known:
        raise InputError(
            f"{source.name}: has none of the events that vtrace reads "
            f"({', '.join(EVENTS)}); start QEMU with -trace 'virtqueue_*' -trace 'virtio_*'"
        )
    yield ending(events, source, last_ns)


def first_time(batch: EventBatch) -> bool:
    """Return whether a batch has events."""
    return len(batch) > 0


def _anchor(batch: EventBatch) -> dict[str, int]:
    # The times are the time of day already.
    time = int(batch["time"][0])
    return {"monotonic_ns": time, "realtime_ns": time}


def beginning(events: QemuEvents, source: Imported, *, timed: bool) -> dict[str, Any]:
    """Return the sections that stand in the first batch."""
    base = timebase("realtime", 1000, "QEMU's log has the time of day")
    if not timed:
        base = timebase("none", None, "the log has no times: QEMU ran with -msg timestamp=off")
    return {
        "capture": {"tool": "QEMU"},
        "imported": {"format": source.format, "tool": ""},
        "timebase": base,
        "probes": events.probes(),
        "unrecorded": {**UNRECORDED, **events.absent()},
    }


def ending(events: QemuEvents, source: Imported, last_ns: int) -> EventBatch:
    """Return the last batch: what became of the events."""
    return EventBatch.empty(
        {
            "imported": {"format": source.format, "tool": "", "events": events.events()},
            "end": {"reason": "imported", "ended_ns": last_ns},
        }
    )


def _columns(block: pa.Array, first: int, events: QemuEvents) -> tuple[dict[str, Any], bool]:
    parts = pc.extract_regex(block, HEAD)
    ok = np.asarray(pc.is_valid(parts))
    column = {field.name: pc.struct_field(parts, [at]) for at, field in enumerate(parts.type)}
    for name, most in LONGEST.items():
        ok &= np.asarray(pc.less_equal(pc.binary_length(column[name]), most).fill_null(False))
    stamps = np.asarray(pc.greater(pc.binary_length(column["sec"]), 0).fill_null(False)) & ok
    named = column["event"].dictionary_encode()
    counts = np.bincount(
        np.asarray(named.indices.fill_null(0))[ok], minlength=len(named.dictionary)
    )
    numbers_of = np.full(max(len(named.dictionary), 1), -1, np.int64)
    for code, raw in enumerate(named.dictionary.to_pylist()):
        name = raw.decode(errors="replace")
        traced = name in EVENTS
        # Without a time, any word at the start of a line could be an event's name.
        if counts[code] and (traced or (stamps.any() and len(events.seen) < MOST_NAMES)):
            events.seen[name] += int(counts[code])
        if traced:
            numbers_of[code] = NAMES.index(name)
    what = np.where(ok, numbers_of[np.asarray(named.indices.fill_null(0))], -1)
    stamped = bool((stamps & (what >= 0)).any())
    chosen = np.flatnonzero((what >= 0) & (stamps == stamped))
    found: dict[str, Any] = {"what": what[chosen], "line": first + chosen}
    if stamped:
        seconds, fraction = (_whole(column[name].take(chosen)) for name in ("sec", "frac"))
        found["time"] = seconds * 1_000_000_000 + fraction * 1000
        found["tid"] = _whole(column["tid"].take(chosen))
    else:
        found["time"] = np.zeros(len(chosen), np.int64)
        found["tid"] = np.zeros(len(chosen), np.int64)
    for name in ARGUMENTS:
        found[name] = np.zeros(len(chosen), np.int64)
    whole = np.ones(len(chosen), np.bool_)
    for number in np.unique(found["what"]).tolist():
        at = np.flatnonzero(found["what"] == number)
        texts = block.take(pa.array(chosen[at]))
        for name in EVENTS[NAMES[number]]:
            values, have = numbers(texts, [rf" {name} {NUMBER}"])
            found[name][at] = values
            whole[at[~have]] = False
    if not whole.all():
        found = {name: values[whole] for name, values in found.items()}
    return found, stamped


def _whole(values: pa.Array) -> Any:
    return np.array(values.cast(pa.string()).cast(pa.int64()))
