"""Counters in a recording of a real host, against what host and guests say themselves."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parsers.batch import EventBatch
from parsers.tracefile import open_trace
from tests.host.conftest import START_S, frozen, start_recording, stop_recording
from tests.testbed import Host, Receiver, delta, send, udp
from tests.testbed.guest import Guest
from vtrace.model import Kind

NAMES = {"Udp": "udp", "Ip": "ip", "Icmp": "icmp", "UdpLite": "udplite"}


@pytest.fixture
def counted(lab: Host) -> Iterator[Guest]:
    guest = lab.guest("counted")
    yield guest
    guest.kill()


def batches(path: Path) -> list[EventBatch]:
    with open_trace(path) as trace:
        found = list(trace.batches())
        assert trace.complete
        assert not trace.damage
    return found


def samples(found: list[EventBatch], name: str) -> list[dict[str, Any]]:
    rows = (batch.meta.get("counters", {}).get(name) for batch in found)
    return [row for row in rows if row]


def told(row: dict[str, Any], said: dict[str, int], prefix: str) -> dict[str, tuple[int, int]]:
    """Return what both have, ours and theirs."""
    theirs = {name.removeprefix(prefix): value for name, value in said.items()}
    return {name: (row[name], theirs[name]) for name in row.keys() & theirs.keys()}


def test_first_and_last_sample_are_what_the_host_says(lab: Host, counted: Guest) -> None:
    chance = random.randrange(100)
    begin, inside = lab.counters(counted.tap), counted.counters()
    # Guests stand still while probes are attached, and run when they are asked.
    with frozen(lab):
        job = lab.start(
            "cd / && exec python3 -m vtrace record -w /share/counted.vtrace "
            "--guest-cmd 'counted=env GUEST=counted gx'"
        )
        job.wait_for("asking the guests", timeout=START_S)
    job.wait_for("recording into", timeout=START_S)
    towards = udp(lab, counted, 101 + chance)
    away = udp(counted, lab, 103 + chance)
    # Loss on the host (nobody listens) and in the guest (its socket is full).
    send(lab, "127.0.0.1", 17, port=7999)
    receiver = Receiver(counted, port=7002, rcvbuf=4096, delay_us=20_000)
    send(lab, counted.address, 200, port=7002, pps=2000)
    kept = receiver.result()["received"]
    end, inside_end = lab.counters(counted.tap), counted.counters()
    # The guest is asked once more, then stands still: probes are detached from a quiet host.
    lab.run("sleep 7")
    stop_recording(lab, job)
    found = batches(lab.share / "counted.vtrace")
    print(f"chance {chance}, kept {kept}")

    link = samples(found, f"link/{counted.tap}")
    first, last = told(link[0], begin, "link."), told(link[-1], end, "link.")
    assert len(first) >= 23
    assert all(ours == theirs for ours, theirs in first.values()), first
    assert all(ours == theirs for ours, theirs in last.values()), last
    assert link[-1]["tx_packets"] - link[0]["tx_packets"] == towards.sent + 200
    # A guest may lose a packet of its own before it comes to the tap.
    assert link[-1]["rx_packets"] - link[0]["rx_packets"] == away.received
    for theirs, ours in NAMES.items():
        rows = samples(found, f"snmp/{ours}")
        for row, said in ((rows[0], begin), (rows[-1], end)):
            both = told(row, said, f"{theirs}.")
            assert len(both) >= 8
            assert all(a == b for a, b in both.values()), both
    host = samples(found, "snmp/udp")
    assert host[-1]["NoPorts"] - host[0]["NoPorts"] == 17

    # The guest, by its own word.
    guest = samples(found, "guest/counted/udp")
    moved = delta(inside, inside_end)
    for row, said in ((guest[0], inside), (guest[-1], inside_end)):
        both = told(row, said, "Udp.")
        assert all(a == b for a, b in both.values()), both
    lost = guest[-1]["RcvbufErrors"] - guest[0]["RcvbufErrors"]
    assert lost == moved["Udp.RcvbufErrors"] == 200 - kept > 0
    eth0 = samples(found, "guest/counted/link/eth0")
    assert eth0[-1]["rx_packets"] - eth0[0]["rx_packets"] == towards.sent + 200

    # What was counted was watched from end to end: events and counters agree.
    columns = {n: [b[n] for b in found] for n in ("kind", "time", "ret", "queue")}
    taken = sum(
        int(((kind == Kind.RECV) & (ret > 0)).sum())
        for kind, ret in zip(columns["kind"], columns["ret"], strict=True)
    )
    queues = {}
    for batch in found:
        queues |= batch.meta.get("queues", {})
    vhost = [q for q in queues.values() if q["vm"] == "counted" and q["backend"] == "vhost"]
    assert {q["interface"] for q in vhost} == {counted.tap}
    others = [g for g in lab.guests.values() if g is not counted]
    quiet = {g.tap: [row["tx_packets"] for row in samples(found, f"link/{g.tap}")] for g in others}
    assert all(len(set(values)) == 1 for values in quiet.values()), quiet
    assert taken == towards.sent + 200
    missing = [one for b in found for one in b.meta.get("counters", {}).get("missing", ())]
    assert missing == ["counters of guest counted: it did not answer at the end"]


def test_all_sources_of_the_host_are_there(lab: Host, counted: Guest) -> None:
    """qdisc, rule, bridge, softnet, threads, throttling: values as the tools of the host show."""
    lab.run(
        f"tc qdisc replace dev {counted.tap} root handle 8: "
        "tbf rate 100mbit burst 100k limit 200k; "
        "nft add table ip vtest; "
        "nft add chain ip vtest in '{ type filter hook input priority 0; }'; "
        "nft add rule ip vtest in udp dport 7003 counter drop; "
        "echo +cpu > /sys/fs/cgroup/cgroup.subtree_control; mkdir -p /sys/fs/cgroup/vtest; "
        f"echo {counted.pid} > /sys/fs/cgroup/vtest/cgroup.procs; "
        "echo 30000 100000 > /sys/fs/cgroup/vtest/cpu.max"
    )
    try:
        job, _ = start_recording(lab, "--sample-every", "0", name="sources")
        send(lab, "127.0.0.1", 23, port=7003)
        assert udp(lab, counted, 31).lost == 0
        with frozen(lab):
            job.signal(2)
            assert job.wait(60).rc == 0, job.errors
            stat = lab.run("cat /sys/fs/cgroup/vtest/cpu.stat").out
            qdisc = lab.run(f"tc -s qdisc show dev {counted.tap}").out
            ran = lab.run(f"cat /proc/{counted.pid}/task/{counted.pid}/schedstat").out.split()
    finally:
        lab.run(
            f"tc qdisc del dev {counted.tap} root; nft delete table ip vtest; "
            f"echo {counted.pid} > /sys/fs/cgroup/cgroup.procs; rmdir /sys/fs/cgroup/vtest"
        )
    found = batches(lab.share / "sources.vtrace")
    assert [len(b.meta["counters"]) > 9 for b in found if "counters" in b.meta] == [True, True]
    first, last = (b.meta["counters"] for b in found if "counters" in b.meta)
    rule = next(row for name, row in last.items() if name.startswith("nft/ip/vtest/in/"))
    assert (rule["packets"], rule["verdict"]) == (23, "drop")
    assert rule["rule"].startswith("udp dport 7003 counter")
    throttled = {
        n: int(v) for n, v in re.findall(r"^(nr_\w+|throttled_usec) (\d+)$", stat, re.MULTILINE)
    }
    ours = last["cgroup/vtest"]
    assert [ours[n] for n in ("nr_throttled", "throttled_usec")] == [
        throttled[n] for n in ("nr_throttled", "throttled_usec")
    ]
    # Its timer goes on for a period or two behind the last run of a thread.
    assert 0 < ours["nr_periods"] <= throttled["nr_periods"]
    shaped = last[f"qdisc/{counted.tap}/8:"]
    sent = re.search(r"Sent (\d+) bytes (\d+) pkt \(dropped (\d+), overlimits (\d+)", qdisc)
    assert [shaped[n] for n in ("bytes", "packets", "drops", "overlimits")] == [
        int(sent[n]) for n in (1, 2, 3, 4)
    ]
    assert shaped["packets"] - first[f"qdisc/{counted.tap}/8:"]["packets"] == 31
    main = last[f"thread/{counted.pid}"]
    assert [main["run_ns"], main["wait_ns"], main["slices"]] == list(map(int, ran))
    assert main["state"] == "T"
    roles = {row["role"] for name, row in last.items() if name.startswith("thread/")}
    assert {"vhost", "vcpu", "qemu"} <= roles
    assert {"softnet/0", "softnet/1"} <= last.keys()
    config = found[0].meta["config"]
    assert config["links"][counted.tap]["mtu_bytes"] == 1500


def test_a_guest_that_comes_later_is_sampled(lab: Host, guest: Guest) -> None:
    job, _ = start_recording(lab, name="later")
    late = lab.guest("late")
    try:
        assert udp(lab, late, 41).lost == 0
        assert udp(late, lab, 43).lost == 0
        lab.run("sleep 2")
        end = lab.counters(late.tap)
        stop_recording(lab, job)
        found = batches(lab.share / "later.vtrace")
        rows = samples(found, f"link/{late.tap}")
        assert len(rows) >= 2
        assert rows[-1]["tx_packets"] == end["link.tx_packets"] >= 41
        vms = [b.meta["vms"] for b in found if "vms" in b.meta]
        assert "late" not in [vm["name"] for vm in vms[0]]
        assert "late" in [vm["name"] for vm in vms[-1]]
        configs = [b.meta["config"] for b in found if "config" in b.meta]
        assert late.tap in configs[-1]["links"]
        threads = [r for n, r in found[-1].meta["counters"].items() if n.startswith("thread/")]
        assert "vhost" in {row["role"] for row in threads if row["vm"] == "late"}
    finally:
        late.kill()
