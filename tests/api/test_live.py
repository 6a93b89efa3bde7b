"""vtrace.live: a recording that grows while it is asked, and is over with its block."""

import os
import time
from pathlib import Path

import pytest

import vtrace as api
from parsers.tracefile import TraceWriter, open_trace
from tests.probes.need import need_bpf
from vtrace.api import live as module
from vtrace.browse import State
from vtrace.errors import UsageError


class Recorder:
    """Writes a recording in two halves, as a recorder would; stands for RecorderChild."""

    source = None
    made: list["Recorder"] = []  # noqa: RUF012

    def __init__(self, path, options, tell):
        self.path, self.options, self.stops = path, list(options), 0
        self.ended = None
        with open_trace(self.source) as trace:
            self._batches = list(trace.batches())
        self._writer = TraceWriter(path)
        Recorder.made.append(self)

    def wait_recording(self):
        self.write(len(self._batches) // 2)

    def write(self, count):
        for batch in self._batches[:count]:
            self._writer.write(batch)
        del self._batches[:count]
        self._writer.flush()

    def finish(self):
        self.write(len(self._batches))
        self._writer.close()
        self.ended = "the recording ended: all of it"

    def stop(self):
        self.stops += 1
        if self.ended is None:
            self.finish()
        return "all of it"


@pytest.fixture
def recorder(monkeypatch, busy):
    monkeypatch.setattr(Recorder, "source", busy)
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(module, "RecorderChild", Recorder)
    return Recorder


def test_it_grows_and_is_kept_where_it_was_asked_to_be(recorder, busy, tmp_path):
    kept = tmp_path / "kept.vtrace"
    whole = api.open(busy)
    with api.live("cpx", save=kept, duration="10s", capture_filter="udp", sched=False) as host:
        (child,) = recorder.made
        assert child.path == str(kept)
        assert {"--vm=cpx", "--duration=10s", "--filter=udp", "--no-sched"} <= set(child.options)
        half = host.packets.count()
        assert 0 < half < whole.packets.count()
        assert not host.complete
        assert host.wait(0.01)
        child.finish()
        assert not host.wait(10)
        assert host.ended == "the recording ended: all of it"
        assert host.packets.count() == whole.packets.count()
    assert child.stops == 1
    assert host.said == "all of it"
    assert host.complete
    assert host.report() == {**whole.report(), "source": str(kept)}


def test_what_is_not_saved_is_gone_behind_the_block(recorder):
    host = api.live()
    with pytest.raises(UsageError, match="has not begun"):
        host.drops.count()
    with host:
        assert host.drops.count() > 0
        folder = Path(host.path).parent
        assert [one.name for one in folder.iterdir()] == ["live.vtrace"]
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    with pytest.raises(UsageError, match=r"give vtrace.live\(save=FILE\)"):
        host.drops.count()
    with pytest.raises(UsageError, match="made once"), host:
        pass
    assert len(recorder.made) == 1


def test_it_ends_in_order_however_the_block_is_left(recorder, tmp_path):
    with pytest.raises(ZeroDivisionError), api.live(save=tmp_path / "kept.vtrace") as host:
        raise ZeroDivisionError
    assert recorder.made[0].stops == 1
    assert host.complete


def test_snapshots_until_it_is_over(recorder, busy, tmp_path):
    with api.live(save=tmp_path / "kept.vtrace") as host:
        seen = []
        for snapshot in host.snapshots(every=0.3):
            seen.append(snapshot)
            if len(seen) == 1:
                recorder.made[0].finish()
            assert len(seen) < 100
        assert seen[-1].state is State.COMPLETE
        assert seen[0].events < seen[-1].events
        assert seen[-1].report["queues"] == api.open(busy).report()["queues"]


def test_a_recorder_that_cannot_begin_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(api.VtraceError) as found, api.live(duration="soon"):
        pytest.fail("it has begun")
    assert "soon" in str(found.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.root
def test_this_host(tmp_path, monkeypatch):
    need_bpf()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    began = time.monotonic()
    with api.live(duration=60) as host:
        assert host.ended is None
        host.wait(0.3)
        assert host.metadata["host"]["kernel"] == os.uname().release
        assert host.report()["loss"]["lost"] == 0
    assert time.monotonic() - began < 60
    assert "events" in host.said
    assert not list(tmp_path.iterdir())
