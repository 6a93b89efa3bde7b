"""A guest of TCG on this machine itself: neither KVM nor a test host is needed.

Its kernel and initramfs are those of the test bed's guests, so commands run in it the same way.
"""

import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.testbed.cache import Build
from tests.testbed.channel import Channel
from tests.testbed.machine import Machine

_BOOT_TIMEOUT_S = 180.0
_KERNEL_LINE = (
    "console=ttyS0 loglevel=3 panic=-1 mitigations=off cryptomgr.notests random.trust_cpu=on "
    "no_timer_check audit=0 nokaslr tsc=reliable ipv6.disable_ipv6=1"
)
_numbers = itertools.count()


class TcgGuest(Machine):
    """A guest that runs as long as it is needed: use it as a context manager.

    Args:
        build: Whose kernel and initramfs.
        folder: For its sockets and logs.
        extra: More arguments for QEMU.
        trace: Trace events that QEMU shall log to `log`.
        program: The binary.
    """

    def __init__(
        self,
        build: Build,
        folder: Path,
        *,
        extra: Sequence[str] = (),
        trace: Sequence[str] = (),
        program: str = "qemu-system-x86_64",
        serial_options: str = "",
    ) -> None:
        super().__init__(f"tcg{next(_numbers)}")
        self.folder = folder
        self.log = folder / f"{self.name}.trace"
        """What QEMU's own log says of its trace events."""
        self._said = folder / f"{self.name}.stderr"
        self._console = folder / f"{self.name}.console"
        agent = folder / f"{self.name}.agent"
        ask = folder / f"{self.name}.ask"
        self.qmp = folder / f"{self.name}.qmp"
        self.command = [
            program,
            *("-name", f"{self.name},debug-threads=on"),
            *("-M", "pc,hpet=off", "-accel", "tcg", "-m", "192M"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-serial", f"file:{self._console}"),
            *("-qmp", f"unix:{self.qmp},server=on,wait=off"),
            *("-device", f"virtio-serial-pci,id=lab{serial_options}"),
            *("-chardev", f"socket,id=agent,path={agent},server=on,wait=off"),
            *("-device", "virtserialport,chardev=agent,name=vtrace.agent"),
            *("-chardev", f"socket,id=ask,path={ask},server=on,wait=off"),
            *("-device", "virtserialport,chardev=ask,name=vtrace.ask"),
            *("-kernel", str(build.vmlinux), "-initrd", str(build.boot / "guest-full.cpio")),
            *("-append", _KERNEL_LINE),
            *itertools.chain.from_iterable(("-trace", event) for event in trace),
            *(("-D", str(self.log)) if trace else ()),
            *extra,
        ]
        self._agent = agent
        self._qemu: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Process id of its QEMU."""
        assert self._qemu is not None, f"{self.name} was not started"
        return self._qemu.pid

    def __enter__(self) -> Self:
        self.start_qemu()
        self.wait_until_up()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start_qemu(self) -> None:
        """Start its QEMU; return at once."""
        with self._said.open("wb") as said:
            self._qemu = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stderr=said)

    def wait_until_up(self) -> None:
        """Wait until commands can be run in it."""
        assert self._qemu is not None
        deadline = time.monotonic() + 20
        while not self._agent.exists():
            if self._qemu.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"QEMU did not start: {self._said.read_text()}")
            time.sleep(0.02)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(self._agent))
        self._channel = Channel(self._socket.sendall)
        threading.Thread(target=self._read, daemon=True).start()
        self._channel.wait_until_up(_BOOT_TIMEOUT_S, lambda: self.running)

    @property
    def running(self) -> bool:
        """Whether its QEMU runs."""
        return self._qemu is not None and self._qemu.poll() is None

    def end(self) -> None:
        """Ask its QEMU to end, so that its log is whole."""
        assert self._qemu is not None
        self._qemu.terminate()
        self._qemu.wait(20)

    def kill(self) -> None:
        """End it at once."""
        if self._qemu is not None and self._qemu.poll() is None:
            self._qemu.kill()
            self._qemu.wait()
        if self._socket is not None:
            self._socket.close()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            while data := self._socket.recv(65536):
                self.channel.feed(data)
        except OSError:
            pass
        self.channel.close(f"{self.name} is gone")
