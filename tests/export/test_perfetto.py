"""Perfetto traces: parsed back with the published schema, held against report --json."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.cli import recordings
from tests.cli.story import START, small
from tests.generator import Pair, Scenario, lose_bursts, simulate

pb = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")

STAGES = ("notify", "schedule", "queueing", "service", "complete", "interrupt", "reap")


@dataclass
class Slice:
    """A slice, an instant, or a sample, with its names looked up."""

    name: str
    category: str
    begin: int
    end: int = -1
    notes: dict = field(default_factory=dict)
    depth: int = 0
    flows: tuple = ()
    ends: tuple = ()
    track: int = 0


class Timeline:
    """A trace as its readers see it; what does not nest fails an assertion."""

    def __init__(self, path):
        trace = pb.Trace()
        trace.ParseFromString(path.read_bytes())
        self.packets = trace.packet
        self.tracks = {}
        self.clocks = {}
        self.slices, self.instants = [], []
        self.counters = defaultdict(list)
        self.lost = 0
        self._names = {}
        events = defaultdict(list)
        for packet in trace.packet:
            self._names_of(packet)
            if packet.HasField("track_descriptor"):
                track = packet.track_descriptor
                assert track.uuid not in self.tracks
                assert not track.parent_uuid or track.parent_uuid in self.tracks
                self.tracks[track.uuid] = track
            elif packet.HasField("track_event"):
                assert packet.track_event.track_uuid in self.tracks, "told before it is used"
                events[packet.track_event.track_uuid].append(self._event(packet))
            elif packet.HasField("clock_snapshot"):
                assert not self.clocks
                assert packet.clock_snapshot.primary_trace_clock == pb.BUILTIN_CLOCK_MONOTONIC
                self.clocks = {c.clock_id: c.timestamp for c in packet.clock_snapshot.clocks}
            elif packet.HasField("trace_stats"):
                self.lost = packet.trace_stats.buffer_stats[0].trace_writer_packet_loss
        for uuid, found in events.items():
            self._nest(uuid, found)

    def _names_of(self, packet):
        for kind in ("event_names", "event_categories", "debug_annotation_names"):
            for entry in getattr(packet.interned_data, kind):
                assert (kind, entry.iid) not in self._names
                self._names[kind, entry.iid] = entry.name
        for entry in packet.interned_data.debug_annotation_string_values:
            self._names["text", entry.iid] = entry.str.decode()

    def _event(self, packet):
        event = packet.track_event
        notes = {}
        for note in event.debug_annotations:
            name = self._names["debug_annotation_names", note.name_iid]
            text = note.string_value_iid
            notes[name] = self._names["text", text] if text else note.uint_value
        names = (
            self._names["event_names", event.name_iid] if event.name_iid else "",
            self._names["event_categories", event.category_iids[0]] if event.category_iids else "",
        )
        return packet.timestamp, event, names, notes

    def _nest(self, uuid, events):
        opened = []
        # As a trace processor does: by time, and of one time in the order of the file.
        for time, event, (name, category), notes in sorted(events, key=lambda one: one[0]):
            if event.type == pb.TrackEvent.TYPE_COUNTER:
                self.counters[uuid].append((time, event.counter_value))
            elif event.type == pb.TrackEvent.TYPE_SLICE_END:
                assert opened, "ends what has not begun"
                opened.pop().end = time
            else:
                made = Slice(
                    name, category, time, notes=notes, depth=len(opened), track=uuid,
                    flows=tuple(event.flow_ids), ends=tuple(event.terminating_flow_ids),
                )  # fmt: skip
                if event.type == pb.TrackEvent.TYPE_INSTANT:
                    made.end = time
                    self.instants.append(made)
                else:
                    self.slices.append(made)
                    opened.append(made)
        assert not opened, "is still open at the end"

    def path(self, uuid):
        """Return the names of a track and of those above it, from the top."""
        found = []
        while uuid:
            track = self.tracks[uuid]
            name = track.name or track.thread.thread_name or track.process.process_name
            found.insert(0, name)
            uuid = track.parent_uuid
        return tuple(found)

    def of(self, category):
        return [one for one in self.slices if one.category == category]


@pytest.fixture
def drawn(vtrace, tmp_path):
    """Return a function that exports a recording and parses it."""

    def run(path, *options, code=0):
        out = tmp_path / "out.pftrace"
        done = vtrace("export", path, "-o", out, *options)
        assert done.code == code, done.err
        return Timeline(out)

    return run


def check_against_report(timeline, report, lifecycles):
    """Assert that what the report counts is in the timeline."""
    stages = Counter((*timeline.path(one.track)[:3], one.name) for one in timeline.of("stage"))
    chains = Counter(timeline.path(one.track)[:3] for one in timeline.of("chain"))
    for queue in report["queues"]:
        place = tuple(queue[name] for name in ("vm", "device", "queue"))
        for name in STAGES:
            wanted = queue["stages"].get(name, {"count": 0})["count"]
            assert stages.pop((*place, name), 0) == wanted, (place, name)
        levels = [
            samples
            for uuid, samples in timeline.counters.items()
            if timeline.path(uuid) == (*place, "chains in flight")
        ]
        assert [samples[-1][1] for samples in levels] == [queue["in_flight"]]
    assert not stages
    assert chains == Counter(tuple(r[n] for n in ("vm", "device", "queue")) for r in lifecycles)
    drops = Counter(
        (one.name, one.notes["location"]) for one in timeline.instants if one.category == "drop"
    )
    assert drops == {(d["reason"], d["location"]): d["packets"] for d in report["drops"]}
    counted = sum(
        samples[-1][1] for uuid, samples in timeline.counters.items()
        if timeline.path(uuid)[-1] == "drops"
    )  # fmt: skip
    assert counted == sum(drop["packets"] for drop in report["drops"])


def report_of(vtrace, path):
    done = vtrace("report", path, "--json")
    return json.loads(done.out)


@pytest.mark.parametrize("name", ["quiet", "ringfull", "starving"])
def test_a_bundled_recording_has_the_counts_of_its_report(name, root, vtrace, rows, drawn):
    path = root / "examples" / "traces" / f"{name}.vtrace"
    timeline = drawn(path)
    check_against_report(timeline, report_of(vtrace, path), rows("lifecycles", path))
    exits = Counter(one.name for one in timeline.of("exit"))
    assert exits == Counter(row["reason"] for row in rows("exits", path))


def test_a_simulated_recording_too(busy, vtrace, rows, drawn):
    timeline, report = drawn(busy), report_of(vtrace, busy)
    check_against_report(timeline, report, rows("lifecycles", busy))
    exits = Counter((timeline.path(one.track), one.name) for one in timeline.of("exit"))
    assert exits == {
        ((row["vm"], "vCPU 0 CPU 0/KVM"), row["reason"]): row["count"] for row in report["exits"]
    }


def test_stages_are_the_times_of_the_chain(busy, rows, drawn):
    timeline = drawn(busy)
    inside = defaultdict(dict)
    chains = {}
    for one in sorted(timeline.slices, key=lambda one: (one.track, one.begin, one.depth)):
        if one.category == "chain":
            key = (timeline.path(one.track)[2], one.notes["position"])
            chains[key] = one
            current = inside[key]
        elif one.category == "stage":
            assert one.depth == 1
            current[one.name] = one.end - one.begin
            assert "took_ns" not in one.notes
    wanted = rows("lifecycles", busy)
    assert len(chains) == len(wanted) > 100
    for row in wanted:
        key = (row["queue"], row["position"])
        assert inside[key] == {
            name: row[f"{name}_ns"] for name in STAGES if row[f"{name}_ns"] is not None
        }
        notes = chains[key].notes
        assert notes.get("packet") == row["packet"]
        assert (notes["outcome"], notes["trust"]) == (row["outcome"], row["trust"])


def test_flows_lead_from_the_kick_to_the_interrupt(told, rows, drawn):
    timeline = drawn(told)
    events = [*timeline.slices, *timeline.instants]
    kicks = [one for one in events if one.name == "kick"]
    interrupts = [one for one in events if one.name == "interrupt" and one.category != "stage"]
    wanted = rows("lifecycles", told)
    kicked = [row for row in wanted if row["kick_state"] == "seen"]
    fired = [row for row in wanted if row["irq_state"] == "seen"]
    assert [one.begin for one in kicks] == [row["kick_ns"] for row in kicked]
    assert [one.begin for one in interrupts] == [row["irq_ns"] for row in fired]
    assert {timeline.path(one.track) for one in kicks} == {("cpx", "vCPU 0 CPU 0/KVM")}
    by_flow = {flow: one for one in timeline.of("chain") for flow in one.flows}
    for one, row in zip(kicks, kicked, strict=True):
        assert by_flow[one.flows[0]].notes["position"] == row["position"]
    for one, row in zip(interrupts, fired, strict=True):
        assert by_flow[one.ends[0]].notes["position"] == row["position"]
    assert len(by_flow) == sum(
        row["kick_state"] == "seen" or row["irq_state"] == "seen" for row in wanted
    )


def test_clocks_workers_and_levels_of_a_story(told, drawn):
    timeline = drawn(told)
    assert timeline.clocks == {
        pb.BUILTIN_CLOCK_MONOTONIC: START, pb.BUILTIN_CLOCK_REALTIME: recordings.REALTIME,
    }  # fmt: skip
    runs = {(timeline.path(o.track), o.name): (o.begin, o.end) for o in timeline.of("handler")}
    assert runs == {
        (("cpx", "thread 812"), "rx0"): (START + 14_000, START + 18_000),
        (("cpx", "thread 812"), "tx0"): (START + 33_000, START + 37_700),
    }
    levels = {timeline.path(uuid)[1:]: [v for _, v in s] for uuid, s in timeline.counters.items()}
    assert levels["net0", "rx0", "chains in flight"] == [1, 2, 1, 0]
    assert levels["net0", "rx0", "packets in tap"] == [1, 2, 1, 0]
    assert levels["net0", "tx0", "chains in flight"] == [1, 2, 1, 0]
    # The VM is a process with threads.
    (vm,) = [track for track in timeline.tracks.values() if track.HasField("process")]
    assert (vm.process.pid, vm.process.process_name) == (4242, "cpx")
    threads = {t.thread.tid: t.thread.pid for t in timeline.tracks.values() if t.HasField("thread")}
    assert threads == {recordings.VCPU: 4242, 812: 4242}


def test_loss_is_an_instant_and_in_the_statistics(tmp_path, vtrace, drawn):
    scenario = Scenario(pairs=(Pair(),), duration_ns=1_000_000, seed=5)
    recording = lose_bursts(simulate(scenario), np.random.default_rng(1), 5, 30)
    path = recordings.write(tmp_path / "lossy.vtrace", recording, size=300)
    timeline, report = drawn(path), report_of(vtrace, path)
    assert timeline.lost == report["loss"]["lost"] > 0
    told = [one for one in timeline.instants if one.category == "loss"]
    assert [one.name for one in told] == ["records lost", "end of the recording"]
    assert told[-1].notes == report["loss"]
    trust = Counter(one.notes["trust"] for one in timeline.of("chain"))
    assert trust["ambiguous"] == sum(queue["ambiguous"] for queue in report["queues"]) > 0


def test_what_is_chosen(busy, rows, drawn):
    timeline = drawn(busy, "-Y", "service_ns > 1us", "--queue", "rx0")
    wanted = rows("lifecycles", busy, "-Y", "service_ns > 1us", "--queue", "rx0")
    assert len(timeline.of("chain")) == len(wanted) > 0
    assert {timeline.path(one.track)[2] for one in timeline.of("chain")} == {"rx0"}
    assert all(timeline.path(uuid)[2] == "rx0" for uuid in timeline.counters)


def test_a_window(busy, rows, drawn):
    window = ("--since", "200us", "--until", "400us")
    timeline = drawn(busy, *window)
    assert len(timeline.of("chain")) == len(rows("lifecycles", busy, *window))
    assert len(timeline.of("exit")) == len(rows("exits", busy, *window))
    times = [time for samples in timeline.counters.values() for time, _ in samples]
    assert START + 200_000 <= min(times) <= max(times) < START + 401_000


def test_names_cannot_steer_a_view(tmp_path, drawn):
    told = small()
    meta = told.meta()
    for queue in meta["queues"].values():
        queue["vm"] = "cpx\x1b[2J\u202e\ud800"
    told.meta = lambda: meta
    timeline = drawn(told.write(tmp_path / "evil.vtrace"))
    assert {timeline.path(one.track)[0] for one in timeline.of("chain")} == {
        "cpx\\x1b[2J\\u202e\\ud800"
    }
