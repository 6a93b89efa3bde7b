"""The attach process: the small part that needs privilege.

It loads and attaches the programs, reads their rings and maps, and writes a stream in the trace
file's format into a pipe. Whoever reads the pipe (recorder, UI) runs as the invoking user. When the
pipe is full whole batches are dropped, and counted in band; the newest are kept.

Two pipes join the processes: *data* (the stream) and *talk* (JSON lines: progress, ready, error).
The attach process ends when the other side closes *talk*'s partner, *hold*: so it never outlives
its reader, however that one dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Protocol

from vtrace.errors import ExitCode, PrivilegeError, UnsupportedError, UsageError, VtraceError

if TYPE_CHECKING:
    from parsers.batch import EventBatch
    from probes.loader import Loaded, Options
    from probes.qemu import Qemus
    from probes.sampling import Sampler

__all__ = ["Attached", "Request", "spawn"]

_QUEUE_BYTES = 64 << 20
_QUEUE_BATCHES = 4096
"""Batches that wait, with rows or without: half an hour of a host where nothing happens."""
_ROW_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the attach process shall do."""

    vm: str | None = None
    """Name, pid or uuid of the one VM to trace; None: all."""
    capture_filter: str | None = None
    """pcap expression; None: every packet."""
    snap_bytes: int = 128
    ring_bytes: int = 32 << 20
    """Size of each of the two rings."""
    each_exit: bool = False
    programs: tuple[str, ...] = ()
    sample_every_s: float = 1.0
    """Time between samples of the host's counters; 0: at the start and at the end alone."""


class Attached:
    """The reading side: a running attach process."""

    def __init__(self, pid: int, data: BinaryIO, talk: BinaryIO, hold: int) -> None:
        self.pid = pid
        self.data = data
        """Stream in the trace file's format."""
        self._talk = talk
        self._hold = hold
        self._status: int | None = None

    def wait_ready(self, progress: Callable[[str], None]) -> None:
        """Return when every probe is attached; pass on what it says meanwhile.

        Raises:
            VtraceError: With the error that the attach process met.
        """
        for line in self._talk:
            word = json.loads(line)
            if "error" in word:
                raise _error(word)
            if word.get("ready"):
                return
            progress(word["progress"])
        raise VtraceError("the attach process ended without a word (killed?)")

    def failure(self) -> VtraceError | None:
        """Return the error that ended the attach process after it was ready, if there was one."""
        for line in self._talk:
            word = json.loads(line)
            if "error" in word:
                return _error(word)
        return None

    def stop(self) -> None:
        """Ask it to detach and to send what is left; the data stream ends after that."""
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1

    def close(self) -> None:
        """Stop it and wait for its end."""
        self.stop()
        self.data.close()
        self._talk.close()
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)


def _error(word: dict[str, Any]) -> VtraceError:
    kinds: dict[int, type[VtraceError]] = {
        ExitCode.USAGE: UsageError,
        ExitCode.PRIVILEGE: PrivilegeError,
        ExitCode.UNSUPPORTED: UnsupportedError,
    }
    return kinds.get(word.get("exit", 1), VtraceError)(word["error"])


class Names(Protocol):
    """What the attach process wants to know of the host's VMs."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids to trace; empty: all."""

    @property
    def ifindices(self) -> tuple[int, ...]:
        """Interface indices of their taps."""

    @property
    def vms_json(self) -> list[dict[str, Any]]:
        """The inventory, as JSON has it."""

    def name_queue(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return keys to add to a queue's entry: vm, device."""

    def name_thread(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return keys to add to a thread's entry: vm, vcpu."""

    def samplers(self) -> Sequence[Sampler]:
        """Return what to sample beside the events: called by one thread, in this order."""


def spawn(request: Request, names: Callable[[str | None], Names]) -> Attached:
    """Start the attach process; this process then gives up its privilege.

    Under sudo the caller becomes the invoking user again; called as root it stays root.
    """
    data_read, data_write = os.pipe()
    talk_read, talk_write = os.pipe()
    hold_read, hold_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for fd in (data_read, talk_read, hold_write):
            os.close(fd)
        _attach_process(request, names, data_write, talk_write, hold_read)
    for fd in (data_write, talk_write, hold_read):
        os.close(fd)
    drop_privilege()
    return Attached(pid, os.fdopen(data_read, "rb"), os.fdopen(talk_read, "rb"), hold_write)


def drop_privilege() -> None:
    """Become the user who called sudo; nothing where there is none to become."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if os.geteuid() != 0 or not uid or not gid or int(uid) == 0:
        return
    groups = os.getgrouplist(os.environ.get("SUDO_USER", "nobody"), int(gid))
    os.setgroups(groups)
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))


def _attach_process(
    request: Request, names: Callable[[str | None], Names], data: int, talk: int, hold: int
) -> NoReturn:
    # Ctrl-C goes to the whole group: only the reader acts on it, then closes `hold`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def say(**word: Any) -> None:
        with contextlib.suppress(OSError):
            os.write(talk, json.dumps(word).encode() + b"\n")

    code = 0
    try:
        _serve(request, names, data, say, lambda: bool(select.select([hold], [], [], 0)[0]))
    except VtraceError as error:
        say(error=str(error), exit=int(error.exit_code))
        code = int(error.exit_code)
    except BrokenPipeError:
        pass
    except BaseException as error:
        if os.environ.get("VTRACE_DEBUG"):
            import traceback

            traceback.print_exc()
        say(error=f"the attach process failed: {type(error).__name__}: {error}", exit=1)
        code = 1
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _serve(
    request: Request,
    names: Callable[[str | None], Names],
    data: int,
    say: Callable[..., None],
    stopped: Callable[[], bool],
) -> None:
    from probes.preflight import require_privilege

    require_privilege()
    say(progress="looking at the kernel")
    from probes import loader, preflight

    host = names(request.vm)
    options = _options(request, host, loader.Options)
    kernel = preflight.Kernel()
    loaded = loader.load(options, kernel, lambda text: say(progress=text))
    from parsers.tracefile import TraceWriter
    from probes.ringsample import ring_sampler
    from probes.source import LiveSource

    loaded.attach()
    qemus = _qemus(loaded, options)
    source = LiveSource(
        loaded,
        kernel,
        name_queue=host.name_queue,
        name_thread=host.name_thread,
        static={"capture": asdict(request), "vms": host.vms_json},
        samplers=(*host.samplers(), ring_sampler(loaded)),
        sample_every_s=request.sample_every_s,
        qemus=qemus,
    )
    source.begin()
    say(ready=True)
    feeder = _Feeder(TraceWriter(data, compression="none"), source)
    feeder.start()
    try:
        for batch in source.batches(lambda: stopped() or feeder.broken):
            feeder.put(batch)
    finally:
        feeder.finish()
        if qemus:
            qemus.detach()
        loaded.close()


def _qemus(loaded: Loaded, options: Options) -> Qemus | None:
    if loaded.table("qemu_layouts") is None:
        return None
    from probes.qemu import Qemus

    qemus = Qemus(loaded, options.vms)
    qemus.start()
    return qemus


def _options(request: Request, host: Names, make: type[Options]) -> Options:
    code = ""
    if request.capture_filter:
        from probes.pcap import compile_filter

        code = compile_filter(request.capture_filter)
    return make(
        event_bytes=request.ring_bytes,
        packet_bytes=request.ring_bytes,
        snap_bytes=request.snap_bytes,
        vms=host.pids,
        taps=host.ifindices,
        each_exit=request.each_exit,
        programs=request.programs,
        filter_code=code,
    )


class _Feeder(threading.Thread):
    """Writes batches to the pipe; drops the oldest waiting ones when the reader is too slow."""

    def __init__(self, writer: Any, source: Any) -> None:
        super().__init__(daemon=True)
        self._writer, self._source = writer, source
        self._waiting: deque[EventBatch] = deque()
        self._bytes = 0
        self._ready = threading.Condition()
        self._done = False
        self.broken = False

    def put(self, batch: EventBatch) -> None:
        with self._ready:
            self._waiting.append(batch)
            self._bytes += len(batch) * _ROW_BYTES
            while (self._bytes > _QUEUE_BYTES or len(self._waiting) > _QUEUE_BATCHES) and len(
                self._waiting
            ) > 1:
                self._drop()
            self._ready.notify()

    def _drop(self) -> None:
        # The oldest goes; what its metadata said is kept by the one behind it.
        from parsers.batch import joined

        old = self._waiting.popleft()
        self._bytes -= len(old) * _ROW_BYTES
        if len(old):
            self._source.dropped_batches += 1
            self._source.dropped_records += len(old)
        following = self._waiting[0]
        following.meta = joined(old.meta, following.meta)

    def finish(self) -> None:
        with self._ready:
            self._done = True
            self._ready.notify()
        self.join()

    def run(self) -> None:
        try:
            while True:
                with self._ready:
                    while not self._waiting and not self._done:
                        self._ready.wait()
                    if not self._waiting:
                        break
                    batch = self._waiting.popleft()
                    self._bytes -= len(batch) * _ROW_BYTES
                self._writer.write(batch)
                self._writer.flush()
            self._writer.close()
        except (OSError, ValueError):
            self.broken = True
