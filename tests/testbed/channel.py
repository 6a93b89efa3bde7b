"""The command channel to a host or guest: frames, and the jobs they run.

The other end is guest/agent.c, which says what the frames mean. A channel is
fed with bytes by whoever reads its transport and never blocks doing that, so
the channel to a guest can ride on a job of the channel to its host.
"""

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable
from typing import Final

from tests.testbed.errors import ChannelClosed, CommandError, LabError
from tests.testbed.system import patience

__all__ = ["Channel", "Job", "Result"]

_CHUNK: Final = 16384
_HEAD: Final = re.compile(rb"([A-Z]) (\d+) (\d+)\n")
_NO_GROUP: Final = "one"


class Result:
    """What an ended command left."""

    def __init__(self, command: str, rc: int, out: bytes, err: bytes) -> None:
        self.command = command
        self.rc = rc
        """Exit status; minus the signal number if a signal ended it."""
        self.raw = out
        self.out = out.decode(errors="replace")
        self.err = err.decode(errors="replace")

    def __repr__(self) -> str:
        return f"Result(rc={self.rc}, out={self.out!r}, err={self.err!r})"

    def check(self) -> "Result":
        """Return this result, or raise `CommandError` if the status is not 0."""
        if self.rc:
            said = (self.err.strip() or self.out.strip())[-2000:]
            raise CommandError(f"{self.command}: ended with {self.rc}: {said}")
        return self


class Job:
    """A command that runs, or ran, in a host or guest."""

    def __init__(self, channel: "Channel", number: int, command: str) -> None:
        self._channel = channel
        self._number = number
        self._changed = threading.Condition()
        self._out = bytearray()
        self._err = bytearray()
        self._failure: str | None = None
        self._on_output: Callable[[bytes], None] | None = None
        self._at_end: Callable[[], None] | None = None
        self.command = command
        self._pid: int | None = None
        self.rc: int | None = None
        """Exit status; None while it runs."""

    @property
    def pid(self) -> int:
        """Process id, as the machine sees it where the command runs."""
        self._until(lambda: self._pid is not None, 10, "start")
        assert self._pid is not None
        return self._pid

    @property
    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self.rc is None and self._failure is None

    @property
    def output(self) -> str:
        """What it wrote to its standard output so far."""
        with self._changed:
            return self._out.decode(errors="replace")

    @property
    def errors(self) -> str:
        """What it wrote to its standard error so far."""
        with self._changed:
            return self._err.decode(errors="replace")

    def wait(self, timeout: float = 60) -> Result:
        """Wait until it ends; kill it and raise `CommandError` if it does not."""
        try:
            self.join(timeout)
        except CommandError:
            self.kill()
            raise
        assert self.rc is not None
        return Result(self.command, self.rc, bytes(self._out), bytes(self._err))

    def join(self, timeout: float = 60) -> None:
        """Wait until it ends; raise `CommandError` if it does not, and let it run."""
        self._until(lambda: self.rc is not None, timeout, "end")

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """Wait until its output or errors hold a text; return the output so far.

        Raises:
            CommandError: It ended before, or the time is over.
        """
        wanted = text.encode()
        self._until(
            lambda: wanted in self._out or wanted in self._err or self.rc is not None,
            timeout,
            f"say {text!r}",
        )
        if wanted not in self._out and wanted not in self._err:
            raise CommandError(
                f"{self.command}: ended with {self.rc} "
                f"before it said {text!r}: {self.errors[-2000:]}"
            )
        return self.output

    def signal(self, number: int, *, group: bool = True) -> None:
        """Send a signal to its process group, or to its first process alone."""
        whom = "group" if group else _NO_GROUP
        self._channel.send("K", self._number, f"{int(number)} {whom}".encode())

    def kill(self, timeout: float = 10) -> None:
        """Kill its process group and wait for its end."""
        with contextlib.suppress(ChannelClosed):
            if self.running:
                self.signal(9)
                self._until(lambda: self.rc is not None, timeout, "die")

    def write(self, data: bytes) -> None:
        """Write to its standard input."""
        for start in range(0, len(data), _CHUNK):
            self._channel.send("I", self._number, data[start : start + _CHUNK])

    def close_stdin(self) -> None:
        """End its standard input."""
        self._channel.send("I", self._number, b"")

    def forward(
        self, receiver: Callable[[bytes], None], at_end: Callable[[], None]
    ) -> None:
        """Give its output to a function from now on, instead of keeping it.

        Both functions are called by the thread that reads the channel.
        """
        with self._changed:
            self._on_output = receiver
            self._at_end = at_end
            held, self._out = bytes(self._out), bytearray()
            if held:  # before anything that comes now
                receiver(held)

    def take(self, kind: str, data: bytes) -> None:
        """Take a frame about this job; the channel calls this."""
        with self._changed:
            receiver = self._on_output
            if kind == "O" and receiver is None:
                self._out += data
            elif kind == "E":
                self._err += data
            elif kind == "S":
                self._pid = int(data)
            elif kind == "X":
                self.rc = int(data)
            elif kind == "F":
                self._failure = data.decode()
            self._changed.notify_all()
        if kind == "O" and receiver is not None:
            receiver(data)
        if kind in "XF" and self._at_end is not None:
            self._at_end()

    def fail(self, reason: str) -> None:
        """End the wait of everybody: the machine is gone."""
        with self._changed:
            if self.rc is None:
                self._failure = reason
            self._changed.notify_all()
        if self._at_end is not None:
            self._at_end()

    def _until(
        self, condition: Callable[[], bool], timeout: float, purpose: str
    ) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: condition() or self._failure is not None, patience(timeout)
            )
            if condition():
                return
            if self._failure is not None:
                raise ChannelClosed(f"{self.command}: {self._failure}")
        raise CommandError(
            f"{self.command}: did not {purpose} within {timeout:g} s; "
            f"said: {(self.errors or self.output)[-2000:]}"
        )


class Channel:
    """The outer end of the channel to one agent."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._inbox = bytearray()
        self._answered = threading.Event()
        self._closed: str | None = None

    def start(self, command: str, *, stdin: bool = False) -> Job:
        """Start a shell command; its standard input is empty unless asked for."""
        number = next(self._numbers)
        job = self._jobs[number] = Job(self, number, command)
        if self._closed:
            job.fail(self._closed)
        self.send("J" if stdin else "R", number, command.encode())
        return job

    def wait_until_up(
        self, timeout: float, alive: Callable[[], bool] = lambda: True
    ) -> None:
        """Wait until the agent answers.

        Raises:
            LabError: It did not in time, or what carries it died.
        """
        self._answered.clear()
        self.send("P", 0, b"")
        deadline = time.monotonic() + patience(timeout)
        while not self._answered.wait(0.05):
            if self._closed or not alive():
                raise LabError(f"died ({self._closed or 'QEMU ended'})")
            if time.monotonic() > deadline:
                raise LabError(f"does not answer for {patience(timeout):g} s")

    def send(self, kind: str, number: int, data: bytes) -> None:
        """Send one frame."""
        if self._closed:
            raise ChannelClosed(self._closed)
        with self._sending:
            self._send(b"%s %d %d\n" % (kind.encode(), number, len(data)) + data)

    def feed(self, data: bytes) -> None:
        """Take bytes that came from the agent."""
        self._inbox += data
        while True:
            head = _HEAD.match(self._inbox)
            if head is None:
                if len(self._inbox) > 64:
                    self.close(f"nonsense from the agent: {bytes(self._inbox[:64])!r}")
                return
            end = head.end() + int(head[3])
            if len(self._inbox) < end:
                return
            kind, number = head[1].decode(), int(head[2])
            body = bytes(self._inbox[head.end() : end])
            del head
            del self._inbox[:end]
            self._take(kind, number, body)

    def _take(self, kind: str, number: int, body: bytes) -> None:
        if kind == "P":
            self._answered.set()
            return
        job = self._jobs.get(number)
        if job is not None:
            job.take(kind, body)
            if kind in "XF":
                del self._jobs[number]

    def close(self, reason: str) -> None:
        """Note that the machine is gone; whoever waits for it stops waiting."""
        if self._closed is None:
            self._closed = reason
        for job in list(self._jobs.values()):
            job.fail(reason)
