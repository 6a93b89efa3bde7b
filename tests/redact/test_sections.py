"""Names redacted: a rule for every section, nothing passes without one, and nothing is left."""

import json

import pytest

from parsers.batch import EventBatch
from parsers.tracefile.layout import SHAPES
from tests.diagnose_rules.hosts import SANE
from vtrace.model import Kind
from vtrace.redact import SECTIONS, Check, Redactor
from vtrace.redact.sections import ORDINARY

VM = "billing-db"
EVERYTHING = {
    "host": {"kernel": "6.1.0-56-amd64", "hostname": "rack7-node3", "cpus": 2, "mode": "full"},
    "clock": [{"monotonic_ns": 1, "realtime_ns": 2}],
    "queues": {
        "1": {"id": 1, "role": "virtqueue", "vm": VM, "device": "wan-uplink", "name": "rx0"}
        | {"direction": "rx", "interface": "tap-cust9", "extra": {"device_type": "net", "x": 1}},
        "2": {"id": 2, "role": "interface", "device": "tap-cust9", "interface": "tap-cust9"},
        "4": {"id": 4, "role": "tap", "vm": VM, "device": "wan-uplink", "interface": "tap-cust9"}
        | {"qom": "/machine/peripheral/wan-uplink", "extra": {"port": "com.acme.secret.0"}},
        "3": {"id": 3, "role": "virtqueue", "vm": "pid:77", "device": "net0", "name": "vq1"},
    },
    "threads": {"9": {"comm": "vhost-77", "role": "vhost", "vm": VM, "pid": 77}},
    "comms": {"5": "acme-agentd", "6": "swapper/0", "7": "kworker/0:1-acmewq", "8": "IO io-gold"},
    "places": {"4": "tun_net_xmit", "5": "nf_hook_slow [nf_tables]"},
    "reasons": {"67": "FULL_RING"},
    "probes": {
        "virtqueue_pop": {
            "program": "qemu_virtio",
            "state": "failed",
            "reason": "/opt/acme/bin/qemu: no function",
        },
        "tun_net_xmit:return": {"program": "tun", "state": "attached", "reason": "tun_net_xmit"},
    },
    "calls": {"pop": {"entry": 1, "return": 1}},
    "counts": {"POP": {"produced": 1, "received": 1, "lost": 0}},
    "loss": {"late": 0},
    "exits": [{"vm": VM, "pid": 77, "tid": 9, "reason": 49, "count": 3, "total_ns": 4}],
    "interrupts": [{"vm": VM, "pid": 77, "count": 2, "gsi": 11}],
    "vms": [
        {
            "name": VM,
            "pid": 77,
            "exe": "/opt/acme/bin/qemu-system-x86_64",
            "version": "7.2.22 (Acme build 5)",
            "uuid": "01234567-89ab-4def-8123-456789abcdef",
            "container": "f00dfeed",
            "argv": ["-name", VM, "-netdev", "user,hostfwd=tcp::2222-:22"],
            "threads": [{"tid": 9, "comm": "IO io-gold", "iothread": "io-gold"}],
            "devices": [
                {
                    "id": "wan-uplink",
                    "kind": "net",
                    "address": "0000:00:03.0",
                    "qom": "/machine/peripheral/wan-uplink/virtio-backend",
                    "queues": [{"index": 0, "name": "rx0", "port": "com.acme.secret.0"}],
                    "net": {
                        "id": "hn-wan",
                        "interface": "tap-cust9",
                        "master": "br-cust9",
                        "path": "/run/acme/vhost.sock",
                        "offloads": {"rx-gro": True},
                    },
                    "drive": "gold-lun7",
                    "notes": ["the bridge br-cust9 is down"],
                    "serial_number": "SN-ACME-1",
                }
            ],
            "regions": [{"io": "pio", "base": 1, "size": 2, "name": "acme-io", "device": "net0"}],
            "lines": {"11": "wan-uplink"},
        }
    ],
    "capture": {"capture_filter": "host 10.71.82.93", "vm": VM, "snap_bytes": 64, "programs": []},
    "counters": {
        "link/tap-cust9": {"lo_ns": 1, "hi_ns": 2, "ifindex": 5, "tx_dropped": 6},
        "link/br-cust9@4026532290": {"lo_ns": 1, "hi_ns": 2, "rx_packets": 6},
        "qdisc/tap-cust9/8001:": {"lo_ns": 1, "hi_ns": 2, "kind": "fq_codel", "drops": 1},
        "ethtool/eno-acme": {"lo_ns": 1, "hi_ns": 2, "rx_queue_0_drops": 1},
        "socket/udp/991": {"local": "10.71.82.93:53", "comm": "acme-agentd", "drops": 3},
        "nft/inet/acme_fw/forward/7": {
            "packets": 1,
            "verdict": "drop",
            "rule": "ip saddr 10.1.1.1",
        },
        "thread/9": {"comm": "vhost-77", "role": "vhost", "vm": VM, "run_ns": 4},
        "cgroup/machine.slice/machine-qemu-billing-db.scope": {"nr_throttled": 1},
        f"guest/{VM}/link/ens-acme": {"rx_dropped": 1},
        f"guest/{VM}/udp": {"RcvbufErrors": 4},
        "strange/acme": {"x": 1},
        "missing": [f"counters of guest {VM}: no answer"],
    },
    "imported": {"format": "perf.data", "events": {"acme:probe-1": {"count": 1, "as": None}}},
    "timebase": {"clock": "monotonic", "resolution_ns": 1, "known_by": "-k mono"},
    "unrecorded": {"POP": ["room"]},
    "rings": {"1": {"lo_ns": 1, "hi_ns": 2, "avail": 3}},
    "config": SANE["config"]
    | {
        "neighbours": [
            {
                "address": "10.71.82.93",
                "link": "br-cust9",
                "state": "stale",
                "mac": "52:54:00:9a:bc:de",
            }
        ],
        "routes": [{"destination": "10.71.82.0/24", "family": "inet", "link": "br-cust9"}],
        "firewall": {"tables": ["inet acme_fw"], "drop_policies": ["inet acme_fw forward"]},
        "missing": [f"options of {VM}: not readable"],
        "netdevs": {
            VM: {"hn-wan": {"type": "tap", "ifname": "tap-cust9", "script": "/opt/acme/up"}}
        },
        "nics": {VM: {"wan-uplink": {"mac": "52:54:00:9a:bc:de", "mq": "on", "serial": "SN-1"}}},
    },
    "qmp": {
        VM: {
            "look": {
                "lo_ns": 1,
                "hi_ns": 2,
                "version": "7.2.22 (acme)",
                "state": "running",
                "devices": {
                    "wan-uplink": {
                        "path": "/machine/peripheral/wan-uplink/virtio-backend",
                        "virtio": "virtio-net",
                        "features": ["VIRTIO_F_VERSION_1: Device compliant"],
                        "bits": 3,
                        "queues": [{"index": 0, "name": "rx0", "size": 256}],
                    }
                },
            },
            "missing": "the socket /run/acme/mon is gone",
        }
    },
    "gap": {"first_ns": 1, "last_ns": 2},
    "end": {"reason": "stopped", "ended_ns": 9},
}
SECRET = (
    "billing",
    "rack7",
    "wan-uplink",
    "cust9",
    "acme",
    "gold",
    "SN-",
    "hostfwd",
    "f00d",
    "hn-wan",
)
SECRET += ("10.71.82", "10.1.1.1", "9a:bc:de", "89ab", "2222", "ens-", "eno-", "/opt", "/run")


def redacted(meta, **options):
    redactor = Redactor(**options)
    batch = EventBatch.empty(meta)
    redactor.collect(batch)
    redactor.seal()
    after = redactor.redact(batch).meta
    check = Check(redactor.names)
    check.metadata(json.loads(json.dumps(after)))
    return redactor, after, check


def test_every_section_of_a_file_has_a_rule():
    assert set(SHAPES) <= set(SECTIONS)
    # And the sections of these tests are all that there are.
    assert set(EVERYTHING) == set(SECTIONS)


@pytest.mark.parametrize("salt", ["", "a salt"])
def test_nothing_that_is_secret_is_left_and_all_that_counts_stays(salt):
    redactor, after, check = redacted(EVERYTHING, salt=salt)
    assert check.found == []
    said = json.dumps(after).lower()
    for secret in SECRET:
        assert secret.lower() not in said, secret
    assert set(after) == set(EVERYTHING)
    for name in ("clock", "calls", "counts", "loss", "rings", "gap", "end", "unrecorded"):
        assert after[name] == EVERYTHING[name]
    assert after["host"]["kernel"] == "6.1.0-56-amd64"
    assert after["places"] == EVERYTHING["places"]
    assert after["vms"][0]["version"] == "7.2.22"
    assert set(redactor.names.dropped) == {
        "vms[].*",
        "vms[].devices[].*",
        "counters.*",
        "config.netdevs.*.*.*",
        "config.nics.*.*.*",
    }


def test_what_is_one_thing_has_one_name_everywhere():
    _, after, _ = redacted(EVERYTHING)
    vm = after["vms"][0]["name"]
    assert after["queues"]["1"]["vm"] == vm == after["capture"]["vm"]
    assert set(after["qmp"]) == {vm} == set(after["config"]["nics"])
    assert after["queues"]["3"]["vm"] == "pid:77"
    tap = after["queues"]["1"]["interface"]
    assert (
        after["queues"]["2"]["device"] == tap == after["vms"][0]["devices"][0]["net"]["interface"]
    )
    assert f"link/{tap}" in after["counters"]
    assert f"qdisc/{tap}/8001:" in after["counters"]
    assert after["config"]["netdevs"][vm]["device1"]["ifname"] == tap
    device = after["queues"]["1"]["device"]
    assert after["vms"][0]["devices"][0]["qom"] == f"/machine/peripheral/{device}/virtio-backend"
    assert set(after["qmp"][vm]["look"]["devices"]) == {device}
    assert after["vms"][0]["lines"] == {"11": device}
    assert after["queues"]["4"]["device"] == device
    assert after["queues"]["4"]["qom"] == f"/machine/peripheral/{device}"
    port = after["vms"][0]["devices"][0]["queues"][0]["port"]
    assert after["queues"]["4"]["extra"] == {"port": port}
    bridge = after["vms"][0]["devices"][0]["net"]["master"]
    assert f"link/{bridge}@4026532290" in after["counters"]
    neighbour = after["config"]["neighbours"][0]
    assert neighbour["link"] == bridge
    assert after["counters"]["socket/udp/991"]["local"] == f"{neighbour['address']}:53"
    assert after["config"]["nics"][vm][device]["mac"] == neighbour["mac"]
    assert after["comms"]["5"] == after["counters"]["socket/udp/991"]["comm"]
    assert after["comms"]["6"] == "swapper/0"
    assert after["comms"]["7"] == "kworker/0:1"


def test_a_section_or_shape_that_is_not_known_is_dropped_and_said():
    redactor, after, _ = redacted({"host": ["a", "list"], "futures": {"secret": "acme"}})
    assert after == {}
    assert set(redactor.names.dropped) == {
        "host",
        "futures (a section that this version does not know)",
    }


NASTY = ["vm", "web", "web1", "web10", "1web", "net", "queues", "vm1", "vm2", "VM3", "task", "ask"]
NASTY += [
    "\udcff\udcfebad",
    "naïve-名前",
    "a\nb\x1b[31m",
    "145",
    "if1",
    "re",
    "end",
    "0",
    "lin",
    "us",
]


@pytest.mark.parametrize("salt", ["", "s"])
def test_names_that_are_parts_of_each_other_of_words_and_of_replacements(salt):
    meta = {
        "vms": [{"name": name, "pid": 1, "notes": [name]} for name in NASTY],
        "threads": {"145": {"comm": "web", "vm": "web1", "role": "vcpu"}},
        "host": {"hostname": "web", "kernel": "6.1.0-web"},
        "queues": {"1": {"vm": "web10", "interface": "web1", "device": "web"}},
    }
    redactor, after, check = redacted(meta, salt=salt)
    assert check.found == []
    said = [vm["name"] for vm in after["vms"]]
    assert len(set(said)) == len(NASTY)
    assert after["host"]["kernel"].startswith("6.1.0-")
    assert "web" not in after["host"]["kernel"]
    for name in NASTY:
        if name.lower() not in ORDINARY and len(name) > 2 and not name.isdigit():
            assert name not in said
    assert redactor.names.unsearchable > 0
    mapping = redactor.names.mapping()
    assert {mapping["VM"][new] for new in said} == set(NASTY)


def test_the_check_finds_a_name_and_an_address_that_a_rule_let_through():
    redactor, _, _ = redacted(EVERYTHING)
    for text in (
        VM,
        f"on {VM}!",
        "tap-cust9",
        "ip 10.71.82.93 is",
        "x 52:54:00:9A:BC:DE",
        "10.71.82.93/24",
    ):
        check = Check(redactor.names)
        check.metadata({"host": {"kernel": text}})
        assert len(check.found) == 1, text
        assert "stands in" in check.found[0]


def test_a_salt_gives_the_same_names_in_another_recording():
    one = redacted(EVERYTHING, salt="s")[1]
    other = redacted({"host": {"hostname": "rack7-node3"}, "vms": [{"name": VM}]}, salt="s")[1]
    assert other["vms"][0]["name"] == one["vms"][0]["name"]
    assert other["host"]["hostname"] == one["host"]["hostname"]
    third = redacted({"vms": [{"name": VM}]}, salt="t")[1]
    assert third["vms"][0]["name"] != one["vms"][0]["name"]


def test_texts_that_are_kept_lose_their_names():
    _, after, check = redacted(EVERYTHING, keep=frozenset({"text"}))
    assert check.found == []
    assert after["config"]["missing"] == [f"options of {after['vms'][0]['name']}: not readable"]


def test_ordinary_words_are_those_of_the_format():
    assert {"vms", "queues", "vhost", "net", "pop"} <= ORDINARY
    assert {kind.name.lower() for kind in Kind} <= ORDINARY
    assert not {"lab", "web1", "prod"} & ORDINARY
