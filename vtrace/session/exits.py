"""Exits and interrupts by device: sums of the recording, and whose port, address or line it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.errors import UsageError
from vtrace.exit_reasons import exit_reason
from vtrace.inventory.regions import Regions, mtree_regions, region_of
from vtrace.model import Kind

if TYPE_CHECKING:
    from parsers.batch import EventBatch
    from vtrace.tables import Names

__all__ = ["ExitSums"]

Row = dict[str, Any]

MOST_PLACES: Final = 1 << 14
"""Notify addresses and messages that are kept; a guest may use any number."""
_IO: Final = ("pio", "mmio")


class ExitSums:
    """What of the events says whose an address is, and the rows that are made of the sums."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._places: dict[Kind, set[tuple[int, int]]] = {Kind.KICK: set(), Kind.IRQ: set()}
        self._known: dict[str, Regions] = {}
        self._trees: dict[str, str] = {}

    def add_tree(self, text: str, vm: str | None = None) -> None:
        """Take QEMU's memory tree (``info mtree -f``) of a VM; without a name of the only one.

        Raises:
            UsageError: There are several VMs, and none is named; or not this one.
        """
        vms = {str(row.get("vm", "")) for row in self._section("exits")}
        if vm is not None and vm not in vms:
            raise UsageError(
                f"no exits of a VM {vm} were recorded, for which there is a memory tree"
            )
        if vm is None and len(vms) != 1:
            raise UsageError(
                f"a memory tree is that of one VM, and exits of {len(vms)} were recorded; "
                "name it with --vm"
            )
        self._trees[vm if vm is not None else vms.pop()] = text

    def feed(self, batch: EventBatch) -> None:
        """Keep where queues were notified, and by which message they interrupted."""
        kinds = batch["kind"]
        for kind, kept in self._places.items():
            rows = kinds == kind
            if len(kept) >= MOST_PLACES or not rows.any():
                continue
            pairs = np.zeros(int(rows.sum()), [("queue", "i8"), ("address", "u8")])
            pairs["queue"], pairs["address"] = batch["queue"][rows], batch["address"][rows]
            pairs = np.unique(pairs[pairs["address"] != 0])[:MOST_PLACES]
            kept.update((int(one["queue"]), int(one["address"])) for one in pairs)

    def exits(self) -> list[Row]:
        """Return a row for each vCPU, reason, direction and address; most time first in each VM.

        ``device`` is None where an exit touched neither port nor memory of a device, or that was
        not recorded; ``user_count`` and ``user_ns`` are None where that was not.
        """
        self._known.clear()
        sums: dict[tuple[Any, ...], Row] = {}
        for total in self._section("exits"):
            row = self._exit(total)
            key = tuple(row[name] for name in ("vm", "vcpu", "reason", "io", "write", "address"))
            known = sums.get(key)
            if known is None:
                sums[key] = row
                continue
            for name in ("count", "total_ns"):
                known[name] += row[name]
            for name in ("user_count", "user_ns"):
                both = (known[name], row[name])
                known[name] = None if None in both else sum(both)
        return sorted(sums.values(), key=lambda row: (row["vm"], -row["total_ns"]))

    def interrupts(self) -> list[Row] | None:
        """Return interrupts by VM and line or message, most first; None: not recorded."""
        if "interrupts" not in self._names.metadata.sections:
            return None
        self._known.clear()
        rows = [self._interrupt(total) for total in self._section("interrupts")]
        return sorted(rows, key=lambda row: (row["vm"], -row["count"]))

    @property
    def unkept(self) -> dict[str, int]:
        """Exits and interrupts that the recorder had no room to sum up."""
        loss = self._names.metadata.section("loss")
        return {name: _whole(loss.get(name)) for name in ("exits", "interrupts")}

    def _section(self, name: str) -> Iterable[Mapping[str, Any]]:
        section = self._names.metadata.sections.get(name)
        rows = section if isinstance(section, list) else ()
        return (row for row in rows if isinstance(row, Mapping))

    def _exit(self, total: Mapping[str, Any]) -> Row:
        svm = str(total.get("isa", "")).lower() in {"svm", "2"}
        reason = total.get("reason")
        vm, io = str(total.get("vm", "")), total.get("io")
        address = total.get("address")
        row: Row = {
            "vm": vm,
            "vcpu": total.get("vcpu"),
            "reason": exit_reason(reason, svm=svm) if isinstance(reason, int) else str(reason),
            "io": None,
            "write": None,
            "address": None,
            "device": None,
            "part": "",
            "count": _whole(total.get("count")),
            "total_ns": _whole(total.get("total_ns")),
            "user_count": _whole_or_none(total.get("user_count")),
            "user_ns": _whole_or_none(total.get("user_ns")),
        }
        if io in _IO:
            row |= {"io": io, "write": bool(total.get("write"))}
            if type(address) is int and 0 <= address < 1 << 64:
                row["address"] = address
                row["device"], row["part"] = self.regions(vm).owner(str(io), address)
            else:
                row["device"] = f"addresses not kept ({'port' if io == 'pio' else 'mmio'})"
        return row

    def _interrupt(self, total: Mapping[str, Any]) -> Row:
        vm, gsi = str(total.get("vm", "")), _whole_or_none(total.get("gsi"))
        address, data = (_whole_or_none(total.get(f"msi_{name}")) for name in ("address", "data"))
        if gsi is not None:
            device = self.regions(vm).line(gsi)
        elif address is not None and data is not None:
            device = self.regions(vm).message(address, data)
        else:
            device = "not kept"
        return {
            "vm": vm,
            "device": device,
            "gsi": gsi,
            "msi_address": address,
            "msi_data": data,
            "count": _whole(total.get("count")),
        }

    def regions(self, vm: str) -> Regions:
        """Return whose the ports and addresses of a VM are."""
        if vm not in self._known:
            self._known[vm] = self._regions(vm)
        return self._known[vm]

    def _regions(self, vm: str) -> Regions:
        vms = self._names.metadata.sections.get("vms")
        rows = vms if isinstance(vms, list) else ()
        found = next((r for r in rows if isinstance(r, Mapping) and r.get("name") == vm), {})
        listed = found.get("regions")
        devices = found.get("devices")
        told = mtree_regions(
            self._trees.get(vm, ""),
            [
                one
                for one in (devices if isinstance(devices, list) else ())
                if isinstance(one, dict)
            ],
        )
        known = [region_of(row) for row in [*(listed if isinstance(listed, list) else ()), *told]]
        lines = found.get("lines")
        return Regions(
            known=[region for region in known if region is not None],
            notify=[
                (address, str(queue.get("device", "")), str(queue.get("name", "")))
                for queue, address in self._of(Kind.KICK, vm)
            ],
            lines={
                int(line): device
                for line, device in (lines.items() if isinstance(lines, Mapping) else ())
                if str(line).isdecimal() and len(str(line)) < 6 and isinstance(device, str)
            },
            messages={
                # As the record has them: the data, and the low half of the address.
                (message & 0xFFFF_FFFF, message >> 32): str(queue.get("device", ""))
                for queue, message in self._of(Kind.IRQ, vm)
            },
            qemu="qemu" in str(found.get("exe", "")) or bool(found.get("version")),
        )

    def _of(self, kind: Kind, vm: str) -> Iterable[tuple[Mapping[str, Any], int]]:
        for number, address in sorted(self._places[kind]):
            queue = self._names.queue(number)
            if queue.get("vm") == vm and queue.get("device"):
                yield queue, address


def _whole(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _whole_or_none(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
