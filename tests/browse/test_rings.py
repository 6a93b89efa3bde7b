"""Slots of a ring, against what the generator knows of each chain at each time."""

from __future__ import annotations

import numpy as np
import pytest

from tests.generator import Pair, QemuQueue, QemuScenario, Scenario, simulate, simulate_qemu
from vtrace.browse.rings import LETTERS, Owner, ring_slots
from vtrace.lifecycle import Tracker
from vtrace.model import Flag

F, A, P, U = Owner.FREE, Owner.AVAILABLE, Owner.POPPED, Owner.USED


def standing(recording, upto_ns):
    """The chains and rings of a recording as they stood before a time."""
    rows = recording.records[recording.records["time"] < upto_ns]
    from parsers.batch import EventBatch

    tracker = Tracker(recording.queues)
    batch = EventBatch.from_records(rows)
    tracker.feed(batch)
    rings = tracker.rings()
    return tracker.finish(), rings


def truth_of(recording, queue, size, at_ns):
    """Owner of each slot, from the truth: the newest chain published in it."""
    owner = np.full(size, F, np.uint8)
    rows = recording.truth[recording.truth["queue"] == queue]
    rows = rows[(rows["publish_ns"] > 0) & (rows["publish_ns"] < at_ns)]
    for row in rows[np.argsort(rows["position"], kind="stable")]:
        at = int(row["position"]) % size
        if 0 < row["consumed_ns"] < at_ns:
            owner[at] = F
        elif 0 < row["used_ns"] < at_ns:
            owner[at] = U
        elif 0 < row["pop_ns"] < at_ns:
            owner[at] = P
        else:
            owner[at] = A
    return owner


def moments(recording, count, seed):
    times = np.sort(np.unique(recording.records["time"]))
    chosen = np.random.default_rng(seed).choice(len(times), count, replace=False)
    return [int(times[at]) + 1 for at in np.sort(chosen)]


SCENARIOS = {
    "plain": Pair(rx_size=64, tx_size=64),
    "wraps": Pair(rx_size=32, tx_size=128, base_rx=65_500, base_tx=65_530),
    "flags": Pair(rx_size=64, tx_size=64, event_idx=False),
    "descriptors": Pair(rx_size=64, tx_size=64, indirect_ppm=0, rx_descs=2),
    "disorder": Pair(rx_size=64, tx_size=64, disorder_ppm=200_000),
    "stalled": Pair(rx_size=64, tx_size=64, stall_ppm=200_000, stall_ns=300_000),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_owners_are_those_of_the_truth(name):
    pair = SCENARIOS[name]
    recording = simulate(Scenario(pairs=(pair,), duration_ns=8_000_000, seed=11))
    seen = set()
    for at_ns in moments(recording, 40, 5):
        chains, rings = standing(recording, at_ns)
        for queue, size in ((1, pair.rx_size), (2, pair.tx_size)):
            if queue not in rings:
                continue
            slots = ring_slots(chains, queue, rings[queue], at_ns, size=size)
            truth = truth_of(recording, queue, size, at_ns)
            assert slots.size == size
            assert not (slots.owner == Owner.UNKNOWN).any() or slots.notes
            # What the device does is seen, all of it.
            assert ((slots.owner == P) == (truth == P)).all(), (name, at_ns, queue)
            # The driver is ahead of what was seen of it: never behind.
            assert np.isin(truth[slots.owner == A], [A]).all()
            assert np.isin(truth[slots.owner == U], [U, F, A]).all()
            assert np.isin(truth[slots.owner == F], [F, A]).all(), (name, at_ns, queue)
            seen |= set(slots.owner.tolist())
            assert sum(slots.counts.values()) == size
    assert {A, P, U} <= seen


def test_what_is_available_is_exact_where_the_ring_was_looked_at():
    recording = simulate(Scenario(pairs=(Pair(rx_size=64),), duration_ns=6_000_000, seed=3))
    looks = recording.records[
        (recording.records["queue"] == 1) & (recording.records["flags"] & int(Flag.AVAIL) != 0)
    ]
    for row in looks[20 :: len(looks) // 25]:
        at_ns = int(row["time"]) + 1
        chains, rings = standing(recording, at_ns)
        slots = ring_slots(chains, 1, rings[1], at_ns)
        truth = truth_of(recording, 1, 64, at_ns)
        assert ((slots.owner == A) == (truth == A)).all()


def test_ages_are_times_since_the_event():
    recording = simulate(Scenario(duration_ns=4_000_000, seed=9))
    at_ns = moments(recording, 9, 1)[6]
    chains, rings = standing(recording, at_ns)
    for queue in (1, 2):
        slots = ring_slots(chains, queue, rings[queue], at_ns)
        truth = recording.truth[recording.truth["queue"] == queue]
        for slot in np.flatnonzero(np.isin(slots.owner, [P, U]) & (slots.age_ns >= 0)):
            row = truth[truth["position"] == slots.position[slot]][-1]
            name = "pop_ns" if slots.owner[slot] == P else "used_ns"
            assert slots.age_ns[slot] == at_ns - int(row[name])


def test_a_recording_that_began_later_does_not_guess():
    recording = simulate(Scenario(duration_ns=6_000_000, seed=4))
    middle = int(recording.records["time"][len(recording.records) // 2])
    recording.records = recording.records[recording.records["time"] >= middle]
    at_ns = int(recording.records["time"][40]) + 1
    chains, rings = standing(recording, at_ns)
    known = 0
    for queue in set(rings) & {1, 2}:
        slots = ring_slots(chains, queue, rings[queue], at_ns)
        truth = truth_of(recording, queue, 256, at_ns)
        for owner in (P, A):
            assert (truth[slots.owner == owner] == owner).all()
            known += int((slots.owner == owner).sum())
        assert np.isin(truth[slots.owner == F], [F, A]).all()
        if (slots.owner == Owner.UNKNOWN).any():
            assert slots.notes
    assert known


def test_nothing_seen_is_said():
    empty = standing(simulate(Scenario(duration_ns=200_000)), 0)[0]
    slots = ring_slots(empty, 7, None, 1, size=128)
    assert slots.size == 128
    assert (slots.owner == Owner.UNKNOWN).all()
    assert slots.notes == ("nothing of this ring was seen up to here",)


def test_a_large_ring_hides_no_owner():
    recording = simulate(
        Scenario(pairs=(Pair(rx_size=1024, tx_size=1024),), duration_ns=5_000_000, seed=8)
    )
    at_ns = moments(recording, 5, 2)[3]
    chains, rings = standing(recording, at_ns)
    slots = ring_slots(chains, 1, rings[1], at_ns)
    owner, age, others = slots.cells(60)
    assert len(owner) == len(age) == len(others) == 60
    assert set(owner.tolist()) == set(slots.owner.tolist())
    assert int(others.sum()) < 1024
    small = slots.cells(4096)[0]
    assert (small == slots.owner).all()
    assert len(LETTERS) == len(Owner)


QEMU = {
    "any order": QemuQueue(),
    "packed": QemuQueue(packed=True),
    "handed back": QemuQueue(hand_back_chance=0.1),
    "receive": QemuQueue(direction="rx", size=32),
    "slow": QemuQueue(service=60_000, gap=15_000),
}


@pytest.mark.parametrize("name", QEMU)
def test_devices_of_qemu_return_chains_in_any_order(name):
    recording = simulate_qemu(QemuScenario(rings=(QEMU[name],), duration_ns=3_000_000, seed=2))
    size = QEMU[name].size
    rows = recording.truth
    for at_ns in moments(recording, 40, 7):
        chains, rings = standing(recording, at_ns)
        if 1 not in rings:
            continue
        slots = ring_slots(chains, 1, rings[1], at_ns, size=size)
        assert not any("not seen" in note for note in slots.notes), slots.notes
        popped = (rows["pop_ns"] > 0) & (rows["pop_ns"] < at_ns)
        with_device = popped & ~((rows["used_ns"] > 0) & (rows["used_ns"] < at_ns))
        if name != "handed back":
            assert slots.counts[P] + slots.older == int(with_device.sum())
        if slots.packed:
            assert not slots.counts[A]
            assert not slots.counts[F]
            continue
        truth = truth_of(recording, 1, size, at_ns)
        for slot in np.flatnonzero(slots.owner == P):
            row = rows[rows["position"] == slots.position[slot]]
            assert with_device[rows["position"] == slots.position[slot]].any(), row
        assert np.isin(truth[slots.owner == A], [A]).all()
        for slot in np.flatnonzero(slots.owner == F):
            # What vtrace calls free is not with the device, and nothing waits in it.
            position = slots.position[slot]
            assert position < 0 or not with_device[rows["position"] == position].any()
