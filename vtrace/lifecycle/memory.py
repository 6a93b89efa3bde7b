"""Kernels: records of the state by address.

Handing numba a tuple of arrays costs dozens of arguments and a count of references at each call.
The kernels get one record instead, ``layout.GLOBAL``, that holds the addresses of the pools; what
lies there is a record by pointer arithmetic. ``layout.State`` keeps the arrays alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
from numba.core import cgutils, types
from numba.extending import intrinsic

from vtrace.lifecycle.cachedir import kernel
from vtrace.lifecycle.layout import (
    CHANGE,
    CPU,
    EVENT,
    FRAME,
    KICKED,
    NUMBER,
    PACKET,
    QUEUE,
    ROW,
    TOTAL,
)

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "after_at",
    "change_at",
    "copy_row",
    "cpu_at",
    "event_at",
    "frame_at",
    "hold_at",
    "kick_at",
    "number_at",
    "open_at",
    "order_at",
    "packet_at",
    "popped_at",
    "queue_at",
    "slot_at",
    "total_at",
    "wait_at",
]


def _pointer(dtype: np.dtype[Any]) -> Any:
    record = numba.from_dtype(dtype)

    @intrinsic
    def at(_context: Any, _address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(record))

        return record(types.int64), generate

    return at


_row, _queue, _total = _pointer(ROW), _pointer(QUEUE), _pointer(TOTAL)
_frame, _change, _kicked = _pointer(FRAME), _pointer(CHANGE), _pointer(KICKED)
_event = _pointer(EVENT)
_cpu, _packet, _number = _pointer(CPU), _pointer(PACKET), _pointer(NUMBER)
_ROW, _QUEUE, _TOTAL = ROW.itemsize, QUEUE.itemsize, TOTAL.itemsize
_FRAME, _CHANGE, _KICKED = FRAME.itemsize, CHANGE.itemsize, KICKED.itemsize
_CPU, _PACKET, _NUMBER = CPU.itemsize, PACKET.itemsize, NUMBER.itemsize


@intrinsic
def _copy(_context: Any, _to: Any, _from: Any) -> Any:

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        size = context.get_constant(types.intp, _ROW)
        memcpy: Any = cgutils.raw_memcpy
        memcpy(builder, arguments[0], arguments[1], size, 1)
        return context.get_dummy_value()

    return types.none(_to, _from), generate


@kernel
def copy_row(to: Any, row: Any) -> Any:
    """Copy a chain over another."""
    _copy(to, row)  # type: ignore[call-arg]  # numba gives the context


@kernel
def open_at(s: Any, n: Any) -> Any:
    """Return the n-th place for a chain that the device has."""
    return _row(s["open"] + n * _ROW)


@kernel
def after_at(s: Any, k: Any, n: Any) -> Any:
    """Return the n-th used chain of a queue, in the ring of them."""
    q = queue_at(s, k)
    return _row(s["after"] + (q["base"] + (n & (q["cap"] - 1))) * _ROW)


@kernel
def hold_at(s: Any, n: Any) -> Any:
    """Return the n-th held chain, in the ring of them."""
    return _row(s["hold"] + (n & (s["hold_rows"] - 1)) * _ROW)


@kernel
def queue_at(s: Any, k: Any) -> Any:
    """Return the queue of a slot."""
    return _queue(s["queue"] + k * _QUEUE)


@kernel
def total_at(s: Any, k: Any) -> Any:
    """Return the counters of a slot."""
    return _total(s["total"] + k * _TOTAL)


@kernel
def frame_at(s: Any, n: Any) -> Any:
    """Return the n-th place for a frame of a SEND."""
    return _frame(s["frames"] + n * _FRAME)


@kernel
def change_at(s: Any, n: Any) -> Any:
    """Return the n-th place for a change of a driver's index."""
    return _change(s["changes"] + n * _CHANGE)


@kernel
def kick_at(s: Any, n: Any) -> Any:
    """Return the n-th place for a kick."""
    return _kicked(s["kicks"] + n * _KICKED)


@kernel
def event_at(s: Any) -> Any:
    """Return the place where the record under way is laid out."""
    return _event(s["event"])


@kernel
def order_at(s: Any, k: Any, position: Any) -> Any:
    """Return where the head of the chain at a position of the available ring stands."""
    q = queue_at(s, k)
    return _number(s["order"] + (q["base"] + (position & (q["cap"] - 1))) * _NUMBER)


@kernel
def wait_at(s: Any, k: Any, n: Any) -> Any:
    """Return where the head of the n-th chain that waits for a packet stands."""
    return _number(s["waits"] + (queue_at(s, k)["base"] + n) * _NUMBER)


@kernel
def popped_at(s: Any, k: Any, position: Any) -> Any:
    """Return the place of the last chain popped at a position, or where there may be another."""
    return open_at(s, queue_at(s, k)["base"] + order_at(s, k, position)["number"])


@kernel
def cpu_at(s: Any, number: Any) -> Any:
    """Return a CPU by its number."""
    return _cpu(s["cpu"] + number * _CPU)


@kernel
def number_at(s: Any, n: Any) -> Any:
    """Return the place of the number of the n-th CPU."""
    return _number(s["numbers"] + n * _NUMBER)


@kernel
def slot_at(s: Any, queue: Any) -> Any:
    """Return the slot of a queue id, -1 if it has none."""
    return _number(s["slot"] + queue * _NUMBER)["number"] - 1


@kernel
def packet_at(s: Any, n: Any) -> Any:
    """Return the n-th place of the table of packets."""
    return _packet(s["packets"] + n * _PACKET)
