"""Real QEMU guests, compared with what they were asked for and with what QEMU says."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.inventory.realqemu import QEMU, Guest, Netns, need_qemu
from vtrace.inventory import board_place, discover, match_queue, resolve

# Taps come from iproute2; QEMU takes them as they are.
TAP = "script=no,downscript=no"


@pytest.fixture(scope="module")
def netns():
    need_qemu()
    made = Netns()
    made.run("ip", "tuntap", "add", "dev", "one", "mode", "tap", "vnet_hdr")
    made.run("ip", "tuntap", "add", "dev", "many", "mode", "tap", "vnet_hdr", "multi_queue")
    made.run("ip", "tuntap", "add", "dev", "bare", "mode", "tap")
    made.run("ip", "link", "set", "many", "txqueuelen", "4321", "mtu", "1400")
    made.run("ip", "link", "set", "one", "txqueuelen", "4322")
    made.run("ip", "link", "add", "vtbr", "type", "bridge")
    made.run("ip", "link", "set", "one", "master", "vtbr")
    yield made
    made.close()


@pytest.fixture
def start(netns, tmp_path):
    """Return a function that starts a guest and waits until it answers."""
    with (tmp_path / "disk.img").open("wb") as disk:
        disk.truncate(1 << 20)
    guests = []

    def run(*argv: str, answers: bool = True) -> Guest:
        guest = Guest(netns, tmp_path, *argv)
        guests.append(guest)
        if answers:
            guest.connect()
        return guest

    yield run
    for guest in guests:
        guest.close()


def found(guest):
    return resolve(discover(), str(guest.pid))


def test_all_devices_tcg(start, netns):
    guest = start(
        *("-S", "-nodefaults", "-accel", "tcg", "-M", "pc", "-smp", "2", "-m", "64"),
        *("-name", "guest=alpha beta,process=cpx,debug-threads=on"),
        *("-uuid", "8f0c4a1e-1f0f-4f6b-9b4b-2c1d5e1a7f00"),
        *("-netdev", f"tap,id=n0,ifname=many,queues=2,{TAP}"),
        "-device",
        "virtio-net-pci,id=net0,netdev=n0,mq=on,vectors=6,addr=9,"
        "rx_queue_size=1024,tx_queue_size=1024",
        *("-netdev", f"tap,id=n1,ifname=one,{TAP}"),
        *("-device", "virtio-net-pci,id=lan,netdev=n1,packed=on"),
        *("-object", "iothread,id=io1"),
        *("-blockdev", "driver=file,filename=disk.img,node-name=b0"),
        *("-device", "virtio-blk-pci,drive=b0,id=disk0,iothread=io1,num-queues=3"),
        *("-device", "virtio-serial-pci,id=ser0", "-chardev", "null,id=c"),
        *("-device", "virtconsole,chardev=c", "-chardev", "null,id=d"),
        *("-device", "virtserialport,chardev=d,nr=2"),
        *("-device", "virtio-balloon-pci,id=bal0,free-page-hint=on,iothread=io1"),
        *("-device", '{"driver":"virtio-scsi-pci","id":"scsi0","virtqueue_size":64}'),
        *("-device", "virtio-rng-pci,id=rng0", "-device", "e1000,id=old"),
    )
    vm = found(guest)
    assert (vm.name, vm.accel, vm.machine, vm.vcpus) == ("alpha beta", "tcg", "pc", 2)
    assert vm.uuid == "8f0c4a1e-1f0f-4f6b-9b4b-2c1d5e1a7f00"
    answer = guest.ask("query-version")["qemu"]
    assert vm.version == "{major}.{minor}.{micro}".format(**answer)
    devices = {device.id: device for device in vm.devices}
    assert set(devices) == {"net0", "lan", "disk0", "ser0", "bal0", "scsi0", "rng0", "old"}

    net0 = devices["net0"].net
    assert (net0.interface, net0.vnet_hdr, net0.multi_queue, net0.vhost) == (
        *("many", True, True, False),
    )
    assert (net0.queues, net0.txqueuelen, net0.mtu_bytes, net0.netns) == (
        *(2, 4321, 1400, netns.inode),
    )
    assert net0.offloads["tx-tcp-segmentation"] is False  # no driver has asked for any
    lan = devices["lan"].net
    assert (lan.interface, lan.multi_queue, lan.master) == ("one", False, "vtbr")
    assert {q.ring for q in devices["lan"].queues} == {"packed"}
    assert devices["bal0"].iothread == "io1"
    assert not devices["old"].traced

    # Where they stand: those with an address and those without.
    said = guest.addresses()
    assert {device.id: device.address for device in vm.devices} == {
        name: said[name] for name in devices
    }
    assert devices["net0"].address_source == "asked"
    assert devices["scsi0"].address_source == "derived"

    # How large: every ring that QEMU has. Ports that nothing is plugged into are left out.
    for path, sizes in guest.rings().items():
        device = devices[path.split("/")[3]]
        mine = [queue.size for queue in device.queues]
        if device.id == "net0":
            # Without a driver there is one pair, and the control queue stands behind it.
            mine[2:4] = []
        assert mine == sizes[: len(mine)], device.id
        assert len(mine) == len(sizes) or device.kind == "serial"

    threads = {thread.comm: thread for thread in vm.threads}
    assert threads["CPU 0/TCG"].vcpu == 0
    assert threads["CPU 1/TCG"].role == "vcpu"
    assert {q.tid for q in devices["disk0"].queues} == {threads["IO io1"].tid}
    assert {q.tid for q in devices["net0"].queues} == {guest.pid}
    assert not any(thread.role == "unknown" for thread in vm.threads)
    assert vm.seen == "all"


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("defaults", [[], ["-nodefaults"], ["-vga", "none"], ["-vga", "virtio"]])
def test_addresses_that_qemu_chose(start, machine, defaults):
    guest = start(
        *("-S", "-accel", "tcg", "-M", machine, "-m", "64", *defaults),
        *("-netdev", f"tap,id=n,ifname=bare,{TAP}", "-nic", "user,model=virtio,id=board"),
        *("-device", '{"driver":"virtio-rng-pci","id":"last"}'),
        *("-device", "virtio-net-pci,netdev=n,id=net0"),
        *("-device", "qemu-xhci,id=usb", "-device", "usb-tablet"),
        *("-device", "virtio-balloon-pci,id=fixed,addr=0x8.1"),
        *("-device", "virtio-rng-pci,id=next"),
    )
    said = guest.addresses()
    vm = found(guest)
    for device in vm.devices:
        # A NIC of the board keeps its id for its backend; a display has none.
        if device.named and device.id != "board":
            assert device.address == said[device.id], device.id
    assert "fixed" in said
    assert [d.id for d in vm.devices if d.kind == "gpu"] == ["gpu0"] * ("virtio" in defaults)


def test_paths_and_queues_are_qemus(start):
    guest = start(
        *("-S", "-accel", "tcg", "-m", "64", "-vga", "virtio", "-smp", "2"),
        *("-name", "cpx,process=cpx,debug-threads=on"),
        *("-nic", "user,model=virtio,hostfwd=tcp:127.0.0.1:0-:22", "-net", "nic,model=virtio"),
        *("-net", f"tap,ifname=one,vnet_hdr=on,vhost=on,{TAP}"),
        *("-drive", "file=disk.img,if=virtio,format=raw,file.locking=off", "-device", "usb-ehci"),
        *("-blockdev", "driver=file,filename=disk.img,node-name=b0,locking=off,read-only=on"),
        *("-blockdev", "driver=file,filename=disk.img,node-name=b1,locking=off,read-only=on"),
        *("-device", "virtio-blk-pci,drive=b0,num-queues=3,queue-size=64"),
        *("-device", '{"driver":"virtio-blk-pci","drive":"b1","id":"long","queue-size":32}'),
        *("-device", "virtio-serial", "-chardev", "null,id=c"),
        *("-device", "virtserialport,chardev=c,name=vtrace.agent"),
        *("-device", '{"driver":"virtio-scsi-pci","id":"s0","num_queues":4}'),
        *("-device", '{"driver":"virtio-rng-pci"}', "-device", "virtio-balloon-pci"),
        *("-netdev", f"tap,id=n,ifname=many,queues=2,{TAP}"),
        *("-device", "virtio-net-pci,netdev=n,mq=on,id=lan,rx_queue_size=512"),
    )
    vm = found(guest)
    assert (vm.name, len(vm.devices)) == ("cpx", 11)
    kinds = {"virtio-serial": "serial", "virtio-gpu": "gpu"}
    said = guest.ask("x-query-virtio")
    kind_of = {d["path"]: kinds.get(d["name"], d["name"].removeprefix("virtio-")) for d in said}
    met = []
    for path, sizes in guest.rings().items():
        kind = kind_of[path]
        seen = [other for other, its in kind_of.items() if its == kind]
        nth = board_place(vm, path, kind, seen)
        matches = [match_queue(vm, path, kind, n, nth) for n in range(len(sizes))]
        (name,) = {match.device for match in matches}
        device = next(device for device in vm.devices if device.id == name)
        assert device.kind == kind
        assert device.qom in {"", path.removesuffix("/virtio-backend")}
        met.append(name)
        queues = {queue.name: queue for queue in device.queues}
        offered = [queues[match.queue].size for match in matches if match.queue in queues]
        assert len(set(matches)) == len(matches), path
        # Queues of ports that nothing is plugged into are no device's of the inventory.
        assert len(offered) == len(sizes) or kind == "serial"
        assert offered == sizes[: len(offered)], path
    assert sorted(met) == sorted(device.id for device in vm.devices)
    assert {match_queue(vm, vm_path(vm, "lan"), "net", 2).queue} == {"ctrl"}


def vm_path(vm, name):
    return next(device.qom for device in vm.devices if device.id == name)


def test_legacy_net(start):
    guest = start(
        *("-S", "-nodefaults", "-accel", "tcg", "-m", "64"),
        *("-net", "nic,model=virtio", "-net", f"tap,ifname=one,{TAP}"),
    )
    (net0,) = found(guest).devices
    assert (net0.id, net0.driver, net0.net.interface) == ("net0", "virtio-net", "one")
    assert net0.net.vnet_hdr is True


def test_tap_passed_in_as_a_file(netns, tmp_path):
    # As libvirt does it: the file is open before QEMU is.
    opener = (
        "import fcntl, os, struct, sys\n"
        "fd = os.open('/dev/net/tun', os.O_RDWR)\n"
        "fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'bare', 0x1002))\n"
        "os.set_inheritable(fd, True)\n"
        "argv = [a.replace('FD', str(fd)) for a in sys.argv[1:]]\n"
        "os.execvp(argv[0], argv)\n"
    )
    argv = [
        *(sys.executable, "-c", opener, QEMU, "-S", "-display", "none", "-nodefaults"),
        *("-accel", "tcg", "-m", "64", "-netdev", '{"type":"tap","id":"n","fd":"FD"}'),
        *("-device", '{"driver":"virtio-net-pci","netdev":"n","id":"net0","addr":"0x4"}'),
    ]
    process = subprocess.Popen(netns.command(*argv), cwd=tmp_path)
    try:
        vm = wait_for(process.pid)
        assert vm.devices[0].net.interface == "bare"
        assert vm.devices[0].net.vnet_hdr is False
        assert vm.devices[0].address == "0000:00:04.0"
    finally:
        process.kill()
        process.wait()


def wait_for(pid, seconds=20):
    end = time.monotonic() + seconds
    while True:
        vms = [vm for vm in discover() if vm.pid == pid]
        if vms and len(vms[0].threads) > 1:
            return vms[0]
        assert time.monotonic() < end, "the guest does not appear"
        time.sleep(0.1)


def test_plugged_in_later(start):
    guest = start("-S", "-nodefaults", "-accel", "tcg", "-m", "64")
    assert found(guest).devices == ()
    guest.ask("netdev_add", type="tap", id="n", ifname="bare", script="no", downscript="no")
    guest.ask("device_add", driver="virtio-net-pci", netdev="n", id="hot")
    (late,) = found(guest).devices
    assert late.net.interface == "bare"
    assert late.seen == "partial"


@pytest.fixture
def kvm():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/kvm: {error.strerror}")


@pytest.mark.parametrize("paused", [["-S"], []])
def test_kvm_without_thread_names(start, kvm, paused):
    guest = start(
        *(*paused, "-nodefaults", "-accel", "kvm", "-m", "64", "-name", "x,process=cpx"),
        *("-smp", "3,sockets=1,cores=3,threads=1,maxcpus=3", "-object", "iothread,id=io1"),
    )
    said = {c["cpu-index"]: c["thread-id"] for c in guest.ask("query-cpus-fast")}
    vm = found(guest)
    assert vm.accel == "kvm"
    assert vm.vcpus == 3
    assert {t.vcpu: t.tid for t in vm.threads if t.role == "vcpu"} == said


@pytest.mark.parametrize("accel", ["tcg", "kvm"])
def test_named_vcpus_are_qemus(start, accel, request):
    if accel == "kvm":
        request.getfixturevalue("kvm")
    guest = start(
        *("-nodefaults", "-accel", accel, "-m", "64", "-smp", "2", "-name", "x,debug-threads=on")
    )
    said = {c["cpu-index"]: c["thread-id"] for c in guest.ask("query-cpus-fast")}
    assert {t.vcpu: t.tid for t in found(guest).threads if t.role == "vcpu"} == said


def test_guests_that_come_and_go_are_no_error(start):
    argv = ("-nodefaults", "-accel", "tcg", "-m", "16", "-S")
    for _ in range(3):
        guest = start(*argv, answers=False)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            discover()
        guest.process.kill()
        while guest.process.poll() is None:
            discover()


def test_in_the_guests_own_namespace(start, netns, root):
    # /sys shows the namespace in which it was mounted; netlink shows the one we are in.
    start("-S", "-nodefaults", "-accel", "tcg", "-m", "64", "-name", "own", *one_net("one"))
    done = subprocess.run(
        netns.command(sys.executable, "-W", "error", "-c", PRINT_NET, "own"),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "one True 4322 None all\n", done.stderr


def one_net(interface):
    netdev = f"tap,id=n,ifname={interface},{TAP}"
    return ("-netdev", netdev, "-device", "virtio-net-pci,netdev=n,addr=3")


PRINT_NET = """
import sys
from vtrace.inventory import board_place, discover, match_queue, resolve
vm = resolve(discover(), sys.argv[1])
net = vm.devices[0].net
print(net.interface, net.vnet_hdr, net.txqueuelen, net.netns, net.seen)
"""
PRINT_JSON = """
import json, os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    from vtrace.inventory import board_place, discover, match_queue, resolve, to_json
except ImportError as error:
    sys.exit(f"skip: {error}")
print(json.dumps(to_json([resolve(discover(), sys.argv[1])])[0]))
"""


def test_without_privilege_what_is_missing_is_said(start, root):
    start(
        *("-S", "-nodefaults", "-accel", "tcg", "-m", "64", "-smp", "2"),
        *("-name", "guest=plain,debug-threads=on", *one_net("one")),
    )
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            f"import sys; sys.path.insert(0, {str(root)!r})" + PRINT_JSON,
            "plain",
        ],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith("skip:"):
        pytest.skip(f"nobody cannot read this clone: {done.stderr.strip()}")
    vm = json.loads(done.stdout)
    assert vm["seen"] == "partial"
    assert "needs root" in vm["missing"][0]
    assert vm["accel"] == "tcg"
    roles = {t["role"] for t in vm["threads"]}
    assert roles == {"qemu", "vcpu", "iothread"}  # that of the monitor
    net = vm["devices"][0]["net"]
    assert net["interface"] == "one"
    assert (net["ifindex"], net["vnet_hdr"], net["txqueuelen"], net["offloads"]) == (
        *(None, None, None, None),
    )
    assert net["seen"] == "partial"
