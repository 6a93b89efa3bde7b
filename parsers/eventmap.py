"""What events of the kernel mean: the table ``events.toml``, and what a user adds to it.

An event has a role here (``vhost_get_vq_desc``, ``vhost_get_vq_desc.return``, ``kvm_exit``),
whatever the tool that recorded it, or the one who defined the probe, has called it.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NUMBER", "TEXT", "EventMap", "Role", "load", "user_map"]

TABLE: Final = Path(__file__).with_name("events.toml")
RETURN: Final = ".return"

NUMBER: Final = r"(0x[0-9a-fA-F]{1,16}|-?[0-9]{1,18})(?:[^0-9a-zA-Z_]|$)"
"""A value that is a number."""
TEXT: Final = r"([^ ,\t]{1,80})"

TEXTS: Final = frozenset(
    ("reason", "location", "name", "prev_state", "prev_comm", "next_comm", "comm", "write")
)
"""Fields that are text, or of which it counts that they are there."""

MOST_BYTES: Final = 1 << 20
"""Of a user's file."""


@dataclass(slots=True)
class Role:
    """An event as the table has it."""

    name: str
    kind: str
    names: list[str]
    needs: list[str]
    fields: dict[str, list[str]] = field(default_factory=dict)

    @property
    def function(self) -> str:
        """The function, or the tracepoint."""
        return self.name.removesuffix(RETURN)

    @property
    def all_names(self) -> list[str]:
        """Every name that the event may have, without a system."""
        function = self.function
        if self.name.endswith(RETURN):
            usual = [
                f"{function}__return",
                f"r_{function}_0",
                f"{function}_ret",
                f"{function}_return",
                f"{function}_exit",
            ]
        else:
            usual = [function, f"p_{function}_0"]
        return [*usual, *(name for name in self.names if name not in usual)]

    def patterns(self, name: str) -> list[str]:
        """Return regular expressions with one group, for the value of a field."""
        found = []
        for spelling in self.fields.get(name, ()):
            if "(" in spelling:
                found.append(spelling)
            else:
                value = TEXT if name in TEXTS else NUMBER
                found.append(rf"(?:^|[ ,(]){re.escape(spelling)}(?:=|: ?| ){value}")
        return found


class EventMap:
    """Roles by name, and the role that an event has."""

    def __init__(self, roles: dict[str, Role]) -> None:
        self.roles = roles
        self._by_name: dict[str, str] = {}
        for role in roles.values():
            for name in role.all_names:
                self._by_name.setdefault(name, role.name)
        for role in roles.values():
            # What a user, or the table, names outright goes before what is usual.
            for name in role.names:
                self._by_name[name] = role.name

    def role(self, event: str) -> str | None:
        """Return the role of an event, ``SYSTEM:EVENT`` or ``EVENT``; None if it has none."""
        return self._by_name.get(event) or self._by_name.get(event.rpartition(":")[2])


def user_map() -> Path:
    """Return where a user's own table is looked for."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "vtrace" / "events.toml"


def load(extra: str | os.PathLike[str] | None = None) -> EventMap:
    """Read the table, then the user's own, or the file that is named.

    Raises:
        UsageError: The file cannot be read, or is no such table.
    """
    roles: dict[str, Role] = {}
    with TABLE.open("rb") as file:
        _add(roles, tomllib.load(file), "events.toml", own=True)
    path = Path(extra) if extra is not None else user_map()
    if extra is not None or path.is_file():
        _add(roles, _read(path), str(path), own=False)
    return EventMap(roles)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(f"{path}: a table of events has at most {MOST_BYTES >> 20} MiB")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no TOML: {error}; see docs/import.md") from None


def _add(roles: dict[str, Role], table: Mapping[str, Any], where: str, *, own: bool) -> None:
    events = table.get("event", {})
    if not isinstance(events, dict) or (not own and set(table) - {"event"}):
        strange = ", ".join(sorted(set(table) - {"event"})) or "event"
        raise UsageError(f"{where}: expected tables [event.NAME] alone, found {strange}")
    for name, row in events.items():
        if not own and name not in roles:
            known = ", ".join(sorted(roles))
            raise UsageError(f"{where}: [event.{name}] is none of the events there are: {known}")
        if not isinstance(row, dict) or set(row) - {"kind", "names", "needs", "fields"}:
            raise UsageError(f"{where}: [event.{name}] may have names and fields alone")
        names = _texts(row.get("names", []), f"{where}: [event.{name}] names")
        fields = row.get("fields", {})
        if not isinstance(fields, dict):
            raise UsageError(f"{where}: [event.{name}] fields must be a table")
        spellings = {
            key: _texts(value, f"{where}: [event.{name}] field {key}")
            for key, value in fields.items()
        }
        for key, found in spellings.items():
            for one in found:
                _check(one, f"{where}: [event.{name}] field {key}")
        if own:
            needs = list(row["needs"])
            roles[name] = Role(name, str(row["kind"]), names, needs, spellings)
            continue
        role = roles[name]
        strange = ", ".join(sorted(set(spellings) - set(role.fields)))
        if strange:
            known = ", ".join(role.fields) or "none"
            raise UsageError(f"{where}: [event.{name}] has no field {strange}; it has {known}")
        role.names = [*names, *role.names]
        for key, found in spellings.items():
            role.fields[key] = [*found, *role.fields[key]]


def _texts(value: object, where: str) -> list[str]:
    if isinstance(value, list) and all(isinstance(one, str) and one for one in value):
        return list(value)
    raise UsageError(f"{where}: expected a list of texts")


def _check(spelling: str, where: str) -> None:
    # Matching is RE2's (Arrow), whose time is linear in the text, whatever the expression.
    if "(" not in spelling:
        return
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        if re.compile(spelling).groups != 1:
            raise UsageError(f"{where}: {spelling!r} must have one group")
        pc.extract_regex(pa.array([b""], pa.binary()), named(spelling))
    except (re.error, pa.ArrowException, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: {spelling!r} is no regular expression: {error}") from None


def named(pattern: str) -> str:
    """Return a pattern with its one group named, as Arrow wants it."""
    escaped = inside = False
    for at, char in enumerate(pattern):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif inside or char == "[":
            inside = char != "]"
        elif char == "(" and pattern[at + 1 : at + 2] != "?":
            return f"{pattern[:at]}(?P<v>{pattern[at + 1 :]}"
    raise ValueError("has no group")
