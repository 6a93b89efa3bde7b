"""The meaning of each rule of the grammar: masks over the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.filter.fields import PROTOCOL_FIELDS, Field, Source, article, fields_of
from vtrace.filter.literals import Literal, in_network, literal, mac, near, number, wrong
from vtrace.tables import Schema, Type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.tables import Table, Values

__all__ = ["Node", "Rules"]

MAX_DEPTH: Final = 64

Mask = Callable[["Table"], "NDArray[np.bool_]"]


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression: its mask, and how deep it is."""

    mask: Mask
    depth: int = 0


class Rules:
    """The meaning of each rule of the grammar, for the fields of one schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.fields = fields_of(schema)

    # Values

    def on_value(self, children: list[Any]) -> Literal:
        """Return a word or a string as typed."""
        (token,) = children
        return literal(token)

    def on_item(self, children: list[Literal]) -> tuple[Literal, Literal | None]:
        """Return a member of a set: a value, or two with all between them."""
        return children[0], children[1] if len(children) > 1 else None

    def on_set(self, children: list[Any]) -> list[Any]:
        """Return the members of a set."""
        return children

    # Joining

    def on_any(self, children: list[Node]) -> Node:
        """Join by ``or``."""
        return _joined(children, np.logical_or)

    def on_all(self, children: list[Node]) -> Node:
        """Join by ``and``."""
        return _joined(children, np.logical_and)

    def on_negate(self, children: list[Any]) -> Node:
        """Return the opposite."""
        node: Node = children[0]
        return _node(lambda table: ~node.mask(table), node.depth + 1)

    # Tests

    def on_bare(self, children: list[Any]) -> Node:
        """A field alone: true, or there."""
        (token,) = children
        field = self._field(token)
        if field.presence:
            return Node(_present_mask(self._header(field)))
        if field.type is not Type.BOOLEAN:
            raise wrong(
                f"{field.name} is {article(field)}, not true or false: compare it, or ask "
                f"seen({field.name})",
                token.start_pos,
            )
        return Node(_value_mask(field, lambda values: values.data != 0))

    def _header(self, field: Field) -> Field:
        for name, column, (guard, values) in PROTOCOL_FIELDS:
            if name == field.name:
                return Field(name, Type.BOOLEAN, "", (Source(column, guard, values),))
        return field

    def on_call(self, children: list[Any]) -> Node:
        """``seen(field)`` or ``missing(field)``."""
        name, argument = children
        if name not in {"seen", "missing"}:
            hint = near(str(name), ["seen", "missing"])
            raise wrong(f"there is no function {str(name)!r}{hint}", name.start_pos)
        mask = _present_mask(self._field(argument))
        if name == "seen":
            return Node(mask)
        return Node(lambda table: ~mask(table))

    def on_compare(self, children: list[Any]) -> Node:
        """Compare a field with a value, or with another field."""
        left, operator, right = children
        sign = str(operator)
        if not isinstance(right, Literal):
            right = literal(right)
        if left.type == "STRING" or (left not in self.fields and right.text in self.fields):
            # 7001 == udp.dport
            field = self._named(right.text, right.column)
            right = literal(left)
            sign = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign)
        else:
            field = self._field(left)
        other = None if right.quoted else self.fields.get(right.text)
        if other is not None and field.type not in {Type.TEXT, Type.BOOLEAN}:
            return self._compare_fields(field, sign, other, right.column)
        return self._compare(field, sign, right, operator.start_pos)

    def _compare(self, field: Field, sign: str, value: Literal, at: int) -> Node:
        if field.presence and field.type is Type.BOOLEAN:
            raise wrong(f"{field.name} stands alone: it asks for a header", at)
        equal = self._equal(field, value)
        if sign == "==":
            return Node(_value_mask(field, equal))
        if sign == "!=":
            return Node(_none_mask(field, equal))
        if field.type in {Type.ADDRESS, Type.MAC, Type.BOOLEAN}:
            raise wrong(f"{field.name} is {article(field)}: it is equal or not, not {sign}", at)
        compare = _ORDER[sign]
        if field.type is Type.TEXT:
            text = value.plain
            return Node(_value_mask(field, _by_text(lambda known: compare(known, text))))
        than = number(field, value)
        return Node(_value_mask(field, lambda values: compare(values.data, than)))

    def _compare_fields(self, field: Field, sign: str, other: Field, at: int) -> Node:
        if other.type is not field.type:
            raise wrong(f"{field.name} is {article(field)} and {other.name} {article(other)}", at)
        if field.type is not Type.INTEGER and sign not in {"==", "!="}:
            raise wrong(f"{field.name} is equal or not, not {sign}", at)
        if len(field.sources) > 1 or len(other.sources) > 1:
            raise wrong("a field that stands for two cannot be compared with a field", at)
        compare = _ORDER[sign]

        def mask(table: Table) -> NDArray[np.bool_]:
            left, here = field.sources[0].of(table)
            right, there = other.sources[0].of(table)
            found = compare(left.data, right.data)
            if found.ndim > 1:
                found = found.any(axis=1) if sign == "!=" else found.all(axis=1)
            matched: NDArray[np.bool_] = here & there & found
            return matched

        return Node(mask)

    def on_member(self, children: list[Any]) -> Node:
        """A field whose value is in a set."""
        token, _, members = children
        field = self._field(token)
        return Node(_value_mask(field, self._in(field, members)))

    def on_not_member(self, children: list[Any]) -> Node:
        """A field whose value is not in a set."""
        token, _, members = children
        field = self._field(token)
        return Node(_none_mask(field, self._in(field, members)))

    def on_contains(self, children: list[Any]) -> Node:
        """A text with another in it."""
        token, operator, value = children
        field = self._text_field(token, operator)
        part = value.plain
        return Node(_value_mask(field, _by_text(lambda known: part in known)))

    def on_matches(self, children: list[Any]) -> Node:
        """A text that a regular expression finds something in."""
        token, operator, value = children
        field = self._text_field(token, operator)
        try:
            pattern = re.compile(value.regex)
        except (re.error, RecursionError, OverflowError) as error:
            raise wrong(f"the regular expression is wrong: {error}", value.column) from None
        return Node(_value_mask(field, _by_text(lambda known: bool(pattern.search(known)))))

    # Parts

    def _field(self, token: Any) -> Field:
        return self._named(str(token), token.start_pos)

    def _named(self, name: str, column: int) -> Field:
        field = self.fields.get(name)
        if field is None:
            hint = near(name, list(self.fields))
            raise wrong(f"{self.schema.name} have no field {name!r}{hint}", column)
        return field

    def _text_field(self, token: Any, operator: Any) -> Field:
        field = self._field(token)
        if field.type is not Type.TEXT:
            raise wrong(
                f"{field.name} is {article(field)}: {operator} is for text",
                operator.start_pos,
            )
        return field

    def _equal(self, field: Field, value: Literal) -> Callable[[Values], Any]:
        if field.type is Type.TEXT:
            text = value.plain
            if field.values and text not in field.values:
                hint = near(text, field.values)
                raise wrong(
                    f"{field.name} is never {text!r}{hint or ': it is one of '}"
                    f"{'' if hint else ', '.join(field.values)}",
                    value.column,
                )
            return _by_text(lambda known: known == text)
        if field.type is Type.ADDRESS:
            return in_network(field, value)
        if field.type is Type.BOOLEAN:
            if value.plain not in {"true", "false"}:
                raise wrong(f"{field.name} is true or false", value.column)
            wanted = value.plain == "true"
            return lambda values: (values.data != 0) == wanted
        wanted_number = mac(field, value) if field.type is Type.MAC else number(field, value)
        return lambda values: values.data == wanted_number

    def _in(self, field: Field, members: list[Any]) -> Callable[[Values], Any]:
        tests = [self._member(field, low, high) for low, high in members]

        def test(values: Values) -> Any:
            found = tests[0](values)
            for further in tests[1:]:
                found = found | further(values)
            return found

        return test

    def _member(self, field: Field, low: Literal, high: Literal | None) -> Callable[[Values], Any]:
        if high is None:
            return self._equal(field, low)
        if field.type is not Type.INTEGER:
            raise wrong(f"{field.name} is {article(field)}: .. is for numbers", low.column)
        first, last = number(field, low), number(field, high)
        return lambda values: (values.data >= first) & (values.data <= last)


_ORDER: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _node(mask: Mask, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise wrong(f"nested deeper than {MAX_DEPTH}", 0)
    return Node(mask, depth)


def _joined(children: list[Node], join: Any) -> Node:
    def mask(table: Table) -> NDArray[np.bool_]:
        found = children[0].mask(table)
        for child in children[1:]:
            found = join(found, child.mask(table))
        return found

    return _node(mask, max(child.depth for child in children) + 1)


def _present(field: Field, table: Table) -> Iterator[tuple[Values, NDArray[np.bool_]]]:
    for source in field.sources:
        yield source.of(table)


def _present_mask(field: Field) -> Mask:
    def mask(table: Table) -> NDArray[np.bool_]:
        found = np.zeros(len(table), np.bool_)
        for _, present in _present(field, table):
            found |= present
        return found

    return mask


def _value_mask(field: Field, test: Callable[[Values], Any]) -> Mask:
    def mask(table: Table) -> NDArray[np.bool_]:
        found = np.zeros(len(table), np.bool_)
        for values, present in _present(field, table):
            found |= present & test(values)
        return found

    return mask


def _none_mask(field: Field, test: Callable[[Values], Any]) -> Mask:
    some, any_present = _value_mask(field, test), _present_mask(field)
    return lambda table: any_present(table) & ~some(table)


def _by_text(test: Callable[[str], bool]) -> Callable[[Values], Any]:
    # Each distinct text is tested once.
    def mask(values: Values) -> Any:
        pool = values.pool or ("",)
        used = np.unique(values.data)
        hits = np.zeros(len(pool), np.bool_)
        hits[[code for code in used.tolist() if test(pool[code])]] = True
        return hits[values.data]

    return mask
