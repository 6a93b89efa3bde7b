"""Queues that QEMU serves, as a discrete-event machine: a driver, and a device in QEMU's threads.

Written from what QEMU does, not from what vtrace makes of it. Shares no code with what it tests,
and none with the machine of vhost, which has little in common with it. It is plain Python: a
recording of some thousand records is made in a moment, and nothing has to be compiled.

    recording = simulate_qemu(QemuScenario(rings=(QemuQueue(packed=True),)))
    recording.truth        # QEMU_CHAIN: one row for each chain that was published
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parsers import wire
from tests.generator import machine as mach
from tests.generator.recording import Recording, in_order
from vtrace import model

__all__ = ["QEMU_CHAIN", "QemuQueue", "QemuScenario", "simulate_qemu"]

FLUSH, DETACH, REQUEST, RESPONSE = 24, 25, 26, 27
F_PACKED, F_QEMU = 1 << 13, 1 << 14
NEVER = 1 << 62

QEMU_CHAIN = np.dtype(
    [(name, "u8") for name in (
        "position", "publish_ns", "kick_ns", "first_pop_ns", "pop_ns", "run_ns", "used_ns",
        "signal_ns", "irq_ns", "consumed_ns",
    )]
    + [(name, "u4") for name in ("readable_bytes", "writable_bytes", "used_bytes", "batch")]
    + [(name, "u2") for name in (
        "queue", "start", "head", "direction", "descriptors", "handed_back", "outcome",
        "signal_ret", "packed",
    )]
)  # fmt: skip
"""Truth of one chain, in the names of ``machine.CHAIN``; ``used_ns`` is that of the flush."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuQueue:
    """One queue. Times are means in ns; ``*_chance`` are shares of 1."""

    size: int = 64
    packed: bool = False
    event_idx: bool = True
    in_order: bool = False
    direction: str = "none"
    """rx: packets wait for chains; tx: done in the order of their coming; none: in any order."""
    base: int = 0
    """Ring index at the first start, of a split ring: a guest that was migrated."""
    burst: int = 4
    gap: int = 20_000
    service: int = 10_000
    step: int = 300
    irq_delay: int = 5000
    descriptors: int = 3
    indirect: bool = True
    room: int = 1500
    """Writable bytes of a chain; a packet needs up to three times as much."""
    suppress: bool = True
    """The handler asks for no kicks while it runs."""
    poll_chance: float = 0.0
    """How often an iothread finds the chains by itself, before it is told to look."""
    hand_back_chance: float = 0.0
    detach_chance: float = 0.0
    blind_chance: float = 0.0
    """Kicks at which the ring could not be read."""
    lazy_chance: float = 0.0
    """Batches after which no signal is decided on: the next one does it for both. Not with
    ``deferred`` interrupts."""
    interrupts: str = "nested"
    """nested: raised within the call that decides; deferred: at the end of a batch, once for all;
    elsewhere: by another thread, a moment later."""
    bytes_chance: float = 0.3
    controls: tuple[tuple[int, str], ...] = ()
    """(ns after the start, reset | resume | other): other is a reset to the other layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuScenario:
    """Queues that run side by side."""

    rings: tuple[QemuQueue, ...] = field(default_factory=lambda: (QemuQueue(),))
    duration_ns: int = 1_000_000
    start_ns: int = 1_000_000_000
    seed: int = 1
    cpus: int = 2
    seq_start: int = 0

    def queues(self) -> dict[int, model.Queue]:
        """Return the queue table."""
        return {
            1 + k: model.Queue(
                id=1 + k, vm="vm0", pid=1000, device=f"dev{k}", name="queue0",
                direction=ring.direction, backend="qemu", size=ring.size,
                ring="packed" if ring.packed else "split",
                features=ring.event_idx << 29 | ring.packed << 34 | ring.in_order << 35 | 1 << 32,
            )
            for k, ring in enumerate(self.rings)
        }  # fmt: skip


class _Chain(dict[str, Any]):
    # Columns of the truth, and what only the machine knows: live, ids, places, left.
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


def _need_event(event: int, new: int, old: int) -> bool:
    return ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)


class _Machine:
    """One queue: its driver (a vCPU) and its device (a thread of QEMU), step by step.

    Both are generators: they act at ``self.now``, which no other act has, and yield how long it is
    to their next step.
    """

    def __init__(self, scenario: QemuScenario, index: int) -> None:
        self.q = scenario.rings[index]
        self.id = 1 + index
        self.rng = random.Random(scenario.seed * 1009 + index)
        self.rows: list[dict[str, int]] = []
        self.truth: list[_Chain] = []
        self.end = scenario.start_ns + scenario.duration_ns
        self.cpus = scenario.cpus
        self.vcpu, self.thread, self.other = 2000 + index, 3000 + index, 1000
        self.controls = [(scenario.start_ns + at, what) for at, what in self.q.controls]
        self.packed = self.q.packed
        self.starts = self.batch = 0
        self.now = scenario.start_ns
        self.boot(self.q.base)

    # Records.

    def put(self, kind: int, *, tid: int = 0, flags: int = 0, **values: int) -> None:
        tid = tid or self.thread
        row = {
            "kind": kind, "time": self.now, "queue": self.id, "tid": tid,
            "flags": flags | F_QEMU, "cpu": tid % self.cpus,
        }  # fmt: skip
        self.rows.append(row | values)

    def word(self, place: int) -> int:
        """Return a place of either ring as the record states it."""
        if not self.packed:
            return place & 0xFFFF
        return place % self.q.size | (place // self.q.size % 2 ^ 1) << 15

    def show(self, *, look: bool = False, blind: bool = False, **values: int) -> dict[str, int]:
        """Return the device's places, and with ``look`` what it sees of the driver's."""
        place = values.pop("place", self.taken_place if self.packed else self.last)
        used = self.word(self.used_place if self.packed else self.used)
        found = {"position": self.word(place), "used": used, "flags": 12}
        if self.packed:
            found["flags"] |= F_PACKED
        if look:
            found["flags"] |= 64 * self.q.event_idx
        if look and blind:
            found["flags"] |= 16
        elif look and not self.packed:
            found["avail"] = self.avail & 0xFFFF
            found["flags"] |= 1
            if self.q.event_idx:
                found["event"] = self.used_event & 0xFFFF
                found["flags"] |= 2
            elif self.no_interrupt:
                found["flags"] |= 32
        return found | values

    def bytes(self, kind: int, chain: _Chain) -> None:
        if self.chance(self.q.bytes_chance):
            self.put(kind, head=chain.head, length=0, room=16, position=9)

    # Chance and time.

    def around(self, mean: int) -> int:
        return 1 + mean // 2 + self.rng.randrange(mean + 1)

    def step(self) -> int:
        return self.around(self.q.step)

    def chance(self, share: float) -> bool:
        return share > 0 and self.rng.random() < share

    # The ring.

    def boot(self, base: int) -> None:
        base = 0 if self.packed else base
        self.starts += 1
        self.base = base
        self.avail = self.kicked = self.last = self.used = self.consumed = self.turn = base
        self.place = self.taken_place = self.used_place = 0
        self.free = list(range(self.q.size))
        self.ring: dict[int, _Chain] = {}
        self.popped: list[_Chain] = []  # the device has them
        self.filled: list[_Chain] = []
        self.waiting: list[_Chain] = []  # flushed, not signalled
        self.deferred: list[_Chain] = []
        self.returned: list[_Chain] = []  # in the order of the used ring
        self.used_event, self.no_interrupt = base, False
        self.avail_event, self.notify = base, True
        self.stated = not self.packed  # whether the device has said where it wants a kick
        self.signalled, self.valid = base, False
        self.run = self.packets = self.late = 0
        self.starving = False
        self.put(mach.START, tid=self.other, **self.show())
        self.told_at = self.done_at = self.more_at = self.poll_at = NEVER
        first = self.now + 3000 + self.around(self.q.gap)
        self.packet_at = first if self.q.direction == "rx" else NEVER
        self.driver, self.vcpu_due, self.vcpu_idle = self.drive(), self.now + 2000, False
        self.device, self.device_due, self.device_idle = self.serve(), self.now + 2500, False

    def close(self, reset: bool) -> None:
        for chain in self.ring.values():
            if chain.live == "popped":
                chain.outcome = mach.O_RESET if reset else mach.O_IN_FLIGHT
            elif chain.live == "published":
                back = chain.handed_back > 0
                chain.outcome = mach.O_DISCARDED if back else mach.O_NEVER_POPPED

    # Driver.

    def consume(self) -> None:
        for chain in self.returned:
            chain.consumed_ns = self.now
            self.free += chain.ids
            del self.ring[chain.position]
        self.consumed += len(self.returned)
        self.returned = []

    def publish(self) -> bool:
        q = self.q
        descriptors = self.rng.randint(1, q.descriptors)
        slots = 1 if q.indirect else min(descriptors, q.size)
        # Descriptors of a chain that the device forgot never come back.
        if slots > len(self.free):
            return False
        self.rng.shuffle(self.free)
        ids, self.free = self.free[:slots], self.free[slots:]
        direction = ("none", "rx", "tx").index(q.direction)
        chain = _Chain(dict.fromkeys(QEMU_CHAIN.names or (), 0))
        chain.update(
            queue=self.id, start=self.starts, position=self.avail, head=ids[0],
            direction=direction, descriptors=descriptors if q.indirect else slots,
            readable_bytes=0 if direction == 1 else self.rng.randint(1, 9000),
            writable_bytes=0 if direction == 2 else q.room, packed=self.packed,
            publish_ns=self.now, outcome=mach.O_IN_FLIGHT, ids=ids, slots=slots,
            live="published",
        )  # fmt: skip
        self.truth.append(chain)
        self.ring[self.avail] = chain
        self.avail += 1
        self.place += slots
        return True

    def drive(self) -> Iterator[int]:
        q = self.q
        while True:
            self.consume()
            n = q.size if q.direction == "rx" else self.rng.randint(1, q.burst)
            while n and self.publish():
                n -= 1
                yield self.step()
            if self.kicked != self.avail:
                old, self.kicked = self.kicked, self.avail
                needed = self.notify
                if q.event_idx and self.stated:
                    needed = _need_event(self.avail_event, self.avail, old)
                if needed:
                    self.kick(old)
                    yield self.step()
            self.used_event, self.no_interrupt = self.consumed, self.chance(0.2)
            self.vcpu_idle = True
            yield self.around(q.gap)
            self.vcpu_idle = False

    def kick(self, old: int) -> None:
        self.put(
            mach.KICK, tid=self.vcpu, **self.show(look=True, blind=self.chance(self.q.blind_chance))
        )
        if self.rows[-1]["flags"] & 16:
            # Nobody knew the eventfd yet: it was found out later that it was a kick.
            self.rows[-1] |= {"flags": F_QEMU, "position": 0, "used": 0}
        for position in range(old, self.avail):
            if position in self.ring:
                self.ring[position]["kick_ns"] = self.now
        self.told_at = min(self.told_at, self.now + self.around(self.q.irq_delay))
        self.wake()

    def interrupt(self) -> None:
        if self.vcpu_idle:
            self.vcpu_due = min(self.vcpu_due, self.now + self.around(self.q.irq_delay))

    # Device.

    def wake(self) -> None:
        if self.device_idle:
            works = self.told_at, self.done_at, self.more_at, self.packet_at, self.poll_at
            self.device_due = max(min(works), self.now + 1)

    def serve(self) -> Iterator[int]:
        while True:
            told = self.told_at <= self.now
            if self.packet_at <= self.now:
                self.packet_at = self.now + self.around(self.q.gap)
                self.packets = min(self.packets + 1, 3)
                if not self.starving:
                    yield from self.receive()
            elif told or self.poll_at <= self.now or self.more_at <= self.now:
                self.told_at = self.told_at if not told else NEVER
                self.poll_at = self.more_at = NEVER
                yield from self.handle(told)
            elif self.done_at <= self.now:
                self.done_at = NEVER
                yield from self.done()
                self.raise_deferred()
            if self.popped and self.done_at == NEVER:
                self.done_at = self.now + self.around(self.q.service)
            if self.chance(self.q.poll_chance) and self.q.direction != "rx":
                self.poll_at = self.now + self.around(self.q.step)
            self.device_idle = True
            self.wake()
            yield self.device_due - self.now
            self.device_idle = False

    def set_notification(self, on: bool) -> None:
        self.notify = on
        if on:
            self.avail_event = self.last if self.packed else self.avail
            self.stated = True
        self.put(mach.ENABLE, ret=int(not on), **self.show(look=True))

    def pop(self) -> _Chain | None:
        if self.last == self.avail:
            self.put(mach.EMPTY, **self.show(look=True))
            self.run = 0
            return None
        chain = self.ring[self.last]
        self.last += 1
        if self.q.event_idx and self.notify and not self.packed:
            self.avail_event = self.last
        place = self.taken_place if self.packed else self.last - 1
        self.put(
            mach.POP, head=chain.head, count=chain.descriptors, length=chain.readable_bytes,
            room=chain.writable_bytes, ret=chain.slots if self.packed else 0,
            **self.show(look=True, place=place),
        )  # fmt: skip
        self.taken_place += chain.slots
        self.bytes(REQUEST, chain)
        chain.first_pop_ns = chain.first_pop_ns or self.now
        chain.pop_ns, chain.run_ns, chain.live = self.now, self.run, "popped"
        self.popped.append(chain)
        return chain

    def hand_back(self, count: int) -> None:
        for _ in range(count):
            chain = self.popped.pop()
            chain.live = "published"
            chain.handed_back += 1
            self.last -= 1
            self.taken_place -= chain.slots
        self.put(mach.HAND_BACK, count=count, **self.show())

    def give(self, chains: list[_Chain]) -> Iterator[int]:
        """Fill in and flush."""
        place, index = self.used_place, self.used
        for chain in chains:
            chain.used_bytes = self.rng.randint(0, chain.writable_bytes)
            word = self.word(place if self.packed else index)
            values = self.show() | {"used": word}
            self.put(mach.USED, head=chain.head, length=chain.used_bytes, count=1, ret=-1, **values)
            self.bytes(RESPONSE, chain)
            if not self.q.in_order:
                place += chain.slots
                index += 1
            self.popped.remove(chain)
            self.filled.append(chain)
            yield self.step()
        self.put(FLUSH, count=len(chains), **self.show())
        self.batch += 1
        done = list(self.filled)
        if self.q.in_order:
            order = sorted(self.filled, key=lambda chain: chain.position)
            done = [chain for k, chain in enumerate(order) if chain.position == self.turn + k]
            self.turn += len(done)
        for chain in done:
            self.filled.remove(chain)
            chain.used_ns, chain.batch, chain.outcome = self.now, self.batch, mach.O_USED
            chain.live = "used"
            self.used += 1
            self.used_place += chain.slots
        self.returned += done
        self.waiting += done
        yield self.step()
        if self.q.interrupts == "elsewhere":
            self.raise_deferred()
            yield self.step()
        lazy = self.q.interrupts != "deferred" and len(self.waiting) < self.q.size // 4
        if not (lazy and self.chance(self.q.lazy_chance)):
            yield from self.signal()
        self.late = self.late + len(done) if self.deferred else 0
        if self.late >= self.q.size // 4:
            self.raise_deferred()
            yield self.step()

    def signal(self) -> Iterator[int]:
        q = self.q
        if q.event_idx:
            sent = not self.valid or _need_event(self.used_event, self.used, self.signalled)
        else:
            sent = not self.no_interrupt
        self.signalled, self.valid = self.used, True
        chains, self.waiting = self.waiting, []
        if sent and q.interrupts == "nested":
            self.put(mach.IRQ, ret=3)
            for chain in chains:
                chain.irq_ns = self.now
            self.interrupt()
            yield self.step()
        self.put(mach.SIGNAL, ret=int(sent), **self.show(look=True))
        for chain in chains:
            chain.signal_ns, chain.signal_ret = self.now, int(sent)
        if sent and q.interrupts != "nested":
            self.deferred += chains
        yield self.step()
        if q.interrupts == "elsewhere" and self.chance(0.5):
            self.raise_deferred()
            yield self.step()

    def raise_deferred(self) -> None:
        if not self.deferred:
            return
        elsewhere = self.q.interrupts == "elsewhere"
        self.put(mach.IRQ, ret=3, tid=self.other if elsewhere else self.thread)
        for chain in self.deferred:
            chain.irq_ns = self.now
        self.deferred = []
        self.interrupt()

    def handle(self, told: bool) -> Iterator[int]:
        """Pop all there is: QEMU was told to look, or looks by itself."""
        q = self.q
        if told:
            self.put(mach.RUN)
            if q.direction != "rx" or self.starving:
                self.run, self.starving = self.now, False
            yield self.step()
        if q.direction == "rx":
            yield from self.receive()
            return
        while True:
            if q.suppress and told:
                self.set_notification(False)
                yield self.step()
            while (chain := self.pop()) is not None:
                yield self.step()
                if self.chance(q.hand_back_chance):
                    self.hand_back(1)
                    self.more_at = self.now + self.around(q.service)
                    break
                if q.direction == "tx":
                    yield from self.done()
            else:
                chain = None
            yield self.step()
            if q.suppress:
                self.set_notification(True)
                yield self.step()
                if chain is None and self.last != self.avail:
                    continue
            break
        self.raise_deferred()
        yield self.step()

    def done(self) -> Iterator[int]:
        """Finish one chain: the oldest, or any."""
        if not self.popped:
            return
        chain = self.popped[0]
        if self.q.direction == "none":
            chain = self.rng.choice(self.popped)
        if not self.q.in_order and self.chance(self.q.detach_chance):
            self.put(DETACH, head=chain.head, flags=F_PACKED if self.packed else 0)
            self.popped.remove(chain)
            chain.live, chain.outcome = "gone", mach.O_DISCARDED
            del self.ring[chain.position]
            yield self.step()
            return
        yield from self.give([chain])

    def receive(self) -> Iterator[int]:
        """Give the packets that wait to the guest, as far as there is room."""
        q = self.q
        while self.packets:
            if self.last == self.avail:
                self.set_notification(True)
                self.starving = True
                yield self.step()
                return
            self.set_notification(False)
            self.starving = False
            yield self.step()
            need = self.rng.randint(1, min(3, q.size))
            taken: list[_Chain] = []
            while len(taken) < need and (chain := self.pop()) is not None:
                taken.append(chain)
                yield self.step()
            yield self.step()
            if len(taken) == need and not self.chance(q.hand_back_chance):
                yield from self.give(taken)
                self.packets -= 1
                self.run = 0
                continue
            self.hand_back(len(taken))
            yield self.step()
            if len(taken) == need:
                self.more_at = self.now + self.around(q.service)
            else:
                self.starving = True
                self.set_notification(True)
                # It would wait for ever for more than the ring can hold.
                self.packets -= self.chance(0.5)
                yield self.step()
            return
        self.raise_deferred()
        yield self.step()

    # Time.

    def control(self, what: str) -> None:
        if what == "resume":
            self.put(mach.START, tid=self.other, **self.show())
            return
        self.close(True)
        self.put(mach.STOP, tid=self.other, **self.show())
        if what == "other":
            self.packed = not self.packed
        self.now += 2000
        self.boot(0)

    def simulate(self) -> None:
        while True:
            control_at = self.controls[0][0] if self.controls else NEVER
            due = min(self.vcpu_due, self.device_due, control_at)
            now = max(due, self.now + 1)
            if now >= self.end:
                break
            self.now = now
            if due == control_at:
                at, what = self.controls.pop(0)
                if what == "resume" and not self.device_idle:
                    # Stopping a VM waits for its devices.
                    self.controls.insert(0, (at + 2000, what))
                else:
                    self.control(what)
            elif due == self.device_due:
                self.device_due = self.now + next(self.device)
            else:
                self.vcpu_due = self.now + next(self.driver)
        self.close(False)


def simulate_qemu(scenario: QemuScenario) -> Recording:
    """Run all queues to the end; the truth has every chain that was published."""
    rows: list[dict[str, int]] = []
    truth: list[_Chain] = []
    end = scenario.start_ns + scenario.duration_ns
    for index in range(len(scenario.rings)):
        made = _Machine(scenario, index)
        made.simulate()
        rows += made.rows
        truth += made.truth
    records = np.zeros(len(rows), wire.RECORD)
    for record, row in zip(records, rows, strict=True):
        for name, value in row.items():
            record[name] = value
    records = records[np.argsort(records["time"], kind="stable")]
    for cpu in np.unique(records["cpu"]):
        mine = records["cpu"] == cpu
        records["seq"][mine] = scenario.seq_start + np.arange(np.count_nonzero(mine))
    records = in_order(records[records["time"] < end])
    table = np.zeros(len(truth), QEMU_CHAIN)
    for line, chain in zip(table, truth, strict=True):
        for name in QEMU_CHAIN.names or ():
            line[name] = chain[name]
    return Recording(
        records=records, whole=records, truth=table, totals=np.zeros(0, mach.TOTALS),
        scenario=scenario,  # type: ignore[arg-type]
    )  # fmt: skip
