"""Rows of the table of requests in words: what was asked, what it was about, what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["operation_text", "status_text", "what_text"]

PLAIN: Final = ("seen", "pending", "not_applicable")
"""States of a part that is there, or that nobody would expect."""


def operation_text(row: Mapping[str, Any]) -> str | None:
    """Return what was asked for, or why that is not known."""
    if row["operation"] is not None:
        return str(row["operation"])
    states = [row[name] for name in ("request_state", "response_state")]
    missing = [state for state in states if state not in PLAIN]
    return f"? {missing[0]}" if missing else None


def what_text(row: Mapping[str, Any]) -> str:
    """Return in one line what a request was about."""
    parts = []
    if row["target"] is not None:
        parts.append(f"{row['target']}:{row['lun']}")
    if row["sector"] is not None:
        parts.append(f"sector {row['sector']}")
    if row["lba"] is not None:
        parts.append(f"lba {row['lba']} +{row['blocks']}")
    if row["sectors"] is not None:
        parts.append(f"+{row['sectors']}")
    if row["segments"] is not None:
        parts.append(f"in {row['segments']}")
    if row["pages"] is not None:
        parts.append(f"{row['pages']} page{'' if row['pages'] == 1 else 's'}")
    if row["port"] is not None:
        parts.append(f"port {row['port']}")
    if row["value"] is not None:
        parts.append(str(row["value"]))
    if row["num_buffers"] is not None and row["num_buffers"] > 1:
        parts.append(f"{row['num_buffers']} buffers")
    if row["gso_type"] not in (None, "NONE"):
        parts.append(f"{row['gso_type']} {row['gso_bytes']}")
    parts += [row[name] for name in ("mac", "flow", "detail") if row[name]]
    return " ".join(parts)


def status_text(row: Mapping[str, Any]) -> str | None:
    """Return what the device answered."""
    parts = [row["sense"] or row["status"]]
    if row["response"] is not None and (row["status"] is None or row["response"] != "OK"):
        parts.insert(0, row["response"])
    text = " ".join(part for part in parts if part)
    return text or (None if row["response_state"] in PLAIN else f"? {row['response_state']}")
