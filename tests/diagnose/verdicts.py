"""A case's verdict, held against its truth.

``python -m tests.diagnose.verdicts FOLDER/SUITE.json...`` does so for recordings that
``tests.diagnose.make`` left.
"""

import json
import sys
from pathlib import Path

from parsers.tracefile import open_trace
from tests.diagnose.stage import Case, Expected
from vtrace.diagnose.findings import Diagnosis
from vtrace.session import Session, Window
from vtrace.session.clock import Base, Moment

__all__ = ["diagnose", "wrong"]


def diagnose(path: Path, case: Case) -> Diagnosis:
    """Return the verdict on a case, from the recording cut at its times."""
    window = Window(Moment(Base.MONOTONIC, case.since_ns), Moment(Base.MONOTONIC, case.until_ns))
    with open_trace(path) as trace:
        return Session(trace, window=window).diagnose()


def wrong(case: Case, verdict: Diagnosis, expected: list[Expected] | None = None) -> list[str]:
    """Return what of a verdict is not as the truth wants it, in sentences."""
    wanted = case.expected if expected is None else expected
    said = [f"{f.code} {f.packets} {f.vm}/{f.device}/{f.queue}" for f in verdict.findings]
    bad = []
    findings = [one for one in verdict.findings if one.code not in case.tolerated]
    pairs = [(one.code, one.packets or 0) for one in findings]
    if any(one.code == "R5" for one in wanted):
        # Which letter is the machine's affair; what they come to is not.
        full = [packets for code, packets in pairs if code.startswith("R5")]
        pairs = [("R5", sum(full)), *(pair for pair in pairs if not pair[0].startswith("R5"))]
    if pairs != [(one.code, one.packets) for one in wanted]:
        bad.append(f"findings are {said}, not {[(one.code, one.packets) for one in wanted]}")
    elif len(findings) == len(wanted):
        for found, one in zip(findings, wanted, strict=True):
            for name in ("vm", "device", "queue"):
                want, have = getattr(one, name), getattr(found, name)
                if want and want != have:
                    bad.append(f"{one.code}: {name} is {have!r}, not {want!r}")
    if verdict.unexplained:
        rows = [row for row in verdict.ledger if row.unexplained]
        bad.append(f"unexplained is {verdict.unexplained}: {rows}")
    bad += [f"a disagreement: {one}" for one in verdict.disagreements]
    return bad


def main() -> int:
    failed = 0
    for name in sys.argv[1:]:
        path = Path(name)
        for entry in json.loads(path.read_text()):
            case = Case(
                name=entry["name"],
                since_ns=entry["since_ns"],
                until_ns=entry["until_ns"],
                expected=[Expected(**one) for one in entry["expected"]],
                blind=[Expected(**one) for one in entry["blind"]],
                truth=entry["truth"],
            )
            bad = wrong(case, diagnose(path.with_suffix(".vtrace"), case))
            failed += bool(bad)
            print(f"{'WRONG' if bad else 'right'} {case}")
            for text in bad:
                print(f"      {text}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
