"""Order: what both rings hold becomes batches sorted by (time, cpu, seq), with nothing missing."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers import wire
from probes.merge import Merger

SNAP = 32
PACKET = wire.packet_dtype(SNAP)


def events(*rows):
    """Return records of (time, cpu, seq)."""
    made = np.zeros(len(rows), wire.RECORD)
    for name, column in zip(("time", "cpu", "seq"), zip(*rows, strict=True), strict=False):
        made[name] = column
    return made


def packets(*rows, captured=None):
    """Return packet records of (time, cpu, seq); the snap says which one it belongs to."""
    made = np.zeros(len(rows), PACKET)
    made["record"] = events(*rows)
    for index, (time, cpu, seq) in enumerate(rows):
        size = (time + cpu + seq) % (SNAP + 1) if captured is None else captured
        made["snap"]["captured"][index] = size
        made["snap"]["gso_size"][index] = seq & 0xFFFF
        made["bytes"][index] = (time + 3 * cpu + 5 * seq + np.arange(SNAP)) & 0xFF
    return made


NO_EVENTS, NO_PACKETS = np.empty(0, wire.RECORD), np.empty(0, PACKET)


def keys(batch):
    return list(
        zip(batch["time"].tolist(), batch["cpu"].tolist(), batch["seq"].tolist(), strict=True)
    )


def snap_rows(batch):
    """Return [(key of the row, captured bytes, gso_size)] of a batch's snaps."""
    order = keys(batch)
    return [
        (order[row], batch.snaps.bytes_of(index), int(batch.snaps.header["gso_size"][index]))
        for index, row in enumerate(batch.snaps.rows.tolist())
    ]


def expected_snap(packet):
    key = tuple(int(packet["record"][name]) for name in ("time", "cpu", "seq"))
    size = int(packet["snap"]["captured"])
    return key, packet["bytes"][:size].tobytes(), int(packet["snap"]["gso_size"])


def test_nothing():
    merger = Merger(SNAP)
    for drained in (0, 10**9, None):
        batch = merger.flush(drained)
        assert (len(batch), len(batch.snaps)) == (0, 0)
        assert set(batch.columns) == set(wire.COLUMNS)
    assert (merger.held, merger.late) == (0, 0)


def test_order_is_time_then_cpu_then_seq():
    rows = [(5, 0, 9), (5, 1, 1), (4, 1, 7), (5, 0, 2), (5, 1, 0), (4, 0, 8)]
    merger = Merger(SNAP)
    merger.add(events(*rows[:3]), packets(*rows[3:]))
    assert keys(merger.flush(None)) == sorted(rows)


@pytest.mark.parametrize("only", ["events", "packets"])
def test_one_ring_alone(only):
    rows = [(9, 0, 2), (3, 1, 1), (3, 0, 1)]
    merger = Merger(SNAP)
    if only == "events":
        merger.add(events(*rows), NO_PACKETS)
    else:
        merger.add(NO_EVENTS, packets(*rows))
    batch = merger.flush(None)
    assert keys(batch) == sorted(rows)
    assert len(batch.snaps) == (0 if only == "events" else 3)


def test_snaps_follow_their_rows():
    with_bytes = [(7, 1, 4), (1, 0, 1), (7, 0, 30), (3, 0, 2)]
    merger = Merger(SNAP)
    taken = packets(*with_bytes)
    merger.add(events((2, 0, 5), (7, 0, 31), (0, 1, 1)), taken[:2])
    merger.add(NO_EVENTS, taken[2:])
    batch = merger.flush(None)
    assert batch.snaps.rows.tolist() == sorted(batch.snaps.rows.tolist())
    assert snap_rows(batch) == sorted(map(expected_snap, taken))


def test_captured_is_never_more_than_the_area():
    merger = Merger(SNAP)
    merger.add(NO_EVENTS, packets((1, 0, 1), (2, 0, 2), captured=60_000))
    batch = merger.flush(None)
    assert [len(batch.snaps.bytes_of(index)) for index in range(2)] == [SNAP, SNAP]


def test_bytes_behind_those_captured_do_not_leave():
    merger = Merger(SNAP)
    merger.add(NO_EVENTS, packets((1, 0, 1), (2, 0, 2), captured=5))
    assert len(merger.flush(None).snaps.data) == 10


def test_the_rings_memory_is_not_kept():
    first, second = events((1, 0, 1)), packets((2, 0, 2))
    merger = Merger(SNAP)
    merger.add(first, second)
    first["time"], second["record"]["time"] = 77, 78
    assert merger.flush(None)["time"].tolist() == [1, 2]


def test_the_watermark_holds_back():
    merger = Merger(SNAP, slack_ns=100)
    merger.add(events((10, 0, 1), (900, 0, 2), (899, 1, 1)), packets((950, 0, 3), (20, 1, 2)))
    assert merger.held == 5
    assert len(merger.flush(50)) == 0
    assert keys(merger.flush(1000)) == [(10, 0, 1), (20, 1, 2), (899, 1, 1)]
    assert merger.held == 2
    assert keys(merger.flush(1001)) == [(900, 0, 2)]
    batch = merger.flush(None)
    assert keys(batch) == [(950, 0, 3)]
    assert snap_rows(batch)[0][0] == (950, 0, 3)
    assert (merger.held, merger.late) == (0, 0)


def test_late_records_are_counted_and_delivered():
    merger = Merger(SNAP, slack_ns=0)
    merger.add(events((100, 0, 1)), NO_PACKETS)
    merger.flush(200)
    merger.add(events((150, 1, 1), (200, 1, 2), (210, 1, 3)), packets((199, 0, 2)))
    assert keys(merger.flush(300)) == [(150, 1, 1), (199, 0, 2), (200, 1, 2), (210, 1, 3)]
    assert merger.late == 2
    merger.add(events((299, 0, 3), (300, 0, 4)), NO_PACKETS)
    assert keys(merger.flush(None)) == [(299, 0, 3), (300, 0, 4)]
    assert merger.late == 3


def test_the_watermark_does_not_go_back():
    merger = Merger(SNAP, slack_ns=0)
    merger.flush(500)
    merger.flush(100)
    merger.add(events((300, 0, 1)), NO_PACKETS)
    assert len(merger.flush(None)) == 1
    assert merger.late == 1


@pytest.mark.parametrize("uptime_ns", [2**53 + 1, 2**60, 2**63 + 2**40])
def test_late_is_exact_after_a_long_uptime(uptime_ns):
    # A float has 53 bits: 104 days of nanoseconds.
    merger = Merger(SNAP, slack_ns=0)
    merger.flush(uptime_ns)
    rows = [(uptime_ns + step, 0, 100 + step) for step in range(-3, 4)]
    merger.add(events(*rows), NO_PACKETS)
    assert keys(merger.flush(None)) == rows
    assert merger.late == 3


KEYS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.booleans()), max_size=40)
CUTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 80)), max_size=6)


@given(rows=KEYS, cuts=CUTS, slack=st.integers(0, 20))
def test_any_split_gives_the_same_rows(rows, cuts, slack):
    made = [(time, cpu, seq) for seq, (time, cpu, _) in enumerate(rows)]
    in_packets = [is_packet for _, _, is_packet in rows]
    merger = Merger(SNAP, slack_ns=slack)
    given_out, snaps = [], []
    late, watermark = 0, 0

    def flush(drained):
        nonlocal late, watermark
        batch = merger.flush(drained)
        order = keys(batch)
        assert order == sorted(order)
        late += sum(time < watermark for time, _, _ in order)
        if drained is not None:
            assert all(time < max(0, drained - slack) for time, _, _ in order)
            watermark = max(watermark, drained - slack)
        given_out.extend(order)
        snaps.extend(snap_rows(batch))
        assert merger.held + len(given_out) == fed

    fed = 0
    for end, drained in [*sorted(cuts), (len(made), None)]:
        end = min(end, len(made))
        part = list(zip(made[fed:end], in_packets[fed:end], strict=True))
        merger.add(
            events(*[row for row, is_packet in part if not is_packet]),
            packets(*[row for row, is_packet in part if is_packet]),
        )
        fed = max(fed, end)
        flush(drained)
    assert Counter(given_out) == Counter(made)
    assert merger.late == late
    expected = packets(*[row for row, is_packet in zip(made, in_packets, strict=True) if is_packet])
    assert Counter(snaps) == Counter(map(expected_snap, expected))
