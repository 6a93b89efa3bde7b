"""A terminal in the nested host, for a person."""

import contextlib
import os
import select
import shutil
import socket
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.testbed.host import Host

__all__ = ["open_shell"]

_END_OF_INPUT = b"\nexit\n"


def open_shell(host: "Host") -> int:
    """Connect this terminal with a shell in the host until that ends."""
    columns, lines = shutil.get_terminal_size()
    term = os.environ.get("TERM", "xterm")
    with host.connect_shell() as link, _raw(sys.stdin.fileno()):
        shell = host.start(
            f"exec </dev/hvc0 >/dev/hvc0 2>&1; stty sane rows {lines} cols {columns}; "
            "cd /root; exec bash -i",
            env={"TERM": term, "PS1": r"\[\e[1m\]\h:\w#\[\e[0m\] "},
        )
        _pass_on(link, lambda: shell.running)
        return shell.wait(10).rc if not shell.running else 0


def _pass_on(link: socket.socket, alive: Callable[[], bool]) -> None:
    """Copy both ways until the shell ends."""
    sources = [link, sys.stdin.fileno()]
    while True:
        ready, _, _ = select.select(sources, [], [], 0.1)
        if link in ready:
            data = link.recv(65536)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        elif not alive():
            return
        if sys.stdin.fileno() in ready:
            data = os.read(sys.stdin.fileno(), 4096)
            if not data:
                sources.remove(sys.stdin.fileno())
            link.sendall(data or _END_OF_INPUT)


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Give every key to the other side, if this is a terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
