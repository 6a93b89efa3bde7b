"""The configuration as the rules read it: what is missing or makes no sense is None or empty.

It comes from a recording, and a recording from anyone: no value of it is taken for granted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtrace.diagnose.findings import Finding
from vtrace.diagnose.review.values import (
    MOST,
    cpus_of,
    flag,
    mapping,
    number,
    quoted,
    rows,
    word,
)
from vtrace.model import Queue

__all__ = ["Host", "Link", "Nic", "Thread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface."""

    key: str
    """Its name; ``NAME@INODE`` in a network namespace that is not ours."""
    kind: str = ""
    up: bool | None = None
    operstate: str = ""
    mtu: int | None = None
    txqueuelen: int | None = None
    master: str = ""
    lower: str = ""
    addresses: int = 0
    """How many it has."""
    offloads: Mapping[str, bool] = field(default_factory=dict)
    port: Mapping[str, Any] = field(default_factory=dict)
    bridge: Mapping[str, Any] = field(default_factory=dict)
    tap: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in its network namespace."""
        name, _, inode = self.key.rpartition("@")
        return name if name and inode.isdigit() else self.key

    @property
    def netns(self) -> str:
        """``@INODE``, or empty: ours."""
        return self.key[len(self.name) :]

    def offload(self, *names: str) -> bool | None:
        """Return whether any of these is on; None where none of them is known."""
        known = [self.offloads[name] for name in names if name in self.offloads]
        return any(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A thread that works for a VM."""

    tid: int
    role: str
    vm: str
    vcpu: int | None = None
    cpus: frozenset[int] | None = None
    policy: str = ""
    nice: int = 0
    rt_priority: int = 0
    cgroup: str = ""

    @property
    def real_time(self) -> bool:
        """Whether it goes before all that are not."""
        return self.policy in {"fifo", "rr", "deadline"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network device of a VM, and the host's end of it."""

    vm: str
    pid: int
    device: str
    driver: str
    accel: str
    vcpus: int | None
    interface: str
    type: str
    vhost: bool | None
    link: Link | None
    asked: Mapping[str, Any]
    """Options of ``-device`` as given."""
    backend: Mapping[str, Any]
    """Options of ``-netdev`` as given."""
    backend_id: str
    queues: tuple[Mapping[str, Any], ...]
    features: int | None
    """What the guest's driver acknowledged to vhost; None: not known, or no driver yet."""
    notes: tuple[str, ...]

    @property
    def virtio(self) -> bool:
        """Whether the guest drives it with virtqueues."""
        return self.driver.startswith("virtio-net")

    @property
    def pairs(self) -> int:
        """Queue pairs that the device offers."""
        return sum(word(q.get("direction")) == "rx" for q in self.queues)

    @property
    def mergeable(self) -> bool | None:
        """Whether a packet may take more than one receive buffer; None: not known."""
        if self.features:
            return bool(self.features >> 15 & 1)
        return False if flag(self.asked.get("mrg_rxbuf")) is False else None

    def netdev_option(self, text: str) -> str:
        """Return ``-netdev`` with this option changed, as QEMU takes it."""
        kind = f"tap,id={self.backend_id}" if self.backend_id else "tap,..."
        return f"-netdev {quoted(f'{kind},{text}')}"

    def device_option(self, text: str) -> str:
        """Return ``-device`` with this option changed, as QEMU takes it."""
        return f"-device {quoted(f'{self.driver},id={self.device},{text}')}"


class Host:
    """A host: its configuration, its guests, what was found in the same time."""

    def __init__(
        self,
        config: Any,
        vms: Any,
        queues: Any,
        findings: Sequence[Finding] = (),
        kernel: str = "",
    ) -> None:
        self.config = mapping(config)
        self.kernel = word(kernel)
        self.findings = [one for one in findings if isinstance(one, Finding)]
        self.links = dict(self._links())
        self.sysctls = mapping(self.config.get("sysctls"))
        self.online = cpus_of(mapping(self.config.get("cpus")).get("online")) or frozenset()
        self.threads = list(self._threads(vms))
        self._threads_of: dict[str, list[Thread]] = {}
        for thread in self.threads:
            self._threads_of.setdefault(thread.vm, []).append(thread)
        self._features = features_of(queues)
        self._ways: dict[str, list[Link]] = {}
        self.nics = list(self._nics(vms))
        self.taps = {nic.link.key for nic in self.nics if nic.link is not None}
        self._ports: dict[str, list[Link]] = {}
        for link in self.links.values():
            if link.key not in self.taps and not link.tap:
                self._ports.setdefault(link.master, []).append(link)

    def _links(self) -> Iterator[tuple[str, Link]]:
        for key, value in list(mapping(self.config.get("links")).items())[:MOST]:
            given = mapping(value)
            if given:
                yield key, link_of(key, given)

    def _threads(self, vms: Any) -> Iterator[Thread]:
        given = mapping(self.config.get("threads"))
        for vm in rows(vms):
            for thread in rows(vm.get("threads")):
                tid = number(thread.get("tid"))
                set_to = mapping(given.get(str(tid)))
                if tid is None:
                    continue
                nice = set_to.get("nice")
                yield Thread(
                    tid=tid,
                    role=word(thread.get("role")),
                    vm=word(vm.get("name")),
                    vcpu=number(thread.get("vcpu")),
                    cpus=cpus_of(set_to.get("cpus")),
                    policy=word(set_to.get("policy")),
                    nice=nice if isinstance(nice, int) and -20 <= nice <= 19 else 0,
                    rt_priority=number(set_to.get("rt_priority")) or 0,
                    cgroup=word(set_to.get("cgroup")),
                )

    def _nics(self, vms: Any) -> Iterator[Nic]:
        for vm in rows(vms):
            name = word(vm.get("name"))
            asked = mapping(mapping(self.config.get("nics")).get(name))
            backends = mapping(mapping(self.config.get("netdevs")).get(name))
            for device in rows(vm.get("devices")):
                net = mapping(device.get("net"))
                if word(device.get("kind")) != "net" or not net:
                    continue
                id_, backend_id = word(device.get("id")), word(net.get("id"))
                interface, netns = word(net.get("interface")), number(net.get("netns"))
                key = interface if netns is None else f"{interface}@{netns}"
                notes = device.get("notes")
                yield Nic(
                    vm=name,
                    pid=number(vm.get("pid")) or 0,
                    device=id_,
                    driver=word(device.get("driver")),
                    accel=word(vm.get("accel")),
                    vcpus=number(vm.get("vcpus")),
                    interface=interface,
                    type=word(net.get("type")),
                    vhost=flag(net.get("vhost")),
                    link=self._link_of(key, net) if interface else None,
                    asked=mapping(asked.get(id_)),
                    backend=mapping(backends.get(backend_id) or backends.get(id_)),
                    backend_id=backend_id,
                    queues=tuple(rows(device.get("queues"))),
                    features=self._features.get((name, id_)),
                    notes=tuple(map(word, notes)) if isinstance(notes, (list, tuple)) else (),
                )

    def _link_of(self, key: str, net: Mapping[str, Any]) -> Link:
        # Recordings without the section have what the inventory saw of it.
        if key in self.links:
            return self.links[key]
        tap = {name: net.get(name) for name in ("vnet_hdr", "multi_queue", "queues_enabled")}
        given = {name: net.get(name) for name in ("mtu_bytes", "txqueuelen", "operstate")}
        master = word(net.get("master"))
        netns = key[len(word(net.get("interface"))) :]
        return link_of(
            key,
            {
                **given,
                "kind": "tun",
                "master": master and master + netns,
                "offloads": net.get("offloads"),
                "tap": {name: value for name, value in tap.items() if value is not None},
            },
        )

    def found(self, nic: Nic | None, *codes: str) -> list[Finding]:
        """Return what was found with these codes, of this device; None: of any."""
        return [
            one
            for one in self.findings
            if one.code in codes
            and (
                nic is None
                or (
                    one.vm in {"", nic.vm}
                    and one.device in {"", nic.device, nic.interface, nic.link and nic.link.key}
                )
            )
        ]

    def found_at(self, link: Link, *codes: str) -> list[Finding]:
        """Return what was found with these codes at this interface."""
        return [one for one in self.findings if one.code in codes and one.device == link.key]

    def bridge_of(self, link: Link | None) -> Link | None:
        """Return the bridge that this is a port of."""
        master = self.links.get(link.master) if link is not None else None
        return master if master is not None and master.kind == "bridge" else None

    def ports_of(self, bridge: Link) -> list[Link]:
        """Return the ports of a bridge that are no guest's."""
        return list(self._ports.get(bridge.key, ()))

    def ways_out(self, nic: Nic) -> list[Link]:
        """Return the interfaces by which packets of a guest leave the host, or may."""
        if nic.link is None:
            return []
        bridge = self.bridge_of(nic.link)
        key = (nic.link if bridge is None else bridge).key
        if key not in self._ways:
            self._ways[key] = self._ways_by(nic.link, bridge)
        return self._ways[key]

    def _ways_by(self, tap: Link, bridge: Link | None) -> list[Link]:
        found = self.ports_of(bridge) if bridge is not None else []
        if bridge is None or bridge.addresses:
            found += self._routed(tap.netns, {tap.key, bridge.key if bridge else ""})
        for link in found:
            lower = self.links.get(link.lower)
            if lower is not None and lower not in found and link.kind != "veth":
                found.append(lower)
        return [link for link in found if link.name != "lo"]

    def _routed(self, netns: str, near: set[str]) -> list[Link]:
        forwarding = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
        if not any(number(self.sysctls.get(name + netns)) for name in forwarding):
            return []
        keys = {word(route.get("link")) for route in rows(self.config.get("routes"))}
        return [
            link
            for key in sorted(keys - near - self.taps)
            if (link := self.links.get(key)) is not None
            and link.netns == netns
            and link.kind not in {"tun", "bridge"}
        ]

    def servers(self, nic: Nic) -> list[Thread]:
        """Return the threads that carry packets for a device."""
        tids = {
            number(queue.get("tid"))
            for queue in nic.queues
            if word(queue.get("direction")) in {"rx", "tx"}
        } - {None}
        own = self._threads_of.get(nic.vm, [])
        found = [thread for thread in own if thread.tid in tids]
        if found or not nic.vhost:
            return found
        return [thread for thread in own if thread.role == "vhost"]

    def inside(self, link: Link) -> str:
        """Return what to put before a command to run it where this interface is."""
        if not link.netns:
            return ""
        pids = [n.pid for n in self.nics if n.link is not None and n.link.netns == link.netns]
        return f"nsenter -t {pids[0]} -n " if pids else ""


def link_of(key: str, given: Mapping[str, Any]) -> Link:
    addresses = given.get("addresses")
    offloads = mapping(given.get("offloads"))
    return Link(
        key=key,
        kind=word(given.get("kind")),
        up=flag(given.get("up")),
        operstate=word(given.get("operstate")).lower(),
        mtu=number(given.get("mtu_bytes")),
        txqueuelen=number(given.get("txqueuelen")),
        master=word(given.get("master")),
        lower=word(given.get("lower")),
        addresses=len(addresses) if isinstance(addresses, (list, tuple)) else 0,
        offloads={name: on for name, value in offloads.items() if (on := flag(value)) is not None},
        port=mapping(given.get("bridge_port")),
        bridge=mapping(given.get("bridge")),
        tap=mapping(given.get("tap")),
    )


def features_of(queues: Any) -> dict[tuple[str, str], int]:
    """Return what drivers acknowledged, by VM and device, from the table of queues."""
    given = queues.values() if isinstance(queues, Mapping) else queues
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        return {}
    found: dict[tuple[str, str], int] = {}
    for _, one in zip(range(MOST), given, strict=False):
        if isinstance(one, Queue):
            vm, device, features = one.vm, one.device, one.features
        else:
            row = mapping(one)
            vm, device = word(row.get("vm")), word(row.get("device"))
            features = row.get("features", 0)
        if isinstance(features, int) and 0 < features < 1 << 128:
            found[vm, device] = found.get((vm, device), 0) | features
    return found
