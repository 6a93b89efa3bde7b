"""Rows of the timeline: which lanes a place has, what they are called, and how a column looks.

A column is one character and the name of its style: the character alone says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.browse.lane_kernel import SVM
from vtrace.browse.lane_place import LanePlace
from vtrace.exit_reasons import exit_reason
from vtrace.tables.human import count_text, duration_text
from vtrace.text import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.browse.lane_window import QueueLane, ThreadLane

__all__ = ["LaneRow", "Lanes"]

BARS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRow:
    """One row."""

    label: str
    what: str
    """vcpu, thread, kick, irq, flight, avail, tap, drops, lost."""
    chars: str
    """One for each column; empty: ``note`` stands there instead."""
    styles: tuple[str, ...]
    note: str = ""
    """Sum over the window, or why there is nothing to see."""
    loud: bool = False
    about: int = 0
    """Thread, or id of the queue."""


@dataclass(slots=True)
class Lanes(LanePlace):
    """Rows of a place, and what they say of a column."""

    # -- rows ------------------------------------------------------------------------------------

    def rows(self) -> list[LaneRow]:
        """Return all rows of the place, from the guest down to the host."""
        queues = self.queues()
        vcpus, others = self.threads(queues)
        rows = [self._vcpu_row(tid) for tid in vcpus]
        served: set[int] = set()
        for tid in others:
            mine = [one for one in queues if one.worker == tid]
            rows += [row for one in mine for row in self._kicks(one)]
            rows.append(self._thread_row(tid))
            rows += [row for one in mine for row in self._levels(one)]
            served |= {one.id for one in mine}
        for one in queues:
            if one.id not in served:
                rows += [*self._kicks(one), *self._levels(one)]
        if not any(lane.scheduled for lane in self.window.threads.values()):
            rows.insert(0, _absent("threads", "when threads had a CPU was not recorded"))
        rows += self._drops(queues)
        return [*self._lost(), *rows]

    def _vcpu_row(self, tid: int) -> LaneRow:
        row = self.thread_row(tid)
        number = row.get("vcpu")
        label = f"vCPU {number}" if isinstance(number, int) else f"vCPU ({tid})"
        if row.get("vm") and self._around()[0] > 1:
            label = f"{clean(str(row['vm']), 10)} {label}"
        lane = self.window.threads.get(tid)
        if lane is None:
            return _absent(label, "only its kicks were recorded", what="vcpu", about=tid)
        capture = self.metadata.get("capture")
        each = bool(capture.get("each_exit")) if isinstance(capture, Mapping) else False
        if not lane.scheduled and not each:
            return _absent(label, "only its kicks were recorded", what="vcpu", about=tid)
        ran = lane.run if lane.scheduled else self._known()
        # The rest is the guest, if each exit is recorded; else exits behind a kick are known.
        away = np.minimum(np.clip(lane.out - lane.wait - lane.sleep - lane.stop, 0, None), ran)
        guest = ran - away
        chars, styles = self._shares(lane, guest, ran, "green")
        note = f"in the guest {self._share(guest)}" if each else f"had a CPU {self._share(ran)}"
        return self._row(label, "vcpu", chars, styles, note, tid)

    def _thread_row(self, tid: int) -> LaneRow:
        role = self.thread_row(tid).get("role")
        word = {"vhost": "worker", "iothread": "iothread", "qemu": "QEMU"}.get(str(role), "worker")
        lane = self.window.threads[tid]
        chars, styles = self._shares(lane, lane.run, lane.run, "blue")
        waited = float(lane.wait.sum())
        note = f"ran {self._share(lane.run)}"
        if waited:
            note += f", waited {duration_text(int(waited))}"
        return self._row(f"{word} {tid}", "thread", chars, styles, note, tid)

    def _known(self) -> NDArray[Any]:
        width = np.diff(self.window.edges)
        return np.where(self._unread, 0, width)

    def _share(self, part: NDArray[Any]) -> str:
        known = float(self._known().sum())
        return f"{float(part.sum()) / known:.0%}" if known else "-"

    def _shares(
        self, lane: ThreadLane, inside: NDArray[Any], ran: NDArray[Any], hue: str
    ) -> tuple[list[str], list[str]]:
        # What a thread did in each column: how long it ran by height, what else by its sign.
        width = np.maximum(np.diff(self.window.edges), 1e-9)
        share = np.clip(inside / width, 0, 1)
        rest = np.stack([ran - inside, lane.wait, lane.sleep, lane.stop])
        known = ran + lane.wait + lane.sleep + lane.stop
        most = rest.argmax(axis=0)
        chars, styles = [], []
        for at in range(self.window.columns):
            if known[at] < width[at] * 0.005 or self._unread[at]:
                char, style = " ", ""
            elif rest[1, at] >= 0.35 * known[at]:
                char, style = "░", "orange"
            elif rest[3, at] > inside[at]:
                char, style = "■", "red"
            elif share[at] >= 0.06:
                char, style = BARS[min(int(share[at] * 8), 7)], hue
            elif most[at] == 0:
                char, style = "▁", "yellow"
            else:
                char, style = "▁", "faint"
            chars.append(char)
            styles.append(style)
        return chars, styles

    def _kicks(self, one: QueueLane) -> list[LaneRow]:
        # Notifications that a queue sent and got.
        name = self.queue_name(one.id)
        backend = str(self.queue_row(one.id).get("backend") or "vhost")
        unseen = self._unseen.get("qemu" if backend == "qemu" else "vhost", [])
        rows = []
        for what, name_of, char, time in (
            ("kick", "kicks", "▼", "kick_ns"),
            ("irq", "interrupts", "▲", "irq_ns"),
        ):
            counts = getattr(one, name_of)
            if time in unseen:
                rows.append(_absent(f"{what} {name}", "not probed", what=what, about=one.id))
            elif self.has(one, name_of) or what == "kick":
                marks = [char if count else " " for count in counts]
                note = count_text(int(counts.sum()))
                styles = ["cyan" if what == "kick" else "magenta"] * len(marks)
                rows.append(self._row(f"{what} {name}", what, marks, styles, note, one.id))
        return rows

    def _levels(self, one: QueueLane) -> list[LaneRow]:
        name = self.queue_name(one.id)
        rx = self.queue_row(one.id).get("direction") == "rx"
        size = one.size if one.size < 1 << 15 else None
        of = f"/{size}" if size else ""
        rows = []
        at_least = "at least " if one.at_least else ""
        if self.has(one, "flight"):
            note = f"in flight {at_least}{count_text(int(one.flight.max(initial=0)))}{of}"
            chars, styles = self._bars(one.flight, size, "cyan", full=True)
            rows.append(self._row(f"ring {name}", "flight", chars, styles, note, one.id))
        if self.has(one, "avail"):
            known = one.avail[one.avail >= 0]
            least, most = int(known.min(initial=one.size)), int(known.max(initial=0))
            note = f"buffers ≥ {least:,}{of}" if rx else f"waiting ≤ {most:,}{of}"
            chars, styles = self._bars(one.avail, size, "teal")
            if rx:
                for at in np.flatnonzero((one.avail == 0) | (one.starved > 0)).tolist():
                    chars[at], styles[at] = "○", "alarm"
                if one.starved.any():
                    note = f"○ none: {count_text(int(one.starved.sum()))} times"
            label = f"{'buffers' if rx else 'waiting'} {name}"
            loud = bool(rx and one.starved.any())
            rows.append(self._row(label, "avail", chars, styles, note, one.id, loud=loud))
        if self.has(one, "tap"):
            chars, styles = self._bars(one.tap, max(int(one.tap.max()), 1), "blue")
            for at in np.flatnonzero(one.refused).tolist():
                chars[at], styles[at] = "█", "alarm"
            note = f"≤ {count_text(int(one.tap.max(initial=0)))} packets"
            full = int(one.refused.sum())
            if full:
                note = f"FULL: refused {count_text(full)}"
            rows.append(
                self._row(f"tap {name}", "tap", chars, styles, note, one.id, loud=bool(full))
            )
        return rows

    def _bars(
        self, levels: NDArray[Any], size: int | None, hue: str, *, full: bool = False
    ) -> tuple[list[str], list[str]]:
        # Logarithmic, so that one chain of 256 can be seen beside a full ring.
        top = np.log2(1 + max(size or int(levels.max()), 1))
        height = np.ceil(np.log2(1 + np.maximum(levels, 0)) / top * 7).astype(int).clip(0, 7)
        chars, styles = [], []
        for at, level in enumerate(levels.tolist()):
            if level < 0 or self._unread[at]:
                chars.append(" ")
                styles.append("")
            elif level == 0:
                chars.append("▁")
                styles.append("faint")
            else:
                chars.append(BARS[max(height[at], 1)])
                styles.append("warn" if full and size and level >= size else hue)
        return chars, styles

    def _drops(self, queues: list[QueueLane]) -> list[LaneRow]:
        # Drops of the queues, and of the interfaces behind them.
        behind = {self.queue_row(one.id).get("interface") for one in queues} - {"", None}
        total = np.zeros(self.window.columns, np.int64)
        ever = False
        for number, lane in self.window.queues.items():
            row = self.queue_row(number)
            mine = any(one.id == number for one in queues)
            if mine or self.vm is None or row.get("interface") in behind:
                total += lane.dropped
                ever |= self.has(lane, "drops") or self.has(lane, "refused")
        if not ever:
            return []
        marks = ["✕" if count else " " for count in total]
        note = count_text(int(total.sum()))
        styles = ["alarm"] * len(marks)
        return [self._row("drops", "drops", marks, styles, note, 0, loud=bool(total.any()))]

    def _lost(self) -> list[LaneRow]:
        missing = self.window.missing
        if not missing.any():
            return []
        counts = [
            span.lost
            for span in self.window.spans
            if span.last_ns >= self.window.t0 and span.first_ns < self.window.t1
        ]
        known = [count for count in counts if count is not None]
        note = f"{count_text(sum(known))} records lost here" if known else "records are missing"
        chars = ["?" if one else " " for one in missing]
        return [self._row("lost", "lost", chars, ["alarm"] * len(chars), note, 0, loud=True)]

    def _row(
        self,
        label: str,
        what: str,
        chars: list[str],
        styles: list[str],
        note: str,
        about: int,
        *,
        loud: bool = False,
    ) -> LaneRow:
        return LaneRow(
            label=label,
            what=what,
            chars="".join(chars),
            styles=tuple(styles),
            note=note,
            loud=loud,
            about=about,
        )

    # -- facts -----------------------------------------------------------------------------------

    def facts(self, row: LaneRow, column: int) -> str:
        """Return what a row says of a column, in words; empty: nothing."""
        if not 0 <= column < self.window.columns or not row.chars or self._unread[column]:
            return ""
        if row.what in ("vcpu", "thread"):
            return self._thread_facts(row, column)
        if row.what == "drops":
            dropped = sum(int(one.dropped[column]) for one in self.window.queues.values())
            return f"{count_text(dropped)} dropped" if dropped else ""
        one = self.window.queues.get(row.about)
        if one is None:
            return "records are missing here" if row.chars[column] != " " else ""
        if row.what in ("kick", "irq"):
            counts = one.kicks if row.what == "kick" else one.interrupts
            count = int(counts[column])
            return f"{count_text(count)} {row.label}" if count else ""
        level = int({"flight": one.flight, "avail": one.avail, "tap": one.tap}[row.what][column])
        if level < 0:
            return ""
        words = {"flight": "in flight", "avail": "", "tap": "packets"}[row.what]
        text = f"{row.label} {count_text(level)} {words}".rstrip()
        if row.what == "tap" and one.refused[column]:
            text += f", FULL: refused {count_text(int(one.refused[column]))}"
        if row.what == "avail" and one.starved[column]:
            text += f", none {count_text(int(one.starved[column]))} times"
        return text

    def _thread_facts(self, row: LaneRow, column: int) -> str:
        lane = self.window.threads[row.about]
        width = (self.window.t1 - self.window.t0) / self.window.columns
        parts = []
        for word, spent in (
            ("ran", lane.run),
            ("ready, no CPU", lane.wait),
            ("slept", lane.sleep),
            ("stopped", lane.stop),
        ):
            share = float(spent[column]) / width
            if share >= 0.005:
                parts.append(f"{word} {share:.0%}")
        who = int(lane.who[column])
        if lane.wait[column] > 0 and who >= 0:
            parts.append(f"behind {self.thread_name(who)}" if who else "its CPU was idle before")
        why = int(lane.why[column])
        if lane.exits[column] or lane.out[column] > 0:
            name = exit_reason(why & ~SVM, svm=bool(why & SVM)) if why >= 0 else "exit"
            out = min(float(lane.out[column]) / width, 1.0)
            if not lane.scheduled:
                parts.append(f"in the guest {1 - out:.0%}")
            parts.append(f"out {out:.0%} ({name})")
        return f"{row.label} {', '.join(parts)}" if parts else f"{row.label}: not known"


def _absent(label: str, note: str, *, what: str = "absent", about: int = 0) -> LaneRow:
    return LaneRow(label=label, what=what, chars="", styles=(), note=note, about=about)
