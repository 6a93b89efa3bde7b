"""The verdict in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.codes import CODES
from vtrace.diagnose.findings import Certainty
from vtrace.tables.human import count_text, duration_text

if TYPE_CHECKING:
    from vtrace.diagnose.findings import Diagnosis, Finding

__all__ = ["Times", "headline", "packets_text"]

MANY: Final = 3
"""Causes and guests that are named one by one."""
REACHED: Final = ("vhost", "tap", "guest ring")
"""Hops behind which a packet has reached the guest's ring, the best first."""
SENT: Final = ("host", "tap")
"""Hops that tell how many came from a guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Moments as text: of day where the recording knows it, else from its start."""

    start_ns: int | None = None
    anchor_ns: int | None = None
    """Add to a monotonic time for the time on the wall."""
    zone: tzinfo | None = None
    relative: bool = False

    def text(self, time_ns: int) -> str:
        """Return ``12:01:03.115203``, or ``+2.115203 s``."""
        if self.anchor_ns is not None and not self.relative:
            seconds, ns = divmod(time_ns + self.anchor_ns, 1_000_000_000)
            try:
                moment = datetime.fromtimestamp(seconds, self.zone)
            except (OverflowError, OSError, ValueError):
                pass
            else:
                return f"{moment:%H:%M:%S}.{ns // 1000:06d}"
        since = (time_ns - (self.start_ns or 0)) // 1000
        sign = "-" if since < 0 else "+"
        since = abs(since)
        return f"{sign}{since // 1_000_000}.{since % 1_000_000:06d} s"


def headline(diagnosis: Diagnosis, times: Times) -> str:
    """Return the verdict: one sentence, and a second one for what is unaccounted for."""
    lossy = [finding for finding in diagnosis.findings if finding.packets]
    others = [finding for finding in diagnosis.findings if not finding.packets]
    if lossy:
        text = _lost(lossy, diagnosis)
    else:
        text = _kept(diagnosis, times)
        if others:
            text = text.removesuffix(".") + ", but: " + _why(others, counted=False) + "."
    if diagnosis.unexplained:
        verb = "is" if diagnosis.unexplained == 1 else "are"
        more = " more" if lossy else ""
        count = packets_text(diagnosis.unexplained)
        text += f" {count}{more} {verb} unaccounted for."
    return text


def _lost(findings: Sequence[Finding], diagnosis: Diagnosis) -> str:
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        device = "" if finding.vm else finding.device
        groups.setdefault((finding.direction, finding.vm, device), []).append(finding)
    if len(groups) == 1:
        ((direction, vm, device), group) = next(iter(groups.items()))
        return f"{_share(group, direction, vm, device, diagnosis)}: {_why(group)}."
    total = sum(finding.packets or 0 for finding in findings)
    parts = []
    for (direction, vm, device), group in groups.items():
        count = sum(finding.packets or 0 for finding in group)
        of = _entered(diagnosis, direction, vm, device, count)
        whole = "" if of is None else f" of {count_text(of)}"
        where = _where(direction, vm, device)
        parts.append(f"{count_text(count)}{whole} {where}: {_why(group)}")
    verb = "was" if total == 1 else "were"
    return f"{packets_text(total, diagnosis.protocol)} {verb} lost: " + "; ".join(parts) + "."


def _share(
    group: Sequence[Finding], direction: str, vm: str, device: str, diagnosis: Diagnosis
) -> str:
    count = sum(finding.packets or 0 for finding in group)
    of = _entered(diagnosis, direction, vm, device, count)
    verb = "was" if count == 1 else "were"
    where = _where(direction, vm, device)
    if of is None:
        return f"{packets_text(count, diagnosis.protocol)} {where} {verb} lost"
    return f"{count_text(count)} of {packets_text(of, diagnosis.protocol)} {where} {verb} lost"


def _entered(diagnosis: Diagnosis, direction: str, vm: str, device: str, lost: int) -> int | None:
    # Of how many: what came to the hop that saw most of them.
    sums: dict[str, int] = {}
    for row in diagnosis.ledger:
        mine = row.vm == vm if vm else row.device == device
        if row.direction == direction and mine and row.entered is not None:
            sums[row.hop] = sums.get(row.hop, 0) + row.entered
    most = max(sums.values(), default=0)
    return most if most >= lost else None


def _where(direction: str, vm: str, device: str) -> str:
    if not vm and device:
        return f"at {device}"
    guest = vm or "the guests"
    return {"rx": f"towards {guest}", "tx": f"from {guest}"}.get(direction, f"of {guest}")


def _why(findings: Sequence[Finding], *, counted: bool = True) -> str:
    several = len(findings) > 1
    words = []
    for finding in findings[:MANY]:
        title = CODES[finding.code].title if finding.code in CODES else finding.cause
        inside = [finding.code]
        if counted and several and finding.packets is not None:
            inside.append(count_text(finding.packets))
        if finding.certainty != Certainty.PROVEN:
            inside.append(str(finding.certainty))
        words.append(f"{title} ({', '.join(inside)})")
    more = len(findings) - MANY
    if more > 0:
        words.append(f"{more} more cause{'s' if more > 1 else ''}")
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _kept(diagnosis: Diagnosis, times: Times) -> str:
    one = "UDP packet" if diagnosis.protocol == "udp" else "packet"
    when = _span(diagnosis, times)
    counts = _carried(diagnosis)
    if not any(count for _, count in counts):
        return f"No {one} was seen{when}: there is nothing to judge."
    doubtful = diagnosis.loss.get("lost") or diagnosis.unexplained or diagnosis.disagreements
    lost = "was seen to be lost" if doubtful else "was lost"
    texts = [text for text, count in counts if count]
    return f"No {one} {lost}{when}; " + "; ".join(texts) + "."


def _carried(diagnosis: Diagnosis) -> list[tuple[str, int]]:
    # What came through, in words, by guest and direction.
    found: list[tuple[str, int]] = []
    guests = list(dict.fromkeys(row.vm for row in diagnosis.ledger if row.vm))
    for vm in guests:
        reached = _sum(diagnosis, vm, "rx", REACHED, "left")
        taken = _sum(diagnosis, vm, "rx", ("guest ring",), "left")
        if reached and taken is None:
            found.append((f"{count_text(reached)} reached {vm}'s ring", reached))
        elif reached and taken is not None:
            text = f"{count_text(reached)} reached {vm}'s "
            text += (
                "driver" if taken >= reached else f"ring, {count_text(taken)} of them its driver"
            )
            found.append((text, reached))
        # Behind the tap one knows the protocol; at it, frames of any are counted.
        sent = _sum(diagnosis, vm, "tx", SENT, "entered")
        if sent:
            found.append((f"{count_text(sent)} came from {vm}", sent))
    if len(guests) > MANY:
        count = sum(count for _, count in found)
        return [(f"{count_text(count)} were carried for {len(guests)} guests", count)]
    return found


def _sum(
    diagnosis: Diagnosis, vm: str, direction: str, hops: Sequence[str], side: str
) -> int | None:
    # Over the queues, at the first of the hops that was seen.
    for hop in hops:
        counts = [
            getattr(row, side)
            for row in diagnosis.ledger
            if (row.vm, row.direction, row.hop) == (vm, direction, hop)
        ]
        seen = [count for count in counts if count is not None]
        if seen:
            return int(sum(seen))
    return None


def _span(diagnosis: Diagnosis, times: Times) -> str:
    if diagnosis.start_ns is None:
        return ""
    if times.anchor_ns is None or times.relative:
        return f" in {duration_text(diagnosis.duration_ns)}"
    end = diagnosis.start_ns + diagnosis.duration_ns
    return f" between {times.text(diagnosis.start_ns)} and {times.text(end)}"


def packets_text(count: int, protocol: str = "") -> str:
    """Return a number of packets in words; of UDP if that is the protocol."""
    one = "UDP packet" if protocol == "udp" else "packet"
    return f"{count_text(count)} {one}{'' if count == 1 else 's'}"
