"""Rings moved by hand: for what a healthy machine never does.

A story is told step by step; each step moves the ring as driver, device or tap would, and writes
the record that the probe there would write. Shares no code with what it tests.

    bench = Bench()
    bench.run_vcpus(5 * S)
    bench.receive(3)
    bench.wait(2 * S)
    batches = bench.batches()
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parsers import wire
from parsers.batch import EventBatch
from tests.generator import machine as mach
from tests.generator.recording import in_order

__all__ = ["MS", "RX", "TX", "US", "Bench", "S", "Side"]

US, MS, S = 1000, 1_000_000, 1_000_000_000
RX, TX = 1, 2
PID, WORKER = 1000, 3000
LOOKS = (mach.POP, mach.EMPTY, mach.SIGNAL, mach.ENABLE, mach.KICK)


@dataclass
class Side:
    """One ring: 16-bit indices as they stand in memory, and the device's place."""

    id: int
    size: int
    avail: int
    used: int
    position: int
    used_event: int = 0
    avail_event: int = 0
    avail_flags: int = 0
    used_flags: int = 0

    def sample(self, lo_ns: int, hi_ns: int) -> dict[str, int]:
        """Return what a look from outside finds."""
        return {
            "lo_ns": lo_ns,
            "hi_ns": hi_ns,
            "avail": self.avail,
            "used": self.used,
            "used_event": self.used_event,
            "avail_event": self.avail_event,
            "avail_flags": self.avail_flags,
            "used_flags": self.used_flags,
        }


@dataclass
class Bench:
    """One queue pair of one VM; time moves by ``wait`` and a little by each step."""

    size: int = 256
    event_idx: bool = True
    indirect: bool = True
    base: int = 65_500
    """Where the indices begin: they wrap soon."""
    vcpus: int = 2
    begin_ns: int = 100 * S
    sampling: bool = True
    """A sample of both rings each second."""
    counters: bool = False
    """Thread counters each second instead of scheduling records."""
    now: int = field(init=False)
    rows: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    metas: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    ran_ns: dict[int, int] = field(default_factory=dict)
    waited_ns: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.now = self.begin_ns
        base = self.base
        full = (base + self.size) & 0xFFFF
        self.rx = Side(RX, self.size, full, base, base, used_event=base, avail_event=base)
        self.tx = Side(TX, self.size, base, base, base, used_event=base, avail_event=base)
        self._next_sample = self.now
        self._busy_until = self.now
        self._waiting_until = self.now
        self.tids = [2000 + k for k in range(self.vcpus)]

    # Time.

    def wait(self, span_ns: int) -> Bench:
        """Let time pass; samples are taken meanwhile."""
        end = self.now + span_ns
        while self._next_sample <= end:
            self.now = self._next_sample
            self.sample()
            self._next_sample += S
        self.now = end
        return self

    def sample(self) -> None:
        """Take the samples of a second, as the attach process does."""
        lo, hi = self.now, self.now + 20 * US
        meta: dict[str, Any] = {}
        if self.sampling:
            meta["rings"] = {str(ring.id): ring.sample(lo, hi) for ring in (self.rx, self.tx)}
        if self.counters:
            meta["counters"] = {
                f"thread/{tid}": {
                    "lo_ns": lo,
                    "hi_ns": hi,
                    "run_ns": max(0, min(lo, self._busy_until) - self.begin_ns),
                    "wait_ns": max(0, min(lo, self._waiting_until) - self.begin_ns),
                }
                for tid in self.tids
            }
        self.metas.append((hi, meta))

    def run_vcpus(self, span_ns: int, *, each_ns: int = 20 * MS, first: int = 0) -> Bench:
        """Say that the vCPUs (from the ``first``) come and go for a while from now on."""
        self._busy_until = self.now + span_ns
        if self.counters:
            return self
        for at in range(self.now, self.now + span_ns, each_ns):
            for k, tid in enumerate(self.tids[first:]):
                self._thread(at + k * US, mach.SCHED_IN, tid)
                self._thread(at + k * US + MS, mach.SCHED_OUT, tid, count=1)
        return self

    def starve_vcpus(self, span_ns: int) -> Bench:
        """Say that a vCPU wants to run and gets no CPU for a while."""
        self._waiting_until = self.now + span_ns
        if not self.counters:
            self._thread(self.now, mach.SCHED_WAKE, self.tids[0])
            self._thread(self.now + span_ns, mach.SCHED_IN, self.tids[0])
            self._thread(self.now + span_ns + MS, mach.SCHED_OUT, self.tids[0], count=1)
        return self

    def _thread(self, at: int, kind: int, tid: int, count: int = 0) -> None:
        self.rows.append((at, {"kind": kind, "tid": tid, "count": count}))

    # Records.

    def put(self, ring: Side, kind: int, *, tid: int = WORKER, **values: int) -> Bench:
        """Write a record of a queue, a microsecond after the last step."""
        self.now += US
        row = {"kind": kind, "queue": ring.id, "tid": tid} | values
        flags = row.get("flags", 0)
        if kind in LOOKS:
            flags |= mach.F_AVAIL
            row["avail"] = ring.avail
            if self.event_idx:
                flags |= mach.F_EVENT | mach.F_EVENT_IDX
                row["event"] = ring.used_event
            elif ring.avail_flags & 1:
                flags |= mach.F_NO_INTERRUPT
        if kind in (*LOOKS, mach.HAND_BACK, mach.START, mach.STOP):
            flags |= mach.F_USED
            row.setdefault("used", ring.used)
        if kind in (*LOOKS, mach.HAND_BACK, mach.START, mach.STOP) and kind != mach.SIGNAL:
            flags |= mach.F_POSITION
            row.setdefault("position", ring.position)
        row["flags"] = flags
        self.rows.append((self.now, row))
        return self

    # Device.

    def wake(self, ring: Side) -> Bench:
        return self.put(ring, mach.WAKE, tid=WORKER).put(ring, mach.RUN)

    def pop(self, ring: Side, count: int = 1) -> Bench:
        for _ in range(count):
            at = ring.position
            ring.position = (at + 1) & 0xFFFF
            self.put(ring, mach.POP, position=at, count=1)
        return self

    def empty(self, ring: Side) -> Bench:
        return self.put(ring, mach.EMPTY)

    def hand_back(self, ring: Side, count: int) -> Bench:
        ring.position = (ring.position - count) & 0xFFFF
        return self.put(ring, mach.HAND_BACK, count=count)

    def give(self, ring: Side, count: int = 1, *, irqfd: bool = True) -> Bench:
        """Return chains and signal, as the ring's rule asks for."""
        old = ring.used
        for k in range(count):
            flags = mach.F_USED
            self.put(ring, mach.USED, used=(old + k) & 0xFFFF, count=count, flags=flags)
        ring.used = (old + count) & 0xFFFF
        if self.event_idx:
            sent = (ring.used - ring.used_event - 1) & 0xFFFF < (ring.used - old) & 0xFFFF
        else:
            sent = not ring.avail_flags & 1
        self.put(ring, mach.SIGNAL, ret=int(sent))
        if sent and irqfd:
            self.put(ring, mach.IRQ)
        return self

    def enable(self, ring: Side, more: int = 0) -> Bench:
        """Ask to be notified; ``more``: say that there is more to take."""
        if not more:
            ring.avail_event = ring.avail if ring is self.rx else ring.position
            ring.used_flags = 0
        return self.put(ring, mach.ENABLE, ret=more)

    def receive(self, count: int = 1, *, irqfd: bool = True) -> Bench:
        """Bring packets to the guest: from the tap into its ring."""
        for _ in range(count):
            self.put(self.rx, mach.ENQUEUE)
        self.wake(self.rx)
        for _ in range(count):
            if self.rx.position == self.rx.avail:
                self.empty(self.rx).hand_back(self.rx, 0).enable(self.rx)
                break
            self.pop(self.rx).put(self.rx, mach.RECV, ret=212)
        done = (self.rx.position - self.rx.used) & 0xFFFF
        return self.give(self.rx, done, irqfd=irqfd) if done else self

    def transmit(self, *, irqfd: bool = True) -> Bench:
        """Take all there is in the transmit ring, hand it to the tap, return it."""
        count = (self.tx.avail - self.tx.position) & 0xFFFF
        self.wake(self.tx).pop(self.tx, count).empty(self.tx).enable(self.tx)
        self.put(self.tx, mach.SEND, count=count)
        return self.give(self.tx, count, irqfd=irqfd) if count else self

    # Driver.

    def serve(self, ring: Side, *, refill: bool = True) -> Bench:
        """Serve the interrupt: take what was returned, ask for the next, fill up again."""
        ring.used_event = ring.used
        if ring is self.rx and refill:
            ring.avail = (ring.used + self.size) & 0xFFFF
        return self

    def publish(self, count: int = 1, *, kick: bool = True) -> Bench:
        """Publish chains to transmit and kick, if the device asked for it."""
        old = self.tx.avail
        self.tx.avail = (old + count) & 0xFFFF
        if self.event_idx:
            new = self.tx.avail
            asked = (new - self.tx.avail_event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            asked = not self.tx.used_flags & 1
        return self.put(self.tx, mach.KICK, tid=self.tids[0]) if asked and kick else self

    # What a source would give.

    def meta(self) -> dict[str, Any]:
        features = self.event_idx << 29 | self.indirect << 28 | 1 << 32
        queues = {
            str(ring.id): {
                "id": ring.id, "role": "virtqueue", "vm": "vm0", "pid": PID, "device": "net0",
                "name": f"{name}0", "direction": name, "size": self.size, "interface": "tap0",
                "features": features,
            }
            for ring, name in ((self.rx, "rx"), (self.tx, "tx"))
        }  # fmt: skip
        threads = {str(t): {"role": "vcpu", "vm": "vm0", "pid": PID} for t in self.tids}
        threads[str(WORKER)] = {"role": "vhost", "vm": "vm0", "pid": PID}
        return {"queues": queues, "threads": threads}

    def records(self) -> Any:
        made = np.zeros(len(self.rows), wire.RECORD)
        for row, (at, values) in zip(made, self.rows, strict=True):
            row["time"] = at
            for name, value in values.items():
                row[name] = value
        made = made[np.argsort(made["time"], kind="stable")]
        made["seq"] = np.arange(len(made))
        return in_order(made)

    def batches(self, span_ns: int = S // 2) -> list[EventBatch]:
        """Return batches of half a second, each with the samples taken while it was made."""
        records = self.records()
        first = EventBatch.empty(self.meta())
        made, at = [first], self.begin_ns
        last = max([self.now, *(int(t) for t in records["time"][-1:])])
        while at <= last:
            inside = (records["time"] >= at) & (records["time"] < at + span_ns)
            batch = EventBatch.from_records(records[inside])
            for hi_ns, meta in self.metas:
                if at <= hi_ns < at + span_ns:
                    for name, section in meta.items():
                        batch.meta.setdefault(name, {}).update(section)
            made.append(batch)
            at += span_ns
        return made
