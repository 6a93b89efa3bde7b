"""Text of perf script and trace-cmd report: counts by hand, chains, damage, hostile lines."""

import gzip
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from parsers import eventmap
from parsers.opening import detect, open_any
from parsers.tracefile import TraceWriter, open_trace
from vtrace.errors import InputError, UsageError
from vtrace.model import Kind
from vtrace.session import Session

CAPTURES = Path(__file__).parent / "captures"
TEXTS = ("perf-script-receive.txt.gz", "perf-script-transmit.txt.gz", "ftrace-ring-full.txt.gz")
CAPTURED = os.environ.get("VTRACE_CAPTURES", "")
WHOLE = sorted(Path(CAPTURED).glob("*/TRUTH.txt")) if CAPTURED else []


def lines_of(name):
    return gzip.decompress((CAPTURES / name).read_bytes()).decode().splitlines()


def by_hand(lines):
    """How often each event stands in lines, without its system."""
    return Counter(
        found[1].rpartition(":")[2]
        for line in lines
        if (found := re.search(r"\] +[\d.]+: +([\w:]+): ", line))
    )


def kinds_of(path, **options):
    source = open_any(path, **options)
    counts = Counter()
    for batch in source.batches():
        counts.update(Kind(kind).name for kind in batch["kind"].tolist())
    return counts, source


def expected(events):
    """Kinds that counts of events must become, where nothing is cut off."""
    return {
        "KICK": events["ioeventfd_write"],
        "RUN": sum(n for name, n in events.items() if name.startswith("handle_")),
        "WAKE": events["poll_wakeup"],
        "RECV": events["tun_recvmsg_ret"],
        "SEND": events["tun_sendmsg_ret"],
        "ENABLE": events["enable_notify_ret"],
        "DROP": events["kfree_skb"],
        "IRQ": events["irqfd_wakeup"],
        "HAND_BACK": events["discard"],
        "SCHED_WAKE": events["sched_wakeup"] + events["sched_wakeup_new"],
    }


@pytest.mark.parametrize("name", TEXTS[:2])
def test_a_part_has_the_records_that_its_lines_count(name):
    events = by_hand(lines_of(name))
    counts, source = kinds_of(CAPTURES / name)
    assert counts["POP"] + counts["EMPTY"] == events["get_vq_desc_ret"] > 4
    assert counts["USED"] == events["add_used_n"] == counts["POP"]
    assert counts["ENQUEUE"] == events["tun_net_xmit_ret"]
    assert counts["DELIVER"] == events["netif_receive_skb"]
    for kind, count in expected(events).items():
        assert counts[kind] == count, kind
    told = source.metadata.section("imported")["events"]
    assert {key.rpartition(":")[2]: row["count"] for key, row in told.items()} == events
    assert not source.damage
    unmapped = {key for key, row in told.items() if row["as"] is None}
    assert "kvm:kvm_eoi" in unmapped
    assert "kvm:kvm_exit" not in unmapped


def test_a_full_ring_refuses_what_the_return_says():
    lines = lines_of(TEXTS[2])
    refused = sum("tun_net_xmit_ret:" in line and line.endswith("ret=1") for line in lines)
    accepted = sum("tun_net_xmit_ret:" in line and line.endswith("ret=0") for line in lines)
    counts, source = kinds_of(CAPTURES / TEXTS[2])
    assert (counts["ENQUEUE"], counts["REFUSE"]) == (accepted, refused)
    assert accepted > 10 < refused
    session = Session(open_any(CAPTURES / TEXTS[2]))
    (drop,) = session.summary().drops
    assert (drop["reason"], drop["packets"]) == ("FULL_RING", refused)
    # The interface is the place of what no queue is known for.
    queues = source.metadata.section("queues").values()
    assert [queue["device"] for queue in queues if queue["role"] == "interface"] == ["tap0"]


@pytest.mark.parametrize(
    ("name", "direction", "seen"),
    [
        (TEXTS[0], "rx", ("enqueue", "wake", "run", "pop", "backend", "used", "irq")),
        (TEXTS[1], "tx", ("wake", "run", "pop", "backend", "used", "irq")),
    ],
)
def test_lifecycles_are_as_complete_as_the_events(name, direction, seen):
    session = Session(open_any(CAPTURES / name))
    (table,) = [chunk.lifecycles for chunk in session.chunks() if len(chunk.lifecycles)]
    for part in seen:
        states = set(table.lists((f"{part}_state",))[0])
        assert states <= {"seen", "shared"}, part
    assert set(table.lists(("direction",))[0]) == {direction}
    assert set(table.lists(("outcome",))[0]) == {"used"}
    # Nobody looked at these: they are missing, and not 0.
    assert set(table.lists(("signal_state",))[0]) == {"not_probed"}
    for column in ("signal_ns", "descriptors", "readable_bytes", "writable_bytes", "used_bytes"):
        assert set(table.lists((column,))[0]) == {None}, column
    packets = table.lists(("packet",))[0]
    assert None not in packets
    assert len(set(packets)) == len(packets)


def test_what_was_not_recorded_is_null_in_a_report():
    session = Session(open_any(CAPTURES / TEXTS[0]))
    (queue,) = session.summary().queues
    assert queue["chains"] == queue["packets"] == queue["interrupts"]["sent"] > 0
    assert queue["used_bytes"] is None
    assert queue["handed_back"] is None
    assert queue["interrupts"]["needed"] is None
    # No kick is in this part: nobody can say whether there was one.
    assert queue["kicks"]["sent"] is None
    base = session.metadata.section("timebase")
    assert (base["clock"], base["resolution_ns"]) == ("unknown", 1000)


def test_an_imported_file_says_what_its_source_does(tmp_path):
    source = open_any(CAPTURES / TEXTS[0])
    path = tmp_path / "a.vtrace"
    with TraceWriter(path) as writer:
        for batch in source.batches():
            writer.write(batch)
    direct = Session(open_any(CAPTURES / TEXTS[0])).summary()
    with open_trace(path) as trace:
        session = Session(trace)
        summary = session.summary()
        assert not trace.damage
        assert session.metadata.section("unrecorded")["USED"] == ["length"]
    assert summary.queues == direct.queues
    assert summary.exits == direct.exits
    assert summary.drops == direct.drops


def test_blocks_cut_anywhere_give_the_same(monkeypatch):
    whole, _ = kinds_of(CAPTURES / TEXTS[0])
    monkeypatch.setattr("parsers.lines.BLOCK_BYTES", 3000)
    cut, source = kinds_of(CAPTURES / TEXTS[0])
    assert cut == whole
    assert source.metadata.section("loss")["late"] == 0


@pytest.mark.skipif(not WHOLE, reason="no captures: VTRACE_CAPTURES names their folder")
@pytest.mark.parametrize("truth", WHOLE, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("form", ["trace.dat", "perf.script.txt.gz"])
def test_whole_captures_have_the_counts_of_their_truth(truth, form):
    part = truth.read_text().partition("trace-cmd event counts:")[2]
    ftrace, _, perf = part.partition("perf event counts:")
    text = ftrace if form == "trace.dat" else perf.partition("pcap:")[0]
    events = Counter(
        {
            name.rpartition(":")[2]: int(count)
            for count, name in re.findall(r"^ *(\d+) ([\w:]+):$", text, re.MULTILINE)
        }
    )
    counts, source = kinds_of(truth.parent / form)
    told = source.metadata.section("imported")["events"]
    assert {name.rpartition(":")[2]: row["count"] for name, row in told.items()} == events
    for kind, count in expected(events).items():
        assert counts[kind] == count, kind
    assert counts["POP"] + counts["EMPTY"] == events["get_vq_desc"]
    assert counts["ENQUEUE"] + counts["REFUSE"] == events["tun_net_xmit"]
    delta = re.search(r"HOST delta .*'tx_dropped': (\d+)", truth.read_text())
    assert counts["REFUSE"] == (int(delta[1]) if delta else 0)
    assert counts["EXIT"] in (events["kvm_entry"], events["kvm_entry"] - 1)
    assert not source.damage


# Lines made by hand

HEAD = "qemu-system-x86  3622/3644  [000]"


def script(*events):
    """Lines of perf script, a microsecond apart; None is left out."""
    return "".join(
        f" {HEAD}  12.{at:06d}: {event}\n" for at, event in enumerate(events) if event
    ).encode()


def test_a_lost_return_is_a_missed_call(tmp_path):
    path = tmp_path / "a.txt"
    entry = "vh:get_vq_desc: (ff) vq=0xff00 num=256 last_avail={} last_used=0"
    path.write_bytes(
        script(
            entry.format(7),
            "vh:get_vq_desc_ret: (ff <- ee) ret=3",
            entry.format(8),
            entry.format(9),
            "vh:get_vq_desc_ret: (ff <- ee) ret=5",
        )
    )
    counts, source = kinds_of(path)
    assert counts["POP"] == 2
    assert source.metadata.section("calls")["vhost_get_vq_desc"] == {"entry": 3, "return": 2}
    assert Session(open_any(path)).summary() is not None


@pytest.mark.parametrize(
    ("marker", "lost"),
    [
        ("CPU:0 [37 EVENTS DROPPED]\n", 37),
        ("CPU:0 [LOST 41 EVENTS]\n", 41),
    ],
)
def test_events_that_the_tool_lost_are_lost_here(tmp_path, marker, lost):
    line = "  vhost-3622-3643  [000]  12.{:09d}: sched_wakeup: comm=a pid={} prio=1 target_cpu=0\n"
    path = tmp_path / "a.txt"
    path.write_text(line.format(1, 5) + marker + line.format(2, 6))
    batch, _ = open_any(path).batches()
    assert batch["seq"].tolist() == [1, 2 + lost]
    session = Session(open_any(path))
    session.summary()
    assert session.loss().lost == lost


def test_hostile_lines_cost_a_sentence(tmp_path):
    random = np.random.default_rng(5)
    noise = random.integers(0, 256, 200_000, np.uint8).tobytes()
    good = script("sched:sched_wakeup: comm=a pid=5 prio=1 target_cpu=0")
    wrong = [
        b" x 1/1 [000] 99999999999999999999.000000: a:b: c\n",
        b" x 1/1 [00000000000001] 1.000000: a:b: c\n",
        b" x 99999999999/1 [000] 1.000000: a:b: c\n",
        b" x 1/1 [000] 1.000000: vh:get_vq_desc: vq=0xfffffffffffffffffffffffff num=99999999999\n",
        b"y" * 300_000 + b"\n",
    ]
    path = tmp_path / "a.txt"
    path.write_bytes(good + b"".join(wrong) + noise + b"\n" + good)
    counts, source = kinds_of(path)
    assert counts["SCHED_WAKE"] == 2
    assert any("no events of a form" in damage.reason for damage in source.damage)
    assert any("too long" in damage.reason for damage in source.damage)


def test_names_without_end_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr("parsers.kernelevents.MOST_NAMES", 50)
    path = tmp_path / "a.txt"
    path.write_bytes(script(*(f"a:event{n}: x" for n in range(200))))
    _, source = kinds_of(path)
    events = source.metadata.section("imported")["events"]
    assert len(events) <= 51
    assert sum(row["count"] for row in events.values()) == 200


def test_a_comm_that_looks_like_a_head_is_none(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(
        script("sched:sched_wakeup: comm=a pid=5 prio=1 target_cpu=0")
        + b" 1/1 [1] 1: a:b  77/78  [003]  13.000001: sched:sched_wakeup: comm=b pid=6 prio=1\n"
    )
    batch = next(open_any(path, form="perf-script").batches())
    assert batch["cpu"].tolist() == [0, 3]
    assert batch["time"].tolist() == [12 * 10**9, 13_000_001_000]


def test_gzip_that_is_cut_short_keeps_what_came_before(tmp_path):
    data = (CAPTURES / TEXTS[0]).read_bytes()
    path = tmp_path / "a.txt.gz"
    path.write_bytes(data[: len(data) // 2])
    counts, source = kinds_of(path)
    assert counts["EXIT"] > 3
    assert any("gzip" in damage.reason for damage in source.damage)


# The table


def test_every_field_of_the_table_is_found_in_its_own_spelling():
    table = eventmap.load()
    for role in table.roles.values():
        assert table.role(role.all_names[0]) == role.name
        assert set(role.needs) <= set(role.fields)
        for name in role.fields:
            assert role.patterns(name)


def test_a_user_names_probes_and_fields(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(
        '[event.vhost_get_vq_desc]\nnames = ["mine"]\n'
        'fields.vq = ["queue"]\nfields.last_avail = ["la[=](\\\\d+)"]\n'
        '[event."vhost_get_vq_desc.return"]\nnames = ["mine_back"]\nfields.ret = ["got"]\n'
    )
    path = tmp_path / "a.txt"
    path.write_bytes(
        script("p:mine: (ff) queue=0xff00 num=256 la=7", "p:mine_back: (ff <- ee) got=3")
    )
    counts, _ = kinds_of(path)
    assert not counts["POP"]
    batch = next(open_any(path, table=own).batches())
    assert batch["kind"].tolist() == [Kind.POP]
    assert (batch["position"][0], batch["head"][0]) == (7, 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[event.nonsense]\nnames = []", "none of the events there are"),
        ('[event.kvm_exit]\nfields.nonsense = ["a"]', "has no field nonsense"),
        ('[event.kvm_exit]\nfields.reason = ["(a"]', "no regular expression"),
        ('[event.kvm_exit]\nfields.reason = ["(a)(b)"]', "one group"),
        ('[event.kvm_exit]\nnames = "a"', "a list of texts"),
        ("[event.kvm_exit", "no TOML"),
        ("[other]\na = 1", "found other"),
    ],
)
def test_a_wrong_table_is_a_sentence(tmp_path, text, told):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(told)):
        eventmap.load(path)


def test_formats_are_found_by_content():
    assert detect(b"ARROW1\0\0") == "vtrace"
    assert detect(b"\x17\x08\x44tracing7\0") == "trace.dat"
    assert detect(b"\x0a\x0d\x0d\x0a") == "pcapng"
    assert detect((CAPTURES / TEXTS[0]).read_bytes()) == "perf-script"
    assert detect((CAPTURES / TEXTS[2]).read_bytes()) == "ftrace"
    assert detect(b"hello\nworld\n") is None


def test_a_format_that_the_content_is_not_is_a_sentence(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"nothing of the sort\n" * 10)
    with pytest.raises(InputError, match="no recording of vtrace"):
        open_any(path)
    with pytest.raises(InputError, match="cannot be opened"):
        open_any(tmp_path / "absent", form="pcap")
