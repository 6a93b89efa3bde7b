"""The histogram that all percentiles come from: log-linear, mergeable, error stated.

Values below 128 have a bin each. Above, each power of two is cut into 64 bins of equal width, so a
bin is at most 1/64 of its lower bound wide, and its middle is within 1/128 (0.79 %) of any value
in it. Values above 2^48 ns (78 hours) count as the largest.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vtrace.lifecycle.cachedir import kernel

__all__ = ["BINS", "RELATIVE_ERROR", "Histogram"]

Array = NDArray[Any]

RELATIVE_ERROR: Final = 1 / 128
"""Greatest error of a percentile, as a share of the value."""

_SUB: Final = 64
_TOP_BIT: Final = 48
BINS: Final = 2 * _SUB + (_TOP_BIT - 7) * _SUB
_MOST: Final = (1 << _TOP_BIT) - 1


@kernel
def bin_of(value: Any) -> Any:
    """Return the bin of a value in ns; below 0 is 0."""
    value = min(max(value, 0), _MOST)
    shift = 0
    while value >> shift >= 2 * _SUB:
        shift += 1
    return shift * _SUB + (value >> shift)


@kernel
def add_values(counts: Any, limits: Any, row: Any, values: Any, valid: Any) -> Any:
    """Count values into ``counts[row[i]]``; ``limits[row]`` are smallest, largest and sum."""
    for i in range(len(values)):
        if valid[i]:
            value = values[i]
            k = row[i]
            counts[k, bin_of(value)] += 1
            limits[k, 0] = min(limits[k, 0], value)
            limits[k, 1] = max(limits[k, 1], value)
            limits[k, 2] += value


def _middles() -> Array:
    bins = np.arange(BINS)
    shift = np.maximum(bins // _SUB - 1, 0)
    low = (bins - shift * _SUB) << shift
    middles: Array = low + ((1 << shift) - 1) / 2
    return middles


MIDDLES: Final = _middles()
EMPTY_LIMITS: Final = (np.iinfo(np.int64).max, 0, 0)


class Histogram:
    """Counts of durations in ns; percentiles are right to :data:`RELATIVE_ERROR`.

    ``min_ns`` and ``max_ns`` are exact, and no percentile lies outside them.
    """

    __slots__ = ("counts", "limits")

    def __init__(self, counts: Array | None = None, limits: Array | None = None) -> None:
        self.counts: Array = np.zeros(BINS, np.int64) if counts is None else counts
        self.limits: Array = np.array(EMPTY_LIMITS, np.int64) if limits is None else limits

    def add(self, values_ns: ArrayLike) -> None:
        """Count durations in ns."""
        values = np.atleast_1d(np.asarray(values_ns, np.int64))
        add_values(
            self.counts[np.newaxis],
            self.limits[np.newaxis],
            np.zeros(len(values), np.int64),
            values,
            np.ones(len(values), np.bool_),
        )

    def merge(self, other: Histogram) -> None:
        """Take in the counts of another histogram."""
        self.counts += other.counts
        self.limits[0] = min(self.limits[0], other.limits[0])
        self.limits[1] = max(self.limits[1], other.limits[1])
        self.limits[2] += other.limits[2]

    def copy(self) -> Histogram:
        """Return a histogram that does not change with this one."""
        return Histogram(self.counts.copy(), self.limits.copy())

    @property
    def count(self) -> int:
        """Number of durations."""
        return int(self.counts.sum())

    @property
    def min_ns(self) -> int:
        """Smallest duration; 0 if there is none."""
        return int(self.limits[0]) if self.count else 0

    @property
    def max_ns(self) -> int:
        """Largest duration; 0 if there is none."""
        return int(self.limits[1])

    @property
    def mean_ns(self) -> float:
        """Mean, exact; 0 if there is none."""
        return int(self.limits[2]) / max(self.count, 1)

    def percentiles(self, shares: ArrayLike) -> Array:
        """Return durations in ns (float) that these shares, 0 to 100, do not exceed.

        The p-th percentile is the smallest value that at least p percent do not exceed; NaN for
        all where nothing was counted.
        """
        shares = np.asarray(shares, np.float64)
        sums = np.cumsum(self.counts)
        if not sums[-1]:
            return np.full(shares.shape, np.nan)
        # 99.9 % of 1000 is the 999th, though 99.9 / 100 * 1000 is a little more in binary.
        rank = np.ceil(np.round(shares / 100 * sums[-1], 6))
        rank = np.clip(rank, 1, sums[-1])
        found = MIDDLES[np.searchsorted(sums, rank, side="left")]
        limited: Array = np.clip(found, self.limits[0], self.limits[1])
        return limited

    def percentile(self, share: float) -> float:
        """Return one of :meth:`percentiles`."""
        return float(self.percentiles(share))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return bool(
            np.array_equal(self.counts, other.counts) and np.array_equal(self.limits, other.limits)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, min_ns={self.min_ns}, max_ns={self.max_ns})"
