"""Where built images are kept, and when they are built anew.

<cache>/<suite>-<hash>/             the slow part (see `image`), hash over package
                                    versions and recipe
<cache>/<suite>-<hash>/boot-<hash>/ the fast part (see `initramfs`)

The mirror is asked for newer packages once a day at most. When it does not
answer, the newest build of the suite is good enough.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.testbed import image, initramfs
from tests.testbed.apt import package_versions
from tests.testbed.errors import LabError
from tests.testbed.suites import Suite
from tests.testbed.system import digest

__all__ = ["Build", "provide"]

_ASK_AGAIN_AFTER: Final = 24 * 3600.0
_IN_USE_FOR: Final = 24 * 3600.0
"""Another build goes when nobody asked for it for so many seconds: another branch
may have another recipe, and a host may be about to boot from it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The files to boot one nested host."""

    suite: Suite
    folder: Path
    boot: Path

    @property
    def disk(self) -> Path:
        """The root disk; never written to."""
        return self.folder / "root.img"

    @property
    def vmlinux(self) -> Path:
        """The kernel of the host."""
        return self.folder / "vmlinux"

    @property
    def versions(self) -> dict[str, str]:
        """Version of each package in it, by name."""
        text = (self.folder / "packages.txt").read_text()
        return dict(line.split(" ", 1) for line in text.splitlines())


def cache_folder() -> Path:
    """Return the folder of all builds."""
    chosen = os.environ.get("VTRACE_TESTBED_CACHE")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "vtrace" / "testbed"


def provide(
    suite: Suite,
    *,
    refresh: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> Build:
    """Return a build of a suite; make it first if there is none.

    Args:
        suite: What to build.
        refresh: Ask the mirror even if it was asked lately.
        say: Told what takes long.
    """
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{suite.name}.lock"):
        folder = _root(suite, cache, refresh, say)
        boot = folder / f"boot-{digest(initramfs.RECIPE)}"
        if not boot.is_dir():
            _make(boot, lambda into: initramfs.build_initramfs(folder, into))
        os.utime(folder)
        os.utime(boot)
        _prune(folder, "boot-", boot)
        _prune(cache, f"{suite.name}-", folder)
    return Build(suite=suite, folder=folder, boot=boot)


def _root(suite: Suite, cache: Path, refresh: bool, say: Callable[[str], None]) -> Path:
    """Return the folder of the slow part."""
    recipe = digest(image.RECIPE)
    note = cache / f"{suite.name}.json"
    asked = json.loads(note.read_text()) if note.exists() else {}
    known = cache / f"{suite.name}-{asked.get('hash')}"
    fresh = time.time() - asked.get("time", 0) < _ASK_AGAIN_AFTER
    if fresh and not refresh and asked.get("recipe") == recipe and known.is_dir():
        return known
    try:
        versions = package_versions(suite, cache / f"{suite.name}.apt")
    except LabError as error:
        builds = [path for path in cache.glob(f"{suite.name}-*") if path.is_dir()]
        if not builds:
            raise
        newest = max(builds, key=lambda path: path.stat().st_mtime)
        say(f"{suite.name}: using {newest.name}, as the mirror fails ({error})")
        return newest
    name = digest([recipe, *versions])
    folder = cache / f"{suite.name}-{name}"
    if not folder.is_dir():
        say(f"{suite.name}: building the image of the nested host (a minute or two)")
        begin = time.monotonic()

        def build(into: Path) -> None:
            image.build_root(suite, into)
            (into / "packages.txt").write_text("\n".join(versions) + "\n")

        _make(folder, build)
        say(f"{suite.name}: built in {time.monotonic() - begin:.0f} s")
    note.write_text(json.dumps({"time": time.time(), "recipe": recipe, "hash": name}))
    return folder


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    """Fill a folder such that it is there complete or not at all."""
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        build(draft)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _prune(folder: Path, prefix: str, keep: Path) -> None:
    """Remove other builds, unless somebody may be using one right now."""
    for other in [*folder.glob(f"{prefix}*"), *folder.glob(".draft-*")]:
        old = time.time() - other.stat().st_mtime > _IN_USE_FOR
        if other.is_dir() and other != keep and old:
            shutil.rmtree(other, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file for as long as the block runs."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
