"""Rotation and the flight recorder, on batches made here."""

import io
import os
from types import SimpleNamespace

import numpy as np
import pytest

from parsers import wire
from parsers.batch import EventBatch
from parsers.tracefile import TraceWriter, open_trace
from probes import attach
from vtrace.model import Kind
from vtrace.recorder.sinks import FlightSink, RotatingSink, record

QUEUES = {"queues": {"1": {"id": 1, "direction": "rx"}, "2": {"id": 2, "direction": "tx"}}}


def batch(start_s: float, kinds: list[Kind], *, queue: int = 1, meta=None) -> EventBatch:
    records = np.zeros(len(kinds), wire.RECORD)
    records["time"] = int(start_s * 1e9) + np.arange(len(kinds)) * 1000
    records["kind"] = kinds
    records["queue"] = queue
    made = EventBatch.from_records(records)
    made.meta = meta or {}
    return made


def times(path) -> list[float]:
    with open_trace(path) as trace:
        return [int(t) / 1e9 for b in trace.batches() for t in b["time"]]


def test_each_rotated_file_can_be_read_alone(tmp_path):
    sink = RotatingSink(str(tmp_path / "run.vtrace"), rotate_bytes=6000)
    for second in range(8):
        meta = QUEUES if second == 0 else {"loss": {"late": second}}
        sink.write(batch(second, [Kind.POP] * 500, meta=meta))
    sink.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    rows = 0
    for path in files:
        with open_trace(path) as trace:
            rows += sum(map(len, trace.batches()))
            assert trace.metadata.section("queues") == QUEUES["queues"]
            assert trace.complete
    assert rows == 8 * 500


def test_only_the_newest_files_are_kept(tmp_path):
    sink = RotatingSink(str(tmp_path / "run.vtrace"), rotate_bytes=6000, keep=2)
    for second in range(12):
        sink.write(batch(second, [Kind.POP] * 500))
    sink.close()
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert max(t for path in files for t in times(path)) >= 11


@pytest.mark.parametrize(
    ("trigger", "kind", "queue"),
    [("drop", Kind.DROP, 1), ("refuse", Kind.REFUSE, 1), ("starved", Kind.EMPTY, 1)],
)
def test_flight_recorder_keeps_what_was_before_and_behind(tmp_path, trigger, kind, queue):
    path = tmp_path / "box.vtrace"
    sink = FlightSink(lambda: RotatingSink(str(path)), 3.0, trigger, 2.0)
    for second in range(20):
        kinds = [Kind.POP, kind if second == 10 else Kind.USED]
        sink.write(batch(second, kinds, queue=queue, meta=QUEUES if second == 0 else None))
    sink.close()
    kept = times(path)
    assert 6.9 <= min(kept) <= 8
    assert 12 <= max(kept) < 13
    with open_trace(path) as trace:
        list(trace.batches())
        assert trace.metadata.section("queues") == QUEUES["queues"]


def test_an_empty_transmit_ring_is_no_starvation(tmp_path):
    path = tmp_path / "box.vtrace"
    sink = FlightSink(lambda: RotatingSink(str(path)), 3.0, "starved", 1.0)
    sink.write(batch(0, [Kind.EMPTY], queue=2, meta=QUEUES))
    sink.close()
    assert not path.exists()
    assert sink.triggered_ns is None


def counted(second: float, *, tap: int | None = None, nic: int | None = None) -> dict:
    times = {"lo_ns": int(second * 1e9), "hi_ns": int(second * 1e9) + 1000}
    objects = {}
    if tap is not None:
        objects["link/tap0"] = times | {"tx_dropped": tap}
    if nic is not None:
        objects["ethtool/eth0"] = times | {"rx_missed": nic}
    return {"counters": objects, "clock": [{"monotonic_ns": int(second * 1e9), "realtime_ns": 0}]}


def samples(path, name: str, counter: str) -> list[tuple[float, int]]:
    with open_trace(path) as trace:
        return [
            (row["lo_ns"] / 1e9, row[counter])
            for b in trace.batches()
            if (row := b.meta.get("counters", {}).get(name))
        ]


def test_a_rotated_file_begins_with_all_counters(tmp_path):
    sink = RotatingSink(str(tmp_path / "run.vtrace"), rotate_bytes=6000)
    for second in range(8):
        meta = counted(second, tap=second, nic=7 if second == 0 else None)
        sink.write(batch(second, [Kind.POP] * 500, meta=meta))
    sink.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    for path in files:
        assert samples(path, "ethtool/eth0", "rx_missed")[0] == (0.0, 7)
        assert samples(path, "link/tap0", "tx_dropped")[0][0] == int(min(times(path)))


def test_a_flight_recording_has_the_counters_of_what_it_holds(tmp_path):
    path = tmp_path / "box.vtrace"
    sink = FlightSink(lambda: RotatingSink(str(path)), 3.0, "drop", 1.0)
    for second in range(40):
        kinds = [Kind.DROP if second in (10, 30) else Kind.POP]
        meta = counted(second, tap=second, nic=second if second in (0, 10) else None)
        sink.write(batch(second, kinds, meta=QUEUES | meta if second == 0 else meta))
        sink.write(EventBatch.empty(counted(second + 0.5, tap=second)))
    sink.close()
    seen = samples(path, "link/tap0", "tx_dropped")
    assert [second for second, _ in seen] == sorted(second for second, _ in seen)
    # Before each stretch stands what was known by then; behind the last there is nothing.
    assert 6 <= seen[0][0] < 7.6
    assert 11 <= seen[-1][0] - 20 < 12
    assert not any(13 < second < 25 for second, _ in seen)
    assert samples(path, "ethtool/eth0", "rx_missed") == [(0.0, 0), (10.0, 10), (10.0, 10)]
    with open_trace(path) as trace:
        gaps = [b.meta["gap"] for b in trace.batches() if "gap" in b.meta]
    (gap,) = gaps
    assert gap["first_ns"] / 1e9 == pytest.approx(11.0)
    assert gap["last_ns"] / 1e9 == pytest.approx(min(t for t in times(path) if t > 12))


def test_a_flight_recorder_of_a_quiet_host_holds_no_more_than_its_time(tmp_path):
    sink = FlightSink(lambda: RotatingSink(str(tmp_path / "box.vtrace")), 3.0, "drop", 1.0)
    for second in range(200):
        sink.write(EventBatch.empty(counted(second, tap=0)))
    assert len(sink._held) <= 5


class FakeAttached:
    """The reading side of an attach process that has sent all it will."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)
        self.stopped = self.closed = False

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True

    def failure(self) -> None:
        return None


def stream(*batches: EventBatch) -> bytes:
    read, write = os.pipe()
    with TraceWriter(write, compression="none") as writer:
        for one in batches:
            writer.write(one)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        return pipe.read()


def test_record_reports_loss_and_a_recorder_that_was_killed(tmp_path):
    counts = {"POP": {"produced": 12, "received": 5, "lost": 7}}
    lossy = batch(1, [Kind.POP] * 5, meta={"counts": counts, "loss": {"late": 2}})
    attached = FakeAttached(stream(lossy))
    totals = record(attached, RotatingSink(str(tmp_path / "a.vtrace")), lambda *_: False)
    assert (totals.events, totals.lost, totals.late) == (5, 7, 2)
    assert "lost 7" in totals.sentence()
    assert "before it was told to" in str(totals.failure)
    assert attached.closed
    ended = batch(2, [Kind.POP], meta={"end": {"reason": "stopped"}})
    sink = RotatingSink(str(tmp_path / "b.vtrace"))
    totals = record(FakeAttached(stream(lossy, ended)), sink, lambda *_: False)
    assert totals.failure is None
    assert times(tmp_path / "b.vtrace")[-1] == pytest.approx(2.0)


def through_feeder(monkeypatch, *batches: EventBatch) -> tuple[list[EventBatch], SimpleNamespace]:
    """Return what comes out of a pipe that was full until all of the batches had come."""
    monkeypatch.setattr(attach, "_QUEUE_BYTES", 64 * 10)
    monkeypatch.setattr(attach, "_QUEUE_BATCHES", 5)
    source = SimpleNamespace(dropped_batches=0, dropped_records=0)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe:
        feeder = attach._Feeder(TraceWriter(write, compression="none"), source)
        for one in batches:
            feeder.put(one)
        feeder.start()
        feeder.finish()
        os.close(write)
        with open_trace(pipe) as trace:
            return list(trace.batches()), source


def test_a_full_pipe_keeps_the_counters_of_batches_that_it_drops(monkeypatch):
    came, source = through_feeder(
        monkeypatch,
        batch(0, [Kind.POP] * 6, meta=QUEUES | counted(0, tap=0, nic=3)),
        batch(1, [Kind.POP] * 6, meta=counted(1, tap=1)),
        batch(2, [Kind.POP] * 6, meta={"loss": {"late": 0}}),
    )
    assert [len(one) for one in came] == [6]
    assert (source.dropped_batches, source.dropped_records) == (2, 12)
    meta = came[0].meta
    assert meta["queues"] == QUEUES["queues"]
    assert meta["counters"]["link/tap0"]["tx_dropped"] == 1
    assert meta["counters"]["ethtool/eth0"]["rx_missed"] == 3


def test_batches_without_events_do_not_pile_up_behind_a_full_pipe(monkeypatch):
    quiet = [EventBatch.empty(counted(n, tap=n)) for n in range(40)]
    quiet[0].meta["counters"] |= counted(0, nic=3)["counters"]
    came, source = through_feeder(monkeypatch, *quiet)
    assert len(came) == 5
    assert (source.dropped_batches, source.dropped_records) == (0, 0)
    assert came[0].meta["counters"]["ethtool/eth0"]["rx_missed"] == 3
    assert came[-1].meta["counters"]["link/tap0"]["tx_dropped"] == 39


def test_network_queues_of_qemu_are_told_to_who_filters(tmp_path):
    def row(**more):
        return {"vm": "cpx", "device": "nic0", "backend": "qemu", "device_type": "net"} | more

    queues = {
        "1": row(name="rx0", direction="rx"),
        "2": row(name="tx0", direction="tx"),
        "3": row(name="ctrl", direction="none"),
        "4": row(name="rx0", direction="rx", backend="vhost"),
        "5": row(name="req0", direction="none", device_type="blk"),
    }
    attached = FakeAttached(stream(batch(1, [Kind.POP], meta={"queues": queues})))
    totals = record(attached, RotatingSink(str(tmp_path / "q.vtrace")), lambda *_: True)
    assert totals.unfiltered == ["cpx nic0 rx0", "cpx nic0 tx0"]
