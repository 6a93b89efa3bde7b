"""Counters of guests: what became of packets behind the virtqueue, by the guest's own word.

They are asked for by the recorder, as the user who called it. A guest that does not answer is a
sentence; recording goes on. What a guest says is bounded, and believed no further than numbers go.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from parsers.batch import joined
from vtrace.counters.agent import Agent, RefusedError
from vtrace.counters.files import parse_dev, parse_snmp, parse_snmp6, parse_softnet, parse_udp
from vtrace.errors import VtraceError
from vtrace.text import clean

__all__ = ["AgentSource", "CommandSource", "Guests", "Source"]

FILES: Final = ("snmp", "snmp6", "dev", "softnet_stat", "udp", "udp6")
"""Files of /proc/net, those that matter most first."""

_MARK: Final = "==vtrace "
SCRIPT: Final = (
    f"for f in {' '.join(FILES)}; do echo '{_MARK}'$f; cat /proc/net/$f 2>/dev/null; done; "
    f"echo '{_MARK}end'"
)

_COMMAND_S: Final = 10.0
_LONGEST: Final = 4 << 20
_FIRST_S: Final = 12.0
_LAST_S: Final = 6.0
_MOST: Final = {"dev": 64, "softnet_stat": 256, "udp": 256, "udp6": 256}
_NAME: Final = re.compile(r"[^\s/]{1,32}")

Text = tuple[int, int, str]
"""Lo, hi, text."""


class Source(Protocol):
    """A way to ask a guest."""

    @property
    def vm(self) -> str:
        """Name of the VM."""

    def texts(self) -> dict[str, Text]:
        """Return files of /proc/net by name.

        Raises:
            VtraceError: The guest does not answer.
        """

    def give_up(self) -> None:
        """End what still runs for ``texts``; another thread calls this."""


@dataclass(slots=True)
class CommandSource:
    """Asks by a command of the user, which is given a shell script as one more argument."""

    vm: str
    command: str
    _process: subprocess.Popen[bytes] | None = field(default=None, compare=False, repr=False)

    def texts(self) -> dict[str, Text]:
        """Return files of /proc/net by name.

        Raises:
            VtraceError: The command fails, or takes too long.
        """
        words = shlex.split(self.command)
        lo_ns = time.monotonic_ns()
        answer = self._output_of([*words, SCRIPT])
        hi_ns = time.monotonic_ns()
        found: dict[str, Text] = {}
        parts = re.split(f"^{re.escape(_MARK)}(.*)$\n?", answer, flags=re.MULTILINE)
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            found[name.strip()] = (lo_ns, hi_ns, text)
        if "end" not in found:
            raise VtraceError("the answer is not whole")
        return found

    def give_up(self) -> None:
        """End the command, and what it has started."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _output_of(self, words: Sequence[str]) -> str:
        # Its own session: Ctrl-C is for us, and nobody asks for a password.
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise VtraceError(f"{words[0]}: {error.strerror}") from error
        self._process = process
        try:
            out, err = both_of(process)
            code = process.wait(1)
        except subprocess.TimeoutExpired:
            raise VtraceError(f"{words[0]}: no answer within {_COMMAND_S:g} s") from None
        finally:
            self.give_up()
            self._process = None
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        if code:
            said = err.decode("utf-8", "replace").strip().splitlines()
            raise VtraceError(f"{words[0]} ended with {code}" + (f": {said[-1]}" if said else ""))
        return out.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class AgentSource:
    """Asks the QEMU guest agent."""

    vm: str
    path: str

    def texts(self) -> dict[str, Text]:
        """Return files of /proc/net by name.

        Raises:
            VtraceError: The agent does not answer, or may neither read files nor run commands.
        """
        found: dict[str, Text] = {}
        with Agent(self.path) as agent:
            # Distributions forbid to read files, or to run commands, or both.
            by_file = True
            for name in FILES:
                path = f"/proc/net/{name}"
                lo_ns = time.monotonic_ns()
                try:
                    text = agent.read(path) if by_file else agent.run(f"cat {path}")
                except RefusedError as error:
                    if found:
                        continue  # a guest without IPv6 has no snmp6
                    by_file = False
                    try:
                        text = agent.run(f"cat {path}")
                    except RefusedError:
                        raise VtraceError(f"the guest's agent refuses: {error}") from error
                found[name] = (lo_ns, time.monotonic_ns(), text)
        return found

    def give_up(self) -> None:
        """Do nothing: a talk ends by itself, and leaves nothing."""


def both_of(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    # communicate() takes whatever comes; a guest may send without end.
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    deadline = time.monotonic() + _COMMAND_S
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(max(left, 0))
            if left <= 0 or not ready:
                raise subprocess.TimeoutExpired(process.args, _COMMAND_S)
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                kept[key.fileobj] += data  # type: ignore[index]
                if len(kept[key.fileobj]) > _LONGEST:  # type: ignore[index]
                    raise VtraceError("the answer does not end")
    return bytes(kept[process.stdout]), bytes(kept[process.stderr])


def objects_of(vm: str, texts: dict[str, Text]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects that a guest's files hold, by the names that those of the host have."""
    for file, parse in (("snmp", parse_snmp), ("snmp6", parse_snmp6)):
        lo_ns, hi_ns, text = texts.get(file, (0, 0, ""))
        for protocol, values in parse(text):
            yield f"guest/{vm}/{protocol}", {"lo_ns": lo_ns, "hi_ns": hi_ns, **sensible(values)}
    lo_ns, hi_ns, text = texts.get("dev", (0, 0, ""))
    for number, (name, values) in enumerate(parse_dev(text)):
        if number < _MOST["dev"] and name != "lo" and _NAME.fullmatch(name):
            yield f"guest/{vm}/link/{name}", {"lo_ns": lo_ns, "hi_ns": hi_ns, **sensible(values)}
    lo_ns, hi_ns, text = texts.get("softnet_stat", (0, 0, ""))
    for number, (cpu, values) in enumerate(parse_softnet(text)):
        if number < _MOST["softnet_stat"]:
            yield f"guest/{vm}/softnet/{cpu}", {"lo_ns": lo_ns, "hi_ns": hi_ns, **sensible(values)}
    for file in ("udp", "udp6"):
        lo_ns, hi_ns, text = texts.get(file, (0, 0, ""))
        sockets = sorted(parse_udp(text), key=lambda one: -one.drops)
        for one in sockets[: _MOST[file]]:
            values = {"drops": one.drops, "rx_queue_bytes": one.rx_queue_bytes}
            row = {"lo_ns": lo_ns, "hi_ns": hi_ns, "local": one.local, **sensible(values)}
            yield f"guest/{vm}/socket/{file}/{one.inode}", row


def sensible(values: dict[str, int]) -> dict[str, int]:
    return {name[:64]: value for name, value in values.items() if 0 <= value < 1 << 64}


class Guests:
    """Asks guests at the start, each few seconds, and at the end; each in a thread of its own.

    Args:
        sources: Whom to ask, and how.
        every_s: Time between two samples; 0: at the start and at the end alone.
    """

    def __init__(self, sources: Sequence[Source], every_s: float = 5.0) -> None:
        self._sources, self._every_s = sources, every_s
        self._lock = threading.Lock()
        self._sections: dict[str, Any] = {}
        self._said: set[str] = set()
        self._ending = threading.Event()
        self._over = threading.Event()
        self._first = [threading.Event() for _ in sources]
        self._threads = [
            threading.Thread(target=self._run, args=one, name="vtrace-guest", daemon=True)
            for one in zip(sources, self._first, strict=True)
        ]

    def begin(self) -> None:
        """Take the first sample of each guest, and go on with the others."""
        deadline = time.monotonic() + _FIRST_S
        for thread in self._threads:
            thread.start()
        for source, taken in zip(self._sources, self._first, strict=True):
            if not taken.wait(max(0.0, deadline - time.monotonic())):
                self._note(source.vm, "it did not answer in time")

    def finish(self) -> None:
        """Take the last sample of each guest; after that there is none."""
        self._ending.set()
        deadline = time.monotonic() + _LAST_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._over.set()
        for source, thread in zip(self._sources, self._threads, strict=True):
            if thread.is_alive():
                self._note(source.vm, "it did not answer at the end")
                source.give_up()

    def take(self) -> dict[str, Any]:
        """Return the sections that have come since the last call."""
        with self._lock:
            found, self._sections = self._sections, {}
        return found

    def _run(self, source: Source, taken: threading.Event) -> None:
        self._sample(source)
        taken.set()
        while not self._ending.wait(self._every_s or None):
            self._sample(source)
        if not self._over.is_set():
            self._sample(source)

    def _sample(self, source: Source) -> None:
        try:
            found = dict(objects_of(source.vm, source.texts()))
        except VtraceError as error:
            self._note(source.vm, str(error))
        except Exception as error:
            self._note(source.vm, f"{type(error).__name__}: {error}")
        else:
            if not found:
                self._note(source.vm, "there are no counters in its answer")
            with self._lock:
                self._sections = joined(self._sections, {"counters": found})

    def _note(self, vm: str, reason: str) -> None:
        # Once for each guest: what keeps it from answering may be said in many ways.
        if vm in self._said:
            return
        self._said.add(vm)
        sentence = f"counters of guest {vm}: {clean(reason, 240)}"
        with self._lock:
            missing = {"counters": {"missing": [sentence]}}
            self._sections = joined(self._sections, missing)
