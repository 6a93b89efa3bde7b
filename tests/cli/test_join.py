"""Packets joined to chains and drops."""

import numpy as np
import pytest

from tests.cli.recordings import FULL_RING, PLACE, udp
from tests.cli.story import ETH0, RX, START, TX, Story
from vtrace.model import Kind, Outcome
from vtrace.session import PacketJoin
from vtrace.tables import Verdict

FRAME = udp(1, length=142)


def chains(*rows):
    """Return the columns of chains: (queue, packet, position, used_ns)."""
    columns = {
        name: np.zeros(len(rows), kind)
        for name, kind in {
            **dict.fromkeys(("queue", "generation", "head"), "u2"),
            **dict.fromkeys(("position", "pop_ns", "used_ns", "signal_ns", "irq_ns"), "u8"),
            "seen_ns": "u8",
            "packet": "u4",
            "outcome": "u1",
        }.items()
    }
    for at, (queue, packet, position, used) in enumerate(rows):
        columns["queue"][at], columns["packet"][at] = queue, packet
        columns["position"][at] = position
        columns["pop_ns"][at] = START
        columns["used_ns"][at] = START + used if used else 0
        columns["outcome"][at] = Outcome.USED if used else Outcome.IN_FLIGHT
    return columns


def end(join):
    return {int(row["packet"]): row for row in join.finish().rows}


def test_a_packet_that_waits():
    join = PacketJoin()
    join.feed(Story().add(0, Kind.ENQUEUE, FRAME, queue=RX, packet=5, length=142, count=3).batch())
    row = end(join)[5]
    assert row["verdict"] == Verdict.WAITING
    assert (row["length"], row["captured"], row["count"], row["end"]) == (142, 64, 3, 0)


def test_a_packet_that_is_delivered():
    join = PacketJoin()
    join.feed(Story().add(0, Kind.ENQUEUE, FRAME, queue=RX, packet=5).batch())
    assert join.chains(chains((RX, 0, 1, 10), (RX, 5, 2, 20), (RX, 6, 3, 30))).tolist() == [
        *(-1, 0, -1),
    ]
    row = end(join)[5]
    assert (row["verdict"], row["position"], row["end"]) == (Verdict.DELIVERED, 2, START + 20)


def test_a_chain_that_is_not_returned():
    join = PacketJoin()
    join.feed(Story().add(0, Kind.ENQUEUE, FRAME, queue=RX, packet=5).batch())
    join.chains(chains((RX, 5, 2, 0)))
    assert end(join)[5]["verdict"] == Verdict.IN_FLIGHT


def test_the_chains_of_one_packet():
    join = PacketJoin()
    join.feed(Story().add(0, Kind.ENQUEUE, FRAME, queue=RX, packet=5).batch())
    join.chains(chains((RX, 5, 7, 20), (RX, 5, 8, 20)))
    join.chains(chains((RX, 5, 9, 30)))
    row = end(join)[5]
    assert (row["position"], row["chain_last"]) == (7, START + 30)


def test_one_id_at_two_queues_is_two_packets():
    # From one guest to another: it leaves by tx and comes in by the other's rx.
    story = Story().add(0, Kind.DELIVER, FRAME, queue=TX, packet=5)
    story.add(9, Kind.ENQUEUE, FRAME, queue=RX, packet=5)
    join = PacketJoin()
    join.feed(story.batch())
    assert join.chains(chains((RX, 5, 2, 20), (TX, 5, 3, 30))).tolist() == [1, 0]


def test_a_refusal_takes_its_drop():
    story = Story().add(0, Kind.REFUSE, FRAME, queue=RX, packet=5)
    story.add(9, Kind.DROP, FRAME, queue=RX, packet=5, ret=FULL_RING, address=PLACE)
    join = PacketJoin()
    join.feed(story.batch())
    (row,) = join.finish().rows
    assert row["verdict"] == Verdict.DROPPED
    assert (row["has_reason"], row["reason"], row["place"]) == (True, FULL_RING, PLACE)


def test_a_refusal_without_a_drop_is_a_drop_without_reason():
    join = PacketJoin()
    join.feed(Story().add(0, Kind.REFUSE, FRAME, queue=RX, packet=5).batch())
    row = end(join)[5]
    assert (row["verdict"], row["has_reason"]) == (Verdict.DROPPED, False)


@pytest.mark.parametrize("cut", [1, 2])
def test_a_drop_after_the_delivery(cut):
    story = Story().add(0, Kind.DELIVER, FRAME, queue=TX, packet=5)
    story.add(5, Kind.DELIVER, FRAME, queue=TX, packet=6)
    story.add(9, Kind.DROP, queue=ETH0, packet=5, ret=6, address=5)
    join = PacketJoin()
    for batch in story.batches(cut):
        join.feed(batch)
    rows = end(join)
    assert rows[5]["verdict"] == Verdict.DROPPED
    assert (rows[5]["queue"], rows[5]["drop_queue"]) == (TX, ETH0)
    assert rows[6]["verdict"] == Verdict.SENT


def test_every_drop_is_a_row():
    # A drop of nobody's packet, and a clone that is dropped too.
    story = Story().add(0, Kind.DELIVER, FRAME, queue=TX, packet=5)
    for at in range(3):
        story.add(10 + at, Kind.DROP, FRAME, queue=ETH0, packet=5, ret=6)
    story.add(20, Kind.DROP, FRAME, queue=ETH0, ret=6)
    join = PacketJoin()
    join.feed(story.batch())
    rows = join.finish().rows
    assert len(rows) == 4
    assert (rows["verdict"] == Verdict.DROPPED).all()


def test_an_id_that_comes_again_is_the_newer_packet():
    story = Story().add(0, Kind.ENQUEUE, FRAME, queue=RX, packet=5, length=1)
    story.add(9, Kind.ENQUEUE, FRAME, queue=RX, packet=5, length=2)
    join = PacketJoin()
    join.feed(story.batch())
    assert join.chains(chains((RX, 5, 2, 20))).tolist() == [1]


def test_ended_packets_are_let_go_after_a_while():
    join = PacketJoin(linger_ns=1000, keep_bytes=True)
    story = Story().add(0, Kind.ENQUEUE, b"abc", queue=RX, packet=5)
    story.add(1, Kind.ENQUEUE, b"defg", queue=RX, packet=6)
    join.feed(story.batch())
    join.chains(chains((RX, 5, 2, 20)))
    assert len(join.release()) == 0
    join.feed(Story().add(5000, Kind.KICK).batch())
    gone = join.release()
    assert [gone.bytes_of(at) for at in range(len(gone))] == [b"abc"]
    assert join.open.bytes_of(0) == b"defg"


def test_what_is_open_is_bounded():
    join = PacketJoin(max_open=10)
    story = Story()
    for at in range(25):
        story.add(at, Kind.ENQUEUE, FRAME, queue=RX, packet=100 + at)
    join.feed(story.batch())
    assert join.release().rows["packet"].tolist() == list(range(100, 115))
    assert len(join.open) == 10


def test_packets_without_bytes():
    join = PacketJoin(keep_bytes=True)
    story = Story().add(0, Kind.ENQUEUE, queue=RX, packet=5)
    story.add(1, Kind.ENQUEUE, b"xyz", queue=RX, packet=6)
    join.feed(story.batch())
    packets = join.finish()
    assert [packets.bytes_of(at) for at in range(2)] == [b"", b"xyz"]
    assert packets.rows["has_snap"].tolist() == [False, True]
