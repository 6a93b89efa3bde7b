"""virtio-net: commands of the control queue, and the header before each frame.

A command is {u8 class, u8 command} and its data; what the device writes begins with an ack. The
header is ``struct virtio_net_hdr`` in the size that was negotiated; of a packet that fills several
receive buffers the first alone has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.requests.asked import Known, PartState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.requests.parts import Bytes
    from vtrace.requests.view import View

__all__ = ["BASE_BYTES", "decode_control", "decode_rx", "decode_tx"]

BASE_BYTES: Final = 10
BUFFERS_END: Final = 12
HASH_END: Final = 20

RX, MAC, VLAN, MQ, OFFLOADS, COALESCING = 0, 1, 2, 4, 5, 6


def decode_control(view: View) -> None:
    """Decode commands of the control queue."""
    head = view.request(10)
    group, there = head.little(0, 1)
    command, whole = head.little(1, 1)
    view.put("operation", group << np.uint64(8) | command, whole, Known.OPERATION)
    need = np.full(len(view.out), 2)

    def argument(where: NDArray[np.bool_], size: int) -> None:
        value, has = head.little(2, size)
        view.put("value", value, where & has, Known.VALUE)
        need[where] = 2 + size

    known = there & whole
    argument(known & (group == RX), 1)
    argument(known & (group == VLAN), 2)
    argument(known & (group == MQ) & (command == 0), 2)
    # RSS and hash: the types of hash that are asked for stand first.
    argument(known & (group == MQ) & (command != 0), 4)
    argument(known & (group == OFFLOADS), 8)
    address = known & (group == MAC) & (command == 1)
    mac, has = head.big(2, 6)
    view.put("mac", mac, address & has, Known.MAC)
    need[address] = 8
    worded = known & (((group == MAC) & (command == 0)) | (group == COALESCING))
    view.out["known"][worded] |= np.uint32(Known.DETAIL)
    need[worded & (group == MAC)] = 6
    need[worded & (group == COALESCING)] = 10
    enough = np.zeros(len(view.out), np.bool_)
    for size in np.unique(need).tolist():
        enough |= (need == size) & head.has(0, size)
    view.asks(enough, need)

    # The ack is the first byte; where it is the only one, the probe has read it as the last.
    ack, captured = view.response(1).little(0, 1)
    last = view.last_byte
    only = (last >= 0) & (view.writable == 1)
    ack = np.where(only, np.maximum(last, 0).astype(np.uint64), ack)
    seen = only | captured
    view.answers(seen, 1)
    view.put("status", ack, seen, Known.STATUS)
    view.out["failed"] = seen & (ack != 0)


def decode_tx(view: View) -> None:
    """Decode chains of a transmit queue."""
    size = view.header_bytes
    head = view.request(size)
    there = head.has(0, size)
    view.asks(there, size)
    readable = view.readable
    view.put("data_bytes", np.maximum(readable - size, 0), readable >= size, Known.DATA)
    view.put("operation", 0, np.ones(len(view.out), np.bool_), Known.OPERATION)
    _header(view, head, there)


def decode_rx(view: View) -> None:
    """Decode chains of a receive queue."""
    size = view.header_bytes
    head = view.response(size)
    leads = view.chains.rows["leads"][view.rows]
    if not view.mergeable:
        leads = np.ones_like(leads)
    there = head.has(0, size) & leads
    view.answers(there, size)
    view.out["response_state"][view.returned & ~leads] = PartState.NOT_APPLICABLE
    short = there & (view.used_bytes < np.uint64(size))
    head.have[short] = False
    there &= ~short
    view.out["response_state"][short] = PartState.SHORT
    headers = np.where(leads, np.uint64(size), np.uint64(0))
    data = np.where(view.used_bytes >= headers, view.used_bytes - headers, np.uint64(0))
    view.put("data_bytes", data, view.returned & (view.used_bytes >= headers), Known.DATA)
    view.put("operation", 0, np.ones(len(view.out), np.bool_), Known.OPERATION)
    _header(view, head, there)


def _header(view: View, head: Bytes, there: NDArray[np.bool_]) -> None:
    def put(name: str, at: int, size: int, flag: Known) -> None:
        value: NDArray[Any]
        value, _ = head.little(at, size)
        view.put(name, value, there, flag)

    view.put("header_bytes", view.header_bytes, there, Known.HEADER)
    put("hdr_flags", 0, 1, Known.HEADER)
    put("gso_type", 1, 1, Known.HEADER)
    put("gso_bytes", 4, 2, Known.HEADER)
    if view.header_bytes >= BUFFERS_END:
        put("num_buffers", 10, 2, Known.BUFFERS)
    if view.header_bytes >= HASH_END:
        put("hash_value", 12, 4, Known.HASH)
        put("hash_report", 16, 2, Known.HASH)
