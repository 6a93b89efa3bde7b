"""Stalls in words: the finding of one queue under one code, with its numbers and times.

Evidence is the proof, a sentence each: what stood still, how that was seen, who could have acted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vtrace.diagnose.findings import Basis, Certainty, Evidence, Finding, Remedy
from vtrace.diagnose.words import count as counted
from vtrace.diagnose.words import duration

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["finding"]

Episode = Mapping[str, int]
_CERTAINTY: Final = {3: Certainty.PROVEN, 2: Certainty.LIKELY, 1: Certainty.POSSIBLE}
SAMPLES: Final = "rings"


def finding(
    code: str,
    entry: Mapping[str, Any],
    episodes: Sequence[NDArray[Any]],
    *,
    count: int,
    total_ns: int,
    first_ns: int,
    last_ns: int,
    zero_ns: int,
) -> Finding:
    """Return the finding of a queue; ``episodes``: the longest first, not all of very many.

    ``zero_ns`` is the time from which the sentences count.
    """
    worst = episodes[0]
    row = {name: int(worst[name]) for name in worst.dtype.names or ()}
    row["zero_ns"] = zero_ns
    cause, evidence, remedies = _WORDS[code](entry, row)
    if count > 1:
        evidence.append(
            _evidence(f"This happened {count} times, {duration(total_ns)} in all.", code)
        )
    refused = row["refused"]
    if code in ("S1", "S2") and refused:
        evidence.append(
            _evidence(
                f"The tap refused {counted(refused, 'packet')} since the driver's last sign.",
                "REFUSE",
            )
        )
    direction = entry.get("direction", "")
    return Finding(
        code=code,
        cause=cause,
        packets=None,
        certainty=_CERTAINTY.get(max(int(e["level"]) for e in episodes), Certainty.POSSIBLE),
        vm=entry.get("vm", ""),
        device=entry.get("device", ""),
        queue=entry.get("name", ""),
        direction=direction if direction in ("rx", "tx") else "none",
        evidence=evidence,
        remedies=remedies,
        first_ns=first_ns,
        last_ns=last_ns,
    )


def _evidence(text: str, source: str, basis: Basis = Basis.EVENTS) -> Evidence:
    return Evidence(text=text, source=source, basis=basis)


def _where(entry: Mapping[str, Any]) -> str:
    name = entry.get("name") or "a queue"
    return f"{name} of {entry.get('vm') or entry.get('device') or 'a VM'}"


def _at(row: Episode, name: str = "start_ns") -> str:
    return f"{(row[name] - row['zero_ns']) / 1e9:.3f} s"


def _took(row: Episode) -> str:
    return duration(row["end_ns"] - row["start_ns"])


def _span(row: Episode) -> str:
    end = "and goes on" if row["open"] else f"to {_at(row, 'end_ns')}"
    return f"From {_at(row)} {end} ({_took(row)} seen)"


def _ring(row: Episode) -> Evidence:
    held = (row["avail"] - row["used"]) & 0xFFFF
    text = (
        f"The ring stands at avail->idx {row['avail']}, used->idx {row['used']}"
        + (f", used_event {row['event']}" if row["event_idx"] else "")
        + f": {counted(held, 'chain')} with the device, of {row['size'] or 'unknown size'}."
    )
    basis = Basis.COUNTERS if row["sampled"] else Basis.EVENTS
    return _evidence(text, SAMPLES if row["sampled"] else "SIGNAL, KICK, ENABLE", basis)


_VCPUS: Final = "The guest's vCPUs ran meanwhile, and were not kept from it by the host."

Words = tuple[str, list[Evidence], list[Remedy]]


def _interrupt(entry: Mapping[str, Any], row: Episode) -> Words:
    where = _where(entry)
    if row["lost"]:
        cause = (
            f"The interrupt of {where} was lost: vhost sent it and it never came to KVM, while the"
            f" driver waited for {_took(row)}."
        )
        how = "vhost decided to interrupt, and no irqfd was signalled"
    else:
        cause = (
            f"The driver of {where} did not serve its interrupt: nothing was taken from the ring"
            f" for {_took(row)}. Its interface is down, its poll is stuck, or the guest lost the"
            " interrupt."
        )
        how = "vhost interrupted the driver, and KVM took it"
    waiting = counted(row["unseen"], "returned chain")
    evidence = [
        _evidence(
            f"At {_at(row)} {how} ({counted(row['signals'], 'decision')} to interrupt,"
            f" {counted(row['irqs'], 'interrupt')} since the driver's last sign).",
            "SIGNAL, IRQ",
        ),
        _evidence(
            f"{_span(row)} avail->idx"
            + (" and used_event" if row["event_idx"] else "")
            + f" did not move; {waiting} not looked at.",
            "SIGNAL, KICK, rings",
        ),
        _ring(row),
        _evidence(_VCPUS, "SCHED_IN, EXIT, thread counters"),
    ]
    inside = "cat /proc/interrupts; ip -s link; cat /proc/net/softnet_stat   # in the guest"
    return (
        cause,
        evidence,
        [
            Remedy(
                text="Look in the guest whether the interface is up, its interrupts are counted and"
                " ksoftirqd runs; unbinding and binding the driver begins the ring anew.",
                command=inside,
            ),
            Remedy(
                text="If the guest is healthy, update QEMU and the host's kernel: an interrupt is"
                " lost between vhost's call eventfd and KVM's irqfd.",
            ),
        ],
    )


def _silent(entry: Mapping[str, Any], row: Episode) -> Words:
    how = (
        "used_event lies behind what was returned long ago, so no interrupt is due"
        if row["event_idx"]
        else "the driver's flag asks for no interrupts"
    )
    evidence = [
        _evidence(
            f"{_span(row)} the device had returned every buffer (avail->idx = used->idx ="
            f" {row['used']}) and {how}.",
            "SIGNAL, EMPTY, rings",
        ),
        _evidence(
            f"Packets waited: vhost found the ring empty {counted(row['starved'], 'time')}, the tap"
            f" took {counted(row['enqueued'], 'packet')} more.",
            "EMPTY, ENQUEUE",
        ),
        _ring(row),
        _evidence(_VCPUS, "SCHED_IN, EXIT, thread counters"),
    ]
    return (
        f"The receive ring {_where(entry)} is full with interrupts off, and the driver does not"
        f" poll it: nothing was taken for {_took(row)}.",
        evidence,
        [
            Remedy(
                text="Look in the guest who keeps its poll from running: ksoftirqd behind a"
                " real-time thread, a poll-mode application that ended or hangs.",
                command="ps -eLo pid,cls,rtprio,stat,comm | grep -E 'FF|RR|ksoftirqd'"
                "   # in the guest",
            )
        ],
    )


def _storm(entry: Mapping[str, Any], row: Episode) -> Words:
    return (
        f"{_where(entry)} interrupts its driver for nothing, up to {row['peak']:,} times a second.",
        [
            _evidence(
                f"{_span(row)} {row['rounds']:,} of {row['irqs']:,} interrupts came though nothing"
                " had been returned since the one before, or the driver had asked for none.",
                "IRQ, SIGNAL, USED",
            )
        ],
        [
            Remedy(
                text="Find out who signals the call eventfd beside vhost, and update QEMU and the"
                " kernel; the guest's interrupt costs an exit and a handler each time.",
            )
        ],
    )


def _full(entry: Mapping[str, Any], row: Episode) -> Words:
    held = (row["avail"] - row["used"]) & 0xFFFF
    took = row["end_ns"] - row["start_ns"]
    if row["again"]:
        worker = "the tap's send buffer was full, and the worker waited for it"
    elif 0 < 2 * row["late_ns"] < took and row["pops"]:
        worker = "the worker took chains and returned none"
    elif 0 < 2 * row["late_ns"] < took:
        worker = "the worker ran and took nothing"
    elif row["wakes"]:
        worker = "the worker was woken and did not run"
    else:
        worker = "the worker did not come"
    evidence = [
        _evidence(
            f"{_span(row)} {counted(held, 'chain')} of {row['size']} were with the device and"
            " not one was returned: Linux stops the queue when fewer than 19 descriptors are free.",
            "KICK, ENABLE, rings",
        ),
        _evidence(
            f"Meanwhile the worker was woken {counted(row['wakes'], 'time')}, ran"
            f" {counted(row['runs'], 'time')}, took {counted(row['pops'], 'chain')}, gave"
            f" {counted(row['backs'], 'chain')} back ({row['again']} EAGAIN of the tap)"
            + (f"; it came {duration(row['late_ns'])} after." if row["late_ns"] else "."),
            "WAKE, RUN, POP, HAND_BACK, SEND",
        ),
        _evidence(_VCPUS, "SCHED_IN, EXIT, thread counters"),
    ]
    return (
        f"The transmit ring {_where(entry)} stayed full for {_took(row)}: {worker}. Packets pile up"
        " in the guest's qdisc, and what is dropped there the host cannot see.",
        evidence,
        [
            Remedy(
                text="Give the vhost worker a CPU of its own, or remove what holds the tap up.",
                command="ps -eLo pid,tid,cls,rtprio,psr,stat,comm | grep vhost-",
            )
        ],
    )


def _kick(entry: Mapping[str, Any], row: Episode) -> Words:
    new = (row["avail"] - row["position"]) & 0xFFFF
    if row["kicks"]:
        seen = (
            f"{_span(row)} {counted(row['kicks'], 'kick')} came to KVM's ioeventfd, and vhost was"
            " not woken."
        )
        cause = f"A kick of {_where(entry)} was lost between KVM and vhost"
    else:
        seen = (
            f"{_span(row)} chains stood in the ring, vhost waited for a kick, and none came to"
            " KVM's ioeventfd."
        )
        cause = f"The driver of {_where(entry)} published chains and its kick never came"
    evidence = [
        _evidence(seen, "KICK, WAKE, RUN"),
        _evidence(
            f"avail->idx is {row['avail']}, vhost has come to {row['position']}:"
            f" {counted(new, 'chain')} to take, and notifications are on (ENABLE).",
            "ENABLE, KICK, rings",
            Basis.COUNTERS if row["sampled"] else Basis.EVENTS,
        ),
    ]
    if not row["kicks"]:
        evidence.append(_evidence(_VCPUS, "SCHED_IN, EXIT, thread counters"))
    return (
        f"{cause}: nobody served the ring for {_took(row)}.",
        evidence,
        [
            Remedy(
                text="Update QEMU, and the guest's driver; a queue that hangs is freed by"
                " unbinding and binding its driver in the guest.",
            ),
            Remedy(
                text="Compare with kicks by way of QEMU: slower, but another path.",
                current="ioeventfd=on",
                proposed="ioeventfd=off",
            ),
        ],
    )


def _livelock(entry: Mapping[str, Any], row: Episode) -> Words:
    return (
        f"vhost's worker of {_where(entry)} takes the same buffers and hands them back over and"
        f" over, and no packet is received ({_took(row)}): a packet needs more buffers than the"
        " ring holds.",
        [
            _evidence(
                f"{_span(row)} vhost found in {row['rounds']:,} rounds that there was more to take,"
                f" though avail->idx stood at {row['avail']} and its own place at"
                f" {row['position']}.",
                "ENABLE",
            ),
            _evidence(
                f"It handed {counted(row['backs'], 'chain')} back and received no packet.",
                "HAND_BACK, RECV",
            ),
            _ring(row),
        ],
        [
            Remedy(
                text="Update the host's kernel: its vhost_enable_notify compares with the wrong"
                " index (fixed by vhost_get_avail_idx looking at the cached one).",
            ),
            Remedy(
                text="Until then keep packets small that go to the guest; costs throughput of TCP.",
                command=f"ethtool -K {entry.get('interface') or 'TAP'} gro off gso off",
                current="packets of up to 64 kB",
                proposed="one receive buffer for each packet",
            ),
        ],
    )


_WORDS: Final[dict[str, Callable[[Mapping[str, Any], Episode], Words]]] = {
    "S1": _interrupt,
    "S2": _silent,
    "S3": _storm,
    "T1": _full,
    "T2": _kick,
    "R11": _livelock,
}
