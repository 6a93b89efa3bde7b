"""Intervals of percentiles: ranks against exact sums, coverage against a known truth."""

import itertools
import math

import numpy as np
import pytest

from vtrace.compare.order import Interval, Verdict, difference, quantile_interval, rank_interval
from vtrace.lifecycle import Histogram


def sums_of(count, share):
    """Return P(B <= rank) of a binomial for each rank from 0, by its definition."""
    terms = (math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1))
    return list(itertools.accumulate(terms))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 40, 299, 1000])
def test_ranks_are_those_of_the_exact_sums(count, share, confidence):
    low, high = rank_interval(count, share, confidence)
    tail = (1 - confidence) / 2
    ranks = range(1, count + 1)
    sums = sums_of(count, share)
    fits_low = [rank for rank in ranks if sums[rank - 1] <= tail]
    fits_high = [rank for rank in ranks if 1 - sums[rank - 1] <= tail]
    assert low == (max(fits_low) if fits_low else None)
    assert high == (min(fits_high) if fits_high else None)


def test_how_many_it_takes():
    # 1 - 0.5^n and 1 - 0.99^n at 97.5 %: the numbers that tables of order statistics have.
    assert [rank_interval(n, 0.5, 0.95)[0] for n in (5, 6)] == [None, 1]
    assert [rank_interval(n, 0.99, 0.95)[1] for n in (367, 368)] == [None, 368]


@pytest.mark.parametrize("count", [0, -1])
def test_nothing_has_no_interval(count):
    assert rank_interval(count, 0.5, 0.95) == (None, None)


@pytest.mark.parametrize("count", [10**6, 10**9])
def test_many_take_no_time_and_are_near_the_normal_approximation(count):
    low, high = rank_interval(count, 0.9, 0.95)
    spread = 1.95996 * math.sqrt(count * 0.9 * 0.1)
    assert low == pytest.approx(count * 0.9 - spread, abs=3)
    assert high == pytest.approx(count * 0.9 + spread, abs=3)


SHAPES = {
    "exponential": (
        lambda chance, n: chance.exponential(50_000, n),
        lambda share: -50_000 * math.log(1 - share),
    ),
    # Two ways through the code, as queues have: median and p90 are in different ones.
    "two ways": (
        lambda chance, n: np.where(
            chance.random(n) < 0.8, chance.uniform(1000, 2000, n), chance.uniform(1e6, 2e6, n)
        ),
        lambda share: 1000 + 1000 * share / 0.8 if share < 0.8 else 1e6 + 1e6 * (share - 0.8) / 0.2,
    ),
    "some nanoseconds": (lambda chance, n: chance.uniform(0, 100, n), lambda share: 100 * share),
}


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_interval_covers_the_truth_as_often_as_it_says(shape, share):
    draw, truth = SHAPES[shape]
    chance = np.random.default_rng(20260821)
    runs, covered = 400, 0
    for _ in range(runs):
        histogram = Histogram()
        histogram.add(draw(chance, 700).astype(np.int64))
        interval = quantile_interval(histogram, share, 0.95)
        covered += interval.low_ns <= truth(share) <= interval.high_ns
    # At least 95 %, by the theorem and because of the histogram's error. With this seed the numbers
    # are what they are; three standard deviations of 400 runs are 3.3 %.
    assert covered / runs >= 0.917


def test_a_change_is_found_and_none_is_not_made_up():
    chance = np.random.default_rng(7)
    found, runs = {"same": 0, "longer": 0}, 300
    for scale in (1.0, 1.5):
        for _ in range(runs):
            sides = []
            for mean in (50_000, 50_000 * scale):
                histogram = Histogram()
                histogram.add(chance.exponential(mean, 1500).astype(np.int64))
                sides.append(quantile_interval(histogram, 0.5, math.sqrt(0.95)))
            verdict = difference(*sides).verdict
            found[str(verdict)] += 1 if scale == 1.0 else 0
            if scale == 1.5:
                assert verdict == Verdict.LONGER
    assert found["same"] >= 0.95 * runs


def interval(ns, low, high, count=1000):
    return Interval(count=count, ns=ns, low_ns=low, high_ns=high)


@pytest.mark.parametrize(
    ("before", "after", "verdict", "low", "high"),
    [
        (interval(100, 90, 110), interval(200, 190, 210), Verdict.LONGER, 80, 120),
        (interval(200, 190, 210), interval(100, 90, 110), Verdict.SHORTER, -120, -80),
        (interval(100, 90, 110), interval(105, 95, 115), Verdict.SAME, -15, 25),
        # That it grew is sure, though not by how much.
        (interval(100, None, 110), interval(200, 190, None), Verdict.LONGER, 80, None),
        (interval(100, 90, None), interval(200, 190, 210), Verdict.TOO_FEW, None, 120),
        (interval(100, None, None), interval(200, None, None), Verdict.TOO_FEW, None, None),
    ],
)
def test_what_became_of_it(before, after, verdict, low, high):
    change = difference(before, after)
    assert (change.verdict, change.low_ns, change.high_ns) == (verdict, low, high)
    assert change.ns == after.ns - before.ns


def test_no_bound_is_outside_what_was_seen():
    histogram = Histogram()
    histogram.add([1_000_003] * 50)
    found = quantile_interval(histogram, 0.5, 0.95)
    assert (found.low_ns, found.ns, found.high_ns) == (1_000_003,) * 3
