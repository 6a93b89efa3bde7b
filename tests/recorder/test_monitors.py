"""QEMU's monitor asked beside a recording: what goes into it, and what becomes of a failure."""

import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from parsers.tracefile import open_trace
from tests.recorder.test_sinks import FakeAttached, batch, stream
from tests.ring.monitor import Monitor
from vtrace.errors import UsageError, VtraceError
from vtrace.inventory import Device, Virtqueue, Vm
from vtrace.model import Kind
from vtrace.recorder.monitors import Monitors, Source, open_to_user
from vtrace.recorder.sinks import FlightSink, RotatingSink, record
from vtrace.session.sane import sane

DISK = Device(
    id="disk0", kind="blk", driver="virtio-blk-pci", queues=(Virtqueue(index=0, name="req0"),)
)
VM = Vm(name="cpx", pid=os.getpid(), machine="pc-i440fx-7.2", devices=(DISK,))
TREE = """\
FlatView #0
 AS "memory", root: system
  00000000febc0000-00000000febdffff (prio 1, i/o): e1000-mmio owner:{dev id=nic0}
"""
BUSES = [{"bus": 0, "devices": [
    {"bus": 0, "slot": 3, "function": 0, "irq": 11, "irq_pin": 1, "qdev_id": "nic0",
     "regions": [{"bar": 0, "type": "memory", "address": 0xFEBC0000, "size": 0x20000}]},
    {"bus": 0, "slot": 1, "function": 3, "irq": 9, "irq_pin": 1, "qdev_id": "", "regions": []},
]}]  # fmt: skip


def answers(**others):
    status = {
        "name": "virtio-blk", "num-vqs": 1, "started": True, "vhost-started": False,
        "guest-features": {
            "transports": ["VIRTIO_F_VERSION_1: Device compliant for v1 spec (legacy)"],
            "dev-features": ["VIRTIO_BLK_F_FLUSH: Flush command supported"],
        },
        "status": {"statuses": ["VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"]},
    }  # fmt: skip
    return {
        "query-name": {"name": "cpx"},
        "query-status": {"status": "running"},
        "query-balloon": {"actual": 1 << 30},
        "query-pci": BUSES,
        "human-monitor-command": TREE,
        "x-query-virtio": [
            {"path": "/machine/peripheral/disk0/virtio-backend", "name": "virtio-blk"},
            {"path": "/machine/peripheral/late/virtio-backend", "name": "virtio-blk"},
        ],
        "x-query-virtio-status": status,
        "x-query-virtio-queue-status": {
            "vring-num": 256, "last-avail-idx": 7, "used-idx": 6, "inuse": 1, "vring-desc": 4096,
        },
    } | others  # fmt: skip


@pytest.fixture
def monitor(tmp_path):
    made = []

    def make(told):
        made.append(Monitor(tmp_path / f"qmp{len(made)}", told))
        return made[-1]

    yield make
    for one in made:
        one.close()


def asked(there, batches, sink):
    """Record these batches with a monitor beside."""
    monitors = Monitors([Source(VM, there.path)], every_s=0)
    monitors.begin()
    monitors.finish()
    record(FakeAttached(stream(*batches)), sink, lambda *_: False, None, monitors)


def test_what_qemu_says_is_in_the_recording(monitor, tmp_path):
    there = monitor(answers())
    before = time.monotonic_ns()
    path = tmp_path / "a.vtrace"
    rows = [{"name": "cpx", "pid": 1}, {"name": "other", "pid": 2}]
    asked(there, [batch(1, [Kind.POP] * 3, meta={"vms": rows})], RotatingSink(str(path)))
    with open_trace(str(path)) as trace:
        (first, *_) = trace.batches()
    look = first.meta["qmp"]["cpx"]["look"]
    assert sane(first.meta)["qmp"]["cpx"]["look"] == without_names(look)
    assert before < look["lo_ns"] <= look["devices"]["disk0"]["lo_ns"]
    assert (look["version"], look["state"], look["balloon_bytes"]) == ("9.1", "running", 1 << 30)
    disk = look["devices"]["disk0"]
    assert disk["bits"] == 1 << 32
    assert disk["status"] == ["DRIVER_OK"]
    (queue,) = disk["queues"]
    assert [queue[name] for name in ("name", "size", "taken", "used")] == ["req0", 256, 7, 6]
    # A device that was plugged in later is asked about, too.
    assert [row["index"] for row in look["devices"]["late"]["queues"]] == [0]
    ours, theirs = first.meta["vms"]
    assert [(row["name"], row["device"]) for row in ours["regions"]] == [("e1000-mmio", "nic0")]
    # The board's own line is named by what it is known to be.
    assert ours["lines"] == {"11": "nic0"}
    assert theirs == rows[1]


def without_names(look):
    # The name of a queue is a help for people.
    devices = {
        name: {
            key: [
                {n: row.get(n) for n in ROW} for row in value
            ] if key == "queues" else value
            for key, value in device.items()
        }
        for name, device in look["devices"].items()
    }  # fmt: skip
    return look | {"devices": devices}


ROW = ("index", "size", "desc", "driver", "device", "taken", "used", "inuse", "vhost_size")


def test_no_lines_where_the_io_apic_has_others(monitor):
    there = monitor(answers())
    vm = Vm(name="cpx", pid=os.getpid(), machine="pc-q35-7.2", devices=(DISK,))
    _, places = Source(vm, there.path).ask(whole=True)
    assert places["lines"] == {}
    assert places["regions"]


def test_the_monitor_is_let_go_between_two_looks(monitor):
    there = monitor(answers())
    source = Source(VM, there.path)
    assert not source.held
    for whole in (True, False):
        source.ask(whole=whole)
        # It serves one client at a time: a second one would wait for the first.
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(5)
            other.connect(there.path)
            assert b"QMP" in other.recv(4096)


def test_another_vms_monitor_is_refused_before_anything_is_attached(monitor):
    there = monitor(answers(**{"query-name": {"name": "stranger"}}))
    with pytest.raises(UsageError, match="monitor of 'stranger', not of 'cpx'"):
        Source(VM, there.path)


def test_an_old_qemu_has_places_and_no_look(monitor):
    told = answers()
    del told["x-query-virtio"]
    said, places = Source(VM, monitor(told).path).ask(whole=True)
    assert "QEMU 7.2 and later have it" in said["missing"]
    assert places["regions"]


@pytest.mark.parametrize("value", [None, 7, "x", [], {}, [None], {"name": 5, "num-vqs": -4}])
def test_answers_that_make_no_sense(monitor, value):
    told = dict.fromkeys(answers(), value) | {"query-name": {"name": "cpx"}}
    said, places = Source(VM, monitor(told).path).ask(whole=True)
    assert places == {"regions": [], "lines": {}}
    assert "missing" in said or sane({"qmp": {"cpx": {"look": said}}})["qmp"]["cpx"]["look"]


def test_one_that_is_gone_is_a_sentence(monitor):
    there = monitor(answers())
    source = Source(VM, there.path)
    Path(there.path).unlink()
    said = []
    monitors = Monitors([source], every_s=0, say=said.append)
    monitors.begin()
    monitors.finish()
    assert "no QMP monitor there" in monitors.join({})["qmp"]["cpx"]["missing"]
    assert "cpx: " in said[1]
    assert said[1].endswith("; going on without")
    # Said once.
    assert monitors.join({}) == {}


def test_one_that_hangs_from_the_start_does_not_keep_from_recording(monitor, monkeypatch):
    monkeypatch.setattr("vtrace.inventory.qmp.Qmp.__init__.__defaults__", (0.1,))
    there = monitor(answers())
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(there.path)
        first.recv(4096)
        # Somebody else has it.
        source = Source(VM, there.path)
        with pytest.raises(VtraceError, match="serves one client"):
            source.ask(whole=False)
    deadline = time.monotonic() + 10
    said = None
    while said is None:
        # Those who gave up are still before us.
        with contextlib.suppress(VtraceError):
            said, _ = source.ask(whole=False)
        assert time.monotonic() < deadline
    assert said["state"] == "running"


def test_each_file_has_looks_of_its_own_time(monitor, tmp_path):
    there = monitor(answers())
    sink = RotatingSink(str(tmp_path / "r.vtrace"), rotate_bytes=1)
    asked(there, [batch(n, [Kind.POP] * 3, meta={}) for n in range(1, 4)], sink)
    looks = []
    for path in sorted(tmp_path.glob("r*.vtrace*")):
        with open_trace(str(path)) as trace:
            looks.append([one.meta["qmp"] for one in trace.batches() if "qmp" in one.meta])
    assert len(looks) == 3
    assert "look" in looks[0][0]["cpx"]
    assert all(found == [{"cpx": {}}] for found in looks[1:])


def test_a_flight_recorder_has_those_of_what_it_held(monitor, tmp_path):
    there = monitor(answers())
    path = tmp_path / "f.vtrace"
    sink = FlightSink(lambda: RotatingSink(str(path)), 1.5, "drop", 1.0)
    asked(
        there,
        [*(batch(n, [Kind.POP], meta={}) for n in (1, 2, 3, 4)), batch(5, [Kind.DROP], meta={})],
        sink,
    )
    with open_trace(str(path)) as trace:
        found = [one.meta["qmp"] for one in trace.batches() if "qmp" in one.meta]
    # The look was before what is kept.
    assert found
    assert all(one == {"cpx": {}} for one in found)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_socket_that_root_alone_may_open_is_held(monkeypatch):
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        there = Monitor(f"{folder}/qmp", answers())
        Path(there.path).chmod(0o666)
        assert open_to_user(there.path)
        Path(there.path).chmod(0o600)
        assert not open_to_user(there.path)
        source = Source(VM, there.path)
        assert source.held
        greetings = len([name for name, _ in there.asked if name == "qmp_capabilities"])
        for _ in range(3):
            source.ask(whole=False)
        now = len([name for name, _ in there.asked if name == "qmp_capabilities"])
        assert greetings == now == 1
        source.close()
        there.close()
