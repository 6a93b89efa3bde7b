"""The view of requests: sums, balloons and ports above, requests one by one below."""

from pathlib import Path

import pytest

from tests.requests.devices import Devices, message, story
from tests.tui import hostile
from tests.tui.opened import opened
from vtrace.tui.place import Place

RINGFULL = Path(__file__).resolve().parents[2] / "examples" / "traces" / "ringfull.vtrace"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A recording of every kind of device that QEMU serves."""
    told, _ = story()
    return told.write(tmp_path_factory.mktemp("served") / "served.vtrace", 20, 21, 90)


def test_sums_above_requests_below(served):
    async def steps(one):
        await one.shows("one by one", "1 of 25 requests", "service p50")
        await one.shows("IN ", "sector 2048 +8", "OUT", "IOERR", "READ(10)", "3:1 lba 4660 +8")
        assert one.app.focused is one.pane("rows")
        report = one.view.snapshot.report
        grid = one.pane("sums")
        assert grid.row_count == len(report["requests"])
        first = report["requests"][0]
        line = next(line for line in one.lines if f" {first['operation']} " in line)
        assert f" {first['count']} " in line
        await one.shows("balloon cpx balloon0  inflated 260 pages (1.06 MB)")

    opened(served, "requests", steps)


def test_all_columns_where_there_is_room(served):
    async def steps(one):
        await one.shows("queueing p50", "ambiguous", "port 1 1 org.test.0", "INFLATE")
        await one.shows("serial port cpx serial0 1 org.test.0", "statistics MEMFREE 123,456")
        await one.shows("ILLEGAL", "MEMTOT=2147483648", "used partial")

    opened(served, "requests", steps, size=(160, 60))


def test_enter_opens_the_chain(served):
    async def steps(one):
        await one.press("down", "enter")
        await one.settled("chain")
        await one.shows("blk request  OUT sector 7 +3", "1,536 B")
        assert one.view.place == Place(vm="cpx", device="disk0", queue="req0", chain=(0, 1))

    opened(served, "requests", steps)


def test_a_sum_shows_its_requests(served):
    async def steps(one):
        await one.press("tab", "down", "down", "down", "enter")
        await one.until(lambda: one.view.filter_text)
        await one.settled("requests")
        assert one.view.filter_text == 'operation == "DISCARD"'
        assert one.view.place == Place(vm="cpx", device="disk0")
        await one.shows("1 of 1 request")

    opened(served, "requests", steps)


def test_those_that_failed(served):
    async def steps(one):
        await one.press("f")
        await one.shows("2 of 25 requests")
        await one.press("f")
        await one.shows("5 of 25 requests")
        await one.press("F")
        await one.shows("2 of 25 requests")

    opened(served, "requests", steps)


def test_sums_are_those_of_the_place(served):
    async def steps(one):
        await one.until(lambda: one.pane("sums").row_count)
        assert {row["device"] for row in one.view._sums} == {"disk0"}
        assert one.pane("more").display is False

    opened(served, "requests", steps, place=Place(vm="cpx", device="disk0"))


def test_a_recording_without_such_queues():
    async def steps(one):
        await one.shows("No queue in this recording was served by QEMU", "view 6")

    opened(RINGFULL, "requests", steps)


def test_nothing_matches(served):
    async def steps(one):
        await one.shows("No requests match lun == 77 here")

    opened(served, "requests", steps, filter_text="lun == 77")


def test_what_a_guest_names_its_port_garbles_nothing(tmp_path):
    told = Devices()
    told.ask(8, 0, [], [message(1, 7, 1) + b"\x1b[2J\xe2\x80\xae\xe6\xbc\xa2[/bold]evil\r\n\0"])
    path = told.write(tmp_path / "evil.vtrace")

    async def steps(one):
        await one.shows("\\x1b[2J\\u202e漢[/bold]evil")
        assert not any(hostile.garbles(line) for line in one.lines)

    opened(path, "requests", steps, size=(160, 30))
