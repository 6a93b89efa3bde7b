"""One descriptor chain in words: each of its times and why it is or is not there, its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from vtrace.model import STAGES, TIME_COLUMNS
from vtrace.tables import LIFECYCLES
from vtrace.tables.human import count_text, duration_text
from vtrace.tui.grid import Cell, GridColumn

__all__ = ["BATCH_COLUMNS", "batch_cells", "chain_texts", "stage_texts"]

STATES: Final = {
    "shared": ("·", "shared", ": the event of another chain served it", "dim"),
    "suppressed": ("/", "suppressed", ": the other side had asked for none", "dim"),
    "not_applicable": ("-", "does not apply", " to this queue", "faint"),
    "not_probed": ("-", "not probed", "", "faint"),
    "lost": ("?", "lost", ", or outside of the recording", "alarm"),
}
"""State of a time -> its sign, its meaning in a word and in more of them, how loud that is."""
NAME: Final = 10
BAR: Final = 24
WIDE: Final = 66
"""Cells from which on times stand beside how long they are past the start."""
EXTRA: Final = ("idle",)
"""Stages that are no latency."""


def chain_texts(
    rows: Sequence[Mapping[str, Any]], index: int, width: int, time_text: Callable[[int], str]
) -> Iterator[Text]:
    """Yield what is known of a row of lifecycles: what it is, its times, its stages.

    ``rows`` has the chains of its batch, by position.
    """
    row = rows[index]
    yield _title(row)
    yield from _shape(row, width)
    yield _neighbours(rows, index, width)
    yield Text()
    start = row["time_ns"]
    yield from _published(row, width, time_text)
    for column in TIME_COLUMNS:
        yield _event(row, column, start, width, time_text)
    stages = list(stage_texts(row, width))
    if stages:
        yield Text()
        yield from stages


def _title(row: Mapping[str, Any]) -> Text:
    text = Text().append("position ", style="dim")
    text.append(count_text(row["position"]), style="bold")
    text.append("  head ", style="dim").append(count_text(row["head"]))
    outcome = str(row["outcome"]).replace("_", " ")
    text.append("  ").append(outcome, style="good" if outcome == "used" else "warn")
    if row["trust"] != "complete":
        text.append(f", {row['trust']}", style="warn")
    return text


def _shape(row: Mapping[str, Any], width: int) -> Iterator[Text]:
    parts = []
    for name, what in (
        ("descriptors", "descriptors"),
        ("readable_bytes", "readable"),
        ("writable_bytes", "writable"),
        ("used_bytes", "written"),
    ):
        value = row[name]
        if value is not None and (value or name != "readable_bytes"):
            unit = "" if name == "descriptors" else " B"
            what = what[:-1] if (name, value) == ("descriptors", 1) else what
            parts.append(f"{count_text(value)}{unit} {what}")
    if row["handed_back"]:
        parts.append(f"handed back {count_text(row['handed_back'])} times")
    if row["generation"]:
        parts.append(f"generation {row['generation']}")
    text = Text()
    for part in parts:
        if text and text.cell_len + len(part) + 3 > width:
            yield text
            text = Text()
        text.append(f"{' · ' if text else ''}{part}", style="dim")
    yield text


def _published(
    row: Mapping[str, Any], width: int, time_text: Callable[[int], str]
) -> Iterator[Text]:
    low, high, start = row["avail_lo_ns"], row["avail_hi_ns"], row["time_ns"]
    if high is None or start is None:
        return
    text = Text().append(f"{'published':<{NAME}}", style="cyan")
    if width >= WIDE:
        text.append(f"{time_text(high):<17}")
    text.append(f"{_past(high - start):>8}  ")
    between = f", after {_past(low - start)}" if low is not None else ""
    text.append(f"by then{between}", style="dim")
    yield text


def _event(
    row: Mapping[str, Any],
    column: str,
    start: int | None,
    width: int,
    time_text: Callable[[int], str],
) -> Text:
    name = column.removesuffix("_ns")
    time, state = row[column], row[f"{name}_state"]
    sign, word, more, style = STATES.get(state, ("", "", "", "text"))
    text = Text().append(f"{name:<{NAME}}", style="cyan" if time is not None else "faint")
    known = time is not None and start is not None
    if width >= WIDE:
        text.append(f"{time_text(time):<17}" if known else " " * 17)
    text.append(f"{_past(time - start):>8}" if known else f"{sign:>8}", style=style)
    if state != "seen":
        meaning = word + more if text.cell_len + 2 + len(word + more) <= width else word
        text.append(f"  {meaning}", style=style)
    elif width >= WIDE:
        text.append(f"  {_MEANINGS[column]}", style="dim")
    return text


_MEANINGS: Final = {column: LIFECYCLES.column(column).meaning for column in TIME_COLUMNS}


def _past(ns: int) -> str:
    return "0" if not ns else f"{'+' if ns > 0 else ''}{duration_text(ns)}"


def stage_texts(row: Mapping[str, Any], width: int) -> Iterator[Text]:
    """Yield how long each stage took, with a bar: the longest latency is the longest bar."""
    found = [(name, row[f"{name}_ns"]) for name in STAGES if row[f"{name}_ns"] is not None]
    most = max((ns for name, ns in found if name not in EXTRA), default=0)
    bar = max(min(BAR, width - NAME - 12), 4)
    for name, ns in found:
        text = Text().append(f"{name:<{NAME}}", style="cyan")
        text.append(f"{duration_text(ns):>8}  ")
        if name in EXTRA:
            text.append("the buffer lay ready: no latency", style="faint")
        elif most:
            text.append(_bar(ns / most, bar), style="warn" if ns == most else "accent")
        yield text


def _bar(share: float, width: int) -> str:
    eighths = max(round(share * width * 8), 1)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _neighbours(rows: Sequence[Mapping[str, Any]], index: int, width: int) -> Text:
    count = len(rows)
    if count < 2:
        return Text("returned alone", style="dim")
    text = Text(f"{index + 1} of {count_text(count)} returned together", style="dim")
    first, last = rows[0]["position"], rows[-1]["position"]
    span = f": positions {count_text(first)} to {count_text(last)}"
    if text.cell_len + len(span) <= width:
        text.append(span)
    return text


# Those of its batch

BATCH_COLUMNS: Final = (
    GridColumn("position", "position", 10, right=True),
    GridColumn("head", "head", 5, right=True, rank=3),
    GridColumn("bytes", "bytes", 7, right=True, rank=2),
    GridColumn("pop", "pop", 8, right=True, rank=1),
    GridColumn("used", "used", 8, right=True),
    GridColumn("packet", "packet", 12, grow=True, rank=1),
)


def batch_cells(row: Mapping[str, Any]) -> list[Cell]:
    """Return a chain of a batch for ``BATCH_COLUMNS``; times count from when its story begins."""
    size = row["readable_bytes"] if row["direction"] == "tx" else row["used_bytes"]
    start = row["time_ns"]

    def past(name: str) -> Cell:
        time = row[name]
        if time is None or start is None:
            return Text("?", style="alarm") if row[_state(name)] == "lost" else "-"
        return f"+{duration_text(time - start)}" if time > start else "0"

    return [
        count_text(row["position"]),
        Text(count_text(row["head"]), style="dim"),
        "-" if size is None else count_text(size),
        past("pop_ns"),
        past("used_ns"),
        row["flow"] or "",
    ]


def _state(name: str) -> str:
    return name.removesuffix("_ns") + "_state"
