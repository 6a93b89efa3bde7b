"""A BPF ring buffer as numpy arrays: no callback, no object per record.

The kernel's ring (``kernel/bpf/ringbuf.c``) is a page with the consumer position, a page with the
producer position, and the data mapped twice in a row, so that a record never wraps for its reader.
Every record has a header of 8 bytes (u32 length with a busy bit 31 and a discard bit 30, u32 page
offset). vtrace keeps one size of record per ring, so the unread part is an array of a constant
stride.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from parsers import wire

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Ring", "slot_dtype"]

BUSY = np.uint32(1 << 31)
DISCARD = np.uint32(1 << 30)


def slot_dtype(record: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of one slot: ring header, then the record; a multiple of 8 bytes."""
    return np.dtype(
        {
            "names": ["header", "record"],
            "formats": ["<u4", record],
            "offsets": [0, wire.RING_HEADER_BYTES],
            "itemsize": wire.RING_HEADER_BYTES + (record.itemsize + 7) // 8 * 8,
        }
    )


class Ring:
    """The reading end of one ring."""

    def __init__(
        self,
        record: np.dtype[Any],
        consumer: NDArray[np.uint64],
        producer: NDArray[np.uint64],
        data: NDArray[np.uint8],
    ) -> None:
        """Take the three parts of a ring as arrays; ``data`` holds the ring twice."""
        self._slot = slot_dtype(record)
        self._consumer = consumer
        self._producer = producer
        self._data = data
        self._mask = len(data) // 2 - 1
        self._position = int(consumer[0])
        self._taken = 0
        self._thrown = 0
        self.size_bytes = len(data) // 2
        self.discarded = 0
        """Records released that their probe had thrown away after reserving."""

    @classmethod
    def of_map(cls, fd: int, size_bytes: int, record: np.dtype[Any]) -> Ring:
        """Map the ring buffer behind a BPF map's file descriptor.

        Args:
            fd: File descriptor of a ``BPF_MAP_TYPE_RINGBUF``.
            size_bytes: Its size, a power of two and a multiple of the page size.
            record: What every record of it looks like.
        """
        page = mmap.PAGESIZE
        ours = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        theirs = mmap.mmap(
            fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        return cls(
            record,
            np.frombuffer(ours, np.uint64, 1),
            np.frombuffer(theirs, np.uint64, 1),
            np.frombuffer(theirs, np.uint8, 2 * size_bytes, page),
        )

    @property
    def pending_bytes(self) -> int:
        """Bytes written (or being written) that have not been released."""
        return int(self._producer[0]) - self._position

    def take(self) -> tuple[NDArray[Any], bool]:
        """Return a view of the records that are ready, and whether that is all there is.

        The view is valid until :meth:`release`. A record that is still being written ends it; a
        discarded one is left out (then the result is a copy).
        """
        stride = self._slot.itemsize
        # The position is read before the headers; x86 keeps that order.
        count = (int(self._producer[0]) - self._position) // stride
        slots = np.ndarray(
            count, self._slot, self._data.data, self._position & self._mask
        )
        header = slots["header"]
        busy = np.flatnonzero(header & BUSY)
        whole = len(busy) == 0
        if not whole:
            count = int(busy[0])
            slots, header = slots[:count], header[:count]
        self._taken = count
        thrown = (header & DISCARD) != 0
        self._thrown = int(np.count_nonzero(thrown))
        if self._thrown:
            slots = slots[~thrown]
        return slots["record"], whole

    def release(self) -> None:
        """Give what the last :meth:`take` returned back to the kernel."""
        self._position += self._taken * self._slot.itemsize
        self._consumer[0] = self._position
        self.discarded += self._thrown
        self._taken = self._thrown = 0
