"""Models that a QEMU binary offers."""

import os
import shutil
from pathlib import Path

import pytest

from tests.inventory.realqemu import QEMU
from vtrace.errors import UnsupportedError
from vtrace.inventory import models

SAID = """\
Storage devices:
name "virtio-blk-pci", bus PCI, alias "virtio-blk"
name "virtio-blk-pci-transitional", bus PCI
name "ide-hd", bus IDE, desc "virtual IDE disk"
name "virtio-scsi-pci", bus PCI, alias "virtio-scsi"
name "vhost-user-blk-pci", bus PCI

Network devices:
name "e1000", bus PCI, alias "e1000-82540em", desc "Intel Gigabit Ethernet"
name "virtio-net-device", bus virtio-bus
the name "virtio-rng-pci", bus PCI is not at the start of a line
"""


def test_models_in_what_qemu_says():
    assert models.models_in(SAID) == {
        "blk": ("vhost-user-blk-pci", "virtio-blk-pci", "virtio-blk-pci-transitional"),
        "net": ("virtio-net-device",),
        "scsi": ("virtio-scsi-pci",),
    }
    assert models.models_in("") == {}


def test_an_installed_qemu_says_its_models():
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    exe = Path(shutil.which(QEMU)).resolve()
    assert exe in [path.resolve() for path in models.installed()]
    found = models.models_of(exe)
    assert found.version[0].isdigit()
    for kind in ("net", "blk", "scsi", "balloon", "serial"):
        assert f"virtio-{kind}-pci" in found.models[kind]


def script(place, text, mode=0o755):
    path = place / "qemu-kvm"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


@pytest.fixture
def place():
    if os.geteuid() != 0:
        pytest.skip("a program that only root has written takes root to make")
    folder = Path("/var/tmp") / f"vtrace-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_it_runs_as_nobody_and_with_nothing(place, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    path = script(place, 'echo "name \\"virtio-rng-pci\\", bus PCI"; id -u; echo "s=$SECRET"; pwd')
    assert models.ask(path).splitlines()[1:] == ["65534", "s=", "/"]
    assert models.models_of(path) == models.Models(version="", models={"rng": ("virtio-rng-pci",)})


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("true", 0o777, "not run: others than root can have written it"),
        ("echo one >&2; echo two >&2; exit 3", 0o755, "-device help: two"),
        ("exit 3", 0o755, "-device help: exit code 3"),
        ("exec sleep 60", 0o755, "no answer within 0.2 s"),
        ("true", 0o644, "cannot be run: Permission denied"),
    ],
)
def test_what_goes_wrong_is_a_sentence(place, monkeypatch, text, mode, sentence):
    monkeypatch.setattr(models, "DEADLINE_S", 0.2)
    with pytest.raises(UnsupportedError, match=sentence):
        models.models_of(script(place, text, mode))


def test_running_binaries_are_listed_once(tmp_path):
    one = tmp_path / "qemu"
    one.write_bytes(b"x")
    (tmp_path / "link").symlink_to(one)
    running = [str(one), str(tmp_path / "link"), "", "/gone (deleted)", "a\0b"]
    assert models.installed(running)[-1] == one
    assert models.installed(running).count(one) == 1
