"""The tracker against the truth of generated rings.

What a chain's own records say (pop, used, packet, head) must be exact. What several chains share
(wake, kick, signal, interrupt) must be an event that really served it. What nobody on the host can
see (when the driver published, when it took the chain back) must lie where the tracker says it can.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
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
    lose,
    lose_bursts,
    miss,
    simulate,
    stream,
)
from tests.generator.machine import O_DISCARDED, O_IN_FLIGHT, O_RESET, O_USED, TX
from tests.generator.strategies import batch_sizes, rngs, scenarios
from vtrace.lifecycle import Tracker
from vtrace.model import TIME_COLUMNS, Flag, Kind, Outcome, TimeState, Trust

lawful = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
EDGE_NS = 300_000
"""An end closer than this may cut through what a chain shares with others."""


def track(recording, sizes=4096):
    """Return all rows of a recording as one dict of columns."""
    tracker = Tracker(recording.queues)
    tables = [tracker.feed(batch) for batch in recording.batches(sizes)]
    tables.append(tracker.finish())
    for table in tables:
        assert {len(column) for column in table.columns.values()} <= {len(table)}
    names = tables[0].columns
    return {name: np.concatenate([t.columns[name] for t in tables]) for name in names}


def ordered(rows):
    """Return rows in an order that does not depend on when they were finished."""
    keys = ("used_ns", "position", "head", "pop_ns", "generation", "queue")
    order = np.lexsort([rows[k] for k in keys])
    return {name: column[order] for name, column in rows.items()}


def same(left, right):
    """Assert that two results are the same but for the numbering of batches."""
    left, right = ordered(left), ordered(right)
    for name, column in left.items():
        if name == "batch":
            continue
        assert np.array_equal(column, right[name]), name


def popped(truth):
    return truth[truth["first_pop_ns"] > 0]


def match(rows, truth):
    """Return the index of the true chain of each row, by its pop or its used; -1 for none."""
    columns = [truth[n].tolist() for n in ("queue", "head", "pop_ns", "used_ns")]
    by_pop, by_used = {}, {}
    for k, (queue, head, pop, used) in enumerate(zip(*columns, strict=True)):
        if pop:
            by_pop[queue, pop] = k
        if used:
            by_used[queue, head, used] = k
    columns = [rows[n].tolist() for n in ("queue", "head", "pop_ns", "used_ns")]
    found = []
    for queue, head, pop, used in zip(*columns, strict=True):
        at = by_pop.get((queue, pop), -1) if pop else -1
        found.append(at if at >= 0 else by_used.get((queue, head, used), -1))
    return np.array(found, np.int64)


def picked(rows, mask):
    return {name: column[mask] for name, column in rows.items()}


def assert_equal(rows, name, true, what=None):
    got = rows[name].astype(np.int64)
    wrong = np.flatnonzero(got != true.astype(np.int64))
    if len(wrong):
        k = wrong[0]
        raise AssertionError(
            f"{what or name}: {len(wrong)} of {len(got)} rows; first: tracker {got[k]},"
            f" truth {true[k]}; { {n: int(c[k]) for n, c in rows.items()} }"
        )


def assert_own(rows, true, *, zero_is_fine=False):
    """Own facts of each row are the truth's; with ``zero_is_fine`` they may be missing."""
    facts = (
        ("head", "head"), ("packet", "packet"), ("pop_ns", "pop_ns"), ("used_ns", "used_ns"),
        ("enqueue_ns", "enqueue_ns"), ("descriptors", "descriptors"),
        ("readable_bytes", "readable_bytes"), ("writable_bytes", "writable_bytes"),
        ("used_bytes", "used_bytes"), ("run_ns", "run_ns"),
    )  # fmt: skip
    for mine, theirs in facts:
        mask = np.ones(len(true), bool)
        if zero_is_fine and mine != "head":
            mask = rows[mine] != 0
        assert_equal(picked(rows, mask), mine, true[theirs][mask])
    seen = rows["backend_ns"] != 0
    backend = rows["backend_ns"][seen]
    fits = (backend == true["backend_ns"][seen]) | (backend == true["deliver_ns"][seen])
    assert fits.all(), "backend_ns"
    # The low bits of a position are the ring's.
    known = rows["pop_ns"] != 0
    low = rows["position"][known] & np.uint64(0xFFFF)
    assert np.array_equal(low, true["position"][known] & np.uint64(0xFFFF)), "position"


def assert_shared(rows, true, recording):
    """What a chain shares with others really served it."""
    records = recording.whole
    signalled = true["signal_ret"] == 1

    def fine(mask, what):
        wrong = np.flatnonzero(~mask)
        if len(wrong):
            row = {name: int(column[wrong[0]]) for name, column in rows.items()}
            of = dict(zip(true.dtype.names, true[wrong[0]].tolist(), strict=True))
            raise AssertionError(f"{what}: {len(wrong)} rows; first: {row}, truth {of}")

    def none(name):
        return rows[name] == 0

    fine(none("signal_ns") | (rows["signal_ns"] == true["signal_ns"]), "signal_ns")
    fine(none("irq_ns") | ~signalled | (rows["irq_ns"] == true["irq_ns"]), "irq_ns")
    # One that was suppressed: a later interrupt may have served it.
    later = rows["irq_ns"] > true["signal_ns"]
    fine(none("irq_ns") | signalled | later, "irq_ns of a suppressed signal")
    fine(none("avail_lo_ns") | (rows["avail_lo_ns"] <= true["publish_ns"]), "avail_lo_ns")
    fine(none("avail_hi_ns") | (rows["avail_hi_ns"] >= true["publish_ns"]), "avail_hi_ns")
    consumed = (true["consumed_ns"] > 0) & (rows["seen_ns"] >= true["consumed_ns"])
    fine(none("seen_ns") | consumed, "seen_ns")
    assert_kicks(rows, true, recording, fine)
    for kind, name in ((Kind.WAKE, "wake_ns"), (Kind.KICK, "kick_ns"), (Kind.IRQ, "irq_ns")):
        there = records[records["kind"] == kind]
        real = set(zip(there["queue"].tolist(), there["time"].tolist(), strict=True))
        mask = rows[name] != 0
        said = zip(rows["queue"][mask].tolist(), rows[name][mask].tolist(), strict=True)
        assert set(said) <= real, name
    both = (rows["wake_ns"] != 0) & (rows["run_ns"] != 0)
    assert (rows["wake_ns"][both] <= rows["run_ns"][both]).all()


def assert_kicks(rows, true, recording, fine):
    """The kick is the one that announced the chain; on rx, only if the run came from it."""
    shown = rows["kick_ns"] != 0
    fine(~shown | (rows["kick_ns"] <= rows["pop_ns"]), "kick_ns behind the pop")
    tx = true["direction"] == 1 + TX
    runs = recording.whole[recording.whole["kind"] == Kind.RUN]
    of_kick = runs[runs["flags"] & Flag.SOCKET == 0]
    real = set(zip(of_kick["queue"].tolist(), of_kick["time"].tolist(), strict=True))
    ran = zip(rows["queue"].tolist(), rows["run_ns"].tolist(), strict=True)
    # One that was handed back can have been tried in the run that came from the kick.
    fits = tx | (true["handed_back"] > 0) | np.array([run in real for run in ran], bool)
    fine(~shown | fits, "kick_ns of a socket's run")
    # It cannot be told where a kick did not see the ring.
    blind = any(pair.fault_ppm for pair in recording.scenario.pairs)
    # The driver kicks for what it has added; by then the device may have found it by itself.
    kicked = (true["kicked"] == 1) & (true["kick_ns"] < true["first_pop_ns"]) & (not blind)
    right = rows["kick_ns"] == true["kick_ns"]
    fine(~kicked | right | (~tx & ~shown), "kick_ns")


def assert_in_stage_order(rows):
    """Times are in the order of the stage table."""
    pairs = [
        ("run_ns", "pop_ns"), ("wake_ns", "run_ns"), ("enqueue_ns", "pop_ns"),
        ("avail_lo_ns", "avail_hi_ns"), ("avail_hi_ns", "pop_ns"), ("pop_ns", "backend_ns"),
        ("pop_ns", "used_ns"), ("backend_ns", "used_ns"), ("used_ns", "signal_ns"),
        ("signal_ns", "irq_ns"), ("used_ns", "seen_ns"),
    ]  # fmt: skip
    for before, after in pairs:
        both = (rows[before] != 0) & (rows[after] != 0)
        assert (rows[before][both] <= rows[after][both]).all(), (before, after)


def assert_states(rows):
    """A time that is there is seen or shared; one that is not, is neither."""
    for name in TIME_COLUMNS:
        state = rows[name.removesuffix("_ns") + "_state"]
        there = (state == TimeState.SEEN) | (state == TimeState.SHARED)
        # A signal that the driver did not ask for has the time of the decision.
        decided = (state == TimeState.SUPPRESSED) & (name == "signal_ns")
        assert np.array_equal(there | decided, (rows[name] != 0) | decided), name


def assert_positions(rows, true):
    """Between two starts positions count up as the ring does; never down."""
    known = rows["pop_ns"] != 0
    rows, true = picked(rows, known), true[known]
    for queue in np.unique(rows["queue"]):
        here = rows["queue"] == queue
        for start in np.unique(true["start"][here]):
            mask = here & (true["start"] == start)
            mine = rows["position"][mask].astype(np.int64)
            theirs = true["position"][mask].astype(np.int64)
            assert len(np.unique(mine - theirs)) <= 1, (queue, start)


def assert_outcomes(rows, true):
    allowed = {
        O_USED: {Outcome.USED},
        O_IN_FLIGHT: {Outcome.IN_FLIGHT},
        O_DISCARDED: {Outcome.DISCARDED},
        # Handed back, and then the ring was reset: either is true.
        O_RESET: {Outcome.RESET},
    }
    for got, want, back in zip(rows["outcome"], true["outcome"], true["handed_back"], strict=True):
        fine = allowed[int(want)]
        if back and want in (O_DISCARDED, O_RESET):
            fine = {Outcome.DISCARDED, Outcome.RESET}
        assert int(got) in fine, (got, want)


def check_lossless(recording, sizes=4096):
    truth = popped(recording.tellable())
    rows = track(recording, sizes)
    at = match(rows, truth)
    assert (at >= 0).all(), "a chain that never was"
    assert len(np.unique(at)) == len(at), "a chain twice"
    assert len(at) == len(truth), "a chain is missing"
    true = truth[at]
    # The end can come between an event and what the truth knows of it.
    end = recording.scenario.start_ns + recording.scenario.duration_ns
    true = true.copy()
    for name in ("signal_ns", "irq_ns"):
        true[name][true[name] >= end] = 0
    assert_own(rows, true)
    assert_equal(rows, "handed_back", true["handed_back"])
    assert_equal(rows, "direction", true["direction"])
    assert_outcomes(rows, true)
    assert_positions(rows, true)
    assert_in_stage_order(rows)
    assert_states(rows)
    assert_shared(rows, true, recording)
    used = rows["outcome"] == Outcome.USED
    done = used & (rows["irq_ns"] > 0) & (true["used_ns"] < end - EDGE_NS)
    assert not (rows["trust"][done] == Trust.AMBIGUOUS).any()
    assert (rows["trust"][done] == Trust.COMPLETE).all()
    # What is open at the end; one that was handed back may have been let go by a reset before.
    last = np.zeros(int(true["queue"].max(initial=0)) + 1, np.uint64)
    again = recording.whole[np.isin(recording.whole["kind"], (Kind.START, Kind.STOP))]
    known = again["queue"] < len(last)
    np.maximum.at(last, again["queue"][known], again["time"][known])
    waits = (true["outcome"] == O_DISCARDED) & (last[true["queue"]] < true["first_pop_ns"])
    still_open = (true["outcome"] == O_IN_FLIGHT) | waits
    assert (rows["trust"][still_open] == Trust.PARTIAL).all()
    # A batch of which tun rejected a frame is not joined at all.
    left_out = (popped(recording.truth)[at]["packet"] > 0) & (true["packet"] == 0)
    assert (rows["backend_state"][left_out] == TimeState.LOST).all()
    # A batch is one call: the same number within, another outside.
    for queue in np.unique(rows["queue"]):
        mask = used & (rows["queue"] == queue)
        batch_of = dict(zip(rows["used_ns"][mask].tolist(), rows["batch"][mask].tolist(),
                            strict=True))  # fmt: skip
        assert_equal(picked(rows, mask), "batch",
                     np.array([batch_of[int(t)] for t in rows["used_ns"][mask]]))  # fmt: skip
        assert len(set(batch_of.values())) == len(batch_of)
    return rows, true


@lawful
@given(scenario=scenarios(hostile=False, controls=False))
def test_every_chain_once_and_exact(scenario):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    check_lossless(recording)


@lawful
@given(scenario=scenarios(controls=False))
def test_exact_with_errors_leaks_and_disorder(scenario):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    check_lossless(recording)


@lawful
@given(scenario=scenarios(hostile=False))
def test_exact_across_reset_resume_and_recreation(scenario):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    check_lossless(recording)


@pytest.mark.parametrize("action", [RESET, RESUME, RECREATE])
@pytest.mark.parametrize("event_idx", [True, False])
def test_controls(action, event_idx):
    pair = Pair(
        rx_size=64, tx_size=64, event_idx=event_idx, base_rx=65500, base_tx=65520,
        controls=tuple(Control(time=k * 150_000 + 377, action=action) for k in range(1, 5)),
    )  # fmt: skip
    check_lossless(simulate(Scenario(pairs=(pair, pair), duration_ns=900_000, vms=2)))


@pytest.mark.parametrize("size", [4, 256, 32768])
def test_indices_wrap(size):
    pair = Pair(rx_size=size, tx_size=size, base_rx=65530, base_tx=65530, tx_gap=500, burst_gap=500,
                tap_burst=100, tx_burst=100, irq_delay=200, sched_delay=200, step=100)  # fmt: skip
    recording = simulate(Scenario(pairs=(pair,), duration_ns=60_000_000 if size > 4 else 5_000_000))
    assert recording.truth["position"].max() > (65536 * 2 if size > 4 else 65536)
    check_lossless(recording)


@lawful
@given(scenario=scenarios(), sizes=batch_sizes)
def test_borders_of_batches_do_not_matter(scenario, sizes):
    recording = simulate(scenario)
    same(track(recording, 1 << 20), track(recording, sizes))


@lawful
@given(scenario=scenarios(), rng=rngs)
def test_records_that_came_late_and_were_sorted(scenario, rng):
    recording = simulate(scenario)
    late = disorder(recording, rng, 5000)
    late.records = in_order(late.records)
    same(track(recording), track(late))


def handed_back_within(records, true):
    """Return for each chain how many of these records hand it back."""
    records = records[records["kind"] == Kind.HAND_BACK]
    times = np.zeros(len(true), np.int64)
    for queue, time, position, count in records[["queue", "time", "position", "count"]].tolist():
        mine = (true["queue"] == queue) & (true["first_pop_ns"] < time) & (time < true["pop_ns"])
        times += mine & (((true["position"] - np.uint64(position)) & np.uint64(0xFFFF)) < count)
    return times


@lawful
@given(scenario=scenarios(hostile=False, controls=False), part=st.floats(0.05, 0.95))
def test_attached_late(scenario, part):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    begin = scenario.start_ns + int(scenario.duration_ns * part)
    seen = cut(recording, begin)
    rows = track(seen)
    truth = popped(recording.truth)
    at = match(rows, truth)
    assert (at >= 0).all()
    assert len(np.unique(at)) == len(at)
    true = truth[at]
    assert_own(rows, true, zero_is_fine=True)
    assert_in_stage_order(rows)
    assert_states(rows)
    # A chain of which the first record is missing does not pass for whole.
    early = (true["first_pop_ns"] < begin) & (rows["outcome"] == Outcome.USED)
    # But one that was handed back before the recording began has left no trace in it.
    early &= (true["pop_ns"] < begin) | (handed_back_within(seen.records, true) > 0)
    assert not (rows["trust"][early] == Trust.COMPLETE).any()
    # All that was popped and used within is there.
    within = np.flatnonzero((truth["pop_ns"] >= begin) & (truth["used_ns"] > 0))
    assert set(within.tolist()) <= set(at.tolist())


@lawful
@given(scenario=scenarios(hostile=False, controls=False), part=st.floats(0.05, 0.95))
def test_ended_early(scenario, part):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    end = scenario.start_ns + int(scenario.duration_ns * part)
    rows = track(cut(recording, 0, end))
    truth = popped(recording.truth)
    truth = truth[truth["first_pop_ns"] < end]
    assert len(rows["queue"]) == len(truth)
    open_ones = (rows["outcome"] == Outcome.IN_FLIGHT) | (rows["outcome"] == Outcome.DISCARDED)
    unfinished = (truth["used_ns"] == 0) | (truth["used_ns"] >= end)
    assert np.count_nonzero(open_ones) == np.count_nonzero(unfinished)
    assert not (rows["trust"][open_ones] == Trust.COMPLETE).any()


def check_lossy(bad, *, hides_hand_backs=False):
    """Nothing is paired wrongly, and what loss touched does not pass for whole.

    ``hides_hand_backs``: a pop whose return nobody saw was handed back unseen, too.
    """
    truth = popped(bad.tellable())
    rows = track(bad)
    at = match(rows, truth)
    sure = rows["trust"] != Trust.AMBIGUOUS
    assert (at[sure] >= 0).all(), "a chain that never was"
    assert len(np.unique(at[sure])) == np.count_nonzero(sure), "a chain twice"
    kept, true = picked(rows, sure), truth[at[sure]]
    assert_own(kept, true, zero_is_fine=True)
    complete = kept["trust"] == Trust.COMPLETE
    whole, of = picked(kept, complete), true[complete]
    for name in ("pop_ns", "used_ns", "packet", "enqueue_ns"):
        assert_equal(whole, name, of[name], f"complete, but {name}")
    if hides_hand_backs:
        assert (whole["handed_back"] <= of["handed_back"]).all(), "handed back too often"
    else:
        assert_equal(whole, "handed_back", of["handed_back"], "complete, but handed_back")
    # Also of the doubtful: a pop and a used element that are both there are of one chain. If it was
    # handed back and that was lost, and so was the next pop, the pop is one before the last.
    both = ~sure & (rows["pop_ns"] != 0) & (rows["used_ns"] != 0)
    doubtful = picked(rows, both)
    at = match(doubtful | {"pop_ns": np.zeros_like(doubtful["pop_ns"])}, truth)
    assert (at >= 0).all(), "a used element that never was"
    pop, chains = doubtful["pop_ns"], truth[at]
    assert ((chains["first_pop_ns"] <= pop) & (pop <= chains["pop_ns"])).all(), "ambiguous used_ns"
    assert_states(rows)


@lawful
@given(scenario=scenarios(hostile=False, controls=False), rng=rngs,
       part=st.sampled_from((0.001, 0.01, 0.1, 0.5)))  # fmt: skip
def test_single_losses_make_doubt_not_errors(scenario, rng, part):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    check_lossy(lose(recording, rng.random(len(recording.records)) < part))


@lawful
@given(scenario=scenarios(), rng=rngs, bursts=st.integers(1, 5),
       longest=st.sampled_from((2, 30, 1000)))  # fmt: skip
def test_bursts_of_loss_make_doubt_not_errors(scenario, rng, bursts, longest):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    check_lossy(lose_bursts(recording, rng, bursts, longest))


@lawful
@given(scenario=scenarios(hostile=False, controls=False), rng=rngs,
       part=st.sampled_from((0.01, 0.1)))  # fmt: skip
def test_missed_returns_make_doubt_not_errors(scenario, rng, part):
    recording = simulate(scenario)
    assume(not recording.truth["cut"].any())
    check_lossy(miss(recording, rng.random(len(recording.records)) < part), hides_hand_backs=True)


def test_a_batch_with_a_rejected_frame_stays_unjoined():
    pair = Pair(reject_ppm=30_000, tx_burst=64, tx_size=1024)
    recording = simulate(Scenario(pairs=(pair,), duration_ns=3_000_000))
    rows, true = check_lossless(recording)
    sent = (true["direction"] == 1 + TX) & (true["used_ns"] > 0)
    joined = rows["packet"][sent] > 0
    assert 0.1 < joined.mean() < 0.9
    assert not (rows["trust"][sent] == Trust.AMBIGUOUS).any()


@lawful
@given(scenario=scenarios(), rng=rngs)
def test_rows_out_of_order_do_no_harm(scenario, rng):
    track(disorder(simulate(scenario), rng, 20_000), [7, 100])


def _weight(thing, seen):
    # Bytes that an object holds, arrays included.
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return thing.nbytes if thing.base is None else _weight(thing.base, seen)
    total = sys.getsizeof(thing)
    if isinstance(thing, dict):
        inner = [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        inner = list(thing)
    else:
        inner = list(getattr(thing, "__dict__", {}).values())
        for kind in type(thing).__mro__:
            slots = getattr(kind, "__slots__", ())
            names = [slots] if isinstance(slots, str) else slots
            inner += [getattr(thing, n) for n in names if hasattr(thing, n)]
    return total + sum(_weight(i, seen) for i in inner)


def test_memory_does_not_grow_with_events():
    scenario = Scenario(pairs=(Pair(large_ppm=1000),) * 2, seed=5)
    tracker = Tracker(scenario.queues())
    weights = []
    rows = 0
    for number, batch in enumerate(stream(scenario, 3_000_000)):
        rows += len(tracker.feed(batch))
        if number % 8 == 0:
            weights.append(_weight(tracker, set()))
    assert rows > 500_000
    assert weights[-1] <= max(weights[: len(weights) // 3]) * 1.1 + 65536
