"""Colours: a dark and a light theme, and one for terminals without colour.

What screens draw names its style (``Text("9.1 ms", style="alarm")``); ``styles_of`` says what that
means under a theme. Colour only adds: every state has its own letter or word too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from rich.style import Style
from textual.theme import Theme

__all__ = ["DARK", "LIGHT", "PLAIN", "STYLE_NAMES", "THEMES", "styles_of", "wanted_theme"]

DARK: Final = Theme(
    name="vtrace-dark",
    primary="#7aa2f7",
    secondary="#7dcfff",
    accent="#e0af68",
    warning="#e0af68",
    error="#f7768e",
    success="#9ece6a",
    foreground="#c8d0e8",
    background="#14161d",
    surface="#1a1d26",
    panel="#222634",
    dark=True,
    variables={"block-cursor-text-style": "none", "scrollbar": "#2d3245"},
)
LIGHT: Final = Theme(
    name="vtrace-light",
    primary="#2457b8",
    secondary="#0b6e86",
    accent="#8a5a00",
    warning="#8a5a00",
    error="#b3203c",
    success="#2d6a1f",
    foreground="#23262f",
    background="#fbfaf7",
    surface="#f3f1ec",
    panel="#e7e4dc",
    dark=False,
    variables={"block-cursor-text-style": "none", "scrollbar": "#cfcabd"},
)


def _of_terminal(name: str, **colours: str) -> Theme:
    # What a terminal has for text and background, and what is said besides.
    names = ("primary", "secondary", "accent", "warning", "error", "success")
    given = {one: colours.get(one, "ansi_default") for one in names}
    return Theme(
        name=name,
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        dark=True,
        ansi=True,
        variables=dict.fromkeys(_TERMINAL, "ansi_default"),
        primary=given["primary"],
        secondary=given["secondary"],
        accent=given["accent"],
        warning=given["warning"],
        error=given["error"],
        success=given["success"],
    )


_TERMINAL: Final = (
    *("ansi-background", "ansi-foreground", "border", "border-blurred", "block-cursor-foreground"),
    *("block-cursor-background", "block-hover-background", "scrollbar", "scrollbar-hover"),
    *("scrollbar-active", "scrollbar-background", "scrollbar-background-hover"),
    *("scrollbar-background-active", "input-cursor-background", "input-cursor-foreground"),
    *("input-selection-background", "input-selection-foreground", "footer-key-foreground"),
    *("screen-selection-background", "screen-selection-foreground", "link-color"),
)
PLAIN: Final = _of_terminal("vtrace-plain")
"""Attributes of the terminal alone: bold, dim, reverse."""
SIXTEEN: Final = _of_terminal(
    "vtrace-16",
    primary="ansi_blue",
    secondary="ansi_cyan",
    accent="ansi_yellow",
    warning="ansi_yellow",
    error="ansi_red",
    success="ansi_green",
)
"""The sixteen colours that a terminal has its own idea of."""

THEMES: Final = (DARK, LIGHT, SIXTEEN, PLAIN)
_SHORT: Final = {"dark": DARK.name, "light": LIGHT.name, "16": SIXTEEN.name, "plain": PLAIN.name}

_DARK_HUES: Final = {
    "blue": "#7aa2f7",
    "cyan": "#7dcfff",
    "green": "#9ece6a",
    "yellow": "#e0af68",
    "orange": "#ff9e64",
    "red": "#f7768e",
    "magenta": "#bb9af7",
    "teal": "#73daca",
    "dim": "#7c85a3",
    "faint": "#4a5068",
    "cursor": "#2c3350",
    "cursor.blur": "#212637",
    "marked": "#33301f",
}
_LIGHT_HUES: Final = {
    "blue": "#2457b8",
    "cyan": "#0b6e86",
    "green": "#2d6a1f",
    "yellow": "#8a5a00",
    "orange": "#a8480a",
    "red": "#b3203c",
    "magenta": "#7a3a9e",
    "teal": "#0f6b5c",
    "dim": "#6b6a66",
    "faint": "#b5b1a6",
    "cursor": "#d5e0f5",
    "cursor.blur": "#e9e7e0",
    "marked": "#f6ecc9",
}
_HUES: Final = ("blue", "cyan", "green", "yellow", "orange", "red", "magenta", "teal")

STYLE_NAMES: Final = (
    *_HUES,
    *("text", "dim", "faint", "bold", "alarm", "warn", "good", "accent", "key", "title"),
    *("head", "head.sorted", "cursor", "cursor.blur", "marked", "spark"),
)
"""Names that a text can have as its style, besides those of rich."""


def wanted_theme(option: str | None = None) -> str:
    """Return the name of the theme that the option, ``VTRACE_THEME`` or the terminal wants."""
    name = option or os.environ.get("VTRACE_THEME", "")
    if os.environ.get("NO_COLOR"):
        return PLAIN.name
    if name:
        return _SHORT.get(name, name)
    return DARK.name if _has_colours() else SIXTEEN.name


def _has_colours() -> bool:
    if os.environ.get("COLORTERM", "").lower() in {"truecolor", "24bit"}:
        return True
    term = os.environ.get("TERM", "")
    return any(part in term for part in ("256", "direct", "truecolor", "kitty", "alacritty"))


def styles_of(theme: Theme, variables: Mapping[str, str]) -> dict[str, Style]:
    """Return what each name of a style means under a theme."""
    if theme.name == PLAIN.name:
        return _plain()
    if theme.ansi:
        return _plain() | _SIXTEEN
    hues = dict(_DARK_HUES if theme.dark else _LIGHT_HUES)
    if theme not in THEMES:
        # A theme of Textual's: its own colours where they mean the same.
        hues |= {
            name: variables[variable]
            for name, variable in (
                ("blue", "primary"),
                ("red", "error"),
                ("yellow", "warning"),
                ("green", "success"),
                ("cursor", "surface-lighten-1"),
                ("cursor.blur", "surface"),
            )
            if variables.get(variable, "").startswith("#")
        }
    styles = {name: Style(color=hues[name]) for name in (*_HUES, "dim", "faint")}
    styles |= {
        "text": Style(),
        "bold": Style(bold=True),
        "alarm": Style(color=hues["red"], bold=True),
        "warn": Style(color=hues["yellow"]),
        "good": Style(color=hues["green"]),
        "accent": Style(color=hues["blue"]),
        "key": Style(color=hues["blue"], bold=True),
        "title": Style(color=hues["blue"], bold=True),
        "head": Style(color=hues["dim"]),
        "head.sorted": Style(color=hues["blue"], bold=True),
        "cursor": Style(bgcolor=hues["cursor"]),
        "cursor.blur": Style(bgcolor=hues["cursor.blur"]),
        "marked": Style(bgcolor=hues["marked"]),
        "spark": Style(color=hues["cyan"]),
    }
    return styles


_SIXTEEN: Final = {
    **{name: Style(color=name) for name in _HUES if name not in {"orange", "teal"}},
    "orange": Style(color="bright_red"),
    "teal": Style(color="cyan"),
    "faint": Style(dim=True),
    "alarm": Style(color="red", bold=True),
    "warn": Style(color="yellow"),
    "good": Style(color="green"),
    "accent": Style(color="blue"),
    "key": Style(color="blue", bold=True),
    "title": Style(color="blue", bold=True),
    "spark": Style(color="cyan"),
}


def _plain() -> dict[str, Style]:
    styles = dict.fromkeys(STYLE_NAMES, Style())
    styles |= {
        "dim": Style(dim=True),
        "faint": Style(dim=True),
        "head": Style(dim=True),
        "bold": Style(bold=True),
        "alarm": Style(bold=True, reverse=True),
        "warn": Style(bold=True),
        "key": Style(bold=True),
        "title": Style(bold=True),
        "head.sorted": Style(bold=True, underline=True),
        "cursor": Style(reverse=True),
        "cursor.blur": Style(underline=True),
        "marked": Style(bold=True),
    }
    return styles
