"""The verdict: what a diagnosis says, in the words of ``vtrace diagnose``, to be gone through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.text import Text

from vtrace.browse.verdict import JudgeState
from vtrace.diagnose.findings import Burst, Certainty, Evidence
from vtrace.diagnose.prose.lines import wrapped
from vtrace.diagnose.prose.verdict import (
    LABEL,
    Look,
    finding_parts,
    further_lines,
    headline_lines,
    whole_flows,
)
from vtrace.tables.human import duration_text
from vtrace.tui.widgets.ledger import NAMED, ledger_texts, styled
from vtrace.tui.widgets.pane import Line

if TYPE_CHECKING:
    from vtrace.browse.verdict import Verdict
    from vtrace.diagnose.findings import Diagnosis, Finding
    from vtrace.diagnose.prose.headline import Times

__all__ = ["Opens", "sentence_lines", "stretch_lines", "verdict_view", "waiting_lines"]

OPENS: Final = (Evidence, Burst)
HERE: Final = "▸"
"""Stands before what can be opened."""


@dataclass(frozen=True, slots=True)
class Opens:
    """What a line of the verdict leads to."""

    finding: Finding
    about: Evidence | Burst | None

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Opens)
            and self.about == other.about
            and self.finding.code == other.finding.code
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def rows(self) -> Evidence | None:
        """The evidence, if it says which rows it came from."""
        about = self.about
        return about if isinstance(about, Evidence) and about.verb else None

    @property
    def time_ns(self) -> int | None:
        """The time that it is about: of the burst, else of the first packet lost."""
        if isinstance(self.about, Burst):
            return self.about.start_ns
        return self.finding.first_ns


def verdict_view(
    diagnosis: Diagnosis, times: Times, width: int, *, verbose: bool = False
) -> Iterator[Line]:
    """Yield the lines of a verdict: in a sentence, finding by finding, the ledger, and the rest."""
    look = Look(width=width, style=NAMED, verbose=verbose, times=times, more="e")
    doubt = diagnosis.unexplained or diagnosis.disagreements or diagnosis.loss.get("lost")
    well = not diagnosis.findings and not doubt
    for line in headline_lines(diagnosis, look):
        text = styled(line)
        text.stylize("bold")
        if well:
            text.stylize("good")
        yield Line(text)
    whole = whole_flows(diagnosis)
    for finding in diagnosis.findings:
        yield Line(Text())
        yield from _finding(finding, look, whole)
    if diagnosis.ledger:
        yield Line(Text())
        yield from (Line(text) for text in ledger_texts(diagnosis, width))
    for part in further_lines(diagnosis, look):
        yield Line(Text())
        for line in part:
            text = styled(line)
            if not text.spans and text.plain.startswith("note: "):
                text.stylize("dim", 0, 6)
            yield Line(text)


def _finding(
    finding: Finding, look: Look, whole: dict[tuple[str, str, str], int]
) -> Iterator[Line]:
    for number, part in enumerate(finding_parts(finding, look, whole)):
        about = Opens(finding, part.about if isinstance(part.about, OPENS) else None)
        leads = about.about is not None and (about.rows is not None or about.time_ns is not None)
        for at, line in enumerate(part.lines):
            text = styled(line)
            if not number:
                _head(text, finding, first=not at)
            else:
                _label(text, leads=leads and not at)
            yield Line(text, about if leads else None)


def _head(text: Text, finding: Finding, *, first: bool) -> None:
    if not first:
        return
    style = {Certainty.PROVEN: "bold", Certainty.LIKELY: "warn"}.get(finding.certainty, "dim")
    text.highlight_words([str(finding.certainty)], style=style)


def _label(text: Text, *, leads: bool) -> None:
    end = min(LABEL + 2, len(text))
    text.stylize("dim", 0, end)
    if leads and len(text) > LABEL + 1 and text.plain[LABEL + 1] == " ":
        text.plain = text.plain[: LABEL + 1 - 1] + HERE + text.plain[LABEL + 1 :]
        text.stylize("accent", LABEL, LABEL + 1)


def sentence_lines(text: str, width: int, style: str = "text") -> list[Line]:
    """Return a sentence in lines."""
    return [Line(Text(line, style=style)) for line in wrapped(text, min(width, 96))]


def waiting_lines(verdict: Verdict, width: int) -> list[Line]:
    """Return why there is no verdict yet, or none at all."""
    if verdict.state is JudgeState.FAILED:
        return sentence_lines(verdict.sentence, width, "alarm")
    if verdict.state is JudgeState.RUNNING:
        done = f"{verdict.progress:.0%}" if verdict.progress else "begun"
        return sentence_lines(f"The recording is being diagnosed: {done}.", width, "dim")
    if verdict.sentence:
        return sentence_lines(verdict.sentence, width, "dim")
    return sentence_lines("The diagnosis begins when the recording has been read.", width, "dim")


def stretch_lines(
    verdict: Verdict, width: int, times: Times, *, scrubbed: bool = False
) -> list[Line]:
    """Return which part of a recording a verdict is about, and why there is no newer one.

    ``scrubbed``: what stands around it is of an earlier time.
    """
    lines = []
    if scrubbed:
        lines += sentence_lines("The verdict is not that of the time that is held.", width, "warn")
    if verdict.until_ns is not None:
        since, until = verdict.since_ns, times.text(verdict.until_ns)
        text = f"Up to {until}"
        if since is not None:
            text = f"{times.text(since)} to {until}, {duration_text(verdict.until_ns - since)}"
        lines += sentence_lines(f"{text}; the recording goes on.", width, "dim")
    if verdict.sentence:
        lines += sentence_lines(f"No newer verdict: {verdict.sentence}", width, "alarm")
    return lines
