"""``vtrace ring`` on saved rings, and its names and errors; rings of a real guest: tests/ring."""

import json
import os
import random
import subprocess
import sys
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator

from tests.ring.model import EVENT_IDX, INDIRECT, Packed, Split
from tests.ring.monitor import Monitor
from tests.ring.test_hostile import PACKED_RINGS, SPLIT
from vtrace.cli import ring as verb
from vtrace.cli.ringread import device_named, queue_named, take
from vtrace.errors import UnsupportedError, UsageError
from vtrace.inventory import Device, Virtqueue, Vm
from vtrace.inventory.monitor import monitors_of, path_of
from vtrace.inventory.qmp import VirtioDevice
from vtrace.ring import WORDS
from vtrace.ring.saved import to_saved


def kept(path, raw, tables=None, **words):
    path.write_text(json.dumps(words | to_saved(raw, tables or {})))
    return path


@pytest.fixture
def saved(tmp_path):
    """Return a file with a ring of each layout, and its model."""

    def make(kind=Split, **words):
        model = kind(16, EVENT_IDX | INDIRECT, random.Random(3))
        for _ in range(60):
            model.step()
        path = tmp_path / f"{kind.__name__}.ring.json"
        return kept(path, model.raw(), model.memory, vm="v", device="d", queue="q", **words), model

    return make


def schema():
    text = (files("vtrace") / "schemas" / "ring.json").read_text()
    return Draft202012Validator(json.loads(text))


@pytest.mark.parametrize("kind", [Split, Packed])
def test_text(kind, saved, vtrace):
    path, model = saved(kind, backend="qemu", state="paused")
    done = vtrace("ring", path)
    assert done.code == 0
    ring = kind.__name__.lower()
    assert done.lines[0] == f"v d q: {ring} ring of 16, served by qemu, guest paused"
    assert "nothing in it contradicts itself" in done.lines
    shown = {}
    for line in done.lines[done.lines.index("slots") + 1 :]:
        places, owner = line.split()
        first, _, last = places.partition("-")
        shown |= dict.fromkeys(range(int(first), int(last or first) + 1), owner)
    assert [shown[at] for at in range(16)] == model.truth()
    wide = vtrace("ring", path, "--slots")
    rows = wide.lines[-16:]
    assert [row.split()[1] for row in rows] == model.truth()
    chains = vtrace("ring", "-r", path, "--chains")
    out = len(model.available) + len(model.flight) + len(model.used)
    assert sum(" bytes" in line and "slots" in line for line in chains.lines) == out
    assert all(len(line) <= 110 for line in (*wide.lines, *chains.lines, *done.lines))
    assert "\x1b" not in wide.out


@pytest.mark.parametrize("kind", [Split, Packed])
def test_json(kind, saved, vtrace):
    path, model = saved(kind)
    shot = json.loads(vtrace("ring", path, "--json").out)
    schema().validate(shot)
    assert [slot["owner"] for slot in shot["slots"]] == model.truth()
    assert shot["owners"]["device"] == model.truth().count("device")


@pytest.mark.parametrize(("word", "raw", "memory"), SPLIT + PACKED_RINGS)
def test_hostile_rings_are_printed(word, raw, memory, tmp_path, vtrace):
    path = kept(tmp_path / "bad.json", raw)
    done = vtrace("ring", path, "--slots", "--chains")
    assert done.code == 0
    shot = json.loads(vtrace("ring", path, "--json").out)
    schema().validate(shot)
    found = {finding["word"] for finding in shot["findings"]}
    # A table is only in the file if it could be read.
    assert word in found or memory is not None
    assert all(f"{each}: " in done.out for each in found)


def test_the_schema_has_every_word():
    words = schema().schema["$defs"]["finding"]["properties"]["word"]["enum"]
    assert words == list(WORDS)


def test_names_in_a_file_are_cleaned(tmp_path, vtrace):
    path = kept(tmp_path / "x.json", Split(4, 0, random.Random(1)).raw(), vm="\x1b[2Jv", state="\n")
    done = vtrace("ring", path)
    assert "\x1b" not in done.out
    assert done.lines[0].startswith("\\x1b[2Jv: split ring of 4")


def test_a_ring_that_moved_says_so(tmp_path, vtrace):
    value = to_saved(Split(4, 0, random.Random(1)).raw(), {})
    (tmp_path / "x.json").write_text(json.dumps(value | {"consistent": False}))
    assert "it moved while it was read" in vtrace("ring", tmp_path / "x.json").out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("{}", "no ring"),
        ('{"vtrace_ring": 9}', "version 9"),
        ('{"vtrace_ring": 1}', "has no known"),
        ('{"vtrace_ring": 1, "known": {}, "areas": {}, "tables": {}}', "size"),
    ],
)
def test_what_is_no_ring(text, words, tmp_path, vtrace):
    path = tmp_path / "x.json"
    path.write_text(text)
    done = vtrace("ring", path)
    assert done.code == 6
    assert done.err.count("\n") == 1
    assert words in done.err


def test_spoiled_files(saved, vtrace, tmp_path):
    path, _ = saved()
    text = path.read_text()
    dice = random.Random(1)
    codes = set()
    for _ in range(200):
        at = dice.randrange(len(text))
        (tmp_path / "x.json").write_text(text[:at] + dice.choice('0a]{},"x-') + text[at + 1 :])
        codes.add(vtrace("ring", tmp_path / "x.json").code)
    assert codes == {0, 6}


def test_wrong_usage(vtrace, tmp_path, monkeypatch):
    monkeypatch.setattr("vtrace.inventory.discover", lambda: [VM])
    for words, said in (
        ([], "give VM DEVICE QUEUE"),
        (["web1", "net0"], "give VM DEVICE QUEUE"),
        (["web1", "net0", "rx0", "-r", "x"], "not both"),
        (["web2", "net0", "rx0"], "did you mean 'web1'?"),
        (["web1", "nett0", "rx0"], "did you mean 'net0', 'net1'?"),
        (["web1", "net0", "rx9"], "did you mean 'rx0'"),
        (["web1", "net0", "rx0"], "--qmp SOCKET (it has none"),
        (["web1", "net0", "rx0", "--qmp", tmp_path / "none"], "no QMP monitor there"),
    ):
        done = vtrace("ring", *words)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert done.err.count("\n") == 1
    assert vtrace("ring", tmp_path / "none.json").code == 6


def queues(*names, backend="qemu"):
    return tuple(Virtqueue(index=n, name=name, backend=backend) for n, name in enumerate(names))


NET = Device(id="net0", kind="net", driver="virtio-net-pci", queues=queues("rx0", "tx0", "ctrl"))
USER = Device(id="net1", kind="net", driver="virtio-net-pci",
              queues=queues("rx0", backend="vhost-user"))  # fmt: skip
FIRST = Device(id="blk0", named=False, kind="blk", driver="virtio-blk-pci", queues=queues("req0"))
SECOND = Device(id="blk1", named=False, kind="blk", driver="virtio-blk-pci", queues=queues("req0"))
VM = Vm(name="web1", pid=1 << 30, devices=(NET, USER, FIRST, SECOND))


def test_names():
    assert device_named(VM, "net0") is NET
    assert queue_named(NET, "ctrl") == ("ctrl", 2, "qemu")
    assert queue_named(NET, "1") == ("tx0", 1, "qemu")
    assert queue_named(NET, "7") == ("7", 7, "qemu")
    with pytest.raises(UsageError, match="there is 'rx0', 'tx0', 'ctrl'"):
        queue_named(NET, "zzz")


def known(path, name="virtio-blk"):
    return VirtioDevice(path=f"/machine/{path}/virtio-backend", name=name)


def test_the_devices_that_qemu_means():
    board = known("unattached/device[12]")
    anon = known("peripheral-anon/device[2]")
    net = known("peripheral/net0", "virtio-net")
    decoy = known("peripheral/blk9")
    assert path_of(VM, NET, [decoy, net]) == net.path
    # What the board has made comes before what was asked for.
    assert path_of(VM, FIRST, [anon, decoy, board]) == board.path
    assert path_of(VM, SECOND, [anon, decoy, board]) == anon.path
    with pytest.raises(UsageError, match="cannot be told"):
        path_of(VM, FIRST, [anon])
    with pytest.raises(UsageError, match="no virtio device 'net0'"):
        path_of(VM, NET, [anon])


def test_the_order_of_ten_devices():
    vm = Vm(name="v", pid=1, devices=tuple(
        Device(id=f"blk{n}", named=False, kind="blk", driver="virtio-blk-pci") for n in range(12)
    ))  # fmt: skip
    there = [known(f"peripheral-anon/device[{n}]") for n in reversed(range(12))]
    for n, device in enumerate(vm.devices):
        assert f"device[{n}]" in path_of(vm, device, there)


def test_vhost_user_is_not_asked():
    with pytest.raises(UnsupportedError, match="would stop the ring"):
        take(VM, USER, "rx0", "/nowhere")


def test_the_monitor_of_another_vm(tmp_path):
    there = Monitor(tmp_path / "qmp", {"query-name": {"name": "db1"}})
    try:
        with pytest.raises(UsageError, match="monitor of 'db1', not of 'web1'"):
            take(VM, NET, "rx0", there.path)
        assert [name for name, _ in there.asked] == ["qmp_capabilities", "query-name"]
    finally:
        there.close()


def test_monitors_on_a_command_line(tmp_path):
    (tmp_path / str(VM.pid)).mkdir()
    words = ["qemu", "-qmp", "unix:/run/a,server=on,wait=off", "-qmp", "tcp:localhost:4444",
             "-chardev", "socket,id=m,path=/run/b,server=on", "-mon", "chardev=m,mode=control",
             "-chardev", "socket,id=h,path=/run/c,server=on", "-mon", "chardev=h"]  # fmt: skip
    (tmp_path / str(VM.pid) / "cmdline").write_bytes("\0".join(words).encode() + b"\0")
    assert monitors_of(VM, tmp_path) == ["/run/a", "/run/b"]
    assert monitors_of(VM, tmp_path / "none") == []


class Ring:
    """A monitor and a memory with a ring that may move between two looks."""

    def __init__(self, model, moves=0, features=(), status=None):
        self.model, self.moves = model, moves
        self.looks = 0
        self.places = {0x1000: "desc", 0x10000: "driver", 0x20000: "device"}
        self.extra = status or {}
        self.features = features

    def status(self, path, queue):
        self.looks += 1
        raw = self.model.raw(wraps=False) if isinstance(self.model, Packed) else self.model.raw()
        return {
            "vring-num": raw.size,
            "vring-desc": 0x1000,
            "vring-avail": 0x10000,
            "vring-used": 0x20000,
            "last-avail-idx": raw.known.taken,
            "shadow-avail-idx": 0,
            "used-idx": raw.known.used,
            "inuse": raw.known.inuse,
        } | self.extra

    def read(self, pid, parts):
        pieces = [self.piece(*part) for part in parts]
        return None if None in pieces else b"".join(pieces)

    def piece(self, address, length):
        name = self.places.get(address)
        if name is None:
            return self.model.read(address, length)
        if self.moves and name == "desc":
            self.moves -= 1
            self.model.publish()
        return getattr(self.model.raw(), name)[:length]


@pytest.fixture
def taken(tmp_path, monkeypatch):
    """Return a function that takes a snapshot through a monitor that a test makes up."""
    made = []

    def make(ring, device=NET, queue="rx0", **extra):
        names = ["VIRTIO_RING_F_EVENT_IDX: x", "VIRTIO_RING_F_INDIRECT_DESC: y"]
        if isinstance(ring.model, Packed):
            names.append("VIRTIO_F_RING_PACKED: z")
        mtree = "FlatView #0\n AS \"memory\", root: system\n" \
            "  0000000000000000-0fffffffffffffff (prio 0, ram): pc.ram\n"  # fmt: skip
        features = {"transports": names}
        human = {"info mtree -f": mtree, "gpa2hva 0x0": "Host virtual address is 0x0"}
        monitor = Monitor(tmp_path / f"qmp{len(made)}", {
            "query-name": {"name": "web1"},
            "query-status": {"status": "running"},
            "x-query-virtio": [{"path": "/machine/peripheral/net0/virtio-backend", "name": "n"}],
            "x-query-virtio-status": {"guest-features": features, "num-vqs": 3} | extra,
            "x-query-virtio-queue-status": ring.status,
            "human-monitor-command": lambda command_line: human[command_line],
        })  # fmt: skip
        made.append(monitor)
        monkeypatch.setattr("vtrace.inventory.guestram.read_memory", ring.read)
        monkeypatch.setattr(
            "vtrace.inventory.guestram.GuestRam.__init__.__defaults__", (ring.read,)
        )
        return take(VM, device, queue, monitor.path)

    yield make
    for monitor in made:
        monitor.close()


def model_of(kind):
    model = kind(64, EVENT_IDX | INDIRECT, random.Random(8))
    while not (model.flight and model.available and model.used and model.reaped):
        model.step()
    return model


@pytest.mark.parametrize("kind", [Split, Packed])
def test_reading_by_way_of_a_monitor(kind, taken):
    model = model_of(kind)
    got = taken(Ring(model))
    assert got.snapshot.consistent
    assert got.snapshot.findings == ()
    assert [str(slot.owner) for slot in got.snapshot.slots] == model.truth()
    assert (got.vm, got.device, got.queue, got.backend) == ("web1", "net0", "rx0", "qemu")
    tables = [chain.indirect for chain in got.snapshot.chains if chain.indirect is not None]
    assert set(tables) <= set(got.tables)


def test_a_ring_that_moves_is_read_again(taken):
    ring = Ring(model_of(Split), moves=3)
    assert taken(ring).snapshot.consistent
    assert ring.looks > 2
    ring = Ring(model_of(Split), moves=60)
    moved = taken(ring).snapshot
    assert not moved.consistent
    assert moved.findings == ()
    assert moved.taken is None
    assert ring.looks == 10


def test_what_vhost_has_taken_is_not_what_qemu_remembers(taken):
    device = Device(id="net0", kind="net", driver="virtio-net-pci",
                    queues=queues("rx0", "tx0", backend="vhost"))  # fmt: skip
    model = model_of(Split)
    stale = {"used-idx": 999, "inuse": 77}
    got = taken(Ring(model, status=stale), device, **{"vhost-started": True})
    assert got.backend == "vhost"
    assert got.snapshot.findings == ()
    assert [str(slot.owner) for slot in got.snapshot.slots] == model.truth()
    got = taken(
        Ring(model, status=stale | {"last-avail-idx": 0}), device, **{"vhost-started": True}
    )
    assert got.snapshot.counts()["outstanding"] > 0
    # Before it is started, QEMU serves the queue.
    assert taken(Ring(model), device).backend == "qemu"


def test_a_queue_that_was_not_set_up(taken):
    with pytest.raises(UnsupportedError, match="has not set up this queue"):
        taken(Ring(model_of(Split), status={"vring-desc": 0}))
    with pytest.raises(UsageError, match="none of index 9"):
        taken(Ring(model_of(Split)), queue="9")


def test_a_pipe_and_stdin(saved, root):
    path, _ = saved()
    done = subprocess.run(
        [sys.executable, "-m", "vtrace", "ring", "-", "--json"],
        input=path.read_bytes(),
        capture_output=True,
        cwd=root,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["vm"] == "v"


def test_save_refuses_what_cannot_be_written(saved, vtrace, tmp_path):
    path, _ = saved()
    out = tmp_path / "again.json"
    assert vtrace("ring", path, "--save", out).code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert vtrace("ring", out).out == vtrace("ring", path).out
    assert vtrace("ring", path, "--save", os.fspath(tmp_path / "no" / "x")).code == 2


def test_flags_by_name():
    assert verb.flags_text(0, None) == ""
    assert verb.flags_text(7, None) == "NEXT WRITE INDIRECT"
    assert verb.flags_text(0x83, None) == "NEXT WRITE 0x80"
