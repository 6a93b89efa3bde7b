"""Writing a recording and reading it back: files, growing files, pipes."""

import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from parsers import wire
from parsers.batch import EventBatch
from parsers.tracefile import Tally, TraceWriter, layout, open_trace, rotated_name
from tests.parsers.traces import T0, make_batch, same, write_trace
from vtrace.errors import InputError, VtraceError
from vtrace.model import Kind


@pytest.fixture
def batches():
    return [
        make_batch(0, meta={"host": {"kernel": "6.1"}, "queues": {"1": {"vm": "a"}}}),
        make_batch(1000, seed=1),
        make_batch(7, seed=2, snaps=True, meta={"loss": {"late": 1}}),
        make_batch(1, seed=3, snaps=True),
        make_batch(500, seed=4, snaps=True, meta={"end": {"reason": "x"}}),
    ]


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_what_is_written_is_read(tmp_path, batches, compression):
    path = write_trace(tmp_path / "a.vtrace", batches, compression=compression)
    with open_trace(path) as trace:
        assert trace.complete
        assert trace.metadata.section("host") == {"kernel": "6.1"}
        found = list(trace.batches())
        assert [one.number for one in found] == [0, 1, 2, 3, 4]
        assert all(same(*pair) for pair in zip(batches, found, strict=True))
        assert trace.damage == []
        assert set(trace.metadata) == {"host", "queues", "loss", "end"}
        # And once more: a file can be read as often as one likes.
        assert len(list(trace.batches())) == 5
        assert found[1]["time"].flags.writeable
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_file_object_and_path_are_alike(tmp_path, batches):
    path = write_trace(tmp_path / "a.vtrace", batches)
    for target in (str(path), path, io.BytesIO(path.read_bytes())):
        with open_trace(target) as trace:
            assert sum(map(len, trace.batches())) == 1508
            assert trace.complete


def test_summaries_tell_without_decoding(tmp_path, batches):
    path = write_trace(tmp_path / "a.vtrace", batches)
    with open_trace(path) as trace:
        assert [one.rows for one in trace.summaries] == [0, 1000, 7, 1, 500]
        first, second = trace.summaries[:2]
        assert (first.first_ns, first.last_ns, first.queues) == (None, None, {})
        times = batches[1]["time"]
        assert (second.first_ns, second.last_ns) == (times[0], times[-1])
        chosen = (batches[1]["queue"] == 1) & (batches[1]["kind"] == Kind.POP)
        lengths = batches[1]["length"][chosen].astype(np.int64)
        assert second.queues[1][Kind.POP] == Tally(len(lengths), lengths.sum())
        assert 999 in second.queues[1]
        assert trace.metadata.section("end") == {"reason": "x"}
        total = sum(t.events for kinds in trace.totals.values() for t in kinds.values())
        assert total == 1508
        assert same(trace.batch(-1), batches[-1])


def test_summary_of_far_queues_and_kinds():
    batch = make_batch(1000)
    batch.columns["queue"] = np.full(1000, 65535, np.uint16)
    batch.columns["kind"] = np.full(1000, 65535, np.uint16)
    batch.columns["length"] = np.full(1000, 0xFFFFFFFF, np.uint32)
    assert layout.tally(batch) == {65535: {65535: Tally(1000, 1000 * 0xFFFFFFFF)}}


def test_columns_and_times_select(tmp_path, batches):
    path = write_trace(tmp_path / "a.vtrace", batches)
    with open_trace(path) as trace:
        one = list(trace.batches(columns=["kind"]))[1]
        assert set(one.columns) == {"time", "kind"}
        assert not len(one.snaps)
        assert len(next(b for b in trace.batches(["bytes"]) if b.number == 4).snaps)
        since, until = T0 + 10**6 + 100, T0 + 2 * 10**6 + 30
        found = list(trace.batches(since_ns=since, until_ns=until))
        # Metadata comes through, up to the end of the stretch.
        assert [(one.number, len(one)) for one in found] == [
            (0, 0),
            (1, 990),
            (2, 3),
        ]
        assert found[1]["time"][0] == since
        assert found[2].snaps.rows.tolist() == [0]
        assert not any(len(one) for one in trace.batches(since_ns=10**19))
        assert sum(len(one) for one in trace.batches(since_ns=-5)) == 1508


def test_too_large_a_batch_goes_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "MAX_ROWS", 300)
    batch = make_batch(1000, snaps=True, meta={"host": {}})
    path = write_trace(tmp_path / "a.vtrace", [batch])
    with open_trace(path) as trace:
        found = list(trace.batches())
    assert [len(one) for one in found] == [250] * 4
    assert [one.meta for one in found] == [{"host": {}}, {}, {}, {}]
    assert np.array_equal(np.concatenate([one.snaps.data for one in found]), batch.snaps.data)


def test_snaps_are_put_in_order(tmp_path):
    batch = make_batch(10, snaps=True)
    order = np.array([2, 0, 3, 1])
    mixed = make_batch(10)
    mixed.snaps = batch.snaps.take(order, batch.snaps.rows[order])
    path = write_trace(tmp_path / "a.vtrace", [mixed])
    with open_trace(path) as trace:
        assert same(next(trace.batches()), batch)


def test_numpy_numbers_in_metadata(tmp_path):
    meta = {"loss": {"late": np.uint64(2**63)}, "host": {"kernel": "\u00e4\n"}}
    path = write_trace(tmp_path / "a.vtrace", [EventBatch.empty(meta)])
    with open_trace(path) as trace:
        assert next(trace.batches()).meta == meta


def test_metadata_that_does_not_fit_is_refused(tmp_path):
    with TraceWriter(tmp_path / "a.vtrace") as writer:
        with pytest.raises(VtraceError, match="MiB fit"):
            writer.write(EventBatch.empty({"host": {"x": "y" * (9 << 20)}}))
        writer.write(make_batch(3))
    with open_trace(tmp_path / "a.vtrace") as trace:
        assert [len(one) for one in trace.batches()] == [3]


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("cut", [0, 100])
def test_append_goes_on_behind_the_last_batch(tmp_path, batches, closed, cut):
    path = tmp_path / "a.vtrace"
    writer = TraceWriter(path)
    for one in batches:
        writer.write(one)
    if closed:
        writer.close()
    if cut:
        os.truncate(path, writer.bytes_written - cut)
    with open_trace(path) as trace:
        before = len(list(trace.batches()))
    write_trace(path, [make_batch(5, seed=9)], append=True)
    with open_trace(path) as trace:
        found = list(trace.batches())
        assert trace.complete
        assert trace.damage == []
    assert [one.number for one in found] == list(range(before + 1))
    assert same(found[-1], make_batch(5, seed=9))
    assert pa.ipc.open_file(path).num_record_batches == before + 1


def test_append_makes_a_file_that_is_not_there(tmp_path):
    path = write_trace(tmp_path / "a.vtrace", [make_batch(5)], append=True)
    (tmp_path / "b.vtrace").touch()
    write_trace(tmp_path / "b.vtrace", [make_batch(5)], append=True)
    for name in (path, tmp_path / "b.vtrace"):
        with open_trace(name) as trace:
            assert len(list(trace.batches())) == 1


def test_append_leaves_a_foreign_file_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("do not touch this, please")
    with pytest.raises(InputError, match="no recording of vtrace"):
        TraceWriter(path, append=True)
    assert path.read_text() == "do not touch this, please"


def test_writer_says_why_it_cannot_write(tmp_path):
    with pytest.raises(VtraceError, match="cannot be written: No such file"):
        TraceWriter(tmp_path / "no" / "a.vtrace")
    with pytest.raises(ValueError, match="compression"):
        TraceWriter(tmp_path / "a.vtrace", compression="gzip")


def test_full_disk_is_an_error_and_nothing_before_is_lost():
    with (
        pytest.raises(VtraceError, match="No space left"),
        TraceWriter("/dev/full") as writer,
    ):
        writer.write(make_batch(10))


def test_limit_of_file_size_leaves_whole_batches(tmp_path):
    # As a full disk does: a write that comes short, then an error.
    path = tmp_path / "a.vtrace"
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path.cwd())!r})
from parsers.tracefile import TraceWriter
from tests.parsers.traces import make_batch
from vtrace.errors import VtraceError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with TraceWriter({str(path)!r}, compression="none") as writer:
        while True:
            writer.write(make_batch(200))
except VtraceError as error:
    print(writer.batches_written, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    written = int(done.stdout.split()[0])
    assert "are kept" in done.stdout
    with open_trace(path) as trace:
        assert len(list(trace.batches())) == written > 5
        assert trace.damage == []


def test_rotated_names_sort():
    names = [str(rotated_name("/x/run.vtrace", n)) for n in (1, 2, 10)]
    assert names == sorted(names)
    assert names[0] == "/x/run.00001.vtrace"


def test_pipe_yields_batches_as_they_come(batches):
    read, write = os.pipe()
    got = []
    with os.fdopen(read, "rb") as source:
        writer = TraceWriter(write)
        writer.write(batches[1])
        with open_trace(source) as trace:
            stream = trace.batches()
            got.append(next(stream))

            def rest():
                for one in batches[2:]:
                    writer.write(one)
                writer.close()
                os.close(write)

            thread = threading.Thread(target=rest)
            thread.start()
            got.extend(stream)
            thread.join()
            assert trace.complete
            assert trace.damage == []
            assert trace.totals
            assert list(trace.summaries) == []
            with pytest.raises(InputError, match="once"):
                next(trace.batches())
    assert all(same(*pair) for pair in zip(batches[1:], got, strict=True))


def test_pipe_whose_writer_dies_is_not_complete(tmp_path, batches):
    data = write_trace(tmp_path / "a.vtrace", batches).read_bytes()
    for end, complete in ((len(data), True), (len(data) - 1, False), (9000, False)):
        with open_trace(Pipe(data[:end])) as trace:
            found = list(trace.batches())
            assert trace.complete == complete
            assert (len(found) == 5) == (end > 9000)


def test_stdin_and_stdout(tmp_path, batches, root):
    path = write_trace(tmp_path / "a.vtrace", batches)
    program = """
import sys
from parsers.tracefile import TraceWriter, open_trace
with open_trace("-") as trace, TraceWriter("-") as writer:
    for batch in trace.batches():
        writer.write(batch)
assert trace.complete and not trace.damage
"""
    for piped in (True, False):
        with path.open("rb") as file:
            source = {"input": path.read_bytes()} if piped else {"stdin": file}
            done = subprocess.run(
                [sys.executable, "-c", program],
                cwd=root,
                capture_output=True,
                check=True,
                **source,
            )
        with open_trace(io.BytesIO(done.stdout)) as trace:
            found = list(trace.batches())
        assert all(same(*pair) for pair in zip(batches, found, strict=True))


def test_nobody_reads_the_pipe():
    read, write = os.pipe()
    writer = TraceWriter(write)
    os.close(read)
    with pytest.raises(BrokenPipeError):
        writer.write(make_batch(10))
    os.close(write)


def test_pipe_that_does_not_block_is_waited_for():
    read, write = os.pipe()
    os.set_blocking(write, False)

    def run():
        with TraceWriter(write, compression="none") as writer:
            writer.write(make_batch(20000))
        os.close(write)

    thread = threading.Thread(target=run)
    thread.start()
    with os.fdopen(read, "rb") as source, open_trace(source) as trace:
        assert sum(map(len, trace.batches())) == 20000
    thread.join()


def test_growing_file_is_followed(tmp_path, batches):
    path = tmp_path / "a.vtrace"
    path.touch()

    def run():
        # Byte by byte would take long; any cut is as good.
        data = write_trace(tmp_path / "b.vtrace", batches).read_bytes()
        with path.open("ab", buffering=0) as file:
            for start in range(0, len(data), 1500):
                file.write(data[start : start + 1500])
                time.sleep(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    with open_trace(path, follow=True, poll_seconds=0.001) as trace:
        found = list(trace.batches())
        assert trace.complete
        assert trace.damage == []
    thread.join()
    assert all(same(*pair) for pair in zip(batches, found, strict=True))


def test_following_stops_when_asked(tmp_path):
    path = tmp_path / "a.vtrace"
    writer = TraceWriter(path)
    writer.write(make_batch(10))
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 3

    with open_trace(path, follow=True, stop=stop, poll_seconds=0.001) as trace:
        assert len(list(trace.batches())) == 1
        assert not trace.complete
        assert trace.damage == []
        assert len(trace.summaries) == 1
    writer.close()


def test_kill_9_loses_no_batch_that_was_written(tmp_path, root):
    path = tmp_path / "a.vtrace"
    program = f"""
from parsers.tracefile import TraceWriter
from tests.parsers.traces import make_batch
writer = TraceWriter({str(path)!r})
for number in range(100000):
    writer.write(make_batch(500, seed=number))
    print(number, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) >= 20:
            break
    process.send_signal(signal.SIGKILL)
    said = [int(one) for one in process.stdout.read().split("\n")[:-1]]
    process.stdout.close()
    process.wait()
    with open_trace(path) as trace:
        found = list(trace.batches())
        assert not trace.complete
    assert len(found) > max([20, *said])
    assert same(found[20], make_batch(500, seed=20))


def test_memory_does_not_grow_with_the_file(tmp_path, root):
    batch = make_batch(20000)
    path = write_trace(tmp_path / "a.vtrace", [batch] * 60, compression="none")
    program = f"""
import resource
from parsers.tracefile import open_trace
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_trace({str(path)!r}) as trace:
    for batch in trace.batches():
        if batch.number == 5:
            early = peak()
print(peak() - early)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert path.stat().st_size > 90 << 20
    assert int(done.stdout) < 16 << 10


def test_columns_are_those_of_the_wire():
    schema = layout.schema()
    names = [*wire.COLUMNS, *layout.SNAP_COLUMNS, "bytes"]
    assert schema.names == names
    there = set(wire.SNAP.names) - {"captured", "reserved"}
    assert {one.removeprefix("snap_") for one in layout.SNAP_COLUMNS} == there
    for name, (kind, _) in layout.SNAP_COLUMNS.items():
        assert np.dtype(kind) == wire.SNAP[name.removeprefix("snap_")]


class Pipe(io.RawIOBase):
    """Bytes that come in small pieces and cannot be sought in."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece = self.inner.read(min(len(buffer), 701))
        buffer[: len(piece)] = piece
        return len(piece)
