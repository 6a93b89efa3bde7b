"""Places of rings by QEMU's word and by the probes', modulo the ring."""

import random

import pytest

from vtrace.compare import Span
from vtrace.compare.facts import within
from vtrace.inventory.features import DEVICE_FEATURES, feature_names
from vtrace.inventory.qmp import FEATURE_BITS


@pytest.mark.parametrize("seed", range(5))
def test_a_place_of_a_split_ring_lies_between_two_others(seed):
    chance = random.Random(seed)
    for _ in range(300):
        before, moved = chance.randrange(1 << 16), chance.randrange(200)
        span = Span(before, (before + moved) & 0xFFFF)
        at = chance.randrange(-5, 210)
        assert within((before + at) & 0xFFFF, span, "split", 256) == (0 <= at <= moved)


@pytest.mark.parametrize("seed", range(5))
def test_a_place_of_a_packed_ring_comes_without_its_wrap_counter(seed):
    chance = random.Random(seed)
    for _ in range(300):
        size = chance.randrange(8, 300)
        start, moved = chance.randrange(2 * size), chance.randrange(size)

        def raw(at, size=size):
            at %= 2 * size
            return at % size | (at < size) << 15

        span = Span(raw(start), raw(start + moved))
        passed = {(start + at) % size for at in range(moved + 1)}
        for place in range(size):
            assert within(place, span, "packed", size) == (place in passed)


def test_what_is_not_certain():
    assert within(5, Span(10, 9), "split", 256) is None
    assert within(5, Span(0x8000, 5), "packed", 0) is None
    assert within(5, Span(0x8000 | 7, 0x8000 | 5), "packed", 8) is None


def test_no_bit_of_a_device_has_two_names():
    for kind, names in DEVICE_FEATURES.items():
        bits = list(names.values())
        assert len(set(bits)) == len(bits), kind
        assert not set(bits) & set(FEATURE_BITS.values())
        assert {**FEATURE_BITS, **names} == dict(feature_names(kind))
