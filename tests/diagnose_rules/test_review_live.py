"""What the review says to type does what it says: on real links and threads."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from parsers.batch import Metadata
from parsers.tracefile.reader import open_trace
from tests.inventory.realqemu import Netns
from vtrace.diagnose.review import review
from vtrace.inventory import (
    Device,
    NetBackend,
    Thread,
    Virtqueue,
    Vm,
    network,
    to_json,
)

EXAMPLES = Path(__file__).parents[2] / "examples" / "traces"


@pytest.fixture
def place():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for tool in ("unshare", "nsenter", "ip", "tc", "bridge"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = Netns()
    try:
        for line in (
            "ip tuntap add dev tap0 mode tap vnet_hdr",
            "ip link add br0 type bridge",
            "ip link add eth0 type veth peer name far0",
            "ip link set tap0 master br0 up",
            "ip link set eth0 master br0 up",
            "ip link set far0 up",
            "ip link set br0 up",
        ):
            made.run(*line.split())
        settle(made)
        yield made
    finally:
        made.close()


def settle(place):
    """Wait until the bridge knows that its port has a carrier: the kernel tells it later."""
    end = time.monotonic() + 20
    while True:
        shown = subprocess.run(
            place.command("bridge", "link", "show", "dev", "eth0"),
            capture_output=True,
            text=True,
            check=True,
        )
        if "state forwarding" in shown.stdout:
            return
        assert time.monotonic() < end, shown.stdout
        time.sleep(0.02)


def reviewed(place, **more):
    net = NetBackend(id="n0", type="tap", interface="tap0", netns=place.inode, vhost=True)
    nic = Device(
        id="nic0", kind="net", driver="virtio-net-pci", net=net, queues=more.pop("queues", ())
    )
    vm = Vm(name="alpha", pid=place.holder.pid, accel="kvm", vcpus=1, devices=(nic,), **more)
    config = network.snapshot([vm])
    return review(config, to_json([vm]), {})


BAD = {
    "C-txqueuelen": ["ip link set tap0 txqueuelen 8"],
    "C-qdisc": ["tc qdisc replace dev tap0 root tbf rate 1mbit burst 10kb latency 1ms"],
    "C-bridge": ["bridge link set dev eth0 state 0"],
    "C-mtu": [
        "ip addr add 192.0.2.1/24 dev br0",
        "ip link set tap0 mtu 1400",
        "ip link set br0 mtu 1500",
    ],
}


@pytest.mark.parametrize("code", BAD)
def test_the_command_mends_it(place, code):
    assert reviewed(place) == []
    for line in BAD[code]:
        place.run(*line.split())
    points = [one for one in reviewed(place) if one.weight]
    assert [one.code for one in points] == [code]
    done = subprocess.run(["sh", "-c", points[0].command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [one for one in reviewed(place) if one.weight] == []


def of_cpus(points):
    """Leave out what is said of a test run that is nice to others."""
    return [point for point in points if point.setting.startswith("CPUs of")]


def test_the_command_moves_the_worker(place):
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2 or shutil.which("taskset") is None:
        pytest.skip("needs two CPUs and taskset")
    with (
        subprocess.Popen(["sleep", "60"]) as vcpu,
        subprocess.Popen(["sleep", "60"]) as worker,
    ):
        try:
            os.sched_setaffinity(vcpu.pid, {cpus[0]})
            os.sched_setaffinity(worker.pid, {cpus[0]})
            about = {
                "threads": (
                    Thread(tid=vcpu.pid, comm="sleep", role="vcpu", vcpu=0),
                    Thread(tid=worker.pid, comm="sleep", role="vhost"),
                ),
                "queues": (Virtqueue(index=0, name="rx0", direction="rx", tid=worker.pid),),
            }
            (point,) = of_cpus(reviewed(place, **about))
            assert (point.code, point.current) == ("C-affinity", str(cpus[0]))
            subprocess.run(["sh", "-c", point.command], capture_output=True, check=True)
            assert cpus[0] not in os.sched_getaffinity(worker.pid)
            assert of_cpus(reviewed(place, **about)) == []
        finally:
            vcpu.kill()
            worker.kill()


@pytest.mark.parametrize("name", ["quiet", "ringfull", "starving"])
def test_examples_of_a_sound_guest(name):
    """Recordings from before the section: a default set-up, on a kernel with a known bug."""
    meta = Metadata()
    with open_trace(EXAMPLES / f"{name}.vtrace") as trace:
        for batch in trace.batches():
            meta.update(batch.meta)
    points = review(
        meta.section("config"),
        meta.section("vms"),
        meta.section("queues"),
        (),
        meta.section("host")["kernel"],
    )
    assert [(point.code, point.weight) for point in points] == [("C-kernel", 0)]
