"""Transmission that waited for its worker, and rings that vhost could not read."""

import pytest

from tests.diagnose_rules.story import HOG, MS, TX, VCPU, WORKER, Story, away, metadata
from vtrace.model import Flag, Kind

START = 100 * MS


def kicked(story: Story, at: int, run: int, position: int) -> None:
    """The guest kicks; the worker is woken, runs at ``run`` and sends one packet."""
    flags = int(Flag.AVAIL | Flag.POSITION | Flag.USED)
    ring = {"queue": TX, "position": position, "used": position, "avail": position + 1}
    story.add(Kind.KICK, at, queue=TX, tid=VCPU)
    story.add(Kind.WAKE, at + 10, queue=TX, tid=VCPU)
    story.add(Kind.SCHED_WAKE, at + 20, tid=WORKER, ret=HOG)
    story.runs(WORKER, run - 10, run + MS, behind=HOG)
    story.add(Kind.RUN, run, queue=TX, tid=WORKER)
    story.add(Kind.POP, run + 10, head=position, count=1, length=140, flags=flags, tid=WORKER,
              **ring)  # fmt: skip
    story.send(run + 20, [away()])
    story.add(Kind.USED, run + 60, head=position, count=1, flags=flags, tid=WORKER, **ring)
    story.add(Kind.EMPTY, run + 70, flags=flags, tid=WORKER, **{**ring, "position": position + 1})


@pytest.mark.parametrize(("wait", "codes"), [(400 * MS, ["T3"]), (MS, [])])
def test_a_worker_that_another_thread_kept_waiting(wait, codes):
    story = Story()
    story.runs(WORKER, START - MS, START - MS // 2)
    for index in range(6):
        at = START + index * 1000 * MS
        kicked(story, at, at + wait, index)
    found = story.diagnose().findings
    assert [one.code for one in found] == codes
    if codes:
        assert found[0].packets is None
        assert "stress-ng (60)" in found[0].cause
        assert "6 chains" in found[0].evidence[0].text


def test_a_worker_that_was_stopped_was_not_kept_waiting():
    story = Story()
    story.runs(WORKER, START - MS, START - MS // 2)
    for index in range(6):
        at = START + index * 1000 * MS
        kicked(story, at, at + 400 * MS, index)
        story.runs(WORKER, at + 30, at + 40, behind=HOG, state=4)
    assert story.diagnose().findings == []


def test_a_ring_that_vhost_could_not_read():
    story = Story()
    for index in range(3):
        story.add(Kind.POP_ERROR, START + index, queue=TX, ret=-22, tid=WORKER)
    story.add(Kind.POP_ERROR, START + 9, queue=TX, ret=-14, tid=WORKER)
    finding = story.diagnose(metadata()).findings[0]
    assert (finding.code, finding.packets, finding.queue) == ("T5", None, "tx0")
    assert "4 times: 3 with -22, 1 with -14" in finding.evidence[0].text
