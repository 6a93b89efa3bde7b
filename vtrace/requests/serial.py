"""virtio-serial: bytes of ports, and control messages of a multiport device.

A control message is {le32 id, le16 event, le16 value}; PORT_NAME is followed by the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vtrace.requests.asked import Known
from vtrace.requests.queues import Format

if TYPE_CHECKING:
    from vtrace.requests.view import View

__all__ = ["MESSAGE_BYTES", "MOST_NAME", "PORT_NAME", "decode_control", "decode_data"]

MESSAGE_BYTES: Final = 8
PORT_NAME: Final = 7
MOST_NAME: Final = 256
NO_PORT: Final = 0xFFFF_FFFF
"""``VIRTIO_CONSOLE_BAD_ID``: what DEVICE_READY has in place of a port."""


def decode_data(view: View) -> None:
    """Decode requests of a port's queues: their bytes are the port's."""
    everywhere = np.ones(len(view.out), np.bool_)
    view.put("operation", 0, everywhere, Known.OPERATION)
    view.put("port", view.ports, everywhere, Known.PORT)
    if view.format == Format.SERIAL_OUT:
        view.put("data_bytes", np.maximum(view.readable, 0), view.readable >= 0, Known.DATA)
        view.asks(view.request(1).has(0, 1), 1)
    else:
        view.put("data_bytes", view.used_bytes, view.returned, Known.DATA)
        view.answers(view.response(1).has(0, 1), 1)


def decode_control(view: View) -> None:
    """Decode control messages, of the driver or of the device."""
    if view.format == Format.SERIAL_CONTROL_OUT:
        message = view.request(MESSAGE_BYTES)
        view.asks(message.has(0, MESSAGE_BYTES), MESSAGE_BYTES)
    else:
        message = view.response(MESSAGE_BYTES)
        view.answers(message.has(0, MESSAGE_BYTES), MESSAGE_BYTES)
    port, there = message.little(0, 4)
    event, whole = message.little(4, 2)
    value, valued = message.little(6, 2)
    # A message about the whole device names no port.
    view.put("port", port, there & whole & (port != NO_PORT), Known.PORT)
    view.put("operation", event, whole, Known.OPERATION)
    view.put("value", value, valued, Known.VALUE)
    view.out["known"][whole & (event == PORT_NAME)] |= np.uint32(Known.DETAIL)
