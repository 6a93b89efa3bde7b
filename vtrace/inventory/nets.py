"""The host's end of network devices: from the command line, open files and interfaces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vtrace.inventory.cmdline import CommandLine, Option, boolean
from vtrace.inventory.links import Link, Links
from vtrace.inventory.nouns import Backend, NetBackend

if TYPE_CHECKING:
    from vtrace.inventory.processes import Files

__all__ = ["Ends", "asks_vhost", "left_over", "numbers_of", "pairs_of", "serving"]

MACVTAP = re.compile(r"^/dev/(?:net/)?tap(\d+)$")
OPENED = frozenset({"tap", "bridge"})
NEED_ROOT = "open files of the process are not readable: needs root"


@dataclass(slots=True)
class Ends:
    """Makes network backends; keeps in mind which interfaces have their device."""

    line: CommandLine
    files: Files | None
    links: Links
    netns: int | None
    claimed: set[str]

    def end(self, option: Option, *, hub: bool = False) -> NetBackend:
        """Return the backend that -netdev, -nic or -net asks for."""
        kind = option.get("type")
        name = option.get("id") or option.get("name")
        if kind in OPENED:
            return self._tap(option, name, hub=hub)
        path = option.get("vhostdev") or option.get("path") or option.get("addr.path")
        chardev = option.get("chardev")
        if kind == "vhost-user" and chardev:
            path = next(
                (
                    o.get("path") or o.get("addr.data.path") or chardev
                    for o in self.line.all("chardev")
                    if o.get("id") == chardev
                ),
                chardev,
            )
        return NetBackend(id=name, type=kind, path=path, vhost=False)

    def _tap(self, option: Option, name: str, *, hub: bool) -> NetBackend:
        given = numbers_of(option, "fd", "fds")
        interface, index, missing = option.get("ifname"), None, []
        device = ""
        for text in given:
            link = self._link_of(text)
            if match := MACVTAP.match(link):
                index, device = int(match[1]), link
            interface = interface or self._interface_of(text)
        if index is not None:
            return self._macvtap(option, name, index, device, len(given))
        if interface:
            self.claimed.add(interface)
            if self.files and interface not in self.files.interfaces.values():
                missing.append(f"{interface} is not open any more: unplugged?")
        elif self.files is None:
            missing.append(f"its tap: {NEED_ROOT}")
        vhost, unsure = self._vhost_of(option, hub=hub)
        if unsure:
            missing.append(unsure)
        return self.filled(
            NetBackend(
                id=name,
                type=option.get("type"),
                interface=interface,
                vhost=vhost,
                queues=len(given) or None,
                missing=tuple(missing),
            )
        )

    def _macvtap(
        self, option: Option, name: str, index: int, device: str, queues: int
    ) -> NetBackend:
        link = self.links.by_index(index)
        vhost, unsure = self._vhost_of(option, hub=False)
        missing = [unsure] if unsure else []
        if link is None:
            why = self.links.missing or "it is in another network namespace"
            missing.append(f"interface {index}: {why}")
        missing.append("vnet_hdr of a macvtap is in no file")
        return self.filled(
            NetBackend(
                id=name,
                type="macvtap",
                interface=link.name if link else "",
                ifindex=index,
                vhost=vhost,
                queues=queues,
                path=device,
                missing=tuple(missing),
            )
        )

    def _vhost_of(self, option: Option, *, hub: bool) -> tuple[bool | None, str]:
        # vhost=on without vhostforce goes on without vhost where it cannot be had.
        if hub or not asks_vhost(option):
            return False, ""
        if self.files is None:
            return True, f"vhost was asked for; whether it is on: {NEED_ROOT}"
        opened = self.files.of_device("vhost-net")
        passed = numbers_of(option, "vhostfd", "vhostfds")
        if passed and all(part.isdigit() for part in passed):
            return all(int(part) in opened for part in passed), ""
        asking = (o for o in self.line.all("netdev", "nic") if asks_vhost(o))
        if not opened or len(opened) >= sum(pairs_of(o) for o in asking):
            return bool(opened), ""
        return None, "whether vhost is on: fewer vhost-net files are open than were asked for"

    def match_left_over(self, ends: Sequence[NetBackend]) -> dict[int, NetBackend]:
        """Give taps without a name the interfaces that no other device claims.

        Returns:
            New backends by ``id()`` of those that were given one.
        """
        open_ends = [end for end in ends if end.type in OPENED and not end.interface]
        left = left_over(self.files, self.claimed)
        if not open_ends or not left:
            return {}
        names = list(left)
        if len(names) != len(open_ends):
            return {}
        found = {}
        for end, interface in zip(open_ends, names, strict=True):
            missing = list(end.missing)
            if len(names) > 1:
                missing.append("which tap it has is taken from the order of opening")
            self.claimed.add(interface)
            found[id(end)] = self.filled(replace(end, interface=interface, missing=tuple(missing)))
        return found

    def filled(self, end: NetBackend) -> NetBackend:
        """Return a backend with what its interface says."""
        if not end.interface:
            return end
        link = self.links.by_name.get(end.interface)
        missing = end.missing
        if link is None:
            why = self.links.missing or "no such interface in its network namespace"
            missing = (*missing, f"{end.interface}: {why}")
            link = Link(name=end.interface, ifindex=0)
        elif self.links.missing:
            missing = (*missing, self.links.missing)
        elif link.offloads is None:
            missing = (*missing, f"offloads of {end.interface} could not be asked for")
        opened = 0
        if self.files:
            opened = list(self.files.interfaces.values()).count(end.interface)
        return replace(
            end,
            ifindex=link.ifindex or end.ifindex,
            netns=self.netns,
            vnet_hdr=link.vnet_hdr,
            multi_queue=link.multi_queue,
            queues=opened or link.queues or end.queues,
            queues_enabled=link.queues_enabled,
            txqueuelen=link.txqueuelen,
            mtu_bytes=link.mtu_bytes,
            operstate=link.operstate,
            master=link.master,
            offloads=link.offloads,
            missing=missing,
        )

    def _link_of(self, text: str) -> str:
        if self.files is None or not text.isdigit():
            return ""
        return self.files.links.get(int(text), "")

    def _interface_of(self, text: str) -> str:
        if self.files is None or not text.isdigit():
            return ""
        return self.files.interfaces.get(int(text), "")


def left_over(files: Files | None, claimed: set[str]) -> dict[str, int]:
    """Return interfaces that are open and no device claims, with their first file."""
    left: dict[str, int] = {}
    for fd, interface in sorted(files.interfaces.items()) if files else ():
        if interface not in claimed:
            left.setdefault(interface, fd)
    return left


def asks_vhost(option: Option) -> bool:
    """Return whether a backend is to use vhost-net."""
    asked = boolean(option.get("vhost"))
    if asked is None:
        passed = numbers_of(option, "vhostfd", "vhostfds")
        asked = bool(passed) or bool(boolean(option.get("vhostforce", "off")))
    return asked


def pairs_of(option: Option) -> int:
    """Return the number of queue pairs that a backend has."""
    queues = option.get("queues")
    if queues.isdigit():
        return max(int(queues), 1)
    return max(
        len(numbers_of(option, "fd", "fds")),
        len(numbers_of(option, "vhostfd", "vhostfds")),
        1,
    )


def serving(end: NetBackend) -> str:
    """Return who serves the data queues of a virtio-net device with this backend."""
    if end.type in {"vhost-user", "vhost-vdpa"}:
        return Backend.VHOST_USER if end.type == "vhost-user" else Backend.VDPA
    if end.vhost is None:
        return Backend.UNKNOWN
    return Backend.VHOST if end.vhost else Backend.QEMU


def numbers_of(option: Option, one: str, many: str) -> list[str]:
    """Return the parts of a value like ``fds=3:4``, which has a form for one (``fd=3``)."""
    given = option.get(many) or option.get(one)
    return [part for part in given.split(":") if part]
