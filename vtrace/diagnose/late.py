"""Findings T3 and T5: transmission that waited for its worker, and rings that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.diagnose.findings import Certainty, Evidence, Finding, Remedy
from vtrace.diagnose.timeline import Doing, Timeline
from vtrace.diagnose.words import count, duration, owner_text
from vtrace.model import Kind, TimeState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parsers.batch import EventBatch
    from vtrace.diagnose.scene import Scene

__all__ = ["Late"]

EAGAIN: Final = -11
LATE_NS: Final = 250_000_000
"""So long a worker waits for a CPU only where another thread keeps it: many time slices."""


@dataclass(slots=True)
class _Wait:
    chains: int = 0
    longest_ns: int = 0
    first_ns: int = 0
    last_ns: int = 0
    instead: Counter[int] = field(default_factory=Counter)


class Late:
    """Chains of transmit queues that waited for their worker, and errors of their rings."""

    def __init__(self, scene: Scene, timeline: Timeline) -> None:
        self._scene, self._timeline = scene, timeline
        self._waits: dict[int, _Wait] = {}
        self._errors: dict[int, Counter[int]] = {}

    def feed(self, batch: EventBatch, inside: NDArray[np.bool_] | None = None) -> None:
        """Take in a batch: of its errors, those in ``inside`` count."""
        # -EAGAIN is no error: a translation that a vIOMMU has yet to give.
        broken = (batch["kind"] == Kind.POP_ERROR) & (batch["ret"] != EAGAIN)
        if inside is not None:
            broken &= inside
        for row in np.flatnonzero(broken).tolist()[:4096]:
            errors = self._errors.setdefault(int(batch["queue"][row]), Counter())
            errors[int(batch["ret"][row])] += 1

    def chains(self, columns: Mapping[str, NDArray[Any]], within: tuple[int, int]) -> None:
        """Take in chains that have ended: columns of the lifecycle table."""
        wake, run = columns["wake_ns"], columns["run_ns"]
        known = columns["wake_state"] <= TimeState.SHARED
        known &= columns["run_state"] <= TimeState.SHARED
        known &= (run > wake) & (wake >= np.uint64(within[0])) & (wake < np.uint64(within[1]))
        rows = np.flatnonzero(known)
        rows = rows[run[rows] - wake[rows] > np.uint64(LATE_NS)]
        for row in rows.tolist():
            queue = int(columns["queue"][row])
            if self._scene.queue(queue).get("direction") == "tx":
                self._wait(queue, int(columns["worker_tid"][row]), int(wake[row]), int(run[row]))

    def _wait(self, queue: int, tid: int, wake: int, run: int) -> None:
        worker = self._timeline.threads.get(tid)
        if worker is None:
            return
        times = np.unique(
            np.concatenate([np.array([wake, run], np.uint64), worker.between(wake, run)])
        )
        spans, times = np.diff(times).astype(np.int64), times[:-1]
        ready = worker.at(times) == Doing.WAITING
        who = worker.replaced(times)
        behind = ready & (who > 0)
        # Late for another reason: it slept, was stopped, or the CPU was idle.
        if int(spans[behind].sum()) * 2 < run - wake:
            return
        wait = self._waits.setdefault(queue, _Wait(first_ns=wake))
        wait.chains += 1
        wait.longest_ns = max(wait.longest_ns, run - wake)
        wait.first_ns, wait.last_ns = min(wait.first_ns, wake), max(wait.last_ns, run)
        for tid, span in zip(who[behind].tolist(), spans[behind].tolist(), strict=True):
            wait.instead[tid] += span

    def finish(self) -> list[Finding]:
        """Return the findings."""
        found = [self._late(queue, wait) for queue, wait in sorted(self._waits.items())]
        return found + [self._broken(queue, errors) for queue, errors in self._errors.items()]

    def _late(self, queue: int, wait: _Wait) -> Finding:
        scene = self._scene
        owner = scene.owner(queue)
        tid = wait.instead.most_common(1)[0][0]
        return Finding(
            code="T3",
            cause=f"what {owner_text(owner)} sent waited for its vhost worker, which was ready to"
            f" run for up to {duration(wait.longest_ns)} while {scene.comm(tid)} had its CPU",
            packets=None,
            certainty=Certainty.PROVEN,
            vm=owner.vm,
            device=owner.device,
            queue=scene.queue_name(queue),
            direction="tx",
            first_ns=wait.first_ns,
            last_ns=wait.last_ns,
            evidence=[
                Evidence(
                    text=f"{count(wait.chains, 'chain')} waited more than {duration(LATE_NS)}"
                    " between the wake-up of the worker and its handler",
                    source="WAKE, RUN and SCHED records",
                    verb="lifecycles",
                    filter=f'queue == "{scene.queue_name(queue)}" and schedule_ns > {LATE_NS}',
                )
            ],
            remedies=[
                Remedy(
                    text="Give the worker a CPU on which nothing else is busy.",
                    command=f"taskset -pc CPU {self._timeline.workers.get(queue, 0) or 'TID'}",
                )
            ],
        )

    def _broken(self, queue: int, errors: Counter[int]) -> Finding:
        owner = self._scene.owner(queue)
        total = sum(errors.values())
        codes = ", ".join(f"{number} with {code}" for code, number in errors.most_common(4))
        return Finding(
            code="T5",
            cause=f"vhost could not read what {owner_text(owner)} put into"
            f" {self._scene.queue_name(queue)}: the queue stands until the next kick",
            packets=None,
            certainty=Certainty.PROVEN,
            vm=owner.vm,
            device=owner.device,
            queue=self._scene.queue_name(queue),
            direction=str(self._scene.queue(queue).get("direction") or ""),
            evidence=[
                Evidence(
                    text=f"vhost_get_vq_desc failed {count(total, 'time')}: {codes}",
                    source="POP_ERROR records",
                )
            ],
            remedies=[
                Remedy(
                    text="Look at the guest's driver, and at what the kernel's log says of vhost.",
                    command="dmesg | grep -i vhost",
                )
            ],
        )
