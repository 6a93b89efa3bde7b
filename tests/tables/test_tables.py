"""Tables: schemas that hold together, values that say when they are missing."""

import json

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from parsers import wire
from parsers.batch import Metadata
from tests.tables.frames import drop, names, rows_of
from vtrace.model import STAGES, TIME_COLUMNS, Flag, Kind
from vtrace.tables import (
    DROPS,
    EXITS,
    LIFECYCLES,
    PACKETS,
    SCHEMAS,
    Names,
    Type,
    drops_table,
    exits_table,
    packets_table,
)
from vtrace.tables.human import count_text, duration_text, seconds_text, size_text

UDP_FRAME = bytes(
    Ether(src="52:54:00:12:34:56", dst="0a:12:f0:11:22:33")
    / IP(src="10.9.0.1", dst="10.9.0.2")
    / UDP(sport=5001, dport=7001)
)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_schemas_hold_together(schema):
    assert len(set(schema.names)) == len(schema.names)
    for column in schema.columns:
        assert column.meaning
        assert "\n" not in column.meaning
        assert not column.state or column.state in schema
        if column.name.endswith("_ns"):
            assert column.unit == "ns"
        if column.name.endswith("_bytes"):
            assert column.unit == "bytes"


def test_lifecycles_have_the_times_and_stages_of_the_model():
    for name in TIME_COLUMNS:
        assert LIFECYCLES.column(name).state == name.removesuffix("_ns") + "_state"
    for stage in STAGES:
        assert f"{stage}_ns" in LIFECYCLES


def test_packets_in_plain_values():
    table = packets_table(rows_of([UDP_FRAME, b""]), names())
    first, second = table.rows()
    assert tuple(first) == PACKETS.names
    assert first["src"] == "10.9.0.1"
    assert first["eth_dst"] == "0a:12:f0:11:22:33"
    assert first["flow"] == "UDP 10.9.0.1:5001 > 10.9.0.2:7001"
    assert (first["vm"], first["queue"], first["direction"]) == ("cpx", "rx0", "rx")
    assert first["verdict"] == "waiting"
    assert first["reason"] is None
    assert second["flow"] is None
    assert second["sport"] is None
    assert second["frame_bytes"] is None
    json.dumps([first, second])


def test_drops_have_the_names_of_the_kernel():
    rows = rows_of([UDP_FRAME, UDP_FRAME])
    drop(rows, 0, 67, 4)
    drop(rows, 1, 99, 5)
    first, second = drops_table(rows, names()).rows()
    assert tuple(first) == DROPS.names
    assert (first["reason"], first["location"]) == ("FULL_RING", "tun_net_xmit")
    assert (second["reason"], second["location"]) == ("99", "place 5")
    assert second["reason_code"] == 99


def test_a_queue_that_nobody_named():
    rows = rows_of([UDP_FRAME])
    rows["queue"] = 4711
    (row,) = packets_table(rows, names()).rows()
    assert (row["vm"], row["device"], row["queue"]) == (None, None, None)
    assert (row["queue_id"], row["direction"]) == (4711, "none")


def test_exits_of_both_vendors():
    columns = {name: np.zeros(2, kind) for name, (kind, _) in wire.COLUMNS.items()}
    columns["kind"][:] = Kind.EXIT
    columns["ret"][:] = 49, 0x400
    columns["flags"][1] = Flag.SVM
    columns["tid"][:] = 7, 8
    metadata = Metadata()
    metadata.update({"threads": {"7": {"vm": "cpx", "vcpu": 3}}})
    first, second = exits_table(columns, Names(metadata)).rows()
    assert tuple(first) == EXITS.names
    assert (first["reason"], first["isa"], first["vm"], first["vcpu"]) == (
        *("EPT_MISCONFIG", "vmx", "cpx", 3),
    )
    assert (second["reason"], second["isa"], second["vm"], second["vcpu"]) == (
        *("NPF", "svm", None, None),
    )


def test_columns_are_made_once_and_when_needed():
    table = packets_table(rows_of([UDP_FRAME] * 3), names())
    assert table["sport"] is table["sport"]
    part = table.take(np.array([False, True, True]))
    assert len(part) == 2
    assert part["packet"].to_list(Type.INTEGER) == [2, 3]
    assert len(table.head(1)) == 1
    assert table.head(9) is table


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0ns"),
        (999, "999ns"),
        (1000, "1.00us"),
        (9994, "9.99us"),
        (9995, "10.0us"),
        (99_950, "100us"),
        (999_499, "999us"),
        (999_500, "1.00ms"),
        (1_250_000_000, "1.25s"),
        (7_200_000_000_000, "7200s"),
        (-1500, "-1.50us"),
    ],
)
def test_durations(ns, text):
    assert duration_text(ns) == text


def test_sizes_and_counts():
    assert [size_text(n) for n in (0, 999, 1000, 1_254_000, 10**15)] == [
        *("0 B", "999 B", "1.00 kB", "1.25 MB", "1.00 PB"),
    ]
    assert count_text(1912) == "1,912"
    assert seconds_text(1_250_999_999) == "1.250 s"
