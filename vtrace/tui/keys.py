"""Keys: those that come with vtrace, and those of ``keys.toml``."""

from __future__ import annotations

import os
import tomllib
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from vtrace.errors import InputError

__all__ = ["KEYS_FILE", "keys_path", "known_ids", "read_keys", "wrong_keys"]

KEYS_FILE: Final = "vtrace/keys.toml"


def keys_path() -> Path:
    """Return where the keys are: ``$XDG_CONFIG_HOME/vtrace/keys.toml``."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / KEYS_FILE


def read_keys(path: Path | None = None) -> dict[str, str]:
    """Return ``{id of a binding: keys}`` of a file; empty if there is none.

    Raises:
        InputError: It is there and is no such file.
    """
    path = keys_path() if path is None else path
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return _flat(tomllib.loads(text), path)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{path}: is no TOML: {error}; the keys that come with vtrace are used"
        ) from None


def _flat(table: Mapping[str, object], path: Path, prefix: str = "") -> dict[str, str]:
    keys: dict[str, str] = {}
    for name, value in table.items():
        where = f"{prefix}{name}"
        if isinstance(value, dict):
            keys |= _flat(value, path, f"{where}.")
        elif isinstance(value, str) and value.strip():
            keys[where] = value.strip()
        elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            keys[where] = ",".join(str(one).strip() for one in value)
        else:
            raise InputError(
                f"{path}: {where}: expected a key or a list of keys, found {value!r}; "
                "the keys that come with vtrace are used"
            )
    return keys


def wrong_keys(keys: Mapping[str, str]) -> list[str]:
    """Return a sentence for each line that names no binding, or no key."""
    from textual.keys import KEY_NAME_REPLACEMENTS, Keys

    if not keys:
        return []
    names = {key.value for key in Keys} | set(KEY_NAME_REPLACEMENTS.values())
    known = known_ids()
    says = []
    for name, value in keys.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else "; ? lists the names"
            says.append(f"keys.toml: there is no {name}{meant}")
        for key in value.split(","):
            bare = key.strip().rpartition("+")[2] or key.strip()
            if len(bare) != 1 and bare not in names and not _unicode_name(bare):
                says.append(f"keys.toml: {name}: {key.strip()!r} is no key")
    return says


def known_ids() -> set[str]:
    """Return the names of all bindings that can be changed."""
    from textual.binding import BindingsMap

    from vtrace.tui.app import VtraceApp
    from vtrace.tui.dialogs import Prompt
    from vtrace.tui.filterbar import FilterInput
    from vtrace.tui.grid import Grid
    from vtrace.tui.helping import HelpScreen
    from vtrace.tui.screens import SCREENS, screen_class

    classes: list[type] = [VtraceApp, Grid, FilterInput, HelpScreen, Prompt]
    for name in SCREENS:
        with suppress(ModuleNotFoundError):
            classes.append(screen_class(name))
    ids: set[str] = set()
    for cls in classes:
        for base in cls.__mro__:
            for _, binding in BindingsMap(base.__dict__.get("BINDINGS", ())):
                if binding.id:
                    ids.add(binding.id)
    return ids


def _unicode_name(name: str) -> bool:
    # Textual names a printable key by the name of its character: full_stop, question_mark.
    try:
        unicodedata.lookup(name.replace("_", " "))
    except KeyError:
        try:
            unicodedata.lookup(name.replace("_", "-"))
        except KeyError:
            return False
    return True
