"""Run a scenario: its records in order, and the truth about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from parsers import wire
from parsers.batch import EventBatch
from tests.generator import machine as mach
from vtrace import model

if TYPE_CHECKING:
    from tests.generator.scenario import Scenario

__all__ = ["Recording", "chunks", "in_order", "simulate", "stream"]

Array = np.ndarray


def in_order(records: Array) -> Array:
    """Return records in the order of the wire: (time, cpu, seq)."""
    return records[np.lexsort((records["seq"], records["cpu"], records["time"]))]


def _number(records: Array, written: Array, next_seq: Array) -> None:
    # Give each its per-CPU sequence number, in the order of writing.
    order = np.lexsort((written, records["cpu"]))
    cpus = records["cpu"][order]
    counts = np.bincount(cpus, minlength=len(next_seq))
    within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    records["seq"][order] = (next_seq[cpus] + within).astype(np.uint32)
    next_seq += counts


def _sum(tables: Iterator[Array]) -> Array:
    # An id belongs to one pair: adding up is putting together.
    total = sum(t.view(np.int64) for t in tables)
    return np.asarray(total).view(mach.TOTALS)


def chunks(
    scenario: Scenario, *, records: int = 1 << 14, truth: bool = True
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield (records in order, truth of chains that finished, totals so far).

    Memory is bounded by ``records`` and the ring sizes. The last chunk has the truth of the chains
    that were open.
    """
    machines = [scenario.machine(k, records) for k in range(len(scenario.pairs))]
    for m in machines:
        m.state[0]["want_truth"] = truth
        mach.begin(m, scenario.start_ns)
    next_seq = np.full(scenario.cpus, scenario.seq_start, np.int64)
    end = scenario.start_ns + scenario.duration_ns
    now = scenario.start_ns
    span = 2_000_000
    unnumbered = np.empty(0, wire.RECORD)
    unnumbered_at = np.empty(0, np.uint64)
    waiting = np.empty(0, wire.RECORD)
    while now < end:
        now = min(now + span, end)
        new, at, rows = [unnumbered], [unnumbered_at], []
        for m in machines:
            s = m.state[0]
            done = False
            while not done:
                done = mach.advance(m, now)
                if done and now == end:
                    mach.end(m)
                new.append(m.out[: s["n"]].copy())
                at.append(m.written[: s["n"]].copy())
                rows.append(m.truth[: s["chains_n"]].copy())
                s["n"] = 0
                s["chains_n"] = 0
        got, got_at = np.concatenate(new), np.concatenate(at)
        made = len(got) - len(unnumbered)
        # A record may be written a little later than its time, and be dated back a little.
        final = got_at < now - mach.BACKDATED_NS if now < end else got["time"] < end
        numbered = got[final]
        _number(numbered, got_at[final], next_seq)
        unnumbered, unnumbered_at = got[~final], got_at[~final]
        got = np.concatenate([waiting, numbered])
        out = np.ones(len(got), bool)
        if now < end:
            out = got["time"] < now - 2 * mach.BACKDATED_NS
        waiting = got[~out]
        yield in_order(got[out]), np.concatenate(rows), _sum(m.totals for m in machines)
        wanted = records * len(machines) // 2
        if made > wanted:
            span = max(span * wanted // made, 10_000)
        elif made * 4 < wanted:
            span *= 2


@dataclass(slots=True, kw_only=True)
class Recording:
    """Records in order, and what really happened."""

    records: Array
    """``wire.RECORD`` rows."""
    truth: Array
    """``machine.CHAIN`` rows by (queue, start, position)."""
    totals: Array
    """``machine.TOTALS`` by queue id."""
    scenario: Scenario
    whole: Array = field(default_factory=lambda: np.empty(0, wire.RECORD))
    """The records before any defect; same as ``records`` without one."""
    lost: Array = field(default_factory=lambda: np.empty(0, wire.RECORD))
    """Records that a full ring refused: their sequence numbers are missing."""
    missed: Array = field(default_factory=lambda: np.empty(0, wire.RECORD))
    """Records whose return probe did not fire: no sequence number was given."""
    begin_ns: int = 0
    end_ns: int = 1 << 62

    @property
    def queues(self) -> dict[int, model.Queue]:
        """The queue table."""
        return self.scenario.queues()

    def packets(self) -> dict[int, list[int]]:
        """Return packet id -> positions of its chains."""
        joined: dict[int, list[int]] = {}
        for row in self.truth[self.truth["packet"] > 0]:
            joined.setdefault(int(row["packet"]), []).append(int(row["position"]))
        return joined

    def tellable(self) -> Array:
        """Return the truth as far as records can tell it.

        Of a SEND of which tun rejected a frame, the frames that entered cannot be told apart: its
        chains have no packet and no time of delivery.
        """
        truth = self.truth.copy()
        sent = np.flatnonzero((truth["direction"] == 1 + mach.TX) & (truth["backend_ns"] > 0))
        calls = truth[["queue", "backend_ns"]][sent]
        _, call = np.unique(calls, return_inverse=True)
        rejected = np.bincount(call, weights=truth["deliver_ns"][sent] == 0) > 0
        blind = sent[rejected[call]]
        truth["packet"][blind] = 0
        truth["deliver_ns"][blind] = 0
        return truth

    def counts(self, upto_ns: int | None = None) -> dict[str, dict[str, int]]:
        """Return the section ``counts``: cumulative, by kind, up to a time."""
        section = {}
        for kind in model.Kind:
            both = []
            for rows in (self.records, self.lost):
                chosen = rows["kind"] == kind
                if upto_ns is not None:
                    chosen &= rows["time"] <= upto_ns
                both.append(int(np.count_nonzero(chosen)))
            if sum(both):
                section[kind.name] = {
                    "produced": sum(both), "received": both[0], "lost": both[1],
                }  # fmt: skip
        return section

    def calls(self, upto_ns: int | None = None) -> dict[str, dict[str, int]]:
        """Return the section ``calls``: entries and returns of the probes that have both."""
        section: dict[str, dict[str, int]] = {}
        for probe, kinds in RETURN_PROBES.items():
            counted = []
            for rows in (self.records, self.lost, self.missed):
                chosen = np.isin(rows["kind"], kinds)
                if upto_ns is not None:
                    chosen &= rows["time"] <= upto_ns
                counted.append(int(np.count_nonzero(chosen)))
            section[probe] = {"entry": sum(counted), "return": sum(counted[:2])}
        return section

    def meta(self, upto_ns: int | None = None) -> dict[str, Any]:
        """Return the sections of metadata of a batch that ends at a time."""
        return {
            "queues": {str(k): dataclasses.asdict(q) for k, q in self.queues.items()},
            "counts": self.counts(upto_ns),
            "calls": self.calls(upto_ns),
            "loss": {"late": 0, "missed": len(self.missed), "pending": 0,
                     "dropped_batches": 0, "dropped_records": 0},
        }  # fmt: skip

    def batches(self, sizes: Array | list[int] | int = 4096) -> list[EventBatch]:
        """Cut the records into batches of these sizes, in turn; 0 makes an empty batch."""
        sizes = [sizes] if isinstance(sizes, int) else [int(n) for n in sizes]
        if not any(sizes):
            raise ValueError("sizes: at least one above 0")
        made = []
        at = turn = told = 0
        defects = len(self.lost) or len(self.missed)
        while at < len(self.records) or not made:
            n = sizes[turn % len(sizes)]
            turn += 1
            batch = EventBatch.from_records(self.records[at : at + n])
            batch.number = len(made)
            at += n
            # A section is there where it is new or has changed; counters come now and then.
            if not made:
                batch.meta = self.meta(int(self.records["time"][:at].max(initial=0)))
                told = at
            elif defects and at - told > len(self.records) // 16:
                upto = int(self.records["time"][:at].max(initial=0))
                batch.meta = {"counts": self.counts(upto), "calls": self.calls(upto)}
                told = at
            made.append(batch)
        made[-1].meta |= {name: v for name, v in self.meta().items() if name != "queues"}
        return made


RETURN_PROBES = {
    "vhost_get_vq_desc": (mach.POP, mach.EMPTY, mach.POP_ERROR),
    "tun_recvmsg": (mach.RECV,),
    "tun_sendmsg": (mach.SEND,),
    "vhost_notify": (mach.SIGNAL,),
    "vhost_enable_notify": (mach.ENABLE,),
}
"""Probes that write at the return, and what they write."""


def simulate(scenario: Scenario) -> Recording:
    """Run a scenario to its end, all in memory."""
    size = 1 << 14 if scenario.duration_ns > 10_000_000 else 1 << 12
    parts = list(chunks(scenario, records=size))
    records = np.concatenate([p[0] for p in parts])
    truth = np.concatenate([p[1] for p in parts])
    truth = truth[np.lexsort((truth["position"], truth["start"], truth["queue"]))]
    return Recording(
        records=records, whole=records, truth=truth, totals=parts[-1][2], scenario=scenario
    )  # fmt: skip


def stream(scenario: Scenario, events: int, *, batch: int = 1 << 16) -> Iterator[EventBatch]:
    """Yield batches of ``events`` records in all, in bounded memory, without a truth."""
    endless = dataclasses.replace(scenario, duration_ns=1 << 61)
    queues = {str(k): dataclasses.asdict(q) for k, q in scenario.queues().items()}
    produced = np.zeros(len(model.Kind), np.int64)
    size = max(batch * 4 // len(scenario.pairs), 1 << 14)
    left, number = events, 0
    for records, _, _ in chunks(endless, records=size, truth=False):
        for at in range(0, min(len(records), left), batch):
            part = records[at : min(at + batch, left)]
            produced += np.bincount(part["kind"], minlength=len(produced))
            out = EventBatch.from_records(part)
            out.number = number
            out.meta = {} if number else {"queues": queues}
            number += 1
            if at + len(part) >= left:
                n = {k.name: int(produced[k]) for k in model.Kind if produced[k]}
                out.meta["counts"] = {
                    k: {"produced": v, "received": v, "lost": 0} for k, v in n.items()
                }
                out.meta["end"] = {"reason": "count", "ended_ns": int(part["time"][-1])}
            yield out
        left -= len(records)
        if left <= 0:
            return
