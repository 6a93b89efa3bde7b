"""Metadata put into the shape that its users expect; what makes no sense is left out.

A recording comes from elsewhere. Its reader sees to it that a section is an object or a list of
objects; what stands in them is looked at here, once, so that nobody else has to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from vtrace.model import Direction

__all__ = ["not_probed", "sane"]

MOST_QUEUES: Final = 1 << 16

_TEXTS: Final = ("vm", "device", "name", "backend", "ring", "interface", "role")
_NUMBERS: Final = ("pid", "size", "ifindex", "generation", "features")

# Parts of ``config``: lists of objects, objects by name.
_CONFIG_ROWS: Final = ("qdiscs", "neighbours", "routes")
_CONFIG_OBJECTS: Final = ("links", "threads", "cgroups", "netdevs", "nics")

# Time of a lifecycle -> probe points without which nobody can see it.
_POINTS: Final = {
    "kick_ns": ("ioeventfd_write",),
    "enqueue_ns": ("tun_net_xmit",),
    "wake_ns": ("vhost_poll_wakeup",),
    "run_ns": ("handle_rx_kick", "handle_tx_kick", "handle_rx_net", "handle_tx_net"),
    "backend_ns": ("tun_recvmsg", "tun_sendmsg"),
    "signal_ns": ("vhost_notify",),
    "irq_ns": ("irqfd_wakeup",),
}
# The same for queues that QEMU serves itself. What they do not have is not missing there: no worker
# is woken, and QEMU reads the tap. Each has several ways, of which a QEMU takes one.
_QEMU_POINTS: Final = {
    "kick_ns": ("ioeventfd_write", "event_notifier_set", "virtio_queue_notify"),
    "run_ns": ("virtio_queue_host_notifier_read", "virtio_queue_notify"),
    "signal_ns": ("virtio_notify", "virtio_notify_irqfd"),
    "irq_ns": ("msix_notify", "pci_set_irq", "irqfd_wakeup"),
}
_QEMU_POP: Final = "virtqueue_pop"


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 1 << 63 else 0


def _queues(section: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, queue in section.items():
        if not (key.isascii() and key.isdigit() and len(key) < 6 and isinstance(queue, dict)):
            continue
        if int(key) >= MOST_QUEUES:
            continue
        row = dict(queue)
        for name in _TEXTS:
            if name in row and not isinstance(row[name], str):
                row[name] = "" if row[name] is None else str(row[name])
        for name in _NUMBERS:
            if name in row:
                row[name] = _count(row[name])
        # A ring has at most 2^15 descriptors.
        row["size"] = row.get("size", 0) if row.get("size", 0) <= 1 << 15 else 0
        if row.get("direction") not in set(Direction):
            row["direction"] = Direction.NONE.value
        found[str(int(key))] = row
    return found


def _counts(section: Mapping[str, Any]) -> dict[str, Any]:
    names = ("produced", "received", "lost")
    return {
        key: {name: _count(kind.get(name)) for name in names}
        for key, kind in section.items()
        if isinstance(kind, dict)
    }


def _calls(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {name: _count(call.get(name)) for name in ("entry", "return")}
        for key, call in section.items()
        if isinstance(call, dict)
    }


def _threads(section: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, thread in section.items():
        if not isinstance(thread, dict):
            continue
        row = dict(thread)
        for name in ("comm", "role", "vm"):
            if name in row and not isinstance(row[name], str):
                row[name] = str(row[name])
        if type(row.get("vcpu")) is not int or not 0 <= row["vcpu"] < 1 << 32:
            row.pop("vcpu", None)
        found[key] = row
    return found


def _loss(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if _count(value) or value == 0}


def _objects(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if isinstance(value, dict)}


def _names(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if isinstance(value, str)}


def _counters(section: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in section.items():
        if name == "missing":
            found[name] = _sentences(values)
        elif isinstance(values, dict):
            lo_ns, hi_ns = _count(values.get("lo_ns")), _count(values.get("hi_ns"))
            if 0 < lo_ns <= hi_ns:
                found[name] = {
                    key: value
                    for key, value in values.items()
                    if isinstance(value, str) or _is_number(value)
                }
    return found


def _is_number(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 64


def _sentences(section: Any) -> list[str]:
    return [one for one in section if isinstance(one, str)] if isinstance(section, list) else []


def _config(section: Mapping[str, Any]) -> dict[str, Any]:
    # What stands in a row is the reader's to look at; that there are rows is seen to here.
    found: dict[str, Any] = {}
    for name, part in section.items():
        if name == "missing":
            found[name] = _sentences(part)
        elif name in _CONFIG_ROWS and isinstance(part, list):
            found[name] = [row for row in part if isinstance(row, dict)]
        elif name in _CONFIG_OBJECTS and isinstance(part, dict):
            found[name] = _objects(part)
        elif name not in _CONFIG_ROWS and name not in _CONFIG_OBJECTS and isinstance(part, dict):
            found[name] = part
    return found


def _exits(section: list[Any]) -> list[Any]:
    found = []
    for row in section:
        if not isinstance(row, dict) or not isinstance(row.get("reason"), int | str):
            continue
        vcpu = row.get("vcpu")
        found.append(
            {
                **row,
                "vm": str(row.get("vm", "")),
                "vcpu": vcpu if type(vcpu) is int and vcpu >= 0 else None,
                "count": _count(row.get("count")),
                "total_ns": _count(row.get("total_ns")),
            }
        )
    return found


_SAID_TEXTS: Final = ("path", "virtio", "missing")
_SAID_FLAGS: Final = ("started", "broken", "vhost")
_SAID_QUEUE: Final = (
    *("index", "size", "desc", "driver", "device"),
    *("taken", "used", "inuse", "vhost_size"),
)
MOST_SAID: Final = 1 << 12
"""Devices of a VM, queues of a device, names of a list that a monitor may have spoken of."""


def _qmp(section: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for vm, one in list(section.items())[:MOST_SAID]:
        if isinstance(one, dict):
            look = one.get("look")
            found[vm] = {
                **({"look": seen} if isinstance(look, dict) and (seen := _look(look)) else {}),
                **({"missing": str(one["missing"])[:400]} if one.get("missing") else {}),
            }
    return found


def _look(look: Mapping[str, Any]) -> dict[str, Any] | None:
    times = _times(look)
    devices = look.get("devices")
    if times is None or not isinstance(devices, dict):
        return None
    said = {}
    for name, device in list(devices.items())[:MOST_SAID]:
        seen = _said_of(device) if isinstance(device, dict) else None
        if seen:
            said[name] = seen
    size = look.get("balloon_bytes")
    return {
        **times,
        "version": str(look.get("version", ""))[:64],
        "state": str(look.get("state", ""))[:64],
        "balloon_bytes": size if type(size) is int and 0 <= size < 1 << 63 else None,
        "devices": said,
    }


def _times(row: Mapping[str, Any]) -> dict[str, int] | None:
    lo_ns, hi_ns = _count(row.get("lo_ns")), _count(row.get("hi_ns"))
    return {"lo_ns": lo_ns, "hi_ns": hi_ns} if 0 < lo_ns <= hi_ns else None


def _said_of(device: Mapping[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] = {n: str(device[n])[:400] for n in _SAID_TEXTS if device.get(n)}
    times = _times(device)
    if "path" not in found or times is None:
        return {"missing": found["missing"]} if "missing" in found else None
    found |= times | {name: device.get(name) is True for name in _SAID_FLAGS}
    found |= {name: _count(device.get(name)) for name in ("num_queues",)}
    bits = device.get("bits")
    found["bits"] = bits if type(bits) is int and 0 <= bits < 1 << 64 else 0
    for name in ("status", "features"):
        texts = device.get(name)
        listed = texts[:MOST_SAID] if isinstance(texts, list) else []
        found[name] = [text[:128] for text in listed if isinstance(text, str)]
    rows = device.get("queues")
    found["queues"] = [
        {name: row[name] if _is_place(row.get(name)) else None for name in _SAID_QUEUE}
        for row in (rows[:MOST_SAID] if isinstance(rows, list) else ())
        if isinstance(row, dict)
    ]
    return found


def _is_place(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


_SANE: Final[dict[str, tuple[type, Callable[[Any], Any]]]] = {
    "queues": (dict, _queues),
    "counts": (dict, _counts),
    "calls": (dict, _calls),
    "threads": (dict, _threads),
    "loss": (dict, _loss),
    "probes": (dict, _objects),
    "places": (dict, _names),
    "reasons": (dict, _names),
    "comms": (dict, _names),
    "exits": (list, _exits),
    "counters": (dict, _counters),
    "rings": (dict, _objects),
    "config": (dict, _config),
    "qmp": (dict, _qmp),
    "gap": (dict, _loss),
    "host": (dict, dict),
    "capture": (dict, dict),
    "clock": (list, list),
}


def sane(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata in which every known section has its shape."""
    found: dict[str, Any] = {}
    for name, section in meta.items():
        shape, clean = _SANE.get(name, (object, lambda section: section))
        found[name] = clean(section) if isinstance(section, shape) else shape()
    return found


def not_probed(probes: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the times of a lifecycle that no probe looked for, by backend.

    ``probes`` is the section of that name. Where no QEMU was being looked into when the recording
    began, one may have come later: of its times nothing is said.
    """
    states: dict[str, list[Any]] = {}
    for name, probe in probes.items():
        if isinstance(probe, dict):
            states.setdefault(name.partition(":")[0], []).append(probe.get("state"))

    def blind(wanted: Mapping[str, tuple[str, ...]]) -> list[str]:
        found = []
        for time, points in wanted.items():
            of = [state for point in points for state in states.get(point, ())]
            if of and all(state != "attached" for state in of):
                found.append(time)
        return found

    qemu = "attached" in states.get(_QEMU_POP, ())
    return {"vhost": blind(_POINTS), "qemu": blind(_QEMU_POINTS) if qemu else []}
