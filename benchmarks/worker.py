"""Tasks that are measured from inside, each in a process of its own that prints JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["TASKS"]

Figures = dict[str, float]


def make(path: str, events: str) -> Figures:
    """Write a synthetic recording of so many events: four queues of one guest."""
    from parsers.tracefile import TraceWriter
    from tests.generator import Pair, Scenario, stream

    scenario = Scenario(pairs=(Pair(base_rx=65000, base_tx=100),) * 2, seed=1, cpus=4)
    with TraceWriter(path) as writer:
        for batch in stream(scenario, int(events)):
            writer.write(batch)
    return {"events": int(events)}


def decode(path: str, small: str) -> Figures:
    """Read a file and check it: columns as arrays, no tracker."""
    from parsers import wire
    from parsers.tracefile import open_trace

    def read(name: str) -> int:
        with open_trace(name) as trace:
            return sum(len(batch) for batch in trace.batches(columns=tuple(wire.COLUMNS)))

    read(small)
    began = time.process_time()
    events = read(path)
    return {"events": events, "cpu_s": time.process_time() - began}


def track(path: str, small: str) -> Figures:
    """Read a file and follow every chain in it; the two apart and together."""
    from parsers import wire
    from parsers.tracefile import open_trace
    from vtrace.lifecycle import Tracker

    def follow(name: str) -> tuple[int, int, float]:
        events = chains = 0
        inside = 0.0
        tracker = Tracker()
        with open_trace(name) as trace:
            for batch in trace.batches(columns=tuple(wire.COLUMNS)):
                events += len(batch)
                began = time.process_time()
                chains += len(tracker.feed(batch))
                inside += time.process_time() - began
        began = time.process_time()
        chains += len(tracker.finish())
        return events, chains, inside + time.process_time() - began

    follow(small)
    began = time.process_time()
    events, chains, inside = follow(path)
    return {
        "events": events,
        "chains": chains,
        "cpu_s": time.process_time() - began,
        "tracker_s": inside,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def write(path: str, out: str, events: str) -> Figures:
    """Write the first events of a recording again, as ``vtrace record`` does."""
    from parsers.tracefile import TraceWriter, open_trace

    batches = []
    count = 0
    with open_trace(path) as trace:
        for batch in trace.batches():
            batches.append(batch)
            count += len(batch)
            if count >= int(events):
                break
    with TraceWriter(out) as writer:
        writer.write(batches[0])
    began = time.process_time()
    with TraceWriter(out) as writer:
        for batch in batches:
            writer.write(batch)
    cpu = time.process_time() - began
    size = os.path.getsize(out)  # noqa: PTH202
    os.unlink(out)  # noqa: PTH108
    return {"events": count, "cpu_s": cpu, "bytes": size}


def pace(path: str, out: str, rate: str, seconds: str) -> Figures:
    """Write a recording again at so many events a second, as a recorder does."""
    import numpy as np

    from parsers.tracefile import TraceWriter, open_trace

    events, began = 0, time.monotonic()
    part = max(int(float(rate) / 20), 1)
    with TraceWriter(out) as writer, open_trace(path) as trace:
        for batch in trace.batches():
            for first in range(0, len(batch), part):
                rows = np.zeros(len(batch), np.bool_)
                rows[first : first + part] = True
                piece = batch.take(rows)
                piece.meta = {} if first else batch.meta
                writer.write(piece)
                writer.flush()
                events += len(piece)
                time.sleep(max(began + events / float(rate) - time.monotonic(), 0))
            if time.monotonic() - began > float(seconds):
                break
    return {"events": events, "seconds": time.monotonic() - began}


def pages(path: str, count: str) -> Figures:
    """Read a file as a view does, and look at rows all over it."""
    import random

    from vtrace.browse import Browser, Query

    began = time.monotonic()
    browser = Browser(path)
    browser.start()
    while not browser.ended:
        time.sleep(0.02)
    read = time.monotonic() - began
    view = browser.view(Query(table="lifecycles"))
    while not view.done:
        time.sleep(0.02)
    counted = time.process_time()
    chance = random.Random(1)
    took = []
    for _ in range(int(count)):
        first = chance.randrange(max(len(view) - 40, 1))
        began = time.monotonic()
        view.load(first, 40).lists(("time_ns", "position", "service_ns", "flow"))
        took.append(time.monotonic() - began)
    rows = len(view)
    browser.close()
    took.sort()
    return {
        "rows": rows,
        "read_s": read,
        "count_cpu_s": counted,
        "page_s": took[len(took) // 2],
        "worst_page_s": took[-1],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task for task in (make, decode, track, write, pace, pages)
}
"""Name -> task."""


def main() -> int:
    """Run one task and print its figures."""
    name, *arguments = sys.argv[1:]
    sys.stdout.write(json.dumps(TASKS[name](*arguments)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
