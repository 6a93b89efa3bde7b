"""A network namespace: what has to be opened in it, so that it can be read from outside."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vtrace.counters.netlink import LinkFacts, Netlink
from vtrace.inventory.netns import visit

if TYPE_CHECKING:
    from vtrace.inventory import Vm

__all__ = ["Place", "default_ways", "door_of", "interesting"]

FILES: Final = ("snmp", "snmp6", "softnet_stat", "udp", "udp6")
# Read, not asked for: the kernel answers RTM_GETROUTE with a UDP packet that it makes up and drops,
# and that drop would be in the recording.
ROUTES: Final = ("route", "ipv6_route")
MOST_BYTES: Final = 1 << 20
MOST_ROUNDS: Final = 8


def door_of(pid: int | None) -> Path | None:
    """Return the file by which the network namespace of a process is entered; None: our own."""
    return None if pid is None else Path(f"/proc/{pid}/ns/net")


@dataclass
class Place:
    """Open doors into one network namespace; they keep it alive until they are closed."""

    inode: int | None
    """None: our own."""
    pid: int | None
    """A process in it."""
    netlink: Netlink
    door: socket.socket
    """For the ioctls of ethtool."""
    files: dict[str, int]
    """Open files of /proc/net."""
    absent: dict[str, str]
    """Those that are not there, and why."""
    links: dict[int, LinkFacts] = field(default_factory=dict)
    """Interfaces to look at."""
    known: frozenset[int] = frozenset()
    """Indices of all interfaces, when those to look at were chosen."""

    @classmethod
    def enter(cls, pid: int | None, inode: int | None) -> Place:
        """Open the namespace of a process; None: our own.

        Raises:
            OSError: It has gone, or may not be entered.
        """
        return visit(door_of(pid), lambda: cls._open(pid, inode))

    @classmethod
    def _open(cls, pid: int | None, inode: int | None) -> Place:
        files, absent = {}, {}
        for name in (*FILES, *ROUTES):
            # /proc/net is that of the first thread; this one may be elsewhere.
            path = f"/proc/thread-self/net/{name}"
            try:
                files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if name in ROUTES:
                    continue  # without IPv6, or without routes
                absent[name] = f"/proc/net/{name}: {error.strerror}"
        door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return cls(inode, pid, Netlink(), door, files, absent)

    @property
    def suffix(self) -> str:
        """What is added to the name of an object of this namespace."""
        return "" if self.inode is None else f"@{self.inode}"

    def holds(self, pid: int) -> bool:
        """Tell whether a process is in this namespace, still."""
        try:
            found = os.stat(f"/proc/{pid}/ns/net").st_ino  # noqa: PTH116 - each second, for each VM
        except OSError:
            return False
        return self.inode is None or found == self.inode

    def choose_links(self, vms: list[Vm]) -> None:
        """Look which interfaces carry packets of the VMs.

        Raises:
            OSError: rtnetlink does not answer.
        """
        facts = {link.ifindex: link for link in self.netlink.links()}
        taps = {
            device.net.interface
            for vm in vms
            for device in vm.devices
            if device.net and device.net.interface and device.net.netns == self.inode
        }
        chosen = interesting(facts, taps, self._ways(facts))
        self.links = {index: facts[index] for index in chosen}
        self.known = frozenset(facts)

    def _ways(self, facts: dict[int, LinkFacts]) -> set[int]:
        names: set[str] = set()
        for name in ROUTES:
            if name in self.files:
                with contextlib.suppress(OSError):
                    names |= default_ways(os.pread(self.files[name], MOST_BYTES, 0).decode())
        return {number for number, link in facts.items() if link.name in names}

    def close(self) -> None:
        """Let go of the namespace."""
        self.netlink.close()
        self.door.close()
        for fd in self.files.values():
            os.close(fd)
        self.files.clear()


def default_ways(text: str) -> set[str]:
    """Return the interfaces of default routes, of ``route`` or ``ipv6_route`` in /proc/net."""
    found = set()
    for line in text.splitlines():
        words = line.split()
        # Iface Destination Gateway Flags RefCnt Use Metric Mask ...; or ten columns, Iface last.
        if len(words) >= 8 and words[1] == words[7] == "00000000":
            found.add(words[0])
        elif len(words) == 10 and words[0] == "0" * 32 and words[1] == "00":
            found.add(words[9])
    return found


def interesting(facts: dict[int, LinkFacts], taps: set[str], ways: set[int]) -> set[int]:
    """Return the interfaces on the way of packets: taps, their bridges, ports, what is below.

    Args:
        facts: All interfaces by index.
        taps: Names of those that VMs have open.
        ways: Indices of those with the default route; 0 is none.
    """
    chosen = {n for n, link in facts.items() if link.name in taps}
    chosen |= {n for n in ways if n in facts and facts[n].name != "lo"}
    for _ in range(MOST_ROUNDS):
        found = set(chosen)
        for number in chosen:
            link = facts[number]
            found |= {n for n in (link.master, link.lower) if n in facts}
        # Ports of a bridge, members of a bond.
        found |= {n for n, link in facts.items() if link.master in chosen}
        if found == chosen:
            break
        chosen = found
    return chosen
