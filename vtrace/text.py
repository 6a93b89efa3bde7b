"""Text from outside, made safe for a terminal.

Names of guests, processes, threads, interfaces and files are chosen by others: a control character
in them moves the cursor, a bidi override turns a line around. They are kept as they are in data
(JSON, traces) and cleaned where they are printed, by :func:`clean` and nothing else.
"""

from __future__ import annotations

import unicodedata

__all__ = ["cells", "clean"]

# Control, format (bidi, zero width), surrogate, line and paragraph separator.
UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def clean(text: str, width: int | None = None) -> str:
    r"""Return ``text`` as a terminal can show it: one line, nothing that steers.

    Control, bidi and other invisible characters become visible escapes (``\x1b``, ``\u202e``).
    With ``width`` the result takes at most that many cells; what was cut is marked by ``…``.
    """
    plain = text.isascii() and text.isprintable()
    safe = text if plain else "".join(shown(char) for char in text)
    return safe if width is None else cut(safe, width)


def cells(text: str) -> int:
    """Return the number of terminal cells that ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(cells_of(char) for char in text)


def shown(char: str) -> str:
    if char in NAMED:
        return NAMED[char]
    if unicodedata.category(char) not in UNSAFE:
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cells_of(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def cut(text: str, width: int) -> str:
    if cells(text) <= width:
        return text
    kept, used = [], 1  # one cell for the mark
    for char in text:
        used += cells_of(char)
        if used > width:
            break
        kept.append(char)
    return "".join(kept) + "…" if width > 0 else ""
