"""Names of virtio feature bits by device: the specification's, and ``uapi/linux/virtio_*.h``'s.

Bits of rings and transports (24 to 40) are in ``qmp.FEATURE_BITS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vtrace.inventory.qmp import FEATURE_BITS

__all__ = ["DEVICE_FEATURES", "feature_names"]

_NET: Final = {
    "CSUM": 0,
    "GUEST_CSUM": 1,
    "CTRL_GUEST_OFFLOADS": 2,
    "MTU": 3,
    "MAC": 5,
    "GUEST_TSO4": 7,
    "GUEST_TSO6": 8,
    "GUEST_ECN": 9,
    "GUEST_UFO": 10,
    "HOST_TSO4": 11,
    "HOST_TSO6": 12,
    "HOST_ECN": 13,
    "HOST_UFO": 14,
    "MRG_RXBUF": 15,
    "STATUS": 16,
    "CTRL_VQ": 17,
    "CTRL_RX": 18,
    "CTRL_VLAN": 19,
    "CTRL_RX_EXTRA": 20,
    "GUEST_ANNOUNCE": 21,
    "MQ": 22,
    "CTRL_MAC_ADDR": 23,
    "HASH_REPORT": 57,
    "RSS": 60,
    "RSC_EXT": 61,
    "STANDBY": 62,
    "SPEED_DUPLEX": 63,
}
_BLK: Final = {
    "BARRIER": 0,
    "SIZE_MAX": 1,
    "SEG_MAX": 2,
    "GEOMETRY": 4,
    "RO": 5,
    "BLK_SIZE": 6,
    "SCSI": 7,
    "FLUSH": 9,
    "TOPOLOGY": 10,
    "CONFIG_WCE": 11,
    "MQ": 12,
    "DISCARD": 13,
    "WRITE_ZEROES": 14,
}
_SCSI: Final = {"INOUT": 0, "HOTPLUG": 1, "CHANGE": 2, "T10_PI": 3}
_BALLOON: Final = {
    "MUST_TELL_HOST": 0,
    "STATS_VQ": 1,
    "DEFLATE_ON_OOM": 2,
    "FREE_PAGE_HINT": 3,
    "PAGE_POISON": 4,
    "REPORTING": 5,
}
_CONSOLE: Final = {"SIZE": 0, "MULTIPORT": 1, "EMERG_WRITE": 2}

DEVICE_FEATURES: Final[dict[str, dict[str, int]]] = {
    "net": {f"VIRTIO_NET_F_{name}": bit for name, bit in _NET.items()},
    "blk": {f"VIRTIO_BLK_F_{name}": bit for name, bit in _BLK.items()},
    "scsi": {f"VIRTIO_SCSI_F_{name}": bit for name, bit in _SCSI.items()},
    "balloon": {f"VIRTIO_BALLOON_F_{name}": bit for name, bit in _BALLOON.items()},
    "serial": {f"VIRTIO_CONSOLE_F_{name}": bit for name, bit in _CONSOLE.items()},
}
"""Kind of device -> name -> bit."""


def feature_names(kind: str) -> Mapping[str, int]:
    """Return the bits of features of a kind of device, and of rings and transports, by name."""
    return {**FEATURE_BITS, **DEVICE_FEATURES.get(kind, {})}
