"""EventBatch: the one thing that travels between sources, files and the tracker.

A batch is columns, not objects: one numpy array per wire field, all of one length, in the order
(time, cpu, seq). Captured packet bytes stand beside them for the rows that have some. Everything
that is not an event (queue table, configuration, clock anchors, probe states, counters) travels as
``meta``: a dict of JSON-able sections, each complete in itself, present only in batches where it is
new or has changed; but of ``counters`` and ``rings`` those objects alone that have changed.
``Metadata`` puts the sections together again.

Sections of ``meta`` (all keys strings, as JSON has it):

=============  ==================================================================================
host           {kernel, machine, cpus, hostname, version (of vtrace), mode}
clock          [{monotonic_ns, realtime_ns, tsc?}] anchors, first and newest
queues         {id: vtrace.model.Queue as dict}
threads        {tid: {comm, role: "vcpu"|"vhost"|"iothread"|"qemu", vm, pid, vcpu?}}
comms          {tid: comm} of threads that scheduling records name
places         {id: symbol} what ``address`` of a DROP stands for
reasons        {number: name} skb_drop_reason of this kernel
probes         {name: {state: "attached"|"unavailable"|"failed", reason}}
calls          {probe: {entry, return}} cumulative; a difference is a missed return
counts         {kind name: {produced, received, lost}} cumulative, records
loss           {late, missed, pending, dropped_batches, dropped_records, exits?, interrupts?: those
               that no sum has} cumulative
exits          [{vm, pid, tid, vcpu, isa, reason, count, total_ns, user_count?, user_ns?, write?,
               io?: "pio"|"mmio", address?: port or page; null: not kept}] cumulative
interrupts     [{vm, pid, count, gsi | msi_address and msi_data | none of them: not kept}]
               cumulative
vms            [inventory of VMs as ``vtrace list --json`` prints it; regions?: [{io: "pio"|"mmio",
               base, size, name, device}], lines?: {gsi: device} as QMP says]
capture        {filter, display, snaplen, vm, options}
counters       {object: {lo_ns, hi_ns, counter: number, ...}, missing?: [sentences]} what the kernel
               and the guests count anyway: all objects at the start and at the end of a recording,
               in between those that changed. docs/trace-file.md lists them
imported       {format, tool, events: {name: {count, as: what it became or null, unused?}},
               strange_lines?} of another tool's recording (docs/import.md)
timebase       {clock, resolution_ns, known_by} which clock ``time`` is of; without this section it
               is CLOCK_MONOTONIC. clock none: times tell an order and nothing else
unrecorded     {kind name: [columns]} that the events did not say, and that are 0 for it
rings          {queue id: {lo_ns, hi_ns, avail, used, used_event, avail_event, avail_flags,
               used_flags}} indices and flags of a split ring as they stood in guest memory between
               the two times; the times alone: could not be read. All rings at the end; in between
               those that changed, or whose used_event is not the device's place
config         what of the host's configuration concerns packets of guests, as
               vtrace/inventory/network.py has it
qmp            {VM: {look?: what QEMU's monitor said last, missing?: why it says no more}}; with
               ``record --qmp``. docs/trace-file.md lists it
gap            {first_ns, last_ns} events between these times were not kept: a flight recorder's
merged         {sources: [{name, clock, offset_ns, uncertainty_ns, method, ...}], dropped} what a
               merged file was made of. docs/trace-file.md lists it
end            {reason, ended_ns} only in the last batch of a recording that ended in order
=============  ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from parsers import wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Damage", "EventBatch", "Metadata", "Snaps", "joined"]

Array = NDArray[Any]

MOST_COUNTED: Final = 1 << 16
"""Objects that ``counters`` may have in all: a reader keeps the newest of each."""
_BY_OBJECT: Final = ("counters", "rings")
MOST_SENTENCES: Final = 256
"""... and sentences on what of them is missing, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A part of an input that could not be read."""

    where: str
    """File and place, for a person: ``run7.vtrace: batch 12 at byte 81920``."""
    reason: str
    batches: int = 0
    """Batches that are missing for it, if known."""
    offset: int | None = None
    """Byte offset in the input, if known."""


@dataclass(slots=True, kw_only=True)
class Snaps:
    """Captured bytes of the rows of a batch that have some.

    Row ``rows[i]`` of the batch has ``header[i]`` (dtype ``wire.SNAP``) and the bytes
    ``data[offsets[i]:offsets[i + 1]]``.
    """

    rows: Array
    header: Array
    offsets: Array
    data: Array

    @classmethod
    def empty(cls) -> Snaps:
        """Return snaps of a batch that has none."""
        return cls(
            rows=np.empty(0, np.uint32),
            header=np.empty(0, wire.SNAP),
            offsets=np.zeros(1, np.int64),
            data=np.empty(0, np.uint8),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def index_of(self, rows: Array, batch_rows: int) -> Array:
        """Return for rows of a batch of ``batch_rows`` the index of their snap, -1 for none."""
        which = np.full(batch_rows, -1, np.int64)
        which[self.rows] = np.arange(len(self))
        return which[rows]

    def bytes_of(self, index: int) -> bytes:
        """Return the captured bytes of the ``index``-th snap."""
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.data[start:end].tobytes()

    def take(self, chosen: Array, new_rows: Array) -> Snaps:
        """Return the snaps at indices ``chosen``, for rows ``new_rows``."""
        starts = self.offsets[:-1][chosen]
        sizes = self.offsets[1:][chosen] - starts
        offsets = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        # One gather for all bytes: position in the output minus the chunk's start, plus its source.
        index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        return Snaps(
            rows=new_rows.astype(np.uint32),
            header=self.header[chosen],
            offsets=offsets,
            data=self.data[index],
        )


@dataclass(slots=True, kw_only=True)
class EventBatch:
    """A run of events in order, with the metadata that changed at it."""

    columns: dict[str, Array]
    snaps: Snaps = field(default_factory=Snaps.empty)
    meta: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    """Sequence number of the batch in its source."""

    @classmethod
    def empty(cls, meta: dict[str, Any] | None = None) -> EventBatch:
        """Return a batch without rows: metadata alone."""
        columns = {name: np.empty(0, kind) for name, (kind, _) in wire.COLUMNS.items()}
        return cls(columns=columns, meta=meta or {})

    @classmethod
    def from_records(cls, records: Array, snaps: Snaps | None = None) -> EventBatch:
        """Return a batch of ``wire.RECORD`` rows; each column is copied once."""
        columns = {name: np.ascontiguousarray(records[name]) for name in wire.COLUMNS}
        return cls(columns=columns, snaps=snaps or Snaps.empty())

    def __len__(self) -> int:
        return len(self.columns["time"])

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    @property
    def time_range(self) -> tuple[int, int] | None:
        """First and last time in ns; None without rows."""
        times = self.columns["time"]
        return (int(times[0]), int(times[-1])) if len(times) else None

    def take(self, mask: Array) -> EventBatch:
        """Return the rows where ``mask`` (bool) is true, with their snaps; same metadata."""
        columns = {name: column[mask] for name, column in self.columns.items()}
        snaps = self.snaps
        if len(snaps):
            kept = np.flatnonzero(mask[snaps.rows])
            new_rows = np.cumsum(mask)[snaps.rows[kept]] - 1
            snaps = snaps.take(kept, new_rows)
        return EventBatch(columns=columns, snaps=snaps, meta=self.meta, number=self.number)


class Metadata:
    """The sections of all batches so far, put together: the newest of each."""

    def __init__(self) -> None:
        self.sections: dict[str, Any] = {}

    def update(self, meta: Mapping[str, Any]) -> None:
        """Take in the sections of one batch.

        ``clock`` keeps its first anchor too, ``counters`` and ``rings`` what is not repeated.
        """
        for name, section in meta.items():
            if name == "clock" and self.sections.get("clock"):
                first = self.sections["clock"][0]
                self.sections["clock"] = [first, *[a for a in section if a != first]]
            elif name in _BY_OBJECT:
                self.sections[name] = counted(self.sections.get(name), section)
            else:
                self.sections[name] = section

    def section(self, name: str) -> Any:
        """Return a section, or an empty dict where it has not been seen."""
        return self.sections.get(name, {})

    def __iter__(self) -> Iterator[str]:
        return iter(self.sections)


def joined(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of two batches as that of one in their place."""
    both = {**older, **newer}
    for name in _BY_OBJECT:
        if name in older and name in newer:
            both[name] = counted(older[name], newer[name])
    return both


def counted(older: Any, newer: Any) -> Any:
    # The newest of each object. Neither is changed: batches that are held have them too.
    if not isinstance(older, dict) or not isinstance(newer, dict):
        return newer if isinstance(newer, dict) else older or {}
    both = older | newer
    if len(both) > MOST_COUNTED:
        # Of a damaged or hostile file: what is known goes on, nothing is added.
        both = older | {name: value for name, value in newer.items() if name in older}
    known, new = older.get("missing"), newer.get("missing")
    if isinstance(known, list) and isinstance(new, list):
        both["missing"] = (known + [one for one in new if one not in known])[:MOST_SENTENCES]
    return both
