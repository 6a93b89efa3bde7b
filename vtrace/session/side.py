"""A session read to its end, as one side of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vtrace.compare import DeviceSums, DropSum, ExitSum, QueueSide, Side
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.session.session import Session
    from vtrace.session.summary import Summary

__all__ = ["side_of"]


def side_of(session: Session, vms: list[str] | None = None, tree: str = "") -> Side:
    """Read a session to its end and return what is compared.

    Args:
        session: a recording.
        vms: these alone.
        tree: QEMU's memory tree of the VM (``info mtree -f``).

    Raises:
        UsageError: It cannot be told whose the tree is.
    """
    summary = session.summary()
    if tree:
        summary.use_tree(tree, vms[0] if vms and len(vms) == 1 else None)
    loss = session.loss()
    names = ("produced", "received", "lost", "pending", "late", "missed")
    devices = dict(_devices(session, vms))
    queues = tuple(_queues(session, summary, devices, vms))
    packets = _tap_packets(session, summary, vms)
    return Side(
        source=clean(str(getattr(session.source, "name", "live"))),
        duration_ns=_duration_ns(session),
        loss={name: getattr(loss, name) for name in names},
        damaged=bool(session.damage),
        queues=queues,
        exits=tuple(_exits(summary, vms)),
        interrupts=_interrupts(summary, vms),
        drops=tuple(
            DropSum(
                reason=row["reason"] or "no reason seen",
                location=row["location"] or "",
                device=row["device"],
                packets=row["packets"],
            )
            for row in summary.drops
        ),
        devices={names: str(device.get("kind", "")) for names, device in devices.items()},
        tap_packets=sum(packets.values()) if packets else None,
        taps=tuple(packets),
    )


def _wanted(vm: str, vms: list[str] | None) -> bool:
    return not vms or vm in vms


def _devices(
    session: Session, vms: list[str] | None
) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    section = session.metadata.sections.get("vms")
    for vm in section if isinstance(section, list) else ():
        if not isinstance(vm, Mapping) or not _wanted(str(vm.get("name", "")), vms):
            continue
        devices = vm.get("devices")
        for device in devices if isinstance(devices, list) else ():
            if isinstance(device, Mapping) and isinstance(device.get("id"), str):
                yield (str(vm.get("name", "")), str(device["id"])), device


def _queues(
    session: Session,
    summary: Summary,
    devices: Mapping[tuple[str, str], Mapping[str, Any]],
    vms: list[str] | None,
) -> Iterator[QueueSide]:
    for number, stats in sorted(session.tracker.stats().items()):
        queue = session.names.queue(number)
        vm, device = str(queue.get("vm", "")), str(queue.get("device", ""))
        if not _wanted(vm, vms):
            continue
        known = devices.get((vm, device), {}).get("kind", "")
        vhost_net = "net" if queue.get("backend") == "vhost" else ""
        yield QueueSide(
            vm=vm,
            device=device,
            queue=str(queue.get("name") or f"queue {number}"),
            kind=str(queue.get("device_type") or known or vhost_net),
            backend=str(queue.get("backend", "")),
            ring=str(queue.get("ring", "")),
            chains=stats.chains,
            packets=stats.packets,
            handed_back=stats.handed_back,
            starved=stats.starved,
            ambiguous=stats.ambiguous,
            kicks=stats.kicks,
            interrupts=stats.interrupts,
            stages=dict(stats.stages),
        )


def _exits(summary: Summary, vms: list[str] | None) -> Iterator[ExitSum]:
    # The section by device where the recording has sums; else what its events add up to.
    rows = summary.exits_by_device or summary.exits
    for row in rows:
        if _wanted(row["vm"], vms):
            yield ExitSum(
                vm=row["vm"],
                reason=row["reason"],
                device=row.get("device") or "",
                count=row["count"],
                total_ns=row["total_ns"],
                user_count=row.get("user_count"),
                user_ns=row.get("user_ns"),
            )


def _interrupts(summary: Summary, vms: list[str] | None) -> tuple[DeviceSums, ...] | None:
    if summary.interrupts is None:
        return None
    return tuple(
        DeviceSums(vm=row["vm"], device=row["device"], interrupts=row["count"])
        for row in summary.interrupts
        if _wanted(row["vm"], vms)
    )


def _tap_packets(session: Session, summary: Summary, vms: list[str] | None) -> dict[str, int]:
    # Each tap once, whoever names it: the inventory, or a queue.
    taps: dict[tuple[str, int | None], None] = {}
    for _, device in _devices(session, vms):
        net = device.get("net")
        if isinstance(net, Mapping) and net.get("type") == "tap" and net.get("interface"):
            netns = net.get("netns")
            taps[str(net["interface"]), netns if isinstance(netns, int) else None] = None
    if not taps:
        for queue in session.metadata.section("queues").values():
            if queue.get("interface") and queue.get("vm") and _wanted(str(queue["vm"]), vms):
                taps[str(queue["interface"]), None] = None
    found = {name: summary.counted.packets(name, netns) for name, netns in taps}
    return {clean(name): count for name, count in found.items() if count is not None}


def _duration_ns(session: Session) -> int:
    clock, end = session.metadata.sections.get("clock"), session.metadata.section("end")
    first = clock[0] if isinstance(clock, list) and clock else {}
    began = first.get("monotonic_ns") if isinstance(first, Mapping) else None
    ended = end.get("ended_ns") if isinstance(end, Mapping) else None
    if type(began) is int and type(ended) is int and 0 < began < ended:
        return max(ended - began, session.duration_ns)
    return session.duration_ns
