"""The command line of QEMU, taken apart.

Three grammars meet there: ``key=value`` lists (a comma is written twice, the first value may stand
without its key), dotted keys, and JSON. All become flat dicts of strings. Nothing is judged here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["CommandLine", "Option", "boolean", "key_values", "parse"]

# Options without an argument. All others take the next word.
FLAGS = frozenset(
    [
        "S",
        "alt-grab",
        "async-teardown",
        "ctrl-grab",
        "curses",
        "daemonize",
        "enable-fips",
        "enable-kvm",
        "enable-sync-profile",
        "full-screen",
        "h",
        "help",
        "mem-prealloc",
        "no-acpi",
        "no-fd-bootchk",
        "no-frame",
        "no-hpet",
        "no-kvm",
        "no-kvm-irqchip",
        "no-kvm-pit",
        "no-kvm-pit-reinjection",
        "no-quit",
        "no-reboot",
        "no-shutdown",
        "no-user-config",
        "nodefaults",
        "nodefconfig",
        "nographic",
        "nohpet",
        "nouserconfig",
        "old-param",
        "only-migratable",
        "portrait",
        "preconfig",
        "sdl",
        "semihosting",
        "singlestep",
        "snapshot",
        "tdf",
        "usb",
        "version",
        "win2k-hack",
        "xen-attach",
        "xen-domid-restrict",
    ]
)
# Their argument may begin with "-".
ANY_ARGUMENT = frozenset({"append", "name", "fw_cfg"})
IMPLIED = {
    "accel": "accel",
    "balloon": "type",
    "blockdev": "driver",
    "chardev": "backend",
    "device": "driver",
    "drive": "file",
    "machine": "type",
    "name": "guest",
    "net": "type",
    "netdev": "type",
    "nic": "type",
    "object": "qom-type",
    "smp": "cpus",
    "virtfs": "fsdriver",
}
ALIASES = {"M": "machine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: its name without dashes, its argument, and that taken apart."""

    name: str
    text: str = ""
    values: dict[str, str]

    def get(self, key: str, default: str = "") -> str:
        """Return a value, or ``default``."""
        return self.values.get(key, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """All options, in order; ``-set`` and ``-global`` are applied."""

    options: tuple[Option, ...]

    def all(self, *names: str) -> Iterator[Option]:
        """Yield the options of these names, in order."""
        return (option for option in self.options if option.name in names)

    def last(self, name: str) -> Option | None:
        """Return the last option of a name: QEMU lets it win."""
        return next((o for o in reversed(self.options) if o.name == name), None)

    def has(self, name: str) -> bool:
        """Return whether the option is there."""
        return self.last(name) is not None

    def value(self, name: str, key: str) -> str:
        """Return a value of a merged option (-machine, -name): the last that gives it."""
        for option in reversed(self.options):
            if option.name == name and key in option.values:
                return option.values[key]
        return ""


def parse(argv: Sequence[str]) -> CommandLine:
    """Take a command line apart; ``argv[0]`` is the program."""
    options = []
    words = list(argv[1:])
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("-") or word == "-":
            if word:
                options.append(Option(name="drive", text=word, values={"file": word}))
            continue
        name = word.removeprefix("-").removeprefix("-")
        name = ALIASES.get(name, name)
        text = ""
        if name not in FLAGS and at < len(words):
            following = words[at]
            known = name in IMPLIED or name in ANY_ARGUMENT
            if known or not following.startswith("-") or following == "-":
                text = following
                at += 1
        options.append(Option(name=name, text=text, values=values_of(name, text)))
    return CommandLine(options=tuple(amended(options)))


def boolean(text: str) -> bool | None:
    """Return what QEMU makes of on, off and their kin; None for anything else."""
    if text.lower() in {"on", "yes", "true", "y"}:
        return True
    return False if text.lower() in {"off", "no", "false", "n"} else None


def key_values(text: str, implied: str = "") -> dict[str, str]:
    """Take ``a=1,b=2,c`` apart; ``,,`` is a comma, ``c`` is on, ``noc`` is off."""
    values: dict[str, str] = {}
    for number, part in enumerate(split(text)):
        key, equals, value = part.partition("=")
        if equals:
            values[key] = value
        elif number == 0 and implied:
            values[implied] = part
        elif part.startswith("no"):
            values[part[2:]] = "off"
        elif part:
            values[part] = "on"
    return values


def split(text: str) -> Iterator[str]:
    # Pairs of commas are escapes; the odd one separates.
    part, at = "", 0
    while at < len(text):
        if text[at] != ",":
            part += text[at]
        elif text[at + 1 : at + 2] == ",":
            part += ","
            at += 1
        else:
            yield part
            part = ""
        at += 1
    if part:
        yield part


def values_of(name: str, text: str) -> dict[str, str]:
    if text.lstrip().startswith("{"):
        try:
            return dict(flat(json.loads(text)))
        except (ValueError, RecursionError):
            return {}
    return key_values(text, IMPLIED.get(name, ""))


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{prefix}.{number}" if prefix else str(number))
    elif isinstance(value, bool):
        yield prefix, "on" if value else "off"
    elif value is not None:
        yield prefix, str(value)


def amended(options: list[Option]) -> Iterator[Option]:
    # -set group.id.key=value overrides; -global driver.key=value is the default.
    settings: dict[tuple[str, str], dict[str, str]] = {}
    defaults: dict[str, dict[str, str]] = {}
    for option in options:
        if option.name == "set":
            place, equals, value = option.text.partition("=")
            parts = place.split(".", 2)
            if equals and len(parts) == 3:
                settings.setdefault((parts[0], parts[1]), {})[parts[2]] = value
        elif option.name == "global":
            values = option.values
            if "driver" in values:
                driver, key = values["driver"], values.get("property", "")
                value = values.get("value", "")
            else:
                place, _, value = option.text.partition("=")
                driver, _, key = place.partition(".")
            defaults.setdefault(driver, {})[key] = value
    for option in options:
        values = option.values
        changed = values
        if option.name == "device":
            changed = {**defaults.get(values.get("driver", ""), {}), **values}
        if "id" in values:
            changed = {**changed, **settings.get((option.name, values["id"]), {})}
        if changed == values:
            yield option
        else:
            yield Option(name=option.name, text=option.text, values=changed)
