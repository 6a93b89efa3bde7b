"""Codes of findings and hops of the ledger: the words that never change.

``docs/findings/CODE.md`` has a page for each code; ``tests/test_docs.py`` holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CODES", "HOPS", "Code", "page_of"]


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for."""

    title: str
    """A few words, as a heading."""
    direction: str = "none"
    """rx: towards the guest, tx: from the guest, none: either or neither."""


CODES: Final[dict[str, Code]] = {
    # Towards the guest.
    "R1": Code("the host's NIC or backlog dropped", "rx"),
    "R2": Code("a firewall, tc or XDP rule dropped towards the guest", "rx"),
    "R3": Code("the bridge did not forward towards the guest", "rx"),
    "R4": Code("the tap's qdisc dropped", "rx"),
    "R5a": Code("a burst was larger than the tap ring", "rx"),
    "R5b": Code("the vhost worker did not get a CPU", "rx"),
    "R5c": Code("the guest gave no receive buffers", "rx"),
    "R5d": Code("the guest's vCPUs did not run", "rx"),
    "R5e": Code("no backend was attached to the tap queue", "rx"),
    "R5f": Code("a filter on the tap dropped", "rx"),
    "R6": Code("vhost could not copy a packet to the guest", "rx"),
    "R7": Code("the guest's driver dropped", "rx"),
    "R8": Code("the guest's socket buffer was full", "rx"),
    "R9": Code("nobody listens in the guest", "rx"),
    "R10": Code("QEMU read the tap too slowly (vhost is off)", "rx"),
    "R11": Code("vhost's receive livelock", "rx"),
    "R12": Code("the guest's address was not resolved", "rx"),
    # From the guest.
    "T1": Code("the transmit ring stayed full", "tx"),
    "T2": Code("a kick was lost", "tx"),
    "T3": Code("the vhost worker did not get a CPU to transmit", "tx"),
    "T4": Code("the tap's send buffer held transmission up", "tx"),
    "T5": Code("vhost met a broken descriptor", "tx"),
    "T6": Code("the tap rejected frames of the guest", "tx"),
    "T7": Code("a whole batch to the tap failed", "tx"),
    "T8": Code("the tap is down", "tx"),
    "T9": Code("the host dropped what the guest sent: firewall, bridge, routing", "tx"),
    "T10": Code("a qdisc on the way out dropped", "tx"),
    "T11": Code("the receiving socket on the host was full", "tx"),
    "T12": Code("QEMU lost what the guest sent (vhost is off)", "tx"),
    "T13": Code("nobody listens on the host", "tx"),
    # Neither, or either.
    "S1": Code("an interrupt was lost or not served"),
    "S2": Code("a receive ring is full with interrupts off"),
    "S3": Code("a storm of spurious interrupts"),
    "D1": Code("the kernel dropped for a reason that vtrace does not know to place"),
    # Configuration review: the code is the setting that it is about.
    "C-vhost": Code("vhost is off"),
    "C-vnet-hdr": Code("the tap has no vnet_hdr"),
    "C-offload": Code("offloads do not fit together"),
    "C-mtu": Code("MTUs do not fit together"),
    "C-txqueuelen": Code("the tap ring is short"),
    "C-rx-queue-size": Code("the receive ring is short"),
    "C-tx-queue-size": Code("tx_queue_size is clamped"),
    "C-queues": Code("queues do not fit the vCPUs"),
    "C-affinity": Code("worker and vCPUs share CPUs"),
    "C-cgroup": Code("a cgroup limits CPU time"),
    "C-sndbuf": Code("sndbuf is limited"),
    "C-qdisc": Code("a qdisc that drops or shapes"),
    "C-kernel": Code("a kernel with a known bug in a feature that is used"),
    "C-socket": Code("small socket buffers on the host"),
    "C-bridge": Code("a bridge port does not forward"),
}
"""Every code -> what it stands for. A code is never given another meaning."""


HOPS: Final[dict[str, str]] = {
    "wire": "the host's NICs and their backlog",
    "firewall": "nft, tc ingress, XDP: rules of the host",
    "neighbour": "resolution of the guest's address",
    "bridge": "the bridge that the tap is a port of",
    "qdisc": "the queueing discipline of the tap, or of the interface out",
    "tap": "the tap: its ring towards the guest, its checks from the guest",
    "vhost": "the vhost worker, between tap and guest ring",
    "guest ring": "chains that the device returned and the driver has not taken yet",
    "guest": "driver, stack and sockets in the guest",
    "host": "the host's stack behind the tap: routing, bridging, rules",
    "socket": "sockets of the host",
}
"""Every hop of the ledger -> what it is."""


def page_of(code: str) -> str:
    """Return the documentation page of a code, relative to ``docs/``."""
    return f"findings/{code}.md"
