"""Words of a diagnosis as styled texts, and the ledger among them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from rich.text import Text

from vtrace.diagnose.prose.ledger import ledger_lines

if TYPE_CHECKING:
    from vtrace.diagnose.findings import Diagnosis

__all__ = ["NAMED", "ledger_texts", "styled"]

_SPAN: Final = re.compile(r"\x1b\[(\w*);")


class _Named:
    """Sets words off by the names of styles; ``styled`` reads them."""

    def bold(self, text: str) -> str:
        """Return a heading."""
        return f"\x1b[bold;{text}\x1b[;"

    def dim(self, text: str) -> str:
        """Return what stands back."""
        return f"\x1b[dim;{text}\x1b[;"

    def alarm(self, text: str) -> str:
        """Return what must not be overlooked."""
        return f"\x1b[alarm;{text}\x1b[;"


NAMED: Final = _Named()
"""The style of ``vtrace.diagnose.prose`` that ``styled`` understands."""


def styled(line: str) -> Text:
    """Return a line that was made with ``NAMED``; words from outside have no escapes in them."""
    text = Text()
    style = ""
    for at, part in enumerate(_SPAN.split(line)):
        if at % 2:
            style = part
        elif part:
            text.append(part, style=style or None)
    return text


def ledger_texts(diagnosis: Diagnosis, width: int) -> list[Text]:
    """Return the ledger as ``vtrace diagnose`` prints it; reasons of loss stand out."""
    texts = [styled(line) for line in ledger_lines(diagnosis, width, NAMED)]
    lost = {reason for row in diagnosis.ledger for reason in row.dropped}
    for text in texts:
        text.highlight_words(sorted(lost), style="warn")
    return texts
