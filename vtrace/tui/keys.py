"""Keys: those that come with vtrace, and those of ``keys.toml``."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vtrace.errors import InputError

__all__ = ["KEYS_FILE", "keys_path", "read_keys"]

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
