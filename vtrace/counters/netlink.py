"""rtnetlink by hand: counters of interfaces and qdiscs in one dump each, and how links hang.

A sample is taken each second on a host at work. pyroute2 takes an interface apart in 0.27 ms, with
all that it is; its 64-bit counters alone (RTM_GETSTATS, since Linux v4.7) cost some microseconds.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Chunk", "LinkFacts", "Netlink", "Qdisc"]

# linux/netlink.h, linux/rtnetlink.h
NETLINK_ROUTE = 0
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_GETLINK, RTM_GETQDISC, RTM_GETSTATS = 18, 38, 94
NLA_TYPE_MASK = 0x3FFF

# linux/if_link.h
IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_EXT_MASK = 3, 5, 10, 18, 29
IFLA_LINK_NETNSID = 37
IFLA_INFO_KIND = 1
IFLA_STATS_LINK_64 = 1
RTEXT_FILTER_SKIP_STATS = 8

# linux/rtnetlink.h, linux/gen_stats.h
TCA_KIND, TCA_STATS2 = 1, 7
TCA_STATS_BASIC, TCA_STATS_QUEUE, TCA_STATS_PKT64 = 1, 3, 8
TC_H_ROOT = 0xFFFFFFFF

STATS64: Final = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost_dropped",
)
"""Fields of struct rtnl_link_stats64, in order; a kernel may have fewer, or more behind them."""

_HEADER: Final = struct.Struct("=IHHII")
_TIMEOUT_S: Final = 5.0
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a dump, and when the kernel put it together."""

    lo_ns: int
    hi_ns: int
    messages: list[memoryview]
    """Payloads, without the netlink header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFacts:
    """What an interface is and hangs on."""

    name: str
    ifindex: int
    kind: str
    """Kind of the link: tun, bridge, vlan, ...; empty: a device."""
    ethernet: bool
    master: int
    """Index of its bridge or bond; 0: none."""
    lower: int
    """Index of the interface it rides on, in the same namespace; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Qdisc:
    """Counters of a queueing discipline."""

    ifindex: int
    kind: str
    handle: str
    parent: str
    counters: dict[str, int]


class Netlink:
    """A socket in the network namespace of the thread that makes it; it stays there."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)
        self._sequence = 0

    def close(self) -> None:
        """Leave the namespace."""
        self._socket.close()

    def stats(self) -> Iterator[tuple[int, int, int, dict[str, int]]]:
        """Yield lo, hi, index and counters of each interface.

        Raises:
            OSError: The kernel does not answer.
        """
        question = struct.pack("=BBHII", 0, 0, 0, 0, 1 << (IFLA_STATS_LINK_64 - 1))
        for chunk in self.dump(RTM_GETSTATS, question):
            for message in chunk.messages:
                (ifindex,) = struct.unpack_from("=I", message, 4)
                for kind, value in attributes(message[12:]):
                    if kind == IFLA_STATS_LINK_64:
                        numbers = struct.unpack(f"={len(value) // 8}Q", value[: len(value) & ~7])
                        counters = dict(zip(STATS64, numbers, strict=False))
                        yield chunk.lo_ns, chunk.hi_ns, ifindex, counters

    def qdiscs(self) -> Iterator[tuple[int, int, Qdisc]]:
        """Yield lo, hi and counters of each qdisc.

        Raises:
            OSError: The kernel does not answer.
        """
        for chunk in self.dump(RTM_GETQDISC, struct.pack("=BBHiIII", 0, 0, 0, 0, 0, 0, 0)):
            for message in chunk.messages:
                yield chunk.lo_ns, chunk.hi_ns, qdisc_of(message)

    def links(self) -> list[LinkFacts]:
        """Return all interfaces of the namespace.

        Raises:
            OSError: The kernel does not answer.
        """
        question = struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0)
        question += struct.pack("=HHI", 8, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        chunks = self.dump(RTM_GETLINK, question)
        return [link_of(message) for chunk in chunks for message in chunk.messages]

    def dump(self, kind: int, question: bytes) -> list[Chunk]:
        """Return the answer to a dump request; taken anew where things changed meanwhile.

        Raises:
            OSError: The kernel refuses, or does not answer.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._ask(kind, question, NLM_F_REQUEST | NLM_F_DUMP)
            except InterruptedError:
                continue
        return self._ask(kind, question, NLM_F_REQUEST | NLM_F_DUMP, strict=False)

    def _ask(self, kind: int, question: bytes, flags: int, *, strict: bool = True) -> list[Chunk]:
        # The first part is put together by send, each other one by the recv before its own.
        self._sequence += 1
        length = _HEADER.size + len(question)
        chunks: list[Chunk] = []
        lo_ns = time.monotonic_ns()
        self._socket.send(_HEADER.pack(length, kind, flags, self._sequence, 0) + question)
        done = False
        while not done:
            next_lo_ns = time.monotonic_ns()
            data = memoryview(self._socket.recv(1 << 16))
            messages, done, changed = self._messages(data, dump=flags & NLM_F_DUMP == NLM_F_DUMP)
            chunks.append(Chunk(lo_ns, time.monotonic_ns(), messages))
            lo_ns = next_lo_ns
            if changed and strict:
                self._drain(done=done)
                raise InterruptedError(errno.EINTR, "interfaces changed while they were read")
        return chunks

    def _drain(self, *, done: bool) -> None:
        while not done:
            _, done, _ = self._messages(memoryview(self._socket.recv(1 << 16)), dump=True)

    def _messages(self, data: memoryview, *, dump: bool) -> tuple[list[memoryview], bool, bool]:
        messages: list[memoryview] = []
        at, changed = 0, False
        while at + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size or at + length > len(data):
                break
            payload = data[at + _HEADER.size : at + length]
            at += length + 3 & ~3
            if sequence != self._sequence:
                continue
            changed |= bool(flags & NLM_F_DUMP_INTR)
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", payload)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return messages, True, changed
            if kind == NLMSG_DONE:
                return messages, True, changed
            messages.append(payload)
        return messages, not dump and bool(messages), changed


def attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield type and value of each netlink attribute."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + length]
        at += length + 3 & ~3


def text_of(value: memoryview) -> str:
    return bytes(value).split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def link_of(message: memoryview) -> LinkFacts:
    _, _, hardware, ifindex, _, _ = struct.unpack_from("=BBHiII", message)
    found = dict(attributes(message[16:]))
    kind = ""
    if IFLA_LINKINFO in found:
        info = dict(attributes(found[IFLA_LINKINFO]))
        kind = text_of(info[IFLA_INFO_KIND]) if IFLA_INFO_KIND in info else ""

    def number(attribute: int) -> int:
        return int(struct.unpack("=I", found[attribute])[0]) if attribute in found else 0

    return LinkFacts(
        name=text_of(found[IFLA_IFNAME]) if IFLA_IFNAME in found else "",
        ifindex=ifindex,
        kind=kind,
        ethernet=hardware == 1,  # ARPHRD_ETHER
        master=number(IFLA_MASTER),
        lower=0 if IFLA_LINK_NETNSID in found else number(IFLA_LINK),
    )


def qdisc_of(message: memoryview) -> Qdisc:
    _, _, _, ifindex, handle, parent, _ = struct.unpack_from("=BBHiIII", message)
    found = dict(attributes(message[20:]))
    counters: dict[str, int] = {}
    for kind, value in attributes(found.get(TCA_STATS2, memoryview(b""))):
        if kind == TCA_STATS_BASIC:
            counters["bytes"], packets = struct.unpack_from("=QI", value)
            counters.setdefault("packets", packets)
        elif kind == TCA_STATS_PKT64:
            # There where the count no longer fits into 32 bits, and the kernel knows it (v5.5).
            (counters["packets"],) = struct.unpack_from("=Q", value)
        elif kind == TCA_STATS_QUEUE:
            names = ("qlen", "backlog_bytes", "drops", "requeues", "overlimits")
            counters |= zip(names, struct.unpack_from("=5I", value), strict=True)
    return Qdisc(
        ifindex=ifindex,
        kind=text_of(found[TCA_KIND]) if TCA_KIND in found else "",
        handle=handle_text(handle),
        parent="root" if parent == TC_H_ROOT else handle_text(parent),
        counters=counters,
    )


def handle_text(handle: int) -> str:
    """Return a handle as tc writes it: ``8001:``, ``1:10``, ``:1``."""
    major, minor = handle >> 16, handle & 0xFFFF
    return f"{major:x}:" + (f"{minor:x}" if minor else "") if major or not minor else f":{minor:x}"
