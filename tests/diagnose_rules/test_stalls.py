"""Stalls that no healthy ring shows, told step by step; each is found once, where it is."""

import pytest

from tests.generator import machine as mach
from tests.generator.bench import MS, US, Bench, S
from vtrace.diagnose.findings import Certainty
from vtrace.diagnose.stalls import Stalls


def judged(bench, **options):
    stalls = Stalls()
    for batch in bench.batches(**options):
        stalls.feed(batch)
    found = stalls.finish()
    # Asking changes nothing.
    assert [f.code for f in stalls.finish()] == [f.code for f in found]
    return found


def the_one(bench, code, queue, **options):
    (one,) = judged(bench, **options)
    assert (one.code, one.vm, one.device, one.queue) == (code, "vm0", "net0", queue)
    assert one.packets is None
    assert one.evidence
    assert one.remedies
    assert one.first_ns <= one.last_ns
    return one


def texts(finding):
    return " ".join(e.text for e in finding.evidence)


def beginning(**options):
    """A guest that works, up to a moment."""
    bench = Bench(**options)
    bench.run_vcpus(12 * S)
    for _ in range(5):
        bench.receive(8).serve(bench.rx).wait(30 * MS)
        bench.publish(3).transmit().serve(bench.tx).wait(30 * MS)
    bench.receive(1).serve(bench.rx).wait(100 * MS)
    return bench


# S1


@pytest.mark.parametrize("counters", [False, True])
def test_an_interrupt_that_is_not_served(counters):
    bench = beginning(counters=counters)
    at = bench.now
    bench.receive(200).wait(9 * S)
    one = the_one(bench, "S1", "rx0")
    assert one.direction == "rx"
    assert one.certainty == Certainty.PROVEN
    assert at < one.first_ns < at + 10 * MS
    assert one.last_ns - one.first_ns > 7 * S
    assert "200 returned chains" in texts(one)


def test_an_interrupt_that_was_lost_on_its_way():
    bench = beginning()
    bench.receive(2, irqfd=False).wait(3 * S)
    one = the_one(bench, "S1", "rx0")
    assert one.certainty == Certainty.PROVEN
    assert "never came to KVM" in one.cause
    assert "2 returned chains" in texts(one)


def test_when_queues_stood_still_is_told():
    bench = beginning()
    at = bench.now
    bench.receive(250).wait(3 * S).serve(bench.rx).receive(1).serve(bench.rx).wait(2 * S)
    stalls = Stalls()
    for batch in bench.batches():
        stalls.feed(batch)
    (span,) = stalls.spans()
    assert (span.code, span.queue) == ("S1", 1)
    assert at < span.start_ns < span.end_ns <= at + 3 * S


def test_few_chains_prove_less():
    bench = beginning()
    bench.run_vcpus(20 * S)
    bench.receive(3).wait(9 * S)
    assert judged(bench) == []
    bench.wait(4 * S)
    assert the_one(bench, "S1", "rx0").certainty == Certainty.POSSIBLE


def test_silence_that_ends_is_over():
    bench = beginning()
    bench.receive(250).wait(3 * S)
    bench.serve(bench.rx).receive(1).serve(bench.rx).wait(2 * S)
    one = the_one(bench, "S1", "rx0")
    assert one.last_ns - one.first_ns < 3 * S
    assert "and goes on" not in texts(one)


def test_looks_of_events_prove_silence_without_samples():
    bench = beginning(sampling=False)
    for _ in range(40):
        bench.receive(5).wait(100 * MS)
    assert the_one(bench, "S1", "rx0").certainty == Certainty.PROVEN


def test_without_event_index_an_empty_ring_is_needed():
    bench = beginning(event_idx=False)
    bench.receive(200).wait(4 * S)
    assert judged(bench) == []
    bench.receive(100).wait(4 * S)
    assert the_one(bench, "S1", "rx0").certainty == Certainty.LIKELY


def test_a_transmit_interrupt_that_a_stopped_queue_waits_for():
    bench = beginning()
    # The driver asks for one when three quarters are through, and stops its queue.
    bench.tx.used_event = (bench.tx.used + 180) & 0xFFFF
    bench.publish(240).transmit().wait(4 * S)
    one = the_one(bench, "S1", "tx0")
    assert one.certainty == Certainty.LIKELY
    assert one.direction == "tx"


def test_it_happens_again():
    bench = beginning()
    bench.run_vcpus(20 * S)
    for _ in range(3):
        bench.receive(250).wait(3 * S)
        bench.serve(bench.rx).receive(1).serve(bench.rx).wait(1 * S)
    one = the_one(bench, "S1", "rx0")
    assert "3 times" in texts(one)
    assert one.last_ns - one.first_ns > 9 * S


# S2


def test_a_full_receive_ring_with_interrupts_off():
    bench = beginning(event_idx=False)
    bench.receive(10)
    # The driver polls: interrupts off. Then its poll is kept from running.
    bench.rx.avail_flags = 1
    bench.serve(bench.rx).receive(300).wait(4 * S)
    one = the_one(bench, "S2", "rx0")
    assert one.certainty == Certainty.PROVEN
    assert "asks for no interrupts" in texts(one)


def test_a_full_receive_ring_with_the_mark_far_behind():
    bench = beginning()
    bench.receive(10)
    # It refills from its poll, without asking for the next interrupt.
    bench.rx.avail = (bench.rx.used + bench.size) & 0xFFFF
    bench.receive(300).wait(4 * S)
    assert the_one(bench, "S2", "rx0").certainty == Certainty.PROVEN


# S3


def test_interrupts_without_anything_to_tell():
    bench = beginning()
    for _ in range(3 * 5000):
        bench.put(bench.rx, mach.IRQ).wait(199 * US)
    bench.wait(2 * S)
    one = the_one(bench, "S3", "rx0")
    assert one.certainty == Certainty.PROVEN
    assert one.last_ns - one.first_ns <= 5 * S


def test_interrupts_that_nobody_asked_for():
    bench = beginning()
    for _ in range(3 * 2000):
        bench.pop(bench.rx)
        used = bench.rx.used
        bench.rx.used = (used + 1) & 0xFFFF
        bench.put(bench.rx, mach.USED, used=used, count=1, flags=mach.F_USED)
        # used_event is ahead: the driver wants to hear of the tenth.
        bench.rx.used_event = (used + 10) & 0xFFFF
        bench.rx.avail = (bench.rx.used + bench.size) & 0xFFFF
        bench.put(bench.rx, mach.SIGNAL, ret=1).put(bench.rx, mach.IRQ).wait(495 * US)
    assert the_one(bench, "S3", "rx0").certainty == Certainty.PROVEN


# T1


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("w", "did not run"),
        ("wr", "took nothing"),
        ("wrp", "returned none"),
        ("wra", "send buffer"),
    ],
)
def test_a_transmit_ring_that_stays_full(steps, said):
    bench = beginning()
    bench.publish(240, kick=False)
    bench.put(bench.tx, mach.KICK, tid=2000).put(bench.tx, mach.WAKE, tid=2000)
    for step in steps:
        if step == "r":
            bench.put(bench.tx, mach.RUN)
        if step in "pa":
            bench.pop(bench.tx, 1)
        if step == "a":
            bench.put(bench.tx, mach.SEND, ret=-11).hand_back(bench.tx, 1)
    bench.wait(4 * S)
    one = the_one(bench, "T1", "tx0")
    assert one.certainty == Certainty.PROVEN
    assert said in one.cause
    assert "240 chains of 256" in texts(one)


def test_chains_of_several_descriptors_fill_the_ring_earlier():
    bench = beginning(indirect=False)
    bench.publish(60).wake(bench.tx).wait(3 * S)
    assert judged(bench) == []
    # From now on each chain has four descriptors.
    bench = Bench(indirect=False)
    bench.run_vcpus(12 * S).publish(2)
    bench.wake(bench.tx)
    for _ in range(2):
        at = bench.tx.position
        bench.tx.position = at + 1 & 0xFFFF
        bench.put(bench.tx, mach.POP, position=at, count=4)
    bench.empty(bench.tx).enable(bench.tx).give(bench.tx, 2).serve(bench.tx).wait(50 * MS)
    bench.publish(60).wake(bench.tx).wait(3 * S)
    assert the_one(bench, "T1", "tx0").certainty == Certainty.PROVEN


# T2


def test_a_kick_that_vhost_does_not_hear():
    bench = beginning()
    bench.publish(3).wait(3 * S)
    one = the_one(bench, "T2", "tx0")
    assert one.certainty == Certainty.PROVEN
    assert "between KVM and vhost" in one.cause
    assert "3 chains to take" in texts(one)


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_kick_that_never_came(event_idx):
    bench = beginning(event_idx=event_idx)
    bench.publish(3, kick=False).wait(4 * S)
    one = the_one(bench, "T2", "tx0")
    assert one.certainty == Certainty.LIKELY
    assert "never came" in one.cause


def test_a_kick_that_came_late():
    bench = beginning()
    bench.publish(3, kick=False).wait(4 * S)
    bench.put(bench.tx, mach.KICK, tid=2000).transmit().serve(bench.tx).wait(2 * S)
    one = the_one(bench, "T2", "tx0")
    assert one.last_ns - one.first_ns < 4 * S


def test_a_lost_kick_of_a_driver_that_refilled():
    bench = beginning()
    bench.receive(300)
    assert bench.rx.position == bench.rx.avail
    bench.serve(bench.rx).wait(4 * S)
    one = the_one(bench, "T2", "rx0")
    assert one.direction == "rx"


def test_a_ring_that_fills_because_a_kick_was_lost_is_one_finding():
    bench = beginning()
    bench.publish(245).wait(4 * S)
    assert the_one(bench, "T2", "tx0").certainty == Certainty.PROVEN


# R11


def spin(bench, rounds, *, step_ns=100 * US, moves=False):
    bench.put(bench.rx, mach.ENQUEUE).wake(bench.rx)
    for turn in range(rounds):
        if turn % 256 == 255:
            bench.put(bench.rx, mach.RUN)
        bench.pop(bench.rx, 2).empty(bench.rx).hand_back(bench.rx, 2)
        if moves:
            bench.rx.avail = (bench.rx.avail + 1) & 0xFFFF
        bench.enable(bench.rx, 1).wait(step_ns)
    return bench


def nearly_empty(**options):
    bench = beginning(**options)
    bench.receive(254)
    return bench


def test_the_same_buffers_over_and_over():
    bench = spin(nearly_empty(), 1500)
    one = the_one(bench, "R11", "rx0")
    assert one.certainty == Certainty.PROVEN
    assert one.remedies[1].command == "ethtool -K tap0 gro off gso off"


def test_not_every_round_is_a_livelock():
    assert judged(spin(nearly_empty(), 900)) == []
    # Many, but soon over.
    assert judged(spin(nearly_empty(), 1500, step_ns=US)) == []
