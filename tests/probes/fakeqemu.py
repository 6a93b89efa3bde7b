"""Programs that export the functions of QEMU that a layout is read off, with layouts of ours.

They are written anew from what the functions do; what they do to a field is all that matters.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fakeqemu.c")
FLAGS = ("-fPIE", "-pie", "-rdynamic", "-s", "-w")


def build(place: Path, *flags: str) -> Path:
    """Compile a program with these flags and return it."""
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    program = place / "qemu-system-x86_64"
    subprocess.run(["cc", *FLAGS, *flags, "-o", program, SOURCE], check=True)
    return program


def layout_said(program: Path) -> dict[str, int]:
    """Return the offsets as the program itself says them."""
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}
