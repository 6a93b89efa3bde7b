"""Two recordings held against each other: partners, units, counts, exits, drops."""

import pytest

from tests.compare.sides import exits, histogram, interrupts, queue, side
from vtrace.compare import DropSum, Unit, compare
from vtrace.errors import UsageError
from vtrace.lifecycle import Notifications


def counts(comparison, device="net0", name="rx0"):
    return {
        row["what"]: (row["before"], row["after"], row["before_per"], row["after_per"])
        for row in comparison.counts
        if (row["device"], row["queue"]) == (device, name)
    }


def partners(comparison):
    return [
        tuple(None if place is None else place["device"] for place in (row["before"], row["after"]))
        for row in comparison.pairs
    ]


# Partners


def test_the_only_net_device_of_each_side_is_the_same_one():
    made = compare(
        side(queues=(queue("net0", chains=3),)), side("b", queues=(queue("nic7", chains=5),))
    )
    assert counts(made)["chains"][:2] == (3, 5)
    assert made.pairs[0]["why"] == "the only net device"


def test_of_several_none_is_guessed():
    before = side(queues=(queue("a", chains=1), queue("b", chains=2)))
    after = side("b", queues=(queue("c", chains=4), queue("d", chains=8)))
    made = compare(before, after)
    assert partners(made) == [("a", None), ("b", None), (None, "c"), (None, "d")]
    assert counts(made, "c")["chains"][:2] == (None, 4)


def test_a_device_may_be_told():
    before = side(queues=(queue("a", chains=1), queue("b", chains=2)))
    after = side("b", queues=(queue("b", chains=4), queue("a", chains=8)))
    made = compare(before, after, mapped=[("a", "b"), ("web1/b", "web1/a")])
    assert counts(made, "a")["chains"][:2] == (1, 4)
    assert counts(made, "b")["chains"][:2] == (2, 8)


def test_a_vm_of_another_name_is_the_same_if_there_is_one_each():
    before = side(queues=(queue(chains=1),))
    after = side("b", queues=(queue(vm="web2", chains=2),), exits=(exits(vm="web2"),))
    made = compare(before, after)
    assert counts(made)["chains"][:2] == (1, 2)
    assert [row["vm"] for row in made.exits] == ["web1"]


def test_a_vm_may_be_told():
    before = side(queues=(queue(vm="a", chains=1), queue(vm="b", chains=2)))
    after = side("x", queues=(queue(vm="c", chains=4), queue(vm="d", chains=8)))
    made = compare(before, after, mapped=[("a", "d"), ("b", "c")])
    rows = {row["vm"]: row for row in made.counts if row["what"] == "chains"}
    assert (rows["a"]["after"], rows["b"]["after"]) == (8, 4)


@pytest.mark.parametrize(
    ("mapped", "words"),
    [
        ([("nic", "net0")], "there is no device nic in before.vtrace; there is net0"),
        ([("net0", "nic")], "there is no device nic in after.vtrace; there is net0"),
        ([("net0", "net0")] * 2, "one of them has a partner already"),
    ],
)
def test_names_that_are_not_there(mapped, words):
    both = [side(name, queues=(queue(),)) for name in ("before.vtrace", "after.vtrace")]
    with pytest.raises(UsageError, match=words):
        compare(*both, mapped=mapped)


def test_a_name_that_several_vms_have():
    both = [side(n, queues=(queue(vm="a"), queue(vm="b"))) for n in ("before", "after")]
    with pytest.raises(UsageError, match="write VM/net0"):
        compare(*both, mapped=[("net0", "net0")])


# Units


def test_packets_by_the_taps_counters_come_first():
    before = side(queues=(queue(packets=10, chains=12),), tap_packets=20, taps=("tap0",))
    made = compare(before, side("b", queues=(queue(packets=5, chains=6),)))
    assert (made.units.name, made.units.before, made.units.after) == ("packet", 20, 5)
    assert counts(made)["chains"] == (12, 6, 0.6, 1.2)
    assert [warning for warning in made.warnings if "two ways" in warning]


def test_requests_are_the_chains_of_disks():
    both = [side(n, queues=(queue("disk0", "req0", kind="blk", chains=50),)) for n in "ab"]
    assert compare(*both).units.name == "request"


def test_seconds_where_there_is_nothing_else():
    made = compare(side(exits=(exits(count=10),)), side("b", exits=(exits(count=30),)))
    assert made.units.name == "second"
    assert made.exits[0]["after_per"]["count"] == 30


def test_a_number_that_the_user_knows():
    made = compare(
        side(exits=(exits(count=10),)), side("b", exits=(exits(count=30),)), Unit("number", 5, 10)
    )
    assert made.exits[0]["before_per"]["count"] == 2
    assert made.exits[0]["after_per"]["count"] == 3


@pytest.mark.parametrize("unit", ["packet", "request", "second"])
def test_a_unit_that_is_not_there(unit):
    with pytest.raises(UsageError, match=f"--per {unit}: before.vtrace has no .*--per 1000"):
        compare(side(duration_ns=0), side("b", duration_ns=0), Unit(unit))


def test_without_any_unit_counts_stand_for_themselves():
    made = compare(side(duration_ns=0, queues=(queue(chains=2),)), side("b", duration_ns=0))
    assert made.units.name == "recording"


# Rows


def test_notifications_per_packet():
    kicks = Notifications(needed=4, sent=5, suppressed=90, spurious=1)
    before = side(queues=(queue(packets=100, kicks=kicks),))
    made = compare(before, side("b", queues=(queue(packets=200, kicks=kicks),)))
    assert counts(made)["kicks_sent"] == (5, 5, 0.05, 0.025)
    assert counts(made)["kicks_suppressed"] == (90, 90, 0.9, 0.45)
    assert not {"interrupts_sent", "starved"} & counts(made).keys()


def test_stages_say_what_changed():
    fast, slow = histogram(*range(1000, 2000)), histogram(*range(3000, 4000))
    made = compare(
        side(queues=(queue(stages={"service": fast, "reap": histogram(5)}),)),
        side("b", queues=(queue(stages={"service": slow, "reap": histogram(5)}),)),
    )
    rows = {(row["stage"], row["percentile"]): row for row in made.stages}
    row = rows["service", 50]
    assert row["verdict"] == "longer"
    assert row["change_ns"] == pytest.approx(2000, rel=0.02)
    assert row["low_ns"] < 2000 < row["high_ns"]
    assert rows["reap", 50]["verdict"] == "too few"
    assert rows["reap", 50]["change_ns"] is None


def test_a_stage_that_one_side_lacks():
    made = compare(
        side(queues=(queue(stages={"service": histogram(1)}),)),
        side("b", queues=(queue(stages={"notify": histogram(1)}),)),
    )
    assert {(r["stage"], r["verdict"]) for r in made.stages} == {
        ("service", "before only"),
        ("notify", "after only"),
    }


def test_an_emulated_device_beside_its_virtio_twin():
    before = side(
        exits=(
            exits("NPF", "nic0", count=300, ns=9_000_000, user=(300, 6_000_000)),
            exits("HLT", count=40, ns=10**9, user=(0, 0)),
        ),
        interrupts=(interrupts("nic0", 100),),
        devices={("web1", "nic0"): "net"},
        tap_packets=100,
    )
    after = side(
        "b",
        queues=(queue("nic9", "tx0", packets=100, kicks=Notifications(sent=20)),),
        exits=(exits("NPF", "nic9", count=20, ns=200_000, user=(0, 0)),),
        interrupts=(interrupts("nic9", 25),),
        tap_packets=100,
    )
    made = compare(before, after)
    device = counts(made, "nic0", "")
    assert device["exits"] == (300, 20, 3.0, 0.2)
    assert device["exits_to_qemu"] == (300, 0, 3.0, 0.0)
    assert device["qemu_ns"] == (6_000_000, 0, 60_000.0, 0.0)
    assert device["interrupts"] == (100, 25, 1.0, 0.25)
    assert counts(made, "nic0", "tx0")["kicks_sent"] == (None, 20, None, 0.2)
    assert [(row["reason"], row["device"]) for row in made.exits] == [("HLT", ""), ("NPF", "nic0")]
    assert made.exits[0]["after"]["count"] == 0


def test_what_was_not_recorded_is_not_zero():
    before = side(exits=(exits("IOIO", count=3),), duration_ns=10**9)
    made = compare(before, side("b", queues=(queue(chains=1),)))
    (row,) = made.exits
    assert row["before"]["user_count"] is None
    assert row["after"] is None
    assert row["after_per"] is None


def test_devices_that_a_recording_does_not_know_are_not_zero():
    before = side(exits=(exits("IOIO", count=3),))
    after = side("b", exits=(exits("IOIO", "COM1", count=4, user=(4, 100)),))
    made = compare(before, after)
    assert counts(made, "COM1", "")["exits"][:2] == (None, 4)
    rows = {row["device"]: row for row in made.exits}
    assert rows["COM1"]["before"] is None
    assert rows[""]["after"]["count"] == 0
    assert any("without device" in warning for warning in made.warnings)


def test_drops_by_reason_and_place():
    full = {"reason": "FULL_RING", "location": "tun_net_xmit"}
    made = compare(
        side(
            queues=(queue("net0", packets=10),), drops=(DropSum(device="net0", packets=5, **full),)
        ),
        side(
            "b", queues=(queue("n", packets=10),), drops=(DropSum(device="n", packets=1, **full),)
        ),
    )
    assert made.drops == [
        {**full, "device": "net0", "before": 5, "after": 1, "before_per": 0.5, "after_per": 0.1}
    ]


def test_loss_is_a_warning():
    before = side(queues=(queue(ambiguous=3),), loss={"lost": 5})
    made = compare(before, side("b", queues=(queue(),), damaged=True))
    assert any(
        warning.startswith("before.vtrace: records were lost, so its counts are too small")
        for warning in made.warnings
    )
    assert any("3 chains are ambiguous" in warning for warning in made.warnings)
    assert any(warning.startswith("b: parts of it") for warning in made.warnings)


def test_a_recording_against_itself_shows_no_change():
    stages = {"service": histogram(*range(1000, 3000))}
    both = [
        side(n, queues=(queue(chains=9, packets=9, stages=stages),), exits=(exits(count=4),))
        for n in "ab"
    ]
    made = compare(*both)
    assert {row["verdict"] for row in made.stages} == {"same"}
    assert all(row["before"] == row["after"] for row in (*made.counts, *made.exits))
    assert made.warnings == []
