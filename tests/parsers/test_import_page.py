"""The page on importing has the tables as the code has them."""

from pathlib import Path

import pytest

from parsers import eventmap
from parsers.kernelbatches import POINTS
from parsers.opening import FORMATS
from parsers.qemuevents import EVENTS, KINDS
from vtrace.cli.import_ import FORMATS as OFFERED

PAGE = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
ROLES = eventmap.load().roles


@pytest.mark.parametrize("role", ROLES.values(), ids=lambda role: role.name)
def test_an_event_of_the_kernel_stands_in_the_page(role):
    also = ", ".join(f"`{name}`" for name in role.names)
    fields = ", ".join(f"`{n}`" if n in role.needs else f"`{n}`?" for n in role.fields)
    assert f"\n| `{role.name}` | {role.kind} | {also} | {fields} |\n" in PAGE


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_of_qemu_stands_in_the_page(name):
    arguments = ", ".join(f"`{one}`" for one in EVENTS[name])
    assert f"\n| `{name}` | {KINDS[name]} | {arguments} |\n" in PAGE


def test_formats_stand_in_the_page_and_in_the_help():
    assert tuple(FORMATS) == OFFERED
    for name in FORMATS:
        assert f"`{name}`" in PAGE


def test_every_point_is_an_event_that_can_be_named():
    assert set(POINTS) <= set(ROLES)
