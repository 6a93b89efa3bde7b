"""Counters that the kernel shows as text: /proc/net, /proc/PID, cpu.stat of cgroups."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "UdpSocket",
    "numbers_of_lines",
    "parse_dev",
    "parse_snmp",
    "parse_snmp6",
    "parse_softnet",
    "parse_udp",
    "read_file",
]

LONGEST: Final = 4 << 20
_CHUNK: Final = 1 << 16
_PROTOCOLS: Final = {"Ip": "ip", "Icmp": "icmp", "Udp": "udp", "UdpLite": "udplite"}
_PROTOCOLS6: Final = {"Ip6": "ip6", "Icmp6": "icmp6", "Udp6": "udp6", "UdpLite6": "udplite6"}


def read_file(fd: int) -> bytes:
    """Return all of a file in /proc that stays open; each read of it makes it anew.

    Raises:
        OSError: What it is about is gone.
    """
    parts, at = [], 0
    while at < LONGEST:
        part = os.pread(fd, _CHUNK, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def parse_snmp(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield protocol and counters of /proc/net/snmp: a line of names, a line of values."""
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        head, *rest = names.split()
        protocol = _PROTOCOLS.get(head.rstrip(":"))
        words = values.split()
        if protocol and words and words[0] == head:
            yield protocol, dict(_pairs(rest, words[1:]))


def parse_snmp6(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield protocol and counters of /proc/net/snmp6: a name and a value a line."""
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ") if "\t" not in line else line.partition("\t")
        name, value = name.strip(), value.strip()
        for prefix, protocol in _PROTOCOLS6.items():
            # Counters of single ICMP types are many, and tell of no loss.
            if name.startswith(prefix) and value.isdigit() and "Type" not in name:
                found.setdefault(protocol, {})[name.removeprefix(prefix)] = int(value)
    yield from found.items()


def parse_softnet(text: str) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield CPU and counters of /proc/net/softnet_stat."""
    for number, line in enumerate(text.splitlines()):
        try:
            words = [int(word, 16) for word in line.split()]
        except ValueError:
            continue
        if len(words) < 3:
            continue
        # CPUs that are offline have no line; newer kernels (v5.10) say in it which CPU it is.
        cpu = words[12] if len(words) > 12 else number
        yield cpu, {"processed": words[0], "dropped": words[1], "time_squeeze": words[2]}


_DEV: Final = (
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_dropped",
    "rx_fifo_errors",
    "rx_frame_errors",
    "rx_compressed",
    "multicast",
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
    "tx_fifo_errors",
    "collisions",
    "tx_carrier_errors",
    "tx_compressed",
)


def parse_dev(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield name and counters of each interface in /proc/net/dev, which sums up some of them."""
    for line in text.splitlines():
        name, colon, values = line.rpartition(":")
        counters = dict(_pairs(_DEV, values.split()))
        if colon and counters:
            yield name.strip(), counters


@dataclass(frozen=True, slots=True)
class UdpSocket:
    """A line of /proc/net/udp or udp6."""

    inode: int
    local: str
    drops: int
    rx_queue_bytes: int


def parse_udp(text: str) -> Iterator[UdpSocket]:
    """Yield the sockets that /proc/net/udp or udp6 lists."""
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) < 13 or not words[9].isdigit() or not words[12].isdigit():
            continue
        try:
            queued = int(words[4].partition(":")[2], 16)
            yield UdpSocket(int(words[9]), address_text(words[1]), int(words[12]), queued)
        except ValueError:
            continue


def address_text(word: str) -> str:
    # 32-bit words as the CPU has them in a register.
    packed, _, port = word.partition(":")
    raw = bytes.fromhex(packed)
    if len(raw) not in (4, 16):
        raise ValueError("no address")
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    address = struct.pack(f"={len(words)}I", *words)
    if len(raw) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, address)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{int(port, 16)}"


def numbers_of_lines(text: str, names: frozenset[str]) -> dict[str, int]:
    """Return those of the lines ``name value`` that are asked for."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in names and value.strip().isdigit():
            found[name] = int(value)
    return found


def _pairs(names: Sequence[str], values: Sequence[str]) -> Iterator[tuple[str, int]]:
    for name, value in zip(names, values, strict=False):
        digits = value.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 21:
            yield name, int(value)
