import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrace.text import cells, clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web1", "web1"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x00\x07\x7f\x9b", "\\x00\\x07\\x7f\\x9b"),
        ("user\u202egpj.exe", "user\\u202egpj.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028two", "line\\u2028two"),
        ("\udc80", "\\udc80"),
        ("\U000e0041", "\\U000e0041"),
        ("grün 虚拟", "grün 虚拟"),
        ("", ""),
    ],
)
def test_clean(text, shown):
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("虚拟机", 6, "虚拟机"),
        ("虚拟机", 5, "虚拟…"),
        ("虚拟机", 4, "虚…"),
        ("abc", 0, ""),
        ("a\x1bb", 4, "a\\x…"),
    ],
)
def test_width(text, width, shown):
    assert clean(text, width) == shown


@given(st.text(st.characters()), st.integers(0, 30))
def test_nothing_steers_and_nothing_is_too_wide(text, width):
    safe = clean(text)
    assert not {unicodedata.category(c) for c in safe} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert clean(safe) == safe
    assert cells(clean(text, width)) <= width
    safe.encode()
