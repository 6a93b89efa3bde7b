"""Visits to other network namespaces."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["visit"]

T = TypeVar("T")

CLONE_NEWNET = 0x4000_0000


def visit(door: Path | None, work: Callable[[], T]) -> T:
    """Return what ``work`` returns in the network namespace behind a file; None: in our own.

    Raises:
        OSError: It has gone, or may not be entered, or whatever ``work`` raises.
    """
    # A namespace is a thread's own: the thread ends, and with it the visit.
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            if door is not None:
                enter(door)
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="vtrace-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def enter(door: Path) -> None:
    # os.setns is there from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(door, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(fd)
