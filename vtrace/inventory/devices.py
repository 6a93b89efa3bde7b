"""The devices of a QEMU guest: from its command line, joined with files, links and threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vtrace.inventory.addresses import asked_place, derive
from vtrace.inventory.cmdline import CommandLine, Option, boolean
from vtrace.inventory.drivers import Driver, driver_of, queues_of
from vtrace.inventory.nets import Ends, asks_vhost, left_over, pairs_of, serving
from vtrace.inventory.nouns import (
    AddressSource,
    Backend,
    Device,
    NetBackend,
    Thread,
    ThreadRole,
    Virtqueue,
)
from vtrace.inventory.ports import ports_of
from vtrace.inventory.qom import paths_of
from vtrace.model import Ring

__all__ = ["Context", "devices_by_files", "devices_of"]

# Options that stand for a -device.
SHORT_FORMS = {"balloon": "virtio-balloon-pci", "virtfs": "virtio-9p-pci"}
UNTRACED = {
    "macvtap": "macvtap: there are probes for tun alone",
    "vhost-user": "vhost-user: another process serves its rings",
    "vhost-vdpa": "vDPA: hardware or its driver serves its rings",
    "vhost-scsi": "vhost-scsi: there are probes for vhost-net alone",
    "vhost-vsock": "vhost-vsock: there are probes for vhost-net alone",
    "vfio": "passed through: the guest drives the hardware itself",
    "emulated": "not virtio: it has no virtqueue",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What is known of a guest before its devices are."""

    pid: int
    line: CommandLine
    machine: str
    cpus: int | None
    """vCPUs at start, by -smp."""
    version: tuple[int, int] | None
    """Version of QEMU that the machine type stands for."""
    threads: Sequence[Thread]
    ends: Ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device as the command line asks for it."""

    option: Option
    driver: Driver
    net: NetBackend | None = None
    pairs: int = 1


def devices_of(context: Context) -> list[Device]:
    """Return the devices of a QEMU guest."""
    line, ends = context.line, context.ends
    netdevs = [(o.get("id"), ends.end(o), pairs_of(o)) for o in line.all("netdev")]
    by_id = {name: (end, pairs) for name, end, pairs in netdevs}
    found = [
        *board_display(line),
        *board_nics(context, by_id),
        *asked_devices(context, by_id),
        *drives(line),
    ]
    # In the order in which QEMU opens them, each once.
    nets = {id(end): end for _, end, _ in netdevs}
    nets |= {id(f.net): f.net for f in found if f.net is not None}
    given = ends.match_left_over(list(nets.values()))
    found = [replace(f, net=given.get(id(f.net), f.net)) for f in found]
    owners = workers_of(context, netdevs, found)
    places = derive(
        line,
        context.machine,
        [f.option for f in found if f.option.name in {"nic", "net"}],
        [f.option for f in found if f.option.name == "drive"],
    )
    paths = paths_of(line)
    names = Names(found)
    devices = []
    for one in found:
        key = id(one.option)
        name = names.of(one)
        devices.append(device_of(context, one, name, owners, places.get(key), paths.get(key, "")))
    used = {id(f.net) for f in found}
    unused = (given.get(id(end), end) for _, end, _ in netdevs)
    devices += [
        lone(end, names.next("net")) for end in unused if id(end) not in used and end.interface
    ]
    devices += devices_by_files(ends, start=names.counts["net"])
    return devices


def devices_by_files(ends: Ends, start: int = 0) -> list[Device]:
    """Return a device for each open tap that none on the command line claims."""
    devices = []
    for number, interface in enumerate(left_over(ends.files, ends.claimed), start):
        end = ends.filled(NetBackend(type="tap", interface=interface))
        devices.append(lone(end, f"net{number}"))
    return devices


def lone(end: NetBackend, name: str) -> Device:
    # An interface whose device was plugged in later, or is none of QEMU's.
    reason = (
        f"no device on the command line has {end.interface} (plugged in later?):"
        " its queues are not known"
    )
    return Device(id=name, named=False, kind="net", driver="", net=end, missing=(reason,))


class Names:
    """Names for devices without an id: the kind and the first free number."""

    def __init__(self, found: Sequence[Found]) -> None:
        self.given = {f.option.get("id") for f in found if f.option.name != "drive"}
        self.counts: Counter[str] = Counter()

    def of(self, one: Found) -> tuple[str, bool]:
        """Return the name of a device, and whether it was given."""
        name = one.option.get("id")
        kind = one.driver.kind
        if name and one.option.name in {"device", "nic"}:
            self.counts[kind] += 1
            return name, True
        return self.next(kind), False

    def next(self, kind: str) -> str:
        """Return a name of this kind that no device has."""
        while (name := f"{kind}{self.counts[kind]}") in self.given:
            self.counts[kind] += 1
        self.counts[kind] += 1
        return name


def board_display(line: CommandLine) -> Iterator[Found]:
    option, driver = line.last("vga"), driver_of("virtio-vga")
    if option is not None and driver is not None and option.text == "virtio":
        yield Found(option=option, driver=driver)


def board_nics(context: Context, netdevs: Mapping[str, tuple[NetBackend, int]]) -> Iterator[Found]:
    # NICs that the machine makes before all other devices: -nic, then -net nic.
    line, ends = context.line, context.ends
    for option in line.all("nic"):
        model = option.get("model") or default_nic(context.machine)
        driver = driver_of(nic_driver(model))
        if option.get("type") == "none" or driver is None:
            continue
        yield Found(option=option, driver=driver, net=ends.end(option), pairs=pairs_of(option))
    hosts = [o for o in line.all("net") if o.get("type") not in {"nic", "none"}]
    for option in line.all("net"):
        if option.get("type") != "nic":
            continue
        driver = driver_of(nic_driver(option.get("model") or default_nic(context.machine)))
        if driver is None:
            continue
        if (netdev := netdevs.get(option.get("netdev"))) is not None:
            yield Found(option=option, driver=driver, net=netdev[0])
            continue
        vlan = option.get("vlan", "0")
        taps = [ends.end(o, hub=True) for o in hosts if o.get("vlan", "0") == vlan]
        # A hub joins all of them; one is usual. A tap is what matters here.
        taps.sort(key=lambda end: end.type != "tap")
        yield Found(option=option, driver=driver, net=taps[0] if taps else None)


def nic_driver(model: str) -> str:
    return {"virtio": "virtio-net-pci"}.get(model, model)


def default_nic(machine: str) -> str:
    if machine.startswith(("virt", "s390", "microvm")):
        return "virtio-net-pci"
    return "e1000e" if "q35" in machine else "e1000"


def asked_devices(
    context: Context, netdevs: Mapping[str, tuple[NetBackend, int]]
) -> Iterator[Found]:
    for option in context.line.all(*SHORT_FORMS, "device"):
        driver = driver_of(model_of(option))
        if driver is None:
            continue
        net, pairs = netdevs.get(option.get("netdev"), (None, 1))
        if not boolean(option.get("mq", "off")):
            pairs = 1
        yield Found(option=option, driver=driver, net=net, pairs=pairs)


def model_of(option: Option) -> str:
    if option.name == "balloon" and option.get("type") != "virtio":
        return ""
    return SHORT_FORMS.get(option.name) or option.get("driver")


def drives(line: CommandLine) -> Iterator[Found]:
    for option in line.all("drive"):
        if option.get("if") == "virtio" and (driver := driver_of("virtio-blk-pci")):
            yield Found(option=option, driver=driver)


def workers_of(
    context: Context,
    netdevs: Sequence[tuple[str, NetBackend, int]],
    found: Sequence[Found],
) -> dict[tuple[str, int], int]:
    # vhost devices get their worker as QEMU opens them: netdevs in their order, one for each
    # queue pair, -nic, then devices in the kernel. Which is which is known only where the
    # numbers agree.
    owners: list[tuple[str, int]] = []
    for name, end, pairs in netdevs:
        if end.vhost:
            owners += [(name, pair) for pair in range(pairs)]
    for one in found:
        if one.option.name == "nic" and one.net and one.net.vhost:
            owners += [(one.net.id, pair) for pair in range(one.pairs)]
    for one in found:
        if one.driver.name in {"vhost-scsi", "vhost-vsock"}:
            owners.append((one.driver.name, 0))
    workers = [t.tid for t in context.threads if t.role == ThreadRole.VHOST]
    if len(workers) != len(owners):
        return {}
    return dict(zip(owners, workers, strict=True))


def device_of(
    context: Context,
    one: Found,
    name: tuple[str, bool],
    owners: dict[tuple[str, int], int],
    derived: str | None,
    qom: str,
) -> Device:
    option, driver = one.option, one.driver
    address, source = asked_place(option, driver.bus)
    if address is None and derived is not None:
        address, source = derived, AddressSource.DERIVED
    missing, notes = [], []
    if address is None:
        missing.append("no address on the command line: QEMU chose one")
    backend = backend_of(one)
    queues = queues_for(context, one, backend, owners)
    if driver.virtio and not queues:
        missing.append("its queues are not known")
    if queues and backend == Backend.VHOST and driver.kind == "net" and queues[0].tid is None:
        missing.append(
            "which vhost worker serves it: "
            + (
                "their number is not that of the queues"
                if any(t.role == ThreadRole.VHOST for t in context.threads)
                else "none is to be seen (processes of the kernel are hidden here)"
            )
        )
    if asked_in_vain(context, one):
        notes.append("vhost was asked for, and QEMU goes on without it")
    untraced = why_untraced(one)
    return Device(
        id=name[0],
        named=name[1],
        kind=driver.kind,
        driver=option.get("driver") if option.name == "device" else driver.name,
        bus=driver.bus,
        address=address,
        address_source=source,
        qom=qom,
        queues=queues,
        net=one.net,
        iothread=iothread_of(option),
        drive=drive_of(option),
        traced=not untraced,
        untraced=untraced,
        notes=tuple(notes),
        missing=tuple(missing),
    )


def asked_in_vain(context: Context, one: Found) -> bool:
    if one.net is None or one.net.vhost is not False or one.net.type != "tap":
        return False
    options = context.line.all("netdev", "nic", "net")
    source = next((o for o in options if o.get("id") == one.net.id), None)
    return source is not None and asks_vhost(source)


def backend_of(one: Found) -> str:
    name = one.driver.name
    if one.driver.kind == "net" and one.net is not None:
        return serving(one.net)
    if name.startswith("vhost-user-"):
        return Backend.VHOST_USER
    if name == "vhost-vdpa-device":
        return Backend.VDPA
    return Backend.VHOST if name.startswith("vhost-") else Backend.QEMU


def why_untraced(one: Found) -> str:
    name = one.driver.name
    if one.driver.kind == "vfio":
        return UNTRACED["vfio"]
    if not one.driver.virtio:
        return UNTRACED["emulated"]
    if name.startswith("vhost-user-"):
        return UNTRACED["vhost-user"]
    if name == "vhost-vdpa-device":
        return UNTRACED["vhost-vdpa"]
    if one.net is not None and one.net.type in UNTRACED:
        return UNTRACED[one.net.type]
    return UNTRACED.get(name, "")


def queues_for(
    context: Context,
    one: Found,
    backend: str,
    owners: dict[tuple[str, int], int],
) -> tuple[Virtqueue, ...]:
    option, driver = one.option, one.driver
    if not driver.virtio:
        return ()
    planned = queues_of(
        driver,
        option,
        pairs=one.pairs,
        wide_tx=backend in {Backend.VHOST_USER, Backend.VDPA},
        cpus=context.cpus,
        version=context.version,
        ports=ports_of(context.line, option),
    )
    packed = boolean(option.get("packed", "off"))
    key = one.net.id if one.net is not None else driver.name
    own = main_or_iothread(context, option)
    queues = []
    for index, queue in enumerate(planned):
        server: str = backend
        if queue.control and backend in {Backend.VHOST, Backend.VHOST_USER}:
            server = Backend.QEMU
        tid: int | None = None
        if server == Backend.QEMU:
            tid = own
        elif server == Backend.VHOST:
            tid = owners.get((key, index // 2 if driver.kind == "net" else 0))
        queues.append(
            Virtqueue(
                index=index,
                name=queue.name,
                direction=queue.direction,
                backend=server,
                ring=Ring.PACKED if packed else Ring.SPLIT,
                size=queue.size,
                size_source=queue.source,
                tid=tid,
                port=queue.port,
            )
        )
    return tuple(queues)


def drive_of(option: Option) -> str:
    if option.name == "drive":
        return option.get("id") or option.get("file")
    return option.get("drive")


def iothread_of(option: Option) -> str:
    mapped = [
        value
        for key, value in option.values.items()
        if key.startswith("iothread-vq-mapping.") and key.endswith(".iothread")
    ]
    return option.get("iothread") or ",".join(mapped)


def main_or_iothread(context: Context, option: Option) -> int | None:
    name = iothread_of(option)
    if not name:
        return context.pid
    # The kernel keeps 15 bytes of "IO <id>".
    short = name.encode()[:12].decode(errors="replace")
    known = [t for t in context.threads if t.role == ThreadRole.IOTHREAD]
    match = [t.tid for t in known if t.iothread in {name, short}]
    return match[0] if len(match) == 1 else None
