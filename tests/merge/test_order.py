"""The merge as a stream: axis, holes, bounded memory, files that follow one another."""

import numpy as np
import pytest

from parsers.tracefile import open_trace
from tests.cli.recordings import REALTIME
from tests.merge.made import changed, part, pcap, run, whole, write
from vtrace.errors import InputError
from vtrace.merge import Merge, order


@pytest.fixture(scope="module")
def simulated():
    return whole(run(), size=200)


def zero(simulated):
    return REALTIME - int(simulated[0]["time"][0])


def test_a_capture_may_be_the_axis(simulated, tmp_path):
    own = write(tmp_path / "own.vtrace", simulated)
    file = pcap(tmp_path / "tap.pcap", simulated, zero(simulated))
    with Merge([str(file), str(own)]) as merge:
        made = list(merge.batches())
    meta = {name: section for batch in made for name, section in batch.meta.items()}
    assert meta["timebase"]["clock"] == "realtime"
    assert merge.placed[1].offset_ns == zero(simulated)
    times = np.concatenate([batch["time"] for batch in made])
    assert (np.diff(times.astype(np.int64)) >= 0).all()
    assert int(times[0]) >= REALTIME


def test_one_recording_after_the_other_has_a_gap_between(simulated, tmp_path):
    # The same boot, half a second later, by a recorder that was started anew.
    later = changed(simulated, shift_ns=500_000_000)
    anchor = later[0].meta["clock"][0]
    moved = {name: value + 500_000_000 for name, value in anchor.items()}
    later[0].meta["clock"] = [moved]
    one = write(tmp_path / "one.vtrace", simulated)
    two = write(tmp_path / "two.vtrace", later)
    with Merge([str(one), str(two)]) as merge:
        assert [each.method for each in merge.placed] == ["axis", "boot"]
        assert merge.placed[1].uncertainty_ns == 0
        assert merge.left_out == [{}, {}]
        made = list(merge.batches())
    (at,) = [number for number, batch in enumerate(made) if "gap" in batch.meta]
    gap = made[at].meta["gap"]
    assert gap["first_ns"] == int(simulated[-1]["time"][-1])
    assert gap["last_ns"] == int(later[0]["time"][0]) == int(made[at]["time"][0])
    assert sum(len(batch) for batch in made) == 2 * sum(len(batch) for batch in simulated)
    # Of one host and boot: the queues are the same ones.
    assert len(next(b.meta["queues"] for b in made if "queues" in b.meta)) == 4


def test_a_few_batches_are_held_however_long_the_sources(tmp_path, monkeypatch):
    simulated = whole(run(ns=8_000_000), size=200)
    monkeypatch.setattr(order, "ROWS", 400)
    one = part(tmp_path / "one.vtrace", simulated, lambda b: b["queue"] <= 1)
    two = part(tmp_path / "two.vtrace", simulated, lambda b: b["queue"] > 1)
    held = []
    read = order._Stream.read

    def watched(stream):
        read(stream)
        held.append(sum(len(each.batch) - each.at for each in stream.held))

    monkeypatch.setattr(order._Stream, "read", watched)
    with Merge([str(one), str(two)]) as merge:
        made = list(merge.batches())
    total = sum(len(batch) for batch in made)
    assert total > 20_000
    assert max(held) <= 1_000
    assert max(len(batch) for batch in made) <= 1_000


def test_captured_bytes_stay_with_their_records(simulated, tmp_path):
    one = part(tmp_path / "one.vtrace", simulated, lambda b: b["queue"] <= 1)
    two = part(tmp_path / "two.vtrace", simulated, lambda b: b["queue"] > 1)
    with Merge([str(one), str(two)]) as merge:
        found = [
            (int(batch["time"][row]), batch.snaps.bytes_of(at))
            for batch in merge.batches()
            for at, row in enumerate(batch.snaps.rows.tolist())
        ]
    told = [
        (int(batch["time"][row]), batch.snaps.bytes_of(at))
        for batch in simulated
        for at, row in enumerate(batch.snaps.rows.tolist())
    ]
    assert sorted(found) == sorted(told)
    assert len(told) > 100


def test_events_before_the_clock_of_the_first_are_refused(simulated, tmp_path):
    own = write(tmp_path / "own.vtrace", simulated)
    meta = simulated[0].meta
    old = [{"monotonic_ns": 10_000_000_000, "realtime_ns": REALTIME + 100_000_000_000}]
    host = {**meta["host"], "hostname": "other"}
    young = write(
        tmp_path / "young.vtrace",
        changed(whole(run(seed=8)), sections={"clock": old, "host": host}),
    )
    with pytest.raises(InputError, match="name it first"):
        Merge([str(young), str(own)])
    with Merge([str(own), str(young)]) as merge:
        assert merge.placed[1].offset_ns > 0


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(InputError):
        Merge([str(tmp_path / "no.vtrace"), str(tmp_path / "none.vtrace")])


def test_a_bundled_recording_and_its_halves(root, tmp_path):
    path = root / "examples" / "traces" / "starving.vtrace"
    with open_trace(path) as trace:
        batches = list(trace.batches())
    middle = 115_300_000_000
    one = part(tmp_path / "one.vtrace", batches, lambda b: b["time"] < middle)
    two = part(tmp_path / "two.vtrace", batches, lambda b: b["time"] >= middle)
    with Merge([str(one), str(two)]) as merge:
        made = list(merge.batches())
    for name in ("time", "kind", "queue", "packet", "tid", "cpu", "address", "ret"):
        np.testing.assert_array_equal(
            np.concatenate([batch[name] for batch in made]),
            np.concatenate([batch[name] for batch in batches]),
            err_msg=name,
        )
    meta = {name: section for batch in made for name, section in batch.meta.items()}
    with open_trace(path) as trace:
        trace.scan()
        for name in ("queues", "threads", "places", "reasons", "probes", "vms", "exits", "calls"):
            assert meta.get(name, {}) == trace.metadata.section(name), name
