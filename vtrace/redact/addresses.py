"""Addresses replaced so that networks stay networks: keyed, one to one, prefix by prefix.

The scheme is that of Crypto-PAn (Xu, Fan, Ammar, Moon, 2002): a bit of an address is turned or not
by a keyed function of the bits before it, here BLAKE2b. Two addresses that share their first n bits
share the first n bits of their replacements, and no more than before.

Some stay in their class, because a reader must see what they are: private, link-local and global
ranges keep their prefix. Loopback, multicast, broadcast and unspecified addresses stay as they are.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IP4", "IP6", "MAC", "Family", "Replacements", "is_kept", "replace"]


@dataclass(frozen=True, slots=True)
class Family:
    """Addresses of one kind."""

    name: str
    width: int
    """Bytes."""
    pins: tuple[tuple[bytes, int], ...] = ()
    """Prefixes that are kept, as bytes and length in bits."""
    ends: bool = False
    """The first and the last address of each 256 stay first and last."""


def _net(text: str) -> tuple[bytes, int]:
    net = ipaddress.ip_network(text)
    return net.network_address.packed, net.prefixlen


IP4: Final = Family(
    "IPv4",
    4,
    tuple(
        _net(text)
        for text in [
            "0.0.0.0/32",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "224.0.0.0/4",
            "255.255.255.255/32",
        ]
    ),
    ends=True,
)
IP6: Final = Family(
    "IPv6",
    16,
    tuple(
        _net(text)
        for text in [
            "::/128",
            "::1/128",
            "::ffff:0:0/96",
            "2000::/3",
            "fc00::/7",
            "fe80::/64",
            "ff00::/8",
        ]
    ),
)
MAC: Final = Family("MAC", 6)
"""The bits for group and local addresses are kept, see ``replace``."""

_SOLICITED: Final = bytes.fromhex("ff0200000000000000000001ff")
_SOLICITED_MAC: Final = bytes.fromhex("3333ff")
_MAPPED: Final = bytes(10) + b"\xff\xff"
_NAT64: Final = bytes.fromhex("0064ff9b") + bytes(8)


def _starts(rows: NDArray[np.uint8], prefix: bytes) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (rows[:, : len(prefix)] == list(prefix)).all(axis=1)
    return found


def is_kept(family: Family, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which addresses (rows of bytes) stay what they are, and are no secret."""
    kept: NDArray[np.bool_] = np.logical_not(rows.any(axis=1))
    first = rows[:, 0]
    if family is MAC:
        # 33:33 and the last four bytes of a group; 33:33:ff holds the end of an address.
        kept |= (first & 1).astype(np.bool_) & ~_starts(rows, _SOLICITED_MAC)
    elif family is IP4:
        kept |= (first == 127) | ((first >= 224) & (first < 240)) | (rows == 255).all(axis=1)
    else:
        kept |= ~rows[:, :15].any(axis=1) & (rows[:, 15] == 1)
        kept |= (first == 0xFF) & ~_starts(rows, _SOLICITED)
        mapped = _starts(rows, _MAPPED)
        if mapped.any():
            kept[mapped] |= is_kept(IP4, rows[mapped, 12:])
    return kept


def replace(family: Family, rows: NDArray[np.uint8], key: bytes) -> NDArray[np.uint8]:
    """Return the replacements of addresses.

    Args:
        family: What they are.
        rows: One address a row, as bytes in the order of the wire.
        key: Up to 64 bytes; the same key gives the same replacements.
    """
    made = _turned(family, rows, key)
    if family is MAC:
        made[:, 0] = (made[:, 0] & 0xFC) | (rows[:, 0] & 3)
        solicited = _starts(rows, _SOLICITED_MAC)
        made[solicited, :3] = rows[solicited, :3]
        made[solicited, 3:] = _turned(Family("low", 3), rows[solicited, 3:], key)
    if family is IP6:
        solicited = _starts(rows, _SOLICITED)
        made[solicited, :13] = rows[solicited, :13]
        made[solicited, 13:] = _turned(Family("low", 3), rows[solicited, 13:], key)
        for prefix in (_MAPPED, _NAT64):
            inner = _starts(rows, prefix)
            made[inner, :12] = rows[inner, :12]
            made[inner, 12:] = replace(IP4, rows[inner, 12:], key)
    kept = is_kept(family, rows)
    made[kept] = rows[kept]
    return made


def _turned(family: Family, rows: NDArray[np.uint8], key: bytes) -> NDArray[np.uint8]:
    made = np.zeros_like(rows)
    if not len(rows):
        return made
    # Rows that share the bytes before share a tree, number ``node``.
    node = np.zeros(len(rows), np.int64)
    prefixes = [b""]
    for level in range(family.width):
        octet = rows[:, level].astype(np.int64)
        flips = _flips(family, prefixes, level, key)
        place = np.ones(len(rows), np.int64)
        turned = np.zeros(len(rows), np.int64)
        for bit in range(7, -1, -1):
            one = octet >> bit & 1
            turned = turned << 1 | (one ^ flips[node, place])
            place = place << 1 | one
        made[:, level] = turned
        both, first, node = np.unique(node << 8 | octet, return_index=True, return_inverse=True)
        if level + 1 < family.width:
            packed = rows[first, : level + 1]
            prefixes = [packed[at].tobytes() for at in range(len(both))]
    return made


def _flips(family: Family, prefixes: list[bytes], level: int, key: bytes) -> NDArray[np.uint8]:
    # For each prefix the 255 bits by which its next byte is turned, as a tree: 1, then 2 and 3, ...
    name = family.name.encode() + b"/"
    digests = b"".join(
        hashlib.blake2b(name + prefix, key=key, digest_size=32).digest() for prefix in prefixes
    )
    flips = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(-1, 32), axis=1)
    places = {prefix: at for at, prefix in enumerate(prefixes)} if family.pins else {}
    for pin, bits in family.pins:
        inside = min(bits - 8 * level, 8)
        if inside > 0 and pin[:level] in places:
            _hold(flips[places[pin[:level]] : places[pin[:level]] + 1], pin[level], inside)
    if family.ends and level == family.width - 1:
        _hold(flips, 0x00, 8)
        _hold(flips, 0xFF, 8)
    return flips


def _hold(flips: NDArray[np.uint8], octet: int, bits: int) -> None:
    node = 1
    for bit in range(bits):
        flips[:, node] = 0
        node = node << 1 | (octet >> (7 - bit) & 1)


@dataclass
class Replacements:
    """All addresses of one family that a recording has, and what stands for each.

    Bounded: at most ``most`` distinct addresses, ``width`` bytes each.
    """

    family: Family
    most: int = 1 << 22
    known: NDArray[Any] = field(init=False)
    """Distinct, ascending; dtype ``S{width}``."""
    images: NDArray[np.uint8] = field(init=False)
    """What stands for each, once ``seal`` was called."""
    _new: list[NDArray[Any]] = field(default_factory=list)
    _waiting: int = 0

    def __post_init__(self) -> None:
        self.known = np.zeros(0, f"S{self.family.width}")
        self.images = np.zeros((0, self.family.width), np.uint8)

    def add(self, rows: NDArray[np.uint8]) -> None:
        """Take in addresses, one a row.

        Raises:
            OverflowError: They are more than can be held.
        """
        if not len(rows):
            return
        fresh = np.unique(self._keys(rows))
        self._new.append(fresh)
        self._waiting += len(fresh)
        if self._waiting > max(len(self.known), 1 << 16):
            self.settle()

    def settle(self) -> None:
        """Put together what was added."""
        if self._new:
            self.known = np.unique(np.concatenate([self.known, *self._new]))
            self._new, self._waiting = [], 0
        if len(self.known) > self.most:
            raise OverflowError

    @property
    def rows(self) -> NDArray[np.uint8]:
        """All addresses as bytes, one a row."""
        return self._octets(self.known)

    def secret(self) -> NDArray[np.uint8]:
        """Return those that are replaced."""
        rows = self.rows
        return rows[~is_kept(self.family, rows)]

    def seal(self, key: bytes) -> tuple[int, int]:
        """Choose the replacements; return how many are the address itself, or another of them."""
        self.settle()
        rows = self.rows
        self.images = replace(self.family, rows, key)
        moved = ~is_kept(self.family, rows)
        same = int((self.images[moved] == rows[moved]).all(axis=1).sum())
        met = int(np.isin(self._keys(self.images[moved]), self.known[moved]).sum())
        return same, met - same

    def of(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what stands for addresses that were all added before.

        Raises:
            LookupError: One of them was not.
        """
        if not len(rows):
            return rows
        keys = self._keys(rows)
        at = np.searchsorted(self.known, keys)
        if int(at.max()) >= len(self.known) or not np.array_equal(self.known[at], keys):
            raise LookupError
        return self.images[at]

    def _keys(self, rows: NDArray[np.uint8]) -> NDArray[Any]:
        return np.ascontiguousarray(rows).view(f"S{self.family.width}").ravel()

    def _octets(self, keys: NDArray[Any]) -> NDArray[np.uint8]:
        width = self.family.width
        return np.ascontiguousarray(keys).view(np.uint8).reshape(-1, width)
