"""Chains on a timeline: slices on lanes below their queue, stages inside, notifications, flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.export.canvas import Canvas, by_key, clipped
from vtrace.export.ragged import Ragged
from vtrace.export.stories import SHOWN, Stories, stories_of
from vtrace.model import TimeState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.tables import Table

__all__ = ["Chains"]

BLOCK_ROWS: Final = 1 << 13
"""Chains whose slices are put together at a time."""


class Chains:
    """Draws chains, and counts them."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self.chains = 0
        self.stages = 0
        self.flows = 0
        self.unplaced = 0
        """Chains that are not shown: no lane was free for them, or they have no time."""

    def draw(self, table: Table) -> None:
        """Draw chains that have ended: rows of the table of lifecycles."""
        for at in range(0, len(table), BLOCK_ROWS):
            self._draw(table.take(np.arange(at, min(at + BLOCK_ROWS, len(table)))))

    def _draw(self, table: Table) -> None:
        story = stories_of(table)
        order = np.argsort(story.start, kind="stable")
        table, story = table.take(order), story.take(order)
        lanes = self._lanes(table, story)
        shown = np.flatnonzero(lanes)
        self.unplaced += len(table) - len(shown)
        if not len(shown):
            return
        table, story, lanes = table.take(shown), story.take(shown), lanes[shown]
        flow = np.arange(len(shown), dtype=np.uint64) + np.uint64(self.chains + 1)
        self.chains += len(shown)
        self.stages += int(story.valid.sum())
        flowing = self._notifications(table, flow)
        self.flows += int(flowing.sum())
        self._canvas.file.write(self._slices(table, story, lanes, flow, flowing).tobytes())

    def _lanes(self, table: Table, story: Stories) -> NDArray[np.int64]:
        queues = table["queue_id"].data
        lanes = np.zeros(len(table), np.int64)
        for queue in np.unique(queues).tolist():
            rows = np.flatnonzero((queues == queue) & story.timed)
            parent = self._canvas.tracks.queue(queue)
            lanes[rows] = self._canvas.lane(parent, "chains", story.start[rows], story.end[rows])
        return lanes

    def _notifications(self, table: Table, flow: NDArray[np.uint64]) -> NDArray[np.bool_]:
        # Kicks on the thread that kicked, interrupts at the queue, each for the chain that has it.
        canvas, tracks = self._canvas, self._canvas.tracks
        of_queue = by_key(table["queue_id"].data, tracks.queue)
        vm, tid = table["vm"], table["kick_tid"]
        pool = vm.pool or ("",)
        keys = np.where(vm.present(), vm.data, 0).astype(np.int64) << 32
        known = tid.present()
        keys |= np.where(known, tid.data, 0).astype(np.int64)
        of_thread = np.zeros(len(table), np.int64)
        kicked = _own(table, "kick")
        rows = np.flatnonzero(kicked & known)
        of_thread[rows] = by_key(
            keys[rows], lambda key: tracks.thread(key & 0xFFFF_FFFF, pool[key >> 32])
        )
        interrupted = _own(table, "irq")
        category = canvas.category("notification")
        for name, column, chosen, where, kind in (
            ("kick", "kick_ns", kicked, np.where(known, of_thread, of_queue), "flow"),
            ("interrupt", "irq_ns", interrupted, of_queue, "end"),
        ):
            rows = np.flatnonzero(chosen)
            if not len(rows):
                continue
            events = canvas.events.instant(
                len(rows),
                flowing=kind,
                time=clipped(table[column].data[rows]),
                track=where[rows],
                name=tracks.name(name),
                category=category,
                flow=flow[rows],
            )
            canvas.file.write(events)
        return kicked | interrupted

    def _slices(
        self,
        table: Table,
        story: Stories,
        lanes: NDArray[np.int64],
        flow: NDArray[np.uint64],
        flowing: NDArray[np.bool_],
    ) -> Ragged:
        canvas, count = self._canvas, len(table)
        notes = [
            canvas.note("position", 10),
            canvas.note("head", 5),
            canvas.note("outcome"),
            canvas.note("trust"),
        ]
        values: dict[str, Any] = {
            "time": story.start,
            "track": lanes,
            "name": canvas.tracks.name("chain"),
            "category": canvas.category("chain"),
            "note_0": table["position"].data,
            "note_1": table["head"].data,
            "note_2": canvas.names(table["outcome"], note=True),
            "note_3": canvas.names(table["trust"], note=True),
            "note_4": table["packet"].data,
            "flow": flow,
        }
        said = Ragged(count)
        carries = table["packet"].present()
        packet = canvas.note("packet", 5)
        for noted, with_packet in (([*notes, packet], carries), (notes, ~carries)):
            for kind, with_flow in (("flow", flowing), ("", ~flowing)):
                where = with_packet & with_flow
                if where.any():
                    begin = canvas.events.begin(count, notes=noted, flowing=kind, **values)
                    said.fixed(begin, where)
        cut, category = story.cut, canvas.category("stage")
        took = [canvas.note("took_ns", 9)]
        for at, stage in enumerate(SHOWN):
            valid = story.valid[:, at]
            name = canvas.tracks.name(stage)
            values = {"track": lanes, "time": story.begins[:, at], "name": name}
            values |= {"category": category, "note_0": story.took[:, at]}
            for noted, where in (([], valid & ~cut[:, at]), (took, valid & cut[:, at])):
                if where.any():
                    said.fixed(canvas.events.begin(count, notes=noted, **values), where)
            said.fixed(canvas.events.end(count, track=lanes, time=story.ends[:, at]), valid)
        said.fixed(canvas.events.end(count, track=lanes, time=story.end))
        return said


def _own(table: Table, name: str) -> NDArray[np.bool_]:
    # An event that this chain has for itself.
    seen: NDArray[np.bool_] = table[f"{name}_state"].data == TimeState.SEEN
    return seen & table[f"{name}_ns"].present()
