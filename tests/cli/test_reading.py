"""The verbs that read a recording: what they print, as text and for scripts."""

import csv
import io
import json
from importlib.resources import files

import jsonschema
import pytest

from parsers.tracefile import TraceWriter, open_trace
from tests.cli.recordings import FULL_RING, batches, scenario, simulate
from tests.cli.story import RX, START, Story, small
from tests.generator import lose_bursts
from vtrace.errors import ExitCode
from vtrace.model import Kind
from vtrace.tables import LIFECYCLES

ROWS = ("lifecycles", "packets", "exits", "drops")


def published(name):
    text = (files("vtrace") / "schemas" / f"{name}.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def json_rows(done):
    return [json.loads(line) for line in done.lines]


# report


def test_report_for_scripts(told, vtrace):
    done = vtrace("report", "--json", told)
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    published("report").validate(report)
    assert report["source"] == str(told)
    assert report["duration_ns"] == 50_000
    events = len(small().told)
    assert report["loss"] == {
        "produced": events,
        "received": events,
        **dict.fromkeys(("lost", "pending", "late", "missed"), 0),
    }
    queues = {queue["queue"]: queue for queue in report["queues"]}
    assert set(queues) == {"rx0", "tx0"}
    assert queues["rx0"]["chains"] == 2
    assert queues["rx0"]["complete"] == 2
    assert queues["rx0"]["starved"] == 1
    assert queues["rx0"]["packets"] == 2
    assert queues["rx0"]["used_bytes"] == 154 + 1526
    assert queues["rx0"]["interrupts"]["sent"] == 1
    assert queues["tx0"]["kicks"]["sent"] == 1
    assert queues["tx0"]["stages"]["schedule"]["max_ns"] == pytest.approx(2800, rel=0.01)
    assert report["exits"] == [
        {"vm": "cpx", "vcpu": 0, "reason": "EPT_MISCONFIG", "count": 1, "total_ns": 2100},
        {"vm": "cpx", "vcpu": 0, "reason": "HLT", "count": 1, "total_ns": 9000},
    ]
    drops = [(d["reason"], d["location"], d["device"], d["packets"]) for d in report["drops"]]
    assert sorted(drops) == [
        ("FULL_RING", "tun_net_xmit", "net0", 1),
        ("SOCKET_RCVBUFF", "udp_queue_rcv_one_skb", "eth0", 1),
    ]


def test_report_as_text(told, vtrace):
    done = vtrace("report", told)
    assert (done.code, done.err) == (0, "")
    assert "kernel 6.12.0-test" in done.lines[0]
    assert done.lines[1] == "lost 0"
    for words in ("rx0", "tx0", "schedule", "EPT_MISCONFIG", "FULL_RING", "switched off"):
        assert words in done.out
    assert "\x1b" not in done.out


def test_report_of_one_queue(told, vtrace):
    report = json.loads(vtrace("report", "--json", "--queue", "tx0", told).out)
    assert [queue["queue"] for queue in report["queues"]] == ["tx0"]
    done = vtrace("report", "--queue", "tx9", told)
    assert done.code == ExitCode.USAGE
    assert "there is rx0, tx0" in done.err


def test_report_of_a_stretch(told, vtrace):
    report = json.loads(vtrace("report", "--json", "--since", "25us", told).out)
    queues = {queue["queue"]: queue for queue in report["queues"]}
    assert queues["tx0"]["chains"] == 2
    assert queues.get("rx0", {"chains": 0})["chains"] == 0


def test_refusals_without_a_reason_are_drops(tmp_path, vtrace):
    story = Story()
    for at in range(5):
        story.add(at * 10, Kind.REFUSE, queue=RX, packet=at + 1, length=100)
    story.add(15, Kind.DROP, queue=RX, packet=1, ret=FULL_RING, address=4)
    path = story.write(tmp_path / "refused.vtrace", 2)
    report = json.loads(vtrace("report", "--json", path).out)
    assert {(d["reason"], d["packets"]) for d in report["drops"]} == {(None, 4), ("FULL_RING", 1)}
    rows = json_rows(vtrace("drops", "--json", path))
    assert sorted(str(row["reason"]) for row in rows) == ["FULL_RING", *["None"] * 4]


def test_the_kernels_own_sums_of_exits(tmp_path, vtrace):
    story = small()
    first, *rest = story.batches(5)
    total = {"vm": "cpx", "vcpu": 1, "isa": "vmx", "reason": 48, "count": 7, "total_ns": 70}
    first.meta["exits"] = [total, {**total, "reason": "ODD", "vcpu": None}, {}]
    with TraceWriter(tmp_path / "sums.vtrace") as writer:
        for batch in (first, *rest):
            writer.write(batch)
    report = json.loads(vtrace("report", "--json", tmp_path / "sums.vtrace").out)
    published("report").validate(report)
    assert {(e["reason"], e["count"]) for e in report["exits"]} >= {
        ("EPT_VIOLATION", 7),
        ("ODD", 7),
    }


# rows


@pytest.mark.parametrize("verb", ROWS)
@pytest.mark.parametrize("recording", ["told", "busy"])
def test_rows_for_scripts_are_as_published(verb, recording, vtrace, request):
    done = vtrace(verb, "--json", request.getfixturevalue(recording))
    assert (done.code, done.err) == (0, "")
    rows = json_rows(done)
    assert rows
    schema = published(verb)
    for row in rows[:500]:
        schema.validate(row)


@pytest.mark.parametrize("verb", ROWS)
def test_text_ends_with_the_count_and_the_loss(verb, told, vtrace):
    done = vtrace(verb, told)
    assert (done.code, done.err) == (0, "")
    count = len(vtrace(verb, "--json", told).lines)
    assert done.lines[-1] == f"{count} {verb.replace('lifecycles', 'chains')}; lost 0"
    assert len(done.lines) == count + 2


@pytest.mark.parametrize("verb", ROWS)
def test_as_many_rows_as_asked_for(verb, busy, vtrace):
    assert len(vtrace(verb, "--json", "-c", "3", busy).lines) == 3
    assert vtrace(verb, "--json", "-c", "0", busy).out == ""


def test_chains(told, vtrace):
    rows = json_rows(vtrace("lifecycles", "--json", told))
    rx = [row for row in rows if row["queue"] == "rx0"]
    tx = [row for row in rows if row["queue"] == "tx0"]
    assert [row["packet"] for row in rx] == [11, 12]
    assert [row["packet"] for row in tx] == [21, 22]
    first = rx[0]
    assert (first["vm"], first["device"], first["backend"]) == ("cpx", "net0", "vhost")
    assert first["time_ns"] == first["enqueue_ns"] == START + 10_000
    assert first["pop_ns"] == START + 15_000
    assert first["service_ns"] == 2000
    assert first["schedule_ns"] == 3900
    assert first["kick_ns"] is None
    assert first["kick_state"] == "not_applicable"
    assert first["flow"] == "UDP 10.9.0.1:5001 > 10.9.0.2:7001"
    assert (first["outcome"], first["trust"]) == ("used", "complete")
    assert tx[1]["kick_state"] == "shared"
    assert tx[0]["kick_ns"] == START + 30_000


def test_chains_by_their_packet(told, vtrace):
    rows = json_rows(vtrace("lifecycles", "--json", "-Y", "udp.dport == 53", told))
    assert {row["queue"] for row in rows} == {"tx0"}
    rows = json_rows(vtrace("lifecycles", "--json", "-Y", "frame.len > 1000", told))
    assert [row["packet"] for row in rows] == [12]


def test_chains_as_csv(told, vtrace):
    done = vtrace("lifecycles", "--csv", told)
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert tuple(rows[0]) == LIFECYCLES.names
    assert len(rows) == 4
    assert rows[0]["kick_ns"] == ""
    empty = vtrace("lifecycles", "--csv", "-Y", "position == 99", told)
    assert empty.lines == [",".join(LIFECYCLES.names)]


def test_selection_by_name(busy, vtrace):
    everything = json_rows(vtrace("lifecycles", "--json", busy))
    rx = json_rows(vtrace("lifecycles", "--json", "--queue", "rx0", busy))
    assert rx == [row for row in everything if row["queue"] == "rx0"]
    both = json_rows(vtrace("lifecycles", "--json", "--queue", "rx0", "--queue", "tx0", busy))
    assert both == everything
    assert vtrace("lifecycles", "--json", "--vm", "none", busy).out == ""


def test_selection_by_time_keeps_chains_whole(busy, vtrace):
    everything = json_rows(vtrace("lifecycles", "--json", busy))
    part = json_rows(vtrace("lifecycles", "--json", "--since", "200us", "--until", "600us", busy))
    first = START
    low, high = first + 200_000, first + 600_000
    assert part == [row for row in everything if low <= row["time_ns"] < high]
    assert part


def test_selection_by_the_clock_on_the_wall(busy, vtrace):
    relative = vtrace("lifecycles", "--json", "--since", "200us", busy).out
    assert vtrace("lifecycles", "--json", "--since", "12:00:00.0002", busy).out == relative


def test_packets(told, vtrace):
    rows = {row["packet"]: row for row in json_rows(vtrace("packets", "--json", told))}
    assert {packet: row["verdict"] for packet, row in rows.items()} == {
        11: "delivered",
        12: "delivered",
        13: "dropped",
        21: "sent",
        22: "dropped",
    }
    assert rows[11]["position"] == 0
    assert rows[12]["position"] == 1
    assert rows[12]["checksum"] == "offloaded"
    assert rows[12]["ahead"] == 1
    assert rows[13]["reason"] == "FULL_RING"
    assert rows[13]["position"] is None
    assert rows[22]["reason"] == "SOCKET_RCVBUFF"
    assert rows[22]["batch_index"] == 1
    assert rows[22]["position"] == 1


def test_packets_as_text(told, vtrace):
    done = vtrace("packets", told)
    assert "UDP 10.9.0.1:5001 > 10.9.0.2:7001" in done.out
    assert "[checksum offloaded]" in done.out
    assert "<FULL_RING tun_net_xmit>" in done.out
    flows = vtrace("packets", "--show", "flow", told)
    assert len(flows.lines) == len(done.lines)
    assert "Ether" not in flows.out


def test_a_packet_in_full(told, vtrace):
    done = vtrace("packets", "-Y", "packet == 12", "--show", "layers", "--hex", told)
    assert "(partial: offloaded)" in done.out
    assert "wrong" not in done.out
    assert "    0000  52 54 00 12 34 56 0a 12 f0 11 22 33 08 00 45 00  RT..4V...." in done.out


def test_exits(told, vtrace):
    rows = json_rows(vtrace("exits", "--json", told))
    assert [row["reason"] for row in rows] == ["EPT_MISCONFIG", "HLT"]
    assert rows[0]["address"] == 0xFE003004
    assert rows[1]["address"] is None
    slow = json_rows(vtrace("exits", "--json", "-Y", "outside_ns > 5us", told))
    assert [row["reason"] for row in slow] == ["HLT"]


def test_drops(told, vtrace):
    rows = json_rows(vtrace("drops", "--json", told))
    assert [(row["reason"], row["device"], row["packet"]) for row in rows] == [
        ("FULL_RING", "net0", 13),
        ("SOCKET_RCVBUFF", "eth0", 22),
    ]
    assert rows[1]["flow"] == "UDP 10.9.0.1:7001 > 10.9.0.2:53"


def test_times_from_the_start(told, vtrace):
    done = vtrace("exits", "--relative", told)
    assert done.lines[1].startswith("0.000031")
    assert vtrace("exits", "--utc", told).lines[1].startswith("12:00:00.000031")


# loss and damage


@pytest.fixture
def lossy(tmp_path):
    """A recording that lost records in bursts."""
    import numpy as np

    from tests.cli import recordings

    recording = lose_bursts(simulate(scenario()), np.random.default_rng(3), 4, 20)
    return recordings.write(tmp_path / "lossy.vtrace", recording), len(recording.lost)


@pytest.mark.parametrize("verb", ["report", *ROWS])
def test_loss_is_said(verb, lossy, vtrace):
    path, lost = lossy
    done = vtrace(verb, path)
    assert done.code == 0
    assert f"lost {lost} of " in done.out
    done = vtrace(verb, "--json", path)
    assert f"vtrace: lost {lost} of " in done.err


@pytest.mark.parametrize(
    ("allowed", "code"), [("0", 3), ("1000000", 0), ("0%", 3), ("0.001%", 3), ("100%", 0)]
)
def test_more_loss_than_allowed(allowed, code, lossy, vtrace):
    done = vtrace("report", "--json", "--max-loss", allowed, lossy[0])
    assert done.code == code
    json.loads(done.out)
    if code:
        assert "more than --max-loss" in done.err


def test_no_loss_is_never_too_much(told, vtrace):
    assert vtrace("report", "--max-loss", "0", told).code == 0


@pytest.fixture
def cut(busy, tmp_path):
    """A file without its footer and without part of its last batch."""
    data = busy.read_bytes()
    path = tmp_path / "cut.vtrace"
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


@pytest.mark.parametrize("verb", ["report", *ROWS])
def test_a_file_that_was_cut_is_read_up_to_there(verb, cut, vtrace):
    done = vtrace(verb, "--json", cut)
    assert done.code == ExitCode.INPUT
    assert done.err.startswith("vtrace: ")
    assert "cut.vtrace" in done.err
    if verb in {"report", "lifecycles", "packets"}:
        assert done.out
        [json.loads(line) for line in ([done.out] if verb == "report" else done.lines)]


def test_a_file_with_a_bad_byte(busy, vtrace, tmp_path):
    data = bytearray(busy.read_bytes())
    data[len(data) // 2] ^= 0x55
    path = tmp_path / "bad.vtrace"
    path.write_bytes(data)
    done = vtrace("report", "--json", path)
    assert done.code == ExitCode.INPUT
    assert "bad.vtrace" in done.err
    published("report").validate(json.loads(done.out))


def test_damage_goes_before_loss(cut, vtrace):
    assert vtrace("report", "--max-loss", "0", cut).code == ExitCode.INPUT


def test_names_of_guests_do_not_steer_the_terminal(tmp_path, vtrace):
    story = small()
    first, *rest = story.batches(5)
    evil = "cpx\x1b[2J\u202e"
    for queue in first.meta["queues"].values():
        if "vm" in queue:
            queue["vm"] = evil
    first.meta["host"]["kernel"] = evil
    first.meta["places"]["4"] = evil
    first.meta["probes"]["sched:sched_switch"]["reason"] = evil
    path = tmp_path / "evil.vtrace"
    with TraceWriter(path) as writer:
        for batch in (first, *rest):
            writer.write(batch)
    for verb in ("report", *ROWS):
        done = vtrace(verb, path)
        assert "\x1b" not in done.out
        assert "\u202e" not in done.out
    rows = json_rows(vtrace("lifecycles", "--json", path))
    assert rows[0]["vm"] == evil


def test_metadata_that_makes_no_sense(tmp_path, vtrace):
    first, *rest = small().batches(5)
    first.meta["queues"] = {"x": {}, "1": 7, "-5": {}, "99999999": {}, "2": {"vm": 7, "name": None}}
    first.meta["threads"] = {"1001": "text"}
    first.meta["counts"] = {"POP": 7, "KICK": {"produced": "x"}}
    first.meta["calls"] = {"a": 7}
    first.meta["loss"] = {"late": "x", "missed": None}
    first.meta["probes"] = {"a": 7}
    first.meta["reasons"] = {"67": ["x"]}
    first.meta["places"] = {"4": {"x": 1}}
    first.meta["host"] = {"kernel": [1]}
    first.meta["capture"] = {"filter": 7}
    path = tmp_path / "odd.vtrace"
    with TraceWriter(path) as writer:
        for batch in (first, *rest):
            writer.write(batch)
    for verb in ("report", *ROWS):
        for form in ([], ["--json"]):
            done = vtrace(verb, *form, path)
            assert done.code == 0, done.err


def test_a_recording_of_nothing(tmp_path, vtrace):
    path = tmp_path / "empty.vtrace"
    with TraceWriter(path):
        pass
    for verb in ("report", *ROWS):
        done = vtrace(verb, path)
        assert done.code == 0, done.err
        assert "lost 0" in done.out


def test_rows_are_printed_batch_by_batch(tmp_path, vtrace):
    # The same rows, however the recording is cut into batches.
    recording = simulate(scenario())
    texts = set()
    for size in (50, 1000, 100_000):
        path = tmp_path / f"{size}.vtrace"
        with TraceWriter(path) as writer:
            for batch in batches(recording, size):
                writer.write(batch)
        with open_trace(path) as trace:
            assert trace.complete
        texts.add(vtrace("lifecycles", "--json", path).out)
    assert len(texts) == 1
