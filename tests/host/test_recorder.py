"""The recorder as its user meets it on a real host: loss, filters, privilege, a clean end."""

import json
import time

import pytest

from parsers.tracefile import open_trace
from tests.host.conftest import START_S, frozen, start_recording, stop_recording
from tests.host.rows import read_rows, udp_packets
from tests.testbed import Host, udp
from tests.testbed.guest import Guest
from vtrace.model import Kind, Trust


def _left_behind(lab: Host) -> dict[str, int]:
    """Count what tracing leaves in a kernel: programs, probe events, processes."""
    programs = json.loads(lab.run("bpftool -j prog show").out)
    return {
        "programs": sum(p["type"] in ("kprobe", "tracepoint", "tracing") for p in programs),
        "events": len(lab.run("cat /sys/kernel/tracing/kprobe_events").out.split()),
        "processes": len(lab.run("pgrep -f '^python3 -m vtrace record' || true").out.split()),
    }


CLEAN = {"programs": 0, "events": 0, "processes": 0}


def test_doctors_table_is_what_attaching_does(lab: Host) -> None:
    with frozen(lab):
        done = lab.run("cd / && python3 -m vtrace doctor --attach --json", timeout=START_S)
    report = json.loads(done.out)
    points = [point for program in report["programs"] for point in program["points"]]
    assert len(points) > 25
    assert [p["name"] for p in points if p["ready"] != p["attached"]] == []
    # A function that only newer QEMUs have.
    lacking = [p for p in points if not p["ready"]]
    assert all(p["reason"].endswith("and does without") for p in lacking), lacking


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_host_is_left_clean(lab: Host, guest: Guest, how: str) -> None:
    assert _left_behind(lab) == CLEAN
    job, _ = start_recording(lab, name="clean")
    assert _left_behind(lab)["programs"] > 20
    assert udp(lab, guest, 101).lost == 0
    time.sleep(1.5)
    if how == "SIGINT":
        stop_recording(lab, job)
    else:
        with frozen(lab):
            lab.run(f"kill -9 {job.pid}")
            job.join(10)
            deadline = time.monotonic() + 10
            while _left_behind(lab) != CLEAN and time.monotonic() < deadline:
                time.sleep(0.2)
    assert _left_behind(lab) == CLEAN
    # What had been flushed can be read.
    with open_trace(lab.share / "clean.vtrace") as trace:
        packets = sum(int((batch["kind"] == Kind.ENQUEUE).sum()) for batch in trace.batches())
    assert packets >= 101


def test_overflow_is_counted_and_pairs_nothing_wrongly(lab: Host, guest: Guest) -> None:
    job, _ = start_recording(lab, "--ring-size", "64KB", "--no-sched", name="overflow")
    reader = lab.run(f"pgrep -P {job.pid}").out.strip()
    lab.run(f"kill -STOP {reader}")
    try:
        assert udp(lab, guest, 401, pps=400).lost == 0
    finally:
        lab.run(f"kill -CONT {reader}")
    time.sleep(1)
    assert udp(lab, guest, 101).lost == 0
    stop_recording(lab, job)
    rows = read_rows(lab.share / "overflow.vtrace")
    counts = rows.metadata.section("counts").values()
    produced, received, lost = (sum(c[k] for c in counts) for k in ("produced", "received", "lost"))
    assert lost > 0
    assert produced == received + lost
    assert rows.metadata.section("loss")["pending"] == 0
    # A complete chain has its own packet, in the order in which packets came.
    chains = rows.chains_of(rows.queue("shared", "rx0"))
    complete = (chains["trust"] == Trust.COMPLETE) & (chains["packet"] != 0)
    assert complete.sum() >= 101
    packets = chains["packet"][complete].tolist()
    assert len(set(packets)) == len(packets)
    sizes = chains["used_bytes"][complete]
    ours = udp_packets(rows, 7001)
    assert {int(size) for size, p in zip(sizes, packets, strict=True) if p in ours} == {
        200 + 8 + 20 + 14 + 12
    }


def test_capture_filter_keeps_whole_chains(lab: Host, guest: Guest) -> None:
    job, _ = start_recording(lab, "--no-sched", "-f", "'udp port 7002'", name="filtered")
    results = [
        udp(lab, guest, 101, port=7001),
        udp(lab, guest, 103, port=7002),
        udp(guest, lab, 107, port=7001),
        udp(guest, lab, 109, port=7002),
    ]
    assert [r.lost for r in results] == [0, 0, 0, 0]
    stop_recording(lab, job)
    rows = read_rows(lab.share / "filtered.vtrace")
    assert udp_packets(rows, 7001) == set()
    for name, count in (("rx0", 103), ("tx0", 109)):
        chains = rows.chains_of(rows.queue("shared", name))
        assert len(chains["pop_ns"]) == count
        assert (chains["packet"] != 0).all()
        assert (chains["used_ns"] != 0).all()


def test_bad_filter_is_one_sentence(lab: Host) -> None:
    done = lab.run(
        "cd / && python3 -m vtrace record -w /share/none.vtrace -f 'udp prot 7'", check=False
    )
    assert done.rc == 2
    assert "capture filter" in done.err
    assert "Traceback" not in done.err
    assert not (lab.share / "none.vtrace").exists()


def test_recorder_runs_as_the_invoking_user(lab: Host, guest: Guest) -> None:
    lab.run("rm -f /share/user.vtrace; mkdir -p /tmp/user && chown 1000:1000 /tmp/user")
    with frozen(lab):
        job = lab.start(
            "cd / && SUDO_UID=1000 SUDO_GID=1000 SUDO_USER=someone "
            "exec python3 -m vtrace record --no-sched -w /tmp/user/user.vtrace"
        )
        job.wait_for("recording into", timeout=START_S)
    uids = lab.run(
        "for p in $(pgrep -f '^python3 -m vtrace record'); do grep ^Uid /proc/$p/status; done"
    ).out.split("\n")
    effective = sorted(line.split()[2] for line in uids if line)
    assert effective == ["0", "1000"]
    assert udp(lab, guest, 31).lost == 0
    stop_recording(lab, job)
    assert lab.run("stat -c '%u %a' /tmp/user/user.vtrace").out.split() == ["1000", "600"]


def test_an_ordinary_user_is_told_what_is_missing(lab: Host) -> None:
    done = lab.run(
        "cd / && setpriv --reuid 1000 --regid 1000 --clear-groups env PYTHONPATH=$PYTHONPATH "
        "python3 -m vtrace record -w /tmp/no.vtrace",
        check=False,
    )
    assert done.rc == 4
    assert "run as root" in done.err
