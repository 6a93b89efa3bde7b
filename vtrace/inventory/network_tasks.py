"""Where the threads of guests may run, what limits their CPU time, and settings in /proc/sys."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrace.inventory.processes import decoded, read

if TYPE_CHECKING:
    from vtrace.inventory.nouns import Vm

__all__ = ["Tasks", "cpus_in", "cpus_online", "kernel_of", "sysctls_here", "tasks_of"]

POLICIES = {0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline", 7: "ext"}
MOST_THREADS = 4096
SYSCTLS = (
    "net.core.default_qdisc",
    "net.core.dev_weight",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.netdev_max_backlog",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.ip_forward",
    "net.ipv4.neigh.default.gc_thresh3",
    "net.ipv4.neigh.default.unres_qlen_bytes",
    "net.ipv4.udp_mem",
    "net.ipv4.udp_rmem_min",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.neigh.default.gc_thresh3",
)
NOT_EVERYWHERE = ("net.bridge.", "net.ipv6.")
"""There only with their module."""
PARAMETERS = (
    ("vhost", "max_mem_regions"),
    ("vhost", "max_iotlb_entries"),
    ("vhost", "fork_from_owner_default"),
    ("vhost_net", "experimental_zcopytx"),
    ("kvm", "halt_poll_ns"),
)


@dataclass(slots=True)
class Tasks:
    """Threads of guests, and the control groups that they are in."""

    threads: dict[str, dict[str, Any]] = field(default_factory=dict)
    cgroups: dict[str, dict[str, Any]] = field(default_factory=dict)
    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def tasks_of(vms: Sequence[Vm], proc: Path, sys: Path) -> Tasks:
    """Return what is set for the threads of these guests."""
    found = Tasks(modules=parameters_of(sys))
    for vm in vms:
        for thread in vm.threads:
            if len(found.threads) >= MOST_THREADS:
                found.missing.append(f"threads beyond the first {MOST_THREADS}")
                return found
            made = thread_of(proc / str(thread.tid))
            if made is None:
                continue
            made |= {"vm": vm.name, "pid": vm.pid, "role": str(thread.role), "comm": thread.comm}
            if thread.vcpu is not None:
                made["vcpu"] = thread.vcpu
            found.threads[str(thread.tid)] = made
            for path in {made.get("cgroup"), made.get("cpuset")}:
                add_cgroups(found, path, sys)
    return found


def thread_of(place: Path) -> dict[str, Any] | None:
    # /proc/TID is there for every thread, though only processes are listed.
    head, bracket, tail = decoded(read(place / "stat")).rpartition(")")
    fields = tail.split()
    if not (head and bracket) or len(fields) < 39:
        return None
    made: dict[str, Any] = {}
    try:
        made = {
            "policy": POLICIES.get(int(fields[38]), fields[38]),
            "nice": int(fields[16]),
            "rt_priority": int(fields[37]),
        }
    except ValueError:
        return None
    for line in decoded(read(place / "status")).splitlines():
        if line.startswith("Cpus_allowed_list:"):
            made["cpus"] = cpus_in(line.partition(":")[2])
    for hierarchy, controllers, path in cgroup_lines(place):
        if hierarchy == "0":
            made.setdefault("cgroup", path)
        elif "cpu" in controllers:
            made["cgroup"] = f"cpu:{path}"
        elif "cpuset" in controllers:
            made["cpuset"] = f"cpuset:{path}"
    return made


def cgroup_lines(place: Path) -> Iterator[tuple[str, list[str], str]]:
    for line in decoded(read(place / "cgroup")).splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield parts[0], parts[1].split(","), parts[2]


def add_cgroups(found: Tasks, path: str | None, sys: Path) -> None:
    """Add a control group and those above it; a limit of any of them holds for all below."""
    while path and path not in found.cgroups:
        made = cgroup_of(path, sys)
        if made is None:
            found.missing.append(f"control group {path}: not visible from here")
            return
        found.cgroups[path] = made
        above = path.rpartition("/")[0]
        if above in {"", "cpu:", "cpuset:"}:
            return
        path = above


def cgroup_of(path: str, sys: Path) -> dict[str, Any] | None:
    """Return the limits of a control group: ``/a/b`` of version 2, ``cpu:/a/b`` of version 1."""
    root = sys / "fs" / "cgroup"
    controller, colon, rest = path.partition(":")
    version1 = bool(colon) and controller in {"cpu", "cpuset"}
    if version1:
        place = root / controller / rest.lstrip("/")
    else:
        unified = root / "unified"
        place = (unified if unified.is_dir() else root) / path.lstrip("/")
    if ".." in place.parts or not place.is_dir():
        return None
    made: dict[str, Any] = {}
    if version1 and controller == "cpu":
        quota = number(place / "cpu.cfs_quota_us")
        period = number(place / "cpu.cfs_period_us")
        if quota is not None and quota > 0:
            made["cpu_max_quota_us"] = quota
        if period is not None:
            made["cpu_max_period_us"] = period
    elif version1:
        made["cpus"] = cpus_in(text(place / "cpuset.cpus"))
    else:
        quota_text, _, period_text = text(place / "cpu.max").partition(" ")
        if quota_text.isdigit():
            made["cpu_max_quota_us"] = int(quota_text)
        if period_text.isdigit():
            made["cpu_max_period_us"] = int(period_text)
        if (weight := number(place / "cpu.weight")) is not None:
            made["cpu_weight"] = weight
        if cpus := cpus_in(text(place / "cpuset.cpus.effective")):
            made["cpus"] = cpus
    return made


def cpus_in(listed: str) -> list[int]:
    """Return the CPUs of a list like ``0-2,5``; empty where it is none."""
    cpus: set[int] = set()
    for part in listed.strip().split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            continue
        end = int(last) if dash else int(first)
        cpus.update(range(int(first), min(end, int(first) + 8192) + 1))
    return sorted(cpus)


def cpus_online(sys: Path) -> list[int]:
    """Return the CPUs that run."""
    return cpus_in(text(sys / "devices" / "system" / "cpu" / "online"))


def sysctls_here(proc: Path, missing: list[str]) -> dict[str, int | str]:
    """Return settings of the network; /proc/sys shows those of the namespace of the reader."""
    found: dict[str, int | str] = {}
    absent = []
    for name in SYSCTLS:
        place = proc / "sys" / name.replace(".", "/")
        value = " ".join(text(place).split())
        if value:
            found[name] = int(value) if value.lstrip("-").isdigit() else value
        elif not name.startswith(NOT_EVERYWHERE) and not os.access(place, os.F_OK):
            absent.append(name)
    if absent:
        missing.append(f"not in this network namespace: {', '.join(absent)}")
    return found


def parameters_of(sys: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for module, name in PARAMETERS:
        if value := text(sys / "module" / module / "parameters" / name):
            found.setdefault(module, {})[name] = value
    return found


def kernel_of(sys: Path) -> dict[str, bool]:
    """Return what the kernel has that no version tells; empty where its types are not readable."""
    place = sys / "kernel" / "btf"
    types = read(place / "vhost")
    if not types and (sys / "module" / "vhost").is_dir():
        types = read_all(place / "vmlinux")  # built in
    # Since Linux commit 779bcdd4b9ae ("vhost: rewind next_avail_head while discarding
    # descriptors"). Names stand in the types as they are.
    name = "vhost_get_vq_desc_n"
    return {name: f"\0{name}\0".encode() in types} if types else {}


def read_all(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def text(path: Path) -> str:
    # /proc/sys refuses to be read with a buffer as large as ``processes.read`` has (ENOMEM).
    try:
        with path.open("rb") as file:
            return decoded(file.read(1 << 16)).strip()
    except OSError:
        return ""


def number(path: Path) -> int | None:
    try:
        return int(text(path))
    except ValueError:
        return None
