"""Rules for rows of metadata: queues, threads, VMs and their devices, exits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from vtrace.redact.shapes import (
    GONE,
    by_key,
    comm,
    device,
    either,
    flags,
    interface,
    listed,
    name,
    number,
    record,
    text,
    vm,
    word,
)

if TYPE_CHECKING:
    from vtrace.redact.names import Names

__all__ = [
    "EXIT",
    "ID",
    "LOWER",
    "NUMBERS",
    "QUEUE_ROW",
    "SYMBOL",
    "THREAD",
    "VALUE",
    "VM",
    "attached_reason",
    "qom",
    "queue_name",
    "queue_row",
    "version",
]

ID: Final = word(r"-?\d{1,20}")
SYMBOL: Final = word(r"[A-Za-z0-9_.$:@+?-]{0,128}(?: ?\[[A-Za-z0-9_]{1,56}\])?")
LOWER: Final = word(r"[a-z0-9_:+.-]{0,32}")
VALUE: Final = word(r"[A-Za-z0-9_.+-]{0,32}")
_VERSION: Final = re.compile(r"\d{1,4}(?:\.\d{1,6}){0,3}")
_QUEUE: Final = (
    r"(?:rx|tx|vq|queue|req(?:uestq?)?|q|port|in|out)?\d*|ctrl(?:_rx|_tx|q)?|eventq?|controlq"
    r"|(?:inflate|deflate|stats|free_page|reporting)(?:_?v?q)?|hiprio|cursorq|command"
    r"|receiveq|transmitq"
)
_PCI: Final = re.compile(
    r"(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|pci\.\d+:[0-9a-f]{2}\.[0-7]|[0-9a-f.]{1,16}"
)
queue_name: Final = name("port", _QUEUE)


def version(value: Any, names: Names, where: str) -> Any:
    """Redact a version: behind the numbers stands who built it."""
    found = _VERSION.match(value) if isinstance(value, str) else None
    return found[0] if found else ("" if isinstance(value, str) else GONE)


def _exe(value: Any, names: Names, where: str) -> Any:
    if not isinstance(value, str):
        return GONE
    if re.fullmatch(r"/usr/(?:local/)?(?:bin|libexec)/qemu-(?:system-\w{1,12}|kvm)", value):
        return names.kept(value)
    return names.name("path", value)


def _pci(value: Any, names: Names, where: str) -> Any:
    if value is None or (isinstance(value, str) and _PCI.fullmatch(value)):
        return value
    if not isinstance(value, str):
        return GONE
    bus, colon, slot = value.rpartition(":")
    return names.name("bus", bus) + colon + slot if _PCI.fullmatch(f"00:{slot}") else GONE


def qom(value: Any, names: Names, where: str) -> Any:
    """Redact a path in the object model of QEMU: /machine/peripheral/ID/virtio-backend."""
    if not isinstance(value, str):
        return GONE
    parts = re.split(r"(/)", value)
    plain = re.compile(
        r"|machine|peripheral|peripheral-anon|unattached|virtio-backend|virtio-bus|device\[\d+\]"
        r"|q35|i440fx|pci\.\d+|sysbus"
    )
    return "".join(
        part if part == "/" or plain.fullmatch(part) else str(device(part, names, where))
        for part in parts
    )


def attached_reason(value: Any, names: Names, where: str) -> Any:
    """Redact why a probe is in its state: a function, or a sentence."""
    made = SYMBOL(value, names, where)
    return text(value, names, where) if made is GONE else made


THREAD: Final = {
    "comm": comm,
    "role": LOWER,
    "vm": vm,
    "pid": number,
    "vcpu": number,
    "tid": number,
    "kind": LOWER,
    "kvm_id": number,
    "iothread": name("iothread"),
    "proof": LOWER,
}
NUMBERS: Final = record({}, number)
QUEUE_ROW: Final = {
    "id": number,
    "role": LOWER,
    "vm": vm,
    "pid": number,
    "device": either(device),
    "name": queue_name,
    "direction": LOWER,
    "backend": LOWER,
    "ring": LOWER,
    "size": number,
    "interface": interface,
    "ifindex": number,
    "generation": number,
    "features": number,
    "index": number,
    "device_type": LOWER,
    "qom": qom,
    "extra": record({"device_type": LOWER, "qom": qom, "path": qom, "port": name("port")}, number),
}


def queue_row(value: Any, names: Names, where: str) -> Any:
    """Redact a row of the queue table; the device of an interface is the interface."""
    made = record(QUEUE_ROW)(value, names, where)
    if isinstance(value, dict) and isinstance(made, dict) and "device" in made:
        shown, own = value.get("device"), value.get("interface")
        if value.get("role") == "interface" or (shown and shown == own):
            made["device"] = interface(shown, names, where)
    return made


_NET: Final = record(
    {
        "id": device,
        "type": LOWER,
        "interface": interface,
        "ifindex": number,
        "netns": number,
        "vhost": number,
        "vnet_hdr": number,
        "multi_queue": number,
        "queues": number,
        "queues_enabled": number,
        "txqueuelen": number,
        "mtu_bytes": number,
        "operstate": LOWER,
        "master": interface,
        "offloads": flags,
        "path": name("path"),
        "missing": listed(text),
        "seen": LOWER,
    }
)
_DEVICE: Final = record(
    {
        "id": device,
        "named": number,
        "kind": LOWER,
        "driver": LOWER,
        "bus": LOWER,
        "address": _pci,
        "address_source": LOWER,
        "qom": qom,
        "queues": listed(
            record(
                {
                    "index": number,
                    "name": queue_name,
                    "direction": LOWER,
                    "backend": LOWER,
                    "ring": LOWER,
                    "size": number,
                    "size_source": LOWER,
                    "tid": number,
                    "port": name("port"),
                }
            )
        ),
        "net": _NET,
        "iothread": name("iothread"),
        "drive": name("drive"),
        "traced": number,
        "untraced": text,
        "notes": listed(text),
        "missing": listed(text),
        "seen": LOWER,
    }
)
VM: Final = record(
    {
        "name": vm,
        "pid": number,
        "exe": _exe,
        "version": version,
        "accel": LOWER,
        "machine": LOWER,
        "uuid": name("uuid"),
        "vcpus": number,
        "container": name("container"),
        "threads": listed(record(THREAD)),
        "devices": listed(_DEVICE),
        "missing": listed(text),
        "seen": LOWER,
        "regions": listed(
            record(
                {
                    "io": LOWER,
                    "base": number,
                    "size": number,
                    "name": name("name"),
                    "device": device,
                }
            )
        ),
        "lines": by_key(ID, device),
    }
)
EXIT: Final = {
    "vm": vm,
    "isa": LOWER,
    "reason": word(r"[A-Za-z0-9_ -]{0,64}"),
    "io": LOWER,
    "address": number,
    "msi_address": number,
    "msi_data": number,
    "gsi": number,
}
