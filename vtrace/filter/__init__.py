"""The display filter: ``udp.dport == 7001 and queue == "rx0"`` over the columns of a table.

An expression compares fields with values: ``==  !=  <  <=  >  >=``, ``in {a, b, 7000..7010}``,
``contains``, ``matches`` (a regular expression), joined by ``and or not`` (``&& || !``) and
parentheses. A field is a column of the table, or a field of the packet (``ip.src``, ``udp.port``).
Numbers take units (``10us``, ``64KB``), addresses a prefix length (``10.9.0.0/16``); text may stand
without quotes if it is one word.

What was not seen compares false with everything, ``!=`` included; ``seen(field)`` and
``missing(field)`` ask for that. Of a name that stands for two fields (``udp.port``)
one that fits is enough.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from vtrace.errors import FilterError
from vtrace.filter.fields import Field, fields_of
from vtrace.filter.literals import wrong
from vtrace.filter.rules import Mask, Rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vtrace.tables import Schema, Table

__all__ = ["Field", "Filter", "compile_filter", "complete", "fields_of"]

MAX_LENGTH: Final = 8192

GRAMMAR: Final = r"""
?start: any
?any: all ((_OR | _BARS) all)*
?all: unary ((_AND | _AMPERSANDS) unary)*
?unary: (_NOT | _BANG) unary -> negate
      | "(" any ")"
      | test
?test: WORD OPERATOR value -> compare
     | STRING OPERATOR WORD -> compare
     | WORD IN set -> member
     | WORD _NOT IN set -> not_member
     | WORD CONTAINS value -> contains
     | WORD MATCHES value -> matches
     | WORD "(" WORD ")" -> call
     | WORD -> bare
value: WORD | STRING
set: "{" item ("," item)* "}"
item: value (".." value)?
_OR: "or"
_BARS: "||"
_AND: "and"
_AMPERSANDS: "&&"
_NOT: "not"
_BANG: "!"
IN: "in"
CONTAINS: "contains"
MATCHES: "matches"
OPERATOR: "==" | "!=" | "<=" | ">=" | "<" | ">"
STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/
WORD: /([\w:\/-]|\.(?!\.))+/
%ignore /\s+/
"""


class Filter:
    """An expression ready for use on the tables of one schema."""

    def __init__(self, text: str, schema: Schema, mask: Mask) -> None:
        self.text = text
        self.schema = schema
        self._mask = mask

    def __repr__(self) -> str:
        return f"Filter({self.text!r}, {self.schema.name})"

    def mask(self, table: Table) -> NDArray[np.bool_]:
        """Return which rows of a table match."""
        return self._mask(table)

    def __call__(self, table: Table) -> Table:
        """Return the rows of a table that match."""
        return table.take(self._mask(table)) if len(table) else table


def compile_filter(text: str, schema: Schema) -> Filter:
    """Return the filter that an expression describes.

    Raises:
        FilterError: The expression has a mistake; its ``column`` says where.
    """
    from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedInput, VisitError

    if len(text) > MAX_LENGTH:
        raise wrong(f"longer than {MAX_LENGTH} characters", MAX_LENGTH)
    if not text.strip():
        raise wrong("the expression is empty", 0)
    try:
        tree = _parser().parse(text)
        node = _builder(schema).transform(tree)
    except VisitError as error:
        if isinstance(error.orig_exc, FilterError):
            raise error.orig_exc from None
        raise
    except UnexpectedCharacters as error:
        raise _character(text, error.pos_in_stream or 0) from None
    except UnexpectedInput as error:
        raise _unexpected(text, error) from None
    except (LarkError, RecursionError) as error:
        raise wrong(f"cannot be read: {error}", 0) from None
    return Filter(text, schema, node.mask)


def complete(text: str, schema: Schema) -> list[str]:
    """Return what may stand for the last, unfinished word of an expression."""
    match = re.search(r"[\w.]*$", text)
    start = match[0] if match else ""
    names = sorted(fields_of(schema))
    value = re.search(r"([\w.]+)\s*(?:==|!=)\s*\"?[\w.]*$", text)
    if value:
        field = fields_of(schema).get(value[1])
        names = list(field.values) if field else []
    return [name for name in names if name.startswith(start)]


def _character(text: str, at: int) -> FilterError:
    if text[at] in "\"'":
        return wrong("a quote is not closed", at)
    if text[at] == "=":
        return wrong("= is not an operator; did you mean ==?", at)
    if text[at] in "&|":
        return wrong(f"{text[at]} is not an operator; did you mean {text[at] * 2}?", at)
    return wrong(f"{text[at]!r} does not belong here", at)


_EXPECTED: Final = (
    ("OPERATOR", "an operator"),
    ("_AND", "and, or"),
    ("WORD", "a field or a value"),
    ("LBRACE", "{"),
    ("RPAR", ")"),
    ("RBRACE", "}"),
)


def _unexpected(text: str, error: Any) -> FilterError:
    token: Any = getattr(error, "token", None)
    ended = token is None or token.type == "$END"
    at = len(text.rstrip()) if ended else token.start_pos
    accepted = getattr(error, "accepts", None) or getattr(error, "expected", None) or set()
    expected = [words for name, words in _EXPECTED if name in accepted]
    what = "the expression ends" if ended else f"found {str(token)!r}"
    if not expected:
        return wrong(f"{what} where it should not", at)
    return wrong(f"{what} where there should be {' or '.join(expected[:2])}", at)


@lru_cache(maxsize=1)
def _parser() -> Any:
    from lark import Lark

    # contextual: "in" is an operator behind a field and a word elsewhere.
    return Lark(GRAMMAR, parser="lalr", maybe_placeholders=False)


@lru_cache(maxsize=16)
def _builder(schema: Schema) -> Any:
    from lark import Transformer

    rules = Rules(schema)
    names = (
        "any",
        "all",
        "negate",
        "compare",
        "member",
        "not_member",
        "contains",
        "matches",
        "call",
        "bare",
        "value",
        "set",
        "item",
    )
    methods = {
        name: (lambda rule: lambda _, children: rule(children))(getattr(rules, f"on_{name}"))
        for name in names
    }
    return type("Builder", (Transformer,), methods)()
