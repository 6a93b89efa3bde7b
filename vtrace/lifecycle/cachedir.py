"""Where numba keeps compiled kernels: a place that nobody else could have written to.

Loading from that cache runs what is in it. So a user loads what this user has written, and root
only what lies below folders that root alone can write to. Where there is no such place, kernels
are compiled anew in each run.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

__all__ = ["cache_folder", "compiled", "kernel", "trusted"]

# numba makes its settings from the environment as it is imported.
_config: Any = numba.config
_HERE = Path(__file__).resolve().parent


def trusted(folder: Path, uid: int) -> bool:
    """Return whether nobody but ``uid`` and root can change what lies in an existing folder.

    Each folder above counts: who can write to one can put another in its place, unless it is
    sticky. A link is followed first.
    """
    try:
        folder = folder.resolve(strict=True)
        for place in (folder, *folder.parents):
            found = place.stat()
            if found.st_uid not in (0, uid):
                return False
            open_to_others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if open_to_others and not (place != folder and found.st_mode & stat.S_ISVTX):
                return False
    except OSError:
        return False
    return True


def _version() -> str:
    # numba looks at the file of a kernel, not at those of the kernels it calls: look at all.
    digest = hashlib.sha256()
    others = _HERE.parent.glob("diagnose/stalls_*.py")
    for path in sorted([*_HERE.glob("*.py"), *others, _HERE.parent / "model.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _places(uid: int) -> list[Path]:
    named = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(named)] if named else []
    places.append(_HERE / "__pycache__")
    if uid == 0:
        places.append(Path("/var/cache/vtrace"))
    else:
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        places.append(Path(home) / "vtrace")
    return places


def cache_folder(uid: int | None = None) -> Path | None:
    """Return the folder for compiled kernels, made if need be; None where there is none.

    The first of ``$NUMBA_CACHE_DIR``, the package's own folder, and the user's cache
    (``$XDG_CACHE_HOME/vtrace``; for root ``/var/cache/vtrace``) that can be trusted and written.
    """
    uid = os.geteuid() if uid is None else uid
    for place in _places(uid):
        try:
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            if place.stat().st_uid != uid or not os.access(place, os.W_OK):
                continue
        except (OSError, RuntimeError):
            continue
        if trusted(place, uid):
            return place / f"kernels-{_version()}"
    return None


_FOLDER = cache_folder()


def compiled() -> bool:
    """Return whether kernels were compiled here before; the first time takes up to a minute."""
    return _FOLDER is not None and any(_FOLDER.rglob("*.nbi"))


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function with numba, cached where :func:`cache_folder` says."""
    if _FOLDER is None:
        return numba.njit(function)
    before = _config.CACHE_DIR
    # Read by numba while it decorates; no other package's cache moves.
    _config.CACHE_DIR = str(_FOLDER)
    try:
        return numba.njit(cache=True)(function)
    finally:
        _config.CACHE_DIR = before
