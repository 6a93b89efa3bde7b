"""Diagnosis: where UDP packets died, how many, why, and what to type.

    diagnoser = Diagnoser(names)
    for batch in source:
        diagnoser.events(batch)
        diagnoser.chains(...)       # those that have ended, and the packets in them
        diagnoser.packets(...)
    verdict = diagnoser.finish(loss)

Pure: what it knows of the host is what the recording carries.
"""

from vtrace.diagnose.engine import Diagnoser
from vtrace.diagnose.findings import Diagnosis, Finding, as_json

__all__ = ["Diagnoser", "Diagnosis", "Finding", "as_json"]
