"""JSON Schemas of the rows that ``--json`` prints, made from the tables' own schemas."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from vtrace.tables.schema import Column, Schema, Type

__all__ = ["row_schema"]

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

_NEVER_MISSING: Final = frozenset({"direction", "queue_id", "verdict", "outcome", "trust", "isa"})


def row_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON Schema of one row of a table."""
    return {
        "$schema": DRAFT,
        "title": f"vtrace {schema.name} --json: one object a line",
        "description": schema.meaning,
        "type": "object",
        "properties": {column.name: _column(column) for column in schema.columns},
        "required": list(schema.names),
        "additionalProperties": False,
    }


def _column(column: Column) -> dict[str, Any]:
    missing = not (column.name in _NEVER_MISSING or column.name.endswith("_state"))
    kind: dict[str, Any]
    if column.type is Type.INTEGER:
        limits = np.iinfo(column.numpy)
        kind = {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    elif column.type is Type.BOOLEAN:
        kind = {"type": "boolean"}
    else:
        kind = {"type": "string"}
    if column.type is Type.MAC:
        kind["pattern"] = "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"
    if missing:
        kind["type"] = [kind["type"], "null"]
    if column.values:
        kind["enum"] = [*column.values, None] if missing else list(column.values)
    meaning = column.meaning + (f", {column.unit}" if column.unit else "")
    if column.state:
        meaning += f"; null: see {column.state}"
    return {"description": meaning, **kind}
