"""Build the root disk of a nested host: slow, so it is done once and cached.

A build folder holds `root.img` (ext4), `vmlinux` (the kernel of the host), the
modules of both kernels under `modules/`, and under `parts/` the programs of
the suite that the initramfs images take.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.testbed import kernels
from tests.testbed.apt import sources
from tests.testbed.errors import LabError, MissingPiece
from tests.testbed.suites import (
    PACKAGES,
    PYTHON_PACKAGES,
    UNWANTED,
    UNWANTED_WHEEL_PARTS,
    Suite,
)
from tests.testbed.system import HERE, call, require

__all__ = ["RECIPE", "build_root"]

RECIPE: Final = tuple(
    HERE / name for name in ("suites.py", "kernels.py", "image.py", "apt.py")
)
"""The files that decide what an image holds."""

_MERGED_USR: Final = Path("/usr/share/mmdebstrap/hooks/merged-usr")
_FREE_BYTES: Final = 1 << 30
_LOADER: Final = "/lib64/ld-linux-x86-64.so.2"
# dash, as the shell of busybox prefers its own ip to the one beside it.
_GUEST_PROGRAMS: Final = ("/bin/dash", "/sbin/ethtool", "/sbin/ip", "/sbin/tc")
_ETC: Final = {
    "etc/hostname": "lab\n",
    "etc/hosts": "127.0.0.1 localhost lab\n::1 localhost\n",
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "tcpdump:x:100:100::/nonexistent:/bin/false\n"
        "someone:x:1000:1000::/home/someone:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    ),
    "etc/group": (
        "root:x:0:\ntty:x:5:\nkvm:x:99:\ntcpdump:x:100:\n"
        "someone:x:1000:\nnogroup:x:65534:\n"
    ),
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/resolv.conf": "",
    "etc/machine-id": "0" * 31 + "1\n",
}


def build_root(suite: Suite, target: Path) -> None:
    """Build everything slow of a suite in an empty folder."""
    require("mmdebstrap", "tar", "mke2fs", "depmod", "ldconfig", "xz", "unshare")
    root = target / "root"
    _unpack_packages(suite, root)
    releases = sorted(
        (folder.name for folder in (root / "usr/lib/modules").iterdir()), key=len
    )
    if len(releases) != 2:
        raise LabError(f"{suite.name}: expected two kernels, got {releases}")
    _take_kernels(root, target, full=releases[0], small=releases[1])
    _strip(root, UNWANTED)
    _strip_headers(root)
    _configure(root)
    _install_wheels(root)
    _precompile(root)
    _take_programs(root, target / "parts")
    _make_disk(root, target / "root.img")
    _remove_tree(root)


def _unpack_packages(suite: Suite, root: Path) -> None:
    """Extract the packages; their maintainer scripts do not run."""
    root.mkdir()
    command = ["mmdebstrap", "--variant=extract", "--format=tar", "--quiet"]
    command.append("--aptopt=Apt::Install-Recommends false")
    command.append(f"--include={','.join((*PACKAGES, *suite.extra_packages))}")
    if _MERGED_USR.is_dir():
        command.append(f"--hook-dir={_MERGED_USR}")
    log = root.with_name("mmdebstrap.log")
    with log.open("wb") as talk:
        maker = subprocess.Popen(
            [*command, suite.name, "-", *sources(suite)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=talk,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        )
        with maker, contextlib.closing(maker.stdout):  # type: ignore[type-var]
            tar = subprocess.run(
                ["tar", "-x", "--no-same-owner", "--exclude=./dev/*", "-C", root],
                stdin=maker.stdout,
                stderr=talk,
                check=False,
            )
    if maker.returncode or tar.returncode:
        said = log.read_text(errors="replace")
        if "unable to pick chroot mode" in said:
            raise MissingPiece(
                "an image is built as root, or by a user with lines in /etc/subuid "
                "and /etc/subgid (apt-get install uidmap)"
            )
        tail = "\n".join(said.splitlines()[-12:])
        raise LabError(f"mmdebstrap {suite.name} failed:\n{tail}")


def _take_kernels(root: Path, target: Path, *, full: str, small: str) -> None:
    """Move kernels and modules to where hosts and guests look for them."""
    inside = root / "opt/testbed"
    inside.mkdir(parents=True)
    for name, release in (("full", full), ("small", small)):
        vmlinux = inside / f"vmlinux-{name}"
        kernels.unpack_kernel(root / f"boot/vmlinuz-{release}", vmlinux)
        kernels.prune_modules(root, release)
        modules = root / "usr/lib/modules" / release
        shutil.copytree(modules, target / "modules" / name, symlinks=True)
    shutil.copy(inside / "vmlinux-full", target / "vmlinux")
    shutil.rmtree(root / "usr/lib/modules" / small)


def _take_programs(root: Path, parts: Path) -> None:
    """Copy the programs of a guest to parts/bin, what they link to parts/lib."""
    for folder in ("bin", "lib"):
        (parts / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", parts / "bin")  # links to nothing
    for program in _GUEST_PROGRAMS:
        shutil.copy(root / program[1:], parts / "bin")
        listed = call([*_inside(root), _LOADER, "--list", program])
        for library in re.findall(r"(/\S+) \(0x", listed):
            shutil.copy(root / library[1:], parts / "lib")


def _inside(root: Path) -> list[str]:
    """Return how a command line begins that runs a program of the image."""
    become_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
    return [*become_root, "chroot", str(root)]


def _strip(folder: Path, globs: tuple[str, ...]) -> None:
    for glob in globs:
        for path in sorted(folder.glob(glob)):
            if path.is_dir() and not path.is_symlink():
                _remove_tree(path)
            else:
                path.unlink(missing_ok=True)


def _strip_headers(root: Path) -> None:
    """Remove the kernel headers of other processors."""
    for arch in root.glob("usr/src/linux-headers-*/arch/*"):
        if arch.is_dir() and arch.name != "x86":
            _remove_tree(arch)


def _configure(root: Path) -> None:
    """Do what the maintainer scripts would have done, as far as it matters."""
    for name, text in _ETC.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).unlink(missing_ok=True)
        (root / name).write_text(text)
    for name in ("home/someone", "share", "proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    awk = root / "usr/bin/awk"
    if not awk.exists():
        awk.symlink_to("mawk")
    call(["ldconfig", "-r", root])


def _install_wheels(root: Path) -> None:
    """Install vtrace's own needs as wheels for the Python of the image."""
    version = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    wheels = root / "opt/vtrace-deps"
    call(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-compile",
            "--only-binary=:all:",
            "--python-version",
            version,
            "--target",
            wheels,
            *PYTHON_PACKAGES,
        ]
    )
    _strip(wheels, UNWANTED_WHEEL_PARTS)


def _precompile(root: Path) -> None:
    """Compile the Python files and see that the wheels survived stripping."""
    inside = [*_inside(root), "/usr/bin/python3"]
    wheels = "/opt/vtrace-deps"
    version = (root / "usr/bin/python3").readlink().name
    folders = [f"/usr/lib/{version}", "/usr/lib/python3/dist-packages", wheels]
    call([*inside, "-m", "compileall", "-q", "-x", "lib2to3|/test/", *folders])
    call(
        [*inside, "-c", "import capstone, elftools, numpy, pyarrow.ipc, pyarrow.compute, pyroute2"],
        env={"PYTHONPATH": wheels},
    )


def _make_disk(root: Path, image: Path) -> None:
    """Write the tree into an ext4 image, all of it owned by root."""
    used = sum(path.lstat().st_size + 4096 for path in root.rglob("*"))
    command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"]
    command += ["-L", "testbed", "-E", "root_owner=0:0", "-d", str(root), str(image)]
    command.append(f"{(used + _FREE_BYTES) >> 20}M")
    if os.geteuid() != 0:
        command = ["unshare", "--map-root-user", *command]
    call(command)


def _remove_tree(path: Path) -> None:
    """Remove a folder, also where packages left folders without write access."""
    for folder in [path, *path.rglob("*/")]:
        if not folder.is_symlink():
            folder.chmod(0o755)
    shutil.rmtree(path)
