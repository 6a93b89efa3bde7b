"""Uprobes by file and offset, each one file descriptor: the kernel removes it when that is closed.

Not through bcc's ``attach_uprobe``: it takes addresses, has other arguments in each version, and
falls back to an event in tracefs, which would outlive this process.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path
from typing import Final

from vtrace.errors import UnsupportedError

__all__ = ["attach"]

_PMU: Final = Path("/sys/bus/event_source/devices/uprobe")
_SYS_PERF_EVENT_OPEN: Final = 298  # x86-64
_FD_CLOEXEC: Final = 8
_IOC_ENABLE: Final = 0x2400
_IOC_SET_BPF: Final = 0x40042408


class _Attr(ctypes.Structure):
    # struct perf_event_attr of include/uapi/linux/perf_event.h, up to config2.
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("uprobe_path", ctypes.c_uint64),
        ("probe_offset", ctypes.c_uint64),
    )


def attach(program: int, path: Path, offset: int, *, is_return: bool) -> int:
    """Attach a loaded program to a place in a file, in every process that has it mapped.

    Args:
        program: File descriptor of a program of kprobe's type.
        path: The file; ``/proc/PID/exe`` is the binary that runs, deleted or in a container.
        offset: Offset in the file, bytes.
        is_return: Run it when the function that starts there returns.

    Returns:
        A file descriptor; closing it detaches.

    Raises:
        UnsupportedError: The kernel refuses it.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    attr = _Attr(
        type=int((_PMU / "type").read_text()),
        size=ctypes.sizeof(_Attr),
        config=(1 << _return_bit()) if is_return else 0,
        uprobe_path=ctypes.addressof(name),
        probe_offset=offset,
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # Any process, on CPU 0: the program runs on whatever CPU the function does.
    fd = libc.syscall(
        ctypes.c_long(_SYS_PERF_EVENT_OPEN),
        ctypes.byref(attr),
        ctypes.c_long(-1),
        ctypes.c_long(0),
        ctypes.c_long(-1),
        ctypes.c_long(_FD_CLOEXEC),
    )
    if fd < 0:
        why = os.strerror(ctypes.get_errno())
        raise UnsupportedError(f"{path}: no uprobe at {offset:#x} of the file: {why}")
    try:
        fcntl.ioctl(fd, _IOC_SET_BPF, program)
        fcntl.ioctl(fd, _IOC_ENABLE, 0)
    except OSError as error:
        os.close(fd)
        raise UnsupportedError(
            f"{path}: a uprobe at {offset:#x} of the file takes no program: {error.strerror}"
        ) from error
    return int(fd)


def _return_bit() -> int:
    # "config:0"
    return int((_PMU / "format/retprobe").read_text().strip().removeprefix("config:"))
