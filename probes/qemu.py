"""QEMU processes: finds those that run, attaches to each of their binaries, reads devices' names.

A binary is known by device and inode of ``/proc/PID/exe``, which is the file that runs, whatever
stands at its path by now, and in whatever mount namespace. A process that comes while this looks
is found within a second; one whose binary is attached already is traced from its first instruction,
as long as all binaries have equal offsets.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from probes.qemu_layout import Layout, layout_of
from probes.ringsample import read_memory
from vtrace.errors import UnsupportedError

if TYPE_CHECKING:
    from probes.loader import Loaded

__all__ = ["Binary", "Qemus", "binaries", "device_name"]

_PROC: Final = Path("/proc")
_LOOK_EVERY_S: Final = 1.0
_SMALLEST: Final = 1 << 20
"""No QEMU is smaller; most programs are."""
_MARK: Final = b"\0virtqueue_pop\0"
_CHUNK: Final = 1 << 20
_LONGEST_NAME: Final = 512
_PAGE: Final = 4096

Identity = tuple[int, int]
"""Device and inode."""


@dataclass(slots=True, kw_only=True)
class Binary:
    """A QEMU binary that runs."""

    exe: str
    """Where it was started from."""
    layout: Layout | None
    reason: str
    """Why it cannot be probed; empty if it can."""
    pids: set[int] = field(default_factory=set)
    fds: list[int] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Point -> why it could not be attached."""


class _Programs:
    """Tells which processes run a QEMU; a file is looked into once."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._is_qemu: dict[Identity, bool] = {}

    def running(self, pids: Sequence[int] = ()) -> dict[int, Identity]:
        """Return the QEMU processes (of those asked for) and what they run."""
        found = {}
        for pid in pids or self._numbers():
            exe = self._proc / str(pid) / "exe"
            try:
                # Of a kernel thread there is none, of many an other's process it may not be known.
                status = os.stat(exe)  # noqa: PTH116
            except OSError:
                continue
            key = (status.st_dev, status.st_ino)
            if key not in self._is_qemu:
                self._is_qemu[key] = status.st_size >= _SMALLEST and _has_mark(exe)
            if self._is_qemu[key]:
                found[pid] = key
        return found

    def _numbers(self) -> list[int]:
        return sorted(int(p.name) for p in self._proc.iterdir() if p.name.isdecimal())


def _has_mark(exe: Path) -> bool:
    # The name among the dynamic symbols; it may lie across two pieces.
    tail = b""
    try:
        with exe.open("rb") as file:
            while piece := file.read(_CHUNK):
                if _MARK in tail + piece:
                    return True
                tail = piece[-len(_MARK) :]
    except OSError:
        return False
    return False


def _binary(pid: int, proc: Path = _PROC) -> Binary:
    exe = proc / str(pid) / "exe"
    try:
        name = str(exe.readlink())
    except OSError:
        name = str(exe)
    try:
        return Binary(exe=name, layout=layout_of(exe), reason="")
    except UnsupportedError as error:
        return Binary(exe=name, layout=None, reason=str(error).replace(str(exe), name))


def binaries() -> list[Binary]:
    """Return the QEMU binaries that run here, with what is known of each; nothing is attached."""
    found: dict[Identity, Binary] = {}
    for pid, key in _Programs().running().items():
        if key not in found:
            found[key] = _binary(pid)
        found[key].pids.add(pid)
    return list(found.values())


class Qemus:
    """Attaches program ``qemu_virtio`` to the QEMU processes of this host, and follows them.

    Args:
        loaded: Programs in the kernel, ``qemu_virtio`` among them.
        pids: Process ids to trace; empty: all.
    """

    def __init__(self, loaded: Loaded, pids: Sequence[int] = ()) -> None:
        self._loaded, self._pids = loaded, tuple(pids)
        self._programs = _Programs()
        self._binaries: dict[Identity, Binary] = {}
        self._layouts: dict[int, Layout] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="vtrace-qemu", daemon=True)
        self.seen = 0
        """Counts what was new; a reader that knows the number knows whether to ask again."""

    @property
    def found(self) -> list[Binary]:
        """The binaries that were met."""
        return list(self._binaries.values())

    def layout(self, pid: int) -> Layout | None:
        """Return the layout of a process."""
        return self._layouts.get(pid)

    def device_name(self, pid: int, vdev: int) -> tuple[str, str]:
        """Return what a process calls a device at an address (:func:`device_name`)."""
        layout = self._layouts.get(pid)
        if layout is None:
            # One that has just begun, with a binary that is attached already.
            try:
                layout = layout_of(_PROC / str(pid) / "exe")
            except UnsupportedError:
                return "", ""
        return device_name(pid, vdev, layout)

    def state_of(self, point: str) -> tuple[str, str]:
        """Return the state of a point over all binaries, and why it is that."""
        binaries = list(self._binaries.values())
        if not binaries:
            return "unavailable", "no QEMU runs here"
        reasons = {b.exe: b.reason or b.failed.get(point, "") for b in binaries}
        said = "; ".join(dict.fromkeys(why for why in reasons.values() if why))
        if not all(reasons.values()):
            return "attached", said
        refused = all(b.reason or _does_without(b.failed.get(point, "")) for b in binaries)
        return "unavailable" if refused else "failed", said

    def start(self) -> None:
        """Look once, then every second until :meth:`stop`."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; what is attached stays so until :meth:`detach`."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def detach(self) -> None:
        """Detach from every binary."""
        self.stop()
        self._forget_gone(self._programs.running(self._pids))
        for pid in (0, *self._layouts):
            self._clear_layout(pid)
        for binary in self._binaries.values():
            while binary.fds:
                os.close(binary.fds.pop())

    def look(self) -> None:
        """Look for processes that have come or gone."""
        running = self._programs.running(self._pids)
        self._forget_gone(running)
        for pid, key in running.items():
            binary = self._binaries.get(key)
            if binary is None:
                binary = self._binaries[key] = _binary(pid)
                self._attach(binary, pid)
                self.seen += 1
            if pid not in binary.pids:
                binary.pids.add(pid)
                self.seen += 1
            if binary.layout and pid not in self._layouts:
                self._layouts[pid] = binary.layout
                self._write_layout(pid, binary.layout)

    def _follow(self) -> None:
        while not self._ending.wait(_LOOK_EVERY_S):
            self.look()

    def _attach(self, binary: Binary, pid: int) -> None:
        if binary.layout is None:
            return
        # Without a layout no probe does anything: so all points of a binary begin at once.
        self._clear_layout(0)
        binary.fds, binary.failed = self._loaded.attach_uprobes(
            _PROC / str(pid) / "exe", binary.layout.functions
        )
        layouts = {_offsets(b.layout) for b in self._binaries.values() if b.layout}
        if len(layouts) == 1:
            self._write_layout(0, binary.layout)

    def _write_layout(self, pid: int, layout: Layout) -> None:
        table = self._loaded.table("qemu_layouts")
        value = table.Leaf()
        for name, _ in value._fields_:
            setattr(value, name, getattr(layout, name))
        table[ctypes.c_uint32(pid)] = value

    def _clear_layout(self, pid: int) -> None:
        table = self._loaded.table("qemu_layouts")
        with contextlib.suppress(KeyError):
            del table[ctypes.c_uint32(pid)]

    def _forget_gone(self, running: dict[int, Identity]) -> None:
        for pid in self._layouts.keys() - running.keys():
            self._gone(pid)

    def _gone(self, pid: int) -> None:
        # Its number may become another process's: what was known by it is forgotten.
        self._layouts.pop(pid, None)
        for binary in self._binaries.values():
            binary.pids.discard(pid)
        self._clear_layout(pid)
        now = time.monotonic_ns()
        queues, infos = self._loaded.table("qemu_queues"), self._loaded.table("queue_info")
        for key, queue in queues.items():
            if key.tgid != pid:
                continue
            if queue.id:
                info = infos[ctypes.c_int(queue.id)]
                info.stopped = info.stopped or now
                infos[ctypes.c_int(queue.id)] = info
            del queues[key]
        self.seen += 1


def _does_without(reason: str) -> bool:
    return reason.endswith(" and does without")


def _offsets(layout: Layout) -> tuple[Any, ...]:
    return tuple(
        getattr(layout, name)
        for name in layout.__dataclass_fields__
        if name.startswith(("vq_", "elem_", "vdev_", "cache_"))
    )


def device_name(pid: int, vdev: int, layout: Layout) -> tuple[str, str]:
    """Return what a QEMU calls a device: its virtio name and its canonical QOM path.

    Empty where it cannot be read. Both are QEMU's own memory; its user chose the ids in the path.
    """
    return (
        _text_at(pid, vdev + layout.vdev_name),
        _text_at(pid, vdev + layout.vdev_canonical_path),
    )


def _text_at(pid: int, pointer: int) -> str:
    # Pieces that end where pages do: what lies behind the text may not be mapped.
    word = read_memory(pid, ((pointer, 8),))
    address = int.from_bytes(word, "little") if word else 0
    text = b""
    while address and len(text) < _LONGEST_NAME:
        piece = read_memory(pid, ((address, min(64, _PAGE - address % _PAGE)),))
        if piece is None:
            return ""
        head, end, _ = piece.partition(b"\0")
        text += head
        if end:
            break
        address += len(piece)
    return text.decode(errors="replace")
