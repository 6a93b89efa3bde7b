"""A diagnosis as text: what an engineer would write down, the verdict first.

Pure: a ``Diagnosis`` and a ``Look`` in, lines out. Every text from outside passes ``wrapped`` or
``clean``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.codes import page_of
from vtrace.diagnose.prose.headline import Times, headline, packets_text
from vtrace.diagnose.prose.ledger import ledger_lines
from vtrace.diagnose.prose.lines import hanging, wrapped
from vtrace.diagnose.prose.style import PLAIN, Style
from vtrace.tables.human import count_text, duration_text
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.diagnose.findings import Burst, Diagnosis, Evidence, Finding, Remedy, Review

__all__ = [
    "Look",
    "Part",
    "config_lines",
    "finding_lines",
    "finding_parts",
    "further_lines",
    "headline_lines",
    "review_lines",
    "verdict_lines",
    "whole_flows",
]

FEW: Final = 3
"""Bursts, flows and pieces of evidence that are shown; more with -v."""
PROSE: Final = 96
"""Text is easier to read in lines that are not longer."""
LABEL: Final = 8
"""Cells of the words at the left of a finding: seen, burst, do."""

NAME: Final = 32
"""Cells of a name where it stands beside others."""
LOSES: Final = 2
"""Weight of a point of the review that loses packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a diagnosis is shown."""

    width: int = 80
    style: Style = PLAIN
    verbose: bool = False
    times: Times = field(default_factory=Times)
    more: str = "-v"
    """What shows what is left out."""
    source: str = ""
    """The recording, for commands that show its rows; empty: it is not kept."""

    @property
    def prose(self) -> int:
        """Cells of a line of text."""
        return min(self.width, PROSE)


def verdict_lines(diagnosis: Diagnosis, look: Look) -> list[str]:
    """Return all of it: verdict, findings, ledger, flows, and how far it can be trusted."""
    lines = headline_lines(diagnosis, look)
    whole = whole_flows(diagnosis)
    for finding in diagnosis.findings:
        lines += ["", *finding_lines(finding, look, whole)]
    ill = bool(diagnosis.findings or diagnosis.unexplained or diagnosis.disagreements)
    if diagnosis.ledger and (ill or look.verbose):
        lines += ["", *ledger_lines(diagnosis, look.width, look.style)]
    for part in further_lines(diagnosis, look):
        lines += ["", *part]
    return lines


def headline_lines(diagnosis: Diagnosis, look: Look) -> list[str]:
    """Return the verdict in a sentence."""
    return [look.style.bold(line) for line in wrapped(headline(diagnosis, look.times), look.prose)]


def whole_flows(diagnosis: Diagnosis) -> dict[tuple[str, str, str], int]:
    """Return the packets of each flow, lost or not, by flow, direction and VM."""
    return {(row.flow, row.direction, row.vm): row.packets for row in diagnosis.flows}


def further_lines(diagnosis: Diagnosis, look: Look) -> list[list[str]]:
    """Return what follows the ledger: flows, what disagrees, what is not seen, review, notes."""
    ill = bool(diagnosis.findings or diagnosis.unexplained or diagnosis.disagreements)
    parts = (
        _flow_lines(diagnosis, look),
        _disagreement_lines(diagnosis, look),
        _blind_lines(diagnosis, look),
        _review_part(diagnosis, look, ill=ill),
        _note_lines(diagnosis, look),
    )
    return [part for part in parts if part]


def config_lines(diagnosis: Diagnosis, look: Look, missing: Sequence[str] | None = ()) -> list[str]:
    """Return the review of the configuration alone.

    ``missing``: sentences on what of it is not known; None: nothing is.
    """
    if missing is None:
        return ["The recording does not say how the host was configured."]
    points = sorted(diagnosis.review, key=lambda point: -point.weight)
    if points:
        costly = sum(point.weight == LOSES for point in points)
        text = f"{len(points)} point{'s' if len(points) > 1 else ''} of the configuration"
        if costly:
            text += f", {costly} of them may lose packets"
        lines = [look.style.bold(text + "."), "", *review_lines(points, look)]
    else:
        lines = [look.style.bold("Nothing in the configuration costs packets or time.")]
    shown = missing if look.verbose else missing[:FEW]
    notes = [line for text in shown for line in hanging("not known: ", text, look.prose)]
    notes += _more(len(missing) - len(shown), "that are not known", look)
    return [*lines, *(["", *notes] if notes else [])]


# Findings


@dataclass(frozen=True, slots=True)
class Part:
    """Lines of a finding that belong together."""

    lines: list[str]
    about: Evidence | Burst | None = None
    """What they tell, where that has rows or a time of its own."""


def finding_lines(
    finding: Finding, look: Look, whole: Mapping[tuple[str, str, str], int] | None = None
) -> list[str]:
    """Return a finding: its line, cause, evidence, bursts, remedies and page.

    ``whole`` has the packets of each flow, lost or not, by flow, direction and VM.
    """
    return [line for part in finding_parts(finding, look, whole) for line in part.lines]


def finding_parts(
    finding: Finding, look: Look, whole: Mapping[tuple[str, str, str], int] | None = None
) -> Iterator[Part]:
    """Yield the lines of ``finding_lines``, those apart that have rows to look at."""
    yield Part(_head(finding, look))
    shown = finding.evidence if look.verbose else finding.evidence[:FEW]
    for at, evidence in enumerate(shown):
        lines = _labelled("seen" if not at else "", _evidence(evidence, look), look)
        if look.verbose and evidence.verb and evidence.filter and look.source:
            lines.append(" " * (LABEL + 2) + look.style.dim(_rows_command(evidence, look.source)))
        yield Part(lines, evidence)
    lines = _more(len(finding.evidence) - len(shown), "seen", look)
    yield Part(lines)
    bursts = finding.bursts if look.verbose else finding.bursts[:FEW]
    for at, burst in enumerate(bursts):
        yield Part(_labelled("burst" if not at else "", _burst(burst, look.times), look), burst)
    lines = _more(len(finding.bursts) - len(bursts), "bursts", look)
    flows = finding.flows if look.verbose else finding.flows[:FEW]
    for at, (flow, count) in enumerate(flows):
        of = (whole or {}).get((flow, finding.direction, finding.vm), 0)
        text = packets_text(count) if of < count else f"{count_text(count)} of {packets_text(of)}"
        lines += _labelled("flow" if not at else "", f"{flow}: {text}", look)
    lines += _more(len(finding.flows) - len(flows), "flows", look)
    for at, remedy in enumerate(finding.remedies):
        lines += _remedy("do" if not at else "or", remedy, look)
    lines += _labelled("see", f"docs/{page_of(finding.code)}", look)
    yield Part(lines)


def _head(finding: Finding, look: Look) -> list[str]:
    head = [look.style.alarm(clean(finding.code))]
    if finding.packets is not None:
        head.append(packets_text(finding.packets))
    names = (finding.vm, finding.device, finding.queue)
    where = " ".join(clean(one, NAME) for one in names if one)
    head += [str(finding.certainty), *([where] if where else [])]
    return ["  ".join(head), *("  " + line for line in wrapped(finding.cause, look.prose - 2))]


def _labelled(label: str, text: str, look: Look) -> list[str]:
    return list(hanging(f"  {label:<{LABEL - 1}} ", text, look.prose))


def _more(count: int, what: str, look: Look) -> list[str]:
    if count <= 0:
        return []
    return [" " * (LABEL + 2) + look.style.dim(f"{count_text(count)} more {what} ({look.more})")]


def _evidence(evidence: Evidence, look: Look) -> str:
    if look.verbose and evidence.source and evidence.source not in evidence.text:
        return f"{evidence.text} [{evidence.source}]"
    return evidence.text


def _rows_command(evidence: Evidence, source: str) -> str:
    words = ["vtrace", evidence.verb, "-Y", evidence.filter, source]
    return clean(shlex.join(words))


def _burst(burst: Burst, times: Times) -> str:
    when = times.text(burst.start_ns)
    if burst.end_ns > burst.start_ns:
        when += f" for {duration_text(burst.end_ns - burst.start_ns)}"
    parts = [when, packets_text(burst.packets)]
    if burst.depth is not None:
        of = "" if burst.limit is None else f" of {count_text(burst.limit)}"
        parts.append(f"{count_text(burst.depth)}{of} waited")
    if burst.running:
        parts.append(f"meanwhile on the CPU: {burst.running}")
    return ", ".join(parts)


def _remedy(label: str, remedy: Remedy, look: Look) -> Iterator[str]:
    yield from _labelled(label, remedy.text, look)
    yield from _change(remedy.command, remedy.current, remedy.proposed, look)


def _change(command: str, current: str, proposed: str, look: Look) -> Iterator[str]:
    if command:
        # On a line of its own, and never broken: it is there to be copied.
        yield " " * (LABEL + 4) + look.style.bold(clean(command))
    if current or proposed:
        text = f"{current or '?'} -> {proposed}" if proposed else f"now {current}"
        yield from _labelled("", text, look)


# What follows the findings


def _flow_lines(diagnosis: Diagnosis, look: Look) -> list[str]:
    losing = [row for row in diagnosis.flows if row.dropped]
    told = {flow for finding in diagnosis.findings for flow, _ in finding.flows[:FEW]}
    if not look.verbose and all(row.flow in told and len(row.dropped) == 1 for row in losing):
        # The findings have said so.
        return []
    losing.sort(key=lambda row: -sum(row.dropped.values()))
    shown = losing if look.verbose else losing[:FEW]
    lines = [look.style.bold("flows that lost")]
    for row in shown:
        lost = sum(row.dropped.values())
        codes = ", ".join(f"{code} {count_text(count)}" for code, count in row.dropped.items())
        where = " ".join(one for one in (row.vm, row.device) if one)
        text = f"{row.flow}  {count_text(lost)} of {count_text(row.packets)}: {codes}"
        lines += hanging("  ", f"{text}  ({where})" if where else text, look.prose)
    return lines + _more(len(losing) - len(shown), "flows", look)


def _disagreement_lines(diagnosis: Diagnosis, look: Look) -> list[str]:
    if not diagnosis.disagreements:
        return []
    lines = [look.style.bold("where two that count the same disagree")]
    for one in diagnosis.disagreements:
        text = (
            f"{one.what}: {one.first} {count_text(one.first_count)}, "
            f"{one.second} {count_text(one.second_count)}"
        )
        if one.slack:
            text += f" ({count_text(one.slack)} may belong to either side)"
        lines += hanging("  ", f"{text}. {one.meaning}".rstrip(), look.prose)
    return lines


def _blind_lines(diagnosis: Diagnosis, look: Look) -> list[str]:
    lines: list[str] = []
    for spot in diagnosis.blind_spots:
        text = spot.text
        if spot.packets is not None and count_text(spot.packets) not in text:
            text += f" That is {packets_text(spot.packets, diagnosis.protocol)}."
        where = [one for one in (spot.vm, spot.device) if one]
        if spot.vm and spot.vm not in text:
            text = f"{' '.join(where)}: {text}"
        lines += wrapped(text, look.prose)
        if spot.proof:
            lines += hanging("  proof: ", spot.proof, look.prose)
    return lines


def review_lines(points: Sequence[Review], look: Look) -> list[str]:
    """Return points of the configuration in full."""
    lines: list[str] = []
    for at, point in enumerate(points):
        where = " ".join(clean(one, NAME) for one in (point.vm, point.device) if one)
        setting = clean(point.setting, NAME)
        head = "  ".join(one for one in (point.code, setting, where) if one)
        lines += ["", head] if at else [head]
        lines += ["  " + line for line in wrapped(point.text, look.prose - 2)]
        lines += _change(point.command, point.current, point.proposed, look)
        if look.verbose:
            lines += _labelled("see", f"docs/{page_of(point.code)}", look)
    return lines


def _review_part(diagnosis: Diagnosis, look: Look, *, ill: bool) -> list[str]:
    points = [point for point in diagnosis.review if point.weight or look.verbose]
    if not points:
        return []
    head = look.style.bold("configuration")
    if ill or look.verbose:
        return [head, *review_lines(points, look)]
    lines = [f"{head}: vtrace diagnose --config has the whole of it"]
    for point in points:
        what = f"{point.setting}: {point.current}" if point.current else point.setting
        text = f"{what} -> {point.proposed}" if point.proposed else what
        where = " ".join(one for one in (point.vm, point.device) if one)
        lines += hanging(f"  {point.code}  ", f"{text}  ({where})" if where else text, look.prose)
    return lines


def _note_lines(diagnosis: Diagnosis, look: Look) -> list[str]:
    notes = list(diagnosis.notes)
    lost = diagnosis.loss.get("lost", 0)
    if lost and not any(count_text(lost) in note or str(lost) in note for note in notes):
        notes.append(f"vtrace itself lost {count_text(lost)} records; what they held is unknown.")
    return [line for note in notes for line in hanging("note: ", note, look.prose)]
