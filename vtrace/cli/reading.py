"""What all verbs that read a recording do: open it, choose rows, say what was lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any

import numpy as np

from parsers.opening import open_any
from vtrace.cli import options, say
from vtrace.cli.output import Style, print_csv, print_json_lines
from vtrace.errors import ExitCode, LossError, UsageError
from vtrace.session import PacketJoin, Session
from vtrace.tables import Schema, Table
from vtrace.tables.human import count_text
from vtrace.text import clean

if TYPE_CHECKING:
    import argparse

    from vtrace.session import Loss
    from vtrace.tables import Values

__all__ = [
    "Rows",
    "check_vms",
    "conclude",
    "loss_text",
    "opened",
    "row_chooser",
    "time_texts",
    "vms_of",
]

Chooser = Callable[[Table], Table]


@contextmanager
def opened(args: argparse.Namespace, join: PacketJoin | None = None) -> Iterator[Session]:
    """Open the recording that the arguments name, as a session."""
    options.max_loss(args)
    window = options.window(args)
    zone = UTC if getattr(args, "utc", False) else None
    with open_any(options.input_path(args)) as trace:
        yield Session(trace, window=window, zone=zone, join=join)


def row_chooser(args: argparse.Namespace, schema: Schema) -> Chooser:
    """Return what takes the rows of a table that the options ask for.

    Raises:
        FilterError: The display filter has a mistake.
    """
    wanted = [
        (column, names)
        for column, names in (
            ("vm", args.vm),
            ("device", getattr(args, "device", None)),
            ("queue", getattr(args, "queue", None)),
        )
        if names
    ]
    display: Chooser | None = None
    if args.display_filter is not None:
        from vtrace.filter import compile_filter

        display = compile_filter(args.display_filter, schema)

    def choose(table: Table) -> Table:
        if not len(table):
            return table
        for column, names in wanted:
            table = table.take(_is_one_of(table[column], names))
        return display(table) if display is not None and len(table) else table

    return choose


def _is_one_of(values: Values, names: list[str]) -> Any:
    codes = [code for code, text in enumerate(values.pool or ()) if text in names]
    return np.isin(values.data, codes) & values.present()


class Rows:
    """Prints the tables of a verb as they come, and counts the rows."""

    def __init__(
        self,
        args: argparse.Namespace,
        schema: Schema,
        print_text: Callable[[Table, bool], None],
    ) -> None:
        self.count = 0
        self.full = False
        """As many rows as were asked for are printed."""
        self._args = args
        self._choose = row_chooser(args, schema)
        self._print_text = print_text
        self._first = True

    def print(self, table: Table) -> Table:
        """Print the chosen rows of a table, and return them."""
        return self.print_chosen(self._choose(table))

    def print_chosen(self, chosen: Table) -> Table:
        """Print rows that have been chosen already, and return them."""
        limit = self._args.count
        if limit is not None:
            chosen = chosen.head(limit - self.count)
            self.full = self.count + len(chosen) >= limit
        self.count += len(chosen)
        if self._args.json:
            print_json_lines(chosen)
        elif getattr(self._args, "csv", False):
            if len(chosen) or self._first:
                print_csv(chosen, head=self._first)
            self._first = False
        elif len(chosen):
            self._print_text(chosen, self._first)
            self._first = False
        return chosen


def time_texts(times: list[int | None], session: Session, args: argparse.Namespace) -> list[str]:
    """Return times as text: of day, or from the start where that is not known."""
    clock, start = session.clock, session.start_ns or 0
    texts = []
    for time in times:
        if time is None:
            texts.append("-")
            continue
        text = None if getattr(args, "relative", False) else clock.text(time)
        if text is None:
            sign = "-" if time < start else ""
            since = abs(time - start) // 1000
            text = f"{sign}{since // 1_000_000}.{since % 1_000_000:06d}"
        texts.append(text)
    return texts


def vms_of(session: Session) -> set[str]:
    """Return the names of all VMs that what was read so far speaks of."""
    sections = session.metadata.sections
    rows: list[Any] = []
    for name in ("queues", "threads"):
        section = sections.get(name)
        rows += section.values() if isinstance(section, dict) else ()
    for name in ("exits", "interrupts"):
        section = sections.get(name)
        rows += section if isinstance(section, list) else ()
    names = [row.get("vm") for row in rows if isinstance(row, dict)]
    vms = sections.get("vms")
    names += [vm.get("name") for vm in vms if isinstance(vm, dict)] if isinstance(vms, list) else []
    return {name for name in names if isinstance(name, str) and name}


def check_vms(wanted: list[str] | None, there: set[str]) -> None:
    """Look whether the VMs that the options name are there.

    Raises:
        UsageError: One is not.
    """
    missing = [clean(one) for one in wanted or () if one not in there]
    if missing:
        known = ", ".join(clean(one) for one in sorted(there)) or "none"
        raise UsageError(f"there is no vm {missing[0]} in it; there is {known}")


def loss_text(loss: Loss, style: Style | None = None) -> str:
    """Return what was lost in words; ``lost 0`` if nothing was."""
    text = f"lost {count_text(loss.lost)}"
    if loss.lost:
        text += f" of {count_text(loss.produced)} records"
    for name in ("pending", "late", "missed"):
        count = getattr(loss, name)
        if count:
            text += f", {name} {count_text(count)}"
    if style is not None and loss:
        text = style.alarm(text)
    return text


def conclude(
    session: Session, args: argparse.Namespace, *, quiet: bool = False, stopped: bool = False
) -> int:
    """Say what was damaged or lost, and return the exit code.

    ``quiet``: stdout has said what was lost. ``stopped``: the end was not read.

    Raises:
        LossError: More was lost than the options allow.
    """
    sys.stdout.flush()
    loss = session.loss()
    if loss and not quiet:
        say(loss_text(loss))
    code = ExitCode.OK
    for damage in session.damage:
        say(clean(f"{damage.where}: {damage.reason}"))
        code = ExitCode.INPUT
    if not stopped and code == ExitCode.OK and not session.complete:
        name = clean(str(getattr(session.source, "name", "input")))
        say(
            f"{name}: ends without a footer, so it is still being written or was cut short; "
            "all whole batches were read"
        )
        code = ExitCode.INPUT
    records, share = options.max_loss(args)
    over = (records is not None and loss.lost > records) or (
        share is not None and loss.share > share
    )
    if over:
        if code == ExitCode.INPUT:
            say(f"{loss_text(loss)}: more than --max-loss {args.max_loss} allows")
            return code
        raise LossError(f"{loss_text(loss)}: more than --max-loss {args.max_loss} allows")
    return code
