"""A request to one of QEMU's devices as layers: what was asked, and what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vtrace.packets import Field, Layer
from vtrace.tables import REQUESTS
from vtrace.tables.human import count_text, duration_text
from vtrace.tables.request_words import operation_text, status_text, what_text

__all__ = ["request_layers"]

_ANSWER: Final = (
    *("status", "response", "failed", "response_bytes", "residual"),
    *("sense_key", "asc", "ascq", "sense", "response_state", "num_buffers"),
)
_TIMES: Final = ("queueing_ns", "service_ns", "complete_ns")
_NAMES: Final = REQUESTS.names
_ASKED: Final = tuple(
    name
    for name in _NAMES[_NAMES.index("operation") : _NAMES.index("kick_ns")]
    if name not in _ANSWER
)
_HEX: Final = ("first_page", "last_page", "hash_value")


def request_layers(row: Mapping[str, Any]) -> list[Layer]:
    """Return a row of the table of requests as layers: request, answer, how long it took."""
    operation = operation_text(row) or "request"
    kind = row["device_type"] or "device"
    asked = _fields(row, _ASKED)
    answer = _fields(row, _ANSWER)
    times = [
        Field(name.removesuffix("_ns"), duration_text(row[name]))
        for name in _TIMES
        if row[name] is not None
    ]
    return [
        Layer(f"{kind} request", asked, summary=f"{operation} {what_text(row)}".strip()),
        Layer("answer", answer, summary=status_text(row) or str(row["response_state"])),
        Layer("times", times, summary=", ".join(f"{one.name} {one.text}" for one in times)),
    ]


def _fields(row: Mapping[str, Any], names: tuple[str, ...]) -> list[Field]:
    return [Field(name, _text(name, row[name])) for name in names if row[name] is not None]


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if name in _HEX:
            return f"{value:#x}"
        unit = " B" if REQUESTS.column(name).unit == "bytes" else ""
        return f"{count_text(value)}{unit}"
    return str(value).replace("_", " ") if name.endswith("_state") else str(value)
