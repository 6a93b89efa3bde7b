"""All tables of a recording, or some, into files of one format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from vtrace.export.files import WRITERS, TableFile
from vtrace.export.rows import tables_of
from vtrace.tables import QUEUES, SCHEMAS, Table

if TYPE_CHECKING:
    from vtrace.export.output import OutputFile
    from vtrace.session import Session

__all__ = ["write_tables"]

Chooser = Callable[[Table], Table]


def write_tables(
    session: Session,
    files: Mapping[str, OutputFile],
    form: str,
    choosers: Mapping[str, Chooser],
    *,
    queues: Callable[[], Table] | None = None,
) -> dict[str, int]:
    """Write tables and return their rows.

    Args:
        session: Read to its end.
        files: Table -> the file that it is written to.
        form: ``parquet``, ``csv`` or ``jsonl``.
        choosers: Table -> what takes its rows that are wanted.
        queues: Gives the table of queues of a session that has a window.
    """
    about = {"vtrace.source": str(getattr(session.source, "name", "live"))}
    writers: dict[str, TableFile] = {
        name: WRITERS[form](file, SCHEMAS[name], about) for name, file in files.items()
    }
    counts = dict.fromkeys(files, 0)

    def write(name: str, table: Table) -> None:
        chosen = choosers[name](table)
        counts[name] += len(chosen)
        writers[name].write(chosen)

    for name, table in tables_of(session, tuple(files)):
        write(name, table)
    if queues is not None and QUEUES.name in files:
        write(QUEUES.name, queues())
    for writer in writers.values():
        writer.close()
    return counts
