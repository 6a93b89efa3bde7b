"""The view of one queue: its ring as it stood, its stages, its chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tui.fakes import IDLE, queue_row, stage
from tests.tui.opened import opened
from vtrace.browse.rings import Mark, Owner, RingSlots
from vtrace.text import cells
from vtrace.tui.place import Place
from vtrace.tui.widgets.ring import LEAST_WIDTH, points, ring_text
from vtrace.tui.widgets.stages import stages_text

TRACES = Path(__file__).resolve().parents[2] / "examples" / "traces"
RX = Place(vm="web1", device="nic0", queue="rx0")
TX = Place(vm="web1", device="nic0", queue="tx0")


def made_up(size=256, packed=False, notes=(), **owners):
    owner = np.full(size, Owner.FREE, np.uint8)
    at = 0
    for name, count in owners.items():
        owner[at : at + count] = Owner[name.upper()]
        at += size // 4 if count < size else 0
    marks = (Mark("avail", "A", 48_213, at % size), Mark("next", "N", 48_121, 3))
    return RingSlots(
        size=size,
        packed=packed,
        owner=owner,
        position=np.arange(size),
        age_ns=np.where(owner == Owner.POPPED, 412_000, -1),
        batch=np.zeros(size, np.int64),
        marks=marks,
        notes=tuple(notes),
    )


# The ring as a drawing


@pytest.mark.parametrize("size", [16, 256, 1024, 32768])
@pytest.mark.parametrize("space", [(34, 11), (44, 14), (76, 24), (200, 60)])
def test_a_ring_fits_and_shows_each_owner(size, space):
    slots = made_up(size, popped=2, used=3, available=4)
    lines = ring_text(slots, *space).plain.split("\n")
    assert len(lines) <= space[1]
    assert max(cells(line) for line in lines) <= space[0]
    drawn = "\n".join(line for line in lines if "in flight" not in line)
    assert set("pua·") <= set(drawn)
    assert "48,213" in drawn
    legend = " ".join(" ".join(lines).split())
    assert "p in flight 2 ≤ 412us" in legend
    assert "a available 4" in legend


@pytest.mark.parametrize("space", [(20, 6), (LEAST_WIDTH - 1, 20), (60, 5), (10, 3), (1, 1)])
def test_where_a_ring_has_no_room_slots_stand_in_lines(space):
    lines = ring_text(made_up(64, popped=2), *space).plain.split("\n")
    assert len(lines) <= space[1]
    assert max(cells(line) for line in lines) <= space[0]


def test_the_cells_of_a_ring_are_apart_and_go_round():
    cells_of = points(44, 12, 256)
    assert len(set(cells_of)) == len(cells_of) > 40
    middle = (44 - 1) / 2
    assert abs(cells_of[0][0] - middle) <= 1
    assert cells_of[0][1] == 0
    # Clockwise: the first quarter lies to the right.
    assert all(x >= middle - 1 for x, _ in cells_of[: len(cells_of) // 4])


def test_what_is_not_known_is_said():
    text = ring_text(made_up(64, unknown=64, notes=["the recording began later"]), 50, 14).plain
    assert "the recording began later" in text
    assert "? not known 64" in text


# Stages


def test_stages_say_what_was_not_seen():
    text = stages_text(queue_row(), 60, 14).plain
    lines = {line.split()[0]: line for line in text.split("\n") if line.split()}
    assert "not seen" in lines["notify"]
    assert "9.80us" in lines["schedule"]
    assert "8.70ms" in lines["schedule"]
    assert "◂ schedule worker waits for a CPU: at most 17.4ms" in text
    assert "needed 10 sent 10 suppressed 2 spurious 0" in text


def test_shares_are_those_of_the_medians_of_the_device():
    stages = {"service": stage(3_000, 9_000), "complete": stage(1_000, 2_000)}
    row = queue_row(stages=stages | {"reap": stage(9_000_000, 9_000_000)})
    lines = {line.split()[0]: line for line in stages_text(row, 60, 14).plain.split("\n")}
    assert lines["service"].split()[-2] == "75%"
    assert lines["complete"].split()[-2] == "25%"
    assert lines["reap"].split()[-2] == "-"


@pytest.mark.parametrize("width", [20, 38, 45, 120])
def test_stages_fit(width):
    for row in (queue_row(), queue_row(queue="tx0"), queue_row(queue="req0", stages={}, **IDLE)):
        for line in stages_text(row, width, 14).plain.split("\n"):
            assert cells(line) <= width


# The screen


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (100, 30), (160, 48)])
def test_a_queue_shows_ring_stages_and_chains(size):
    async def steps(one):
        await one.shows("ring", "split · 256 · event-idx", "u used", "1,251 of 1,251 chains")
        # The newest chain is on the screen.
        await one.until(lambda: " 1351 " in one.text.replace(",", ""), "not at the end")
        if size[0] >= 72:
            await one.shows("where the time goes", "needed 4 sent 4")
        else:
            assert "where the time goes" not in one.text
            await one.press("w")
            await one.shows("where the time goes")
            await one.press("w")
            await one.shows("ring")

    opened(TRACES / "ringfull.vtrace", "queue", steps, size=size, place=RX)


def test_the_ring_is_that_of_the_time_scrubbed_to():
    async def steps(one):
        now = one.view.ring.slots
        cut = one.app.browser.snapshot
        one.app.scrub(cut.start_ns + (cut.cut_ns - cut.start_ns) * 55 // 100)
        await one.until(lambda: one.app.moment is not None)
        await one.settled()
        then = one.view.ring.slots
        assert then is not now
        assert then.marks != now.marks
        await one.press("space")
        await one.until(lambda: one.view.ring.slots.marks == now.marks)

    opened(TRACES / "starving.vtrace", "queue", steps, place=RX)


def test_the_ring_is_that_of_the_end_though_it_was_asked_for_earlier(tmp_path):
    from parsers.tracefile import TraceWriter
    from tests.generator import Scenario, simulate

    recording = simulate(Scenario(duration_ns=40_000_000, seed=5))
    path = tmp_path / "long.vtrace"
    with TraceWriter(path) as writer:
        for batch in recording.batches(2000):
            writer.write(batch)

    async def steps(one):
        chains = recording.truth[(recording.truth["queue"] == 1) & (recording.truth["pop_ns"] > 0)]
        position = int(chains["position"].max()) + 1
        ring = one.view.ring
        await one.until(lambda: {mark.value for mark in ring.slots.marks} >= {position})

    opened(path, "queue", steps, place=Place(vm="vm0", device="net0", queue="rx0"))


def test_enter_opens_the_chain():
    async def steps(one):
        one.view.grid.focus()
        await one.press("home", "down", "enter")
        await one.settled("chain")
        assert one.view.place.chain == (0, 1)
        await one.press("backspace")
        await one.settled("queue")

    opened(TRACES / "quiet.vtrace", "queue", steps, place=TX, row=0)


def test_a_filter_is_for_the_chains_and_the_ring_stays():
    async def steps(one):
        one.view.on_filter("position < 0")
        await one.shows("No chains match position < 0", "ring")
        assert one.view.ring.slots is not None

    opened(TRACES / "quiet.vtrace", "queue", steps, place=TX)


def test_a_queue_that_is_not_there_is_a_sentence():
    async def steps(one):
        await one.shows("No chains here")

    opened(TRACES / "quiet.vtrace", "queue", steps, place=Place(vm="no", device="no", queue="no"))


def test_resizing_all_the_time_does_no_harm():
    async def steps(one):
        for width, height in ((30, 8), (200, 60), (72, 12), (20, 5), (100, 30)):
            await one.pilot.resize_terminal(width, height)
            await one.pilot.pause()
        await one.shows("ring", "where the time goes")

    opened(TRACES / "quiet.vtrace", "queue", steps, place=TX)
