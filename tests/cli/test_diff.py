"""``vtrace diff``: recordings whose difference is known."""

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from parsers.batch import EventBatch
from parsers.tracefile import TraceWriter
from tests.cli import recordings, story
from tests.cli.recordings import batches, scenario, simulate
from tests.generator import lose_bursts
from vtrace.errors import ExitCode
from vtrace.model import Kind

SECOND = 1_000_000_000


def published():
    text = (files("vtrace") / "schemas" / "diff.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


def diffed(vtrace, *words):
    done = vtrace("diff", "--json", *words)
    assert done.code == ExitCode.OK, done.err
    found = json.loads(done.out)
    published().validate(found)
    return found


def write(path, made):
    with TraceWriter(path) as writer:
        for batch in made:
            writer.write(batch)
    return path


def changed(path, change=lambda meta: None, later=lambda records: records):
    """Write a simulated recording with other metadata, or with later signals."""
    made = batches(later(simulate(scenario(tap_capacity=200, rx_size=256))))
    change(made[0].meta)
    made[-1].meta = made[-1].meta | {}
    return write(path, made)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return changed(tmp_path_factory.mktemp("plain") / "plain.vtrace")


def test_a_recording_against_itself_has_no_change(vtrace, plain):
    found = diffed(vtrace, plain, plain)
    assert found["stages"]
    assert {row["verdict"] for row in found["stages"]} <= {"same", "too few"}
    assert any(row["verdict"] == "same" for row in found["stages"])
    for row in (*found["counts"], *found["exits"], *found["drops"]):
        assert row["before"] == row["after"]
    assert found["warnings"] == []
    assert found["per"] == "packet"


def test_a_stage_that_took_longer_is_found_and_no_other(vtrace, plain, tmp_path):
    def later(recording):
        # Interrupts reach KVM 3 us after the decision, not at once: stage "interrupt" alone.
        records = recording.records.copy()
        irqs = records["kind"] == Kind.IRQ
        records["time"][irqs] += 3000
        records["cpu"][irqs] = 30
        records = records[np.argsort(records["time"], kind="stable")]
        mine = records["cpu"] == 30
        records["seq"][mine] = np.arange(mine.sum())
        recording.records = records
        return recording

    slow = changed(tmp_path / "slow.vtrace", later=later)
    found = diffed(vtrace, plain, slow)
    medians = {
        (row["queue"], row["stage"]): row for row in found["stages"] if row["percentile"] == 50
    }
    row = medians["tx0", "interrupt"]
    assert row["verdict"] == "longer"
    assert row["low_ns"] <= 3000 <= row["high_ns"]
    for stage in ("queueing", "service", "complete"):
        assert medians["tx0", stage]["verdict"] == "same"
    back = diffed(vtrace, slow, plain)
    rows = [r for r in back["stages"] if (r["queue"], r["stage"]) == ("tx0", "interrupt")]
    assert rows[0]["verdict"] == "shorter"
    assert (rows[0]["low_ns"], rows[0]["high_ns"]) == (-row["high_ns"], -row["low_ns"])


# An emulated device and its twin


def exit_row(reason, *, io=None, address=None, count=1, ns=1000, user=(0, 0), write=True):
    row = {"vm": "cpx", "vcpu": 0, "pid": 1, "tid": 1001, "isa": "svm", "reason": reason}
    row |= {"count": count, "total_ns": ns, "user_count": user[0], "user_ns": user[1]}
    return row | ({"io": io, "write": write, "address": address} if io else {})


def vms(driver, *regions):
    net = {"type": "tap", "interface": "tap0", "netns": None}
    device = {"id": "nic0", "kind": "net", "driver": driver, "net": net}
    return [{"name": "cpx", "exe": "/usr/bin/qemu-system-x86_64", "version": "7.2.22",
             "devices": [device], "regions": list(regions)}]  # fmt: skip


def link(time, packets):
    return {"link/tap0": {"lo_ns": time, "hi_ns": time, "rx_packets": packets, "tx_packets": 0}}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """Return a recording of an e1000: no queues, no events; 50 packets by the tap's counters."""
    start = story.START
    bar = {"io": "mmio", "base": 0xFEBC0000, "size": 0x20000, "name": "BAR 0", "device": "nic0"}
    first = {
        "host": {"kernel": "6.12.0-test"},
        "clock": [{"monotonic_ns": start, "realtime_ns": recordings.REALTIME}],
        "vms": vms("e1000", bar),
        "counters": link(start + 1, 1000),
    }
    last = {
        "exits": [
            exit_row(0x400, io="mmio", address=0xFEBC3000, count=150, ns=3_000_000,
                     user=(150, 2_000_000)),
            exit_row(0x7B, io="pio", address=0x3F8, count=7, ns=70_000, user=(7, 50_000)),
            exit_row(0x400, io="mmio", address=0xC0000000, count=2, ns=2000, user=(2, 1000)),
            exit_row(0x78, count=9, ns=10**8),
        ],
        "interrupts": [
            {"vm": "cpx", "pid": 1, "gsi": 4, "count": 3},
            {"vm": "cpx", "pid": 1, "gsi": 11, "count": 25},
        ],
        "counters": link(start + SECOND, 1050),
        "end": {"reason": "stopped", "ended_ns": start + 2 * SECOND},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("emulated") / "e1000.vtrace"
    return write(path, [EventBatch.empty(first), EventBatch.empty(last)])


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Return a recording of virtio-net under vhost: one kick for two packets."""
    made = story.small().batches(9, 20)
    kicked = exit_row(0x400, io="mmio", address=0xFE003000, count=1, ns=2100)
    made[0].meta |= {"vms": vms("virtio-net-pci"), "counters": link(story.START, 7)}
    for queue in made[0].meta["queues"].values():
        queue["device"] = "nic0" if queue["device"] == "net0" else queue["device"]
    made[-1].meta = made[-1].meta | {
        "exits": [kicked, exit_row(0x78, count=4, ns=10**7)],
        "interrupts": [
            {"vm": "cpx", "pid": 1, "msi_address": 0xFEE00000, "msi_data": 0x4021, "count": 1}
        ],
        "counters": link(story.START + SECOND, 12),
    }
    return write(tmp_path_factory.mktemp("twin") / "virtio.vtrace", made)


def counts(found, device, queue=""):
    return {
        row["what"]: (row["before"], row["after"], row["before_per"], row["after_per"])
        for row in found["counts"]
        if (row["device"], row["queue"]) == (device, queue)
    }


def test_an_emulated_device_beside_its_virtio_twin(vtrace, emulated, twin):
    found = diffed(vtrace, emulated, twin)
    assert found["per"] == "packet"
    assert (found["before"]["units"], found["after"]["units"]) == (50, 5)
    assert found["before"]["basis"] == found["after"]["basis"] == "counters: tap0"
    assert found["before"]["duration_ns"] == 2 * SECOND
    nic = counts(found, "nic0")
    assert nic["exits"] == (150, 1, 3.0, 0.2)
    assert nic["outside_ns"] == (3_000_000, 2100, 60_000.0, 420.0)
    assert nic["exits_to_qemu"] == (150, 0, 3.0, 0.0)
    assert nic["qemu_ns"] == (2_000_000, 0, 40_000.0, 0.0)
    assert nic["interrupts"] == (0, 1, 0.0, 0.2)
    assert counts(found, "nic0", "tx0")["kicks_sent"] == (None, 1, None, 0.2)
    assert counts(found, "COM1")["exits"][:2] == (7, 0)
    assert counts(found, "COM1")["interrupts"][:2] == (3, 0)
    # What is not known is said, with its address.
    assert counts(found, "unknown (mmio 0xc0000000)")["exits"][:2] == (2, 0)
    assert counts(found, "unknown (gsi 11)")["interrupts"][:2] == (25, 0)
    (halts,) = [row for row in found["exits"] if row["reason"] == "HLT"]
    assert (halts["device"], halts["before"]["count"], halts["after"]["count"]) == ("", 9, 4)


def test_text_of_it(vtrace, emulated, twin):
    done = vtrace("diff", emulated, twin)
    assert (done.code, done.err) == (ExitCode.OK, "")
    assert "50 packets (counters: tap0)" in done.lines[0]
    assert "per packet" in done.lines[2]
    (line,) = [line for line in done.lines if "exits to QEMU" in line and "150" in line]
    assert line.split()[-1] == "gone"
    assert "\x1b" not in done.out


def test_markdown_of_it(vtrace, emulated, twin):
    done = vtrace("diff", "--markdown", emulated, twin)
    assert done.code == ExitCode.OK
    tables = [line for line in done.lines if line.startswith("| ---")]
    assert len(tables) == sum(line.startswith("### ") for line in done.lines) >= 4
    for line in done.lines:
        assert not line.startswith("|") or line.endswith(" |")


def test_an_old_recording_without_devices(vtrace, root, twin):
    old = root / "examples" / "traces" / "quiet.vtrace"
    found = diffed(vtrace, old, twin, "--per", "second")
    assert any("without device and time in QEMU" in warning for warning in found["warnings"])
    (exits,) = [row for row in found["exits"] if row["reason"] == "INTR"]
    assert exits["before"]["count"] == 1443
    assert exits["before"]["user_count"] is None


# Units and names


def test_a_number_that_is_known(vtrace, emulated, twin):
    found = diffed(vtrace, "--per", "75:5", emulated, twin)
    assert found["per"] == "unit"
    assert counts(found, "nic0")["exits"][2:] == (2.0, 0.2)


def test_one_vm_alone(vtrace, plain):
    whole = diffed(vtrace, "--per", "second", plain, plain)
    (vm,) = {row["vm"] for row in whole["exits"] if row["vm"]}
    found = diffed(vtrace, "--vm", vm, "--per", "second", plain, plain)
    assert len(found["exits"]) == len(whole["exits"])


def test_a_vm_that_is_in_neither(vtrace, plain):
    done = vtrace("diff", "--vm", "nobody", plain, plain)
    assert done.code == ExitCode.USAGE
    assert done.out == ""
    assert "there is no vm nobody in it; there is " in done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--per", "request"], "--per request: {} has no requests"),
        (["--per", "0"], "neither packet, request, second nor a number"),
        (["--per", "1:2:3"], "neither packet, request, second nor a number"),
        (["--map", "net0"], "'net0' is not BEFORE=AFTER"),
        (["--map", "nosuch=net0"], "there is no device nosuch in {}"),
        (["--confidence", "100"], "no confidence from 50 to 99.99"),
        (["--json", "--markdown"], "not allowed with"),
        (["--max-loss", "x"], "neither a number of records nor a share"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(vtrace, plain, words, sentence):
    done = vtrace("diff", *words, plain, plain)
    assert done.code == ExitCode.USAGE
    assert done.out == ""
    assert sentence.format(plain) in done.err
    assert len(done.err.splitlines()) == 1


def test_two_from_stdin(vtrace):
    assert vtrace("diff", "-", "-").code == ExitCode.USAGE


def test_a_recording_that_is_not_there(vtrace, plain, tmp_path):
    done = vtrace("diff", plain, tmp_path / "nothing.vtrace")
    assert done.code == ExitCode.INPUT
    assert len(done.err.splitlines()) == 1


def test_a_recording_that_was_cut_short_is_compared_and_told(vtrace, plain, tmp_path):
    short = tmp_path / "short.vtrace"
    short.write_bytes(plain.read_bytes()[:-2000])
    done = vtrace("diff", "--json", plain, short)
    assert done.code == ExitCode.INPUT
    published().validate(json.loads(done.out))


def test_loss_is_a_warning_and_with_max_loss_an_exit_code(vtrace, plain, tmp_path):
    recording = lose_bursts(simulate(scenario()), np.random.default_rng(3), 4, 20)
    lossy = recordings.write(tmp_path / "lossy.vtrace", recording)
    found = diffed(vtrace, plain, lossy)
    assert any("records were lost" in warning for warning in found["warnings"])
    done = vtrace("diff", "--max-loss", "0", plain, lossy)
    assert done.code == ExitCode.LOSS
    assert done.out
