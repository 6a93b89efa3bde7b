"""The nested host: a Debian with KVM, vhost and eBPF, in emulation."""

import atexit
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.testbed.autopsy import write_autopsy
from tests.testbed.cache import Build, provide
from tests.testbed.channel import Channel
from tests.testbed.counters import Counters, read_counters
from tests.testbed.errors import BootError, ChannelClosed, LabError
from tests.testbed.guest import Guest, boot_guest
from tests.testbed.machine import Machine
from tests.testbed.suites import SUITES
from tests.testbed.system import HERE, require, spawn

__all__ = ["Host"]

_BOOT_TIMEOUT: Final = 180.0
_ANSWER_TIMEOUT: Final = 30.0
_PREFIX: Final = "vtrace-lab-"
_LONGEST_HOME: Final = 60
"""A unix socket has a path of 107 bytes at most."""
_SOURCES: Final = ("vtrace", "parsers", "probes")
_REPOSITORY: Final = HERE.parent.parent
_KERNEL_LINE: Final = (
    "console=ttyS0 loglevel=4 panic=-1 mitigations=off cryptomgr.notests "
    "random.trust_cpu=on rcupdate.rcu_expedited=1 no_timer_check audit=0 selinux=0 "
    "apparmor=0 tsc=reliable clocksource=tsc unknown_nmi_panic"
)


def _make_folder() -> Path:
    """Make the folder of one run; remove those of runs that were killed."""
    home = tempfile.gettempdir()
    if len(home) > _LONGEST_HOME:
        home = "/tmp"
    for old in Path(home).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            owner = Path("/proc") / (old / "owner").read_text()
            if not owner.exists() and not (old / "kept").exists():
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    (folder / "owner").write_text(str(os.getpid()))
    return folder


class Host(Machine):
    """A booted nested host. Make one with `Host.boot`."""

    def __init__(self, build: Build, *, icount: bool, memory: str) -> None:
        super().__init__(build.suite.name)
        self.suite = build.suite
        self.build = build
        self.icount = icount
        self.folder = _make_folder()
        self.keep_logs = False
        """Whether consoles stay on disk after the end; set when a test failed."""
        self.guests: dict[str, Guest] = {}
        self.networks = 0
        """How many taps were ever made; numbers their networks."""
        self.boot_seconds = 0.0
        self.lives = 0
        """How often it was booted: once, if it did not hang."""
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None

    @classmethod
    def boot(
        cls,
        suite: str = "bookworm",
        *,
        icount: bool = False,
        memory: str = "3G",
        say: Callable[[str], None] = lambda _text: None,
    ) -> Self:
        """Boot the nested host of a suite; try twice.

        Args:
            suite: Name of the Debian suite.
            icount: Let its clock count instructions, so that time is the same in
                every run; it then has one processor and idle time is skipped.
            memory: Size, as QEMU wants it.
            say: Told what takes long, and where the console of a failure is.

        Raises:
            MissingPiece: This machine lacks something.
            BootError: It hung or died, twice.
        """
        require("qemu-system-x86_64", "setpriv")
        build = provide(SUITES[suite], say=say)
        reasons = []
        for _attempt in range(2):
            host = cls(build, icount=icount, memory=memory)
            try:
                host._start()
            except LabError as error:
                host.keep_logs = True
                host.close()
                reasons.append(f"{error}; its console: {host.console}")
                say(f"{suite}: {reasons[-1]}")
            except BaseException:
                host.close()
                raise
            else:
                return host
        raise BootError(f"{suite} did not boot: {' -- '.join(reasons)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # Places.

    @property
    def share(self) -> Path:
        """The folder that the host sees as /share."""
        return self.folder / "share"

    def inside(self, path: Path) -> str:
        """Return how the host names a path below `share`."""
        return str(Path("/share") / path.relative_to(self.share))

    @property
    def console(self) -> Path:
        """What the kernel of the host printed."""
        return self.folder / "console.log"

    @property
    def stream_socket(self) -> Path:
        """Unix socket: what the host writes to /dev/virtio-ports/vtrace.stream."""
        return self.folder / "stream.sock"

    @property
    def shell_socket(self) -> Path:
        """Unix socket of the terminal /dev/hvc0 of the host."""
        return self.folder / "shell.sock"

    # Life.

    def _start(self) -> None:
        begin = time.monotonic()
        self.lives += 1
        own = self.share / ".lab"
        own.mkdir(parents=True, exist_ok=True)
        for name in ("guest-small.cpio", "guest-full.cpio"):
            shutil.copy(self.build.boot / name, own / name)
        atexit.register(self.close)
        self._process = spawn(self._qemu(), self.folder / "qemu.log")
        self._socket = self._connect(self.folder / "agent.sock")
        self._channel = Channel(self._socket.sendall)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._channel.wait_until_up(_BOOT_TIMEOUT, self._alive)
        self.boot_seconds = time.monotonic() - begin

    def _qemu(self) -> Sequence[str | Path]:
        accel, extra = "tcg,thread=multi,tb-size=512", ["-smp", "2"]
        if self.icount:
            accel = "tcg,thread=single,tb-size=512"
            extra = ["-smp", "1", "-icount", "shift=0,sleep=off"]
        ports = []
        for name in ("agent", "stream", "shell"):
            path = f"path={self.folder}/{name}.sock"
            ports += ["-chardev", f"socket,id={name},{path},server=on,wait=off"]
        share = f"local,id=share,path={self.share},security_model=none,multidevs=remap"
        disk = f"file={self.build.disk},if=none,id=root,format=raw,snapshot=on"
        return [
            "qemu-system-x86_64",
            *("-name", f"vtrace-lab-{self.name}"),
            *("-M", "pc,hpet=off", "-cpu", "max", "-accel", accel, *extra),
            *("-m", self._memory, "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none", "-serial", f"file:{self.console}"),
            *("-monitor", f"unix:{self.folder}/monitor.sock,server=on,wait=off"),
            *("-drive", f"{disk},cache=unsafe", "-device", "virtio-blk-pci,drive=root"),
            *("-fsdev", share, "-device", "virtio-9p-pci,fsdev=share,mount_tag=share"),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci", *ports),
            *("-device", "virtserialport,chardev=agent,name=vtrace.agent"),
            *("-device", "virtserialport,chardev=stream,name=vtrace.stream"),
            *("-device", "virtconsole,chardev=shell"),
            *("-kernel", self.build.vmlinux),
            *("-initrd", self.build.boot / "host.cpio", "-append", _KERNEL_LINE),
        ]

    def _connect(self, path: Path) -> socket.socket:
        """Connect with a socket of QEMU; it may not have made it yet."""
        deadline = time.monotonic() + 10
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(path))
            except OSError as error:
                link.close()
                if not self._alive() or time.monotonic() > deadline:
                    talk = (self.folder / "qemu.log").read_text(errors="replace")
                    raise LabError(f"QEMU does not start: {talk or error}") from error
                time.sleep(0.02)
            else:
                return link

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _read(self) -> None:
        """Feed the channel with what comes from the host; runs as a thread."""
        assert self._socket is not None
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                self.channel.feed(data)
        self.channel.close(f"the host {self.name} is gone (console: {self.console})")

    def revive(self) -> None:
        """Boot it once more in the place of one that hung; its guests are gone, its share stays.

        Raises:
            LabError: It does not boot.
        """
        self._end()
        for path in (self.console, self.folder / "autopsy.txt"):
            if path.exists():
                path.rename(path.with_name(f"{path.stem}-{self.lives}{path.suffix}"))
        for path in self.folder.glob("*.sock"):
            path.unlink()
        self.guests.clear()
        self.networks = 0
        self._start()
        self.sync_source()

    def close(self) -> None:
        """Kill the host with all that runs in it; remove its files."""
        self._end()
        if self.keep_logs:
            (self.folder / "kept").touch()
            for junk in (self.share / "src", self.share / ".lab"):
                shutil.rmtree(junk, ignore_errors=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        """Kill the host with all that runs in it."""
        atexit.unregister(self.close)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader is not None:
            self._reader.join(10)
        if self._socket is not None:
            self._socket.close()

    # What it can do.

    def sync_source(self) -> None:
        """Copy the source of the project to where `python3 -m vtrace` finds it."""
        target = self.share / "src"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in _SOURCES:
            if (_REPOSITORY / name).is_dir():
                shutil.copytree(
                    _REPOSITORY / name,
                    target / name,
                    ignore=shutil.ignore_patterns("__pycache__"),
                )

    def check(self) -> None:
        """See that it still answers; if not, end the wait of everybody.

        Raises:
            ChannelClosed: It is gone, or hangs.
        """
        try:
            self.channel.wait_until_up(_ANSWER_TIMEOUT, self._alive)
        except LabError as error:
            self.keep_logs = True
            write_autopsy(self.folder)
            reason = f"the host {self.name} {error} (console: {self.console})"
            self.channel.close(reason)
            raise ChannelClosed(reason) from error

    def guest(self, name: str = "cpx", **options: Any) -> Guest:
        """Boot a guest under KVM; `guest.boot_guest` has the options."""
        return boot_guest(self, name, **options)

    def counters(self, tap: str) -> Counters:
        """Return the packet counters of a tap, and the UDP counters of the host."""
        return read_counters(self, tap)

    def open_stream(self, timeout: float = 30) -> socket.socket:
        """Connect with the stream port; do so before anybody writes to it."""
        link = self._connect(self.stream_socket)
        link.settimeout(timeout)
        return link

    def connect_shell(self) -> socket.socket:
        """Connect with the terminal /dev/hvc0 of the host."""
        return self._connect(self.shell_socket)
