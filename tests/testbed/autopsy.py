"""What a host that no longer answers was doing: asked of its QEMU, not of itself."""

import contextlib
import re
import socket
import time
from bisect import bisect_right
from pathlib import Path
from typing import Final

__all__ = ["write_autopsy"]

_QUIET_S: Final = 1.0
"""The monitor has said all when it says nothing for so long."""
_PANIC_S: Final = 10.0
_INSTRUCTION: Final = re.compile(r"\b[RE]IP=([0-9a-f]+)")


def write_autopsy(folder: Path, symbols: Path | None = None) -> Path:
    """Write where its processors are, then have it print its stacks to its console.

    Its kernel takes a non-maskable interrupt for a reason to panic (`unknown_nmi_panic`), also
    with interrupts off. It ends by that: a second call changes nothing.

    Args:
        folder: That of the host; `monitor.sock` in it is QEMU's.
        symbols: System.map of its kernel, to name the addresses.

    Returns:
        The file that was written, in the folder.
    """
    path = folder / "autopsy.txt"
    if path.exists():
        return path
    said = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(_QUIET_S)
        monitor.connect(str(folder / "monitor.sock"))
        for command in ("info status", *["info registers -a"] * 3, "info irq", "nmi"):
            monitor.sendall(command.encode() + b"\n")
            said.append(_answer(monitor))
        time.sleep(_PANIC_S)
    text = "\n".join(said)
    if symbols is not None and symbols.exists():
        text += "\n" + _places(text, symbols)
    path.write_text(text or "QEMU itself does not answer\n")
    return path


def _answer(monitor: socket.socket) -> str:
    heard = bytearray()
    with contextlib.suppress(TimeoutError):
        while data := monitor.recv(65536):
            heard += data
    return heard.decode(errors="replace").replace("\r", "")


def _places(text: str, symbols: Path) -> str:
    """Return the kernel's name of each address at which a processor was seen."""
    table = sorted(
        (int(address, 16), name)
        for address, _, name in (line.split()[:3] for line in symbols.read_text().splitlines())
    )
    addresses = [address for address, _ in table]
    lines = []
    for found in _INSTRUCTION.finditer(text):
        address = int(found[1], 16)
        at = bisect_right(addresses, address) - 1
        if at >= 0:
            lines.append(f"{found[1]} {table[at][1]}+{address - table[at][0]:#x}")
    return "\n".join(lines) + "\n"
