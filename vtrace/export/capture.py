"""Packets as a pcapng file: what of a packet goes where.

One interface for each queue (and so direction); a packet whose captured bytes begin at the network
header has a second one of that queue, with the link type for it. Packets that were dropped are in
the file, marked by their verdict and their comment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace import __version__
from vtrace.export import pcapng
from vtrace.export.comments import comments_of
from vtrace.export.waiting import InOrder, StagesOfPackets
from vtrace.model import Direction
from vtrace.session.clock import LATEST_NS
from vtrace.tables import Table, Verdict, packets_table
from vtrace.tables.human import count_text
from vtrace.text import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.export.output import OutputFile
    from vtrace.session import Packets, Session

__all__ = ["Written", "write_capture"]

BLOCK_BYTES: Final = 1 << 22
"""About the memory that packets are put together in."""
ROW_BYTES: Final = 512
"""... of which one without its frame takes this."""

NAME_CELLS: Final = 100

TC_ACT_OK, TC_ACT_SHOT = 0, 2


@dataclass(slots=True)
class Written:
    """What a capture holds."""

    packets: int = 0
    dropped: int = 0
    interfaces: int = 0
    out_of_order: int = 0

    def __str__(self) -> str:
        text = (
            f"{count_text(self.packets)} packets, {count_text(self.dropped)} dropped, "
            f"{count_text(self.interfaces)} interface{'' if self.interfaces == 1 else 's'}"
        )
        if self.out_of_order:
            text += f"; {count_text(self.out_of_order)} stand behind a later one"
        return text


@dataclass(slots=True)
class _Interface:
    number: int
    received: int = 0
    dropped: int = 0
    since: int = 0
    """Packets dropped since the last one that was not."""
    first: int = LATEST_NS
    last: int = 0


def write_capture(session: Session, file: OutputFile, choose: Callable[[Table], Table]) -> Written:
    """Write the packets of a session that keeps their bytes, and return what they are.

    ``choose`` takes the rows of the table of packets that are wanted.
    """
    made = _Capture(session, file)
    stages, waiting = StagesOfPackets(), InOrder()
    for chunk in session.chunks():
        stages.feed(chunk.all_lifecycles)
        packets = chunk.packet_rows
        staged = stages.take(packets.rows)
        table = chunk.packets.with_column("row", np.arange(len(packets)))
        kept = choose(table)["row"].data
        waiting.add(packets.take(kept), staged[kept])
        ready = waiting.take(_settled(session))
        if ready is not None:
            made.write(*ready)
    ready = waiting.take(None)
    if ready is not None:
        made.write(*ready)
    made.finish()
    made.written.out_of_order = waiting.out_of_order
    return made.written


def _settled(session: Session) -> int:
    # No packet that is still to come was seen before this.
    opened = session.join.open.rows["time"] if session.join is not None else np.zeros(0, np.uint64)
    now = session.end_ns or 0
    return min(int(opened.min()), now) if len(opened) else now


class _Capture:
    def __init__(self, session: Session, file: OutputFile) -> None:
        self.written = Written()
        self._session = session
        self._file = file
        self._interfaces: dict[tuple[int, bool, str], _Interface] = {}
        self._offset: int | None = None

    def write(self, packets: Packets, staged: NDArray[Any]) -> None:
        """Write packets in their order, some at a time."""
        largest = int(packets.rows["captured"].max(initial=0))
        size = max(BLOCK_BYTES // (largest + ROW_BYTES), 1)
        for at in range(0, len(packets), size):
            rows = np.arange(at, min(at + size, len(packets)))
            self._write(packets.take(rows), staged[rows])

    def finish(self) -> None:
        """Write what each interface counted."""
        self._begin()
        loss = self._session.loss()
        said = f"vtrace lost {loss.lost} of {loss.produced} records"
        if loss.missed or loss.pending:
            said += f", missed {loss.missed}, pending {loss.pending}"
        for one in self._interfaces.values():
            span = (min(one.first, one.last), one.last)
            self._file.write(
                pcapng.statistics_block(one.number, span, one.received, one.dropped, said)
            )
        self.written.interfaces = len(self._interfaces)

    def _begin(self) -> int:
        # The clock is known from the first batch; what is not known then stays unknown.
        if self._offset is not None:
            return self._offset
        session = self._session
        offset = session.clock.realtime_ns(0)
        last = session.end_ns or 0
        said = f"from {clean(str(getattr(session.source, 'name', 'live')))}"
        if offset is None or not 0 <= offset + (session.start_ns or 0) <= LATEST_NS - last:
            offset = 0
            said += "; it does not say when it was made: times count from the start of the machine"
        if session.metadata.section("timebase").get("clock") == "none":
            said += "; what it was made of has no times: the order of packets is all they say"
        host = session.metadata.section("host")
        system = f"Linux {host.get('kernel', '')} {host.get('machine', '')}".strip()
        self._file.write(
            pcapng.section_block(
                system=clean(system), application=f"vtrace {__version__}", comment=said
            )
        )
        self._offset = offset
        return offset

    def _write(self, packets: Packets, staged: NDArray[Any]) -> None:
        offset = self._begin()
        session, rows = self._session, packets.rows
        table = packets_table(rows, session.names)
        time = rows["time"] + np.uint64(offset % (1 << 64))
        interface, dropped = self._count(rows, time, table)
        captured = np.diff(packets.snaps.offsets) if packets.snaps is not None else rows["captured"]
        verdicts = rows["verdict"]
        ended = np.isin(verdicts, (Verdict.DELIVERED, Verdict.SENT, Verdict.DROPPED))
        gone = verdicts == Verdict.DROPPED
        self._file.write(
            pcapng.packet_blocks(
                interface=interface,
                time=time,
                length=np.maximum(rows["length"], captured),
                data=packets.snaps.data if packets.snaps is not None else np.zeros(0, np.uint8),
                offsets=packets.snaps.offsets if packets.snaps is not None else captured,
                flags=_flags(rows, table, session),
                queue=rows["queue"],
                packet=(rows["packet"], rows["packet"] != 0),
                verdict=(np.where(gone, TC_ACT_SHOT, TC_ACT_OK), ended),
                dropped=(dropped, ~gone),
                comment=comments_of(table, packets, staged),
            )
        )
        self.written.packets += len(rows)
        self.written.dropped += int(gone.sum())

    def _count(
        self, rows: NDArray[Any], time: NDArray[Any], table: Table
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        # The interface of each packet, and how many were dropped there before it.
        both = rows["queue"].astype(np.int64) << 1 | rows["no_mac"]
        numbers, since = np.zeros(len(rows), np.uint32), np.zeros(len(rows), np.uint64)
        for key in np.unique(both).tolist():
            at = np.flatnonzero(both == key)
            one = self._interface(key >> 1, no_mac=bool(key & 1))
            gone = rows["verdict"][at] == Verdict.DROPPED
            counted = one.since + np.cumsum(gone)
            through = np.flatnonzero(~gone)
            before = np.concatenate([[0], counted[through[:-1]]]) if len(through) else 0
            since[at[through]] = counted[through] - before
            one.since = int(counted[-1] - (counted[through[-1]] if len(through) else 0))
            one.received += len(at)
            one.dropped += int(gone.sum())
            one.first = min(one.first, int(time[at].min()))
            one.last = max(one.last, int(time[at].max()))
            numbers[at] = one.number
        return numbers, since

    def _interface(self, queue: int, *, no_mac: bool) -> _Interface:
        row = self._session.names.queue(queue)
        parts = [row.get(name) or "" for name in ("vm", "device", "name")]
        name = clean(" ".join(part for part in parts if part) or f"queue {queue}", NAME_CELLS)
        known = self._interfaces.get((queue, no_mac, name))
        if known is None:
            about = [f"queue_id {queue}"]
            about += [row.get(key) or "" for key in ("direction", "backend", "ring")]
            about += [f"tap {row['interface']}"] if row.get("interface") else []
            about += ["without Ethernet header"] if no_mac else []
            snaplen = self._session.metadata.section("capture").get("snaplen")
            good = type(snaplen) is int and 0 < snaplen <= 0xFFFF
            self._file.write(
                pcapng.interface_block(
                    name,
                    clean(", ".join(part for part in about if part), 4 * NAME_CELLS),
                    pcapng.RAW_IP if no_mac else pcapng.ETHERNET,
                    snaplen if good else 0,
                )
            )
            known = _Interface(len(self._interfaces))
            self._interfaces[queue, no_mac, name] = known
        return known


def _flags(rows: NDArray[Any], table: Table, session: Session) -> NDArray[np.uint32]:
    # Bits 0-1 direction, 2-4 reception, 9 checksum not ready, 10 checksum valid, 11 TSO.
    direction = table["direction"].data
    flags = np.zeros(len(rows), np.uint32)
    flags[direction == session.names.code(Direction.RX)] = 1
    flags[direction == session.names.code(Direction.TX)] = 2
    towards = table["eth_dst"]
    group = towards.data >> np.uint64(40) & np.uint64(1) != 0
    kind = np.where(towards.data == np.uint64(0xFFFF_FFFF_FFFF), 3, np.where(group, 2, 1))
    flags |= np.where(towards.present(), kind, 0).astype(np.uint32) << 2
    header = np.where(rows["has_snap"], rows["hdr_flags"], 0).astype(np.uint32)
    flags |= (header & 1) << 9 | (header >> 1 & 1) << 10
    segmented = rows["has_snap"] & np.isin(rows["gso_type"] & 0x7F, (1, 4))
    flags |= segmented.astype(np.uint32) << 11
    return flags
