"""What the driver of a NIC counts (``ethtool -S``), as far as it tells of loss."""

from __future__ import annotations

import re
import socket
import struct
from typing import Final

from vtrace.inventory.links import ETH_GSTRING_LEN, ETHTOOL_GSSET_INFO, ETHTOOL_GSTRINGS, ethtool

__all__ = ["loss_counters"]

# linux/ethtool.h
ETHTOOL_GSTATS = 0x1D
ETH_SS_STATS = 1

LOSS: Final = re.compile(
    r"drop|miss|no_?buf|out_of_buf|discard|err|fifo|over(run|flow)|exhaust", re.IGNORECASE
)
MOST: Final = 512
"""Counters of one NIC: those of many queues are many."""
# The driver writes as many numbers as it has by then, whatever was asked for.
_SPARE: Final = 4096


def loss_counters(door: socket.socket, interface: str) -> dict[str, int]:
    """Return the counters that tell of loss, by the driver's names; none: it has none.

    Raises:
        OSError: The driver does not say.
    """
    question = struct.pack("=IIQI", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_STATS, 0)
    answer = ethtool(door, interface, question)
    (mask,) = struct.unpack_from("=Q", answer, 8)
    count = struct.unpack_from("=I", answer, 16)[0] if mask else 0
    if not count:
        return {}
    space = bytes(ETH_GSTRING_LEN * (count + _SPARE))
    strings = ethtool(
        door, interface, struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_STATS, count) + space
    )
    values = ethtool(
        door, interface, struct.pack("=II", ETHTOOL_GSTATS, count) + bytes(8 * (count + _SPARE))
    )
    found: dict[str, int] = {}
    for number in range(count):
        raw = strings[12 + ETH_GSTRING_LEN * number :][:ETH_GSTRING_LEN]
        name = raw.split(b"\0", 1)[0].decode("ascii", "replace").strip()
        if LOSS.search(name) and len(found) < MOST:
            found[name] = struct.unpack_from("=Q", values, 8 + 8 * number)[0]
    return found
