"""Rows as files: JSON lines, CSV, and the part of the recording that they come from."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from vtrace.errors import InputError, UsageError
from vtrace.tables.human import count_text

if TYPE_CHECKING:
    from vtrace.tui.base import Selection

__all__ = ["ENDINGS", "check_path", "default_path", "export", "next_ending", "row_json"]

ENDINGS: Final = (".jsonl", ".csv", ".vtrace")
"""Endings of files, which say the format."""

_FORMULA: Final = frozenset("=+-@\t\r")


def default_path(selection: Selection, ending: str = ENDINGS[0]) -> str:
    """Return a name for a file with these rows that is not taken."""
    parts = ["vtrace", selection.name, *(text for text, _ in selection.place.crumbs[1:])]
    stem = re.sub(r"[^\w.-]+", "-", "-".join(parts), flags=re.ASCII).strip("-.")[:80]
    path, number = f"{stem}{ending}", 1
    while Path(path).exists():
        number += 1
        path = f"{stem}-{number}{ending}"
    return path


def next_ending(path: str) -> str:
    """Return the same path with the next format's ending."""
    for at, ending in enumerate(ENDINGS):
        if path.endswith(ending):
            return path.removesuffix(ending) + ENDINGS[(at + 1) % len(ENDINGS)]
    return path + ENDINGS[0]


def row_json(row: Mapping[str, Any]) -> str:
    """Return a row as the verbs print it with ``--json``."""
    return json.dumps(dict(row), separators=(",", ":"), allow_nan=False)


def check_path(path: str) -> None:
    """Refuse a path that cannot be exported to.

    Raises:
        UsageError: The file is there already, or its ending stands for no format.
    """
    target = Path(path).expanduser()
    if target.exists():
        raise UsageError(f"{path} is there already and stays as it is; give another name")
    if target.suffix not in (*ENDINGS, ".json"):
        raise UsageError(f"{path}: its ending says the format: {', '.join(ENDINGS)}")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is no folder; give another path")


def export(path: str, selection: Selection, recording: str) -> str:
    """Write a selection to a new file; return a sentence on what was written. Blocks.

    Raises:
        UsageError: The file is there already, or its ending stands for no format.
        InputError: It cannot be written.
    """
    check_path(path)
    target = Path(path).expanduser()
    writers: dict[str, Callable[[TextIO, Selection], int]] = {
        ".jsonl": _write_json,
        ".json": _write_json,
        ".csv": _write_csv,
    }
    if target.suffix == ".vtrace":
        return _write_trace(target, selection, recording)
    with _new(target) as file:
        count = writers[target.suffix](file, selection)
    rows = "1 row" if count == 1 else f"{count_text(count)} rows"
    return f"{rows} written to {target.resolve()}"


@contextmanager
def _new(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open("x", encoding="utf-8", newline="")
    except FileExistsError:
        raise UsageError(f"{path} is there already; give another name") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {os.strerror(error.errno or 0)}") from None
    try:
        with file:
            yield file
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {os.strerror(error.errno or 0)}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write_json(file: TextIO, selection: Selection) -> int:
    count = 0
    for row in selection.rows:
        file.write(row_json(row) + "\n")
        count += 1
    return count


def _write_csv(file: TextIO, selection: Selection) -> int:
    writer = csv.writer(file, lineterminator="\n")
    columns: tuple[str, ...] | None = None
    count = 0
    for row in selection.rows:
        flat = dict(_flat(row))
        if columns is None:
            # Nested figures (kicks, stages) become columns of their own, all that are known.
            nested = any(isinstance(value, Mapping) for value in row.values())
            columns = selection.columns if not nested or selection.columns else tuple(flat)
            writer.writerow(columns)
        writer.writerow([_plain(flat.get(name)) for name in columns])
        count += 1
    if columns is None:
        writer.writerow(selection.columns)
    return count


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            # As the schema of queues has them: kicks_sent, service_p99_ns.
            inner = "" if name == "stages" else f"{prefix}{name}_"
            yield from _flat(value, inner)
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    # A text that a spreadsheet would take for a formula is one that a guest may have chosen.
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value


def _write_trace(path: Path, selection: Selection, recording: str) -> str:
    """Run ``vtrace filter``: in a process of its own, so that drawing goes on."""
    chosen = []
    for name in ("vm", "device", "queue"):
        value = getattr(selection.part or selection.place, name)
        if value is not None:
            chosen.append(f"--{name}={value}")
    if selection.filter_text:
        chosen.append(f"--display-filter={selection.filter_text}")
    if selection.since_ns is not None:
        chosen.append(f"--since={selection.since_ns}")
    if selection.until_ns is not None:
        chosen.append(f"--until={selection.until_ns}")
    if not chosen:
        raise UsageError(
            "all of the recording is shown: open a queue or set a filter to export a part of it"
        )
    command = [sys.executable, "-m", "vtrace", "filter", *chosen, f"--write={path}", recording]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    says = [line.removeprefix("vtrace: ") for line in done.stderr.splitlines() if line.strip()]
    if not path.exists():
        raise InputError(
            says[-1] if says else f"{path}: vtrace filter ended with {done.returncode}"
        )
    return f"{says[0] if says else 'the matching records'}; written to {path.resolve()}"
