"""Values that :mod:`probes.codewalk` finds in registers: sums of unknowns with factors."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

__all__ = ["Value", "arg", "load", "number", "signed"]

MOST_TERMS = 6

Term: TypeAlias = tuple[Any, ...]
"""An unknown: ("arg", n), ("load", address, size), ("ret", place),
("xor", value, value), ("shr", value, count),
("pair", low value, high value), ("new", place, what)."""


class Value(NamedTuple):
    """A sum: terms with their factors, sorted, and a constant."""

    terms: tuple[tuple[Term, int], ...] = ()
    constant: int = 0

    def plus(self, other: Value, factor: int = 1) -> Value | None:
        """Return this plus `factor` times another; None if it grows out of hand."""
        sums = dict(self.terms)
        for term, count in other.terms:
            sums[term] = sums.get(term, 0) + factor * count
        kept = tuple(sorted(((t, c) for t, c in sums.items() if c), key=repr))
        if len(kept) > MOST_TERMS:
            return None
        return Value(kept, signed(self.constant + factor * other.constant))

    def offset_from(self, base: Value) -> int | None:
        """Return the constant that is added to `base` here; None if it is another thing."""
        if self.terms != base.terms:
            return None
        return self.constant - base.constant

    @property
    def loaded(self) -> tuple[Value, int] | None:
        """Address and size, if this is a value as it was loaded."""
        if self.constant or len(self.terms) != 1:
            return None
        term, factor = self.terms[0]
        return (term[1], term[2]) if factor == 1 and term[0] == "load" else None


def signed(number: int) -> int:
    """Return a number as 64 bits with a sign hold it."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def arg(index: int) -> Value:
    """Return the value of an argument as the function got it."""
    return Value(((("arg", index), 1),))


def load(address: Value, size: int) -> Value:
    """Return what is loaded from an address."""
    return Value(((("load", address, size), 1),))


def number(constant: int) -> Value:
    """Return a constant."""
    return Value((), constant)
