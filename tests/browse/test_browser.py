"""What a view shows is what the verbs print: figures at any time, rows on any page."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from parsers.tracefile import TraceWriter, open_trace
from tests.generator import Pair, Scenario, lose_bursts, simulate
from vtrace.browse import TABLES, Browser, Query, State, chunks
from vtrace.cli import main
from vtrace.errors import FilterError, InputError

TRACES = Path(__file__).parents[2] / "examples/traces"
BUNDLED = ("quiet", "ringfull", "starving")
DEADLINE_S = 60


def until(condition, what=""):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.fixture
def browse():
    opened = []

    def open_it(path, **options):
        browser = Browser(str(path), **options)
        opened.append(browser)
        browser.start()
        return browser

    yield open_it
    for browser in opened:
        browser.close()


def read(browse, path, **options):
    browser = browse(path, **options)
    until(lambda: browser.ended)
    return browser


def printed(capsys, *words):
    capsys.readouterr()
    code = main([str(word) for word in words])
    out = capsys.readouterr().out
    return code, out


def report(capsys, *words):
    code, out = printed(capsys, "report", "--json", *words)
    assert code in {0, 6}
    return json.loads(out)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """A recording of many batches, with records lost in it."""
    pairs = (Pair(rx_size=64), Pair())
    recording = simulate(Scenario(pairs=pairs, duration_ns=6_000_000, seed=11))
    recording = lose_bursts(recording, np.random.default_rng(5), 4, 30)
    path = tmp_path_factory.mktemp("browse") / "lossy.vtrace"
    with TraceWriter(path) as writer:
        for batch in recording.batches(-(-len(recording.records) // 40)):
            writer.write(batch)
    return path


@pytest.fixture(params=[*BUNDLED, "lossy"])
def trace(request):
    if request.param == "lossy":
        return request.getfixturevalue("lossy")
    return TRACES / f"{request.param}.vtrace"


def test_the_last_figures_are_those_of_report(trace, browse, capsys):
    browser = read(browse, trace)
    assert browser.snapshot.state is State.COMPLETE
    assert browser.snapshot.report == report(capsys, trace)


def test_an_earlier_moment_is_a_report_until_then(trace, browse, capsys):
    browser = read(browse, trace)
    start, cut = browser.snapshot.start_ns, browser.snapshot.cut_ns
    for share in (0.05, 0.4, 0.41, 0.99):
        when = start + int((cut - start) * share)
        found = browser.at(when).snapshot.report
        wanted = report(capsys, "--until", when, trace)
        for name in ("queues", "drops", "duration_ns"):
            assert found[name] == wanted[name], (share, name)
    assert browser.at(None).snapshot.report["queues"] == browser.snapshot.report["queues"]


def test_a_moment_is_what_a_file_has_that_ends_there(lossy, browse, capsys, tmp_path):
    # The recorder was stopped in the middle: all of the report is what stood there then.
    with open_trace(lossy) as whole:
        whole.scan()
        ends = [whole.entry(k).end for k in range(len(whole.offsets))]
        lasts = [one.last_ns for one in whole.summaries]
    browser = read(browse, lossy)
    for batches in (1, 13, 30):
        cut = tmp_path / "cut.vtrace"
        cut.write_bytes(lossy.read_bytes()[: ends[batches - 1]])
        found = dict(browser.at(lasts[batches - 1] + 1).snapshot.report)
        wanted = report(capsys, cut)
        assert found | {"source": ""} == wanted | {"source": ""}


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_those_of_the_verb(table, trace, browse, capsys):
    browser = read(browse, trace)
    view = browser.view(Query(table=table))
    until(lambda: view.done)
    _, out = printed(capsys, table, "--json", trace)
    wanted = [json.loads(line) for line in out.splitlines()]
    assert len(view) == len(wanted)
    rng = np.random.default_rng(3)
    for first in [0, *rng.integers(0, max(len(wanted), 1), 12).tolist()]:
        rows = list(view.load(first, 25).rows())
        assert rows == wanted[first : first + 25]


def test_rows_do_not_depend_on_what_is_in_memory(lossy, browse, monkeypatch):
    browser = read(browse, lossy)
    view = browser.view(Query(table="lifecycles"))
    until(lambda: view.done)
    straight = list(view.load(0, len(view)).rows())
    monkeypatch.setattr(chunks, "MOST_ROWS", 1)
    monkeypatch.setattr(chunks, "MOST_SAVED_BYTES", 1 << 20)
    other = read(browse, lossy)
    view = other.view(Query(table="lifecycles"))
    until(lambda: view.done)
    for first in np.random.default_rng(4).integers(0, len(view), 30).tolist():
        assert list(view.load(first, 7).rows()) == straight[first : first + 7]
    assert len(other.chunks._kept) <= 1


def test_a_page_in_memory_is_there_at_once(browse):
    browser = read(browse, TRACES / "quiet.vtrace")
    view = browser.view(Query(table="packets"))
    until(lambda: view.done)
    loaded = view.load(50, 10)
    until(lambda: view.peek(50, 10) is not None)
    assert list(view.peek(50, 10).rows()) == list(loaded.rows())
    assert loaded.frame(0).data[:6] == bytes.fromhex("525400090000") or loaded.frame(0).data


def test_a_chain_knows_its_packet(browse):
    browser = read(browse, TRACES / "ringfull.vtrace")
    view = browser.view(Query(table="lifecycles", queue="rx0"))
    until(lambda: view.done)
    page = view.load(600, 20)
    for at, (flow, packet) in enumerate(zip(*page.lists(["flow", "packet"]), strict=True)):
        found = page.packet(at)
        assert (found is None) == (flow is None)
        if found is not None:
            packets, row = found
            assert packets.rows["packet"][row] == packet


def test_selection_and_filter(browse, capsys):
    path = TRACES / "ringfull.vtrace"
    browser = read(browse, path)
    view = browser.view(Query(table="packets", queue="rx0", filter='verdict == "dropped"'))
    until(lambda: view.done)
    _, out = printed(
        capsys, "packets", "--json", "--queue", "rx0", "-Y", 'verdict == "dropped"', path
    )
    assert len(view) == len(out.splitlines()) == 249
    nobody = browser.view(Query(table="packets", vm="nobody"))
    until(lambda: nobody.done)
    assert len(nobody) == 0
    assert len(nobody.load(0, 10)) == 0


def test_a_query_in_words_is_a_filter():
    query = Query(table="packets", vm='a"b', queue="rx0", filter="dport == 1 or dport == 2")
    assert query.text == 'vm == "a\\"b" and queue == "rx0" and (dport == 1 or dport == 2)'


def test_a_filter_with_a_mistake_says_where(browse):
    browser = read(browse, TRACES / "quiet.vtrace")
    with pytest.raises(FilterError) as found:
        browser.view(Query(table="packets", filter="dport = 7001"))
    assert found.value.column == 6


def test_search_goes_both_ways(browse):
    browser = read(browse, TRACES / "ringfull.vtrace")
    view = browser.view(Query(table="packets"))
    until(lambda: view.done)
    verdicts = view.load(0, len(view)).lists(["verdict"])[0]
    dropped = [row for row, verdict in enumerate(verdicts) if verdict == "dropped"]
    text = 'verdict == "dropped"'
    assert view.search(text, -1) == dropped[0]
    assert view.search(text, dropped[0]) == dropped[1]
    assert view.search(text, len(view), -1) == dropped[-1]
    assert view.search(text, dropped[0], -1) is None


def test_row_at_a_time(browse):
    browser = read(browse, TRACES / "quiet.vtrace")
    view = browser.view(Query(table="lifecycles"))
    until(lambda: view.done)
    times = view.load(0, len(view)).lists(["time_ns"])[0]
    middle = sorted(times)[len(times) // 2]
    row = view.row_at(middle)
    assert times[row] >= middle
    assert all(time < middle for time in times[: max(row - 10, 0)])


def test_batches_of_a_stretch(lossy, browse):
    browser = read(browse, lossy)
    since = browser.snapshot.start_ns + 1_000_000
    found = np.concatenate([b["time"] for b in browser.batches(since, since + 500_000, ["kind"])])
    with open_trace(lossy) as whole:
        times = np.concatenate([batch["time"] for batch in whole.batches()])
    assert np.array_equal(found, times[(times >= since) & (times < since + 500_000)])


class Writer:
    """Writes a recording a batch at a time."""

    def __init__(self, source, target):
        with open_trace(source) as whole:
            self.batches = list(whole.batches())
        self.writer = TraceWriter(target)

    def write(self, count):
        for _ in range(count):
            self.writer.write(self.batches.pop(0))
        self.writer.flush()


def test_a_file_that_grows(lossy, browse, capsys, tmp_path):
    path = tmp_path / "grows.vtrace"
    writer = Writer(lossy, path)
    writer.write(5)
    browser = browse(path, follow=True)
    view = browser.view(Query(table="lifecycles"))
    until(lambda: browser.snapshot.batches == 5)
    until(lambda: browser.snapshot.state is State.FOLLOWING)
    now = report(capsys, path)
    until(lambda: browser.snapshot.report == now, "figures of what is there")
    writer.write(20)
    until(lambda: browser.snapshot.batches == 25)
    assert not browser.ended
    writer.write(len(writer.batches))
    writer.writer.close()
    until(lambda: browser.ended)
    assert browser.snapshot.state is State.COMPLETE
    assert browser.snapshot.report == report(capsys, path)
    until(lambda: view.done)
    assert len(view) == len(printed(capsys, "lifecycles", "--json", path)[1].splitlines())


def test_a_file_that_is_cut_off_while_it_is_followed(lossy, browse, tmp_path):
    path = tmp_path / "cut.vtrace"
    writer = Writer(lossy, path)
    writer.write(8)
    browser = browse(path, follow=True)
    until(lambda: browser.snapshot.state is State.FOLLOWING)
    events = browser.snapshot.events
    with path.open("r+b") as file:
        file.truncate(5000)
    until(lambda: browser.ended)
    assert browser.snapshot.state is State.CUT_SHORT
    assert "shorter" in browser.snapshot.sentence
    assert browser.snapshot.events == events
    with pytest.raises(InputError, match=r"cut\.vtrace"):
        browser.chunks.batch(7)


def test_a_recorder_that_dies(lossy, browse, tmp_path, monkeypatch):
    monkeypatch.setattr("vtrace.browse.browser.SILENT_S", 0.3)
    path = tmp_path / "dies.vtrace"
    Writer(lossy, path).write(8)
    browser = browse(path, follow=True)
    until(lambda: "nothing was written" in browser.snapshot.sentence)
    assert browser.snapshot.state is State.FOLLOWING
    browser.recorder_ended = "the recorder was killed by signal 9; what it wrote is here"
    until(lambda: browser.ended)
    assert browser.snapshot.state is State.CUT_SHORT
    assert browser.snapshot.sentence == browser.recorder_ended
    assert browser.snapshot.batches == 8


def test_a_damaged_file_is_read_around_the_damage(lossy, browse, capsys, tmp_path):
    path = tmp_path / "damaged.vtrace"
    shutil.copy(lossy, path)
    with open_trace(lossy) as whole:
        whole.scan()
        entry = whole.entry(10)
    with path.open("r+b") as file:
        file.seek(entry.body_offset + entry.body_bytes // 2)
        file.write(b"\xaa" * 64)
    browser = read(browse, path)
    assert any("batch 10" in text for text in browser.snapshot.damage)
    assert browser.snapshot.report == report(capsys, path)
    view = browser.view(Query(table="lifecycles"))
    until(lambda: view.done)
    _, out = printed(capsys, "lifecycles", "--json", path)
    assert list(view.load(0, len(view)).rows()) == [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("when", [1 << 62, (1 << 63) + 5, (1 << 64) - 1])
def test_a_time_that_no_clock_has(when, browse, tmp_path):
    path = tmp_path / "late.vtrace"
    with open_trace(TRACES / "ringfull.vtrace") as trace:
        batches = list(trace.batches())
    last = [batch for batch in batches if len(batch)][-1]
    last.columns["time"] = last.columns["time"].copy()
    last.columns["time"][-1] = when
    with TraceWriter(path) as writer:
        for batch in batches:
            writer.write(batch)
    browser = read(browse, path)
    assert browser.snapshot.state is State.COMPLETE
    assert browser.snapshot.events == 5941
    for table in TABLES:
        view = browser.view(Query(table=table))
        until(lambda view=view: view.done)
        assert view.sentence == ""
    assert 5866 <= browser.at(when).snapshot.events <= 5941


def test_no_recording(tmp_path):
    path = tmp_path / "none"
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="is no recording"):
        Browser(str(path))


def test_series_tell_what_the_report_tells(lossy, browse):
    browser = read(browse, lossy)
    snapshot = browser.snapshot
    for number, row in zip(snapshot.queue_ids, snapshot.queues, strict=True):
        series = snapshot.series[number]
        assert len(series.chains) <= 512
        assert series.kicks.sum() == row["kicks"]["sent"]
        assert series.interrupts.sum() == row["interrupts"]["sent"]
        assert (series.in_flight >= 0).all()
        assert len(series.chains) == len(series.drops) == len(series.in_flight)
