"""Programs of this machine that the test bed runs, and how."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.testbed.errors import LabError, MissingPiece

__all__ = ["HERE", "call", "digest", "patience", "require", "spawn"]

HERE: Final = Path(__file__).parent
"""The folder of the test bed."""

_PACKAGE_OF: Final = {
    "apt-get": "apt",
    "gcc": "gcc libc6-dev",
    "ldconfig": "libc-bin",
    "depmod": "kmod",
    "lz4": "lz4",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "tar": "tar",
    "unshare": "util-linux",
    "xz": "xz-utils",
    "zstd": "zstd",
}
# By the time that setpriv has asked for the signal, the parent may be gone.
_UNLESS_ORPHAN: Final = '[ "$PPID" = "$0" ] && exec "$@"'
_PATH: Final = os.pathsep.join(
    (os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin")
)


def require(*programs: str) -> None:
    """Raise `MissingPiece` naming each program that is not installed."""
    missing = [name for name in programs if not shutil.which(name, path=_PATH)]
    if missing:
        packages = " ".join(_PACKAGE_OF.get(name, name) for name in missing)
        raise MissingPiece(
            f"not installed: {', '.join(missing)} (apt-get install {packages})"
        )


def _found(command: Sequence[str | Path]) -> list[str]:
    """Return the command with the full path of its program."""
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise MissingPiece(f"not installed: {command[0]}")
    return [program, *map(str, command[1:])]


def call(
    command: Sequence[str | Path],
    *,
    timeout: float = 600,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> str:
    """Run a program of this machine and return what it printed.

    Raises:
        LabError: It failed; the message ends with its last lines.
        MissingPiece: It is not installed.
    """
    try:
        done = subprocess.run(
            _found(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, "PATH": _PATH, "LC_ALL": "C.UTF-8", **(env or {})},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command[0]} took more than {timeout:g} s") from error
    if check and done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise LabError(f"{command[0]} ended with {done.returncode}:\n{tail}")
    return done.stdout


def spawn(command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Start a program, its talk written to a file.

    The kernel kills it when the thread that called this ends, however it ends.
    """
    with log.open("wb") as out:
        return subprocess.Popen(
            [
                *_found(["setpriv", "--pdeathsig", "KILL", "--"]),
                *("/bin/sh", "-c", _UNLESS_ORPHAN, str(os.getpid())),
                *_found(command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def digest(parts: Iterable[str | Path]) -> str:
    """Return a short hash over texts and over the contents of files."""
    hashed = hashlib.sha256()
    for part in parts:
        text = part.read_bytes() if isinstance(part, Path) else part.encode()
        hashed.update(len(text).to_bytes(8, "big") + text)
    return hashed.hexdigest()[:12]


def patience(seconds: float) -> float:
    """Return a time limit, stretched for slow machines.

    VTRACE_TESTBED_PATIENCE=3 makes every limit three times as long.
    """
    return seconds * float(os.environ.get("VTRACE_TESTBED_PATIENCE", "1"))
