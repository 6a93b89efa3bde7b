"""The ring state machine on streams of a few records, written by hand."""

import numpy as np
import pytest

from parsers import wire
from parsers.batch import EventBatch
from vtrace.lifecycle import LifecycleTable, Tracker
from vtrace.model import Flag, Kind, Outcome, Queue, TimeState, Trust

RX, TX = 1, 2
QUEUES = {
    RX: Queue(id=RX, direction="rx", size=8),
    TX: Queue(id=TX, direction="tx", size=8),
}
SEEN, SHARED, SUPPRESSED, NOT_APPLICABLE, NOT_PROBED, LOST = TimeState
RING = Flag.AVAIL | Flag.EVENT | Flag.EVENT_IDX | Flag.POSITION | Flag.USED


class Stream:
    """Records, one every 100 ns on CPU 0 but where a test says otherwise."""

    def __init__(self):
        self.rows = []
        self.now = 1000
        self.seq = {}

    def add(self, kind, queue=RX, *, at=None, cpu=0, **fields):
        self.now = at if at is not None else self.now + 100
        row = np.zeros(1, wire.RECORD)
        row["time"], row["kind"], row["queue"], row["cpu"] = self.now, kind, queue, cpu
        row["seq"] = self.seq.get(cpu, 0)
        self.seq[cpu] = int(row["seq"][0]) + 1
        for name, value in fields.items():
            row[name] = value
        self.rows.append(row)
        return self.now

    def lose(self, count=1, cpu=0):
        self.seq[cpu] = self.seq.get(cpu, 0) + count

    def pop(self, position, head=None, queue=RX, avail=None, **fields):
        head = position % 8 if head is None else head
        room = {} if queue == TX else {"room": 1500}
        flags = RING if avail is not None else Flag.POSITION
        return self.add(
            Kind.POP, queue, position=position & 0xFFFF, head=head, count=1, flags=flags,
            avail=(avail or 0) & 0xFFFF, **(room | fields),
        )  # fmt: skip

    def used(self, *heads, first, queue=RX, length=60, signal=1):
        self.now += 100
        for n, head in enumerate(heads):
            self.add(
                Kind.USED, queue, at=self.now, head=head, used=(first + n) & 0xFFFF,
                count=len(heads), length=length, flags=Flag.USED,
            )  # fmt: skip
        self.add(
            Kind.SIGNAL, queue, ret=signal, used=(first + len(heads)) & 0xFFFF, flags=Flag.USED
        )
        if signal:
            self.add(Kind.IRQ, queue)

    def batch(self, meta=None):
        batch = EventBatch.from_records(np.concatenate(self.rows))
        batch.meta = meta or {}
        return batch


@pytest.fixture
def stream():
    return Stream()


def track(stream, meta=None, **options):
    tracker = Tracker(QUEUES, **options)
    table = LifecycleTable.concat([tracker.feed(stream.batch(meta)), tracker.finish()])
    return table, tracker


def lost(count):
    return {"counts": {"POP": {"produced": count, "received": 0, "lost": count}}}


def test_a_received_packet(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    enqueue = stream.add(Kind.ENQUEUE, packet=7, length=60)
    wake = stream.add(Kind.WAKE, flags=Flag.SOCKET)
    run = stream.add(Kind.RUN, flags=Flag.SOCKET)
    pop = stream.pop(0, avail=3, tid=42)
    recv = stream.add(Kind.RECV, packet=7, length=72, ret=72)
    stream.used(0, first=0, length=72)
    seen = stream.pop(1, avail=3, event=1)
    table, tracker = track(stream)
    row = {name: int(column[0]) for name, column in table.columns.items()}
    assert row["enqueue_ns"] == enqueue
    assert (row["wake_ns"], row["run_ns"], row["pop_ns"]) == (wake, run, pop)
    assert row["backend_ns"] == recv
    assert (row["used_ns"], row["signal_ns"], row["irq_ns"]) == (recv + 100, recv + 200, recv + 300)
    assert row["seen_ns"] == seen
    assert (row["packet"], row["used_bytes"], row["worker_tid"]) == (7, 72, 42)
    assert row["kick_state"] == NOT_APPLICABLE
    assert (row["outcome"], row["trust"]) == (Outcome.USED, Trust.COMPLETE)
    assert table["outcome"][1] == Outcome.IN_FLIGHT
    assert table["trust"][1] == Trust.PARTIAL
    stats = tracker.stats()[RX]
    assert (stats.chains, stats.complete, stats.partial, stats.in_flight) == (2, 1, 1, 1)
    assert stats.stages["service"].max_ns == 200


def test_one_packet_in_many_chains_and_the_batch_is_shared(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    stream.add(Kind.RUN, flags=Flag.SOCKET)
    stream.pop(0)
    stream.pop(1)
    stream.add(Kind.RECV, packet=7, length=2000, ret=2000)
    stream.pop(2)
    stream.add(Kind.RECV, packet=8, length=60, ret=60)
    stream.used(0, 1, 2, first=0)
    table, _ = track(stream)
    assert table["packet"].tolist() == [7, 7, 8]
    assert table["backend_state"].tolist() == [SEEN, SHARED, SEEN]
    assert table["signal_state"].tolist() == [SEEN, SHARED, SHARED]
    assert table["irq_state"].tolist() == [SEEN, SHARED, SHARED]
    assert table["run_state"].tolist() == [SEEN, SHARED, SHARED]
    assert table["wake_state"].tolist() == [NOT_APPLICABLE] * 3
    # Nobody saw these packets come: the recording began later.
    assert table["enqueue_state"].tolist() == [LOST] * 3
    assert set(table["trust"]) == {Trust.PARTIAL}
    assert len(set(table["batch"])) == 1


def test_sent_frames_join_by_their_place(stream):
    stream.add(Kind.START, TX, flags=Flag.POSITION | Flag.USED)
    kick = stream.add(Kind.KICK, TX, flags=RING, avail=2, tid=9)
    wake = stream.add(Kind.WAKE, TX)
    stream.add(Kind.RUN, TX)
    for position in range(3):
        stream.pop(position, queue=TX, avail=max(position + 1, 2), length=70)
    delivered = [stream.add(Kind.DELIVER, TX, packet=5 + n, count=n) for n in range(3)]
    stream.add(Kind.SEND, TX, count=3, flags=Flag.BATCH)
    stream.used(0, 1, 2, first=0, queue=TX, length=0, signal=0)
    table, tracker = track(stream)
    assert table["packet"].tolist() == [5, 6, 7]
    assert table["backend_ns"].tolist() == delivered
    assert table["kick_ns"].tolist() == [kick, kick, 0]
    assert table["kick_state"].tolist() == [SEEN, SHARED, SUPPRESSED]
    assert table["kick_tid"].tolist() == [9, 9, 0]
    assert table["wake_ns"].tolist() == [wake] * 3
    assert table["signal_state"].tolist() == [SUPPRESSED] * 3
    assert (table["signal_ns"] > 0).all()
    assert table["irq_ns"].tolist() == [0] * 3
    assert set(table["trust"]) == {Trust.COMPLETE}
    stats = tracker.stats()[TX]
    assert (stats.packets, stats.kicks.suppressed, stats.interrupts.suppressed) == (3, 1, 1)


def test_a_rejected_frame_leaves_the_batch_without_packets(stream):
    stream.add(Kind.START, TX, flags=Flag.POSITION | Flag.USED)
    stream.pop(0, queue=TX, length=70)
    stream.pop(1, queue=TX, length=70)
    stream.add(Kind.DELIVER, TX, packet=5, count=0)
    stream.add(Kind.SEND, TX, count=2, flags=Flag.BATCH)
    stream.used(0, 1, first=0, queue=TX)
    table, _ = track(stream)
    assert table["packet"].tolist() == [0, 0]
    assert table["backend_state"].tolist() == [LOST, LOST]
    assert not (table["trust"] == Trust.AMBIGUOUS).any()


def test_published_between_two_looks(stream):
    stream.add(Kind.START, TX, flags=Flag.POSITION | Flag.USED)
    before = stream.add(Kind.ENABLE, TX, flags=RING, avail=0)
    after = stream.add(Kind.KICK, TX, flags=RING, avail=1)
    last = stream.add(Kind.ENABLE, TX, flags=RING, avail=1)
    stream.pop(0, queue=TX)
    pop = stream.pop(1, queue=TX)
    table, _ = track(stream)
    assert table["avail_lo_ns"].tolist() == [before, last]
    assert table["avail_hi_ns"].tolist() == [after, pop]


def test_handed_back_and_popped_again(stream):
    stream.pop(0)
    stream.add(Kind.HAND_BACK, count=1, position=0, flags=Flag.POSITION)
    again = stream.pop(0)
    stream.pop(1)
    stream.add(Kind.HAND_BACK, count=1, position=1, flags=Flag.POSITION)
    table, tracker = track(stream)
    assert table["handed_back"].tolist() == [1, 1]
    assert table["pop_ns"][0] == again
    assert table["outcome"].tolist() == [Outcome.IN_FLIGHT, Outcome.DISCARDED]
    assert tracker.stats()[RX].handed_back == 2


def test_more_handed_back_than_was_popped(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    stream.pop(0)
    stream.add(Kind.HAND_BACK, count=1, position=0, flags=Flag.POSITION)
    # The return probe has missed the pop between.
    stream.add(Kind.HAND_BACK, count=1, position=0, flags=Flag.POSITION)
    stream.add(Kind.ENQUEUE, packet=7, length=60)
    stream.pop(0)
    stream.add(Kind.RECV, packet=7, ret=60, length=60)
    stream.used(0, first=0)
    table, _ = track(stream, {"loss": {"missed": 1}})
    assert table["trust"].tolist() == [Trust.AMBIGUOUS]


def test_a_failed_receive_joins_nothing(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    for packet in (7, 8):
        stream.add(Kind.ENQUEUE, packet=packet, length=60)
    stream.pop(0)
    # The return probe has missed the RECV of 7. vhost has no room for 8 and drops it.
    stream.pop(1)
    stream.add(Kind.HAND_BACK, count=1, position=1, flags=Flag.POSITION)
    stream.add(Kind.RECV, packet=8, ret=-22, length=1)
    stream.used(0, first=0)
    table, _ = track(stream, {"loss": {"missed": 1}})
    assert table["enqueue_ns"].tolist() == [0, 0]
    assert table["backend_ns"].tolist() == [0, 0]
    assert table["trust"][0] == Trust.AMBIGUOUS


def test_the_first_batch_may_have_begun_before_the_recording(stream):
    # Popped before it: a chain of 82 bytes. Of the two that are here, one is sent after the batch.
    stream.pop(1, queue=TX, length=92)
    stream.pop(2, queue=TX, length=5012)
    stream.add(Kind.DELIVER, TX, packet=7, count=0, length=70)
    stream.add(Kind.DELIVER, TX, packet=8, count=1, length=80)
    stream.add(Kind.SEND, TX, count=2, flags=Flag.BATCH)
    stream.add(Kind.DELIVER, TX, packet=9, count=0, length=5000)
    stream.add(Kind.SEND, TX, count=1)
    stream.used(0, 1, 2, first=0, queue=TX)
    table, _ = track(stream)
    assert table["packet"].tolist() == [0, 0]
    assert table["trust"].tolist() == [Trust.PARTIAL] * 2


def test_reset_begins_a_generation_and_resume_does_not(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    stream.pop(0)
    stream.add(Kind.START, position=1, used=0, flags=Flag.POSITION | Flag.USED)
    stream.pop(1)
    stream.add(Kind.START, position=0, used=0, flags=Flag.POSITION | Flag.USED)
    stream.pop(0)
    stream.add(Kind.STOP, position=1, used=0, flags=Flag.POSITION | Flag.USED)
    table, _ = track(stream)
    assert table["generation"].tolist() == [0, 0, 1]
    assert set(table["outcome"]) == {Outcome.RESET}


def test_positions_do_not_wrap(stream):
    for position in range(65534, 65540):
        stream.pop(position, head=position % 8)
        stream.used(position % 8, first=position)
    table, _ = track(stream)
    assert table["position"].tolist() == list(range(65534, 65540))
    assert not (table["trust"] == Trust.AMBIGUOUS).any()


def test_a_loss_on_record_makes_doubt(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    stream.pop(0)
    stream.lose()
    stream.used(0, first=0)
    at = stream.now + 10_000_000
    stream.add(Kind.RUN, at=at)
    stream.pop(1)
    stream.add(Kind.RECV, ret=60, length=60)
    stream.used(1, first=1)
    table, tracker = track(stream, lost(1))
    assert table["trust"].tolist() == [Trust.AMBIGUOUS, Trust.AMBIGUOUS]
    assert tracker.missing == 1
    # The same gap where nothing is on record as lost: a filter has left a row out.
    table, tracker = track(stream, lost(0))
    assert not (table["trust"] == Trust.AMBIGUOUS).any()
    assert tracker.missing == 0


def test_after_a_loss_a_used_head_may_be_another_chain(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    stream.pop(0, head=3)
    stream.lose(4)
    # The head came back, and was popped and used again: of that, only this was recorded.
    stream.used(3, first=1)
    table, _ = track(stream, lost(4))
    assert table["used_ns"].tolist() == [0]
    assert table["trust"].tolist() == [Trust.AMBIGUOUS]


def test_marked_gap(stream):
    tracker = Tracker(QUEUES)
    stream.pop(0)
    tracker.feed(stream.batch())
    tracker.mark_gap()
    rest = Stream()
    rest.now = stream.now
    rest.used(0, first=0)
    tracker.feed(rest.batch())
    assert tracker.finish()["trust"].tolist() == [Trust.AMBIGUOUS]


def test_not_probed(stream):
    stream.pop(0)
    stream.used(0, first=0)
    table, _ = track(stream, not_probed=["irq", "wake_ns", "seen_ns"])
    assert table["irq_state"].tolist() == [NOT_PROBED]
    assert table["wake_state"].tolist() == [NOT_PROBED]
    assert table["irq_ns"].tolist() == [0]


def test_used_event_says_what_the_driver_took(stream):
    stream.add(Kind.START, flags=Flag.POSITION | Flag.USED)
    for position in range(4):
        stream.pop(position)
    stream.used(0, 1, 2, 3, first=0)
    # 0 is what a driver writes to ask for none; 2: it took two; 6 cannot be.
    stream.add(Kind.EMPTY, position=4, flags=RING, avail=4, event=0)
    stream.add(Kind.EMPTY, position=4, flags=RING, avail=4, event=6)
    two = stream.add(Kind.EMPTY, position=4, flags=RING, avail=4, event=2)
    table, tracker = track(stream)
    assert table["seen_ns"].tolist() == [two, two, 0, 0]
    assert table["seen_state"].tolist() == [SEEN, SHARED, LOST, LOST]
    assert tracker.stats()[RX].starved == 3


def test_unknown_queue_grows_with_its_heads(stream):
    for position in range(3):
        stream.pop(position, head=position * 10_000, queue=77)
    stream.used(0, 10_000, 20_000, first=0, queue=77)
    tracker = Tracker()
    batch = stream.batch({"queues": {"77": {"direction": "sideways", "size": 0}}})
    table = LifecycleTable.concat([tracker.feed(batch), tracker.finish()])
    assert table["head"].tolist() == [0, 10_000, 20_000]
    assert set(table["outcome"]) == {Outcome.USED}
    assert set(table["direction"]) == {0}


def test_a_filtered_batch_joins_what_is_left(stream):
    stream.add(Kind.START, TX, flags=Flag.POSITION | Flag.USED)
    stream.pop(3, queue=TX, length=70)
    stream.pop(6, queue=TX, length=70)
    stream.add(Kind.DELIVER, TX, packet=8, count=3)
    stream.add(Kind.DELIVER, TX, packet=9, count=6)
    stream.add(Kind.SEND, TX, count=30, flags=Flag.BATCH)
    stream.used(3, 6, first=3, queue=TX)
    table, _ = track(stream, {"capture": {"sparse": True}})
    assert table["packet"].tolist() == [8, 9]
    assert not (table["trust"] == Trust.AMBIGUOUS).any()


def test_cut_of_batches_does_not_matter(stream):
    for position in range(40):
        stream.pop(position)
        stream.add(Kind.RECV, packet=position + 1, ret=60, length=60)
        stream.used(position % 8, first=position)
    whole, _ = track(stream)
    tracker = Tracker(QUEUES)
    tables = []
    for row in stream.rows:
        tables += [tracker.feed(EventBatch.from_records(row)), tracker.feed(EventBatch.empty())]
    pieces = LifecycleTable.concat([*tables, tracker.finish()])
    for name, column in whole.columns.items():
        assert np.array_equal(column, pieces[name]), name
