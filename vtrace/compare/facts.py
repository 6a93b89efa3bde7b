"""What QEMU's monitor says of one queue, fact by fact, beside what probes saw of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from vtrace.compare.seen import PLACES, Disagreement, QueueSeen, Said, Span
from vtrace.inventory.features import feature_names

__all__ = ["QueueFacts", "within"]

MOST_NAMED: Final = 8
_PACKED_BIT: Final = 34
_VHOST_FEATURES: Final = (
    "VIRTIO_NET_F_MRG_RXBUF",
    "VIRTIO_RING_F_INDIRECT_DESC",
    "VIRTIO_RING_F_EVENT_IDX",
    "VIRTIO_F_VERSION_1",
)
"""Those of which vhost is told what the driver took."""


class QueueFacts:
    """One queue, and what QEMU says of it."""

    def __init__(
        self,
        said: Said,
        vm: str,
        look: Mapping[str, Any],
        device: Mapping[str, Any],
        queue: QueueSeen,
    ) -> None:
        self.said, self.vm, self.look, self.device, self.queue = said, vm, look, device, queue
        self.key = (vm, queue.device, queue.name)
        self.row = next((r for r in device["queues"] if r["index"] == queue.index), None)

    def without(self, what: str, why: str) -> None:
        """Say what cannot be compared."""
        self.said.without(what, why, *self.key)

    def found(
        self, code: str, monitor: str, probes: str, meaning: str, *, whole: bool = False
    ) -> Disagreement:
        """Return a disagreement about this queue, or about its ``whole`` device."""
        return Disagreement(
            code=code,
            vm=self.vm,
            device=self.queue.device,
            queue="" if whole else self.queue.name,
            time_ns=self.device["lo_ns"],
            monitor=monitor,
            probes=probes,
            meaning=meaning,
        )

    def of_the_ring(self) -> Iterator[Disagreement | None]:
        """Yield size, layout, features, and the number of queues."""
        queue, row = self.queue, self.row
        sizes = [(row or {}).get(name) for name in ("size", "vhost_size")]
        for size in (size for size in sizes if size and queue.size):
            yield (
                None
                if size == queue.size
                else self.found(
                    "qmp_ring_size",
                    f"the ring has {size} descriptors",
                    f"{queue.size}",
                    "the two are of different rings, or the recording's table is not of this guest",
                )
            )
        count = self.device["num_queues"]
        if queue.index is not None and queue.live:
            yield (
                None
                if queue.index < count
                else self.found(
                    "qmp_queues",
                    f"the device has {count} queues",
                    f"work on the one with index {queue.index}",
                    "the driver has given the queue up, or QEMU counts those of before",
                )
            )
        if not queue.features:
            self.without("features", "probes do not know them")
            return
        packed = bool(self.device["bits"] >> _PACKED_BIT & 1)
        yield (
            None
            if packed == (queue.ring == "packed")
            else self.found(
                "qmp_ring_layout",
                f"a {'packed' if packed else 'split'} ring was negotiated",
                f"a {queue.ring} one",
                "records of this queue may have been read in the wrong layout",
            )
        )
        yield from self.of_features()

    def of_features(self) -> Iterator[Disagreement | None]:
        """Yield features that one has and the other has not, by name."""
        queue, bits = self.queue, self.device["bits"]
        names = feature_names(queue.kind)
        for name in self.device["features"]:
            bits |= 1 << names[name] if name in names else 0
        if queue.backend == "vhost":
            names = {name: names[name] for name in _VHOST_FEATURES if name in names}
        wrong: dict[str, list[str]] = {"on": [], "off": []}
        for bit, name in {bit: name for name, bit in names.items()}.items():
            if (bits ^ queue.features) >> bit & 1:
                wrong["on" if bits >> bit & 1 else "off"].append(name)
        if not wrong["on"] and not wrong["off"]:
            yield None
        for state, other in (("on", "off"), ("off", "on")):
            if wrong[state]:
                yield self.found(
                    "qmp_features",
                    f"{shortened(wrong[state])} {state}",
                    f"{'it' if len(wrong[state]) == 1 else 'them'} {other}",
                    "what the backend goes by is not what QEMU says was negotiated",
                    whole=True,
                )

    def of_the_work(self) -> Iterator[Disagreement | None]:
        """Yield who serves the queue, and whether the driver is ready."""
        queue, device = self.queue, self.device
        ready = "DRIVER_OK" in device["status"]
        if queue.live:
            yield (
                None
                if ready
                else self.found(
                    "qmp_status",
                    f"the driver is not ready ({' '.join(device['status']) or 'no status'})",
                    f"work on {queue.name} before and after",
                    "the device works on a ring that QEMU takes for none",
                    whole=True,
                )
            )
            data = queue.kind != "net" or queue.name[:2] in ("rx", "tx")
            if queue.backend == "qemu" and data:
                yield (
                    None
                    if not device["vhost"]
                    else self.found(
                        "qmp_backend",
                        "vhost serves the device",
                        "QEMU itself take chains from the queue",
                        "two backends may work on one ring",
                    )
                )
            elif queue.backend == "vhost" and self.look["state"] == "running":
                yield (
                    None
                    if device["vhost"]
                    else self.found(
                        "qmp_backend",
                        "vhost does not serve the device",
                        "vhost take chains from the queue",
                        "two backends may work on one ring, or QEMU has lost track of vhost",
                    )
                )
        elif queue.stopped and queue.backend == "qemu":
            row = self.row or {}
            kept = row.get("taken") or row.get("used")
            yield (
                None
                if not (ready and kept)
                else self.found(
                    "qmp_status",
                    f"the driver is ready and the ring is at {kept}",
                    "a reset, and no use since",
                    "the reset did not reach the device",
                )
            )

    def of_places(self) -> Iterator[Disagreement | None]:
        """Yield how far the device has come."""
        queue, row = self.queue, self.row
        if row is None or queue.stopped:
            return
        told = False
        for code, what, place, span in (
            ("qmp_taken", "taken", row.get("taken"), queue.taken),
            ("qmp_used", "returned", row.get("used"), queue.used),
        ):
            if place is None or span is None:
                continue
            told = True
            inside = within(place, span, queue.ring, queue.size)
            if inside is None:
                self.without(PLACES, "too much moved while QEMU was asked")
                continue
            self.said.placed.add(self.key)
            yield (
                None
                if inside
                else self.found(
                    code,
                    f"the device has {what} chains up to {place}",
                    f"{places_text(span, queue.ring)}",
                    "chains went past the probes, or QEMU's index is not the ring's",
                )
            )
        if not told:
            vhost = queue.backend == "vhost" and self.device["vhost"]
            why = "QEMU does not know them while vhost serves it" if vhost else queue.why_not
            self.without(PLACES, why or "no event tells where it was")


def within(place: int, span: Span, ring: str, size: int) -> bool | None:
    """Tell whether a place lies between two others; None where that is not certain."""
    if ring == "packed":
        if not 0 < size <= 1 << 15:
            return None
        # Without its wrap counter a place is one of two.
        turn = 2 * size
        before, after = (
            (raw & 0x7FFF) + (0 if raw >> 15 else size) for raw in (span.before, span.after)
        )
        width = (after - before) % turn
        if width >= size:
            return None
        return any(((place & 0x7FFF) + half - before) % turn <= width for half in (0, size))
    width = (span.after - span.before) & 0xFFFF
    if width > 0x7FFF:
        return None
    return (place - span.before) & 0xFFFF <= width


def places_text(span: Span, ring: str) -> str:
    """Return a span as a person reads it."""
    mask = 0x7FFF if ring == "packed" else 0xFFFF
    before, after = span.before & mask, span.after & mask
    return str(before) if before == after else f"{before} to {after}"


def shortened(names: Iterable[str]) -> str:
    """Return names of features, some of them if there are many."""
    listed = sorted(names)
    more = len(listed) - MOST_NAMED
    shown = [name.removeprefix("VIRTIO_") for name in listed[:MOST_NAMED]]
    return " ".join(shown) + (f" and {more} more" if more > 0 else "")
