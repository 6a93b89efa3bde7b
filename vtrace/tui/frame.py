"""The frame of every screen: what is looked at and how true it is, and the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.strip import Strip
from textual.widget import Widget

from vtrace.browse.snapshot import State
from vtrace.tables.human import count_text
from vtrace.text import clean

if TYPE_CHECKING:
    from textual.binding import Binding

    from vtrace.tui.app import VtraceApp
    from vtrace.tui.base import ViewScreen

__all__ = ["FrameHeader", "KeyLine", "elapsed_text"]


ORDER: Final = {"filter": 1, "pause": 2, "export": 3}
"""Keys of everywhere stand behind those of the screen, in this order."""


def elapsed_text(ns: int) -> str:
    """Return a length of time as ``00:04:12``."""
    seconds = max(ns, 0) // 1_000_000_000
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class Lines(Widget):
    """Lines of text that are drawn anew where they have changed."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._texts = [Text() for _ in range(count)]

    @property
    def view(self) -> ViewScreen:
        """The screen that it belongs to."""
        return cast("ViewScreen", self.screen)

    @property
    def vtrace(self) -> VtraceApp:
        """The app, by its type."""
        return cast("VtraceApp", self.app)

    def set_line(self, at: int, text: Text) -> None:
        """Show a line."""
        if text != self._texts[at]:
            self._texts[at] = text
            self.refresh()

    def redraw(self) -> None:
        """Draw the lines in other colours."""
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a line."""
        width = self.size.width
        if y >= len(self._texts):
            return Strip.blank(width, self.rich_style)
        text = self._texts[y]
        base = self.app.console.get_style(text.style)
        segments = list(Segment.apply_style(text.render(self.app.console), base))
        strip = Strip(segments).adjust_cell_length(width)
        return strip.apply_style(self.rich_style)


class FrameHeader(Lines):
    """Source, kernel, mode, loss, cost, time; where, and the filter; what went wrong."""

    DEFAULT_CSS = """
    FrameHeader { height: 2; background: $panel; color: $foreground; }
    """

    def __init__(self) -> None:
        super().__init__(3)

    def on_resize(self) -> None:
        """Fit the lines."""
        self.show()

    def _say(self) -> None:
        # What a person has to know of the source (it failed, the recorder is gone) stays there.
        sentence = clean(self.vtrace.browser.snapshot.sentence)
        self.styles.height = 3 if sentence else 2
        style = "alarm" if self.vtrace.browser.snapshot.state is State.FAILED else "warn"
        self.set_line(2, Text(f" {sentence}", style=style) if sentence else Text())

    def show(self) -> None:
        """Say how things stand now."""
        if not self.size.width:
            return
        self.set_line(0, beside(self._source(), self._state(), self.size.width))
        self.set_line(1, beside(self._where(), self._filter(), self.size.width))
        self._say()

    def _source(self) -> Text:
        app = self.vtrace
        snapshot = app.shown
        host = snapshot.metadata.get("host") or {}
        text = Text().append(" vtrace  ", style="title")
        name = app.browser.name
        text.append(clean(name.rsplit("/", 1)[-1] or name, 40), style="bold")
        for part in (host.get("kernel"), host.get("mode")):
            if part:
                text.append(f" · {clean(str(part), 30)}", style="dim")
        return text

    def _state(self) -> Text:
        app = self.vtrace
        snapshot = app.shown
        loss = snapshot.loss
        text = Text()
        share = f" ({loss.share:.1%})" if loss.lost and loss.produced else ""
        text.append(f"lost {count_text(loss.lost)}{share}", style="alarm" if loss.lost else "good")
        if loss.missed:
            text.append(f" · missed {count_text(loss.missed)}", style="alarm")
        if loss.pending:
            text.append(f" · pending {count_text(loss.pending)}", style="warn")
        cost = getattr(app.browser, "cost", None)
        if cost is not None:
            # Of one CPU; what probes take where they fire is not known.
            text.append(f" · recorder {cost * 100:.1f} % CPU", style="dim")
        text.append(" · ", style="dim")
        if app.at_ns is not None:
            text.append(f"at {app.time_text(app.at_ns)} ", style="warn")
            text.append("held " if app.settled else "reading ", style="warn")
            return text
        text.append(elapsed_text(snapshot.duration_ns))
        text.append(" ")
        if app.paused:
            text.append("⏸ paused ", style="warn")
        elif snapshot.state is State.FOLLOWING:
            text.append("▸ following ", style="good")
        elif snapshot.state in (State.OPENING, State.READING):
            text.append(f"reading {snapshot.progress:4.0%} ", style="accent")
        elif snapshot.state is State.COMPLETE:
            text.append("complete ", style="dim")
        else:
            text.append(f"{snapshot.state.value} ", style="alarm")
        return text

    def _where(self) -> Text:
        view = self.view
        text = Text(" ")
        crumbs = view.place.crumbs
        for at, (name, _) in enumerate(crumbs):
            if at:
                text.append(" › ", style="faint")  # noqa: RUF001
            last = at == len(crumbs) - 1
            style = Style(meta={"@click": f"app.crumb({at})"})
            start = len(text)
            text.append(clean(name, 24), style="bold" if last else "accent")
            text.stylize(style, start, len(text))
        text.append(f"  {view.view_title.lower()}", style="dim")
        return text

    def _filter(self) -> Text:
        view = self.view
        if not view.table:
            return Text()
        style = Style(meta={"@click": "app.filter"})
        captured = (self.vtrace.shown.metadata.get("capture") or {}).get("filter")
        text = Text()
        if captured:
            # The rest never left the kernel.
            text.append(f"captured {clean(str(captured), 24)}  ", style="warn")
        if not view.filter_text:
            text.append("⌕ no filter ", style="dim")
        else:
            room = max(self.size.width // 2 - 6 - len(text), 12)
            text.append("⌕ ", style="dim")
            text.append(clean(view.filter_text, room), style="accent")
            text.append(" ✓ ", style="good")
        text.stylize(style)
        return text


class KeyLine(Lines):
    """One line of keys; each can be clicked."""

    DEFAULT_CSS = """
    KeyLine { height: 1; background: $panel; color: $foreground; }
    """

    def __init__(self) -> None:
        super().__init__(1)
        self._spans: list[tuple[int, int, str]] = []

    def on_mount(self) -> None:
        """Follow the bindings."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.show())

    def on_resize(self) -> None:
        """Fit the line."""
        self.show()

    def show(self) -> None:
        """Say which keys do what now."""
        if not self.is_attached or not self.size.width:
            return
        waiting = self.vtrace.waiting_for
        if waiting:
            self.set_line(0, Text(f" {waiting}", style="warn"))
            return
        first: list[Binding] = []
        last: list[Binding] = []
        seen: set[str] = set()
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            if not binding.show or not enabled or binding.action in seen:
                continue
            seen.add(binding.action)
            (last if binding.system else first).append(binding)
        first.sort(key=lambda binding: ORDER.get(binding.id or "", 0))
        ends = [self._shown(binding) for binding in last]
        room = self.size.width - sum(text.cell_len + 2 for text in ends)
        line = Text(" ")
        for binding in first:
            text = self._shown(binding)
            if line.cell_len + text.cell_len + 2 > room:
                break
            line.append_text(text).append("  ")
        line.append(" " * max(room - line.cell_len, 0))
        for text in ends:
            line.append_text(text).append("  ")
        self.set_line(0, line)

    def _shown(self, binding: Binding) -> Text:
        text = Text().append(self.app.get_key_display(binding), style="key")
        text.append(f" {binding.description}", style="text")
        text.stylize(Style(meta={"@click": f"app.simulate_key('{binding.key}')"}))
        return text


def beside(left: Text, right: Text, width: int) -> Text:
    """Return two texts in one line; the left one gives way."""
    room = width - right.cell_len
    line = left.copy()
    if line.cell_len > room - 1:
        line.truncate(max(room - 1, 0), overflow="ellipsis")
    line.append(" " * max(room - line.cell_len, 0))
    return line.append_text(right)
