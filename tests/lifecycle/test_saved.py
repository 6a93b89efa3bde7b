"""A tracker that was put aside goes on as if it had not been."""

import numpy as np
import pytest

from tests.generator import (
    Pair,
    QemuQueue,
    QemuScenario,
    Scenario,
    lose_bursts,
    simulate,
    simulate_qemu,
)
from vtrace.lifecycle import LifecycleTable, Tracker


def batches_of(recording, parts):
    return recording.batches(-(-len(recording.records) // parts))


def recordings():
    plain = simulate(Scenario(pairs=(Pair(), Pair(rx_size=64)), duration_ns=4_000_000, seed=3))
    yield "vhost", plain
    lossy = simulate(Scenario(pairs=(Pair(),), duration_ns=4_000_000, seed=4))
    yield "lossy", lose_bursts(lossy, np.random.default_rng(5), 3, 20)
    queues = (QemuQueue(), QemuQueue(packed=True))
    yield "qemu", simulate_qemu(QemuScenario(rings=queues, seed=6))


@pytest.fixture(scope="module", params=["vhost", "lossy", "qemu"])
def batches(request):
    return batches_of(dict(recordings())[request.param], 7)


def run(tracker, batches):
    tables = [tracker.feed(batch) for batch in batches]
    return LifecycleTable.concat([*tables, tracker.finish()]), tracker.stats()


def assert_same(left, right):
    for name, column in left[0].columns.items():
        assert np.array_equal(column, right[0].columns[name]), name
    assert left[1] == right[1]


@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_goes_on_from_where_it_was_saved(batches, at):
    tracker = Tracker()
    for batch in batches[:at]:
        tracker.feed(batch)
    found = tracker.save()
    straight = run(tracker, batches[at:])
    # Twice: what was saved is not used up, and what was fed since has not changed it.
    for _ in range(2):
        assert_same(run(Tracker.restored(found), batches[at:]), straight)


def test_takes_no_more_than_the_rings_need():
    recording = simulate(Scenario(pairs=(Pair(),), duration_ns=2_000_000, seed=3))
    tracker = Tracker()
    for batch in batches_of(recording, 2):
        tracker.feed(batch)
    assert tracker.save().nbytes < 8 << 20
