"""The terminal UI: how soon the first screen is there, and what it costs beside a busy recorder."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

__all__ = ["Following", "Screens", "first_screen", "following"]

COLUMNS, ROWS = 110, 32
LIMIT_S = 120.0
FRAME_S = 0.08
"""Output behind so long a silence is another frame."""


class Screens:
    """A command in a terminal of its own; what it draws is read and counted."""

    def __init__(self, command: list[str]) -> None:
        self.began = time.monotonic()
        self.frames = 0
        self._seen = b""
        self._last = 0.0
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color")
            os.execvp(command[0], command)
        ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                return
            if not data:
                return
            now = time.monotonic()
            self.frames += now - self._last > FRAME_S
            self._last = now
            self._seen = (self._seen + data)[-(1 << 20) :]

    def until(self, text: str) -> float:
        """Return the seconds from the start until a text was drawn; inf if it is not."""
        while time.monotonic() - self.began < LIMIT_S:
            if text.encode() in self._seen:
                return time.monotonic() - self.began
            time.sleep(0.005)
        return float("inf")

    def cpu_s(self) -> float:
        """Return the CPU time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> int:
        """Leave by q; return the peak of memory in bytes."""
        with contextlib.suppress(OSError):
            os.write(self._fd, b"q")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            pid, _, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.02)
        else:
            os.kill(self.pid, signal.SIGKILL)
            _, _, used = os.wait4(self.pid, 0)
        os.close(self._fd)
        return used.ru_maxrss * 1024


def first_screen(path: Path) -> tuple[float, int]:
    """Return seconds until the queues are drawn, and the peak of memory up to then and a bit."""
    screens = Screens([sys.executable, "-m", "vtrace", "view", str(path)])
    first = screens.until("rx0")
    time.sleep(3)
    return first, screens.close()


@dataclass(slots=True)
class Following:
    """``vtrace view --follow`` on a file that is being written."""

    rate: float = 0.0
    """Events a second that were written."""
    cpu: float = 0.0
    """Of one core."""
    frames: float = 0.0
    """Drawn a second."""


def following(source: Path, target: Path, rate: float, seconds: float) -> Following:
    """Write a recording again at a rate, and look at it meanwhile."""
    found = Following()
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    words = [sys.executable, "-m", "benchmarks.worker", "pace", str(source), str(target)]
    writer = subprocess.Popen([*words, str(rate), str(seconds + 15)], stdout=subprocess.DEVNULL)
    try:
        while not target.exists() or not target.stat().st_size:
            time.sleep(0.01)
        screens = Screens([sys.executable, "-m", "vtrace", "view", "--follow", str(target)])
        screens.until("rx0")
        time.sleep(3)
        cpu, frames, began = screens.cpu_s(), screens.frames, time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        found.cpu = (screens.cpu_s() - cpu) / passed
        found.frames = (screens.frames - frames) / passed
        found.rate = rate
        screens.close()
    finally:
        writer.terminate()
        writer.wait()
        target.unlink(missing_ok=True)
    return found
