"""Requests out of records: what was asked and answered, however the records come, or do not."""

import itertools
import struct

import numpy as np
import pytest

from parsers import wire
from parsers.batch import EventBatch
from tests.requests.devices import (
    QUEUES,
    START,
    Devices,
    batch_of,
    blk,
    fixed_sense,
    message,
    net_header,
    pages,
    queue_table,
    scsi,
    scsi_answer,
    story,
)
from vtrace.model import Flag, Kind
from vtrace.requests import Exchanges, PageSet, format_of, net_header_bytes
from vtrace.session import RequestSums, Session, requests_of

BLK, SCSI, INFLATE, CTRL, RX, TX = 1, 4, 5, 14, 12, 13


def rows_of(batches):
    return [row for _, table in requests_of(Session(batches)) for row in table.rows()]


def asked(told):
    return rows_of(told.batches())


def one(queue, request, response, **answer):
    """Return the row of one request."""
    told = Devices()
    told.ask(queue, 3, request, response, **answer)
    (row,) = asked(told)
    return row


def without(told, gone):
    """Return the batches without the records that ``gone`` says are lost."""
    records, data = told.records()
    keep = [not gone(row) for row in records]
    batch = batch_of(records[keep], [one for one, stays in zip(data, keep, strict=True) if stays])
    batch.meta = told.meta()
    lost = len(records) - sum(keep)
    batch.meta["counts"]["POP"]["lost"] = lost
    batch.meta["counts"]["POP"]["produced"] += lost
    return [batch]


# All of it


def test_each_request_says_what_was_asked_and_answered():
    told, wanted = story()
    rows = {(row["queue_id"], row["pop_ns"]): row for row in asked(told)}
    assert len(rows) == len(wanted)
    by_name = {(name, device): number for number, (device, _, _, name, _, _) in QUEUES.items()}
    for want in wanted:
        row = rows[by_name[want["queue"], want["device"]], want["pop_ns"]]
        said = {name: row[name] for name in want}
        assert said == want


def test_no_cut_into_batches_changes_anything():
    told, _ = story()
    whole = asked(told)
    count = len(told.told)
    random = np.random.default_rng(5)
    cuts = [list(range(1, count))]
    cuts += [sorted(random.choice(np.arange(1, count), 7, replace=False)) for _ in range(10)]
    for cut in cuts:
        assert rows_of(told.batches(*map(int, cut))) == whole


def test_sums_are_those_of_the_rows():
    told, wanted = story()
    sums = Session(told.batches()).summary().asked
    assert sum(row["count"] for row in sums.requests) == len(wanted)
    by_name = {(row["device"], row["operation"]): row for row in sums.requests}
    assert by_name["disk0", "IN"]["data_bytes"] == 4096
    assert by_name["disk0", "OUT"]["failed"] == 1
    assert by_name["disk0", "OUT"]["statuses"] == {"IOERR": 1}
    assert by_name["disk0", "OUT"]["service"]["max_ns"] == 92_000
    assert by_name["disk0", "IN"]["queueing"]["p50_ns"] == 2000
    assert by_name["scsi0", "INQUIRY"]["statuses"] == {"CHECK CONDITION": 1}
    assert by_name["scsi0", "TEST UNIT READY"]["statuses"] == {"BAD_TARGET": 1}
    (balloon,) = sums.balloons
    assert balloon["inflated_pages"] == balloon["inflated_distinct"] == 260
    assert balloon["inflated_ranges"] == [
        {"first": 0x1000, "last": 0x1102}, {"first": 0x2000, "last": 0x2000}
    ]  # fmt: skip
    assert balloon["deflated_pages"] == 1
    assert balloon["stats"] == {"MEMFREE": 123456, "MEMTOT": 2 << 30, "99": 1}
    (port,) = sums.ports
    assert (port["port"], port["name"]) == (1, "org.test.0")
    assert (port["received_bytes"], port["sent_bytes"]) == (4, 11)


# Formats


@pytest.mark.parametrize(
    ("kind", "name"),
    [(0, "IN"), (1, "OUT"), (4, "FLUSH"), (11, "DISCARD"), (13, "WRITE_ZEROES"),
     (14, "SECURE_ERASE"), (15, "ZONE_APPEND"), (26, "ZONE_RESET_ALL"), (99, "99"),
     (0xFFFF_FFFF, "4294967295")],
)  # fmt: skip
def test_types_of_blk(kind, name):
    assert one(BLK, [blk(kind)], [b"\0"])["operation"] == name


@pytest.mark.parametrize(
    ("cdb", "name", "lba", "blocks"),
    [
        ("08 1fffff 00 00", "READ(6)", 0x1F_FFFF, 256),
        ("0a e00001 02 00", "WRITE(6)", 1, 2),
        ("28 00 ffffffff 00 0001 00", "READ(10)", 0xFFFF_FFFF, 1),
        ("2a 00 00000002 00 0100 00", "WRITE(10)", 2, 256),
        ("35 00 00000000 00 0000 00", "SYNCHRONIZE CACHE(10)", 0, 0),
        ("a8 00 00000010 00000020 00 00", "READ(12)", 16, 32),
        ("88 00 00000000000000ff 00000008 00 00", "READ(16)", 255, 8),
        ("93 08 0000000000000400 00000100 00 00", "WRITE SAME(16)", 1024, 256),
        ("89 00 0000000000000009 000000 01 00 00", "COMPARE AND WRITE", 9, 1),
        (
            "7f 00 00000000 00 18 0009 00 00 0000000000000007 00000000 0000 0000 00000003",
            "READ(32)",
            7,
            3,
        ),
        ("7f 00 00000000 00 18 1ff0", "VARIABLE LENGTH CDB 0x1ff0", None, None),
        ("12 00 00 00 24 00", "INQUIRY", None, None),
        ("a0 00", "REPORT LUNS", None, None),
        ("9e 10", "READ CAPACITY(16)", None, None),
        ("9e 1f", "SERVICE ACTION IN(16) 0x1f", None, None),
        ("a3 0c", "REPORT SUPPORTED OPERATION CODES", None, None),
        ("5e 00", "PERSISTENT RESERVE IN: READ KEYS", None, None),
        ("ff", "0xff", None, None),
    ],
)
def test_commands_of_scsi(cdb, name, lba, blocks):
    command = bytes.fromhex(cdb).ljust(32, b"\0")
    row = one(SCSI, [scsi(command)], [scsi_answer()])
    assert (row["operation"], row["lba"], row["blocks"]) == (name, lba, blocks)


@pytest.mark.parametrize(
    ("sense", "words"),
    [
        (fixed_sense(6, 0x29, 0), "UNIT ATTENTION: POWER ON, RESET, OR BUS DEVICE RESET OCCURRED"),
        (bytes([0x72, 3, 0x11, 0, 0, 0, 0, 0]), "MEDIUM ERROR: UNRECOVERED READ ERROR"),
        (bytes([0x72, 5, 0x99, 7, 0, 0, 0, 0]), "ILLEGAL REQUEST: 0x99/0x07"),
        (bytes([0x70, 0, 5]), None),
        (bytes([0x11] * 18), None),
        (b"", None),
    ],
)
def test_sense_in_both_formats(sense, words):
    row = one(SCSI, [scsi(bytes(32))], [scsi_answer(2, sense=sense)])
    assert row["status"] == "CHECK CONDITION"
    assert row["sense"] == words
    assert (row["sense_key"] is None) == (words is None)


def test_a_header_in_pieces_is_whole():
    whole = scsi(bytes.fromhex("2a0000000002000001").ljust(32, b"\0"), 1, 2, 5)
    row = one(SCSI, [whole[:3], whole[3:20], whole[20:]], [scsi_answer()])
    assert (row["operation"], row["lun"], row["tag"]) == ("WRITE(10)", 2, 5)
    assert row["request_state"] == "seen"


def test_a_logical_unit_of_another_form_is_not_made_up():
    request = b"\xc1\x01" + bytes(6) + struct.pack("<QBBB", 1, 0, 0, 0) + bytes(32)
    row = one(SCSI, [request], [scsi_answer()])
    assert row["target"] is row["lun"] is None
    assert row["operation"] == "TEST UNIT READY"


@pytest.mark.parametrize(
    ("features", "size"),
    [(0, 10), (1 << 15, 12), (1 << 32, 12), (1 << 57 | 1 << 32, 20), (1 << 65 | 1 << 57, 24),
     (1 << 67, 24)],
)  # fmt: skip
def test_network_headers_in_all_sizes(features, size, monkeypatch):
    assert net_header_bytes(features) == size
    told = Devices()
    told.ask(TX, 0, [net_header(size, gso_type=0x25, gso_size=1000, hash_value=7, hash_report=2)
                     + bytes(60)], [])  # fmt: skip
    batches = told.batches()
    # Bits above 63 are not in a queue table of today.
    monkeypatch.setattr("vtrace.session.session.sane", lambda meta: meta)
    batches[0].meta["queues"] = queue_table(features=features)
    (row,) = rows_of(batches)
    assert (row["header_bytes"], row["data_bytes"]) == (size, 60)
    assert (row["gso_type"], row["gso_bytes"]) == ("UDP_L4|UDP_TUNNEL_IPV4", 1000)
    assert row["num_buffers"] == (1 if size >= 12 else None)
    assert row["hash_value"] == (7 if size >= 20 else None)


@pytest.mark.parametrize(
    ("request_bytes", "name", "value", "detail"),
    [
        (b"\0\0\1", "RX_PROMISC", 1, None),
        (b"\2\1" + struct.pack("<H", 77), "VLAN_DEL", 77, None),
        (b"\3\0", "ANNOUNCE_ACK", None, None),
        (b"\5\0" + struct.pack("<Q", 1 << 63), "GUEST_OFFLOADS_SET", 1 << 63, None),
        (b"\6\0" + struct.pack("<II", 8, 50), "NOTF_COAL_TX_SET", None,
         "max_packets=8 max_usecs=50"),
        (b"\6\2" + struct.pack("<HHII", 3, 0, 8, 50), "NOTF_COAL_VQ_SET", None,
         "vq=3 max_packets=8 max_usecs=50"),
        (b"\x09\x08", "9/8", None, None),
        (b"\1\0" + struct.pack("<I", 0xFFFF_FFFF), "MAC_TABLE_SET", None, "unicast=4294967295"),
    ],
)  # fmt: skip
def test_commands_of_the_network(request_bytes, name, value, detail):
    row = one(CTRL, [request_bytes[:2], request_bytes[2:]], [b"\0"])
    assert (row["operation"], row["value"], row["detail"]) == (name, value, detail)
    assert (row["status"], row["request_state"]) == ("OK", "seen")


@pytest.mark.parametrize(
    ("queue", "format_name"),
    [
        ({"device_type": "serial", "index": 0}, "SERIAL_IN"),
        ({"device_type": "serial", "index": 1}, "SERIAL_OUT"),
        ({"device_type": "serial", "index": 2}, "SERIAL_CONTROL_IN"),
        ({"device_type": "serial", "index": 3}, "SERIAL_CONTROL_OUT"),
        ({"device_type": "serial", "index": 4}, "SERIAL_IN"),
        ({"device_type": "balloon", "index": 2, "name": "stats"}, "BALLOON_STATS"),
        ({"device_type": "balloon", "index": 3, "name": "reporting"}, "BALLOON_REPORT"),
        ({"device_type": "balloon", "index": 3, "name": "free_page"}, "BALLOON_HINT"),
        ({"device_type": "scsi", "index": 1}, "SCSI_EVENT"),
        ({"extra": {"device_type": "scsi", "index": 0}}, "SCSI_CONTROL"),
        ({"device_type": "net", "direction": "none", "name": "ctrl"}, "NET_CONTROL"),
        ({"device_type": "rng", "index": 0}, "NONE"),
        ({"device_type": 5, "index": "x", "name": None, "features": -1, "extra": 3}, "NONE"),
        ({"device_type": "serial", "index": 1 << 20}, "NONE"),
    ],
)
def test_what_a_queue_carries(queue, format_name):
    assert format_of(queue).format.name == format_name


def test_a_device_that_is_not_decoded_has_its_chains():
    told = Devices()
    told.ask(BLK, 0, [], [bytes(64)])
    batches = told.batches()
    batches[0].meta["queues"] = queue_table(device_type="rng")
    (row,) = rows_of(batches)
    assert (row["operation"], row["status"], row["data_bytes"]) == (None, None, None)
    assert (row["request_state"], row["response_state"]) == ("not_applicable",) * 2
    assert (row["response_bytes"], row["device_type"], row["service_ns"]) == (64, "rng", 7000)
    (sums,) = Session(batches).summary().asked.requests
    assert (sums["operation"], sums["count"], sums["unread"]) == (None, 1, 0)


def test_ports_by_the_index_of_the_queue():
    ports = [format_of({"device_type": "serial", "index": index}).port for index in range(10)]
    assert ports == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


# What is missing


def test_a_header_that_is_too_short():
    row = one(BLK, [blk(0)[:12]], [b"\0"])
    assert row["request_state"] == "short"
    assert (row["operation"], row["sector"]) == ("IN", None)
    row = one(BLK, [b"\1\0"], [b"\0"])
    assert row["operation"] is None
    assert row["data_bytes"] is None
    assert row["status"] == "OK"


def test_a_chain_without_room_for_a_status():
    row = one(BLK, [blk(0)], [])
    assert (row["status"], row["failed"], row["response_state"]) == (None, None, "short")


def test_a_command_that_was_cut_off():
    told = Devices(snap=16)
    told.ask(SCSI, 0, [scsi(bytes(32), 1, 2, 3)], [scsi_answer()])
    (row,) = asked(told)
    assert (row["operation"], row["lun"], row["tag"]) == (None, 2, 3)
    assert row["request_state"] == "not_captured"


def test_a_status_beyond_what_was_recorded_is_the_last_byte():
    told = Devices()
    told.ask(BLK, 0, [blk(0, 5)], [bytes(100)] * 6 + [b"\1"])
    (row,) = asked(told)
    assert (row["status"], row["response_state"]) == ("IOERR", "seen")
    told = Devices()
    told.ask(BLK, 0, [blk(0, 5)], [bytes(100)] * 6 + [b"\1"], last=-1)
    (row,) = asked(told)
    assert (row["status"], row["response_state"]) == (None, "not_captured")


def test_memory_that_could_not_be_read():
    told = Devices()
    told.ask(BLK, 0, [blk(0, 5)], [b"\0"])
    for fields, _ in told.told:
        if fields["kind"] == Kind.REQUEST:
            fields["flags"] |= int(Flag.FAULT)
    told.told = [
        (fields, b"" if fields["kind"] == Kind.REQUEST else data) for fields, data in told.told
    ]
    (row,) = asked(told)
    assert (row["operation"], row["request_state"]) == (None, "unreadable")
    assert row["status"] == "OK"


def test_a_request_that_has_no_answer():
    told = Devices()
    told.kick(BLK)
    told.pop(BLK, 0, [blk(1, 9), bytes(512)], 1)
    (row,) = asked(told)
    assert (row["operation"], row["sector"], row["outcome"]) == ("OUT", 9, "in_flight")
    assert (row["status"], row["response_bytes"], row["service_ns"]) == (None, None, None)
    assert row["response_state"] == "pending"


@pytest.mark.parametrize("lost", [Kind.POP, Kind.REQUEST, Kind.USED, Kind.RESPONSE])
def test_lost_records_leave_fields_out_and_make_none_up(lost):
    told = Devices()
    for head in range(6):
        told.ask(SCSI, head, [scsi(bytes([0x12]).ljust(32, b"\0"), 1, 0, head)],
                 [scsi_answer(residual=head)])  # fmt: skip
    whole = {row["position"]: row for row in asked(told)}
    rows = rows_of(without(told, lambda row: row["kind"] == lost and row["head"] in (2, 3)))
    assert len(rows) >= 4
    for row in rows:
        assert row["head"] not in (2, 3) or row["trust"] == "ambiguous"
        same = whole[row["position"]]
        for name in ("operation", "tag", "residual", "target", "request_bytes", "response"):
            assert row[name] in (None, same[name]), name
        if row["head"] == 2 and lost == Kind.REQUEST:
            assert (row["operation"], row["request_state"]) == (None, "lost")
        if row["head"] == 2 and lost == Kind.RESPONSE:
            assert (row["residual"], row["response_state"]) == (None, "lost")


@pytest.mark.parametrize("bare", [False, True], ids=["positions", "bare"])
def test_an_answer_of_another_chain_is_not_taken_for_its_own(bare):
    told = Devices()
    first = told.ask(SCSI, 0, [scsi(bytes(32), 1, 0, 1)], [scsi_answer(residual=1)])
    second = told.ask(SCSI, 0, [scsi(bytes(32), 1, 0, 2)], [scsi_answer(residual=2)])

    def gone(row):
        return first["pop_ns"] < row["time"] <= second["pop_ns"]

    if bare:
        for fields, _ in told.told:
            if fields["kind"] == Kind.RESPONSE:
                fields["flags"] &= ~int(Flag.POSITION)
    rows = rows_of(without(told, gone))
    assert [row["tag"] for row in rows if row["tag"]] == [1]
    for row in rows:
        assert row["trust"] != "complete"
        if not bare:
            assert (row["tag"], row["residual"]) in {(1, None), (None, 2), (None, None)}


def test_a_chain_that_is_handed_back_has_the_bytes_of_its_last_pop():
    told = Devices()
    told.kick(BLK)
    told.pop(BLK, 0, [blk(0, 1)], 513)
    told.later()
    told.avail[BLK] = 0
    told.add(Kind.HAND_BACK, BLK, count=1, position=0, flags=int(Flag.POSITION | Flag.USED))
    chain = told.pop(BLK, 0, [blk(1, 2)], 1)
    told.fill(chain, [b"\0"])
    told.flush(BLK)
    (row,) = asked(told)
    assert (row["operation"], row["sector"], row["pop_ns"]) == ("OUT", 2, chain["pop_ns"])


def test_requests_that_end_out_of_order():
    told = Devices()
    told.kick(BLK)
    chains = [told.pop(BLK, head, [blk(0, head)], 513) for head in range(4)]
    for at in (2, 0, 3, 1):
        told.fill(chains[at], [bytes(512), bytes([at])])
        told.flush(BLK)
    rows = {row["head"]: row for row in asked(told)}
    assert [rows[head]["sector"] for head in range(4)] == [0, 1, 2, 3]
    assert [rows[head]["status"] for head in range(4)] == [
        "OK", "IOERR", "UNSUPP", "ZONE_INVALID_CMD",
    ]  # fmt: skip


def test_queueing_is_not_made_up_where_no_kick_was_seen():
    told = Devices()
    told.kick(BLK)
    chains = [told.pop(BLK, head, [blk(0, head)], 513) for head in range(2)]
    for chain in chains:
        told.fill(chain, [bytes(512), b"\0"])
        told.flush(BLK)
    first, second = sorted(asked(told), key=lambda row: row["head"])
    assert first["queueing_ns"] == first["pop_ns"] - first["kick_ns"]
    assert second["kick_state"] != "seen"
    assert second["queueing_ns"] in (None, 0)
    for row in rows_of(without(told, lambda row: row["kind"] in (Kind.KICK, Kind.RUN))):
        assert row["queueing_ns"] is None or row["kick_state"] in {"suppressed", "shared"}


# Bounds


def test_what_is_kept_is_bounded():
    exchanges = Exchanges(max_chains=64, max_bytes=1 << 12)
    told = Devices()
    for number in range(1000):
        told.pop(BLK, number & 0x7FF, [blk(0, number)], 1)
        if number % 50 == 49:
            exchanges.feed(told.batch())
            told.told.clear()
            assert len(exchanges) <= 64
            assert exchanges.kept_bytes <= 1 << 12
    newest = exchanges.take(*(np.array([value], np.uint64) for value in (BLK, 999, told.now, 0)))
    assert newest.rows["popped"].all()
    assert newest.request.run(0, 16) == blk(0, 999)


def test_scattered_pages_are_bounded_and_counted():
    pages_seen = PageSet()
    pages_seen.add(np.arange(0, 1 << 18, 2, dtype=np.uint32))
    assert pages_seen.cut
    assert len(pages_seen.ranges) == PageSet.MOST
    pages_seen = PageSet()
    for first in (10, 0, 5, 0xFFFF_FFF0, 8):
        pages_seen.add(np.arange(first, first + 5, dtype=np.uint32))
    assert pages_seen.ranges.tolist() == [[0, 14], [0xFFFF_FFF0, 0xFFFF_FFF4]]
    assert pages_seen.pages == 20


def test_made_up_operations_do_not_pile_up():
    told = Devices()
    for number in range(200):
        told.ask(BLK, number % 64, [blk(1000 + number)], [bytes([number])])
    sums = RequestSums()
    for found, _ in requests_of(Session(told.batches())):
        sums.add(found)
    sums.finish()
    assert len(sums.requests) == 65
    (others,) = [row for row in sums.requests if row["operation"] == "others"]
    assert others["count"] == 200 - 64
    assert len(others["statuses"]) <= 33


# Hostile bytes


def hostile(random, count):
    """Records of which every byte that a guest or a damaged file can set is random."""
    records = np.zeros(count, wire.RECORD)
    records["time"] = START + np.sort(random.integers(0, count * 50, count)).astype(np.uint64)
    kinds = [Kind.POP, Kind.REQUEST, Kind.USED, Kind.RESPONSE, Kind.FLUSH, Kind.HAND_BACK,
             Kind.DETACH, Kind.STOP, Kind.START]  # fmt: skip
    shares = [0.25, 0.25, 0.2, 0.2, 0.06, 0.01, 0.01, 0.01, 0.01]
    records["kind"] = random.choice(kinds, count, p=shares)
    records["queue"] = random.integers(0, 17, count)
    records["head"] = random.choice([0, 1, 2, 3, 0xFFFF], count)
    for name in ("length", "room"):
        sizes = [0, 1, 2, 8, 16, 51, 108, 4096, 0xFFFF_FFFF]
        records[name] = np.where(
            random.random(count) < 0.7,
            random.choice(sizes, count),
            random.integers(0, 1 << 32, count),
        )
    records["ret"] = random.integers(-(1 << 31), 1 << 31, count)
    for name in ("position", "used", "avail", "count"):
        records[name] = random.integers(0, 1 << 16, count)
    flags = Flag.POSITION | Flag.USED | Flag.QEMU
    records["flags"] = int(flags) | random.choice([0, 1, 16, 256, 1 << 13], count)
    pieces = np.isin(records["kind"], (Kind.REQUEST, Kind.RESPONSE))
    # Pieces at the time of what they belong to, more often than not.
    near = np.flatnonzero(pieces[1:] & (random.random(count - 1) < 0.8)) + 1
    for row in near.tolist():
        for name in ("time", "queue", "head"):
            records[name][row] = records[name][row - 1]
    records["time"] = np.maximum.accumulate(records["time"])
    records["seq"] = np.arange(count)
    openings = [blk(random.integers(0, 30)), scsi(random.bytes(32)), pages(*range(8)),
                message(1, 7), net_header()]  # fmt: skip
    data = [
        (openings[random.integers(len(openings))] if random.random() < 0.5 else b"")
        + random.bytes(int(random.integers(0, 64)))
        if piece and random.random() < 0.9
        else None
        for piece in pieces
    ]
    return records, data


@pytest.mark.parametrize("seed", range(5))
def test_random_records_break_nothing(seed):
    random = np.random.default_rng(seed)
    count = 20_000
    records, data = hostile(random, count)
    told = Devices()
    whole = batch_of(records, data)
    cuts = [0, *np.sort(random.integers(0, count, 6)).tolist(), count]
    batches = []
    for low, high in itertools.pairwise(cuts):
        mask = np.zeros(count, np.bool_)
        mask[low:high] = True
        batches.append(whole.take(mask))
        batches[-1].meta = {}
    kinds = ["blk", "scsi", "balloon", "serial", "net", "rng", 7]
    table = {
        str(number): {
            **queue_table()["1"], "id": number, "device_type": kinds[number % 7],
            "index": number // 3, "direction": ("rx", "tx", "none")[number % 3],
            "name": ("ctrl", "stats", "")[number % 3], "features": 1 << (number * 4),
        }
        for number in range(15)
    }  # fmt: skip
    batches.insert(0, EventBatch.empty({**told.meta(), "queues": table}))
    rows = 0
    for found, view in requests_of(Session(batches)):
        for row in view.rows():
            rows += 1
            for name, value in row.items():
                assert value is None or isinstance(value, (int, str, bool)), name
            if row["request_state"] == "short":
                assert row["request_bytes"] < 64
        assert len(found) == len(view)
    assert rows > count // 20
    Session(batches).summary()


def test_bytes_changed_at_random_change_only_what_they_say():
    told, _ = story()
    records, data = told.records()
    random = np.random.default_rng(11)
    places = [at for at, one in enumerate(data) if one]
    for _ in range(40):
        changed = list(data)
        for at in random.choice(places, 25):
            piece = bytearray(changed[at] or b"?")
            for byte in random.integers(0, len(piece), 4):
                piece[byte] = random.integers(0, 256)
            changed[at] = bytes(piece[: random.integers(0, len(piece) + 1)])
        batch = batch_of(records, changed)
        batch.meta = told.meta()
        rows = rows_of([batch])
        assert len(rows) == 25
        assert all(row["outcome"] == "used" for row in rows)
