"""Frames hold the rows that the verbs print, and read no more than they must."""

import json

import pandas
import polars
import pytest

import vtrace as api
from tests.api.conftest import plain
from vtrace.errors import FilterError, UsageError
from vtrace.tables import SCHEMAS

TABLES = ("lifecycles", "packets", "exits", "drops", "requests")
BUNDLED = ("quiet", "ringfull", "starving", "blockio")


@pytest.fixture(params=[*BUNDLED, "told", "busy", "served"])
def path(request, root):
    if request.param in BUNDLED:
        return root / "examples" / "traces" / f"{request.param}.vtrace"
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_those_of_the_verb(path, table, printed):
    frame = getattr(api.open(path), table)
    wanted = printed(table, path)
    assert plain(frame.to_pandas()) == wanted
    assert frame.count() == len(frame) == len(wanted)
    assert frame.empty == (not wanted)
    assert bool(frame) == bool(wanted)
    assert plain(frame.head(3)) == wanted[:3]
    assert list(frame.head(0).columns) == list(SCHEMAS[table].names)


def test_queues_are_those_of_the_report(path, vtrace):
    wanted = json.loads(vtrace("report", path, "--json").out)["queues"]
    rows = plain(api.open(path).queues.to_pandas())
    assert len(rows) == len(wanted)
    for row, other in zip(rows, wanted, strict=True):
        for name in ("vm", "device", "queue", "chains", "complete", "ambiguous", "packets"):
            assert row[name] == other[name]
        assert row["kicks_sent"] == other["kicks"]["sent"]
        for stage in ("notify", "service"):
            assert row[f"{stage}_p99_ns"] == other["stages"].get(stage, {}).get("p99_ns")


@pytest.mark.parametrize(
    ("table", "expression"),
    [
        ("lifecycles", 'queue == "rx0" and service_ns > 5us'),
        ("lifecycles", "udp.dport == 7001"),
        ("lifecycles", "ip.src == 10.9.0.0/16 or missing(irq_ns)"),
        ("packets", "verdict == dropped and udp"),
        ("drops", "reason == FULL_RING and frame.len > 60"),
        ("exits", "outside_ns > 1us"),
        ("requests", "failed or operation == IN"),
    ],
)
def test_a_filter_is_that_of_the_verb(path, table, expression, printed):
    wanted = printed(table, path, "-Y", expression)
    frame = getattr(api.open(path), table).where(expression)
    assert plain(frame.to_pandas()) == wanted
    # Columns that are left out can be asked for.
    assert plain(frame[["time_ns", "vm"]].to_pandas()) == [
        {name: row[name] for name in ("time_ns", "vm")} for row in wanted
    ]
    assert frame.count() == len(wanted)


def test_one_filter_after_the_other(told, printed):
    frame = api.open(told).lifecycles.where("queue == rx0").where("outcome == used")
    assert plain(frame.to_pandas()) == printed(
        "lifecycles", told, "-Y", "queue == rx0 and outcome == used"
    )
    assert "queue == rx0" in repr(frame)


@pytest.mark.parametrize("table", TABLES)
def test_a_stretch_of_time_is_that_of_the_verb(path, table, printed):
    recording = api.open(path)
    start, span = recording.start_ns, recording.duration.value
    since, until = span // 4, span // 2
    wanted = printed(table, path, "--since", f"{since}ns", "--until", f"{until}ns")
    frame = getattr(recording, table)
    wall = recording.start + pandas.Timedelta(since, "ns")
    for one, other in (
        (f"{since}ns", f"{until}ns"),
        (start + since, start + until),
        (pandas.Timedelta(since, "ns"), pandas.Timedelta(until, "ns")),
        (wall, recording.start + pandas.Timedelta(until, "ns")),
    ):
        assert plain(frame.between(one, other).to_pandas()) == wanted


def test_the_table_of_queues_of_a_stretch(told, vtrace):
    wanted = json.loads(vtrace("report", told, "--since", "1us", "--json").out)["queues"]
    rows = plain(api.open(told).queues.between("1us").to_pandas())
    assert [row["chains"] for row in rows] == [row["chains"] for row in wanted]


@pytest.mark.parametrize("size", [33, 10_000])
def test_chunks_are_the_frame_in_parts(busy, size):
    frame = api.open(busy).packets
    whole = frame.to_pandas()
    parts = list(frame.chunks(size))
    assert all(len(part) == size for part in parts[:-1])
    assert [row for part in parts for row in plain(part)] == plain(whole)
    assert [row for part in parts for row in part.index] == list(whole.index)
    assert [(part.dtypes.astype(str) == whole.dtypes.astype(str)).all() for part in parts]


@pytest.mark.parametrize("table", [*TABLES, "queues"])
def test_types_are_the_same_whatever_is_in_it(table, root, told):
    full = getattr(api.open(told), table)
    other = getattr(api.open(root / "examples" / "traces" / "blockio.vtrace"), table)
    kinds = full.to_pandas().dtypes.astype(str)
    assert (kinds == other.to_pandas().dtypes.astype(str)).all()
    assert (kinds == full.dtypes.astype(str)).all()
    assert set(kinds) <= {"Int16", "Int32", "Int64", "UInt64", "boolean", "category"}
    for column in SCHEMAS[table].columns:
        if column.unit == "ns":
            assert kinds[column.name] == "Int64"
        if column.values:
            known = full.to_pandas()[column.name].cat.categories
            assert list(known)[: len(column.values)] == list(column.values)


def test_a_difference_may_be_negative(told):
    frame = api.open(told).lifecycles.where("seen(pop_ns) and seen(used_ns)").to_pandas()
    assert len(frame)
    assert (frame.pop_ns - frame.used_ns <= 0).all()
    assert ((frame.pop_ns - frame.used_ns) < 0).any()
    assert (-(frame.pop_ns - frame.used_ns) == frame.service_ns).all()


def test_it_looks_like_a_frame(told, printed):
    frame = api.open(told).drops
    assert list(frame) == list(frame.columns) == list(SCHEMAS["drops"].names)
    assert "reason" in frame
    assert "outcome" not in frame
    assert frame["reason"].tolist() == [row["reason"] for row in printed("drops", told)]
    sizes = frame.groupby("reason").size()
    assert sizes.sum() == frame.count()
    assert list(frame[["queue", "reason"]].columns) == ["queue", "reason"]
    with pytest.raises(UsageError, match="did you mean reason"):
        frame["reasn"]
    with pytest.raises(UsageError, match="no column 'outcome'"):
        frame[["reason", "outcome"]]
    with pytest.raises(AttributeError, match=r"to_pandas\(\) reads it"):
        frame.merge  # noqa: B018
    with pytest.raises(AttributeError, match=r'the column is \["reason"\]'):
        frame.reason  # noqa: B018
    with pytest.raises(FilterError, match="did you mean reason"):
        frame.where("reasn == FULL_RING")
    with pytest.raises(UsageError, match="expected 1 or more"):
        frame.chunks(0)


@pytest.mark.parametrize("when", ["soon", 1.5, True, pandas.NaT, -1, None.__class__])
def test_what_is_no_time_is_said(told, when):
    with pytest.raises(UsageError, match="time"):
        api.open(told).drops.between(when)


def test_a_time_without_a_zone_is_refused(told):
    with pytest.raises(UsageError, match="has no time zone"):
        api.open(told).drops.between(pandas.Timestamp("2026-08-21 12:00"))


def test_other_libraries_take_a_frame_as_it_is(busy):
    frame = api.open(busy).packets[["queue", "verdict", "frame_bytes"]].where("queue == rx0")
    taken = polars.DataFrame(frame)
    wanted = frame.to_pandas()
    assert taken.shape == wanted.shape
    assert taken["frame_bytes"].to_list() == [row["frame_bytes"] for row in plain(wanted)]
    assert taken["verdict"].cast(polars.String).to_list() == wanted["verdict"].tolist()


# Push-down


def test_nothing_is_read_before_it_is_asked_for(busy, decoded):
    recording = api.open(busy)
    frame = recording.lifecycles.where("queue == rx0").between("10us")[["queue"]]
    assert repr(frame)
    assert recording.loss is not None
    assert recording.metadata["queues"]
    assert recording.duration.value > 0
    assert list(frame.columns) == ["queue"]
    assert decoded == []
    frame.count()
    assert decoded


def test_batches_outside_of_the_time_are_not_decoded(root, decoded):
    recording = api.open(root / "examples" / "traces" / "starving.vtrace")
    recording.packets.count()
    whole = len(decoded)
    decoded.clear()
    recording.packets.between("0ns", "10ms").count()
    assert 0 < len(decoded) < whole / 2


def test_the_first_rows_need_the_first_batches(busy, decoded):
    recording = api.open(busy)
    recording.lifecycles.count()
    whole = len(decoded)
    decoded.clear()
    assert len(recording.lifecycles.head(3)) == 3
    assert len(decoded) < whole
    decoded.clear()
    assert recording.lifecycles
    assert len(decoded) < whole


def test_batches_without_an_exit_are_not_decoded_for_exits(root, decoded):
    recording = api.open(root / "examples" / "traces" / "blockio.vtrace")
    assert recording.exits.empty
    assert decoded == []
    recording = api.open(root / "examples" / "traces" / "quiet.vtrace")
    assert recording.exits.count() > 0
    some = len(decoded)
    decoded.clear()
    recording.lifecycles.count()
    assert 0 < some < len(decoded)


def test_without_drops_nothing_is_decoded_for_them(root, decoded):
    assert api.open(root / "examples" / "traces" / "quiet.vtrace").drops.empty
    assert decoded == []


def test_captured_bytes_are_read_only_for_what_is_made_of_them(busy, decoded):
    recording = api.open(busy)
    for frame, bytes_too in (
        (recording.lifecycles[["queue", "service_ns"]], False),
        (recording.lifecycles[["queue", "flow"]], True),
        (recording.lifecycles[["queue"]].where("udp.dport == 7001"), True),
        (recording.lifecycles[["queue"]].where("frame.len > 60"), False),
        (recording.packets[["verdict", "frame_bytes"]], False),
        (recording.packets[["verdict", "dport"]], True),
        (recording.drops[["reason"]], False),
        (recording.drops[["reason", "flow"]], True),
        (recording.exits, False),
    ):
        decoded.clear()
        assert len(frame.to_pandas())
        assert {columns is None or "bytes" in columns for columns in decoded} == {bytes_too}
    # The same values either way.
    whole = recording.packets.to_pandas()
    narrow = recording.packets[["verdict", "frame_bytes", "position"]].to_pandas()
    assert plain(narrow) == plain(whole[["verdict", "frame_bytes", "position"]])
