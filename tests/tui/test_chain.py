"""The view of one chain: its times in words, its stages, its neighbours, its packet or request."""

from dataclasses import replace
from pathlib import Path

import pytest

from parsers.tracefile import open_trace
from tests.requests.devices import story
from tests.tui.opened import opened
from vtrace.browse import Browser
from vtrace.browse.onechain import ChainKey, find_chain
from vtrace.browse.query import Query
from vtrace.session import PacketJoin, Session
from vtrace.tui.place import Place
from vtrace.tui.widgets.asked import request_layers
from vtrace.tui.widgets.chain import chain_texts, stage_texts

RINGFULL = Path(__file__).resolve().parents[2] / "examples" / "traces" / "ringfull.vtrace"
RX0 = Place(vm="web1", device="nic0", queue="rx0", chain=(0, 104))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A recording of every kind of device that QEMU serves."""
    told, _ = story()
    return told.write(tmp_path_factory.mktemp("served") / "served.vtrace", 20, 21, 90)


@pytest.fixture(scope="module")
def rows():
    """All chains of the bundled recording, by queue and position."""
    with open_trace(RINGFULL) as trace:
        session = Session(trace, join=PacketJoin())
        found = [row for chunk in session.chunks() for row in chunk.lifecycles.rows()]
    return {(row["queue"], row["position"]): row for row in found}


@pytest.fixture(scope="module")
def browser():
    one = Browser(str(RINGFULL))
    one.start()
    for thread in one._threads[:1]:
        thread.join(30)
    assert one.ended
    yield one
    one.close()


def key_of(row):
    names = ("vm", "device", "queue", "generation", "position")
    return ChainKey(**{name: row[name] for name in names})


# Finding it


def test_each_chain_is_found_as_the_verb_prints_it(browser, rows):
    for row in list(rows.values())[::53]:
        found = find_chain(browser, key_of(row), row["time_ns"])
        neighbours = list(found.page.rows())
        assert neighbours[found.index] == row
        assert [one["position"] for one in neighbours] == sorted(
            one["position"]
            for one in rows.values()
            if one is row or (row["batch"] and one["batch"] == row["batch"])
            if (one["queue"], one["generation"]) == (row["queue"], row["generation"])
        )
        assert found.request is None


def test_without_a_time_it_is_looked_for_from_the_start(browser, rows):
    row = rows["rx0", 900]
    found = find_chain(browser, key_of(row))
    assert next(iter(found.page.rows()))["batch"] == row["batch"]
    assert found.page.frame(found.index).length == 242


def test_what_is_not_there_is_not_found(browser):
    key = ChainKey(vm="web1", device="nic0", queue="rx0", generation=0, position=1 << 40)
    assert find_chain(browser, key) is None
    other = ChainKey(vm="other", device="nic0", queue="rx0", generation=0, position=104)
    assert find_chain(browser, other) is None


# In words


def words(row, width=100, **changes):
    texts = chain_texts([{**row, **changes}], 0, width, lambda ns: f"t{ns}")
    return "\n".join(text.plain for text in texts)


def test_each_state_has_its_words(rows):
    row = rows["rx0", 104]
    text = words(
        row,
        wake_state="suppressed",
        wake_ns=None,
        run_state="not_probed",
        run_ns=None,
        irq_state="lost",
        irq_ns=None,
    )
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    assert "suppressed: the other side had asked for none" in lines["wake"]
    assert "not probed" in lines["run"]
    assert "lost, or outside of the recording" in lines["irq"]
    assert "does not apply to this queue" in lines["kick"]
    assert "shared: the event of another chain served it" in lines["signal"]
    assert f"t{row['pop_ns']}" in lines["pop"]
    assert "the device took the chain from the available ring" in lines["pop"]


def test_what_was_not_seen_is_not_shown_as_none(rows):
    row = rows["rx0", 104]
    states = {name: "lost" for name in row if name.endswith("_state")}
    times = dict.fromkeys((name for name in row if name.endswith("_ns")), None)
    text = words({**row, **states, **times}, used_bytes=None)
    assert text.count("lost, or outside of the recording") == 10
    assert "0 B written" not in text
    assert list(stage_texts({**row, **times}, 80)) == []


def test_narrow_lines_leave_out_what_is_no_time(rows):
    text = words(rows["rx0", 104], width=40)
    assert all(len(line) <= 40 for line in text.splitlines())
    assert "+1.53ms" in text


def test_the_longest_stage_has_the_longest_bar(rows):
    bars = {
        text.plain.split()[0]: text.plain.count("█") for text in stage_texts(rows["rx0", 104], 80)
    }
    assert max(bars, key=bars.get) == "queueing"
    idle = {**rows["rx0", 104], "idle_ns": 10**12}
    (line,) = [one for one in stage_texts(idle, 80) if one.plain.startswith("idle")]
    assert "no latency" in line.plain


def test_a_request_as_layers(served):
    one = Browser(str(served))
    one.start()
    one._threads[0].join(30)
    view = one.view(Query(table="requests"))
    while not view.done:
        pass
    asked = [request_layers(row) for row in view.load(0, len(view)).rows()]
    one.close()
    first, answer, _ = asked[0]
    assert (first.name, first.summary) == ("blk request", "IN sector 2048 +8")
    assert {field.name: field.text for field in first.fields}["sector"] == "2,048"
    assert answer.summary == "OK"
    assert {field.name: field.text for field in answer.fields}["failed"] == "no"
    assert len({layers[0].name for layers in asked}) == 5


# The screen


def test_a_chain_with_its_packet():
    async def steps(one):
        await one.shows("position 104  head 104  used", "4 of 65 returned together")
        await one.shows("enqueue", "+878us", "virtio_net_hdr", "UDP  10.9.0.1:51117")
        assert "chain 104" in one.lines[1]
        await one.press("tab", "tab")
        await one.shows("0000  52 54 00 09")
        await one.press("tab")
        await one.shows("returned together", "position", "119")

    opened(RINGFULL, "chain", steps, place=RX0)


def test_to_the_chain_before_and_behind():
    async def steps(one):
        await one.press("right")
        await one.shows("position 105", "5 of 65")
        assert one.view.place.chain == (0, 105)
        await one.press("left")
        await one.shows("position 104")
        for position in (103, 102, 101):
            await one.press("left")
            await one.shows(f"position {position} ")
        # None was before it.
        await one.press("left")
        await one.shows("no chain at position 100 in the recording")
        assert one.view.place.chain == (0, 101)

    opened(RINGFULL, "chain", steps, place=RX0)


def test_to_a_chain_of_another_batch():
    async def steps(one):
        await one.shows("65 of 65")
        await one.press("right")
        await one.shows("position 166 ", "1 of ")
        await one.press("left")
        await one.shows("position 165 ", "65 of 65")

    opened(RINGFULL, "chain", steps, place=replace(RX0, chain=(0, 165)))


def test_a_chain_of_its_batch():
    async def steps(one):
        await one.shows("returned together")
        one.view.focus_pane("batch")
        await one.press("end", "enter")
        await one.shows("position 165", "65 of 65")
        assert one.app.focused is one.pane("stages")

    opened(RINGFULL, "chain", steps, place=RX0, size=(160, 48))


def test_the_timeline_opens_around_it(monkeypatch):
    async def steps(one):
        went = []
        monkeypatch.setattr(one.app, "go", lambda *words, **hints: went.append((words, hints)))
        await one.press("enter")
        ((view, place), hints) = went[0]
        assert view == "timeline"
        assert place == Place(vm="web1", device="nic0", queue="rx0")
        assert hints == {"time_ns": one.view.cursor_ns}

    opened(RINGFULL, "chain", steps, place=RX0)


def test_a_request_with_its_bytes(served):
    async def steps(one):
        await one.shows("scsi request  READ(10) 3:1 lba 4660 +8", "answer  GOOD")
        await one.shows("01 03 40 01")

    place = Place(vm="cpx", device="scsi0", queue="req0", chain=(0, 0))
    opened(served, "chain", steps, place=place, size=(110, 48))


def test_a_chain_that_is_not_there():
    async def steps(one):
        await one.shows("There is no chain at position 77,777 here.")

    opened(RINGFULL, "chain", steps, place=Place(vm="web1", chain=(0, 77777)))


def test_no_chain_was_chosen():
    async def steps(one):
        await one.shows("Choose a chain first")

    opened(RINGFULL, "chain", steps)


def test_what_is_exported_is_the_chain(rows):
    async def steps(one):
        await one.shows("position 104")
        selection = one.view.selection()
        assert list(selection.rows) == [rows["rx0", 104]]
        assert (selection.name, selection.count) == ("lifecycles", 1)

    opened(RINGFULL, "chain", steps, place=RX0)
