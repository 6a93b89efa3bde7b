"""What runs on this host: VMs, their threads, devices, virtqueues and taps. No QMP, no privilege.

It is read from /proc, /sys and netlink; nothing is asked of QEMU and nothing of it is run. What
needs root and was not readable is said in ``missing``, beside ``seen: partial``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtrace.errors import UsageError
from vtrace.inventory.cmdline import CommandLine, parse
from vtrace.inventory.devices import Context, devices_by_files, devices_of
from vtrace.inventory.drivers import machine_version
from vtrace.inventory.links import Links, links_here, links_in, links_of_sysfs
from vtrace.inventory.nets import Ends
from vtrace.inventory.nouns import (
    AddressSource,
    Backend,
    Device,
    NetBackend,
    Proof,
    Seen,
    SizeSource,
    Thread,
    ThreadKind,
    ThreadRole,
    Virtqueue,
    Vm,
)
from vtrace.inventory.processes import Guest, Stat, inode_of, stat_of, survey
from vtrace.inventory.qom import QueueMatch, board_place, match_queue
from vtrace.inventory.threads import threads_of

__all__ = [
    "AddressSource",
    "Backend",
    "Device",
    "NetBackend",
    "Proof",
    "QueueMatch",
    "Seen",
    "SizeSource",
    "Thread",
    "ThreadKind",
    "ThreadRole",
    "Virtqueue",
    "Vm",
    "blind_spots",
    "board_place",
    "discover",
    "match_queue",
    "resolve",
    "to_json",
]

PROC = Path("/proc")
SYS = Path("/sys")


def discover(proc: Path = PROC, sys: Path = SYS) -> list[Vm]:
    """Return the guests that run on this host, in the order of their pid.

    With other folders than this host's, interfaces are read from ``sys`` alone.
    """
    found = survey(proc)
    interfaces = Interfaces(proc, sys)
    vms = (vm_of(proc, guest, found.kthreads, interfaces) for guest in found.guests)
    return [vm for vm in vms if vm is not None]


def blind_spots(proc: Path = PROC) -> list[str]:
    """Return what cannot be seen from here of whole processes, in sentences."""
    spots = []
    if not (proc / "1" / "stat").exists():
        spots.append("processes of others are hidden (/proc is mounted with hidepid)")
    elif not any(stat.kthread for stat in first_processes(proc)):
        spots.append(
            "the kernel's threads are not visible in this PID namespace, nor are guests outside"
            " of it: vhost workers are missing"
        )
    return spots


def first_processes(proc: Path) -> list[Stat]:
    return [stat for pid in (1, 2) if (stat := stat_of(proc / str(pid))) is not None]


def to_json(vms: Sequence[Vm]) -> list[dict[str, Any]]:
    """Return VMs as JSON has them: every field by its name, and ``seen`` beside ``missing``."""
    return [as_dict(vm) for vm in vms]


def resolve(vms: Sequence[Vm], name: str) -> Vm:
    """Return the VM of this name, pid (``4711``, ``pid:4711``) or UUID.

    Raises:
        UsageError: None has it, or several do.
    """
    by_pid = name.removeprefix("pid:")
    tests = (
        lambda vm: vm.name == name,
        lambda vm: by_pid == str(vm.pid),
        lambda vm: bool(vm.uuid) and vm.uuid.lower() == name.lower(),
    )
    for test in tests:
        match = [vm for vm in vms if test(vm)]
        if len(match) == 1:
            return match[0]
        if match:
            pids = ", ".join(str(vm.pid) for vm in match)
            raise UsageError(f"{len(match)} VMs are named {name!r}; give the pid of one: {pids}")
    names = [vm.name for vm in vms]
    if not names:
        raise UsageError(f"no VM {name!r}: no guest was found on this host")
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = "did you mean " if close else "there is "
    listed = ", ".join(repr(one) for one in (close or names[:8]))
    raise UsageError(f"no VM {name!r}; {hint}{listed}" + ("?" if close else ""))


class Interfaces:
    """Interfaces of each network namespace, read once."""

    def __init__(self, proc: Path, sys: Path) -> None:
        self.proc, self.sys = proc, sys
        self.live = proc == PROC and sys == SYS
        self.ours = inode_of(proc / "self" / "ns" / "net") if self.live else None
        self.known: dict[int | None, Links] = {}

    def of(self, guest: Guest) -> tuple[Links, int | None]:
        """Return the interfaces that a guest has, and its namespace if it is not ours."""
        if not self.live:
            return self.once(None, guest), None
        if guest.netns is None or guest.netns == self.ours:
            return self.once(None, guest), None
        return self.once(guest.netns, guest), guest.netns

    def once(self, netns: int | None, guest: Guest) -> Links:
        if netns not in self.known:
            if not self.live:
                links = links_of_sysfs(self.sys)
            elif netns is None:
                links = links_here(self.sys)
            else:
                place = self.proc / str(guest.stat.pid) / "ns" / "net"
                links = links_in(place, self.sys)
            self.known[netns] = links
        return self.known[netns]


def vm_of(proc: Path, guest: Guest, kthreads: Sequence[Stat], interfaces: Interfaces) -> Vm | None:
    line = parse(guest.argv) if guest.qemu else CommandLine(options=())
    machine = machine_of(line)
    if machine == "none":
        return None  # asked for its capabilities, as libvirt does: no guest
    pid = guest.stat.pid
    threads = threads_of(proc, guest, kthreads)
    links, netns = interfaces.of(guest)
    ends = Ends(line=line, files=guest.files, links=links, netns=netns, claimed=set())
    cpus = cpus_of(line) if guest.qemu else None
    missing = missing_of(guest, line, threads)
    if guest.qemu:
        context = Context(
            pid=pid,
            line=line,
            machine=machine,
            cpus=cpus,
            version=machine_version(machine, Path(guest.exe).name, guest.version),
            threads=threads,
            ends=ends,
        )
        devices = devices_of(context)
    else:
        devices = devices_by_files(ends)
    return Vm(
        name=name_of(line) or f"pid:{pid}",
        pid=pid,
        exe=guest.exe,
        version=guest.version,
        accel=accel_of(guest, line, threads),
        machine=machine,
        uuid=uuid_of(line),
        vcpus=vcpus_of(guest, threads) or cpus,
        container=guest.container,
        threads=tuple(threads),
        devices=tuple(devices),
        missing=tuple(missing),
    )


def missing_of(guest: Guest, line: CommandLine, threads: Sequence[Thread]) -> list[str]:
    missing = []
    if guest.files is None:
        missing.append(
            "its open files are not readable (needs root): accelerator, taps, vhost and what was"
            " plugged in later are as the command line has them"
        )
    if not guest.qemu:
        missing.append("its command line is not QEMU's: devices are not known")
    missing += [
        f"devices in the file {option.text} (-readconfig) are not read"
        for option in line.all("readconfig")
    ]
    unknown = sum(thread.role == ThreadRole.UNKNOWN for thread in threads)
    if unknown:
        missing.append(
            f"role of {unknown} of {len(threads)} threads: QEMU names them with"
            " -name debug-threads=on"
        )
    return missing


def name_of(line: CommandLine) -> str:
    return line.value("name", "guest")


def uuid_of(line: CommandLine) -> str:
    option = line.last("uuid")
    return option.text if option else line.value("smbios", "uuid")


def machine_of(line: CommandLine) -> str:
    return line.value("machine", "type")


def cpus_of(line: CommandLine) -> int | None:
    option = line.last("smp")
    if option is None:
        return 1
    numbers = {k: int(v) for k, v in option.values.items() if v.isdigit()}
    if "cpus" in numbers:
        return numbers["cpus"]
    total = 1
    for part in ("drawers", "books", "sockets", "dies", "clusters", "cores", "threads"):
        total *= numbers.get(part, 1)
    return numbers.get("maxcpus", total)


def vcpus_of(guest: Guest, threads: Sequence[Thread]) -> int | None:
    links = guest.files.links.values() if guest.files else ()
    files = sum(link.startswith("anon_inode:kvm-vcpu:") for link in links)
    named = {t.vcpu for t in threads if t.role == ThreadRole.VCPU and t.vcpu is not None}
    return files or len(named) or None


def accel_of(guest: Guest, line: CommandLine, threads: Sequence[Thread]) -> str:
    if guest.files and "anon_inode:kvm-vm" in guest.files.links.values():
        return "kvm"
    for thread in threads:
        if match := re.match(r"^(?:CPU \d+|ALL CPUs)/([A-Z]+)$", thread.comm):
            return match[1].lower()
    if any(thread.role == ThreadRole.VCPU for thread in threads):
        return "kvm"
    if not guest.qemu:
        return "unknown"
    asked = [option.get("accel") for option in line.all("accel")]
    asked += line.value("machine", "accel").split(":")
    asked = [name for name in asked if name]
    if line.has("enable-kvm"):
        asked.append("kvm")
    if guest.files is not None:
        asked = [name for name in asked if name != "kvm"]  # it would be open
    if not asked:
        by_default_kvm = guest.files is None and guest.exe.endswith("kvm")
        return "unknown" if by_default_kvm else "tcg"
    return asked[0] if len(set(asked)) == 1 else "unknown"


def as_dict(thing: Any) -> Any:
    if isinstance(thing, tuple):
        return [as_dict(one) for one in thing]
    if not dataclasses.is_dataclass(thing):
        return thing
    fields = {f.name: as_dict(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
    if "missing" in fields:
        fields["seen"] = str(thing.seen)  # type: ignore[union-attr]
    return {k: str(v) if isinstance(v, str) else v for k, v in fields.items()}
