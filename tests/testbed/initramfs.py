"""Build the small, fast part: static tools and the initramfs images."""

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.testbed.kernels import load_order
from tests.testbed.suites import FULL_MODULES, HOST_MODULES, SMALL_MODULES
from tests.testbed.system import HERE, call, require

__all__ = ["RECIPE", "build_initramfs", "write_cpio"]

RECIPE: Final = (
    HERE / "suites.py",
    HERE / "initramfs.py",
    HERE / "kernels.py",
    HERE / "guest/agent.c",
    HERE / "guest/init",
    HERE / "guest/udptool.c",
    HERE / "host/init",
    HERE / "host/start",
)
"""The files that decide what the initramfs images hold."""


def build_initramfs(build: Path, target: Path) -> None:
    """Write host.cpio, guest-small.cpio and guest-full.cpio.

    Args:
        build: A folder that `image.build_root` filled.
        target: An empty folder.
    """
    require("gcc")
    tools = {}
    for name in ("agent", "udptool"):
        source = HERE / "guest" / f"{name}.c"
        tools[name] = target / name
        call(["gcc", "-O2", "-Wall", "-static", "-s", source, "-o", tools[name]])
    parts = build / "parts"
    host = {
        "bin/busybox": parts / "bin/busybox",
        "init": HERE / "host/init",
        "lab/start": HERE / "host/start",
        **{f"lab/{name}": path for name, path in tools.items()},
    }
    guest = {
        "init": HERE / "guest/init",
        **{f"bin/{name}": path for name, path in tools.items()},
        **{f"bin/{path.name}": path for path in (parts / "bin").iterdir()},
        **{
            f"{'lib64' if path.name.startswith('ld-') else 'lib'}/{path.name}": path
            for path in (parts / "lib").iterdir()
        },
    }
    full, small = build / "modules/full", build / "modules/small"
    for name, files, modules, wanted in (
        ("host", host, full, HOST_MODULES),
        ("guest-full", guest, full, FULL_MODULES),
        ("guest-small", guest, small, SMALL_MODULES),
    ):
        order = load_order(modules, wanted)
        image: dict[str, Path | bytes] = {
            **files,
            **{f"modules/{path.name}": path for path in order},
            "modules/order": "".join(f"{path.name}\n" for path in order).encode(),
        }
        # Not packed: copying it is faster than unpacking it under emulation.
        (target / f"{name}.cpio").write_bytes(write_cpio(image))


def write_cpio(files: Mapping[str, Path | bytes]) -> bytes:
    """Return a cpio archive ("newc") of files by their path inside of it.

    Folders come by themselves, with a /dev/console for the first output.
    """
    entries: list[tuple[str, int, int, bytes]] = [
        (name, stat.S_IFDIR | 0o755, 0, b"") for name in _folders(files)
    ]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, 1 + (5 << 8), b""))
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        entries.append((name, stat.S_IFREG | 0o755, 0, data))
    entries.append(("TRAILER!!!", 0, 0, b""))
    out = bytearray()
    for number, (name, mode, device, data) in enumerate(entries, 1):
        path = name.encode() + b"\0"
        fields = (
            number, mode, 0, 0, 1, 0, len(data),
            0, 0, device >> 8, device & 255, len(path), 0,
        )  # fmt: skip
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def _folders(names: Iterable[str]) -> list[str]:
    """Return all folders that files need, outer ones first."""
    found = {"dev"}
    for name in names:
        found.update(str(folder) for folder in Path(name).parents)
    return sorted(found - {"."})
