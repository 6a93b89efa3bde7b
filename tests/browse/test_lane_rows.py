"""Rows of the timeline in words and signs, on the recordings of a real guest."""

from __future__ import annotations

from pathlib import Path
from time import sleep

import numpy as np
import pytest

from parsers import wire
from parsers.batch import EventBatch
from tests.browse.test_lanes import batches, records
from vtrace.browse import Browser, Query
from vtrace.browse.falls import falls
from vtrace.browse.lane_drawing import draw, next_of, says, stall_text, wrapped
from vtrace.browse.lane_rows import Lanes
from vtrace.browse.lanes import LaneSums
from vtrace.model import Flag, Kind
from vtrace.tui.place import Place

TRACES = Path(__file__).resolve().parents[2] / "examples" / "traces"


@pytest.fixture(scope="module", params=["ringfull", "starving", "quiet"])
def browser(request):
    one = Browser(str(TRACES / f"{request.param}.vtrace"))
    one.start()
    for thread in one._threads[:1]:
        thread.join()
    yield request.param, one
    one.close()


def rows_of(browser, place=None, columns=80, t0=None, t1=None):
    sums = browser.lanes
    t0, t1 = t0 or sums.first_ns, t1 or sums.last_ns + 1
    made = draw(browser, None, place or Place(), browser.snapshot.metadata, t0, t1, columns, 40)
    return made, {row.label: row for row in made.rows}


def test_the_lanes_tell_the_story(browser):
    name, one = browser
    made, rows = rows_of(one, Place(vm="web1", device="nic0", queue="rx0"))
    assert made.window.exact
    assert {"vCPU 0", "worker 149", "ring rx0", "buffers rx0", "tap rx0"} <= set(rows)
    for row in made.rows:
        assert len(row.chars) == len(row.styles) == 80
    drops = {"ringfull": "249"}.get(name)
    assert (rows["drops"].note if drops else None) == drops
    # Closer, each is counted once still, and the lanes are the same.
    if drops:
        first = one.lanes.drops()[0]
        near, rows_near = rows_of(one, None, 200, first.first_ns - 500_000, first.last_ns + 500_000)
        assert rows_near["drops"].note == drops
        assert [row.label for row in near.rows if "rx0" in row.label] == [
            row.label for row in made.rows if "rx0" in row.label
        ]
    if name == "ringfull":
        # QEMU was stopped for a second of five and a half.
        assert 0.15 < rows["vCPU 0"].chars.count("■") / 80 < 0.3
        assert rows["tap rx0"].note == "FULL: refused 249"
        assert rows["tap rx0"].loud
        assert "○" in rows["buffers rx0"].chars
    if name == "starving":
        assert rows["buffers rx0"].note == "○ none: 5 times"
    if name == "quiet":
        assert not any(row.loud for row in made.rows)


def test_what_is_said_of_a_column_is_what_is_drawn(browser):
    _, one = browser
    made, _ = rows_of(one)
    for row in made.rows:
        for column in range(80):
            text = made.lanes.facts(row, column)
            if row.chars[column] == " " and row.what in ("kick", "irq", "drops", "flight", "tap"):
                assert not text
            if row.chars[column] == "■":
                assert "stopped" in text
            if row.what == "thread" and row.chars[column] == "░":
                assert "ready, no CPU" in text
    rows = says(made)
    assert rows
    assert all(one["time_ns"] < one["until_ns"] for one in rows)


def test_chains_are_lines_of_their_own_where_there_is_room(browser):
    name, one = browser
    view = one.view(Query(table="lifecycles", vm="web1", device="nic0"))
    while not view.done:
        sleep(0.01)
    page = view.load(0, 5)
    columns = ("time_ns", "pop_ns", "used_ns", "position")
    time_ns, pop, used, position = (column[2] for column in page.lists(columns))
    t0, t1 = time_ns - 10_000, used + 10_000
    found = falls(page, t0, t1, 60, 10)
    row = next(row for row in found if row.about == position)
    assert row.what == "chain"
    for letter, at in (("p", pop), ("u", used)):
        column = (at - t0) * 60 // (t1 - t0)
        # Where two fall into one column the later letter stands.
        assert row.chars[column] in letter + "rui"
    made = draw(one, view, Place(vm="web1"), one.snapshot.metadata, t0, t1, 60, 30)
    assert any(row.what == "chain" for row in made.rows), name
    view.close()


def test_a_packet_that_comes_behind_the_wake_waits_too():
    class OnePage:
        def lists(self, names):
            times = {"wake_ns": 100, "enqueue_ns": 300, "run_ns": 800, "pop_ns": 820}
            rest = {"queue": "rx0", "position": 5, "used_ns": 900}
            return [[times.get(name, rest.get(name))] for name in names]

    (row,) = falls(OnePage(), 0, 1000, 100, 5)
    assert row.chars[10] == "w"
    assert row.chars[30] == "e"
    assert set(row.chars[11:30]) | set(row.chars[31:80]) == {"░"}
    assert row.chars[80:91] == "r─p███████u"


def meta(**given):
    queues = {
        "1": {"vm": "a", "device": "net0", "name": "rx0", "direction": "rx", "size": 4},
        "2": {"vm": "b", "device": "net0", "name": "rx0", "direction": "rx", "size": 4},
    }
    return {"queues": queues, "threads": {}, "comms": {"99": "qemu-io\x1b"}, **given}


def lanes_of(made, metadata, t0, t1, columns=10, **place):
    sums = LaneSums()
    first = EventBatch.from_records(made)
    first.meta = {"queues": metadata["queues"]}
    sums.feed(first)
    window = sums.exact(batches(made), t0, t1, columns)
    return sums, Lanes(window, metadata, **place)


def test_who_was_in_the_way_is_named_and_made_harmless():
    made = records(
        (1_000, Kind.RUN, {"queue": 1, "tid": 7}),
        (2_000, Kind.SCHED_OUT, {"tid": 7, "ret": 99, "flags": int(Flag.PREEMPTED)}),
        (9_002_000, Kind.SCHED_IN, {"tid": 7, "ret": 99}),
        (9_003_000, Kind.POP, {"queue": 1, "tid": 7, "position": 0, "flags": 12}),
    )
    sums, lanes = lanes_of(made, meta(), 1_000, 9_010_000)
    row = next(row for row in lanes.rows() if row.what == "thread")
    assert row.chars[1:9] == "░" * 8
    assert lanes.facts(row, 4) == "worker 7 ready, no CPU 100%, behind qemu-io\\x1b 99"
    (stall,) = sums.stalls()
    said = stall_text(stall, lanes)
    assert said == "thread 7 was ready and had no CPU for 9.00ms, behind qemu-io\\x1b 99"


def test_a_cpu_that_was_idle_was_in_nobodys_way():
    made = records(
        (1_000, Kind.RUN, {"queue": 1, "tid": 7}),
        (2_000, Kind.SCHED_WAKE, {"tid": 7, "ret": 0}),
        (9_002_000, Kind.SCHED_IN, {"tid": 7, "ret": 0}),
        (9_003_000, Kind.POP, {"queue": 1, "tid": 7, "position": 0, "flags": 12}),
    )
    sums, lanes = lanes_of(made, meta(), 1_000, 9_010_000)
    row = next(row for row in lanes.rows() if row.what == "thread")
    assert lanes.facts(row, 4) == "worker 7 ready, no CPU 100%, its CPU was idle before"
    (stall,) = sums.stalls()
    assert stall_text(stall, lanes).endswith("had no CPU for 9.00ms; its CPU was idle before")


def test_queues_of_several_vms_are_told_apart():
    made = records(
        *((1_000 + n, Kind.KICK, {"queue": 1 + n % 2, "tid": 20 + n % 2}) for n in range(10))
    )
    _, lanes = lanes_of(made, meta(), 1_000, 2_000)
    labels = [row.label for row in lanes.rows()]
    assert "kick a rx0" in labels
    assert "kick b rx0" in labels
    _, lanes = lanes_of(made, meta(), 1_000, 2_000, vm="a")
    assert [row.label for row in lanes.rows() if row.what == "kick"] == ["kick rx0"]


def test_what_was_not_probed_says_so():
    made = records((1_000, Kind.KICK, {"queue": 1, "tid": 20}))
    probes = {
        "ioeventfd_write": {"state": "failed", "reason": "no such function"},
        "irqfd_wakeup": {"state": "unavailable", "reason": "-"},
    }
    _, lanes = lanes_of(made, meta(probes=probes), 1_000, 2_000)
    rows = {row.label: row for row in lanes.rows() if not row.chars}
    assert rows["threads"].note == "when threads had a CPU was not recorded"
    assert [row.note for label, row in rows.items() if label.startswith("kick")] == ["not probed"]


def test_jumps_go_round():
    times = [10, 20, 30]
    assert [next_of(times, at, 1) for at in (5, 10, 25, 30)] == [0, 1, 2, 0]
    assert [next_of(times, at, -1) for at in (5, 10, 25, 40)] == [2, 2, 1, 2]
    assert next_of([], 5, 1) is None


def test_facts_fill_at_most_three_lines():
    assert wrapped(["a" * 30, "b" * 30], 70) == ["a" * 30 + " · " + "b" * 30]
    assert len(wrapped(["c" * 60] * 9, 70)) == 3


def test_metadata_that_makes_no_sense_does_no_harm():
    made = records((1_000, Kind.KICK, {"queue": 1, "tid": 20}))
    strange = {
        "queues": {"1": {"vm": "\u202ex", "device": 7, "name": None, "direction": []}},
        "threads": {"20": {"role": 3, "vcpu": "x"}},
        "comms": [],
        "probes": [],
        "capture": "no",
    }
    _, lanes = lanes_of(made, strange, 1_000, 2_000)
    for row in lanes.rows():
        assert "\u202e" not in row.label
        for column in range(10):
            lanes.facts(row, column)


def test_loss_is_a_lane():
    sums = LaneSums()
    made = np.zeros(1, wire.RECORD)
    made["time"], made["kind"], made["queue"] = 10_000, Kind.KICK, 1
    sums.feed(EventBatch.from_records(made))
    sums.mark_gap(2_000, 5_000, 12)
    window = sums.window(0, 10_000, 10)
    row = Lanes(window, meta()).rows()[0]
    assert (row.label, row.note, row.loud) == ("lost", "12 records lost here", True)
    assert row.chars == "  ????    "
