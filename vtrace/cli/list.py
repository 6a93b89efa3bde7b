"""``vtrace list``: the VMs of this host."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from vtrace.cli.asked import ask, lines_of_answers
from vtrace.errors import UsageError
from vtrace.text import cells, clean

if TYPE_CHECKING:
    from vtrace.inventory import Device, NetBackend, Thread, Virtqueue, Vm

__all__ = ["DESCRIPTION", "EXAMPLES", "SUMMARY", "add_arguments", "run"]

SUMMARY = "show the VMs of this host: devices, queues, threads, taps"
DESCRIPTION = """\
Show the guests that run on this host, however they were started: the role of
each thread, and each virtio device with its queues, who serves them, and the
tap behind. It is read from /proc, /sys and netlink; QEMU is not asked, unless
its monitor is named (--vm with --qmp): then it says which features were
negotiated, how far each ring is, and what the balloon leaves.

It runs without privilege; what needs root to be seen is said to be missing.
In the tables ? is not known and - does not apply; an address with ~ was not
asked for but follows from QEMU's rule. Ring sizes are what the device offers;
the driver may take less. Offloads of a tap are what the guest has negotiated."""
EXAMPLES: list[tuple[str, str]] = [
    ("vtrace list", "show all guests"),
    ("vtrace list --vm web1", "show one, by name, pid or UUID"),
    ("vtrace list --vm web1 --qmp /run/web1.qmp", "with what QEMU says of it"),
    ("vtrace list --json | jq '.[].devices[].net.interface'", "for scripts"),
]

COLUMNS = (
    "DEVICE",
    "DRIVER",
    "ADDRESS",
    "QUEUE",
    "BACKEND",
    "RING",
    "TID",
    "TAP",
    "VNET_HDR",
    "TXQLEN",
    "OFFLOADS",
)
# Features of a tap by the names that people use; all of them mirror the guest.
SHORT = {
    "tx-checksum-ip-generic": "csum",
    "tx-tcp-segmentation": "tso4",
    "tx-tcp6-segmentation": "tso6",
    "tx-tcp-ecn-segmentation": "ecn",
    "tx-udp-segmentation": "uso",
    "tx-udp_tnl-segmentation": "tnl",
}
WIDEST = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--vm", metavar="VM", help="this VM alone: name, pid or UUID")
    parser.add_argument("--qmp", metavar="SOCKET", help="ask its QMP monitor too; needs --vm")
    parser.add_argument("--json", action="store_true", help="print JSON, one array")


def run(args: argparse.Namespace) -> int:
    """Print the inventory; nothing found is no error."""
    from vtrace.inventory import blind_spots, discover, resolve, to_json

    if args.qmp is not None and args.vm is None:
        raise UsageError("list: --qmp is the monitor of one VM; name it with --vm")
    for spot in blind_spots():
        print(f"vtrace: {spot}", file=sys.stderr)
    vms = discover()
    said = None
    if args.vm is not None:
        vm = resolve(vms, args.vm)
        said = ask(vm, args.qmp, vms) if args.qmp is not None else None
        vms = [vm]
    if args.json:
        rows = to_json(vms)
        print(json.dumps([row | {"qmp": said} for row in rows] if said else rows, indent=2))
        return 0
    if not vms:
        print("vtrace: no guest runs on this host, or none that can be seen", file=sys.stderr)
        return 0
    for number, vm in enumerate(vms):
        if number:
            print()
        for line in lines_of(vm):
            print(line.rstrip())
    if said is not None:
        print("\n" + "\n".join(lines_of_answers(said)))
    return 0


def lines_of(vm: Vm) -> Iterator[str]:
    """Yield what is printed of a VM, safe for a terminal."""
    yield heading(vm)
    rows = [row for device in vm.devices for row in rows_of(device)]
    if rows:
        yield ""
        yield from table(COLUMNS, rows)
    if vm.threads:
        yield ""
        yield from table(("THREAD", "ROLE", "NAME", "KIND"), map(thread_row, vm.threads))
    untraced = [d for d in vm.devices if not d.traced]
    if untraced:
        yield ""
        yield "  seen, not traced:"
        for device in untraced:
            yield f"    {clean(device.id)}: {clean(device.untraced)}"
    remarks = list(remarks_of(vm))
    if remarks:
        yield ""
        yield "  not all is known:" if vm.seen != "all" else "  notes:"
        for remark in remarks:
            yield f"    {remark}"


def heading(vm: Vm) -> str:
    parts = [f"pid {vm.pid}"]
    program = clean(vm.exe.rpartition("/")[2] or "?")
    parts.append(f"QEMU {clean(vm.version)}" if vm.version else program)
    parts.append(clean(vm.accel) if vm.accel != "unknown" else "accelerator ?")
    count = "?" if vm.vcpus is None else str(vm.vcpus)
    parts.append(f"{count} vCPU" + ("" if vm.vcpus == 1 else "s"))
    if vm.machine:
        parts.append(clean(vm.machine))
    if vm.uuid:
        parts.append(clean(vm.uuid))
    if vm.container:
        parts.append(f"container {clean(vm.container)}")
    return f"{clean(vm.name)}  " + " · ".join(parts)


def rows_of(device: Device) -> Iterator[tuple[str, ...]]:
    address = clean(device.address) if device.address else "?"
    if device.address_source == "derived":
        address = f"~{address}"
    driver = clean(device.driver) or "?"
    first = (clean(device.id), driver, address)
    net = net_cells(device.net, device.kind)
    if not device.queues:
        missing = "-" if device.untraced and not device.missing else "?"
        yield (*first, missing, missing, missing, "-", *net)
        return
    for queue in device.queues:
        yield (*first, *queue_cells(queue), *net)
        # What holds for the whole device stands in its first line alone.
        first, net = ("", "", ""), ("", "", "", "")


def queue_cells(queue: Virtqueue) -> tuple[str, str, str, str]:
    ring = f"{queue.size or '?'} {queue.ring}"
    tid = "?" if queue.tid is None else str(queue.tid)
    if queue.tid is None and queue.backend in {"vhost-user", "vdpa"}:
        tid = "-"
    name = f"{queue.name} {clean(queue.port)}" if queue.port else queue.name
    return name, queue.backend, ring, tid


def net_cells(net: NetBackend | None, kind: str) -> tuple[str, str, str, str]:
    if net is None:
        return ("none" if kind == "net" else "-", "-", "-", "-")
    if net.type not in {"tap", "bridge", "macvtap"}:
        return (f"({clean(net.type)})", "-", "-", "-")
    name = clean(net.interface) or "?"
    if net.type == "macvtap":
        name = f"{name} (macvtap)"
    return name, shown(net.vnet_hdr), number(net.txqueuelen), offloads(net)


def offloads(net: NetBackend) -> str:
    if net.offloads is None:
        return "?"
    return ",".join(SHORT[n] for n in SHORT if net.offloads.get(n)) or "none"


def thread_row(thread: Thread) -> tuple[str, ...]:
    role = thread.role
    if thread.vcpu is not None:
        role = f"{role} {thread.vcpu}"
    if thread.iothread:
        role = f"{role} {clean(thread.iothread)}"
    return str(thread.tid), role, clean(thread.comm), thread.kind


def remarks_of(vm: Vm) -> Iterator[str]:
    for reason in vm.missing:
        yield clean(reason)
    for device in vm.devices:
        reasons = [*device.notes, *device.missing, *(device.net.missing if device.net else ())]
        for reason in reasons:
            yield f"{clean(device.id)}: {clean(reason)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield aligned lines; no column is wider than it must be."""
    cut = [[clean(cell, WIDEST) for cell in row] for row in [head, *rows]]
    widths = [max(cells(row[n]) for row in cut) for n in range(len(head))]
    for row in cut:
        padded = (c + " " * (w - cells(c)) for c, w in zip(row, widths, strict=True))
        yield "  " + "  ".join(padded)


def shown(value: bool | None) -> str:
    return "?" if value is None else "on" if value else "off"


def number(value: int | None) -> str:
    return "?" if value is None else str(value)
