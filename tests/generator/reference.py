"""A slow decoder of lossless records, one event at a time, to check the generator's truth with.

It pairs what a person would pair who reads the records aloud, and nothing that needs thought: own
times, packets, hand-backs. It is for small recordings.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from vtrace.model import Kind, Outcome

__all__ = ["decode"]


class _Queue:
    def __init__(self) -> None:
        self.open: dict[int, dict[str, Any]] = {}
        self.popped: list[dict[str, Any]] = []  # not yet received or sent
        self.back: dict[int, dict[str, Any]] = {}  # handed back, by position
        self.signal: list[dict[str, Any]] = []  # used, not yet signalled
        self.irq: list[dict[str, Any]] = []
        self.delivered: dict[int, tuple[int, int]] = {}
        self.run = 0
        self.start = 0
        self.batch = 0


def decode(records: Any) -> list[dict[str, Any]]:
    """Return one dict per chain that was popped."""
    queues: dict[int, _Queue] = defaultdict(_Queue)
    enqueued: dict[int, int] = {}
    rows: list[dict[str, Any]] = []
    for r in records:
        kind, time = Kind(int(r["kind"])), int(r["time"])
        q = queues[int(r["queue"])]
        position, head, count = int(r["position"]), int(r["head"]), int(r["count"])
        if kind in (Kind.START, Kind.STOP):
            fresh = _same_place(q, position)
            if not fresh:
                _reset(q)
            q.start += kind == Kind.START
            q.popped, q.signal, q.irq = [], [], []
        elif kind == Kind.RUN:
            q.run = time
        elif kind == Kind.ENQUEUE:
            enqueued[int(r["packet"])] = time
        elif kind == Kind.POP:
            row = q.back.pop(position, None)
            if row is None:
                row = {
                    "queue": int(r["queue"]), "position": position, "head": head,
                    "handed_back": 0, "packet": 0, "used_ns": 0, "backend_ns": 0, "enqueue_ns": 0,
                    "deliver_ns": 0, "signal_ns": 0, "irq_ns": 0, "used_bytes": 0,
                    "first_pop_ns": time,
                }  # fmt: skip
                rows.append(row)
            assert row["head"] == head
            row |= {
                "pop_ns": time, "run_ns": q.run, "outcome": Outcome.IN_FLIGHT,
                "descriptors": count, "readable_bytes": int(r["length"]),
                "writable_bytes": int(r["room"]),
            }  # fmt: skip
            q.open[head] = row
            q.popped.append(row)
        elif kind == Kind.HAND_BACK:
            for row in q.popped[len(q.popped) - count :]:
                row["handed_back"] += 1
                row["outcome"] = Outcome.DISCARDED
                q.back[row["position"]] = row
                del q.open[row["head"]]
            del q.popped[len(q.popped) - count :]
        elif kind == Kind.RECV and int(r["ret"]) == int(r["length"]):
            for row in q.popped:
                row["packet"] = int(r["packet"])
                row["enqueue_ns"] = enqueued.get(row["packet"], 0)
                row["backend_ns"] = time
            q.popped = []
        elif kind == Kind.DELIVER:
            q.delivered[count] = int(r["packet"]), time
        elif kind == Kind.SEND:
            if int(r["ret"]) >= 0:
                # A single is popped after the batch that is sent before it.
                single = not int(r["flags"]) & 1 << 12
                sent = q.popped[-1:] if single else q.popped[:count]
                if len(q.delivered) < len(sent):
                    q.delivered = {}  # tun rejected some, and it cannot be told which
                for k, row in enumerate(sent):
                    row["backend_ns"] = time
                    row["packet"], row["deliver_ns"] = q.delivered.get(k, (0, 0))
                q.popped = [row for row in q.popped if not any(row is other for other in sent)]
            elif int(r["ret"]) != -11:
                for row in q.popped[:count]:
                    row["backend_ns"] = time
                q.popped = q.popped[count:]
            q.delivered = {}
        elif kind == Kind.USED:
            row = q.open.pop(head)
            row |= {
                "used_ns": time, "used_bytes": int(r["length"]), "used_index": int(r["used"]),
                "outcome": Outcome.USED,
            }  # fmt: skip
            q.signal.append(row)
        elif kind == Kind.SIGNAL:
            for row in q.signal:
                row["signal_ns"], row["signal_ret"] = time, int(r["ret"])
            q.irq = q.signal if r["ret"] else []
            q.signal = []
        elif kind == Kind.IRQ:
            for row in q.irq:
                row["irq_ns"] = time
            q.irq = []
    return rows


def _same_place(q: _Queue, position: int) -> bool:
    # A resume goes on where it stood: nothing open is lost by it.
    last = max((row["pop_ns"] for row in q.open.values()), default=0)
    return not q.popped and not last and all(p >= position for p in q.back)


def _reset(q: _Queue) -> None:
    for row in q.open.values():
        row["outcome"] = Outcome.RESET
    q.open, q.back = {}, {}
