"""Requests in words: names of operations and statuses, and what does not fit into a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.requests import names, scsi, scsi_names, serial
from vtrace.requests.balloon import COMMAND, MOST_BYTES, page_numbers, ranges_of, stats_of
from vtrace.requests.queues import Format

if TYPE_CHECKING:
    from vtrace.requests.chains import Chains

__all__ = ["detail_text", "operation_text", "ranges_text", "status_text"]

_FIXED: Final = {
    Format.BALLOON_INFLATE: "INFLATE",
    Format.BALLOON_DEFLATE: "DEFLATE",
    Format.BALLOON_STATS: "STATS",
    Format.BALLOON_REPORT: "REPORT_FREE_PAGES",
    Format.SERIAL_IN: "RECEIVE",
    Format.SERIAL_OUT: "TRANSMIT",
    Format.NET_RX: "RECEIVE",
    Format.NET_TX: "TRANSMIT",
}
_NAMED: Final = {
    Format.BLK: names.BLK_TYPES,
    Format.SCSI_EVENT: names.SCSI_EVENTS,
    Format.SERIAL_CONTROL_IN: names.CONSOLE_EVENTS,
    Format.SERIAL_CONTROL_OUT: names.CONSOLE_EVENTS,
}
_STATUS: Final = {
    Format.BLK: names.BLK_STATUS,
    Format.SCSI: scsi_names.STATUS,
    Format.NET_CONTROL: names.NET_ACK,
}

MOST_RANGES: Final = 8
"""Ranges that a text names; of more it says how many."""

_BOTH: Final = (("max_packets", 0, 4), ("max_usecs", 4, 4))
_COALESCING: Final = {
    0: _BOTH,
    1: _BOTH,
    2: (("vq", 0, 2), ("max_packets", 4, 4), ("max_usecs", 8, 4)),
    3: (("vq", 0, 2),),
}
"""Command of class NOTF_COAL -> its arguments: name, offset, size."""


def operation_text(kind: int, code: int) -> str:
    """Return the name of an operation: ``IN``, ``READ(10)``, ``MQ_VQ_PAIRS_SET``."""
    form = Format(kind)
    if form in _FIXED:
        return _FIXED[form]
    if form in _NAMED:
        return names.name_of(_NAMED[form], code)
    if form is Format.SCSI:
        action = code >> 8 & 0xFFFF if code & scsi.HAS_ACTION else None
        return scsi_names.opcode_text(code & 0xFF, action)
    if form is Format.SCSI_CONTROL:
        if code & scsi.TMF_BIT:
            return f"TMF {names.name_of(names.SCSI_TMF, code & 0xFFFF_FFFF)}"
        return names.name_of(names.SCSI_CONTROL, code)
    if form is Format.BALLOON_HINT:
        return "FREE_PAGE_CMD" if code == COMMAND else "FREE_PAGE_HINT"
    if form is Format.NET_CONTROL:
        found = names.NET_COMMANDS.get((code >> 8, code & 0xFF))
        return found or f"{code >> 8}/{code & 0xFF}"
    return str(code)


def status_text(kind: int, code: int) -> str:
    """Return the name of a status: ``IOERR``, ``CHECK CONDITION``, ``ERR``."""
    return names.name_of(_STATUS.get(Format(kind), {}), code)


def ranges_text(ranges: Any, most: int = MOST_RANGES) -> str:
    """Return ranges of page numbers: ``0x100-0x1ff, 0x300``."""
    parts = [
        f"{first:#x}" if first == last else f"{first:#x}-{last:#x}"
        for first, last in ranges[:most].tolist()
    ]
    if len(ranges) > most:
        parts.append(f"and {len(ranges) - most} more")
    return ", ".join(parts)


def detail_text(chains: Chains, row: int, kind: int, code: int) -> str:
    """Return what else a request says: page ranges, statistics, a port's name, a MAC table."""
    form = Format(kind)
    if form in {Format.BALLOON_INFLATE, Format.BALLOON_DEFLATE}:
        numbers, _ = page_numbers(chains.request, np.array([row]))
        return ranges_text(ranges_of(numbers))
    if form is Format.BALLOON_STATS:
        found = stats_of(chains.request.run(row, MOST_BYTES))
        return " ".join(f"{names.name_of(names.BALLOON_STATS, t)}={v}" for t, v in found)
    if form is Format.SERIAL_CONTROL_IN:
        return _port_name(chains.response.run(row, serial.MOST_NAME, serial.MESSAGE_BYTES))
    if form is Format.SERIAL_CONTROL_OUT:
        return _port_name(chains.request.run(row, serial.MOST_NAME, serial.MESSAGE_BYTES))
    if form is Format.SCSI_EVENT:
        return "EVENTS_MISSED"
    if form is Format.NET_CONTROL:
        return _command(chains.request.run(row, MOST_BYTES, 2), code)
    return ""


def _port_name(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


def _number(data: bytes, at: int, size: int) -> int | None:
    return int.from_bytes(data[at : at + size], "little") if at + size <= len(data) else None


def _command(data: bytes, code: int) -> str:
    if code == 1 << 8:
        unicast = _number(data, 0, 4)
        if unicast is None:
            return ""
        multicast = _number(data, 4 + 6 * unicast, 4)
        return f"unicast={unicast}" + ("" if multicast is None else f" multicast={multicast}")
    parts = _COALESCING.get(code & 0xFF, ())
    found = [(name, _number(data, at, size)) for name, at, size in parts]
    return " ".join(f"{name}={value}" for name, value in found if value is not None)
