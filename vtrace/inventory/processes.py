"""Processes as /proc shows them: which of them are guests, their files and threads.

Everything here may vanish while it is read, and much of it may be forbidden; the first is no news,
the second is said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Files", "Guest", "Stat", "Survey", "survey", "tasks"]

# Flags of a task, linux/sched.h.
PF_KTHREAD = 0x0020_0000
# Since Linux commit 54e6842d0775 ("fork/vm: Move common PF_IO_WORKER behavior to new flag") (in
# v6.4); vhost tasks carry it. The bit meant nothing to threads of user space before.
PF_USER_WORKER = 0x0000_4000
PF_IO_WORKER = 0x0000_0010

QEMU = re.compile(r"(?:^|[^a-z])(?:qemu-system-[a-z0-9_]+|qemu-kvm)|^kvm$")
VCPU_NAME = re.compile(rb"^CPU \d+/[A-Z]+$|^ALL CPUs/TCG$")
CONTAINER = re.compile(r"(?:docker|libpod|crio|cri-containerd)[-/]([0-9a-f]{12,64})")
POD = re.compile(r"kubepods.*/([0-9a-f]{64})")
VERSION = re.compile(rb"QEMU emulator version ([0-9][^\n\0]{0,80})")
LONGEST = 4 << 20
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What /proc/PID/stat says of a task."""

    pid: int
    comm: str
    state: str
    flags: int
    threads: int
    started: int
    """Clock ticks after boot."""
    guest_time: int
    """Clock ticks spent in a guest: only a vCPU has some."""

    @property
    def kthread(self) -> bool:
        """Whether it is a thread of the kernel."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def user_worker(self) -> bool:
        """Whether the kernel made it inside of a process: a vhost task and its like."""
        return bool(self.flags & PF_USER_WORKER) and not self.flags & PF_IO_WORKER


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Open files of a process: where each points to, and the interface of those of a tap."""

    links: dict[int, str]
    interfaces: dict[int, str]
    """Interface (``iff:``) by file number of /dev/net/tun."""

    def of_device(self, name: str) -> list[int]:
        """Return the files that are open on a device node, in order: ``vhost-net``."""
        return sorted(fd for fd, link in self.links.items() if link.endswith(f"/{name}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A process that is a guest."""

    stat: Stat
    argv: tuple[str, ...]
    exe: str
    version: str
    qemu: bool
    """Its command line is QEMU's."""
    files: Files | None
    """None: not readable."""
    threads: tuple[Stat, ...]
    netns: int | None
    """Inode of its network namespace; None: not readable."""
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a walk through /proc found."""

    guests: tuple[Guest, ...]
    kthreads: tuple[Stat, ...]
    """Kernel threads that work for some process: vhost-PID, kvm-pit/PID."""


def survey(proc: Path) -> Survey:
    """Walk through /proc once."""
    guests, kthreads = [], []
    for pid in numbers(proc):
        place = proc / str(pid)
        stat = stat_of(place)
        if stat is None or stat.state in {"Z", "X"}:
            continue
        if stat.kthread:
            if stat.comm.startswith(("vhost-", "kvm-pit/")):
                kthreads.append(stat)
        elif (guest := guest_of(place, stat)) is not None:
            guests.append(guest)
    return Survey(guests=tuple(guests), kthreads=tuple(kthreads))


def tasks(place: Path) -> Iterator[Stat]:
    """Yield the threads of a process."""
    for tid in numbers(place / "task"):
        stat = stat_of(place / "task" / str(tid))
        if stat is not None:
            yield stat


def guest_of(place: Path, stat: Stat) -> Guest | None:
    argv = argv_of(place)
    if not argv:
        return None
    exe = link_of(place / "exe")
    program = Path(exe.removesuffix(" (deleted)") if exe else argv[0]).name
    qemu = bool(QEMU.search(program))
    links = links_of(place)
    if not qemu:
        # Some other name, or some other VMM: a VM is open, or the threads say so.
        if links is not None and "anon_inode:kvm-vm" not in links.values():
            return None
        if links is None and not (stat.threads > 1 and has_vcpu_names(place)):
            return None
        qemu = bool(QEMU.search(Path(argv[0]).name)) or looks_like_qemu(argv)
    return Guest(
        stat=stat,
        argv=argv,
        exe=exe or argv[0],
        version=version_of(place / "exe") if qemu and exe else "",
        qemu=qemu,
        files=files_of(place, links),
        threads=tuple(tasks(place)),
        netns=inode_of(place / "ns" / "net"),
        container=container_of(place),
    )


def looks_like_qemu(argv: tuple[str, ...]) -> bool:
    names = {word.lstrip("-") for word in argv[1:] if word.startswith("-")}
    return len(names & {"machine", "M", "accel", "device", "netdev", "smp", "m"}) >= 3


def has_vcpu_names(place: Path) -> bool:
    return any(
        VCPU_NAME.match(read(place / "task" / str(tid) / "comm").rstrip(b"\n"))
        for tid in numbers(place / "task")
    )


def files_of(place: Path, links: dict[int, str] | None) -> Files | None:
    if links is None:
        return None
    interfaces = {}
    for fd, link in links.items():
        if not link.endswith("/net/tun"):
            continue
        for line in read(place / "fdinfo" / str(fd)).split(b"\n"):
            if line.startswith(b"iff:"):
                interfaces[fd] = decoded(line[4:].strip())
    return Files(links=links, interfaces=interfaces)


def links_of(place: Path) -> dict[int, str] | None:
    # None where it is forbidden to look.
    links: dict[int, str] = {}
    try:
        names = os.listdir(place / "fd")  # noqa: PTH208 - names alone, no Path each
    except PermissionError:
        return None
    except OSError:
        return links
    denied = False
    for name in names:
        try:
            links[int(name)] = os.readlink(f"{place}/fd/{name}")  # noqa: PTH115 - many; a Path is dear
        except PermissionError:
            denied = True
        except (OSError, ValueError):
            continue
    return None if denied and not links else links


def stat_of(place: Path) -> Stat | None:
    text = decoded(read(place / "stat"))
    head, bracket, tail = text.rpartition(")")
    pid, opening, comm = head.partition(" (")
    fields = tail.split()
    if not (bracket and opening and pid.isdigit()) or len(fields) < 20:
        return None
    try:
        return Stat(
            pid=int(pid),
            comm=comm,
            state=fields[0],
            flags=int(fields[6]),
            threads=int(fields[17]),
            started=int(fields[19]),
            guest_time=int(fields[40]) if len(fields) > 40 else 0,
        )
    except ValueError:
        return None


def argv_of(place: Path) -> tuple[str, ...]:
    data = read(place / "cmdline")
    return tuple(decoded(word) for word in data.removesuffix(b"\0").split(b"\0"))


def version_of(exe: Path) -> str:
    # The executable is never run: its owner may not be ours to trust. It carries what it prints.
    overlap = 200
    tail = b""
    try:
        with exe.open("rb") as file:
            while chunk := file.read(CHUNK):
                tail = tail[-overlap:] + chunk
                if match := VERSION.search(tail):
                    return decoded(match[1]).split(" ", 1)[0]
    except OSError:
        pass
    return ""


def container_of(place: Path) -> str:
    text = decoded(read(place / "cgroup"))
    match = CONTAINER.search(text) or POD.search(text)
    return match[1][:12] if match else ""


def link_of(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None


def inode_of(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def numbers(place: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(place) if name.isdigit())  # noqa: PTH208
    except OSError:
        return []


def read(path: Path) -> bytes:
    # Gone or forbidden: nothing.
    try:
        with path.open("rb") as file:
            return file.read(LONGEST)
    except OSError:
        return b""


def decoded(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
