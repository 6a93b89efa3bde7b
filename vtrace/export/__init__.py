"""Recordings in the formats that others read: captures, timelines, tables.

``write_capture`` makes pcapng for Wireshark, ``write_timeline`` a trace for Perfetto, and
``write_tables`` Parquet, CSV or JSON lines. Each reads a session once, in bounded memory, and
writes as it reads. Formats are imported where they are used.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FORMATS", "SUFFIXES", "TABULAR", "format_of"]

TABULAR: Final = ("parquet", "csv", "jsonl")
"""Formats of tables: one file for each table."""

FORMATS: Final = ("pcapng", "perfetto", *TABULAR)

SUFFIXES: Final = {
    ".pcapng": "pcapng",
    ".perfetto": "perfetto",
    ".pftrace": "perfetto",
    ".perfetto-trace": "perfetto",
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""Suffix of a file's name -> the format that it stands for."""


def format_of(path: str) -> str | None:
    """Return the format that the name of a file stands for; None if it stands for none."""
    return next((name for end, name in SUFFIXES.items() if path.lower().endswith(end)), None)
