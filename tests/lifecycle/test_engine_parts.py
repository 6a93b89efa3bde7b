"""Histogram, stages, and the place of compiled kernels."""

import os

import numpy as np
import pytest

from vtrace.lifecycle import COLUMNS, Histogram, LifecycleTable, cachedir, stages
from vtrace.lifecycle.histogram import RELATIVE_ERROR
from vtrace.model import STAGES, TimeState


@pytest.mark.parametrize("most", [100, 10_000, 10**9, 10**14])
def test_percentiles_are_within_the_stated_error(most):
    values = np.random.default_rng(1).integers(0, most, 5000)
    histogram = Histogram()
    histogram.add(values)
    shares = np.array([0.1, 1, 25, 50, 75, 90, 99, 99.9, 100])
    exact = np.percentile(values, shares, method="inverted_cdf")
    assert np.all(np.abs(histogram.percentiles(shares) - exact) <= exact * RELATIVE_ERROR + 1e-9)
    assert (histogram.min_ns, histogram.max_ns) == (values.min(), values.max())
    assert histogram.mean_ns == pytest.approx(values.mean())
    assert RELATIVE_ERROR <= 0.01


def test_merge_is_adding():
    one, other, both = Histogram(), Histogram(), Histogram()
    one.add([1, 5000, 70])
    other.add([10**12])
    both.add([1, 5000, 70, 10**12])
    one.merge(other)
    assert one == both
    assert one.count == 4


def test_empty_histogram():
    assert np.isnan(Histogram().percentile(50))
    assert Histogram().max_ns == Histogram().min_ns == 0


def test_beyond_the_top_counts_as_the_largest():
    histogram = Histogram()
    histogram.add([1 << 60])
    assert histogram.count == 1
    assert histogram.percentile(50) == 1 << 60


def row(**values):
    columns = {name: np.zeros(1, kind) for name, kind in COLUMNS.items()}
    for name in columns:
        if name.endswith("_state"):
            columns[name][:] = TimeState.LOST
    for name, value in values.items():
        columns[name][:] = value
        if f"{name.removesuffix('_ns')}_state" in columns:
            columns[f"{name.removesuffix('_ns')}_state"][:] = TimeState.SEEN
    return LifecycleTable(columns)


def valid(table):
    found = stages(table.columns)
    assert tuple(found) == STAGES
    return {name: int(took[0]) for name, (took, ok) in found.items() if ok[0]}


def test_stages_of_a_receive_chain():
    table = row(
        direction=1, avail_hi_ns=10, enqueue_ns=30, wake_ns=35, run_ns=50, pop_ns=70,
        used_ns=100, signal_ns=101, irq_ns=103, seen_ns=200,
    )  # fmt: skip
    assert valid(table) == {
        "idle": 20, "notify": 5, "schedule": 15, "queueing": 20, "service": 30, "complete": 1,
        "interrupt": 2, "reap": 97,
    }  # fmt: skip


def test_stages_of_a_transmit_chain_published_during_a_run():
    table = row(direction=2, avail_hi_ns=60, wake_ns=35, run_ns=50, pop_ns=70, used_ns=100)
    assert valid(table) == {"schedule": 15, "queueing": 10, "service": 30}


def test_a_stage_that_would_end_before_it_began_is_none():
    table = row(direction=1, enqueue_ns=60, wake_ns=35, run_ns=50, pop_ns=70)
    assert valid(table) == {"schedule": 15, "queueing": 10}


def test_stages_of_another_queue():
    assert valid(row(direction=0, kick_ns=5, pop_ns=9, used_ns=20)) == {"notify": 4, "service": 11}


def test_cache_in_a_folder_that_others_can_write_is_not_used(tmp_path, monkeypatch):
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    assert not cachedir.trusted(open_folder, os.geteuid())
    closed = open_folder / "closed"
    closed.mkdir(mode=0o755)
    # Who can write to a folder can put another in the place of what is in it.
    assert not cachedir.trusted(closed, os.geteuid())
    open_folder.chmod(0o1777)
    assert cachedir.trusted(closed, os.geteuid())
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(open_folder))
    found = cachedir.cache_folder()
    assert found is None or open_folder not in found.parents


def test_cache_of_another_user_is_not_trusted(tmp_path):
    assert not cachedir.trusted(tmp_path, os.geteuid() + 1) or os.geteuid() == 0
    assert not cachedir.trusted(tmp_path / "missing", os.geteuid())


def test_root_trusts_what_is_roots_alone(tmp_path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(tmp_path, 1000, 1000)
    assert not cachedir.trusted(tmp_path, 0)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    found = cachedir.cache_folder(0)
    assert found is None or tmp_path not in found.parents
