"""The thread that samples beside the rings, and how sections are put together."""

import threading
import time

import pytest

from parsers.batch import MOST_COUNTED, MOST_SENTENCES, Metadata, joined
from probes import sampling
from probes.sampling import Sampling
from vtrace.session.sane import sane


def counted(value: int, name: str = "link/tap0") -> dict:
    return {"counters": {name: {"lo_ns": value, "hi_ns": value, "tx_dropped": value}}}


def through(steps) -> int:
    number = 0
    for _ in steps:
        number += 1
        time.sleep(0.01)
    return number


def test_first_and_last_sample_are_whole_and_others_come_in_between():
    calls = []

    def sampler(whole: bool) -> dict:
        calls.append(whole)
        return counted(len(calls))

    one = Sampling([sampler], 0.05)
    through(one.first())
    assert calls == [True]
    time.sleep(0.3)
    through(one.last())
    assert calls[-1] is True
    assert calls[1:-1] == [False] * (len(calls) - 2)
    assert len(calls) > 4
    assert one.take() == counted(len(calls))
    assert one.take() == {}


def test_without_a_pace_there_are_two_samples():
    calls = []
    one = Sampling([lambda whole: calls.append(whole) or {}], 0)
    through(one.first())
    time.sleep(0.2)
    through(one.last())
    assert calls == [True, True]


def test_the_rings_are_read_while_a_sample_takes_its_time():
    def slow(_whole: bool) -> dict:
        time.sleep(0.3)
        return {}

    one = Sampling([slow], 0)
    assert through(one.first()) > 5
    assert through(one.last()) > 5


def test_a_sampler_that_fails_is_a_sentence_and_the_others_go_on():
    def broken(_whole: bool) -> dict:
        raise ValueError("no such thing")

    one = Sampling([broken, lambda _whole: counted(7)], 0.02)
    through(one.first())
    time.sleep(0.1)
    through(one.last())
    section = one.take()["counters"]
    assert section["link/tap0"]["tx_dropped"] == 7
    assert section["missing"] == ["a sample failed: broken: ValueError: no such thing"]


def test_a_sampler_that_hangs_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(sampling, "_PATIENCE_S", 0.2)
    go_on = threading.Event()
    one = Sampling([lambda _whole: {"loss": go_on.wait(20)}], 0)
    began = time.monotonic()
    through(one.first())
    through(one.last())
    assert time.monotonic() - began < 5
    assert one.take()["counters"]["missing"] == ["a sample took longer than 0.2 s"]
    go_on.set()


def test_objects_that_are_not_repeated_keep_their_values():
    metadata = Metadata()
    first, second = counted(1), counted(2, "snmp/udp")
    metadata.update(first)
    held = metadata.section("counters")
    metadata.update(second | {"loss": {"late": 1}})
    metadata.update(counted(3))
    assert metadata.section("counters") == counted(3)["counters"] | second["counters"]
    # What a batch holds is not changed under it.
    assert held == first["counters"] == counted(1)["counters"]


def test_metadata_of_a_batch_that_is_dropped_joins_that_of_the_next():
    old = counted(1) | counted(1) | {"loss": {"late": 1}, "clock": [{"monotonic_ns": 1}]}
    old["counters"]["missing"] = ["a"]
    new = counted(2, "snmp/udp") | {"loss": {"late": 2}}
    new["counters"]["missing"] = ["b", "a"]
    both = joined(old, new)
    assert both["loss"] == {"late": 2}
    assert both["clock"] == [{"monotonic_ns": 1}]
    assert both["counters"].keys() == {"link/tap0", "snmp/udp", "missing"}
    assert both["counters"]["missing"] == ["a", "b"]


def test_a_hostile_file_does_not_fill_the_memory():
    metadata = Metadata()
    for start in range(0, 3 * MOST_COUNTED, MOST_COUNTED // 2):
        rows = {f"o/{n}": {"lo_ns": 1} for n in range(start, start + MOST_COUNTED // 2)}
        metadata.update({"counters": rows | {"missing": [f"{start}/{n}" for n in range(100)]}})
    assert len(metadata.section("counters")) <= MOST_COUNTED + 1
    assert len(metadata.section("counters")["missing"]) <= MOST_SENTENCES


@pytest.mark.parametrize("section", [[], "x", None, 7])
def test_a_section_that_is_no_object_changes_nothing(section):
    metadata = Metadata()
    metadata.update(counted(1))
    metadata.update({"counters": section})
    assert metadata.section("counters") == counted(1)["counters"]


def test_counters_of_a_file_are_put_into_shape():
    good = {"lo_ns": 1, "hi_ns": 2, "tx_dropped": 3, "comm": "x", "big": (1 << 64) - 1}
    section = {
        "link/tap0": good | {"odd": 1.5, "flag": True, "deep": {}, "huge": 1 << 64},
        "no times": {"tx_dropped": 1},
        "backwards": {"lo_ns": 2, "hi_ns": 1},
        "negative": {"lo_ns": -2, "hi_ns": 1},
        "list": [1],
        "missing": ["why", 3, None],
    }
    assert sane({"counters": section}) == {"counters": {"link/tap0": good, "missing": ["why"]}}
    assert sane({"counters": [1], "config": "x", "gap": None}) == {
        "counters": {},
        "config": {},
        "gap": {},
    }


def test_the_configuration_of_a_file_is_put_into_shape():
    config = {
        "links": {"tap0": {"mtu_bytes": 1500}, "bad": 7},
        "qdiscs": [{"kind": "tbf"}, "bad"],
        "routes": {},
        "sysctls": {"net.core.rmem_max": 212992},
        "firewall": {"drop_rules": 2},
        "missing": ["why", {}],
        "cpus": 4,
    }
    assert sane({"config": config})["config"] == {
        "links": {"tap0": {"mtu_bytes": 1500}},
        "qdiscs": [{"kind": "tbf"}],
        "sysctls": {"net.core.rmem_max": 212992},
        "firewall": {"drop_rules": 2},
        "missing": ["why"],
    }
