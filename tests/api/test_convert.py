"""What a file or a guest may have put there becomes a frame all the same."""

import contextlib

import numpy as np
import pandas
import pytest

import vtrace as api
from tests.api.conftest import plain
from vtrace.api.convert import Rows
from vtrace.tables import REQUESTS, SCHEMAS, Table, Values

MOST = (1 << 64) - 1


def rows_of(*tables):
    names = tables[0]
    rows = Rows([REQUESTS.column(name) for name in names])
    for values in tables[1:]:
        count = len(next(iter(values.values())).data)
        rows.add(Table(REQUESTS, count, {name: (lambda v=v: v) for name, v in values.items()}))
    return rows.frame()


def test_numbers_at_the_edge():
    data = np.array([0, 1 << 63, MOST, (1 << 63) - 1], np.uint64)
    frame = rows_of(["tag", "pop_ns"], {"tag": Values(data), "pop_ns": Values(data)})
    assert frame["tag"].tolist() == data.tolist()
    # No clock goes that far; it is not a negative time.
    assert plain(frame[["pop_ns"]]) == [{"pop_ns": one} for one in (0, None, None, (1 << 63) - 1)]


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8"])
def test_every_value_of_a_width_fits(kind):
    most = np.iinfo(np.dtype(kind)).max
    for table in SCHEMAS.values():
        for column in table.columns:
            if column.type == "integer" and column.numpy == kind and kind != "u8":
                rows = Rows([column])
                values = Values(np.array([0, most], kind))
                rows.add(Table(table, 2, {column.name: lambda v=values: v}))
                assert rows.frame()[column.name].tolist() == [0, most]


def test_texts_that_no_encoding_has_and_texts_with_two_codes():
    pool = ["", "web1", "half \ud800", "web1", "=cmd()"]
    codes = np.array([1, 2, 3, 4, 0], np.uint32)
    frame = rows_of(["vm"], {"vm": Values(codes, codes != 0, pool)})
    assert plain(frame) == [
        {"vm": text} for text in ("web1", "half \\ud800", "web1", "=cmd()", None)
    ]
    assert list(frame["vm"].cat.categories) == ["web1", "half \\ud800", "=cmd()"]
    assert pandas.DataFrame(frame).to_csv().count("web1") == 2


def test_codes_of_one_pool_and_of_another():
    one = Values(np.array([0, 1], np.uint32), None, ["OK", "IOERR"])
    other = Values(np.array([0, 1], np.uint32), None, ["IOERR", "UNSUPP"])
    frame = rows_of(["status"], {"status": one}, {"status": other})
    assert frame["status"].tolist() == ["OK", "IOERR", "IOERR", "UNSUPP"]


def test_no_rows_at_all():
    frame = Rows(REQUESTS.columns).frame()
    assert frame.shape == (0, len(REQUESTS.columns))
    assert list(frame["outcome"].cat.categories) == list(REQUESTS.column("outcome").values)


def test_a_damaged_file_is_a_frame_or_a_sentence(busy, tmp_path):
    # Bytes turned over anywhere: rows, or a VtraceError, and no other exception.
    data = busy.read_bytes()
    random = np.random.default_rng(5)
    read = 0
    for number in range(24):
        hurt = bytearray(data)
        for at in random.integers(0, len(data), 1 + number % 8).tolist():
            hurt[at] ^= 1 << int(random.integers(0, 8))
        path = tmp_path / "hurt.vtrace"
        path.write_bytes(hurt[: len(hurt) if number % 3 else int(random.integers(1, len(hurt)))])
        with contextlib.suppress(api.VtraceError):
            recording = api.open(path)
            for table in SCHEMAS:
                getattr(recording, table).where("missing(vm) or seen(vm)").to_pandas()
            assert recording.duration is not None
            assert repr((recording.start, recording.loss, recording.damage))
            read += 1
    # Most have a batch or two less.
    assert read > 6
