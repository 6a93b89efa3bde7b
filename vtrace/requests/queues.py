"""What a virtqueue carries: the format of its requests, by device type, index and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

__all__ = ["Format", "QueueFormat", "format_of", "net_header_bytes"]


class Format(IntEnum):
    """Format of the requests of a queue."""

    NONE = 0
    """One that is not decoded."""
    BLK = 1
    SCSI_CONTROL = 2
    SCSI_EVENT = 3
    SCSI = 4
    BALLOON_INFLATE = 5
    BALLOON_DEFLATE = 6
    BALLOON_STATS = 7
    BALLOON_HINT = 8
    """Free pages that migration may leave out."""
    BALLOON_REPORT = 9
    """Free pages that the host may take back at once."""
    SERIAL_IN = 10
    """Bytes towards the guest."""
    SERIAL_OUT = 11
    SERIAL_CONTROL_IN = 12
    """Control messages of the device."""
    SERIAL_CONTROL_OUT = 13
    NET_CONTROL = 14
    NET_RX = 15
    NET_TX = 16


@dataclass(frozen=True, slots=True)
class QueueFormat:
    """What is needed to decode the requests of a queue."""

    format: Format = Format.NONE
    header_bytes: int = 0
    """net: size of ``struct virtio_net_hdr``; scsi: offset of the CDB."""
    port: int = 0
    """serial: number of the port."""
    mergeable: bool = False
    """net: a packet may fill several chains, and the first alone has the header."""


CDB_OFFSET: Final = 19
CDB_OFFSET_PI: Final = 27
"""With VIRTIO_SCSI_F_T10_PI: the sizes of protection information stand before the CDB."""

F_SCSI_T10_PI: Final = 3
F_MRG_RXBUF: Final = 15
F_VERSION_1: Final = 32
F_HASH_REPORT: Final = 57
F_UDP_TUNNEL_GSO: Final = (65, 67)

_BALLOON: Final = (
    Format.BALLOON_INFLATE,
    Format.BALLOON_DEFLATE,
    Format.BALLOON_STATS,
)
_BALLOON_NAMES: Final = {
    "inflate": Format.BALLOON_INFLATE,
    "deflate": Format.BALLOON_DEFLATE,
    "stats": Format.BALLOON_STATS,
    "free_page": Format.BALLOON_HINT,
    "free_page_vq": Format.BALLOON_HINT,
    "reporting": Format.BALLOON_REPORT,
    "reporting_vq": Format.BALLOON_REPORT,
}


def format_of(queue: Mapping[str, Any]) -> QueueFormat:
    """Return the format of a queue's requests by its row of the queue table.

    A row that says too little, or nothing that makes sense, gives ``Format.NONE``.
    """
    extra = queue.get("extra")
    more: Mapping[str, Any] = extra if isinstance(extra, Mapping) else {}
    kind = queue.get("device_type") or more.get("device_type")
    index = queue.get("index", more.get("index"))
    if type(index) is not int or not 0 <= index < 1 << 16:
        index = None
    name = queue.get("name")
    name = name if isinstance(name, str) else ""
    features = queue.get("features")
    bits = features if type(features) is int and features >= 0 else 0
    if kind == "blk":
        return QueueFormat(Format.BLK)
    if kind == "scsi":
        return _scsi(index, name, bits)
    if kind == "balloon":
        return QueueFormat(_balloon(index, name))
    if kind in {"serial", "console"}:
        return _serial(index)
    if kind == "net":
        return _net(queue.get("direction"), name, bits)
    return QueueFormat()


def _scsi(index: int | None, name: str, features: int) -> QueueFormat:
    if index is None:
        index = {"ctrl": 0, "controlq": 0, "event": 1, "eventq": 1}.get(name, 2 if name else None)
    if index is None:
        return QueueFormat()
    if index < 2:
        return QueueFormat(Format.SCSI_EVENT if index else Format.SCSI_CONTROL)
    protected = features >> F_SCSI_T10_PI & 1
    return QueueFormat(Format.SCSI, CDB_OFFSET_PI if protected else CDB_OFFSET)


def _balloon(index: int | None, name: str) -> Format:
    # QEMU always makes the first three; which of the others there are, and where, differs.
    if index is not None and index < len(_BALLOON):
        return _BALLOON[index]
    return _BALLOON_NAMES.get(name.removesuffix("q") if name[-2:] != "vq" else name, Format.NONE)


def _serial(index: int | None) -> QueueFormat:
    # Queues 0 and 1 are port 0, 2 and 3 the control queues, 4 and 5 port 1, ...
    if index is None:
        return QueueFormat()
    if index in {2, 3}:
        return QueueFormat((Format.SERIAL_CONTROL_IN, Format.SERIAL_CONTROL_OUT)[index & 1])
    port = index // 2 - (index >= 2)
    return QueueFormat((Format.SERIAL_IN, Format.SERIAL_OUT)[index & 1], port=port)


def _net(direction: object, name: str, features: int) -> QueueFormat:
    size = net_header_bytes(features)
    if direction == "rx":
        return QueueFormat(Format.NET_RX, size, mergeable=bool(features >> F_MRG_RXBUF & 1))
    if direction == "tx":
        return QueueFormat(Format.NET_TX, size)
    return QueueFormat(Format.NET_CONTROL if name.startswith("ctrl") else Format.NONE)


def net_header_bytes(features: int) -> int:
    """Return the size of ``struct virtio_net_hdr`` with these negotiated features.

    10, 12 with MRG_RXBUF or VERSION_1, 20 with HASH_REPORT, 24 with GSO of UDP tunnels.
    """
    if any(features >> bit & 1 for bit in F_UDP_TUNNEL_GSO):
        return 24
    if features >> F_HASH_REPORT & 1:
        return 20
    return 12 if features >> F_MRG_RXBUF & 1 or features >> F_VERSION_1 & 1 else 10
