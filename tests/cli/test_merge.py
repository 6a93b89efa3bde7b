"""``vtrace merge``: parts put together again, clocks found, nothing counted twice."""

import json

import numpy as np
import pytest

from tests.cli.recordings import REALTIME
from tests.generator import lose_bursts
from tests.merge.made import (
    changed,
    metadata,
    part,
    pcap,
    records,
    run,
    whole,
    write,
)
from vtrace.errors import ExitCode
from vtrace.lifecycle import Tracker
from vtrace.model import Kind

LOCAL = {"clock": "local", "resolution_ns": 1, "known_by": "a test"}


@pytest.fixture(scope="module")
def simulated():
    return whole(run())


@pytest.fixture(scope="module")
def original(simulated, tmp_path_factory):
    return write(tmp_path_factory.mktemp("merge") / "original.vtrace", simulated)


def report(vtrace, path):
    done = vtrace("report", "--json", path)
    assert done.code == 0, done.err
    made = json.loads(done.out)
    made.pop("source", None)
    return made


def chains(vtrace, path):
    done = vtrace("lifecycles", "--json", path)
    assert done.code == 0, done.err
    return sorted(done.lines)


def missing(path):
    from parsers.tracefile import open_trace

    tracker = Tracker()
    with open_trace(path) as trace:
        for batch in trace.batches():
            tracker.feed(batch)
    tracker.finish()
    return tracker.missing


def merged(vtrace, out, *arguments, code=0):
    done = vtrace("merge", *arguments, "-w", out)
    assert done.code == code, done.err
    assert done.out == ""
    return done.err


def test_parts_by_queue_are_the_recording_again(simulated, original, vtrace, tmp_path):
    one = part(tmp_path / "one.vtrace", simulated, lambda b: np.isin(b["queue"], (0, 1)))
    two = part(tmp_path / "two.vtrace", simulated, lambda b: ~np.isin(b["queue"], (0, 1)))
    said = merged(vtrace, tmp_path / "out.vtrace", one, two)
    assert "the same recording as one.vtrace" in said
    before, after = records(original), records(tmp_path / "out.vtrace")
    for name in before:
        if name != "seq":
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert report(vtrace, tmp_path / "out.vtrace") == report(vtrace, original)
    assert chains(vtrace, tmp_path / "out.vtrace") == chains(vtrace, original)
    assert missing(tmp_path / "out.vtrace") == missing(original) == 0


@pytest.mark.parametrize("overlap_ns", [0, 300_000])
def test_parts_by_time_are_the_recording_again(overlap_ns, simulated, original, vtrace, tmp_path):
    middle = int(np.median(records(original)["time"]))
    one = part(tmp_path / "one.vtrace", simulated, lambda b: b["time"] < middle + overlap_ns)
    two = part(tmp_path / "two.vtrace", simulated, lambda b: b["time"] >= middle - overlap_ns)
    out = tmp_path / "out.vtrace"
    # The later one first: the order of the arguments is not that of time.
    said = merged(vtrace, out, two, one)
    assert ("left out" in said) == bool(overlap_ns)
    assert len(records(out)["time"]) == len(records(original)["time"])
    counts = report(vtrace, original)
    found = report(vtrace, out)
    for name in ("queues", "drops", "exits"):
        assert found[name] == counts[name]
    assert chains(vtrace, out) == chains(vtrace, original)


def test_filtered_files_of_one_recording_are_joined_again(original, vtrace, tmp_path):
    parts = []
    for name in ("rx0", "tx0", "rx1", "tx1"):
        parts.append(tmp_path / f"{name}.vtrace")
        assert vtrace("filter", "--queue", name, original, "-w", parts[-1]).code == 0
    out = tmp_path / "out.vtrace"
    merged(vtrace, out, *parts)
    at_once = tmp_path / "at_once.vtrace"
    queues = [word for name in ("rx0", "tx0", "rx1", "tx1") for word in ("--queue", name)]
    assert vtrace("filter", *queues, original, "-w", at_once).code == 0
    assert len(records(out)["time"]) == len(records(at_once)["time"])
    assert chains(vtrace, out) == chains(vtrace, at_once)
    row = metadata(out)["capture"]
    assert row["sparse"] is True
    assert " or " in row["display"]


def test_what_two_recorders_saw_is_counted_once(original, vtrace, tmp_path):
    # The second saw less of each queue, 2 us beside, and has no anchors.
    twice = changed(
        whole(run(), 1 << 20),
        jitter_ns=2_000,
        shift_ns=-500_000,
        sections={"timebase": LOCAL},
        without=("host", "clock", "counts"),
    )
    kinds = (Kind.POP, Kind.USED, Kind.KICK)
    other = part(tmp_path / "other.vtrace", twice, lambda b: np.isin(b["kind"], kinds))
    out = tmp_path / "out.vtrace"
    said = merged(vtrace, out, original, other)
    assert "the same chains as in original.vtrace" in said
    row = metadata(out)["merged"]["sources"][1]
    assert abs(row["offset_ns"] - 500_000) <= row["uncertainty_ns"] <= 10_000
    assert row["matched"] > 100
    assert row["method"] == "chains"
    left_out = sum(row["left_out"].values())
    assert left_out > 0
    total = len(records(original)["time"]) + len(records(other)["time"])
    assert len(records(out)["time"]) == total - left_out
    assert len(records(out)["time"]) == len(records(original)["time"])
    queues = {row["queue"]: row["chains"] for row in report(vtrace, original)["queues"]}
    assert {row["queue"]: row["chains"] for row in report(vtrace, out)["queues"]} == queues


@pytest.mark.parametrize(("micro", "away_ns"), [(False, 0), (True, 0), (True, 3_456_789_000)])
def test_a_capture_is_found_by_its_packets(micro, away_ns, simulated, original, vtrace, tmp_path):
    start = int(simulated[0]["time"][0])
    zero = REALTIME - start + away_ns
    file = pcap(tmp_path / "tap.pcap", simulated, zero, micro=micro)
    out = tmp_path / "out.vtrace"
    said = merged(vtrace, out, original, file)
    assert "the same packets as in original.vtrace" in said
    assert ("by the time of day it would be" in said) == bool(away_ns)
    row = metadata(out)["merged"]["sources"][1]
    assert abs(row["offset_ns"] + zero) <= row["uncertainty_ns"] <= 2_000
    # Frames of the capture stay packets of their own; nothing of the rings changes.
    assert report(vtrace, out)["queues"] == report(vtrace, original)["queues"]
    kinds = records(out)["kind"]
    assert (kinds == Kind.CAPTURED).sum() == row["events"]
    ids = records(out)["packet"]
    assert not set(ids[kinds == Kind.CAPTURED]) & set(ids[kinds == Kind.ENQUEUE])


def test_a_capture_of_something_else_is_put_by_the_time_of_day(
    simulated, original, vtrace, tmp_path
):
    start = int(simulated[0]["time"][0])
    few = [batch.take(np.arange(len(batch)) < 5) for batch in simulated[:1]]
    file = pcap(tmp_path / "tap.pcap", few, REALTIME - start)
    out = tmp_path / "out.vtrace"
    assert "the time of day" in merged(vtrace, out, original, file)
    row = metadata(out)["merged"]["sources"][1]
    assert row["offset_ns"] == start - REALTIME
    assert row["matched"] == 0
    # One anchor tells nothing of the drift.
    assert row["uncertainty_ns"] is None


def test_nothing_in_common_is_refused_and_an_offset_helps(original, vtrace, tmp_path):
    made = changed(
        whole(run(seed=99)),
        shift_ns=70_000_000,
        sections={"timebase": LOCAL},
        without=("host", "clock"),
    )
    for batch in made:
        batch.columns["tid"] = batch.columns["tid"] + np.uint32(5000)
    other = write(tmp_path / "other.vtrace", made)
    out = tmp_path / "out.vtrace"
    done = vtrace("merge", original, other, "-w", out)
    assert done.code == ExitCode.INPUT
    assert "--offset other.vtrace=" in done.err
    assert not out.exists()
    said = merged(vtrace, out, original, other, "--offset", "other.vtrace=-70ms")
    assert "-70.000000 ms, uncertainty not known: given by hand" in said
    found = report(vtrace, out)["queues"]
    # Nothing says that the queues are the same: they stay apart.
    assert len(found) == 2 * len(report(vtrace, original)["queues"])


def test_two_hosts(original, vtrace, tmp_path):
    host = {"kernel": "6.1.0", "machine": "x86_64", "cpus": 4, "hostname": "other"}
    anchors = [
        {"monotonic_ns": 5_000_000_000, "realtime_ns": REALTIME},
        {"monotonic_ns": 6_000_000_000, "realtime_ns": REALTIME + 1_000_002_000},
    ]
    made = changed(
        whole(run(seed=8)), shift_ns=5_000_000_000, sections={"host": host, "clock": anchors}
    )
    other = write(tmp_path / "other.vtrace", made)
    out = tmp_path / "out.vtrace"
    assert "as far as both clocks were right" in merged(vtrace, out, original, other)
    rows = report(vtrace, out)["queues"]
    one, two = report(vtrace, original)["queues"], report(vtrace, other)["queues"]
    names = {row["vm"] for row in one}
    assert {row["vm"] for row in rows} == names | {f"{name}@other" for name in names}

    def told(rows):
        return sorted((row["vm"].partition("@")[0], row["queue"], row["chains"]) for row in rows)

    assert told(rows) == told(one + two)
    assert missing(out) == 0
    cpus = records(out)["cpu"]
    assert cpus.max() > records(original)["cpu"].max()
    sections = metadata(out)
    assert sections["threads"]["1001"]["vm"] != sections["threads"]["4195305"]["vm"]


def test_lost_records_are_missing_where_they_were(vtrace, tmp_path):
    recording = run(lose=lambda made: lose_bursts(made, np.random.default_rng(1), 4, 20))
    made = whole(recording)
    lost = write(tmp_path / "lost.vtrace", made)
    one = part(tmp_path / "one.vtrace", made, lambda b: b["queue"] <= 1)
    two = part(tmp_path / "two.vtrace", made, lambda b: b["queue"] > 1)
    out = tmp_path / "out.vtrace"
    merged(vtrace, out, one, two)
    # Both parts lack what was lost.
    assert missing(out) >= missing(lost) > 0
    states = [json.loads(line)["trust"] for line in chains(vtrace, out)]
    assert "ambiguous" in states
    counts = report(vtrace, lost)
    assert report(vtrace, out)["loss"] == counts["loss"]


def test_a_truncated_source_is_read_as_far_as_it_goes(simulated, original, vtrace, tmp_path):
    data = original.read_bytes()
    cut = tmp_path / "cut.vtrace"
    cut.write_bytes(data[: len(data) * 2 // 3])
    file = pcap(tmp_path / "tap.pcap", simulated, REALTIME - int(simulated[0]["time"][0]))
    short = tmp_path / "short.pcap"
    short.write_bytes(file.read_bytes()[:-7])
    out = tmp_path / "out.vtrace"
    said = merged(vtrace, out, cut, short, code=ExitCode.INPUT)
    assert "cut.vtrace" in said
    assert "short.pcap" in said
    assert len(records(out)["time"]) > 100


def test_damage_leaves_a_gap_and_no_traceback(original, vtrace, tmp_path):
    random = np.random.default_rng(7)
    data = np.frombuffer(original.read_bytes(), np.uint8)
    for number in range(25):
        hurt = data.copy()
        at = random.integers(0, len(hurt), 12)
        hurt[at] = random.integers(0, 256, 12)
        bad = tmp_path / f"bad{number}.vtrace"
        bad.write_bytes(hurt.tobytes())
        done = vtrace("merge", original, bad, "-w", tmp_path / "out.vtrace")
        assert done.code in (ExitCode.OK, ExitCode.INPUT), done.err
        assert "bug" not in done.err


def test_metadata_that_means_harm(simulated, original, vtrace, tmp_path):
    harm = [1, "x", None, [], {}, [[]], {"1": []}, {"9" * 5000: "x"}, {"-1": {"a": [1]}}]
    names = (
        *("queues", "threads", "places", "reasons", "probes", "exits", "vms", "capture"),
        *("counters", "rings", "imported", "unrecorded", "host", "loss", "counts", "comms"),
        *("clock", "interrupts", "qmp", "gap", "calls", "config"),
    )
    for number, value in enumerate(harm):
        made = changed(simulated[:2], sections=dict.fromkeys(names, value))
        other = write(tmp_path / f"harm{number}.vtrace", made)
        out = tmp_path / "out.vtrace"
        done = vtrace("merge", original, other, "-w", out, "--offset", f"harm{number}.vtrace=1s")
        assert "bug" not in done.err
        assert done.code in (ExitCode.OK, ExitCode.INPUT), done.err
        if done.code == ExitCode.OK:
            assert vtrace("report", out).code == 0


def test_usage(original, vtrace, tmp_path):
    out = tmp_path / "out.vtrace"
    before = original.read_bytes()
    for arguments, text in (
        ((original, original, "-w", original), "one of the recordings"),
        ((original, "-w", out), "two to"),
        ((original, "-", "-w", out), "read twice"),
        ((original, original, "--offset", "x=1s", "-w", out), "no FILE"),
        ((original, tmp_path / "b", "--offset", "original.vtrace=1s", "-w", out), "the axis"),
        ((original, tmp_path / "b", "--offset", "b=fast", "-w", out), "no time"),
    ):
        done = vtrace("merge", *arguments)
        assert done.code == ExitCode.USAGE, done.err
        assert text in done.err
    assert original.read_bytes() == before
    assert not out.exists()


def test_times_that_tell_an_order_alone_are_refused(original, vtrace, tmp_path):
    log = tmp_path / "qemu.log"
    log.write_text("virtqueue_pop vq 0x1 elem 0x2 in_num 1 out_num 0\n" * 20)
    done = vtrace("merge", original, log, "-w", tmp_path / "out.vtrace")
    assert done.code == ExitCode.INPUT
    assert "an order and no more" in done.err


def test_two_recorders_of_one_boot_one_after_the_other_and_at_the_same_time(vtrace, tmp_path):
    # The second has ids of its own. It began before the first ended.
    made = whole(run(ns=20_000_000), size=500)
    original = write(tmp_path / "original.vtrace", made)
    times = records(original)["time"]
    begin, end = (int(times[len(times) * part // 3]) for part in (1, 2))
    first = part(tmp_path / "first.vtrace", made, lambda b: b["time"] < end)
    swap = np.array([0, 3, 4, 1, 2], np.uint16)
    again = changed(made)
    queues = again[0].meta["queues"]
    renamed = {str(swap[int(k)]): {**row, "id": int(swap[int(k)])} for k, row in queues.items()}
    (anchor,) = again[0].meta["clock"]
    later = {name: value + 3_000_000 for name, value in anchor.items()}
    again[0].meta = {**again[0].meta, "queues": renamed, "clock": [later]}
    for batch in again:
        batch.columns["queue"] = swap[batch["queue"]]
        packet = batch["packet"]
        batch.columns["packet"] = np.where(packet == 0, 0, packet + np.uint32(90_000))
    second = part(tmp_path / "second.vtrace", again, lambda b: b["time"] >= begin)
    out = tmp_path / "out.vtrace"
    said = merged(vtrace, out, first, second)
    assert "one boot of lab" in said
    assert "left out, as another tells of it" in said
    found, told = ([json.loads(line) for line in chains(vtrace, path)] for path in (out, original))

    def key(row):
        return row["queue"], row["position"], row["generation"]

    places = [key(row) for row in found]
    assert len(set(places)) == len(places)
    assert set(places) <= {key(row) for row in told}
    # Where one ends and the other goes on, 10 us may be missing: not more, and nothing is wrong.
    known = {key(row): row for row in told}
    same = [row for row in found if row["used_ns"] == known[key(row)]["used_ns"]]
    assert len(same) > 0.98 * len(told)
    assert all(row["trust"] != "complete" for row in found if row["used_ns"] is None)
    assert missing(out) == 0
