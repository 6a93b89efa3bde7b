"""The test host itself: boots, commands, counted packets, nothing left behind."""

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.testbed import (
    CommandError,
    Guest,
    Host,
    LabError,
    MissingPiece,
    Receiver,
    delta,
    initramfs,
    kernels,
    send,
    system,
    udp,
)

COUNT = 1009  # a prime: nothing else makes this number


def test_host_has_the_kernel_of_its_suite(lab: Host) -> None:
    assert lab.run("uname -r").out.startswith(lab.suite.kernel + ".")
    assert lab.build.versions["python3-bpfcc"]


def test_host_has_kvm_vhost_and_tracing(lab: Host) -> None:
    lab.run("test -c /dev/kvm -a -c /dev/vhost-net -a -c /dev/net/tun")
    lab.run("test -r /sys/kernel/btf/vhost -a -d /sys/kernel/tracing/events/kvm")
    lab.run("grep -q vhost_get_vq_desc /sys/kernel/tracing/available_filter_functions")


def test_python_packages_import(lab: Host) -> None:
    lab.run(["python3", "-c", "import bcc, numpy, pyarrow.ipc, pyroute2"])


def test_bcc_compiles_and_counts(lab: Host, guest: Guest) -> None:
    script = lab.share / "count.py"
    script.write_text(
        "import sys\n"
        "from bcc import BPF\n"
        "text = 'BPF_ARRAY(hits, u64, 1);'\n"
        "text += 'int hit(void *ctx) { hits.increment(0); return 0; }'\n"
        "bpf = BPF(text=text)\n"
        "bpf.attach_kprobe(event='tun_net_xmit', fn_name='hit')\n"
        "print('attached', flush=True)\n"
        "sys.stdin.read()\n"
        "print(bpf['hits'][0].value)\n"
    )
    tracer = lab.start(["python3", lab.inside(script)], stdin=True)
    tracer.wait_for("attached", 120)
    assert udp(lab, guest, 101).received == 101
    tracer.close_stdin()
    assert tracer.wait(60).check().out.split() == ["attached", "101"]


def test_datagrams_to_the_guest_are_counted_exactly(lab: Host, guest: Guest) -> None:
    host_before, guest_before = lab.counters(guest.tap), guest.counters()
    result = udp(lab, guest, COUNT)
    host_moved = delta(host_before, lab.counters(guest.tap))
    guest_moved = delta(guest_before, guest.counters())
    assert (result.sent, result.received, result.gaps) == (COUNT, COUNT, 0)
    assert host_moved["link.tx_packets"] == COUNT
    assert "link.tx_dropped" not in host_moved
    assert guest_moved["link.rx_packets"] == COUNT
    assert guest_moved["Udp.InDatagrams"] == COUNT
    assert 0 < guest_moved["irq.virtio1-input.0"] <= COUNT


def test_datagrams_from_the_guest_are_counted_exactly(lab: Host, guest: Guest) -> None:
    host_before, guest_before = lab.counters(guest.tap), guest.counters()
    result = udp(guest, lab, COUNT)
    host_moved = delta(host_before, lab.counters(guest.tap))
    guest_moved = delta(guest_before, guest.counters())
    assert (result.sent, result.received, result.gaps) == (COUNT, COUNT, 0)
    assert host_moved["link.rx_packets"] == COUNT
    assert host_moved["Udp.InDatagrams"] == COUNT
    assert guest_moved["link.tx_packets"] == COUNT
    kicks = [name for name in guest_moved if name.endswith("tx_queue_0_kicks")]
    kicks += [name for name in guest_moved if name.endswith("tx0_kicks")]
    assert 0 < guest_moved[kicks[0]] <= COUNT


def test_frozen_guest_loses_what_the_tap_says(lab: Host) -> None:
    with_queue = 4000
    guest = lab.guest("frozen")
    try:
        taker = Receiver(guest, seconds=60)
        before = lab.counters(guest.tap)
        guest.stop()
        assert send(lab, guest.address, with_queue, pps=0)["sent"] == with_queue
        dropped = delta(before, lab.counters(guest.tap))["link.tx_dropped"]
        guest.cont()
        assert taker.result()["received"] == with_queue - dropped
    finally:
        guest.kill()


def test_guest_with_many_options(lab: Host) -> None:
    guest = lab.guest(
        "rich",
        vhost=False,
        taps=2,
        queues=2,
        smp=2,
        memory="192M",
        ipv6=True,
        nic_options="rx_queue_size=512",
        extra=("-device", "virtio-balloon-pci"),
    )
    try:
        assert udp(lab, guest, 31).received == 31
        assert udp(guest, lab, 31, to=guest.nics[1].host_address6).received == 31
        assert udp(lab, guest, 31, to=guest.nics[1].address).received == 31
        assert guest.monitor("info balloon") == "balloon: actual=192"
        assert "rich" in lab.run(["cat", f"/proc/{guest.pid}/cmdline"]).out
    finally:
        guest.kill()
    assert not lab.run(["test", "-e", f"/sys/class/net/{guest.tap}"], check=False).out


@pytest.mark.slow
def test_full_kernel_drives_emulated_devices(lab: Host) -> None:
    guest = lab.guest("emulated", kernel="full", nic="e1000", memory="256M")
    try:
        assert guest.run("ethtool -i eth0").out.startswith("driver: e1000\n")
        assert udp(lab, guest, 31).received == 31
    finally:
        guest.kill()


def test_commands_report_status_and_both_outputs(lab: Host, guest: Guest) -> None:
    for machine in (lab, guest):
        result = machine.run("echo out; echo err >&2; exit 3", check=False)
        assert (result.rc, result.out, result.err) == (3, "out\n", "err\n")
        with pytest.raises(CommandError, match="ended with 1"):
            machine.run("false")
        with pytest.raises(CommandError, match="did not end within"):
            machine.run("sleep 600", timeout=0.5)


def test_jobs_run_side_by_side_and_take_signals(lab: Host, guest: Guest) -> None:
    for machine in (lab, guest):
        script = "trap 'echo bye; exit 5' INT; echo up; while :; do sleep 0.1; done"
        jobs = [machine.start(script) for _ in range(3)]
        for job in jobs:
            job.wait_for("up\n")
        assert len({job.pid for job in jobs}) == 3
        for job in jobs:
            job.signal(2, group=False)
        assert [job.wait().rc for job in jobs] == [5, 5, 5]
        assert all(job.output == "up\nbye\n" for job in jobs)


def test_much_output_and_input_arrives_whole(lab: Host, guest: Guest) -> None:
    for machine in (lab, guest):
        job = machine.start("cat", stdin=True)
        job.write(b"0123456789abcdef" * 20000)
        job.close_stdin()
        assert job.wait().raw == b"0123456789abcdef" * 20000


def test_share_goes_both_ways(lab: Host) -> None:
    (lab.share / "there").write_text("to the host")
    assert lab.run(f"cat {lab.inside(lab.share / 'there')}").out == "to the host"
    lab.run("echo -n and back >/share/back")
    assert (lab.share / "back").read_text() == "and back"


def test_stream_is_read_while_it_is_written(lab: Host) -> None:
    got = bytearray()
    with lab.open_stream() as link:

        def read() -> None:
            while len(got) < 3_000_000:
                got.extend(link.recv(65536))

        reader = threading.Thread(target=read)
        reader.start()
        lab.run("head -c 3000000 /dev/zero >/dev/virtio-ports/vtrace.stream")
        reader.join(30)
    assert len(got) == 3_000_000


def test_source_is_importable(lab: Host) -> None:
    listed = lab.run("ls /share/src").out.split()
    assert "vtrace" in listed
    where = lab.run(["python3", "-c", "import vtrace; print(vtrace.__file__)"]).out
    assert where == "/share/src/vtrace/__init__.py\n"


# What needs no host.


def test_missing_program_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name, path: None)
    with pytest.raises(MissingPiece, match=r"gcc .*apt-get install gcc libc6-dev"):
        system.require("gcc")


def test_spawned_program_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import pathlib\n"
        "from tests.testbed import system\n"
        f"child = system.spawn(['sleep', '600'], pathlib.Path({str(tmp_path)!r})/'x')\n"
        "print(child.pid, flush=True)\n"
        "import os; os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    state = Path(f"/proc/{done.stdout.strip()}/stat")
    for _ in range(100):
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        threading.Event().wait(0.05)
    pytest.fail(f"process {done.stdout.strip()} survived")


def test_cpio_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = initramfs.write_cpio({"a/b/file": b"hello", "init": b"#!/bin/sh\n"})
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    names = [b"a\0", b"a/b\0", b"a/b/file\0", b"init\0"]
    places = [archive.index(name) for name in names]
    assert places == sorted(places)
    assert archive.rindex(b"TRAILER!!!\0") > places[-1]


def test_modules_load_after_those_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/net.ko: kernel/ring.ko kernel/bus.ko\n"
        "kernel/ring.ko: kernel/bus.ko\n"
        "kernel/bus.ko:\n"
    )
    order = kernels.load_order(tmp_path, ["net", "built-in", "ring"])
    assert [path.name for path in order] == ["bus.ko", "ring.ko", "net.ko"]


def test_udptool_counts_on_loopback(tmp_path: Path) -> None:
    tool = tmp_path / "udptool"
    try:
        system.call(["gcc", "-O2", "-o", tool, system.HERE / "guest/udptool.c"])
    except LabError as error:
        pytest.skip(str(error))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with subprocess.Popen(
        [tool, "recv", port, "53", "20"], stdout=subprocess.PIPE, text=True
    ) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        sent = system.call([tool, "send", "127.0.0.1", port, "53", "64", "1000"])
        counted = json.loads(receiver.stdout.readline())
    assert json.loads(sent)["sent"] == 53
    assert (counted["received"], counted["gaps"], counted["bytes"]) == (53, 0, 53 * 64)
