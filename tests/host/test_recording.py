"""What the probes recorded equals what sender, receiver and kernel counted, on each kernel."""

import itertools

import numpy as np
import pytest

from tests.host.conftest import Recording
from tests.host.rows import Rows, udp_packets
from vtrace.model import Flag, Kind, Outcome, TimeState, Trust

PORT = 7001


def guest_kicks(counters: dict[str, int]) -> int:
    """Return the guest driver's own count; newer drivers name it otherwise."""
    names = ("ethtool.tx_queue_0_kicks", "ethtool.tx0_kicks")
    return next(counters[name] for name in names if name in counters)


def _joined(rows: Rows, queue: int) -> list[int]:
    """Packets of the test's flow that belong to chains of a queue, one entry a chain."""
    ours = udp_packets(rows, PORT)
    return [int(p) for p in rows.chains_of(queue)["packet"] if int(p) in ours]


@pytest.mark.parametrize(
    ("name", "kind", "side"), [("rx0", Kind.ENQUEUE, "towards"), ("tx0", Kind.DELIVER, "away")]
)
def test_quiet_packets_each_in_one_complete_lifecycle(
    recording: Recording, name: str, kind: Kind, side: str
) -> None:
    truth = recording.cases["quiet"].truth
    assert (getattr(truth, side).sent, getattr(truth, side).received) == (1009, 1009)
    rows = recording.rows("quiet")
    queue = rows.queue("cpx", name)
    ours = udp_packets(rows, PORT)
    seen = [int(p) for p in rows.of(kind, queue)["packet"] if int(p) in ours]
    assert len(seen) == len(set(seen)) == 1009
    assert sorted(_joined(rows, queue)) == sorted(seen)
    chains = rows.chains_of(queue)
    assert set(chains["trust"].tolist()) == {Trust.COMPLETE}
    assert set(chains["outcome"].tolist()) == {Outcome.USED}


def test_quiet_lost_nothing_and_missed_nothing(recording: Recording) -> None:
    metadata = recording.rows("quiet").metadata
    counts = metadata.section("counts")
    assert counts, "no counters in the file"
    assert sum(kind["lost"] for kind in counts.values()) == 0
    assert all(kind["produced"] == kind["received"] for kind in counts.values())
    calls = metadata.section("calls")
    assert {name: c["entry"] - c["return"] for name, c in calls.items()} == dict.fromkeys(calls, 0)
    assert metadata.section("loss")["pending"] == 0
    assert metadata.section("end")["reason"] == "stopped"


def test_quiet_kicks_equal_bpftrace_and_the_guest(recording: Recording) -> None:
    truth = recording.cases["quiet"].truth
    rows = recording.rows("quiet")
    kicks = {name: rows.count(Kind.KICK, rows.queue("cpx", name)) for name in ("rx0", "tx0")}
    assert kicks["tx0"] == guest_kicks(truth.guest)
    assert sum(kicks.values()) == truth.bpftrace["kicks"]


def test_quiet_interrupts_equal_the_guests(recording: Recording) -> None:
    truth = recording.cases["quiet"].truth
    rows = recording.rows("quiet")
    for name, line in (("rx0", "input.0"), ("tx0", "output.0")):
        counted = [v for k, v in truth.guest.items() if k.startswith("irq.") and k.endswith(line)]
        signalled = rows.count(Kind.IRQ, rows.queue("cpx", name))
        # An interrupt that comes while the one before waits for its vCPU becomes one with it (a bit
        # in the local APIC): seldom, and the more of them the less the vCPU runs.
        assert signalled * 0.9 < sum(counted) <= signalled
    flags = rows.of(Kind.IRQ)["flags"]
    assert int((flags & Flag.QEMU == 0).sum()) == truth.bpftrace["interrupts"]


def test_quiet_used_is_the_sum_of_batches(recording: Recording) -> None:
    rows = recording.rows("quiet")
    for name in ("rx0", "tx0"):
        used = rows.of(Kind.USED, rows.queue("cpx", name))
        first = np.r_[True, used["time"][1:] != used["time"][:-1]]
        assert used["count"][first].sum() == len(used["time"])
        assert len(used["time"]) == rows.count(Kind.POP, rows.queue("cpx", name))


def test_quiet_times_are_in_the_order_of_the_stages(recording: Recording) -> None:
    rows = recording.rows("quiet")
    seen = (TimeState.SEEN, TimeState.SHARED)
    for name, order in (
        ("rx0", ("enqueue", "wake", "run", "pop", "backend", "used", "signal", "irq", "seen")),
        ("tx0", ("kick", "wake", "run", "pop", "backend", "used", "signal", "irq", "seen")),
    ):
        chains = rows.chains_of(rows.queue("cpx", name))
        # A chain that came while the worker ran shares its wake and run: they lie before it.
        compared = order[order.index("pop") :]
        for earlier, later in itertools.pairwise(compared):
            both = np.isin(chains[f"{earlier}_state"], seen)
            both &= np.isin(chains[f"{later}_state"], seen)
            assert both.any(), f"{earlier} and {later} were never seen together"
            assert (chains[f"{earlier}_ns"][both] <= chains[f"{later}_ns"][both]).all()


def test_stopped_every_packet_is_accounted_for(recording: Recording) -> None:
    truth = recording.cases["stopped"].truth
    rows = recording.rows("stopped")
    ours = udp_packets(rows, PORT)
    queue = rows.queue("cpx", "rx0")
    drops = rows.of(Kind.DROP, queue)
    reasons = rows.metadata.section("reasons")
    named = [reasons[str(number)] for number in drops["ret"]]
    full = [p for p, r in zip(drops["packet"], named, strict=True) if r == "FULL_RING"]
    delivered = truth.guest["link.rx_packets"]
    assert len(full) == truth.host["link.tx_dropped"]
    assert set(map(int, full)) <= ours
    assert delivered + len(full) == truth.sent
    assert rows.count(Kind.REFUSE, queue) == len(full)
    places = rows.metadata.section("places")
    assert {places[str(a)] for a in drops["address"]} == {"tun_net_xmit"}


def test_stopped_starves_before_it_drops(recording: Recording, lab) -> None:
    rows = recording.rows("stopped")
    queue = rows.queue("cpx", "rx0")
    first_drop = rows.of(Kind.DROP, queue)["time"].min()
    if lab.name == "bookworm":
        # 6.1: the worker is a kthread, goes on while QEMU is stopped, and empties the ring.
        assert rows.of(Kind.EMPTY, queue)["time"].min() < first_drop
    else:
        # 6.12: the worker is a thread of QEMU and stands still with it.
        sent = rows.of(Kind.ENQUEUE, queue)["time"]
        recv = rows.of(Kind.RECV, queue)["time"]
        assert not ((recv > sent.min() + 200_000_000) & (recv < first_drop)).any()


@pytest.mark.parametrize(("case", "count"), [("resumed", 23), ("rebound", 29)])
def test_chains_go_on_after_stop_and_reset(recording: Recording, case: str, count: int) -> None:
    truth = recording.cases[case].truth
    assert (truth.towards.received, truth.away.received) == (count, count)
    rows = recording.rows(case)
    assert rows.count(Kind.START) >= 2
    for name in ("rx0", "tx0"):
        assert len(_joined(rows, rows.queue("cpx", name))) == count


def test_windows_guest_without_event_index(recording: Recording) -> None:
    truth = recording.cases["windows"].truth
    rows = recording.rows("windows")
    for name in ("rx0", "tx0"):
        assert len(_joined(rows, rows.queue("windows", name))) == 211
    tx = rows.queue("windows", "tx0")
    assert rows.count(Kind.KICK, tx) == guest_kicks(truth.guest)
    features = rows.metadata.section("queues")[str(tx)]["features"]
    assert not features >> 29 & 1
    assert not features >> 15 & 1


def test_a_vm_that_dies_stops_its_queues(recording: Recording) -> None:
    rows = recording.rows("died")
    stopped = set(rows.of(Kind.STOP)["queue"].tolist())
    assert {rows.queue("windows", "rx0"), rows.queue("windows", "tx0")} <= stopped


def test_exits_name_the_kick(recording: Recording) -> None:
    rows = recording.rows("quiet")
    tx = rows.queue("cpx", "tx0")
    exits = rows.of(Kind.EXIT, tx)
    assert len(exits["time"]) == rows.count(Kind.KICK, tx)
    # AMD: a write to an address without memory is a nested page fault, 0x400.
    assert set(exits["ret"].tolist()) == {0x400}
    totals = rows.metadata.section("exits")
    assert sum(row["count"] for row in totals) > len(exits["time"])
