"""The native trace file ``.vtrace``: an Arrow IPC file of event batches.

``open_trace`` reads one, from a file, a growing file or a pipe; ``TraceWriter`` writes one.
``docs/trace-file.md`` describes the format for those who read it without vtrace.
"""

from __future__ import annotations

from parsers.tracefile.layout import BatchSummary, Tally
from parsers.tracefile.reader import Summaries, Trace, open_trace
from parsers.tracefile.writer import TraceWriter, rotated_name

__all__ = [
    "BatchSummary",
    "Summaries",
    "Tally",
    "Trace",
    "TraceWriter",
    "open_trace",
    "rotated_name",
]
