"""What to type: a remedy for each code, with the current and the proposed value where known.

Commands are for a person to read and type; names of interfaces in them are quoted for a shell.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from vtrace.diagnose.findings import Burst, Remedy

if TYPE_CHECKING:
    from collections import Counter

    from vtrace.diagnose.places import Site
    from vtrace.diagnose.scene import Owner, Scene

__all__ = ["for_guest", "for_overflow", "for_sends", "for_site"]

MOST_TXQUEUELEN: Final = 10_000
"""A longer ring only adds delay: the value that distributions of OpenStack set."""


def for_overflow(
    scene: Scene,
    code: str,
    owner: Owner,
    limit: int | None,
    bursts: list[Burst],
    instead: Counter[int],
) -> list[Remedy]:
    """Return what helps against a full tap ring."""
    tap = owner.interface
    if code == "R5a":
        return [_longer_ring(tap, limit, bursts), _more_queues(scene, owner)]
    if code == "R5b":
        return _free_worker(scene, owner, instead)
    if code == "R5c":
        return [
            _receive_ring(scene, owner),
            Remedy(
                text="Look in the guest: is its interface up, are its interrupts on an idle vCPU,"
                " does softirq keep a vCPU busy?",
                command="grep -E 'virtio|CPU' /proc/interrupts; cat /proc/net/softnet_stat"
                "   # in the guest",
            ),
        ]
    if code == "R5d":
        return _run_vcpus(scene, owner)
    if code == "R5e":
        return [
            Remedy(
                text="Resume the guest, or let it use every queue of the tap.",
                command=f"virsh domstate {_name(owner)} --reason   # or: info status in QEMU's"
                " monitor",
            ),
            Remedy(
                text="A multiqueue tap needs its queues enabled in the guest.",
                command="ethtool -l eth0   # in the guest",
            ),
        ]
    if code == "R5f":
        return _tap_filter(tap)
    if code == "R10":
        return [
            Remedy(
                text="Let vhost-net serve the tap.",
                command="-netdev tap,...,vhost=on   # libvirt: <driver name='vhost'/>",
                current="vhost=off",
                proposed="vhost=on",
            ),
            _receive_ring(scene, owner),
        ]
    return []


def _tap_up(name: str) -> list[Remedy]:
    return [
        Remedy(
            text="Set the tap up.",
            command=f"ip link set dev {name} up",
            current="down",
            proposed="up",
        )
    ]


def _tap_filter(tap: str) -> list[Remedy]:
    return [
        Remedy(
            text="Take the filter off the tap, or let these packets through.",
            command=f"ip -d link show dev {shlex.quote(tap)}",
        )
    ]


def _longer_ring(tap: str, limit: int | None, bursts: list[Burst]) -> Remedy:
    largest = max((one.packets for one in bursts), default=0)
    need = (limit or 0) + largest
    proposed = 1000
    while proposed < need:
        proposed *= 2
    proposed = min(proposed, MOST_TXQUEUELEN)
    text = "Let the tap ring hold a whole burst; while it drains, packets wait longer."
    if limit and limit >= MOST_TXQUEUELEN:
        text = "The ring is long enough: what comes is more than one worker can take for long."
        return Remedy(text=text, current=str(limit))
    if need > MOST_TXQUEUELEN:
        text += " The largest burst is larger than a ring should be: slow the sender down too."
    return Remedy(
        text=text,
        command=f"ip link set dev {shlex.quote(tap)} txqueuelen {proposed}",
        current=f"txqueuelen {limit}" if limit else "",
        proposed=f"txqueuelen {proposed}",
    )


def _more_queues(scene: Scene, owner: Owner) -> Remedy:
    nic = _nic(scene, owner)
    queues = _number(nic.get("queues"))
    return Remedy(
        text="Spread flows over several queues, each with a vhost worker of its own; one flow"
        " stays on one queue.",
        command="-netdev tap,...,queues=N -device virtio-net-pci,...,mq=on,vectors=2N+2;"
        " ethtool -L eth0 combined N   # N: vCPUs",
        current=f"queues={queues}" if queues else "",
    )


def _free_worker(scene: Scene, owner: Owner, instead: Counter[int]) -> list[Remedy]:
    tids = scene.threads(owner.vm, "vhost")
    found = []
    for tid in tids[:1]:
        thread = _thread(scene, tid)
        cpus = thread.get("cpus")
        current = f"CPUs {_cpu_list(cpus)}" if isinstance(cpus, list) else ""
        found.append(
            Remedy(
                text="Give the worker a CPU on which nothing else is busy.",
                command=f"taskset -pc CPU {tid}",
                current=current,
                proposed="a CPU of its own",
            )
        )
    for tid, _ in instead.most_common(1):
        found.append(
            Remedy(
                text=f"Or move what ran instead, {scene.comm(tid)}, away from the worker's CPU.",
                command=f"taskset -pc CPU {tid}" if tid else "",
            )
        )
    found.append(
        Remedy(
            text="Look whether a cgroup limits the VM's CPU time; a worker that is a thread of QEMU"
            " (Linux 6.4 and later) is in it.",
            command="systemd-cgtop; cat /sys/fs/cgroup/.../cpu.max",
        )
    )
    return found


def _run_vcpus(scene: Scene, owner: Owner) -> list[Remedy]:
    tids = scene.threads(owner.vm, "vcpu")
    stopped = any(scene.thread_state(tid) in ("T", "t") for tid in tids)
    pid = _pid(scene, owner.vm)
    found = []
    if pid:
        found.append(
            Remedy(
                text="Continue QEMU: a signal or a debugger stopped it."
                if stopped
                else "Look what state QEMU and its vCPUs are in: stopped, or short of CPU.",
                command=f"kill -CONT {pid}"
                if stopped
                else f"ps -L -o tid,stat,psr,pcpu,comm -p {pid}",
                current="state T" if stopped else "",
                proposed="running" if stopped else "",
            )
        )
    found.append(
        Remedy(
            text="Give the vCPUs CPU time: fewer VMs on their CPUs, or pinned ones.",
            command=f"virsh vcpupin {_name(owner)} VCPU CPUS",
        )
    )
    return found


def _receive_ring(scene: Scene, owner: Owner) -> Remedy:
    current = _number(_nic(scene, owner).get("rx_queue_size")) or _ring(scene, owner)
    return Remedy(
        text="Let the guest's receive ring hold more, for the time in which the guest is late.",
        command="-device virtio-net-pci,...,rx_queue_size=1024"
        "   # libvirt: <driver rx_queue_size='1024'/>",
        current=f"rx_queue_size={current}" if current else "",
        proposed="rx_queue_size=1024",
    )


def for_site(scene: Scene, site: Site, reason: str, place: str, interface: str) -> list[Remedy]:
    """Return what helps against drops that ``kfree_skb`` showed."""
    name = shlex.quote(interface) if interface else "DEV"
    code = site.code
    if code in ("R2", "T9") and (
        reason == "NETFILTER_DROP" or place.startswith(("nft_", "nf_", "ipt_"))
    ):
        return [
            Remedy(
                text="Find the rule by its counter, and let these packets pass it.",
                command="nft -a list ruleset; nft monitor trace",
            )
        ]
    if code == "R2":
        return [
            Remedy(
                text="Look at what is attached to the interface: tc filters, XDP.",
                command=f"tc filter show dev {name} ingress; ip -d link show dev {name}; bpftool"
                " net list",
            )
        ]
    if code == "R3" and reason.startswith("QDISC_"):
        return [
            Remedy(
                text="Let a port of the bridge forward, so that it has a carrier.",
                command=f"bridge -d link show; ip link show master {name}",
                current="no carrier",
                proposed="a port in state forwarding",
            )
        ]
    if code == "R3" or (code == "T9" and place.startswith(("br_", "__br_"))):
        return [
            Remedy(
                text="Let the port forward; look at STP state, VLANs and isolation.",
                command=f"bridge -d link show dev {name}; bridge vlan show",
                current=_port_state(scene, interface),
                proposed="state forwarding" if _port_state(scene, interface) else "",
            )
        ]
    if code in ("R4", "T10"):
        kind = _qdisc(scene, interface)
        return [
            Remedy(
                text="Give the qdisc a higher limit or rate, or take it away.",
                command=f"tc -s qdisc show dev {name}; tc qdisc replace dev {name} root pfifo_fast",
                current=kind,
                proposed="pfifo_fast" if kind else "",
            )
        ]
    if code == "R12":
        return [
            Remedy(
                text="See why the guest does not answer for its address: is it up, is the address"
                " its own, does ARP or ND reach it?",
                command=f"ip neigh show dev {name}",
            )
        ]
    if code == "T11":
        limit = _sysctl(scene, "net.core.rmem_max")
        return [
            Remedy(
                text="Read faster, or give the socket a larger buffer (SO_RCVBUF, up to rmem_max).",
                command="sysctl -w net.core.rmem_max=8388608   # and SO_RCVBUF in the application",
                current=f"net.core.rmem_max={limit}" if limit else "",
                proposed="net.core.rmem_max=8388608",
            ),
            Remedy(text="See which socket it is: column d of skmem.", command="ss -uanmp"),
        ]
    if code == "T13":
        return [
            Remedy(
                text="Start the receiver, or send to where one listens.",
                command="ss -uanp",
            )
        ]
    if code == "T8":
        return _tap_up(name)
    if code == "R1":
        limit = _sysctl(scene, "net.core.netdev_max_backlog")
        return [
            Remedy(
                text="Let each CPU queue more packets, and spread them over more CPUs.",
                command="sysctl -w net.core.netdev_max_backlog=10000",
                current=f"net.core.netdev_max_backlog={limit}" if limit else "",
                proposed="net.core.netdev_max_backlog=10000",
            )
        ]
    if code == "R5f":
        return _tap_filter(site.owner.interface)
    if code == "R6":
        return [
            Remedy(
                text="Take segmentation off the tap, and see the kernel's log: a packet did not fit"
                " the guest's buffers.",
                command=f"ethtool -K {name} tso off gso off gro off; dmesg | grep -i tun",
            )
        ]
    return [
        Remedy(
            text=f"Look up what {reason or 'this drop'} in {place} means for this host.",
            command="nstat -az; ip -s -s link show",
        )
    ]


def for_sends(scene: Scene, code: str, owner: Owner) -> list[Remedy]:
    """Return what helps where the tap did not let frames in."""
    name = shlex.quote(owner.interface)
    link = scene.link(owner.interface)
    if code == "T4":
        return [
            Remedy(
                text="Lift the limit on what the tap may hold.",
                command="-netdev tap,...,sndbuf=0",
                proposed="sndbuf=0",
            )
        ]
    if code == "T8":
        return _tap_up(name)
    if code == "T7":
        return [
            Remedy(
                text="The tap's queue went away under vhost: attach it again, and restart the"
                " guest's interface; chains of the failed batches do not come back.",
                command=f"ip -d link show dev {name}",
            )
        ]
    if code == "T6" and link.get("xdp"):
        return [
            Remedy(
                text="An XDP program is attached to the tap: take it off, or let it pass these.",
                command=f"ip link set dev {name} xdp off",
                current="xdp attached",
                proposed="none",
            )
        ]
    return [
        Remedy(
            text="See what is attached to the tap (XDP), and its error counters.",
            command=f"ip -s -s -d link show dev {name}; bpftool net list",
        )
    ]


def for_guest(code: str) -> list[Remedy]:
    """Return what helps in the guest."""
    if code == "R8":
        return [
            Remedy(
                text="Read faster, or give the socket a larger buffer (SO_RCVBUF, up to rmem_max).",
                command="sysctl -w net.core.rmem_max=8388608 net.core.rmem_default=1048576"
                "   # in the guest",
                proposed="net.core.rmem_max=8388608",
            ),
            Remedy(
                text="A sender without pauses outruns any buffer: pace it, or let QEMU serve the"
                " queue (vhost=off), which slows a sender on the same host.",
            ),
        ]
    if code == "R9":
        return [
            Remedy(
                text="Start the receiver, or send to where one listens.",
                command="ss -uan   # in the guest",
            )
        ]
    return [
        Remedy(
            text="See the guest driver's counters, and whether the guest is short of memory.",
            command="ethtool -S eth0; nstat -az   # in the guest",
        )
    ]


def _nic(scene: Scene, owner: Owner) -> Mapping[str, Any]:
    nics = scene.section("config").get("nics")
    of_vm = nics.get(owner.vm) if isinstance(nics, Mapping) else None
    nic = of_vm.get(owner.device) if isinstance(of_vm, Mapping) else None
    return nic if isinstance(nic, Mapping) else {}


def _number(value: Any) -> int:
    # As QEMU's command line has it, or as a number; 0 where it is neither.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if type(value) is int else 0


def _ring(scene: Scene, owner: Owner) -> int:
    for queue in scene.section("queues").values():
        if queue.get("interface") == owner.interface and queue.get("direction") == "rx":
            return int(queue.get("size") or 0)
    return 0


def _thread(scene: Scene, tid: int) -> Mapping[str, Any]:
    threads = scene.section("config").get("threads")
    found = threads.get(str(tid)) if isinstance(threads, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _cpu_list(cpus: list[Any]) -> str:
    return ",".join(str(cpu) for cpu in cpus[:16] if isinstance(cpu, int))


def _pid(scene: Scene, vm: str) -> int:
    for one in scene.section("vms") or ():
        if isinstance(one, dict) and one.get("name") == vm and isinstance(one.get("pid"), int):
            return int(one["pid"])
    return 0


def _name(owner: Owner) -> str:
    return shlex.quote(owner.vm) if owner.vm else "VM"


def _sysctl(scene: Scene, name: str) -> str:
    values = scene.section("config").get("sysctls")
    found = values.get(name) if isinstance(values, Mapping) else None
    return str(found) if isinstance(found, int | str) else ""


def _qdisc(scene: Scene, interface: str) -> str:
    found = scene.link(interface).get("qdisc")
    return str(found) if isinstance(found, str) else ""


def _port_state(scene: Scene, interface: str) -> str:
    port = scene.link(interface).get("bridge_port")
    state = port.get("state") if isinstance(port, Mapping) else None
    return f"state {state}" if state is not None else ""
