"""The published JSON Schemas are those of the tables."""

import json
from importlib.resources import files

import jsonschema
import pytest

from vtrace.tables import DROPS, EXITS, LIFECYCLES, PACKETS
from vtrace.tables.json_schema import row_schema

PUBLISHED = files("vtrace") / "schemas"


@pytest.mark.parametrize("schema", [LIFECYCLES, PACKETS, EXITS, DROPS], ids=lambda s: s.name)
def test_the_schema_of_a_table_is_up_to_date(schema):
    text = (PUBLISHED / f"{schema.name}.json").read_text()
    wanted = json.dumps(row_schema(schema), indent=2) + "\n"
    assert text == wanted, f"write json.dumps(row_schema(...), indent=2) to {schema.name}.json"


def test_every_published_schema_is_one():
    for path in PUBLISHED.iterdir():
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))
