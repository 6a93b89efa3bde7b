"""What a diagnosis says: ledger, findings, evidence, remedies. Plain data, JSON-able."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

__all__ = [
    "Basis",
    "BlindSpot",
    "Burst",
    "Certainty",
    "Diagnosis",
    "Disagreement",
    "Evidence",
    "Finding",
    "FlowRow",
    "LedgerRow",
    "Remedy",
    "Review",
    "as_json",
    "from_json",
]


class Certainty(StrEnum):
    """How sure a finding is."""

    PROVEN = "proven"
    """Each packet was seen where it died, and the cause in the act."""
    LIKELY = "likely"
    """The packets were counted; the cause is the one that fits what was seen around them."""
    POSSIBLE = "possible"
    """Fits, and so may other causes: records were lost, or what would tell was not probed."""


class Basis(StrEnum):
    """What a number of the ledger comes from."""

    EVENTS = "events"
    """Counted packet by packet, by our probes."""
    COUNTERS = "counters"
    """The difference of a kernel's counter between two samples."""
    DERIVED = "derived"
    """Follows from its neighbours in the ledger; proves nothing by itself."""
    UNSEEN = "unseen"
    """Nothing on this host counts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing that was seen."""

    text: str
    """A sentence with its numbers, names and times in it."""
    source: str = ""
    """Where it is from: a kind of record, a counter (``link/tap0 tx_dropped``), a setting."""
    basis: Basis = Basis.EVENTS
    verb: str = ""
    """The table that holds the rows it came from: drops, packets, lifecycles, exits."""
    filter: str = ""
    """Display filter (``-Y``) that chooses those rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """What to do about it. vtrace itself changes nothing."""

    text: str
    """One sentence: what it changes, and what it costs."""
    command: str = ""
    """To be typed as it stands; empty where no single command does it."""
    current: str = ""
    proposed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A run of losses close together."""

    start_ns: int
    end_ns: int
    packets: int
    depth: int | None = None
    """Packets that waited in the queue when it was fullest; None: not known."""
    limit: int | None = None
    """Packets that the queue holds; None: not known."""
    running: str = ""
    """Who had the CPU meanwhile, where that was seen."""


@dataclass(slots=True, kw_only=True)
class Finding:
    """A cause of loss (or of delay) that was found."""

    code: str
    """Stable: a key of ``vtrace.diagnose.codes.CODES``."""
    cause: str
    """One sentence: where, who, why."""
    packets: int | None
    """Packets that it cost; None for a finding that is not about loss."""
    certainty: Certainty
    vm: str = ""
    device: str = ""
    """QEMU's id of the device, or the interface where no VM's device is concerned."""
    queue: str = ""
    direction: str = ""
    """rx (towards the guest), tx (from the guest), none."""
    evidence: list[Evidence] = field(default_factory=list)
    remedies: list[Remedy] = field(default_factory=list)
    """The best first."""
    bursts: list[Burst] = field(default_factory=list)
    """The largest first; not all of very many."""
    flows: list[tuple[str, int]] = field(default_factory=list)
    """Flows that lost, and how many packets; the largest first."""
    first_ns: int | None = None
    last_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class LedgerRow:
    """One hop of one direction: in = out + dropped + change in occupancy + unexplained."""

    direction: str
    hop: str
    """A key of ``vtrace.diagnose.codes.HOPS``."""
    vm: str = ""
    device: str = ""
    queue: str = ""
    entered: int | None = None
    """``in`` in JSON. None: not seen."""
    left: int | None = None
    """``out`` in JSON."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Packets by reason, in the kernel's words."""
    occupancy_change: int | None = None
    unexplained: int | None = None
    """None: cannot be told, since one of the others was not seen."""
    basis_in: Basis = Basis.EVENTS
    basis_out: Basis = Basis.EVENTS
    basis_dropped: Basis = Basis.EVENTS
    note: str = ""
    """What a reader must know of this row, one sentence."""


@dataclass(slots=True, kw_only=True)
class FlowRow:
    """The ledger of one flow."""

    flow: str
    """``UDP 10.9.0.1:5001 > 10.9.0.2:7001``"""
    direction: str
    vm: str = ""
    device: str = ""
    packets: int = 0
    """Seen at the tap or on the way to it, or from it."""
    delivered: int = 0
    """Returned to the guest's driver, or entered the host's stack and not dropped there."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Packets by code of the finding."""
    in_flight: int = 0
    bursts: list[Burst] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Two that count the same thing differ, by more than the edges of the samples allow."""

    what: str
    """``packets that tap0 dropped towards the guest``"""
    first: str
    """Who counted: ``events REFUSE``, ``link/tap0 tx_dropped``."""
    first_count: int
    second: str
    second_count: int
    slack: int
    """Packets that may belong to either side of a sample."""
    meaning: str = ""
    """What that may come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindSpot:
    """What the host cannot see, and what would show it."""

    text: str
    vm: str = ""
    device: str = ""
    packets: int | None = None
    """Packets that went out of sight."""
    proof: str = ""
    """What would prove it: an option, a command for the guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A point of the configuration that costs packets or time, or may."""

    code: str
    """``C-...``: a key of ``vtrace.diagnose.codes.CODES``."""
    text: str
    """Why it matters here: one or two sentences."""
    vm: str = ""
    device: str = ""
    setting: str = ""
    """What it is about, by its own name: ``txqueuelen of tap0``."""
    current: str = ""
    proposed: str = ""
    command: str = ""
    weight: int = 0
    """2: loses packets, 1: costs time, 0: good to know."""


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """The verdict."""

    source: str = ""
    duration_ns: int = 0
    protocol: str = "udp"
    """What the ledger counts: udp, all."""
    ledger: list[LedgerRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """Those that cost most packets first."""
    flows: list[FlowRow] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    blind_spots: list[BlindSpot] = field(default_factory=list)
    review: list[Review] = field(default_factory=list)
    unexplained: int = 0
    """Sum over the ledger of what does not balance, without sign."""
    loss: dict[str, int] = field(default_factory=dict)
    """Records that vtrace itself lost."""
    notes: list[str] = field(default_factory=list)
    """Sentences on how far all this can be trusted: probes that were missing, records lost."""
    start_ns: int | None = None
    """CLOCK_MONOTONIC of the first event."""
    anchor_ns: int | None = None
    """Add to a monotonic time for the time on the wall; None: not known."""


_NAMES = {
    "entered": "in",
    "left": "out",
}


def as_json(thing: Any) -> Any:
    """Return data of this module as JSON has it: ``in`` and ``out``, one ``remedy`` and more."""
    if is_dataclass(thing) and not isinstance(thing, type):
        made = {
            _NAMES.get(one.name, one.name): as_json(getattr(thing, one.name))
            for one in fields(thing)
        }
        if isinstance(thing, Finding):
            made["remedy"] = made["remedies"][0] if made["remedies"] else None
            made["flows"] = [{"flow": flow, "packets": count} for flow, count in thing.flows]
        return made
    if isinstance(thing, dict):
        return {str(key): as_json(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [as_json(one) for one in thing]
    return str(thing) if isinstance(thing, StrEnum) else thing


def from_json(data: Any) -> Diagnosis:
    """Return the diagnosis that ``as_json`` made ``data`` of.

    Raises:
        ValueError: It is something else.
    """
    try:
        found: Diagnosis = _made(Diagnosis, data)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"expected a diagnosis as JSON: {error!r}") from None
    return found


def _made(kind: Any, data: Any) -> Any:
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        names = [one.name for one in fields(kind)]
        if kind is Finding:
            flows = [(one["flow"], one["packets"]) for one in data["flows"]]
            data = {**data, "flows": flows}
        make: Any = kind
        return make(**{name: _made(hints[name], data[_NAMES.get(name, name)]) for name in names})
    if get_origin(kind) is UnionType:
        # Something, or None.
        return None if data is None else _made(get_args(kind)[0], data)
    if get_origin(kind) is list:
        return [_made(get_args(kind)[0], one) for one in data]
    if get_origin(kind) in (dict, tuple):
        return data
    return kind(data)
