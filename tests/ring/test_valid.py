"""Valid rings: the snapshot is what driver and device know, slot by slot."""

import dataclasses
import random

import pytest

from tests.ring.model import EVENT_IDX, IN_ORDER, INDIRECT, Packed, Split
from vtrace.ring import Owner, decode

FEATURES = [0, EVENT_IDX, INDIRECT | EVENT_IDX, IN_ORDER | EVENT_IDX, IN_ORDER | INDIRECT]
SPLIT_SIZES = (1, 2, 4, 16, 64)
PACKED_SIZES = (1, 2, 3, 7, 16, 61)
MAY_BE = {
    "outstanding": {"available", "device"},
    "returned": {"used", "free"},
    "unknown": {"free", "available", "device", "used"},
}


def agrees(shown: str, true: str) -> bool:
    return shown == true or true in MAY_BE.get(shown, ())


def wrong(model, snapshot):
    return [
        (slot.place, str(slot.owner), true)
        for slot, true in zip(snapshot.slots, model.truth(), strict=True)
        if not agrees(slot.owner, true)
    ]


def chains_of(snapshot, owner):
    return [
        (c.head, c.slots, c.readable_bytes, c.writable_bytes, c.position)
        for c in snapshot.chains
        if c.owner == owner
    ]


def as_shown(chains):
    return [(c.name, tuple(c.slots), c.readable, c.writable, c.position) for c in chains]


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("size", SPLIT_SIZES)
def test_split(size, features):
    # The event index tells what was reaped, but for 0, which drivers also write for "never".
    certain = told = 0
    for seed in range(10):
        start = 0 if seed % 2 else 65536 * 3 - size
        model = Split(size, features, random.Random(seed), start=start)
        for _ in range(4 * size + 30):
            model.steps()
            snapshot = decode(model.raw(), model.read)
            assert snapshot.findings == ()
            assert snapshot.counts()["unknown"] == 0 or not snapshot.certain
            if snapshot.certain:
                certain += 1
                assert wrong(model, snapshot) == []
                assert chains_of(snapshot, Owner.DEVICE) == as_shown(model.flight)
            assert chains_of(snapshot, Owner.AVAILABLE) == as_shown(model.available)
            assert snapshot.available == model.avail & 0xFFFF
            assert snapshot.taken == model.device & 0xFFFF
            assert snapshot.used == model.used_index & 0xFFFF
            if snapshot.reaped is not None and snapshot.certain:
                told += 1
                assert snapshot.reaped == model.reaped & 0xFFFF
                assert [str(slot.owner) for slot in snapshot.slots] == model.truth()
    assert certain > 100
    assert bool(told) == bool(features & EVENT_IDX)


def test_split_out_of_order_is_right_even_where_it_is_inferred():
    # In order now and then, as a disk returns: what is inferred is nearly always so.
    right = total = 0
    for seed in range(8):
        model = Split(16, EVENT_IDX, random.Random(seed))
        for _ in range(2000):
            model.step()
            snapshot = decode(model.raw(), model.read)
            if not snapshot.certain:
                total += 1
                right += not wrong(model, snapshot)
    assert total > 1000
    assert right / total > 0.5


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("size", PACKED_SIZES)
def test_packed(size, features, wraps):
    told = 0
    for seed in range(10):
        model = Packed(size, features, random.Random(seed))
        for _ in range(4 * size + 30):
            model.steps()
            snapshot = decode(model.raw(wraps=wraps), model.read)
            assert snapshot.findings == ()
            assert snapshot.certain
            assert wrong(model, snapshot) == []
            assert chains_of(snapshot, Owner.AVAILABLE) == as_shown(model.available)
            if features & IN_ORDER:
                assert chains_of(snapshot, Owner.DEVICE) == as_shown(model.flight)
            for name, position in (("taken", model.device), ("used", model.used_index)):
                assert getattr(snapshot, name) == position % size | model.wrap(position) << 15
            if snapshot.reaped is not None:
                told += 1
                assert [str(slot.owner) for slot in snapshot.slots] == model.truth()
    assert bool(told) == bool(features & EVENT_IDX)


@pytest.mark.parametrize("kind", [Split, Packed])
def test_without_the_devices_indices(kind):
    for seed in range(20):
        model = kind(16, EVENT_IDX, random.Random(seed))
        for _ in range(200):
            model.step()
            snapshot = decode(model.raw(known=False), model.read)
            assert snapshot.findings == ()
            assert "not known" in snapshot.notes[0]
            if kind is Split and snapshot.certain:
                assert wrong(model, snapshot) == []
                counts = snapshot.counts()
                assert counts["available"] == counts["device"] == 0


@pytest.mark.parametrize(("kind", "size"), [(Split, 32768), (Packed, 32768), (Packed, 32767)])
def test_the_largest_rings(kind, size):
    model = kind(size, EVENT_IDX | INDIRECT, random.Random(1))
    for _ in range(20000):
        model.publish()
        if len(model.available) > 5:
            model.flight.append(model.available.pop(0))
            model.taken(model.flight[-1])
        if len(model.flight) > 7:
            model.give_back([model.flight.pop(0)])
        if len(model.used) > 9:
            model.reap(model.used.pop(0))
            model.say_reaped()
    snapshot = decode(model.raw(), model.read)
    assert snapshot.findings == ()
    assert [str(slot.owner) for slot in snapshot.slots] == model.truth()


def test_a_moved_ring_says_so():
    raw = Split(4, 0, random.Random(1)).raw()
    assert decode(raw).consistent
    assert not decode(dataclasses.replace(raw, consistent=False)).consistent
