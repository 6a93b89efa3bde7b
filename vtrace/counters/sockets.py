"""UDP sockets of this host: what they dropped, and whose they are."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import Final

__all__ = ["Owner", "Owners"]

_SYS_PIDFD_GETFD: Final = 438
_LONGEST_SCAN_S: Final = 0.3
_PAUSE: Final = 50
"""A search for owners is not begun before so many times its length have passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that has a socket open."""

    pid: int
    comm: str
    rcvbuf_bytes: int | None
    """None: not readable."""


class Owners:
    """Finds the processes behind sockets, now and then: all open files must be looked at."""

    def __init__(self) -> None:
        self.known: dict[int, Owner] = {}
        """By inode."""
        self.denied = False
        """Files of some processes are not readable."""
        self._wanted: set[int] = set()
        self._due_ns = 0

    def keep(self, inodes: set[int]) -> None:
        """Note which sockets there are."""
        self.known = {inode: owner for inode, owner in self.known.items() if inode in inodes}
        self._wanted = inodes - self.known.keys()

    def look(self, *, now: bool = False) -> None:
        """Find those of the sockets that are not known, if it is time to.

        Args:
            now: Whether to look even if it was done a short while ago.
        """
        wanted = self._wanted
        begin_ns = time.monotonic_ns()
        if not wanted or (begin_ns < self._due_ns and not now):
            return
        self._scan(set(wanted), begin_ns + int(_LONGEST_SCAN_S * 1e9))
        end_ns = time.monotonic_ns()
        self._due_ns = end_ns + _PAUSE * (end_ns - begin_ns)

    def _scan(self, wanted: set[int], deadline_ns: int) -> None:
        # Those that were started last first: what is new is looked for.
        pids = sorted((int(n) for n in os.listdir("/proc") if n.isdigit()), reverse=True)  # noqa: PTH208
        for pid in pids:
            if not wanted or time.monotonic_ns() > deadline_ns:
                return
            folder = f"/proc/{pid}/fd"
            try:
                names = os.listdir(folder)  # noqa: PTH208 - names alone, of many
            except PermissionError:
                self.denied = True
                continue
            except OSError:
                continue
            for name in names:
                try:
                    link = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - many; a Path is dear
                except OSError:
                    continue
                if link.startswith("socket:[") and (inode := int(link[8:-1])) in wanted:
                    self.known[inode] = owner_of(pid, int(name))
                    wanted.discard(inode)


def owner_of(pid: int, fd: int) -> Owner:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123
            comm = file.read(64).rstrip(b"\n").decode("utf-8", "backslashreplace")
    except OSError:
        comm = ""
    return Owner(pid=pid, comm=comm, rcvbuf_bytes=receive_buffer_of(pid, fd))


def receive_buffer_of(pid: int, fd: int) -> int | None:
    """Return SO_RCVBUF of a socket of another process; None: not readable.

    The socket is shared for a moment (pidfd_getfd, Linux v5.6). Netlink would tell, too, and would
    load the module udp_diag for it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        ours = libc.syscall(_SYS_PIDFD_GETFD, process, fd, 0)
    finally:
        os.close(process)
    if ours < 0:
        return None
    try:
        with socket.socket(fileno=ours) as shared:
            raw = shared.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4)
            return int(struct.unpack("=i", raw)[0])
    except OSError:
        return None
