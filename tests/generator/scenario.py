"""What to simulate: knobs with a plain meaning, and how they become a machine."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from tests.generator import machine as mach
from vtrace import model

__all__ = ["Control", "Pair", "Scenario"]

RESET = mach.C_RESET
RESUME = mach.C_RESUME
RECREATE = mach.C_RECREATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Something that is done to a running device."""

    time: int
    """ns after the start of the scenario."""
    action: int = RESET
    """RESET: at any moment, chains in flight; RESUME: VM paused and resumed; RECREATE: the vhost
    device goes away and another comes, with new queue ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One queue pair: a receive queue, a transmit queue and their worker.

    Names that end in ``_ppm`` are chances in a million, times are means in ns.
    """

    rx_size: int = 256
    tx_size: int = 256
    event_idx: bool = True
    mergeable: bool = True
    indirect_ppm: int = 1_000_000
    """Transmitted chains that go through an indirect table (one slot of the ring)."""
    header: int = 12
    rx_room: int = 1536
    """Bytes of one receive chain."""
    rx_descs: int = 1
    """Descriptors of one receive chain."""
    tx_descs_max: int = 3
    refill_at: int = 1
    """Receive chains that must be free before the driver fills up again."""
    frame_min: int = 60
    frame_max: int = 1514
    large_ppm: int = 0
    """Frames of 4 kB to 64 kB (GSO): many receive chains, no transmit batch."""
    tap_capacity: int = 1000
    tap_burst: int = 32
    """Most packets in one burst from the host; 0: no receive traffic."""
    tap_gap: int = 0
    burst_gap: int = 50_000
    tx_burst: int = 16
    """Most chains between two looks of the driver at the kick; 0: no transmit traffic."""
    tx_gap: int = 20_000
    irq_delay: int = 3000
    sched_delay: int = 4000
    stall_ppm: int = 0
    stall_ns: int = 1_000_000
    """A worker that waits for a CPU."""
    step: int = 300
    """One step of the worker."""
    vcpu_step: int = 120
    weight: int = 256
    base_rx: int = 0
    base_tx: int = 0
    """Ring index at the start; the wire shows its low 16 bits."""
    skew: int = 0
    """Used index minus available index at the start."""
    flush_first: bool = False
    """The worker sends its batch before it asks for kicks again (Linux 7.2)."""
    tx_delayed: bool = False
    """The driver asks for a transmit interrupt three quarters ahead."""
    tx_interrupts: bool = True
    zero_hand_back: bool = True
    """HAND_BACK of 0 chains is recorded too (the kernel does call it)."""
    pop_cached: bool = False
    """POP's ``avail`` is what vhost had cached, without the flag; else as seen at the pop."""
    fault_ppm: int = 0
    recv_error_ppm: int = 0
    again_ppm: int = 0
    reject_ppm: int = 0
    """Frames that tun drops though the call succeeds; DELIVER's ``count`` does not count them."""
    leak_ppm: int = 0
    """A batch that tun refuses as a whole: vhost never returns its chains."""
    pop_error_ppm: int = 0
    disorder_ppm: int = 0
    """Batches whose used elements are out of order."""
    hold_ppm: int = 0
    """Transmitted chains that complete in a later batch (zero copy)."""
    spurious_ppm: int = 0
    shuffle_ppm: int = 500_000
    """Chains that take any free descriptor, not the last one freed."""
    migrate_ppm: int = 50_000
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Pairs that run side by side for some time."""

    pairs: tuple[Pair, ...] = field(default_factory=lambda: (Pair(),))
    duration_ns: int = 1_000_000
    start_ns: int = 1_000_000_000
    seed: int = 1
    cpus: int = 4
    vms: int = 1
    sched: bool = False
    exits: bool = False
    svm: bool = False
    write_late: bool = False
    """ENQUEUE and REFUSE, whose time is the entry, take their sequence number at the return: behind
    the WAKE within, so that a CPU's numbers are not in the order of its times."""
    packet_start: int = 0
    seq_start: int = 0

    @property
    def generations(self) -> int:
        """Sets of queue ids: one, and one more for each re-creation."""
        made = [sum(c.action == RECREATE for c in p.controls) for p in self.pairs]
        return 1 + max(made)

    @property
    def ids(self) -> int:
        """One more than the highest queue id."""
        return 1 + 2 * len(self.pairs) * self.generations

    def rx_id(self, pair: int, generation: int = 0) -> int:
        """Return the id of a receive queue; its transmit queue has the next."""
        return 1 + 2 * (generation * len(self.pairs) + pair)

    def queues(self) -> dict[int, model.Queue]:
        """Return the queue table."""
        table = {}
        for generation in range(self.generations):
            for index, pair in enumerate(self.pairs):
                vm = index % self.vms
                features = pair.event_idx << 29 | pair.mergeable << 15 | 1 << 32
                for d, name in enumerate(("rx", "tx")):
                    number = self.rx_id(index, generation) + d
                    table[number] = model.Queue(
                        id=number,
                        vm=f"vm{vm}",
                        pid=1000 + vm,
                        device="net0",
                        name=f"{name}{index // self.vms}",
                        direction=model.Direction(name),
                        size=pair.tx_size if d else pair.rx_size,
                        interface=f"tap{vm}",
                        ifindex=10 + vm,
                        generation=generation,
                        features=features | 1 << 28,
                    )
        return table

    def machine(self, pair: int, records: int) -> mach.Machine:
        """Return the machine of a pair, not yet begun."""
        knobs = self.pairs[pair]
        state = np.zeros(1, mach.STATE)
        s = state[0]
        for name in mach.KNOBS:
            if hasattr(knobs, name):
                s[name] = int(getattr(knobs, name))
        s["rng"] = np.uint64((self.seed * 1_000_003 + pair * 7919) & (1 << 64) - 1)
        s["packet"] = np.uint64(self.packet_start + pair)
        s["packet_stride"] = len(self.pairs)
        s["end"] = self.start_ns + self.duration_ns
        s["write_late"], s["sched"], s["exits"], s["svm"] = (
            self.write_late, self.sched, self.exits, self.svm)  # fmt: skip
        s["cpus"] = self.cpus
        s["gsi"] = 24 + 2 * pair
        s["serial"] = pair
        s["id_step"] = 2 * len(self.pairs)
        s["vcpu_cpu"] = pair % self.cpus
        s["worker_cpu"] = (pair + 1) % self.cpus
        s["tap_cpu"] = (pair + 2) % self.cpus
        s["qemu_tid"] = 1000 + pair % self.vms
        s["vcpu_tid"] = 2000 + pair
        s["worker_tid"] = 3000 + pair
        s["worker_at"] = mach.NEVER
        s["tap_left"] = 1
        s["tap_at"] = self.start_ns + 5000 if knobs.tap_burst else mach.NEVER
        ring = np.zeros(2, mach.RING)
        ring["id"] = self.rx_id(pair) + np.arange(2)
        ring["size"] = knobs.rx_size, knobs.tx_size
        ring["base"] = knobs.base_rx, knobs.base_tx
        ring["skew"] = knobs.skew
        control = np.array(
            [(self.start_ns + c.time, c.action) for c in knobs.controls], np.int64
        ).reshape(-1, 2)
        s["control_at"] = control[0, 0] if len(control) else mach.NEVER
        return mach.machine(state, ring, control, self.ids, records)

    def __post_init__(self) -> None:
        for pair in self.pairs:
            capacity = pair.rx_size // pair.rx_descs
            if not 1 <= pair.refill_at <= max(capacity // 2, 1):
                raise ValueError(f"refill_at: 1 to {max(capacity // 2, 1)}")
            if pair.rx_room < 32:
                raise ValueError("rx_room: 32 or more")
            times = [c.time for c in pair.controls]
            if any(b - a < 100_000 for a, b in itertools.pairwise([-80_000, *times])):
                raise ValueError("controls: 100 us apart, 20 us after the start")
