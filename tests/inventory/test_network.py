"""The section ``config``: compared with ip, tc and bridge, in a network namespace of the test's."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.inventory.realqemu import Guest, Netns, need_qemu
from vtrace.inventory import Device, NetBackend, Thread, Vm, discover, network, resolve
from vtrace.inventory import network_nft as nft
from vtrace.inventory import network_rtnl as rtnl

in_kernel = nft.in_kernel
QDISC = ("tbf", "rate", "8mbit", "burst", "20kb", "limit", "30000")


class Place(Netns):
    """A namespace with a tap in a bridge, a veth pair beside them, routes and neighbours."""

    vlan = filtering = False

    def furnish(self) -> None:
        for line in (
            "ip link set lo up",
            "ip tuntap add dev one mode tap vnet_hdr",
            "ip tuntap add dev bare mode tap",
            "ip link set one txqueuelen 321 mtu 1400",
            "ip link add vtbr type bridge stp_state 1",
            "ip link set one master vtbr up",
            "ip link add out0 type veth peer name far0",
            "ip link set out0 master vtbr up",
            "ip link set far0 up",
            "bridge link set dev out0 isolated on",
            "ip link set vtbr up",
            "ip addr add 192.0.2.1/24 dev vtbr",
            "ip -6 addr add 2001:db8::1/64 dev vtbr nodad",
            "ip addr add 198.51.100.1/24 dev far0",
            "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev vtbr",
            "ip neigh add 2001:db8::7 lladdr 02:00:00:00:00:08 dev vtbr",
            "ip route add default via 198.51.100.9",
            "ip route add 203.0.113.0/24 nexthop via 192.0.2.9 nexthop via 198.51.100.9",
            "ip route add blackhole 203.0.114.0/24",
            "ip -6 route add default via 2001:db8::9",
            f"tc qdisc replace dev one root handle 8: {' '.join(QDISC)}",
            "tc qdisc replace dev far0 root handle 9: pfifo limit 17",
            "tc qdisc replace dev out0 root handle a: bfifo limit 4321",
        ):
            self.run(*line.split())
        added = "ip link add link far0 name far0.7 type vlan id 7"
        self.vlan = self.tries(added)
        self.filtering = self.tries("ip link set vtbr type bridge vlan_filtering 1")

    def tries(self, line: str) -> bool:
        """Return whether this kernel can do what not every kernel can."""
        done = subprocess.run(self.command(*line.split()), capture_output=True, check=False)
        return not done.returncode

    def json(self, *argv: str):
        done = subprocess.run(self.command(*argv), capture_output=True, text=True, check=True)
        return json.loads(done.stdout or "[]")

    def vm(self, *interfaces: str) -> Vm:
        """Return a VM with these taps; the process that holds the namespace stands for QEMU."""
        return Vm(
            name="alpha",
            pid=self.holder.pid,
            devices=tuple(
                Device(
                    id=f"nic{number}",
                    kind="net",
                    driver="virtio-net-pci",
                    net=NetBackend(type="tap", interface=interface, netns=self.inode),
                )
                for number, interface in enumerate(interfaces)
            ),
        )


@pytest.fixture(scope="module")
def place():
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for tool in ("unshare", "nsenter", "ip", "tc", "bridge"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = Place()
    try:
        made.furnish()
        yield made
    finally:
        made.close()


@pytest.fixture
def config(place):
    return network.snapshot([place.vm("one", "bare")])


def own(config, place, section):
    """Return the rows of a section that are of the namespace, without its mark."""
    mark = f"@{place.inode}"
    rows = config[section]
    if isinstance(rows, dict):
        return {key.removesuffix(mark): row for key, row in rows.items() if key.endswith(mark)}
    return [row | {"link": row["link"].removesuffix(mark)} for row in rows if mark in row["link"]]


def test_is_json(config):
    assert json.loads(json.dumps(config)) == config


def test_same_while_nothing_changes(place, config):
    assert network.snapshot([place.vm("one", "bare")]) == config


def test_links_as_ip_shows_them(place, config):
    links = own(config, place, "links")
    shown = {row["ifname"]: row for row in place.json("ip", "-j", "-d", "addr")}
    assert set(links) == set(shown)
    for name, row in shown.items():
        link = links[name]
        assert link["ifindex"] == row["ifindex"]
        assert link["mtu_bytes"] == row["mtu"]
        assert link["txqueuelen"] == row["txqlen"]
        assert link["operstate"] == row["operstate"].lower()
        assert link["up"] == ("UP" in row["flags"])
        assert link["mac"] == row["address"]
        assert link["qdisc"] == row["qdisc"]
        assert link["kind"] == row.get("linkinfo", {}).get("info_kind", "")
        assert link.get("master", "").partition("@")[0] == row.get("master", "")
        addresses = [f"{one['local']}/{one['prefixlen']}" for one in row["addr_info"]]
        assert sorted(link["addresses"]) == sorted(addresses)
    assert links["one"]["txqueuelen"] == 321
    assert links["one"]["mtu_bytes"] == 1400
    assert links["out0"]["lower"] == f"far0@{place.inode}"


def test_taps(place, config):
    links = own(config, place, "links")
    assert links["one"]["tap"] == {"tap": True, "vnet_hdr": True, "multi_queue": False}
    assert links["bare"]["tap"]["vnet_hdr"] is False
    assert "tap" not in links["vtbr"]
    assert links["one"]["offloads"]["tx-scatter-gather"] in {True, False}
    assert links["one"]["xdp"] is False


def test_bridge_as_bridge_shows_it(place, config):
    links = own(config, place, "links")
    assert links["vtbr"]["bridge"]["stp"] is True
    assert links["vtbr"]["bridge"]["vlan_filtering"] is place.filtering
    shown = {row["ifname"]: row for row in place.json("bridge", "-j", "-d", "link")}
    assert set(shown) == {"one", "out0"}
    for name, row in shown.items():
        port = links[name]["bridge_port"]
        assert port["state"] == row["state"]
        assert port["isolated"] == row["isolated"]
        assert port["learning"] == row["learning"]
        assert port["flood"] == row["flood"]
    assert links["out0"]["bridge_port"]["isolated"] is True
    assert "bridge_port" not in links["far0"]


def test_vlan(place, config):
    if not place.vlan:
        pytest.skip("this kernel has no VLANs")
    link = own(config, place, "links")["far0.7"]
    assert link["kind"] == "vlan"
    assert link["vlan"] == 7
    assert link["lower"] == f"far0@{place.inode}"


def test_qdiscs_as_tc_shows_them(place, config):
    qdiscs = {row["link"]: row for row in own(config, place, "qdiscs")}
    shown = {row["dev"]: row for row in place.json("tc", "-j", "qdisc", "show")}
    for name, row in shown.items():
        assert qdiscs[name]["kind"] == row["kind"]
        assert qdiscs[name]["handle"] == row["handle"]
        assert (qdiscs[name]["parent"] == "root") == row.get("root", False)
    assert qdiscs["one"]["options"] == {
        "rate_bytes_per_s": shown["one"]["options"]["rate"],
        "limit_bytes": 30000,
        "burst_bytes": shown["one"]["options"]["burst"],
    }
    assert qdiscs["one"]["options"]["rate_bytes_per_s"] == 1_000_000
    assert qdiscs["far0"] == {
        "link": "far0",
        "handle": "9:",
        "parent": "root",
        "kind": "pfifo",
        "options": {"limit_packets": 17},
    }


def test_a_qdisc_that_pyroute2_does_not_know(place, config):
    (qdisc,) = (row for row in own(config, place, "qdiscs") if row["link"] == "out0")
    assert (qdisc["kind"], qdisc["options"]) == ("bfifo", {"limit_bytes": 4321})


def test_routes_that_are_no_way_out_are_left_out(place):
    place.run(*["ip", "link", "add", "side0", "type", "veth", "peer", "name", "side1"])
    try:
        for line in ("ip addr add 10.99.0.1/24 dev side0", "ip link set side0 up"):
            place.run(*line.split())
        shown = {}
        for forwards in ("0", "1"):
            place.run("sh", "-c", f"echo {forwards} > /proc/sys/net/ipv4/ip_forward")
            config = network.snapshot([place.vm("one")])
            shown[forwards] = {row["link"] for row in own(config, place, "routes")}
        assert "side0" not in shown["0"]
        assert "side0" in shown["1"]
    finally:
        place.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        place.run(*["ip", "link", "del", "side0"])


def test_neighbours_as_ip_shows_them(place, config):
    found = {(n["address"], n["mac"], n["state"]) for n in own(config, place, "neighbours")}
    shown = {
        (row["dst"], row["lladdr"], row["state"][0].lower())
        for row in place.json("ip", "-j", "neigh", "show", "nud", "permanent")
    }
    assert shown <= found
    assert {address for address, _, _ in shown} == {"192.0.2.7", "2001:db8::7"}


def test_routes_as_ip_shows_them(place, config):
    found = {
        (r["family"], r["destination"], r["link"], r.get("gateway"))
        for r in own(config, place, "routes")
    }
    shown = set()
    for family, option in (("inet", "-4"), ("inet6", "-6")):
        for row in place.json("ip", "-j", option, "route"):
            for hop in row.get("nexthops", [row]):
                if "dev" in hop and hop["dev"] != "lo":
                    shown.add((family, row["dst"], hop["dev"], hop.get("gateway")))
    assert found == shown
    assert ("inet", "default", "far0", "198.51.100.9") in found
    assert ("inet", "203.0.113.0/24", "vtbr", "192.0.2.9") in found
    assert ("inet", "203.0.113.0/24", "far0", "198.51.100.9") in found


def test_sysctls_of_the_namespace(place):
    before = network.snapshot([place.vm("one")])["sysctls"]
    name = f"net.ipv4.ip_forward@{place.inode}"
    place.run("sh", "-c", f"echo {1 - before[name]} > /proc/sys/net/ipv4/ip_forward")
    after = network.snapshot([place.vm("one")])["sysctls"]
    assert after[name] == 1 - before[name]
    assert after["net.ipv4.ip_forward"] == before["net.ipv4.ip_forward"]
    assert after["net.core.rmem_default"] == int(
        Path("/proc/sys/net/core/rmem_default").read_text()
    )


def test_many_routes_and_neighbours_are_cut_off(place, monkeypatch):
    monkeypatch.setattr(rtnl, "MOST_MESSAGES", 100)
    monkeypatch.setattr(rtnl, "MOST_ROWS", 10)
    batch = "".join(f"route add 100.64.{n}.0/24 via 192.0.2.9\n" for n in range(200))
    subprocess.run(place.command("ip", "-batch", "-"), input=batch, text=True, check=True)
    try:
        config = network.snapshot([place.vm("one")])
    finally:
        undo = batch.replace("add", "del")
        subprocess.run(place.command("ip", "-batch", "-"), input=undo, text=True, check=True)
    mark = f"(network namespace {place.inode})"
    assert len(own(config, place, "routes")) == 10
    assert f"routes beyond the first 100 {mark}" in config["missing"]
    assert own(config, place, "routes")[0]["destination"] == "default"


def test_many_routes_take_little_time(place):
    batch = "".join(
        f"route add 100.{64 + (n >> 16)}.{n >> 8 & 255}.{n & 255}/32 via 192.0.2.9\n"
        for n in range(30_000)
    )
    subprocess.run(place.command("ip", "-batch", "-"), input=batch, text=True, check=True)
    try:
        took = []
        for _ in range(3):
            before = time.perf_counter()
            config = network.snapshot([place.vm("one")])
            took.append(time.perf_counter() - before)
    finally:
        gone = ["ip", "route", "flush", "via", "192.0.2.9"]
        subprocess.run(place.command(*gone), check=True)
    assert len(own(config, place, "routes")) == rtnl.MOST_ROWS
    assert min(took) < 2.0  # pyroute2 takes 2.5 s for them, and 80 s for a million


def test_links_beyond_the_limit_are_not_those_of_guests(place, monkeypatch):
    monkeypatch.setattr(rtnl, "MOST_LINKS", 4)
    config = network.snapshot([place.vm("one")])
    assert set(own(config, place, "links")) == {"one", "vtbr", "out0", "far0"}
    whole = len(place.json("ip", "-j", "link"))
    sentence = f"{whole - 4} of {whole} interfaces (network namespace {place.inode})"
    assert sentence in config["missing"]


def test_a_namespace_that_has_gone():
    made = Netns()
    gone = Vm(
        name="gone",
        pid=made.holder.pid,
        devices=(
            Device(
                id="nic0",
                kind="net",
                driver="virtio-net-pci",
                net=NetBackend(type="tap", interface="one", netns=made.inode),
            ),
        ),
    )
    made.close()
    config = network.snapshot([gone])
    assert f"network namespace {made.inode}: its process has gone" in config["missing"]
    assert not any(name.endswith(f"@{made.inode}") for name in config["links"])


def test_a_pid_that_is_another_process_by_now(place):
    vm = place.vm("one")
    net = NetBackend(type="tap", interface="one", netns=place.inode + 1)
    moved = Vm(
        name=vm.name,
        pid=vm.pid,
        devices=(Device(id="nic0", kind="net", driver="virtio-net-pci", net=net),),
    )
    config = network.snapshot([moved])
    assert f"network namespace {place.inode + 1}: its process has gone" in config["missing"]
    assert not any("one@" in name for name in config["links"])


def test_threads_of_a_process():
    last = max(os.sched_getaffinity(0))
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            nice = os.getpriority(os.PRIO_PROCESS, 0) + 1
            os.setpriority(os.PRIO_PROCESS, process.pid, nice)
            os.sched_setaffinity(process.pid, {last})
            os.sched_setscheduler(process.pid, os.SCHED_BATCH, os.sched_param(0))
            threads = (Thread(tid=process.pid, comm="sleep", role="vhost"),)
            vm = Vm(name="alpha", pid=process.pid, threads=threads)
            config = network.snapshot([vm])
        finally:
            process.kill()
    thread = config["threads"][str(process.pid)]
    assert thread["cpus"] == [last]
    assert thread["policy"] == "batch"
    assert thread["nice"] == min(nice, 19)
    assert thread["rt_priority"] == 0
    assert (thread["role"], thread["vm"]) == ("vhost", "alpha")
    assert set(os.sched_getaffinity(0)) <= set(config["cpus"]["online"])


def test_threads_that_have_gone_are_left_out():
    process = subprocess.Popen(["true"])
    process.wait()
    threads = (Thread(tid=process.pid, comm="gone", role="vhost"),)
    assert network.snapshot([Vm(name="alpha", pid=1, threads=threads)])["threads"] == {}


def guest_in_group(host, lines: str) -> Vm:
    place = host.process(4711, ["/bin/qemu-system-x86_64", "-M", "pc"])
    (place / "cgroup").write_text(lines)
    return Vm(name="alpha", pid=4711, threads=(Thread(tid=4711, comm="q", role="vcpu"),))


def group(host, path: str, **files: str) -> None:
    place = host.sys / "fs" / "cgroup" / path
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name.replace("_", ".", 1)).write_text(content + "\n")


def test_limits_of_control_groups(host):
    group(host, "a", cpu_max="max 100000", cpu_weight="100")
    group(host, "a/b", cpu_max="150000 100000", cpu_weight="39")
    (host.sys / "fs/cgroup/a/b/cpuset.cpus.effective").write_text("1-2,5\n")
    vm = guest_in_group(host, "0::/a/b\n")
    config = network.snapshot([vm], host.proc, host.sys)
    assert config["threads"]["4711"]["cgroup"] == "/a/b"
    assert config["cgroups"] == {
        "/a": {"cpu_max_period_us": 100000, "cpu_weight": 100},
        "/a/b": {
            "cpu_max_quota_us": 150000,
            "cpu_max_period_us": 100000,
            "cpu_weight": 39,
            "cpus": [1, 2, 5],
        },
    }


def test_limits_of_control_groups_of_version_1(host):
    group(host, "cpu/lib/q")
    place = host.sys / "fs/cgroup/cpu/lib/q"
    (place / "cpu.cfs_quota_us").write_text("50000\n")
    (place / "cpu.cfs_period_us").write_text("100000\n")
    (place.parent / "cpu.cfs_quota_us").write_text("-1\n")
    vm = guest_in_group(host, "4:cpu,cpuacct:/lib/q\n1:name=systemd:/x\n0::/\n")
    config = network.snapshot([vm], host.proc, host.sys)
    assert config["threads"]["4711"]["cgroup"] == "cpu:/lib/q"
    assert config["cgroups"]["cpu:/lib/q"] == {
        "cpu_max_quota_us": 50000,
        "cpu_max_period_us": 100000,
    }
    assert config["cgroups"]["cpu:/lib"] == {}


@pytest.mark.parametrize("path", ["/../secret", "/gone", "/../../.."])
def test_a_control_group_that_is_not_visible(host, path):
    config = network.snapshot([guest_in_group(host, f"0::{path}\n")], host.proc, host.sys)
    assert config["cgroups"] == {}
    assert f"control group {path}: not visible from here" in config["missing"]


def options(host, *argv: str):
    host.process(4711, ["/nowhere/bin/qemu-system-x86_64", "-name", "alpha", *argv])
    vms = discover(host.proc, host.sys)
    config = network.snapshot(vms, host.proc, host.sys)
    return config["netdevs"]["alpha"], config["nics"]["alpha"], config["missing"]


def test_options_of_netdev_and_device(host):
    netdevs, nics, _ = options(
        host,
        *("-netdev", "tap,id=n0,ifname=tap0,vhost=on,queues=4,sndbuf=64K,vnet_hdr=off"),
        *("-device", "virtio-net-pci,netdev=n0,id=nic0,mq=on,vectors=10,rx_queue_size=512"),
        *("-device", "virtio-net-pci,id=lonely,host_mtu=9000,guest_tso4=off,mrg_rxbuf=off"),
        *("-device", "virtio-blk-pci,id=disk0,drive=d"),
        *("-netdev", '{"type":"tap","id":"n1","fds":"3:4","vhostfds":"5:6","vhost":true}'),
        *("-device", '{"driver":"e1000","netdev":"n1","id":"old","mac":"52:54:00:00:00:01"}'),
    )
    assert netdevs["n0"] == {
        "type": "tap",
        "ifname": "tap0",
        "vhost": "on",
        "queues": "4",
        "sndbuf": "64K",
        "vnet_hdr": "off",
        "pairs": 4,
    }
    assert netdevs["n1"] == {"type": "tap", "vhost": "on", "files": 2, "vhost_files": 2, "pairs": 2}
    assert nics["nic0"] == {
        "driver": "virtio-net-pci",
        "mq": "on",
        "vectors": "10",
        "rx_queue_size": "512",
        "netdev": "n0",
    }
    assert nics["lonely"] == {
        "driver": "virtio-net-pci",
        "host_mtu": "9000",
        "guest_tso4": "off",
        "mrg_rxbuf": "off",
    }
    assert nics["old"] == {"driver": "e1000", "mac": "52:54:00:00:00:01", "netdev": "n1"}
    assert set(nics) == {"nic0", "lonely", "old"}


def test_options_of_nic(host):
    netdevs, nics, _ = options(
        host, "-nic", "tap,ifname=tap1,model=virtio,sndbuf=1M,mac=2:0:0:0:0:1"
    )
    assert netdevs == {"net0": {"type": "tap", "ifname": "tap1", "sndbuf": "1M", "pairs": 1}}
    assert nics == {"net0": {"driver": "virtio-net", "mac": "2:0:0:0:0:1"}}


def test_options_of_net(host):
    netdevs, nics, _ = options(
        host, "-net", "nic,model=virtio,macaddr=2:0:0:0:0:2", "-net", "tap,ifname=tap2,vhost=on"
    )
    assert netdevs["hub0"]["hub"] == "on"
    assert netdevs["hub0"]["ifname"] == "tap2"
    assert nics["net0"]["driver"] == "virtio-net"


def test_passwords_do_not_get_in(host):
    _, _, _ = found = options(
        host,
        *("-netdev", "user,id=n0,hostfwd=tcp::2222-:22,guestfwd=secret"),
        *("-device", "virtio-net-pci,netdev=n0,id=nic0,romfile=/srv/secret"),
    )
    assert "secret" not in json.dumps(found)


def test_a_command_line_that_cannot_be_read(host):
    config = network.snapshot([Vm(name="alpha", pid=99)], host.proc, host.sys)
    assert config["missing"] == ["options of alpha: its command line is not readable"]


def test_real_guest(place, tmp_path):
    need_qemu()
    guest = Guest(
        place,
        tmp_path,
        *("-S", "-nodefaults", "-accel", "tcg", "-M", "pc", "-m", "64", "-name", "real"),
        *("-netdev", "tap,id=n0,ifname=one,script=no,downscript=no,sndbuf=4096"),
        *("-device", "virtio-net-pci,netdev=n0,id=nic0,rx_queue_size=512,host_mtu=1400"),
    )
    try:
        guest.connect()
        vm = resolve(discover(), str(guest.pid))
        config = network.snapshot([vm])
    finally:
        guest.close()
    assert config["netdevs"]["real"]["n0"]["sndbuf"] == "4096"
    assert config["nics"]["real"]["nic0"]["rx_queue_size"] == "512"
    assert config["links"][f"one@{place.inode}"]["operstate"] in {"up", "unknown"}
    tids = {str(thread.tid) for thread in vm.threads}
    assert set(config["threads"]) == tids
    assert config["threads"][str(guest.pid)]["cpus"] == sorted(os.sched_getaffinity(0))


RULESET = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "t"}},
        {"chain": {"family": "inet", "table": "t", "name": "forward", "policy": "drop"}},
        {"chain": {"family": "inet", "table": "t", "name": "plain"}},
        {"rule": {"expr": [{"match": {}}, {"counter": {"packets": 1}}, {"drop": None}]}},
        {"rule": {"expr": [{"counter": {"packets": 1}}, {"accept": None}]}},
        {"rule": {"expr": [{"reject": {"type": "icmp"}}]}},
        {"rule": {"expr": [{"xt": {"type": "target", "name": "REJECT"}}]}},
        {"rule": {"expr": [{"xt": {"type": "match", "name": "comment"}}, {"xt": None}]}},
    ]
}


def test_rules_that_drop():
    assert nft.counted(RULESET) == {
        "tables": ["inet t"],
        "drop_rules": 3,
        "drop_policies": ["inet t forward"],
    }


def test_rules_of_a_real_firewall(place):
    if shutil.which("nft", path=nft.PLACES) is None or not Path("/sys/module/nf_tables").is_dir():
        pytest.skip("no nft, or its module is not loaded")
    place.run("nft", "add table inet vt")
    place.run("nft", "add chain inet vt c { type filter hook forward priority 0 ; policy drop ; }")
    place.run("nft", "add rule inet vt c udp dport 7 counter drop")
    place.run("nft", "add rule inet vt c udp dport 8 counter accept")
    firewall = network.snapshot([place.vm("one")])["firewall"]
    assert firewall[f"drop_rules@{place.inode}"] == 1
    assert firewall[f"tables@{place.inode}"] == ["inet vt"]
    assert firewall[f"drop_policies@{place.inode}"] == ["inet vt c"]


def test_nft_may_not_take_long(monkeypatch):
    monkeypatch.setattr(nft, "LONGEST_S", 0.2)
    before = time.monotonic()
    assert nft.run(["sleep", "30"]) == (None, "nft took longer than 0.2 s")
    assert time.monotonic() - before < 10


def test_nft_may_not_say_much(monkeypatch):
    monkeypatch.setattr(nft, "LONGEST_BYTES", 1 << 20)
    assert nft.run([sys.executable, "-c", "while True: print('x' * 4096)"]) == (
        None,
        "more than 1 MiB of them",
    )


def test_nftables_built_into_the_kernel(host):
    place = host.sys / os.uname().release
    place.mkdir()
    assert not in_kernel(host.sys, host.sys)
    (place / "modules.builtin").write_text("kernel/net/netfilter/nf_tables.ko\n")
    assert in_kernel(host.sys, host.sys)


def test_nft_is_not_asked_where_its_module_is_not_loaded(host, monkeypatch):
    def asked(command):
        raise AssertionError(command)

    monkeypatch.setattr(nft, "run", asked)
    monkeypatch.setattr(nft, "in_kernel", lambda sys: in_kernel(sys, host.sys))
    missing = []
    assert nft.firewall_here(host.proc, host.sys, missing) == {"tables": [], "drop_rules": 0}
    assert missing == []
