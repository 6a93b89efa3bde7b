"""Offsets by what two recordings share: found in noise, refused where there is none."""

import numpy as np
import pytest

from vtrace.merge.prints import LEAST, PRINT, Sample, matched


def sample(hashes, times, most=1 << 17):
    rows = np.zeros(len(hashes), PRINT)
    rows["hash"], rows["time"], rows["queue"] = hashes, times, 1
    made = Sample(most)
    for part in np.array_split(rows, 7):
        made.add(part)
    return made


def run(random, count):
    hashes = random.integers(0, 1 << 63, count).astype(np.uint64)
    return hashes, np.sort(random.integers(0, 10_000_000_000, count))


@pytest.mark.parametrize("offset", [0, 1_500_000, -77, 1_787_313_600_000_000_000, -(1 << 60)])
def test_an_offset_is_found_within_its_uncertainty(offset):
    random = np.random.default_rng(1)
    hashes, times = run(random, 2000)
    apart = random.normal(0, 3_000, 2000).astype(np.int64)
    # A third of the second is not in the first, and a tenth is far off.
    seen = random.random(2000) < 0.66
    apart[random.random(2000) < 0.1] = 5_000_000_000
    other = np.concatenate([hashes[seen], run(random, 600)[0]])
    when = np.concatenate([(times - offset + apart)[seen], run(random, 600)[1] - offset])
    found = matched(sample(hashes, times), sample(other, when))
    assert found is not None
    assert abs(found.offset_ns - offset) <= found.uncertainty_ns <= 10_000
    assert found.events > 1000
    assert found.queues == {1: 1}


def test_two_runs_that_share_prints_by_chance_have_no_offset():
    random = np.random.default_rng(2)
    hashes, times = run(random, 500)
    assert matched(sample(hashes, times), sample(hashes, run(random, 500)[1])) is None
    assert matched(sample(hashes, times), sample(*run(random, 500))) is None
    assert matched(sample(hashes[:0], times[:0]), sample(hashes, times)) is None


def test_too_few_are_not_believed():
    random = np.random.default_rng(3)
    hashes, times = run(random, LEAST)
    assert matched(sample(hashes, times), sample(hashes, times)) is not None
    fewer = sample(hashes[1:], times[1:])
    assert matched(sample(hashes, times), fewer) is None


def test_what_comes_again_and_again_tells_nothing():
    random = np.random.default_rng(4)
    hashes, times = run(random, 300)
    beacon = np.arange(0, 10_000_000_000, 10_000_000)
    both = np.concatenate([hashes, np.full(len(beacon), 42, np.uint64)])
    one = sample(both, np.concatenate([times, beacon]))
    two = sample(both, np.concatenate([times - 5_000, beacon + 3_000_000]))
    found = matched(one, two)
    assert found is not None
    assert (found.offset_ns, found.events) == (5_000, 300)


def test_samples_of_long_recordings_keep_the_same_prints():
    random = np.random.default_rng(5)
    hashes, times = run(random, 50_000)
    one = sample(hashes, times, most=1000)
    # The second began later, and has half of them.
    two = sample(hashes[25_000:], times[25_000:] + 777, most=1000)
    assert 400 < len(one.rows) <= 1000
    found = matched(one, two)
    assert found is not None
    assert found.offset_ns == -777
    assert found.events > 100
    flood = sample(np.zeros(5000, np.uint64), np.arange(5000), most=1000)
    assert len(flood.rows) <= 1000
