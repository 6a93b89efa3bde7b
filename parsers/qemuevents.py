"""QEMU's own trace events of its virtqueues, into records.

An element has no number in them that the guest would know: its address stands for its head while it
is with the device. Places in the rings are counted from the first event of a queue. Both are of use
to tell chains apart, and are not shown (section ``unrecorded``).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from parsers.rows import Made
from vtrace.model import Direction, Flag, Kind, Role

__all__ = ["EVENTS", "KINDS", "UNRECORDED", "QemuEvents"]

EVENTS: Final[dict[str, tuple[str, ...]]] = {
    "virtqueue_pop": ("vq", "elem", "in_num", "out_num"),
    "virtqueue_fill": ("vq", "elem", "len", "idx"),
    "virtqueue_flush": ("vq", "count"),
    "virtio_queue_notify": ("vdev", "n", "vq"),
    "virtio_notify": ("vdev", "vq"),
    "virtio_notify_irqfd": ("vdev", "vq"),
    "virtio_notify_irqfd_deferred_fn": ("vdev", "vq"),
    "virtio_set_status": ("vdev", "val"),
}
"""Event -> its arguments in their order (hw/virtio/trace-events)."""

KINDS: Final = {
    "virtqueue_pop": "POP",
    "virtqueue_fill": "USED",
    "virtqueue_flush": "FLUSH",
    "virtio_queue_notify": "RUN",
    "virtio_notify": "SIGNAL",
    "virtio_notify_irqfd": "SIGNAL",
    "virtio_notify_irqfd_deferred_fn": "nothing: the SIGNAL was before",
    "virtio_set_status": "STOP, if the driver resets the device",
}
"""Event -> what it becomes."""

UNRECORDED: Final = {
    "POP": ["head", "position", "length", "room", "avail", "event"],
    "USED": ["head", "used", "position", "ret"],
    "FLUSH": ["used", "position"],
    # What it decided against is not shown.
    "SIGNAL": ["ret", "used", "event", "avail"],
    "EMPTY": ["*"],
    "HAND_BACK": ["*"],
    "KICK": ["*"],
    "IRQ": ["*"],
    "RECV": ["*"],
    "SEND": ["*"],
    "DELIVER": ["*"],
}

MOST_QUEUES: Final = 1 << 12
MOST_HEADS: Final = 1 << 10
MOST_NAMES: Final = 4096
NAMES: Final = tuple(EVENTS)


class QemuEvents:
    """Takes events as columns, and gives out records."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.queues: dict[int, int] = {}
        """Address of a VirtQueue -> id."""
        self.devices: dict[int, int] = {}
        """Queue id -> address of its VirtIODevice."""
        self.indices: dict[int, int] = {}
        self.processes: set[int] = set()
        self.left_out = 0
        self._heads: dict[tuple[int, int], int] = {}
        self._free: dict[int, int] = {}
        self._popped: dict[int, int] = {}
        self._used: dict[int, int] = {}

    def feed(self, columns: dict[str, Any]) -> tuple[Any, Any]:
        """Take in events; return records and the line of each.

        ``columns``: ``time``, ``tid``, ``line``, ``what`` (place in ``NAMES``), and the arguments.
        """
        made = Made()
        count = len(columns["time"])
        if not count:
            return made.records()
        for name, number in (
            ("virtqueue_pop", 0),
            ("virtqueue_fill", 1),
            ("virtqueue_flush", 2),
        ):
            assert NAMES[number] == name
        what = columns["what"]
        has_queue = what != NAMES.index("virtio_set_status")
        queue = np.where(has_queue, self._ids(columns["vq"], has_queue), 0)
        self._owners(columns, what, queue)
        head = self._elements(queue, columns["elem"], (what <= 1) & (queue > 0))
        position, used = np.zeros(count, np.int64), np.zeros(count, np.int64)
        for one in np.unique(queue[queue > 0]).tolist():
            at = np.flatnonzero(queue == one)
            pops = (what[at] == 0).astype(np.int64)
            position[at] = self._popped.get(one, 0) + np.cumsum(pops) - pops
            flushed = np.where(what[at] == 2, columns["count"][at], 0)
            used[at] = self._used.get(one, 0) + np.cumsum(flushed) - flushed
            self._popped[one] = self._popped.get(one, 0) + int(pops.sum()) & 0xFFFF
            self._used[one] = self._used.get(one, 0) + int(flushed.sum()) & 0xFFFF
        used = np.where(what == 1, used + columns["idx"], used)

        def add(kind: Kind, mask: Any, **more: Any) -> None:
            at = np.flatnonzero(mask & (queue > 0))
            flags = more.pop("flags", 0) | int(Flag.QEMU)
            made.add(
                kind,
                columns["time"][at],
                columns["line"][at],
                tid=columns["tid"][at],
                queue=queue[at],
                flags=flags,
                **{
                    name: values[at] if np.ndim(values) else values for name, values in more.items()
                },
            )

        both = columns["in_num"] + columns["out_num"]
        cut = int(Flag.CUT)
        add(Kind.POP, what == 0, head=head, position=position, count=both,
            flags=int(Flag.POSITION) | cut)  # fmt: skip
        add(Kind.USED, what == 1, head=head, used=used, count=1, length=columns["len"], ret=-1,
            flags=int(Flag.USED))  # fmt: skip
        add(Kind.FLUSH, what == 2, used=used, count=columns["count"], flags=int(Flag.USED))
        add(Kind.RUN, what == 3)
        add(Kind.SIGNAL, (what == 4) | (what == 5), ret=1)
        self._stops(columns, what, made)
        self.left_out += int((has_queue & (queue == 0)).sum())
        return made.records()

    def _ids(self, addresses: Any, where: Any) -> Any:
        distinct, inverse = np.unique(addresses, return_inverse=True)
        found = np.zeros(len(distinct), np.int64)
        wanted = {*addresses[where].tolist()} - {0}
        for at, one in enumerate(distinct.tolist()):
            if one in wanted and one not in self.queues and len(self.queues) < MOST_QUEUES:
                self.queues[one] = len(self.queues) + 1
            found[at] = self.queues.get(one, 0)
        return found[inverse]

    def _owners(self, columns: dict[str, Any], what: Any, queue: Any) -> None:
        told = (what >= 3) & (queue > 0)
        pairs = {*zip(queue[told].tolist(), columns["vdev"][told].tolist(), strict=True)}
        for one, device in pairs:
            self.devices[one] = device
        told = (what == 3) & (queue > 0)
        pairs = {*zip(queue[told].tolist(), columns["n"][told].tolist(), strict=True)}
        for one, index in pairs:
            if 0 <= index < 1 << 16:
                self.indices[one] = index

    def _elements(self, queue: Any, elements: Any, where: Any) -> Any:
        # An element's address is its own while the device has it; addresses are used again.
        heads = np.zeros(len(queue), np.int64)
        at = np.flatnonzero(where)
        keys = np.stack([queue[at], elements[at]], axis=1)
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        found = np.zeros(len(distinct), np.int64)
        for place, key in enumerate(map(tuple, distinct.tolist())):
            head = self._heads.get(key)
            if head is None:
                used = self._free.get(key[0], 0)
                head = used % MOST_HEADS
                self._free[key[0]] = used + 1
                if len(self._heads) > MOST_QUEUES * 16:
                    self._heads.clear()
                self._heads[key] = head
            found[place] = head
        heads[at] = found[inverse.reshape(-1)]
        return heads

    def _stops(self, columns: dict[str, Any], what: Any, made: Made) -> None:
        status = NAMES.index("virtio_set_status")
        at = np.flatnonzero((what == status) & (columns["val"] == 0))
        for row in at[:MOST_QUEUES].tolist():
            device = int(columns["vdev"][row])
            mine = [queue for queue, owner in self.devices.items() if owner == device]
            if not mine:
                continue
            made.add(
                Kind.STOP,
                np.full(len(mine), columns["time"][row]),
                np.full(len(mine), columns["line"][row]),
                tid=np.full(len(mine), columns["tid"][row]),
                queue=np.array(mine),
                flags=int(Flag.QEMU),
            )

    def probes(self) -> dict[str, Any]:
        """Return the section ``probes``."""
        told = "QEMU shows when it was told to look, not when the driver kicked"

        def state(*names: str) -> dict[str, str]:
            there = any(self.seen.get(name) for name in names)
            return {
                "state": "attached" if there else "unavailable",
                "reason": "" if there else "not recorded",
            }

        return {
            "virtqueue_pop": state("virtqueue_pop", "virtqueue_fill", "virtqueue_flush"),
            "virtio_queue_notify": {"state": "unavailable", "reason": told},
            "virtio_queue_host_notifier_read": state("virtio_queue_notify"),
            "virtio_notify": state("virtio_notify"),
            "virtio_notify_irqfd": state("virtio_notify_irqfd"),
            "msix_notify": {"state": "unavailable", "reason": "no event of QEMU's shows it"},
        }

    def absent(self) -> dict[str, list[str]]:
        """Return kinds that this recording does not have, for the section ``unrecorded``."""
        signals = any(self.seen[name] for name in ("virtio_notify", "virtio_notify_irqfd"))
        return {} if signals else {"SIGNAL": ["*"]}

    def sections(self) -> dict[str, Any]:
        """Return the sections that grow with the events."""
        devices: dict[int, int] = {}
        queues: dict[str, Any] = {}
        for queue in self.queues.values():
            device = devices.setdefault(self.devices.get(queue, 0), len(devices))
            index = self.indices.get(queue)
            queues[str(queue)] = {
                "id": queue,
                "role": str(Role.VIRTQUEUE),
                "vm": "",
                "pid": 0,
                "device": f"virtio{device}" if self.devices.get(queue) else "",
                "name": f"vq{index}" if index is not None else f"queue{queue}",
                "direction": str(Direction.NONE),
                "backend": "qemu",
                "ring": "",
                "size": 0,
                **({} if index is None else {"index": index}),
            }
        return {"queues": queues}

    def events(self) -> dict[str, Any]:
        """Return the events by name, for the section ``imported``."""
        return {
            name: {"count": count, "as": name if name in EVENTS else None}
            for name, count in self.seen.items()
        }
