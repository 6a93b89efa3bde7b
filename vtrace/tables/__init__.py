"""Tables: what each column is, and the builders that fill them.

A schema names the columns of a table with type, unit and meaning; a ``Table`` makes each column at
its first use, so that what nobody prints or filters by costs nothing. Text is kept as codes into a
pool, and a value that was not seen is missing, never 0.
"""

from __future__ import annotations

from typing import Final

from vtrace.tables.build import (
    PACKET,
    Names,
    drops_table,
    exits_table,
    lifecycles_table,
    packets_table,
)
from vtrace.tables.requests import requests_table
from vtrace.tables.requests_schema import REQUESTS
from vtrace.tables.schema import (
    DROPS,
    EXITS,
    LIFECYCLES,
    PACKETS,
    QUEUES,
    Column,
    Schema,
    Type,
    Verdict,
)
from vtrace.tables.schema import SCHEMAS as _SCHEMAS
from vtrace.tables.table import Table, Values

__all__ = [
    "DROPS",
    "EXITS",
    "LIFECYCLES",
    "PACKET",
    "PACKETS",
    "QUEUES",
    "REQUESTS",
    "SCHEMAS",
    "Column",
    "Names",
    "Schema",
    "Table",
    "Type",
    "Values",
    "Verdict",
    "drops_table",
    "exits_table",
    "lifecycles_table",
    "packets_table",
    "requests_table",
]

SCHEMAS: Final = {**_SCHEMAS, REQUESTS.name: REQUESTS}
"""Every table by its name."""
