"""Parquet, CSV and JSON lines: read by pandas, polars and DuckDB, held against report --json."""

import csv
import json
from collections import Counter

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vtrace.tables import SCHEMAS, Type

VERBS = ("lifecycles", "packets", "exits", "drops", "requests")


@pytest.fixture
def folder(vtrace, tmp_path):
    """Return a function that exports all tables into a folder."""

    def run(path, form, *options):
        out = tmp_path / form
        done = vtrace("export", path, "--to", form, "-o", out, *options)
        assert done.code == 0, done.err
        return out

    return run


def report_of(vtrace, path):
    return json.loads(vtrace("report", "--json", path).out)


def check_counts(report, counts, rows):
    """Assert what the report counts: ``counts`` of tables, ``rows`` of queues and drops."""
    assert counts["queues"] == len(report["queues"])
    assert counts["drops"] == sum(drop["packets"] for drop in report["drops"])
    assert counts["packets"] == sum(q["packets"] for q in report["queues"]) + counts["drops"]
    for row, queue in zip(rows, report["queues"], strict=True):
        wanted = {name: queue[name] for name in ("vm", "device", "queue", "chains", "packets")}
        wanted |= {f"kicks_{part}": count for part, count in queue["kicks"].items()}
        for stage, figures in queue["stages"].items():
            wanted |= {f"{stage}_{name}": ns for name, ns in figures.items() if name != "count"}
        assert {name: row[name] for name in wanted} == wanted
    assert counts["lifecycles"] == sum(queue["chains"] for queue in report["queues"])


@pytest.mark.parametrize("name", ["quiet", "ringfull", "starving"])
def test_pandas_polars_and_duckdb_see_the_counts_of_the_report(name, root, vtrace, folder):
    path = root / "examples" / "traces" / f"{name}.vtrace"
    report = report_of(vtrace, path)
    out = folder(path, "parquet")
    frames = {table: pd.read_parquet(out / f"{table}.parquet") for table in SCHEMAS}
    counts = {table: len(frame) for table, frame in frames.items()}
    queues = frames["queues"].astype(object).to_dict("records")
    check_counts(report, counts, queues)
    for table, count in counts.items():
        file = out / f"{table}.parquet"
        assert pl.read_parquet(file).height == count
        assert duckdb.sql(f"select count(*) from '{file}'").fetchall() == [(count,)]
    drops = duckdb.sql(
        f"select reason, location, device, count(*) from '{out}/drops.parquet' group by all"
    ).fetchall()
    assert sorted(drops) == sorted(
        (d["reason"], d["location"], d["device"], d["packets"]) for d in report["drops"]
    )
    dropped = pl.read_parquet(out / "packets.parquet").filter(pl.col("verdict") == "dropped")
    assert dropped.height == counts["drops"]


@pytest.mark.parametrize("table", VERBS)
def test_json_lines_are_what_the_verb_prints(table, busy, served, vtrace, tmp_path):
    for path in (busy, served):
        out = tmp_path / "out.jsonl"
        assert vtrace("export", path, "--table", table, "-o", out).code == 0
        assert out.read_text() == vtrace(table, "--json", path).out
    assert out.read_text() or table in ("packets", "drops", "exits")


@pytest.mark.parametrize("recording", ["busy", "served"])
def test_every_value_is_that_of_the_verb(recording, request, rows, folder):
    path = request.getfixturevalue(recording)
    out = folder(path, "parquet")
    for table in VERBS:
        found = pq.read_table(out / f"{table}.parquet").to_pylist()
        assert found == rows(table, path)


@pytest.mark.parametrize("recording", ["busy", "served"])
def test_csv_has_every_value(recording, request, rows, folder):
    path = request.getfixturevalue(recording)
    out = folder(path, "csv")
    for table in VERBS:
        with (out / f"{table}.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        wanted = rows(table, path)
        assert len(found) == len(wanted)
        for one, row in zip(found, wanted, strict=True):
            assert one == {name: plain(value) for name, value in row.items()}
    if recording == "busy":
        lines = duckdb.sql(f"select count(*), max(time_ns) from '{out}/lifecycles.csv'").fetchall()
        chains = rows("lifecycles", path)
        assert lines == [(len(chains), max(row["time_ns"] for row in chains))]


def plain(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if str(value).startswith(("=", "+", "-", "@")) else str(value)


def test_the_schema_says_what_columns_mean(busy, folder):
    out = folder(busy, "parquet")
    for name, schema in SCHEMAS.items():
        found = pq.read_schema(out / f"{name}.parquet")
        assert found.metadata[b"vtrace.table"] == name.encode()
        assert found.metadata[b"vtrace.source"] == str(busy).encode()
        assert tuple(found.names) == schema.names
        for column in schema.columns:
            field = found.field(column.name)
            assert field.metadata[b"meaning"] == column.meaning.encode()
            assert field.metadata.get(b"unit", b"") == column.unit.encode()
            assert field.metadata.get(b"state", b"") == column.state.encode()
            if column.values:
                assert json.loads(field.metadata[b"values"]) == list(column.values)
            if column.type is Type.INTEGER:
                assert field.type == pa.from_numpy_dtype(np.dtype(column.numpy))
            elif column.type is Type.BOOLEAN:
                assert field.type == pa.bool_()
            else:
                assert pa.types.is_dictionary(field.type)
    assert pq.read_schema(out / "lifecycles.parquet").field("pop_ns").type == pa.uint64()


def test_it_is_written_group_by_group(busy, vtrace, monkeypatch, tmp_path, rows):
    from vtrace.export import files

    monkeypatch.setattr(files, "GROUP_ROWS", 64)
    out = tmp_path / "out.parquet"
    assert vtrace("export", busy, "--table", "lifecycles", "-o", out).code == 0
    file = pq.ParquetFile(out)
    wanted = rows("lifecycles", busy)
    assert file.metadata.num_row_groups > 2
    assert file.metadata.num_rows == len(wanted)
    assert file.read().to_pylist() == wanted


def test_values_at_their_limits(tmp_path):
    from vtrace.export.arrow import arrow_schema, record_batch
    from vtrace.tables import EXITS, Table, Values

    def texts(*found):
        pool = ["", *dict.fromkeys(found)]
        return Values(np.array([pool.index(text) for text in found]), None, pool)

    columns = {
        "time_ns": Values(np.array([(1 << 64) - 1, 0], np.uint64), np.array([True, False])),
        "vm": texts("\ud800\x00", "=1+1"),
        "vcpu": Values(np.array([-1, 7]), np.array([False, True])),
        "tid": Values(np.array([0, (1 << 32) - 1], np.uint32)),
        "cpu": Values(np.array([0, 0xFFFF], np.uint16)),
        "reason": texts("one", "one"),
        "reason_code": Values(np.array([1, 2], np.int32)),
        "isa": texts("vmx", "svm"),
        "outside_ns": Values(np.array([1, 2], np.uint32)),
        "address": Values(np.array([5, 6], np.uint64), np.array([False, False])),
    }
    table = Table(EXITS, 2, {name: lambda v=values: v for name, values in columns.items()})
    found = record_batch(table, arrow_schema(EXITS)).to_pylist()
    assert [row["time_ns"] for row in found] == [(1 << 64) - 1, None]
    assert [row["vm"] for row in found] == ["\\ud800\x00", "=1+1"]
    assert [row["vcpu"] for row in found] == [None, 7]
    assert [row["address"] for row in found] == [None, None]


def test_a_spreadsheet_gets_no_formula(served, vtrace, tmp_path):
    from tests.cli.story import small

    told = small()
    meta = told.meta()
    for queue in meta["queues"].values():
        queue["vm"] = "=cmd|' /C calc'!A0"
    told.meta = lambda: meta
    path = told.write(tmp_path / "evil.vtrace")
    out = tmp_path / "out.csv"
    assert vtrace("export", path, "--table", "packets", "-o", out).code == 0
    with out.open(newline="") as file:
        assert {row["vm"] for row in csv.DictReader(file)} == {"'=cmd|' /C calc'!A0"}


def test_a_window_has_the_rows_of_the_verbs_and_the_queues_of_the_report(
    busy, vtrace, rows, folder
):
    window = ("--since", "200us", "--until", "400us")
    out = folder(busy, "parquet", *window)
    for table in VERBS:
        found = pq.read_table(out / f"{table}.parquet").to_pylist()
        assert found == rows(table, busy, *window)
    report = json.loads(vtrace("report", "--json", busy, *window).out)
    queues = pq.read_table(out / "queues.parquet").to_pylist()
    assert [q["chains"] for q in queues] == [q["chains"] for q in report["queues"]]


def test_a_filter_is_that_of_the_table(busy, rows, vtrace, tmp_path):
    out = tmp_path / "out.parquet"
    expression = "verdict == dropped and queue == rx0"
    done = vtrace("export", busy, "--table", "packets", "-Y", expression, "-o", out)
    assert done.code == 0
    wanted = rows("packets", busy, "-Y", expression)
    assert pl.read_parquet(out).height == len(wanted) > 0
    assert f"{len(wanted)} packets" in done.err
    counted = Counter(row["reason"] for row in wanted)
    assert dict(pl.read_parquet(out).group_by("reason").len().rows()) == counted
