"""A recording redacted: read once to collect what is secret, then batch by batch."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsers.batch import EventBatch, Snaps
from vtrace.errors import VtraceError
from vtrace.model import Flag, Kind
from vtrace.redact import frames, search
from vtrace.redact.buffers import kept_bytes, net_frames
from vtrace.redact.names import Names
from vtrace.redact.sections import ORDINARY, SECTIONS
from vtrace.redact.shapes import GONE
from vtrace.redact.spans import walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["KEEP", "Redactor"]

KEEP: Final = ("text", "thread", "path", "cgroup", "table")
"""Classes of names that a caller may ask to keep."""
CHUNK_BYTES: Final = 4 << 20
"""Captured bytes that are worked on at a time."""
BUFFERS: Final = (Kind.REQUEST, Kind.RESPONSE)
FRAMES: Final = frozenset(Kind) - {*BUFFERS}
MOST_TRIES: Final = 32
MANY: Final = 1 << 14
"""Addresses; with fewer a key is looked for by which none stands for another one."""


class Redactor:
    """Replaces names and addresses and cuts payload.

    ``collect`` all batches, ``seal``, then ``redact`` them again in the same order.

    Args:
        salt: With it, replacements are the same in all recordings; without, they are random.
        keep: Classes of names (``KEEP``) that stay.
    """

    def __init__(self, salt: str = "", keep: frozenset[str] = frozenset()) -> None:
        self.names = Names(ORDINARY, keep)
        self.packets = 0
        self.payload_bytes = 0
        """Captured bytes that became 0."""
        self.coincidences = 0
        """Numbers in headers that read as an address, and became 0."""
        self.checksums = 0
        """Checksums that became 0, because bytes of their packet are missing."""
        self.met = 0
        """Replacements that are another address of the recording: rare, and said."""
        self.tries = 0
        self._salt = salt
        self._queues: dict[str, Any] = {}

    @property
    def has_salt(self) -> bool:
        """Replacements are the same in other recordings."""
        return bool(self._salt)

    def collect(self, batch: EventBatch) -> None:
        """Take in the names and addresses of a batch.

        Raises:
            VtraceError: They are more than can be held.
        """
        try:
            self._metadata(batch.meta)
            for part, no_mac, _ in self._frames(batch):
                frames.collect(walk(part, no_mac), self.names.tables)
        except OverflowError:
            raise VtraceError(
                "redact: the recording has too many distinct names or addresses to be checked; "
                "redact a part of it (vtrace filter)"
            ) from None

    def seal(self) -> None:
        """Choose what stands for what.

        Raises:
            VtraceError: No choice changes every address.
        """
        for table in self.names.tables.values():
            table.settle()
        many = sum(len(table.known) for table in self.names.tables.values()) > MANY
        same = 0
        for number in range(MOST_TRIES):
            seed = self._salt.encode(errors="surrogateescape") or secrets.token_bytes(32)
            key = hashlib.blake2b(seed, person=b"vtrace", salt=bytes([number])).digest()
            found = [table.seal(key) for table in self.names.tables.values()]
            same, self.met = (sum(column) for column in zip(*found, strict=True))
            self.tries = number
            # Among very many, some meet others whatever the key.
            if not same and (not self.met or many):
                break
        if same:
            raise VtraceError(
                f"redact: {same} addresses would stand for themselves, whatever the key; "
                "give another --salt, or redact a part of the recording (vtrace filter)"
            )
        self.names.seal(self._salt, key)
        self.needles = search.Needles.of(self.names)

    def redact(self, batch: EventBatch) -> EventBatch:
        """Return a batch without what is secret.

        Raises:
            VtraceError: There is something in it that was not collected.
        """
        try:
            return self._redacted(batch)
        except LookupError:
            raise VtraceError(
                "redact: the recording changed while it was read; wait until it is complete"
            ) from None

    def _redacted(self, batch: EventBatch) -> EventBatch:
        meta = self._metadata(batch.meta)
        snaps = batch.snaps
        made = np.zeros(len(snaps.data), np.uint8)
        buffers = np.flatnonzero(np.isin(batch["kind"][snaps.rows], BUFFERS))
        if len(buffers):
            keep = kept_bytes(batch, buffers, self._queues)
            made[keep] = snaps.data[keep]
            for at, length in search.same(snaps.data, made, self.needles):
                self._blank(made, at, length, keep)
        for part, no_mac, index in self._frames(batch):
            spans = walk(part, no_mac)
            new, loose = frames.rewrite(part, spans, self.names.tables)
            for at, length in search.same(part.data, new, self.needles):
                self._blank(new, at, length, loose)
            self.checksums += frames.checksums(part, spans, new)
            self.packets += len(part)
            made[index] = new
        self.payload_bytes += int(np.count_nonzero((made == 0) & (snaps.data != 0)))
        header = snaps.header
        return EventBatch(
            columns=batch.columns,
            snaps=Snaps(rows=snaps.rows, header=header, offsets=snaps.offsets, data=made),
            meta=meta,
            number=batch.number,
        )

    def _frames(
        self, batch: EventBatch
    ) -> Iterator[tuple[Snaps, NDArray[np.bool_], NDArray[np.int64]]]:
        # Frames, a few MiB at a time: whether they lack a link header, and where their bytes are.
        snaps = batch.snaps
        if not len(snaps):
            return
        kinds = batch["kind"][snaps.rows]
        mine = np.flatnonzero(np.isin(kinds, list(FRAMES)))
        part = np.cumsum(np.diff(snaps.offsets)[mine]) // CHUNK_BYTES
        flags = batch["flags"][snaps.rows]
        for rows in np.split(mine, np.flatnonzero(np.diff(part)) + 1):
            if len(rows):
                sizes = np.diff(snaps.offsets)[rows]
                begins = np.cumsum(sizes) - sizes
                starts = snaps.offsets[:-1][rows]
                index = np.arange(int(sizes.sum())) + np.repeat(starts - begins, sizes)
                no_mac = flags[rows] & np.uint16(Flag.NO_MAC) != 0
                yield snaps.take(rows, snaps.rows[rows]), no_mac, index
        if np.isin(kinds, BUFFERS).any():
            found, index = net_frames(batch, self._queues)
            if len(found):
                yield found, np.zeros(len(found), np.bool_), index

    def _blank(
        self,
        data: NDArray[np.uint8],
        at: NDArray[np.int64],
        length: int,
        loose: NDArray[np.bool_],
    ) -> None:
        # What reads as a secret, where anything may stand.
        index = at[:, np.newaxis] + np.arange(length)
        self.coincidences += int(loose[index].any(axis=1).sum())
        index = index[loose[index]]
        data[index] = 0

    def _metadata(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        queues = meta.get("queues")
        if isinstance(queues, dict):
            self._queues = queues
        found = {}
        for name, section in meta.items():
            rule = SECTIONS.get(name)
            made = GONE if rule is None else rule(section, self.names, name)
            if made is GONE:
                shown = name if rule else f"{name} (a section that this version does not know)"
                self.names.drop(shown)
            else:
                found[name] = made
        return found
