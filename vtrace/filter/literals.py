"""Values as they are typed: numbers with units, addresses, networks, text."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.errors import FilterError
from vtrace.flows import V4_MAPPED

if TYPE_CHECKING:
    from vtrace.filter.fields import Field
    from vtrace.tables import Values

__all__ = ["Literal", "in_network", "literal", "mac", "near", "number", "wrong"]

TIME_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1_000,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_NUMBER: Final = re.compile(r"(-?)(?:(0[xX][0-9a-fA-F]+)|(\d[\d_]*)(?:\.(\d+))?([A-Za-zµ]*))")
_MAC: Final = re.compile(r"[0-9a-fA-F]{1,2}(?:[:-][0-9a-fA-F]{1,2}){5}")


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as it was typed."""

    text: str
    column: int
    quoted: bool

    @property
    def plain(self) -> str:
        """The text without quotes and escapes."""
        return re.sub(r"\\([\\\"'])", r"\1", self.text) if self.quoted else self.text

    @property
    def regex(self) -> str:
        """The text as a regular expression: only quotes lose their backslash."""
        return re.sub(r"\\([\"'])", r"\1", self.text) if self.quoted else self.text


def wrong(message: str, column: int) -> FilterError:
    """Return an error at a column of the expression, from 0."""
    return FilterError(f"filter, column {column + 1}: {message}", column=column)


def near(word: str, names: Sequence[str]) -> str:
    """Return what may have been meant, as the end of a sentence."""
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def literal(token: Any) -> Literal:
    """Return what a token of the grammar holds."""
    if token.type == "STRING":
        return Literal(str(token)[1:-1], token.start_pos, quoted=True)
    return Literal(str(token), token.start_pos, quoted=False)


def number(field: Field, value: Literal) -> int:
    """Return a number in the unit of a field.

    Raises:
        FilterError: It is none, or has a unit that the field does not take.
    """
    match = None if value.quoted else _NUMBER.fullmatch(value.text)
    if not match:
        raise wrong(f"{field.name} is a number, {value.plain!r} is none", value.column)
    sign, hexadecimal, whole, part, unit = match.groups()
    if hexadecimal:
        return int(sign + hexadecimal, 16)
    factor = 1
    if unit:
        units = {"ns": TIME_UNITS, "bytes": SIZE_UNITS}.get(field.unit, {})
        if unit not in units:
            known = ", ".join(units) or "none"
            raise wrong(f"{field.name} takes the units: {known}; not {unit!r}", value.column)
        factor = units[unit]
    scaled = int(whole) * factor
    if part:
        extra = int(part) * factor
        if extra % 10 ** len(part):
            raise wrong(f"{value.text} is no whole number", value.column)
        scaled += extra // 10 ** len(part)
    return -scaled if sign else scaled


def mac(field: Field, value: Literal) -> int:
    """Return an Ethernet address as a number.

    Raises:
        FilterError: It is none.
    """
    if not _MAC.fullmatch(value.plain):
        raise wrong(f"{field.name} is an Ethernet address, {value.plain!r} is none", value.column)
    parts = re.split("[:-]", value.plain)
    return int.from_bytes(bytes(int(part, 16) for part in parts), "big")


def in_network(field: Field, value: Literal) -> Callable[[Values], Any]:
    """Return the test for an address, or for one of a network.

    Raises:
        FilterError: It is none, or of the other version.
    """
    try:
        network = ipaddress.ip_network(value.plain, strict=False)
    except ValueError:
        raise wrong(
            f"{field.name} is an IP address, {value.plain!r} is none", value.column
        ) from None
    if field.version and network.version != field.version:
        other = field.name.replace("ip.", "ipv6.") if field.version == 4 else "ip.*"
        raise wrong(
            f"{field.name} is of IPv{field.version}, {value.plain} of IPv{network.version}; "
            f"did you mean {other}?",
            value.column,
        )
    number, prefix = int(network.network_address), network.prefixlen
    if network.version == 4:
        number, prefix = number | V4_MAPPED, prefix + 96
    mask = ((1 << prefix) - 1) << (128 - prefix)
    high, low = np.uint64(number >> 64), np.uint64(number & (1 << 64) - 1)
    high_mask, low_mask = np.uint64(mask >> 64), np.uint64(mask & (1 << 64) - 1)

    def test(values: Values) -> Any:
        data = values.data
        return (data[:, 0] & high_mask == high) & (data[:, 1] & low_mask == low)

    return test
