"""``vtrace filter``: smaller files that can be traced again."""

import json

import numpy as np
import pytest

from parsers.tracefile import open_trace
from tests.cli.recordings import simulate, write
from tests.cli.story import small
from tests.generator import Pair, Scenario, lose_bursts
from vtrace.errors import ExitCode
from vtrace.model import Kind


def rows(vtrace, verb, path, *options):
    done = vtrace(verb, "--json", *options, path)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.lines]


def records(path):
    with open_trace(path) as trace:
        batches = list(trace.batches())
        assert trace.complete
        assert not trace.damage
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0].columns}


def test_one_flow_of_a_story(told, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    done = vtrace("filter", told, "-Y", "udp.dport == 7001", "-w", out)
    assert (done.code, done.out) == (0, "")
    assert f"of {len(small().told)} records: for 2 chains and 3 packets" in done.err
    kinds = [Kind(kind).name for kind in records(out)["kind"].tolist()]
    # Both chains, the refused packet with its drop; of the transmit queue nothing but its start.
    assert kinds.count("POP") == kinds.count("USED") == 2
    assert kinds.count("REFUSE") == kinds.count("DROP") == 1
    assert kinds.count("START") == 2
    assert "KICK" not in kinds
    assert "DELIVER" not in kinds
    assert {row["packet"] for row in rows(vtrace, "packets", out)} == {11, 12, 13}


def test_by_a_field_that_packets_alone_have(told, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    assert vtrace("filter", told, "-Y", "verdict == dropped", "-w", out).code == 0
    assert {row["packet"] for row in rows(vtrace, "drops", out)} == {13, 22}
    # The chain that carried the second is there, whole.
    chains = [row for row in rows(vtrace, "lifecycles", out) if row["packet"] == 22]
    assert [row["outcome"] for row in chains] == ["used"]


TIMES = ("pop_ns", "used_ns", "signal_ns", "enqueue_ns", "packet", "used_bytes", "head", "outcome")


@pytest.mark.parametrize(
    "expression",
    [
        "queue == rx0",
        "position in {10..40}",
        "seen(packet) and direction == rx and position in {5..9}",
        "service_ns > 6us",
        "frame.len < 300",
    ],
)
def test_chains_that_are_kept_are_whole(expression, busy, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    done = vtrace("filter", busy, "-Y", expression, "-w", out)
    assert done.code == 0, done.err
    kept = {(row["queue"], row["position"]): row for row in rows(vtrace, "lifecycles", out)}
    wanted = rows(vtrace, "lifecycles", busy, "-Y", expression)
    assert wanted
    for row in wanted:
        found = kept[row["queue"], row["position"]]
        assert {name: found[name] for name in TIMES} == {name: row[name] for name in TIMES}
    assert len(records(out)["time"]) < len(records(busy)["time"])


def test_sequence_numbers_have_the_gaps_of_the_original(tmp_path, vtrace):
    scenario = Scenario(pairs=(Pair(), Pair()), duration_ns=1_000_000, seed=5)
    recording = lose_bursts(simulate(scenario), np.random.default_rng(1), 5, 30)
    whole = write(tmp_path / "whole.vtrace", recording, size=300)
    out = tmp_path / "out.vtrace"
    assert vtrace("filter", whole, "-Y", "queue == rx1", "-w", out).code == 0
    before, after = records(whole), records(out)
    for cpu in np.unique(after["cpu"]):
        old = before["seq"][before["cpu"] == cpu].astype(np.int64)
        new = after["seq"][after["cpu"] == cpu].astype(np.int64)
        assert len(np.unique(new)) == len(new)
        lost_before = old.max() - old.min() + 1 - len(old)
        lost_after = new.max() - new.min() + 1 - len(new)
        assert lost_after <= lost_before
    everything = tmp_path / "everything.vtrace"
    assert vtrace("filter", whole, "--vm", "vm0", "-w", everything).code == 0
    kept = records(everything)
    for cpu in np.unique(kept["cpu"]):
        old, new = (np.sort(r["seq"][r["cpu"] == cpu].astype(np.int64)) for r in (before, kept))
        if len(old) == len(new):
            assert (np.diff(old) == np.diff(new)).all()


def test_no_gap_where_there_was_none(busy, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    assert vtrace("filter", busy, "-Y", "position in {10..40}", "-w", out).code == 0
    kept = records(out)
    for cpu in np.unique(kept["cpu"]):
        new = np.sort(kept["seq"][kept["cpu"] == cpu].astype(np.int64))
        assert (np.diff(new) == 1).all()


def test_metadata_is_kept_and_says_what_was_done(told, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    assert vtrace("filter", told, "-Y", "udp", "--queue", "rx0", "-w", out).code == 0
    with open_trace(told) as before, open_trace(out) as after:
        before.scan()
        after.scan()
        for name in before.metadata:
            if name != "capture":
                assert after.metadata.section(name) == before.metadata.section(name)
        assert after.metadata.section("capture")["display"] == 'udp and queue in {"rx0"}'
    assert 'filtered by: udp and queue in {"rx0"}' in vtrace("report", out).out


def test_a_stretch_of_time(busy, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    done = vtrace("filter", busy, "--since", "200us", "--until", "400us", "-w", out)
    assert done.code == 0
    window = ("--since", "200us", "--until", "400us")
    assert len(rows(vtrace, "lifecycles", out)) >= len(rows(vtrace, "lifecycles", busy, *window))


def test_a_filter_that_nothing_matches(told, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    done = vtrace("filter", told, "-Y", "position == 9999", "-w", out)
    assert done.code == 0
    assert "0 chains and 0 packets" in done.err
    assert rows(vtrace, "lifecycles", out) == []


def test_the_recording_itself_is_not_overwritten(told, vtrace):
    before = told.read_bytes()
    done = vtrace("filter", told, "-Y", "udp", "-w", told)
    assert done.code == ExitCode.USAGE
    assert told.read_bytes() == before


def test_what_makes_sense_for_no_table(told, vtrace, tmp_path):
    done = vtrace("filter", told, "-Y", "outside_ns > 1us", "-w", tmp_path / "x")
    assert done.code == ExitCode.USAGE
    assert "outside_ns" in done.err


def test_a_damaged_recording_is_filtered_as_far_as_it_goes(busy, vtrace, tmp_path):
    cut = tmp_path / "cut.vtrace"
    data = busy.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    done = vtrace("filter", cut, "-Y", "queue == rx0", "-w", tmp_path / "out.vtrace")
    assert done.code == ExitCode.INPUT
    assert rows(vtrace, "lifecycles", tmp_path / "out.vtrace")
