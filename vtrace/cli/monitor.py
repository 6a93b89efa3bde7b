"""QEMU's monitor held against what probes saw, as ``vtrace report`` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrace.tables.human import count_text
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.cli.output import Style
    from vtrace.compare import Said

__all__ = ["print_monitor"]


def print_monitor(said: Said, style: Style) -> None:
    """Print what came of it; nothing where no monitor was asked."""
    if not said:
        return
    facts = f"{_count(len(said.queues), 'queue')}, {_count(said.facts, 'fact')}"
    if said.disagreements:
        print("\n" + style.bold("QEMU's monitor disagrees with the probes"))
        for one in said.disagreements:
            print(f"{style.alarm(one.code)}  {clean(one.text)}")
        print(f"on the rest they agree: {facts}")
    elif said.facts:
        print(f"\nQMP agrees: {facts}")
    else:
        print("\nQMP: nothing of it could be held against events")
    for what, why, count in said.not_compared():
        more = "" if count == 1 else f", {count_text(count)} times"
        print(style.dim(f"not compared: {clean(what)}{more}: {clean(why)}"))


def _count(count: int, what: str) -> str:
    return f"{count_text(count)} {what}" + ("" if count == 1 else "s")
