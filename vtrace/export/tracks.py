"""The tracks of a timeline and the names in it, told when they are first used.

::

    VM (process)
      vCPU, worker (threads)
      device
        queue: drops, interrupts, counters
          chains (lanes)

Names are cleaned: a GUI shows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vtrace.export.events import SEQUENCE
from vtrace.export.shapes import schema
from vtrace.text import clean

if TYPE_CHECKING:
    from vtrace.export.output import OutputFile
    from vtrace.tables import Names

__all__ = ["MOST_TRACKS", "Tracks"]

MOST_TRACKS: Final = 1 << 16
"""Tracks in all; beyond that what would need one more goes to the track of its VM."""
MOST_NAMES: Final = 1 << 16
NAME_CELLS: Final = 200


class Tracks:
    """Writes descriptions of tracks and interned names, each before its first use."""

    def __init__(self, file: OutputFile, names: Names) -> None:
        from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

        self._pb = schema()
        self._builder = StreamingTraceProtoBuilder(file)
        self._names = names
        self._tracks: dict[tuple[Any, ...], int] = {}
        self._interned: dict[tuple[str, str], int] = {}
        self._pids: dict[str, int] = {}

    def packet(self) -> Any:
        """Return a new packet of the sequence, to fill in and give to ``write``."""
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        return packet

    def write(self, packet: Any) -> None:
        """Write a packet."""
        self._builder.write_packet(packet)

    @property
    def full(self) -> bool:
        """There is no room for more tracks."""
        return len(self._tracks) >= MOST_TRACKS

    def name(self, text: str, kind: str = "event_names") -> int:
        """Return the number of an interned text; ``kind`` is a field of ``InternedData``."""
        text = clean(text, NAME_CELLS)
        known = self._interned.get((kind, text))
        if known is not None:
            return known
        if len(self._interned) >= MOST_NAMES and text != "…":
            return self.name("…", kind)
        number = self._interned[kind, text] = len(self._interned) + 1
        packet = self.packet()
        packet.sequence_flags = self._pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        entry = getattr(packet.interned_data, kind).add()
        entry.iid = number
        if kind == "debug_annotation_string_values":
            entry.str = text.encode()
        else:
            entry.name = text
        self.write(packet)
        return number

    def host(self) -> int:
        """Return the track of what belongs to no VM."""
        return self._track(("host",), "host", 0)

    def vm(self, name: str) -> int:
        """Return the track of a VM, a process; of no name, that of the host."""
        if not name:
            return self.host()
        key = ("vm", name)
        if key in self._tracks or self.full:
            return self._tracks.get(key) or self.host()
        packet, uuid = self._new(key)
        pid = self._pid(name)
        if pid:
            packet.track_descriptor.process.pid = pid
            packet.track_descriptor.process.process_name = clean(name, NAME_CELLS)
        else:
            packet.track_descriptor.name = clean(name, NAME_CELLS)
        self.write(packet)
        return uuid

    def thread(self, tid: int, vm: str = "") -> int:
        """Return the track of a thread; ``vm``: whose it is, if the recording does not say."""
        row = self._names.thread(tid)
        vm = str(row.get("vm") or vm)
        key = ("thread", vm, tid)
        if key in self._tracks:
            return self._tracks[key]
        parent, pid = self.vm(vm), self._pid(vm)
        if self.full:
            return parent
        vcpu = row.get("vcpu")
        parts = [f"vCPU {vcpu}" if vcpu is not None else "", str(row.get("comm") or "")]
        name = clean(" ".join(part for part in parts if part) or f"thread {tid}", NAME_CELLS)
        packet, uuid = self._new(key, parent)
        if pid and tid < 1 << 31:
            thread = packet.track_descriptor.thread
            # A worker of vhost is a task of the kernel's: it stands with the VM that it works for.
            thread.pid, thread.tid, thread.thread_name = pid, tid, name
        else:
            packet.track_descriptor.name = name
        self.write(packet)
        return uuid

    def queue(self, number: int) -> int:
        """Return the track of a queue, below its device."""
        row = self._names.queue(number)
        vm, device = str(row.get("vm") or ""), str(row.get("device") or "")
        parent = self.vm(vm)
        if device:
            parent = self._track(("device", vm, device), device, parent)
        if not row.get("name"):
            return parent
        return self._track(("queue", number, vm, device), str(row["name"]), parent)

    def lane(self, parent: int, name: str, lane: int) -> int:
        """Return a lane below a track; 0 if there is no room for more."""
        key = ("lane", parent, name, lane)
        if key not in self._tracks and self.full:
            return 0
        return self._track(key, name, parent)

    def counter(self, parent: int, name: str) -> int:
        """Return a counter below a track."""
        key = ("counter", parent, name)
        if key in self._tracks:
            return self._tracks[key]
        packet, uuid = self._new(key, parent)
        packet.track_descriptor.name = name
        packet.track_descriptor.counter.unit = self._pb.CounterDescriptor.UNIT_COUNT
        self.write(packet)
        return uuid

    def _track(self, key: tuple[Any, ...], name: str, parent: int) -> int:
        if key in self._tracks:
            return self._tracks[key]
        if self.full and parent:
            return parent
        packet, uuid = self._new(key, parent)
        packet.track_descriptor.name = clean(name, NAME_CELLS)
        self.write(packet)
        return uuid

    def _new(self, key: tuple[Any, ...], parent: int = 0) -> tuple[Any, int]:
        uuid = self._tracks[key] = len(self._tracks) + 1
        packet = self.packet()
        packet.track_descriptor.uuid = uuid
        if parent:
            packet.track_descriptor.parent_uuid = parent
        return packet, uuid

    def _pid(self, vm: str) -> int:
        # The first that is known stays: a process of a trace has one.
        if vm not in self._pids:
            queues = self._names.metadata.section("queues")
            threads = self._names.metadata.section("threads")
            for row in (*queues.values(), *threads.values()):
                pid = row.get("pid")
                if type(pid) is int and 0 < pid < 1 << 31:
                    self._pids.setdefault(str(row.get("vm") or ""), pid)
            self._pids.setdefault(vm, 0)
        return self._pids[vm]
