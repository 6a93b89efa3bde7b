"""Batches of records from the lines of a kernel's trace, and the metadata that they allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parsers.batch import EventBatch
from parsers.eventlines import Heads, take_apart
from parsers.imported import Imported, Sequence, timebase
from parsers.kernelevents import KernelEvents
from parsers.lines import blocks, reader_of
from vtrace.model import Direction, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from parsers.eventmap import EventMap

__all__ = ["UNRECORDED", "batches", "probes"]

LOOKAHEAD_BYTES: Final = 24 << 20
"""So much is read before the first batch, to learn which events there are."""

POINTS: Final = (
    "ioeventfd_write",
    "tun_net_xmit",
    "vhost_poll_wakeup",
    "handle_rx_kick",
    "handle_tx_kick",
    "handle_rx_net",
    "handle_tx_net",
    "tun_recvmsg",
    "tun_sendmsg",
    "vhost_notify",
    "irqfd_wakeup",
)
"""Probe points that times of lifecycles rest on."""

_MADE_FROM: Final = {
    "KICK": ("ioeventfd_write",),
    "WAKE": ("vhost_poll_wakeup",),
    "POP": ("vhost_get_vq_desc", "vhost_get_vq_desc.return"),
    "EMPTY": ("vhost_get_vq_desc", "vhost_get_vq_desc.return"),
    "POP_ERROR": ("vhost_get_vq_desc", "vhost_get_vq_desc.return"),
    "HAND_BACK": ("vhost_discard_vq_desc",),
    "ENQUEUE": ("tun_net_xmit", "tun_net_xmit.return"),
    "REFUSE": ("tun_net_xmit", "tun_net_xmit.return"),
    "RECV": ("tun_recvmsg", "tun_recvmsg.return"),
    "SEND": ("tun_sendmsg", "tun_sendmsg.return"),
    "DELIVER": ("netif_receive_skb",),
    "SIGNAL": ("vhost_notify", "vhost_notify.return"),
    "IRQ": ("irqfd_wakeup",),
    "ENABLE": ("vhost_enable_notify", "vhost_enable_notify.return"),
    "DROP": ("kfree_skb",),
    "EXIT": ("kvm_exit", "kvm_entry"),
}
"""Kind -> roles without any of which none can be made."""
_RETURNS: Final = ("vhost_add_used_n", "vhost_add_used_and_signal_n")
_WITH_RETURN: Final = ("tun_net_xmit", "tun_recvmsg", "tun_sendmsg", "vhost_notify")
_TELL_PACKETS: Final = ("consume_skb", "skb_copy_datagram_iovec")

UNRECORDED: Final = {
    "POP": ["count", "length", "room", "avail", "event"],
    "USED": ["length"],
    "ENQUEUE": ["count"],
    "REFUSE": ["count"],
    "RECV": ["length"],
    "KICK": ["avail", "position", "used"],
    "IRQ": ["ret"],
    "DROP": ["queue", "length"],
}
"""Columns that kprobes on these functions do not show."""

_LOST: Final = (
    r"^CPU:(?P<cpu>[0-9]{1,4}) \[(?P<count>[0-9]{0,15}) ?EVENTS DROPPED\]",
    r"^CPU:(?P<cpu>[0-9]{1,4}) \[LOST (?P<count>[0-9]{1,15}) EVENTS\]",
    r"\[(?P<cpu>[0-9]{1,4})\] .*PERF_RECORD_LOST(?:_SAMPLES)?.* lost (?P<count>[0-9]{1,15})",
)
_BLANK: Final = r"^(?:#|cpus=|version = |\s|$|CPU [0-9]+ is empty)"


def text_batches(
    source: Imported, file: BinaryIO, head: str, table: EventMap, *, tool: str, why: str
) -> Iterator[EventBatch]:
    """Yield batches of what a tool printed; ``why`` its clock is not known."""
    lines = blocks(
        reader_of(file, source.name, source.report),
        lambda n: source.report(f"{n} lines were too long"),
    )
    meta: dict[str, Any] = {
        "capture": {"tool": tool},
        "imported": {"format": source.format, "tool": ""},
        "timebase": timebase("unknown", None, why),
    }
    yield from batches(source, lines, head, table, meta)


def batches(
    source: Imported,
    blocks: Iterable[pa.Array],
    head: str,
    table: EventMap,
    meta: dict[str, Any],
    declared: set[str] | None = None,
) -> Iterator[EventBatch]:
    """Yield batches from blocks of lines.

    Args:
        source: What is read, for its damage.
        blocks: Arrays of lines.
        head: ``FTRACE`` or ``PERF``.
        table: What events mean.
        meta: Sections that are known beforehand, among them ``imported`` and ``timebase``.
        declared: Names of all events that the recording says it has.
    """
    stream = _Stream(source, head)
    events = KernelEvents(table)
    if declared is not None:
        events.declared = {role for name in declared if (role := table.role(name))}
    ahead: list[tuple[Heads, list[tuple[int, int, int]]]] = []
    size = 0
    rest = iter(blocks)
    for block in rest:
        ahead.append(stream.take(block))
        size += block.nbytes
        if size > LOOKAHEAD_BYTES:
            break
    if declared is None:
        names = {
            name.decode(errors="replace")
            for heads, _ in ahead
            for name in heads.event.dictionary.to_pylist()
        }
        events.declared = {role for name in names if (role := table.role(name))}
    sequence = Sequence()
    first = True
    last_ns = 0
    while ahead:
        heads, gaps = ahead.pop(0)
        records, lines = events.feed(heads)
        sequence.number(records, lines, gaps)
        batch = EventBatch.from_records(records)
        batch.meta = _changing(events, sequence)
        if first:
            batch.meta |= {**meta, "probes": probes(events), "unrecorded": unrecorded(events)}
            batch.meta["timebase"] = {
                **meta["timebase"],
                "resolution_ns": 10 ** (9 - heads.digits) if heads.digits else None,
            }
            first = False
        if len(records):
            last_ns = max(last_ns, int(records["time"][-1]))
        yield batch
        if (block := next(rest, None)) is not None:
            ahead.append(stream.take(block))
    stream.finish()
    imported = {**meta["imported"], "events": _events(events), "strange_lines": stream.strange}
    yield EventBatch.empty(
        {
            **_changing(events, sequence),
            "exits": events.exits.rows(_vms(events)),
            "interrupts": events.exits.interrupt_rows(_vms(events)),
            "comms": {str(tid): comm for tid, comm in events.sched.comm_of.items()},
            "imported": imported,
            "end": {"reason": "imported", "ended_ns": last_ns},
        }
    )


class _Stream:
    # Blocks of lines into heads, and what is no event: losses, comments, damage.
    def __init__(self, source: Imported, head: str) -> None:
        self._source = source
        self._head = head
        self._line = 0
        self._understood = 0
        self.strange = 0

    def take(self, block: pa.Array) -> tuple[Heads, list[tuple[int, int, int]]]:
        heads, others = take_apart(block, self._head, self._line)
        gaps: list[tuple[int, int, int]] = []
        if len(others):
            gaps = self._losses(block)
            blank = pc.match_substring_regex(others, _BLANK)
            self.strange += len(others) - int(pc.sum(blank).as_py() or 0) - len(gaps)
        self._line += len(block)
        self._understood += len(heads)
        return heads, gaps

    def _losses(self, block: pa.Array) -> list[tuple[int, int, int]]:
        found = []
        for pattern in _LOST:
            rows = pc.extract_regex(block, pattern)
            for at in np.flatnonzero(np.asarray(pc.is_valid(rows))).tolist():
                row = rows[at].as_py()
                found.append((self._line + at, int(row["cpu"]), int(row["count"] or 1)))
        return sorted(found)

    def finish(self) -> None:
        if self.strange:
            self._source.report(
                f"{self.strange} lines are no events of a form that is known; the others were read"
            )


def probes(events: KernelEvents) -> dict[str, Any]:
    """Return the section ``probes``: what there is of the points that lifecycles rest on."""
    found: dict[str, Any] = {}
    for point in POINTS:
        why = ""
        if not events.has(point):
            why = "not recorded"
        elif point in _WITH_RETURN and not events.has(f"{point}.return"):
            why = "its return was not recorded"
        elif point == "tun_net_xmit" and not any(events.has(name) for name in _TELL_PACKETS):
            why = "recorded, but not which packet a chain got: add skb:consume_skb"
        found[point] = {"state": "unavailable" if why else "attached", "reason": why}
    return found


def unrecorded(events: KernelEvents) -> dict[str, list[str]]:
    """Return the section ``unrecorded``: columns that no event tells, ``*`` for all of a kind."""
    absent = {
        kind: ["*"]
        for kind, roles in _MADE_FROM.items()
        if not all(events.has(role) for role in roles)
    }
    if not any(events.has(role) for role in _RETURNS):
        absent["USED"] = ["*"]
    return {**UNRECORDED, **absent}


def _vms(events: KernelEvents) -> Any:
    owners = events.sched.owners
    mains = set(owners.values())
    processes = events.exits.processes

    def vm_of(tid: int) -> str:
        owner = owners.get(tid, 0)
        if not owner and processes.get(tid, tid) in mains:
            owner = processes.get(tid, tid)
        if not owner and (queue := events.vhost.wakers.get(tid)):
            owner = owners.get(events.vhost.workers.get(queue, 0), 0)
        if not owner and tid in events.exits.vcpus:
            owner = processes.get(tid, 0)
        return f"pid:{owner}" if owner else ""

    return vm_of


def _changing(events: KernelEvents, sequence: Sequence) -> dict[str, Any]:
    vhost, vm_of = events.vhost, _vms(events)
    queues: dict[str, Any] = {}
    workers: dict[int, int] = {}
    names: dict[tuple[int, str], int] = {}
    interfaces = {
        queue: name for name, of in events.packets.interfaces.items() for queue in of if name
    }
    for queue in vhost.queues.values():
        worker = vhost.workers.get(queue, 0)
        device = workers.setdefault(worker, len(workers))
        direction = str(vhost.directions.get(queue, Direction.NONE))
        place = names.get((worker, direction), 0)
        names[worker, direction] = place + 1
        known = direction != Direction.NONE
        queues[str(queue)] = {
            "id": queue,
            "role": str(Role.VIRTQUEUE),
            "vm": vm_of(worker),
            "pid": events.sched.owners.get(worker, 0),
            "device": f"net{device}",
            "name": f"{direction}{place}" if known else f"queue{queue}",
            "direction": direction,
            "backend": "vhost",
            "ring": "split",
            "size": vhost.sizes.get(queue, 0),
            "interface": interfaces.get(queue, ""),
        }
    for name, number in events.packets.interface_ids.items():
        queues[str(number)] = {
            "id": number,
            "role": str(Role.INTERFACE),
            "device": name,
            "interface": name,
            "direction": str(Direction.NONE),
        }
    threads: dict[str, Any] = {}
    comms = events.sched.comm_of
    for tid in events.sched.owners:
        threads[str(tid)] = {"comm": comms[tid], "role": "vhost", "vm": vm_of(tid)}
        threads[str(tid)]["pid"] = events.sched.owners[tid]
    for tid, vcpu in events.exits.vcpus.items():
        threads[str(tid)] = {"comm": comms.get(tid, ""), "role": "vcpu", "vcpu": vcpu}
        threads[str(tid)] |= {"vm": vm_of(tid), "pid": events.exits.processes.get(tid, 0)}
    return {
        **sequence.sections(),
        "queues": queues,
        "threads": threads,
        "calls": {
            name: {"entry": entry, "return": back} for name, (entry, back) in events.calls.items()
        },
        "places": {str(number): text for number, text in events.packets.places.items()},
        "reasons": {str(number): text for number, text in events.packets.reasons.items()},
    }


def _events(events: KernelEvents) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, count in events.seen.items():
        role = events.role_of.get(name)
        row: dict[str, Any] = {"count": count, "as": role}
        if role is not None and events.unused[role]:
            row["unused"] = min(events.unused[role], count)
        found[name] = row
    return found
