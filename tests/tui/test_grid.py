"""The virtual table: how much it asks for, what it draws, where its cursor stays."""

from __future__ import annotations

import asyncio
import threading
import time

from rich.text import Text
from textual.app import App

from vtrace.errors import InputError
from vtrace.text import clean
from vtrace.tui.grid import Grid, GridColumn, RowList

COLUMNS = (
    GridColumn("name", "name", 10, sortable=True),
    GridColumn("count", "count", 6, right=True, sortable=True, rank=1),
    GridColumn("rest", "rest", 10, rank=2, grow=True),
)


class Watched(Grid):
    """Remembers what it was told to draw."""

    def __init__(self, *args, **kwargs):
        self.drawn = []
        super().__init__(*args, **kwargs)

    def refresh(self, *regions, **kwargs):
        self.drawn.append(regions)
        return super().refresh(*regions, **kwargs)


class Bench(App):
    def __init__(self, grid):
        super().__init__()
        self.grid = grid
        self.heard = []

    def compose(self):
        yield self.grid

    def on_grid_opened(self, event):
        self.heard.append(("opened", event.row))

    def on_grid_sorted(self, event):
        self.heard.append(("sorted", event.key))

    def on_grid_failed(self, event):
        self.heard.append(("failed", event.sentence))


def lines(app):
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def tried(grid, steps, size=(40, 10)):
    app = Bench(grid)

    async def run():
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(run())


async def until(pilot, condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "\n".join(lines(pilot.app))
        await pilot.pause(0.01)
    await pilot.pause()


def some(count):
    return RowList(
        [[f"row {at}", str(at), "x"] for at in range(count)], [f"k{at}" for at in range(count)]
    )


class Slow:
    """A million rows that are read a piece at a time, in a thread."""

    stable = True

    def __init__(self, count=1_000_000):
        self.count = count
        self.have = {}
        self.asked = []
        self.threads = set()
        self.error = None

    def __len__(self):
        return self.count

    def cells(self, first, count):
        wanted = range(first, min(first + count, self.count))
        if not all(row in self.have for row in wanted):
            return None
        return [self.have[row] for row in wanted]

    def load(self, first, count):
        self.threads.add(threading.current_thread())
        if self.error is not None:
            raise self.error
        self.asked.append((first, count))
        for row in range(first, min(first + count, self.count)):
            self.have[row] = [f"row {row}", str(row), ""]


def test_of_a_million_rows_those_on_the_screen_are_read():
    source = Slow()

    async def steps(app, pilot):
        await until(pilot, lambda: "row 0" in lines(app)[1])
        await pilot.press("end")
        await until(pilot, lambda: "row 999999" in lines(app)[9])
        await pilot.press("g", "g")
        await until(pilot, lambda: "row 0" in lines(app)[1])
        for _ in range(40):
            await pilot.press("pagedown")
        await until(pilot, lambda: any(f"row {app.grid.cursor}" in line for line in lines(app)))
        assert app.grid.cursor == 40 * 8

    tried(Grid(COLUMNS, source), steps)
    assert threading.main_thread() not in source.threads
    assert sum(count for _, count in source.asked) < 2000


def test_a_long_scroll_leaves_no_queue_of_reads_behind():
    source = Slow()
    gate = threading.Event()
    load = source.load

    def held(first, count):
        gate.wait(10)
        load(first, count)

    source.load = held

    async def steps(app, pilot):
        for _ in range(200):
            await pilot.press("pagedown")
        gate.set()
        await until(pilot, lambda: not app.grid.waiting)
        await until(pilot, lambda: f"row {app.grid.cursor}" in "\n".join(lines(app)))

    tried(Grid(COLUMNS, source), steps)
    assert len(source.asked) <= 4


def test_rows_that_cannot_be_read_are_a_sentence():
    source = Slow()
    source.error = InputError("run.vtrace: changed under us; open it again")

    async def steps(app, pilot):
        await until(pilot, lambda: app.heard)
        assert app.heard[0] == ("failed", "run.vtrace: changed under us; open it again")

    tried(Grid(COLUMNS, source), steps)


def test_only_cells_that_changed_are_drawn():
    grid = Watched(COLUMNS, some(5))

    async def steps(app, pilot):
        rows = [[f"row {at}", str(at), "x"] for at in range(5)]
        rows[3][1] = "77"
        await pilot.pause()
        grid.drawn.clear()
        grid.set_source(RowList(rows, [f"k{at}" for at in range(5)]), keep=True)
        drawn = [region for regions in grid.drawn for region in regions]
        assert [(one.y, one.height, one.width) for one in drawn] == [(4, 1, 6)]
        assert all(grid.drawn)
        await pilot.pause()
        assert lines(app)[4].split() == ["row", "3", "77", "x"]
        grid.drawn.clear()
        grid.set_source(RowList(rows, [f"k{at}" for at in range(5)]), keep=True)
        assert grid.drawn == []

    tried(grid, steps)


def test_the_cursor_stays_on_its_row_when_the_order_changes():
    grid = Grid(COLUMNS, some(50))

    async def steps(app, pilot):
        await pilot.press("down", "down", "down")
        assert grid.key_of(grid.cursor) == "k3"
        turned = RowList(
            [[f"row {at}", str(at), "x"] for at in reversed(range(50))],
            [f"k{at}" for at in reversed(range(50))],
        )
        grid.set_source(turned, keep=True)
        await pilot.pause()
        assert grid.key_of(grid.cursor) == "k3"
        assert any("row 3 " in line for line in lines(app))
        grid.set_source(some(2), keep=True)
        await pilot.pause()
        assert grid.cursor == 1

    tried(grid, steps)


def test_rows_that_come_move_nothing_unless_it_follows():
    source = Slow(100)
    grid = Grid(COLUMNS, source)

    async def steps(app, pilot):
        await until(pilot, lambda: "row 0" in lines(app)[1])
        before = lines(app)
        source.count = 200
        grid.update()
        await pilot.pause()
        assert lines(app) == before
        grid.action_last()
        grid.follow = True
        source.count = 300
        grid.update()
        await until(pilot, lambda: "row 299" in lines(app)[9])

    tried(grid, steps)


def test_columns_leave_by_rank_and_come_back():
    grid = Grid(COLUMNS, some(3))

    async def steps(app, pilot):
        seen = {}
        for width in (40, 26, 20, 9, 40):
            await pilot.resize_terminal(width, 10)
            await pilot.pause()
            seen[width] = [column.key for column in grid.shown_columns]
            assert all(len(line) <= width for line in lines(app))
        assert seen == {
            40: ["name", "count", "rest"],
            26: ["name", "count"],
            20: ["name", "count"],
            9: ["name"],
        }
        assert lines(app)[1].split() == ["row", "0", "0", "x"]

    tried(grid, steps)


def test_what_a_guest_wrote_does_not_steer_the_terminal():
    bad = ["\x1b[31mred\x07", "a\nb\tc", "\u202eevil\u2066", "日本語日本語日本語", "e\u0301\u200b"]
    rows = [[one, Text(one, style="bold"), one] for one in bad]
    grid = Grid(COLUMNS, RowList(rows))

    async def steps(app, pilot):
        strips = app.screen._compositor.render_strips()
        for strip in strips:
            assert clean(strip.text) == strip.text
            assert strip.cell_length == 40
        assert "\\x1b" in lines(app)[1]
        assert "\\n" in lines(app)[2]

    tried(grid, steps)


def test_the_mouse_does_what_keys_do():
    grid = Grid(COLUMNS, some(30))

    async def steps(app, pilot):
        await pilot.click(grid, offset=(3, 4))
        assert grid.cursor == 3
        await pilot.click(grid, offset=(3, 2), times=2)
        assert ("opened", 1) in app.heard
        await pilot.click(grid, offset=(15, 0))
        assert app.heard[-1] == ("sorted", "count")
        await pilot.press("enter")
        assert app.heard[-1] == ("opened", 1)

    tried(grid, steps)


def test_marked_rows_are_shown_as_such():
    grid = Grid(COLUMNS, some(5))

    async def steps(app, pilot):
        grid.toggle_mark()
        await pilot.pause()
        assert grid.marked == {"k0"}
        assert lines(app)[1].startswith("▪")
        assert grid.cursor == 1
        await pilot.press("up")
        grid.toggle_mark()
        await pilot.pause()
        assert grid.marked == set()
        assert not lines(app)[1].startswith("▪")

    tried(grid, steps)
