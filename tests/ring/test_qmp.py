"""The monitor's client, against monitors that answer well, badly or not at all."""

import os
import struct

import pytest

from tests.ring.monitor import Monitor
from vtrace.errors import PrivilegeError, UnsupportedError, UsageError, VtraceError
from vtrace.inventory import guestram
from vtrace.inventory.guestram import GuestRam
from vtrace.inventory.qmp import Qmp, QmpError


@pytest.fixture
def monitor(tmp_path):
    made = []

    def make(answers=None, **options):
        made.append(Monitor(tmp_path / f"qmp{len(made)}", answers or {}, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_talk(monitor):
    there = monitor(
        {
            "x-query-virtio": [{"path": "/machine/x/virtio-backend", "name": "virtio-net"}, 7],
            "query-balloon": {"actual": 4096},
            "query-status": {"status": "paused"},
            "query-name": {},
            "human-monitor-command": lambda command_line: f"said {command_line}",
        }
    )
    with Qmp(there.path) as qmp:
        assert qmp.version == "9.1"
        assert [device.name for device in qmp.virtio_devices()] == ["virtio-net"]
        assert qmp.balloon_bytes() == 4096
        assert qmp.run_state() == "paused"
        assert qmp.guest_name() == ""
        assert qmp.human("info mtree -f") == "said info mtree -f"
        assert qmp.peer == os.getpid()
    assert there.asked[0] == ("qmp_capabilities", {})


def test_features_by_name(monitor):
    there = monitor(
        {
            "x-query-virtio-status": {
                "name": "virtio-net",
                "guest-features": {
                    "transports": ["VIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled"],
                    "dev-features": ["VIRTIO_NET_F_MAC: Device has given MAC address"],
                    "unknown-dev-features": 1 << 35,
                },
                "status": {"statuses": ["VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"]},
                "num-vqs": 3,
                "started": True,
                "vhost-started": True,
            }
        }
    )
    with Qmp(there.path) as qmp:
        status = qmp.virtio_status("/x")
    assert status.features == ("VIRTIO_RING_F_EVENT_IDX", "VIRTIO_NET_F_MAC")
    assert status.bits == 1 << 29 | 1 << 35
    assert status.status == ("DRIVER_OK",)
    assert (status.queues, status.started, status.broken, status.vhost) == (3, True, False, True)


def test_an_old_qemu(monitor):
    with Qmp(monitor().path) as qmp:
        with pytest.raises(UnsupportedError, match=r"QEMU 9.1 does not know x-query-virtio;.*7\.2"):
            qmp.virtio_devices()
        with pytest.raises(UnsupportedError, match=r"does not know stop$"):
            qmp.execute("stop")


def test_a_refusal(monitor):
    refused = LookupError("Invalid virtqueue number 9")
    there = monitor({"x-query-virtio-queue-status": refused, "query-balloon": refused})
    with Qmp(there.path) as qmp:
        with pytest.raises(QmpError, match="Invalid virtqueue number 9"):
            qmp.queue_status("/x", 9)
        assert qmp.balloon_bytes() is None


@pytest.mark.parametrize(
    ("greeting", "error", "words"),
    [
        (b"SSH-2.0-OpenSSH\n", UsageError, "no QMP monitor"),
        (b'["QMP"]\n', UsageError, "no QMP monitor"),
        (b'{"hello": 1}\n', UsageError, "no QMP monitor"),
        (b"[" * 100_000 + b"\n", UsageError, "no QMP monitor"),
        (b"", VtraceError, r"no answer within 0.3 s; .*one client"),
    ],
)
def test_what_is_no_monitor(monitor, greeting, error, words):
    there = monitor(greeting=greeting)
    with pytest.raises(error, match=words):
        Qmp(there.path, timeout_s=0.3)


def test_answers_are_bounded(monitor, monkeypatch):
    monkeypatch.setattr("vtrace.inventory.qmp._LONGEST_ANSWER", 1 << 16)
    monkeypatch.setattr("vtrace.inventory.qmp._MOST_EVENTS", 50)
    there = monitor({"long": b"x" * (1 << 18), "events": b'{"event": "X"}\n' * 99})
    with Qmp(there.path) as qmp, pytest.raises(VtraceError, match="longer than 65536"):
        qmp.execute("long")
    with Qmp(there.path) as qmp, pytest.raises(VtraceError, match="events and no answer"):
        qmp.execute("events")


@pytest.mark.parametrize("value", [None, 7, [], [1], {"a": "b"}, "text"])
def test_answers_of_another_shape(monitor, value):
    virtio = ("", "-status", "-queue-status", "-queue-element")
    names = [*(f"x-query-virtio{end}" for end in virtio)]
    names += ["query-balloon", "query-status", "query-name"]
    there = monitor(dict.fromkeys(names, value))
    with Qmp(there.path) as qmp:
        assert qmp.virtio_devices() == []
        assert qmp.virtio_status("/x").bits == 0
        assert qmp.queue_status("/x", 0) == {}
        assert isinstance(qmp.queue_element("/x", 0), dict)
        assert qmp.balloon_bytes() is None
        assert qmp.run_state() == "unknown"
        assert qmp.guest_name() == ""


def test_nobody_there(tmp_path):
    with pytest.raises(UsageError, match="no QMP monitor there"):
        Qmp(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no QMP monitor there"):
        Qmp("127.0.0.1:1")
    with pytest.raises(UsageError, match="no QMP monitor there"):
        Qmp("x" * 300)


MTREE = """\
FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS "cpu-memory-0", root: system
 AS "memory", root: system
 Root memory region: system
  0000000000001000-0000000000001fff (prio 0, ram): pc.ram
  0000000000002000-0000000000002fff (prio -1, ram): pc.ram @0000000000001000 KVM
  0000000000003000-0000000000003fff (prio 1, i/o): vga-lowmem
  0000000000005000-0000000000005fff (prio 0, rom): pc.rom

"""


class Human:
    """The human monitor of a guest with two regions of RAM side by side."""

    def __init__(self, text=MTREE) -> None:
        self.text, self.lines = text, []

    def human(self, line):
        self.lines.append(line)
        if line == "info mtree -f":
            return self.text.replace("\n", "\r\n")
        address = int(line.split()[1], 16)
        if address == 0x5000:
            return "Memory at address 0x5000 is not RAM\r\n"
        return f"Host virtual address for {address:#x} (pc.ram) is {address * 0x100:#x}\r\n"


def test_an_area_over_two_regions():
    monitor, seen = Human(), []

    def read(pid, parts):
        seen.append((pid, parts))
        return b"".join(struct.pack("<B", n) * length for n, (_, length) in enumerate(parts))

    ram = GuestRam(monitor, 77, read)
    assert ram.read(0x1FF0, 32) == b"\0" * 16 + b"\1" * 16
    assert seen == [(77, ((0x100FF0, 16), (0x200000, 16)))]
    assert ram.read(0x1000, 4096) == b"\0" * 4096
    assert ram.read(0x2FFF, 2) is None
    assert ram.read(0xFFF, 2) is None
    assert ram.read(0x3000, 1) is None
    assert ram.read(0x5000, 1) is None
    assert ram.read(1 << 63, 1 << 40) is None
    # Each region is asked for once.
    assert monitor.lines.count("gpa2hva 0x1000") == 1


def test_no_ram():
    with pytest.raises(VtraceError, match="shows no RAM"):
        GuestRam(Human("unknown command: 'info mtree -f'\n"), 1)


def test_memory_that_may_not_be_read(monkeypatch):
    def read(pid, parts):
        import ctypes
        import errno

        ctypes.set_errno(errno.EPERM)

    with pytest.raises(PrivilegeError, match="run it as root"):
        GuestRam(Human(), 1, read).read(0x1000, 4)
    assert guestram.ranges_of(MTREE) == [(0x1000, 0x2000), (0x2000, 0x3000), (0x5000, 0x6000)]
