"""What QEMU was told of network devices: the options that decide how packets pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vtrace.inventory.cmdline import CommandLine, Option, parse
from vtrace.inventory.devices import default_nic, nic_driver
from vtrace.inventory.drivers import driver_of
from vtrace.inventory.nets import numbers_of, pairs_of
from vtrace.inventory.processes import argv_of

if TYPE_CHECKING:
    from vtrace.inventory.nouns import Device, Vm

__all__ = ["Options", "options_of"]

NETDEV = frozenset(
    ["type", "ifname", "vhost", "vhostforce", "sndbuf", "vnet_hdr", "queues", "poll-us", "br"]
)
NIC = frozenset(
    [
        "aer",
        "ats",
        "csum",
        "ctrl_guest_offloads",
        "ctrl_vq",
        "disable-legacy",
        "disable-modern",
        "event_idx",
        "failover",
        "gso",
        "hash",
        "in_order",
        "indirect_desc",
        "ioeventfd",
        "iommu_platform",
        "mac",
        "mq",
        "mrg_rxbuf",
        "notify_on_empty",
        "packed",
        "rss",
        "rx_queue_size",
        "speed",
        "tx",
        "tx_queue_size",
        "vectors",
        "x-txburst",
        "x-txtimer",
    ]
)
OFFLOAD = re.compile(r"^(?:guest|host)_[a-z0-9_]{1,24}$")
LONGEST = 120


@dataclass(slots=True)
class Options:
    """Options by VM, then by QEMU's id; values as they were given."""

    netdevs: dict[str, dict[str, dict[str, str | int]]] = field(default_factory=dict)
    nics: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def options_of(vms: Sequence[Vm], proc: Path) -> Options:
    """Return the options of all network devices of these guests."""
    found = Options()
    for vm in vms:
        argv = argv_of(proc / str(vm.pid))
        if len(argv) < 2:
            found.missing.append(f"options of {vm.name}: its command line is not readable")
            continue
        line = parse(argv)
        devices = [d for d in vm.devices if d.kind == "net" and d.driver]
        asked = list(asked_nics(line, vm.machine))
        if len(asked) != len(devices):
            found.missing.append(
                f"options of the network devices of {vm.name}: it has {len(devices)} devices for"
                f" {len(asked)} options"
            )
            asked, devices = [], []
        nics = found.nics.setdefault(vm.name, {})
        netdevs = found.netdevs.setdefault(vm.name, {})
        for option in line.all("netdev"):
            netdevs[option.get("id")] = netdev_of(option)
        for option, device in zip(asked, devices, strict=True):
            nics[device.id] = nic_of(option, device)
            if option.name == "nic":
                netdevs[device.net.id if device.net and device.net.id else device.id] = netdev_of(
                    option
                )
        for number, option in enumerate(o for o in line.all("net") if o.get("type") == "tap"):
            name = option.get("id") or option.get("name") or f"hub{number}"
            netdevs[name] = {**netdev_of(option), "hub": "on"}
    return found


def asked_nics(line: CommandLine, machine: str) -> Iterator[Option]:
    # In the order of the inventory: -nic, -net nic, then -device.
    for option in line.all("nic"):
        model = option.get("model") or default_nic(machine)
        if option.get("type") != "none" and driver_of(nic_driver(model)) is not None:
            yield option
    for option in line.all("net"):
        model = option.get("model") or default_nic(machine)
        if option.get("type") == "nic" and driver_of(nic_driver(model)) is not None:
            yield option
    for option in line.all("device"):
        driver = driver_of(option.get("driver"))
        if driver is not None and driver.kind == "net":
            yield option


def netdev_of(option: Option) -> dict[str, str | int]:
    chosen: dict[str, str | int] = {
        key: value[:LONGEST] for key, value in option.values.items() if key in NETDEV
    }
    if files := numbers_of(option, "fd", "fds"):
        chosen["files"] = len(files)
    if files := numbers_of(option, "vhostfd", "vhostfds"):
        chosen["vhost_files"] = len(files)
    chosen["pairs"] = pairs_of(option)
    return chosen


def nic_of(option: Option, device: Device) -> dict[str, str]:
    chosen = {
        key: value[:LONGEST]
        for key, value in option.values.items()
        if key in NIC or OFFLOAD.match(key)
    }
    if device.net is not None and device.net.id:
        chosen["netdev"] = device.net.id
    return {"driver": device.driver, **chosen}
