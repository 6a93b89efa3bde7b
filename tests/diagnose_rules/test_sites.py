"""What was dropped elsewhere: its code, its hop, whose it is; and the ledger over all of it."""

import pytest

from tests.diagnose_rules.story import BRIDGE, MS, RX, TX, UPLINK, Story, away, metadata, towards
from vtrace.diagnose.findings import Basis, Certainty
from vtrace.model import Kind

START = 100 * MS


def traffic(story: Story, number: int = 5) -> None:
    """Packets in both directions, by which the guest's addresses become known."""
    for index in range(number):
        story.receive(START + index * MS)
        story.send(START + index * MS + MS // 2, [away()])


@pytest.mark.parametrize(
    ("reason", "place", "queue", "frame", "code", "direction"),
    [
        ("NETFILTER_DROP", "nft_do_chain", 0, towards(), "R2", "rx"),
        ("NETFILTER_DROP", "nft_do_chain", 0, away(), "T9", "tx"),
        ("NOT_SPECIFIED", "br_handle_frame", BRIDGE, towards(), "R3", "rx"),
        ("NOT_SPECIFIED", "br_handle_frame", BRIDGE, away(), "T9", "tx"),
        ("QDISC_DROP", "__dev_xmit_skb", RX, towards(), "R4", "rx"),
        ("QDISC_DROP", "__dev_xmit_skb", UPLINK, away(), "T10", "tx"),
        ("NEIGH_FAILED", "__neigh_event_send", RX, towards(), "R12", "rx"),
        ("SOCKET_RCVBUFF", "udp_queue_rcv_one_skb", 0, away(), "T11", "tx"),
        ("NO_SOCKET", "__udp4_lib_rcv", 0, away(), "T13", "tx"),
        ("DEV_READY", "tun_get_user", TX, away(), "T8", "tx"),
        ("NOT_SPECIFIED", "tun_get_user", TX, away(), "T6", "tx"),
        ("QDISC_DROP", "__dev_xmit_skb", BRIDGE, towards(), "R3", "rx"),
        ("TAP_FILTER", "tun_net_xmit", RX, towards(), "R5f", "rx"),
        ("NOT_SPECIFIED", "somewhere_new", 0, towards(), "D1", "rx"),
        ("NOT_SPECIFIED", "somewhere_new", 0, away(v6=True), "D1", "tx"),
    ],
)
def test_a_drop_gets_its_code_and_its_packets(reason, place, queue, frame, code, direction):
    story = Story()
    traffic(story)
    story.send(START + 50 * MS, [away(v6=True)])
    if place == "tun_get_user":
        story.send(START + 59 * MS, [away()] * 13, lost=13)
    for index in range(13):
        story.drop(START + 60 * MS + index, frame, reason, place, queue)
    links = {"br0": {"kind": "bridge", "qdisc": "noqueue"}, "eth7": {"operstate": "up"}}
    verdict = story.diagnose(metadata(config={"links": links}))
    assert [one.code for one in verdict.findings] == [code]
    finding = verdict.findings[0]
    assert (finding.packets, finding.direction, finding.vm) == (13, direction, "cpx")
    assert finding.flows[0][1] == 13
    assert sum(burst.packets for burst in finding.bursts) == 13
    assert place in finding.evidence[0].text
    dropped = [
        row for row in verdict.ledger if row.direction == direction and sum(row.dropped.values())
    ]
    assert sum(sum(row.dropped.values()) for row in dropped) == 13


def test_a_drop_without_its_link_header_is_the_guests_by_its_address():
    story = Story()
    traffic(story)
    story.drop(START + 60 * MS, away(), "NO_SOCKET", "__udp4_lib_rcv", bare=True)
    assert [one.code for one in story.diagnose().findings] == ["T13"]


def test_what_concerns_no_guest_is_only_noted():
    story = Story()
    traffic(story)
    other = bytearray(towards())
    other[0:6] = bytes.fromhex("020000000099")
    other[30:34] = bytes([192, 0, 2, 7])
    story.drop(START + 60 * MS, bytes(other), "NO_SOCKET", "__udp4_lib_rcv")
    verdict = story.diagnose()
    assert verdict.findings == []
    assert any("neither for nor from a guest" in note for note in verdict.notes)


def test_an_address_that_was_never_seen_is_placed_by_the_tap_it_left_by():
    story = Story()
    story.drop(START, towards(), "NEIGH_FAILED", "__neigh_event_send", RX, bare=True)
    verdict = story.diagnose()
    assert [(one.code, one.vm) for one in verdict.findings] == [("R12", "cpx")]


def test_what_qemu_sends_and_the_tap_rejects_is_lost_unseen_by_the_guest():
    story = Story()
    traffic(story)
    story.drop(START + 60 * MS, away(), "NOT_SPECIFIED", "tun_get_user", TX)
    found = story.diagnose(metadata(vhost=False)).findings
    assert [(one.code, one.packets) for one in found] == [("T12", 1)]


def test_a_copy_for_a_sniffer_is_no_loss():
    story = Story()
    traffic(story)
    story.drop(START + 60 * MS, away(), "NOT_SPECIFIED", "packet_rcv", TX)
    verdict = story.diagnose()
    assert verdict.findings == []
    assert any("sniffer" in note for note in verdict.notes)


def test_frames_that_did_not_come_out_of_the_tap_were_rejected():
    story = Story()
    story.send(START, [away()] * 10, lost=3)
    story.send(START + MS, [away()] * 10)
    links = {"tap0": {"xdp": True}}
    verdict = story.diagnose(metadata(config={"links": links}))
    finding = verdict.findings[0]
    assert (finding.code, finding.packets, finding.certainty) == ("T6", 3, Certainty.PROVEN)
    row = next(row for row in verdict.ledger if row.hop == "tap" and row.direction == "tx")
    assert (row.entered, row.left, row.dropped, row.unexplained) == (20, 17, {"rejected": 3}, 0)
    assert finding.remedies[0].command == "ip link set dev tap0 xdp off"


def test_a_batch_that_failed_and_a_tap_that_is_down():
    story = Story()
    story.send(START, [away()] * 4, lost=4, ret=-77)
    story.send(START + MS, [away()], lost=1, ret=-5)
    found = {one.code: one.packets for one in story.diagnose().findings}
    assert found == {"T7": 4, "T8": 1}


def test_what_was_tried_again_is_no_loss():
    story = Story()
    story.send(START, [away()], lost=1, ret=-11)
    story.send(START + MS, [away()])
    found = story.diagnose().findings
    assert [(one.code, one.packets) for one in found] == [("T4", None)]


def test_a_copy_to_the_guest_that_failed():
    story = Story()
    traffic(story)
    number = story.enqueue(START + 60 * MS)
    story.add(
        Kind.RECV, START + 61 * MS, queue=RX, packet=number, length=140, ret=-14, span=5, tid=40
    )
    story.receive(START + 62 * MS)
    verdict = story.diagnose()
    assert [(one.code, one.packets) for one in verdict.findings] == [("R6", 1)]
    assert verdict.unexplained == 0


def test_a_packet_that_left_the_ring_without_a_trace_is_unexplained():
    story = Story()
    traffic(story)
    story.enqueue(START + 60 * MS)
    story.receive(START + 62 * MS)
    verdict = story.diagnose()
    assert verdict.unexplained == 1
    assert verdict.findings == []


def test_a_packet_in_the_ring_at_the_end_is_occupancy():
    story = Story()
    traffic(story)
    story.enqueue(START + 60 * MS)
    verdict = story.diagnose()
    row = next(row for row in verdict.ledger if row.hop == "tap" and row.direction == "rx")
    assert (row.entered, row.left, row.occupancy_change, row.unexplained) == (6, 5, 1, 0)


def test_the_guest_says_that_nobody_listens():
    story = Story()
    traffic(story)
    unreachable = bytearray(away())
    unreachable[23] = 1
    unreachable[34:36] = b"\x03\x03"
    story.send(START + 60 * MS, [bytes(unreachable)] * 2)
    found = story.diagnose().findings
    assert [(one.code, one.packets, one.certainty) for one in found] == [
        ("R9", None, Certainty.LIKELY)
    ]


def sampled(story: Story, before: dict, after: dict) -> list:
    """Return the batches of a story with a sample before and one behind it."""
    batches = story.batches(metadata())
    first, last = story.rows[0][0], max(row[0] for row in story.rows)
    early = {name: {**v, "lo_ns": first - 10, "hi_ns": first - 5} for name, v in before.items()}
    late = {name: {**v, "lo_ns": last + 5, "hi_ns": last + 10} for name, v in after.items()}
    batches[0].meta["counters"] = early
    batches[-1].meta["counters"] = late
    return batches


def verdict_of(batches):
    from vtrace.session import Session

    return Session(batches).diagnose()


def test_the_guests_own_counters_prove_a_full_socket():
    story = Story()
    traffic(story, 40)
    zero = {"InDatagrams": 100, "RcvbufErrors": 7, "NoPorts": 0}
    after = {"InDatagrams": 128, "RcvbufErrors": 19, "NoPorts": 0}
    verdict = verdict_of(sampled(story, {"guest/cpx/udp": zero}, {"guest/cpx/udp": after}))
    finding = verdict.findings[0]
    assert (finding.code, finding.packets, finding.certainty) == ("R8", 12, Certainty.PROVEN)
    assert finding.evidence[0].basis == Basis.COUNTERS
    assert verdict.blind_spots == []
    row = next(row for row in verdict.ledger if row.hop == "guest")
    assert (row.left, row.dropped) == (28, {"RcvbufErrors": 12})


@pytest.mark.parametrize(("moved", "wrong"), [(40, False), (41, True), (39, True)])
def test_events_are_held_against_the_kernels_counters(moved, wrong):
    story = Story()
    traffic(story, 40)
    verdict = verdict_of(
        sampled(
            story,
            {"link/tap0": {"tx_packets": 5, "rx_packets": 9, "tx_dropped": 0}},
            {"link/tap0": {"tx_packets": 5 + moved, "rx_packets": 49, "tx_dropped": 0}},
        )
    )
    assert [one.second_count for one in verdict.disagreements] == ([moved] if wrong else [])
    if wrong:
        assert verdict.disagreements[0].first_count == 40


def test_events_while_a_sample_is_read_may_be_on_either_side():
    story = Story()
    traffic(story, 40)
    batches = sampled(
        story,
        {"link/tap0": {"tx_packets": 0, "rx_packets": 0}},
        {"link/tap0": {"tx_packets": 38, "rx_packets": 40}},
    )
    batches[-1].meta["counters"]["link/tap0"]["lo_ns"] = START + 38 * MS
    assert verdict_of(batches).disagreements == []


def test_tables_that_make_no_sense_do_not_stop_a_diagnosis():
    story = Story()
    traffic(story)
    story.refuse(START + 60 * MS)
    rubbish = metadata(
        config={"links": [1], "nics": {"cpx": 3}, "neighbours": {"a": 1}, "sysctls": None},
        counters={"link/tap0": 7, "snmp/udp": {"NoPorts": "many", "lo_ns": -1, "hi_ns": {}}},
        vms=[None, {"name": 5, "devices": {"x": 1}}, {"devices": [{"net": {"interface": 9}}]}],
    )
    assert story.diagnose(rubbish).findings[0].packets == 1


def test_counters_are_those_around_the_time_that_is_asked_for():
    from vtrace.session import Session, Window
    from vtrace.session.clock import Base, Moment

    story = Story()
    traffic(story, 40)
    batches = story.batches(metadata(), size=20)
    # Before, within and behind; the guest loses more when it is over.
    for place, errors in ((1, 5), (2, 9), (-2, 12), (-1, 400)):
        at = int(batches[place]["time"][0])
        batches[place].meta["counters"] = {
            "guest/cpx/udp": {"RcvbufErrors": errors, "lo_ns": at, "hi_ns": at + 1}
        }
    since, until = int(batches[2]["time"][0]) + 2, int(batches[-2]["time"][0]) - 2
    window = Window(Moment(Base.MONOTONIC, since), Moment(Base.MONOTONIC, until))
    found = Session(batches, window=window).diagnose().findings
    assert [(one.code, one.packets) for one in found] == [("R8", 3)]
