"""A host that is set up well, as a recording describes it, and ways to spoil it."""

import copy

from vtrace.diagnose.findings import Burst, Certainty, Finding
from vtrace.diagnose.review import review

# Features that a Linux guest acknowledges to vhost: MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, VERSION_1.
FEATURES = 1 << 15 | 1 << 28 | 1 << 29 | 1 << 32
KERNEL = "6.12.107+deb13-amd64"

TAP_OFFLOADS = {
    "tx-checksum-ip-generic": True,
    "tx-checksum-ipv4": False,
    "tx-checksum-ipv6": False,
    "tx-tcp-segmentation": True,
    "tx-tcp6-segmentation": True,
    "tx-udp-segmentation": False,
    "rx-gro": True,
    "rx-lro": False,
    "rx-udp-gro-forwarding": False,
}
NIC_OFFLOADS = TAP_OFFLOADS | {"tx-checksum-ipv4": True, "tx-udp-segmentation": True}


def thread(tid, role, **more):
    return {"tid": tid, "comm": "", "role": role, "vcpu": None, **more}


SANE = {
    "config": {
        "links": {
            "lo": {"ifindex": 1, "kind": "", "mtu_bytes": 65536, "addresses": ["127.0.0.1/8"]},
            "eth0": {
                "ifindex": 2,
                "kind": "",
                "up": True,
                "operstate": "up",
                "mtu_bytes": 1500,
                "txqueuelen": 1000,
                "master": "br0",
                "addresses": [],
                "offloads": NIC_OFFLOADS,
                "bridge_port": {"state": "forwarding", "isolated": False},
            },
            "br0": {
                "ifindex": 3,
                "kind": "bridge",
                "up": True,
                "operstate": "up",
                "mtu_bytes": 1500,
                "txqueuelen": 1000,
                "addresses": ["192.0.2.1/24"],
                "offloads": NIC_OFFLOADS,
                "bridge": {"stp": False, "vlan_filtering": False, "nf_call_iptables": False},
            },
            "tap0": {
                "ifindex": 4,
                "kind": "tun",
                "up": True,
                "operstate": "unknown",
                "mtu_bytes": 1500,
                "txqueuelen": 1000,
                "master": "br0",
                "addresses": [],
                "offloads": TAP_OFFLOADS,
                "bridge_port": {"state": "forwarding", "isolated": False},
                "tap": {"tap": True, "vnet_hdr": True, "multi_queue": False},
                "xdp": False,
            },
        },
        "qdiscs": [
            {"link": "eth0", "handle": "0:", "parent": "root", "kind": "mq", "options": {}},
            {
                "link": "eth0",
                "handle": "0:",
                "parent": "0:1",
                "kind": "fq_codel",
                "options": {"limit_packets": 10240, "target_us": 4999},
            },
            {"link": "br0", "handle": "0:", "parent": "root", "kind": "noqueue", "options": {}},
            {"link": "tap0", "handle": "0:", "parent": "root", "kind": "fq_codel", "options": {}},
        ],
        "neighbours": [],
        "routes": [{"destination": "default", "family": "inet", "link": "br0"}],
        "sysctls": {
            "net.core.rmem_default": 212992,
            "net.core.rmem_max": 212992,
            "net.ipv4.ip_forward": 0,
        },
        "firewall": {"tables": [], "drop_rules": 0, "drop_policies": []},
        "threads": {
            str(tid): {
                "cpus": [0, 1, 2, 3],
                "policy": "other",
                "nice": 0,
                "rt_priority": 0,
                "cgroup": "/machine/alpha",
            }
            for tid in (100, 101, 102, 103)
        },
        "cgroups": {"/machine": {}, "/machine/alpha": {"cpu_max_period_us": 100000}},
        "modules": {"vhost_net": {"experimental_zcopytx": "0"}},
        "kernel": {"vhost_get_vq_desc_n": False},
        "netdevs": {"alpha": {"n0": {"type": "tap", "vhost": "on", "pairs": 1}}},
        "nics": {"alpha": {"nic0": {"driver": "virtio-net-pci", "netdev": "n0"}}},
        "cpus": {"online": [0, 1, 2, 3]},
        "missing": [],
    },
    "vms": [
        {
            "name": "alpha",
            "pid": 100,
            "accel": "kvm",
            "vcpus": 2,
            "threads": [
                thread(100, "qemu"),
                thread(101, "vcpu", vcpu=0),
                thread(102, "vcpu", vcpu=1),
                thread(103, "vhost"),
            ],
            "devices": [
                {"id": "disk0", "kind": "blk", "driver": "virtio-blk-pci", "net": None},
                {
                    "id": "nic0",
                    "kind": "net",
                    "driver": "virtio-net-pci",
                    "queues": [
                        {
                            "name": name,
                            "direction": name[:2],
                            "size": 256,
                            "size_source": "default",
                            "tid": 103,
                        }
                        for name in ("rx0", "tx0")
                    ],
                    "net": {
                        "id": "n0",
                        "type": "tap",
                        "interface": "tap0",
                        "netns": None,
                        "vhost": True,
                    },
                    "notes": [],
                },
            ],
        }
    ],
    "queues": {
        "1": {"vm": "alpha", "device": "nic0", "name": "rx0", "features": FEATURES},
        "2": {"vm": "alpha", "device": "nic0", "name": "tx0", "features": FEATURES},
    },
}


def sane():
    """Return a copy that may be spoiled."""
    return copy.deepcopy(SANE)


def judge(host, findings=(), kernel=KERNEL):
    return review(host["config"], host["vms"], host["queues"], findings, kernel)


def lost(code, packets=249, *, device="nic0", vm="alpha", bursts=()):
    return Finding(
        code=code,
        cause="",
        packets=packets,
        certainty=Certainty.PROVEN,
        vm=vm,
        device=device,
        bursts=[Burst(start_ns=0, end_ns=1, packets=count) for count in bursts],
    )


# Each returns a change: a function that spoils a host.


def link(name, **values):
    def change(host):
        given = host["config"]["links"].setdefault(name, {"ifindex": 99, "addresses": []})
        for key, value in values.items():
            if isinstance(value, dict):
                given[key] = given.get(key, {}) | value
            else:
                given[key] = value

    return change


def no_link(name):
    return lambda host: host["config"]["links"].pop(name)


def device(**values):
    return lambda host: host["vms"][0]["devices"][1].update(values)


def net(**values):
    return lambda host: host["vms"][0]["devices"][1]["net"].update(values)


def queue(name, **values):
    def change(host):
        for one in host["vms"][0]["devices"][1]["queues"]:
            if one["name"] == name:
                one.update(values)

    return change


def pairs(count):
    """Give the device so many queue pairs, and the tap as many queues."""

    def change(host):
        names = [name for n in range(count) for name in (f"rx{n}", f"tx{n}")]
        host["vms"][0]["devices"][1]["queues"] = [
            {"name": name, "direction": name[:2], "size": 256, "size_source": "default", "tid": 103}
            for name in names
        ]
        host["config"]["netdevs"]["alpha"]["n0"]["pairs"] = count

    return change


def vm(**values):
    return lambda host: host["vms"][0].update(values)


def nic(**values):
    values = {key.replace("__", "-"): value for key, value in values.items()}
    return lambda host: host["config"]["nics"]["alpha"]["nic0"].update(values)


def netdev(**values):
    return lambda host: host["config"]["netdevs"]["alpha"]["n0"].update(values)


def features(value):
    def change(host):
        for row in host["queues"].values():
            row["features"] = value

    return change


def task(tid, **values):
    return lambda host: host["config"]["threads"][str(tid)].update(values)


def tasks(**values):
    def change(host):
        for one in host["config"]["threads"].values():
            one.update(values)

    return change


def qdisc(name, kind, **options):
    def change(host):
        host["config"]["qdiscs"] = [q for q in host["config"]["qdiscs"] if q["link"] != name]
        host["config"]["qdiscs"].append(
            {"link": name, "handle": "8:", "parent": "root", "kind": kind, "options": options}
        )

    return change


def sysctl(**values):
    values = {key.replace("__", "."): value for key, value in values.items()}
    return lambda host: host["config"]["sysctls"].update(values)


def section(name, value):
    def change(host):
        host["config"][name] = value

    return change


def cgroup(path, **values):
    return lambda host: host["config"]["cgroups"].setdefault(path, {}).update(values)


def routed(host):
    """Make the tap stand alone, with packets routed to eth0."""
    host["config"]["links"].pop("br0")
    for name in ("tap0", "eth0"):
        host["config"]["links"][name].update(master="", bridge_port={}, addresses=["10.0.0.1/24"])
    host["config"]["sysctls"]["net.ipv4.ip_forward"] = 1
    host["config"]["routes"] = [{"destination": "default", "family": "inet", "link": "eth0"}]
