"""Who is who in a recording: queues, taps, bridges, threads, and the addresses of the guests.

All of it comes from the recording's metadata, which may be partial or garbled: what is not there is
empty, and nothing here raises.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vtrace.flows import V4_MAPPED, Known

if TYPE_CHECKING:
    from vtrace.diagnose.tally import Cell
    from vtrace.tables import Names

__all__ = ["Owner", "Scene"]

MAX_ADDRESSES: Final = 1 << 14
"""Guest addresses that are remembered; more is a scan, not a guest."""

Address = tuple[int, int]
"""High and low half, IPv4 as ::ffff:a.b.c.d."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A VM's network device, or an interface of the host that none has."""

    vm: str = ""
    device: str = ""
    interface: str = ""

    @property
    def name(self) -> str:
        """The device for a sentence: ``nic0 of cpx``."""
        return f"{self.device} of {self.vm}" if self.vm and self.device else self.interface


class Scene:
    """What the ids and addresses of a recording stand for."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.macs: dict[int, Owner] = {}
        """MAC address -> the guest's device that has it."""
        self.addresses: dict[Address, Owner] = {}
        """IP address -> the guest's device behind which it is."""
        self.taps: dict[str, Owner] = {}
        """Interface -> the device whose tap it is."""
        self.vhost: dict[str, bool | None] = {}
        """Interface -> whether vhost serves the tap, as the inventory has it."""

    # -- ids ------------------------------------------------------------------------------------

    def section(self, name: str) -> Any:
        """Return a section of the metadata, or an empty dict."""
        return self._names.metadata.section(name)

    def queue(self, number: int) -> Mapping[str, Any]:
        """Return the queue table's row of an id."""
        return self._names.queue(number)

    def owner(self, number: int) -> Owner:
        """Return whose queue or interface an id is."""
        queue = self.queue(number)
        interface = str(queue.get("interface") or "")
        known = self.taps.get(interface)
        vm = str(queue.get("vm") or "")
        if vm and queue.get("role") != "interface":
            return Owner(vm, str(queue.get("device") or ""), interface)
        return known or Owner("", str(queue.get("device") or interface), interface)

    def queue_name(self, number: int) -> str:
        """Return a queue's role: rx0, tx0; empty for an interface."""
        return str(self.queue(number).get("name") or "")

    def reason(self, number: int) -> str:
        """Return the kernel's name of a drop reason."""
        return self._names.reason(number)

    def place(self, number: int) -> str:
        """Return the function that dropped."""
        return self._names.place(number)

    def comm(self, tid: int) -> str:
        """Return the name of a thread, with its id."""
        thread = self._names.thread(tid)
        name = thread.get("comm") or self.section("comms").get(str(tid)) or ""
        return f"{name} ({tid})" if name else f"thread {tid}"

    def threads(self, vm: str, role: str) -> list[int]:
        """Return the threads of a VM that have a role: vcpu, vhost."""
        found = []
        for key, thread in self.section("threads").items():
            if key.isdigit() and thread.get("vm") == vm and thread.get("role") == role:
                found.append(int(key))
        for one in self._vms():
            if one.get("name") != vm:
                continue
            for thread in _dicts(one.get("threads")):
                tid = thread.get("tid")
                if thread.get("role") == role and isinstance(tid, int) and tid not in found:
                    found.append(tid)
        return found

    def attached(self, point: str) -> bool:
        """Tell whether a probe point was attached."""
        return any(
            isinstance(probe, Mapping) and probe.get("state") == "attached"
            for name, probe in self.section("probes").items()
            if str(name).rpartition(":")[2] == point or str(name).partition(":")[0] == point
        )

    def thread_state(self, tid: int) -> str:
        """Return the state of a thread at the last sample of it (R, S, D, T, ...), or nothing."""
        found = self.section("counters").get(f"thread/{tid}")
        return str(found.get("state") or "") if isinstance(found, Mapping) else ""

    def thread_vm(self, tid: int) -> str:
        """Return the VM of a thread; empty where it has none."""
        return str(self._names.thread(tid).get("vm") or "")

    # -- configuration --------------------------------------------------------------------------

    def link(self, name: str) -> Mapping[str, Any]:
        """Return what the configuration says of an interface."""
        links = self.section("config").get("links")
        found = links.get(name) if isinstance(links, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def is_bridge(self, name: str) -> bool:
        """Tell whether an interface is a bridge."""
        link = self.link(name)
        return link.get("kind") == "bridge" or "bridge" in link

    def master(self, name: str) -> str:
        """Return the bridge or bond that an interface is a port of; empty: none."""
        found = self.link(name).get("master")
        if isinstance(found, str) and found:
            return found
        for net in self._nets():
            if net.get("interface") == name:
                return str(net.get("master") or "")
        return ""

    def behind(self, interface: str) -> list[Owner]:
        """Return the guests' devices whose taps are, or are ports of, an interface."""
        found: list[Owner] = []
        if not interface:
            return found
        for tap, owner in self.taps.items():
            if tap == interface or self.master(tap) == interface:
                found.append(owner)
        # A VLAN or the like on top of a tap is named after it, or says so.
        if not found:
            under = self.link(interface).get("link")
            base = under if isinstance(under, str) and under else interface.split(".", 1)[0]
            if base != interface:
                return self.behind(base)
        return found

    def ring_size(self, tap: str) -> int | None:
        """Return how many packets a queue of a tap holds towards the guest."""
        found = self.link(tap).get("txqueuelen")
        if isinstance(found, int):
            return found
        for net in self._nets():
            if net.get("interface") == tap and isinstance(net.get("txqueuelen"), int):
                return int(net["txqueuelen"])
        return None

    def _vms(self) -> list[dict[str, Any]]:
        return list(_dicts(self.section("vms")))

    def _nets(self) -> Iterator[dict[str, Any]]:
        for vm in self._vms():
            for device in _dicts(vm.get("devices")):
                if isinstance(device.get("net"), dict):
                    yield device["net"]

    # -- addresses ------------------------------------------------------------------------------

    def learn(self, cells: Iterator[Cell]) -> None:
        """Learn whose the addresses are: from the inventory, neighbours, and what was seen."""
        for vm in self._vms():
            name = str(vm.get("name") or "")
            for device in _dicts(vm.get("devices")):
                net = device.get("net")
                if not isinstance(net, dict) or not net.get("interface"):
                    continue
                tap = str(net["interface"])
                self.taps[tap] = Owner(name, str(device.get("id") or ""), tap)
                self.vhost[tap] = net.get("vhost") if isinstance(net.get("vhost"), bool) else None
        for queue in self.section("queues").values():
            tap = str(queue.get("interface") or "")
            if tap and queue.get("vm") and queue.get("role") != "interface":
                owner = Owner(str(queue["vm"]), str(queue.get("device") or ""), tap)
                self.taps.setdefault(tap, owner)
                if queue.get("backend") == "vhost":
                    self.vhost[tap] = True
        self._learn_vhost_off()
        self._learn_configured()
        seen = list(cells)
        for cell in seen:
            if cell.from_guest:
                self._learn_mac(cell)
        for cell in seen:
            self._learn_address(cell)

    def _learn_vhost_off(self) -> None:
        # Of a guest that has ended the inventory knows nothing any more, the queue table does.
        served = {
            (str(queue.get("vm") or ""), str(queue.get("device") or ""))
            for queue in self.section("queues").values()
            if queue.get("backend") == "qemu" and queue.get("device_type") == "net"
        }
        for tap, owner in self.taps.items():
            if self.vhost.get(tap) is None and (owner.vm, owner.device) in served:
                self.vhost[tap] = False

    def _learn_configured(self) -> None:
        nics = self.section("config").get("nics")
        by_name = {(owner.vm, owner.device): owner for owner in self.taps.values()}
        for vm, devices in _items(nics):
            for device, nic in _items(devices):
                owner = by_name.get((vm, device))
                mac = _mac(nic.get("mac")) if isinstance(nic, Mapping) else None
                if owner and mac:
                    self.macs[mac] = owner
        for one in _dicts(self.section("config").get("neighbours")):
            mac, address = _mac(one.get("mac")), _address(one.get("address"))
            link = str(one.get("link") or "")
            owner = self.macs.get(mac or 0) or self.taps.get(link)
            if owner and address:
                self._add(address, owner)

    def _learn_mac(self, cell: Cell) -> None:
        owner = self.taps.get(self.owner(cell.queue).interface)
        mac = int(cell.flow["eth_src"])
        if owner and int(cell.flow["known"]) & Known.ETHERNET and not mac >> 40 & 1:
            self.macs.setdefault(mac, owner)

    def _learn_address(self, cell: Cell) -> None:
        flow = cell.flow
        known = int(flow["known"])
        if not known & (Known.IPV4 | Known.IPV6):
            return
        owner = self.taps.get(self.owner(cell.queue).interface)
        if not owner:
            return
        source = (int(flow["src_hi"]), int(flow["src_lo"]))
        target = (int(flow["dst_hi"]), int(flow["dst_lo"]))
        if cell.from_guest:
            self._add(source, owner)
        elif cell.to_guest:
            mac = int(flow["eth_dst"])
            whose = self.macs.get(mac)
            mine = whose == owner or (whose is None and not self.master(owner.interface))
            if mine and not mac >> 40 & 1:
                self._add(target, owner)

    def _add(self, address: Address, owner: Owner) -> None:
        if len(self.addresses) < MAX_ADDRESSES and not _is_group(address):
            self.addresses.setdefault(address, owner)


def _is_group(address: Address) -> bool:
    high, low = address
    if high == 0 and low >> 32 == V4_MAPPED >> 32:
        return low >> 28 & 0xF == 0xE or low & 0xFFFF_FFFF in (0, 0xFFFF_FFFF)
    return high >> 56 == 0xFF or (high, low) == (0, 0)


def _mac(text: object) -> int | None:
    if not isinstance(text, str):
        return None
    try:
        return int(text.replace(":", "").replace("-", ""), 16) & 0xFFFF_FFFF_FFFF
    except ValueError:
        return None


def _address(text: object) -> Address | None:
    if not isinstance(text, str):
        return None
    try:
        value = ipaddress.ip_address(text)
    except ValueError:
        return None
    if value.version == 4:
        return 0, V4_MAPPED | int(value)
    return int(value) >> 64, int(value) & (1 << 64) - 1


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (one for one in value if isinstance(one, dict)) if isinstance(value, list) else iter(())


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []
