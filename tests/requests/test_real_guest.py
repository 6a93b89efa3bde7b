"""Requests of a guest of TCG on this machine, one by one, against QEMU's own log of the same run.

A QEMU is found within a second of its start. What its firmware asked before that is in the log
alone, and so is what QEMU wanted to say before there was a driver to say it to.
"""

import json
import re
import socket

import numpy as np
import pytest

from parsers.tracefile import open_trace
from tests.qemu.conftest import build, until
from tests.qemu.recording import Recorder
from tests.qemu.tcg import TcgGuest
from vtrace.requests.names import CONSOLE_EVENTS, SCSI_RESPONSES
from vtrace.requests.scsi_names import OPCODES, STATUS
from vtrace.session import RequestSums, Session, requests_of

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

__all__ = ["build"]

READS, WRITES, SKIPPED = 101, 7, 5
PAGES = 8192
PINGS = 5
MEMORY = 192 << 20
EVENTS = (
    *("virtio_blk_handle_read", "virtio_blk_handle_write", "virtio_blk_req_complete"),
    *("virtio_scsi_cmd_req", "virtio_scsi_cmd_resp", "virtio_balloon_handle_output"),
    *("virtio_serial_handle_control_message", "virtio_serial_send_control_event"),
    "scsi_req_parsed_lba",
)


def devices(ring):
    return [
        *("-blockdev", "null-co,node-name=n0,size=67108864,read-zeroes=on"),
        *("-device", f"virtio-blk-pci,drive=n0,id=blk0{ring}"),
        *("-blockdev", "null-co,node-name=n1,size=33554432,read-zeroes=on"),
        *("-device", f"virtio-scsi-pci,id=scsi0{ring}"),
        *("-device", "scsi-hd,drive=n1,bus=scsi0.0,scsi-id=3,lun=1"),
        *("-device", f"virtio-balloon-pci,id=balloon0{ring}"),
        *("-netdev", "user,id=u0,restrict=on"),
        *("-device", f"virtio-net-pci,netdev=u0,id=nic0,romfile={ring}"),
    ]


def balloon_to(guest, size):
    """Set the balloon's target and wait until the guest has got there."""
    with socket.socket(socket.AF_UNIX) as qmp:
        qmp.connect(str(guest.qmp))
        with qmp.makefile("rw") as lines:

            def ask(command, **arguments):
                lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                lines.flush()
                while "return" not in (answer := json.loads(lines.readline())):
                    assert "error" not in answer, answer
                return answer["return"]

            ask("qmp_capabilities")
            ask("balloon", value=size)
            until(lambda: ask("query-balloon")["actual"] == size, 60)


class Run:
    """Counted work of a guest: what QEMU logged of it, and its requests."""

    def __init__(self, kernel, folder, ring):
        path = folder / "run.vtrace"
        guest = TcgGuest(kernel, folder, extra=devices(ring), trace=EVENTS, serial_options=ring)
        with Recorder(path), guest:
            pid = guest.pid
            guest.run(f"dd if=/dev/vda of=/dev/null bs=4096 count={READS} iflag=direct")
            guest.run(
                f"dd if=/dev/zero of=/dev/vda bs=4096 count={WRITES} seek={SKIPPED} oflag=direct"
            )
            guest.run("dd if=/dev/sda of=/dev/null bs=65536 count=13 iflag=direct")
            balloon_to(guest, MEMORY - PAGES * 4096)
            balloon_to(guest, MEMORY)
            guest.run("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0")
            guest.run(f"ping -c {PINGS} -i 0.2 10.0.2.2")
            guest.run("ip link set eth0 promisc on; ip link set eth0 address 52:54:00:aa:bb:cc")
            guest.end()
        self.log = guest.log.read_text()
        with open_trace(str(path)) as trace:
            session = Session(trace)
            sums = RequestSums()
            self.rows = []
            for found, table in requests_of(session):
                queues = session.metadata.section("queues")
                mine = {int(key) for key, row in queues.items() if row["pid"] == pid}
                of_mine = np.isin(table["queue_id"].data, sorted(mine))
                table = table.take(of_mine)
                sums.add(found, table["row"].data)
                self.rows += table.rows()
            sums.finish()
            self.sums = sums

    def logged(self, event, pattern):
        """Return the numbers of each line of an event."""
        found = re.findall(rf"^{event} {pattern}", self.log, re.MULTILINE)
        return [
            tuple(int(text, 0) for text in (one if isinstance(one, tuple) else (one,)))
            for one in found
        ]

    def of(self, device, order="pop_ns", **wanted):
        """Return rows of a device in order."""
        rows = [
            row
            for row in self.rows
            if row["device"] == device and all(row[name] == one for name, one in wanted.items())
        ]
        return sorted(rows, key=lambda row: row[order] or 0)


@pytest.fixture(scope="module", params=["", ",packed=on"], ids=["split", "packed"])
def run(request, build, tmp_path_factory):
    return Run(build, tmp_path_factory.mktemp("asked"), request.param)


def test_reads_and_writes(run):
    for event, operation in (("read", "IN"), ("write", "OUT")):
        rows = run.of("blk0", operation=operation)
        logged = run.logged(f"virtio_blk_handle_{event}", r".*sector (\d+) nsectors (\d+)")
        assert [(row["sector"], row["sectors"]) for row in rows] == logged
        assert [row["data_bytes"] for row in rows] == [512 * count for _, count in logged]
    written = run.of("blk0", operation="OUT")
    assert [row["sector"] for row in written] == [8 * (SKIPPED + n) for n in range(WRITES)]
    assert len(run.of("blk0", operation="IN")) >= READS
    done = run.logged("virtio_blk_req_complete", r".*status (\d+)")
    assert len(run.of("blk0")) == len(done)
    assert {row["status"] for row in run.of("blk0")} == {"OK"}
    assert done == [(0,)] * len(done)


def test_scsi_commands(run):
    asked = run.logged("virtio_scsi_cmd_req", r".*lun=(\d+) tag=(\w+) cmd=(\w+)")
    rows = run.of("scsi0", queue="req0")
    assert 13 <= len(rows) <= len(asked)
    for row, (lun, tag, command) in zip(rows, asked[-len(rows) :], strict=True):
        # The log has the low half of a tag.
        assert (row["lun"], row["tag"] & 0xFFFF_FFFF) == (lun, tag)
        if command not in (0x9E, 0xA3):
            assert row["operation"] == OPCODES[command]
    answers = run.logged("virtio_scsi_cmd_resp", r".*response=(\d+) status=(\w+)")
    said = [(row["response"], row["status"]) for row in run.of("scsi0", "used_ns", queue="req0")]
    assert said == [
        (SCSI_RESPONSES[response], STATUS[status] if response == 0 else None)
        for response, status in answers[-len(said) :]
    ]
    reads = run.of("scsi0", operation="READ(10)")
    logged = run.logged("scsi_req_parsed_lba", r"target 3 lun 1 tag \d+ command 40 lba (\d+)")
    assert [(row["lba"],) for row in reads] == logged
    assert sum(row["data_bytes"] for row in reads) >= 13 * 65536
    assert all(row["residual"] == 0 for row in reads)


def test_pages_of_the_balloon(run):
    pages = {gpa >> 12 for (gpa,) in run.logged("virtio_balloon_handle_output", r".*gpa: (\w+)")}
    (balloon,) = [row for row in run.sums.balloons if row["device"] == "balloon0"]
    assert balloon["inflated_pages"] == balloon["deflated_pages"] == PAGES
    for name in ("inflated", "deflated"):
        assert balloon[f"{name}_more_ranges"] == 0
        found = set()
        for one in balloon[f"{name}_ranges"]:
            found |= set(range(one["first"], one["last"] + 1))
        assert found == pages
    assert balloon["stats"]["MEMTOT"] > MEMORY // 2


def test_control_messages_of_the_ports(run):
    numbers = {name: number for number, name in CONSOLE_EVENTS.items()}
    said = [(numbers[r["operation"]], r["value"]) for r in run.of("lab", queue="ctrl_tx")]
    assert len(said) >= 3
    assert said == run.logged("virtio_serial_handle_control_message", r"event (\d+), value (\d+)")
    told = run.of("lab", queue="ctrl_rx")
    logged = run.logged("virtio_serial_send_control_event", r"port (\d+), event (\d+), value (\d+)")
    given = [
        (r["port"], numbers[r["operation"]], r["value"])
        for r in told
        if r["operation"] != "PORT_NAME"
    ]
    assert len(given) >= 3
    assert given == logged[-len(given) :]
    names = {r["port"]: r["detail"] for r in told if r["operation"] == "PORT_NAME"}
    assert set(names.values()) == {"vtrace.agent", "vtrace.ask"}
    ports = {row["port"]: row for row in run.sums.ports if row["device"] == "lab"}
    assert all(ports[port]["name"] == names[port] for port in ports)


def test_commands_of_the_network(run):
    rows = run.of("nic0", queue="ctrl")
    assert {row["status"] for row in rows} == {"OK"}
    promiscuous = [row["value"] for row in rows if row["operation"] == "RX_PROMISC"]
    assert promiscuous[-1] == 1
    assert promiscuous[0] == 0
    (address,) = [row["mac"] for row in rows if row["operation"] == "MAC_ADDR_SET"]
    assert address == "52:54:00:aa:bb:cc"


def test_packets_have_their_headers_and_flows(run):
    for operation, flow in (
        ("TRANSMIT", "ICMP 10.0.2.15 > 10.0.2.2"),
        ("RECEIVE", "ICMP 10.0.2.2 > 10.0.2.15"),
    ):
        rows = run.of("nic0", operation=operation)
        assert {row["header_bytes"] for row in rows} == {12}
        pings = [row for row in rows if row["flow"] == flow]
        assert [row["data_bytes"] for row in pings] == [98] * PINGS


def test_every_request_is_whole(run):
    assert {row["trust"] for row in run.rows if row["outcome"] == "used"} == {"complete"}
    for row in run.rows:
        assert row["request_state"] in {"seen", "not_applicable"}, row
        assert row["response_state"] in {"seen", "not_applicable", "pending"}, row
        assert (row["service_ns"] is not None) == (row["outcome"] == "used")
