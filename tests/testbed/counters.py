"""Packet counters of a machine, before and after."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.testbed.machine import Machine

__all__ = ["Counters", "delta", "read_counters"]

Counters = dict[str, int]
"""Numbers by name: "link.rx_packets", "Udp.RcvbufErrors", "ethtool.rx_drops",
"irq.virtio0-input.0"."""

_SCRIPT = """
cd /sys/class/net/{link}/statistics && grep . * && cd / &&
echo == && cat /proc/net/snmp &&
echo == && cat /proc/net/snmp6 &&
echo == && {{ ethtool -S {link} 2>/dev/null || true; }} &&
echo == && cat /proc/interrupts
"""


def read_counters(machine: "Machine", link: str) -> Counters:
    """Read the counters of one network link and of its machine."""
    parts = machine.run(_SCRIPT.format(link=link)).out.split("==\n")
    links, snmp, snmp6, ethtool, interrupts = parts
    counters: Counters = {}
    for name, value in re.findall(r"^(\w+):(\d+)$", links, re.MULTILINE):
        counters[f"link.{name}"] = int(value)
    lines = snmp.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        protocol, *fields = names.split()
        for name, value in zip(fields, values.split()[1:], strict=True):
            counters[f"{protocol.rstrip(':')}.{name}"] = int(value)
    for name, value in re.findall(r"^(Udp6\w+)\s+(\d+)$", snmp6, re.MULTILINE):
        counters[f"Udp6.{name.removeprefix('Udp6')}"] = int(value)
    for name, value in re.findall(r"^\s+([\w .\[\]-]+): (\d+)$", ethtool, re.MULTILINE):
        counters[f"ethtool.{name}"] = int(value)
    for line in interrupts.splitlines():
        found = re.match(r"\s*\S+:((?:\s+\d+)+)\s.*?(\S*virtio\S*)$", line)
        if found:
            counters[f"irq.{found[2]}"] = sum(map(int, found[1].split()))
    return counters


def delta(before: Counters, after: Counters) -> Counters:
    """Return by how much each counter moved; those that stood still are left out."""
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0)
    }
