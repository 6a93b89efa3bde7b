"""The bytes of a packet, those of one field marked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from vtrace.tui.widgets.pane import Line, LinesPane

__all__ = ["HexPane", "bytes_in_line", "hex_lines"]

HALF: Final = 8
WIDE: Final = 72
"""Cells that lines of 16 bytes need."""
NARROW: Final = 39
"""Cells that lines of 8 bytes need."""


def hex_lines(data: bytes, width: int, marked: range | None = None) -> list[Text]:
    """Return lines of offset, bytes and printable characters: 16 bytes a line, or 8, or 4."""
    count = bytes_in_line(width)
    marked = range(0) if marked is None else marked
    lines = []
    for at in range(0, len(data), count):
        part = data[at : at + count]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)
        hexa = [f"{byte:02x}" for byte in part] + ["  "] * (count - len(part))
        if count > HALF:
            # A wider gap in the middle.
            hexa[HALF - 1] += " "
        line = Text(f"{at:04x}  {' '.join(hexa)}  {shown}")
        line.stylize("dim", 0, 4)
        first, last = max(marked.start, at), min(marked.stop, at + len(part))
        for index, byte in enumerate(part):
            if not byte:
                line.stylize("dim", _column(index, count), _column(index, count) + 2)
        if first < last:
            text = 6 + 3 * count + (count > HALF) + 1
            _mark(line, _column(first - at, count), _column(last - 1 - at, count) + 2)
            _mark(line, text + first - at, text + last - at)
        lines.append(line)
    return lines


def bytes_in_line(width: int) -> int:
    """Return how many bytes a line has."""
    return 16 if width >= WIDE else HALF if width >= NARROW else 4


def _column(index: int, count: int) -> int:
    return 6 + 3 * index + (count > HALF and index >= HALF)


def _mark(line: Text, start: int, end: int) -> None:
    line.stylize("accent", start, end)
    line.stylize("reverse", start, end)


class HexPane(LinesPane):
    """The bytes of a packet."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 as Textual names it
        super().__init__("bytes", id=id)
        self._data = b""
        self._marked: range | None = None

    def show_bytes(self, data: bytes, length: int, note: str = "") -> None:
        """Show the captured bytes of a packet of ``length`` bytes; without any, ``note``."""
        self._data = data
        self._marked = None
        if data:
            whole = f" of {length:,}" if length > len(data) else ""
            self.border_subtitle = Text(f" {len(data):,}{whole} bytes ")
            self.set_lines(self._made)
        else:
            self.border_subtitle = ""
            self.set_texts([Text(note, style="dim")])

    def mark(self, span: range | None) -> None:
        """Mark some of them."""
        if not self._data or span == self._marked:
            return
        self._marked = span
        self.set_lines(self._made, keep=True)
        if span is not None and len(span):
            count = bytes_in_line(self.room)
            self.show_line((span.stop - 1) // count)
            self.show_line(span.start // count)

    def _made(self, width: int) -> Iterable[Line]:
        return [Line(text) for text in hex_lines(self._data, width, self._marked)]
