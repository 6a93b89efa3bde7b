"""Rules for the configuration of the host, section ``config``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from vtrace.redact.rows import (
    ID,
    LOWER,
    SYMBOL,
    THREAD,
    VALUE,
)
from vtrace.redact.shapes import (
    GONE,
    address,
    by_key,
    cgroup,
    device,
    flags,
    interface,
    listed,
    number,
    record,
    text,
    vm,
    word,
)

if TYPE_CHECKING:
    from vtrace.redact.names import Names

__all__ = ["OPTIONS", "config", "table"]

_LINK: Final = record(
    {
        "kind": LOWER,
        "operstate": LOWER,
        "master": interface,
        "lower": interface,
        "mac": address,
        "qdisc": LOWER,
        "addresses": listed(address),
        "tap": flags,
        "bridge": flags,
        "bridge_port": record({"state": LOWER}, number),
        "offloads": flags,
    },
    number,
)
OPTIONS: Final = {
    "type": LOWER,
    "ifname": interface,
    "br": interface,
    "netdev": device,
    "driver": LOWER,
    "mac": address,
    "failover": LOWER,
    "speed": LOWER,
}


def _options(value: Any, names: Names, where: str) -> Any:
    # Switches and sizes as they were given to QEMU.
    if not isinstance(value, dict):
        return GONE
    found = {}
    for key, one in value.items():
        rule = OPTIONS.get(key) or (VALUE if re.fullmatch(_OPTION, key) else None)
        made = GONE if rule is None else rule(one, names, where)
        if made is GONE:
            names.drop(f"{where}.*")
        else:
            found[key] = made
    return found


_OPTION: Final = (
    r"vhost|vhostforce|sndbuf|vnet_hdr|queues|poll-us|aer|ats|csum|ctrl_guest_offloads|ctrl_vq"
    r"|disable-legacy|disable-modern|event_idx|gso|hash|in_order|indirect_desc|ioeventfd"
    r"|iommu_platform|mq|mrg_rxbuf|notify_on_empty|packed|rss|rx_queue_size|tx|tx_queue_size"
    r"|vectors|x-txburst|x-txtimer|(?:guest|host)_[a-z0-9_]{1,24}|files|vhost_files|pairs|hub"
)


def _sysctl(value: Any, names: Names, where: str) -> Any:
    # NAME or NAME@INODE; in some an interface stands, but vtrace reads none of those.
    return word(r"net\.[a-z0-9_.-]{1,80}(?:@\d+)?")(value, names, where)


def _chain(value: Any, names: Names, where: str) -> Any:
    # FAMILY TABLE [CHAIN]
    if not isinstance(value, str):
        return GONE
    family, *rest = value.split(" ")
    if not re.fullmatch(r"ip|ip6|inet|arp|bridge|netdev", family):
        return GONE
    return " ".join([family, *(table(part, names, where) for part in rest)])


_TABLES: Final = re.compile(
    r"(?i:filter|nat|mangle|raw|security|input|output|forward|prerouting|postrouting|ingress|egress"
    r"|policy)|"
)


def table(value: str, names: Names, where: str) -> str:
    """Redact the name of a table or chain of the firewall, but for the usual ones."""
    return value if _TABLES.fullmatch(value) else names.name("table", value)


CONFIG: Final = record(
    {
        "links": by_key(interface, _LINK),
        "qdiscs": listed(
            record(
                {
                    "link": interface,
                    "handle": LOWER,
                    "parent": LOWER,
                    "kind": LOWER,
                    "options": record({}, number),
                }
            )
        ),
        "neighbours": listed(
            record({"address": address, "link": interface, "state": LOWER, "mac": address})
        ),
        "routes": listed(
            record(
                {
                    "destination": address,
                    "family": LOWER,
                    "table": number,
                    "type": LOWER,
                    "link": interface,
                    "gateway": address,
                }
            )
        ),
        "sysctls": by_key(_sysctl, word(r"[a-z0-9_\t -]{0,64}")),
        "firewall": record(
            {
                "legacy_tables": listed(word(r"filter|nat|mangle|raw|security|broute")),
                "tables": listed(_chain),
                "drop_rules": number,
                "drop_policies": listed(_chain),
            }
        ),
        "threads": by_key(
            ID,
            record(
                {
                    **THREAD,
                    "policy": LOWER,
                    "nice": number,
                    "rt_priority": number,
                    "cpus": listed(number),
                    "cgroup": cgroup,
                    "cpuset": cgroup,
                }
            ),
        ),
        "cgroups": by_key(
            cgroup,
            record(
                {
                    "cpus": listed(number),
                    "cpu_max_quota_us": number,
                    "cpu_max_period_us": number,
                    "cpu_weight": number,
                }
            ),
        ),
        "modules": by_key(word(r"vhost|vhost_net|kvm"), by_key(LOWER, word(r"[A-Za-z0-9-]{0,20}"))),
        "netdevs": by_key(vm, by_key(device, _options)),
        "nics": by_key(vm, by_key(device, _options)),
        "cpus": record({"online": listed(number)}),
        "kernel": by_key(SYMBOL, number),
        "missing": listed(text),
    }
)


def config(value: Any, names: Names, where: str) -> Any:
    """Redact the section ``config``; keys of ``firewall`` may carry a network namespace."""
    if isinstance(value, dict) and isinstance(value.get("firewall"), dict):
        plain: dict[str, Any] = {}
        marks: dict[str, list[str]] = {}
        for key, one in value["firewall"].items():
            base, mark, inode = key.partition("@")
            if mark and not inode.isdigit():
                base = key
            marks.setdefault(base, []).append(key)
            plain[key] = one
        found: dict[str, Any] = {}
        rule = CONFIG.fields["firewall"]  # type: ignore[attr-defined]
        for base, keys in marks.items():
            for key in keys:
                made = rule({base: plain[key]}, names, f"{where}.firewall")
                if base in made:
                    found[key] = made[base]
        made = CONFIG({k: v for k, v in value.items() if k != "firewall"}, names, where)
        return {**made, "firewall": found}
    return CONFIG(value, names, where)
