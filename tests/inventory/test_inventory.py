"""The interface of the room: JSON, names of VMs; and what is printed of them."""

import argparse
import dataclasses
import json
import subprocess
import sys

import pytest

import vtrace.inventory
from tests.inventory.fakehost import QEMU
from vtrace import inventory
from vtrace.cli import list as verb
from vtrace.errors import UsageError
from vtrace.inventory import Vm, blind_spots, discover, resolve, to_json

VMS = [
    Vm(name="web1", pid=100, uuid="8F0C4A1E-1f0f-4f6b-9b4b-2c1d5e1a7f00"),
    Vm(name="db", pid=200),
    Vm(name="db", pid=201),
    Vm(name="pid:300", pid=300),
]


@pytest.mark.parametrize(
    ("name", "pid"),
    [
        ("web1", 100),
        ("200", 200),
        ("pid:201", 201),
        ("pid:300", 300),
        ("8f0c4a1e-1f0f-4f6b-9b4b-2c1d5e1a7f00", 100),
    ],
)
def test_resolve(name, pid):
    assert resolve(VMS, name).pid == pid


@pytest.mark.parametrize(
    ("vms", "name", "reason"),
    [
        (VMS, "wbe1", "no VM 'wbe1'; did you mean 'web1'?"),
        (VMS, "db", "2 VMs are named 'db'; give the pid of one: 200, 201"),
        (VMS[:1], "zzz", "no VM 'zzz'; there is 'web1'"),
        ([], "web1", "no VM 'web1': no guest was found on this host"),
    ],
)
def test_resolve_fails(vms, name, reason):
    with pytest.raises(UsageError) as failure:
        resolve(vms, name)
    assert str(failure.value) == reason


def busy(host):
    host.interface("tap0", 3, tun_flags=0x5102, txqueuelen=500)
    host.process(
        100,
        [
            *(QEMU, "-name", "evil\x1b[2J\u202e,debug-threads=on", "-smp", "2"),
            *("-netdev", "tap,id=n,ifname=tap0,vhost=on", "-machine", "q35"),
            *("-device", "virtio-net-pci,netdev=n,id=net0,addr=3"),
            *("-device", "vhost-vsock-pci,id=vs,guest-cid=3,addr=4"),
            *("-device", "virtio-blk-pci,drive=d,bus=pci.2,addr=0"),
        ],
        files={4: "anon_inode:kvm-vm", 8: "/dev/vhost-net", 9: "/dev/vhost-vsock"},
        interfaces={7: "tap0"},
    )
    host.thread(100, 101, "CPU 0/KVM")
    host.thread(100, 102, "CPU 1/KVM")
    host.kthread(110, "vhost-100")
    host.kthread(111, "vhost-100")
    return discover(host.proc, host.sys)


def test_json_has_every_field(host):
    vms = busy(host)
    (vm,) = json.loads(json.dumps(to_json(vms)))
    assert set(vm) == {f.name for f in dataclasses.fields(Vm)} | {"seen"}
    assert vm["seen"] == "partial"
    assert vm["devices"][0]["net"]["missing"] == ["offloads of tap0 could not be asked for"]
    assert vm["devices"][1]["missing"] == []
    assert vm["devices"][0]["net"]["txqueuelen"] == 500
    assert vm["devices"][0]["queues"][0] == {
        "index": 0,
        "name": "rx0",
        "direction": "rx",
        "backend": "vhost",
        "ring": "split",
        "size": 256,
        "size_source": "default",
        "tid": 110,
        "port": "",
    }
    assert vm["threads"][-1]["kind"] == "kthread"
    assert type(to_json(vms)[0]["threads"][0]["role"]) is str


def test_blind_spots(host):
    assert "hidepid" in blind_spots(host.proc)[0]
    host.process(1, ["/sbin/init"], exe="/sbin/init", comm="init")
    assert "PID namespace" in blind_spots(host.proc)[0]
    host.kthread(2, "kthreadd")
    assert blind_spots(host.proc) == []


def test_nouns_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VMS[0].name = "x"


@pytest.fixture
def print_list(monkeypatch, capsys):
    """Return a function that runs the verb on given VMs: exit code, stdout, stderr."""

    def run(vms, *argv):
        monkeypatch.setattr(vtrace.inventory, "discover", lambda: vms)
        monkeypatch.setattr(vtrace.inventory, "blind_spots", list)
        parser = argparse.ArgumentParser()
        verb.add_arguments(parser)
        code = verb.run(parser.parse_args(argv))
        return code, *capsys.readouterr()

    return run


def test_ports_have_their_names(host, print_list):
    host.process(
        100,
        [
            *(QEMU, "-device", "virtio-serial", "-chardev", "null,id=c"),
            *("-device", "virtserialport,chardev=c,name=org.qemu\x1b.agent"),
        ],
    )
    _, out, _ = print_list(discover(host.proc, host.sys))
    names = [line.split("qemu ")[0].strip() for line in out.splitlines() if " split " in line]
    assert names[2:] == [
        *("ctrl_rx", "ctrl_tx"),
        *("rx1 org.qemu\\x1b.agent", "tx1 org.qemu\\x1b.agent"),
    ]


def test_print(host, print_list):
    code, out, err = print_list(busy(host))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    head = "evil\\x1b[2J\\u202e  pid 100 · qemu-system-x86_64 · kvm · 2 vCPUs · q35"
    assert lines[0] == head
    assert [line.split() for line in lines[2:6]] == [
        [
            *("DEVICE", "DRIVER", "ADDRESS", "QUEUE", "BACKEND", "RING", "TID"),
            *("TAP", "VNET_HDR", "TXQLEN", "OFFLOADS"),
        ],
        [
            *("net0", "virtio-net-pci", "0000:00:03.0", "rx0", "vhost", "256", "split", "110"),
            *("tap0", "on", "500", "?"),
        ],
        ["tx0", "vhost", "256", "split", "110"],
        ["ctrl", "qemu", "64", "split", "100"],
    ]
    assert "    vs: vhost-vsock: there are probes for vhost-net alone" in lines
    assert any(line.split() == ["110", "vhost", "vhost-100", "kthread"] for line in lines)
    assert any(line.split()[:3] == ["blk0", "virtio-blk-pci", "pci.2:00.0"] for line in lines)
    assert out.isprintable() or {c for c in out if not c.isprintable()} == {"\n"}


def test_print_nothing(print_list):
    code, out, err = print_list([])
    assert (code, out) == (0, "")
    assert err.startswith("vtrace: no guest")


def test_print_json(host, print_list):
    code, out, err = print_list(busy(host), "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["pid"] == 100
    assert print_list([], "--json")[1] == "[]\n"


def test_print_one(print_list):
    assert print_list(VMS, "--vm", "web1")[1].startswith("web1  pid 100 · ?")
    with pytest.raises(UsageError):
        print_list(VMS, "--vm", "nobody")


def test_exports():
    assert all(hasattr(inventory, name) for name in inventory.__all__)


def test_the_verb_is_light_to_import(root):
    program = (
        "import sys, vtrace.cli.list\n"
        "print({n.partition('.')[0] for n in sys.modules} & {'numpy', 'pyroute2', 'bcc'})\n"
        "print('vtrace.inventory' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\nFalse\n"


def test_example_texts():
    assert verb.EXAMPLES
    assert all(command.startswith("vtrace list") for command, _ in verb.EXAMPLES)
