"""Lifecycles: what became of every descriptor chain, from records of the probes.

    tracker = Tracker(queues, not_probed=["kick_ns"])
    for batch in source:
        table = tracker.feed(batch)      # chains that are finished
    rest = tracker.finish()              # and those that were still open
    tracker.stats()                      # {queue id: QueueStats}

``docs/lifecycle.md`` says what the columns mean. The kernels are pure: no clock, no input.
"""

from vtrace.lifecycle.histogram import Histogram
from vtrace.lifecycle.stages import stages
from vtrace.lifecycle.stats import Notifications, QueueStats
from vtrace.lifecycle.table import COLUMNS, LifecycleTable
from vtrace.lifecycle.tracker import RingIndices, SavedTracker, Tracker

__all__ = [
    "COLUMNS",
    "Histogram",
    "LifecycleTable",
    "Notifications",
    "QueueStats",
    "RingIndices",
    "SavedTracker",
    "Tracker",
    "stages",
]
