"""``vtrace exits --sum``, and exits by device in the report."""

import csv
import io
import json
from importlib.resources import files

import jsonschema
import pytest

from parsers.batch import EventBatch
from parsers.tracefile import TraceWriter
from tests.cli import story
from vtrace.errors import ExitCode

NOTIFY = 0xFE003000


def published(name):
    text = (files("vtrace") / "schemas" / f"{name}.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def row(reason, vcpu=0, *, count=1, ns=1000, user=(0, 0), **place):
    sums = {"count": count, "total_ns": ns, "user_count": user[0], "user_ns": user[1]}
    thread = {"vm": "cpx", "vcpu": vcpu, "pid": 1, "tid": 1001 + vcpu, "isa": "svm"}
    return thread | {"reason": reason} | sums | place


EXITS = [
    row(0x7B, count=5, ns=50_000, user=(5, 40_000), io="pio", write=True, address=0x3F8),
    row(0x7B, 1, count=2, ns=9_000, user=(2, 8_000), io="pio", write=False, address=0x3FD),
    row(0x7B, count=1, ns=3_000, user=(1, 1_000), io="pio", write=True, address=0xC123),
    row(0x400, count=4, ns=8_400, io="mmio", write=True, address=NOTIFY),
    row(0x400, count=3, ns=6_000, user=(3, 3_000), io="mmio", write=False, address=0xFEBC0000),
    row(0x400, count=9, ns=7_000, user=(9, 5_000), io="mmio", write=True, address=None),
    row(0x78, count=7, ns=70_000_000),
]
INTERRUPTS = [
    {"vm": "cpx", "pid": 1, "gsi": 4, "count": 3},
    {"vm": "cpx", "pid": 1, "gsi": 23, "count": 2},
    # The message that the story's IRQ has: 0x4021_fee0_0000.
    {"vm": "cpx", "pid": 1, "msi_address": 0xFEE00000, "msi_data": 0x4021, "count": 8},
    {"vm": "", "pid": 0, "msi_address": 0xFEE01000, "msi_data": 0x4022, "count": 1},
]


def write(path, **sections):
    made = story.small().batches(9, 20)
    made[-1].meta = made[-1].meta | sections
    with TraceWriter(path) as writer:
        for batch in made:
            writer.write(batch)
    return path


@pytest.fixture(scope="module")
def summed(tmp_path_factory):
    path = tmp_path_factory.mktemp("summed") / "summed.vtrace"
    return write(
        path,
        exits=EXITS,
        interrupts=INTERRUPTS,
        vms=[{"name": "cpx", "exe": "/usr/bin/qemu-system-x86_64", "devices": []}],
        loss={"late": 0, "missed": 0, "pending": 0, "exits": 6},
    )


def test_sums_for_scripts(vtrace, summed):
    done = vtrace("exits", "--sum", "--json", summed)
    assert (done.code, done.err) == (ExitCode.OK, "")
    found = json.loads(done.out)
    published("exit-sums").validate(found)
    devices = {
        (one["reason"], one["vcpu"], one["device"]): (one["count"], one["user_ns"])
        for one in found["exits"]
    }
    assert devices == {
        ("IOIO", 0, "COM1"): (5, 40_000),
        ("IOIO", 1, "COM1"): (2, 8_000),
        ("IOIO", 0, "unknown (port 0xc123)"): (1, 1_000),
        ("NPF", 0, "net0"): (4, 0),
        ("NPF", 0, "unknown (mmio 0xfebc0000)"): (3, 3_000),
        ("NPF", 0, "addresses not kept (mmio)"): (9, 5_000),
        ("HLT", 0, None): (7, 0),
    }
    (kick,) = [one for one in found["exits"] if one["device"] == "net0"]
    assert (kick["part"], kick["address"], kick["write"]) == ("notify tx0", NOTIFY, True)
    assert [(one["device"], one["count"]) for one in found["interrupts"]] == [
        ("unknown (msi 0xfee01000 0x4022)", 1),
        ("net0", 8),
        ("COM1", 3),
        ("unknown (gsi 23)", 2),
    ]
    assert found["unkept"] == {"exits": 6, "interrupts": 0}


def test_sums_as_text(vtrace, summed):
    done = vtrace("exits", "--sum", summed)
    assert (done.code, done.err) == (ExitCode.OK, "")
    (line,) = [line for line in done.lines if "COM1" in line and "write" in line]
    assert line.split()[:4] == ["cpx", "0", "IOIO", "COM1"]
    assert "6 exits are in no sum: there was no room" in done.out
    assert any("gsi 23" in line for line in done.lines)


def test_sums_as_csv(vtrace, summed):
    rows = list(csv.DictReader(io.StringIO(vtrace("exits", "--sum", "--csv", summed).out)))
    assert sum(int(one["count"]) for one in rows) == sum(one["count"] for one in EXITS)
    assert {one["device"] for one in rows if one["reason"] == "HLT"} == {""}


def test_some_rows_of_one_vm(vtrace, summed):
    found = json.loads(vtrace("exits", "--sum", "--json", "-c", "2", "--vm", "cpx", summed).out)
    assert [one["reason"] for one in found["exits"]] == ["HLT", "IOIO"]
    assert {one["vm"] for one in found["interrupts"]} == {"cpx"}


@pytest.mark.parametrize("options", [["--sum"], ["--sum", "--json"], []])
def test_a_vm_that_is_not_there(vtrace, summed, options):
    done = vtrace("exits", *options, "--vm", "x", summed)
    assert done.code == ExitCode.USAGE
    assert done.out == ""
    assert "there is no vm x in it; there is cpx" in done.err


def test_a_message_that_qemu_sends_itself(vtrace, tmp_path):
    rows = [
        {"vm": "cpx", "pid": 1, "msi_address": 0, "msi_data": 0x2A, "count": 3},
        # By its data it is the one that the story's IRQ has.
        {"vm": "cpx", "pid": 1, "msi_address": 0, "msi_data": 0x4021, "count": 2},
    ]
    path = write(tmp_path / "sent.vtrace", exits=EXITS, interrupts=rows)
    found = json.loads(vtrace("exits", "--sum", "--json", path).out)["interrupts"]
    assert [one["device"] for one in found] == [
        "unknown (message sent by QEMU itself, data 0x2a)",
        "net0",
    ]
    text = vtrace("exits", "--sum", path).out
    assert "msi by QEMU, data 0x2a" in text
    assert "0x0 " not in text


def test_a_recording_that_has_no_sums(vtrace, told):
    found = json.loads(vtrace("exits", "--sum", "--json", told).out)
    published("exit-sums").validate(found)
    assert [(one["reason"], one["count"], one["user_ns"]) for one in found["exits"]] == [
        ("EPT_MISCONFIG", 1, None),
        ("HLT", 1, None),
    ]
    assert found["interrupts"] is None


def test_an_old_recording_has_sums_without_devices(vtrace, root):
    path = root / "examples" / "traces" / "quiet.vtrace"
    found = json.loads(vtrace("exits", "--sum", "--json", path).out)
    published("exit-sums").validate(found)
    assert {one["device"] for one in found["exits"]} == {None}
    report = json.loads(vtrace("report", "--json", path).out)
    assert sum(one["count"] for one in found["exits"]) == sum(r["count"] for r in report["exits"])
    assert not report.keys() & {"device_exits", "interrupts"}


@pytest.mark.parametrize("words", [["-Y", "vcpu == 0"], ["--since", "1ms"], ["--until", "1ms"]])
def test_options_for_single_exits(vtrace, summed, words):
    done = vtrace("exits", "--sum", *words, summed)
    assert done.code == ExitCode.USAGE
    assert f"{words[0]} is for single exits" in done.err


def test_single_exits_as_csv(vtrace, told):
    rows = list(csv.DictReader(io.StringIO(vtrace("exits", "--csv", told).out)))
    assert [one["reason"] for one in rows] == ["EPT_MISCONFIG", "HLT"]


def test_the_report_has_them_beside_the_sums_by_reason(vtrace, summed):
    report = json.loads(vtrace("report", "--json", summed).out)
    published("report").validate(report)
    exits = {(one["vcpu"], one["reason"]): one["count"] for one in report["exits"]}
    assert exits == {(0, "HLT"): 7, (0, "IOIO"): 6, (0, "NPF"): 16, (1, "IOIO"): 2}
    assert sum(one["count"] for one in report["device_exits"]) == 24
    assert len(report["interrupts"]) == 4
    text = vtrace("report", summed).out
    assert "VM exits by device" in text
    none = json.loads(vtrace("report", "--json", "--queue", "tx0", "--vm", "cpx", summed).out)
    published("report").validate(none)


HOSTILE = [None, -1, 1 << 70, "x", [], {"a": 1}, 1.5, True]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_sections_that_make_no_sense_are_read_for_what_they_are(vtrace, tmp_path, value):
    keys = ("address", "io", "count", "user_ns", "user_count", "total_ns", "write", "vcpu", "vm")
    exits = [EXITS[0] | {key: value} for key in keys]
    interrupts = [INTERRUPTS[0] | {key: value} for key in ("gsi", "vm", "count")]
    names = ("base", "size", "io", "name", "device")
    regions = [{"base": 1, "size": 2, "name": "n"} | {key: value} for key in names] + [value]
    vms = [{"name": "cpx", "regions": regions, "lines": {"x": 1, "4": value}}]
    path = write(tmp_path / "odd.vtrace", exits=exits, interrupts=interrupts, vms=vms)
    for words in (["exits", "--sum"], ["report"]):
        done = vtrace(*words, "--json", path)
        assert done.code == ExitCode.OK, done.err
        published("exit-sums" if words[0] == "exits" else "report").validate(json.loads(done.out))
        assert vtrace(*words, path).code == ExitCode.OK


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_sections_of_another_shape_are_damage_and_not_a_crash(vtrace, tmp_path, value):
    odd = write(tmp_path / "odd.vtrace", exits=value, interrupts=value, vms=value)
    assert vtrace("exits", "--sum", odd).code in {ExitCode.OK, ExitCode.INPUT}


def test_no_events_but_sums(vtrace, tmp_path):
    path = tmp_path / "sums.vtrace"
    with TraceWriter(path) as writer:
        writer.write(EventBatch.empty({"exits": EXITS}))
    assert "COM1" in vtrace("exits", "--sum", path).out
    assert "see vtrace exits --sum" in vtrace("exits", path).err


# QEMU's memory tree


TREE = """\
FlatView #0
 AS "memory", root: system
 Root memory region: system
  00000000febc0000-00000000febdffff (prio 1, i/o): e1000-mmio
FlatView #1
 AS "I/O", root: io
  000000000000c100-000000000000c13f (prio 1, i/o): e1000-io owner:{dev id=nic5}
"""


def test_the_memory_tree_names_devices(vtrace, summed, tmp_path):
    tree = tmp_path / "tree.txt"
    tree.write_text(TREE)
    found = json.loads(vtrace("exits", "--sum", "--json", "--mtree", tree, summed).out)
    devices = {one["address"]: (one["device"], one["part"]) for one in found["exits"]}
    assert devices[0xC123] == ("nic5", "e1000-io")
    assert devices[0xFEBC0000] == ("e1000-mmio", "")
    assert devices[0x3F8] == ("COM1", "")
    both = json.loads(
        vtrace("diff", "--json", "--mtree-before", tree, "--per", "1", summed, summed).out
    )
    rows = {row["device"]: row for row in both["counts"] if row["what"] == "exits"}
    assert (rows["nic5"]["before"], rows["nic5"]["after"]) == (1, 0)
    assert rows["unknown (port 0xc123)"]["after"] == 1


def test_a_memory_tree_that_is_none(vtrace, summed, told, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("Hello\n")
    done = vtrace("exits", "--sum", "--mtree", empty, summed)
    assert (done.code, len(done.err.splitlines())) == (ExitCode.INPUT, 1)
    assert "info mtree -f" in done.err
    assert str(empty) in done.err
    empty.write_text("")
    done = vtrace("diff", "--mtree-after", empty, summed, summed)
    assert (done.code, done.out) == (ExitCode.INPUT, "")
    assert str(empty) in done.err
    done = vtrace("exits", "--sum", "--mtree", tmp_path / "none.txt", summed)
    assert (done.code, len(done.err.splitlines())) == (ExitCode.INPUT, 1)
    tree = tmp_path / "tree.txt"
    tree.write_text(TREE)
    for words in (["--vm", "other"], []):
        done = vtrace("exits", "--sum", "--mtree", tree, *words, told if not words else summed)
        assert done.code == ExitCode.USAGE
    assert vtrace("exits", "--mtree", tree, summed).code == ExitCode.USAGE
