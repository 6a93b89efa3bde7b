"""The comment of a packet in a capture: how it ended, its chain, the stages, offloads.

::

    delivered; chain 12 head 3; notify 86520 ns, service 94242 ns; checksum offloaded
    dropped: FULL_RING in tun_net_xmit; 990 ahead

What was not seen is not in it. Names are cleaned: Wireshark shows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from vtrace.export.ragged import Ragged
from vtrace.model import STAGES
from vtrace.text import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vtrace.session import Packets
    from vtrace.tables import Table, Values

__all__ = ["comments_of"]

TEXT_CELLS: Final = 120

_GSO: Final = {1: "TCPv4", 3: "UDP", 4: "TCPv6", 5: "UDP_L4"}
"""VIRTIO_NET_HDR_GSO_*, without the bit for ECN."""


def comments_of(table: Table, packets: Packets, staged: NDArray[Any]) -> Ragged:
    """Return the comment of each packet; the arguments stand side by side."""
    said = Ragged(len(table))
    _add_end(said, table)
    chain = table["position"]
    has = chain.present()
    said.constant(b"; chain ", has)
    said.decimal(chain.data, has)
    said.constant(b" head ", has)
    said.decimal(table["head"].data, has)
    generation = table["generation"]
    later = has & (generation.data != 0)
    said.constant(b" generation ", later)
    said.decimal(generation.data, later)
    first = np.ones(len(table), np.bool_)
    for at, name in enumerate(STAGES):
        valid = staged["valid"][:, at]
        said.constant(b"; ", valid & first)
        said.constant(b", ", valid & ~first)
        said.constant(f"{name} ".encode(), valid)
        said.decimal(staged["stages"][:, at], valid)
        said.constant(b" ns", valid)
        first &= ~valid
    for name, text in (("ahead", b" ahead"), ("batch_index", b" before it in its batch")):
        values = table[name]
        shown = values.present() & (values.data != 0)
        said.constant(b"; ", shown)
        said.decimal(values.data, shown)
        said.constant(text, shown)
    _add_offloads(said, table, packets)
    return said


def _add_end(said: Ragged, table: Table) -> None:
    _add_text(said, table["verdict"], "", None)
    verdict = table["verdict"]
    dropped = verdict.data == (verdict.pool or ()).index("dropped")
    reason, location = table["reason"], table["location"]
    said.constant(b": no reason seen", dropped & ~reason.present())
    _add_text(said, reason, ": ", dropped)
    _add_text(said, location, " in ", dropped)


def _add_text(said: Ragged, values: Values, before: str, where: Any) -> None:
    shown = values.present() if where is None else values.present() & where
    if not shown.any():
        return
    # Of the pool what is in these rows: it may be that of the whole recording.
    codes, inverse = np.unique(np.where(shown, values.data, 0), return_inverse=True)
    pool = [
        clean((values.pool or ("",))[code], TEXT_CELLS).encode(errors="backslashreplace")
        for code in codes.tolist()
    ]
    said.constant(before.encode(), shown)
    said.text(inverse, pool, shown)


def _add_offloads(said: Ragged, table: Table, packets: Packets) -> None:
    _add_text(said, table["checksum"], "; checksum ", None)
    kind, size = table["gso_type"], table["gso_bytes"]
    segmented = kind.present() & (kind.data != 0)
    names = [_GSO.get(number & 0x7F, f"type {number}") for number in range(256)]
    said.constant(b"; gso ", segmented)
    said.text(kind.data, [name.encode() for name in names], segmented)
    said.constant(b" ", segmented & size.present())
    said.decimal(size.data, segmented & size.present())
    if packets.snaps is None:
        return
    beside = packets.snaps.header["vlan_tci"]
    said.constant(b"; vlan ", beside != 0)
    said.decimal(beside & 0xFFF, beside != 0)
    said.constant(b" beside the frame", beside != 0)
