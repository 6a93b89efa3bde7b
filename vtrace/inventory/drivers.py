"""What QEMU's virtio devices are: their kinds, virtqueues, default sizes.

From QEMU's documentation and properties (``-device X,help``); defaults that changed are told apart
by the machine type, which keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vtrace.inventory.cmdline import Option, boolean
from vtrace.inventory.nouns import SizeSource
from vtrace.model import Direction

__all__ = [
    "NET_PAIRS",
    "Driver",
    "Planned",
    "driver_of",
    "machine_version",
    "name_by_index",
    "queues_of",
]

SUFFIX = re.compile(r"(-non)?(-transitional)?(-pci|-ccw|-device)?(-non)?(-transitional)?$")
NICS = frozenset(
    [
        "e1000",
        "e1000-82544gc",
        "e1000-82545em",
        "e1000e",
        "igb",
        "i82550",
        "i82551",
        "i82557a",
        "i82557b",
        "i82557c",
        "i82558a",
        "i82558b",
        "i82559a",
        "i82559b",
        "i82559c",
        "i82559er",
        "i82562",
        "i82801",
        "ne2k_isa",
        "ne2k_pci",
        "pcnet",
        "rtl8139",
        "spapr-vlan",
        "tulip",
        "usb-net",
        "vmxnet3",
        "xen-net-device",
    ]
)
KINDS = {
    "virtio-9p": "9p",
    "virtio-balloon": "balloon",
    "virtio-blk": "blk",
    "virtio-crypto": "crypto",
    "virtio-gpu": "gpu",
    "virtio-gpu-gl": "gpu",
    "virtio-input-host": "input",
    "virtio-iommu": "iommu",
    "virtio-keyboard": "input",
    "virtio-mem": "mem",
    "virtio-mouse": "input",
    "virtio-multitouch": "input",
    "virtio-net": "net",
    "virtio-pmem": "pmem",
    "virtio-rng": "rng",
    "virtio-scsi": "scsi",
    "virtio-serial": "serial",
    "virtio-sound": "sound",
    "virtio-tablet": "input",
    "virtio-vga": "gpu",
    "virtio-vga-gl": "gpu",
    "vhost-scsi": "scsi",
    "vhost-vsock": "vsock",
    "vhost-vdpa-device": "vdpa",
    "vhost-user-input": "input",
    "vhost-user-snd": "sound",
    "vhost-user-vga": "gpu",
}
# Machine types of distributions that are as old as the versioned ones below 5.2.
OLD_NAMES = ("trusty", "xenial", "bionic", "cosmic", "disco", "eoan", "focal", "groovy")
NEWEST = (99, 0)
# Features of the specification: VIRTIO_NET_F_MQ, _RSS; VIRTIO_BALLOON_F_FREE_PAGE_HINT.
NET_PAIRS = 1 << 22 | 1 << 60
BALLOON_HINT = 1 << 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A QEMU device model of interest."""

    name: str
    """Without its transport: virtio-net."""
    kind: str
    bus: str
    virtio: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A virtqueue that a device offers, before it is known who serves it."""

    name: str
    size: int = 0
    source: str = SizeSource.UNKNOWN
    direction: str = Direction.NONE
    control: bool = False
    """Served by QEMU whatever the backend is."""
    port: str = ""
    """serial: name of the port."""


def driver_of(model: str) -> Driver | None:
    """Return the driver behind a name that ``-device`` takes; None: not of interest."""
    if model in NICS:
        return Driver(name=model, kind="net", bus="pci", virtio=False)
    if model in {"vfio-pci", "vfio-pci-nohotplug"}:
        return Driver(name=model, kind="vfio", bus="pci", virtio=False)
    if not model.startswith(("virtio-", "vhost-")):
        return None
    bus = "ccw" if model.endswith("-ccw") else "pci"
    if model.endswith("-device") and model != "vhost-vdpa-device":
        bus = "mmio"
    name = SUFFIX.sub("", model)
    if name == "vhost-vdpa":
        name = "vhost-vdpa-device"
    kind = KINDS.get(name)
    if kind is None and name.startswith("vhost-user-"):
        kind = name.removeprefix("vhost-user-").removesuffix("-gl")
    return Driver(name=name, kind=kind or name.partition("-")[2], bus=bus)


def machine_version(machine: str, program: str, version: str) -> tuple[int, int] | None:
    """Return the version of QEMU that a machine type stands for.

    None where it cannot be told: machine types of RHEL before 9 have numbers of their own, and
    its ``pc`` is one of them.

    Args:
        machine: The machine type. An alias (``pc``, ``q35``) is the newest of this QEMU.
        program: Name of the executable.
        version: Version of QEMU, if known.
    """
    if "rhel" in machine:
        major = re.search(r"rhel(\d+)", machine)
        return NEWEST if major and int(major[1]) >= 9 else None
    if any(name in machine for name in OLD_NAMES):
        return None
    if program == "qemu-kvm" and machine in {"", "pc"}:
        return None
    match = re.search(r"-(\d+)\.(\d+)", machine) or re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else NEWEST


def queues_of(
    driver: Driver,
    option: Option,
    *,
    pairs: int,
    wide_tx: bool,
    cpus: int | None,
    version: tuple[int, int] | None,
    ports: Sequence[str],
) -> list[Planned]:
    """Return the virtqueues of a device in the order of their index; empty: not known.

    Args:
        driver: What the device is.
        option: How it was asked for.
        pairs: Queue pairs of a network device.
        wide_tx: Its backend allows a transmit queue of more than 256.
        cpus: vCPUs at start, which block devices take for their number of queues.
        version: Version of the machine type.
        ports: Names of a serial device's ports by their number; empty where there is none.
    """
    name = driver.name
    if name == "virtio-net":
        return net_queues(option, pairs, wide_tx)
    if name in {"virtio-blk", "vhost-user-blk"}:
        key = "num-queues"
        count = request_queues(driver, option, key, cpus, version)
        size = size_of(option, "queue-size", 128 if name != "virtio-blk" else 0, version)
        return requests(count, size)
    if driver.kind == "scsi":
        count = request_queues(driver, option, "num_queues", cpus, version)
        size = size_of(option, "virtqueue_size", 0 if name[:2] == "vi" else 128, version)
        return [planned("ctrl", size), planned("event", size), *requests(count, size)]
    if name == "virtio-serial":
        return serial_queues(ports)
    if name == "virtio-balloon":
        return balloon_queues(option)
    return [planned(n, (size, SizeSource.DEFAULT)) for n, size in FIXED.get(name, ())]


FIXED = {
    "vhost-vsock": (("rx0", 128), ("tx0", 128), ("event", 128)),
    "vhost-user-vsock": (("rx0", 128), ("tx0", 128), ("event", 128)),
    "virtio-9p": (("req0", 128),),
    "virtio-gpu": (("ctrl", 64), ("cursor", 16)),
    "virtio-gpu-gl": (("ctrl", 256), ("cursor", 16)),
    "virtio-iommu": (("req0", 256), ("event", 256)),
    "virtio-keyboard": (("event", 64), ("status", 64)),
    "virtio-mem": (("guest", 128),),
    "virtio-mouse": (("event", 64), ("status", 64)),
    "virtio-pmem": (("req0", 128),),
    "virtio-rng": (("req0", 8),),
    "virtio-tablet": (("event", 64), ("status", 64)),
    "virtio-vga": (("ctrl", 64), ("cursor", 16)),
    "virtio-vga-gl": (("ctrl", 256), ("cursor", 16)),
}


def net_queues(option: Option, pairs: int, wide_tx: bool) -> list[Planned]:
    rx = asked(option, "rx_queue_size") or (256, SizeSource.DEFAULT)
    tx = asked(option, "tx_queue_size") or (256, SizeSource.DEFAULT)
    if not wide_tx and tx[0] > 256:
        tx = (256, SizeSource.CLAMPED)
    queues = []
    for pair in range(pairs):
        queues.append(planned(f"rx{pair}", rx, Direction.RX))
        queues.append(planned(f"tx{pair}", tx, Direction.TX))
    if boolean(option.get("ctrl_vq", "on")):
        size = (64, SizeSource.DEFAULT)
        queues.append(planned("ctrl", size, control=True))
    return queues


def serial_queues(ports: Sequence[str]) -> list[Planned]:
    # Port 0 comes before the control queues, all others after.
    data, control = (128, SizeSource.DEFAULT), (32, SizeSource.DEFAULT)
    queues = []
    for number, port in enumerate(ports or [""]):
        for name, direction in (("rx", Direction.RX), ("tx", Direction.TX)):
            queues.append(planned(f"{name}{number}", data, direction, port=port))
        if number == 0:
            queues.append(planned("ctrl_rx", control, Direction.RX))
            queues.append(planned("ctrl_tx", control, Direction.TX))
    return queues


def balloon_queues(option: Option) -> list[Planned]:
    size = (128, SizeSource.DEFAULT)
    queues = [planned(name, size) for name in ("inflate", "deflate", "stats")]
    if boolean(option.get("free-page-hint", "off")):
        queues.append(planned("free_page", (1024, SizeSource.DEFAULT)))
    if boolean(option.get("free-page-reporting", "off")):
        queues.append(planned("reporting", (32, SizeSource.DEFAULT)))
    return queues


def request_queues(
    driver: Driver,
    option: Option,
    key: str,
    cpus: int | None,
    version: tuple[int, int] | None,
) -> int | None:
    if (given := asked(option, key)) is not None:
        return given[0]
    # Since QEMU 5.2 (machine types) devices on PCI have a queue for each vCPU.
    if driver.bus != "pci":
        return 1
    if version is None:
        return None
    return cpus if version >= (5, 2) else 1


def requests(count: int | None, size: tuple[int, str]) -> list[Planned]:
    return [planned(f"req{n}", size) for n in range(count or 0)]


def size_of(
    option: Option, key: str, fixed: int, version: tuple[int, int] | None
) -> tuple[int, str]:
    if (given := asked(option, key)) is not None:
        return given
    if fixed:
        return fixed, SizeSource.DEFAULT
    if version is None:
        return 0, SizeSource.UNKNOWN
    return 256 if version >= (5, 0) else 128, SizeSource.DEFAULT


def asked(option: Option, key: str) -> tuple[int, str] | None:
    for spelled in (key, key.replace("-", "_"), key.replace("_", "-")):
        if spelled in option.values:
            try:
                return int(option.values[spelled], 0), SizeSource.ASKED
            except ValueError:
                return None
    return None


def planned(
    name: str,
    size: tuple[int, str],
    direction: str = Direction.NONE,
    *,
    control: bool = False,
    port: str = "",
) -> Planned:
    return Planned(
        name=name,
        size=size[0],
        source=size[1],
        direction=direction,
        control=control,
        port=port,
    )


def name_by_index(kind: str, index: int, features: int) -> str:
    """Return the name of a queue of a device whose configuration is not known.

    Args:
        kind: What the device is.
        index: Index of the queue in the device.
        features: Features that the driver took.
    """
    if kind == "net":
        if not features & NET_PAIRS and index == 2:
            return "ctrl"
        if index < 2 or index % 2:
            return f"{'tx' if index % 2 else 'rx'}{index // 2}"
        return f"queue{index}"  # of the last pair, or control
    if kind == "serial":
        if index in {2, 3}:
            return "ctrl_tx" if index == 3 else "ctrl_rx"
        return f"{'tx' if index % 2 else 'rx'}{index // 2 - (index > 3)}"
    if kind == "blk":
        return f"req{index}"
    if kind == "scsi":
        return ("ctrl", "event")[index] if index < 2 else f"req{index - 2}"
    if kind == "balloon" and index < 5:
        hint = "free_page" if features & BALLOON_HINT else "reporting"
        return ("inflate", "deflate", "stats", hint, "reporting")[index]
    fixed = FIXED.get(f"virtio-{kind}", ())
    return fixed[index][0] if index < len(fixed) else f"queue{index}"
