"""Packets as their dissectors take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtrace.flows import Known
from vtrace.packets import Frame

if TYPE_CHECKING:
    from vtrace.session.join import Packets

__all__ = ["frame_of"]


def frame_of(packets: Packets, at: int) -> Frame:
    """Return a packet as its dissectors take it."""
    row = packets.rows[at]
    header = None if packets.snaps is None else packets.snaps.header[at]
    beside = header is not None and header["vlan_tci"] != 0
    known = int(row["flow"]["known"]) & Known.VLAN
    return Frame(
        data=packets.bytes_of(at),
        length=int(row["length"]),
        no_mac=bool(row["no_mac"]),
        hdr_flags=int(row["hdr_flags"]),
        gso_type=int(row["gso_type"]),
        gso_size=int(row["gso_size"]),
        vlan=int(row["flow"]["vlan"]) if beside and known else None,
    )
