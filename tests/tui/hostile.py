"""A recording in which whatever a guest or a file can choose is meant to garble a screen."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from parsers.batch import EventBatch, Snaps
from parsers.tracefile import TraceWriter, open_trace

RINGFULL = Path(__file__).resolve().parents[2] / "examples" / "traces" / "ringfull.vtrace"
VM = "web\x1b[2J\u202e1漢字"
DEVICE = "nic\r\n0[bold red]\u200b"
TAP = "tap\x9b31m0\U000e0041"
REASON = "FULL\x07_[/]\u2066漢RING"
PLACE = "tun\x1b]0;owned\x07_net[link=x]"
PAYLOAD = b"\x1b[2J\x1b]0;owned\x07\r\n\xe2\x80\xae\xff\xfe[bold]\x9b31m\xf0\x9f\x98\x80"


def write(path: Path) -> Path:
    """Write a recording as the bundled one, with hostile names and hostile bytes."""
    with open_trace(RINGFULL) as trace, TraceWriter(path) as writer:
        for batch in trace.batches():
            writer.write(worse(batch))
    return path


def worse(batch: EventBatch) -> EventBatch:
    return EventBatch(
        columns=batch.columns,
        snaps=garbled(batch.snaps),
        meta=named(batch.meta),
        number=batch.number,
    )


def garbled(snaps: Snaps) -> Snaps:
    """Put the payload into the frames; each seventh frame has nothing else."""
    data = snaps.data.copy()
    for at, (start, end) in enumerate(zip(snaps.offsets[:-1], snaps.offsets[1:], strict=True)):
        start += 0 if at % 7 == 3 else 42
        if end > start:
            text = np.frombuffer(PAYLOAD * 8, np.uint8)[: end - start]
            data[start : start + len(text)] = text
    return Snaps(rows=snaps.rows, header=snaps.header, offsets=snaps.offsets, data=data)


def named(thing: Any) -> Any:
    """Return metadata with other names in it."""
    names = {"web1": VM, "nic0": DEVICE, "tap0": TAP, "FULL_RING": REASON, "tun_net_xmit": PLACE}
    if isinstance(thing, dict):
        return {key: named(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [named(value) for value in thing]
    return names.get(thing, thing) if isinstance(thing, str) else thing


def garbles(text: str) -> list[str]:
    """Return what in a text steers a terminal, or turns a line around."""
    return [
        f"U+{ord(char):04x}"
        for char in text
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    ]
