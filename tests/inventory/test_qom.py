"""Paths of QEMU's object model, matched with devices and queues."""

import pytest

from vtrace.inventory import board_place, match_queue

MQ = 1 << 22

# Every way of starting, in one command line.
ALL = [
    *("-name", "cpx,process=cpx,debug-threads=on", "-nodefaults", "-smp", "2"),
    *("-nic", "user,model=virtio,hostfwd=tcp:127.0.0.1:2222-:22"),
    *("-net", "nic,model=virtio", "-net", "tap,vnet_hdr=on,vhost=on"),
    *("-drive", "file=a.img,if=virtio,format=raw", "-device", "usb-ehci"),
    *("-device", "virtio-serial", "-chardev", "null,id=c"),
    *("-device", "virtserialport,chardev=c,name=vtrace.agent"),
    *("-balloon", "virtio", "-device", '{"driver":"virtio-scsi-pci","id":"s0"}'),
    *("-device", '{"driver":"virtio-rng-pci"}', "-virtfs", "local,path=/tmp,mount_tag=t"),
    *("-device", "virtio-blk-pci,drive=d,num-queues=3,id=disk"),
    *("-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"),
    *("-device", "virtio-net-device,netdev=n,id=flat"),
]
PATHS = {
    "serial0": "/machine/peripheral-anon/device[1]",
    "balloon0": "/machine/peripheral-anon/device[3]",
    "9p0": "/machine/peripheral-anon/device[4]",
    "disk": "/machine/peripheral/disk",
    "net2": "/machine/peripheral-anon/device[5]",
    "blk1": "/machine/peripheral-anon/device[6]",
    "s0": "/machine/peripheral/s0",
    "rng0": "/machine/peripheral-anon/device[7]",
    "flat": "/machine/peripheral/flat",
    # Of the board's own only the order is known.
    "net0": "",
    "net1": "",
}


@pytest.fixture
def vm(vm_of):
    return vm_of(*ALL)


def test_where_qemu_puts_devices(vm):
    assert vm.name == "cpx"
    assert {device.id: device.qom for device in vm.devices} == PATHS
    hub = next(device for device in vm.devices if device.id == "net1")
    assert hub.net.vhost is False  # a hub stands between


@pytest.mark.parametrize(
    ("path", "kind", "index", "expected"),
    [
        ("/machine/peripheral/disk/virtio-backend", "blk", 2, ("disk", "req2", "none", "")),
        (
            "/machine/peripheral-anon/device[6]/virtio-backend",
            "blk",
            1,
            ("blk1", "req1", "none", ""),
        ),
        ("/machine/peripheral/s0/virtio-backend", "scsi", 0, ("s0", "ctrl", "none", "")),
        ("/machine/peripheral/s0/virtio-backend", "scsi", 3, ("s0", "req1", "none", "")),
        (
            "/machine/peripheral-anon/device[3]/virtio-backend",
            "balloon",
            1,
            ("balloon0", "deflate", "none", ""),
        ),
        (
            "/machine/peripheral-anon/device[1]/virtio-backend",
            "serial",
            3,
            ("serial0", "ctrl_tx", "none", ""),
        ),
        (
            "/machine/peripheral-anon/device[1]/virtio-backend",
            "serial",
            5,
            ("serial0", "tx1", "none", "vtrace.agent"),
        ),
        ("/machine/peripheral-anon/device[5]/virtio-backend", "net", 1, ("net2", "tx0", "tx", "")),
        ("/machine/peripheral/flat", "net", 0, ("flat", "rx0", "rx", "")),
        # Plugged in later, or as another kind under an old name.
        ("/machine/peripheral/hot/virtio-backend", "net", 2, ("hot", "ctrl", "none", "")),
        ("/machine/peripheral/disk/virtio-backend", "net", 0, ("disk", "rx0", "rx", "")),
        (
            "/machine/peripheral-anon/device[9]/virtio-backend",
            "blk",
            0,
            ("blk device[9]", "req0", "none", ""),
        ),
        (
            "/machine/peripheral-anon/device[3]/virtio-backend",
            "crypto",
            0,
            ("crypto device[3]", "queue0", "none", ""),
        ),
        # What is no such path.
        ("", "net", 0, ("net", "rx0", "rx", "")),
        ("/machine/q35/x", "blk", 70000, ("blk x", "req70000", "none", "")),
    ],
)
def test_queues_by_path_and_index(vm, path, kind, index, expected):
    assert match_queue(vm, path, kind, index) == expected


def test_devices_of_the_board_go_by_their_numbers_once_all_are_seen(vm):
    first, second = (f"/machine/unattached/device[{n}]/virtio-backend" for n in (9, 18))
    assert board_place(vm, second, "net", {second}) == -1
    assert match_queue(vm, second, "net", 0, -1).device == "net device[18]"
    places = [board_place(vm, path, "net", {first, second}) for path in (first, second)]
    assert places == [0, 1]
    assert [match_queue(vm, first, "net", 0, place).device for place in places] == ["net0", "net1"]


def test_the_boards_only_device_is_known_at_once(vm_of):
    vm = vm_of("-nic", "user,model=virtio", "-vga", "virtio")
    path = "/machine/unattached/device[23]/virtio-backend"
    assert board_place(vm, path, "net", {path}) == 0
    assert match_queue(vm, path, "net", 2, 0) == ("net0", "ctrl", "none", "")
    assert match_queue(vm, path, "gpu", 1, board_place(vm, path, "gpu", [path])).queue == "cursor"


@pytest.mark.parametrize(
    ("features", "names"),
    [(0, ["rx0", "tx0", "ctrl", "tx1"]), (MQ, ["rx0", "tx0", "rx1", "tx1", "ctrl"])],
)
def test_the_control_queue_is_where_the_driver_has_it(vm_of, features, names):
    vm = vm_of(
        *("-netdev", "tap,id=n,queues=2,ifname=t", "-device", "virtio-net-pci,netdev=n,mq=on,id=x")
    )
    path = "/machine/peripheral/x/virtio-backend"
    found = [match_queue(vm, path, "net", n, features=features).queue for n in range(len(names))]
    assert found == names


@pytest.mark.parametrize(
    ("kind", "features", "names"),
    [
        ("balloon", 0, ["inflate", "deflate", "stats", "reporting"]),
        ("balloon", 8, ["inflate", "deflate", "stats", "free_page", "reporting", "queue5"]),
        ("serial", 0, ["rx0", "tx0", "ctrl_rx", "ctrl_tx", "rx1", "tx1", "rx2"]),
        ("scsi", 0, ["ctrl", "event", "req0", "req1"]),
        ("net", MQ, ["rx0", "tx0", "queue2", "tx1", "queue4"]),
        ("rng", 0, ["req0", "queue1"]),
    ],
)
def test_queues_of_a_device_that_was_plugged_in_later(vm, kind, features, names):
    path = "/machine/peripheral/late/virtio-backend"
    found = [match_queue(vm, path, kind, n, features=features) for n in range(len(names))]
    assert [(match.device, match.queue) for match in found] == [("late", name) for name in names]


def test_numbers_are_not_guessed_behind_a_file_of_devices(vm_of):
    vm = vm_of(
        "-readconfig", "x.cfg", "-device", "virtio-rng-pci", "-device", "virtio-rng-pci,id=r"
    )
    assert [device.qom for device in vm.devices] == ["", "/machine/peripheral/r"]


def test_ports_have_their_names_and_numbers(vm_of):
    (serial,) = vm_of(
        *("-device", "virtio-serial-pci,id=s", "-device", "virtconsole,chardev=a"),
        *("-device", "virtserialport,chardev=b,name=one,nr=3"),
        *("-device", '{"driver":"virtserialport","chardev":"c","name":"two","bus":"s.0"}'),
    ).devices
    data = [(q.name, q.port) for q in serial.queues if not q.name.startswith("ctrl")]
    assert data == [
        *(("rx0", ""), ("tx0", ""), ("rx1", "two"), ("tx1", "two")),
        *(("rx2", ""), ("tx2", ""), ("rx3", "one"), ("tx3", "one")),
    ]
    assert [q.index for q in serial.queues] == list(range(10))


def test_balloon_none_is_none(vm_of):
    assert vm_of("-balloon", "none").devices == ()
