"""Intervals of percentiles by order statistics: no shape of the distribution is assumed.

Of n durations, the number that do not exceed the true p-quantile is binomial (n, p). So the
durations of two ranks enclose that quantile with a probability that can be summed up exactly. The
durations are taken as independent of each other.

Source: H. A. David, H. N. Nagaraja, Order Statistics, 3rd edition, section 7.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from vtrace.lifecycle.histogram import MIDDLES, RELATIVE_ERROR, Histogram

__all__ = ["Change", "Interval", "Verdict", "difference", "quantile_interval", "rank_interval"]

_EXACT_BELOW: Final = 128
"""Durations below have a bin of the histogram each."""
_WINDOW_SD: Final = 12
"""Binomial terms further off than so many standard deviations are below 1e-30 of the rest."""


class Verdict(StrEnum):
    """What became of a percentile."""

    LONGER = "longer"
    SHORTER = "shorter"
    SAME = "same"
    """No change is shown: the interval has 0 in it."""
    TOO_FEW = "too few"
    """Too few durations for an interval."""
    BEFORE_ONLY = "before only"
    AFTER_ONLY = "after only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A percentile in ns, with what surely encloses it."""

    count: int
    ns: int
    low_ns: int | None
    """None: too few durations to say."""
    high_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """After less before, in ns."""

    ns: int
    low_ns: int | None
    high_ns: int | None
    verdict: Verdict


def rank_interval(count: int, share: float, confidence: float) -> tuple[int | None, int | None]:
    """Return the ranks (from 1) of the durations that enclose a quantile.

    ``share`` and ``confidence`` are above 0 and below 1. None where ``count`` is too small for
    that side.
    """
    if count < 1:
        return None, None
    tail = (1 - confidence) / 2
    width = _WINDOW_SD * math.sqrt(count * share * (1 - share)) + 40
    first = max(int(count * share - width), 0)
    last = min(int(count * share + width) + 1, count)
    # Terms by the ratio of each to the one before it, as logarithms: they neither over- nor
    # underflow.
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log((count - k) / (k + 1) * (share / (1 - share)))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    terms = np.exp(logs - logs.max())
    terms /= terms.sum()
    below = np.cumsum(terms)  # P(B <= first + i)
    above = np.cumsum(terms[::-1])[::-1]  # P(B >= first + i)
    # low: the largest rank with P(B <= low - 1) <= tail; high: the smallest with P(B >= high).
    fits = np.flatnonzero(below <= tail)
    low = first + int(fits[-1]) + 1 if len(fits) else first
    fits = np.flatnonzero(above <= tail)
    high = first + int(fits[0]) if len(fits) else last + 1
    return (low if low >= 1 else None), (high if high <= count else None)


def quantile_interval(histogram: Histogram, share: float, confidence: float) -> Interval:
    """Return a quantile of a histogram that is not empty, with its interval.

    The interval is widened by the histogram's own error.
    """
    count = histogram.count
    low, high = rank_interval(count, share, confidence)
    sums = np.cumsum(histogram.counts)

    def value(rank: int) -> tuple[float, float]:
        middle = float(MIDDLES[np.searchsorted(sums, rank, side="left")])
        error = 0.0 if middle < _EXACT_BELOW else middle * RELATIVE_ERROR
        return middle - error, middle + error

    return Interval(
        count=count,
        ns=round(histogram.percentile(share * 100)),
        low_ns=None if low is None else max(math.floor(value(low)[0]), histogram.min_ns),
        high_ns=None if high is None else min(math.ceil(value(high)[1]), histogram.max_ns),
    )


def difference(before: Interval, after: Interval) -> Change:
    """Return the change between two independent percentiles.

    Where each interval holds with a confidence of ``sqrt(c)``, this one does with at least c.
    """
    low = high = None
    if after.low_ns is not None and before.high_ns is not None:
        low = after.low_ns - before.high_ns
    if after.high_ns is not None and before.low_ns is not None:
        high = after.high_ns - before.low_ns
    if low is not None and low > 0:
        verdict = Verdict.LONGER
    elif high is not None and high < 0:
        verdict = Verdict.SHORTER
    elif low is None or high is None:
        verdict = Verdict.TOO_FEW
    else:
        verdict = Verdict.SAME
    return Change(ns=after.ns - before.ns, low_ns=low, high_ns=high, verdict=verdict)
