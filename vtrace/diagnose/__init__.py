"""Diagnosis: where UDP packets died, how many, why, and what to type.

    diagnoser = Diagnoser(names)
    for batch in source:
        diagnoser.events(batch)
        diagnoser.chains(...)       # those that have ended, and the packets in them
        diagnoser.packets(...)
    verdict = diagnoser.finish(loss)

Pure: what it knows of the host is what the recording carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtrace.diagnose.findings import Diagnosis, Finding, as_json

if TYPE_CHECKING:
    from vtrace.diagnose.engine import Diagnoser

__all__ = ["Diagnoser", "Diagnosis", "Finding", "as_json"]


def __getattr__(name: str) -> Any:
    # Codes and findings are words; the engine brings numba.
    if name != "Diagnoser":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vtrace.diagnose.engine import Diagnoser

    return Diagnoser
