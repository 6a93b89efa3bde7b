"""The tracker against the truth of queues that QEMU serves, split and packed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parsers.batch import EventBatch
from tests.generator import QemuQueue, QemuScenario, cut, lose, lose_bursts, simulate_qemu
from tests.generator.machine import O_DISCARDED, O_IN_FLIGHT, O_NEVER_POPPED, O_RESET, O_USED
from tests.generator.strategies import batch_sizes, qemu_scenarios, rngs
from tests.lifecycle.test_properties import (
    assert_equal,
    assert_states,
    match,
    ordered,
    picked,
    popped,
    same,
    track,
)
from vtrace.lifecycle import Tracker, stages
from vtrace.model import Kind, Outcome, TimeState, Trust

lawful = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PLAIN = {"hand_back_chance": 0.05, "detach_chance": 0.02, "poll_chance": 0.3}
OWN = (
    "head", "direction", "descriptors", "readable_bytes", "writable_bytes", "pop_ns", "used_ns",
)  # fmt: skip


def assert_own(rows, true, *, zero_is_fine=False):
    for name in OWN:
        mask = rows[name] != 0 if zero_is_fine and name != "head" else np.ones(len(true), bool)
        assert_equal(picked(rows, mask), name, true[name][mask])
    for name in ("enqueue", "wake", "backend"):
        assert not rows[f"{name}_ns"].any()
        assert (rows[f"{name}_state"] == TimeState.NOT_APPLICABLE).all()
    assert (rows["backend"] == 1).all()
    used = rows["used_ns"] != 0
    assert_equal(picked(rows, used), "used_bytes", true["used_bytes"][used])


def assert_shared(rows, true, recording):
    def fine(mask, what):
        wrong = np.flatnonzero(~mask)
        if len(wrong):
            row = {name: int(column[wrong[0]]) for name, column in rows.items()}
            of = dict(zip(true.dtype.names, true[wrong[0]].tolist(), strict=True))
            raise AssertionError(f"{what}: {len(wrong)} rows; first: {row}, truth {of}")

    def none(name):
        return rows[name] == 0

    fine(none("avail_lo_ns") | (rows["avail_lo_ns"] <= true["publish_ns"]), "avail_lo_ns")
    fine(none("avail_hi_ns") | (rows["avail_hi_ns"] >= true["publish_ns"]), "avail_hi_ns")
    fine(none("avail_hi_ns") | (rows["avail_hi_ns"] <= rows["pop_ns"]), "avail_hi_ns, pop")
    consumed = (true["consumed_ns"] > 0) & (rows["seen_ns"] >= true["consumed_ns"])
    fine(none("seen_ns") | consumed, "seen_ns")
    kicked = rows["kick_ns"] != 0
    fine(~kicked | (rows["kick_ns"] <= rows["pop_ns"]), "kick_ns behind the pop")
    split = true["packed"] == 0
    fine(~(kicked & split) | (rows["kick_ns"] >= true["publish_ns"]), "kick_ns before its chain")
    there = recording.whole[recording.whole["kind"] == Kind.KICK]
    real = set(zip(there["queue"].tolist(), there["time"].tolist(), strict=True))
    assert set(zip(rows["queue"][kicked].tolist(), rows["kick_ns"][kicked].tolist(),
                   strict=True)) <= real  # fmt: skip


def check_lossless(recording, sizes=4096):
    truth = popped(recording.truth)
    rows = track(recording, sizes)
    at = match(rows, truth)
    assert (at >= 0).all(), "a chain that never was"
    assert len(np.unique(at)) == len(at), "a chain twice"
    assert len(at) == len(truth), "a chain is missing"
    true = truth[at].copy()
    end = recording.scenario.start_ns + recording.scenario.duration_ns
    for name in ("used_ns", "signal_ns", "irq_ns"):
        true[name][true[name] >= end] = 0
    # From within a call that has not returned.
    true["irq_ns"][true["signal_ns"] == 0] = 0
    assert_own(rows, true)
    assert_states(rows)
    assert_shared(rows, true, recording)
    assert_equal(rows, "handed_back", true["handed_back"])
    assert_equal(rows, "run_ns", true["run_ns"])
    assert_equal(rows, "signal_ns", true["signal_ns"])
    assert_equal(rows, "irq_ns", true["irq_ns"])
    split = true["packed"] == 0
    assert_equal(picked(rows, ~split), "position", true["position"][~split])
    low = rows["position"][split] & np.uint64(0xFFFF)
    assert np.array_equal(low, true["position"][split] & np.uint64(0xFFFF))
    allowed = {
        O_USED: {Outcome.USED}, O_IN_FLIGHT: {Outcome.IN_FLIGHT},
        O_DISCARDED: {Outcome.DISCARDED}, O_RESET: {Outcome.RESET},
    }  # fmt: skip
    for got, want in zip(rows["outcome"], true["outcome"], strict=True):
        assert got in allowed[int(want)], (got, want)
    assert not (rows["trust"] == Trust.AMBIGUOUS).any()
    done = (rows["outcome"] == Outcome.USED) & (rows["signal_ns"] > 0)
    done &= (rows["irq_ns"] > 0) | (true["signal_ret"] == 0)
    assert (rows["trust"][done] == Trust.COMPLETE).all()
    for queue in np.unique(rows["queue"]):
        mask = (rows["queue"] == queue) & (rows["outcome"] == Outcome.USED)
        pairs = set(zip(rows["batch"][mask].tolist(), true["batch"][mask].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    # One kick announces the chains that came before it, and no look at the ring hides that.
    blind = any(ring.blind_chance for ring in recording.scenario.rings)
    own = split & (true["kick_ns"] > 0) & (true["kick_ns"] < true["first_pop_ns"])
    if not blind:
        mask = own & (rows["direction"] != 1)
        assert_equal(picked(rows, mask), "kick_ns", true["kick_ns"][mask])
    return rows, true


@lawful
@given(scenario=qemu_scenarios(controls=False))
def test_every_chain_once_and_exact(scenario):
    check_lossless(simulate_qemu(scenario))


@lawful
@given(scenario=qemu_scenarios())
def test_exact_across_resets_and_resumes(scenario):
    check_lossless(simulate_qemu(scenario))


@lawful
@given(scenario=qemu_scenarios(), sizes=batch_sizes)
def test_borders_of_batches_do_not_matter(scenario, sizes):
    recording = simulate_qemu(scenario)
    same(track(recording, 1 << 20), track(recording, sizes))


@lawful
@given(scenario=qemu_scenarios(controls=False), part=st.floats(0.05, 0.95))
def test_attached_late(scenario, part):
    recording = simulate_qemu(scenario)
    begin = scenario.start_ns + int(scenario.duration_ns * part)
    rows = track(cut(recording, begin))
    truth = popped(recording.truth)
    at = match(rows, truth)
    assert (at >= 0).all()
    assert len(np.unique(at)) == len(at)
    true = truth[at]
    assert_own(rows, true, zero_is_fine=True)
    assert_states(rows)
    assert_shared(rows, true, recording)
    # All that was popped and used within is there.
    within = np.flatnonzero((truth["pop_ns"] >= begin) & (truth["used_ns"] > 0))
    assert set(within.tolist()) <= set(at.tolist())


@lawful
@given(scenario=qemu_scenarios(controls=False), part=st.floats(0.05, 0.95))
def test_ended_early(scenario, part):
    recording = simulate_qemu(scenario)
    end = scenario.start_ns + int(scenario.duration_ns * part)
    rows = track(cut(recording, 0, end))
    truth = popped(recording.truth)
    truth = truth[truth["first_pop_ns"] < end]
    assert len(rows["queue"]) == len(truth)
    # Filled in and not flushed: the driver does not have it.
    unfinished = (truth["used_ns"] == 0) | (truth["used_ns"] >= end)
    open_ones = rows["outcome"] != Outcome.USED
    assert np.count_nonzero(open_ones) == np.count_nonzero(unfinished)
    flying = rows["outcome"] == Outcome.IN_FLIGHT
    assert not rows["used_ns"][open_ones].any()
    assert not rows["used_bytes"][flying].any()
    assert not (rows["trust"][flying] == Trust.COMPLETE).any()


def check_lossy(bad):
    truth = popped(bad.truth)
    rows = track(bad)
    at = match(rows, truth)
    sure = rows["trust"] != Trust.AMBIGUOUS
    assert (at[sure] >= 0).all(), "a chain that never was"
    assert len(np.unique(at[sure])) == np.count_nonzero(sure), "a chain twice"
    kept, true = picked(rows, sure), truth[at[sure]]
    assert_own(kept, true, zero_is_fine=True)
    assert_shared(kept, true, bad)
    complete = kept["trust"] == Trust.COMPLETE
    whole, of = picked(kept, complete), true[complete]
    for name in ("pop_ns", "used_ns", "handed_back", "run_ns"):
        assert_equal(whole, name, of[name], f"complete, but {name}")
    for name in ("signal_ns", "irq_ns"):
        there = whole[name] != 0
        assert_equal(picked(whole, there), name, of[name][there])
    both = ~sure & (rows["pop_ns"] != 0) & (rows["used_ns"] != 0)
    doubtful = picked(rows, both)
    at = match(doubtful | {"pop_ns": np.zeros_like(doubtful["pop_ns"])}, truth)
    assert (at >= 0).all(), "a used element that never was"
    pop, chains = doubtful["pop_ns"], truth[at]
    assert ((chains["first_pop_ns"] <= pop) & (pop <= chains["pop_ns"])).all(), "ambiguous used_ns"
    assert_states(rows)


@lawful
@given(scenario=qemu_scenarios(), rng=rngs, part=st.sampled_from((0.001, 0.01, 0.1, 0.5)))
def test_single_losses_make_doubt_not_errors(scenario, rng, part):
    recording = simulate_qemu(scenario)
    check_lossy(lose(recording, rng.random(len(recording.records)) < part))


@lawful
@given(scenario=qemu_scenarios(), rng=rngs, bursts=st.integers(1, 5),
       longest=st.sampled_from((2, 30, 300)))  # fmt: skip
def test_bursts_of_loss_make_doubt_not_errors(scenario, rng, bursts, longest):
    check_lossy(lose_bursts(simulate_qemu(scenario), rng, bursts, longest))


@pytest.mark.parametrize("direction", ["none", "rx", "tx"])
@pytest.mark.parametrize("indirect", [True, False])
def test_split_and_packed_give_the_same_lifecycles(direction, indirect):
    # Without event index both layouts ask for kicks in the same way.
    found = []
    for packed in (False, True):
        ring = QemuQueue(packed=packed, event_idx=False, direction=direction, size=32,
                         indirect=indirect, **PLAIN)  # fmt: skip
        recording = simulate_qemu(QemuScenario(rings=(ring,), duration_ns=3_000_000))
        found.append(ordered(check_lossless(recording)[0]))
    for name, column in found[0].items():
        # How far the driver has got is not seen in a packed ring.
        if name not in {"avail_lo_ns", "avail_hi_ns", "kick_ns", "kick_state", "kick_tid",
                        "seen_ns", "seen_state"}:  # fmt: skip
            assert np.array_equal(column, found[1][name]), name
    first = found[1]["kick_state"] == TimeState.SEEN
    assert np.array_equal(found[0]["kick_ns"][first], found[1]["kick_ns"][first])


@pytest.mark.parametrize("size", [4, 5, 48, 1000])
def test_a_packed_ring_of_any_size(size):
    ring = QemuQueue(packed=True, size=size, indirect=False, gap=500, service=300, step=50, **PLAIN)
    recording = simulate_qemu(QemuScenario(rings=(ring,), duration_ns=6_000_000))
    assert recording.truth["position"].max() > 2 * size
    rows, true = check_lossless(recording)
    taken = (rows["outcome"] == Outcome.USED) & (true["consumed_ns"] > 0)
    # The ring going round proves that the driver has taken what was in it.
    assert (rows["seen_ns"][taken] > 0).mean() > 0.5


def test_a_split_ring_wraps():
    ring = QemuQueue(base=65_500, gap=500, service=300, step=50, **PLAIN)
    recording = simulate_qemu(QemuScenario(rings=(ring,), duration_ns=3_000_000))
    assert recording.truth["position"].max() > 65_536
    check_lossless(recording)


def test_a_size_that_the_queue_table_does_not_say_is_learnt():
    ring = QemuQueue(packed=True, size=48, indirect=False, gap=500, service=300, step=50)
    recording = simulate_qemu(QemuScenario(rings=(ring,), duration_ns=1_000_000))
    tracker = Tracker()
    tables = [tracker.feed(EventBatch.from_records(recording.records)), tracker.finish()]
    rows = {n: np.concatenate([t.columns[n] for t in tables]) for n in tables[0].columns}
    assert len(rows["queue"]) == len(popped(recording.truth))
    assert not (rows["trust"] == Trust.AMBIGUOUS).any()
    assert rows["seen_ns"].any()


def test_stages_are_those_of_other_devices():
    ring = QemuQueue(direction="tx", burst=1, event_idx=False)
    rows, _ = check_lossless(simulate_qemu(QemuScenario(rings=(ring,))))
    found = stages(rows)
    kicked = rows["kick_ns"] > 0
    assert kicked.any()
    took, valid = found["notify"]
    assert np.array_equal(valid, kicked)
    assert (took[kicked] == (rows["pop_ns"] - rows["kick_ns"])[kicked]).all()
    for name in ("idle", "schedule", "queueing"):
        assert not found[name][1].any()


def test_memory_and_rows_do_not_wait_for_an_interrupt_that_never_comes():
    ring = QemuQueue(size=256, gap=80_000, burst=2, service=500)
    recording = simulate_qemu(QemuScenario(rings=(ring,), duration_ns=10_000_000))
    records = recording.records[recording.records["kind"] != Kind.IRQ].copy()
    # Slowed down, so that a second goes by.
    start = recording.scenario.start_ns
    records["time"] = start + (records["time"] - start) * 400
    tracker = Tracker(recording.queues)
    table = tracker.feed(EventBatch.from_records(records))
    assert 0.5 < len(table) / len(popped(recording.truth)) < 0.95
    assert set(table["irq_state"][table["signal_state"] <= TimeState.SHARED]) == {TimeState.LOST}
    assert not (table["trust"] == Trust.AMBIGUOUS).any()


def test_times_that_no_probe_looked_for_are_said_by_backend():
    recording = simulate_qemu(QemuScenario())
    blind = {"vhost": ["kick_ns", "signal_ns"], "qemu": ["irq_ns"]}
    tracker = Tracker(recording.queues, not_probed=blind)
    rows = [tracker.feed(batch) for batch in recording.batches()] + [tracker.finish()]
    state = np.concatenate([table["irq_state"] for table in rows])
    assert set(state) == {TimeState.NOT_PROBED}
    for name in ("kick_state", "signal_state"):
        assert TimeState.NOT_PROBED not in np.concatenate([table[name] for table in rows])
    assert all((t["trust"][t["outcome"] == Outcome.USED] == Trust.COMPLETE).all() for t in rows)
    everywhere = Tracker(recording.queues, not_probed=["signal"])
    table = everywhere.feed(EventBatch.from_records(recording.records))
    rest = everywhere.finish()
    assert set(np.concatenate([table["signal_state"], rest["signal_state"]])) == {
        TimeState.NOT_PROBED
    }


def test_sums_of_queues():
    rings = (
        QemuQueue(direction="rx", event_idx=False, size=4, gap=2000),
        QemuQueue(direction="tx", event_idx=False),
        QemuQueue(),
    )
    recording = simulate_qemu(QemuScenario(rings=rings, duration_ns=2_000_000))
    tracker = Tracker(recording.queues)
    for batch in recording.batches():
        tracker.feed(batch)
    tracker.finish()
    stats = tracker.stats()
    records, truth = recording.records, popped(recording.truth)
    for queue, of in stats.items():
        mine = records[records["queue"] == queue]
        signals = mine[mine["kind"] == Kind.SIGNAL]
        assert of.chains == np.count_nonzero(truth["queue"] == queue)
        assert of.kicks.sent == np.count_nonzero(mine["kind"] == Kind.KICK)
        assert of.interrupts.sent == np.count_nonzero(signals["ret"] == 1)
        assert of.interrupts.sent + of.interrupts.suppressed == len(signals)
        assert (
            of.used_bytes
            == truth["used_bytes"][(truth["queue"] == queue) & (truth["outcome"] == O_USED)].sum()
        )
    flushes = records[(records["kind"] == Kind.FLUSH) & (records["queue"] == 1)]
    assert stats[1].packets == len(flushes)
    assert stats[2].packets == np.count_nonzero(truth["used_ns"][truth["queue"] == 2])
    assert stats[1].starved > 0
    assert stats[2].starved == stats[3].starved == 0


@pytest.mark.parametrize("seed", range(4))
def test_hostile_records_do_no_harm(seed):
    rng = np.random.default_rng(seed)
    rings = tuple(
        QemuQueue(packed=packed, direction=d, size=16, in_order=bool(seed & 1), indirect=False,
                  **PLAIN)
        for packed in (False, True) for d in ("none", "rx", "tx")
    )  # fmt: skip
    recording = simulate_qemu(QemuScenario(rings=rings, duration_ns=5_000_000, seed=seed))
    records = np.tile(recording.records, 25_000 // len(recording.records) + 1)[:25_000].copy()
    assert len(records) == 25_000
    fields = [n for n in records.dtype.names if n not in ("time", "cpu", "seq", "queue")]
    for name in rng.choice(fields, 4, replace=False):
        hit = rng.random(len(records)) < rng.choice([0.01, 0.2, 1.0])
        kind = records[name].dtype
        records[name][hit] = rng.integers(0, 1 << 16, hit.sum()).astype(kind)
    swap = rng.random(len(records)) < 0.05
    records["queue"][swap] = rng.integers(0, 9, swap.sum())
    tracker = Tracker(recording.queues)
    rows = len(tracker.feed(EventBatch.from_records(records)))
    rows += len(tracker.finish())
    assert rows <= len(records)
    assert tracker.events == len(records)


def test_truth_of_the_generator():
    for packed in (False, True):
        ring = QemuQueue(packed=packed, controls=((300_000, "reset"),), **PLAIN)
        recording = simulate_qemu(QemuScenario(rings=(ring,), duration_ns=800_000))
        truth, records = recording.truth, recording.records
        assert (np.diff(records["time"].astype(np.int64)) >= 0).all()
        assert set(truth["outcome"]) >= {O_USED, O_RESET, O_IN_FLIGHT}
        assert (truth["outcome"] == O_NEVER_POPPED).sum() == (truth["first_pop_ns"] == 0).sum()
        for before, after in (
            ("publish_ns", "first_pop_ns"), ("first_pop_ns", "pop_ns"), ("pop_ns", "used_ns"),
            ("run_ns", "pop_ns"), ("used_ns", "signal_ns"), ("used_ns", "consumed_ns"),
            ("publish_ns", "kick_ns"), ("used_ns", "irq_ns"),
        ):  # fmt: skip
            both = truth[(truth[before] > 0) & (truth[after] > 0)]
            assert (both[before] <= both[after]).all(), (before, after)
        for kind, name in ((Kind.POP, "pop_ns"), (Kind.FLUSH, "used_ns")):
            times = set(records["time"][records["kind"] == kind].tolist())
            assert set(truth[name][truth[name] > 0].tolist()) <= times
