"""Near misses: what looks like a stall and is none. Nothing is found."""

import numpy as np
import pytest

from parsers import wire
from parsers.batch import EventBatch, Metadata
from tests.diagnose_rules.test_stalls import beginning, judged, nearly_empty, spin
from tests.generator import RECREATE, RESET, RESUME, Control, Pair, Scenario, in_order, simulate
from tests.generator import machine as mach
from tests.generator.bench import MS, US, Bench, S
from vtrace.diagnose.stalls import Stalls


def nothing(bench):
    found = judged(bench)
    assert [(f.code, f.cause) for f in found] == []


def test_a_guest_that_works():
    nothing(beginning().wait(9 * S))


@pytest.mark.parametrize("counters", [False, True])
def test_an_idle_guest(counters):
    bench = Bench(counters=counters)
    bench.run_vcpus(30 * S, each_ns=200 * MS)
    bench.receive(1).serve(bench.rx).publish(1).transmit().serve(bench.tx)
    nothing(bench.wait(30 * S))


def test_an_idle_guest_that_was_served_unseen():
    # Served at once, and nobody looked for long: no samples, no events.
    bench = Bench(sampling=False)
    bench.run_vcpus(30 * S)
    bench.receive(40).serve(bench.rx).wait(20 * S).receive(1).serve(bench.rx)
    nothing(bench.wait(5 * S))


@pytest.mark.parametrize("counters", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
def test_a_stopped_vm(counters, event_idx):
    # SIGSTOP: no vCPU runs; a worker that is a kthread goes on and fills the ring.
    bench = Bench(counters=counters, event_idx=event_idx)
    bench.run_vcpus(2 * S)
    bench.receive(8).serve(bench.rx).wait(3 * S)
    bench.receive(300).publish(250, kick=False).wait(12 * S)
    for _ in range(5):
        bench.put(bench.rx, mach.REFUSE)
    # It goes on, and takes a moment to come round.
    bench.run_vcpus(5 * S).wait(200 * MS)
    bench.serve(bench.rx).put(bench.rx, mach.KICK, tid=2000).receive(5)
    bench.serve(bench.rx).transmit().serve(bench.tx)
    nothing(bench.wait(5 * S))


def test_a_stopped_vm_whose_tick_beats_rarely():
    # Right before and right after the stop the vCPUs ran.
    bench = beginning()
    bench.rows = [r for r in bench.rows if r[0] < bench.now or "queue" in r[1]]
    bench.receive(250).run_vcpus(10 * MS).wait(9 * S)
    bench.run_vcpus(10 * MS).wait(10 * MS)
    nothing(bench.serve(bench.rx).receive(1).serve(bench.rx).wait(2 * S))


@pytest.mark.parametrize("counters", [False, True])
def test_vcpus_that_get_no_cpu(counters):
    bench = Bench(counters=counters)
    bench.receive(8).serve(bench.rx)
    # One of two: nobody knows which of them serves the ring.
    bench.run_vcpus(12 * S, first=1)
    bench.starve_vcpus(8 * S)
    bench.receive(250).publish(3, kick=False).wait(8 * S)
    bench.serve(bench.rx).put(bench.tx, mach.KICK, tid=2000).transmit().serve(bench.tx)
    nothing(bench.wait(2 * S))


def test_vcpus_that_counters_alone_know():
    bench = beginning(counters=True).receive(250).wait(9 * S)
    stalls = Stalls()
    for batch in bench.batches():
        batch.meta.pop("threads", None)
        stalls.feed(batch)
    assert stalls.finish() == []
    stalls = Stalls()
    for batch in bench.batches():
        batch.meta.pop("threads", None)
        for row in batch.meta.get("counters", {}).values():
            row |= {"role": "vcpu", "vm": "vm0"}
        stalls.feed(batch)
    assert [f.code for f in stalls.finish()] == ["S1"]


def test_what_came_before_is_known_from_the_metadata():
    bench = beginning().receive(250).wait(9 * S)
    metadata = Metadata()
    first, *rest = bench.batches()
    metadata.update(first.meta)
    stalls = Stalls()
    for batch in rest:
        stalls.feed(batch, metadata)
    assert [f.code for f in stalls.finish()] == ["S1"]


def test_vcpus_of_which_nothing_is_known():
    bench = Bench()
    bench.receive(8).serve(bench.rx).receive(250).publish(3, kick=False)
    nothing(bench.wait(8 * S))


def test_a_driver_that_polls_with_interrupts_off():
    bench = beginning(event_idx=False)
    bench.receive(8)
    bench.rx.avail_flags = 1
    for _ in range(100):
        bench.receive(32).serve(bench.rx).wait(40 * MS)
    nothing(bench.wait(3 * S))


def test_a_driver_that_polls_and_refills_by_the_half():
    # It leaves used_event where it was: busy polling, or NAPI that never ends.
    bench = beginning()
    bench.receive(8)
    for turn in range(200):
        bench.receive(4).wait(40 * MS)
        if turn % 32 == 31:
            bench.rx.avail = (bench.rx.used + bench.size) & 0xFFFF
    nothing(bench.wait(100 * MS))


def test_a_driver_with_interrupts_off_and_an_empty_network():
    bench = beginning(event_idx=False)
    bench.rx.avail_flags = 1
    nothing(bench.receive(256).wait(9 * S))


def test_a_receive_ring_without_buffers_of_a_driver_that_was_told():
    # Short of memory: it took everything and asked for the next interrupt.
    bench = beginning()
    bench.receive(300).serve(bench.rx, refill=False).receive(5)
    nothing(bench.wait(9 * S))


def test_a_transmit_ring_at_its_limit_that_moves():
    bench = beginning()
    bench.publish(240)
    for _ in range(40):
        bench.wake(bench.tx).pop(bench.tx, 16).wait(200 * MS).give(bench.tx, 16)
        bench.serve(bench.tx).publish(16)
    nothing(bench.transmit().serve(bench.tx).wait(S))


def test_a_transmit_queue_that_is_done_with_its_last_burst():
    # All is returned; the driver asked for a late interrupt and has nothing more to send.
    bench = beginning()
    bench.tx.used_event = (bench.tx.used + 30) & 0xFFFF
    nothing(bench.publish(40).transmit().wait(9 * S))


def test_a_queue_without_a_vector_has_no_interrupt_to_lose():
    bench = Bench()
    bench.run_vcpus(9 * S)
    bench.receive(8).serve(bench.rx)
    bench.publish(3).transmit(irqfd=False)
    nothing(bench.wait(9 * S))


def test_a_worker_that_is_late():
    bench = beginning()
    bench.publish(200).put(bench.tx, mach.WAKE, tid=2000).wait(8 * S)
    bench.put(bench.tx, mach.RUN)
    nothing(bench.transmit().serve(bench.tx).wait(S))


def test_a_device_that_asked_for_no_kick():
    # The tap's send buffer is full: it comes back by itself.
    bench = beginning(event_idx=False)
    bench.publish(3).wake(bench.tx).pop(bench.tx, 1)
    bench.put(bench.tx, mach.SEND, ret=-11).hand_back(bench.tx, 1)
    bench.tx.used_flags = 1
    nothing(bench.publish(20).wait(9 * S))


def test_rounds_in_which_the_driver_refills():
    nothing(spin(nearly_empty(), 150, moves=True))


def test_a_busy_ring_has_a_few_idle_interrupts():
    bench = beginning()
    for turn in range(4000):
        bench.receive(1).serve(bench.rx).wait(300 * US)
        if turn % 10 == 0:
            bench.put(bench.rx, mach.IRQ)
    nothing(bench)


def test_a_driver_that_begins_anew():
    bench = beginning()
    bench.receive(40).wait(700 * MS)
    for ring in (bench.rx, bench.tx):
        ring.avail = ring.used = ring.position = ring.used_event = ring.avail_event = 0
        bench.put(ring, mach.START)
    bench.rx.avail = bench.size
    bench.receive(4).serve(bench.rx).publish(2).transmit().serve(bench.tx)
    nothing(bench.wait(4 * S))


def stall():
    bench = beginning()
    at = bench.now
    return bench.receive(200).wait(9 * S), at


def test_a_recording_that_ends_too_early():
    bench, at = stall()
    bench.rows = [row for row in bench.rows if row[0] < at + 900 * MS]
    bench.metas = [meta for meta in bench.metas if meta[0] < at + 900 * MS]
    bench.now = at + 900 * MS
    nothing(bench)


def test_a_recording_that_begins_in_the_middle():
    # Whether an interrupt was sent is not known.
    bench, at = stall()
    bench.rows = [row for row in bench.rows if row[0] > at + 2 * S]
    bench.metas = [meta for meta in bench.metas if meta[0] > at + 2 * S]
    nothing(bench)


@pytest.mark.parametrize("section", ["counts", "dropped", "missed", "mark", "gap"])
def test_records_that_were_lost(section):
    def feed(told, after):
        stalls = Stalls()
        for batch in bench.batches():
            if len(batch) and batch["time"][0] > at + after and told:
                told = False
                if section == "mark":
                    stalls.mark_gap()
                else:
                    batch.meta |= {
                        "counts": {"counts": {"SIGNAL": {"lost": 1}}},
                        "dropped": {"loss": {"dropped_records": 3}},
                        "missed": {"loss": {"missed": 1}},
                        "gap": {"gap": {"first_ns": 1, "last_ns": 2}},
                    }[section]
            stalls.feed(batch)
        return [f.code for f in stalls.finish()]

    bench = beginning()
    at = bench.now
    bench.receive(250).wait(2500 * MS).serve(bench.rx).receive(1).serve(bench.rx).wait(3 * S)
    assert feed(told=False, after=1500 * MS) == ["S1"]
    assert feed(told=True, after=1500 * MS) == []


def test_a_call_under_way_while_counters_are_read_is_no_loss():
    bench = beginning().wait(S).receive(3, irqfd=False).wait(8 * S)
    stalls = Stalls()
    for turn, batch in enumerate(bench.batches()):
        batch.meta["loss"] = {"missed": turn % 2}
        stalls.feed(batch)
    (one,) = stalls.finish()
    assert "never came to KVM" in one.cause


def test_what_goes_on_after_a_loss_is_found_for_the_time_after_it():
    bench = beginning()
    at = bench.now
    stalls, told = Stalls(), False
    for batch in bench.receive(250).wait(8 * S).batches():
        if len(batch) and batch["time"][0] > at + 2 * S and not told:
            batch.meta["counts"] = {"SCHED_IN": {"lost": 7}}
            told = True
        stalls.feed(batch)
    (one,) = stalls.finish()
    assert one.code == "S1"
    assert at + 2 * S < one.first_ns < at + 4 * S


def test_a_lost_interrupt_is_not_told_from_a_lost_record():
    bench = beginning().wait(S)
    at = bench.now
    stalls = Stalls()
    for batch in bench.receive(3, irqfd=False).wait(8 * S).batches():
        if len(batch) and batch["time"][0] <= at <= batch["time"][-1]:
            batch.meta["counts"] = {"IRQ": {"lost": 1}}
        stalls.feed(batch)
    assert stalls.finish() == []


def test_a_record_that_comes_late_changes_nothing():
    bench = beginning().receive(250).wait(6 * S)
    stalls = Stalls()
    held = None
    for batch in bench.batches():
        if held is None and len(batch) and (batch["kind"] == mach.SIGNAL).any():
            # The first of its looks comes with the last batch.
            mask = batch["kind"] == mach.SIGNAL
            mask[np.flatnonzero(mask)[1:]] = False
            held, batch = batch.take(mask), batch.take(~mask)
        stalls.feed(batch)
    held.meta = {"loss": {"late": 1}}
    stalls.feed(held)
    assert [f.code for f in stalls.finish()] == ["S1"]


# Machines that are healthy, with vCPUs that are said to run all the time: seconds long, so that
# thresholds are within reach.

LONG = {"tap_gap": 3 * MS, "burst_gap": 90 * MS, "tx_gap": 70 * MS}
PAIRS = {
    "plain": {},
    "without event index": {"event_idx": False},
    "tiny": {"rx_size": 16, "tx_size": 16},
    "starved": {"rx_size": 32, "refill_at": 16, "tap_burst": 200, "tap_gap": 20 * US},
    "large": {"large_ppm": 300_000, "rx_size": 64, "refill_at": 8},
    "late transmit interrupts": {"tx_delayed": True},
    "no transmit interrupts": {"tx_interrupts": False, "event_idx": False},
    "slow worker": {"stall_ppm": 100_000, "stall_ns": 200 * MS},
    "faults": {"fault_ppm": 200_000, "again_ppm": 100_000, "reject_ppm": 50_000},
    "zero copy": {"hold_ppm": 300_000, "disorder_ppm": 300_000},
    "kicks for nothing": {"spurious_ppm": 500_000},
    "reset": {"controls": tuple(
        Control(time=S * (1 + k), action=(RESET, RESUME, RECREATE)[k]) for k in range(3)
    )},
    "wraps": {"base_rx": 65_500, "base_tx": 65_300, "skew": -5},
}  # fmt: skip


def long_run(options, seed):
    scenario = Scenario(
        pairs=(Pair(**(LONG | options)),) * 2, duration_ns=5 * S, seed=seed, sched=True, vms=2
    )
    recording = simulate(scenario)
    ticks = np.arange(scenario.start_ns, scenario.start_ns + scenario.duration_ns, 20 * MS)
    switches = np.zeros(4 * len(ticks), wire.RECORD)
    switches["time"] = np.concatenate([ticks, ticks + MS] * 2)
    switches["kind"] = np.repeat([mach.SCHED_IN, mach.SCHED_OUT] * 2, len(ticks))
    switches["tid"] = np.repeat([2000, 2000, 2001, 2001], len(ticks))
    switches["count"] = 1
    records = in_order(np.concatenate([recording.records, switches]))
    queues = {
        str(number): {
            "role": "virtqueue", "vm": q.vm, "pid": q.pid, "device": q.device, "name": q.name,
            "direction": str(q.direction), "size": q.size, "features": q.features,
        }
        for number, q in scenario.queues().items()
    }  # fmt: skip
    threads = {str(2000 + k): {"role": "vcpu", "vm": f"vm{k}", "pid": 1000 + k} for k in range(2)}
    return records, {"queues": queues, "threads": threads}


@pytest.mark.parametrize("name", PAIRS)
def test_a_healthy_machine(name):
    records, meta = long_run(PAIRS[name], seed=len(name))
    assert len(records) > 1000
    stalls = Stalls()
    stalls.feed(EventBatch.empty(meta))
    for piece in np.array_split(records, 7):
        stalls.feed(EventBatch.from_records(piece))
    assert [(f.code, f.queue, f.cause) for f in stalls.finish()] == []
    assert stalls.discarded == 0


def test_how_a_stream_is_cut_changes_nothing():
    bench, _ = stall()
    cuts = [
        [(f.code, f.first_ns, f.last_ns, f.certainty) for f in judged(bench, span_ns=span)]
        for span in (S // 2, 100 * MS, 3 * S)
    ]
    assert cuts[0] == cuts[1] == cuts[2] != []


def test_sections_that_make_no_sense_are_passed_over():
    bench, _ = stall()
    stalls = Stalls()
    for batch in bench.batches():
        batch.meta.setdefault("rings", {}).update(
            {"x": {}, "-1": {"avail": 1}, "9" * 40: None, "1 ": 5, "77": {"lo_ns": -1}}
        )
        batch.meta.setdefault("counters", {}).update(
            {"thread/x": {"role": "vcpu"}, "thread/": {}, "thread/5": {"hi_ns": 1 << 80}}
        )
        stalls.feed(batch)
    assert [f.code for f in stalls.finish()] == ["S1"]
