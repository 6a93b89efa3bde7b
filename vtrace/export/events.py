"""The shapes of track events that a timeline is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from vtrace.export.shapes import Number, Shape, schema

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SEQUENCE", "Events"]

SEQUENCE: Final = 1
"""``trusted_packet_sequence_id`` of all packets."""
NEEDS_STATE: Final = 2
"""``SEQ_NEEDS_INCREMENTAL_STATE``: names are interned."""

TIME: Final = Number(1, 9)
TRACK: Final = Number(2, 5)
NAME: Final = Number(3, 5)
CATEGORY: Final = Number(4, 5)
FLOW: Final = Number(5, 8, fixed=True)
VALUE: Final = Number(6, 9)


class Events:
    """Makes rows of bytes: slices, instants, counters; see ``Shape.fill``.

    ``notes`` are debug annotations: pairs of an interned name and the bytes of its number, or 0 for
    text, of which the number of the interned text is given. A note n is filled in as ``note_n``.
    ``flowing``: empty, "flow" if a flow goes through the event, "end" if it ends there.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Shape] = {}

    def begin(
        self, count: int, *, notes: Sequence[tuple[int, int]] = (), flowing: str = "", **values: Any
    ) -> NDArray[np.uint8]:
        """Return the beginnings of slices: time, track, name, category, notes, flow."""
        return self._shape("TYPE_SLICE_BEGIN", notes, flowing).fill(count, **values)

    def end(self, count: int, **values: Any) -> NDArray[np.uint8]:
        """Return the ends of slices: time, track."""
        return self._shape("TYPE_SLICE_END", (), "").fill(count, **values)

    def instant(
        self, count: int, *, notes: Sequence[tuple[int, int]] = (), flowing: str = "", **values: Any
    ) -> NDArray[np.uint8]:
        """Return instants: time, track, name, category, notes, flow."""
        return self._shape("TYPE_INSTANT", notes, flowing).fill(count, **values)

    def counter(self, count: int, **values: Any) -> NDArray[np.uint8]:
        """Return samples of counters: time, track, value."""
        return self._shape("TYPE_COUNTER", (), "").fill(count, **values)

    def _shape(self, kind: str, notes: Sequence[tuple[int, int]], flow: str) -> Shape:
        key = (kind, tuple(notes), flow)
        if key not in self._known:
            self._known[key] = _made(kind, notes, flow)
        return self._known[key]


def _made(kind: str, notes: Sequence[tuple[int, int]], flow: str) -> Shape:
    pb = schema()
    packet = pb.TracePacket()
    packet.timestamp = TIME.value
    packet.trusted_packet_sequence_id = SEQUENCE
    packet.sequence_flags = NEEDS_STATE
    event = packet.track_event
    event.type = getattr(pb.TrackEvent, kind)
    event.track_uuid = TRACK.value
    numbers = {"time": TIME, "track": TRACK}
    if kind == "TYPE_COUNTER":
        event.counter_value = VALUE.value
        numbers["value"] = VALUE
    elif kind != "TYPE_SLICE_END":
        event.name_iid = NAME.value
        event.category_iids.append(CATEGORY.value)
        numbers |= {"name": NAME, "category": CATEGORY}
    if flow:
        (event.flow_ids if flow == "flow" else event.terminating_flow_ids).append(FLOW.value)
        numbers["flow"] = FLOW
    for at, (name, width) in enumerate(notes):
        note = event.debug_annotations.add()
        note.name_iid = name
        number = Number(16 + at, width or 5)
        if width:
            note.uint_value = number.value
        else:
            note.string_value_iid = number.value
        numbers[f"note_{at}"] = number
    return Shape(packet, numbers)
