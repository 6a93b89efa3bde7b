"""Recordings open without vtrace, as docs/trace-file.md says."""

import subprocess
import sys

import pyarrow as pa
import pytest

from parsers import wire
from parsers.tracefile import TraceWriter, layout
from tests.parsers.traces import make_batch, write_trace

NAMES = [*wire.COLUMNS, *layout.SNAP_COLUMNS, "bytes"]


@pytest.fixture(params=["zstd", "lz4", "none"])
def recording(request, tmp_path):
    batches = [
        make_batch(0, meta={"host": {}}),
        make_batch(50, seed=1, snaps=True),
        make_batch(50, seed=2),
    ]
    path = tmp_path / "a.vtrace"
    return write_trace(path, batches, compression=request.param), batches


def test_pyarrow(recording):
    path, batches = recording
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        assert file.num_record_batches == 3
        assert file.schema.metadata[b"vtrace.format"] == b"1"
        assert file.schema.field("time").metadata[b"meaning"]
        table = file.read_all()
    table.validate(full=True)
    assert table.column_names == NAMES
    assert table["bytes"].null_count == 100 - len(batches[1].snaps)
    assert table["bytes"][0].as_py() == batches[1].snaps.bytes_of(0)


def test_pyarrow_reads_it_without_its_footer(tmp_path):
    path = tmp_path / "a.vtrace"
    writer = TraceWriter(path)
    writer.write(make_batch(50))
    with path.open("rb") as file:
        file.seek(8)
        stream = pa.ipc.open_stream(file)
        assert stream.read_next_batch().num_rows == 50
    writer.close()


def test_pandas(recording):
    pandas = pytest.importorskip("pandas")
    path, batches = recording
    frame = pandas.read_feather(path)
    assert list(frame.columns) == NAMES
    assert frame["time"].tolist()[:50] == batches[1]["time"].tolist()
    assert frame["ret"].dtype == "int32"
    assert frame["bytes"].notna().sum() == len(batches[1].snaps)


def test_polars(recording):
    polars = pytest.importorskip("polars")
    path, batches = recording
    frame = polars.read_ipc(path)
    assert frame.columns == NAMES
    assert frame["address"].to_list()[50:] == batches[2]["address"].tolist()
    assert frame["bytes"].null_count() == 100 - len(batches[1].snaps)
    lazy = polars.scan_ipc(path).filter(polars.col("kind") == 4).select("time", "queue")
    assert lazy.collect().height == 50


def test_duckdb(recording):
    duckdb = pytest.importorskip("duckdb")
    path, _ = recording
    events = pa.ipc.open_file(path).read_all()  # noqa: F841 - found by its name
    rows = duckdb.sql(
        "select queue, count(*), count(bytes) from events group by queue order by queue"
    ).fetchall()
    assert [(queue, count) for queue, count, _ in rows] == [(0, 34), (1, 34), (2, 32)]
    assert sum(one[2] for one in rows) == 17


def test_packages_load_no_pandas_and_no_dataset(root):
    program = """
import sys
import parsers
assert "pyarrow" not in sys.modules
import parsers.tracefile
bad = {"pandas", "pyarrow.compute", "pyarrow.dataset", "pyarrow.pandas_compat", "numba"}
assert not bad & set(sys.modules), bad & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)


def test_the_page_names_every_column(root):
    page = (root / "docs" / "trace-file.md").read_text()
    for field in layout.schema():
        kind = "binary" if field.name == "bytes" else str(field.type)
        meaning = field.metadata[b"meaning"].decode()
        assert f"| `{field.name}` | {kind} | {meaning} |" in page
