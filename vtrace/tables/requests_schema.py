"""The columns of the table of requests: name, type, unit, one-line meaning."""

from __future__ import annotations

from typing import Final

from vtrace.model import Direction, Outcome, Ring, TimeState, Trust
from vtrace.requests import PartState
from vtrace.tables.schema import Column, Schema, Type

__all__ = ["REQUESTS"]


def _text(name: str, meaning: str, *values: str) -> Column:
    return Column(name, meaning, Type.TEXT, "u4", values=values)


def _number(name: str, meaning: str, numpy: str = "u4", unit: str = "") -> Column:
    return Column(name, meaning, Type.INTEGER, numpy, unit)


def _time(name: str, meaning: str, state: str = "") -> Column:
    return Column(name, meaning, Type.INTEGER, "u8", "ns", state)


_STATES: Final = tuple(state.name.lower() for state in TimeState)
_PARTS: Final = tuple(state.name.lower() for state in PartState)

REQUESTS: Final = Schema(
    "requests",
    "one request to a device that QEMU serves, and its answer",
    (
        _time("time_ns", "when its story begins: pop if seen, else later"),
        _text("vm", "name of the VM; pid:N where it has none"),
        _text("device", "QEMU's id of the device, else its kind and a number"),
        _text("queue", "role of the queue in the device: req0, ctrl, inflate, ..."),
        _text("direction", "rx or tx of a network device, as the guest sees it", *Direction),
        _text("device_type", "what the device is: blk, scsi, balloon, serial, net, ..."),
        _text("ring", "layout of the virtqueue", *Ring),
        _number("queue_id", "id of the queue in the recording", "u2"),
        _number("generation", "counts resets and reattachments of the queue", "u2"),
        _number("position", "place in the ring, counted through; packed: chains counted", "u8"),
        _number("head", "first descriptor of the chain; of a packed ring the buffer id", "u2"),
        _text("operation", "what was asked for, by its name in the standard; else its number"),
        _text("status", "status by name: blk, SCSI, ack of the network control queue"),
        _text("response", "virtio-scsi: response by name"),
        Column("failed", "the device said that it failed", Type.BOOLEAN, "?"),
        _number("data_bytes", "payload, without headers and status", "u8", "bytes"),
        _number("request_bytes", "bytes of the chain that the device may read", "u4", "bytes"),
        _number("response_bytes", "bytes that the device says it wrote", "u4", "bytes"),
        _text("request_state", "why the driver's fields are, or are not, there", *_PARTS),
        _text("response_state", "why the device's fields are, or are not, there", *_PARTS),
        _number("sector", "blk: first sector, of 512 bytes", "u8"),
        _number("sectors", "blk: sectors in all", "u8"),
        _number("segments", "blk: stretches of a DISCARD, WRITE_ZEROES, SECURE_ERASE"),
        _number("target", "scsi: target", "u1"),
        _number("lun", "scsi: logical unit", "u2"),
        _number("tag", "scsi: tag of the command", "u8"),
        _number("lba", "scsi: first logical block", "u8"),
        _number("blocks", "scsi: logical blocks", "u8"),
        _number("residual", "scsi: bytes that were not moved", "u4", "bytes"),
        _number("sense_key", "scsi: sense key", "u1"),
        _number("asc", "scsi: additional sense code", "u1"),
        _number("ascq", "scsi: its qualifier", "u1"),
        _text("sense", "scsi: sense in words"),
        _number("pages", "balloon: pages of 4096 bytes"),
        _number("first_page", "balloon: lowest page number"),
        _number("last_page", "balloon: highest page number"),
        _number("port", "serial: number of the port"),
        _number("value", "main argument: on (1) or off (0), VLAN, queue pairs, port's value", "u8"),
        Column("mac", "net: address of a MAC_ADDR_SET", Type.MAC, "u8"),
        _number("header_bytes", "net: size of the header before the frame", "u1", "bytes"),
        _number("hdr_flags", "net: VIRTIO_NET_HDR_F_*: 1 needs checksum, 2 valid", "u1"),
        _text("gso_type", "net: VIRTIO_NET_HDR_GSO_* by name, with its bits"),
        _number("gso_bytes", "net: payload of each segment", "u2", "bytes"),
        _number("num_buffers", "net: chains that the packet fills", "u2"),
        _number("hash_value", "net: hash of the packet, with HASH_REPORT"),
        _number("hash_report", "net: what the hash is of", "u2"),
        _text("flow", "net: protocol, addresses and ports of the frame in one line"),
        _text("detail", "page ranges, statistics, a port's name, a table of addresses in words"),
        _time("kick_ns", "the driver notified the device", "kick_state"),
        _text("kick_state", "why kick_ns is, or is not, there", *_STATES),
        _time("pop_ns", "the device took the chain from the available ring", "pop_state"),
        _text("pop_state", "why pop_ns is, or is not, there", *_STATES),
        _time("used_ns", "the device returned the chain in the used ring", "used_state"),
        _text("used_state", "why used_ns is, or is not, there", *_STATES),
        _time("queueing_ns", "kick (or when the chain was first seen, if later) to pop"),
        _time("service_ns", "pop to used"),
        _time("complete_ns", "used to signal"),
        _text("outcome", "how the chain ended", *(member.name.lower() for member in Outcome)),
        _text("trust", "how far the row can be trusted", *(m.name.lower() for m in Trust)),
    ),
)
