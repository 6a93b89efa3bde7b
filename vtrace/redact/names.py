"""Names and texts of a recording, and what stands for each: the same everywhere in a file."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import uuid
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.redact.addresses import IP4, IP6, MAC, Replacements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["PREFIXES", "Names"]

PREFIXES: Final = {
    "VM": "vm",
    "host": "host",
    "device": "device",
    "interface": "if",
    "thread": "task",
    "iothread": "iothread",
    "drive": "drive",
    "path": "path",
    "uuid": "uuid",
    "container": "container",
    "cgroup": "group",
    "table": "table",
    "port": "port",
    "bus": "bus",
    "name": "name",
    "text": "text",
}
"""Class of a name -> what its replacements begin with."""

MOST_NAMES: Final = 1 << 18
SHORTEST: Final = 3
"""A shorter name is found everywhere by chance."""
_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_NATURAL: Final = re.compile(r"(\d+)")
_MAC_TEXT: Final = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")
_IN_TEXT: Final = re.compile(
    _MAC_TEXT.pattern
    + r"|(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-fA-F]{0,4}:[0-9a-fA-F:.]*:[0-9a-fA-F.]*)"
)


class Names:
    """Collects what is secret in a recording; after ``seal`` says what stands for it."""

    def __init__(self, ordinary: Iterable[str], keep: frozenset[str] = frozenset()) -> None:
        self.tables = {one.name: Replacements(one) for one in (IP4, IP6, MAC)}
        self.ordinary = frozenset(ordinary)
        """Words of the format: a name that is one cannot be told from it."""
        self.keep = keep
        self.dropped: dict[str, int] = {}
        """What there was no rule for, and how often."""
        self.kept_words: set[str] = set()
        """Words of what was kept on purpose."""
        self.coincidences = 0
        self.addresses: set[str] = set()
        """Replacements of addresses that metadata has, as text."""
        self._seen: dict[str, dict[str, str]] = {name: {} for name in PREFIXES}
        self._sealed = False
        self._scrubbed: dict[str, str] = {}
        self._secret: dict[str, tuple[str, str]] = {}
        self._lengths: list[int] = []

    def name(self, kind: str, text: str) -> str:
        """Return what stands for a name; while it collects, nothing."""
        if not text:
            return text
        if kind in self.keep:
            return self.kept(text)
        known = self._seen[kind]
        if self._sealed:
            return known[text]
        if text not in known:
            known[text] = ""
            if len(known) > MOST_NAMES:
                raise OverflowError
        return ""

    def address(self, text: str) -> str | None:
        """Return what stands for an address, ``a``, ``a/n`` or ``a:port``; None if it is none."""
        if _MAC_TEXT.fullmatch(text):
            packed = bytes.fromhex(text.replace(":", "").replace("-", ""))
            packed = self._image("MAC", packed)
            return self._said(packed.hex(":")) if packed else text
        body, slash, bits = text.partition("/")
        port = ""
        match = re.fullmatch(r"\[([^\]]*)\](:\d{1,5})?|([0-9.]+)(:\d{1,5})", body)
        brackets = bool(match and match[1] is not None)
        if match:
            body, port = (match[1], match[2] or "") if brackets else (match[3], match[4])
        try:
            found = ipaddress.ip_address(body)
        except ValueError:
            return None
        if (bits and not bits.isdigit()) or getattr(found, "scope_id", None):
            return None
        made = self._image(f"IPv{found.version}", found.packed)
        image = self._said(str(ipaddress.ip_address(made))) if made else body
        return (f"[{image}]" if brackets else image) + port + slash + bits

    def _said(self, text: str) -> str:
        self.addresses.add(text)
        return text

    def _image(self, family: str, packed: bytes) -> bytes:
        rows = np.frombuffer(packed, np.uint8).reshape(1, -1)
        table = self.tables[family]
        if self._sealed:
            return table.of(rows).tobytes()
        table.add(rows)
        return b""

    def kept(self, text: str) -> str:
        """Return a text that is kept, without the names and addresses in it that are secret."""
        text = _IN_TEXT.sub(lambda found: self.address(found[0]) or found[0], text)
        if not self._sealed:
            return text
        made = self._scrubbed.get(text)
        if made is None:
            made = text
            for secret in self.found_in(text):
                made = made.replace(secret, self._secret[secret.lower()][1])
            if len(self._scrubbed) < MOST_NAMES:
                self._scrubbed[text] = made
            self.kept_words.update(word.lower() for word in _WORD.findall(made))
        return made

    def drop(self, where: str) -> None:
        """Count something that there is no rule for."""
        if not self._sealed and (where in self.dropped or len(self.dropped) < 1000):
            self.dropped[where] = self.dropped.get(where, 0) + 1

    def seal(self, salt: str, key: bytes) -> None:
        """Choose what stands for each name; all were seen.

        With a salt a replacement depends on the name and the salt alone.
        """
        everything = {text.lower() for known in self._seen.values() for text in known}
        self._sealed = True
        for kind, known in self._seen.items():
            number = 0
            width = len(str(len(known)))
            ordered = sorted(
                known,
                key=lambda text: [
                    (0, int(part), "")
                    if part.isdecimal() and part.isascii() and len(part) < 19
                    else (1, 0, part)
                    for part in _NATURAL.split(text)
                ],
            )
            for text in ordered:
                if kind == "uuid":
                    digest = hashlib.blake2b(_raw(text), key=key, digest_size=16).digest()
                    known[text] = str(uuid.UUID(bytes=digest, version=4))
                    continue
                while True:
                    number += 1
                    made = f"{PREFIXES[kind]}{number:0{width}}"
                    if salt:
                        mark = hashlib.blake2b(_raw(text), key=key, digest_size=5).hexdigest()
                        made = f"{PREFIXES[kind]}-{mark}"
                        break
                    if not _within(made, everything):
                        break
                known[text] = made
        for kind, known in self._seen.items():
            for text, made in known.items():
                self.kept_words.update(word.lower() for word in _WORD.findall(made))
                if self.searchable(text):
                    self._secret[text.lower()] = kind, made
        self._lengths = sorted({len(text) for text in self._secret}, reverse=True)

    def searchable(self, text: str) -> bool:
        """Tell whether a name can be looked for."""
        return (
            len(text) >= SHORTEST
            and not re.fullmatch(r"[\d\s.:]*", text)
            and text.lower() not in self.ordinary
        )

    def found_in(self, text: str) -> list[str]:
        """Return the secret names in a text that stand as words of their own; longest first."""
        return [text[at:end] for at, end in self._hits(text)]

    def left_in(self, text: str) -> list[str]:
        """Return the secret names in a text that are no part of a word that was kept."""
        found = []
        for at, end in self._hits(text, within=True):
            first, last = at, end
            while first > 0 and text[first - 1].isalnum():
                first -= 1
            while last < len(text) and text[last].isalnum():
                last += 1
            run = text[first:last].lower()
            longer = (first, last) != (at, end)
            if not (longer and (run in self.ordinary or run in self.kept_words)):
                found.append(text[at:end])
        return found

    def _hits(self, text: str, *, within: bool = False) -> list[tuple[int, int]]:
        lower = text.lower()
        if len(lower) != len(text):
            text = lower
        found = []
        for length in self._lengths:
            for at in range(len(lower) - length + 1):
                end = at + length
                if lower[at:end] in self._secret:
                    inside = (at and lower[at - 1].isalnum() and lower[at].isalnum()) or (
                        end < len(lower) and lower[end].isalnum() and lower[end - 1].isalnum()
                    )
                    if within or not inside:
                        found.append((at, end))
        return found

    @property
    def secrets(self) -> Mapping[str, tuple[str, str]]:
        """Secret name in lower case -> its class, what stands for it."""
        return self._secret

    @property
    def unsearchable(self) -> int:
        """Names that cannot be looked for: words of the format, numbers, very short ones."""
        return sum(not self.searchable(text) for known in self._seen.values() for text in known)

    def counts(self) -> dict[str, int]:
        """Return how many names of each class were replaced."""
        return {kind: len(known) for kind, known in self._seen.items() if known}

    def mapping(self) -> dict[str, dict[str, str]]:
        """Return what stands for what: class -> replacement -> original."""
        found: dict[str, dict[str, Any]] = {
            kind: {made: text for text, made in known.items()}
            for kind, known in self._seen.items()
            if known
        }
        for family, table in self.tables.items():
            texts = {}
            for old, new in zip(table.rows, table.images, strict=True):
                if old.tobytes() != new.tobytes():
                    texts[_text(family, new.tobytes())] = _text(family, old.tobytes())
            if texts:
                found[family] = texts
        return found


def _text(family: str, packed: bytes) -> str:
    return packed.hex(":") if family == "MAC" else str(ipaddress.ip_address(packed))


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _within(made: str, secrets: set[str]) -> bool:
    size = len(made)
    return any(
        made[at:end] in secrets
        for at in range(size)
        for end in range(at + SHORTEST, size + 1)
        if any(char.isdigit() for char in made[at:end])
    )
