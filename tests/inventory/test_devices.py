"""Devices from command lines, with the open files and interfaces of a fake host."""

import pytest

from tests.inventory.fakehost import QEMU
from vtrace.inventory import discover

VNET, MQ, TAP, NO_PI = 0x4000, 0x0100, 0x0002, 0x1000

# As libvirt 9 writes it (shortened where nothing is read): JSON devices, descriptors passed in.
LIBVIRT = [
    "-name",
    "guest=web1,debug-threads=on",
    "-S",
    "-object",
    '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/x/master-key.aes"}',
    "-machine",
    "pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram,hpet=off,acpi=on",
    "-accel",
    "kvm",
    "-cpu",
    "host,migratable=on",
    "-m",
    "size=2097152k",
    "-object",
    '{"qom-type":"memory-backend-ram","id":"pc.ram","size":2147483648}',
    "-overcommit",
    "mem-lock=off",
    "-smp",
    "4,sockets=4,cores=1,threads=1",
    "-object",
    '{"qom-type":"iothread","id":"iothread1"}',
    "-uuid",
    "8f0c4a1e-1f0f-4f6b-9b4b-2c1d5e1a7f00",
    "-no-user-config",
    "-nodefaults",
    "-chardev",
    "socket,id=charmonitor,fd=32,server=on,wait=off",
    "-mon",
    "chardev=charmonitor,id=monitor,mode=control",
    "-rtc",
    "base=utc,driftfix=slew",
    "-global",
    "kvm-pit.lost_tick_policy=delay",
    "-no-shutdown",
    "-boot",
    "strict=on",
    "-device",
    '{"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1","bus":"pcie.0",'
    '"multifunction":true,"addr":"0x2"}',
    "-device",
    '{"driver":"virtio-serial-pci","id":"virtio-serial0","bus":"pci.2","addr":"0x0"}',
    "-blockdev",
    '{"driver":"file","filename":"/var/lib/libvirt/web1.qcow2","node-name":"libvirt-1-storage"}',
    "-blockdev",
    '{"node-name":"libvirt-1-format","driver":"qcow2","file":"libvirt-1-storage"}',
    "-device",
    '{"driver":"virtio-blk-pci","iothread":"iothread1","bus":"pci.3","addr":"0x0",'
    '"drive":"libvirt-1-format","id":"virtio-disk0","bootindex":1,"num-queues":2}',
    "-netdev",
    '{"type":"tap","fds":"33:34","vhost":true,"vhostfds":"36:37","id":"hostnet0"}',
    "-device",
    '{"driver":"virtio-net-pci","mq":true,"vectors":6,"rx_queue_size":1024,"tx_queue_size":1024,'
    '"netdev":"hostnet0","id":"net0","mac":"52:54:00:aa:bb:cc","bus":"pci.1","addr":"0x0",'
    '"packed":true}',
    "-chardev",
    "socket,id=charchannel0,fd=31,server=on,wait=off",
    "-device",
    '{"driver":"virtserialport","bus":"virtio-serial0.0","nr":1,"chardev":"charchannel0",'
    '"id":"channel0","name":"org.qemu.guest_agent.0"}',
    "-device",
    '{"driver":"virtio-balloon-pci","id":"balloon0","bus":"pci.4","addr":"0x0"}',
    "-sandbox",
    "on,obsolete=deny",
    "-msg",
    "timestamp=on",
]
LIBVIRT_FILES = {
    11: "/dev/kvm",
    12: "anon_inode:kvm-vm",
    36: "/dev/vhost-net",
    37: "/dev/vhost-net",
    **{40 + n: f"anon_inode:kvm-vcpu:{n}" for n in range(4)},
}


@pytest.fixture
def libvirt(host, vm_of):
    host.interface("vnet3", 9, tun_flags=TAP | NO_PI | VNET | MQ, txqueuelen=2000)
    host.kthread(4801, "vhost-4711")
    host.kthread(4802, "vhost-4711")
    host.kthread(4803, "vhost-99")
    host.kthread(4804, "vhost-47110")
    return vm_of(*LIBVIRT, files=LIBVIRT_FILES, interfaces={33: "vnet3", 34: "vnet3"})


def by_id(vm):
    return {device.id: device for device in vm.devices}


def names(device):
    return [queue.name for queue in device.queues]


def test_libvirt_vm(libvirt):
    assert libvirt.name == "web1"
    assert libvirt.uuid == "8f0c4a1e-1f0f-4f6b-9b4b-2c1d5e1a7f00"
    assert libvirt.accel == "kvm"
    assert libvirt.vcpus == 4
    assert libvirt.machine == "pc-q35-7.2"
    assert list(by_id(libvirt)) == ["virtio-serial0", "virtio-disk0", "net0", "balloon0"]


def test_libvirt_net(libvirt):
    net0 = by_id(libvirt)["net0"]
    assert (net0.kind, net0.driver, net0.address) == ("net", "virtio-net-pci", "pci.1:00.0")
    assert [(q.name, q.backend, q.size, q.size_source) for q in net0.queues] == [
        ("rx0", "vhost", 1024, "asked"),
        ("tx0", "vhost", 256, "clamped"),
        ("rx1", "vhost", 1024, "asked"),
        ("tx1", "vhost", 256, "clamped"),
        ("ctrl", "qemu", 64, "default"),
    ]
    assert [q.tid for q in net0.queues] == [4801, 4801, 4802, 4802, 4711]
    assert {q.ring for q in net0.queues} == {"packed"}
    end = net0.net
    assert (end.id, end.type, end.interface, end.ifindex) == ("hostnet0", "tap", "vnet3", 9)
    assert (end.vhost, end.vnet_hdr, end.multi_queue) == (True, True, True)
    assert (end.txqueuelen, end.queues, end.mtu_bytes) == (2000, 2, 1500)
    assert end.offloads is None  # a file does not have them
    assert net0.traced


def test_libvirt_others(libvirt):
    devices = by_id(libvirt)
    assert names(devices["virtio-disk0"]) == ["req0", "req1"]
    assert devices["virtio-disk0"].iothread == "iothread1"
    assert devices["virtio-disk0"].drive == "libvirt-1-format"
    assert names(devices["virtio-serial0"]) == ["rx0", "tx0", "ctrl_rx", "ctrl_tx", "rx1", "tx1"]
    assert names(devices["balloon0"]) == ["inflate", "deflate", "stats"]
    assert all(device.traced for device in devices.values())


def test_vhost_asked_but_not_had(host, vm_of):
    host.interface("tap0", 3, tun_flags=TAP | VNET)
    vm = vm_of(
        "-netdev",
        "tap,id=n0,ifname=tap0,vhost=on",
        "-device",
        "virtio-net-pci,netdev=n0",
        interfaces={7: "tap0"},
    )
    (net0,) = vm.devices
    assert net0.net.vhost is False
    assert net0.queues[0].backend == "qemu"
    assert "goes on without" in net0.notes[0]


@pytest.mark.parametrize(
    ("files", "vhost"),
    [
        ({9: "/dev/vhost-net", 10: "/dev/vhost-net"}, (True, True)),
        ({9: "/dev/vhost-net"}, (None, None)),
        ({}, (False, False)),
    ],
)
def test_vhost_is_on_if_there_are_files_for_all_that_ask(host, vm_of, files, vhost):
    vm = vm_of(
        *("-netdev", "tap,id=a,ifname=tap0,vhost=on", "-netdev", "tap,id=b,ifname=tap1,vhost=on"),
        *("-device", "virtio-net-pci,netdev=a", "-device", "virtio-net-pci,netdev=b"),
        files=files,
    )
    assert tuple(device.net.vhost for device in vm.devices) == vhost
    if None in vhost:
        assert {q.backend for d in vm.devices for q in d.queues[:2]} == {"unknown"}


@pytest.mark.parametrize(("link", "vhost"), [("/dev/vhost-net", True), ("/dev/null", False)])
def test_vhost_file_passed_in(vm_of, link, vhost):
    (device,) = vm_of(
        *("-netdev", "tap,id=a,ifname=tap0,vhostfd=31", "-device", "virtio-net-pci,netdev=a"),
        files={31: link},
    ).devices
    assert device.net.vhost is vhost


def test_workers_are_not_guessed_where_numbers_differ(host, vm_of):
    host.interface("tap0", 3, tun_flags=TAP | VNET)
    vm = vm_of(
        "-netdev",
        "tap,id=n0,ifname=tap0,vhost=on,queues=2",
        "-device",
        "virtio-net-pci,netdev=n0,mq=on",
        interfaces={7: "tap0", 8: "tap0"},
        files={9: "/dev/vhost-net", 10: "/dev/vhost-net"},
    )
    (net0,) = vm.devices
    assert [q.tid for q in net0.queues[:4]] == [None] * 4
    assert any("vhost worker" in reason for reason in net0.missing)
    assert net0.seen == "partial"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        pytest.param(
            ["-net", "nic,model=virtio", "-net", "tap,ifname=tap0,script=no,vhost=on"],
            ("net0", "virtio-net", "tap", "tap0", False, True),
            id="hub",
        ),
        pytest.param(
            ["-net", "tap,vlan=2,ifname=tap0", "-net", "user", "-net", "nic,vlan=2,model=virtio"],
            ("net0", "virtio-net", "tap", "tap0", False, True),
            id="vlan",
        ),
        pytest.param(
            ["-net", "nic,model=virtio-net-pci,netdev=n", "-netdev", "tap,id=n,ifname=tap0"],
            ("net0", "virtio-net", "tap", "tap0", False, True),
            id="net-nic-netdev",
        ),
        pytest.param(
            ["-nic", "tap,ifname=tap0,model=virtio-net-pci,id=lan"],
            ("lan", "virtio-net", "tap", "tap0", False, True),
            id="nic",
        ),
        pytest.param(
            ["-net", "nic", "-net", "tap,ifname=tap0"],
            ("net0", "e1000", "tap", "tap0", False, False),
            id="default-model",
        ),
        pytest.param(
            ["-netdev", "tap,id=n,script=no", "-device", "virtio-net-pci,netdev=n"],
            ("net0", "virtio-net-pci", "tap", "tap0", False, True),
            id="tap-without-name",
        ),
        pytest.param(
            ["-netdev", "bridge,id=n,br=br0", "-device", "virtio-net,netdev=n,id=x"],
            ("x", "virtio-net", "bridge", "tap0", False, True),
            id="bridge-helper",
        ),
        pytest.param(
            ["-netdev", "tap,id=n,fd=7", "-device", "virtio-net-pci-non-transitional,netdev=n"],
            ("net0", "virtio-net-pci-non-transitional", "tap", "tap0", False, True),
            id="fd",
        ),
    ],
)
def test_forms_of_nets(host, vm_of, argv, expected):
    host.interface("tap0", 3, tun_flags=TAP | VNET)
    vm = vm_of(*argv, interfaces={7: "tap0"})
    (net,) = vm.devices
    end = net.net
    found = (net.id, net.driver, end.type, end.interface, end.vhost, net.traced)
    assert found == expected
    assert end.vnet_hdr is True


def test_two_taps_without_names_go_by_order_and_say_so(host, vm_of):
    host.interface("tap0", 3, tun_flags=TAP)
    host.interface("tap1", 4, tun_flags=TAP)
    vm = vm_of(
        *("-netdev", "tap,id=a", "-netdev", "tap,id=b"),
        *("-device", "virtio-net-pci,netdev=b,id=net-b"),
        *("-device", "virtio-net-pci,netdev=a,id=net-a"),
        interfaces={8: "tap0", 9: "tap1"},
    )
    devices = by_id(vm)
    assert devices["net-a"].net.interface == "tap0"
    assert devices["net-b"].net.interface == "tap1"
    assert "order of opening" in devices["net-a"].net.missing[0]


def test_tap_plugged_in_later(host, vm_of):
    host.interface("tap0", 3, tun_flags=TAP)
    host.interface("tap5", 8, tun_flags=TAP)
    vm = vm_of(
        *("-netdev", "tap,id=a,ifname=tap0", "-device", "virtio-net-pci,netdev=a"),
        interfaces={8: "tap0", 30: "tap5"},
    )
    late = by_id(vm)["net1"]
    assert late.net.interface == "tap5"
    assert late.net.ifindex == 8
    assert late.seen == "partial"
    assert "plugged in later" in late.missing[0]


def test_tap_of_a_netdev_without_a_device(host, vm_of):
    host.interface("tap0", 3, tun_flags=TAP)
    (device,) = vm_of("-netdev", "tap,id=a,ifname=tap0", interfaces={8: "tap0"}).devices
    assert (device.id, device.net.id, device.net.interface) == ("net0", "a", "tap0")
    assert "no device on the command line" in device.missing[0]


def test_tap_that_was_unplugged(host, vm_of):
    vm = vm_of("-netdev", "tap,id=a,ifname=tap0", "-device", "virtio-net-pci,netdev=a")
    assert "not open any more" in vm.devices[0].net.missing[0]


@pytest.mark.parametrize(
    ("argv", "kind", "backend", "reason"),
    [
        (
            [
                *("-chardev", "socket,id=c,path=/run/vhu0", "-netdev"),
                *("vhost-user,id=n,chardev=c,queues=2", "-device"),
                "virtio-net-pci,netdev=n,mq=on,tx_queue_size=1024",
            ],
            "net",
            "vhost-user",
            "vhost-user",
        ),
        (
            [
                *("-netdev", "vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0"),
                *("-device", "virtio-net-pci,netdev=n"),
            ],
            "net",
            "vdpa",
            "vDPA",
        ),
        (["-device", "vhost-vsock-pci,guest-cid=3"], "vsock", "vhost", "vhost-vsock"),
        (["-device", "vhost-scsi-pci,wwpn=naa.5"], "scsi", "vhost", "vhost-scsi"),
        (["-device", "vhost-user-blk-pci,chardev=c"], "blk", "vhost-user", "vhost-user"),
        (["-device", "vhost-user-fs-pci,chardev=c"], "fs", None, "vhost-user"),
        (
            ["-device", "vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-0"],
            "vdpa",
            None,
            "vDPA",
        ),
        (["-device", "vfio-pci,host=01:00.0"], "vfio", None, "passed through"),
        (["-device", "e1000e,netdev=n", "-netdev", "user,id=n"], "net", None, "not virtio"),
    ],
)
def test_seen_but_not_traced(vm_of, argv, kind, backend, reason):
    (device,) = vm_of(*argv).devices
    assert device.kind == kind
    assert not device.traced
    assert reason in device.untraced
    if backend is not None:
        assert device.queues[0].backend == backend


def test_an_emulated_device_whose_netdev_opened_vhost(host, vm_of):
    # QEMU opens /dev/vhost-net with the tap, before it knows the device.
    host.interface("tap0", 3, tun_flags=TAP | VNET)
    (device,) = vm_of(
        *("-netdev", "tap,id=n,ifname=tap0,vhost=on", "-device", "e1000,netdev=n,id=nic0"),
        files={9: "/dev/vhost-net"},
        interfaces={8: "tap0"},
    ).devices
    assert (device.id, device.queues, device.traced) == ("nic0", (), False)


def test_vhost_user_socket_and_sizes(vm_of):
    (device,) = vm_of(
        *("-chardev", "socket,id=c,path=/run/vhu0"),
        *("-netdev", "vhost-user,id=n,chardev=c,queues=2"),
        *("-device", "virtio-net-pci,netdev=n,mq=on,tx_queue_size=1024"),
    ).devices
    assert device.net.path == "/run/vhu0"
    assert names(device) == ["rx0", "tx0", "rx1", "tx1", "ctrl"]
    assert (device.queues[1].size, device.queues[1].size_source) == (1024, "asked")


def test_macvtap(host, vm_of):
    host.macvtap("macvtap0", 12)
    (device,) = vm_of(
        *("-netdev", "tap,id=n,fd=30,vhost=on,vhostfd=31"),
        *("-device", "virtio-net-pci,netdev=n,id=net0"),
        files={30: "/dev/tap12", 31: "/dev/vhost-net"},
    ).devices
    end = device.net
    assert (end.type, end.interface, end.ifindex, end.path) == (
        *("macvtap", "macvtap0", 12, "/dev/tap12"),
    )
    assert end.vhost is True
    assert end.vnet_hdr is None
    assert end.seen == "partial"
    assert not device.traced
    assert "macvtap" in device.untraced


@pytest.mark.parametrize(
    ("machine", "count", "size"),
    [
        ("q35", 3, 256),
        ("pc-q35-5.2", 3, 256),
        ("pc-i440fx-5.1", 1, 256),
        ("pc-i440fx-4.2", 1, 128),
        ("pc-q35-rhel9.4.0", 3, 256),
        ("pc-q35-rhel8.2.0", 0, 0),
    ],
)
def test_defaults_follow_the_machine_type(vm_of, machine, count, size):
    (disk,) = vm_of("-M", machine, "-smp", "3", "-device", "virtio-blk-pci,drive=d").devices
    assert names(disk) == [f"req{n}" for n in range(count)]
    assert {q.size for q in disk.queues} <= {size}
    assert disk.seen == ("partial" if not count else disk.seen)


def test_drive_virtio_and_names(vm_of):
    vm = vm_of(
        *("-drive", "file=a.img,if=virtio,id=virtio0", "-drive", "file=b.img,if=none,id=b"),
        *("-device", "virtio-blk-pci,drive=b,id=blk0", "-m", "64"),
    )
    assert [(d.id, d.named, d.drive) for d in vm.devices] == [
        ("blk0", True, "b"),
        ("blk1", False, "virtio0"),
    ]


def test_other_transports(vm_of):
    vm = vm_of(
        *("-device", "virtio-net-device,id=m"),
        *("-device", "virtio-blk-ccw,id=c,devno=fe.0.0001,drive=d"),
    )
    assert [(d.bus, d.address) for d in vm.devices] == [("mmio", None), ("ccw", "fe.0.0001")]


def test_a_guest_that_is_not_qemu(host):
    host.interface("tap7", 5, tun_flags=TAP | VNET)
    host.process(
        50,
        ["/usr/bin/cloud-hypervisor", "--api-socket", "/run/ch.sock"],
        exe="/usr/bin/cloud-hypervisor",
        comm="cloud-hypervisor",
        files={4: "anon_inode:kvm-vm", 5: "anon_inode:kvm-vcpu:0"},
        interfaces={9: "tap7"},
    )
    (vm,) = discover(host.proc, host.sys)
    assert (vm.name, vm.accel, vm.vcpus, vm.version) == ("pid:50", "kvm", 1, "")
    assert vm.devices[0].net.interface == "tap7"
    assert vm.seen == "partial"
    assert "not QEMU's" in vm.missing[0]


def test_a_guest_by_another_name(host):
    host.process(
        51,
        ["cpx", "-machine", "q35", "-m", "64", "-device", "virtio-rng-pci,addr=3", "-accel", "kvm"],
        exe="/opt/vendor/bin/hypervisor",
        comm="cpx",
        files={4: "anon_inode:kvm-vm"},
    )
    (vm,) = discover(host.proc, host.sys)
    assert [d.address for d in vm.devices] == ["0000:00:03.0"]


def test_what_is_no_guest(host):
    host.process(60, ["/usr/bin/vim", "qemu-system-x86_64"], exe="/usr/bin/vim", comm="vim")
    host.process(61, ["/usr/sbin/libvirtd"], exe="/usr/sbin/libvirtd", files={9: "/dev/kvm"})
    host.process(62, [QEMU, "-M", "none,accel=kvm"], files={9: "anon_inode:kvm-vm"})
    host.process(63, [QEMU, "-m", "64"], state="Z")
    host.process(64, ["/usr/bin/qemu-x86_64", "ls"], exe="/usr/bin/qemu-x86_64")
    host.kthread(65, "vhost-64")
    (host.proc / "66").mkdir()  # gone while we look
    assert discover(host.proc, host.sys) == []


@pytest.mark.parametrize(
    ("exe", "count"),
    [("/nowhere/qemu-kvm", 0), ("/nowhere/qemu-system-x86_64", 2)],
)
def test_pc_of_rhel_is_an_old_one(host, exe, count):
    host.process(70, [exe, "-M", "pc", "-smp", "2", "-device", "virtio-blk-pci"], exe=exe)
    (vm,) = discover(host.proc, host.sys)
    assert len(vm.devices[0].queues) == count


def test_container_and_a_replaced_executable(host):
    place = host.process(71, [QEMU, "-m", "64"], exe=QEMU + " (deleted)")
    (place / "cgroup").write_text("0::/system.slice/docker-0123456789abcdef0123.scope\n")
    (vm,) = discover(host.proc, host.sys)
    assert vm.container == "0123456789ab"


def test_version_is_read_and_nothing_is_run(host, tmp_path):
    exe = tmp_path / "qemu-system-x86_64"
    text = b"QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds)\n\0"
    exe.write_bytes(b"\x7fELF" + bytes((1 << 20) - 20) + text)  # across two reads
    host.process(72, [str(exe)], exe=str(exe))
    (vm,) = discover(host.proc, host.sys)
    assert vm.version == "8.2.2"
