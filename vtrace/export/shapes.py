"""Packets of a Perfetto trace in bulk: one of each shape is made by the schema, then filled in.

A packet is built once with the classes of the package ``perfetto``, with a number in each place
that varies. Such a number has a fixed width in the bytes: a varint may have zeros above its value,
so any number fits there, and a thousand packets of a shape are a matrix with a few columns filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Number", "Shape", "schema"]

BITS: Final = 7


def schema() -> Any:
    """Return the module of Perfetto's published schema.

    Raises:
        UnsupportedError: The package is not installed.
    """
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
    except ImportError as error:
        raise UnsupportedError(
            "exporting to perfetto needs its schema, the Python package perfetto, which is not "
            f"here ({error}): pip install 'vtrace[perfetto]'"
        ) from error
    return perfetto_trace_pb2


class Number:
    """A number in a packet that varies: where it was put, and the bytes that it takes."""

    __slots__ = ("fixed", "value", "width")

    def __init__(self, which: int, width: int, *, fixed: bool = False) -> None:
        self.width = width
        """Bytes: of a varint, so 7 bits each; of a fixed64, 8."""
        self.fixed = fixed
        top = 1 << (8 * width - 1) if fixed else 1 << (BITS * (width - 1))
        self.value = top + which
        """What stands there in the packet of the shape: like nothing else in it."""

    def mark(self) -> bytes:
        """Return the value as bytes."""
        return _coded(np.array([self.value], np.uint64), self).tobytes()


def _coded(values: NDArray[Any], number: Number) -> NDArray[np.uint8]:
    values = np.ascontiguousarray(values, np.uint64)
    if number.fixed:
        return values.view(np.uint8).reshape(len(values), 8)
    shifts = np.arange(0, BITS * number.width, BITS, dtype=np.uint64)
    groups = (values[:, np.newaxis] >> shifts & np.uint64(0x7F)).astype(np.uint8)
    groups[:, :-1] |= 0x80
    return groups


class Shape:
    """Packets that differ in their numbers alone."""

    def __init__(self, packet: Any, numbers: Mapping[str, Number]) -> None:
        whole = schema().Trace(packet=[packet]).SerializeToString()
        self._bytes = np.frombuffer(whole, np.uint8)
        self._places: dict[str, tuple[int, Number]] = {}
        for name, number in numbers.items():
            if whole.count(number.mark()) != 1:
                raise ValueError(f"{name} does not stand once in the packet")
            self._places[name] = whole.index(number.mark()), number

    def fill(self, count: int, **values: Any) -> NDArray[np.uint8]:
        """Return ``count`` packets as rows of bytes; each number is an array, or one for all.

        What does not fit into the place of a number loses its upper bits.
        """
        rows = np.broadcast_to(self._bytes, (count, len(self._bytes))).copy()
        for name, (at, number) in self._places.items():
            data = np.broadcast_to(np.asarray(values[name], np.uint64), count)
            rows[:, at : at + number.width] = _coded(data, number)
        return rows
