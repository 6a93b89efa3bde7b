"""The filter language: what it matches, what it refuses, and how it says so."""

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from tests.tables.frames import drop, names, rows_of
from vtrace.errors import ExitCode, FilterError
from vtrace.filter import compile_filter, complete, fields_of
from vtrace.tables import EXITS, LIFECYCLES, PACKETS, SCHEMAS, Type, packets_table

ETHER = Ether(src="52:54:00:12:34:56", dst="0a:12:f0:11:22:33")
V4 = IP(src="10.9.0.1", dst="10.9.0.2")
FRAMES = [
    ETHER / V4 / UDP(sport=5001, dport=7001) / (b"x" * 100),
    ETHER / Dot1Q(vlan=42) / IP(src="10.8.0.1", dst="10.9.0.9") / TCP(sport=80, dport=5001),
    ETHER / IPv6(src="fe80::1", dst="2001:db8::2") / UDP(sport=7001, dport=9),
    ETHER / IP(src="1.2.3.4", dst="5.6.7.8", frag=3, proto=17) / (b"y" * 64),
    ETHER / ARP(),
    None,
]
"""Queues: rx0 of cpx and tx0 of db01 in turn; the first is dropped at a full ring."""


@pytest.fixture(scope="module")
def table():
    rows = rows_of([b"" if frame is None else bytes(frame) for frame in FRAMES])
    drop(rows, 0, 67, 4)
    return packets_table(rows, names())


def matching(text, table):
    return np.flatnonzero(compile_filter(text, PACKETS).mask(table)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("udp.dport == 7001", [0]),
        ("udp.port == 7001", [0, 2]),
        ("udp.port != 7001", []),
        ("udp.port in {7001, 80}", [0, 2]),
        ("udp.dport in {1..9, 7000..7010}", [0, 2]),
        ("udp.dport not in {9}", [0]),
        ("tcp.port == 5001", [1]),
        ("sport == 5001", [0]),
        ("7001 == udp.dport", [0]),
        ("7000 < udp.dport", [0]),
        ('udp.dport == 7001 and queue == "rx0"', [0]),
        ("queue == rx0", [0, 2, 4]),
        ("queue == 'tx0' && vm == db01", [1, 3, 5]),
        ("vm != cpx", [1, 3, 5]),
        ("vm in {cpx, other}", [0, 2, 4]),
        ("udp || tcp", [0, 1, 2, 3]),
        ("not (udp or tcp)", [4, 5]),
        ("!udp and !tcp", [4, 5]),
        ("arp", [4]),
        ("vlan", [1]),
        ("vlan.id == 42", [1]),
        ("vlan == 42", [1]),
        ("ip.addr == 10.9.0.0/16", [0, 1]),
        ("ip.src == 10.9.0.1", [0]),
        ("ip.addr != 10.9.0.0/16", [3]),
        ("ip.src in {10.8.0.0/16, 1.2.3.4}", [1, 3]),
        ("src == 10.0.0.0/8", [0, 1]),
        ("ipv6.dst == 2001:db8::/32", [2]),
        ("src == fe80::1", [2]),
        ("ipv6", [2]),
        ("eth.src == 52:54:00:12:34:56", [0, 1, 2, 3, 4]),
        ("eth.dst == 52-54-00-12-34-56", []),
        ("eth.type == 0x0806", [4]),
        ("ip.fragment", [3]),
        ("fragment == true", [3]),
        ("fragment == false", [0, 1, 2]),
        ("verdict == dropped", [0]),
        ("drop.reason == FULL_RING and drop.location == tun_net_xmit", [0]),
        ('drop.reason matches "^FULL_"', [0]),
        ("reason contains RING", [0]),
        ("missing(reason)", [1, 2, 3, 4, 5]),
        ("seen(flow)", [0, 1, 2, 3, 4]),
        ('flow matches "7001$"', [0]),
        (r'flow matches "10\.8\."', [1]),
        ("frame.len > 0.1KB", [0]),
        ("frame.len >= 142 && frame.len <= 142B", [0]),
        ("captured_bytes == frame_bytes", [0, 1, 2, 3, 4]),
        ("frame.len > -1", [0, 1, 2, 3, 4]),
        ("frame.len < 99999999999999999999999", [0, 1, 2, 3, 4]),
        ("frame.len == 1_000", []),
        ("direction == rx or arp and udp", [0, 2, 4]),
        ("queue > rx0", [1, 3, 5]),
        ("queue == contains", []),
        (" udp.dport==7001 ", [0]),
    ],
)
def test_matches(text, rows, table):
    assert matching(text, table) == rows


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("udp.dprt == 3", 0, "did you mean udp.dport?"),
        ("udp and qeue == rx0", 8, "did you mean queue?"),
        ("udp.dport = 3", 10, "did you mean ==?"),
        ("udp & tcp", 4, "did you mean &&?"),
        ("udp.dport ==", 12, "the expression ends"),
        ("(udp or tcp", 11, "the expression ends"),
        ("udp)", 3, "found ')'"),
        ("udp.dport 3", 10, "found '3'"),
        ("vm == 'cpx", 6, "quote is not closed"),
        ("udp.dport == 10us", 13, "units"),
        ("frame.len > 10us", 12, "B, kB"),
        ("frame.len > 1.5", 12, "no whole number"),
        ("frame.len > '7'", 12, "is a number"),
        ("udp.dport == rx0", 13, "is a number"),
        ("ip.src == rx0", 10, "is an IP address"),
        ("ip.src == fe80::1", 10, "did you mean ipv6.src?"),
        ("ip.src < 1.2.3.4", 7, "equal or not"),
        ("eth.src == 1.2.3.4", 11, "is an Ethernet address"),
        ("verdict == droped", 11, "did you mean dropped?"),
        ("verdict == 7", 11, "it is one of waiting"),
        ('queue matches "("', 14, "regular expression"),
        ("udp.dport contains 7", 10, "is for text"),
        ("queue in {a..b}", 10, "is for numbers"),
        ("queue", 0, "is text"),
        ("udp == 3", 4, "stands alone"),
        ("sen(udp)", 0, "did you mean seen?"),
        ("fragment == 1", 12, "true or false"),
        ("udp.port == frame.len", 12, "stands for two"),
        ("sport == src", 9, "an IP address"),
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        ("not " * 70 + "udp", 0, "nested deeper"),
        ("x" * 9000, 8192, "longer than"),
        ("udp \x00", 4, "does not belong"),
    ],
)
def test_mistakes_say_where(text, column, words):
    with pytest.raises(FilterError) as caught:
        compile_filter(text, PACKETS)
    assert caught.value.column == column
    assert words in str(caught.value)
    assert f"column {column + 1}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


def test_deep_parentheses_are_no_depth(table):
    assert matching("(" * 500 + "arp" + ")" * 500, table) == [4]


def test_fields_of_the_packet_are_those_of_tables_with_packets():
    assert "udp.dport" in fields_of(LIFECYCLES)
    assert "udp.dport" not in fields_of(EXITS)
    with pytest.raises(FilterError, match=r"exits have no field 'udp\.dport'"):
        compile_filter("udp.dport == 1", EXITS)
    compile_filter("outside_ns > 10us and reason == EPT_MISCONFIG", EXITS)
    compile_filter("outcome == used and trust != complete and schedule_ns >= 1ms", LIFECYCLES)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_column_can_be_asked_for(schema):
    for name, field in fields_of(schema).items():
        assert field.meaning
        if field.presence:
            compile_filter(name, schema)
        else:
            compile_filter(f"seen({name}) or missing({name})", schema)


def test_completion_of_names_and_values():
    assert complete("udp.d", PACKETS) == ["udp.dport"]
    assert complete("queue == rx0 and drop.l", PACKETS) == ["drop.location"]
    assert complete("verdict == d", PACKETS) == ["delivered", "dropped"]


def test_a_filter_takes_rows(table):
    chosen = compile_filter("udp", PACKETS)(table)
    assert chosen["packet"].to_list(Type.INTEGER) == [1, 3, 4]


def test_an_empty_table():
    empty = packets_table(rows_of([]), names())
    for text in ("udp", "queue == rx0", "flow matches x", "not arp", "ip.src == 1.2.3.4"):
        assert matching(text, empty) == []


# The same expressions, evaluated row by row in plain Python.

NUMBERS = ("sport", "dport", "frame_bytes", "ttl", "vlan", "packet")
TEXTS = ("vm", "queue", "flow", "reason")
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def of_numbers():
    return st.tuples(
        st.sampled_from(NUMBERS),
        st.sampled_from(sorted(OPERATORS)),
        st.sampled_from([0, 1, 3, 42, 64, 80, 142, 5001, 7001, 70_000]),
    ).map(
        lambda t: (
            f"{t[0]} {t[1]} {t[2]}",
            lambda row: row[t[0]] is not None and OPERATORS[t[1]](row[t[0]], t[2]),
        )
    )


def of_texts():
    return st.tuples(
        st.sampled_from(TEXTS), st.sampled_from(["==", "!="]), st.sampled_from(["cpx", "rx0", "z"])
    ).map(
        lambda t: (
            f'{t[0]} {t[1]} "{t[2]}"',
            lambda row: row[t[0]] is not None and OPERATORS[t[1]](row[t[0]], t[2]),
        )
    )


def joined(children):
    def both(word, join):
        return st.tuples(children, children).map(
            lambda t: (
                f"({t[0][0]}) {word} ({t[1][0]})",
                lambda row: join(t[0][1](row), t[1][1](row)),
            )
        )

    negated = children.map(lambda c: (f"not ({c[0]})", lambda row: not c[1](row)))
    return both("and", lambda a, b: a and b) | both("||", lambda a, b: a or b) | negated


@settings(max_examples=150, deadline=None)
@given(expression=st.recursive(of_numbers() | of_texts(), joined, max_leaves=6))
def test_masks_agree_with_plain_python(expression):
    text, truth = expression
    rows = rows_of([b"" if frame is None else bytes(frame) for frame in FRAMES])
    drop(rows, 0, 67, 4)
    table = packets_table(rows, names())
    expected = [at for at, row in enumerate(table.rows()) if truth(row)]
    assert matching(text, table) == expected


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(
        alphabet=st.sampled_from(list("udp.ort =!<>&|()'\"{},017:/-\\~\x1b\u202e")), max_size=40
    )
    | st.text(max_size=30)
)
def test_any_text_is_a_filter_or_a_filter_error(text):
    column = 0
    try:
        compile_filter(text, PACKETS)
    except FilterError as error:
        column = error.column or 0
    assert 0 <= column <= len(text)
