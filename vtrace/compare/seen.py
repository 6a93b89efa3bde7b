"""Nouns of the comparison of QEMU's monitor with probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["CODES", "PLACES", "Disagreement", "PagesSeen", "QueueSeen", "Said", "Span"]

PLACES: Final = "places in a ring"
"""What a comparison of indices is called where it cannot be made."""

CODES: Final = {
    "qmp_ring_size": "the number of descriptors of a ring",
    "qmp_ring_layout": "split or packed",
    "qmp_features": "a feature that the driver took",
    "qmp_backend": "who serves a queue",
    "qmp_queues": "how many queues a device has",
    "qmp_taken": "how far a device has taken chains",
    "qmp_used": "how far a device has returned chains",
    "qmp_status": "whether the driver is ready",
    "qmp_balloon": "pages in the balloon",
}
"""Codes of disagreements, and what they are about."""


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a ring before and after a look; raw, as the records have it."""

    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSeen:
    """What probes saw of a queue around a look."""

    device: str
    name: str
    index: int | None
    kind: str
    """net, blk, ...; empty: not known."""
    backend: str
    ring: str
    size: int
    features: int
    path: str = ""
    """Of its device in QEMU's object model."""
    live: bool = False
    """It was worked on before and after the look, and neither began nor ended between."""
    stopped: bool = False
    """It was reset before the look and not used again."""
    settled: bool = True
    """It neither began nor ended since the look: what the recording knows of it is of then."""
    taken: Span | None = None
    used: Span | None = None
    why_not: str = ""
    """Why there are no places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesSeen:
    """Pages that went into the balloon, less those that came out, between two looks."""

    device: str
    pages: int
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A thing of which QEMU says one thing, and probes saw another."""

    code: str
    vm: str
    device: str
    queue: str
    time_ns: int
    monitor: str
    """What QEMU says."""
    probes: str
    """What was seen."""
    meaning: str
    """What that may mean."""

    @property
    def text(self) -> str:
        """All of it as one sentence."""
        place = " ".join(part for part in (self.vm, self.device, self.queue) if part)
        return f"{place}: QEMU says {self.monitor}, probes saw {self.probes}: {self.meaning}"


@dataclass(slots=True)
class Said:
    """What came of it."""

    disagreements: list[Disagreement] = field(default_factory=list)
    facts: int = 0
    """Things of which both said the same."""
    queues: set[tuple[str, str, str]] = field(default_factory=set)
    """Queues that were held against QEMU's answers."""
    placed: set[tuple[str, ...]] = field(default_factory=set)
    """Queues of which an index was held against their events."""
    _without: dict[tuple[str, str], set[tuple[str, ...]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.facts or self.disagreements or self._without)

    def without(self, what: str, why: str, *whose: str) -> None:
        """Say what cannot be compared, and of which queue or device."""
        self._without.setdefault((what, why), set()).add(whose)

    def not_compared(self) -> list[tuple[str, str, int]]:
        """Return what could not be compared, why, and of how many queues or devices.

        A place that one look could not tell is left out where another one did.
        """
        found = []
        for (what, why), whose in self._without.items():
            left = whose - self.placed if what == PLACES else whose
            if left:
                found.append((what, why, len(left)))
        return found

    def keep(self, devices: set[tuple[str, str]]) -> None:
        """Leave what is of some devices: (VM, device)."""
        self.disagreements = [one for one in self.disagreements if (one.vm, one.device) in devices]

    def join(self, other: Said) -> None:
        """Take in all of another."""
        self.facts += other.facts
        self.queues |= other.queues
        self.placed |= other.placed
        for (what, why), whose in other._without.items():
            self._without.setdefault((what, why), set()).update(whose)
        for one in other.disagreements:
            self.add(one)

    def add(self, fact: Disagreement | None) -> None:
        """Take in a fact: None is one of which both say the same."""
        if fact is None:
            self.facts += 1
        elif not any(
            (one.code, one.vm, one.device, one.queue)
            == (fact.code, fact.vm, fact.device, fact.queue)
            for one in self.disagreements
        ):
            self.disagreements.append(fact)
