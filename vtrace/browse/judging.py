"""``python -m vtrace.browse.judging FILE``: a diagnosis for a view, as lines of JSON.

A process of its own, so that a view never waits for it::

    {"progress": 0.25}
    {"diagnosis": {...}, "cpu_s": 1.5}      as ``vtrace diagnose --json`` has it; or
    {"failed": "a sentence"}

It is nice to others, computes on one CPU, and ends with the process that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parsers.batch import EventBatch
    from parsers.tracefile import Trace

__all__ = ["main"]

NICE: Final = 10
TELL_S: Final = 0.2
"""Time between two words on the progress."""
PR_SET_PDEATHSIG: Final = 1


def main(words: list[str] | None = None) -> int:
    """Print the diagnosis of a recording; return the exit code: 0, or 1 if there is none."""
    parser = argparse.ArgumentParser(prog="vtrace.browse.judging")
    parser.add_argument("file")
    parser.add_argument("--since", metavar="NS", help="monotonic time, or as vtrace takes it")
    parser.add_argument("--until", metavar="NS")
    args = parser.parse_args(words)
    _humble()
    from vtrace.errors import VtraceError

    try:
        found = _diagnosis(args.file, args.since, args.until)
        _tell({"diagnosis": found, "cpu_s": round(time.process_time(), 3)})
    except BrokenPipeError:
        return 1
    except VtraceError as error:
        return _failed(str(error))
    except MemoryError:
        return _failed("the diagnosis found no memory; look at a part of the recording")
    except Exception as error:
        return _failed(f"the diagnosis failed, which is a bug of vtrace: {error!r}")
    return 0


def _humble() -> None:
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _failed(sentence: str) -> int:
    with contextlib.suppress(BrokenPipeError):
        _tell({"failed": sentence})
    return 1


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what, separators=(",", ":"), allow_nan=False) + "\n")
    sys.stdout.flush()


def _diagnosis(path: str, since: str | None, until: str | None) -> Any:
    from parsers.tracefile import open_trace
    from vtrace.diagnose.findings import as_json
    from vtrace.session import Session, Window, parse_moment

    window = Window(
        since=None if since is None else parse_moment(since),
        until=None if until is None else parse_moment(until),
    )
    with open_trace(path) as trace:
        trace.scan()
        session = Session(_Telling(trace), window=window)
        diagnosis = session.diagnose()
        if diagnosis.anchor_ns is None:
            diagnosis.anchor_ns = session.clock.realtime_ns(0)
    return as_json(diagnosis)


class _Telling:
    """A recording that tells how far it was read."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def batches(self, columns: Any = None, **window: Any) -> Iterator[EventBatch]:
        """Yield the batches."""
        whole, told = max(len(self._trace.offsets), 1), 0.0
        for batch in self._trace.batches(columns=columns, **window):
            now = time.monotonic()
            if now - told >= TELL_S:
                told = now
                _tell({"progress": round(min(batch.number / whole, 1.0), 3)})
            yield batch


if __name__ == "__main__":
    sys.exit(main())
