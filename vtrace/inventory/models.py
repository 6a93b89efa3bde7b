"""Which virtio models a QEMU binary offers: it is asked, by ``-device help``.

Names in the binary's text would not do: some models are in modules, and names of models that it
lacks are in it, too. The binary is run as nobody when root asks, without an environment, and only
if nobody but root can have written it.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from vtrace.errors import UnsupportedError
from vtrace.inventory.drivers import driver_of

__all__ = ["Models", "installed", "models_in", "models_of"]

FOLDERS = ("/usr/bin", "/usr/libexec", "/usr/local/bin")
NAMES = ("qemu-system-{machine}", "qemu-system-{machine}-microvm", "qemu-kvm")
MODEL = re.compile(r'^name "([^"\n]{1,80})", bus ', re.MULTILINE)
VERSION = re.compile(r"^QEMU emulator version (\S{1,40})", re.MULTILINE)
NOBODY = 65534
DEADLINE_S = 10
OTHERS_WRITE = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What a QEMU binary offers."""

    version: str
    """As it says itself; empty if it does not."""
    models: dict[str, tuple[str, ...]]
    """Names that ``-device`` takes, by the kind of the device; virtio and vhost alone."""


def installed(running: Iterable[str] = ()) -> list[Path]:
    """Return QEMU's binaries for this machine's processor, each once.

    Args:
        running: Paths of those that run.
    """
    machine = platform.machine()
    places = [Path(f) / n.format(machine=machine) for f in FOLDERS for n in NAMES]
    found: dict[tuple[int, int], Path] = {}
    for place in [*places, *map(Path, running)]:
        try:
            stat = place.stat()
        except (OSError, ValueError):
            continue
        if S_ISREG(stat.st_mode):
            found.setdefault((stat.st_dev, stat.st_ino), place)
    return list(found.values())


def models_of(exe: Path) -> Models:
    """Return the virtio models that a QEMU binary offers.

    Raises:
        UnsupportedError: It does not say so in time, or is not run because others than root
            could have written it.
    """
    said = ask(exe, "-device", "help")
    version = VERSION.search(ask(exe, "--version"))
    return Models(version=version[1] if version else "", models=models_in(said))


def models_in(text: str) -> dict[str, tuple[str, ...]]:
    """Return the virtio and vhost models in what ``-device help`` prints, by kind, sorted."""
    found: dict[str, set[str]] = {}
    for match in MODEL.finditer(text):
        driver = driver_of(match[1])
        if driver is not None and driver.virtio:
            found.setdefault(driver.kind, set()).add(match[1])
    return {kind: tuple(sorted(found[kind])) for kind in sorted(found)}


def ask(exe: Path, *argv: str) -> str:
    try:
        stat = exe.stat()
        if stat.st_uid != 0 or stat.st_mode & OTHERS_WRITE:
            raise UnsupportedError(f"{exe}: not run: others than root can have written it")
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [exe, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            text=True,
            errors="replace",
            **as_nobody(),
        )
    except subprocess.TimeoutExpired as error:
        what = " ".join(argv)
        raise UnsupportedError(f"{exe} {what}: no answer within {DEADLINE_S} s") from error
    except OSError as error:
        raise UnsupportedError(f"{exe}: cannot be run: {error.strerror}") from error
    if done.returncode:
        why = done.stderr.strip().splitlines()
        reason = why[-1][:200] if why else f"exit code {done.returncode}"
        raise UnsupportedError(f"{exe} {' '.join(argv)}: {reason}")
    return done.stdout


def as_nobody() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}
