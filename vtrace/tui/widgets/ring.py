"""A ring drawn as a ring: each slot a letter, its owner by colour, its age by strength."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from rich.text import Text
from textual.widget import Widget

from vtrace.browse.rings import LETTERS, Owner, RingSlots
from vtrace.tables.human import count_text, duration_text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RingView", "ring_text"]

STYLES: Final = ("magenta", "faint", "cyan", "orange", "green")
"""By owner: not known, free, available, in flight, used."""
YOUNG_NS: Final = 1_000_000
OLD_NS: Final = 100_000_000
LEAST_WIDTH: Final = 26
LEAST_HEIGHT: Final = 9
"""A ring that is smaller is drawn as lines of slots."""

Point = tuple[int, int]


class RingView(Widget):
    """The ring of a queue at a moment."""

    DEFAULT_CSS = """
    RingView {
        height: 1fr; background: $background; color: $foreground;
        border-top: solid $surface-lighten-2; border-title-color: $foreground 70%;
        border-subtitle-color: $foreground 60%; padding: 0 1;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 as Textual names it
        super().__init__(id=id)
        self.border_title = Text(" ring ")
        self.slots: RingSlots | None = None
        self._note = "Reading the ring …"

    def show(self, slots: RingSlots, title: str) -> None:
        """Draw a ring; ``title`` says which it is."""
        self.slots = slots
        self.border_title = Text(f" {title} ")
        self.refresh()

    def say(self, note: str) -> None:
        """Say why there is no ring."""
        self.slots = None
        self._note = note
        self.refresh()

    def render(self) -> Text:
        """Return the drawing."""
        if self.slots is None:
            return Text(self._note, style="dim")
        return ring_text(self.slots, self.size.width, self.size.height)


def ring_text(slots: RingSlots, width: int, height: int) -> Text:
    """Return a ring for so many columns and lines."""
    legend = _legend(slots, width)
    legend += [_shortened(Text(note, style="warn"), width) for note in slots.notes]
    room = height - len(legend)
    if width < LEAST_WIDTH or room < LEAST_HEIGHT:
        lines = [*_rows(slots, width, max(room - 1, 1)), _marks_line(slots, width)]
    else:
        lines = _drawing(slots, width, room)
    return Text("\n", no_wrap=True).join([*lines, *legend][:height])


def _style(owner: int, age_ns: int) -> str:
    # Names of styles, apart by spaces. Older is stronger.
    hue = STYLES[owner]
    if owner in (Owner.FREE, Owner.UNKNOWN) or age_ns < YOUNG_NS:
        return hue
    return f"{hue} bold reverse" if age_ns >= OLD_NS else f"{hue} bold"


def _put(line: Text, text: str, styles: str) -> Text:
    start = len(line)
    line.append(text)
    for style in styles.split():
        line.stylize(style, start)
    return line


def points(width: int, height: int, most: int) -> list[Point]:
    """Return the cells of an ellipse, from its top on clockwise: at most ``most``, each once."""
    rx, ry = min((width - 3) / 2, 3.2 * (height - 1) / 2), (height - 1) / 2
    cx, cy = (width - 1) / 2, (height - 1) / 2
    steps = 1440
    way = [0.0]
    before = (0.0, -ry)
    for step in range(1, steps + 1):
        turn = 2 * math.pi * step / steps
        now = (rx * math.sin(turn), -ry * math.cos(turn))
        # A line is as high as two columns are wide.
        way.append(way[-1] + math.hypot(now[0] - before[0], 2 * (now[1] - before[1])))
        before = now
    count = max(min(int(way[-1] / 2), most), 1)
    while True:
        found: list[Point] = []
        at = 0
        for index in range(count):
            goal = way[-1] * index / count
            while way[at] < goal:
                at += 1
            turn = 2 * math.pi * at / steps
            found.append((round(cx + rx * math.sin(turn)), round(cy - ry * math.cos(turn))))
        if len(set(found)) == count:
            return found
        count -= 1


def _drawing(slots: RingSlots, width: int, height: int) -> list[Text]:
    cells = points(width, height, slots.size)
    owner, age, _ = slots.cells(len(cells))
    grid: dict[Point, tuple[str, str]] = {}
    for at, cell in enumerate(cells):
        grid[cell] = LETTERS[owner[at]], _style(int(owner[at]), int(age[at]))
    cx, cy = (width - 1) / 2, (height - 1) / 2
    for mark in slots.marks:
        x, y = cells[slots.cell_of(mark.slot, len(cells))]
        for inward in (2.4, 4.4, 6.4, 8.4):
            # One line is worth two columns.
            far = max(math.hypot(x - cx, 2 * (y - cy)), 1.0)
            share = max(1 - inward / far, 0.0)
            point = round(cx + (x - cx) * share), round(cy + (y - cy) * share)
            if point not in grid:
                grid[point] = mark.letter, "key"
                break
    _middle(slots, grid, width, height)
    return [_line(grid, y, width) for y in range(height)]


def _middle(slots: RingSlots, grid: dict[Point, tuple[str, str]], width: int, height: int) -> None:
    # Indices in the middle, where there is room.
    numbers = [count_text(mark.value) for mark in slots.marks]
    if not numbers:
        return
    wide = max(len(number) for number in numbers)
    lines = [
        (mark.letter, f" {mark.name:<8}{number:>{wide}}")
        for mark, number in zip(slots.marks, numbers, strict=True)
    ]
    top = (height - len(lines)) // 2
    left = (width - len(lines[0][1]) - 1) // 2
    box = [(left + at, top + y) for y in range(len(lines)) for at in range(len(lines[0][1]) + 1)]
    if any(grid.get(point, ("", ""))[1] not in ("", "key") for point in box):
        return
    for y, (letter, text) in enumerate(lines):
        for point in [point for point in box if point[1] == top + y and point in grid]:
            del grid[point]
        grid[left, top + y] = letter, "key"
        for at, char in enumerate(text):
            grid[left + 1 + at, top + y] = char, "text" if char.isdigit() or char == "," else "dim"


def _line(grid: dict[Point, tuple[str, str]], y: int, width: int) -> Text:
    line = Text()
    for x in range(width):
        char, style = grid.get((x, y), (" ", ""))
        _put(line, char, style)
    return line


def _rows(slots: RingSlots, width: int, height: int) -> list[Text]:
    # Slots line by line, where there is no room for a ring.
    owner, age, _ = slots.cells(max(width, 1) * height)
    lines = []
    for first in range(0, len(owner), width):
        line = Text()
        for at in range(first, min(first + width, len(owner))):
            _put(line, LETTERS[owner[at]], _style(int(owner[at]), int(age[at])))
        lines.append(line)
    return lines


def _marks_line(slots: RingSlots, width: int) -> Text:
    text = Text()
    for mark in slots.marks:
        text.append(mark.letter, style="key").append(f" {mark.name} ", style="dim")
        text.append(f"{count_text(mark.value)}  ")
    return _shortened(text, width)


def _legend(slots: RingSlots, width: int) -> list[Text]:
    counts = slots.counts
    parts: list[tuple[Owner, str, str]] = [
        (Owner.AVAILABLE, "available", ""),
        (Owner.POPPED, "in flight", ""),
        (Owner.USED, "used", ""),
        (Owner.FREE, "free", ""),
    ]
    if slots.oldest_ns >= 0:
        older = f" + {slots.older} older" if slots.older else ""
        age = f"{older} ≤ {duration_text(slots.oldest_ns)}"
        parts[1] = (Owner.POPPED, "in flight", age)
    if slots.batches:
        many = "batch" if slots.batches == 1 else "batches"
        parts[2] = (Owner.USED, "used", f" in {slots.batches} {many}")
    if counts[Owner.UNKNOWN]:
        parts.append((Owner.UNKNOWN, "not known", ""))
    found: Sequence[Text] = [_part(counts, *part) for part in parts]
    lines = [Text()]
    for text in found:
        if lines[-1].cell_len and lines[-1].cell_len + text.cell_len + 2 > width:
            lines.append(Text())
        lines[-1].append_text(text).append("  ")
    return [_shortened(line, width) for line in lines]


def _part(counts: dict[Owner, int], owner: Owner, word: str, more: str) -> Text:
    count = counts[owner]
    text = _put(Text(), LETTERS[owner], f"{STYLES[owner]} bold")
    text.append(f" {word} ", style="dim")
    return text.append(count_text(count), style="" if count else "dim").append(more, style="dim")


def _shortened(text: Text, width: int) -> Text:
    if text.cell_len > width:
        text = text.copy()
        text.rstrip()
        text.truncate(width, overflow="ellipsis")
    return text
