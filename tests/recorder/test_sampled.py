"""What the attach process samples: when, and what becomes of a failure."""

import contextlib
from types import SimpleNamespace

from vtrace.inventory import Thread, ThreadRole, Vm, to_json
from vtrace.recorder import sampled
from vtrace.recorder.sampled import Configuration, Counters, samplers_of


class Host:
    """VMs that a test chooses; ``looked`` counts how often they were looked up again."""

    def __init__(self, *vms: Vm) -> None:
        self.vms = list(vms)
        self.looked = 0

    def look(self) -> None:
        self.looked += 1
        self.vms = list(self.vms)


def vm(name: str, pid: int) -> Vm:
    return Vm(name=name, pid=pid, threads=(Thread(tid=pid, comm=name, role=ThreadRole.QEMU),))


def test_configuration_is_given_out_when_it_has_changed(monkeypatch):
    host = Host(vm("one", 1))
    configuration = Configuration(host)
    first = configuration(True)
    assert first["config"]["links"]
    assert first["vms"] == to_json(host.vms)
    assert configuration(False) == {}
    assert configuration(True) == {}  # the end: nobody waits for it
    host.vms = [*host.vms, vm("two", 2)]
    assert configuration(False)["vms"] == to_json(host.vms)
    assert host.looked == 0


def test_vms_and_configuration_are_looked_at_again_after_a_while(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(sampled, "time", SimpleNamespace(monotonic=lambda: now))
    host = Host(vm("one", 1))
    configuration = Configuration(host)
    configuration(True)
    for now, looked in ((1029.0, 0), (1031.0, 1), (1040.0, 1), (1062.0, 2)):  # noqa: B007
        configuration(False)
        assert host.looked == looked


def test_a_configuration_that_cannot_be_read_is_a_sentence(monkeypatch):
    def broken(_vms):
        raise ValueError("odd")

    monkeypatch.setattr(sampled, "snapshot", broken)
    found = Configuration(Host(vm("one", 1)))(True)
    assert found["config"] == {"missing": ["the configuration: ValueError: odd"]}


def test_counters_say_what_is_missing_once():
    gone = vm("gone", 1 << 22)
    host = Host(vm("init", 1), gone)
    counters, configuration = samplers_of(host)
    assert isinstance(counters, Counters)
    assert isinstance(configuration, Configuration)
    with contextlib.closing(counters):
        first = counters(True)["counters"]
        again, last = counters(False), counters(True)
    assert first["thread/1"]["vm"] == "init"
    assert f"thread/{1 << 22}" not in first
    assert isinstance(first["missing"], list)
    assert "missing" not in again.get("counters", {})
    assert "missing" in last["counters"]
