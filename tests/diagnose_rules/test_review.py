"""The configuration review: what each rule raises, and the near misses that it does not."""

import json

import pytest

from tests.diagnose_rules.hosts import (
    FEATURES,
    cgroup,
    device,
    features,
    judge,
    link,
    lost,
    net,
    netdev,
    nic,
    no_link,
    pairs,
    qdisc,
    queue,
    routed,
    sane,
    section,
    sysctl,
    task,
    tasks,
    vm,
)
from vtrace.diagnose.codes import CODES
from vtrace.diagnose.findings import as_json

IN_VAIN = "vhost was asked for, and QEMU goes on without it"
ONE_CPU = [0]


def case(name, expected=None, *changes, found=(), kernel=None):
    return pytest.param(expected or {}, changes, found, kernel, id=name)


def spoiled(changes):
    host = sane()
    for change in changes:
        change(host)
    return host


RAISED = [
    # vhost
    case("vhost off", {"C-vhost": 1}, net(vhost=False)),
    case("vhost off, and it lost", {"C-vhost": 2}, net(vhost=False), found=[lost("R10")]),
    case(
        "vhost off, and it lost on the way out",
        {"C-vhost": 2},
        net(vhost=False),
        found=[lost("T12")],
    ),
    case("vhost asked in vain", {"C-vhost": 1}, net(vhost=False), device(notes=[IN_VAIN])),
    case(
        "emulated, and it lost",
        {"C-vhost": 2},
        vm(accel="tcg"),
        net(vhost=False),
        found=[lost("R10")],
    ),
    case("vhost on, the guest's socket overflows", {"C-vhost": 0}, found=[lost("R8")]),
    # vnet_hdr
    case("no vnet_hdr", {"C-vnet-hdr": 1}, link("tap0", tap={"vnet_hdr": False})),
    # sndbuf
    case("sndbuf", {"C-sndbuf": 1}, netdev(sndbuf="1M")),
    case("sndbuf in bytes", {"C-sndbuf": 1}, netdev(sndbuf="65536")),
    case("sndbuf that lost", {"C-sndbuf": 2}, netdev(sndbuf="2000"), found=[lost("T6")]),
    case("sndbuf that delays", {"C-sndbuf": 1}, netdev(sndbuf="2000"), found=[lost("T4", None)]),
    # txqueuelen
    case("short tap ring", {"C-txqueuelen": 2}, link("tap0", txqueuelen=499)),
    case("no tap ring", {"C-txqueuelen": 2}, link("tap0", txqueuelen=0)),
    case("bursts larger than the ring", {"C-txqueuelen": 2}, found=[lost("R5a")]),
    case("bursts, told by interface", {"C-txqueuelen": 2}, found=[lost("R5a", device="tap0")]),
    # rings of the guest
    case("no buffers", {"C-rx-queue-size": 2}, found=[lost("R5c")]),
    case("vCPUs away", {"C-rx-queue-size": 2}, found=[lost("R5d")]),
    case(
        "tx_queue_size clamped",
        {"C-tx-queue-size": 0},
        nic(tx_queue_size="1024"),
        queue("tx0", size_source="clamped"),
    ),
    case("tx_queue_size asked for", {"C-tx-queue-size": 0}, nic(tx_queue_size="512")),
    case(
        "tx_queue_size, and the ring stayed full",
        {"C-tx-queue-size": 1},
        nic(tx_queue_size="512"),
        found=[lost("T1", None)],
    ),
    # queues
    case("mq off", {"C-queues": 1}, netdev(pairs=4)),
    case("more queues than vCPUs", {"C-queues": 0}, pairs(4)),
    case(
        "the guest uses one of two",
        {"C-queues": 1},
        pairs(2),
        link("tap0", tap={"queues_enabled": 1}),
    ),
    case("few vectors", {"C-queues": 1}, pairs(2), nic(vectors="4")),
    case("no vectors", {"C-queues": 1}, nic(vectors="0")),
    case("one worker starved", {"C-queues": 1}, found=[lost("R5b")]),
    case("one worker starved of transmitting", {"C-queues": 1}, found=[lost("T3", None)]),
    # offloads
    case("guest_csum off", {"C-offload": 1}, nic(guest_csum="off")),
    case("TSO off", {"C-offload": 1}, nic(guest_tso4="off", guest_tso6="off")),
    case(
        "guest did not take checksums",
        {"C-offload": 1},
        link("tap0", offloads={"tx-checksum-ip-generic": False}),
    ),
    case(
        "GRO of UDP forwarded",
        {"C-offload": 1},
        link("eth0", offloads={"rx-udp-gro-forwarding": True}),
    ),
    case("LRO in a bridge", {"C-offload": 1}, link("eth0", offloads={"rx-lro": True})),
    case("LRO, routed", {"C-offload": 1}, routed, link("eth0", offloads={"rx-lro": True})),
    case(
        "NIC without checksums",
        {"C-offload": 1},
        link("eth0", offloads={"tx-checksum-ip-generic": False, "tx-checksum-ipv4": False}),
    ),
    case("not mergeable, packets whole", {"C-offload": 1}, features(FEATURES & ~(1 << 15))),
    case("mrg_rxbuf off, no driver yet", {"C-offload": 1}, features(0), nic(mrg_rxbuf="off")),
    # MTU
    case("bridge larger than tap", {"C-mtu": 2}, link("br0", mtu_bytes=9000)),
    case("uplink larger than tap", {"C-mtu": 0}, link("eth0", mtu_bytes=9000)),
    case(
        "uplink larger than tap, and the bridge dropped",
        {"C-mtu": 2},
        link("eth0", mtu_bytes=9000),
        found=[lost("R3", device="tap0")],
    ),
    case("host_mtu larger than uplink", {"C-mtu": 2}, nic(host_mtu="9000")),
    case(
        "large packets, small buffers",
        {"C-mtu": 2},
        routed,
        features(FEATURES & ~(1 << 15)),
        link(
            "tap0",
            mtu_bytes=9000,
            offloads={"tx-tcp-segmentation": False, "tx-tcp6-segmentation": False},
        ),
    ),
    # CPUs
    case("all on one CPU", {"C-affinity": 1}, tasks(cpus=ONE_CPU)),
    case(
        "all on one CPU, and the worker starved",
        {"C-affinity": 2, "C-queues": 1},
        tasks(cpus=ONE_CPU),
        found=[lost("R5b")],
    ),
    case("as many vCPUs as CPUs", {"C-affinity": 1}, tasks(cpus=[1, 2])),
    case(
        "each CPU has its vCPU",
        {"C-affinity": 1},
        task(101, cpus=[0]),
        task(102, cpus=[1]),
        task(103, cpus=[0, 1]),
    ),
    case(
        "a vCPU of real-time priority on the worker's CPU",
        {"C-affinity": 2},
        task(101, cpus=[0, 1], policy="fifo", rt_priority=5),
        task(103, cpus=[1]),
    ),
    case("worker idle", {"C-affinity": 1}, task(103, policy="idle")),
    case("worker nice", {"C-affinity": 1}, task(103, nice=5)),
    case(
        "worker nice, and it starved",
        {"C-affinity": 2, "C-queues": 1},
        task(103, nice=5),
        found=[lost("R5b")],
    ),
    case(
        "main loop idle, vhost off",
        {"C-affinity": 1, "C-vhost": 1},
        net(vhost=False),
        queue("rx0", tid=100),
        queue("tx0", tid=100),
        task(100, policy="idle"),
    ),
    # control groups
    case(
        "two CPUs for two vCPUs and a worker",
        {"C-cgroup": 1},
        cgroup("/machine/alpha", cpu_max_quota_us=200_000),
    ),
    case(
        "a limit above",
        {"C-cgroup": 1},
        cgroup("/machine", cpu_max_quota_us=100_000, cpu_max_period_us=100_000),
    ),
    case(
        "a limit that starved",
        {"C-cgroup": 2, "C-queues": 1},
        cgroup("/machine/alpha", cpu_max_quota_us=200_000),
        found=[lost("R5b")],
    ),
    case(
        "version 1",
        {"C-cgroup": 1},
        tasks(cgroup="cpu:/machine/alpha"),
        cgroup("cpu:/machine/alpha", cpu_max_quota_us=50_000, cpu_max_period_us=100_000),
    ),
    # qdiscs
    case("tbf on the tap", {"C-qdisc": 2}, qdisc("tap0", "tbf", rate_bytes_per_s=125000)),
    case("htb on the uplink", {"C-qdisc": 2}, qdisc("eth0", "htb", default_class=16)),
    case("tbf, routed", {"C-qdisc": 2}, routed, qdisc("eth0", "tbf", rate_bytes_per_s=125000)),
    case("netem that loses", {"C-qdisc": 2}, qdisc("tap0", "netem", loss_percent=10.0)),
    case("netem that delays", {"C-qdisc": 1}, qdisc("tap0", "netem", delay_us=1000)),
    case("short fifo on the uplink", {"C-qdisc": 2}, qdisc("eth0", "pfifo", limit_packets=10)),
    case(
        "short fifo of bytes on the uplink",
        {"C-qdisc": 2},
        qdisc("eth0", "bfifo", limit_bytes=3000),
    ),
    case("red on the uplink", {"C-qdisc": 2}, qdisc("eth0", "red")),
    case("cake with a rate", {"C-qdisc": 2}, qdisc("eth0", "cake", rate_bytes_per_s=12500)),
    # bridge
    case("tap's port disabled", {"C-bridge": 2}, link("tap0", bridge_port={"state": "disabled"})),
    case("tap's port blocking", {"C-bridge": 2}, link("tap0", bridge_port={"state": "blocking"})),
    case(
        "spanning tree learns",
        {"C-bridge": 2},
        link("tap0", bridge_port={"state": "learning"}),
        link("br0", bridge={"stp": True}),
    ),
    case(
        "uplink's port blocking", {"C-bridge": 2}, link("eth0", bridge_port={"state": "blocking"})
    ),
    case(
        "tap is down",
        {"C-bridge": 2},
        link("tap0", up=False, operstate="down", bridge_port={"state": "disabled"}),
    ),
    case(
        "bridge is down",
        {"C-bridge": 2},
        link("br0", up=False, operstate="down"),
        link("tap0", bridge_port={"state": "disabled"}),
        link("eth0", bridge_port={"state": "disabled"}),
    ),
    case(
        "all isolated",
        {"C-bridge": 2},
        link("br0", addresses=[]),
        link("tap0", bridge_port={"isolated": True}),
        link("eth0", bridge_port={"isolated": True}),
    ),
    case(
        "Docker's firewall",
        {"C-bridge": 0},
        link("br0", bridge={"nf_call_iptables": True}),
        section("firewall", {"drop_policies": ["ip filter FORWARD"]}),
    ),
    case(
        "Docker's firewall dropped",
        {"C-bridge": 2},
        sysctl(**{"net.bridge.bridge-nf-call-iptables": 1}),
        section("firewall", {"drop_policies": ["ip filter FORWARD"]}),
        found=[lost("T9")],
    ),
    # sockets
    case("small sockets", {"C-socket": 1}, sysctl(net__core__rmem_default=131072)),
    case("tiny sockets", {"C-socket": 2}, sysctl(net__core__rmem_default=4096)),
    case("sockets that overflowed", {"C-socket": 2}, found=[lost("T11", device="", vm="")]),
    # kernels
    case("livelock, TSO alone", {"C-kernel": 0}, kernel="6.1.0-56-amd64"),
    case(
        "livelock, jumbo",
        {"C-kernel": 1},
        routed,
        link("tap0", mtu_bytes=9000),
        kernel="6.1.0-56-amd64",
    ),
    case("livelock, seen", {"C-kernel": 2}, found=[lost("R11", None)]),
    case("livelock, last of 6.12", {"C-kernel": 0}, kernel="6.12.96"),
    case("livelock, last of 6.18", {"C-kernel": 0}, kernel="6.18.39"),
    case("livelock, 7.0", {"C-kernel": 0}, kernel="7.0.0-3-generic"),
    case("in order, no rewind", {"C-kernel": 2}, features(FEATURES | 1 << 35)),
    case(
        "zero copy",
        {"C-kernel": 1},
        section("modules", {"vhost_net": {"experimental_zcopytx": "1"}}),
    ),
]

NOT_RAISED = [
    case("sane"),
    case("vhost not known", {}, net(vhost=None)),
    case("vhost off, emulated", {}, vm(accel="tcg"), net(vhost=False)),
    case(
        "vhost off, another device lost",
        {},
        vm(accel="tcg"),
        net(vhost=False),
        found=[lost("R10", device="nic1")],
    ),
    case("vhost off, no virtio", {}, device(driver="e1000"), net(vhost=False)),
    case("vhost off, no tap", {}, net(vhost=False, type="user", interface="")),
    case("the guest's socket overflows, vhost not known", {}, net(vhost=None), found=[lost("R8")]),
    case(
        "no vnet_hdr, no virtio", {}, device(driver="e1000"), link("tap0", tap={"vnet_hdr": False})
    ),
    case("vnet_hdr not known", {}, link("tap0", tap={"vnet_hdr": None})),
    case("sndbuf 0", {}, netdev(sndbuf="0")),
    case("sndbuf INT_MAX", {}, netdev(sndbuf="2147483647")),
    case("sndbuf that is none", {}, netdev(sndbuf="lots")),
    case("tap ring of a TUN's length", {}, link("tap0", txqueuelen=500)),
    case("long ring, bursts", {}, link("tap0", txqueuelen=10_000), found=[lost("R5a")]),
    case("bursts at another VM's tap", {}, found=[lost("R5a", vm="beta")]),
    case("a short ring that is no guest's", {}, link("eth0", txqueuelen=2)),
    case("no buffers, longest ring", {}, queue("rx0", size=1024), found=[lost("R5c")]),
    case("no buffers, ring not known", {}, queue("rx0", size=0), found=[lost("R5c")]),
    case("short ring, nothing lost", {}, queue("rx0", size=256)),
    case("tx_queue_size 256", {}, nic(tx_queue_size="256")),
    case("tx_queue_size with vhost-user", {}, nic(tx_queue_size="1024"), net(type="vhost-user")),
    case("as many queues as vCPUs", {}, pairs(2), nic(mq="on", vectors="6")),
    case("vectors suffice", {}, pairs(2), nic(vectors="5")),
    case("guest uses all it can", {}, pairs(2), link("tap0", tap={"queues_enabled": 2})),
    case("no driver yet", {}, pairs(2), features(0), link("tap0", tap={"queues_enabled": 1})),
    case("one vCPU, worker starved", {}, vm(vcpus=1), found=[lost("R5b")]),
    case("two workers, one starved", {}, pairs(2), found=[lost("R5b")]),
    case("UFO off", {}, nic(guest_ufo="off", host_ufo="off")),
    case("offloads on", {}, nic(csum="on", guest_csum="on", gso="on")),
    case("offloads off, no virtio", {}, device(driver="e1000"), nic(csum="off")),
    case(
        "no driver, no checksums",
        {},
        features(0),
        link("tap0", offloads={"tx-checksum-ip-generic": False}),
    ),
    case(
        "GRO of UDP, guest takes it",
        {},
        link("eth0", offloads={"rx-udp-gro-forwarding": True}),
        link("tap0", offloads={"tx-udp-segmentation": True}),
    ),
    case(
        "GRO of UDP, not on the way",
        {},
        link("eth1", kind="", offloads={"rx-udp-gro-forwarding": True}),
    ),
    case(
        "LRO, not passed on",
        {},
        routed,
        sysctl(net__ipv4__ip_forward=0),
        link("eth0", offloads={"rx-lro": True}),
    ),
    case(
        "veth without checksums",
        {},
        link(
            "eth0",
            kind="veth",
            offloads={"tx-checksum-ip-generic": False, "tx-checksum-ipv4": False},
        ),
    ),
    case("bridge larger, no address", {}, link("br0", mtu_bytes=9000, addresses=[])),
    case(
        "all jumbo",
        {},
        link("br0", mtu_bytes=9000),
        link("eth0", mtu_bytes=9000),
        link("tap0", mtu_bytes=9000),
        nic(host_mtu="9000"),
    ),
    case("host_mtu smaller", {}, nic(host_mtu="1400")),
    case(
        "not mergeable, MTU 1500",
        {},
        features(FEATURES & ~(1 << 15)),
        link("tap0", offloads={"tx-tcp-segmentation": False, "tx-tcp6-segmentation": False}),
    ),
    case("mergeable by the driver", {}, nic(mrg_rxbuf="on")),
    case("one more CPU than vCPUs", {}, tasks(cpus=[0, 1, 2])),
    case(
        "worker on a CPU of its own",
        {},
        task(101, cpus=[0]),
        task(102, cpus=[1]),
        task(103, cpus=[2]),
    ),
    case("worker pinned, vCPUs not", {}, task(103, cpus=[2])),
    case("one CPU in the host", {}, section("cpus", {"online": [0]}), tasks(cpus=ONE_CPU)),
    case("CPUs not known", {}, tasks(cpus=None)),
    case("QEMU's main loop idle, vhost on", {}, task(100, policy="idle", nice=19)),
    case(
        "real-time vCPU elsewhere",
        {},
        task(101, cpus=[0], policy="fifo", rt_priority=5),
        task(103, cpus=[1]),
    ),
    case("real-time worker", {}, tasks(policy="fifo", rt_priority=1)),
    case(
        "one real-time vCPU on the worker's two CPUs",
        {},
        task(101, cpus=[0, 1], policy="rr"),
        task(103, cpus=[0, 1]),
    ),
    case("a limit that suffices", {}, cgroup("/machine/alpha", cpu_max_quota_us=300_000)),
    case(
        "a limit elsewhere",
        {},
        cgroup("/machine/beta", cpu_max_quota_us=1000, cpu_max_period_us=100_000),
    ),
    case(
        "a name that begins alike",
        {},
        cgroup("/machine/al", cpu_max_quota_us=1000, cpu_max_period_us=100_000),
    ),
    case("a limit of no time", {}, cgroup("/machine/alpha", cpu_max_quota_us=0)),
    case("cake without a rate", {}, qdisc("eth0", "cake")),
    case("fq on the uplink", {}, qdisc("eth0", "fq", limit_packets=10)),
    case("short fifo on the tap", {}, qdisc("tap0", "pfifo", limit_packets=10)),
    case("fifo on the uplink", {}, qdisc("eth0", "pfifo", limit_packets=1000)),
    case("tbf elsewhere", {}, link("eth9", kind="", mtu_bytes=1500), qdisc("eth9", "tbf")),
    case("tbf, not passed on", {}, routed, sysctl(net__ipv4__ip_forward=0), qdisc("eth0", "tbf")),
    case("fifo of bytes on the uplink", {}, qdisc("eth0", "bfifo", limit_bytes=200_000)),
    case("ets on the uplink", {}, qdisc("eth0", "ets")),
    case("clsact", {}, qdisc("tap0", "clsact")),
    case(
        "port disabled without carrier",
        {},
        link("tap0", operstate="down", bridge_port={"state": "disabled"}),
    ),
    case(
        "a port of another bridge",
        {},
        link(
            "eth9",
            kind="",
            up=True,
            operstate="up",
            master="br9",
            bridge_port={"state": "blocking"},
        ),
    ),
    case("isolated from other guests alone", {}, link("tap0", bridge_port={"isolated": True})),
    case(
        "firewall, not of the bridge",
        {},
        section("firewall", {"drop_policies": ["ip filter FORWARD"]}),
    ),
    case(
        "firewall of what comes in",
        {},
        link("br0", bridge={"nf_call_iptables": True}),
        section("firewall", {"drop_policies": ["ip filter INPUT"]}),
    ),
    case("large sockets", {}, sysctl(net__core__rmem_default=4_000_000)),
    case("no guest, small sockets", {}, vm(devices=[]), sysctl(net__core__rmem_default=4096)),
    case("kernel fixed", {}, kernel="6.12.97"),
    case("kernel fixed, 6.18", {}, kernel="6.18.40"),
    case("kernel fixed, 7.1", {}, kernel="7.1.5"),
    case("kernel before the bug", {}, kernel="5.15.0-91-generic"),
    case("kernel of RHEL", {}, kernel="5.14.0-427.el9.x86_64"),
    case("kernel of RHEL 10", {}, kernel="6.12.0-55.9.1.el10_0.x86_64"),
    case("kernel not known", {}, kernel=""),
    case(
        "livelock, not mergeable and no TSO",
        {},
        nic(mrg_rxbuf="off"),
        features(FEATURES & ~(1 << 15)),
        link("tap0", offloads={"tx-tcp-segmentation": False, "tx-tcp6-segmentation": False}),
        kernel="6.1.0",
    ),
    case(
        "livelock, nothing large",
        {},
        link("tap0", offloads={"tx-tcp-segmentation": False, "tx-tcp6-segmentation": False}),
        kernel="6.1.0",
    ),
    case("livelock, vhost off", {}, vm(accel="tcg"), net(vhost=False), kernel="6.1.0"),
    case(
        "in order, rewinds",
        {},
        features(FEATURES | 1 << 35),
        section("kernel", {"vhost_get_vq_desc_n": True}),
    ),
    case("in order, not known", {}, features(FEATURES | 1 << 35), section("kernel", {})),
    case(
        "in order, vhost off", {}, vm(accel="tcg"), net(vhost=False), features(FEATURES | 1 << 35)
    ),
    case(
        "zero copy, nobody uses it",
        {},
        vm(accel="tcg"),
        net(vhost=False),
        section("modules", {"vhost_net": {"experimental_zcopytx": "1"}}),
    ),
    case("tap is gone", {}, no_link("tap0")),
]


@pytest.mark.parametrize(("expected", "changes", "found", "kernel"), RAISED + NOT_RAISED)
def test_codes(expected, changes, found, kernel):
    arguments = {} if kernel is None else {"kernel": kernel}
    points = judge(spoiled(changes), list(found), **arguments)
    assert {point.code: point.weight for point in points} == expected
    for point in points:
        assert point.code in CODES
        assert point.text.endswith((".", ":")), point.text
        assert point.setting
        assert point.current
        assert point.proposed
        assert point.current != point.proposed
    assert json.loads(json.dumps(as_json(points))) == as_json(points)


def test_every_code_has_its_tables():
    raised = {code for one in RAISED for code in one.values[0]}
    assert raised == {code for code in CODES if code.startswith("C-")}


SAID = [
    (
        "C-vhost",
        [net(vhost=False)],
        [],
        ("vhost of n0", "off", "on", "-netdev tap,id=n0,vhost=on"),
    ),
    (
        "C-vhost",
        [net(vhost=False), device(notes=[IN_VAIN])],
        [],
        (None, "off", "on", "modprobe vhost_net"),
    ),
    (
        "C-sndbuf",
        [netdev(sndbuf="1M")],
        [],
        ("sndbuf of n0", "1M", None, "-netdev tap,id=n0,sndbuf=0"),
    ),
    (
        "C-txqueuelen",
        [link("tap0", txqueuelen=16)],
        [],
        ("txqueuelen of tap0", "16", "1000", "ip link set dev tap0 txqueuelen 1000"),
    ),
    # Room for the 1000 that it held and the 800 that it did not.
    ("C-txqueuelen", [], [lost("R5a", 900, bursts=(800, 100))], (None, "1000", "2000", None)),
    ("C-txqueuelen", [], [lost("R5a", 5100, bursts=(5100,))], (None, "1000", "8000", None)),
    ("C-txqueuelen", [], [lost("R5a", 10**7, bursts=(10**7,))], (None, "1000", "10000", None)),
    (
        "C-rx-queue-size",
        [],
        [lost("R5c")],
        (None, "256", "1024", "-device virtio-net-pci,id=nic0,rx_queue_size=1024"),
    ),
    (
        "C-tx-queue-size",
        [nic(tx_queue_size="1024")],
        [],
        (None, "256 (1024 asked for)", "256", None),
    ),
    (
        "C-queues",
        [],
        [lost("R5b")],
        (
            None,
            "1",
            "2",
            "-netdev tap,id=n0,queues=2 -device virtio-net-pci,id=nic0,mq=on,vectors=6",
        ),
    ),
    (
        "C-mtu",
        [link("br0", mtu_bytes=9000)],
        [],
        (None, "9000 and 1500", "1500 for both", "ip link set dev br0 mtu 1500"),
    ),
    (
        "C-affinity",
        [task(101, cpus=[0]), task(103, cpus=[0])],
        [],
        ("CPUs of the worker, thread 103", "0", "1-3", "taskset -cp 1-3 103"),
    ),
    (
        "C-affinity",
        [
            task(101, cpus=[0]),
            task(103, cpus=[0], cgroup="/machine.slice/machine-qemu.scope/libvirt"),
        ],
        [],
        (None, "0", "1-3", "virsh emulatorpin alpha 1-3"),
    ),
    (
        "C-affinity",
        [task(101, cpus=[0, 1, 3], policy="rr", rt_priority=7), task(103, cpus=[3])],
        [],
        (None, "other", "fifo 7", "chrt -f -p 7 103"),
    ),
    ("C-affinity", [task(103, policy="idle")], [], (None, "idle", "other", "chrt -o -p 0 103")),
    ("C-affinity", [task(103, nice=3)], [], (None, "nice 3", "nice 0", "renice -n 0 -p 103")),
    (
        "C-cgroup",
        [cgroup("/machine/alpha", cpu_max_quota_us=150_000)],
        [],
        (
            "cpu.max of /machine/alpha",
            "150000 100000",
            "max, or 300000 100000",
            "echo 'max 100000' > /sys/fs/cgroup/machine/alpha/cpu.max",
        ),
    ),
    (
        "C-cgroup",
        [
            tasks(cgroup="cpu:/q"),
            cgroup("cpu:/q", cpu_max_quota_us=50_000, cpu_max_period_us=100_000),
        ],
        [],
        (None, None, None, "echo -1 > /sys/fs/cgroup/cpu/q/cpu.cfs_quota_us"),
    ),
    (
        "C-qdisc",
        [qdisc("tap0", "tbf", rate_bytes_per_s=125000, limit_bytes=10240)],
        [],
        (
            "qdisc 8: of tap0",
            "tbf (rate_bytes_per_s 125000, limit_bytes 10240)",
            None,
            "tc qdisc del dev tap0 root",
        ),
    ),
    (
        "C-bridge",
        [link("tap0", bridge_port={"state": "disabled"})],
        [],
        ("state of tap0 in br0", "disabled", "forwarding", "bridge link set dev tap0 state 3"),
    ),
    (
        "C-bridge",
        [link("tap0", up=False, bridge_port={"state": "disabled"})],
        [],
        (None, "down", "up", "ip link set dev tap0 up"),
    ),
    (
        "C-socket",
        [sysctl(net__core__rmem_default=4096)],
        [],
        (
            None,
            "4096",
            "212992",
            "sysctl -w net.core.rmem_max=212992 net.core.rmem_default=212992",
        ),
    ),
    (
        "C-socket",
        [],
        [lost("T11", 9, vm="", device="")],
        (
            None,
            "212992",
            "851968",
            "sysctl -w net.core.rmem_max=851968 net.core.rmem_default=851968",
        ),
    ),
]


@pytest.mark.parametrize(("code", "changes", "found", "said"), SAID)
def test_what_is_said(code, changes, found, said):
    (point,) = [one for one in judge(spoiled(changes), found) if one.code == code]
    given = (point.setting, point.current, point.proposed, point.command)
    assert given == tuple(said[n] if said[n] is not None else given[n] for n in range(4))


def test_the_text_has_the_values_of_this_host():
    (point,) = judge(spoiled([link("tap0", txqueuelen=16)]))
    assert "tap0 holds 16 packets" in point.text
    assert "0.16 ms" in point.text
    (point,) = judge(sane(), [lost("R5c", 321)])
    assert "321 died" in point.text
    (point,) = judge(spoiled([tasks(cpus=ONE_CPU)]))
    assert "vCPU 0, vCPU 1" in point.text


def test_the_weightiest_is_first():
    points = judge(
        spoiled([net(vhost=False), link("tap0", txqueuelen=2), nic(tx_queue_size="512")]),
    )
    assert [point.weight for point in points] == [2, 1, 0]


def test_one_point_for_what_concerns_two_guests():
    host = spoiled([link("eth0", offloads={"rx-lro": True}), qdisc("eth0", "tbf")])
    second = json.loads(json.dumps(host["vms"][0]))
    second["name"], second["pid"] = "beta", 200
    host["vms"].append(second)
    points = judge(host)
    assert sorted(point.code for point in points) == ["C-offload", "C-qdisc"]


def test_a_guest_in_another_network_namespace():
    mark = "@4026532000"
    host = sane()
    links = host["config"]["links"]
    for name in ("tap0", "br0", "eth0"):
        links[name + mark] = links.pop(name)
    for name in ("tap0", "eth0"):
        links[name + mark]["master"] += mark
    net(netns=4026532000)(host)
    assert judge(host) == []
    links["tap0" + mark]["txqueuelen"] = 3
    links["eth0" + mark]["bridge_port"]["state"] = "disabled"
    points = judge(host)
    assert [point.command for point in points] == [
        "nsenter -t 100 -n bridge link set dev eth0 state 3",
        "nsenter -t 100 -n ip link set dev tap0 txqueuelen 1000",
    ]


def test_names_cannot_break_out_of_a_command():
    name = "a;reboot"
    host = spoiled([net(interface=name), no_link("tap0"), link(name, kind="tun", txqueuelen=1)])
    (point,) = judge(host)
    assert point.command == "ip link set dev 'a;reboot' txqueuelen 1000"


def test_without_the_section():
    """Recordings of before have no section: what the inventory saw is what there is."""
    host = spoiled([section("links", {}), net(txqueuelen=100, mtu_bytes=1500, vnet_hdr=False)])
    host["config"] = {}
    assert {point.code for point in judge(host)} == {"C-txqueuelen", "C-vnet-hdr"}
