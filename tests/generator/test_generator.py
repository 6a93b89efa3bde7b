"""The generator against a naive reading of its records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.generator import (
    RECREATE,
    RESET,
    RESUME,
    Control,
    Pair,
    Scenario,
    cut,
    disorder,
    in_order,
    lose_bursts,
    miss,
    simulate,
    stream,
)
from tests.generator.machine import O_DISCARDED, O_NEVER_POPPED, O_RESET
from tests.generator.reference import decode
from tests.generator.strategies import batch_sizes, rngs, scenarios
from vtrace.model import Kind

quiet = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
OWN = (
    "head", "handed_back", "descriptors", "readable_bytes", "writable_bytes", "packet",
    "used_bytes", "first_pop_ns", "pop_ns", "run_ns", "backend_ns", "deliver_ns", "enqueue_ns",
    "used_ns", "signal_ns", "irq_ns",
)  # fmt: skip
GRACE_NS = 5000


def compare(recording) -> None:
    """Compare truth and naive reading; what the end cuts through is left out."""
    end = recording.scenario.start_ns + recording.scenario.duration_ns - GRACE_NS
    truth = recording.tellable()
    truth = truth[(truth["first_pop_ns"] > 0) & (truth["cut"] == 0)]
    truth = truth[np.lexsort((truth["first_pop_ns"], truth["queue"]))]
    rows = sorted(decode(recording.records), key=lambda r: (r["queue"], r["first_pop_ns"]))
    assert len(rows) == len(truth)
    for row, true in zip(rows, truth, strict=True):
        assert row["position"] == int(true["position"]) & 0xFFFF
        for name in OWN:
            if name.endswith("_ns") and int(true[name]) > end:
                continue
            assert row[name] == int(true[name]), (name, row, true)
        if row["outcome"] != true["outcome"]:
            assert {row["outcome"], int(true["outcome"])} == {O_DISCARDED, O_RESET}


@quiet
@given(scenario=scenarios(controls=False, most_pairs=2))
def test_truth_is_what_the_records_say(scenario):
    recording = simulate(scenario)
    if not recording.truth["cut"].any():
        compare(recording)


@quiet
@given(scenario=scenarios())
def test_rings_keep_their_rules(scenario):
    recording = simulate(scenario)
    truth, records = recording.truth, recording.records
    assert (records["time"][:-1] <= records["time"][1:]).all()
    assert np.array_equal(in_order(records), records)
    for cpu in np.unique(records["cpu"]):
        seq = np.sort(records["seq"][records["cpu"] == cpu].astype(np.int64))
        assert np.array_equal(seq, np.arange(len(seq)) + scenario.seq_start)
    popped = truth[truth["outcome"] != O_NEVER_POPPED]
    for before, after in (
        ("publish_ns", "first_pop_ns"), ("first_pop_ns", "pop_ns"), ("publish_ns", "kick_ns"),
        ("wake_ns", "run_ns"), ("run_ns", "pop_ns"), ("enqueue_ns", "pop_ns"),
        ("pop_ns", "backend_ns"), ("pop_ns", "deliver_ns"), ("backend_ns", "used_ns"),
        ("pop_ns", "used_ns"), ("used_ns", "signal_ns"), ("signal_ns", "irq_ns"),
        ("used_ns", "consumed_ns"),
    ):  # fmt: skip
        both = popped[(popped[before] > 0) & (popped[after] > 0)]
        assert (both[before] <= both[after]).all(), (before, after)
    for queue in np.unique(truth["queue"]):
        rows, total = truth[truth["queue"] == queue], recording.totals[queue]
        here = records[records["queue"] == queue]
        assert len(rows) == total["published"]
        assert total["used"] == np.count_nonzero(rows["used_ns"])
        assert total["handed_back"] == rows["handed_back"].sum()
        for start in np.unique(rows["start"]):
            step = np.diff(rows["position"][rows["start"] == start].astype(np.int64))
            assert (step == 1).all()
        size = recording.queues[int(queue)].size
        assert (rows["head"] < size).all()
        for kind, name in ((Kind.KICK, "kicks_sent"), (Kind.POP, "pops"), (Kind.RUN, "runs")):
            # The end can cut through a step that writes ahead of itself.
            assert 0 <= total[name] - np.count_nonzero(here["kind"] == kind) <= 1


@pytest.mark.parametrize("action", [RESET, RESUME, RECREATE])
def test_controls(action):
    recording = simulate(
        Scenario(
            pairs=(Pair(controls=(Control(time=300_000, action=action),), irq_delay=30_000),),
            duration_ns=800_000,
        )
    )
    starts = recording.records[recording.records["kind"] == Kind.START]
    assert len(starts) == 4
    assert len(np.unique(starts["queue"])) == (4 if action == RECREATE else 2)
    if action == RESUME:
        assert not (recording.truth["outcome"] == O_RESET).any()


def test_same_seed_same_records():
    scenario = Scenario(seed=3, duration_ns=2_000_000)
    assert np.array_equal(simulate(scenario).records, simulate(scenario).records)


def test_stream_is_the_simulation_and_counts():
    scenario = Scenario(seed=3, duration_ns=2_000_000, pairs=(Pair(), Pair(event_idx=False)))
    whole = simulate(scenario).records
    wanted = len(whole) // 2
    batches = list(stream(scenario, wanted, batch=1000))
    assert sum(map(len, batches)) == wanted
    for name in whole.dtype.names:
        got = np.concatenate([b[name] for b in batches])
        assert np.array_equal(got, whole[name][:wanted])
    counts = batches[-1].meta["counts"]
    assert sum(c["received"] for c in counts.values()) == wanted


@quiet
@given(scenario=scenarios(most_pairs=1), sizes=batch_sizes, rng=rngs, data=st.data())
def test_defects_add_up(scenario, sizes, rng, data):
    recording = simulate(scenario)
    bad = lose_bursts(recording, rng, data.draw(st.integers(0, 3)), 20)
    assert len(bad.records) + len(bad.lost) == len(recording.records)
    batches = bad.batches(sizes)
    assert sum(map(len, batches)) == len(bad.records)
    counts = batches[-1].meta["counts"]
    assert sum(c["lost"] for c in counts.values()) == len(bad.lost)

    blind = miss(recording, rng.random(len(recording.records)) < 0.1)
    calls = blind.batches(sizes)[-1].meta["calls"]
    assert sum(c["entry"] - c["return"] for c in calls.values()) == len(blind.missed)
    for cpu in np.unique(blind.records["cpu"]):
        seq = np.sort(blind.records["seq"][blind.records["cpu"] == cpu].astype(np.int64))
        assert np.array_equal(seq, np.arange(len(seq)) + scenario.seq_start)

    late = disorder(recording, rng, 5000)
    assert np.array_equal(in_order(late.records), recording.records)
    begin = scenario.start_ns + scenario.duration_ns // 2
    assert (cut(recording, begin).records["time"] >= begin).all()
