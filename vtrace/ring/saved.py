"""A ring as JSON: its bytes, so that a colleague decodes it elsewhere, without privilege."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from vtrace.errors import InputError
from vtrace.ring.nouns import Device, Memory, RawRing

__all__ = ["VERSION", "from_saved", "memory_of", "to_saved"]

VERSION: Final = 1
_AREAS: Final = ("desc", "driver", "device")
_MOST_TABLES: Final = 1 << 17


def to_saved(raw: RawRing, tables: dict[int, bytes]) -> dict[str, Any]:
    """Return a ring, and indirect tables by guest-physical address, as JSON has them."""
    known = raw.known
    return {
        "vtrace_ring": VERSION,
        "layout": raw.layout,
        "size": raw.size,
        "features": raw.features,
        "consistent": raw.consistent,
        "known": {
            "taken": known.taken,
            "used": known.used,
            "inuse": known.inuse,
            "wraps": known.wraps,
        },
        "areas": {name: base64.b64encode(getattr(raw, name)).decode() for name in _AREAS},
        "tables": {f"{at:#x}": base64.b64encode(data).decode() for at, data in tables.items()},
    }


def from_saved(value: Any) -> tuple[RawRing, dict[int, bytes]]:
    """Return the ring and its tables.

    Raises:
        InputError: This is none, or too new.
    """
    if not isinstance(value, dict) or "vtrace_ring" not in value:
        raise InputError("this is no ring that vtrace ring --save wrote")
    if value["vtrace_ring"] != VERSION:
        raise InputError(
            f"the saved ring has version {value['vtrace_ring']!r}, this vtrace reads {VERSION}"
        )
    known, areas, tables = (_object(value, name) for name in ("known", "areas", "tables"))
    if len(tables) > _MOST_TABLES:
        raise InputError(
            f"the saved ring has {len(tables)} tables, at most {_MOST_TABLES} are read"
        )
    raw = RawRing(
        layout=str(value.get("layout")),
        size=_integer(value, "size", 1 << 16),
        features=_integer(value, "features", 1 << 128),
        consistent=value.get("consistent") is True,
        known=Device(
            taken=_index(known, "taken"),
            used=_index(known, "used"),
            inuse=_index(known, "inuse"),
            wraps=known.get("wraps") is not False,
        ),
        desc=_bytes(areas, "desc"),
        driver=_bytes(areas, "driver"),
        device=_bytes(areas, "device"),
    )
    return raw, {_address(name): _bytes(tables, name) for name in tables}


def memory_of(tables: dict[int, bytes]) -> Memory:
    """Return what reads from tables."""

    def read(address: int, length: int) -> bytes | None:
        data = tables.get(address)
        return data if data is not None and len(data) == length else None

    return read


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise InputError(f"the saved ring has no {name}")
    return found


def _integer(value: dict[str, Any], name: str, end: int) -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < end:
        raise InputError(f"the saved ring's {name} is {str(found)[:40]!r}, expected a number")
    return found


def _index(value: dict[str, Any], name: str) -> int | None:
    return None if value.get(name) is None else _integer(value, name, 1 << 16)


def _bytes(value: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(value[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise InputError(f"the saved ring has no bytes of {name}") from None


def _address(name: str) -> int:
    try:
        return int(name, 16)
    except ValueError:
        raise InputError(f"the saved ring has a table at {name[:40]!r}, no address") from None
