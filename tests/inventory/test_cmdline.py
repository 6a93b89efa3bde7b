import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrace.inventory.cmdline import boolean, key_values, parse


@pytest.mark.parametrize(
    ("text", "implied", "values"),
    [
        ("tap,id=n0,ifname=tap0", "type", {"type": "tap", "id": "n0", "ifname": "tap0"}),
        ("file=a,,b,if=virtio", "", {"file": "a,b", "if": "virtio"}),
        ("file=,,,,,id=x", "", {"file": ",,", "id": "x"}),
        ("guest=a=b", "guest", {"guest": "a=b"}),
        ("web1,debug-threads=on", "guest", {"guest": "web1", "debug-threads": "on"}),
        ("unix:x,server,nowait", "", {"unix:x": "on", "server": "on", "wait": "off"}),
        ("4", "cpus", {"cpus": "4"}),
        ("", "type", {}),
    ],
)
def test_key_values(text, implied, values):
    assert key_values(text, implied) == values


def test_flags_take_no_argument_and_the_rest_does():
    line = parse(["q", "-S", "-enable-kvm", "-m", "64", "--smp", "2", "-nodefaults", "disk.img"])
    names = [(o.name, o.text) for o in line.options]
    assert names == [
        ("S", ""),
        ("enable-kvm", ""),
        ("m", "64"),
        ("smp", "2"),
        ("nodefaults", ""),
        ("drive", "disk.img"),
    ]


def test_an_argument_may_begin_with_a_dash():
    line = parse(["q", "-append", "-x", "-device", "virtio-rng-pci"])
    assert [o.get("driver") for o in line.all("device")] == ["virtio-rng-pci"]


def test_an_unknown_flag_does_not_swallow_the_next_option():
    line = parse(["q", "-new-flag-of-qemu-20", "-device", "virtio-rng-pci"])
    assert [o.get("driver") for o in line.all("device")] == ["virtio-rng-pci"]


def test_json_is_flat():
    (device,) = parse(
        [
            "q",
            "-device",
            '{"driver":"virtio-blk-pci","packed":true,"num-queues":2,"drive":null,'
            '"iothread-vq-mapping":[{"iothread":"a"},{"iothread":"b","vqs":[1]}]}',
        ]
    ).options
    assert device.values == {
        "driver": "virtio-blk-pci",
        "packed": "on",
        "num-queues": "2",
        "iothread-vq-mapping.0.iothread": "a",
        "iothread-vq-mapping.1.iothread": "b",
        "iothread-vq-mapping.1.vqs.0": "1",
    }


def test_broken_json_is_no_error():
    (device,) = parse(["q", "-device", '{"driver":']).options
    assert device.values == {}


def test_set_and_global():
    line = parse(
        [
            "q",
            "-global",
            "virtio-net-pci.rx_queue_size=1024",
            "-global",
            "driver=virtio-net-pci,property=tx_queue_size,value=512",
            "-device",
            "virtio-net-pci,id=a,tx_queue_size=256",
            "-device",
            "virtio-net-pci,id=b",
            "-set",
            "device.b.packed=on",
        ]
    )
    first, second = line.all("device")
    assert first.get("rx_queue_size") == "1024"
    assert first.get("tx_queue_size") == "256"
    assert "packed" not in first.values
    assert second.get("tx_queue_size") == "512"
    assert second.get("packed") == "on"


def test_machine_is_put_together():
    line = parse(["q", "-machine", "pc,accel=kvm", "-M", "usb=on"])
    assert line.value("machine", "type") == "pc"
    assert line.value("machine", "accel") == "kvm"


@pytest.mark.parametrize(("text", "value"), [("on", True), ("no", False), ("auto", None)])
def test_boolean(text, value):
    assert boolean(text) is value


@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_command_line_can_be_parsed(words):
    for option in parse(["qemu-system-x86_64", *words]).options:
        assert all(isinstance(v, str) for v in option.values.values())
