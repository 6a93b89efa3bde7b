"""Layouts of QEMU: as a live guest says over QMP, of programs made here, of damaged files."""

import os
import random
import shutil
import struct
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from probes.executable import Executable
from probes.qemu_layout import FUNCTIONS, layout_of
from tests.inventory.realqemu import QEMU, Guest
from tests.probes.fakeqemu import build, layout_said
from vtrace.errors import UnsupportedError

# Reads a sector seven times, then lets the firmware try the next device.
BOOT = bytes.fromhex("b90700 51 b80102 bb007e b90200 ba8000 cd13 59 e2ee cd18").ljust(510, b"\0")
SECTOR = BOOT + b"\x55\xaa" + bytes(512)
DEADLINE_S = 60
VERSION_1, EVENT_IDX = 32, 29


class Here:
    """Starts a guest where the test itself runs."""

    def command(self, *argv: str) -> list[str]:
        return list(argv)


class Memory:
    """The memory of a process, and what a search through its heap finds."""

    def __init__(self, pid: int) -> None:
        self.file = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        self.areas = []
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            start, end = (int(part, 16) for part in span.split("-"))
            # The heap, and glibc's arenas for threads; memory of the guest is larger.
            if rights.startswith("rw") and end - start < 64 << 20:
                self.areas.append((start, self.read_all(start, end)))

    def read(self, address: int, count: int) -> bytes:
        return os.pread(self.file, count, address)

    def number(self, address: int, size: int) -> int:
        return int.from_bytes(self.read(address, size), "little")

    def text(self, address: int) -> str:
        try:
            return self.read(address, 200).split(b"\0")[0].decode(errors="replace")
        except OSError:
            return ""

    def read_all(self, start: int, end: int) -> bytes:
        try:
            return self.read(start, end - start)
        except OSError:
            return b""

    def strings(self, text: str) -> list[int]:
        """Return where a string with its end stands."""
        found, wanted = [], text.encode() + b"\0"
        for start, content in self.areas:
            at = content.find(wanted)
            while at >= 0:
                found.append(start + at)
                at = content.find(wanted, at + 1)
        return found

    def pointers(self, to: list[int]) -> list[int]:
        """Return where an address of these stands."""
        found = []
        for start, content in self.areas:
            words = np.frombuffer(content, np.uint64, len(content) // 8)
            found += [start + 8 * int(n) for n in np.flatnonzero(np.isin(words, to))]
        return found

    def close(self) -> None:
        os.close(self.file)


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """A guest whose firmware drives a disk and a network card, stopped while it does."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    place = tmp_path_factory.mktemp("guest")
    (place / "disk").write_bytes(SECTOR.ljust(1 << 20, b"\0"))
    guest = Guest(
        Here(),
        place,
        *("-nodefaults", "-accel", "tcg", "-M", "q35", "-m", "64", "-smp", "2"),
        *("-boot", "order=cn", "-blockdev", f"driver=file,filename={place}/disk,node-name=d"),
        *("-device", "virtio-blk-pci,drive=d,id=disk0,bootindex=0,packed=on"),
        *("-nic", "user,model=virtio-net-pci"),
        *("-device", "virtio-scsi-pci,id=scsi0", "-device", "virtio-serial-pci,id=ser0"),
        *("-device", "virtio-balloon-pci", "-device", "virtio-rng-pci,packed=on"),
    )
    try:
        guest.connect()
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end and not drives_both(guest):
            time.sleep(0.1)
        guest.ask("stop")
        yield guest
    finally:
        guest.close()


def drives_both(guest) -> bool:
    taken = {}
    for device in guest.ask("x-query-virtio"):
        queues = queues_of(guest, device["path"])
        taken[device["name"]] = sum(q.get("last-avail-idx", 0) for q in queues)
    return taken["virtio-blk"] >= 7 and taken["virtio-net"] > 3


def queues_of(guest, path: str) -> list[dict]:
    found = []
    try:
        while len(found) < 1024:
            command = "x-query-virtio-queue-status"
            found.append(guest.ask(command, path=path, queue=len(found)))
    except LookupError:
        pass
    return found


@pytest.mark.slow
def test_offsets_show_what_the_guest_says(guest):
    layout = layout_of(Path(f"/proc/{guest.pid}/exe"))
    version = guest.ask("query-version")["qemu"]
    assert layout.version == "{major}.{minor}.{micro}".format(**version)
    memory = Memory(guest.pid)
    devices = guest.ask("x-query-virtio")
    assert {d["name"] for d in devices} == {
        *("virtio-balloon", "virtio-blk", "virtio-net", "virtio-rng", "virtio-scsi"),
        "virtio-serial",
    }
    busy = rings = 0
    for said in devices:
        status = guest.ask("x-query-virtio-status", path=said["path"])
        vdev = device_at(memory, layout, said["path"], said["name"])
        assert memory.number(vdev + layout.vdev_device_id, 2) == status["device-id"]
        features = memory.number(vdev + layout.vdev_guest_features, 8)
        named = str(status["guest-features"])
        assert bool(features >> VERSION_1 & 1) == ("VIRTIO_F_VERSION_1" in named)
        assert bool(features >> EVENT_IDX & 1) == ("EVENT_IDX" in named)
        array = memory.number(vdev + layout.vdev_vq, 8)
        queues = queues_of(guest, said["path"])
        assert queues
        for index, queue in enumerate(queues):
            vq = array + index * layout.vq_size
            shown = {
                "device-name": memory.text(memory.number(vdev + layout.vdev_name, 8)),
                "queue-index": memory.number(vq + layout.vq_queue_index, 2),
                "inuse": memory.number(vq + layout.vq_inuse, 4),
                "vring-num": memory.number(vq + layout.vq_num, 4),
                "vring-desc": memory.number(vq + layout.vq_desc, 8),
                "vring-avail": memory.number(vq + layout.vq_avail, 8),
                "vring-used": memory.number(vq + layout.vq_used, 8),
                "last-avail-idx": memory.number(vq + layout.vq_last_avail_idx, 2),
                "shadow-avail-idx": memory.number(vq + layout.vq_shadow_avail_idx, 2),
                "used-idx": memory.number(vq + layout.vq_used_idx, 2),
                "signalled-used": memory.number(vq + layout.vq_signalled_used, 2),
            }
            assert shown == {key: queue.get(key, queue.get("name")) for key in shown}
            assert memory.number(vq + layout.vq_vdev, 8) == vdev
            busy += queue["last-avail-idx"] > 0
            rings += in_guest_memory(guest, memory, layout, vq, queue)
            # event_notifier {rfd, wfd, initialized}: two ints that are files, or none.
            for notifier in (layout.vq_guest_notifier, layout.vq_host_notifier):
                files = struct.unpack("<ii", memory.read(vq + notifier, 8))
                assert all(-1 <= fd < 1024 for fd in files)
    # The firmware has driven a disk's queue, two of a network card, those of the SCSI adapter.
    assert busy >= 3
    assert rings >= 3 * 3
    memory.close()


def device_at(memory: Memory, layout, path: str, name: str) -> int:
    """Return where a VirtIODevice is: its path, its name and its own queues must agree."""
    found = []
    for place in memory.pointers(memory.strings(path)):
        vdev = place - layout.vdev_canonical_path
        try:
            if memory.text(memory.number(vdev + layout.vdev_name, 8)) != name:
                continue
            array = memory.number(vdev + layout.vdev_vq, 8)
            if memory.number(array + layout.vq_vdev, 8) == vdev:
                found.append(vdev)
        except OSError:
            continue
    assert len(set(found)) == 1, path
    return found[0]


def in_guest_memory(guest, memory: Memory, layout, vq: int, queue: dict) -> int:
    """Compare the three caches of a ring with QEMU's own translation; return how many."""
    caches = memory.number(vq + layout.vq_caches, 8)
    if not caches or not queue["vring-desc"]:
        return 0
    for number, part in enumerate(("desc", "avail", "used")):
        place = caches + layout.cache_start + number * layout.cache_size
        line = f"gpa2hva {queue[f'vring-{part}']:#x}"
        said = guest.ask("human-monitor-command", **{"command-line": line})
        assert said.rstrip().endswith(f"is {memory.number(place, 8):#x}"), (part, said)
    return 3


# Programs with the functions of QEMU that are decoded, made here: the program itself says where
# its compiler put each field.

LEVELS = ["-O1", "-O2", "-O3", "-O2 -fcf-protection=full -fstack-protector-all"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variant", ["", "-DWITH_USED_ELEMS_AHEAD", "-DSHUFFLED"])
def test_offsets_as_the_compiler_has_them(tmp_path, level, variant):
    program = build(tmp_path, *level.split(), *variant.split())
    layout = layout_of(program)
    offsets = {name: value for name, value in asdict(layout).items() if type(value) is int}
    assert offsets == layout_said(program)
    assert layout.version == "9.9.9"
    assert not layout.usdt
    assert set(FUNCTIONS) <= set(layout.functions)
    code = program.read_bytes()
    symbols = Executable(program).symbols
    for name, offset in layout.functions.items():
        assert code[offset : offset + 8] == Executable(program).read(symbols[name].address, 8)


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ("-DGETTER_DISAGREES", "vq_notification from virtio_queue_get_notification: found"),
        ("-DTWO_CACHES", "cache_size from what virtio_delete_queue frees: found caches at"),
        ("-DNO_NAME", "vdev_name from virtio_init: found none"),
        ("-DNO_PATH", "vdev_canonical_path from calls of qapi_event_send_device_deleted"),
        ("-DTWO_USED", "vq_used_idx from virtqueue_flush: found"),
        ("-DNO_POP", "functions virtqueue_pop are not exported"),
        ("-DHIDDEN_ACCESSOR", "from virtio_get_queue_index: found no such function"),
    ],
)
def test_what_cannot_be_proven_is_refused(tmp_path, lie, sentence):
    program = build(tmp_path, "-O2", lie)
    with pytest.raises(UnsupportedError, match=sentence) as error:
        layout_of(program)
    assert str(error.value).count("\n") == 0


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return build(tmp_path_factory.mktemp("good"), "-O2").read_bytes()


def refused(tmp_path, content: bytes, name="x") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnsupportedError) as error:
        layout_of(path)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


def test_files_of_other_kinds(tmp_path, good):
    assert "not an ELF file" in refused(tmp_path, b"", "a")
    assert "not an ELF file" in refused(tmp_path, b"#!/bin/sh\n", "b")
    assert "32-bit" in refused(tmp_path, good[:4] + b"\1" + good[5:], "c")
    assert "big-endian" in refused(tmp_path, good[:5] + b"\2" + good[6:], "d")
    arm = good[:18] + struct.pack("<H", 183) + good[20:]
    assert "made for AARCH64" in refused(tmp_path, arm, "e")
    assert "damaged ELF file: " in refused(tmp_path, good[: len(good) // 2], "f")
    other = Path(shutil.which("true")).read_bytes()
    assert "none of QEMU's virtio functions" in refused(tmp_path, other, "g")
    with pytest.raises(UnsupportedError, match="cannot be read: No such file"):
        layout_of(tmp_path / "nothing")
    with pytest.raises(UnsupportedError, match="not a regular file"):
        layout_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedError, match="not a regular file"):
        layout_of(tmp_path / "pipe")


def test_damaged_files_are_sentences(tmp_path, good):
    source = random.Random(5)
    path = tmp_path / "x"
    damaged = [good[: source.randrange(len(good))] for _ in range(60)]
    for _ in range(240):
        copy = bytearray(good)
        # Half of the damage is where the headers and tables are.
        near = source.random() < 0.5
        for _ in range(source.randrange(1, 30)):
            copy[source.randrange(2000 if near else len(copy))] = source.randrange(256)
        damaged.append(bytes(copy))
    outcomes = set()
    started = time.monotonic()
    for content in damaged:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        try:
            layout_of(path)
        except UnsupportedError as error:
            outcomes.add(f"refused in {len(str(error).splitlines())} line")
        else:
            outcomes.add("layout")
    assert outcomes == {"layout", "refused in 1 line"}
    assert time.monotonic() - started < 120


def test_a_file_is_read_once(tmp_path, good):
    path = tmp_path / "x"
    path.write_bytes(good)
    assert layout_of(path) is layout_of(path)
    path.write_bytes(b"something else")
    with pytest.raises(UnsupportedError, match="not an ELF file"):
        layout_of(path)
