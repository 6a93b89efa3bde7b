"""Where the time of chains goes: a line for each stage, and what was notified."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text
from textual.widget import Widget

from vtrace.tables.human import count_text, duration_text

__all__ = ["StagesView", "stages_text"]

WAYS: Final = {
    "rx": (
        *("idle", "notify", "schedule", "queueing", "service", "complete", "interrupt", "reap"),
    ),
    "tx": ("notify", "schedule", "queueing", "service", "complete", "interrupt", "reap"),
}
OTHERS: Final = ("notify", "service", "complete", "interrupt", "reap")
"""Stages of queues that are no network device's, and of all of QEMU's."""
APART: Final = frozenset({"idle", "reap"})
"""Not the device's: a buffer lies ready, the guest has been told."""
WHAT: Final = {
    "idle": "buffer lies ready",
    "notify": "till the worker is woken",
    "schedule": "worker waits for a CPU",
    "queueing": "behind other chains",
    "service": "the device works on it",
    "complete": "till the device decides",
    "interrupt": "on its way to KVM",
    "reap": "guest takes it back",
}
LEAST_NS: Final = 100
MOST_NS: Final = 10_000_000_000
PART: Final = " ▏▎▍▌▋▊▉█"


class StagesView(Widget):
    """Stages of the chains of a queue."""

    DEFAULT_CSS = """
    StagesView {
        height: 1fr; background: $background; color: $foreground;
        border-top: solid $surface-lighten-2; border-left: solid $surface-lighten-2;
        border-title-color: $foreground 70%; border-subtitle-color: $foreground 60%; padding: 0 1;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 as Textual names it
        super().__init__(id=id)
        self.border_title = Text("where the time goes ")
        self.row: Mapping[str, Any] | None = None

    def show(self, row: Mapping[str, Any] | None, title: str) -> None:
        """Draw the stages of a queue: a row of the report, of the time that ``title`` says."""
        self.row = row
        self.border_title = Text(f"where the time goes {title} ")
        self.refresh()

    def render(self) -> Text:
        """Return the lines."""
        if self.row is None:
            return Text("No chain has been seen yet.", style="dim")
        return stages_text(self.row, self.size.width, self.size.height)


def stages_text(row: Mapping[str, Any], width: int, height: int) -> Text:
    """Return the stages of a queue (a row of ``report --json``) for so many columns and lines.

    The bar goes to the median, its light part to the 99th percentile, on a logarithmic scale from
    100 ns to 10 s. The share is that of the median in the sum of the medians, without what is not
    the device's.
    """
    found = row["stages"]
    vhost = row["backend"] == "vhost"
    stages = WAYS.get(row["direction"], OTHERS) if vhost else OTHERS
    inside = [name for name in stages if name in found and name not in APART]
    total = sum(found[name]["p50_ns"] for name in inside)
    slowest = max(inside, key=lambda name: int(found[name]["p99_ns"]), default="")
    bar = max(width - 38, 0)
    head = Text(f"{'':<10}{'':<{bar}}", style="head")
    for name, wide in (("p50", 7), ("p99", 8), ("share", 7), ("seen", 6)):
        head.append(f"{name:>{wide}}", style="head")
    lines = [head]
    for name in stages:
        line = Text(f"{name:<10}", style="bold" if name == slowest else "dim")
        stage = found.get(name)
        if stage is None:
            line.append(f"{'':<{bar}}").append(f"{'not seen':>28}", style="faint")
            lines.append(line)
            continue
        p50, p99 = stage["p50_ns"], stage["p99_ns"]
        line.append_text(_bar(p50, p99, bar, slow=name == slowest, apart=name in APART))
        line.append(f"{duration_text(p50):>7}").append(
            f"{duration_text(p99):>8}", style="bold" if name == slowest else ""
        )
        share = "-" if name in APART or not total else f"{p50 / total:.0%}"
        line.append(f"{share:>7}", style="dim")
        seen = stage["count"] / row["chains"] if row["chains"] else 0.0
        line.append(f"{min(seen, 1.0):>6.0%}", style="dim")
        lines.append(line)
    rest = [*_slowest(slowest, found), *_notices(row)]
    lines += rest[: max(height - len(lines), 0)]
    return Text("\n", no_wrap=True).join(_cut(line, width) for line in lines[:height])


def _bar(p50: int, p99: int, width: int, *, slow: bool, apart: bool) -> Text:
    room = max(width - 1, 0)
    hue = "faint" if apart else "orange" if slow else "cyan"
    solid, light = (_length(ns) * room for ns in (p50, p99))
    whole, part = int(solid), PART[round((solid - int(solid)) * 8)]
    text = Text("█" * whole + part.strip(), style=hue)
    text.append("░" * max(math.ceil(light) - text.cell_len, 0), style=hue)
    if text.cell_len > room:
        text.truncate(room)
    return text.append(" " * (width - text.cell_len))


def _length(ns: int) -> float:
    low, high = math.log10(LEAST_NS), math.log10(MOST_NS)
    return min(max((math.log10(max(ns, 1)) - low) / (high - low), 0.02), 1.0)


def _slowest(name: str, found: Mapping[str, Any]) -> list[Text]:
    if not name:
        return []
    text = Text("◂ ", style="orange").append(name, style="bold")
    text.append(f" {WHAT[name]}: at most {duration_text(found[name]['max_ns'])}", style="dim")
    return [text]


def _notices(row: Mapping[str, Any]) -> list[Text]:
    lines = []
    for word, name in (("kicks", "kicks"), ("irqs", "interrupts")):
        text = Text(f"{word:<6}", style="dim")
        for what in ("needed", "sent", "suppressed", "spurious"):
            count = row[name][what]
            text.append(f" {what} ", style="dim")
            loud = what == "spurious" and count
            text.append(count_text(count), style="warn" if loud else "")
        lines.append(text)
    text = Text("chains", style="dim").append(f" {count_text(row['chains'])}")
    for what, style in (("partial", "warn"), ("ambiguous", "alarm"), ("starved", "alarm")):
        if row[what]:
            text.append(f" {what} ", style="dim").append(count_text(row[what]), style=style)
    if row["handed_back"]:
        text.append(" handed back ", style="dim").append(count_text(row["handed_back"]))
    lines.append(text)
    return lines


def _cut(line: Text, width: int) -> Text:
    if line.cell_len > width:
        line.truncate(width, overflow="ellipsis")
    return line
