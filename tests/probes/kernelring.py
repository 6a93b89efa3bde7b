"""The kernel's side of a BPF ring buffer, in plain memory (``kernel/bpf/ringbuf.c``)."""

import numpy as np

from parsers import wire
from probes.ring import Ring

BUSY, DISCARD = 1 << 31, 1 << 30


class KernelRing:
    """Reserves, commits and refuses as the kernel does; the ring's pages are there twice."""

    def __init__(self, size: int, record: np.dtype, start: int = 0) -> None:
        assert size & (size - 1) == 0
        self.size, self.record = size, record
        self.consumer = np.array([start], np.uint64)
        self.producer = np.array([start], np.uint64)
        # What nobody has written yet must not be read: it would look like busy records.
        self.data = np.full(2 * size, 0xFF, np.uint8)
        self.pending = start

    def reader(self) -> Ring:
        return Ring(self.record, self.consumer, self.producer, self.data)

    def reserve(self) -> int | None:
        """Return the position of a new busy record; None if the ring is full."""
        size = self.record.itemsize
        start = int(self.producer[0])
        end = start + (size + 8 + 7) // 8 * 8
        self._skip_committed()
        if end - int(self.consumer[0]) > self.size - 1 or end - self.pending > self.size - 1:
            return None
        self._write(start, np.uint32([size | BUSY, start & 0xFFF]).tobytes())
        self.producer[0] = end
        return start

    def commit(self, start: int, record: np.ndarray, *, discard: bool = False) -> None:
        assert record.dtype == self.record
        self._write(start + 8, record.tobytes())
        header = self.record.itemsize | (DISCARD if discard else 0)
        self._write(start, np.uint32([header]).tobytes())

    def put(self, record: np.ndarray, *, discard: bool = False) -> bool:
        start = self.reserve()
        if start is None:
            return False
        self.commit(start, record, discard=discard)
        return True

    def _header(self, start: int) -> int:
        at = start & (self.size - 1)
        return int(self.data[at : at + 4].view(np.uint32)[0])

    def _skip_committed(self) -> None:
        while self.pending < int(self.producer[0]):
            header = self._header(self.pending)
            if header & BUSY:
                return
            self.pending += ((header & ~DISCARD) + 8 + 7) // 8 * 8

    def _write(self, start: int, data: bytes) -> None:
        place = ((start & (self.size - 1)) + np.arange(len(data))) & (self.size - 1)
        self.data[place] = self.data[place + self.size] = np.frombuffer(data, np.uint8)


def event(seq: int, dtype: np.dtype = wire.RECORD) -> np.ndarray:
    """Return one record with every byte set, and told apart by ``seq``."""
    row = np.frombuffer(bytes([(seq * 7 + i) & 0x7F for i in range(dtype.itemsize)]), dtype).copy()
    (row if dtype == wire.RECORD else row["record"])["seq"] = seq
    return row
