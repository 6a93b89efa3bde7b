"""A rule for each section of a recording's metadata; one without a rule is left out."""

from __future__ import annotations

from typing import Any, Final

from vtrace.model import Kind
from vtrace.redact import counted, network, rows
from vtrace.redact.counted import SAID, counters
from vtrace.redact.names import PREFIXES, Names
from vtrace.redact.network import OPTIONS, config
from vtrace.redact.rows import (
    EXIT,
    ID,
    LOWER,
    NUMBERS,
    QUEUE_ROW,
    SYMBOL,
    THREAD,
    VM,
    attached_reason,
    queue_row,
    version,
)
from vtrace.redact.shapes import (
    GONE,
    Rule,
    by_key,
    comm,
    either,
    listed,
    name,
    number,
    record,
    text,
    vm,
    word,
)

__all__ = ["ORDINARY", "SECTIONS"]

_EVENT: Final = word(r"[a-z0-9_]{1,32}:[A-Za-z0-9_.]{1,64}|frame|simple packet block|virt\w{1,48}")
_KIND: Final = word(r"[A-Za-z0-9_]{1,32}")


def _event(value: Any, names: Names, where: str) -> Any:
    # Users name their own probes.
    made = _EVENT(value, names, where)
    return name("name")(value, names, where) if made is GONE else made


SECTIONS: Final[dict[str, Rule]] = {
    "host": record(
        {
            "kernel": word(r"[A-Za-z0-9_.+~#-]{0,80}"),
            "machine": LOWER,
            "cpus": number,
            "hostname": name("host"),
            "version": LOWER,
            "mode": LOWER,
        }
    ),
    "clock": listed(record({"monotonic_ns": number, "realtime_ns": number, "tsc": number})),
    "queues": by_key(ID, queue_row),
    "threads": by_key(ID, record(THREAD)),
    "comms": by_key(ID, comm),
    "places": by_key(ID, SYMBOL),
    "reasons": by_key(ID, SYMBOL),
    "probes": by_key(SYMBOL, record({"program": LOWER, "state": LOWER, "reason": attached_reason})),
    "calls": by_key(SYMBOL, NUMBERS),
    "counts": by_key(_KIND, NUMBERS),
    "loss": NUMBERS,
    "exits": listed(record(EXIT, number)),
    "interrupts": listed(record(EXIT, number)),
    "vms": listed(VM),
    "capture": record(
        {
            "capture_filter": text,
            "filter": text,
            "display": text,
            "vm": either(vm, listed(vm)),
            "programs": listed(LOWER),
            "options": record({}, number),
            "tool": word(r"packet capture|perf script|perf|QEMU|trace-cmd(?: report)?"),
        },
        number,
    ),
    "counters": counters,
    "imported": record(
        {
            "format": word(r"[a-z0-9.-]{0,16}"),
            "tool": version,
            "events": by_key(_event, record({"as": word(r"[A-Za-z0-9_.:]{1,48}")}, number)),
            "strange_lines": number,
        }
    ),
    "timebase": record({"clock": LOWER, "resolution_ns": number, "known_by": text}),
    "unrecorded": by_key(_KIND, listed(word(r"[a-z0-9_]{1,32}|\*"))),
    "rings": by_key(ID, NUMBERS),
    "config": config,
    "qmp": by_key(vm, record({"look": SAID, "missing": text})),
    "gap": NUMBERS,
    "end": record({"reason": word(r"[a-z ]{0,40}"), "ended_ns": number}),
}
"""Section -> its rule. The names in it are replaced, what a rule does not know is left out."""


def _words() -> frozenset[str]:
    # Keys and values of the format, of which a name may be one.
    found = {*SECTIONS, *PREFIXES.values(), *(kind.name.lower() for kind in Kind)}
    for module in (rows, network, counted):
        for value in vars(module).values():
            found |= set(getattr(value, "fields", {}))
    for fields in (THREAD, QUEUE_ROW, EXIT, OPTIONS):
        found |= set(fields)
    for rule in SECTIONS.values():
        found |= set(getattr(rule, "fields", {}))
    found |= {
        "vhost",
        "qemu",
        "kvm",
        "tcg",
        "vcpu",
        "iothread",
        "virtqueue",
        "tap",
        "bridge",
        "split",
        "packed",
        "none",
        "all",
        "partial",
        "full",
        "net",
        "blk",
        "scsi",
        "serial",
        "console",
        "balloon",
        "vsock",
        "rng",
        "gpu",
        "virtio",
        "pci",
        "attached",
        "unavailable",
        "failed",
        "link",
        "qdisc",
        "snmp",
        "softnet",
        "ethtool",
        "socket",
        "udp",
        "udp6",
        "nft",
        "thread",
        "cgroup",
        "guest",
        "policy",
        "drop",
        "usr",
        "bin",
        "lab",
        "system",
        "machine",
        "x86",
        "amd64",
        "arm64",
        "linux",
        "kernel",
        "peripheral",
        "default",
        "fifo",
        "root",
        "veth",
        "vlan",
        "bond",
        "macvtap",
        "macvlan",
        "dummy",
        "unknown",
        "other",
        "lower",
        "state",
        "up",
        "down",
    } - {"lab"}
    return frozenset(word.lower() for word in found)


ORDINARY: Final = _words()
