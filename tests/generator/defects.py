"""What goes wrong between the probes and the reader, done to a recording after the fact."""

from __future__ import annotations

import dataclasses

import numpy as np

from tests.generator import machine as mach
from tests.generator.recording import RETURN_PROBES, Recording, in_order

__all__ = ["cut", "disorder", "lose", "lose_bursts", "miss"]

_BY_RETURN = tuple(kind for kinds in RETURN_PROBES.values() for kind in kinds)


def cut(recording: Recording, begin_ns: int, end_ns: int = 1 << 62) -> Recording:
    """Attach late and end early: only what was written within [begin, end) is there."""
    r = recording.records
    return dataclasses.replace(
        recording, records=r[(r["time"] >= begin_ns) & (r["time"] < end_ns)],
        begin_ns=begin_ns, end_ns=end_ns,
    )  # fmt: skip


def lose(recording: Recording, gone: np.ndarray) -> Recording:
    """Lose the records where ``gone`` (bool) is true: a ring was full."""
    r = recording.records
    lost = np.concatenate([recording.lost, r[gone]])
    return dataclasses.replace(recording, records=r[~gone], lost=in_order(lost))


def lose_bursts(recording: Recording, rng: np.random.Generator, bursts: int,
                longest: int) -> Recording:  # fmt: skip
    """Lose runs of records that follow each other on one CPU."""
    r = recording.records
    gone = np.zeros(len(r), bool)
    for _ in range(bursts if len(r) else 0):
        first = r[rng.integers(len(r))]
        behind = (r["seq"] - first["seq"]).astype(np.uint32)
        gone |= (r["cpu"] == first["cpu"]) & (behind < rng.integers(1, longest + 1))
    return lose(recording, gone)


def miss(recording: Recording, gone: np.ndarray) -> Recording:
    """Let the return probe miss where ``gone`` is true and the record is one of a return.

    A missed return takes no sequence number: nothing is missing on the CPU, only the calls do not
    add up.
    """
    r = recording.records.copy()
    gone = gone & np.isin(r["kind"], _BY_RETURN)
    before = np.zeros(len(r), np.uint32)
    start = np.uint32(recording.scenario.seq_start & 0xFFFFFFFF)
    for cpu in np.unique(r["cpu"]):
        rows = np.flatnonzero(r["cpu"] == cpu)
        rows = rows[np.argsort((r["seq"][rows] - start).astype(np.uint32), kind="stable")]
        before[rows] = np.cumsum(gone[rows]) - gone[rows]
    r["seq"] -= before
    missed = in_order(np.concatenate([recording.missed, r[gone]]))
    return dataclasses.replace(recording, records=r[~gone], missed=missed)


def disorder(recording: Recording, rng: np.random.Generator, slack_ns: int) -> Recording:
    """Let records come up to ``slack_ns`` late, each CPU still in the order of writing.

    The rows are no longer in the order of the wire; ``in_order`` brings them back.
    """
    r = recording.records
    delay = rng.integers(0, slack_ns + 1, mach.EXIT * 64)
    come = r["time"].astype(np.int64)
    come += delay[(r["cpu"].astype(np.int64) * 31 + come // max(slack_ns, 1)) % len(delay)]
    return dataclasses.replace(recording, records=r[np.argsort(come, kind="stable")])
