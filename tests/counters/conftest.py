"""Network namespaces of the test's own, and VMs whose taps are in them."""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vtrace.counters import Sampler
from vtrace.counters.place import door_of
from vtrace.inventory import Device, NetBackend, Thread, ThreadRole, Vm
from vtrace.inventory.netns import visit

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000


@dataclass
class Namespace:
    """A network namespace, and a process that stays in it."""

    name: str
    pid: int

    @property
    def inode(self) -> int:
        return Path(f"/proc/{self.pid}/ns/net").stat().st_ino

    def run(self, *words: str) -> str:
        command = ["ip", "netns", "exec", self.name, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def inside(self, work: Callable):
        """Return what a function returns in the namespace."""
        return visit(door_of(self.pid), work)

    def vm(self, *taps: str, threads: tuple[Thread, ...] = ()) -> Vm:
        """Return a VM, as the inventory would have it, with these taps."""
        nets = [NetBackend(type="tap", interface=tap, netns=self.inode) for tap in taps]
        devices = [
            Device(id=net.interface, kind="net", driver="virtio-net-pci", net=net) for net in nets
        ]
        first = Thread(tid=self.pid, comm="sleep", role=ThreadRole.QEMU)
        return Vm(name="cpx", pid=self.pid, threads=threads or (first,), devices=tuple(devices))


@pytest.fixture
def place() -> Iterator[Namespace]:
    """Yield a new network namespace."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("making network namespaces needs root and iproute2")
    name = f"vtrace-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    sleeper = subprocess.Popen(["ip", "netns", "exec", name, "sleep", "600"])
    try:
        deadline = 200
        own = Path("/proc/self/ns/net").stat().st_ino
        while Path(f"/proc/{sleeper.pid}/ns/net").stat().st_ino == own and deadline:
            subprocess.run(["sleep", "0.02"], check=True)
            deadline -= 1
        made = Namespace(name, sleeper.pid)
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        sleeper.kill()
        sleeper.wait()
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def tap(place) -> Iterator[int]:
    """Yield the file of a tap ``tap0`` in the namespace: what its guest would read and write."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", b"tap0", IFF_TAP | IFF_NO_PI))
        return fd

    try:
        fd = place.inside(make)
    except OSError as error:
        pytest.skip(f"no tap can be made here: {error}")
    place.run("sysctl", "-qw", "net.ipv6.conf.tap0.disable_ipv6=1")
    place.run("ip", "addr", "add", "10.77.0.1/24", "dev", "tap0")
    place.run("ip", "link", "set", "tap0", "up")
    place.run("ip", "neigh", "add", "10.77.0.2", "lladdr", "52:54:00:00:00:02", "dev", "tap0")
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def sampler_of() -> Iterator[Callable[..., Sampler]]:
    """Yield a function that makes a sampler of VMs."""
    with contextlib.ExitStack() as stack:

        def make(*vms: Vm) -> Sampler:
            listed = list(vms)
            made = Sampler(lambda: listed)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def udp_socket(place) -> Iterator[Callable[..., socket.socket]]:
    """Yield a function that makes UDP sockets in the namespace."""
    with contextlib.ExitStack() as stack:

        def make(family: int = socket.AF_INET) -> socket.socket:
            return stack.enter_context(
                place.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))
            )

        yield make
