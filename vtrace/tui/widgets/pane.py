"""A pane of lines: some of them can be chosen, the cursor goes from one of these to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

if TYPE_CHECKING:
    from rich.style import Style
    from textual import events

__all__ = ["Line", "Lines", "LinesPane"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and what choosing it is about."""

    text: Text
    about: Any = None
    """Lines one below the other about the same object are chosen together; None: never."""


Lines = Callable[[int], Iterable[Line]]
"""Makes the lines for a width in cells."""


class LinesPane(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines that are made anew for each width; only what is on the screen is drawn."""

    DEFAULT_CSS = """
    LinesPane {
        height: 1fr; background: $background; color: $foreground;
        overflow-x: hidden; scrollbar-size-vertical: 1;
        border-top: solid $foreground 25%; border-title-color: $foreground 70%;
        border-subtitle-color: $foreground 60%; padding: 0;
    }
    LinesPane.beside { border-left: solid $foreground 25%; }
    LinesPane:focus {
        border-top: solid $primary; border-title-color: $primary; border-title-style: bold;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "up", show=False, id="pane.up"),
        Binding("down,j", "step(1)", "down", show=False, id="pane.down"),
        Binding("pageup,ctrl+b", "leap(-1)", "page up", show=False, id="pane.page_up"),
        Binding("pagedown,ctrl+f", "leap(1)", "page down", show=False, id="pane.page_down"),
        Binding("home", "edge(-1)", "top", show=False, id="pane.first"),
        Binding("end,G", "edge(1)", "bottom", show=False, id="pane.last"),
        Binding("enter", "open", "open", show=False, id="pane.open"),
    ]

    class Moved(Message):
        """The cursor stands on another line."""

        def __init__(self, pane: LinesPane, about: Any) -> None:
            super().__init__()
            self.pane = pane
            self.about = about

        @property
        def control(self) -> LinesPane:
            """The pane."""
            return self.pane

    class Opened(Moved):
        """A line was chosen: enter, or a second click."""

    def __init__(
        self,
        title: str = "",
        *,
        id: str | None = None,  # noqa: A002 as Textual names it
    ) -> None:
        super().__init__(id=id)
        self._title = title
        self.border_title = Text(f" {title} ")
        self._make: Lines = lambda _: ()
        self._lines: list[Line] = []
        self._stops: list[range] = []
        self._stop = 0
        self._g = False

    # -- lines -----------------------------------------------------------------------------------

    def set_lines(self, make: Lines, *, keep: bool = False) -> None:
        """Show what ``make`` returns for the width; with ``keep`` from where one is now."""
        self._make = make
        if not keep:
            self._stop = 0
        self._remake()
        if not keep:
            self.scroll_to(y=0, animate=False, immediate=True)

    def set_beside(self, beside: bool) -> None:
        """Draw a line to the left of it: it stands beside another one."""
        self.set_class(beside, "beside")
        # Behind a corner there is a space anyway.
        self.border_title = Text(f"{self._title} " if beside else f" {self._title} ")

    def set_texts(self, texts: Sequence[Text]) -> None:
        """Show texts, none of which can be chosen."""
        self.set_lines(lambda _: [Line(text) for text in texts])

    @property
    def room(self) -> int:
        """Cells in a line."""
        return max(self.scrollable_content_region.width - 2, 1)

    @property
    def chosen(self) -> Any:
        """What the line under the cursor is about; None if there is none."""
        stop = self._range
        return None if stop is None else self._lines[stop.start].about

    @property
    def plain(self) -> str:
        """All lines as text."""
        return "\n".join(line.text.plain for line in self._lines)

    def choose(self, about: Any) -> None:
        """Put the cursor on the lines that are about something, if there are any."""
        for at, stop in enumerate(self._stops):
            if self._lines[stop.start].about == about:
                self._go(at)
                return

    def show_line(self, at: int) -> None:
        """Scroll so that a line is on the screen."""
        height = self.scrollable_content_region.height
        if height <= 0:
            return
        top = self.scroll_offset.y
        if at < top or at >= top + height:
            self.scroll_to(y=max(at - height // 2, 0), animate=False, immediate=True)

    @property
    def _range(self) -> range | None:
        return self._stops[self._stop] if self._stop < len(self._stops) else None

    def _remake(self) -> None:
        if not self.size.width:
            return
        self._lines = list(self._make(self.room))
        self._stops = []
        begin = 0
        for at, line in enumerate(self._lines):
            if at and line.about is not self._lines[at - 1].about:
                begin = at
            if line.about is None:
                continue
            if begin == at:
                self._stops.append(range(at, at + 1))
            else:
                self._stops[-1] = range(begin, at + 1)
        self._stop = max(min(self._stop, len(self._stops) - 1), 0)
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))
        self.refresh()

    # -- drawing ---------------------------------------------------------------------------------

    def on_resize(self) -> None:
        """Make the lines for the new width."""
        self._remake()

    def on_focus(self) -> None:
        """Show the cursor as that of the focus."""
        self.refresh()

    on_blur = on_focus

    def notify_style_update(self) -> None:
        """Draw all anew: the theme has changed."""
        super().notify_style_update()
        self.refresh()

    def _named(self, name: str) -> Style:
        return self.app.console.get_style(name, default="")

    def render_line(self, y: int) -> Strip:
        """Return a line."""
        width = self.scrollable_content_region.width
        at = self.scroll_offset.y + y
        if at >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        text = Text(" ").append_text(self._lines[at].text)
        if text.cell_len > width:
            text.truncate(width, overflow="ellipsis")
        strip = Strip(list(text.render(self.app.console))).adjust_cell_length(width)
        stop = self._range
        if stop is not None and at in stop:
            strip = strip.apply_style(self._named("cursor" if self.has_focus else "cursor.blur"))
        return strip.apply_style(self.rich_style)

    # -- the cursor ------------------------------------------------------------------------------

    def _go(self, stop: int) -> None:
        stop = max(0, min(stop, len(self._stops) - 1))
        moved, self._stop = stop != self._stop, stop
        lines = self._range
        if lines is None:
            return
        height = self.scrollable_content_region.height
        top = self.scroll_offset.y
        if lines.start < top:
            self.scroll_to(y=lines.start, animate=False, immediate=True)
        elif lines.stop > top + height:
            self.scroll_to(y=lines.stop - height, animate=False, immediate=True)
        self.refresh()
        if moved:
            self.post_message(self.Moved(self, self.chosen))

    def _scroll(self, by: int) -> None:
        self.scroll_to(y=self.scroll_offset.y + by, animate=False, immediate=True)

    def action_step(self, by: int) -> None:
        """Go to the next line that can be chosen, or scroll on where there is none near."""
        stop = self._stop + by
        height = self.scrollable_content_region.height
        top = self.scroll_offset.y
        lines = self._stops[stop] if 0 <= stop < len(self._stops) else None
        now = self._range
        if lines is None or now is None:
            self._scroll(by)
        elif now.stop <= top or now.start >= top + height:
            # It was scrolled away: the next one that is seen.
            seen = [at for at, one in enumerate(self._stops) if top <= one.start < top + height]
            self._go((seen[0] if by > 0 else seen[-1]) if seen else stop)
        elif top - height < lines.start and lines.stop < top + 2 * height:
            self._go(stop)
        else:
            self._scroll(by * max(height // 2, 1))

    def action_leap(self, by: int) -> None:
        """Scroll by a screenful; the cursor goes with it."""
        height = max(self.scrollable_content_region.height - 1, 1)
        self._scroll(by * height)
        top = self.scroll_offset.y
        seen = [at for at, one in enumerate(self._stops) if top <= one.start <= top + height]
        if seen and self._range is not None and self._range.start not in range(top, top + height):
            self._stop = seen[0] if by > 0 else seen[-1]
            self.post_message(self.Moved(self, self.chosen))
        self.refresh()

    def action_edge(self, side: int) -> None:
        """Go to the first line, or to the last."""
        self._go(0 if side < 0 else len(self._stops) - 1)
        end = 0 if side < 0 else len(self._lines)
        self.scroll_to(y=end, animate=False, immediate=True)

    def action_open(self) -> None:
        """Open what the cursor is on; where there is nothing, the key is the screen's."""
        if self.chosen is None:
            raise SkipAction
        self.post_message(self.Opened(self, self.chosen))

    def on_key(self, event: events.Key) -> None:
        """Take ``gg``: to the top."""
        if event.key == "g":
            event.stop()
            event.prevent_default()
            if self._g:
                self.action_edge(-1)
            self._g = not self._g
        else:
            self._g = False

    def on_click(self, event: events.Click) -> None:
        """Choose a line; open it at the second click."""
        offset = event.get_content_offset(self)
        if offset is None:
            return
        at = self.scroll_offset.y + offset.y
        for number, stop in enumerate(self._stops):
            if at in stop:
                if event.chain >= 2 and number == self._stop:
                    self.action_open()
                self._go(number)
