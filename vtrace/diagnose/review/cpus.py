"""Where the workers run, who else does, and what limits their time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vtrace.diagnose.findings import Review
from vtrace.diagnose.review.values import listed, mapping, number, quoted

if TYPE_CHECKING:
    from vtrace.diagnose.review.host import Host, Nic, Thread

__all__ = ["RULES"]

STARVED: Final = ("R5b", "R5d", "T3")


def shared(host: Host) -> Iterator[Review]:
    """Raise a worker that has no CPU but those that vCPUs are pinned to."""
    if len(host.online) < 2:
        return
    pinned = [
        thread
        for thread in host.threads
        if thread.role == "vcpu" and thread.cpus and thread.cpus < host.online
    ]
    taken = frozenset[int]().union(*(thread.cpus or () for thread in pinned))
    free = host.online - taken
    for nic, server in each_server(host):
        if not server.cpus:
            continue
        near = [thread for thread in pinned if thread.cpus and thread.cpus & server.cpus]
        crowd = frozenset[int]().union(*(thread.cpus or () for thread in near))
        # With more CPUs than vCPUs on them one is left for the worker.
        if not near or not server.cpus <= crowd or len(crowd) > len(near):
            continue
        lost = host.found(nic, *STARVED)
        whom = ", ".join(name_of(thread, nic) for thread in near[:4])
        more = f" and {len(near) - 4} more" if len(near) > 4 else ""
        yield Review(
            code="C-affinity",
            text=(
                f"The worker of {nic.device} may run on CPU {listed(server.cpus)} only, and so do"
                f" {whom}{more}: while they compute, packets wait for it."
                + ("" if free else f" All of the {len(host.online)} CPUs are taken by vCPUs.")
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"CPUs of the worker, thread {server.tid}",
            current=listed(server.cpus),
            proposed=listed(free) if free else "a CPU without a vCPU",
            command=pinning(nic, server, listed(free)) if free else "",
            weight=2 if lost else 1,
        )


def real_time(host: Host) -> Iterator[Review]:
    """Raise a worker that threads of real-time priority can keep from running at all."""
    above = [thread for thread in host.threads if thread.real_time and thread.cpus]
    for nic, server in each_server(host):
        if server.real_time or not server.cpus:
            continue
        # One thread runs on one CPU at a time: as many as there are CPUs can take them all.
        inside = [t for t in above if t.cpus and t.cpus & server.cpus]
        if len(inside) < len(server.cpus):
            continue
        priority = max(max(thread.rt_priority for thread in inside), 1)
        yield Review(
            code="C-affinity",
            text=(
                f"{name_of(inside[0], nic)} has real-time priority on CPU {listed(server.cpus)},"
                f" the worker of {nic.device} has not: as long as it computes, no packet passes."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"scheduling of the worker, thread {server.tid}",
            current=server.policy or "other",
            proposed=f"fifo {priority}",
            command=f"chrt -f -p {priority} {server.tid}",
            weight=2,
        )


def low_priority(host: Host) -> Iterator[Review]:
    """Raise a worker that gives way to all others."""
    for nic, server in each_server(host):
        idle = server.policy in {"idle", "batch"}
        if not idle and server.nice <= 0:
            continue
        yield Review(
            code="C-affinity",
            text=(
                f"The worker of {nic.device} gives way to other threads of its CPUs: each burst of"
                " theirs is a delay of its packets."
            ),
            vm=nic.vm,
            device=nic.device,
            setting=f"scheduling of the worker, thread {server.tid}",
            current=server.policy if idle else f"nice {server.nice}",
            proposed="other" if idle else "nice 0",
            command=(f"chrt -o -p 0 {server.tid}" if idle else f"renice -n 0 -p {server.tid}"),
            weight=2 if host.found(nic, *STARVED) else 1,
        )


def limited(host: Host) -> Iterator[Review]:
    """Raise a control group that has less CPU time than its vCPUs and workers can use."""
    groups = mapping(host.config.get("cgroups"))
    members = Counter(
        (thread.vm, path)
        for thread in host.threads
        if thread.role in {"vcpu", "vhost"}
        for path in with_parents(thread.cgroup)
    )
    limits: dict[str, list[tuple[float, int, str, int, int]]] = {}
    for (vm, path), count in members.items():
        group = mapping(groups.get(path))
        quota, period = (number(group.get(f"cpu_max_{x}_us")) for x in ("quota", "period"))
        if quota and period and quota < period * count:
            share = quota / period / count
            limits.setdefault(vm, []).append((share, count, path, quota, period))
    seen: set[tuple[str, str]] = set()
    for nic in host.nics:
        tight = limits.get(nic.vm)
        if not tight:
            continue
        _, count, path, quota, period = min(tight)
        if (nic.vm, path) in seen:
            continue
        seen.add((nic.vm, path))
        lost = host.found(nic, *STARVED, "T1")
        yield Review(
            code="C-cgroup",
            text=(
                f"{count} vCPUs and workers of {nic.vm} share {quota / period:g} CPUs: when they"
                f" used {quota / 1000:g} ms of each {period / 1000:g} ms all of them stand still"
                " until the next, and packets pile up."
            ),
            vm=nic.vm,
            device="",
            setting=f"cpu.max of {path}",
            current=f"{quota} {period}",
            proposed=f"max, or {period * count} {period}",
            command=lifting(path, period),
            weight=2 if lost else 1,
        )


def with_parents(path: str) -> Iterator[str]:
    """Yield a control group and those above it, but not the root."""
    while path.strip("/") and not path.endswith(":"):
        yield path
        path = path.rpartition("/")[0]


def each_server(host: Host) -> Iterator[tuple[Nic, Thread]]:
    """Yield each thread that carries packets once, with the first device that it serves."""
    seen: set[int] = set()
    for nic in host.nics:
        for server in host.servers(nic):
            if server.tid not in seen:
                seen.add(server.tid)
                yield nic, server


def name_of(thread: Thread, nic: Nic) -> str:
    owner = "" if thread.vm == nic.vm else f" of {thread.vm}"
    if thread.role == "vcpu":
        return f"vCPU {'?' if thread.vcpu is None else thread.vcpu}{owner}"
    return f"thread {thread.tid}{owner}"


def pinning(nic: Nic, server: Thread, cpus: str) -> str:
    """Return the command that moves a worker; libvirt keeps its own threads in a cpuset."""
    if "machine-qemu" in server.cgroup or "/libvirt" in server.cgroup:
        return f"virsh emulatorpin {quoted(nic.vm)} {cpus}"
    return f"taskset -cp {cpus} {server.tid}"


def lifting(path: str, period: int) -> str:
    root = "/sys/fs/cgroup"
    if path.startswith("cpu:"):
        file = f"{root}/cpu{path.removeprefix('cpu:').rstrip('/')}/cpu.cfs_quota_us"
        return f"echo -1 > {quoted(file)}"
    file = f"{root}{path.rstrip('/')}/cpu.max"
    return f"echo {quoted(f'max {period}')} > {quoted(file)}"


RULES: Final = (shared, real_time, low_priority, limited)
