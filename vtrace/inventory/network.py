"""What of the host's configuration concerns packets to and from guests: section ``config``.

It is read from rtnetlink, /proc and /sys, each bounded in size and time; nothing is changed, and no
kernel module is loaded by looking. What could not be read is absent, with a sentence in
``missing``. An interface in a network namespace that is not ours is ``NAME@INODE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrace.inventory.netns import visit
from vtrace.inventory.network_nft import firewall_here
from vtrace.inventory.network_qemu import options_of
from vtrace.inventory.network_rtnl import (
    Namespace,
    namespace_here,
    namespace_of_sysfs,
)
from vtrace.inventory.network_tasks import cpus_online, kernel_of, sysctls_here, tasks_of
from vtrace.inventory.processes import inode_of

if TYPE_CHECKING:
    from vtrace.inventory.nouns import Vm

__all__ = ["snapshot"]

PROC = Path("/proc")
SYS = Path("/sys")
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


def snapshot(vms: Sequence[Vm], proc: Path = PROC, sys: Path = SYS) -> dict[str, Any]:
    """Return the section ``config``: JSON-able, and the same while nothing is changed.

    With other folders than this host's, interfaces are read from ``sys`` alone.

    Args:
        vms: The guests, as ``discover`` returns them.
        proc: Where /proc is.
        sys: Where /sys is.
    """
    missing: list[str] = []
    config: dict[str, Any] = {
        "links": {},
        "qdiscs": [],
        "neighbours": [],
        "routes": [],
        "sysctls": {},
        "firewall": {},
    }
    for inode, door, taps in namespaces_of(vms, proc):
        found = visited(door, inode, taps, proc, sys, missing)
        if found is None:
            continue
        mark = "" if inode is None else f"@{inode}"
        add_namespace(config, found, mark)
        missing += [
            f"{line} (network namespace {inode})" if mark else line for line in found.missing
        ]
    tasks = tasks_of(vms, proc, sys)
    options = options_of(vms, proc)
    config |= {"threads": tasks.threads, "cgroups": tasks.cgroups, "modules": tasks.modules}
    config |= {"netdevs": options.netdevs, "nics": options.nics}
    config["cpus"] = {"online": cpus_online(sys)}
    config["kernel"] = kernel_of(sys)
    config["missing"] = sorted({*missing, *tasks.missing, *options.missing})
    return config


def namespaces_of(
    vms: Sequence[Vm], proc: Path
) -> list[tuple[int | None, Path | None, frozenset[str]]]:
    # (inode, door, taps of guests in it): ours first, without inode and door.
    taps: dict[int | None, set[str]] = {None: set()}
    doors: dict[int, Path] = {}
    for vm in vms:
        for device in vm.devices:
            net = device.net
            if net is None or not net.interface:
                continue
            taps.setdefault(net.netns, set()).add(net.interface)
            if net.netns is not None:
                doors.setdefault(net.netns, proc / str(vm.pid) / "ns" / "net")
    return [
        (inode, doors[inode] if inode is not None else None, frozenset(names))
        for inode, names in taps.items()
    ]


def visited(
    door: Path | None,
    inode: int | None,
    taps: frozenset[str],
    proc: Path,
    sys: Path,
    missing: list[str],
) -> Namespace | None:
    def look() -> Namespace:
        if door is not None and inode_of(proc / "thread-self" / "ns" / "net") != inode:
            raise FileNotFoundError
        if (proc, sys) != (PROC, SYS):
            return namespace_of_sysfs(sys)
        absent: list[str] = []
        sysctls = sysctls_here(proc, absent)
        found = namespace_here(taps, sys, forwards=any(sysctls.get(name) for name in FORWARDING))
        found.sysctls = sysctls
        found.missing += absent
        found.firewall = firewall_here(proc, sys, found.missing)
        return found

    if door is None:
        return look()
    try:
        return visit(door, look)
    except FileNotFoundError:
        missing.append(f"network namespace {inode}: its process has gone")
    except PermissionError:
        missing.append(f"network namespace {inode}: needs root to enter")
    except OSError as error:
        missing.append(f"network namespace {inode}: {error}")
    return None


def add_namespace(config: dict[str, Any], found: Namespace, mark: str) -> None:
    for name, link in found.links.items():
        for key in ("master", "lower"):
            if link.get(key):
                link[key] += mark
        config["links"][name + mark] = link
    for section in ("qdiscs", "neighbours", "routes"):
        rows = getattr(found, section)
        for row in rows:
            row["link"] += mark
        config[section] += rows
    for name, value in found.sysctls.items():
        config["sysctls"][name + mark] = value
    for name, value in found.firewall.items():
        config["firewall"][name + mark] = value
