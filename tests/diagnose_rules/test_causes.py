"""Why a tap ring was full: one story for each cause, and one beside it that must not be it."""

import pytest

from tests.diagnose_rules.story import (
    HOG,
    MS,
    RX,
    RX1,
    SENDER,
    VCPU,
    WORKER,
    Story,
    away,
    metadata,
    towards,
)
from vtrace.diagnose.findings import Certainty
from vtrace.model import Kind

START = 100 * MS


def overflow(story: Story, *, refused: int = 7, at: int = START, span: int = 50 * MS) -> None:
    """Let the ring fill for 50 ms and then refuse packets for one more."""
    for index in range(50):
        story.enqueue(at + index * span // 50, held=index * 20)
    for index in range(refused):
        story.refuse(at + span + index * MS // 10)


def work(story: Story, at: int = START - 5 * MS) -> None:
    """The worker takes a packet, so that it is known who it is, and sleeps."""
    story.runs(WORKER, at, at + MS)
    story.add(Kind.RUN, at + 1000, queue=RX, tid=WORKER)
    story.receive(at + 2000)


def only(verdict):
    assert len(verdict.findings) == 1, verdict.findings
    return verdict.findings[0]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_worker_that_ran_all_the_time_met_a_burst(size):
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 60 * MS)
    overflow(story, refused=7)
    finding = only(story.diagnose(size=size))
    assert (finding.code, finding.packets, finding.certainty) == ("R5a", 7, Certainty.PROVEN)
    assert (finding.vm, finding.device, finding.queue) == ("cpx", "nic0", "rx0")
    assert finding.bursts[0].depth == 1000


def test_a_worker_that_waited_behind_another_thread_was_starved():
    story = Story()
    work(story)
    story.add(Kind.SCHED_WAKE, START, tid=WORKER, ret=HOG)
    story.runs(WORKER, START + 55 * MS, START + 56 * MS, behind=HOG)
    overflow(story)
    finding = only(story.diagnose())
    assert (finding.code, finding.certainty) == ("R5b", Certainty.PROVEN)
    assert "stress-ng (60)" in finding.cause


def test_a_worker_that_waited_behind_the_sender_met_a_burst():
    story = Story()
    work(story)
    story.add(Kind.SCHED_WAKE, START, tid=WORKER, ret=SENDER)
    story.runs(WORKER, START + 55 * MS, START + 56 * MS, behind=SENDER)
    overflow(story)
    assert only(story.diagnose()).code == "R5a"


def test_a_guest_that_gave_no_buffers():
    story = Story()
    work(story)
    story.runs(VCPU, START - 2 * MS, START - MS)  # halts: it could run
    story.add(Kind.EMPTY, START + MS // 100, queue=RX, tid=WORKER)
    overflow(story)
    finding = only(story.diagnose())
    assert (finding.code, finding.certainty) == ("R5c", Certainty.PROVEN)


@pytest.mark.parametrize("state", [4, 8])
def test_a_guest_whose_vcpus_were_stopped(state):
    story = Story()
    work(story)
    story.runs(VCPU, START - 2 * MS, START - MS, state=state)
    story.add(Kind.EMPTY, START + MS // 100, queue=RX, tid=WORKER)
    overflow(story)
    finding = only(story.diagnose())
    assert (finding.code, finding.certainty) == ("R5d", Certainty.PROVEN)
    assert "stopped by a signal" in finding.cause


def test_a_guest_whose_vcpus_waited_for_a_cpu():
    story = Story()
    work(story)
    story.runs(VCPU, START - 2 * MS, START - MS, before=HOG, ready=True)
    story.add(Kind.EMPTY, START + MS // 100, queue=RX, tid=WORKER)
    overflow(story)
    finding = only(story.diagnose())
    assert finding.code == "R5d"
    assert "signal" not in finding.cause


def test_a_worker_that_is_stopped_with_its_qemu():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START - MS // 2, state=4)
    overflow(story)
    finding = only(story.diagnose())
    assert (finding.code, finding.certainty) == ("R5d", Certainty.PROVEN)


def test_a_tap_that_nobody_listens_to():
    story = Story()
    work(story)
    overflow(story)
    finding = only(story.diagnose())
    assert (finding.code, finding.certainty) == ("R5e", Certainty.LIKELY)


def test_that_vhost_was_attached_again_proves_that_it_was_not():
    story = Story()
    work(story)
    overflow(story)
    story.add(Kind.START, START + 80 * MS, queue=RX, tid=39)
    assert only(story.diagnose()).certainty == Certainty.PROVEN


def test_a_vm_that_stood_before_the_recording_began():
    story = Story()
    overflow(story)
    stopped = {f"thread/{VCPU}": {"state": "T", "lo_ns": 1, "hi_ns": 2}}
    finding = only(story.diagnose(metadata(counters=stopped)))
    assert (finding.code, finding.certainty) == ("R5d", Certainty.LIKELY)


def test_buffers_that_ran_out_for_a_moment_are_not_the_cause_of_a_burst():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 60 * MS)
    story.add(Kind.EMPTY, START + 10 * MS, queue=RX, tid=WORKER)
    story.add(Kind.KICK, START + 15 * MS, queue=RX, tid=VCPU)
    overflow(story)
    finding = only(story.diagnose())
    assert (finding.code, finding.certainty) == ("R5a", Certainty.PROVEN)


def test_without_the_scheduler_the_cause_is_only_possible():
    story = Story()
    story.add(Kind.RUN, START - 2 * MS, queue=RX, tid=WORKER)
    story.receive(START - MS)
    overflow(story)
    assert only(story.diagnose()).certainty == Certainty.POSSIBLE


def test_two_episodes_with_two_causes_are_two_findings():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 60 * MS)
    overflow(story, refused=7)
    later = START + 1000 * MS
    story.enqueue(later - MS, held=0)
    story.add(Kind.SCHED_WAKE, later, tid=WORKER, ret=HOG)
    overflow(story, refused=5, at=later)
    story.runs(WORKER, later + 60 * MS, later + 61 * MS, behind=HOG)
    found = story.diagnose().findings
    assert [(one.code, one.packets) for one in found] == [("R5a", 7), ("R5b", 5)]


def test_queues_lose_each_for_itself():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 60 * MS)
    overflow(story)
    for index in range(3):
        story.refuse(START + index, queue=RX1)
    found = {one.queue: one.packets for one in story.diagnose().findings}
    assert found == {"rx0": 7, "rx1": 3}


def test_other_protocols_are_not_counted():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 60 * MS)
    overflow(story, refused=2)
    arp = bytes.fromhex("5254000000020a00000000010806") + bytes(28)
    story.refuse(START + 50 * MS + 5, frame=arp)
    verdict = story.diagnose()
    assert only(verdict).packets == 2
    assert any("1 packet of other protocols" in one.text for one in only(verdict).evidence)


def test_a_filter_of_the_tap_and_a_tap_without_queue():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 60 * MS)
    for index in range(3):
        story.refuse(START + index, reason="TAP_FILTER")
    for index in range(4):
        story.refuse(START + 500 * MS + index, reason="DEV_READY")
    found = {one.code: one.packets for one in story.diagnose().findings}
    assert found == {"R5f": 3, "R5e": 4}


def test_with_vhost_off_qemu_is_the_reader():
    story = Story()
    overflow(story)
    finding = only(story.diagnose(metadata(vhost=False)))
    assert (finding.code, finding.packets) == ("R10", 7)


def test_a_long_flood_is_judged_second_by_second_and_summed():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 4000 * MS)
    for index in range(3000):
        story.refuse(START + index * MS)
    finding = only(story.diagnose())
    assert (finding.code, finding.packets) == ("R5a", 3000)
    assert 3 <= len(finding.bursts) <= 4
    assert sum(one.packets for one in finding.bursts) == 3000


def test_nothing_lost_is_no_finding():
    story = Story()
    work(story)
    for index in range(50):
        story.receive(START + index * MS)
    story.send(START + 60 * MS, [away()] * 4)
    verdict = story.diagnose()
    assert verdict.findings == []
    assert verdict.unexplained == 0
    assert verdict.blind_spots[0].packets == 51


def test_vlans_and_ipv6_are_counted_like_all():
    story = Story()
    work(story)
    story.runs(WORKER, START - MS, START + 60 * MS)
    story.refuse(START, frame=towards(vlan=7))
    story.refuse(START + 1, frame=towards(v6=True))
    finding = only(story.diagnose())
    assert finding.packets == 2
    assert len(finding.flows) == 2


def test_a_short_ring_overflows_in_a_wait_that_the_usual_one_outlasts():
    story = Story()
    work(story)
    for fill in range(4):
        at = START + fill * 20 * MS
        story.add(Kind.SCHED_WAKE, at, tid=WORKER, ret=HOG)
        for index in range(16):
            story.enqueue(at + index, held=index)
        for index in range(30):
            story.refuse(at + 100 + index, held=16)
        story.runs(WORKER, at + 3 * MS, at + 4 * MS, behind=HOG)
    finding = only(story.diagnose())
    assert (finding.code, finding.packets) == ("R5a", 120)
    assert "its ring filled 4 times" in finding.evidence[0].text
    assert "-> txqueuelen" not in finding.remedies[0].command
    assert finding.remedies[0].current == "txqueuelen 16"
    assert finding.remedies[0].proposed == "txqueuelen 1000"


def test_a_vcpu_that_ran_and_gave_no_buffers_is_not_a_vcpu_that_did_not_run():
    story = Story()
    work(story)
    story.add(Kind.EMPTY, START, queue=RX, tid=WORKER)
    for index in range(10):
        at = START + index * 5 * MS
        story.runs(VCPU, at, at + MS, before=HOG, ready=True)
    overflow(story)
    assert only(story.diagnose()).code == "R5c"


def test_a_vcpu_that_ran_for_a_moment_is_one_that_did_not_run():
    story = Story()
    work(story)
    story.add(Kind.EMPTY, START, queue=RX, tid=WORKER)
    story.runs(VCPU, START + 20 * MS, START + 20 * MS + 100_000, before=HOG, ready=True)
    overflow(story)
    finding = only(story.diagnose())
    assert finding.code == "R5c"  # idle until its first record: it could have run
    story.add(Kind.SCHED_WAKE, START - MS, tid=VCPU, ret=HOG)
    assert only(story.diagnose()).code == "R5d"


def test_only_the_vcpu_that_refills_the_queue_counts():
    story = Story()
    work(story)
    story.add(Kind.KICK, START - 4 * MS, queue=RX, tid=VCPU)
    story.add(Kind.EMPTY, START, queue=RX, tid=WORKER)
    story.runs(VCPU, START - 2 * MS, START - MS, before=HOG, ready=True)
    story.runs(VCPU + 1, START - 2 * MS, START - MS)
    overflow(story)
    threads = metadata()["threads"] | {
        str(VCPU + 1): {"comm": "CPU 1/KVM", "role": "vcpu", "vm": "cpx", "vcpu": 1}
    }
    assert only(story.diagnose(metadata(threads=threads))).code == "R5d"


@pytest.mark.parametrize("refused", [0, 9])
def test_what_qemu_read_while_vhost_was_away_is_no_riddle(refused):
    story = Story()
    work(story)
    story.enqueue(START)
    for index in range(1, 40):
        story.enqueue(START + index * MS, held=index - 1)
    for index in range(refused):
        story.refuse(START + 50 * MS + index, held=1000)
    story.add(Kind.START, START + 300 * MS, queue=RX, tid=39)
    for number in range(3, 41):
        story.deliver(START + 400 * MS + number * 100, number)
    verdict = story.diagnose()
    finding = only(verdict)
    assert (finding.code, finding.packets, verdict.unexplained) == ("R5e", 1 + refused, 0)
    row = next(row for row in verdict.ledger if row.hop == "tap")
    assert row.dropped["read by QEMU without vhost"] == 1
