"""The review of recordings that are damaged, partial or made to harm."""

import json
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.diagnose_rules.hosts import judge, lost, sane
from vtrace.diagnose.codes import CODES
from vtrace.diagnose.findings import Review, as_json
from vtrace.diagnose.review import review

CODES_FOUND = ["R3", "R5a", "R5b", "R5c", "R5d", "R8", "R10", "R11", "T1", "T4", "T9", "T11"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**64, 10**400, float("nan"), float("inf"), 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["on", "off", "tap", "br0", "\x1b[2J", "\u202e", "\ud800", "9" * 5000, "None"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """Yield the way to every value of a tree."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


def put(host, path, value):
    """Put a value there; what is left of the way may have gone."""
    try:
        for key in path[:-1]:
            host = host[key]
        host[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        pass


PLACES = [path for path in places(sane()) if path]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=6),
    st.sampled_from(["", "6.1.0-56-amd64", "6.\x00", "9" * 300, "999.999.9999"]),
)
def test_any_value_anywhere(changes, kernel):
    host = sane()
    for path, value in changes:
        put(host, path, value)
    points = judge(host, [lost(code) for code in CODES_FOUND], kernel)
    for point in points:
        assert isinstance(point, Review)
        assert point.code in CODES
        assert 0 <= point.weight <= 2
    assert len(json.dumps(as_json(points))) < 100_000


@given(JSON, JSON, JSON, JSON)
def test_nothing_is_where_it_should_be(config, vms, queues, kernel):
    assert isinstance(review(config, vms, queues, (), kernel), list)


def test_each_section_may_be_missing():
    for name in sane()["config"]:
        host = sane()
        del host["config"][name]
        assert judge(host) == []
    assert review({}, [], {}) == []


def test_very_many_of_everything_take_little_time():
    host = sane()
    one = host["vms"][0]
    host["vms"] = [one | {"name": f"vm{n}"} for n in range(3000)]
    host["config"]["links"] |= {
        f"tap{n}": host["config"]["links"]["tap0"] | {"ifindex": n} for n in range(3000)
    }
    host["config"]["qdiscs"] *= 1000
    host["config"]["cgroups"] |= {f"/machine/{n}": {} for n in range(3000)}
    host["config"]["threads"] |= {
        str(n): {"cpus": [n % 4], "cgroup": "/a" * 90} for n in range(1000, 4000)
    }
    before = time.perf_counter()
    judge(host, [lost(code) for code in CODES_FOUND])
    assert time.perf_counter() - before < 10
