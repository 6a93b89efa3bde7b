"""What the sampler says equals what ip, tc, nft, ethtool and the kernel's files say."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vtrace.counters.netlink import handle_text
from vtrace.counters.place import LinkFacts, interesting
from vtrace.inventory import Device, NetBackend, Thread, ThreadRole, Vm


@pytest.fixture
def count(record_property) -> int:
    """Return a number of packets that is another one in each run."""
    number = random.randrange(11, 97)
    record_property("count", number)
    return number


def send(sender: socket.socket, address: str, port: int, count: int) -> None:
    for _ in range(count):
        sender.sendto(b"x" * 100, (address, port))


def later(sampler) -> dict:
    """Sample as the recorder does: after a while, since a source is not read twice at once."""
    time.sleep(0.3)
    return sampler.sample()


def of_link(sample: dict, place, name: str = "tap0") -> dict:
    return sample[f"link/{name}@{place.inode}"]


def packets_of(tap: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield os.read(tap, 4096)


def test_links_are_as_ip_shows_them(place, tap, sampler_of, udp_socket, count):
    sampler = sampler_of(place.vm("tap0"))
    before = of_link(sampler.sample(all_=True), place)
    place.run("ip", "link", "set", "tap0", "txqueuelen", "500")
    send(udp_socket(), "10.77.0.2", 7001, count)
    os.write(tap, b"\xff" * 6 + b"\x52\x54\0\0\0\2" + b"\x88\xb5" + bytes(60))
    # A packet was sent once the guest has taken it.
    assert sum(1 for _ in packets_of(tap)) == count
    after = of_link(later(sampler), place)
    assert after["tx_packets"] - before["tx_packets"] == count
    assert after["rx_packets"] - before["rx_packets"] == 1
    (shown,) = json.loads(place.run("ip", "-s", "-s", "-j", "link", "show", "tap0"))
    assert after["ifindex"] == shown["ifindex"]
    names = {"over_errors": "rx_missed_errors", "multicast": "multicast"}
    seen = 0
    for side in ("rx", "tx"):
        for name, value in shown["stats64"][side].items():
            ours = names.get(name, name if name == "collisions" else f"{side}_{name}")
            if name in {"carrier_changes", "over_errors"}:
                continue
            assert after[ours] == value, name
            seen += 1
    assert seen > 12


def test_a_full_tap_ring_is_counted(place, tap, sampler_of, udp_socket, count):
    place.run("ip", "link", "set", "tap0", "txqueuelen", "7")
    sampler = sampler_of(place.vm("tap0"))
    sampler.sample(all_=True)
    send(udp_socket(), "10.77.0.2", 7001, count)
    moved = of_link(later(sampler), place)
    taken = sum(1 for _ in packets_of(tap))
    assert 0 < taken < count
    assert moved["tx_dropped"] == count - taken


def test_qdiscs_are_as_tc_shows_them(place, tap, sampler_of, udp_socket, count):
    shape = "tbf rate 8kbit burst 1000 limit 1500"
    place.run("sh", "-c", f"tc qdisc replace dev tap0 root handle 8: {shape}")
    sampler = sampler_of(place.vm("tap0"))
    name = f"qdisc/tap0@{place.inode}/8:"
    assert sampler.sample(all_=True)[name]["drops"] == 0
    send(udp_socket(), "10.77.0.2", 7001, count)
    for _ in range(10):
        ours = sampler.sample(all_=True)[name]
        (shown,) = json.loads(place.run("tc", "-s", "-j", "qdisc", "show", "dev", "tap0"))
        if ours["packets"] == shown["packets"]:
            break
    assert (ours["kind"], ours["parent"]) == ("tbf", "root")
    theirs = ("packets", "bytes", "drops", "overlimits", "requeues", "qlen", "backlog")
    assert [ours[n.replace("backlog", "backlog_bytes")] for n in theirs] == [
        shown[n] for n in theirs
    ]
    assert ours["drops"] + ours["packets"] + ours["qlen"] == count


@pytest.mark.parametrize(
    ("handle", "text"),
    [(0, "0:"), (0x80010000, "8001:"), (0x0001000A, "1:a"), (2, ":2"), (0xFFFFFFF1, "ffff:fff1")],
)
def test_handles_are_written_as_tc_writes_them(handle, text):
    assert handle_text(handle) == text


def by_the_kernel(place, protocol: str) -> dict[str, int]:
    names, values = re.findall(
        f"^{protocol}: (.*)$", place.run("cat", "/proc/net/snmp"), re.MULTILINE
    )
    return dict(zip(names.split(), map(int, values.split()), strict=True))


def test_protocols_are_as_the_kernel_counts_them(place, sampler_of, udp_socket, count):
    sampler = sampler_of(place.vm("tap0"))
    before = sampler.sample(all_=True)[f"snmp/udp@{place.inode}"]
    send(udp_socket(), "127.0.0.1", 7009, count)
    listener = udp_socket()
    listener.bind(("127.0.0.1", 7010))
    send(udp_socket(), "127.0.0.1", 7010, 3)
    sample = later(sampler)
    after = sample[f"snmp/udp@{place.inode}"]
    assert after["NoPorts"] - before["NoPorts"] == count
    assert after["OutDatagrams"] - before["OutDatagrams"] == count + 3
    for protocol in ("Udp", "Ip", "Icmp", "UdpLite"):
        name = f"snmp/{protocol.lower()}@{place.inode}"
        ours = sampler.sample(all_=True)[name]
        assert {k: v for k, v in ours.items() if k[2:] != "_ns"} == by_the_kernel(place, protocol)


def test_ipv6_is_counted_by_itself(place, sampler_of, udp_socket, count):
    sampler = sampler_of(place.vm("tap0"))
    name = f"snmp/udp6@{place.inode}"
    before = sampler.sample(all_=True)[name]
    send(udp_socket(socket.AF_INET6), "::1", 7009, count)
    sample = later(sampler)
    assert sample[name]["NoPorts"] - before["NoPorts"] == count
    assert f"snmp/udp@{place.inode}" not in sample
    shown = place.run("cat", "/proc/net/snmp6")
    assert sample[name]["OutDatagrams"] == int(
        re.search(r"^Udp6OutDatagrams\s+(\d+)$", shown, re.MULTILINE)[1]
    )


def test_a_full_socket_is_named(place, sampler_of, udp_socket, count):
    full = udp_socket()
    full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    full.bind(("127.0.0.1", 7011))
    inode = os.fstat(full.fileno()).st_ino
    sampler = sampler_of(place.vm("tap0"))
    assert sampler.sample(all_=True)[f"socket/udp/{inode}"]["drops"] == 0
    send(udp_socket(), "127.0.0.1", 7011, count)
    row = later(sampler)[f"socket/udp/{inode}"]
    errors = by_the_kernel(place, "Udp")["RcvbufErrors"]
    assert row["drops"] == errors > 0
    assert row["local"] == "127.0.0.1:7011"
    assert row["pid"] == os.getpid()
    assert row["comm"] == Path("/proc/self/comm").read_text().strip()
    assert row["rcvbuf_bytes"] == full.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert row["rx_queue_bytes"] > 0


def test_rules_that_drop_are_counted(place, sampler_of, udp_socket, count):
    if not shutil.which("nft"):
        pytest.skip("nft is not installed")
    rules = """
        table inet filter {
          counter seen { }
          chain input {
            type filter hook input priority 0; policy drop;
            udp dport 7012 counter drop comment "reject nobody"
            udp dport 7013 counter name "seen" accept
            udp dport 7014 reject
            iif lo accept
          }
        }"""
    done = subprocess.run(
        ["ip", "netns", "exec", place.name, "nft", "-f", "-"],
        input=rules,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no rule can be made here: {done.stderr.strip()}")
    sampler = sampler_of(place.vm("tap0"))
    sampler.sample(all_=True)
    sender = udp_socket()
    send(sender, "127.0.0.1", 7012, count)
    send(sender, "127.0.0.1", 7013, 5)
    found = {n: v for n, v in sampler.sample(all_=True).items() if n.startswith("nft/inet/")}
    texts = {row["rule"]: row for row in found.values()}
    dropping = next(row for text, row in texts.items() if "7012" in text)
    assert dropping["packets"] == count
    assert dropping["bytes"] == count * 128
    assert dropping["verdict"] == "drop"
    assert dropping["rule"].startswith("udp dport 7012 counter")
    named = next(row for text, row in texts.items() if "7013" in text)
    assert (named["packets"], named["verdict"]) == (5, "")
    rejecting = next(row for text, row in texts.items() if "7014" in text)
    assert (rejecting["verdict"], "packets" in rejecting) == ("reject", False)
    assert found[f"nft/inet/filter/input/policy@{place.inode}"]["verdict"] == "drop"
    assert len(found) == 4
    listed = json.loads(place.run("nft", "-j", "list", "ruleset"))["nftables"]
    handles = {r["rule"]["handle"] for r in listed if "rule" in r}
    ours = {int(n.split("@")[0].rsplit("/", 1)[1]) for n in found if "policy" not in n}
    assert ours < handles


def test_threads_are_as_the_scheduler_counts_them(place, sampler_of):
    os.kill(place.pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{place.pid}/stat").read_text().split()[2] != "T":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        gone = Thread(tid=1 << 22, comm="gone", role=ThreadRole.VCPU)
        first = Thread(tid=place.pid, comm="sleep", role=ThreadRole.QEMU)
        sampler = sampler_of(place.vm("tap0", threads=(first, gone)))
        sample = sampler.sample(all_=True)
        row = sample[f"thread/{place.pid}"]
        shown = Path(f"/proc/{place.pid}/schedstat").read_text().split()
    finally:
        os.kill(place.pid, signal.SIGCONT)
    assert [row["run_ns"], row["wait_ns"], row["slices"]] == list(map(int, shown))
    assert (row["state"], row["comm"], row["vm"]) == ("T", "sleep", "cpx")
    assert f"thread/{1 << 22}" not in sample


def test_a_nic_is_as_ethtool_shows_it(sampler_of):
    shown = {}
    for folder in Path("/sys/class/net").iterdir():
        if not (folder / "device").exists():
            continue
        done = subprocess.run(
            ["ethtool", "-S", folder.name], capture_output=True, text=True, check=False
        )
        rows = dict(re.findall(r"^\s+(\S+): (\d+)$", done.stdout, re.MULTILINE))
        shown |= {f"ethtool/{folder.name}": {n: int(v) for n, v in rows.items() if "drop" in n}}
    sample = sampler_of().sample(all_=True)
    ours = {name: row for name, row in sample.items() if name.startswith("ethtool/")}
    if not any(shown.get(name) for name in ours):
        pytest.skip("no NIC here carries the default route and counts what it drops")
    for name, row in ours.items():
        assert {n: v for n, v in row.items() if "drop" in n} == shown[name]


def test_softnet_is_as_the_kernel_shows_it(sampler_of):
    sampler = sampler_of()
    before = Path("/proc/net/softnet_stat").read_text().splitlines()
    sample = sampler.sample(all_=True)
    after = Path("/proc/net/softnet_stat").read_text().splitlines()
    assert len([name for name in sample if name.startswith("softnet/")]) == len(before)
    for number, (low, high) in enumerate(zip(before, after, strict=True)):
        row = sample[f"softnet/{number}"]
        least, most = (int(line.split()[0], 16) for line in (low, high))
        assert least <= row["processed"] <= most
        assert row["dropped"] == int(low.split()[1], 16)


def test_only_what_changed_is_given_out_again(place, tap, sampler_of, udp_socket):
    sampler = sampler_of(place.vm("tap0"))
    whole = sampler.sample(all_=True)
    tap_name, qdisc = f"link/tap0@{place.inode}", f"qdisc/tap0@{place.inode}/0:"
    assert {tap_name, qdisc, f"snmp/udp@{place.inode}"} <= whole.keys()
    quiet = later(sampler)
    assert not {tap_name, qdisc} & quiet.keys()
    send(udp_socket(), "10.77.0.2", 7001, 1)
    assert len(list(packets_of(tap))) == 1
    assert tap_name in later(sampler)
    assert sampler.sample(all_=True).keys() >= whole.keys()


def test_an_object_is_read_between_its_times(place, tap, sampler_of):
    sampler = sampler_of(place.vm("tap0"))
    for _ in range(3):
        begin = time.monotonic_ns()
        sample = sampler.sample(all_=True)
        end = time.monotonic_ns()
        assert all(begin <= row["lo_ns"] <= row["hi_ns"] <= end for row in sample.values())


def test_a_namespace_is_let_go_when_its_vm_has_ended(place, tap, sampler_of):
    def doors() -> list[str]:
        files = Path("/proc/self/fd").iterdir()
        links = [str(f.readlink()) for f in files if f.is_symlink()]
        return sorted(one for one in links if one.startswith(("socket:", "/proc/")))

    before = doors()
    sampler = sampler_of(place.vm("tap0"))
    inode = place.inode
    assert f"link/tap0@{inode}" in sampler.sample(all_=True)
    ours = sampler_of()
    ours.sample()
    os.kill(place.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{place.pid}/ns/net").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert f"link/tap0@{inode}" not in sampler.sample(all_=True)
    sampler.close()
    ours.close()
    assert doors() == before


def test_what_cannot_be_read_is_said_once(sampler_of):
    net = NetBackend(type="tap", interface="tap0", netns=1)
    gone = Vm(name="gone", pid=1 << 22, devices=(Device(id="n", kind="net", driver="d", net=net),))
    sampler = sampler_of(gone)
    for _ in range(3):
        assert not any("@" in name for name in sampler.sample(all_=True))
    said = [one for one in sampler.missing if "network namespace" in one]
    assert said == [f"network namespace of pid {1 << 22}: No such file or directory"]


def test_an_interface_that_appears_later_is_seen(place, tap, sampler_of):
    place.run("ip", "link", "add", "br0", "type", "bridge")
    sampler = sampler_of(place.vm("tap0"))
    assert f"link/br0@{place.inode}" not in sampler.sample(all_=True)
    place.run("ip", "link", "set", "tap0", "master", "br0")
    place.run("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    place.run("ip", "link", "set", "veth0", "master", "br0")
    sample = later(sampler)
    assert {f"link/{n}@{place.inode}" for n in ("br0", "veth0", "veth1")} <= sample.keys()
    assert f"link/lo@{place.inode}" not in sample


def facts(*rows) -> dict[int, LinkFacts]:
    return {
        n: LinkFacts(name=name, ifindex=n, kind=kind, ethernet=True, master=master, lower=lower)
        for n, name, kind, master, lower in rows
    }


def test_links_below_and_beside_a_tap_are_of_interest():
    links = facts(
        (1, "lo", "", 0, 0),
        (2, "eth0", "", 5, 0),
        (3, "eth1", "", 5, 0),
        (4, "eth2", "", 0, 0),
        (5, "bond0", "bond", 0, 0),
        (6, "bond0.7", "vlan", 7, 5),
        (7, "br7", "bridge", 0, 0),
        (8, "tap0", "tun", 7, 0),
        (9, "tap1", "tun", 0, 0),
    )
    assert interesting(links, {"tap0"}, {0}) == {2, 3, 5, 6, 7, 8}
    assert interesting(links, set(), {4, 1}) == {4}
