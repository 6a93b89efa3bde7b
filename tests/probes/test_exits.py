"""Sums of exits and interrupts: from maps into sections, within their limits."""

from types import SimpleNamespace

import pytest

from probes import exit_sums
from probes.exit_sums import exit_rows, interrupt_rows, owner_of, unkept

VCPU = {"vm": "web1", "vcpu": 0}


class Table:
    """A map as bcc gives it."""

    def __init__(self, *rows):
        self.rows = [(SimpleNamespace(**key), SimpleNamespace(**value)) for key, value in rows]

    def items(self):
        return iter(self.rows)

    def __getitem__(self, key):
        return self.rows[key.value][1]


def exit_(reason=30, *, io=0, write=0, address=0, count=1, ns=1000, user=(0, 0), tid=11):
    key = {"tid": tid, "tgid": 7, "reason": reason, "svm": 0}
    key |= {"io": io, "write": write, "address": address}
    value = {"count": count, "ns": ns, "user_count": user[0], "user_ns": user[1]}
    return key, value


def rows_of(*tables, user=True):
    return exit_rows(tables, lambda tid, tgid: VCPU, user=user)


def test_an_exit_has_its_port():
    (row,) = rows_of(Table(exit_(io=1, write=1, address=0x3F8, count=3, user=(2, 900))), None)
    place = {"pid": 7, "tid": 11, "isa": "vmx", "reason": 30}
    port = {"io": "pio", "write": True, "address": 0x3F8}
    sums = {"count": 3, "total_ns": 1000, "user_count": 2, "user_ns": 900}
    assert row == VCPU | place | port | sums


def test_an_exit_without_an_address_says_nothing_of_one():
    (row,) = rows_of(Table(exit_(12)), None)
    assert not row.keys() & {"io", "write", "address"}
    assert row["user_count"] == 0


def test_what_was_not_watched_is_not_zero():
    (row,) = rows_of(Table(exit_(12)), None, user=False)
    assert not row.keys() & {"user_count", "user_ns"}


def test_what_found_no_place_keeps_its_sums():
    rows = rows_of(Table(exit_(io=2, address=0x1000)), Table(exit_(io=2, count=9, ns=5)))
    assert [(row["address"], row["count"]) for row in rows] == [(None, 9), (0x1000, 1)]


def test_too_many_addresses_lose_the_smallest_and_no_sum(monkeypatch):
    monkeypatch.setattr(exit_sums, "MOST_ROWS", 10)
    many = [exit_(io=1, address=port, count=2, ns=port, user=(1, port)) for port in range(100)]
    rows = rows_of(Table(*many), Table(exit_(io=1, count=5, ns=50)))
    assert {row["address"] for row in rows} == {None, *range(90, 100)}
    for name, sum_ in (("count", 205), ("total_ns", 5000), ("user_count", 100), ("user_ns", 4950)):
        assert sum(row[name] for row in rows) == sum_


def msi(tgid, address, data, count):
    key = {"tgid": tgid, "msi": 1, "gsi": 0, "data": data, "address": address}
    return key, {"value": count}


def line(tgid, gsi, count):
    return {"tgid": tgid, "msi": 0, "gsi": gsi, "data": 0, "address": 0}, {"value": count}


def vm_of(tgid):
    return (7, "web1") if tgid in {7, 9} else (0, "")


def test_interrupts_of_a_vm_and_of_its_workers_are_one_sum():
    table = Table(line(7, 4, 3), line(9, 4, 2), msi(9, 0xFEE00000, 0x4021, 8), line(5, 4, 1))
    assert interrupt_rows(table, vm_of) == [
        {"pid": 0, "vm": "", "gsi": 4, "count": 1},
        {"pid": 7, "vm": "web1", "gsi": 4, "count": 5},
        {"pid": 7, "vm": "web1", "msi_address": 0xFEE00000, "msi_data": 0x4021, "count": 8},
    ]


def test_interrupts_of_one_vm_alone():
    table = Table(line(7, 4, 3), line(5, 4, 1))
    assert [row["pid"] for row in interrupt_rows(table, vm_of, (7,))] == [7]


def test_too_many_interrupts_lose_what_they_are_and_no_count(monkeypatch):
    monkeypatch.setattr(exit_sums, "MOST_ROWS", 3)
    rows = interrupt_rows(Table(*(msi(7, 0xFEE00000, n, n + 1) for n in range(10))), vm_of)
    assert sum(row["count"] for row in rows) == 55
    assert [row.get("msi_data") for row in rows] == [7, 8, 9, None]


@pytest.mark.parametrize(
    ("comm", "pid"),
    [("vhost-145", 145), ("kvm-pit/145", 145), ("kworker/0:1", None), ("vhost-x", None)],
)
def test_a_worker_of_the_kernel_says_whose_it_is(comm, pid):
    assert owner_of(comm) == pid


def test_what_is_in_no_sum_is_counted():
    assert unkept(Table(({}, {"value": 3}), ({}, {"value": 0}))) == {"exits": 3}
    assert unkept(None) == {}
