"""Names of what virtio drivers ask for and devices answer, as the virtio specification has them.

From the specification's device types (blk, scsi, balloon, console, net) and the kernel's
``uapi/linux/virtio_*.h``, without their prefixes. A code that is not known is shown by its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "BALLOON_STATS",
    "BLK_STATUS",
    "BLK_TYPES",
    "CONSOLE_EVENTS",
    "GSO_TYPES",
    "NET_ACK",
    "NET_COMMANDS",
    "SCSI_CONTROL",
    "SCSI_EVENTS",
    "SCSI_RESPONSES",
    "SCSI_TMF",
    "gso_text",
    "name_of",
]

BLK_TYPES: Final = {
    0: "IN",
    1: "OUT",
    2: "SCSI_CMD",
    3: "SCSI_CMD_OUT",
    4: "FLUSH",
    5: "FLUSH_OUT",
    8: "GET_ID",
    10: "GET_LIFETIME",
    11: "DISCARD",
    13: "WRITE_ZEROES",
    14: "SECURE_ERASE",
    15: "ZONE_APPEND",
    16: "ZONE_REPORT",
    18: "ZONE_OPEN",
    20: "ZONE_CLOSE",
    22: "ZONE_FINISH",
    24: "ZONE_RESET",
    26: "ZONE_RESET_ALL",
}
"""``type`` of a virtio-blk request: ``VIRTIO_BLK_T_*``."""

BLK_STATUS: Final = {
    0: "OK",
    1: "IOERR",
    2: "UNSUPP",
    3: "ZONE_INVALID_CMD",
    4: "ZONE_UNALIGNED_WP",
    5: "ZONE_OPEN_RESOURCE",
    6: "ZONE_ACTIVE_RESOURCE",
}
"""``VIRTIO_BLK_S_*``."""

SCSI_RESPONSES: Final = {
    0: "OK",
    1: "OVERRUN",
    2: "ABORTED",
    3: "BAD_TARGET",
    4: "RESET",
    5: "BUSY",
    6: "TRANSPORT_FAILURE",
    7: "TARGET_FAILURE",
    8: "NEXUS_FAILURE",
    9: "FAILURE",
    10: "FUNCTION_SUCCEEDED",
    11: "FUNCTION_REJECTED",
    12: "INCORRECT_LUN",
}
"""``VIRTIO_SCSI_S_*``; 0 is FUNCTION_COMPLETE on the control queue."""

SCSI_CONTROL: Final = {1: "AN_QUERY", 2: "AN_SUBSCRIBE"}
"""``VIRTIO_SCSI_T_AN_*``: asynchronous notifications; 0 is a task management function."""

SCSI_TMF: Final = {
    0: "ABORT_TASK",
    1: "ABORT_TASK_SET",
    2: "CLEAR_ACA",
    3: "CLEAR_TASK_SET",
    4: "I_T_NEXUS_RESET",
    5: "LOGICAL_UNIT_RESET",
    6: "QUERY_TASK",
    7: "QUERY_TASK_SET",
}
"""``VIRTIO_SCSI_T_TMF_*``."""

SCSI_EVENTS: Final = {0: "NO_EVENT", 1: "TRANSPORT_RESET", 2: "ASYNC_NOTIFY", 3: "PARAM_CHANGE"}
"""Events of the event queue; the bit ``EVENTS_MISSED`` is taken off before."""

BALLOON_STATS: Final = {
    0: "SWAP_IN",
    1: "SWAP_OUT",
    2: "MAJFLT",
    3: "MINFLT",
    4: "MEMFREE",
    5: "MEMTOT",
    6: "AVAIL",
    7: "CACHES",
    8: "HTLB_PGALLOC",
    9: "HTLB_PGFAIL",
    10: "OOM_KILL",
    11: "ALLOC_STALL",
    12: "ASYNC_SCAN",
    13: "DIRECT_SCAN",
    14: "ASYNC_RECLAIM",
    15: "DIRECT_RECLAIM",
}
"""``VIRTIO_BALLOON_S_*``."""

CONSOLE_EVENTS: Final = {
    0: "DEVICE_READY",
    1: "PORT_ADD",
    2: "PORT_REMOVE",
    3: "PORT_READY",
    4: "CONSOLE_PORT",
    5: "RESIZE",
    6: "PORT_OPEN",
    7: "PORT_NAME",
}
"""``VIRTIO_CONSOLE_*``: control messages of a multiport device."""

NET_COMMANDS: Final = {
    (0, 0): "RX_PROMISC",
    (0, 1): "RX_ALLMULTI",
    (0, 2): "RX_ALLUNI",
    (0, 3): "RX_NOMULTI",
    (0, 4): "RX_NOUNI",
    (0, 5): "RX_NOBCAST",
    (1, 0): "MAC_TABLE_SET",
    (1, 1): "MAC_ADDR_SET",
    (2, 0): "VLAN_ADD",
    (2, 1): "VLAN_DEL",
    (3, 0): "ANNOUNCE_ACK",
    (4, 0): "MQ_VQ_PAIRS_SET",
    (4, 1): "MQ_RSS_CONFIG",
    (4, 2): "MQ_HASH_CONFIG",
    (5, 0): "GUEST_OFFLOADS_SET",
    (6, 0): "NOTF_COAL_TX_SET",
    (6, 1): "NOTF_COAL_RX_SET",
    (6, 2): "NOTF_COAL_VQ_SET",
    (6, 3): "NOTF_COAL_VQ_GET",
    (8, 0): "STATS_QUERY",
    (8, 1): "STATS_GET",
}
"""Class and command of the network control queue: ``VIRTIO_NET_CTRL_*``."""

NET_ACK: Final = {0: "OK", 1: "ERR"}
"""``VIRTIO_NET_OK``, ``VIRTIO_NET_ERR``."""

GSO_TYPES: Final = {0: "NONE", 1: "TCPV4", 3: "UDP", 4: "TCPV6", 5: "UDP_L4"}
"""``VIRTIO_NET_HDR_GSO_*`` without the bits below."""

_GSO_BITS: Final = ((0x20, "UDP_TUNNEL_IPV4"), (0x40, "UDP_TUNNEL_IPV6"), (0x80, "ECN"))


def name_of(names: Mapping[int, str], code: int) -> str:
    """Return the name of a code, its number if it has none."""
    return names.get(code) or str(code)


def gso_text(gso_type: int) -> str:
    """Return the name of a ``gso_type`` with its bits: ``TCPV4|ECN``."""
    bits = [name for bit, name in _GSO_BITS if gso_type & bit]
    return "|".join([name_of(GSO_TYPES, gso_type & 0x1F), *bits])
