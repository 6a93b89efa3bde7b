"""The reading end of a ring over plain memory that is filled as the kernel fills it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsers import wire
from probes.ring import slot_dtype
from tests.probes.kernelring import KernelRing, event

RECORD = wire.RECORD
STRIDE = 72


def seqs(view):
    return view["seq"].tolist()


def drain(ring):
    view, whole = ring.take()
    rows = view.copy()
    ring.release()
    return rows, whole


@pytest.mark.parametrize("snap", [None, 16, 100, 101, 128, 256])
def test_slot_is_header_and_record_rounded_up(snap):
    record = RECORD if snap is None else wire.packet_dtype(snap)
    slot = slot_dtype(record)
    assert slot.itemsize % 8 == 0
    assert record.itemsize + 8 <= slot.itemsize < record.itemsize + 16
    kernel = KernelRing(4096, record)
    ring = kernel.reader()
    for seq in range(5):
        assert kernel.put(event(seq, record))
    rows, whole = drain(ring)
    assert whole
    assert rows.tobytes() == b"".join(event(seq, record).tobytes() for seq in range(5))


def test_an_empty_ring_gives_an_empty_view():
    ring = KernelRing(1024, RECORD).reader()
    for _ in range(2):
        view, whole = ring.take()
        assert (len(view), whole) == (0, True)
        assert view.dtype == RECORD
        ring.release()
    assert ring.pending_bytes == 0


def test_every_byte_arrives():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    kernel.put(event(3))
    kernel.put(event(4))
    rows, _ = drain(ring)
    assert rows.tobytes() == event(3).tobytes() + event(4).tobytes()


def test_a_view_is_no_copy():
    kernel = KernelRing(1024, RECORD)
    kernel.put(event(1))
    view, _ = kernel.reader().take()
    assert np.shares_memory(view, kernel.data)


def test_a_busy_record_ends_the_view_and_appears_later():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    kernel.put(event(1))
    second = kernel.reserve()
    kernel.put(event(3))
    view, whole = ring.take()
    assert (seqs(view), whole) == ([1], False)
    ring.release()
    assert ring.pending_bytes == 2 * STRIDE
    assert drain(ring)[1] is False
    kernel.commit(second, event(2))
    view, whole = ring.take()
    assert (seqs(view), whole) == ([2, 3], True)
    ring.release()
    assert ring.pending_bytes == 0


def test_a_record_committed_after_take_waits_for_the_next():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    kernel.put(event(1))
    second = kernel.reserve()
    view, _ = ring.take()
    kernel.commit(second, event(2))
    kernel.put(event(3))
    assert seqs(view) == [1]
    ring.release()
    assert seqs(drain(ring)[0]) == [2, 3]


def test_discarded_records_are_masked_and_counted():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    for seq in range(6):
        kernel.put(event(seq), discard=seq in (0, 3, 5))
    view, whole = ring.take()
    assert (seqs(view), whole) == ([1, 2, 4], True)
    ring.release()
    assert (ring.discarded, ring.pending_bytes) == (3, 0)


def test_only_discarded_records():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    for seq in range(4):
        kernel.put(event(seq), discard=True)
    view, whole = ring.take()
    assert (len(view), whole) == (0, True)
    ring.release()
    assert (ring.discarded, ring.pending_bytes) == (4, 0)


def test_take_twice_takes_the_same():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    kernel.put(event(1), discard=True)
    kernel.put(event(2))
    assert seqs(ring.take()[0]) == [2]
    kernel.put(event(3))
    assert seqs(ring.take()[0]) == [2, 3]
    ring.release()
    assert ring.discarded == 1
    ring.release()
    assert (ring.discarded, ring.pending_bytes) == (1, 0)


def test_wraps_at_every_alignment():
    # Positions are multiples of 8: a record can lie across the end in each of nine ways.
    size = 1024
    for start in range(0, size, 8):
        kernel = KernelRing(size, RECORD, start)
        ring = kernel.reader()
        seq = 0
        for _ in range(3):
            first = seq
            while kernel.put(event(seq)):
                seq += 1
            rows, whole = drain(ring)
            assert whole
            assert rows.tobytes() == b"".join(event(n).tobytes() for n in range(first, seq))
            assert seq - first == (size - 1) // STRIDE


@pytest.mark.parametrize("start", [2**32 - 40, 2**53 - 8, 2**63 - 512])
def test_positions_are_64_bits(start):
    kernel = KernelRing(1024, RECORD, start)
    ring = kernel.reader()
    for first in range(0, 50, 10):
        for seq in range(first, first + 10):
            assert kernel.put(event(seq))
        assert seqs(drain(ring)[0]) == list(range(first, first + 10))
    assert int(kernel.consumer[0]) == start + 50 * STRIDE


def test_a_reader_that_comes_late_starts_where_the_last_one_stopped():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    kernel.put(event(1))
    drain(ring)
    kernel.put(event(2))
    assert seqs(drain(kernel.reader())[0]) == [2]


def test_a_full_ring_refuses_and_loses_nothing_that_it_took():
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    produced = lost = received = 0
    for turn in range(7):
        for _ in range(5 * turn):
            lost += not kernel.put(event(produced))
            produced += 1
        view, _ = ring.take()
        # What is not released is not overwritten, however long it takes.
        before = view.tobytes()
        for _ in range(20):
            lost += not kernel.put(event(produced))
            produced += 1
        assert view.tobytes() == before
        received += len(view)
        ring.release()
    received += len(drain(ring)[0])
    assert lost > 0
    assert (produced, ring.pending_bytes) == (received + lost, 0)


def test_a_busy_record_holds_the_ring():
    # Its place cannot be given out again: the kernel refuses, the reader sees nothing behind it.
    kernel = KernelRing(1024, RECORD)
    ring = kernel.reader()
    busy = kernel.reserve()
    taken = sum(kernel.put(event(seq)) for seq in range(1, 40))
    assert taken == 1023 // STRIDE - 1
    assert len(drain(ring)[0]) == 0
    kernel.commit(busy, event(0))
    assert seqs(drain(ring)[0]) == list(range(taken + 1))


OPERATIONS = st.lists(
    st.one_of(
        st.sampled_from(["reserve", "take", "release", "drain"]),
        st.tuples(st.sampled_from(["submit", "discard"]), st.integers(0, 7)),
    ),
    max_size=60,
)


@given(operations=OPERATIONS, start=st.integers(0, 127), size=st.sampled_from([256, 512, 1024]))
def test_any_interleaving_delivers_every_submitted_record_once_in_order(operations, start, size):
    kernel = KernelRing(size, RECORD, start * 8)
    ring = kernel.reader()
    open_records, discarded, delivered = [], set(), []
    reserved = 0
    view, seen = None, b""

    def take():
        nonlocal view, seen
        view, whole = ring.take()
        seen = view.tobytes()
        oldest = min((start for _, start in open_records), default=None)
        assert whole == (oldest is None)

    def release():
        nonlocal view
        if view is not None:
            assert view.tobytes() == seen
            delivered.extend(view["seq"].tolist())
        view = None
        ring.release()

    def commit(how, which):
        if open_records:
            seq, place = open_records.pop(which % len(open_records))
            kernel.commit(place, event(seq), discard=how == "discard")
            if how == "discard":
                discarded.add(seq)

    for operation in operations:
        if operation == "reserve":
            place = kernel.reserve()
            if place is not None:
                open_records.append((reserved, place))
                reserved += 1
        elif operation == "take":
            take()
        elif operation == "release":
            release()
        elif operation == "drain":
            take()
            release()
        else:
            commit(*operation)
    while open_records:
        commit("submit", 0)
    take()
    release()
    assert delivered == [seq for seq in range(reserved) if seq not in discarded]
    assert ring.discarded == len(discarded)
    assert ring.pending_bytes == 0
