"""Kernel images and modules: unpack, choose, order."""

import lzma
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.testbed.errors import LabError
from tests.testbed.suites import KEPT_MODULES
from tests.testbed.system import call

__all__ = ["load_order", "prune_modules", "unpack_kernel"]


def unpack_kernel(image: Path, vmlinux: Path) -> None:
    """Write the ELF file inside of a bzImage.

    QEMU enters it by PVH, without the BIOS and without unpacking: several
    seconds faster where every instruction is emulated.
    """
    data = image.read_bytes()
    setup_sectors = data[0x1F1] or 4
    begin, length = struct.unpack_from("<II", data, 0x248)
    begin += (setup_sectors + 1) * 512
    payload = data[begin : begin + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        vmlinux.write_bytes(lzma.LZMADecompressor().decompress(payload))
    else:
        magic = payload[:4]
        packed = vmlinux.with_suffix(".packed")
        packed.write_bytes(payload[:-4])  # behind it stands its unpacked size
        if magic == b"\x02\x21\x4c\x18":
            call(["lz4", "-dqf", packed, vmlinux])
        elif magic == b"\x28\xb5\x2f\xfd":
            call(["zstd", "-dqf", packed, "-o", vmlinux])
        else:
            raise LabError(f"{image.name}: compressed in an unknown way ({magic!r})")
        packed.unlink()
    with vmlinux.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            raise LabError(f"{image.name}: no ELF file in it")


def prune_modules(root: Path, release: str) -> None:
    """Remove the modules that no test needs; unpack the rest."""
    folder = root / "usr/lib/modules" / release
    call(["depmod", "-b", root, release])
    files = list(folder.glob("kernel/**/*.ko*"))
    wanted = [
        _name(file)
        for file in files
        if str(file.relative_to(folder / "kernel")).startswith(KEPT_MODULES)
    ]
    kept = set(load_order(folder, wanted))  # with those that they need
    for file in files:
        if file not in kept:
            file.unlink()
    packed = [file for file in kept if file.suffix == ".xz"]
    for start in range(0, len(packed), 200):
        call(["xz", "-dq", "-T1", *packed[start : start + 200]])
    call(["depmod", "-b", root, release])


def load_order(folder: Path, wanted: Iterable[str]) -> Sequence[Path]:
    """Return the modules to insert, in order, for the wanted ones to work.

    Args:
        folder: That of the kernel release, with its modules.dep.
        wanted: Module names; those that are built in or absent are left out.
    """
    needs: dict[str, list[str]] = {}
    paths: dict[str, Path] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        name = _name(Path(path))
        paths[name] = folder / path
        needs[name] = [_name(Path(other)) for other in reversed(others.split())]
    order: dict[str, None] = {}
    for name in wanted:
        key = name.replace("-", "_")
        for each in (*needs.get(key, ()), key):
            if each in paths:
                order.setdefault(each)
    return [paths[name] for name in order]


def _name(file: Path) -> str:
    """Return the name of a module, as the kernel spells it."""
    return file.name.partition(".")[0].replace("-", "_")
