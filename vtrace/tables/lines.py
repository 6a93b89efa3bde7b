"""Rows as JSON lines: what the verbs print with ``--json``, and what an export writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtrace.tables.table import Table

__all__ = ["json_lines"]


def json_lines(table: Table) -> str:
    """Return each row as a JSON object on a line; empty without rows."""
    names = table.schema.names
    encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
    lines = [
        encode(dict(zip(names, row, strict=True))) for row in zip(*table.lists(names), strict=True)
    ]
    return "\n".join([*lines, ""]) if lines else ""
