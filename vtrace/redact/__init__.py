"""Recordings that may be shown to others: addresses and names replaced, payload gone.

    redactor = Redactor()
    for batch in trace.batches():
        redactor.collect(batch)
    redactor.seal()
    for batch in trace.batches():
        write(redactor.redact(batch))
    check = Check(redactor.names)
    check.pair(batch, written)                  # for each; check.found is empty, or it leaks

Pure: no input, no clock; without a salt the key is random. docs/redact.md says what is promised.
"""

from vtrace.redact.check import Check
from vtrace.redact.redactor import KEEP, Redactor
from vtrace.redact.sections import SECTIONS

__all__ = ["KEEP", "SECTIONS", "Check", "Redactor"]
